"""``/metrics`` on a listener of its own.

The connections are those of `relay.http.serve`, with Hypercorn's protocols, caps and deadlines;
only the application is another one. Whoever reaches the port may read: it is to be bound to an
address that strangers do not reach.

A page is made in pieces of some samples. Between two of them other tasks have their turn, so a
scrape delays nobody by more than about a tenth of a millisecond; who asks at the same time waits
in line.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from relay.config import HttpConfig
from relay.http.deadlines import Deadlines
from relay.http.listener import shown_address
from relay.http.serve import serve_http
from relay.threads import imported

if TYPE_CHECKING:
    import socket

    from prometheus_client.metrics_core import Metric

    from relay.http.messages import HeaderList, Receive, Scope, Send
    from relay.metrics.sources import Sources

_log: Final = logging.getLogger("pkarr_relay")

PATH: Final = "/metrics"
CONNECTIONS_MAX: Final = 32
"""More are closed as they come; a few systems that scrape keep one each."""
DEADLINES: Final = Deadlines(head_s=10.0, idle_s=180.0, write_s=10.0, age_s=3600.0, drain_s=10.0)
"""Between two requests there is a scrape interval, a minute or two at most."""
CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
_ALLOW: Final = (b"allow", b"GET,HEAD")
_TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")


async def serve_metrics(
    listener: socket.socket,
    sources: Sources,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve ``/metrics`` on `listener`, which it takes over, until cancelled.

    What it needs is imported in a thread, after `task_status` was told: until then clients wait
    in the kernel's queue.
    """
    with listener:
        task_status.started()
        await imported("relay.http.connection")
        families = await imported("relay.metrics.families")
        app = MetricsApp(partial(families.collect, sources))
        _log.info("Metrics on http://%s/metrics", shown_address(*listener.getsockname()[:2]))
        config = HttpConfig(max_connections=CONNECTIONS_MAX, max_connections_per_address=0)
        await serve_http(app, [listener], config, deadlines=DEADLINES)


class MetricsApp:
    """The ASGI application of that listener.

    Args:
        collect: reads the relay's own families, in pieces.
    """

    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        from prometheus_client.exposition import generate_latest
        from prometheus_client.process_collector import ProcessCollector
        from prometheus_client.registry import Collector

        class One(Collector):
            """A registry of one family, as the writer of the format wants it."""

            def __init__(self, metric: Metric) -> None:
                self._metric = metric

            def collect(self) -> Iterable[Metric]:
                return [self._metric]

        process = ProcessCollector(registry=None)
        self._sources = (collect, process.collect)
        self._text: Callable[[Metric], bytes] = lambda metric: generate_latest(One(metric))
        self._turn = trio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope of type ``http``; a WebSocket is refused."""
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        status, headers, body = await self._respond(scope)
        headers = [*headers, (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        body = b"" if scope["method"] == "HEAD" else body
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _respond(self, scope: Scope) -> tuple[int, HeaderList, bytes]:
        if scope["path"] != PATH:
            return 404, [_TEXT], b"there is only /metrics here\n"
        if scope["method"] not in ("GET", "HEAD"):
            return 405, [_TEXT, _ALLOW], b"GET or HEAD\n"
        fields = [(b"content-type", CONTENT_TYPE), (b"cache-control", b"no-store")]
        return 200, fields, await self.page()

    async def page(self) -> bytes:
        """Return everything that is known now, in Prometheus' text format 0.0.4."""
        async with self._turn:
            parts = []
            last = ""
            for collect in self._sources:
                for metric in collect():
                    text = self._text(metric)
                    if metric.name == last:  # the rest of a family, whose head is there already
                        text = text.split(b"\n", 2)[2]
                    parts.append(text)
                    last = metric.name
                    await trio.lowlevel.checkpoint()
            return b"".join(parts)
