"""The product, on one screen: resolve and publish, between a cache and the DHT.

Knows Pkarr values only. The cache and the DHT are handed in, each described by a
`Protocol`, so that neither HTTP nor SQL nor KRPC is visible here.

Source: design/protocol.md, sections 3, 4.2 and 4.3; design/architecture.md, section 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

import trio

from relay.errors import (
    InvalidItemError,
    LookupFailedError,
    NotMostRecentError,
    PublishTimedOutError,
    TimestampRangeError,
)
from relay.pkarr.keys import PublicKey
from relay.pkarr.packet import SeenPacket, SignedPacket
from relay.pkarr.policy import ResolvePolicy

SEQ_MAX: Final = 2**63 - 1
"""BEP 44 sequence numbers have a sign, Pkarr timestamps have none (protocol.md, trap 3)."""

OUTLIVING_MAX: Final = 1024
"""With more publishes than this at once a new one ends with its client."""

ABSENT_S: Final = 1.0
"""How long it is believed that nobody has a packet: no longer than a look-up may take, so that who
asks again and again for a key that is about to be published elsewhere hardly waits longer."""
ABSENT_MAX: Final = 4096
"""Keys of which that is remembered, the oldest forgotten first."""

Spend = Callable[[], None]
"""Takes one unit of the client's DHT quota; raises `DhtQuotaError` when there is none left."""


class Cache(Protocol):
    """What the service needs of a packet cache."""

    async def get(self, key: PublicKey) -> SeenPacket | None:
        """Return the cached packet, expired or not, and mark it as used."""

    async def put_if_newer(self, seen: SeenPacket) -> SeenPacket:
        """Apply the cache update rule; return the winner once it is durable."""

    def put_soon(self, seen: SeenPacket) -> None:
        """Apply the cache update rule now, write to disk later."""

    def floor_us(self, key: PublicKey) -> int | None:
        """Return the timestamp below which packets of an evicted key are refused."""


