"""How many DHT look-ups does one core do, and how long does a lone one take?

GETs with the policy NetworkOnly, each a whole look-up, over 300 published keys in turn; 64 at once
for throughput, one at a time for latency. Networks and builds as in ``put.py``. Then, on 20
libtorrent nodes, 100 look-ups at once: how many of the queries that ours sends are answered, by the
node's own counters. Leaves out look-ups that end in nothing, and time-outs of nodes that have gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

from bench import anchors
from bench.anchors import Subject
from bench.harness import (
    Load,
    Loader,
    Plan,
    Supply,
    add_sample,
    fill,
    get,
    in_turns,
    progress,
    tell,
)
from bench.library import Library
from bench.put import MANY, NO_ERROR, on_networks
from bench.results import OURS, Goal, Row
from tests.support.relay import fetch

KEYS: Final = 300
AT_ONCE: Final = 100
NODES: Final = 20
GOALS: Final[dict[tuple[str, int], tuple[Goal, ...]]] = {
    ("libtorrent", 1): (Goal("p50_ms", "at most", 5.0),),
    ("libtorrent", MANY): (Goal("rate", "times", 10.0), NO_ERROR),
    ("rust", MANY): (Goal("rate", "times", 8.0), NO_ERROR),
}


def run_libtorrent(plan: Plan, loader: Loader) -> Iterator[Row]:
    """Measure both relays on libtorrent nodes."""
    yield from _on("libtorrent", plan, loader)


def run_rust(plan: Plan, loader: Loader) -> Iterator[Row]:
    """Measure both relays on Rust nodes."""
    yield from _on("rust", plan, loader)


def _on(kind: str, plan: Plan, loader: Loader) -> Iterator[Row]:
    """Measure both relays, each on a network of its own."""
    published = Library(KEYS)[:]
    records = loader.prepare(get(packet, "?policy=NetworkOnly") for packet in published)
    with ExitStack() as stack:
        subjects = on_networks(stack, kind)
        for subject in subjects:
            progress(f"filling {subject.name} and its {kind} network")
            fill(loader, subject, published)
        rows = [
            Row(
                "lookup",
                f"look-up, {kind} network, {count} at once",
                GOALS.get((kind, count), ()),
            )
            for count in (1, MANY)
        ]
        for subject in in_turns(plan, subjects):
            for row, count in zip(rows, (1, MANY), strict=True):
                (sample,) = loader.run(subject, Load(records, count, plan.seconds))
                add_sample(row, subject, sample)
        yield from rows


def run_replies(plan: Plan, loader: Loader) -> Iterator[Row]:
    """Look 100 keys up at once on a network of twenty, and count queries and answers."""
    row = Row(
        "lookup",
        f"{AT_ONCE} look-ups at once, {NODES} libtorrent nodes",
        goals=(Goal("received", "at least", 99.0),),
    )
    supply = Supply(KEYS)
    with ExitStack() as stack:
        net = stack.enter_context(anchors.network("libtorrent", NODES))
        subject = stack.enter_context(anchors.ours(net.bootstrap))
        for _ in range(plan.rounds):
            packets = supply.take(AT_ONCE)
            fill(loader, subject, packets)
            before = _counters(subject)
            requests = [get(packet, "?policy=NetworkOnly") for packet in packets]
            sample = loader.once(subject, requests, AT_ONCE)
            after = _counters(subject)
            queries = after["queries_out"] - before["queries_out"]
            answers = sum(after[name] - before[name] for name in ("responses_in", "errors_in"))
            figures = {
                "queries": queries,
                "received": 100 * answers / max(queries, 1),
                "failed": sample.failed_percent,
            }
            row.add(OURS, subject.build, figures, sample.statuses)
            tell(row, OURS)
    yield row


def _counters(subject: Subject) -> dict[str, int]:
    dht = fetch(f"{subject.url}stats").json()["dht"]
    assert isinstance(dht, dict)
    return {name: value for name, value in dht.items() if isinstance(value, int)}
