"""The HTTP/1 server on real sockets: framing, deadlines, caps, and ending in good order."""

from __future__ import annotations

import errno
import logging
from typing import Any

import pytest
import trio

from relay.http.deadlines import Deadlines
from relay.http.http1 import HEAD_BYTES_MAX
from tests.integration.http_client import connected
from tests.integration.http_world import World, author

ALICE = author()
PACKET = ALICE.packet(timestamp_us=1_755_302_400_000_000)
GET = f"GET /{ALICE.key}?policy=CacheOnly HTTP/1.1\r\nHost: relay.test\r\n\r\n".encode()


@pytest.fixture
def world() -> World:
    world = World()
    world.keep(PACKET.payload, ALICE.key)
    return world


async def test_keep_alive_and_headers(world: World) -> None:
    async with world.serving() as port, connected(port) as client:
        for _ in range(3):
            await client.send(GET)
            answer = await client.answer()
            assert (answer.status, answer.body) == (200, PACKET.payload)
            assert "date" in answer.headers
            assert "server" not in answer.headers
            assert "connection" not in answer.headers


async def test_pipelined_requests_are_answered_in_order(world: World) -> None:
    head = f"PUT /{ALICE.key} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(PACKET.payload)}\r\n\r\n"
    no_host = b"GET /a/b HTTP/1.1\r\n\r\n"
    async with world.serving() as port, connected(port) as client:
        await client.send(GET + head.encode() + PACKET.payload + no_host + GET + no_host[:7])
        assert [await client.status() for _ in range(4)] == [200, 204, 404, 200]
        await client.send(no_host[7:])
        assert await client.status() == 404


