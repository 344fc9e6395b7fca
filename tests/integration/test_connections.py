"""What holds for any connection, whoever serves it: caps, deadlines, ageing, and ending well."""

from __future__ import annotations

import socket
from contextlib import suppress
from ipaddress import ip_network

import pytest
import trio

from relay.config import HttpConfig
from relay.http import front, messages, serve
from relay.http.clients import ClientRules
from relay.http.deadlines import Deadlines
from tests.integration.http_client import ENDED_S, connected, exchange, until
from tests.integration.http_clock import AGE_S, AGED, LeapingClock
from tests.integration.http_requests import ALICE, CLOSE, GET, MISS, PACKET, PUT, QUICK
from tests.integration.http_world import World

WAYS = [
    "hypercorn",
    pytest.param("task", marks=pytest.mark.compiled),
    pytest.param("threads", marks=pytest.mark.compiled),
]


@pytest.fixture(params=WAYS)
def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> World:
    if request.param == "hypercorn":
        world = World()
    else:
        from tests.integration.front_world import FrontWorld  # needs the extension

        monkeypatch.setattr(FrontWorld, "threads", 2 if request.param == "threads" else 0)
        world = FrontWorld()
    world.keep(PACKET.payload, ALICE.key)
    return world


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> LeapingClock:
    return LeapingClock(monkeypatch)


