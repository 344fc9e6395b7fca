"""``python -m bench.soak``: an hour of mixed load on one relay, in a network that changes.

    nox -s soak                          60 minutes
    nox -s soak -- --minutes 5           shorter; slopes are judged from 40 minutes on
    nox -s soak -- --render results/….json    print and draw a kept run again

Three kinds of processes besides this one: a relay with the settings of a fresh start, but for a
cache smaller than what is published, which begins full; a DHT of our own nodes in which one is
replaced every few seconds (`network`), and nodes of Rust's `mainline` and of libtorrent that are
replaced every few minutes; and the load (`load`), which comes twice as often at first: floors in
memory, keys known to be absent and the pages that SQLite keeps are to be as many as they may be
before memory is judged. Every few seconds the relay's memory, descriptors, threads, tasks, files
and packets are read, from outside (/proc) where that can be; every minute its configuration changes
and it gets a SIGHUP. At the end `judge` says whether anything grew. Exit code 1 if a verdict is
against it.

With ``--realtime`` all but this process run under ``chrt -r 1``, so that other work on the same
machine does not count as the relay's delay.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import trio
from prometheus_client.parser import text_string_to_metric_families

import relay
from bench.harness import progress
from bench.soak.judge import (
    RULES,
    Points,
    Verdict,
    judge_failures,
    judge_flat,
    judge_latency,
    judge_log,
)
from bench.soak.load import FILL_RATE, RATES, SIZES, gone_author
from bench.soak.memory import STEP_BYTES, Parts, growth, parts
from bench.soak.picture import Chart, draw
from relay.clock import wall_clock_us
from relay.pkarr.keys import PublicKey
from relay.pkarr.packet import SeenPacket, SignedPacket
from relay.store.database import DATABASE_FILE
from relay.store.worker import PacketStore
from tests.support import peers
from tests.support.peers import ROOT, Peer
from tests.support.relay import RelayProcess, fetch, free_port, wait_until

RESULTS: Final = ROOT / "bench" / "results"
CAPACITY: Final = 3_000
NODES: Final = 20
LIFE_S: Final = 240.0
PEER_NODES: Final = 3
PEER_LIFE_S: Final = 300.0
SAMPLE_S: Final = 5.0
WINDOW_S: Final = 10.0
"""Of the load, for which its latencies are told together."""
RELOAD_S: Final = 60.0
WARMUP_SHARE: Final = 1 / 3
"""Until floors in memory and the pages that SQLite keeps are as many as they may be."""
FILL_SHARE: Final = 1 / 4
"""Of the time, at first: requests come `FILL_RATE` times as often, to fill those."""
AT_ONCE: Final = 100
"""Packets that the store is given before it is waited for."""
LONG_S: Final = 2400.0
"""From here on slopes, latencies and rates are judged: in shorter runs tables are still filling."""
RATE_SHARE_MIN: Final = 0.8
PATIENCE_S: Final = 180.0
"""A busy machine needs some time until all of a short run's processes have begun."""
EXPIRED_US: Final = 2 * 3600 * 1_000_000
"""How long ago the packets that the cache begins with were seen; they live for an hour."""
MIB: Final = 2.0**20
LOADED_S: Final = 120.0
COUNTED: Final = (
    "dht_put",
    "dht_queries_sent",
    "dht_lookup_duration_seconds_count",
    "dht_datagram",
)
"""Of these every value is kept with each sample, to be looked at when something went wrong."""
TIMES: Final = ("hot_p50_ms", "hot_p99_ms")


