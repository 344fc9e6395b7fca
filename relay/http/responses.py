"""The one place where a packet becomes status, headers and body.

Whatever serves packets (Hypercorn today, the front lane later) sends what this module
says, so that all ways in give the same answer.

Source: design/protocol.md, section 4.2; RFC 9110, sections 8.8 and 13; RFC 9111, 5.1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from relay.http.httpdate import format_http_date, parse_http_date
from relay.http.messages import Answer

if TYPE_CHECKING:
    from relay.http.messages import Request
    from relay.pkarr.packet import SeenPacket

PAYLOAD_TYPE: Final = b"application/pkarr.org/relays#payload"
_ENTITY_TAG: Final = re.compile(rb'(?:W/)?("[^"]*")')


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the client already has, according to its request."""

    if_none_match: bytes | None = None
    if_modified_since: bytes | None = None

    @classmethod
    def of(cls, request: Request) -> Conditions:
        """Read them from a request; of several dates the first counts."""
        tags = [value for name, value in request.headers if name == b"if-none-match"]
        return cls(b",".join(tags) if tags else None, request.header(b"if-modified-since"))

    def met_by(self, tag: bytes, timestamp_us: int) -> bool:
        """Tell whether the client's copy is still good, which makes the answer 304.

        `If-None-Match`, where there is one, wins. A date is compared in microseconds: a
        packet made within the second that the client names is newer (protocol.md, trap 4).
        """
        if self.if_none_match is not None:
            wanted = self.if_none_match.strip(b" \t")
            return wanted == b"*" or tag in _ENTITY_TAG.findall(wanted)
        if self.if_modified_since is None:
            return False
        date_us = parse_http_date(self.if_modified_since)
        return date_us is not None and timestamp_us <= date_us


def entity_tag(payload: bytes) -> bytes:
    """Return a strong entity tag: it changes exactly when the bytes do."""
    return b'"%b"' % blake2b(payload, digest_size=16).hexdigest().encode()


def packet_answer(
    seen: SeenPacket, conditions: Conditions, *, ttl_s: int, now_us: int, stale: bool = False
) -> Answer:
    """Return 200 with the packet, or 304 if the client has it.

    Args:
        seen: the packet and when it was last seen, which is its memento time.
        conditions: what the client has.
        ttl_s: the packet's time to live within the configured bounds, seconds. `Age` tells
            how much of it has passed, so that shared caches do not start anew.
        now_us: the wall clock, microseconds since 1970.
        stale: it is served past its time because the DHT is silent: not to be kept.
    """
    packet = seen.packet
    payload = packet.to_relay_payload()
    tag = entity_tag(payload)
    headers = (
        (b"content-type", PAYLOAD_TYPE),
        (b"cache-control", b"public, max-age=%d" % (0 if stale else ttl_s)),
        (b"age", b"%d" % seen.elapsed_s(now_us)),
        (b"etag", tag),
        (b"last-modified", format_http_date(packet.timestamp_us).encode()),
        (b"memento-datetime", format_http_date(seen.last_seen_us).encode()),
    )
    if conditions.met_by(tag, packet.timestamp_us):
        return Answer(304, headers)
    return Answer(200, headers, payload)
