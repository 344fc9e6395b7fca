"""How long does a cached GET wait while others ask for what costs more?

Closed loops at the same time: 32 connections of cached GETs over 200 keys; 2 that take turns
between a key that nobody has (a whole look-up, 404) and the index page; 2 that PUT new packets
through the DHT. Both relays are release builds on networks of 10 Rust nodes, one network each, on
the core of the load generators: ten nodes inside the reference's own process, as its
``--testnet`` has them, would be charged to it. That core is full, as the nodes need 180 µs a
query, so the load generator of the hot GETs comes first on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

from bench import anchors
from bench.harness import (
    KEEP_ALIVE,
    Load,
    Loader,
    Plan,
    Record,
    Supply,
    fill,
    get,
    in_turns,
    progress,
    put,
    tell,
)
from bench.library import Library
from bench.results import Goal, Row

HOT: Final = 32
SLOW: Final = 2
KEYS: Final = 200
MISSES: Final = 5_000
PUTS_PER_SECOND: Final = 1_000
FIRST_NEW: Final = 500_000
"""Keys from here on are published by nobody else in this run."""


def run(plan: Plan, loader: Loader) -> Iterator[Row]:
    """Measure both relays in turns."""
    filled = Library(KEYS)[:]
    supply, unknown = Supply(KEYS), Supply(FIRST_NEW)
    with ExitStack() as stack:
        nets = [stack.enter_context(anchors.network("rust")) for _ in range(2)]
        subjects = [
            stack.enter_context(anchors.ours(nets[0].bootstrap)),
            stack.enter_context(anchors.reference(nets[1].bootstrap)),
        ]
        for subject in subjects:
            progress(f"filling {subject.name}")
            fill(loader, subject, filled)
        hot = loader.prepare(get(packet) for packet in filled)
        row = Row(
            "mixed",
            f"mixed: {HOT} hot GET, {SLOW} misses and pages, {SLOW} PUT",
            goals=(Goal("p99_ms", "share", 0.5), Goal("p99_ms", "at most", 1.0)),
            note="latency, rate and failures are those of the hot GETs; CPU is for all requests.",
        )
        for subject in in_turns(plan, subjects):
            slow = loader.prepare(
                record for packet in unknown.take(MISSES) for record in (_miss(packet.key), _page())
            )
            new = supply.take(int(PUTS_PER_SECOND * plan.seconds))
            puts = loader.prepare(put(packet) for packet in new)
            samples = loader.run(
                subject,
                Load(hot, HOT, plan.seconds, prompt=True),
                Load(slow, SLOW, plan.seconds, "once"),
                Load(puts, SLOW, plan.seconds, "once"),
            )
            slow.unlink()
            puts.unlink()
            figures = samples[0].figures() | {
                "slow_rate": samples[1].rate,
                "put_rate": samples[2].rate,
                "slow_failed": max(sample.failed_percent for sample in samples[1:]),
            }
            row.add(subject.name, subject.build, figures, samples[0].statuses)
            tell(row, subject.name)
        yield row


def _miss(key: str) -> Record:
    return Record(f"GET /{key} HTTP/1.1\r\n{KEEP_ALIVE}\r\n".encode(), 404, None)


def _page() -> Record:
    return Record(f"GET / HTTP/1.1\r\n{KEEP_ALIVE}\r\n".encode(), 200, None)
