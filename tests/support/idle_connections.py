"""What connections cost that do nothing, by what they did before."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Final

from tests.support.http_floods import PREFACE, SETTINGS, Hot, Target, frame, idle, kernel_bytes

GROWTH_MAX: Final = 50 * 1000 * 1000
"""Bytes of resident memory above idle, with 10,000 connections of a kind on the lane."""
LANE: Final = {
    "nothing": (b"", b""),
    "one request": (None, b"HTTP/1.1 200 "),
    "half a head": (b"GET /yyyyyyyy", b""),
    "half a body": (
        b"PUT /" + b"y" * 52 + b" HTTP/1.1\r\nContent-Length: 1000\r\n\r\n" + bytes(500),
        b"",
    ),
}
"""What each connection sends, None for a request for the packet; what it waits for then."""
HANDED_ON: Final = {
    "HTTP/2": (PREFACE + frame(SETTINGS), frame(SETTINGS, flags=1)),
    "half a head, handed on": (b"POST / HTTP/1.0\r\n", b""),
}


def measure(target: Target, kind: str, count: int, *, beyond: int = 0) -> float:
    """Open so many connections, ask for the packet beside them; bytes of memory for each.

    `beyond` of the kind are open already: what is taken once, or kept by the allocator, is theirs.
    """
    sent, answer = {**LANE, **HANDED_ON}[kind]
    sent = target.get if sent is None else sent
    with idle(target, beyond, sent, answer) if beyond else nullcontext():
        return _measure(target, kind, count, sent, answer, beyond)


def _measure(
    target: Target, kind: str, count: int, sent: bytes, answer: bytes, beyond: int
) -> float:
    before, kernel_before = target.relay.rss_bytes(), kernel_bytes()
    with idle(target, count, sent, answer, beyond):
        with Hot(target) as hot:
            for _ in range(50):
                target.assert_unharmed()
        grown = target.relay.rss_bytes() - before
        kernel = {name: size - kernel_before[name] for name, size in kernel_bytes().items()}
    shown = ", ".join(f"{name} {size / count:.0f}" for name, size in kernel.items())
    print(
        f"{count} connections, {kind}: {grown / 1e6:.1f} MB, {grown / count:.0f} bytes each; "
        f"in the kernel, both ends, bytes each: {shown}; {hot.told()}"
    )
    return grown / count
