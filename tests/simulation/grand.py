"""Large worlds, each for one promise: liars, Sybils, an exodus, a rush, the pace at one address.

The functions build a world of production nodes that join it one after the other, as in life, and
return figures. What the figures must be is for `test_grand` (small worlds) and for the command
(`python -m tests.simulation`, worlds of a thousand nodes) to say.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

from relay.dht import krpc
from relay.dht.events import (
    Event,
    GetFinished,
    GetHandle,
    GetOutcome,
    PutFinished,
    PutHandle,
    PutOutcome,
)
from relay.dht.items import MutableItem
from relay.dht.node_id import Address, NodeInfo, secure_prefix
from tests.simulation.authors import Author, author
from tests.simulation.hostile import KINDS, Liar, Ring
from tests.simulation.invariants import (
    PacketWatch,
    StoreWatch,
    check_bounds,
    stored_items,
)
from tests.simulation.world import Faults, Host, World

_H = TypeVar("_H")

REPUBLISH_S: Final = 300.0
"""As iroh does."""
JOIN_EVERY_S: Final = 0.2
LOOK_EVERY_S: Final = 60.0
FORGED: Final = 10
"""Queries in the name of each node: more of a stranger's are not answered at once."""


class City:
    """A world with the means to ask it, and to count.

    Args:
        seed: of everything random.
        nodes: how many, liars included.
        hostile: the share of liars, of all kinds in turn.
        loss: of datagrams.
    """

    def __init__(self, seed: int, nodes: int, *, hostile: float = 0.0, loss: float = 0.0) -> None:
        self.world = World(f"city {seed}", Faults(loss=loss, duplicate=0.01, reorder=0.01))
        self.packets = PacketWatch()
        self.world.watchers.append(self.packets)
        self.authors = [author(number) for number in range(100)]
        self.forged = author(1000)
        self.stores = StoreWatch([self.forged.target], frozenset((self.forged.octets,)))
        self.ring = Ring(self.world, self.authors, self.forged)
        self.gets: dict[GetHandle, GetOutcome] = {}
        self.puts: dict[PutHandle, PutOutcome] = {}
        self.honest: list[Host] = []
        self.liars: list[Host] = []
        self._look()
        self._grow(nodes, hostile)

    def _grow(self, nodes: int, hostile: float) -> None:
        world, rng = self.world, self.world.rng
        hostile_at = set(rng.sample(range(8, nodes), int(nodes * hostile)))
        kinds = list(KINDS)
        for number in range(nodes):
            if number in hostile_at:
                self.add_liar(kinds[len(self.liars) % len(kinds)])
            else:
                entries = rng.sample(self.honest[:8], min(len(self.honest), 3))
                self.add_node([host.address for host in entries])
            world.advance(JOIN_EVERY_S)
        world.advance(30.0)

    def add_node(self, bootstrap: list[Address], *, server: bool | str = True) -> Host:
        """Add an honest node."""
        host = self.world.add_node(bootstrap, server=server, lane=True)
        host.on_events = self._take
        self._take(host.events)
        self.honest.append(host)
        return host

    def add_liar(
        self, kind: str, address: Address | None = None, node_id: bytes | None = None
    ) -> Host:
        """Add a liar that makes itself known to some honest nodes, as by queries of its own."""
        world = self.world
        address = address or (world.new_ip(), 6881)
        node_id = node_id or world.secure_id(address[0])
        host = world.add(Liar(self.ring, kind, address, node_id), address, honest=False)
        for other in world.rng.sample(self.honest, min(len(self.honest), 40)):
            world.acquaint(other, [(node_id, address)])
        self.liars.append(host)
        return host

    def _take(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, GetFinished):
                self.gets[event.handle] = event.outcome
            elif isinstance(event, PutFinished):
                self.puts[event.handle] = event.outcome

    def start_put(self, via: Host, item: MutableItem) -> PutHandle:
        if item.target not in self.stores.targets:
            self.stores.targets.append(item.target)
        handle = via.node.start_put(item, now=via.clock(self.world.now))
        self.world.flush(via)
        return handle

    def start_get(self, via: Host, one: Author) -> GetHandle:
        handle = via.node.start_get(one.octets, now=via.clock(self.world.now))
        self.world.flush(via)
        return handle

    def put(self, via: Host, item: MutableItem) -> PutOutcome:
        handle = self.start_put(via, item)
        self.world.run_until(lambda: handle in self.puts)
        return self.puts[handle]

    def get(self, via: Host, one: Author) -> GetOutcome:
        handle = self.start_get(via, one)
        self.world.run_until(lambda: handle in self.gets)
        return self.gets[handle]

    def holders(self, item: MutableItem) -> int:
        """Count the honest nodes that store an item."""
        return sum(item in stored_items(host, [item.target]) for host in self.honest if host.alive)

    def check(self) -> None:
        """Hold every honest node to what must always hold."""
        for host in self.honest:
            check_bounds(host)
            self.stores(host)

    def _look(self) -> None:
        """Check again and again while the world lives."""
        self.check()
        self.world.call_at(self.world.now + LOOK_EVERY_S, self._look)

    def judged(self, result: Found) -> Found:
        """Check all, and add to a result what went over the wires."""
        self.check()
        result.most_packets, result.datagrams = self.packets.most_packets, self.world.sent
        return result

    def start_all(self, starts: Sequence[Callable[[], _H]], seconds: float) -> list[_H]:
        """Start them at once, or one after the other within some seconds."""
        handles = []
        for start in starts:
            handles.append(start())
            if seconds:
                self.world.advance(seconds / len(starts))
        return handles