async def test_connections_beyond_the_total_are_closed(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    config = HttpConfig(max_connections=2, max_connections_per_address=0)
    async with world.serving(config) as port, connected(port) as one, connected(port) as two:
        for client, request in ((one, GET), (two, MISS)):
            await client.send(request)
            await client.answers(1)
        async with connected(port) as three:
            assert await three.ended()
        await one.stream.aclose()
        await until(lambda: world.counters.connections_open == 1)
        async with connected(port) as again:
            await again.send(GET)
            assert await again.status() == 200
    assert world.counters.connections == {"accepted": 3, "refused_total": 1}
    assert "closing new connections: 2 are open" in caplog.text


@pytest.mark.parametrize(
    ("rules", "spared"),
    [
        (ClientRules(), False),
        (ClientRules(behind_proxy=True), True),
        (ClientRules(trusted_proxies=(ip_network("127.0.0.0/8"),)), True),
        (ClientRules(exempt=(ip_network("127.0.0.1/32"),)), True),
        (ClientRules(exempt=(ip_network("127.0.0.0/31"), ip_network("::1/128"))), True),
        (ClientRules(exempt=(ip_network("126.0.0.0/8"), ip_network("7f00::/8"))), False),
    ],
)
async def test_connections_per_address(world: World, rules: ClientRules, spared: bool) -> None:
    """A connection that was handed on counts, too."""
    config = HttpConfig(max_connections_per_address=1)
    async with (
        world.serving(config, rules=rules) as port,
        connected(port) as one,
        connected(port) as two,
    ):
        await one.send(b"POST")
        await until(lambda: world.counters.connections_open)
        if spared:
            await two.send(GET)
            assert await two.status() == 200
        else:
            assert await two.ended()
            await one.stream.aclose()
            await until(lambda: not world.counters.connections_open)
            assert [a.status for a in await exchange(port, CLOSE)] == [200]


@pytest.mark.parametrize("start", [b"", b"G", GET[:-2], b"POST", PUT[:20]])
async def test_slow_heads_are_cut_off(world: World, start: bytes) -> None:
    async with world.serving(deadlines=QUICK) as port, connected(port) as client:
        if start:
            await client.send(start)
        assert await client.ended()
        await until(lambda: world.counters.connections_open == 0)


@pytest.mark.parametrize("start", [b"", b"GET /", b"POST /", PUT[:20]])
async def test_a_kept_connection_ends_when_idle_or_slow(world: World, start: bytes) -> None:
    async with world.serving(deadlines=QUICK) as port, connected(port) as client:
        await client.send(GET)
        assert await client.status() == 200
        if start:
            await client.send(start)
        assert await client.ended()


async def test_a_client_that_does_not_read_is_cut_off(world: World) -> None:
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        async with world.serving(deadlines=QUICK) as port:
            raw.connect(("127.0.0.1", port))
            raw.setblocking(False)
            sock = trio.socket.from_stdlib_socket(raw)
            with trio.fail_after(ENDED_S), suppress(ConnectionError):
                while True:
                    await sock.send(GET * 500)


BODY_HEADS = {
    "a length": b"Content-Length: 1000",
    "chunks": b"Transfer-Encoding: chunked",  # which the lane hands on
}


@pytest.mark.parametrize("begun", [b"", b"100\r\n" + bytes(128)], ids=["none", "half of it"])
@pytest.mark.parametrize("framing", BODY_HEADS)
async def test_a_body_that_does_not_come(
    world: World, monkeypatch: pytest.MonkeyPatch, framing: str, begun: bytes
) -> None:
    """Whoever serves: its own deadline ends it, not that of a head."""
    monkeypatch.setattr(messages, "BODY_TIMEOUT_S", 0.3)
    monkeypatch.setattr(front, "BODY_TIMEOUT_S", 0.3)
    quick = Deadlines(head_s=0.1, idle_s=0.1, drain_s=5.0, linger_s=0.2)
    head = PUT.partition(b"\r\n")[0] + b"\r\nHost: a\r\n" + BODY_HEADS[framing] + b"\r\n\r\n"
    async with world.serving(deadlines=quick) as port, connected(port) as client:
        await client.send(head + begun)
        (answer,) = await client.answers(1)
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        assert await client.ended()
        await until(lambda: world.counters.connections_open == 0)
    assert world.counters.requests == {"put": {408: 1}}


async def test_old_connections_end_after_the_answer(world: World, clock: LeapingClock) -> None:
    world.dht.gate = trio.Event()
    async with world.serving(deadlines=AGED) as port, connected(port) as client:
        await client.send(MISS)
        await until(lambda: world.dht.waiting == 1)
        await clock.leap(2 * AGE_S)
        world.dht.gate.set()
        (answer,) = await client.answers(1)
        assert (answer.status, answer.headers["connection"]) == (404, "close")
        assert await client.ended()


async def test_old_idle_connections_end(world: World) -> None:
    async with world.serving(deadlines=Deadlines(age_s=0.3)) as port, connected(port) as client:
        await client.send(GET)
        assert await client.status() == 200
        assert await client.ended()


async def test_a_client_that_hangs_up_cancels_its_request(world: World) -> None:
    world.dht.gate = trio.Event()
    async with world.serving() as port:
        async with connected(port) as client:
            await client.send(MISS)
            await until(lambda: world.dht.waiting == 1)
        await until(lambda: world.dht.cancelled == 1)
        await until(lambda: world.counters.connections_open == 0)


async def test_shutdown_lets_requests_finish_and_then_returns(world: World) -> None:
    shutdown = trio.Event()
    world.dht.gate = trio.Event()
    old = MISS.replace(b"HTTP/1.1", b"HTTP/1.0")
    async with (
        world.serving(shutdown=shutdown) as port,
        connected(port) as busy,
        connected(port) as handed_on,
    ):
        async with connected(port) as idle:
            await idle.send(GET)
            assert await idle.status() == 200
            await busy.send(MISS)
            await handed_on.send(old)
            await until(lambda: world.dht.waiting == 2)
            shutdown.set()
            assert await idle.ended()
        with pytest.raises(OSError, match=r"refused|connect"):
            await trio.open_tcp_stream("127.0.0.1", port)
        world.dht.gate.set()
        for client in (busy, handed_on):
            (answer,) = await client.answers(1)
            assert (answer.status, answer.headers["connection"]) == (404, "close")
            assert await client.ended()
        await until(lambda: world.counters.connections_open == 0)


async def test_shutdown_does_not_wait_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert serve.SHUTDOWN_S == 3.0
    monkeypatch.setattr(serve, "SHUTDOWN_S", 0.2)
    world.dht.gate = trio.Event()
    shutdown = trio.Event()
    async with world.serving(shutdown=shutdown) as port, connected(port) as client:
        await client.send(MISS)
        await until(lambda: world.dht.waiting == 1)
        shutdown.set()
        assert await client.ended()
        await until(lambda: world.dht.cancelled == 1)
    assert "1 connections did not end in time" in caplog.text
