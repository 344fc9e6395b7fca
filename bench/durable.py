"""How many PUTs a second become durable when the DHT costs nothing?

The whole way over HTTP: parsing, verification of the signature, the cache's commit with
``synchronous=FULL`` before the 204. The DHT is a stub that takes everything at once. 64 and 256
connections, every PUT a new key, signed beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bench import anchors
from bench.harness import Load, Loader, Plan, Supply, add_sample, in_turns, put
from bench.results import Goal, Row

CONNECTIONS: Final = (64, 256)
RATE_MAX: Final = 12_000


def run(plan: Plan, loader: Loader) -> Iterator[Row]:
    """Measure ours alone: the reference cannot do without its DHT."""
    supply = Supply()
    with anchors.our_stub() as subject:
        rows = [
            Row(
                "durable",
                f"PUT into the cache alone, durable, {count} at once",
                (Goal("rate", "at least", 5000), Goal("failed", "at most", 0.0))
                if count == CONNECTIONS[0]
                else (),
                x=count,
            )
            for count in CONNECTIONS
        ]
        for row in in_turns(plan, rows):
            packets = supply.take(int(plan.seconds * RATE_MAX))
            records = loader.prepare(put(packet) for packet in packets)
            (sample,) = loader.run(subject, Load(records, int(row.x), plan.seconds, "once"))
            records.unlink()
            add_sample(row, subject, sample)
    yield from rows
