"""Connections on the front lane: order, limits, deadlines, being handed on, and ending well."""

from __future__ import annotations

import errno
import itertools
import os
import re
import resource
import socket
import struct
from collections import Counter
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from ipaddress import ip_network

import pytest
import trio
from h2.connection import H2Connection
from h2.events import ResponseReceived

from relay.config import HttpConfig, Quota, RateLimiterConfig
from relay.http import front, messages
from relay.http.clients import ClientRules
from relay.http.deadlines import Deadlines
from relay.http.front import FrontLane, FrontServer
from relay.http.limits import HttpLimits
from relay.http.serve import serve_http
from tests.integration.front_world import FrontWorld
from tests.integration.http_client import (
    ENDED_S,
    Answer,
    Client,
    ServersEnd,
    answers,
    connected,
    exchange,
    until,
)
from tests.integration.http_clock import AGE_S, AGED, LeapingClock
from tests.integration.http_requests import ALICE, CLOSE, GET, MISS, PACKET, PATH, PUT
from tests.support.relay import wait_until

pytestmark = pytest.mark.compiled

UNKNOWN = b"GET /a/b HTTP/1.1\r\nHost: a\r\n\r\n"


async def ask(port: int, request: bytes) -> Answer:
    """Return the answer to one request on a connection of its own."""
    async with connected(port) as client:
        await client.send(request)
        (answer,) = await client.answers(1)
        return answer


def limited(burst: int, *, behind_proxy: bool = False) -> FrontWorld:
    quota = Quota(interval_s=3600.0, burst=burst)
    config = RateLimiterConfig(behind_proxy=behind_proxy, http=quota, user_dht=None, dht=None)
    return stocked(FrontWorld(limits=HttpLimits(config)))


def stocked(world: FrontWorld) -> FrontWorld:
    world.keep(PACKET.payload, ALICE.key)
    return world


@pytest.fixture(autouse=True, params=[0, 2], ids=["task", "threads"])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FrontWorld, "threads", request.param)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> LeapingClock:
    return LeapingClock(monkeypatch)


@pytest.fixture
def world() -> FrontWorld:
    return stocked(FrontWorld())


# ---- Order and pieces ----


async def test_a_kept_connection_and_its_counters(world: FrontWorld) -> None:
    head = GET.replace(b"GET", b"HEAD")
    known = b"If-None-Match: *\r\n\r\n"
    async with world.serving() as port, connected(port) as client:
        for request in (GET, head, GET[:-2] + known, head[:-2] + known, MISS, PUT):
            await client.send(request)
            if request[:4] == b"HEAD":
                answer = answers(await client.stream.receive_some())[0]
                assert answer.body == b""
                length = answer.headers["content-length"]
                assert length == ("0" if answer.status == 304 else str(len(PACKET.payload)))
            else:
                (answer,) = await client.answers(1)
            assert "connection" not in answer.headers
            assert "date" in answer.headers
        assert world.counters.connections_open == 1
    assert world.counters.requests == {
        "get": {200: 1, 304: 1, 404: 1},
        "head": {200: 1, 304: 1},
        "put": {204: 1},
    }
    assert world.counters.answers == {
        ("get", 200, "hit"): 1,
        ("get", 304, "hit"): 1,
        ("get", 404, "miss"): 1,
        ("head", 200, "hit"): 1,
        ("head", 304, "hit"): 1,
        ("put", 204, "none"): 1,
    }
    durations = world.counters.durations_s
    counts = {work: histogram.count for work, histogram in durations.items()}
    assert counts == {"hit": 4, "miss": 1, "put": 1, "refused": 0, "other": 0}
    assert all(0 < h.total < 10 for h in durations.values() if h.count)
    assert world.service.counters["hits"] == 4
    assert world.counters.connections == {"accepted": 1}


@pytest.mark.parametrize("step", [1, 2, 7])
async def test_requests_may_come_in_pieces(world: FrontWorld, step: int) -> None:
    data = GET + PUT + MISS + GET
    async with world.serving() as port, connected(port) as client:
        for at in range(0, len(data), step):
            await client.send(data[at : at + step])
        assert [a.status for a in await client.answers(4)] == [200, 204, 404, 200]


async def test_every_cut_in_two(world: FrontWorld) -> None:
    data = GET + PUT + GET
    async with world.serving() as port, connected(port) as client:
        for at in range(1, len(data)):
            await client.send(data[:at])
            await trio.lowlevel.checkpoint()
            await client.send(data[at:])
            assert [a.status for a in await client.answers(3)] == [200, 204, 200]


