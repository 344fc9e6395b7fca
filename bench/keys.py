"""Does a cache of a million packets serve as fast as one of two hundred?

Ours with 100 to 1,000,000 packets, each read uniformly at random over 32 connections, against ours
with 200. The caches are filled by the store beforehand, as databases. The load generator draws
from as many records; its own misses of the processor's caches are in ``loader CPU µs``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from bench import anchors
from bench.anchors import Subject
from bench.harness import Load, Loader, Plan, add_sample, get, in_turns, progress
from bench.library import Library, requests_file
from bench.results import OURS, Goal, Row

CONNECTIONS: Final = 32
FEW: Final = 200
SIZES: Final = (100_000, 1_000_000)
GROWTH: Final = (100, 1_000, 10_000)
GOAL: Final = 0.85


def run(plan: Plan, loader: Loader) -> Iterator[Row]:
    """Measure all sizes in turns, each on a relay of its own."""
    sizes = [FEW, *(size for size in SIZES if size <= plan.keys_max)]
    sizes += GROWTH if plan.growth else ()
    with ExitStack() as stack:
        subjects: dict[int, Subject] = {}
        records: dict[int, Path] = {}
        for size in sizes:
            progress(f"starting with {size:,} packets")
            subjects[size] = stack.enter_context(anchors.ours(packets=size))
            records[size] = requests_file(size, _requests)
        rows = {size: _row(size) for size in sizes}
        for size in in_turns(plan, sizes):
            loader.run(subjects[size], Load(records[size], CONNECTIONS, plan.warmup_s, "random"))
            load = Load(records[size], CONNECTIONS, plan.seconds, "random")
            (sample,) = loader.run(subjects[size], load)
            add_sample(rows[size], subjects[size], sample)
        few = rows[FEW]
        for size, row in rows.items():
            if size != FEW:
                row.values[f"{OURS}, {FEW} keys"] = few.values[OURS]
                row.builds[f"{OURS}, {FEW} keys"] = few.builds[OURS]
            yield row


def _requests(start: int, stop: int) -> list[bytes]:
    return [get(packet).packed() for packet in Library(stop)[start:]]


def _row(size: int) -> Row:
    against = f"{OURS}, {FEW} keys"
    goals = [Goal("rate", "times", GOAL, against=against)] if size in SIZES else []
    return Row("keys", f"GET cached, {size:,} keys at random", goals, "rate by keys", size)
