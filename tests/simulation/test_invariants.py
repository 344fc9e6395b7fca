"""Each invariant notices its violation: parts that break what must hold stand for good ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest

from relay.dht import krpc
from relay.dht.events import Event, GetFinished, GetHandle, ItemReceived, PutFinished
from relay.dht.krpc import Query, QueryTemplate
from relay.dht.lookup import Lookup
from relay.dht.maintenance import Pings
from relay.dht.node import DhtNode
from relay.dht.node_id import Address, NodeInfo
from relay.dht.operations import Contact, Operation
from relay.pkarr.keys import PublicKey
from relay.pkarr.packet import SeenPacket
from relay.store.table import PurePacketTable
from tests.simulation import grand, invariants
from tests.simulation.authors import author
from tests.simulation.desk import Desk, MemoryStore, SimDriver
from tests.simulation.histories import Doubles, HistoryError, run
from tests.simulation.hostile import Liar, Ring
from tests.simulation.invariants import (
    PacketWatch,
    Recency,
    StoreWatch,
    Violation,
    check_bounds,
    check_desk,
    check_idle,
    desk_sizes,
    sizes,
    stored_items,
)
from tests.simulation.world import Host, World

SEEDS_MAX = 100
"""In so many histories each violation must have shown."""


def violation(doubles: Doubles, first: int = 0) -> str:
    """Live through histories until one fails; return how."""
    for seed in range(first, first + SEEDS_MAX):
        try:
            run(seed, doubles)
        except HistoryError as error:
            found = str(error)
            break
    else:
        return "none"
    assert f"seed {seed}:" in found
    assert f"nox -s simulate -- --seed {seed}" in found
    return found


class Crashing(DhtNode):
    def handle_deadline(self, now: float) -> None:
        super().handle_deadline(now)
        if self.counters.responses_in > 40:
            raise ZeroDivisionError("planted")


class Credulous(DhtNode):
    """Takes any token."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self._responder._tokens.valid = lambda *_: True  # type: ignore[method-assign]


class Downgrading(DhtNode):
    """Stores whatever comes."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        items = self._responder._items
        self._responder._put_mutable = (  # type: ignore[method-assign]
            lambda item, _target, _cas: items.put_mutable(item)
        )


class Mumbling(DhtNode):
    """Does not say how look-ups and puts end."""

    def take_events(self) -> list[Event]:
        events = super().take_events()
        return [event for event in events if not isinstance(event, GetFinished | PutFinished)]


class Confused(DhtNode):
    """Tells of the older one last."""

    def __init__(self, **options: object) -> None:
        self._told: dict[GetHandle, ItemReceived] = {}
        super().__init__(**options)  # type: ignore[arg-type]

    def take_events(self) -> list[Event]:
        events: list[Event] = []
        for event in super().take_events():
            events.append(event)
            if isinstance(event, ItemReceived):
                events.append(self._told.setdefault(event.handle, event))
        return events


@pytest.mark.parametrize(
    ("double", "first", "told"),
    [
        (Crashing, 0, "ZeroDivisionError: planted"),
        (Credulous, 3, "forged token"),
        (Downgrading, 6, "went back from seq"),
        (Mumbling, 0, "have not ended"),
    ],
)
def test_what_a_node_breaks_is_noticed(double: type[DhtNode], first: int, told: str) -> None:
    assert told in violation(Doubles(node=double), first)


class Hasty(MemoryStore):
    """Keeps what came last, not what is newest."""

    def put_soon(self, seen: SeenPacket) -> None:
        self.memory.table.remove(seen.packet.public_key.octets)
        super().put_soon(seen)


class Floorless(MemoryStore):
    """Forgets what it has evicted."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.memory.floor_us = lambda _key: None  # type: ignore[method-assign]

    def floor_us(self, key: PublicKey) -> int | None:
        return None


class Inventive(MemoryStore):
    """Makes something up."""

    async def get(self, key: PublicKey) -> SeenPacket | None:
        seen = await super().get(key)
        if seen is None:
            return None
        packet = replace(seen.packet, timestamp_us=seen.packet.timestamp_us + 1)
        return replace(seen, packet=packet)


@pytest.mark.parametrize(
    ("double", "first", "told"),
    [
        (Hasty, 6, "was served after"),
        (Floorless, 21, "was served after"),
        (Inventive, 0, "never signed"),
    ],
)
def test_what_a_cache_breaks_is_noticed(double: type[MemoryStore], first: int, told: str) -> None:
    def make(world: World, host: Host, *, capacity: int, **options: object) -> Desk:
        def clock_us() -> int:
            return desk.wall_clock_us()

        cache = double(capacity, clock_us)
        desk = Desk(world, host, capacity=capacity, cache=cache, **options)  # type: ignore[arg-type]
        return desk

    assert told in violation(Doubles(desk=make), first)