@dataclass
class Run:
    """What was seen."""

    facts: dict[str, Any] = field(default_factory=dict)
    samples: list[dict[str, float]] = field(default_factory=list)
    windows: list[dict[str, Any]] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the form that is kept."""
        return {
            "facts": self.facts,
            "troubles": self.troubles,
            "log": self.log,
            "samples": self.samples,
            "windows": self.windows,
        }

    def series(self, name: str) -> Points:
        """Return a series of samples."""
        return [(sample["at"], sample[name]) for sample in self.samples if name in sample]

    def times(self, name: str) -> Points:
        """Return a series of the load's windows."""
        return [(w["at"], w[name]) for w in self.windows if w["ready"] and w[name] is not None]

    def count(self, name: str) -> Counter[str]:
        """Add up the load's counts."""
        total: Counter[str] = Counter()
        for window in self.windows:
            total.update(window[name])
        return total

    @property
    def warmup_s(self) -> float:
        """How much of the run is not judged."""
        return float(self.facts["seconds"]) * WARMUP_SHARE

    def verdicts(self) -> list[Verdict]:
        """Judge the run."""
        statuses, failures = self.count("statuses"), self.count("failures")
        failures.update(self.troubles)
        found = [judge_failures(failures, statuses.total()), judge_log(self.log)]
        evictions = self.samples[-1]["evictions"] if self.samples else 0
        churned = self.facts.get("nodes_gone", 0)
        figures = f"{evictions:,.0f} packets evicted, {churned} nodes replaced"
        found.append(Verdict("the world changed", ok=evictions > 0 < churned, figures=figures))
        missing = sorted(kind for kind in RATES if not _answers(statuses, kind))
        short = ", ".join(missing) or "every kind of request was answered"
        found.append(Verdict("the load ran", ok=not missing, figures=short))
        if self.facts["seconds"] < LONG_S:
            return found
        found.append(self._judge_rates(statuses))
        found += [judge_flat(name, self._warm(self.series(name))) for name in RULES]
        found.append(judge_latency(self._warm(self.times("hot_p99_ms"))))
        return found

    def _judge_rates(self, statuses: Counter[str]) -> Verdict:
        filling = self.facts.get("fill_s", 0.0) * (FILL_RATE - 1)
        seconds = (self.facts["seconds"] + filling) * self.facts["rate"]
        wanted = {kind: rate * seconds for kind, rate in RATES.items()}
        shares = {kind: _answers(statuses, kind) / count for kind, count in wanted.items()}
        least = min(shares, key=shares.__getitem__)
        figures = f"least {least}: {100 * shares[least]:.0f} % of what was planned"
        return Verdict("the rates were kept", ok=shares[least] >= RATE_SHARE_MIN, figures=figures)

    def _warm(self, points: Points) -> Points:
        return [point for point in points if point[0] >= self.warmup_s]


def _answers(statuses: Counter[str], kind: str) -> int:
    return sum(count for name, count in statuses.items() if name.rpartition(" ")[0] == kind)


# ---- What runs ----


def prefill(folder: Path, capacity: int) -> None:
    """Write a database that is full of packets."""
    trio.run(_prefill, folder, capacity)


async def _prefill(folder: Path, capacity: int) -> None:
    count, rng = 2 * capacity, random.Random(1)
    seen_us = wall_clock_us() - EXPIRED_US
    store = PacketStore(folder, capacity, lambda: seen_us)
    memory = store._memory  # nobody else needs to know what floors wait for the disk
    store.open()
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        while store.stats().loading:  # noqa: ASYNC110  # no event tells
            await trio.sleep(0.005)
        for number in reversed(range(count)):  # the last to come stay in the cache
            packet = gone_author(number).packet(
                "gone", timestamp_us=seen_us - number, ttl_s=3600, size=rng.choice(SIZES)
            )
            signed = SignedPacket.from_relay_payload(
                PublicKey(packet.public_key), packet.payload, verify=False
            )
            store.put_soon(SeenPacket(signed, seen_us))
            while number % AT_ONCE == 0 and (  # noqa: ASYNC110
                store.stats().pending or memory.floors.unsaved or memory.crowded
            ):
                await trio.sleep(0.005)
        await store.close()


