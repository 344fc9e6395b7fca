"""Requests over HTTP: the lane, and what it hands over, answer as Hypercorn does alone.

The first request of an input is read by the lane's parser and by ours on h11, which must
understand the same. If an answer is due, it is asked of a server with a lane and of one without:
same status, same fields, same body.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import h11
import trio

from relay.errors import PublicKeyError
from relay.http.http1 import RequestParser
from relay.http.messages import Answer
from relay.http.native import Lane
from relay.pkarr.keys import PublicKey
from tests.integration import test_front_lane as requests
from tests.integration.http_world import World

DICTIONARY = (
    *(b"GET /", b"HEAD /", b"PUT /", b"OPTIONS ", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b"\r\n\r\n"),
    *(b"\r\n", b"\n", b"\r\n ", b": ", b" :", b"Host: a\r\n", b"Content-Length: ", b"0\r\n\r\n"),
    *(b"Content-Length: 72", b"Transfer-Encoding: chunked\r\n", b"1\r\na\r\n", b"/pkarr/"),
    *(b"Connection: close\r\n", b"Expect: 100-continue\r\n", b"Origin: ", b"If-None-Match: *"),
    *(b"If-Modified-Since: ", b"X-Forwarded-For: 192.0.2.1", b"?policy=CacheOnly", b"/health"),
    *(b"?policy=NetworkOnly", b"/healthz", b"/stats", b"/openapi.json", b"Upgrade: h2c\r\n"),
    *(b"http://a", requests.ALICE.key.encode(), requests.BOB.key.encode()),
)
ANSWER_S = 20.0
MOVING = {b"age", b"date", b"memento-datetime", b"connection"}
"""Told of when the answer was made, and by whom; the rest is the same."""


def seeds() -> Iterable[bytes]:
    """Requests of all the kinds that the lane tells apart."""
    yield from requests.seeds()


def target(data: bytes) -> None:
    """Read a request twice, and have it answered twice."""
    read = _read(data)
    _compare_parsers(data, read)
    if read.answer_due and not data.lstrip(b"\r\n").startswith(b"PRI "):
        _compare_answers(data[: read.size], read.method)


@dataclass(frozen=True)
class _Read:
    """What h11 makes of the beginning of a connection."""

    request: h11.Request | None = None
    body: bytes = b""
    is_whole: bool = False
    is_wrong: bool = False
    is_last: bool = False
    size: int = 0
    """Bytes of the request, or all where it is wrong."""

    @property
    def answer_due(self) -> bool:
        return self.is_whole or self.is_wrong

    @property
    def method(self) -> bytes:
        return b"GET" if self.request is None else self.request.method


def _read(data: bytes) -> _Read:
    parser = RequestParser()
    request, body = None, b""
    try:
        parser.receive_data(data)
        while True:
            event = parser.next_event()
            match event:
                case h11.Request():
                    request = event
                case h11.Data():
                    body += event.data
                case h11.EndOfMessage():
                    size = len(data) - len(parser.trailing_data[0])
                    parser.send(h11.Response(status_code=404, headers=[]))  # upgrades nothing
                    is_last = parser.their_state is h11.MUST_CLOSE
                    return _Read(request, body, is_whole=True, is_last=is_last, size=size)
                case _:
                    return _Read(request, body)
    except h11.RemoteProtocolError:
        return _Read(request, body, is_wrong=True, size=len(data))


def _compare_parsers(data: bytes, read: _Read) -> None:
    """What the lane understands, h11 does, and alike."""
    if Lane is None or not data:
        return
    from relay._speedups.front import read_request

    seen = read_request(data)
    if not isinstance(seen, tuple):
        return
    method, key, policy, _, _, closes, origin, _, _, head_bytes, body_bytes = seen
    request = read.request
    assert request is not None
    assert request.method == method.encode()
    assert read.is_whole == (len(data) >= head_bytes + body_bytes)
    if read.is_whole:
        assert read.size == head_bytes + body_bytes
        assert read.body == data[head_bytes : head_bytes + body_bytes]
        assert read.is_last == closes
    path, _, query = request.target.partition(b"?")
    if key is not None:
        with suppress(PublicKeyError):  # it is no point; that is for others to say
            assert PublicKey.parse(path.rpartition(b"/")[2].decode()).octets == key
        assert query in (b"", b"policy=" + policy.encode())
    fields = dict(reversed(list(request.headers)))
    assert fields.get(b"origin") == origin


def _compare_answers(data: bytes, method: bytes) -> None:
    ports = _ports()
    alone = _ask(ports[0], data, method)
    if len(ports) == 1:
        return
    lane = _ask(ports[1], data, method)
    assert alone == lane, (data, alone, lane)


def _ask(port: int, data: bytes, method: bytes) -> tuple[bytes, set[bytes], bytes]:
    """Return status line, fields and body of the first answer that is one."""
    with socket.create_connection(("127.0.0.1", port), ANSWER_S) as sock:
        sock.sendall(data)
        received = b""
        while b"\r\n\r\n" not in received or received.startswith(b"HTTP/1.1 1"):
            if received.startswith(b"HTTP/1.1 1") and b"\r\n\r\n" in received:
                received = received.partition(b"\r\n\r\n")[2]
                continue
            piece = sock.recv(65536)
            assert piece, (data, received)
            received += piece
        head, _, body = received.partition(b"\r\n\r\n")
        status, *lines = head.split(b"\r\n")
        fields = {
            name.lower(): value for name, _, value in (line.partition(b": ") for line in lines)
        }
        assert len(fields) == len(lines)
        length = 0 if method == b"HEAD" else int(fields.get(b"content-length", b"0"))
        while len(body) < length:
            piece = sock.recv(65536)
            assert piece, (data, received)
            body += piece
        assert len(body) == length
    kept = {name + b": " + value for name, value in fields.items() if name not in MOVING}
    return status, kept, body


@cache
def _ports() -> list[int]:
    """Start servers for the rest of this process: Hypercorn alone, and behind a lane."""
    ports: list[int] = []
    started = threading.Event()

    async def serve() -> None:
        world: Any = World()
        ways: list[dict[str, bool]] = [{}]
        if Lane is not None:
            from tests.integration.front_world import FrontWorld

            world, ways = FrontWorld(), [{"lane": False}, {"lane": True}]
        for packet, owner in ((requests.PACKET, requests.ALICE), (requests.FAR, requests.BOB)):
            seen = world.keep(packet.payload, owner.key)
            world.dht.items[seen.packet.public_key] = seen.packet
        world.service.stats = lambda: {"figures": "the same"}
        pages = await world.app.warm_up()
        pages.index = _page
        async with trio.open_nursery() as nursery:
            ports.extend([await nursery.start(_serving, world, way) for way in ways])
            started.set()

    threading.Thread(target=trio.run, args=(serve,), daemon=True).start()
    assert started.wait(ANSWER_S)
    return ports


async def _serving(
    world: Any,
    way: dict[str, bool],
    *,
    task_status: trio.TaskStatus[int],
) -> None:
    async with world.serving(**way) as port:
        task_status.started(port)
        await trio.sleep_forever()


async def _page(query: bytes, spend: object) -> Any:
    """The same at any time; what is on it is not what is looked for here."""
    await trio.lowlevel.checkpoint()
    return Answer.text(200, f"the page, {query!r}")
