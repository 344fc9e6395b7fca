"""The library's face: sign, publish and resolve packets from a Trio program.

    import relay

    async with relay.Client(["https://relay.example"]) as client:
        keypair = relay.Keypair.generate()
        packet = client.sign(keypair, [relay.records.a("@", "192.0.2.1")])
        await client.publish(packet)
        found = await client.resolve(keypair.public_key)

A client asks relays over HTTP, the DHT through a node of its own, or both at the same time, and
keeps a small cache. The first acceptable answer of any of them is the answer.
"""

from __future__ import annotations

import ssl
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import trio

from relay.clock import wall_clock_us
from relay.errors import (
    InvalidItemError,
    LookupFailedError,
    NotMostRecentError,
    PublishFailedError,
    RelayError,
)
from relay.pkarr.keys import Keypair, PublicKey
from relay.pkarr.packet import SeenPacket, SignedPacket, merge
from relay.pkarr.policy import ResolvePolicy
from relay.remote import RemoteRelay

if TYPE_CHECKING:
    from relay.net.packets import PkarrDht
    from relay.pkarr.dns_build import NewRecord

TIMEOUT_S: Final = 5.0
"""For a relay's answer; a relay that has to ask the real DHT needs two seconds and more."""
CACHE_PACKETS: Final = 1000
TTL_MIN_S: Final = 300
TTL_MAX_S: Final = 86_400
"""The reference client's bounds of a cached packet's life."""

_Ask = Callable[[], Awaitable[SeenPacket | None]]


