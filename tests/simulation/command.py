"""Thousands of histories, and the large worlds: ``nox -s simulate``.

    nox -s simulate                      # 10,000 histories, then the large worlds
    nox -s simulate -- --seed 17         # the history of one seed, told in full
    nox -s simulate -- --seeds 500 --first 20000
    nox -s simulate -- --only large
    nox -s simulate -- --world "a fifth are liars" --world-seed 1 2 --nodes 3000

Ends with 1 if anything did not hold, and names each seed that failed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
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
    parser.add_argument("--world", choices=grand.WORLDS, help="only this large one")
    parser.add_argument(
        "--world-seed", type=int, nargs="+", metavar="SEED", help="in place of the world's own"
    )
    arguments = parser.parse_args()
    if arguments.world_seed and not arguments.world:
        parser.error("--world-seed is for one --world")
    if arguments.seed is not None:
        return _tell(arguments.seed)
    if arguments.world:
        seeds = arguments.world_seed or [grand.WORLDS[arguments.world][0]]
        tasks = [(arguments.world, seed, arguments.nodes) for seed in seeds]
        return 0 if _large(tasks, arguments.processes) else 1
    well = True
    if arguments.only != "large":
        seeds = range(arguments.first, arguments.first + arguments.seeds)
        well &= _histories(seeds, arguments.processes)
    if arguments.only != "histories":
        tasks = [(name, seed, arguments.nodes) for name, (seed, _) in grand.WORLDS.items()]
        well &= _large(tasks, arguments.processes)
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


def _large(tasks: list[tuple[str, int, int]], processes: int) -> bool:
    with multiprocessing.get_context("spawn").Pool(min(processes, 2), maxtasksperchild=1) as pool:
        well = True
        for line, held in pool.imap(_world, tasks, chunksize=1):
            print(line, flush=True)
            well &= held
    return well


def _world(task: tuple[str, int, int]) -> tuple[str, bool]:
    """Let a world live, in a process of its own: what that took in all is the world's."""
    name, seed, nodes = task
    result = grand.WORLDS[name][1](seed, nodes)
    used = resource.getrusage(resource.RUSAGE_SELF)
    broken = grand.broken_promises(name, result)
    verdict = "; ".join(broken) if broken else "held"
    cost = f"{used.ru_utime + used.ru_stime:.0f} s, {used.ru_maxrss / 1024:.0f} MiB"
    line = f"{name}, seed {seed}, {nodes} nodes: {grand.describe(result)}; {cost}: {verdict}"
    return line, not broken
