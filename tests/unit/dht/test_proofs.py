"""Proofs: every item is verified once, those that come together in one batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from relay import _kernels
from relay.dht import krpc
from relay.dht.events import Event, GetFinished, ItemReceived
from relay.dht.items import MutableItem
from relay.dht.krpc import Query, Response, Value
from relay.dht.node import DhtNode
from relay.dht.node_id import Address, NodeInfo
from relay.dht.proofs import VERDICTS_MAX, Proofs
from relay.dht.traffic import Traffic
from tests.simulation.network import make_item
from tests.support.chance import seeded


class Count:
    """Counts signatures verified one by one, and the sizes of batches."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.single = 0
        self.batches: list[int] = []
        verify, verify_batch = _kernels.verify, _kernels.verify_batch

        def one(key: bytes, signature: bytes, message: bytes) -> bool:
            self.single += 1
            return verify(key, signature, message)

        def many(
            triples: list[tuple[bytes, bytes, bytes]], random: Callable[[int], bytes]
        ) -> list[bool]:
            self.batches.append(len(triples))
            return verify_batch(triples, random)

        monkeypatch.setattr(_kernels, "verify", one)
        monkeypatch.setattr(_kernels, "verify_batch", many)


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> Count:
    return Count(monkeypatch)


def test_an_item_is_verified_once_whatever_comes_out(count: Count) -> None:
    proofs = Proofs(seeded(1), Traffic())
    good = make_item(1)
    forged = replace(good, seq=2)
    assert [proofs.holds(good) for _ in range(3)] == [True] * 3
    assert [proofs.holds(replace(forged)) for _ in range(3)] == [False] * 3
    assert (count.single, count.batches) == (2, [])


def test_items_that_come_together_are_one_batch_and_a_forged_one_spoils_no_other(
    count: Count,
) -> None:
    proofs = Proofs(seeded(1), Traffic())
    items = [make_item(seed, salt=salt) for seed in range(4) for salt in (None, b"", b"s")]
    forged = replace(items[3], v_encoded=b"4:hell")
    misshapen = [replace(items[0], public_key=b"short"), replace(items[0], signature=b"")]
    assert proofs.holds(items[0])
    proofs.verify([*items, *items, forged, *misshapen])
    assert (count.single, count.batches) == (1, [len(items)]), "one was known, one is forged"
    assert all(proofs.holds(item) for item in items)
    assert not any(proofs.holds(item) for item in (forged, *misshapen))
    assert count.single == 1


def test_a_single_item_is_no_batch(count: Count) -> None:
    proofs = Proofs(seeded(1), Traffic())
    proofs.verify([make_item(1), make_item(1)])
    assert (count.single, count.batches) == (0, [])
    assert proofs.holds(make_item(1))


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_kernels, "verify", lambda key, signature, message: True)
    proofs = Proofs(seeded(1), Traffic())
    item = make_item(1)
    for seq in range(VERDICTS_MAX + 10):
        assert proofs.holds(replace(item, seq=seq))
    assert len(proofs._verdicts) == VERDICTS_MAX
    monkeypatch.setattr(_kernels, "verify", lambda key, signature, message: False)
    assert proofs.holds(replace(item, seq=10)), "still known"
    assert not proofs.holds(replace(item, seq=0)), "the oldest are forgotten"


# In a node.

NODES = [NodeInfo(bytes([at]) * 20, (f"10.0.0.{at}", 6881)) for at in range(2, 8)]


def make_node() -> DhtNode:
    """A node that knows all of `NODES`."""
    node = DhtNode(
        rng=seeded(1),
        secret=bytes(32),
        now=0.0,
        local_address=("10.0.0.1", 6881),
        server_mode=True,
        bootstrap=[NODES[0].address],
    )
    while asked := answers(node, {}):
        for payload, source in asked:
            node.receive_datagram(payload, source, 0.1)
    node.take_events()
    return node


def answers(node: DhtNode, items: dict[bytes, MutableItem]) -> list[tuple[bytes, Address]]:
    """Let all nodes answer what the node asks now; they name one another and have the items."""
    made = []
    ids = {info.address: info.id for info in NODES}
    for payload, address in node.datagrams_to_send():
        query = krpc.decode(payload)
        assert isinstance(query, Query)
        values: dict[bytes, Value] = {b"id": ids[address], b"nodes": krpc.pack_nodes(NODES)}
        target = query.arguments[b"target"]
        assert isinstance(target, bytes)
        item = items.get(target)
        if item is not None:
            signed = {b"k": item.public_key, b"seq": item.seq, b"sig": item.signature}
            values |= {**signed, b"v": item.value or b"", b"token": b"token"}
        made.append((krpc.encode(Response(query.transaction_id, values)), address))
    return made


def told(events: list[Event]) -> list[object]:
    """Events without their handles, which are compared by identity."""
    return [
        event.item if isinstance(event, ItemReceived) else event.outcome
        for event in events
        if isinstance(event, ItemReceived | GetFinished)
    ]


def test_a_batch_does_what_its_datagrams_do_one_by_one(count: Count) -> None:
    items = {item.target: item for item in map(make_item, range(5))}
    forged = {make_item(9).target: replace(make_item(9), seq=7)}
    outcomes = []
    for together in (False, True):
        node = make_node()
        for item in (*items.values(), *forged.values()):
            node.start_get(item.public_key, now=1.0)
        arrived = answers(node, items | forged)
        arrived += [
            (b"no bencode at all", NODES[0].address),
            (arrived[0][0], ("10.0.0.2", 0)),
            (arrived[0][0], NODES[3].address),
            (krpc.encode(Query(b"aa", b"ping", {b"id": bytes(20)})), ("10.0.0.99", 5)),
            arrived[1],
        ]
        if together:
            node.receive_datagrams(arrived, 1.1)
        else:
            for payload, source in arrived:
                node.receive_datagram(payload, source, 1.1)
        outcomes.append((told(node.take_events()), node.datagrams_to_send(), node.counters))
        if not together:
            assert (count.single, count.batches) == (6, [])
    assert outcomes[0] == outcomes[1]
    assert len(outcomes[0][0]) == 11, "five items, six ends"
    assert (count.single, count.batches) == (6, [6])


def test_what_a_look_up_has_proven_is_not_verified_again(count: Count) -> None:
    """Neither for the next caller nor in another node's put."""
    item = make_item(1)
    node = make_node()
    for _ in range(2):
        node.start_get(item.public_key, now=1.0)
        node.receive_datagrams(answers(node, {item.target: item}), 1.1)
    source = ("10.0.0.50", 6881)
    get = Query(b"aa", b"get", {b"id": bytes(20), b"target": item.target})
    node.receive_datagram(krpc.encode(get), source, 2.0)
    ((reply, _),) = node.datagrams_to_send()
    response = krpc.decode(reply)
    assert isinstance(response, Response)
    arguments: dict[bytes, Value] = {
        b"id": bytes(20),
        b"k": item.public_key,
        b"seq": item.seq,
        b"sig": item.signature,
        b"token": response.values[b"token"],
        b"v": item.value or b"",
    }
    node.receive_datagram(krpc.encode(Query(b"bb", b"put", arguments)), source, 2.0)
    ((reply, _),) = node.datagrams_to_send()
    assert isinstance(krpc.decode(reply), Response)
    assert (count.single, count.batches) == (1, [])
