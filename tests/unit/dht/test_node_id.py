"""Identifiers and addresses of nodes."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.dht.node_id import (
    NodeInfo,
    ip_octets,
    is_exempt,
    is_secure,
    is_unicast,
    random_id,
    secure_id,
    usable_address,
)
from tests.support.chance import seeded

VECTORS = Path(__file__).parents[4] / "shared" / "vectors"
BEP42 = json.loads((VECTORS / "bep42.json").read_text())["cases"]
PUBLIC = ("8.8.4.4", 6881)

addresses = st.ip_addresses(v=4).map(str)


@pytest.mark.parametrize("case", BEP42, ids=lambda case: case["id"])
def test_secure_identifiers_are_the_reference_s(case: dict[str, str]) -> None:
    node_id = bytes.fromhex(case["node_id"])
    assert is_secure(node_id, case["ip"]) == case["valid"]
    assert NodeInfo(node_id, (case["ip"], 1)).secure == case["valid"]


@given(addresses, st.integers())
def test_a_made_identifier_is_secure(ip: str, seed: int) -> None:
    made = secure_id(ip, seeded(seed))
    assert len(made) == 20
    assert is_secure(made, ip)


def test_made_identifiers_differ_where_they_may() -> None:
    rng = seeded(3)
    made = {secure_id("124.31.75.21", rng) for _ in range(50)}
    assert len(made) == 50
    assert len({identifier[:2] for identifier in made}) <= 8  # one prefix for each r
    assert len({random_id(rng)[:2] for _ in range(50)}) > 40


def test_the_same_seed_makes_the_same_identifier() -> None:
    assert random_id(seeded(7)) == random_id(seeded(7))
    assert secure_id("1.2.3.4", seeded(7)) == secure_id("1.2.3.4", seeded(7))


@pytest.mark.parametrize(
    ("ip", "exempt"),
    [
        ("10.0.0.1", True),
        ("127.255.0.1", True),
        ("169.254.9.9", True),
        ("172.16.0.1", True),
        ("172.31.255.255", True),
        ("192.168.0.1", True),
        ("172.15.0.1", False),
        ("172.32.0.1", False),
        ("169.253.0.1", False),
        ("192.167.0.1", False),
        ("192.169.0.1", False),
        ("100.64.0.1", False),
        ("0.0.0.9", False),
        ("11.0.0.1", False),
    ],
)
def test_exempt_addresses(ip: str, exempt: bool) -> None:
    assert is_exempt(ip) == exempt


@pytest.mark.parametrize(
    "ip", ["", "1.2.3", "1.2.3.4.5", "1.2.3.256", "1.2.3.x", "1.2.3.1_0", "1.2.3.+4", "::1"]
)
def test_what_is_not_ipv4_is_an_error(ip: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        ip_octets(ip)


@pytest.mark.parametrize(
    ("ip", "unicast"),
    [
        ("0.1.2.3", False),
        ("1.0.0.0", True),
        ("223.255.255.255", True),
        ("224.0.0.1", False),
        ("239.1.1.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
    ],
)
def test_unicast(ip: str, unicast: bool) -> None:
    assert is_unicast(ip) == unicast
    assert usable_address((ip, 6881), PUBLIC, ()) == unicast


@pytest.mark.parametrize(
    ("address", "learned_from", "usable"),
    [
        (("9.9.9.9", 1), PUBLIC, True),
        (("9.9.9.9", 65535), PUBLIC, True),
        (("9.9.9.9", 0), PUBLIC, False),
        (("127.0.0.1", 6881), PUBLIC, False),
        (("192.168.1.1", 6881), PUBLIC, False),
        (("169.254.1.1", 6881), PUBLIC, False),
        (("127.0.0.1", 6881), ("127.0.0.1", 1), True),
        (("127.0.0.1", 6881), ("10.1.1.1", 1), True),
        (("9.9.9.9", 6881), ("10.1.1.1", 1), True),
        (("0.0.0.9", 6881), ("10.1.1.1", 1), False),
        (("127.0.0.1", 0), ("10.1.1.1", 1), False),
    ],
)
def test_addresses_named_by_others(
    address: tuple[str, int], learned_from: tuple[str, int], usable: bool
) -> None:
    assert usable_address(address, learned_from, ()) == usable


def test_our_own_addresses_are_never_used() -> None:
    own = {("127.0.0.1", 6881), ("9.9.9.9", 6881)}
    assert not usable_address(("127.0.0.1", 6881), ("127.0.0.1", 7000), own)
    assert not usable_address(("9.9.9.9", 6881), PUBLIC, own)
    assert usable_address(("127.0.0.1", 6882), ("127.0.0.1", 7000), own)
