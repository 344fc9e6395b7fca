"""Items and their targets against the reference's vectors; the stores and their limits."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from relay import _kernels
from relay._kernels import Value
from relay.dht.items import (
    PEERS_RETURNED_MAX,
    ItemStore,
    MutableItem,
    PeerStore,
    immutable_target,
    mutable_target,
    value_bytes,
)
from tests.support.chance import seeded

VECTORS = Path(__file__).parents[4] / "shared" / "vectors"
BEP44 = json.loads((VECTORS / "bep44.json").read_text())["cases"]

KEY = SigningKey(bytes(range(32)))


def item(seq: int = 1, value: Value = b"v", salt: bytes | None = None) -> MutableItem:
    unsigned = MutableItem.from_value(bytes(KEY.verify_key), seq, value, bytes(64), salt)
    return replace(unsigned, signature=KEY.sign(unsigned.signable).signature)


def of_vector(case: dict[str, str]) -> MutableItem:
    return MutableItem.from_value(
        bytes.fromhex(case["public_key"]),
        int(case["seq"]),
        bytes.fromhex(case["value_hex"]),
        bytes.fromhex(case["signature"]),
        None if case["salt_hex"] is None else bytes.fromhex(case["salt_hex"]),
    )


@pytest.mark.parametrize("case", BEP44, ids=lambda case: case["id"])
def test_mutable_vectors(case: dict[str, str]) -> None:
    signed = of_vector(case)
    assert signed.signable.hex() == case["signable_hex"]
    assert signed.target.hex() == case["target"]
    assert signed.verify() == case["signature_valid"]
    assert signed.value == bytes.fromhex(case["value_hex"])


def test_the_target_of_an_immutable_value() -> None:
    """The example of BEP 44, "Test vectors", 3."""
    v_encoded = _kernels.encode(b"Hello World!")
    assert immutable_target(v_encoded).hex() == "e5f96f6f38320f0f33959cb4d3d656452117aadb"


@pytest.mark.parametrize("value", [5, [b"a", 1], {b"k": b"v"}, b""])
def test_any_value_can_be_signed(value: Value) -> None:
    signed = item(value=value)
    assert signed.verify()
    assert signed.v_encoded == _kernels.encode(value)
    assert signed.value == (value if isinstance(value, bytes) else None)


@pytest.mark.parametrize(
    "changes",
    [
        {"seq": 2},
        {"v_encoded": b"1:w"},
        {"salt": b""},
        {"salt": b"s"},
        {"public_key": bytes(SigningKey(bytes(32)).verify_key)},
        {"public_key": bytes(31)},
        {"public_key": b""},
        {"signature": bytes(64)},
        {"signature": bytes(63)},
        {"signature": b""},
    ],
    ids=str,
)
def test_a_changed_item_does_not_verify(changes: dict[str, bytes]) -> None:
    assert item().verify()
    assert not replace(item(), **changes).verify()


def test_no_salt_and_an_empty_one_share_a_target_but_not_a_signature() -> None:
    plain, salted = item(), item(salt=b"")
    assert plain.target == salted.target == mutable_target(plain.public_key)
    assert plain.signature != salted.signature
    assert salted.verify()


@pytest.mark.parametrize(
    ("value", "size"),
    [(b"", 0), (b"x" * 1000, 1000), (7, 3), ([b"x"], 5), ({}, 2)],
    ids=["empty", "1000", "int", "list", "dict"],
)
def test_the_size_of_a_value(value: Value, size: int) -> None:
    assert value_bytes(_kernels.encode(value)) == size


def test_the_store_keeps_the_last_item_of_a_target() -> None:
    store = ItemStore()
    store.put_mutable(item(1))
    store.put_mutable(item(2))
    assert store.mutable(item().target) == item(2)
    assert store.mutable(bytes(20)) is None
    assert store.immutable(item().target) is None


def test_the_store_forgets_the_item_used_longest_ago() -> None:
    store = ItemStore(mutable_max=2)
    one, two, three = (item(salt=salt) for salt in (b"1", b"2", b"3"))
    store.put_mutable(one)
    store.put_mutable(two)
    assert store.mutable(one.target) == one  # a use
    store.put_mutable(three)
    assert store.mutable(one.target) == one
    assert store.mutable(two.target) is None
    assert store.mutable(three.target) == three


def test_the_store_forgets_the_value_used_longest_ago() -> None:
    store = ItemStore(immutable_max=2)
    for v_encoded in (b"1:a", b"1:b", b"1:a", b"1:c"):  # putting again is a use
        store.put_immutable(v_encoded)
    assert store.immutable(immutable_target(b"1:a")) == b"1:a"
    assert store.immutable(immutable_target(b"1:b")) is None
    assert store.immutable(immutable_target(b"1:c")) == b"1:c"


def test_stores_have_the_limits_of_the_reference() -> None:
    store = ItemStore()
    for number in range(1001):
        store.put_immutable(b"i%de" % number)
        store.put_mutable(MutableItem(bytes(32), number, b"0:", bytes(64), b"%d" % number))
    assert store.immutable(immutable_target(b"i0e")) is None
    assert store.immutable(immutable_target(b"i1e")) == b"i1e"
    assert store.mutable(mutable_target(bytes(32), b"0")) is None
    assert store.mutable(mutable_target(bytes(32), b"1")) is not None


def test_peers_are_known_by_the_identifier_of_their_node() -> None:
    peers = PeerStore()
    peers.announce(b"h" * 20, b"a" * 20, ("192.0.2.1", 1))
    peers.announce(b"h" * 20, b"b" * 20, ("192.0.2.2", 2))
    peers.announce(b"h" * 20, b"a" * 20, ("192.0.2.1", 9))
    assert sorted(peers.sample(b"h" * 20, seeded(1))) == [("192.0.2.1", 9), ("192.0.2.2", 2)]
    assert peers.sample(b"x" * 20, seeded(1)) == []


def test_many_peers_are_sampled() -> None:
    peers = PeerStore()
    for number in range(100):
        peers.announce(b"h" * 20, number.to_bytes(20, "big"), ("192.0.2.1", 1 + number))
    rng = seeded(1)
    samples = [peers.sample(b"h" * 20, rng) for _ in range(30)]
    assert all(len(set(sample)) == PEERS_RETURNED_MAX == 10 for sample in samples)
    assert len({address for sample in samples for address in sample}) > 80


def test_peers_are_bounded_in_all() -> None:
    """Whoever announces in every swarm drives out old swarms, whole; the newest one stays."""
    peers = PeerStore(info_hashes_max=1000, peers_max=50, peers_total_max=100)
    for swarm in range(500):
        for number in range(1 + swarm % 60):
            node_id = b"%020d" % number
            peers.announce(b"%020d" % swarm, node_id, ("192.0.2.1", 1 + number))
            assert len(peers) <= 100
    there = [swarm for swarm in range(500) if peers.sample(b"%020d" % swarm, seeded(1))]
    known = [swarm for swarm in range(500) if peers.info_hashes.get(b"%020d" % swarm) is not None]
    assert there == known == list(range(there[0], 500))
    assert len(peers) == sum(min(1 + swarm % 60, 50) for swarm in there)
    for number in range(600):  # a single swarm that is larger than all may be
        peers.announce(b"a" * 20, b"%020d" % number, ("192.0.2.1", 1))
    assert len(peers) <= 100


def test_no_flood_of_announcements_fills_more_than_is_promised() -> None:
    peers = PeerStore()
    for number in range(120_000):
        peers.announce(b"%020d" % (number // 400), b"%020d" % number, ("192.0.2.1", 1))
    assert 49_000 < len(peers) <= 50_000


def test_peers_are_bounded_in_both_directions() -> None:
    peers = PeerStore(info_hashes_max=3, peers_max=4)
    for swarm in range(5):
        for number in range(6):
            peers.announce(bytes([swarm]) * 20, bytes([number]) * 20, ("192.0.2.1", 1 + number))
    found = [peers.sample(bytes([swarm]) * 20, seeded(1)) for swarm in range(5)]
    assert [len(sample) for sample in found] == [0, 0, 4, 4, 4]
    assert ("192.0.2.1", 1) not in found[4]
    assert ("192.0.2.1", 6) in found[4]
