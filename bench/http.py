"""How many cached GETs does one core serve, and what does one cost?

1,000 keys in turn, packets of about 250 bytes, all in the cache and fresh; keep-alive
connections. Leaves out misses, TLS, HTTP/2, conditional requests and the rate limiter.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Final

from bench import anchors
from bench.anchors import Subject
from bench.harness import Loader, Plan, Row, fill, get, in_turns, packets

KEYS: Final = 1000
CONNECTIONS: Final = (1, 32)


def run(plan: Plan, loader: Loader) -> list[Row]:
    """Measure both relays at 1 and at 32 connections."""
    with ExitStack() as stack:
        net = stack.enter_context(anchors.network("ours"))
        subjects = [
            stack.enter_context(anchors.ours(net.bootstrap)),
            stack.enter_context(anchors.reference_release()),
        ]
        filled = packets(KEYS)
        for subject in subjects:
            fill(loader, subject, filled)
        rows = [Row(f"GET cached, {count} connections") for count in CONNECTIONS]

        def turn(subject: Subject) -> None:
            records = [get(packet) for packet in filled]
            loader.run(subject, records, connections=32, seconds=plan.warmup_s)
            for row, connections in zip(rows, CONNECTIONS, strict=True):
                sample = loader.run(subject, records, connections=connections, seconds=plan.seconds)
                row.add(subject, sample)

        in_turns(plan, subjects, turn)
    return rows
