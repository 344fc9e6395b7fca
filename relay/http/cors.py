"""Cross-origin requests: everything is allowed, as in the reference; it mirrors.

Source: design/protocol.md, section 4 and 4.4; the Fetch standard, "CORS protocol".
"""

from __future__ import annotations

import re
from typing import Final

from relay.http.messages import Request

_VARY: Final = (
    b"vary",
    b"origin, access-control-request-method, access-control-request-headers",
)
_CREDENTIALS: Final = (b"access-control-allow-credentials", b"true")
_EXPOSE: Final = (
    b"access-control-expose-headers",
    b"pkarr-invalid-signed-packet-seq,pkarr-dht-stored-nodes",
)
_MIRRORED: Final = (
    (b"access-control-request-method", b"access-control-allow-methods"),
    (b"access-control-request-headers", b"access-control-allow-headers"),
)
# HTTP/2 can carry bytes that would split a response once a proxy rewrites it as HTTP/1.
_SAFE_VALUE: Final = re.compile(rb"[\x20-\x7e\x80-\xff]*")


def cors_headers(request: Request) -> list[tuple[bytes, bytes]]:
    """Return the fields that any answer to `request` carries."""
    headers = [_VARY, _CREDENTIALS]
    mirrored = [(b"origin", b"access-control-allow-origin")]
    if request.method == "OPTIONS":
        mirrored.extend(_MIRRORED)
    else:
        headers.append(_EXPOSE)
    for asked, allowed in mirrored:
        value = request.header(asked)
        if value is not None and _SAFE_VALUE.fullmatch(value):
            headers.append((allowed, value))
    return headers
