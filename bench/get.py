"""How many cached GETs does one core serve, and what does one cost?

200 keys in turn, packets of 253 bytes, all in the cache and fresh; keep-alive connections. At 32
connections against the published Rust relay and iroh-dns-server, at 1,000 against the Rust relay,
and at 32 with the per-address limiter of both switched on, so high that it refuses nothing.
Leaves out TLS, HTTP/2 and conditional requests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
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
    """Measure ours and the published Rust relay at several numbers of connections."""
    with ExitStack() as stack:
        net = stack.enter_context(anchors.network("ours"))
        ours = stack.enter_context(anchors.ours(net.bootstrap, packets=KEYS))
        reference = stack.enter_context(anchors.reference_published())
        records = _filled(loader, reference)
        few = Row(
            "get",
            f"GET cached, {CONNECTIONS} connections, {KEYS} keys",
            goals=(
                Goal("rate", "times", 3.0),
                Goal("cpu_us", "times fewer", 3.0),
                Goal("p99_ms", "share", 0.5),
            ),
        )
        many = Row(
            "get",
            f"GET cached, {MANY:,} connections, caps raised",
            goals=(Goal("rate", "times", 3.0),),
        )
        rows = {CONNECTIONS: few, MANY: many}
        for connections in GROWTH if plan.growth else ():
            rows[connections] = Row("get", f"GET cached, {connections} connections")
        for connections, row in rows.items():
            row.curve, row.x = "rate by connections", connections
            yield _measure(plan, loader, row, {ours: records, reference: records})


def run_iroh(plan: Plan, loader: Loader) -> Iterator[Row]:
    """Measure ours and iroh-dns-server."""
    with anchors.ours(packets=KEYS) as ours, anchors.iroh_dns() as iroh:
        row = Row(
            "iroh",
            f"GET cached, {CONNECTIONS} connections, {KEYS} keys",
            goals=(Goal("rate", "times", 3.5, against=iroh.name),),
        )
        prefixed = _filled(loader, iroh)
        plain = loader.prepare(get(packet) for packet in Library(KEYS))
        yield _measure(plan, loader, row, {ours: plain, iroh: prefixed})


def run_limited(plan: Plan, loader: Loader) -> Iterator[Row]:
    """Measure ours and the Rust relay with the per-address limiter on."""
    with (
        anchors.network("rust") as net,
        anchors.ours(net.bootstrap, packets=KEYS, limited=True) as ours,
        anchors.reference(net.bootstrap, limited=True) as reference,
    ):
        row = Row(
            "limiter",
            f"GET cached, {CONNECTIONS} connections, per-address limiter on",
            goals=(Goal("rate", "times", 3.0),),
        )
        records = _filled(loader, reference)
        yield _measure(plan, loader, row, {ours: records, reference: records})


def _filled(loader: Loader, subject: Subject) -> Path:
    """Publish the packets on a subject, and return the requests for them."""
    progress(f"filling {subject.name}, {subject.build}")
    packets = Library(KEYS)[:]
    fill(loader, subject, packets)
    return loader.prepare(get(packet, prefix=subject.prefix) for packet in packets)


def _measure(plan: Plan, loader: Loader, row: Row, subjects: Mapping[Subject, Path]) -> Row:
    connections = int(row.x) or CONNECTIONS
    for subject in in_turns(plan, list(subjects)):
        records = subjects[subject]
        loader.run(subject, Load(records, connections, plan.warmup_s))
        (sample,) = loader.run(subject, Load(records, connections, plan.seconds))
        add_sample(row, subject, sample)
    return row
