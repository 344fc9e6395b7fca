"""The HTTP server: accepts connections, within bounds, and sees each to its end.

`serve_http` owns a nursery with one task per listening socket, one per connection, and the
sweep that keeps their deadlines. Connections beyond the caps are closed as they come.
Shutting down stops accepting, lets requests under way finish, and ends what is left.

Source: issue 3, sections 2 and 6; design/architecture.md, section 3.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections import Counter
from collections.abc import Hashable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from relay.http.clients import ClientRules, parse_address
from relay.http.counters import Counters
from relay.http.deadlines import Deadlines, Past
from relay.http.messages import Application
from relay.http.stream import ClientStream

if TYPE_CHECKING:
    from relay.config import HttpConfig
    from relay.http.connection import Connection
    from relay.http.front import FrontLane

_log: Final = logging.getLogger("pkarr_relay.http")

SHUTDOWN_S: Final = 3.0
"""Requests under way may take this long; a second signal need not be waited for."""
SWEEP_S: Final = 1.0
EXHAUSTED_PAUSE_S: Final = 0.1
"""Without descriptors or memory accepting fails at once, again and again."""
_LOG_AGAIN_S: Final = 60.0
_CLIENT_GAVE_UP: Final = frozenset({errno.ECONNABORTED, errno.EPROTO, errno.EPERM})


class HttpServer:
    """Serves an ASGI application on listening sockets; see `serve_http`."""

    def __init__(
        self,
        app: Application,
        config: HttpConfig,
        rules: ClientRules,
        counters: Counters,
        deadlines: Deadlines | None,
    ) -> None:
        self._app = app
        self._config = config
        self._rules = rules
        self._counters = counters
        self._deadlines: Final = deadlines or Deadlines(age_s=config.max_connection_age_s)
        self._sweep_s = min(SWEEP_S, self._deadlines.shortest_s / 4)
        self._open: dict[Connection, Hashable | None] = {}
        self._by_peer: Counter[Hashable | None] = Counter()
        self._none_open = trio.Event()
        self._complained_at = -_LOG_AGAIN_S

    async def run(
        self,
        sockets: Sequence[socket.socket],
        shutdown: trio.Event,
        task_status: trio.TaskStatus[HttpServer],
    ) -> None:
        """Accept until `shutdown`, then let requests finish; cancelling ends them at once."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._sweep)
                async with trio.open_nursery() as accepting:
                    self._begin(sockets, accepting, nursery)
                    task_status.started(self)
                    await shutdown.wait()
                    accepting.cancel_scope.cancel()
                self._stop_accepting()
                for sock in sockets:
                    sock.close()
                await self._finish()
                nursery.cancel_scope.cancel()
        finally:
            for sock in sockets:
                sock.close()

    def retune(self, rules: ClientRules) -> None:
        """Tell clients apart by other rules, from the next connection on."""
        self._rules = rules

    def turning(self) -> bool:
        """Tell whether what is to be done is being done; to be asked again and again."""
        return True

    def _begin(
        self, sockets: Sequence[socket.socket], accepting: trio.Nursery, nursery: trio.Nursery
    ) -> None:
        """Start the tasks that accept in `accepting`, those that serve in `nursery`."""
        for sock in sockets:
            listener = trio.socket.from_stdlib_socket(sock)
            accepting.start_soon(self._accept, listener, nursery)

    async def _accept(self, listener: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        while True:
            try:
                sock, address = await listener.accept()
            except OSError as error:
                if error.errno not in _CLIENT_GAVE_UP:
                    self._complain("cannot accept connections: %s", error)
                    await trio.sleep(EXHAUSTED_PAUSE_S)
                continue
            client = None if sock.family == socket.AF_UNIX else _plain(address)
            peer_key = self._rules.peer_key(None if client is None else client[0])
            if not self._admits(peer_key):
                sock.close()
                continue
            # Counted here, not in the new task: many may be accepted before that one runs.
            connection = self._connection(sock, client)
            self._open[connection] = peer_key
            self._by_peer[peer_key] += 1
            self._note_count()
            nursery.start_soon(self._serve, connection)

    def _stop_accepting(self) -> None:
        """Called when accepting has been cancelled, before the sockets are closed."""

    def _admits(self, peer_key: Hashable | None) -> bool:
        if len(self._open) >= self._config.max_connections:
            self._counters.count_connection("refused_total")
            self._complain("closing new connections: %d are open", len(self._open))
            return False
        limit = self._config.max_connections_per_address
        if limit and peer_key is not None and self._by_peer[peer_key] >= limit:
            self._counters.count_connection("refused_address")
            return False
        self._counters.count_connection("accepted")
        return True

    def _connection(
        self,
        sock: trio.socket.SocketType,
        client: tuple[str, int] | None,
        received: bytes = b"",
        past: Past | None = None,
    ) -> Connection:
        # Hypercorn is slow to import, and the front lane answers most clients without it.
        from relay.http.connection import Connection

        stream = ClientStream(sock, write_timeout_s=self._deadlines.write_s, received=received)
        server = None
        with suppress(OSError):  # gone already; its task will notice
            server = None if client is None else _plain(sock.getsockname())
        return Connection(
            self._app,
            stream,
            client=client,
            server=server,
            deadlines=self._deadlines,
            past=past,
        )

    async def _serve(self, connection: Connection) -> None:
        try:
            await connection.run()
        finally:
            self._forget(connection)
            self._note_count()

    def _forget(self, connection: Connection) -> None:
        peer_key = self._open.pop(connection)
        self._by_peer[peer_key] -= 1
        if not self._by_peer[peer_key]:
            del self._by_peer[peer_key]

    def _note_count(self) -> None:
        self._counters.connections_open = count = self._count()
        if not count:
            self._none_open.set()

    async def _sweep(self) -> None:
        """Keep the deadlines of all connections; cheaper than a timer for each request."""
        while True:
            await trio.sleep(self._sweep_s)
            self._check(trio.current_time())

    def _check(self, now: float) -> None:
        for connection in list(self._open):
            connection.check(now)

    async def _finish(self) -> None:
        self._drain()
        with trio.move_on_after(SHUTDOWN_S):
            while self._count():
                self._none_open = trio.Event()
                await self._none_open.wait()
        if left := self._count():
            _log.warning("%d connections did not end in time", left)

    def _drain(self) -> None:
        for connection in list(self._open):
            connection.drain()

    def _count(self) -> int:
        return len(self._open)

    def _complain(self, message: str, *arguments: object) -> None:
        """Log what would otherwise be logged a thousand times a second."""
        now = trio.current_time()
        if now - self._complained_at >= _LOG_AGAIN_S:
            self._complained_at = now
            _log.warning(message, *arguments)


async def serve_http(
    app: Application,
    sockets: Sequence[socket.socket],
    config: HttpConfig,
    *,
    rules: ClientRules | None = None,
    counters: Counters | None = None,
    shutdown: trio.Event | None = None,
    deadlines: Deadlines | None = None,
    front: FrontLane | None = None,
    task_status: trio.TaskStatus[HttpServer] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `app` on `sockets`, which it takes over, until `shutdown` is set.

    Start with ``await nursery.start(serve_http, ...)``, which returns once connections are
    served. After `shutdown` it stops accepting, gives requests under way `SHUTDOWN_S`, and
    returns; cancelled, it ends them at once. A client can never make it raise.

    Args:
        app: an ASGI application for ``http`` scopes.
        sockets: from `relay.http.listener.open_listeners`.
        config: caps, and the age that a connection may reach.
        rules: whose connections the cap per address spares.
        counters: where connections are counted.
        shutdown: None: serve until cancelled.
        deadlines: None: those of `Deadlines`, with the age of `config`.
        front: what answers frequent requests; None: Hypercorn's protocols answer all.
        task_status: reports that connections are served, and by whom.
    """
    make_server = HttpServer if front is None else front.make_server
    server = make_server(app, config, rules or ClientRules(), counters or Counters(), deadlines)
    await server.run(sockets, trio.Event() if shutdown is None else shutdown, task_status)


def _plain(address: tuple[str, int]) -> tuple[str, int]:
    """Return an address and port; IPv4 that came through an IPv6 socket is IPv4."""
    return str(parse_address(address[0]) or address[0]), address[1]
