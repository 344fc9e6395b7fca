"""How many DHT look-ups does one core do, and how long does a lone one take?

GETs with the policy NetworkOnly, each a whole look-up, over 300 published keys in turn; 64 at
once for throughput, one at a time for latency. Networks and builds as in ``put.py``. Leaves
out look-ups that end in nothing, and time-outs of nodes that have gone.
"""

from __future__ import annotations

from typing import Final

from bench.anchors import Subject
from bench.harness import (
    Loader,
    Plan,
    Record,
    Row,
    fill,
    get,
    in_turns,
    on_networks,
    packets,
)

CONCURRENCY: Final = (1, 64)
KEYS: Final = 300


def run(plan: Plan, loader: Loader) -> list[Row]:
    """Measure both relays, each on a network of its own, one kind of network after the other."""
    rows = []
    for kind, subjects in on_networks():
        here = [Row(f"look-up, {kind} network, {count} at once") for count in CONCURRENCY]
        published = packets(KEYS)
        for subject in subjects:
            fill(loader, subject, published)
        records = [get(packet, "?policy=NetworkOnly") for packet in published]

        def turn(subject: Subject, here: list[Row] = here, records: list[Record] = records) -> None:
            for row, connections in zip(here, CONCURRENCY, strict=True):
                sample = loader.run(subject, records, connections=connections, seconds=plan.seconds)
                row.add(subject, sample)

        in_turns(plan, subjects, turn)
        rows += here
    return rows