class Client:
    """Publishes and resolves packets; use it as an asynchronous context manager.

    Args:
        relays: their base URLs, ``http`` or ``https``.
        dht: whether to take part in the DHT, with a node of its own that serves nobody.
        bootstrap: (host, port) of the DHT nodes to begin with; None is the public routers.
        bind_address: an IPv4 address of this host for the DHT node; None is all.
        timeout_s: how long a relay may take to answer a resolve; three times that for a
            publish.
        request_timeout_s: how long a DHT node may take to answer one query.
        cache_packets: how many packets are remembered, in memory only.
        ttl_min_s: a packet seen less than this long ago counts as fresh.
        ttl_max_s: one seen longer ago than this never does.
        ssl_context: for ``https``; None is the system's trust.
        wall_clock_us: microseconds since 1970.

    Raises:
        ValueError: neither relays nor the DHT are to be used, or a URL is no relay's.

    Signing needs neither network nor context:

    >>> from relay import Client, Keypair, records
    >>> client = Client(["https://relay.example"], dht=False)
    >>> packet = client.sign(Keypair.from_seed(bytes(32)), [records.txt("_foo", "bar")])
    >>> [(record.name.partition(".")[0], record.value) for record in packet.records()]
    [('_foo', '"bar"')]

    Publish on a test network of this machine's own, and find it again:

    >>> import trio
    >>> from relay.net.testnet import open_testnet
    >>> async def main():
    ...     async with open_testnet(4) as testnet:
    ...         async with Client(bootstrap=testnet.bootstrap) as client:
    ...             stored_on = await client.publish(packet)
    ...             found = await client.resolve(packet.public_key)
    ...     return stored_on, found == packet
    >>> trio.run(main)
    (4, True)
    """

    def __init__(
        self,
        relays: Iterable[str] = (),
        *,
        dht: bool = True,
        bootstrap: Sequence[tuple[str, int]] | None = None,
        bind_address: str | None = None,
        timeout_s: float = TIMEOUT_S,
        request_timeout_s: float = 2.0,
        cache_packets: int = CACHE_PACKETS,
        ttl_min_s: int = TTL_MIN_S,
        ttl_max_s: int = TTL_MAX_S,
        ssl_context: ssl.SSLContext | None = None,
        wall_clock_us: Callable[[], int] = wall_clock_us,
    ) -> None:
        self._relays = [
            RemoteRelay(
                url, timeout_s=timeout_s, wall_clock_us=wall_clock_us, ssl_context=ssl_context
            )
            for url in relays
        ]
        if not self._relays and not dht:
            raise ValueError("a client needs relays, or the DHT, or both")
        self._use_dht = dht
        self._bootstrap = bootstrap
        self._bind_address = bind_address
        self._request_timeout_s = request_timeout_s
        self._cache: OrderedDict[PublicKey, SeenPacket] = OrderedDict()
        self._cache_packets = cache_packets
        self._ttl_bounds_s = (ttl_min_s, ttl_max_s)
        self._wall_clock_us = wall_clock_us
        self._dht: PkarrDht | None = None
        self._running: AbstractAsyncContextManager[None] | None = None

    async def __aenter__(self) -> Self:
        """Start the DHT node, if one is wanted. Raises StartupError without a free port."""
        if self._running is not None:
            raise RuntimeError("this client is already in use")
        self._running = self._run()
        try:
            await self._running.__aenter__()
        except BaseException:
            self._running = None
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Stop the DHT node; errors of the block come out as they are."""
        running, self._running = self._running, None
        if running is None:
            return None
        try:
            return await running.__aexit__(kind, error, traceback)
        except BaseExceptionGroup as group:
            if group.exceptions == (error,):  # wrapped by our nursery, which is not the caller's
                return None
            raise

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        if not self._use_dht:
            yield
            return
        from relay.net.packets import PkarrDht  # those who only use relays need none of it
        from relay.net.start import open_driver

        driver = open_driver(
            port=0,
            bind_address=self._bind_address,
            bootstrap=self._bootstrap,
            server_mode=False,
            request_timeout_s=self._request_timeout_s,
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(driver.run)
            self._dht = PkarrDht(driver, self._request_timeout_s)
            self._dht.on_packet = self._remember_now
            try:
                yield
            finally:
                self._dht = None
                nursery.cancel_scope.cancel()

    def sign(
        self,
        keypair: Keypair,
        records: Sequence[NewRecord],
        *,
        timestamp_us: int | None = None,
    ) -> SignedPacket:
        """Make a packet of `records`, made with the functions of `relay.records`.

        Args:
            keypair: whose packet.
            records: in this order.
            timestamp_us: None is now, or just after the newest packet that this client knows
                of the key, if that is later: what is signed last is the most recent.

        Raises:
            PacketError: the records make more than 1000 bytes.
        """
        if timestamp_us is None:
            timestamp_us = self._wall_clock_us()
            known = self._cache.get(keypair.public_key)
            if known is not None:
                timestamp_us = max(timestamp_us, known.packet.timestamp_us + 1)
        return SignedPacket.build(keypair, records, timestamp_us)

    async def publish(self, packet: SignedPacket) -> int:
        """Publish a packet everywhere this client knows.

        Returns:
            The largest number of DHT nodes that one of the ways stored it on.

        Raises:
            NotMostRecentError: a more recent packet of this key is known somewhere.
            PublishFailedError: nobody stored it.
        """
        known = self._cache.get(packet.public_key)
        if known is not None and known.packet.more_recent_than(packet):
            raise NotMostRecentError
        ways = [relay.publish for relay in self._relays]
        if self._use_dht:
            ways.append(self._joined_dht().publish)
        stored: list[int] = []
        failures: list[RelayError] = []

        async def store(publish: Callable[[SignedPacket], Awaitable[int]]) -> None:
            try:
                stored.append(await publish(packet))
            except RelayError as error:
                failures.append(error)

        async with trio.open_nursery() as nursery:
            for way in ways:
                nursery.start_soon(store, way)
        for failure in failures:
            if isinstance(failure, NotMostRecentError):
                raise failure
        if not stored:
            raise _only_or_joined(failures, PublishFailedError)
        self._remember_now(packet)
        return max(stored)

    async def resolve(
        self, key: PublicKey | str, policy: ResolvePolicy = ResolvePolicy.CACHE_FIRST
    ) -> SignedPacket | None:
        """Find the packet of a key.

        Args:
            key: a key or any spelling of one.
            policy: CACHE_FIRST answers with what is known while it is fresh, else with the
                first acceptable answer; CACHE_ONLY answers with what is known, fresh or not,
                else with the most recent packet in the relays' caches, and never asks the
                DHT; NETWORK_ONLY waits for all answers and returns the most recent, whatever
                is known.

        Returns:
            The packet; None if nobody has one, or none that is fresh and as recent as the
            known one.

        Raises:
            PublicKeyError: `key` is a text that names none.
            InvalidItemError: the newest DHT item of this key is no packet.
            LookupFailedError: nobody could tell.
        """
        if isinstance(key, str):
            key = PublicKey.parse(key)
        known = self._recall(key)
        if policy is ResolvePolicy.CACHE_ONLY:
            if known is not None:
                return known.packet
            if not self._relays:
                return None
        if policy is not ResolvePolicy.CACHE_FIRST:
            return _most_recent(
                await self._ask_everybody(self._ways(key, policy, None), lambda seen: False)
            )
        if known is not None and self._is_fresh(known):
            return known.packet

        def acceptable(seen: SeenPacket) -> bool:
            outdated = known is not None and known.packet.more_recent_than(seen.packet)
            return not outdated and self._is_fresh(seen)

        packet = None if known is None else known.packet
        try:
            found = await self._ask_everybody(self._ways(key, policy, packet), acceptable)
        except InvalidItemError as error:
            if packet is not None and packet.timestamp_us >= error.seq:
                return None  # what is invalid was replaced long ago
            raise
        return _most_recent(filter(acceptable, found))

    def known(self, key: PublicKey) -> SeenPacket | None:
        """Return the most recent packet of a key that this client has come across, if any.

        Also one that came too late for the `resolve` that asked for it.
        """
        return self._recall(key)

    def _ways(
        self, key: PublicKey, policy: ResolvePolicy, known: SignedPacket | None
    ) -> list[_Ask]:
        """Return what can be asked for a key."""
        ways: list[_Ask] = [partial(relay.resolve, key, policy, known) for relay in self._relays]
        if self._use_dht and policy is not ResolvePolicy.CACHE_ONLY:
            first = policy is ResolvePolicy.CACHE_FIRST
            ways.append(partial(self._ask_dht, self._joined_dht(), key, known, first=first))
        return ways

    async def _ask_dht(
        self, dht: PkarrDht, key: PublicKey, known: SignedPacket | None, *, first: bool
    ) -> SeenPacket | None:
        def as_recent(packet: SignedPacket) -> bool:
            return known is None or not known.more_recent_than(packet)

        newer_than_us = known.timestamp_us - 1 if known is not None and known.timestamp_us else None
        found = await dht.resolve(
            key, newer_than_us=newer_than_us, accept=as_recent if first else None
        )
        return None if found is None else SeenPacket(found, self._wall_clock_us())

    async def _ask_everybody(
        self, ways: list[_Ask], enough: Callable[[SeenPacket], bool]
    ) -> list[SeenPacket]:
        """Ask all at once, until one answer is enough; return the packets that came.

        Raises:
            InvalidItemError, LookupFailedError: as `resolve`, if no packet came.
        """
        found: list[SeenPacket] = []
        failures: list[RelayError] = []
        misses = 0

        async def ask(way: _Ask) -> None:
            nonlocal misses
            try:
                seen = await way()
            except RelayError as error:
                failures.append(error)
                return
            if seen is None:
                misses += 1
                return
            found.append(seen)
            self._remember(seen)
            if enough(seen):
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for way in ways:
                nursery.start_soon(ask, way)
        for failure in failures:
            if isinstance(failure, InvalidItemError) and not found:
                raise failure
        if not found and not misses:
            raise _only_or_joined(failures, LookupFailedError)
        return found

    def _joined_dht(self) -> PkarrDht:
        if self._dht is None:
            raise RuntimeError("the client is not running: use it in `async with`")
        return self._dht

    def _is_fresh(self, seen: SeenPacket) -> bool:
        return not seen.is_expired(*self._ttl_bounds_s, self._wall_clock_us())

    def _recall(self, key: PublicKey) -> SeenPacket | None:
        seen = self._cache.get(key)
        if seen is not None:
            self._cache.move_to_end(key)
        return seen

    def _remember_now(self, packet: SignedPacket) -> None:
        self._remember(SeenPacket(packet, self._wall_clock_us()))

    def _remember(self, seen: SeenPacket) -> None:
        key = seen.packet.public_key
        self._cache[key] = merge(self._cache.get(key), seen)
        self._cache.move_to_end(key)
        if len(self._cache) > self._cache_packets:
            self._cache.popitem(last=False)


def _most_recent(found: Iterable[SeenPacket]) -> SignedPacket | None:
    best: SeenPacket | None = None
    for seen in found:
        best = merge(best, seen)
    return None if best is None else best.packet


def _only_or_joined(failures: list[RelayError], kind: type[RelayError]) -> RelayError:
    """Return the one failure as it is, or one error that tells of all."""
    if len(failures) == 1:
        return failures[0]
    return kind("; ".join(map(str, failures)))
