"""The relay as an ASGI application.

    HTTP limiter  →  CORS  →  route by raw path  →  handler

An answer is a value; what the layers add to it is added in one place, `_finished`. Paths
are routed as they were sent: a framework's converter would decode them first. Only the
page is made with Quart; that part is imported when it is first wanted, or by `warm_up`.
"""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote

import trio

from relay.errors import RelayError
from relay.http.cors import cors_headers
from relay.http.counters import Counters
from relay.http.errors import error_answer
from relay.http.limits import Admission, HttpLimits
from relay.http.messages import (
    Answer,
    ClientGoneError,
    HeaderList,
    Receive,
    Request,
    Scope,
    Send,
)
from relay.http.packets import PacketHandlers
from relay.http.query import origin_form
from relay.http.routes import Kind, Route, route_of
from relay.http.tracing import Trace
from relay.threads import NoThreadError, in_thread

if TYPE_CHECKING:
    from relay.http.clients import Client
    from relay.http.pages import Pages
    from relay.service import RelayService, Spend

_log: Final = logging.getLogger("pkarr_relay.http")
_JSON: Final = ((b"content-type", b"application/json"), (b"cache-control", b"no-store"))
_DESCRIBED: Final = (
    (b"content-type", b"application/json"),
    (b"cache-control", b"public, max-age=3600"),
)
DESCRIPTION: Final = Path(__file__).parent / "openapi.json"
"""All this in the words of OpenAPI 3.1; `tests/unit/http/test_openapi.py` holds it to the code."""


class Response(NamedTuple):
    """A finished answer: `headers` lack only what belongs to a version of HTTP."""

    status: int
    headers: HeaderList
    body: bytes