class Dht(Protocol):
    """What the service needs of the DHT."""

    on_packet: Callable[[SignedPacket], None] | None

    async def resolve(
        self,
        key: PublicKey,
        *,
        newer_than_us: int | None = None,
        accept: Callable[[SignedPacket], bool] | None = None,
    ) -> SignedPacket | None:
        """Look a key up; see `relay.net.packets.PkarrDht.resolve`."""

    async def publish(
        self, packet: SignedPacket, *, on_assured: Callable[[], None] | None = None
    ) -> int:
        """Store a packet; see `relay.net.packets.PkarrDht.publish`."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """An answer: the packet, and whether it is served past its time because the DHT is silent.

    `cached`: it was in the cache before.
    """

    seen: SeenPacket
    stale: bool = False
    cached: bool = False


@dataclass(frozen=True, slots=True)
class Health:
    """What works and what does not: part name to trouble in one sentence, None where all is well.

    `serving` is False once the relay no longer takes requests.
    """

    serving: bool
    parts: Mapping[str, str | None]

    @property
    def status(self) -> str:
        """``ok``, ``degraded`` (requests are served, something is missing) or ``unavailable``."""
        if not self.serving:
            return "unavailable"
        return "degraded" if any(self.parts.values()) else "ok"


@dataclass(slots=True)
class _Flight:
    """A publish under way. When `done` is set it has a `stored` or an `error`, or was given up."""

    packet: SignedPacket
    done: trio.Event = field(default_factory=trio.Event)
    seen: SeenPacket | None = None
    """What the cache was told early, so that it need not be told anew."""
    stored: int | None = None
    error: Exception | None = None

    @property
    def given_up(self) -> bool:
        """Whether it came to nothing, because its client left or the relay ends."""
        return self.stored is None and self.error is None

    def result(self) -> int:
        """Return how many nodes stored it, or raise what it failed of."""
        if self.error is not None:
            raise self.error
        if self.stored is None:
            raise PublishTimedOutError
        return self.stored


class RelayService:
    """Resolves and publishes signed packets; the only place where their policy is written.

    Keep `run` running: then what is stored on the DHT is in the cache, too, even if the client
    leaves in between.

    Args:
        cache: where packets are kept; its update rule never downgrades.
        dht: where packets come from and go to. Every valid packet that any look-up
            sees, also after the answer was given, updates the cache.
        ttl_min_s: lower bound of a packet's time to live, seconds.
        ttl_max_s: upper bound, seconds.
        serve_stale_s: how long an expired packet may stand in for a silent DHT, seconds.
        wall_clock_us: microseconds since 1970.
        facts: sections of `stats` that others know: ``cache``, ``dht`` and so on.
        troubles: what is wrong with each part just now, for `health`.
    """

    def __init__(
        self,
        cache: Cache,
        dht: Dht,
        *,
        ttl_min_s: int,
        ttl_max_s: int,
        serve_stale_s: int,
        wall_clock_us: Callable[[], int],
        facts: Callable[[], Mapping[str, object]] = dict,
        troubles: Callable[[], Mapping[str, str | None]] = dict,
    ) -> None:
        self._cache = cache
        self._dht = dht
        self.ttl_min_s = ttl_min_s
        self.ttl_max_s = ttl_max_s
        self.serve_stale_s = serve_stale_s
        self._wall_clock_us = wall_clock_us
        self._facts = facts
        self._troubles = troubles
        self.serving = True
        self._flights: dict[PublicKey, _Flight] = {}
        self._absent: dict[PublicKey, float] = {}  # since when, oldest first
        self._nursery: trio.Nursery | None = None
        self.counters: Counter[str] = Counter()
        dht.on_packet = self._remember

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Bring publishes to their end, whether or not their clients wait, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    async def resolve(
        self, key: PublicKey, policy: ResolvePolicy, *, spend: Spend
    ) -> Resolved | None:
        """Return the packet that `policy` asks for, or None if nobody has one.

        Args:
            key: whose packet.
            policy: protocol.md, section 4.2.
            spend: called right before the DHT is asked.

        Raises:
            DhtQuotaError: from `spend`.
            InvalidItemError: the owner's newest DHT item is not a packet.
            LookupFailedError: the DHT did not answer and nothing may be served stale.
        """
        if policy is ResolvePolicy.NETWORK_ONLY:
            spend()
            self.counters["network_only"] += 1
            found = await self._dht.resolve(key)
            return None if found is None else Resolved(self._seen_now(found))
        cached = await self._cache.get(key)
        if policy is ResolvePolicy.CACHE_ONLY:
            self._count_lookup(hit=cached is not None)
            return None if cached is None else Resolved(cached, cached=True)
        fresh = cached is not None and not self._is_expired(cached)
        self._count_lookup(hit=fresh)
        if cached is not None and fresh:
            return Resolved(cached, cached=True)
        spend()
        if cached is None and self._is_absent(key):
            self.counters["known_absent"] += 1
            return None
        return await self._ask_dht(key, cached)

    async def publish(self, packet: SignedPacket, *, spend: Spend) -> int:
        """Store `packet` on the DHT, then durably in the cache.

        Two publishes of one key never overlap in the DHT: the identical packet joins
        the one under way, any other waits for its turn and is then judged anew. Cancelled,
        it goes on behind: by then some nodes may have the packet.

        Returns:
            How many remote DHT nodes acknowledged it, at least 1.

        Raises:
            TimestampRangeError: its timestamp is no BEP 44 sequence number.
            NotMostRecentError: the cache or most of the DHT has a more recent one.
            DhtQuotaError: from `spend`.
            PublishFailedError: no DHT node stored it; then the cache does not either.
        """
        if packet.timestamp_us > SEQ_MAX:
            raise TimestampRangeError
        await self._refuse_older(packet)
        spend()
        key = packet.public_key
        self._absent.pop(key, None)
        while (other := self._flights.get(key)) is not None:
            await other.done.wait()
            if other.packet == packet and not other.given_up:
                return other.result()
            await self._refuse_older(packet)
        flight = self._flights[key] = _Flight(packet)
        if self._nursery is None or len(self._flights) > OUTLIVING_MAX:
            await self._fly(flight)
        else:
            self._nursery.start_soon(self._fly, flight)
            await flight.done.wait()
        return flight.result()

    def health(self) -> Health:
        """Return what works just now; costs nothing, asks nobody."""
        return Health(self.serving, {"http": None} | dict(self._troubles()))

    def stats(self) -> dict[str, object]:
        """Return every figure of the relay, ready for JSON; see `relay.http` for the page."""
        return {**self._facts(), "resolve": dict(self.counters)}

    async def _fly(self, flight: _Flight) -> None:
        """Publish; whatever goes wrong is the flight's."""
        packet = flight.packet
        try:
            stored = await self._dht.publish(packet, on_assured=partial(self._store_soon, flight))
            await self._cache.put_if_newer(flight.seen or self._seen_now(packet))
            self.counters["published"] += 1
            flight.stored = stored
        except Exception as error:
            flight.error = error
        finally:  # also when it is cancelled: whoever waits goes on by itself
            del self._flights[packet.public_key]
            flight.done.set()

    def _store_soon(self, flight: _Flight) -> None:
        """Let the cache begin to write while the slower half of the nodes is waited for."""
        flight.seen = self._seen_now(flight.packet)
        self._cache.put_soon(flight.seen)

    async def _refuse_older(self, packet: SignedPacket) -> None:
        cached = await self._cache.get(packet.public_key)
        if cached is not None and cached.packet.more_recent_than(packet):
            raise NotMostRecentError
        floor_us = self._cache.floor_us(packet.public_key)
        if floor_us is not None and packet.timestamp_us < floor_us:
            raise NotMostRecentError

    async def _ask_dht(self, key: PublicKey, cached: SeenPacket | None) -> Resolved | None:
        """One look-up for CacheFirst: the first packet not older than what we know answers."""
        floor_us = self._cache.floor_us(key) or 0
        is_new = cached is None and not floor_us

        def acceptable(packet: SignedPacket) -> bool:
            if cached is not None and cached.packet.more_recent_than(packet):
                return False
            return packet.timestamp_us >= floor_us

        # One below ours, so that nodes holding just our packet still send it and renew it.
        known_us = cached.packet.timestamp_us if cached is not None else 0
        try:
            found = await self._dht.resolve(
                key, newer_than_us=known_us - 1 if known_us > 0 else None, accept=acceptable
            )
        except LookupFailedError:
            if cached is None or not self._may_serve_stale(cached):
                raise
            self.counters["served_stale"] += 1
            return Resolved(cached, stale=True, cached=True)
        except InvalidItemError as error:
            if cached is not None and cached.packet.timestamp_us >= error.seq:
                return None
            raise
        if found is None and is_new:
            self._note_absent(key)
        return None if found is None else Resolved(self._seen_now(found))

    def _is_absent(self, key: PublicKey) -> bool:
        since = self._absent.get(key)
        return since is not None and trio.current_time() - since < ABSENT_S

    def _note_absent(self, key: PublicKey) -> None:
        self._absent.pop(key, None)  # so that it goes to the end
        self._absent[key] = trio.current_time()
        if len(self._absent) > ABSENT_MAX:
            del self._absent[next(iter(self._absent))]

    def _remember(self, packet: SignedPacket) -> None:
        self._absent.pop(packet.public_key, None)
        floor_us = self._cache.floor_us(packet.public_key)
        if floor_us is None or packet.timestamp_us >= floor_us:
            self._cache.put_soon(self._seen_now(packet))

    def _seen_now(self, packet: SignedPacket) -> SeenPacket:
        return SeenPacket(packet, self._wall_clock_us())

    def _is_expired(self, seen: SeenPacket) -> bool:
        return seen.is_expired(self.ttl_min_s, self.ttl_max_s, self._wall_clock_us())

    def _may_serve_stale(self, seen: SeenPacket) -> bool:
        ttl_s = seen.packet.ttl(self.ttl_min_s, self.ttl_max_s)
        return seen.elapsed_s(self._wall_clock_us()) < ttl_s + self.serve_stale_s

    def _count_lookup(self, *, hit: bool) -> None:
        self.counters["hits" if hit else "misses"] += 1
