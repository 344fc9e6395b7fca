"""How soon does a relay with 100,000 packets on the disk answer, and when is all of it in memory?

From the start of the process, interpreter and imports included, to the first 200 of ``/health``,
and until ``/stats`` says that loading has ended with all packets there. The database was copied
just before, so it comes from the kernel's page cache (warm). Asked every 5 ms, then every 20.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

from bench import anchors
from bench.anchors import SERVER_CORE, pinned
from bench.harness import Loader, Plan, tell
from bench.results import OURS, Goal, Row
from tests.support.relay import RelayProcess

PACKETS: Final = 100_000
ASK_S: Final = 0.005
LOADED_ASK_S: Final = 0.02
GIVE_UP_S: Final = 30.0
GOALS: Final = (Goal("first_s", "at most", 0.5), Goal("hot_s", "at most", 1.5))


def run(plan: Plan, loader: Loader) -> Iterator[Row]:
    """Start it at least five times; none is dropped."""
    row = Row("start", f"start with {PACKETS:,} packets on disk, page cache warm", GOALS)
    for _ in range(max(plan.rounds, 5) if plan.growth else plan.rounds):
        with anchors.our_relay(packets=PACKETS) as process:
            begun_s = time.monotonic()
            with pinned(SERVER_CORE):
                process.launch()
            first_s = _wait(lambda: _healthy(process), ASK_S) - begun_s
            hot_s = _wait(lambda: anchors.loaded(process, PACKETS), LOADED_ASK_S) - begun_s
        row.add(OURS, "in place", {"first_s": first_s, "hot_s": hot_s})
        tell(row, OURS)
    yield row


def _wait(look: Callable[[], bool], pause_s: float) -> float:
    """Return when `look` became true, monotonic seconds."""
    give_up_s = time.monotonic() + GIVE_UP_S
    while not look():
        if time.monotonic() > give_up_s:
            raise TimeoutError("the relay did not come up")
        time.sleep(pause_s)
    return time.monotonic()


def _healthy(process: RelayProcess) -> bool:
    with suppress(OSError):
        return process.health().status in {200, 503}
    return False