class App:
    """Answers the HTTP requests of one relay; see `create_app`."""

    def __init__(
        self,
        service: RelayService,
        wall_clock_us: Callable[[], int],
        limits: HttpLimits,
        counters: Counters,
    ) -> None:
        self.service = service
        self._packets = PacketHandlers(service, wall_clock_us)
        self.checker: Final = self._packets.checker
        self._wall_clock_us = wall_clock_us
        self.limits = limits
        self.counters = counters
        self._pages: Pages | None = None
        self._pages_lock = trio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope of type ``http``; a WebSocket is refused."""
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        response = await self.respond(_request(scope, receive))
        if response is None:
            return
        status, headers, body = response
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def respond(self, request: Request) -> Response | None:
        """Answer one request, whichever way it came; None if its client has gone meanwhile."""
        trace = Trace(request, self.limits.rules)
        route = route_of(request.path)
        client = self.limits.client_of(request.peer, request.headers)
        admission = None if route.kind is Kind.HEALTH else self.limits.admit(client)
        try:
            if admission is not None and not admission.allowed:
                answer = _too_many(admission)
            else:
                answer = await self._answer(request, route, client)
        except ClientGoneError:
            self._count(request, route, 499, trace)
            trace.ended(route, client, 499)
            return None
        self._count(request, route, answer.status, trace)
        trace.ended(route, client, answer.status, answer.body if answer.status >= 400 else b"")
        return Response(answer.status, *_finished(request, answer, admission))

    def _count(self, request: Request, route: Route, status: int, trace: Trace) -> None:
        kind = _kind_of(request, route)
        self.counters.count_request(kind, status, request.cached, trace.elapsed_s())

    async def warm_up(self) -> Pages:
        """Import what the page needs, in a thread; requests go on meanwhile."""
        async with self._pages_lock:
            if self._pages is None:
                try:
                    self._pages = await in_thread(self._make_pages)
                except NoThreadError:
                    self._pages = self._make_pages()
                gc.freeze()  # so many new modules would be looked through for garbage
            return self._pages

    async def _answer(self, request: Request, route: Route, client: Client) -> Answer:
        """Route one admitted request. Whatever goes wrong is an answer, too."""
        try:
            if request.method == "OPTIONS":
                return Answer(200, route.allow)
            if route.kind is Kind.UNKNOWN:
                return Answer(404)
            if request.method == "PUT" and route.kind is Kind.PACKET:
                return await self._packets.put(request, route.segment, self._spend(client))
            if request.method not in ("GET", "HEAD"):
                return Answer(405, route.allow)
            return await self._read(request, route, client)
        except RelayError as error:
            answer = error_answer(error, closable=request.closable)
            if answer is not None:
                return answer
            _log.exception("%s %r failed", request.method, request.path)
        except ClientGoneError:
            raise
        except Exception:
            _log.exception("%s %r failed", request.method, request.path)
        return Answer(500)

    async def _read(self, request: Request, route: Route, client: Client) -> Answer:
        match route.kind:
            case Kind.HEALTH:
                return self._health()
            case Kind.STATS:
                return _json_answer(200, self.service.stats())
            case Kind.DESCRIPTION:
                return Answer(200, _DESCRIBED, _description())
            case Kind.INDEX:
                pages = await self.warm_up()
                return await pages.index(request.query, self._spend(client))
            case _:
                return await self._packets.get(request, route.segment, self._spend(client))

    def _spend(self, client: Client) -> Spend:
        return self.limits.spender(client)

    def _health(self) -> Answer:
        health = self.service.health()
        parts = {
            name: {"status": "ok"} if trouble is None else {"status": "degraded", "reason": trouble}
            for name, trouble in health.parts.items()
        }
        body = {"status": health.status, "parts": parts}
        return _json_answer(200 if health.serving else 503, body)

    def _make_pages(self) -> Pages:
        from relay.http.pages import Pages  # Quart takes a third of a second to import

        return Pages(self.service, self._wall_clock_us)


def create_app(
    service: RelayService,
    *,
    wall_clock_us: Callable[[], int],
    limits: HttpLimits | None = None,
    counters: Counters | None = None,
) -> App:
    """Return the ASGI application of a relay, for ``http`` scopes; lifespan is the caller's.

    Args:
        service: what answers.
        wall_clock_us: microseconds since 1970.
        limits: None: nothing is limited.
        counters: counts requests; a new one if left out.
    """
    return App(service, wall_clock_us, limits or HttpLimits(None), counters or Counters())


def _request(scope: Scope, receive: Receive) -> Request:
    raw_path: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    client = scope.get("client")
    return Request(
        method=scope["method"],
        path=origin_form(raw_path.partition(b"?")[0]),
        query=scope["query_string"],
        headers=list(scope["headers"]),
        peer=client[0] if client else None,
        receive=receive,
        closable=scope["http_version"].startswith("1"),
    )


def _kind_of(request: Request, route: Route) -> str:
    """Name a request for the counters: a small fixed set, whatever clients send."""
    if request.method == "OPTIONS":
        return "preflight"
    if route.kind is Kind.PACKET and request.method in ("GET", "HEAD", "PUT"):
        return request.method.lower()
    return route.kind.value


def _finished(
    request: Request, answer: Answer, admission: Admission | None
) -> tuple[HeaderList, bytes]:
    """Add what every answer carries; return its fields and the body to send."""
    headers = [*answer.headers, *cors_headers(request)]
    if admission is not None:
        headers.extend(admission.headers())
    is_head = request.method == "HEAD"
    if answer.status == 304:
        if is_head:  # the reference's habit
            headers.append((b"content-length", b"0"))
    elif answer.status != 204:
        headers.append((b"content-length", b"%d" % len(answer.body)))
    return headers, b"" if is_head else answer.body


def _too_many(admission: Admission) -> Answer:
    return Answer(429, body=b"Too Many Requests! Wait for %ds" % admission.wait_s)


@cache
def _description() -> bytes:
    """Return the document without the blanks that make it readable here."""
    return json.dumps(json.loads(DESCRIPTION.read_bytes()), separators=(",", ":")).encode()


def _json_answer(status: int, value: object) -> Answer:
    return Answer(status, _JSON, json.dumps(value, indent=2, default=str).encode() + b"\n")
