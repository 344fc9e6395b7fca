"""A whole relay but for its sockets and its disk: service, cache and DHT in a world's time.

The service, the Pkarr view of the DHT, the memory of the store with its eviction and its floors,
and the node are the production ones. `SimDriver` stands in for the socket and the clock, and
`MemoryStore` for the disk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import trio

from relay.dht.events import (
    Bootstrapped,
    Event,
    GetFinished,
    GetHandle,
    GetOutcome,
    ItemReceived,
    PutAssured,
    PutFinished,
    PutHandle,
    PutOutcome,
)
from relay.dht.items import MutableItem
from relay.net.packets import PkarrDht
from relay.pkarr.keys import PublicKey
from relay.pkarr.packet import SeenPacket
from relay.service import RelayService
from relay.store.memory import Memory
from tests.simulation.world import Host, World

if TYPE_CHECKING:
    from relay.dht.node import DhtNode
    from relay.net.udp import DhtDriver

REQUEST_TIMEOUT_S = 2.0


class SimDriver:
    """What `PkarrDht` needs of a driver, on the wires of a world."""

    def __init__(self, world: World, host: Host) -> None:
        self.world = world
        self.host = host
        self.stirred = False
        """Whether tasks have something to do since this was last set to False."""
        self._gets: dict[
            GetHandle, tuple[Callable[[MutableItem], None], Callable[[GetOutcome], None]]
        ] = {}
        self._puts: dict[PutHandle, tuple[trio.Event, Callable[[], None] | None]] = {}
        self._outcomes: dict[PutHandle, PutOutcome] = {}
        self._bootstrapped = trio.Event()
        host.on_events = self._take
        self._take(host.events)

    @property
    def node(self) -> DhtNode:
        return self.host.node

    @property
    def waiting(self) -> int:
        """Callers who wait for the node."""
        return len(self._gets) + len(self._puts)

    async def wait_bootstrapped(self, timeout: float) -> bool:
        if not self.node.bootstrapped:
            self.world.call_at(self.world.now + timeout, self._stop_waiting)
            await self._bootstrapped.wait()
        return self.node.bootstrapped

    def start_get(
        self,
        public_key: bytes,
        *,
        seq: int | None = None,
        on_item: Callable[[MutableItem], None],
        on_finished: Callable[[GetOutcome], None],
    ) -> GetHandle:
        handle = self.node.start_get(public_key, seq=seq, now=self._now())
        self._gets[handle] = (on_item, on_finished)
        self.world.flush(self.host)
        return handle

    def release(self, handle: GetHandle) -> None:
        if self._gets.pop(handle, None) is not None:
            self.node.release(handle, now=self._now())
            self.world.flush(self.host)

    async def put(
        self, item: MutableItem, *, on_assured: Callable[[], None] | None = None
    ) -> PutOutcome:
        handle = self.node.start_put(item, now=self._now())
        finished = trio.Event()
        self._puts[handle] = (finished, on_assured)
        try:
            self.world.flush(self.host)
            await finished.wait()
        finally:
            del self._puts[handle]
            if not finished.is_set():
                self.node.release(handle, now=self._now())
                self.world.flush(self.host)
        return self._outcomes.pop(handle)

    def _now(self) -> float:
        return self.host.clock(self.world.now)

    def _stop_waiting(self) -> None:
        self.stirred = True
        self._bootstrapped.set()
        if not self.node.bootstrapped:
            self._bootstrapped = trio.Event()

    def _take(self, events: list[Event]) -> None:
        self.stirred = True
        for event in events:
            match event:
                case ItemReceived(handle, item):
                    if (get := self._gets.get(handle)) is not None:
                        get[0](item)
                case GetFinished(handle, outcome):
                    if (get := self._gets.pop(handle, None)) is not None:
                        get[1](outcome)
                case PutAssured(handle):
                    put = self._puts.get(handle)
                    if put is not None and put[1] is not None:
                        put[1]()
                case PutFinished(handle, outcome):
                    if (put := self._puts.get(handle)) is not None:
                        self._outcomes[handle] = outcome
                        put[0].set()
                case Bootstrapped():
                    self._bootstrapped.set()


class MemoryStore:
    """`relay.service.Cache` on the store's memory, evicting as it goes."""

    def __init__(self, capacity: int, wall_clock_us: Callable[[], int]) -> None:
        self.memory = Memory(capacity, wall_clock_us, lambda: None)

    async def get(self, key: PublicKey) -> SeenPacket | None:
        await trio.lowlevel.checkpoint()
        return self.memory.get(key)

    async def put_if_newer(self, seen: SeenPacket) -> SeenPacket:
        winner = self.memory.merge(seen)
        self._evict()
        await trio.lowlevel.checkpoint()
        return winner

    def put_soon(self, seen: SeenPacket) -> None:
        self.memory.merge_unless_below_floor(seen)
        self._evict()

    def floor_us(self, key: PublicKey) -> int | None:
        return self.memory.floor_us(key.octets)

    def _evict(self) -> None:
        if self.memory.crowded:
            self.memory.evict(16)


class Desk:
    """A relay at a host of a world.

    Args:
        world: whose time it lives in.
        host: an honest one.
        capacity: packets in its cache.
        ttl_s: shortest and longest time a packet is fresh, seconds.
        serve_stale_s: as of the service.
        cache: in place of the usual one.
    """

    def __init__(
        self,
        world: World,
        host: Host,
        *,
        capacity: int = 1000,
        ttl_s: tuple[int, int] = (300, 86_400),
        serve_stale_s: int = 0,
        cache: MemoryStore | None = None,
    ) -> None:
        self.world = world
        self.driver = SimDriver(world, host)
        self.wall_skew_us = 0
        """How wrong its wall clock is; it may jump."""
        self.cache = cache or MemoryStore(capacity, self.wall_clock_us)
        self.service = RelayService(
            self.cache,
            PkarrDht(cast("DhtDriver", self.driver), REQUEST_TIMEOUT_S),
            ttl_min_s=ttl_s[0],
            ttl_max_s=ttl_s[1],
            serve_stale_s=serve_stale_s,
            wall_clock_us=self.wall_clock_us,
        )

    def wall_clock_us(self) -> int:
        return 1_800_000_100_000_000 + int(self.world.now * 1e6) + self.wall_skew_us
