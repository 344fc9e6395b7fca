"""One connection: Hypercorn's protocols, driven with deadlines.

Hypercorn's own driver, `TCPServer`, has no read deadlines, shields its writes, and leaves
requests running whose client is gone. This one keeps its protocols (`Http1`, `Http2`) and
replaces the rest. A single sweep over all connections, once a second, calls `check`: so a
deadline costs a request nothing.

    head     30 s from the start, or from the first byte of a later request
    idle     75 s between requests
    write    30 s for one write, and for a whole answer
    age      300 s, then no new request, and 30 s for those under way

The 30 s for a request's body are kept where it is read (`Request.body`).

Source: issue 3, section 6; design/protocol.md, section 11.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Final, TypeVar

import trio
from hypercorn.config import Config as HypercornConfig
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.h11 import H2ProtocolAssumedError
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from relay import logs
from relay.http.clients import parse_address
from relay.http.deadlines import Deadlines, Past
from relay.http.http1 import HEAD_BYTES_MAX, Http1
from relay.http.http2 import HEADER_LIST_BYTES_MAX, STREAMS_MAX, Http2
from relay.http.messages import Application
from relay.http.requests import Requests
from relay.http.stream import ClientStream

Peer = tuple[str, int] | None
_Engine = TypeVar("_Engine", Http1, Http2)

_log: Final = logging.getLogger("pkarr_relay.http")


@cache
def _config() -> HypercornConfig:
    config = HypercornConfig()
    config.errorlog = _log
    config.include_server_header = False
    config.h11_max_incomplete_size = HEAD_BYTES_MAX
    config.h2_max_concurrent_streams = STREAMS_MAX
    config.h2_max_header_list_size = HEADER_LIST_BYTES_MAX
    config.keep_alive_max_requests = 2**62  # a connection ends by age, not by count
    return config


class Connection:
    """Serves one client until either side ends.

    Args:
        app: the ASGI application.
        stream: the client's socket.
        client: its address, for the application.
        server: ours.
        deadlines: how long the client may take.
        past: None: it has only just been accepted.
    """

    def __init__(
        self,
        app: Application,
        stream: ClientStream,
        *,
        client: Peer,
        server: Peer,
        deadlines: Deadlines,
        past: Past | None = None,
    ) -> None:
        self._app = app
        self._stream = stream
        self._client = client
        self._server = server
        self._deadlines = deadlines
        self._whole = trio.CancelScope()
        self._reading = trio.CancelScope()
        self._send_lock = trio.Lock()
        self._past = past
        now = trio.current_time()
        self._opened_at = now if past is None else past.opened_at
        self._awaited_since = now if past is None else past.head_since
        self._draining_since: float | None = None
        self._ending = False
        self._head_since: float | None = None
        self._requests: Requests | None = None
        self._engine: Http1 | Http2 | None = None

    async def run(self) -> None:
        """Serve until the connection ends. A client can never make this raise."""
        try:
            with self._whole:
                async with trio.open_nursery() as nursery:
                    self._requests = Requests(nursery)
                    self._engine = self._make(Http1)
                    if self._draining_since is not None or self._past is not None:
                        await self._engine.drain()
                    await self._converse(self._requests)
                    nursery.cancel_scope.cancel()
        except Exception:
            client = None if self._client is None else parse_address(self._client[0])
            shown = logs.fields(client=logs.show_client(client))
            _log.exception("a connection ended in an error of ours", extra=shown)
        finally:
            self._stream.close()
            if isinstance(self._engine, Http2):
                self._engine.take_apart()

    def check(self, now: float) -> None:
        """End or drain the connection if a deadline has passed; `now` is monotonic seconds."""
        requests = self._requests
        if requests is None:  # not begun
            return
        if self._is_stuck(requests, now):
            self.abort()
        elif now - self._opened_at >= self._deadlines.age_s:
            self.drain()
        elif not requests.open:
            self._check_idle(requests, now)

    def drain(self) -> None:
        """Take no new request; end after those under way, at once if there are none."""
        if self._draining_since is not None or self._ending:
            return
        self._draining_since = trio.current_time()
        if self._requests is None or self._engine is None:
            return
        if isinstance(self._engine, Http1) and not self._requests.open:
            self._reading.cancel()
        else:
            self._requests.spawn(self._engine.drain)

    def abort(self) -> None:
        """End at once; requests under way are cancelled."""
        self._whole.cancel()

    def _is_stuck(self, requests: Requests, now: float) -> bool:
        """Whether a deadline has passed after which nothing more can be hoped for."""
        since = self._draining_since
        if since is not None and now - since >= self._deadlines.drain_s:
            return True
        return any(
            exchange.answering_since is not None
            and now - exchange.answering_since >= self._deadlines.write_s
            for exchange in requests.open
        )

    def _check_idle(self, requests: Requests, now: float) -> None:
        pending = isinstance(self._engine, Http1) and self._engine.connection.head_pending
        if not pending:
            self._head_since = None
        elif self._head_since is None:
            self._head_since = now
        first_head = now - self._awaited_since if requests.served == 0 else 0.0
        head = max(first_head, 0.0 if self._head_since is None else now - self._head_since)
        idle = now - requests.idle_since
        if head >= self._deadlines.head_s or idle >= self._deadlines.idle_s:
            self.drain()

    async def _converse(self, requests: Requests) -> None:
        """Feed the protocol until the client or we end the connection."""
        try:
            with self._reading:
                while data := await self._stream.receive_some():
                    await self._handle(RawData(data))
                await self._handle(Closed())
        finally:
            self._ending = True
        if self._reading.cancel_called:
            requests.give_up()
            with trio.move_on_after(self._deadlines.linger_s):
                async with self._send_lock:
                    await self._stream.linger()

    async def _handle(self, event: Event) -> None:
        assert self._engine is not None  # noqa: S101  # run() makes it before it reads
        try:
            await self._engine.handle(event)
        except H2ProtocolAssumedError as preface:
            self._engine = self._make(Http2)
            await self._engine.initiate()
            await self._engine.handle(RawData(preface.data))

    async def _send(self, event: Event) -> None:
        """What the protocols call: bytes for the client, or the wish to end."""
        if isinstance(event, RawData):
            async with self._send_lock:
                sent = await self._stream.send_all(event.data)
            if not sent:
                self.abort()
                await trio.lowlevel.checkpoint()  # raises Cancelled: nobody is there
        elif isinstance(event, Closed):
            self._reading.cancel()

    def _make(self, protocol: type[_Engine]) -> _Engine:
        return protocol(
            self._app,
            _config(),
            WorkerContext(None),
            self._requests,
            ConnectionState({}),
            False,  # TLS is the business of whoever stands in front
            self._client,
            self._server,
            self._send,
        )
