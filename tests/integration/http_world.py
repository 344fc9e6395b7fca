"""A relay's HTTP side over a cache and a DHT of plain Python, in process or on a socket."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from relay.config import HttpConfig
from relay.errors import NotMostRecentError
from relay.http.app import App, create_app
from relay.http.clients import ClientRules
from relay.http.counters import Counters
from relay.http.deadlines import Deadlines
from relay.http.limits import HttpLimits
from relay.http.serve import serve_http
from relay.pkarr.keys import PublicKey
from relay.pkarr.packet import SeenPacket, SignedPacket
from relay.service import RelayService
from tests.support.memory_cache import MemoryCache
from tests.support.packets import Author

LOOPBACK = HttpConfig(bind=("127.0.0.1",), port=0)
STORED = 11
STATS: dict[str, object] = {
    "version": "1.2.3",
    "uptime_s": 93_784.5,
    "cache": {"packets": 250, "capacity": 1000, "hits": 3, "misses": 1, "evictions": 0},
    "dht": {
        "node_id": "3f" * 20,
        "local_address": "0.0.0.0:6881",
        "public_address": "203.0.113.77:7001",
        "firewalled": False,
        "server_mode": True,
        "table_size": 214,
        "size_estimate": 10_234_567.8,
        "size_deviation": 0.0412,
        "queries_in": 88_123,
        "queries_out": 1_200_456,
        "timeouts": 31_234,
        "dropped_budget": 5,
    },
}
"""What a relay that has run for a day could say."""


@dataclass
class MemoryDht:
    """Stores what it is given; `error` is raised, `gate` awaited, before any answer."""

    items: dict[PublicKey, SignedPacket] = field(default_factory=dict)
    error: Exception | None = None
    gate: trio.Event | None = None
    waiting: int = 0
    cancelled: int = 0
    on_packet: Callable[[SignedPacket], None] | None = None

    async def _answer(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.gate is not None:
            self.waiting += 1
            try:
                await self.gate.wait()
            except trio.Cancelled:
                self.cancelled += 1
                raise
            finally:
                self.waiting -= 1
        if self.error is not None:
            raise self.error

    async def resolve(
        self,
        key: PublicKey,
        *,
        newer_than_us: int | None = None,
        accept: Callable[[SignedPacket], bool] | None = None,
    ) -> SignedPacket | None:
        await self._answer()
        found = self.items.get(key)
        if found is None or (accept is not None and not accept(found)):
            return None
        return found

    async def publish(
        self, packet: SignedPacket, *, on_assured: Callable[[], None] | None = None
    ) -> int:
        await self._answer()
        known = self.items.get(packet.public_key)
        if known is not None and known.timestamp_us > packet.timestamp_us:
            raise NotMostRecentError
        self.items[packet.public_key] = packet
        return STORED


@dataclass(frozen=True)
class Reply:
    status: int
    fields: Sequence[tuple[str, str]]
    body: bytes

    @property
    def headers(self) -> dict[str, str]:
        return dict(self.fields)

    def json(self) -> Any:
        return json.loads(self.body)


class World:
    """The relay under test; `now_us` is its wall clock, standing still until moved."""

    def __init__(
        self,
        *,
        limits: HttpLimits | None = None,
        serve_stale_s: int = 0,
        stats: Callable[[], dict[str, object]] = dict,
        troubles: Callable[[], dict[str, str | None]] = dict,
    ) -> None:
        self.now_us = time.time_ns() // 1000
        self.cache, self.dht = MemoryCache(), MemoryDht()
        self.counters = Counters()
        self.service = RelayService(
            self.cache,
            self.dht,
            ttl_min_s=300,
            ttl_max_s=86_400,
            serve_stale_s=serve_stale_s,
            wall_clock_us=lambda: self.now_us,
            facts=lambda: {"http": self.counters.snapshot(), **stats()},
            troubles=troubles,
        )
        self.app: App = create_app(
            self.service,
            wall_clock_us=lambda: self.now_us,
            limits=limits,
            counters=self.counters,
        )

    def keep(self, payload: bytes, key: str, *, age_s: int = 0) -> SeenPacket:
        """Put a packet into the cache as if seen `age_s` seconds ago."""
        packet = SignedPacket.from_relay_payload(PublicKey.parse(key), payload)
        seen = SeenPacket(packet, self.now_us - age_s * 1_000_000)
        self.cache.put_soon(seen)
        return seen

    async def request(
        self,
        method: str,
        target: str | bytes,
        fields: Sequence[tuple[str, str]] = (),
        body: bytes | Sequence[bytes] = b"",
        *,
        peer: tuple[str, int] | None = ("127.0.0.1", 50_000),
        http_version: str = "1.1",
    ) -> Reply:
        """Run one request through the application, without a socket."""
        raw = target.encode() if isinstance(target, str) else target
        path, _, query = raw.partition(b"?")
        pieces = [body] if isinstance(body, bytes) else list(body)
        messages = [
            {"type": "http.request", "body": piece, "more_body": number < len(pieces)}
            for number, piece in enumerate(pieces, 1)
        ]
        sent: list[Any] = []

        async def receive() -> Any:
            await trio.lowlevel.checkpoint()
            return messages.pop(0) if messages else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            await trio.lowlevel.checkpoint()
            sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "raw_path": path,
            "path": "/not-used",
            "query_string": query,
            "http_version": http_version,
            "headers": [(name.lower().encode(), value.encode()) for name, value in fields],
            "client": peer,
        }
        await self.app(scope, receive, send)
        start, end = sent
        names = [(name.decode(), value.decode("latin-1")) for name, value in start["headers"]]
        return Reply(start["status"], names, end["body"])

    @asynccontextmanager
    async def serving(
        self,
        config: HttpConfig = LOOPBACK,
        *,
        rules: ClientRules | None = None,
        deadlines: Deadlines | None = None,
        shutdown: trio.Event | None = None,
    ) -> AsyncIterator[int]:
        """Serve on a loopback socket meanwhile; yields its port."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        async with trio.open_nursery() as nursery:

            async def serve(task_status: trio.TaskStatus[None]) -> None:
                await serve_http(
                    self.app,
                    [listener],
                    config,
                    rules=rules,
                    counters=self.counters,
                    shutdown=shutdown,
                    deadlines=deadlines,
                    task_status=task_status,
                )

            port: int = listener.getsockname()[1]
            await nursery.start(serve)
            yield port
            nursery.cancel_scope.cancel()


def author(number: int = 1) -> Author:
    """Return a key that signs; the same one for the same number."""
    return Author.numbered(number)
