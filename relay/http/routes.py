"""Which handler a path belongs to.

    /                        the page
    /health  /healthz        whether the relay works
    /stats                   its figures
    /openapi.json            what can be asked of it, for programs
    /{key}                   packets; any other single segment is read as a key
    /pkarr/{key}             the same: iroh's default base URL ends in /pkarr
    /pkarr//{key}            the same: or in /pkarr/

Source: design/protocol.md, sections 4.1 and 8.3; issue 3, section 6.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

_PKARR: Final = b"/pkarr/"


class Kind(Enum):
    """What a path is for; the value names it in ``/stats``."""

    INDEX = "index"
    HEALTH = "health"
    STATS = "stats"
    DESCRIPTION = "openapi"
    PACKET = "packet"
    UNKNOWN = "unknown"


_FIXED: Final = {
    b"/": Kind.INDEX,
    b"/health": Kind.HEALTH,
    b"/healthz": Kind.HEALTH,
    b"/stats": Kind.STATS,
    b"/openapi.json": Kind.DESCRIPTION,
}
_READ: Final = ("GET", "HEAD")
METHODS: Final = {
    Kind.INDEX: _READ,
    Kind.HEALTH: _READ,
    Kind.STATS: _READ,
    Kind.DESCRIPTION: _READ,
    Kind.PACKET: (*_READ, "PUT"),
    Kind.UNKNOWN: (),
}


@dataclass(frozen=True, slots=True)
class Route:
    """The kind of a path and, for packets, the segment that should be a key."""

    kind: Kind
    segment: bytes = b""

    @property
    def allow(self) -> list[tuple[bytes, bytes]]:
        """The `allow` field: the methods of this path, none for an unknown one."""
        methods = METHODS[self.kind]
        return [(b"allow", ",".join(methods).encode())] if methods else []


def route_of(path: bytes) -> Route:
    """Return the route of a path as it was sent, still percent-encoded."""
    if (kind := _FIXED.get(path)) is not None:
        return Route(kind)
    segment = path[len(_PKARR) :].removeprefix(b"/") if path.startswith(_PKARR) else path[1:]
    if not path.startswith(b"/") or not segment or b"/" in segment:
        return Route(Kind.UNKNOWN)
    return Route(Kind.PACKET, segment)
