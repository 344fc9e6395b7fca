"""The packet and the requests of tests about connections."""

from __future__ import annotations

from typing import Final

from relay.http.deadlines import Deadlines
from tests.integration.http_world import author

ALICE: Final = author(1)
BOB: Final = author(2)
"""Has published nothing."""
PACKET: Final = ALICE.packet(timestamp_us=1_755_302_400_000_000, ttl_s=3600)
PATH: Final = f"/{ALICE.key}"
GET: Final = f"GET {PATH} HTTP/1.1\r\nHost: relay.test\r\n\r\n".encode()
MISS: Final = f"GET /{BOB.key} HTTP/1.1\r\nHost: relay.test\r\n\r\n".encode()
PUT: Final = (
    f"PUT {PATH} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(PACKET.payload)}\r\n\r\n".encode()
    + PACKET.payload
)
CLOSE: Final = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
QUICK: Final = Deadlines(head_s=0.2, idle_s=0.4, write_s=0.3, age_s=60.0, drain_s=0.2, linger_s=0.2)
"""Deadlines that a test can wait for."""
