"""HTTP/1: Hypercorn's protocol on h11, with the reference's tolerance and our limits.

h11 is right to refuse an HTTP/1.1 request without `Host`; the reference answers it, and so
do we (transcript ``http11-nohost``). The parser here holds a request's head back until it
is whole, adds an empty `Host` where there is none, and only then hands it to h11. Holding
it back also makes the limit on its size exact. What others may read as a request of another
length is refused (RFC 9112, section 6.1), where h11 would choose one. What follows a request that
is to be the last is ignored, where h11 would have an error take the place of its answer. An
`Upgrade` is ignored, as RFC 9110, section 7.8, allows: h2c and WebSocket clients are answered in
HTTP/1.1.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast

import h11
from hypercorn.events import Event as WireEvent
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import Response
from hypercorn.protocol.h11 import H11Protocol

if TYPE_CHECKING:
    from relay.http.requests import Requests

HEAD_BYTES_MAX: Final = 16 * 1024
_HEAD_END: Final = re.compile(rb"\n\r?\n")  # h11 takes a bare LF, too
_HOST: Final = re.compile(rb"^host[ \t]*:", re.IGNORECASE | re.MULTILINE)
_NO_HOST: Final = b"host:\r\n"
_CLOSE: Final = (b"connection", b"close")


class RequestParser(h11.Connection):
    """h11's server side, fed with one whole head at a time."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)
        self._held = bytearray()
        self.body_broken = False
        """Whether the request's body is not what it says; nothing more is read then."""

    @property
    def head_pending(self) -> bool:
        """Whether a part of a head has come, and the rest has not."""
        return self.their_state is h11.IDLE and bool(self._held)

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the client; none means that it has ended."""
        if self.body_broken:
            return
        if self.their_state is h11.IDLE and data:
            self._held += data
        elif self.their_state is not h11.MUST_CLOSE:
            super().receive_data(data)

    def next_event(self) -> Any:  # noqa: ANN401  # h11's own signature: events and sentinels
        """Return the next event, as h11 does.

        Raises:
            h11.RemoteProtocolError: not HTTP (400), or a head that is too large (431).
        """
        if self.their_state is h11.MUST_CLOSE or self.body_broken:
            return h11.NEED_DATA
        if self.head_pending:
            self._release_head()
        in_body = self.their_state is h11.SEND_BODY
        try:
            event = super().next_event()
        except h11.RemoteProtocolError:
            if not in_body:
                raise
            self.body_broken = True
            return h11.NEED_DATA
        if not isinstance(event, h11.Request):
            return event
        _check_framing(event)
        return _without_upgrade(event)

    def start_next_cycle(self) -> None:
        """Begin the next request, with what has already come of it."""
        super().start_next_cycle()
        received, ended = self.trailing_data
        # h11 does not give back what it has buffered: a fresh parser takes its place.
        self.__init__()  # type: ignore[misc]
        if received:
            self.receive_data(received)
        if ended:
            self.receive_data(b"")

    def _release_head(self) -> None:
        while self._held.startswith((b"\r\n", b"\n")):  # RFC 9112, section 2.2
            del self._held[: self._held.index(b"\n") + 1]
        if self._held[:1] <= b" " and bytes(self._held[:2]) not in (b"", b"\r"):
            raise h11.RemoteProtocolError("illegal request line")
        end = _HEAD_END.search(self._held)
        size = len(self._held) if end is None else end.end()
        if size > HEAD_BYTES_MAX:
            raise h11.RemoteProtocolError("request head too large", error_status_hint=431)
        if end is None:
            return
        line_end = self._held.index(b"\n") + 1
        request_line, fields = self._held[:line_end], self._held[line_end:size]
        if request_line.rstrip().endswith(b"HTTP/1.1") and not _HOST.search(fields):
            if fields.startswith((b" ", b"\t")):  # it would become a part of our field
                raise h11.RemoteProtocolError("continuation of no field")
            request_line += _NO_HOST
        body = bytes(self._held[size:])
        self._held.clear()
        super().receive_data(bytes(request_line + fields) + body)


def _check_framing(request: h11.Request) -> None:
    names = {name for name, _ in request.headers}
    if b"transfer-encoding" in names and (
        b"content-length" in names or request.http_version < b"1.1"
    ):
        raise h11.RemoteProtocolError("a body of two lengths")


def _without_upgrade(request: h11.Request) -> h11.Request:
    fields = [(name, value) for name, value in request.headers if name != b"upgrade"]
    if len(fields) == len(request.headers):
        return request
    return h11.Request(
        method=request.method,
        target=request.target,
        headers=fields,
        http_version=request.http_version,
    )


class Http1(H11Protocol):
    """One HTTP/1 connection; after `drain` the next answer is its last."""

    draining = False

    def __init__(self, *arguments: Any) -> None:  # noqa: ANN401  # H11Protocol's
        super().__init__(*arguments)
        self.connection: RequestParser = RequestParser()

    async def drain(self) -> None:
        """Say in the answer under way that the connection ends with it."""
        self.draining = True

    async def handle(self, event: WireEvent) -> None:
        """Take bytes from the client, or the news that it has gone.

        A broken body ends the connection, but only after the answer, which may not depend on it.
        Hypercorn's 400 would meet that answer halfway, and then neither might be sent.
        """
        await super().handle(event)
        if self.connection.body_broken:
            cast("Requests", self.task_group).break_bodies()

    async def _create_stream(self, request: h11.Request) -> None:
        cast("Requests", self.task_group).method = request.method.decode("ascii")
        await super()._create_stream(request)

    async def stream_send(self, event: StreamEvent) -> None:
        """Send a part of an answer; Hypercorn's streams call this."""
        # Hypercorn ends the connection if the rest of the body has not come until then.
        unread = self.connection.their_state is h11.SEND_BODY
        is_last = self.draining or self.connection.body_broken or unread
        if is_last and isinstance(event, Response) and event.status_code >= 200:
            others = [field for field in event.headers if field[0] != _CLOSE[0]]
            event = replace(event, headers=[*others, _CLOSE])
        await super().stream_send(event)
