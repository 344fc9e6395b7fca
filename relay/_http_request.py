"""One HTTP/1.1 request over Trio: what a Pkarr client needs, and nothing that it must not do.

No redirects are followed, no cookies, proxies or credentials known; only ``http`` and
``https``. One connection serves one request. How much of an answer is read is limited, how
long it may take is up to the caller's cancel scope.

The protocol itself is h11's, which Hypercorn brings along.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import urlsplit

import h11
import trio

from relay.errors import RelayError

HEADER_BYTES_MAX: Final = 16 * 1024
RECEIVE_BYTES: Final = 4096
REASON_MAX: Final = 200
"""Characters; what went wrong may be told in words of the server's."""
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_HOST_NAME: Final = re.compile(r"(?=.{1,253}\.?$)[^.]{1,63}(\.[^.]{1,63})*\.?")
"""As far as a name has to be one to be looked up: Python encodes no other."""

Headers = Iterable[tuple[str, str]]


class RequestFailedError(RelayError):
    """The network's or the server's: there is no answer, or none that makes sense."""


class _UnusableError(Exception):
    """What came is not worth reading on, or ended too early."""


@dataclass(frozen=True, slots=True)
class BaseUrl:
    """Where a server is: everything of a URL up to the part that differs between requests."""

    scheme: str
    host: str
    port: int
    path: str
    """Without trailing slash; empty for the root."""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Take a URL apart.

        Raises:
            ValueError: not ``http`` or ``https``, or with parts that have no place here.

        >>> BaseUrl.parse("https://relay.example/pkarr/")
        BaseUrl(scheme='https', host='relay.example', port=443, path='/pkarr')
        """
        if not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError(f"a URL has only printable ASCII characters: {_shown(url)}")
        parts = urlsplit(url)
        if parts.scheme not in _DEFAULT_PORTS:
            raise ValueError(
                f"a relay's URL begins with http:// or https://, not as in {_shown(url)}"
            )
        if not parts.hostname or "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError(f"a relay's URL has a host, perhaps a port and a path: {_shown(url)}")
        if ":" not in parts.hostname and not _HOST_NAME.fullmatch(parts.hostname):
            raise ValueError(
                "a host's name has labels of 1 to 63 letters between its dots, 253 in all, not as"
                f" in {_shown(url)}"
            )
        try:
            port = parts.port
        except ValueError:  # it quotes what it takes for the port
            port = 0
        if port == 0:
            raise ValueError(f"a URL's port is 1 to 65535, not as in {_shown(url)}")
        default = _DEFAULT_PORTS[parts.scheme]
        return cls(
            parts.scheme, parts.hostname, default if port is None else port, parts.path.rstrip("/")
        )

    @property
    def authority(self) -> str:
        """The ``Host`` header: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


def _shown(url: str) -> str:
    """Return how a message quotes a bad URL: without what may be a user and a password.

    >>> _shown("ftp://me:secret@relay.example/")
    "'ftp://...@relay.example/'"
    """
    return repr(re.sub(r"(?s)//.*@", "//...@", url) if "//" in url else url.rpartition("@")[2])


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    """Names in lower case."""
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        """Return the value of a header; with several of that name the first counts."""
        return next((value for each, value in self.headers if each == name), None)


async def request(
    method: str,
    base: BaseUrl,
    path: str,
    *,
    headers: Headers = (),
    body: bytes = b"",
    body_bytes_max: int,
    ssl_context: ssl.SSLContext | None = None,
) -> Answer:
    """Send a request and read the whole answer.

    Args:
        method: ``GET`` or ``PUT``.
        base: the server.
        path: appended to the path of `base`; already percent-encoded, with its query.
        headers: besides ``host``, ``accept``, ``connection`` and ``content-length``.
        body: sent if it is not empty.
        body_bytes_max: a longer answer is an error, as soon as that is known.
        ssl_context: for ``https``; None is the system's trust.

    Raises:
        RequestFailedError: no connection, a broken one, no HTTP, or too long an answer.
    """
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEADER_BYTES_MAX)
    length = [("content-length", str(len(body)))] if body else []
    head = h11.Request(
        method=method,
        target=f"{base.path}{path}",
        headers=[
            ("host", base.authority),
            ("accept", "*/*"),
            *headers,
            ("connection", "close"),
            *length,
        ],
    )
    events: list[h11.Event] = [head, h11.EndOfMessage()]
    if body:
        events.insert(1, h11.Data(data=body))
    octets = b"".join(connection.send(event) or b"" for event in events)
    try:
        async with await _connect(base, ssl_context) as stream:
            await _send(stream, octets)
            return await _read_answer(stream, connection, body_bytes_max)
    except (
        OSError,
        UnicodeError,  # a name that cannot be looked up, for whatever reason
        trio.BrokenResourceError,
        h11.RemoteProtocolError,
        _UnusableError,
    ) as error:
        raise RequestFailedError(f"{base}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Say what happened, even where the exception has no words and only its cause does."""
    while not str(error) and error.__cause__ is not None:
        error = error.__cause__
    return (str(error) or type(error).__name__)[:REASON_MAX]


async def _connect(base: BaseUrl, ssl_context: ssl.SSLContext | None) -> trio.abc.Stream:
    if base.scheme == "http":
        return await trio.open_tcp_stream(base.host, base.port)
    return await trio.open_ssl_over_tcp_stream(
        base.host,
        base.port,
        https_compatible=True,  # servers may close without saying so; h11 knows if it was too soon
        ssl_context=ssl_context or ssl.create_default_context(),
    )


async def _send(stream: trio.abc.Stream, octets: bytes) -> None:
    """Send, unless the server has already answered and closed: then the answer tells why."""
    try:
        await stream.send_all(octets)
    except trio.BrokenResourceError as error:
        if isinstance(error.__cause__, ssl.SSLError):
            raise


async def _read_answer(
    stream: trio.abc.Stream, connection: h11.Connection, body_bytes_max: int
) -> Answer:
    head: h11.Response | None = None
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some(RECEIVE_BYTES)))
        elif isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > body_bytes_max:
                raise _UnusableError(f"an answer of more than {body_bytes_max} bytes")
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            return Answer(head.status_code, tuple(head.headers), bytes(body))
        elif not isinstance(event, h11.InformationalResponse):
            raise _UnusableError("the connection was closed before an answer came")
