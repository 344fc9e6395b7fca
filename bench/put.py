"""How many PUTs does one core take, and how long does a lone one wait?

Every PUT is a new key, stored on all nodes of a DHT and durably in the cache before its 204.
64 at once for throughput, one at a time for latency; on 12 libtorrent nodes with relaxed
limits and on 10 Rust nodes. The network shares a core with the load: the Rust nodes, at
about 80 µs a query, cap what any relay can reach on them. Leaves out republishing and the
refusal of older packets. On a network the reference is the peer program (opt-level 1).
"""

from __future__ import annotations

from typing import Final

from bench.anchors import Subject
from bench.harness import Loader, Plan, Row, in_turns, on_networks, packets, put

CONCURRENCY: Final = (1, 64)
RATE_MAX: Final = 1500
"""Packets made for a second of load; a relay that is faster would end its turn early."""


def run(plan: Plan, loader: Loader) -> list[Row]:
    """Measure both relays, each on a network of its own, one kind of network after the other."""
    rows = []
    for kind, subjects in on_networks():
        here = [Row(f"PUT, {kind} network, {count} at once") for count in CONCURRENCY]

        def turn(subject: Subject, here: list[Row] = here) -> None:
            for row, connections in zip(here, CONCURRENCY, strict=True):
                count = int(plan.seconds * RATE_MAX)
                records = [put(packet) for packet in packets(count)]
                sample = loader.run(
                    subject, records, connections=connections, seconds=plan.seconds, once=True
                )
                row.add(subject, sample)

        in_turns(plan, subjects, turn)
        rows += here
    return rows
