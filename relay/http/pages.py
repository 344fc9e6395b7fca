"""The page at ``/``: what this relay is, how it is doing, and a look into any key.

The page is Quart's, on Trio; this module is imported when it is first wanted, because
Quart takes longer to import than everything else together. All that others wrote (a key,
record data) is escaped by the template, and nothing is loaded from anywhere: the style
sheet is part of the page and named by its hash in the Content-Security-Policy.

Source: issue 3, section 6; design/protocol.md, section 4.6; CSP level 3.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio
from markupsafe import Markup
from quart import Response, make_response, render_template, request
from quart_trio import QuartTrio

from relay.errors import PublicKeyError, RelayError
from relay.http.figures import overview, span
from relay.http.httpdate import format_http_date
from relay.http.messages import Answer, Message
from relay.pkarr.keys import PublicKey
from relay.pkarr.policy import ResolvePolicy

if TYPE_CHECKING:
    from relay.pkarr.dns_text import Record
    from relay.pkarr.packet import SeenPacket
    from relay.service import RelayService, Spend

FOLDER: Final = Path(__file__).parent
QUERY_TEXT_MAX: Final = 512
"""Longer text in the form's field is no key; it is not repeated on the page."""
_SPEND: Final = "relay.spend"
"""Where the scope carries the client's DHT quota to the view."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What the form's look-up came to: a packet, or one sentence."""

    text: str
    """What was asked for, as it was typed."""
    key: str = ""
    message: str = ""
    modified: str = ""
    seen: str = ""
    ttl: str = ""
    size: int = 0
    stale: bool = False
    records: Sequence[Record] = ()

    def short_name(self, record: Record) -> str:
        """Return a record's name without the key that all of a packet's names end in."""
        if record.name == self.key:
            return "@"
        return record.name.removesuffix(f".{self.key}")


class Pages:
    """The Quart application behind ``/``; `index` runs it for one request."""

    def __init__(self, service: RelayService, wall_clock_us: Callable[[], int]) -> None:
        self._service = service
        self._wall_clock_us = wall_clock_us
        self._style = (FOLDER / "index.css").read_text(encoding="utf-8")
        digest = b64encode(sha256(self._style.encode()).digest()).decode()
        self._headers = {
            "Content-Security-Policy": (
                f"default-src 'none'; style-src 'sha256-{digest}'; form-action 'self';"
                " base-uri 'none'; frame-ancestors 'none'"
            ),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        }
        self._quart = QuartTrio(__name__, static_folder=None, template_folder=str(FOLDER))
        # What goes wrong in a view is the caller's to log and to answer.
        self._quart.config["PROPAGATE_EXCEPTIONS"] = True
        self._quart.add_url_rule("/", view_func=self._view, methods=["GET"])

    async def index(self, query: bytes, spend: Spend) -> Answer:
        """Return the page; with ``?key=`` in `query` that key is looked up.

        Args:
            query: the raw query string; fields other than ``key`` are ignored.
            spend: takes one unit of the client's DHT quota.
        """
        scope: dict[str, Any] = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/",
            "raw_path": b"/",
            "query_string": query,
            "root_path": "",
            "headers": [(b"host", b"relay")],
            "client": None,
            "server": None,
            "extensions": {},
            _SPEND: spend,
        }
        capture = _Capture()
        await self._quart(scope, capture.receive, capture.send)  # type: ignore[arg-type]
        return Answer(capture.status, capture.headers, bytes(capture.body))

    async def _view(self) -> Response:
        text = request.args.get("key", "").strip()
        finding = await self._look_up(text, request.scope[_SPEND]) if text else None  # type: ignore[typeddict-item]
        html = await render_template(
            "index.html",
            style=Markup(self._style),  # noqa: S704  # our own file
            relay=overview(self._service.stats()),
            health=self._service.health(),
            finding=finding,
        )
        response: Response = await make_response(html, self._headers)  # type: ignore[assignment]
        return response

    async def _look_up(self, text: str, spend: Spend) -> Finding:
        """Look a key up as a GET would; every failure is a sentence on the page."""
        shown = text if len(text) <= QUERY_TEXT_MAX else ""
        try:
            key = PublicKey.parse(text)
            resolved = await self._service.resolve(key, ResolvePolicy.CACHE_FIRST, spend=spend)
        except PublicKeyError as error:
            return Finding(shown, message=f"This is not a public key: {error}.")
        except RelayError as error:
            return Finding(shown, str(key), message=f"{error}.")
        if resolved is None:
            return Finding(shown, str(key), message="Nobody has published a packet for this key.")
        return self._found(shown, resolved.seen, stale=resolved.stale)

    def _found(self, text: str, seen: SeenPacket, *, stale: bool) -> Finding:
        packet, service = seen.packet, self._service
        return Finding(
            text,
            str(packet.public_key),
            modified=format_http_date(packet.timestamp_us),
            seen=span(seen.elapsed_s(self._wall_clock_us())),
            ttl=span(packet.ttl(service.ttl_min_s, service.ttl_max_s)),
            size=len(packet.dns),
            stale=stale,
            records=packet.records(),
        )


class _Capture:
    """The ASGI channels of one request without a body, whose answer is collected."""

    def __init__(self) -> None:
        self.status = 500
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = bytearray()
        self._asked = False

    async def receive(self) -> Message:
        if self._asked:
            await trio.sleep_forever()  # Quart listens for a disconnect until it has answered
        self._asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = [
                (name, value) for name, value in message["headers"] if name != b"content-length"
            ]
        else:
            self.body += message.get("body", b"")