class Processes:
    """The network and the load; their lines are read as they come."""

    def __init__(self, run: Run, options: argparse.Namespace, stack: ExitStack) -> None:
        self._run = run
        self._options = options
        self._stack = stack
        self._front = ("chrt", "-r", "1") if options.realtime else ()
        self.network = stack.enter_context(
            Peer(
                *self._front,
                *(sys.executable, "-m", "bench.soak.network"),
                *("--nodes", options.nodes, "--life", options.life),
            )
        )
        self.process: RelayProcess | None = None

    def start_relay(self, folder: Path) -> tuple[RelayProcess, str]:
        """Start the relay; returns it and the address of its metrics."""
        port = free_port()
        process = RelayProcess(
            folder,
            bootstrap=self.network.bootstrap,
            sections={
                "cache": f"size = {self._options.capacity}\nmaximum_ttl = 86400",
                "metrics": f'bind = "127.0.0.1:{port}"',
            },
            wrapper=self._front,
        )
        prefill(process.cache, self._options.capacity)
        self._stack.enter_context(process)
        process.wait_bootstrapped()
        return process, f"http://127.0.0.1:{port}/metrics"

    @contextmanager
    def load(self, process: RelayProcess, begun: float) -> Iterator[subprocess.Popen[str]]:
        """Run the load; its windows go into the run."""
        command = [*self._front, sys.executable, "-m", "bench.soak.load"]
        window_s = min(WINDOW_S, self._run.facts["seconds"] / 5)
        options, fill_s = self._options, self._run.facts["fill_s"]
        numbers = [process.port, process.dht_port, options.seed, options.rate, window_s, fill_s]
        one = subprocess.Popen(
            [*command, *map(str, numbers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert one.stdin is not None
        assert one.stdout is not None
        lines = one.stdout

        def read() -> None:
            for line in lines:
                window = json.loads(line)
                self._run.windows.append({"at": time.monotonic() - begun, **window})

        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield one
            one.stdin.close()
            if one.wait(60) != 0:
                self._run.troubles.append(f"the load ended with {one.returncode}")
        finally:
            one.kill()
            one.wait()
            reader.join()
            lines.close()

    @contextmanager
    def foreign_nodes(self) -> Iterator[None]:
        """Let nodes of other programs join, and others take their place every few minutes."""
        if not self._options.peers:
            yield
            return
        stop = threading.Event()

        def turn(kind: str) -> None:
            try:
                current = self._foreign(kind)
                while not stop.wait(PEER_LIFE_S):
                    following = self._foreign(kind)
                    current.close()
                    current = following
                    facts = self._run.facts
                    facts[f"{kind}_replaced"] = facts.get(f"{kind}_replaced", 0) + 1
                current.close()
            except Exception as error:
                self._run.troubles.append(f"nodes of {kind}: {error!r}")

        threads = [threading.Thread(target=turn, args=(kind,)) for kind in ("rust", "libtorrent")]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def _foreign(self, kind: str) -> Peer:
        with self.lock:
            addresses = self.ask_network()["living"]
        assert isinstance(addresses, list)
        joined = peers.with_bootstrap(addresses[-3:])
        command = (
            [peers.program("testnet")] if kind == "rust" else peers.script("libtorrent_net.py")
        )
        return Peer(*self._front, *command, "--nodes", PEER_NODES, *joined)

    lock = threading.Lock()

    def ask_network(self) -> dict[str, Any]:
        """Return what the network says of itself."""
        return self.network("info")


# ---- What is read ----


def sample(process: RelayProcess, page: str) -> dict[str, float]:
    """Read everything once."""
    folder = Path(f"/proc/{process.pid}")
    rollup = _kilobytes(folder / "smaps_rollup")
    found = {
        "rss": rollup["Rss"],
        "private": rollup["Private_Clean"] + rollup["Private_Dirty"],
        "descriptors": float(len(list((folder / "fd").iterdir()))),
        "threads": float(len(list((folder / "task").iterdir()))),
        "database": _size(process.cache / DATABASE_FILE),
        "wal": _size(process.cache / f"{DATABASE_FILE}-wal"),
    }
    values, counts = _metrics(page)
    return found | {
        "tasks": values["pkarr_relay_tasks"],
        "packets": values["pkarr_relay_cache_packets"],
        "pending": values["pkarr_relay_cache_pending_packets"],
        "evictions": values["pkarr_relay_cache_evictions_total"],
        "connections": values["pkarr_relay_http_connections"],
        "table": values["pkarr_relay_dht_routing_table_nodes"],
        "in_flight": values["pkarr_relay_dht_queries_in_flight"],
        "cpu_s": values["process_cpu_seconds_total"],
        **{name: count for name, count in counts.items() if name.startswith(COUNTED)},
    }


def _size(path: Path) -> float:
    """Return the size of a file, bytes; the log is not there before the first write."""
    return float(path.stat().st_size) if path.exists() else 0.0


def _metrics(page: str) -> tuple[dict[str, float], dict[str, float]]:
    """Return the page's values, added up over their labels, and each by itself."""
    values: defaultdict[str, float] = defaultdict(float)
    each: dict[str, float] = {}
    for family in text_string_to_metric_families(fetch(page).body.decode()):
        for one in family.samples:
            values[one.name] += float(one.value)
            labels = ",".join(one.labels.values())
            each[f"{one.name.removeprefix('pkarr_relay_')} {labels}".strip()] = one.value
    return values, each


def _kilobytes(path: Path) -> dict[str, float]:
    lines = (line.split() for line in path.read_text().splitlines()[1:])
    return {fields[0].rstrip(":"): float(fields[1]) * 1024 for fields in lines}


def reload(process: RelayProcess, number: int) -> None:
    """Change the configuration a little and tell the relay."""
    text = process.config_path.read_text()
    for seconds in (86400, 86399):
        text = text.replace(f"maximum_ttl = {seconds}", "maximum_ttl = X")
    process.config_path.write_text(text.replace("= X", f"= {86400 - number % 2}"))
    os.kill(process.pid, signal.SIGHUP)


def soak(options: argparse.Namespace) -> Run:
    """Run it all."""
    run = Run()
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    ).stdout.strip()  # fmt: skip
    run.facts |= {
        "version": relay.__version__,
        "commit": commit,
        "begun": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": options.minutes * 60,
        "fill_s": options.minutes * 60 * FILL_SHARE,
        "rate": options.rate,
        "capacity": options.capacity,
        "nodes": options.nodes,
        "life_s": options.life,
        "peers": options.peers,
        "realtime": options.realtime,
        "seed": options.seed,
    }
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        processes = Processes(run, options, stack)
        process, page = processes.start_relay(folder)
        wait_until(lambda: not _loading(process), "the load of the cache", LOADED_S)
        begun = time.monotonic()
        with processes.foreign_nodes(), processes.load(process, begun) as load:
            try:
                _watch(run, process, page, begun, load)
            except Exception as error:  # what was seen until then is worth more than a traceback
                run.troubles.append(f"the run broke off: {error!r}")
            with processes.lock:
                run.facts["nodes_gone"] = processes.ask_network()["gone"]
        try:
            status: object = process.stop()
        except Exception as error:
            status = repr(error)
        if status != 0:
            run.troubles.append(f"the relay ended with {status}")
        run.log = process.log().splitlines()
    return run


def _loading(process: RelayProcess) -> bool:
    cache = process.stats()["cache"]
    assert isinstance(cache, dict)
    return bool(cache["loading"])


def _watch(
    run: Run, process: RelayProcess, page: str, begun: float, load: subprocess.Popen[str]
) -> None:
    """Read everything again and again until the time is over."""
    seconds = float(run.facts["seconds"])
    period_s, reload_s = min(SAMPLE_S, seconds / 10), min(RELOAD_S, seconds / 4)
    due, reloads = begun, 0
    known: Parts = {}
    while not _is_over(run, time.monotonic() - begun):
        at = time.monotonic() - begun
        if load.poll() is not None or not process.alive:
            run.troubles.append("the load or the relay ended early")
            return
        run.samples.append({"at": at, **sample(process, page)})
        before, known = known, parts(process.pid)
        _note_step(run, before, known)
        if at >= (reloads + 1) * reload_s:
            reloads += 1
            reload(process, reloads)
        if len(run.samples) % 12 == 0:
            last = run.samples[-1]
            failures = run.count("failures").total()
            progress(
                f"{at / 60:.0f} min: rss {last['rss'] / MIB:.1f} MiB,"
                f" {last['packets']:,.0f} packets, {last['descriptors']:.0f} descriptors,"
                f" {last['tasks']:.0f} tasks, wal {last['wal'] / MIB:.1f} MiB, {failures} failures"
            )
        due += period_s
        time.sleep(max(due - time.monotonic(), 0))
    run.facts["reloads"] = reloads


def _note_step(run: Run, before: Parts, after: Parts) -> None:
    """Keep what grew, if much did between the last two readings and memory is to be flat."""
    if len(run.samples) < 2 or run.samples[-1]["at"] < run.warmup_s:
        return
    step = run.samples[-1]["rss"] - run.samples[-2]["rss"]
    if step >= STEP_BYTES:
        at = run.samples[-1]["at"]
        words = "; ".join(growth(before, after))
        run.facts.setdefault("steps", []).append(f"{at:.0f} s: {step / MIB:+.2f} MiB: {words}")


def _is_over(run: Run, at: float) -> bool:
    """Tell whether the time is over; a short run waits until it has seen everything."""
    seconds = float(run.facts["seconds"])
    if at < seconds or seconds >= LONG_S or at > seconds + PATIENCE_S:
        return at >= seconds
    statuses = run.count("statuses")
    return all(_answers(statuses, kind) for kind in RATES)


# ---- What is told ----


def report(run: Run, picture: str | None) -> str:
    """Return the Markdown."""
    facts = run.facts
    lines = [
        f"# Soak, {facts['begun']}, {facts['commit']}",
        "",
        f"{facts['seconds'] / 60:g} minutes at {facts['rate']:g} times the rates of"
        f" `bench/soak/load.py`{_filling_words(facts)};"
        f" cache of {facts['capacity']:,} packets, full from the start;"
        f" {facts['nodes']} nodes of ours that live {facts['life_s']:g} s each,"
        f" {facts.get('nodes_gone', 0)} replaced;"
        f" {_foreign_words(facts)}; {facts.get('reloads', 0)} reloads"
        f"{'; under chrt -r 1' if facts['realtime'] else ''}.",
        "",
    ]
    if picture:
        lines += [f"![The run]({picture})", ""]
    lines += ["| judged | | figures |", "| --- | --- | --- |"]
    for verdict in run.verdicts():
        mark = "yes" if verdict.ok else "**no**"
        lines.append(f"| {verdict.what} | {mark} | {verdict.figures} |")
    if steps := facts.get("steps"):
        lines += ["", "Where resident memory rose at once:", "", *(f"- {step}" for step in steps)]
    lines += ["", "| answers | count |", "| --- | ---: |"]
    statuses = run.count("statuses")
    lines += [f"| {name} | {count:,} |" for name, count in sorted(statuses.items())]
    lines += ["", "| not 2xx or 304, or asked twice | count |", "| --- | ---: |"]
    reasons = run.count("reasons")
    lines += [f"| {name} | {count:,} |" for name, count in sorted(reasons.items())]
    return "\n".join(lines) + "\n"


def _filling_words(facts: dict[str, Any]) -> str:
    filling_s = facts.get("fill_s", 0.0)
    return f", {FILL_RATE:g} times those in the first {filling_s / 60:g}" if filling_s else ""


def _foreign_words(facts: dict[str, Any]) -> str:
    if not facts["peers"]:
        return "no nodes of other programs"
    replaced = [
        f"{kind} {facts.get(f'{kind}_replaced', 0)} times" for kind in ("rust", "libtorrent")
    ]
    kinds = "Rust's mainline and libtorrent"
    return f"{PEER_NODES} nodes each of {kinds}, replaced: {', '.join(replaced)}"


def picture_of(run: Run) -> str:
    """Return the SVG."""
    facts = run.facts
    title = (
        f"{facts['seconds'] / 60:g} minutes of mixed load, {facts['begun'][:10]}, {facts['commit']}"
    )
    charts = []
    for name, rule in RULES.items():
        scale = MIB if rule.unit == "MiB" else 1.0
        words = f"{name}, {rule.unit}" if rule.unit else name
        charts.append(Chart(words, run.series(name), scale))
    charts += [
        Chart(f"hot GET, {name[4:7]}, ms", run.times(name), fitted=False, floor=0.0)
        for name in TIMES
    ]
    charts.append(Chart("evictions", run.series("evictions"), fitted=False, floor=0.0))
    return draw(title, charts, run.warmup_s)


def save(run: Run, folder: Path) -> Path:
    """Write all three forms and return the path without its suffix."""
    folder.mkdir(parents=True, exist_ok=True)
    stamp = run.facts["begun"].replace("-", "").replace(":", "").partition("+")[0]
    path = folder / f"soak-{stamp}"
    path.with_suffix(".json").write_text(json.dumps(run.to_json()))
    path.with_suffix(".svg").write_text(picture_of(run))
    path.with_suffix(".md").write_text(report(run, path.with_suffix(".svg").name))
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, judge, keep."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=1.0, help="of all rates, 1 as they are")
    parser.add_argument("--capacity", type=int, default=CAPACITY, help="of the cache, packets")
    parser.add_argument("--nodes", type=int, default=NODES, help="of ours")
    parser.add_argument("--life", type=float, default=LIFE_S, help="of a node of ours, seconds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-peers", dest="peers", action="store_false")
    parser.add_argument("--realtime", action="store_true", help="run under chrt -r 1")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where to keep the run")
    parser.add_argument("--render", type=Path, help="a kept run, to be told again")
    options = parser.parse_args(arguments)
    run = Run(**json.loads(options.render.read_text())) if options.render else soak(options)
    path = save(run, options.render.parent if options.render else options.folder)
    sys.stdout.write(report(run, None))
    progress(f"kept as {path}.json, .md, .svg")
    return 0 if all(verdict.ok for verdict in run.verdicts()) else 1


if __name__ == "__main__":
    sys.exit(main())