async def test_a_request_may_come_byte_by_byte(world: World) -> None:
    async with world.serving() as port, connected(port) as client:
        for byte in b"\r\n" + GET:
            await client.send(bytes([byte]))
        assert await client.status() == 200


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        ("GET {path} HTTP/1.1\r\n\r\n", 200),
        ("GET {path} HTTP/1.1\r\nX: Host: no\r\n\r\n", 200),
        ("GET {path} HTTP/1.1\nhost: bare-line-feeds\n\n", 200),
        ("GET http://relay.test{path} HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        ("get {path} HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ("HEaD {path} HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ("HEaD / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ("options / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ("CONNECT relay.test:80 HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        ("GET {path} HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET {path}\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        ("GET {path} HTTP/1.1\r\nHost: a\r\nbad name: x\r\n\r\n", 400),
        ("hello world\r\n\r\n", 400),
        ("\x16\x03\x01\x02\x00\x01\x00", 400),  # TLS
    ],
)
async def test_forms_of_requests(world: World, request_text: str, status: int) -> None:
    raw = request_text.format(path=f"/{ALICE.key}").encode("latin-1")
    async with world.serving() as port, connected(port) as client:
        await client.send(raw)
        assert await client.status() == status


async def test_http_1_0_ends_with_its_answer(world: World) -> None:
    async with world.serving() as port, connected(port) as client:
        await client.send(GET.replace(b"HTTP/1.1", b"HTTP/1.0"))
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await client.ended()


@pytest.mark.parametrize(
    "upgrade",
    [
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    ],
)
async def test_upgrades_are_ignored(world: World, upgrade: bytes) -> None:
    async with world.serving() as port, connected(port) as client:
        for _ in range(2):
            await client.send(GET.replace(b"\r\n\r\n", b"\r\n" + upgrade + b"\r\n"))
            assert await client.status() == 200


async def test_expect_continue(world: World) -> None:
    size = len(PACKET.payload)
    head = f"PUT /{ALICE.key} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {size}"
    async with world.serving() as port, connected(port) as client:
        await client.send(head.encode() + b"\r\n\r\n")
        assert (await client.head()).status == 100
        await client.send(PACKET.payload)
        assert await client.status() == 204


async def test_a_large_body_is_refused_before_it_has_come(world: World) -> None:
    head = f"PUT /{ALICE.key} HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n"
    async with world.serving() as port, connected(port) as client:
        await client.send(head.encode() + bytes(50_000))
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        assert await client.ended()


async def test_an_answer_before_the_body_has_come_says_that_the_connection_ends(
    world: World,
) -> None:
    """Or the client's next request on it would be lost."""
    head = b"PUT /no-key HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n"
    async with world.serving() as port, connected(port) as client:
        await client.send(head + bytes(100) + head)
        in_time, early = await client.answers(2)
        assert (in_time.status, "connection" in in_time.headers) == (400, False)
        assert (early.status, early.headers["connection"]) == (400, "close")
        assert await client.ended()


async def test_a_body_nobody_reads_stops_nothing(world: World) -> None:
    """Many small chunks to a handler that never reads them: Hypercorn's channel would fill."""
    chunks = b"1\r\nx\r\n" * 2000
    head = f"GET /{ALICE.key} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    async with world.serving() as port, connected(port) as client:
        await client.send(head + chunks)
        assert await client.status() == 200
        assert await client.ended()


@pytest.mark.parametrize(("excess", "status"), [(0, 200), (1, 431)])
async def test_the_limit_of_a_head_is_exact(world: World, excess: int, status: int) -> None:
    start = GET[: -len(b"\r\n")] + b"X: "
    end = b"\r\n\r\n"
    filler = b"x" * (HEAD_BYTES_MAX - len(start) - len(end) + excess)
    async with world.serving() as port, connected(port) as client:
        await client.send(start + filler + end)
        assert await client.status() == status


async def test_an_endless_head_is_refused(world: World) -> None:
    async with world.serving() as port, connected(port) as client:
        await client.send(b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 10_000)
        assert await client.status() == 431
        assert await client.ended()


QUICK = Deadlines(head_s=0.2, idle_s=0.4, write_s=0.3, age_s=60.0, drain_s=0.2, linger_s=0.2)


async def test_a_request_without_end_outlives_the_drain_by_nothing(world: World) -> None:
    aged = Deadlines(age_s=0.2, drain_s=0.2)
    world.dht.gate = trio.Event()
    async with world.serving(deadlines=aged) as port, connected(port) as client:
        await client.send(f"GET /{author(2).key} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert await client.ended()
    assert world.dht.cancelled == 1


async def test_accepting_survives_a_lack_of_descriptors(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = [OSError(errno.EMFILE, "Too many open files"), OSError(errno.ECONNABORTED, "x")]
    accept = trio.socket.SocketType.accept

    async def failing(listener: Any) -> Any:
        if failures:
            raise failures.pop(0)
        return await accept(listener)

    # The concrete class is not public; every socket is an instance of it.
    with trio.socket.socket() as example:
        accept = type(example).accept
        monkeypatch.setattr(type(example), "accept", failing)
    with caplog.at_level(logging.WARNING):
        async with world.serving() as port, connected(port) as client:
            await client.send(GET)
            assert await client.status() == 200
    assert "Too many open files" in caplog.text
    assert not failures


async def test_errors_of_the_application_end_one_request_only(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.service.stats = None  # type: ignore[method-assign, assignment]
    with caplog.at_level(logging.CRITICAL, logger="pkarr_relay.http"):
        async with world.serving() as port, connected(port) as client:
            await client.send(b"GET /stats HTTP/1.1\r\nHost: a\r\n\r\n" + GET)
            assert [await client.status() for _ in range(2)] == [500, 200]


@pytest.mark.parametrize("pause_s", [0.0, 0.02])
@pytest.mark.parametrize("body", [b"5\r\nhello\r\nnonsense\r\n", b"5\r\nhello-and-more", b"zz\r\n"])
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", f"/{ALICE.key}", 400),
        ("GET", f"/{ALICE.key}", 200),
        ("OPTIONS", f"/{ALICE.key}", 200),
        ("PUT", "/", 405),
        ("GET", "/nobody/there", 404),
    ],
)
async def test_a_body_that_breaks_off_its_framing(
    world: World, method: str, path: str, status: int, body: bytes, pause_s: float
) -> None:
    """It is answered as far as the answer does not depend on it, once, as the reference does."""
    head = f"{method} {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    async with world.serving() as port, connected(port) as client:
        await client.send(head)
        await trio.sleep(pause_s)
        await client.send(body)
        answer = await client.answer()
        assert answer.status == status
        if status == 400:
            assert answer.body.startswith(b"Failed to buffer the request body")
            assert answer.headers["connection"] == "close"
        assert await client.ended()