async def test_pipelined_requests_are_answered_in_order(world: FrontWorld) -> None:
    """Hot ones behind a slow one wait for it, and nothing is read meanwhile."""
    world.dht.gate = trio.Event()
    async with world.serving() as port, connected(port) as client:
        await client.send(GET + MISS + GET * 3 + MISS + GET)
        await until(lambda: world.dht.waiting == 1)
        assert await client.status() == 200
        world.dht.gate.set()
        found = [a.status for a in await client.answers(6)]
        assert found == [404, 200, 200, 200, 404, 200]
        world.counters.refresh()  # also those that waited behind another are measured
        assert world.counters.durations_s["hit"].count == 5


async def test_a_slow_reader_gets_everything(world: FrontWorld) -> None:
    """More answers than all buffers hold: the lane stops reading, and goes on later."""
    count = 20_000
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        async with world.serving() as port, trio.open_nursery() as nursery:
            raw.connect(("127.0.0.1", port))
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(raw))
            nursery.start_soon(stream.send_all, GET * count)
            await until(lambda: world.service.counters["hits"] >= 100)
            received, rest, mark = 0, b"", b"HTTP/1.1 200 \r\n"
            with trio.fail_after(60):
                while received < count:
                    data = rest + await stream.receive_some(1 << 20)
                    received += data.count(mark)
                    rest = data[1 - len(mark) :]
    assert world.counters.requests["get"] == {200: count}


