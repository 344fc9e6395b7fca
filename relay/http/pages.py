"""The page at ``/``: what this relay is, how it is doing, and a look into any key.

The page is a template of Quart's, on Trio; this module is imported when it is first wanted,
because Quart takes longer to import than everything else together. Of its way from a request to
a view nothing is used: that cost three times as much as the page, and frequent requests waited
for it. All that others wrote (a key, record data) is escaped by the template, and nothing is
loaded from anywhere: the style sheet and the script are part of the page, named by their hashes in
the Content-Security-Policy. The script only renews the figures; without it the page is whole.

Source: issue 3, section 6; design/protocol.md, section 4.6; CSP level 3.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio
from markupsafe import Markup
from quart_trio import QuartTrio

from relay.errors import PublicKeyError, RelayError
from relay.http.figures import overview, span
from relay.http.httpdate import format_http_date
from relay.http.messages import Answer
from relay.http.query import fields
from relay.pkarr.iroh import iroh_attributes
from relay.pkarr.keys import PublicKey
from relay.pkarr.policy import ResolvePolicy

if TYPE_CHECKING:
    from relay.pkarr.dns_text import Record
    from relay.pkarr.packet import SeenPacket
    from relay.service import RelayService, Spend

FOLDER: Final = Path(__file__).parent
KEPT_S: Final = 1.0
"""A page without a look-up is shown again for so long: making one takes as long as some forty
answers to frequent requests, which wait meanwhile."""
QUERY_TEXT_MAX: Final = 512
"""Longer text in the form's field is no key; it is not repeated on the page."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What the form's look-up came to: a packet, or one sentence."""

    text: str
    """What was asked for, as it was typed."""
    key: str = ""
    key_hex: str = ""
    """The same as iroh spells it."""
    message: str = ""
    modified: str = ""
    seen: str = ""
    ttl: str = ""
    size: int = 0
    stale: bool = False
    records: Sequence[Record] = ()
    iroh: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What an iroh endpoint says of itself, if the packet is one's."""

    def short_name(self, record: Record) -> str:
        """Return a record's name without the key that all of a packet's names end in."""
        if record.name == self.key:
            return "@"
        return record.name.removesuffix(f".{self.key}")


def _own(name: str) -> tuple[Markup, bytes]:
    """Return a file of ours that goes into the page as it is, and its hash for the policy."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    return Markup(text), b64encode(sha256(text.encode()).digest())  # noqa: S704  # our own file


class Pages:
    """What is at ``/``."""

    def __init__(self, service: RelayService, wall_clock_us: Callable[[], int]) -> None:
        self._service = service
        self._wall_clock_us = wall_clock_us
        self._style, style_hash = _own("index.css")
        self._script, script_hash = _own("index.js")
        self._headers = (
            (b"content-type", b"text/html; charset=utf-8"),
            (
                b"content-security-policy",
                b"default-src 'none'; style-src 'sha256-%b'; script-src 'sha256-%b';"
                b" connect-src 'self'; form-action 'self'; base-uri 'none';"
                b" frame-ancestors 'none'" % (style_hash, script_hash),
            ),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
            (b"cache-control", b"no-store"),
        )
        quart = QuartTrio(__name__, static_folder=None, template_folder=str(FOLDER))
        self._kept: Answer | None = None
        self._kept_at = 0.0
        self._template = quart.jinja_env.get_template("index.html")

    async def index(self, query: bytes, spend: Spend) -> Answer:
        """Return the page; with ``?key=`` in `query` that key is looked up.

        Args:
            query: the raw query string; fields other than the first ``key`` are ignored.
            spend: takes one unit of the client's DHT quota.
        """
        text = next((value for name, value in fields(query) if name == "key"), "").strip()
        if text:
            return await self._page(await self._look_up(text, spend))
        now = trio.current_time()
        if self._kept is None or now - self._kept_at >= KEPT_S:
            self._kept, self._kept_at = await self._page(None), now
        return self._kept

    async def _page(self, finding: Finding | None) -> Answer:
        html = await self._template.render_async(
            style=self._style,
            script=self._script,
            relay=overview(self._service.stats()),
            health=self._service.health(),
            finding=finding,
        )
        return Answer(200, self._headers, html.encode())

    async def _look_up(self, text: str, spend: Spend) -> Finding:
        """Look a key up as a GET would; every failure is a sentence on the page."""
        shown = text if len(text) <= QUERY_TEXT_MAX else ""
        try:
            key = PublicKey.parse_any(text)
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
        key, records = packet.public_key, packet.records()
        return Finding(
            text,
            str(key),
            key.octets.hex(),
            modified=format_http_date(packet.timestamp_us),
            seen=span(seen.elapsed_s(self._wall_clock_us())),
            ttl=span(packet.ttl(service.ttl_min_s, service.ttl_max_s)),
            size=len(packet.dns),
            stale=stale,
            records=records,
            iroh=iroh_attributes(key, records),
        )
