"""How much memory does a relay take, idle and with up to a million packets?

Resident memory of the whole process (``VmRSS``, so with Python, SQLite's cache and what the kernel
keeps of the database mapped) after everything is loaded. Idle: on a network, its cache empty. One
start per size and round. Growth is told as bytes per packet above the idle relay's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bench import anchors
from bench.harness import Loader, Plan, tell
from bench.results import OURS, Goal, Row
from tests.support.relay import wait_until

SIZES: Final = (100_000, 250_000, 500_000, 1_000_000)
MIB: Final = 2**20
IDLE_GOAL: Final = Goal("rss_mib", "at most", 60.0)
MIDDLE: Final = 250_000
LINEAR_GOAL: Final = Goal("bytes_each", "share", 1.1, against=f"ours, {MIDDLE:,} packets")
"""Growth is linear if a packet costs no more among a million than among fewer."""
FULL_GOAL: Final = Goal("rss_mib", "at most", 450.0)


def run(plan: Plan, loader: Loader) -> Iterator[Row]:
    """Measure every size; memory hardly varies, so three rounds do."""
    rounds = min(plan.rounds, 3)
    with anchors.network("ours") as net:
        idle = Row("memory", "memory, idle on a network", (IDLE_GOAL,))
        for _ in range(rounds):
            idle.add(OURS, "in place", {"rss_mib": _rss_mib(0, net.bootstrap)})
            tell(idle, OURS)
        yield idle
        idle_mib = idle.median(OURS, "rss_mib")
        for size in (size for size in SIZES if size <= plan.keys_max):
            goals = (FULL_GOAL, LINEAR_GOAL) if size == SIZES[-1] else ()
            row = Row("memory", f"memory, {size:,} packets", goals, "rss_mib by packets", size)
            for _ in range(rounds):
                rss_mib = _rss_mib(size, net.bootstrap)
                each = (rss_mib - idle_mib) * MIB / size
                row.add(OURS, "in place", {"rss_mib": rss_mib, "bytes_each": each})
                tell(row, OURS)
            if size == MIDDLE:
                middle = row
            elif size == SIZES[-1]:
                row.values[LINEAR_GOAL.against] = middle.values[OURS]
                row.builds[LINEAR_GOAL.against] = middle.builds[OURS]
            yield row


def _rss_mib(size: int, bootstrap: list[str]) -> float:
    with anchors.our_relay(bootstrap, packets=size) as process:
        process.start().wait_bootstrapped()
        wait_until(lambda: anchors.loaded(process, size), "the load", anchors.LOAD_S)
        return process.rss_bytes() / MIB