async def test_the_page_and_the_figures_keep_the_connection(world: FrontWorld) -> None:
    """The page is larger than a buffer of the lane."""
    world.service._facts = lambda: {"version": "<&>" * 20_000}
    async with world.serving() as port, connected(port) as client:
        for path in (b"/", b"/stats?x", b"/?key=x", b"/"):
            await client.send(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n")
            (answer,) = await client.answers(1)
            assert (answer.status, "connection" in answer.headers) == (200, False)
            assert len(answer.body) > 60_000
    assert world.counters.requests == {"index": {200: 3}, "stats": {200: 1}}


@pytest.mark.parametrize("threads", [0], indirect=True)
async def test_frequent_requests_do_not_wait_for_a_whole_round(
    world: FrontWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trio looks for events once in a round; the lane has its turn within it."""
    seconds = itertools.count()
    seen: list[int] = []

    async with world.serving() as port:
        monkeypatch.setattr(front, "perf_counter", lambda: float(next(seconds)))
        with socket.create_connection(("127.0.0.1", port)) as client:

            async def step() -> None:
                if not seen:
                    client.sendall(GET)
                seen.append(world.service.counters["hits"])
                await trio.lowlevel.checkpoint()

            await until(lambda: world.counters.connections_open)
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(step)
    assert seen == [0, 1, 1]


# ---- Handing on ----


async def test_what_is_handed_on_arrives_unchanged_and_ends(world: FrontWorld) -> None:
    chunked = (
        f"PUT {PATH} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        + b"%x\r\n%b\r\n0\r\n\r\n" % (len(PACKET.payload), PACKET.payload)
    )
    async with world.serving() as port, connected(port) as client:
        await client.send(GET + PUT + chunked + GET)
        found = await client.answers(3)
        assert [a.status for a in found] == [200, 204, 204]
        assert ["connection" in a.headers for a in found] == [False, False, True]
        assert await client.ended()
        await until(lambda: world.counters.connections_open == 0)


async def test_what_is_handed_on_may_come_in_pieces(world: FrontWorld) -> None:
    async with world.serving() as port, connected(port) as client:
        await client.send(GET)
        assert await client.status() == 200
        for at in range(len(UNKNOWN)):
            await client.send(UNKNOWN[at : at + 1])
        (answer,) = await client.answers(1)
        assert (answer.status, answer.headers["connection"]) == (404, "close")


async def test_http2_is_handed_on_whole(world: FrontWorld) -> None:
    async with world.serving() as port, connected(port) as client:
        h2 = H2Connection()
        h2.initiate_connection()
        fields = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", PATH)]
        for stream_id in (1, 3):
            h2.send_headers(stream_id, fields, end_stream=True)
        await client.send(h2.data_to_send())
        answered = 0
        with trio.fail_after(ENDED_S):
            while answered < 2:
                events = h2.receive_data(bytes(await client.stream.receive_some()))
                answered += sum(isinstance(event, ResponseReceived) for event in events)


async def test_many_bytes_that_no_lane_understands(world: FrontWorld) -> None:
    """More than the lane reads at once; the rest comes to Hypercorn from the socket."""
    filler = b"x: " + b"y" * 15_000
    request = GET[:-2] + filler + b"\r\n\r\n"
    async with world.serving() as port, connected(port) as client:
        await client.send(request + GET)
        (answer,) = await client.answers(1)
        assert (answer.status, answer.headers["connection"]) == (200, "close")


# ---- Limits ----


async def test_one_cell_counts_whoever_answers() -> None:
    """Hot, warm, handed on, and through the application alone: one budget."""
    world = limited(7)
    async with world.serving() as port, world.serving(lane=False) as other, connected(port) as c:
        remaining = []
        for request in (GET, MISS, PUT, GET):
            await c.send(request)
            remaining += [a.headers["x-ratelimit-remaining"] for a in await c.answers(1)]
        for where, request in ((port, UNKNOWN), (other, GET), (port, CLOSE)):
            answer = await ask(where, request)
            remaining.append(answer.headers["x-ratelimit-remaining"])
        assert remaining == list("6543210")
        refused = []
        for where in (port, other):
            for request in (GET, MISS, UNKNOWN, PUT):
                answer = await ask(where, request)
                refused.append(answer.without("date", "connection"))
        assert refused[:4] == refused[4:]
        assert refused[0][0] == 429
        assert dict(refused[0][1])["x-ratelimit-limit"] == "7"
        await c.send(b"GET /health HTTP/1.1\r\n\r\n")
        assert await c.status() == 200
    assert world.counters.requests["get"][429] == 4
    assert world.counters.durations_s["refused"].count == 8
    assert world.app.limits.refused == {"http": 8}
    assert world.service.counters["hits"] == 4


async def test_refusals_keep_the_connection() -> None:
    world = limited(1)
    async with world.serving() as port, connected(port) as client:
        await client.send(GET + GET + GET.replace(b"Host: ", b"Origin: x\r\nHost: "))
        found = await client.answers(3)
        assert [a.status for a in found] == [200, 429, 429]
        assert found[2].headers["access-control-allow-origin"] == "x"
        assert found[2].body == b"Too Many Requests! Wait for 3600s"


async def test_exempt_clients_have_no_limit() -> None:
    config = RateLimiterConfig(
        behind_proxy=False,
        http=Quota(interval_s=3600.0, burst=1),
        user_dht=None,
        dht=None,
        exempt=(ip_network("127.0.0.0/8"),),
    )
    world = stocked(FrontWorld(limits=HttpLimits(config)))
    async with world.serving() as port, connected(port) as client:
        await client.send(GET * 3)
        found = await client.answers(3)
        assert [(a.status, "x-ratelimit-limit" in a.headers) for a in found] == [(200, False)] * 3


@pytest.mark.parametrize("hot", [True, False])
async def test_behind_a_proxy_the_client_it_names_is_counted(
    hot: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the proxy's one connection, which stays on the lane; by the lane itself, if it is hot."""
    world = limited(2, behind_proxy=True)
    if hot:
        monkeypatch.setattr(world.app, "respond", None)

    def by(client: str) -> bytes:
        fields = f"X-Forwarded-For: {client}" + ("" if hot else "\xa0") + "\r\nHost: "
        return GET.replace(b"Host: ", fields.encode("latin-1"))

    async with world.serving() as port, connected(port) as proxy:
        await proxy.send(by("192.0.2.1") + by("192.0.2.2") + by("192.0.2.1") + GET)
        found = await proxy.answers(4)
        assert [a.headers["x-ratelimit-remaining"] for a in found] == ["1", "1", "0", "1"]
        await proxy.send(by("192.0.2.1") + GET)
        assert [a.status for a in await proxy.answers(2)] == [429, 200]


async def test_the_limiter_and_the_caps_must_know_the_same_clients() -> None:
    world = limited(2)
    rules = ClientRules(behind_proxy=True)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        lane = FrontLane(world.app, None)
        with pytest.raises(ValueError, match="one set of rules"):
            await serve_http(world.app, [listener], HttpConfig(), rules=rules, front=lane)


async def test_accepting_survives_a_lack_of_descriptors(
    world: FrontWorld, caplog: pytest.LogCaptureFixture
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with world.serving() as port:
        with socket.socket() as raw, socket.socket() as probe:
            raw.setblocking(False)
            resource.setrlimit(resource.RLIMIT_NOFILE, (probe.fileno() + 1, hard))
            try:
                sock = trio.socket.from_stdlib_socket(raw)
                await sock.connect(("127.0.0.1", port))
                await until(lambda: "Too many open files" in caplog.text or "EMFILE" in caplog.text)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            client = Client(trio.SocketStream(sock))
            await client.send(GET)
            assert await client.status() == 200


@pytest.mark.parametrize("threads", [4], indirect=True)
async def test_threads_count_exactly_together() -> None:
    """What they share is limited as if there were one: no cell is spent twice, none is lost."""
    clients, requests, burst = 12, 1500, 10_000
    world = limited(burst)
    statuses: Counter[bytes] = Counter()

    async def ask_often(port: int) -> None:
        async with connected(port) as client, trio.open_nursery() as nursery:
            nursery.start_soon(client.send, GET * (requests - 1) + CLOSE)
            received = b"".join([data async for data in client.stream])
            statuses.update(re.findall(rb"HTTP/1\.1 (200|429) ", received))

    async with world.serving() as port, trio.open_nursery() as nursery:
        for _ in range(clients):
            nursery.start_soon(ask_often, port)
    assert statuses == {b"200": burst, b"429": clients * requests - burst}
    assert world.counters.requests["get"] == {200: burst, 429: clients * requests - burst}
    assert world.service.counters["hits"] == burst
    assert world.counters.connections == {"accepted": clients}
    assert world.counters.connections_open == 0
    assert set(world.counters.waits) == {"lanes", "caps", "limiter", "table"}


@pytest.mark.parametrize("threads", [3], indirect=True)
async def test_threads_keep_the_caps_together() -> None:
    """Connections come at once, to all lanes; as many as may are served, the others are closed."""
    world = stocked(FrontWorld())
    config = HttpConfig(max_connections=1000, max_connections_per_address=10)
    served: list[bool] = []
    async with world.serving(config) as port, AsyncExitStack() as opened:
        clients = [await opened.enter_async_context(connected(port)) for _ in range(25)]

        async def try_it(client: Client) -> None:
            with suppress(trio.BrokenResourceError):
                await client.send(GET)
            try:
                served.append(bool(await client.stream.receive_some()))
            except trio.BrokenResourceError:
                served.append(False)

        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(try_it, client)
        assert sum(served) == 10
    assert world.counters.connections == {"accepted": 10, "refused_address": 15}


@pytest.mark.parametrize("threads", [2], indirect=True)
async def test_threads_end_amid_work(world: FrontWorld) -> None:
    """Requests of all ways are under way when the server is cancelled; again and again."""
    for _ in range(20):
        async with AsyncExitStack() as opened, world.serving() as port:
            for request in (GET * 2000, (MISS + PUT) * 20, UNKNOWN) * 2:
                client = await opened.enter_async_context(connected(port))
                client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
                await client.send(request)
    assert world.counters.connections["accepted"] <= 20 * 6
    assert world.counters.requests["get"][200] > 0


# ---- Deadlines ----


async def test_a_busy_client_is_told_that_its_connection_is_old(world: FrontWorld) -> None:
    async with world.serving(deadlines=Deadlines(age_s=0.3)) as port, connected(port) as client:
        while True:
            await client.send(GET)
            (answer,) = await client.answers(1)
            assert answer.status == 200
            if "connection" in answer.headers:
                break
            await trio.sleep(0.02)
        assert await client.ended()


async def test_an_upload_under_way_outlives_the_age(world: FrontWorld, clock: LeapingClock) -> None:
    async with world.serving(deadlines=AGED) as port, connected(port) as client:
        await client.send(PUT[:-1])
        server = ServersEnd(client.stream)
        await until(lambda: server.has_read(len(PUT) - 1))
        await clock.leap(2 * AGE_S)
        await client.send(PUT[-1:])
        (answer,) = await client.answers(1)
        assert (answer.status, answer.headers["connection"]) == (204, "close")
        assert await client.ended()


async def test_the_age_goes_on_when_a_connection_is_handed_on(
    world: FrontWorld, clock: LeapingClock
) -> None:
    """It is handed on at two thirds of its age, and ends before it could be as old once more."""
    aged = replace(AGED, drain_s=0.2)
    world.dht.gate = trio.Event()
    async with world.serving(deadlines=aged) as port, connected(port) as client:
        await client.send(GET)
        assert await client.status() == 200
        await clock.leap(AGE_S * 2 / 3)
        await client.send(MISS.replace(b"HTTP/1.1", b"HTTP/1.0"))
        await until(lambda: world.dht.waiting == 1)
        assert world.dht.cancelled == 0
        await clock.leap(AGE_S * 2 / 3)
        assert await client.ended()
    assert world.dht.cancelled == 1


async def test_a_client_that_hangs_up_with_more_under_way_cancels_its_request(
    world: FrontWorld,
) -> None:
    world.dht.gate = trio.Event()
    async with world.serving() as port:
        async with connected(port) as client:
            await client.send(MISS + GET)
            await until(lambda: world.dht.waiting == 1)
        await until(lambda: world.dht.cancelled == 1)
        await until(lambda: world.counters.connections_open == 0)


@pytest.mark.parametrize("lane", [True, False])
async def test_a_put_outlives_its_client(
    world: FrontWorld, nursery: trio.Nursery, lane: bool
) -> None:
    """What may be on DHT nodes by now is to be in the cache, too."""
    await nursery.start(world.service.run)
    world.dht.gate = trio.Event()
    async with world.serving(lane=lane) as port:
        async with connected(port) as client:
            await client.send(PUT)
            await until(lambda: world.dht.waiting == 1)
        await until(lambda: world.counters.connections_open == 0)
        world.dht.gate.set()
        await until(lambda: world.service.counters["published"] == 1)
        assert [record[8:] for record in world.cache.table.records().values()] == [PACKET.payload]


@pytest.mark.parametrize(("at_most", "cancelled"), [(1, 0), (0, 1)])
async def test_in_a_crowd_puts_do_not_wait_without_their_clients(
    world: FrontWorld, monkeypatch: pytest.MonkeyPatch, at_most: int, cancelled: int
) -> None:
    """Who hangs up again and again is not to leave a queue."""
    monkeypatch.setattr(front, "OUTLIVING_MAX", at_most)
    world.dht.gate = trio.Event()
    async with world.serving() as port:
        async with connected(port) as client:
            await client.send(PUT)
            await until(lambda: world.dht.waiting == 1)
        await until(lambda: world.counters.connections_open == 0)
        await until(lambda: world.dht.cancelled == cancelled)
        world.dht.gate.set()
        await until(lambda: world.dht.waiting == 0)
        await until(lambda: world.service.counters["published"] == 1 - cancelled)


async def test_a_client_that_leaves_while_its_answer_is_on_its_way(
    world: FrontWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lane that is a thread sees it at once, and tells of it as the answer comes."""
    respond, client, left = world.app.respond, socket.socket(), trio.Event()

    async def respond_late(request: messages.Request) -> messages.Response:
        response = await respond(request)
        known = descriptors()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        if world.threads:  # no other task runs until the lane has closed its end as well
            wait_until(lambda: descriptors() == known - 2, "the lane")
        left.set()
        return response

    async with world.serving() as port:
        with monkeypatch.context() as patched:
            patched.setattr(world.app, "respond", respond_late)
            client.connect(("127.0.0.1", port))
            client.sendall(MISS)
            await left.wait()
        await until(lambda: world.counters.connections_open == 0)
        assert [a.status for a in await exchange(port, MISS + CLOSE)] == [404, 200]


async def test_connections_that_cannot_go_on_cost_no_others(
    world: FrontWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What serves them is imported for the first, and there may be no descriptor for that."""

    def without_descriptors(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async with world.serving() as port:
        with monkeypatch.context() as patched:
            patched.setattr(FrontServer, "_connection", without_descriptors)
            async with AsyncExitStack() as clients:
                many = [await clients.enter_async_context(connected(port)) for _ in range(5)]
                for client in many:
                    await client.send(UNKNOWN)
                for client in many:
                    assert await client.ended()
        assert world.counters.connections_open == 0
        assert "cannot go on with a connection" in caplog.text
        assert [a.status for a in await exchange(port, UNKNOWN)] == [404]


def descriptors() -> int:
    """Return how many this process has open, one for the look among them."""
    return len(os.listdir("/proc/self/fd"))


# ---- The end ----


async def test_close_is_the_last_answer(world: FrontWorld) -> None:
    async with world.serving() as port:
        for request in (CLOSE, MISS[:-2] + b"connection: x, close\r\n\r\n"):
            found = await exchange(port, request + GET * 100)
            assert [a.headers["connection"] for a in found] == ["close"]


async def test_errors_of_ours_end_one_connection_only(
    world: FrontWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with world.serving() as port:
        monkeypatch.setattr(world.app, "respond", None)
        (answer,) = await exchange(port, MISS)
        assert (answer.status, answer.headers["connection"]) == (500, "close")
        assert [a.status for a in await exchange(port, CLOSE)] == [200]
    assert "the application failed on GET" in caplog.text
