"""What every bench shares: requests, load, CPU time, rounds taken in turns."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, TypeVar

from bench.anchors import LOAD_CORE, Subject, pinned
from bench.library import Library
from bench.results import Row
from tests.support.packets import Packet
from tests.support.relay import fetch

BENCH: Final = Path(__file__).resolve().parent
ANY_BODY: Final = 0xFFFFFFFF
TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
KEEP_ALIVE: Final = "Host: 127.0.0.1\r\nAccept: */*\r\n"
LOADER_GRACE_S: Final = 60.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: every subject gets `rounds` turns of `seconds` at each load."""

    rounds: int
    seconds: float
    keys_max: int = 1_000_000
    """The quick form leaves out larger caches: filling them takes longer than it may."""
    growth: bool = True
    """Whether more points are measured than the goals need, to plot how cost grows."""
    warmup_s: float = 0.2


QUICK: Final = Plan(rounds=2, seconds=0.5, keys_max=100_000, growth=False)
FULL: Final = Plan(rounds=5, seconds=2.0)


@dataclass(frozen=True, slots=True)
class Record:
    """A request to send and the answer it must get; `body` None takes any."""

    request: bytes
    status: int
    body: bytes | None

    def packed(self) -> bytes:
        """Return the form that ``load.c`` reads."""
        head = struct.pack("<I", len(self.request)) + self.request + struct.pack("<H", self.status)
        if self.body is None:
            return head + struct.pack("<I", ANY_BODY)
        return head + struct.pack("<I", len(self.body)) + self.body


def get(packet: Packet, query: str = "", prefix: str = "") -> Record:
    """A GET that must be answered with exactly this packet."""
    line = f"GET /{prefix}{packet.key}{query} HTTP/1.1\r\n{KEEP_ALIVE}\r\n"
    return Record(line.encode(), 200, packet.payload)


def put(packet: Packet, prefix: str = "") -> Record:
    """A PUT that must be acknowledged."""
    length = len(packet.payload)
    head = f"PUT /{prefix}{packet.key} HTTP/1.1\r\n{KEEP_ALIVE}Content-Length: {length}\r\n\r\n"
    return Record(head.encode() + packet.payload, 204, b"")


class Supply:
    """Hands out packets of the library, each once, so that every PUT of a run is a new key."""

    def __init__(self, start: int = 0) -> None:
        self._next = start

    def take(self, count: int) -> list[Packet]:
        """Return the next `count`."""
        self._next += count
        return Library(self._next)[self._next - count : self._next]


@dataclass(frozen=True, slots=True)
class Sample:
    """One turn of one subject. Only `ok` answers had the right status and the right body."""

    seconds: float
    answers: int
    ok: int
    wrong_status: int
    wrong_body: int
    broken: int
    statuses: dict[str, int]
    loader_s: float
    p50_us: int
    p90_us: int
    p99_us: int
    p999_us: int
    max_us: int
    cpu_s: float = 0.0
    network_s: float | None = None
    """CPU time of the DHT network, where somebody asked for it."""

    @property
    def rate(self) -> float:
        """Good answers per second."""
        return self.ok / self.seconds

    @property
    def failed_percent(self) -> float:
        """Share of requests without a good answer."""
        return 100 * (1 - self.ok / max(self.answers + self.broken, 1))

    def figures(self) -> dict[str, float]:
        """Return what the tables tell of it."""
        answers = max(self.answers, 1)
        share = {} if self.network_s is None else {"network": 100 * self.network_s / self.seconds}
        return {
            "rate": self.rate,
            "cpu_us": self.cpu_s / answers * 1e6,
            "p50_ms": self.p50_us / 1000,
            "p99_ms": self.p99_us / 1000,
            "failed": self.failed_percent,
            "loader_us": self.loader_s / answers * 1e6,
            **share,
        }


@dataclass(frozen=True, slots=True)
class Load:
    """What one load generator does: records to send, how many at once, for how long."""

    records: Path
    connections: int
    seconds: float
    mode: Literal["once", "cycle", "random"] = "cycle"
    prompt: bool = False
    """Before all else on its core: its latencies are to be those of what it measures."""


def compiled(source: str, folder: Path) -> Path:
    """Compile a C program of the bench and return it."""
    program = folder / Path(source).stem
    compiler = os.environ.get("CC", "cc")
    command = [compiler, "-O2", "-o", program, BENCH / source]
    subprocess.run([str(part) for part in command], check=True, timeout=120)
    return program


