"""Do lanes in threads scale over cores, and how often do they wait for each other?

Server and load generators share the cores here, so that as few as two cores tell: the lane as a
task and as one thread with one load generator on one core, against two threads with two load
generators on two. 16 connections each of cached GETs over 200 keys, with the limiter on: its
cells and the packet table are what the threads share. Nothing is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Final

from bench import anchors
from bench.anchors import Subject, loaded, our_relay, pinned
from bench.harness import Load, Loader, Plan, get, in_turns, progress, tell
from bench.library import Library
from bench.results import Row
from tests.support.relay import RelayProcess, wait_until

KEYS: Final = 200
CONNECTIONS: Final = 16
LANES: Final = {"task": 1, "threads:1": 1, "threads:2": 2}
"""How the lane runs, and on how many cores with as many load generators."""
LOCKS: Final = {"table_waits": "table", "limiter_waits": "limiter", "lane_waits": "lanes"}


def run(plan: Plan, loader: Loader) -> Iterator[Row]:
    """Measure each way of running the lane in turns."""
    row = Row("threads", "GET cached, server and clients on the same cores, limiter on")
    hot = loader.prepare(get(packet) for packet in Library(KEYS))
    with ExitStack() as stack:
        relays: dict[str, RelayProcess] = {}
        for lane, count in LANES.items():
            progress(f"starting with {lane}")
            relay = stack.enter_context(our_relay(packets=KEYS, limited=True, lane=lane))
            with pinned(*range(count)):
                relay.start()
            wait_until(partial(loaded, relay, KEYS), "the cache", anchors.LOAD_S)
            relays[lane] = relay
        for lane in in_turns(plan, list(relays)):
            relay, count = relays[lane], LANES[lane]
            name = f"{lane}, {count} core{'s' * (count > 1)}"
            subject = Subject(name, "in place", relay.pid, relay.port)
            before = _waits(relay)
            loads = [Load(hot, CONNECTIONS, plan.seconds)] * count
            samples = loader.run(subject, *loads, cores=range(count))
            figures = samples[0].figures() | {
                "rate": sum(sample.rate for sample in samples),
                "p99_ms": max(sample.p99_us for sample in samples) / 1000,
                "failed": max(sample.failed_percent for sample in samples),
            }
            after = _waits(relay)
            figures |= {
                figure: after.get(lock, 0) - before.get(lock, 0)  # a task waits for nobody
                for figure, lock in LOCKS.items()
            }
            row.add(name, subject.build, figures, samples[0].statuses)
            tell(row, name)
    yield row


def _waits(relay: RelayProcess) -> Mapping[str, int]:
    http = relay.stats()["http"]
    assert isinstance(http, dict)
    waits = http.get("waits") or {}
    assert isinstance(waits, dict)
    return waits
