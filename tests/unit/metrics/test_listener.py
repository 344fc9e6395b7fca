"""The listener for metrics: what it serves, to whom, and that hostile clients change nothing."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from relay.config import HttpConfig
from relay.http.deadlines import Deadlines
from relay.http.serve import serve_http
from relay.metrics import listener
from relay.metrics.listener import CONTENT_TYPE, MetricsApp
from tests.integration.http_client import Client, connected, exchange
from tests.support.chance import seeded

GET = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"


def gauges(count: int = 2) -> list[Metric]:
    metrics = [Metric(f"pkarr_relay_{number}", "Help.", "gauge") for number in range(count)]
    for metric in metrics:
        metric.add_sample(metric.name, {}, 7)
    return metrics


@asynccontextmanager
async def serving(
    app: MetricsApp, deadlines: Deadlines = listener.DEADLINES, connections: int = 32
) -> AsyncIterator[int]:
    sock = socket.create_server(("127.0.0.1", 0))
    config = HttpConfig(max_connections=connections, max_connections_per_address=0)
    async with trio.open_nursery() as nursery:

        async def serve(*, task_status: trio.TaskStatus[None]) -> None:
            await serve_http(app, [sock], config, deadlines=deadlines, task_status=task_status)

        port: int = sock.getsockname()[1]
        await nursery.start(serve)
        yield port
        nursery.cancel_scope.cancel()


async def ask(client: Client, request: bytes = GET) -> tuple[int, dict[str, str], bytes]:
    await client.send(request)
    (answer,) = await client.answers(1)
    return answer.status, answer.headers, answer.body


async def test_a_page_and_its_head() -> None:
    async with serving(MetricsApp(gauges)) as port:
        async with connected(port) as client:
            status, headers, body = await ask(client)
        async with connected(port) as client:
            await client.send(GET.replace(b"GET", b"HEAD"))
            head = await client.stream.receive_some()
    assert status == 200
    assert headers["content-type"].encode() == CONTENT_TYPE
    assert headers["content-length"] == str(len(body))
    assert body.startswith(
        b"# HELP pkarr_relay_0 Help.\n# TYPE pkarr_relay_0 gauge\npkarr_relay_0 7.0\n"
    )
    assert b"\nprocess_cpu_seconds_total " in body
    assert head.startswith(b"HTTP/1.1 200 ")
    assert head.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"POST /metrics", 405),
        (b"PUT /metrics", 405),
        (b"OPTIONS /metrics", 405),
        (b"GET /", 404),
        (b"GET /metrics/", 404),
        (b"GET /metricsx", 404),
        (b"GET //metrics", 404),
        (b"DELETE /stats", 404),
        (b"GET /metrics?name%5B%5D=x", 200),
    ],
)
async def test_there_is_nothing_else(request_line: bytes, status: int) -> None:
    request = request_line + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    async with serving(MetricsApp(gauges)) as port, connected(port) as client:
        found, headers, _ = await ask(client, request)
        assert found == status
        assert ("allow" in headers) == (status == 405)
        assert (await ask(client))[0] == 200  # the connection is as good as before


async def test_http2_is_understood_too() -> None:
    client = H2Connection()
    client.initiate_connection()
    start = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/metrics")]
    client.send_headers(1, start, end_stream=True)
    body, status, ended = b"", b"", False
    async with serving(MetricsApp(gauges)) as port, connected(port) as connection:
        await connection.send(client.data_to_send())
        with trio.fail_after(10):
            while not ended:
                for event in client.receive_data(await connection.stream.receive_some()):
                    if isinstance(event, ResponseReceived):
                        status = dict(event.headers)[b":status"]
                    elif isinstance(event, DataReceived):
                        body += event.data
                    ended |= isinstance(event, StreamEnded)
    assert (status, b"pkarr_relay_1 7.0" in body) == (b"200", True)


async def test_a_page_lets_others_run_and_readers_wait_in_line() -> None:
    app = MetricsApp(lambda: gauges(50))
    steps = pages = 0
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            nonlocal pages
            assert (await app.page()).count(b"# TYPE pkarr_relay_") == 50
            pages += 1

        nursery.start_soon(read)
        nursery.start_soon(read)
        while pages < 2:
            await trio.lowlevel.checkpoint()
            steps += 1
    assert steps >= 100


async def test_pieces_of_a_family_have_one_head() -> None:
    pieces = [Metric("pkarr_relay_a", "One\ntwo.", "counter") for _ in range(3)]
    for number, piece in enumerate(pieces):
        piece.add_sample("pkarr_relay_a_total", {"part": f"{number}\n#"}, number)
    page = await MetricsApp(lambda: pieces).page()
    (family, *_) = text_string_to_metric_families(page.decode())
    assert page.count(b"# TYPE pkarr_relay_a_total counter") == 1
    assert [sample.value for sample in family.samples] == [0, 1, 2]
    assert [sample.labels["part"] for sample in family.samples] == ["0\n#", "1\n#", "2\n#"]


async def test_more_connections_than_there_may_be() -> None:
    app = MetricsApp(gauges)
    async with serving(app, connections=2) as port, connected(port) as a, connected(port) as b:
        assert [(await ask(client))[0] for client in (a, b)] == [200, 200]
        assert await exchange(port, GET) == []  # closed as it came
        assert (await ask(a))[0] == 200


async def test_who_says_nothing_is_sent_away() -> None:
    quick = Deadlines(head_s=0.1, idle_s=0.1, write_s=0.1, age_s=60, drain_s=0.1, linger_s=0.1)
    async with serving(MetricsApp(gauges), quick) as port:
        assert await exchange(port) == []
        assert await exchange(port, b"GET /met") == []
        assert [answer.status for answer in await exchange(port, GET)] == [200]


async def test_a_head_may_not_be_endless() -> None:
    async with serving(MetricsApp(gauges)) as port:
        request = GET[:-2] + b"X: " + b"a" * 20_000 + b"\r\n\r\n"
        assert [answer.status for answer in await exchange(port, request)] == [431]


async def test_hostile_clients_change_nothing() -> None:
    """Requests cut, spoilt and glued together, forty at a time, to a server that is in a hurry."""
    chance = seeded(5)
    hurry = Deadlines(head_s=0.1, idle_s=0.1, write_s=0.3, age_s=0.5, drain_s=0.1, linger_s=0.1)
    pieces = (
        GET,
        b"POST /metrics HTTP/1.1\r\nContent-Length: 9\r\n\r\nx",
        b"PRI * HTTP/2.0\r\n\r\n",
    )
    left = 160

    async def attack(port: int) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            data = bytearray(b"".join(chance.choices(pieces, k=3)))
            for _ in range(chance.randrange(4)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            with suppress(trio.BrokenResourceError):
                async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                    await stream.send_all(bytes(data[: chance.randrange(len(data))]))
                    with trio.move_on_after(chance.random() / 5):
                        await stream.receive_some()

    async with serving(MetricsApp(gauges), hurry, connections=40) as port:
        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(attack, port)

        async def served() -> bool:
            return [answer.status for answer in await exchange(port, GET)] == [200]

        with trio.fail_after(20):
            while not await served():
                await trio.lowlevel.checkpoint()
