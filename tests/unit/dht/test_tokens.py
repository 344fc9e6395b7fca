"""Write tokens: good for their address and for five to ten minutes."""

import pytest

from relay.dht.tokens import ROTATE_INTERVAL_S, TOKEN_BYTES, TokenIssuer

SECRET = bytes(range(32))
HERE = ("192.0.2.1", 6881)


def test_a_token_has_8_bytes_and_is_valid_at_once() -> None:
    issuer = TokenIssuer(SECRET)
    token = issuer.issue(HERE, 0.0)
    assert len(token) == TOKEN_BYTES == 8
    assert issuer.valid(token, HERE, 0.0)


@pytest.mark.parametrize("issued", [0.0, 299.9, 300.0, 1e6])
def test_a_token_outlives_its_interval_by_one(issued: float) -> None:
    issuer = TokenIssuer(SECRET)
    token = issuer.issue(HERE, issued)
    next_interval = (issued // ROTATE_INTERVAL_S + 1) * ROTATE_INTERVAL_S
    assert issuer.valid(token, HERE, next_interval)
    assert issuer.valid(token, HERE, next_interval + ROTATE_INTERVAL_S - 0.001)
    assert not issuer.valid(token, HERE, next_interval + ROTATE_INTERVAL_S)


def test_a_token_of_the_future_is_not_valid() -> None:
    issuer = TokenIssuer(SECRET)
    assert not issuer.valid(issuer.issue(HERE, ROTATE_INTERVAL_S), HERE, 0.0)


def test_the_address_counts_and_the_port_does_not() -> None:
    issuer = TokenIssuer(SECRET)
    token = issuer.issue(HERE, 0.0)
    assert issuer.valid(token, (HERE[0], 1), 0.0)
    assert not issuer.valid(token, ("192.0.2.2", HERE[1]), 0.0)


@pytest.mark.parametrize("token", [b"", b"xxxx", bytes(8), bytes(9), bytes(1000), b"\xff" * 8])
def test_other_bytes_are_not_valid(token: bytes) -> None:
    assert not TokenIssuer(SECRET).valid(token, HERE, 0.0)


def test_no_part_and_no_extension_of_a_token_is_valid() -> None:
    issuer = TokenIssuer(SECRET)
    token = issuer.issue(HERE, 0.0)
    for wrong in (token[:4], token + b"\x00", token[::-1]):
        assert not issuer.valid(wrong, HERE, 0.0)


def test_issuers_with_other_secrets_disagree() -> None:
    token = TokenIssuer(SECRET).issue(HERE, 0.0)
    assert not TokenIssuer(bytes(32)).valid(token, HERE, 0.0)
    assert TokenIssuer(SECRET).valid(token, HERE, 0.0)


def test_tokens_of_neighbouring_addresses_and_intervals_are_unlike() -> None:
    """A CRC's are not: from one of them all others follow (style.md, section 1)."""
    issuer = TokenIssuer(SECRET)
    tokens = {
        issuer.issue((f"192.0.2.{host}", 1), interval * ROTATE_INTERVAL_S)
        for host in range(16)
        for interval in range(16)
    }
    assert len(tokens) == 256
    differences = {
        int.from_bytes(issuer.issue(("192.0.2.1", 1), t), "big")
        ^ int.from_bytes(issuer.issue(("192.0.2.2", 1), t), "big")
        for t in (0.0, 300.0, 600.0)
    }
    assert len(differences) == 3


@pytest.mark.parametrize("size", [0, 15, 33])
def test_a_secret_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="16 to 32 bytes"):
        TokenIssuer(bytes(size))