@dataclass
class Found:
    """How often the newest value was found."""

    lookups: int = 0
    found: int = 0
    older: int = 0
    undecided: int = 0
    """Look-ups that say that they cannot tell; those neither here nor found deny what is there."""
    refused: int = 0
    """PUTs that failed."""
    stored: list[int] = field(default_factory=list)
    """Honest nodes that had each packet once it was put."""
    spans_s: list[float] = field(default_factory=list)
    """How long look-ups took, where that is of interest."""
    most_packets: int = 0
    """To one address within 10 s: of any honest node, or of the relay where it is about that."""
    datagrams: int = 0

    @property
    def ratio(self) -> float:
        return self.found / self.lookups

    @property
    def denied(self) -> int:
        return self.lookups - self.found - self.older - self.undecided

    def note(self, outcome: GetOutcome, newest: MutableItem) -> None:
        self.lookups += 1
        if outcome.best == newest:
            self.found += 1
        elif outcome.best is not None:
            self.older += 1
        elif outcome.overloaded:
            self.undecided += 1


def among_liars(
    seed: int, nodes: int, *, hostile: float = 0.2, loss: float = 0.05, keys: int = 50
) -> Found:
    """Put two versions of each key, then let nodes at random look for it."""
    city = City(seed, nodes, hostile=hostile, loss=loss)
    world, rng, result = city.world, city.world.rng, Found()
    for one in city.authors[:keys]:
        city.put(rng.choice(city.honest), one.items[1])
        world.advance(1.0)
    for one in city.authors[:keys]:
        city.put(rng.choice(city.honest), one.items[2])
        world.advance(1.0)
        result.stored.append(city.holders(one.items[2]))
    for _ in range(10):
        for one in city.authors[:keys]:
            began = world.now
            result.note(city.get(rng.choice(city.honest), one), one.items[2])
            result.spans_s.append(world.now - began)
    return city.judged(result)


def sybils(seed: int, nodes: int, *, valid: bool, count: int = 20, keys: int = 5) -> Found:
    """Surround keys with Sybils, then put and look for their packets.

    `valid`: their identifiers fit their addresses (BEP 42), which were chosen for that.
    """
    city = City(seed, nodes, loss=0.02)
    rng, result = city.world.rng, Found()
    for one in city.authors[:keys]:
        _surround(city, one, count, valid=valid)
        city.put(rng.choice(city.honest), one.items[1])
        result.stored.append(city.holders(one.items[1]))
        for _ in range(20):
            result.note(city.get(rng.choice(city.honest), one), one.items[1])
    return city.judged(result)


def _surround(city: City, one: Author, count: int, *, valid: bool) -> None:
    """Put liars nearer to a key than anybody honest; all honest nodes that should know them do."""
    world, target = city.world, one.target
    members = []
    for _ in range(count):
        address, node_id = (world.new_ip(), 6881), target[:12] + world.rng.randbytes(8)
        if valid:
            while True:  # an address that gives an identifier with 14 bits of the target
                fits = [
                    r
                    for r in range(8)
                    if (secure_prefix(address[0], r) ^ int.from_bytes(target[:3], "big")) < 1 << 10
                ]
                if fits:
                    break
                address = (world.new_ip(), 6881)
            prefix = secure_prefix(address[0], fits[0]).to_bytes(3, "big")
            tail = (node_id[19] & 0xF8 | fits[0]).to_bytes(1, "big")
            low = bytes([prefix[2] & 0xF8 | target[2] & 7])
            node_id = prefix[:2] + low + target[3:12] + node_id[12:19] + tail
        host = city.add_liar("sybil", address, node_id)
        members.append((node_id, address))
        assert NodeInfo(node_id, address).secure == valid
        assert host.alive
    for host in city.honest:  # they call on everybody; who has room in the bucket takes them
        world.acquaint(host, members)