def test_a_relay_that_answers_nobody_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    take = SimDriver._take

    def lose(driver: SimDriver, events: list[Event]) -> None:
        take(driver, [event for event in events if not isinstance(event, PutFinished)])

    monkeypatch.setattr(SimDriver, "_take", lose)
    assert "requests to relays have not ended" in violation(Doubles())


def test_an_acknowledged_write_with_a_forged_token_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever became of the item, and whoever wrote it."""

    def forge(ring: Ring, *arguments: object) -> None:
        build(ring, *arguments)  # type: ignore[arg-type]
        ring.accepted = 1

    build = Ring.__init__
    monkeypatch.setattr(Ring, "__init__", forge)
    assert "a write with a forged token was acknowledged" in violation(Doubles())


def test_an_older_item_after_a_newer_one_is_noticed() -> None:
    assert "older item after a newer one" in violation(Doubles(node=Confused), 21)


def test_queries_to_one_address_are_counted() -> None:
    """A node without a pace, in a small network where everybody is asked each time."""

    class Unpaced(DhtNode):
        def __init__(self, **options: object) -> None:
            super().__init__(**options)  # type: ignore[arg-type]
            self._budgets.reserve = lambda *_: 0.0  # type: ignore[method-assign]

    def burst(make: Callable[..., DhtNode]) -> PacketWatch:
        world, watch = World("burst"), PacketWatch()
        world.watchers.append(watch)
        servers = [world.add_node() for _ in range(5)]
        client = world.add_node([host.address for host in servers], make=make)
        world.advance(5.0)
        for number in range(120):
            client.node.start_get(bytes([number]) * 32, now=client.clock(world.now))
            world.flush(client)
            world.advance(0.1)
        return watch

    assert 30 <= burst(DhtNode).most_packets <= invariants.PACKETS_MAX
    with pytest.raises(Violation, match="packets from"):
        burst(Unpaced)


class Generous(DhtNode):
    """Does not count its answers."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self._budgets.admit = lambda *_: True  # type: ignore[method-assign]


def test_answers_to_one_address_are_counted() -> None:
    """A spoofer asks in the names of nodes that have proved themselves; also behind the lane."""

    def spoofed(make: Callable[..., DhtNode], *, lane: bool = False) -> PacketWatch:
        world, watch = World("spoofed"), PacketWatch()
        world.watchers.append(watch)
        seeds: list[Address] = []
        for _ in range(5):
            seeds.append(world.add_node(seeds, make=make, lane=lane).address)
            world.advance(1.0)
        place = (world.new_ip(), 6881)
        ring = Ring(world, [author(1)], author(1000))
        liar = Liar(ring, "spoofer", place, world.secure_id(place[0]), pace_s=0.005)
        host = world.add(liar, place, honest=False)
        world.transmit(host, krpc.encode(Query(b"aa", b"ping", {b"id": liar.node_id})), seeds[0])
        world.advance(30.0)
        return watch

    for lane in (False, True):
        assert 35 <= spoofed(DhtNode, lane=lane).most_packets <= invariants.PACKETS_MAX
    with pytest.raises(Violation, match="packets from"):
        spoofed(Generous)


def test_histories_show_a_node_that_does_not_count_its_answers() -> None:
    assert "packets from" in violation(Doubles(node=Generous))


def fresh_host() -> Host:
    """A node that has nobody but an address where nobody is, and has given up on that."""
    world = World("one")
    host = world.add_node([(world.new_ip(), 6881)])
    world.advance(2.5)
    return host


STUFFED: dict[str, Callable[[DhtNode, int], None]] = {
    "addresses in the routing table": lambda n, x: fill(n._table._by_address, x),
    "machines in the routing table": lambda n, x: fill(n._table._by_ip, x),
    "largest swarm": lambda n, x: n._responder._peers._swarms.update({b"": dict_of(x)}),
    "info hashes": lambda n, x: fill(n._responder._peers._swarms, x, {}),
    "torrent peers": lambda n, x: setattr(n._responder._peers, "_total", x),
    "nodes in remembered store sets": lambda n, x: setattr(n._history, "_nodes", x),
    "verdicts": lambda n, x: fill(n._proofs._verdicts, x),
    "greetings": lambda n, x: n._greeted.update(("x", at) for at in range(x)),
    "own addresses": lambda n, x: n._identity.addresses.update(("x", at) for at in range(x)),
    "open transactions": lambda n, x: setattr(n._dispatcher._transactions, "_count", x),
    "transaction ids": lambda n, x: fill(n._dispatcher._transactions._open, x),
    "lengths of ids": lambda n, x: fill(n._dispatcher._transactions._lengths, x),
    "silences": lambda n, x: fill(n._dispatcher._silences._since, x),
    "timers": lambda n, x: n._dispatcher._timers.extend([None] * x),  # type: ignore[list-item]
    "young transactions": lambda n, x: n._dispatcher._young.extend([None] * x),  # type: ignore[list-item]
    "queued operations": lambda n, x: n._dispatcher._ready.extend([None] * x),  # type: ignore[list-item]
    "on the wire": lambda n, x: setattr(n._dispatcher, "_on_wire", x),
    "puts": lambda n, x: fill(n._requests._puts, x),
    "remembered look-ups": lambda n, x: fill(n._history._lookups, x),
    "bootstrap addresses": lambda n, x: n._maintenance._bootstrap.extend([("x", 1)] * x),
    "networks heard in a check": lambda n, x: setattr(
        n._public, "_check", SimpleNamespace(networks=range(x))
    ),
    "look-ups of a check": lambda n, x: setattr(n._public, "check_targets", [b""] * x),
    "fullest bucket": lambda n, x: fill(n._table._buckets[5], x),
}
"""How to have too much of each, but for what the tests below overfill."""