class Loader:
    """The compiled load generator, and the files it reads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._program = compiled("load.c", folder)
        self._files = 0

    def prepare(self, records: Iterable[Record]) -> Path:
        """Write records to a file for `run`."""
        self._files += 1
        path = self.folder / f"requests-{self._files}"
        path.write_bytes(b"".join(record.packed() for record in records))
        return path

    def run(
        self, subject: Subject, *loads: Load, cores: Sequence[int] = (LOAD_CORE,)
    ) -> list[Sample]:
        """Put a subject under load; its CPU time is shared among the loads by their answers."""
        with pinned(*cores):
            before_s = cpu_time_s(subject.pid)
            network_pid = subject.network_pid
            network_before_s = cpu_time_s(network_pid) if network_pid else 0.0
            running = [self._start(subject, load) for load in loads]
            try:
                ends = [load.seconds + LOADER_GRACE_S for load in loads]
                outputs = [
                    one.communicate(timeout=end) for one, end in zip(running, ends, strict=True)
                ]
            finally:
                for one in running:
                    one.kill()
                    one.wait()
            cpu_s = cpu_time_s(subject.pid) - before_s
            network_s = cpu_time_s(network_pid) - network_before_s if network_pid else None
        samples = [Sample(**json.loads(output)) for output, _ in outputs]
        answers = max(sum(sample.answers for sample in samples), 1)
        return [replace(s, cpu_s=cpu_s * s.answers / answers, network_s=network_s) for s in samples]

    def _start(self, subject: Subject, load: Load) -> subprocess.Popen[str]:
        command = [
            self._program,
            subject.port,
            load.connections,
            load.seconds,
            load.mode,
            load.records,
        ]
        one = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True)
        if load.prompt:
            try:
                os.setpriority(os.PRIO_PROCESS, one.pid, PROMPT_NICENESS)
            except PermissionError:
                progress("not privileged: latencies hold waits for the load generator's core, too")
        return one

    def once(self, subject: Subject, records: Iterable[Record], connections: int) -> Sample:
        """Send every record one time."""
        path = self.prepare(records)
        try:
            return self.run(subject, Load(path, connections, 120, "once"))[0]
        finally:
            path.unlink()


PROMPT_NICENESS: Final = -15
FILLING_CONNECTIONS: Final = 16
FILLING_TURNS: Final = 30


def fill(loader: Loader, subject: Subject, wanted: Sequence[Packet]) -> None:
    """Publish until the relay serves every packet: under load the reference loses some."""
    left = list(wanted)
    for _ in range(FILLING_TURNS):
        records = [put(packet, subject.prefix) for packet in left]
        loader.once(subject, records, FILLING_CONNECTIONS)
        left = [packet for packet in left if not _serves(subject, packet)]
        if not left:
            return
    raise RuntimeError(f"{subject.name} did not take {len(left)} packets")


def _serves(subject: Subject, packet: Packet) -> bool:
    url = f"{subject.url}{subject.prefix}{packet.key}?policy=CacheOnly"
    return fetch(url).body == packet.payload


def cpu_time_s(pid: int) -> float:
    """Return the CPU time, user and system, of all threads of a process so far."""
    # The second field is the program's name in parentheses and may hold blanks.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def in_turns(plan: Plan, subjects: Sequence[T], rounds: int | None = None) -> Iterator[T]:
    """Give every subject its turns, the order reversed each round, so that drift hits all."""
    for number in range(plan.rounds if rounds is None else rounds):
        yield from subjects if number % 2 == 0 else list(reversed(subjects))


_BEGUN: Final = time.monotonic()


def progress(words: str) -> None:
    """Tell whoever waits what goes on."""
    sys.stderr.write(f"{time.monotonic() - _BEGUN:7.1f} s  {words}\n")
    sys.stderr.flush()


def tell(row: Row, subject: str) -> None:
    """Tell the latest figures of a row."""
    shown = [f"{name} {values[-1]:,.1f}" for name, values in row.values[subject].items()]
    progress(f"{row.name}, {subject}: {', '.join(shown[:5])}")


def add_sample(row: Row, subject: Subject, sample: Sample) -> None:
    """Keep one turn's figures and show them."""
    row.add(subject.name, subject.build, sample.figures(), sample.statuses)
    tell(row, subject.name)
