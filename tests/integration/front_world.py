"""A relay's HTTP side served both ways at once: by the front lane, and by Hypercorn alone."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

from relay._speedups.table import PacketTable
from relay.config import HttpConfig
from relay.http.clients import ClientRules
from relay.http.deadlines import Deadlines
from relay.http.front import FrontLane
from relay.http.limits import HttpLimits
from relay.http.serve import serve_http
from relay.pkarr.keys import PublicKey
from relay.pkarr.packet import SeenPacket, merge
from relay.store import records
from tests.integration.http_world import LOOPBACK, World


class TableCache:
    """A cache whose packets are in the C table and nowhere else."""

    def __init__(self) -> None:
        self.table: Any = PacketTable(1000)

    def peek(self, key: PublicKey) -> SeenPacket | None:
        record = self.table.get(key.octets)
        return None if record is None else records.decode(key, record)

    async def get(self, key: PublicKey) -> SeenPacket | None:
        return self.peek(key)

    async def put_if_newer(self, seen: SeenPacket) -> SeenPacket:
        self.put_soon(seen)
        return seen

    def put_soon(self, seen: SeenPacket) -> None:
        key = seen.packet.public_key
        self.table.put(key.octets, records.encode(merge(self.peek(key), seen)))

    def floor_us(self, key: PublicKey) -> int | None:
        return None


class FrontWorld(World):
    """The relay under test; its clock is the machine's, as the lane's is."""

    threads = 0
    """How many of the lane's own; 0: it is a task."""

    def __init__(self, *, limits: HttpLimits | None = None) -> None:
        super().__init__(limits=limits)
        self.cache: Any = TableCache()
        self.service._cache = self.cache

    @property
    def now_us(self) -> int:
        return time.time_ns() // 1000

    @now_us.setter
    def now_us(self, _: int) -> None:
        """What `World` sets at first does not matter."""

    @asynccontextmanager
    async def serving(
        self,
        config: HttpConfig = LOOPBACK,
        *,
        rules: ClientRules | None = None,
        deadlines: Deadlines | None = None,
        shutdown: trio.Event | None = None,
        lane: bool = True,
    ) -> AsyncIterator[int]:
        """Serve on a loopback socket meanwhile; yields its port."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        port: int = listener.getsockname()[1]
        serve = partial(
            serve_http,
            self.app,
            [listener],
            config,
            rules=rules or self.app.limits.rules,
            counters=self.counters,
            shutdown=shutdown,
            deadlines=deadlines,
            front=FrontLane(self.app, self.cache.table.capsule, self.threads) if lane else None,
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(serve)
            yield port
            nursery.cancel_scope.cancel()
