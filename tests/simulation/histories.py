"""Short histories: a small world, everything that can go wrong in it, and what must hold.

`run(seed)` makes up a world of some dozen nodes, liars among them, one or two relays with their
callers, and faults; lets them live for some minutes; and checks the invariants all the while and
at the end. One seed is one history: a failure names it, and the command that repeats it.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Final

import trio
from trio._core import _run as trio_run
from trio.testing import wait_all_tasks_blocked

from relay.dht.events import GetFinished, Handle, ItemReceived, PutFinished
from relay.dht.node import DhtNode
from relay.errors import RelayError
from relay.pkarr.policy import ResolvePolicy
from tests.simulation.authors import VERSIONS, Author, author
from tests.simulation.desk import Desk
from tests.simulation.hostile import ACTIVE, KINDS, Liar, Ring
from tests.simulation.invariants import (
    IDLE_S,
    UPKEEP_S,
    PacketWatch,
    Recency,
    StoreWatch,
    Violation,
    check_bounds,
    check_desk,
    check_idle,
)
from tests.simulation.world import Faults, Host, World
from tests.support.chance import seeded

if TYPE_CHECKING:
    from collections.abc import Iterator

FORGED: Final = author(1000)
"""Nobody may ever store a packet of this one: it comes with forged tokens only."""
LOOK_EVERY_S: Final = 10.0
AGAIN_S: Final = 0.5
POLICIES: Final = (
    ResolvePolicy.CACHE_FIRST,
    ResolvePolicy.CACHE_FIRST,
    ResolvePolicy.CACHE_FIRST,
    ResolvePolicy.CACHE_ONLY,
    ResolvePolicy.NETWORK_ONLY,
)


class HistoryError(AssertionError):
    """A history in which something did not hold that must."""

    def __init__(self, seed: int, cause: BaseException) -> None:
        super().__init__(
            f"seed {seed}: {type(cause).__name__}: {cause}\n"
            f"repeat it with: nox -s simulate -- --seed {seed}"
        )
        self.seed = seed


@dataclass
class Report:
    """What happened in a history."""

    seed: int
    digest: int = 0
    datagrams: int = 0
    most_packets: int = 0
    """To one public address within 10 s, queries and answers."""
    counts: Counter[str] = field(default_factory=Counter)


@dataclass
class Doubles:
    """What tests put in place of production parts, to break what must hold."""

    node: Callable[..., DhtNode] = DhtNode
    desk: Callable[..., Desk] = Desk


@contextmanager
def repeatable_trio(seed: int) -> Iterator[None]:
    """Let trio choose among tasks that are ready by the seed, not by chance."""
    flag, state = trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r.getstate()
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    trio_run._r.seed(seed)
    try:
        yield
    finally:
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING = flag  # type: ignore[misc]
        trio_run._r.setstate(state)


def run(seed: int, doubles: Doubles | None = None) -> Report:
    """Live through the history of a seed.

    Raises:
        HistoryError: something did not hold.
    """
    history = _History(seed, doubles or Doubles())
    collecting = gc.isenabled()
    gc.disable()  # much is allocated, little of it in circles, and it is over soon
    try:
        with repeatable_trio(seed):
            trio.run(history.live)
    except Exception as error:
        raise HistoryError(seed, _innermost(error)) from error
    finally:
        if collecting:
            gc.enable()
    return history.report


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class _History:
    def __init__(self, seed: int, doubles: Doubles) -> None:
        self.rng: Random = seeded(f"history {seed}")
        self.doubles = doubles
        self.report = Report(seed)
        rng = self.rng
        self.world = World(
            f"world {seed}",
            Faults(
                loss=rng.choice((0.0, 0.0, 0.02, 0.05, 0.2)),
                duplicate=rng.choice((0.0, 0.05, 0.3)),
                reorder=rng.choice((0.0, 0.05, 0.2)),
                corrupt=rng.choice((0.0, 0.0, 0.01, 0.05)),
                jitter_s=rng.choice((0.0, 0.005, 0.1)),
                held_s=rng.choice((0.2, 1.0, 4.0)),
            ),
        )
        self.duration_s = rng.choice((15.0, 15.0, 20.0, 20.0, 30.0, 30.0, 40.0, 60.0, 60.0, 330.0))
        first = rng.randrange(900)
        self.authors: list[Author] = [author(first + at) for at in range(rng.randrange(3, 9))]
        self.published: Counter[bytes] = Counter()
        self.packets = PacketWatch()
        self.world.watchers.append(self.packets)
        self.stores = StoreWatch(
            [one.target for one in (*self.authors, FORGED)], frozenset((FORGED.octets,))
        )
        self.ring = Ring(self.world, self.authors, FORGED)
        self.open: dict[Handle, float] = {}
        self.newest: dict[Handle, int] = {}
        self.desks: list[tuple[Desk, Recency]] = []
        self.honest: list[Host] = []
        self.callers = 0
        self.errors: list[BaseException] = []

    # The world.

    def _build(self) -> None:
        rng, world = self.rng, self.world
        size = rng.choice((6, 8, 10, 12, 15, 20, 30))
        hostile_share = rng.choice((0.0, 0.1, 0.2, 0.4))
        lane = rng.random() < 0.5
        for number in range(size):
            if number > 2 and rng.random() < hostile_share:
                address = (world.new_ip(), rng.choice((6881, 1, 65535)))
                secure = rng.random() < 0.7
                node_id = world.secure_id(address[0]) if secure else rng.randbytes(20)
                kind = rng.choice(KINDS if rng.random() < 0.7 else ACTIVE)
                world.add(Liar(self.ring, kind, address, node_id), address, honest=False)
                self.report.counts[f"liars: {kind}"] += 1
            else:
                self._add_node((), lane=lane)
        seeds = world.ids()
        for host in self.honest:  # as if they had met before
            world.acquaint(host, rng.sample(seeds, min(len(seeds), 30)))
        for _ in range(rng.randrange(4)):
            self._newcomer()
        for _ in range(rng.choice((1, 1, 2))):
            host = self._newcomer()
            desk = self.doubles.desk(
                world,
                host,
                capacity=rng.choice((2, 4, 100)),  # four floors each: enough for all authors
                ttl_s=rng.choice(((1, 10), (30, 60), (300, 86_400))),
                serve_stale_s=rng.choice((0, 0, 100)),
            )
            self.desks.append((desk, Recency()))

    def _add_node(self, bootstrap: tuple[tuple[str, int], ...], *, lane: bool) -> Host:
        rng = self.rng
        host = self.world.add_node(
            bootstrap,
            server=True if not bootstrap else rng.choice((True, "auto", False)),
            knows_ip=rng.random() < 0.8,
            clock_offset_s=rng.choice((0.0, 1e-3, 5000.0, 1e9)),
            clock_rate=rng.choice((1.0, 1.0, 0.99, 1.01)),
            make=self.doubles.node,
            lane=lane,
            gathers=rng.random() < 0.2,
            behind_nat=rng.random() < (0.4 if bootstrap else 0.1),
        )
        if host.on_events is None:
            host.on_events = self._take
            self._take(host.events)
        self.honest.append(host)
        return host

    def _newcomer(self) -> Host:
        entries = self.rng.sample(sorted(self.world.hosts), 3)
        return self._add_node(tuple(entries), lane=self.rng.random() < 0.5)

    # Its life.

    async def live(self) -> None:
        world, rng = self.world, self.rng
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            self._build()
            for desk, _ in self.desks:
                await nursery.start(desk.service.run)
            for _ in range(int(self.duration_s * rng.choice((0.1, 0.3, 0.5)))):
                world.call_at(rng.random() * self.duration_s, self._do_something)
            for _ in range(rng.choice((0, 1, 4))):
                world.call_at(rng.random() * self.duration_s, self._go_wrong)
            await self._pass(self.duration_s)
            self._heal()
            await self._pass(IDLE_S)
            await self._check_end()
            nursery.cancel_scope.cancel()
        report = self.report
        report.digest, report.datagrams = world.digest, world.sent
        report.most_packets = self.packets.most_packets

    async def _pass(self, seconds: float) -> None:
        world = self.world
        until = world.now + seconds
        next_look = world.now + LOOK_EVERY_S
        while world.step(until):
            for desk, _ in self.desks:
                if desk.driver.stirred:
                    desk.driver.stirred = False
                    await wait_all_tasks_blocked()
            if self.errors:
                raise self.errors[0]
            if world.now >= next_look:
                next_look += LOOK_EVERY_S
                self._look()

    def _look(self) -> None:
        for host in self.honest:
            check_bounds(host)
            self.stores(host)
        for desk, _ in self.desks:
            check_desk(desk)
        if self.ring.accepted:
            raise Violation("a write with a forged token was acknowledged")

    def _heal(self) -> None:
        self.world.faults = Faults()
        for host in self.world.hosts.values():
            host.side = 0
            self.world.wake(host)
            if isinstance(host.machine, Liar) and host.machine.kind in ACTIVE:
                host.machine.kind = "silent"

    async def _check_end(self) -> None:
        self._look()
        for host in self.honest:
            if host.alive:
                await self._check_idle(host)
        if self.open:
            raise Violation(f"{len(self.open)} requests to nodes have not ended")
        if self.callers:
            raise Violation(f"{self.callers} requests to relays have not ended")
        for desk, _ in self.desks:
            if desk.driver.waiting or desk.service._flights:
                raise Violation("a relay still waits for its node")
        self.report.counts["items looked at"] += self.stores.seen
        self.report.counts["answers"] += sum(recency.answers for _, recency in self.desks)

    async def _check_idle(self, host: Host) -> None:
        """What is left may be of an errand of the node's own: it has as long as one may last."""
        until = self.world.now + UPKEEP_S
        while self.world.now < until:
            try:
                check_idle(host, self.world.now)
            except Violation:
                await self._pass(AGAIN_S)
            else:
                return
        check_idle(host, self.world.now)

    # What goes on in it.

    def _do_something(self) -> None:
        rng = self.rng
        chance = rng.random()
        if chance < 0.65:
            self._ask_a_relay()
        elif chance < 0.68:
            for _ in range(rng.randrange(10, 40)):
                self._ask_a_relay()
        else:
            self._ask_a_node()

    def _ask_a_relay(self) -> None:
        desk, recency = self.rng.choice(self.desks)
        if desk.driver.host.asleep_until > self.world.now:
            return
        one = self.rng.choice(self.authors)
        if self.rng.random() < 0.35:
            self._call(self._publish(desk, recency, one))
        else:
            self._call(self._resolve(desk, recency, one, self.rng.choice(POLICIES)))

    def _call(self, request: Awaitable[None]) -> None:
        self.callers += 1
        self.nursery.start_soon(self._served, request)
        for desk, _ in self.desks:
            desk.driver.stirred = True

    async def _served(self, request: Awaitable[None]) -> None:
        counts = self.report.counts
        # Some callers leave before they are answered; the relay goes on as it likes.
        leaves = self.rng.random() < 0.1
        with trio.CancelScope() as scope:
            if leaves:
                self.world.call_at(self.world.now + self.rng.random(), self._leave(scope))
            try:
                await request
            except RelayError as error:
                counts[type(error).__name__] += 1
            except Exception as error:
                self.errors.append(error)
        self.callers -= 1

    def _leave(self, scope: trio.CancelScope) -> Callable[[], None]:
        def leave() -> None:
            scope.cancel()
            for desk, _ in self.desks:
                desk.driver.stirred = True

        return leave

    async def _resolve(
        self, desk: Desk, recency: Recency, one: Author, policy: ResolvePolicy
    ) -> None:
        key = one.keypair.public_key
        least = recency.begin(key)
        found = await desk.service.resolve(key, policy, spend=_free)
        counts = self.report.counts
        counts["resolved" if found else "not found"] += 1
        if found is not None:
            packet = found.seen.packet
            if packet not in one.packets:
                raise Violation("a packet was served that its owner never signed")
            if policy is not ResolvePolicy.NETWORK_ONLY:
                recency.check(packet, least, ties=not desk.cache.memory.evictions)
            recency.given(packet)

    async def _publish(self, desk: Desk, recency: Recency, one: Author) -> None:
        packet = one.packets[self._version(one)]
        await desk.service.publish(packet, spend=_free)
        self.report.counts["published"] += 1
        recency.given(packet)

    def _version(self, one: Author) -> int:
        """The next version, or one of those before."""
        if self.rng.random() < 0.7:
            self.published[one.octets] = min(self.published[one.octets] + 1, VERSIONS)
            return self.published[one.octets] - 1
        return self.rng.randrange(max(self.published[one.octets], 1))

    def _ask_a_node(self) -> None:
        rng = self.rng
        desks = [desk.driver.host for desk, _ in self.desks]
        hosts = [host for host in self.honest if host.alive and host not in desks]
        host = rng.choice(hosts)
        node, now = host.node, host.clock(self.world.now)
        one = rng.choice(self.authors)
        choice = rng.randrange(7)
        handle: Handle
        if choice < 2:
            seq = rng.choice((None, None, one.packets[3].timestamp_us))
            handle = node.start_get(one.octets, seq=seq, now=now)
        elif choice == 2:
            item = one.items[self._version(one)]
            handle = node.start_put(item, cas=rng.choice((None, None, item.seq)), now=now)
        elif choice == 3:
            handle = node.start_get_peers(one.target, now=now)
        elif choice == 4:
            handle = node.start_announce_peer(one.target, now=now)
        elif choice == 5:
            handle = node.start_put_immutable(one.octets * rng.randrange(1, 40), now=now)
        else:
            handle = node.start_find_node(rng.randbytes(20), now=now)
        if rng.random() < 0.1:
            node.release(handle, now)
        else:
            self.open[handle] = self.world.now
        self.report.counts["asked of nodes"] += 1
        self.world.flush(host)

    def _take(self, events: list[object]) -> None:
        for event in events:
            if isinstance(event, ItemReceived):
                if event.item.seq < self.newest.get(event.handle, -1):
                    raise Violation("a look-up told of an older item after a newer one")
                self.newest[event.handle] = event.item.seq
            elif isinstance(event, GetFinished | PutFinished):
                self.open.pop(event.handle, None)
                if isinstance(event, PutFinished) or event.outcome.best is None:
                    continue
                if event.outcome.best.seq < self.newest.get(event.handle, -1):
                    raise Violation("a look-up ended with less than it had told of")

    def _go_wrong(self) -> None:
        rng, world = self.rng, self.world
        desks = [desk.driver.host for desk, _ in self.desks]
        what = rng.randrange(7)
        self.report.counts[f"fault {what}"] += 1
        if what == 0:  # the world falls apart
            for host in world.hosts.values():
                host.side = rng.randrange(2)
            world.call_at(world.now + rng.uniform(1, 60), self._reunite)
        elif what == 1:  # nothing comes through
            world.faults.loss, before = 1.0, min(world.faults.loss, 0.5)
            world.call_at(world.now + rng.uniform(1, 40), lambda: self._lose(before))
        elif what == 2:  # some leave
            for host in rng.sample(list(world.hosts.values()), len(world.hosts) // 3):
                if host not in desks and len([h for h in self.honest if h.alive]) > 4:
                    self._remove(host)
        elif what == 3:  # some come
            for _ in range(rng.randrange(1, 6)):
                self._newcomer()
        elif what == 4:  # some are suspended
            for host in rng.sample(list(world.hosts.values()), 3):
                world.sleep(host, rng.choice((0.5, 3.0, 60.0)))
        elif what == 5:  # somebody sets a clock
            desk, _ = rng.choice(self.desks)  # by less in all than floors last
            desk.wall_skew_us = rng.choice((-1, 0, 1)) * rng.choice((10**6, 10**9, 10**12))
        else:  # crowds
            for _ in range(40):
                self._ask_a_relay()

    def _remove(self, host: Host) -> None:
        self.world.remove(host)
        if host.honest:
            node = host.node
            for handle in [*node._requests._by_handle, *node._requests._put_by_handle]:
                self.open.pop(handle, None)

    def _reunite(self) -> None:
        for host in self.world.hosts.values():
            host.side = 0

    def _lose(self, ratio: float) -> None:
        if self.world.faults.loss == 1.0:
            self.world.faults.loss = ratio


def _free() -> None:
    """A client whose quota is never used up."""
