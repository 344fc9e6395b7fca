"""Thousands of histories, and the large worlds: ``nox -s simulate``.

    nox -s simulate                      # 10,000 histories, then the large worlds
    nox -s simulate -- --seed 17         # the history of one seed, told in full
    nox -s simulate -- --seeds 500 --first 20000
    nox -s simulate -- --only large

Ends with 1 if anything did not hold, and names each seed that failed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections import Counter

from tests.simulation import grand
from tests.simulation.histories import HistoryError, Report, run

SEEDS = 10_000
NODES = 1000
LINE_EVERY = 500


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seed", type=int, help="live through this one and tell of it")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many histories")
    parser.add_argument("--first", type=int, default=0, help="the first of the seeds")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--nodes", type=int, default=NODES, help="in a large world")
    parser.add_argument("--only", choices=("histories", "large"))
    arguments = parser.parse_args()
    if arguments.seed is not None:
        return _tell(arguments.seed)
    well = True
    if arguments.only != "large":
        seeds = range(arguments.first, arguments.first + arguments.seeds)
        well &= _histories(seeds, arguments.processes)
    if arguments.only != "histories":
        well &= _large(arguments.nodes, arguments.processes)
    return 0 if well else 1


def _tell(seed: int) -> int:
    report = run(seed)  # a failure is shown with its traceback
    print(f"seed {seed}: {report.datagrams} datagrams, digest {report.digest:08x}")
    for name, count in sorted(report.counts.items()):
        print(f"  {name}: {count}")
    print(f"  most packets to one address in 10 s: {report.most_packets}")
    return 0


def _try(seed: int) -> Report | str:
    try:
        return run(seed)
    except HistoryError as error:
        return str(error)


def _histories(seeds: range, processes: int) -> bool:
    began = time.perf_counter()
    reports: list[Report] = []
    failures = 0
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for done, outcome in enumerate(pool.imap_unordered(_try, seeds, chunksize=10), 1):
            if isinstance(outcome, str):
                failures += 1
                print(f"FAILED {outcome}", flush=True)
            else:
                reports.append(outcome)
            if done % LINE_EVERY == 0:
                took_s = time.perf_counter() - began
                print(f"{done} of {len(seeds)}, {failures} failed, {took_s:.0f} s", flush=True)
    counts: Counter[str] = Counter()
    for report in reports:
        counts.update(report.counts)
    for name, count in sorted(counts.items()):
        print(f"  {name}: {count}")
    if reports:
        datagrams = [report.datagrams for report in reports]
        packets = [report.most_packets for report in reports]
        print(
            f"{len(reports)} histories held, {failures} failed; datagrams: {sum(datagrams)}, "
            f"median {statistics.median(datagrams):.0f}, most {max(datagrams)}; packets to one "
            f"address in 10 s: median {statistics.median(packets):.0f}, most {max(packets)}"
        )
    return failures == 0


def _large(nodes: int, processes: int) -> bool:
    with multiprocessing.get_context("spawn").Pool(min(processes, 2), maxtasksperchild=1) as pool:
        tasks = [(name, nodes) for name in grand.WORLDS]
        well = True
        for line, held in pool.imap(_world, tasks, chunksize=1):
            print(line, flush=True)
            well &= held
    return well


def _world(task: tuple[str, int]) -> tuple[str, bool]:
    name, nodes = task
    began = time.process_time()
    result = grand.WORLDS[name](nodes)
    took_s = time.process_time() - began
    broken = grand.broken_promises(name, result)
    verdict = "; ".join(broken) if broken else "held"
    return f"{name}, {nodes} nodes: {grand.describe(result)}; {took_s:.0f} s: {verdict}", not broken
