"""Whose budget a request draws on, for each way of standing behind proxies."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.http.clients import Client, ClientRules, _address

PLAIN = ClientRules()
CLAIMED = ClientRules(behind_proxy=True)
TRUSTING = ClientRules(
    trusted_proxies=(ip_network("10.0.0.0/8"), ip_network("fd00::/8")),
    exempt=(ip_network("192.0.2.0/24"), ip_network("10.9.0.0/16")),
)


def headers(**fields: str) -> list[tuple[bytes, bytes]]:
    return [(name.replace("_", "-").encode(), text.encode()) for name, text in fields.items()]


def key(rules: ClientRules, peer: str | None, **fields: str) -> object:
    return rules.client_of(peer, headers(**fields)).key


def plain(address: str) -> object:
    return PLAIN.client_of(address, []).key


def test_plainly_headers_are_not_believed() -> None:
    assert key(PLAIN, "203.0.113.1", x_forwarded_for="198.51.100.1") == plain("203.0.113.1")


def test_mapped_addresses_are_ipv4_and_zones_are_dropped() -> None:
    assert plain("::ffff:203.0.113.1") == plain("203.0.113.1")
    assert plain("fe80::1%eth0") == plain("fe80::1")


@pytest.mark.parametrize(("prefix", "same"), [(64, True), (128, False), (56, True)])
def test_ipv6_counts_by_prefix(prefix: int, same: bool) -> None:
    rules = ClientRules(ipv6_prefix=prefix)
    left, right = (rules.client_of(f"2001:db8:0:1::{last}", []) for last in "12")
    assert (left == right) is same
    assert rules.client_of("2001:db8:0:101::1", []) != left


def test_ipv4_and_ipv6_never_share_a_key() -> None:
    assert plain("::") != plain("0.0.0.0")  # noqa: S104


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "127.0.0.1"),
        ({"x_forwarded_for": "198.51.100.1"}, "198.51.100.1"),
        ({"x_forwarded_for": "garbage, 198.51.100.2, 198.51.100.1"}, "198.51.100.2"),
        ({"x_forwarded_for": "198.51.100.9:80", "x_real_ip": "198.51.100.3"}, "198.51.100.3"),
        ({"x_forwarded_for": "198.51.100.1", "x_real_ip": "198.51.100.7"}, "198.51.100.1"),
        ({"forwarded": "for=198.51.100.4;proto=http"}, "198.51.100.4"),
        ({"forwarded": 'for="198.51.100.4:1234"'}, "198.51.100.4"),
        ({"forwarded": 'proto=http;For="[2001:db8::1]:4711"'}, "2001:db8::1"),
        ({"forwarded": "for=_hidden, for=198.51.100.4"}, "198.51.100.4"),
        ({"x_forwarded_for": "", "x_real_ip": "nonsense", "forwarded": "by=x"}, "127.0.0.1"),
    ],
)
def test_the_reference_believes_claims(fields: dict[str, str], expected: str) -> None:
    assert key(CLAIMED, "127.0.0.1", **fields) == plain(expected)


def test_a_claim_exempts_nobody() -> None:
    rules = ClientRules(behind_proxy=True, exempt=(ip_network("198.51.100.0/24"),))
    assert rules.client_of("203.0.113.1", headers(x_forwarded_for="198.51.100.1")) == Client(
        plain("198.51.100.1"), exempt=False
    )
    assert rules.client_of("198.51.100.1", []).exempt


@pytest.mark.parametrize(
    ("peer", "fields", "expected"),
    [
        ("203.0.113.1", {"x_forwarded_for": "198.51.100.1"}, "203.0.113.1"),
        ("10.0.0.1", {"x_forwarded_for": "198.51.100.1"}, "198.51.100.1"),
        ("10.0.0.1", {"x_forwarded_for": "1.1.1.1, 198.51.100.1, 10.0.0.2"}, "198.51.100.1"),
        ("10.0.0.1", {"x_forwarded_for": "198.51.100.1, nonsense, 10.0.0.2"}, "10.0.0.2"),
        ("10.0.0.1", {"x_forwarded_for": "1.1.1.1, 198.51.100.1:4000"}, "198.51.100.1"),
        ("10.0.0.1", {"x_forwarded_for": "10.0.0.3, 10.0.0.2"}, "10.0.0.3"),
        ("10.0.0.1", {"x_real_ip": "198.51.100.1"}, "198.51.100.1"),
        ("10.0.0.1", {"forwarded": 'for=1.1.1.1, for="[2001:db8::1]:80"'}, "2001:db8::1"),
        ("10.0.0.1", {"forwarded": "for=1.1.1.1, by=10.0.0.2"}, "10.0.0.1"),
        ("::ffff:10.0.0.1", {"x_forwarded_for": "::ffff:198.51.100.1"}, "198.51.100.1"),
        ("fd00::1", {"x_forwarded_for": "198.51.100.1"}, "198.51.100.1"),
        ("10.0.0.1", {}, "10.0.0.1"),
    ],
)
def test_trusted_proxies_are_walked_from_the_right(
    peer: str, fields: dict[str, str], expected: str
) -> None:
    assert key(TRUSTING, peer, **fields) == plain(expected)


def test_repeated_headers_are_one_list() -> None:
    lines = headers(x_forwarded_for="1.1.1.1") + headers(x_forwarded_for="198.51.100.1")
    assert TRUSTING.client_of("10.0.0.1", lines).key == plain("198.51.100.1")


def test_exemption_follows_the_address_that_was_found() -> None:
    assert TRUSTING.client_of("192.0.2.1", []).exempt
    assert TRUSTING.client_of("10.0.0.1", headers(x_forwarded_for="192.0.2.1")).exempt
    assert not TRUSTING.client_of("203.0.113.1", headers(x_forwarded_for="192.0.2.1")).exempt
    # An exempt proxy does not exempt the strangers behind it.
    assert not TRUSTING.client_of("10.9.0.1", headers(x_forwarded_for="203.0.113.1")).exempt


def test_unix_sockets_share_one_budget_or_are_trusted() -> None:
    assert key(PLAIN, None) == key(PLAIN, None, x_forwarded_for="198.51.100.1")
    assert key(TRUSTING, None, x_forwarded_for="198.51.100.1") == plain("198.51.100.1")


def test_connections_of_proxies_and_exempt_addresses_are_not_counted() -> None:
    assert TRUSTING.peer_key("10.0.0.1") is None
    assert TRUSTING.peer_key("192.0.2.1") is None
    assert TRUSTING.peer_key(None) is None
    assert CLAIMED.peer_key("203.0.113.1") is None  # may be the proxy
    assert TRUSTING.peer_key("2001:db8::1") == TRUSTING.peer_key("2001:db8::2")
    assert TRUSTING.peer_key("203.0.113.1") != TRUSTING.peer_key("203.0.113.2")


@given(
    st.sampled_from([b"x-forwarded-for", b"x-real-ip", b"forwarded"]),
    st.binary(max_size=60) | st.text('for=[]:;,"1.%a ', max_size=40).map(str.encode),
    st.sampled_from([PLAIN, CLAIMED, TRUSTING]),
)
def test_any_header_is_survived(name: bytes, value: bytes, rules: ClientRules) -> None:
    assert isinstance(rules.client_of("10.0.0.1", [(name, value)]), Client)


def test_no_more_addresses_than_a_thousand_are_kept() -> None:
    """Their texts are a stranger's choice where forwarded headers are believed."""
    for number in range(3000):
        key(CLAIMED, "192.0.2.1", x_forwarded_for=str(ip_address(number)))
    kept = _address.cache_info()
    assert kept.currsize == kept.maxsize == 1024
