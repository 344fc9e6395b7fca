"""A relay's HTTP side served both ways at once: by the front lane, and by Hypercorn alone."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
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

_NEXT_ANSWER = re.compile(rb"(?=HTTP/1\.1 [1-5][0-9][0-9] \r\n)")


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


@dataclass(frozen=True)
class Answer:
    status: int
    fields: tuple[tuple[str, str], ...]
    """Sorted, names in lower case."""
    body: bytes

    @property
    def headers(self) -> dict[str, str]:
        return dict(self.fields)

    def without(self, *names: str) -> tuple[int, tuple[tuple[str, str], ...], bytes]:
        kept = tuple(field for field in self.fields if field[0] not in names)
        return self.status, kept, self.body


def answers(data: bytes) -> list[Answer]:
    """Take apart what a server has sent; no body of ours looks like an answer."""
    found = []
    if data and not data.startswith(b"HTTP/1"):
        return [Answer(0, (), data)]  # HTTP/2 frames
    for piece in _NEXT_ANSWER.split(data):
        if piece:
            head, end, body = piece.partition(b"\r\n\r\n")
            assert end, piece
            status_line, *lines = head.decode("latin-1").split("\r\n")
            pairs = (line.partition(": ") for line in lines)
            fields = sorted((name.lower(), value) for name, _, value in pairs)
            found.append(Answer(int(status_line.split()[1]), tuple(fields), body))
    return found


async def exchange(port: int, *pieces: bytes, silence_s: float = 10.0) -> list[Answer]:
    """Send pieces, and return all answers until the server ends or says nothing for a while."""
    received = b""
    with suppress(trio.BrokenResourceError):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            for piece in pieces:
                await stream.send_all(piece)
            while True:
                data = b""
                with trio.move_on_after(silence_s):
                    data = await stream.receive_some()
                if not data:
                    break
                received += data
    return answers(received)
