"""How many cached GETs does one core serve, and what does one cost?

200 keys in turn, packets of 253 bytes, all in the cache and fresh; keep-alive connections. At 32
connections against the published Rust relay and iroh-dns-server, at 1,000 against the Rust relay,
and at 32 with the per-address limiter of both switched on, so high that it refuses nothing.
Leaves out TLS, HTTP/2 and conditional requests.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

from bench import anchors
from bench.anchors import Subject
from bench.harness import Load, Loader, Plan, add_sample, fill, get, in_turns, progress
from bench.library import Library
from bench.results import Goal, Row

KEYS: Final = 200
CONNECTIONS: Final = 32
MANY: Final = 1000
GROWTH: Final = (1, 10, 100)


def run(plan: Plan, loader: Loader) -> Iterator[Row]:
    """Measure all of them in turns."""
    filled = Library(KEYS)[:]
    with ExitStack() as stack:
        net = stack.enter_context(anchors.network("ours"))
        rust = stack.enter_context(anchors.network("rust"))
        ours = stack.enter_context(anchors.ours(net.bootstrap, packets=KEYS))
        reference = stack.enter_context(anchors.reference_published())
        iroh = stack.enter_context(anchors.iroh_dns())
        ours_limited = stack.enter_context(anchors.ours(net.bootstrap, packets=KEYS, limited=True))
        limited = stack.enter_context(anchors.reference(rust.bootstrap, limited=True))
        for subject in (reference, iroh, limited):
            progress(f"filling {subject.name}, {subject.build}")
            fill(loader, subject, filled)
        plain = loader.prepare(get(packet) for packet in filled)
        prefixed = loader.prepare(get(packet, prefix=iroh.prefix) for packet in filled)

        def measure(row: Row, subjects: list[Subject], connections: int) -> Row:
            for subject in in_turns(plan, subjects):
                records = prefixed if subject.prefix else plain
                loader.run(subject, Load(records, connections, plan.warmup_s))
                (sample,) = loader.run(subject, Load(records, connections, plan.seconds))
                add_sample(row, subject, sample)
            return row

        yield measure(
            Row(
                "get",
                f"GET cached, {CONNECTIONS} connections, {KEYS} keys",
                goals=(
                    Goal("rate", "times", 3.0),
                    Goal("cpu_us", "times fewer", 3.0),
                    Goal("p99_ms", "share", 0.5),
                    Goal("rate", "times", 3.5, against=iroh.name),
                ),
                curve="rate by connections",
                x=CONNECTIONS,
            ),
            [ours, reference, iroh],
            CONNECTIONS,
        )
        yield measure(
            Row(
                "get",
                f"GET cached, {MANY:,} connections, caps raised",
                goals=(Goal("rate", "times", 3.0),),
                curve="rate by connections",
                x=MANY,
            ),
            [ours, reference],
            MANY,
        )
        yield measure(
            Row(
                "get",
                f"GET cached, {CONNECTIONS} connections, per-address limiter on",
                goals=(Goal("rate", "times", 3.0),),
            ),
            [ours_limited, limited],
            CONNECTIONS,
        )
        for connections in GROWTH if plan.growth else ():
            row = Row("get", f"GET cached, {connections} connections")
            row.curve, row.x = "rate by connections", connections
            yield measure(row, [ours, reference], connections)
