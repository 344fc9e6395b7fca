"""How many PUTs does one core take, and how long does a lone one wait?

Every PUT is a new key, stored on all nodes of a DHT and durably in the cache before its 204. 64 at
once for throughput, one at a time for latency; on 12 libtorrent nodes with relaxed limits and on
10 Rust nodes, each relay on a network of its own. Packets are signed beforehand. The network shares
a core with the load generator, and what it takes of that core is told: near 100 % the network is
the limit and not the relay (a libtorrent node verifies a signature for every PUT; a query costs a
Rust node some 80 µs). Leaves out republishing and the refusal of older packets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Final

from bench import anchors
from bench.anchors import Subject
from bench.harness import Load, Loader, Plan, Supply, add_sample, in_turns, put
from bench.results import Goal, Row

MANY: Final = 64
GROWTH: Final = (4, 16, 256)
RATE_MAX: Final = 2500
"""Packets taken for a second of load; a relay that is faster would end its turn early."""
NO_ERROR: Final = Goal("failed", "at most", 0.0)
GOALS: Final[dict[tuple[str, int], tuple[Goal, ...]]] = {
    ("libtorrent", 1): (Goal("p50_ms", "at most", 5.0),),
    ("libtorrent", MANY): (Goal("rate", "times", 10.0), NO_ERROR),
    ("rust", MANY): (Goal("rate", "times", 4.0), NO_ERROR),
}


def on_networks(stack: ExitStack, kind: str) -> list[Subject]:
    """Open both relays, each on a network of its own of one kind.

    On a shared one each relay would be among the nodes that the other has to ask.
    """
    nets = [stack.enter_context(anchors.network(kind)) for _ in range(2)]
    subjects = [
        stack.enter_context(anchors.ours(nets[0].bootstrap)),
        stack.enter_context(anchors.reference(nets[1].bootstrap)),
    ]
    return [replace(one, network_pid=net.pid) for one, net in zip(subjects, nets, strict=True)]


def run_libtorrent(plan: Plan, loader: Loader) -> Iterator[Row]:
    """Measure both relays on libtorrent nodes, at more numbers at once for the plot."""
    yield from _on("libtorrent", plan, loader, GROWTH if plan.growth else ())


def run_rust(plan: Plan, loader: Loader) -> Iterator[Row]:
    """Measure both relays on Rust nodes."""
    yield from _on("rust", plan, loader, ())


def _on(kind: str, plan: Plan, loader: Loader, growth: Sequence[int]) -> Iterator[Row]:
    supply = Supply()
    with ExitStack() as stack:
        subjects = on_networks(stack, kind)
        yield from _measure(plan, loader, subjects, kind, supply, growth)


def _measure(
    plan: Plan,
    loader: Loader,
    subjects: Sequence[Subject],
    kind: str,
    supply: Supply,
    growth: Sequence[int],
) -> Iterator[Row]:
    rows = [
        Row(
            "put",
            f"PUT, {kind} network, {count} at once",
            GOALS.get((kind, count), ()),
            "rate by PUTs at once" if kind == "libtorrent" else "",
            count,
        )
        for count in (1, MANY, *growth)
    ]
    for subject in in_turns(plan, subjects):
        for row in rows:
            packets = supply.take(int(plan.seconds * RATE_MAX))
            records = loader.prepare(put(packet) for packet in packets)
            (sample,) = loader.run(subject, Load(records, int(row.x), plan.seconds, "once"))
            records.unlink()
            add_sample(row, subject, sample)
    yield from rows
