"""The page at ``/``: what this relay is, how it is doing, and a look into any key.

The page is a template of Quart's, on Trio; this module is imported when it is first wanted,
because Quart takes longer to import than everything else together. Of its way from a request to
a view nothing is used: that cost three times as much as the page, and frequent requests waited
for it. All that others wrote (a key, record data) is escaped by the template, and nothing is
loaded from anywhere: the style sheet is part of the page and named by its hash in the
Content-Security-Policy.

Source: issue 3, section 6; design/protocol.md, section 4.6; CSP level 3.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

from markupsafe import Markup
from quart_trio import QuartTrio

from relay.errors import PublicKeyError, RelayError
from relay.http.figures import overview, span
from relay.http.httpdate import format_http_date
from relay.http.messages import Answer
from relay.http.query import fields
from relay.pkarr.keys import PublicKey
from relay.pkarr.policy import ResolvePolicy

if TYPE_CHECKING:
    from relay.pkarr.dns_text import Record
    from relay.pkarr.packet import SeenPacket
    from relay.service import RelayService, Spend

FOLDER: Final = Path(__file__).parent
QUERY_TEXT_MAX: Final = 512
"""Longer text in the form's field is no key; it is not repeated on the page."""


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
    """What is at ``/``."""

    def __init__(self, service: RelayService, wall_clock_us: Callable[[], int]) -> None:
        self._service = service
        self._wall_clock_us = wall_clock_us
        style = (FOLDER / "index.css").read_text(encoding="utf-8")
        digest = b64encode(sha256(style.encode()).digest())
        self._style = Markup(style)  # noqa: S704  # our own file
        self._headers = (
            (b"content-type", b"text/html; charset=utf-8"),
            (
                b"content-security-policy",
                b"default-src 'none'; style-src 'sha256-%b'; form-action 'self';"
                b" base-uri 'none'; frame-ancestors 'none'" % digest,
            ),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
            (b"cache-control", b"no-store"),
        )
        quart = QuartTrio(__name__, static_folder=None, template_folder=str(FOLDER))
        self._template = quart.jinja_env.get_template("index.html")

    async def index(self, query: bytes, spend: Spend) -> Answer:
        """Return the page; with ``?key=`` in `query` that key is looked up.

        Args:
            query: the raw query string; fields other than the first ``key`` are ignored.
            spend: takes one unit of the client's DHT quota.
        """
        text = next((value for name, value in fields(query) if name == "key"), "").strip()
        finding = await self._look_up(text, spend) if text else None
        html = await self._template.render_async(
            style=self._style,
            relay=overview(self._service.stats()),
            health=self._service.health(),
            finding=finding,
        )
        return Answer(200, self._headers, html.encode())

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