def fill(mapping: dict[object, object], size: int, value: object = None) -> None:
    mapping.update(dict.fromkeys(range(size), value))


def dict_of(size: int) -> dict[int, None]:
    return dict.fromkeys(range(size))


@pytest.mark.parametrize("name", STUFFED)
def test_too_much_of_anything_is_noticed(name: str) -> None:
    host = fresh_host()
    check_bounds(host)
    bound = next(bound for what, _, bound in sizes(host.node) if what == name)
    STUFFED[name](host.node, bound + 1)
    with pytest.raises(Violation, match=rf"^{name} of .*: \d+, at most {bound} allowed"):
        check_bounds(host)


def test_every_bound_is_among_those_shown_to_be_noticed() -> None:
    host = fresh_host()
    host.node.start_get(bytes(32), now=3.0)
    elsewhere = {
        "routing table",  # of numbered slots, which an entry too many would exhaust
        "mutable items",  # kept by the kernels, tests/parity/test_dht.py
        "immutable values",
        "searches",
        "contacts in a row",  # kept by the kernels, tests/parity/test_contacts.py
        "nodes asked in a look-up",
        "addresses known to a look-up",
        "votes in a look-up",
        "nodes of one /24 in a bucket",
    }
    assert {name for name, _, _ in sizes(host.node)} == STUFFED.keys() | elsewhere


def test_a_crowded_network_in_a_bucket_is_noticed() -> None:
    host = fresh_host()
    table = host.node._table
    for last in range(3):  # one too many of one /24: the table is led to believe in three
        address: Address = (f"20.{last}.1.1", 1)
        node_id = bytes([host.node.node_id[0] ^ 0x80]) + bytes([last]) * 19
        assert table.add(NodeInfo(node_id, address), 0.0)
        table._entries[node_id].network = b"abc"
    with pytest.raises(Violation, match="nodes of one /24 in a bucket"):
        check_bounds(host)


@pytest.mark.parametrize(
    ("leave", "told"),
    [
        (lambda node: node._requests._by_handle.update({1: None}), "handles of look-ups"),
        (lambda node: node._requests._put_by_handle.update({1: None}), "handles of puts"),
        (lambda node: fill(node._requests._puts, 1), "puts"),
        (lambda node: node.start_get(bytes(32), now=3.0), "look-ups"),
        (lambda node: node._greeted.add(("x", 1)), "greetings"),
        (lambda node: ask(node, lookup(node), 2.5), "transactions, but for upkeep"),
        (lambda node: ask(node, pings(node), 0.4), "overdue transactions"),
        (lambda node: setattr(node._dispatcher._transactions, "_count", 1), "uncounted"),
        (lambda node: node._dispatcher._outbox.append((b"", ("x", 1))), "datagrams unsent"),
        (lambda node: node._events.append(None), "events untold"),
        (lambda node: setattr(node._dispatcher, "_on_wire", -1), "miscounted"),
    ],
)
def test_what_is_left_over_is_noticed(leave: Callable[[DhtNode], object], told: str) -> None:
    host = fresh_host()
    check_idle(host, 2.5)
    leave(host.node)
    with pytest.raises(Violation, match=told):
        check_idle(host, 2.5)


def ask(node: DhtNode, operation: Operation, at: float) -> None:
    """Leave a query open."""
    contact = Contact(("20.1.1.1", 1), bytes(20))
    node._dispatcher._transactions.open(operation, contact, at)
    node._dispatcher._on_wire += 1


def lookup(node: DhtNode, target: bytes = bytes(20)) -> Lookup:
    query = QueryTemplate(b"find_node", {b"id": node.node_id, b"target": target}, True)
    return Lookup(target, query, node.node_id, ())


def pings(node: DhtNode) -> Pings:
    return Pings([], node._identity)


