"""A request as handlers see it, and an answer before it goes out.

Every answer of the relay is small and complete, so it is a value: layers around a handler
add fields to it instead of wrapping channels.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import trio

from relay.errors import BodyTooLargeError, RelayError
from relay.http.counters import Cached

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
HeaderList: TypeAlias = Sequence[tuple[bytes, bytes]]

BODY_TIMEOUT_S: Final = 30.0
TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")


class ClientGoneError(Exception):
    """The client hung up; nobody waits for an answer."""


class BodyTimeoutError(RelayError):
    """The client's: its request body did not arrive in `BODY_TIMEOUT_S`."""

    def __init__(self) -> None:
        super().__init__("The request body did not arrive in time")


class BodyBrokenError(RelayError):
    """The client's: its request body is not framed as it says."""

    def __init__(self) -> None:
        super().__init__("Failed to buffer the request body: error reading a body from connection")


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response; `content-length` and what every response carries is added later."""

    status: int
    headers: HeaderList = ()
    body: bytes = b""

    @classmethod
    def text(cls, status: int, text: str, headers: HeaderList = ()) -> Answer:
        """Return an answer whose body is `text`, UTF-8."""
        return cls(status, (TEXT, *headers), text.encode())


@dataclass(slots=True)
class Request:
    """One HTTP request; header names are in lower case."""

    method: str
    path: bytes
    """As sent: still percent-encoded, without scheme, host and query."""
    query: bytes
    headers: HeaderList
    peer: str | None
    """The TCP peer's address; None for a Unix socket."""
    receive: Receive
    closable: bool = True
    """HTTP/1: a `connection` field may be sent."""
    content: bytes | None = None
    """The whole body, where it was read before; then `receive` is not called."""
    cached: Cached = "none"
    """What the cache knew, as whoever answers finds out; for the counters."""

    def header(self, name: bytes) -> bytes | None:
        """Return the first value of a field, or None."""
        for header, value in self.headers:
            if header == name:
                return value
        return None

    async def body(self, limit: int) -> bytes:
        """Read the request body.

        Raises:
            BodyTooLargeError: it is, or says it is, over `limit` bytes; it may not have
                been read to its end.
            BodyTimeoutError: it stopped arriving.
            BodyBrokenError: its framing is broken.
            ClientGoneError: the client hung up.
        """
        declared = self.header(b"content-length") or b""
        if declared.isdigit() and int(declared[:20]) > limit:
            raise BodyTooLargeError(limit)
        if self.content is not None:
            if len(self.content) > limit:
                raise BodyTooLargeError(limit)
            return self.content
        body = bytearray()
        with trio.move_on_after(BODY_TIMEOUT_S):
            while True:
                message = await self.receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                body += message.get("body", b"")
                if len(body) > limit:
                    raise BodyTooLargeError(limit)
                if not message.get("more_body", False):
                    return bytes(body)
        raise BodyTimeoutError