def exodus(seed: int, nodes: int, *, keys: int = 40, gap_s: float = 3.0) -> Found:
    """Half of the nodes leave within an hour; owners republish, others look them up."""
    city = City(seed, nodes, loss=0.01)
    world, rng, result = city.world, city.world.rng, Found()
    servers = list(city.honest)

    def newcomer() -> Host:
        entries = rng.sample(servers, 3)
        return city.add_node([host.address for host in entries], server="auto")

    owners, readers = ([newcomer() for _ in range(10)] for _ in range(2))
    world.advance(20.0)
    for at, one in enumerate(city.authors[:keys]):
        _republish(city, owners[at % len(owners)], one, rng.random() * 60.0)
    world.advance(90.0)
    for host in rng.sample(servers, len(servers) // 2):
        world.call_at(world.now + rng.random() * 3600.0, _remover(world, host))
    until = world.now + 3600.0
    pending: list[tuple[GetHandle, Author]] = []
    while world.now < until:
        one = rng.choice(city.authors[:keys])
        pending.append((city.start_get(rng.choice(readers), one), one))
        world.advance(gap_s)
    world.advance(20.0)
    for handle, one in pending:
        result.note(city.gets[handle], one.items[1])
    result.stored = [city.holders(one.items[1]) for one in city.authors[:keys]]
    city.honest = [host for host in city.honest if host.alive]
    return city.judged(result)


def _republish(city: City, owner: Host, one: Author, delay_s: float) -> None:
    def publish() -> None:
        city.start_put(owner, one.items[1])
        city.world.call_at(city.world.now + REPUBLISH_S, publish)

    city.world.call_at(city.world.now + delay_s, publish)


def _remover(world: World, host: Host) -> Callable[[], None]:
    return lambda: world.remove(host)


def steady(seed: int, nodes: int, *, seconds: float, one_key: bool) -> Found:
    """One PUT and one GET a second through one relay: how many packets does an address get?"""
    city = City(seed, nodes, loss=0.05)
    world, rng, result = city.world, city.world.rng, Found()
    relay = city.add_node([host.address for host in rng.sample(city.honest, 3)], server=True)
    world.advance(30.0)
    watch = PacketWatch()
    world.watchers.append(lambda host, *sent: watch(host, *sent) if host is relay else None)
    until, number = world.now + seconds, 0
    while world.now < until:
        one = city.authors[0] if one_key else city.authors[number % len(city.authors)]
        city.start_put(relay, one.items[min(1 + number // 100, 6)])
        world.advance(0.5)
        city.start_get(relay, rng.choice(city.authors))
        world.advance(0.5)
        number += 1
    world.advance(10.0)
    city.check()
    result.most_packets, result.datagrams = watch.most_packets, world.sent
    return result


def rush(
    seed: int, nodes: int, *, missing: int, seconds: float, keys: int = 100, loss: float = 0.01
) -> Found:
    """Ask one node for many keys at once or within a while, most of which nobody has published.

    What it sends to each address is paced, and all look-ups begin with the few nodes that it knows.
    """
    city = City(seed, nodes, loss=loss)
    world, rng, result = city.world, city.world.rng, Found()
    for one in city.authors[:keys]:
        city.put(rng.choice(city.honest), one.items[1])
        world.advance(1.0)
    world.advance(60.0)
    relay = rng.choice(city.honest)
    asked = [*city.authors[:keys], *map(author, range(2000, 2000 + missing))]
    rng.shuffle(asked)
    handles = city.start_all([partial(city.start_get, relay, one) for one in asked], seconds)
    world.run_until(lambda: all(handle in city.gets for handle in handles))
    present = set(city.authors[:keys])
    for one, handle in zip(asked, handles, strict=True):
        if one in present:
            result.note(city.gets[handle], one.items[1])
    return city.judged(result)


def besieged(seed: int, nodes: int, *, keys: int = 30) -> Found:
    """Forge all addresses before each look-up: the node that makes it owes everybody answers."""
    city = City(seed, nodes, hostile=0.2, loss=0.05)
    world, rng, result = city.world, city.world.rng, Found()
    for one in city.authors[:keys]:
        city.put(rng.choice(city.honest), one.items[1])
        world.advance(1.0)
    relay = rng.choice(city.honest)
    ping = krpc.encode(krpc.Query(b"forg", b"ping", {b"id": rng.randbytes(20)}))
    for one in city.authors[:keys]:
        world.advance(20.0)
        now = relay.clock(world.now)
        for host in (*city.honest, *city.liars):
            for _ in range(FORGED):
                relay.node.receive_datagram(ping, host.address, now)
        world.flush(relay)
        began = world.now
        result.note(city.get(relay, one), one.items[1])
        result.spans_s.append(world.now - began)
    return city.judged(result)


def crush(seed: int, nodes: int, *, keys: int, seconds: float, loss: float = 0.01) -> Found:
    """Have one node put many packets at once or within a while; then others look for them."""
    city = City(seed, nodes, loss=loss)
    world, rng, result = city.world, city.world.rng, Found()
    relay = rng.choice(city.honest)
    authors = list(map(author, range(3000, 3000 + keys)))
    puts = [partial(city.start_put, relay, one.items[1]) for one in authors]
    handles = city.start_all(puts, seconds)
    world.run_until(lambda: all(handle in city.puts for handle in handles))
    world.advance(30.0)
    for one, handle in zip(authors, handles, strict=True):
        if city.puts[handle].failure is not None:
            result.refused += 1
            continue
        result.stored.append(city.holders(one.items[1]))
        result.note(city.get(rng.choice(city.honest), one), one.items[1])
    return city.judged(result)


WORLDS: Final[dict[str, tuple[int, Callable[[int, int], Found]]]] = {
    "a fifth are liars": (1, among_liars),
    "Sybils, identifiers at will": (2, partial(sybils, valid=False)),
    "Sybils, identifiers that fit": (3, partial(sybils, valid=True)),
    "half leave within an hour": (4, exodus),
    "a hundred look-ups at once": (7, partial(rush, missing=0, seconds=0.0)),
    "fifty look-ups a second": (8, partial(rush, missing=900, seconds=20.0)),
    "a thousand look-ups at once": (9, partial(rush, missing=900, seconds=0.0)),
    "a hundred PUTs at once": (10, partial(crush, keys=100, seconds=0.0)),
    "thirty PUTs a second": (11, partial(crush, keys=300, seconds=10.0)),
    "all addresses are forged": (12, besieged),
    "a PUT a second, many keys": (5, partial(steady, seconds=120.0, one_key=False)),
    "a PUT a second, one key": (6, partial(steady, seconds=120.0, one_key=True)),
}
"""The seed of each, and what takes a seed and the number of nodes."""

FOUND_MIN: Final = {
    "a fifth are liars": 0.99,
    "half leave within an hour": 0.999,
    "a hundred look-ups at once": 0.99,
    "fifty look-ups a second": 0.99,
    "a thousand look-ups at once": 0.15,
    "a hundred PUTs at once": 0.99,
    "thirty PUTs a second": 0.99,
    "all addresses are forged": 0.99,
}
DENIED_MAX: Final = 0.01
"""Look-ups of what is there that say that it is not, however many there are at once."""
STORED_MIN: Final = 10
STEADY_MAX: Final = 25
"""Packets to one address within 10 s; half of what libtorrent bans for."""


def broken_promises(name: str, result: Found) -> list[str]:
    """Return what a world did not keep of what is promised of it."""
    broken = []
    if result.lookups and result.ratio < FOUND_MIN.get(name, 0.9):
        broken.append(f"only {result.ratio:.2%} found")
    if "look-ups" in name and result.denied > DENIED_MAX * result.lookups:
        broken.append(f"{result.denied} look-ups deny what is there")
    if result.refused:
        broken.append(f"{result.refused} PUTs failed")
    if ("Sybils" in name or "PUTs" in name) and min(result.stored) < STORED_MIN:
        broken.append(f"only {min(result.stored)} honest nodes store a packet")
    if "a PUT a second" in name and result.most_packets > STEADY_MAX:
        broken.append(f"{result.most_packets} packets to one address in 10 s")
    return broken


def describe(result: Found) -> str:
    """Return the figures of a world in one line."""
    parts = []
    if result.lookups:
        undecided = f", {result.undecided} cannot tell" if result.undecided else ""
        parts.append(f"{result.found} of {result.lookups} found ({result.older} older{undecided})")
    if result.spans_s:
        median_s = statistics.median(result.spans_s)
        parts.append(f"in {median_s:.1f} s (median; {max(result.spans_s):.1f} s at most)")
    if result.stored:
        median = statistics.median(result.stored)
        parts.append(f"stored on {min(result.stored)} at least, median {median:.0f}")
    parts.append(f"at most {result.most_packets} packets to one address in 10 s")
    parts.append(f"{result.datagrams} datagrams")
    return ", ".join(parts)