def test_upkeep_may_be_under_way() -> None:
    host = fresh_host()
    ask(host.node, lookup(host.node, host.node.node_id), 2.4)
    host.node._public.check_targets = [b"a" * 20, b"b" * 20]
    for target in host.node._public.check_targets:
        ask(host.node, lookup(host.node, target), 2.4)
    ask(host.node, pings(host.node), 0.6)
    check_idle(host, 2.5)


OVERFULL: dict[str, Callable[[Desk, int], object]] = {
    "keys known to be absent": lambda d, x: fill(d.service._absent, x),
    "publishes that outlive their clients": lambda d, x: setattr(
        d.service, "_nursery", SimpleNamespace(child_tasks=range(x))
    ),
    "packets": lambda d, x: fill(d.cache.memory.table._new, x),
    "floors": lambda d, x: fill(d.cache.memory.floors._known, x),
    "evictions to be saved": lambda d, x: fill(d.cache.memory.floors._unsaved, x),
    "packets to be saved": lambda d, x: fill(d.cache.memory.backlog._others, x),
    "keys not on the disk": lambda d, x: fill(d.cache.memory.floors._absent, x),
    "shared look-ups": lambda d, x: d.driver.node._requests._running.update({("x", b""): [None]}),
    "handles of look-ups": lambda d, x: fill(d.driver.node._requests._by_handle, x),
    "handles of puts": lambda d, x: fill(d.driver.node._requests._put_by_handle, x),
    "ghosts": lambda d, x: fill(d.cache.memory.table._ghosts, x),
    "counts of uses": lambda d, x: fill(d.cache.memory.table._uses, x),
    "used packets": lambda d, x: d.cache.memory.table._used.update(range(x)),
}
"""How to have too much of everything that a relay remembers."""


def pure_desk() -> Desk:
    """A relay that has the table in Python: what the one in C remembers cannot be stuffed."""
    world = World("desk")
    desk = Desk(world, world.add_node(), capacity=4)
    desk.cache.memory.table = PurePacketTable(4)
    return desk


@pytest.mark.parametrize("name", OVERFULL)
def test_too_much_in_a_relay_is_noticed(name: str) -> None:
    desk = pure_desk()
    check_desk(desk)
    bound = next(bound for what, _, bound in desk_sizes(desk) if what == name)
    OVERFULL[name](desk, bound + 1)
    with pytest.raises(Violation, match=rf"^{name} of a relay: \d+, at most {bound} allowed"):
        check_desk(desk)


def test_every_bound_of_a_relay_is_among_those_shown_to_be_noticed() -> None:
    assert {name for name, _, _ in desk_sizes(pure_desk())} == OVERFULL.keys()


class Hoarding(MemoryStore):
    """Evicts nobody."""

    def _evict(self) -> None:
        pass


def test_histories_show_a_cache_that_grows() -> None:
    def make(world: World, host: Host, *, capacity: int, **options: object) -> Desk:
        desk = Desk(world, host, capacity=capacity, **options)  # type: ignore[arg-type]
        desk.cache.__class__ = Hoarding
        return desk

    assert "packets of a relay" in violation(Doubles(desk=make))


def test_a_large_world_notices_an_item_that_goes_back_to_an_older_one() -> None:
    """However long before the newer one was seen."""
    city, one = grand.City(1, 10), author(1)
    city.put(city.honest[0], one.items[2])
    city.world.advance(2 * grand.LOOK_EVERY_S)
    holder = next(host for host in city.honest if one.items[2] in stored_items(host, [one.target]))
    holder.node._responder._items.put_mutable(one.items[1])
    with pytest.raises(Violation, match="went back from seq"):
        city.world.advance(grand.LOOK_EVERY_S)


def test_a_false_signature_in_a_store_is_noticed() -> None:
    host, item = fresh_host(), author(1).items[0]
    watch = StoreWatch([item.target], frozenset())
    host.node._responder._items.put_mutable(item)
    watch(host)
    host.node._responder._items.put_mutable(replace(item, seq=item.seq + 1))
    with pytest.raises(Violation, match="false signature"):
        watch(host)


def test_recency_is_by_timestamp_and_where_told_by_bytes() -> None:
    packets = author(1).packets
    recency = Recency()
    key = packets[0].public_key
    assert recency.begin(key) is None
    recency.given(packets[2])
    recency.given(packets[1])
    assert recency.begin(key) == packets[2]
    recency.check(packets[2], packets[2], ties=True)
    with pytest.raises(Violation):
        recency.check(packets[1], packets[2], ties=False)
    less, more = packets[-2:]
    assert less.timestamp_us == more.timestamp_us
    recency.check(less, more, ties=False)
    with pytest.raises(Violation):
        recency.check(less, more, ties=True)
