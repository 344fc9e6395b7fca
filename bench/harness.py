"""What every bench shares: load, CPU time, rounds taken in turns, medians, the report."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import struct
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import relay
from bench.anchors import LOAD_CORE, Subject, network, ours, pinned, reference_peer
from tests.support.packets import Author, Packet
from tests.support.relay import fetch

BENCH: Final = Path(__file__).resolve().parent
ANY_BODY: Final = 0xFFFFFFFF
TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
KEEP_ALIVE: Final = "Host: 127.0.0.1\r\nAccept: */*\r\n"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: every subject gets `rounds` turns of `seconds` at each load."""

    rounds: int
    seconds: float
    warmup_s: float = 0.5


QUICK: Final = Plan(rounds=2, seconds=1.5)
FULL: Final = Plan(rounds=5, seconds=2.5)


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


def get(packet: Packet, query: str = "") -> Record:
    """A GET that must be answered with exactly this packet."""
    line = f"GET /{packet.key}{query} HTTP/1.1\r\n{KEEP_ALIVE}\r\n"
    return Record(line.encode(), 200, packet.payload)


def put(packet: Packet) -> Record:
    """A PUT that must be acknowledged."""
    head = (
        f"PUT /{packet.key} HTTP/1.1\r\n{KEEP_ALIVE}Content-Length: {len(packet.payload)}\r\n\r\n"
    )
    return Record(head.encode() + packet.payload, 204, b"")


def packets(count: int) -> list[Packet]:
    """Fresh packets of distinct keys, about 250 bytes each, that stay valid for the whole run."""
    text = "relay=https://relay.example./ addr=192.0.2.1:4433 padding-to-a-usual-size-of-packets"
    return [Author().packet(text, ttl_s=3600) for _ in range(count)]


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
    cpu_s: float
    p50_us: int
    p90_us: int
    p99_us: int
    p999_us: int
    max_us: int

    @property
    def rate(self) -> float:
        """Good answers per second."""
        return self.ok / self.seconds

    @property
    def cpu_us(self) -> float:
        """The server's CPU time per answer, microseconds."""
        return self.cpu_s / max(self.answers, 1) * 1e6

    @property
    def failed_ratio(self) -> float:
        """Share of requests without a good answer."""
        requests = self.answers + self.broken
        return 1 - self.ok / max(requests, 1)


@dataclass(frozen=True, slots=True)
class Figure:
    """Nanoseconds of one operation, per implementation."""

    name: str
    ns: dict[str, float]


class Loader:
    """The compiled load generator."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._program = folder / "load"
        compiler = os.environ.get("CC", "cc")
        subprocess.run(
            [compiler, "-O2", "-o", self._program, BENCH / "load.c"], check=True, timeout=120
        )

    def run(
        self,
        subject: Subject,
        records: Iterable[Record],
        *,
        connections: int,
        seconds: float,
        once: bool = False,
    ) -> Sample:
        """Put a subject under load and read its CPU time before and after."""
        path = self._folder / "requests"
        path.write_bytes(b"".join(record.packed() for record in records))
        mode = "once" if once else "cycle"
        command = [self._program, subject.port, connections, seconds, mode, path]
        with pinned(LOAD_CORE):
            before_s = cpu_time_s(subject.pid)
            done = subprocess.run(
                [str(part) for part in command], stdout=subprocess.PIPE, check=True, timeout=300
            )
            cpu_s = cpu_time_s(subject.pid) - before_s
        return Sample(cpu_s=cpu_s, **json.loads(done.stdout))


FILLING_CONNECTIONS: Final = 8
FILLING_TURNS: Final = 20


def fill(loader: Loader, subject: Subject, wanted: Sequence[Packet]) -> None:
    """Publish until the relay serves every packet: under load the reference loses some."""
    left = list(wanted)
    for _ in range(FILLING_TURNS):
        records = [put(packet) for packet in left]
        loader.run(subject, records, connections=FILLING_CONNECTIONS, seconds=120, once=True)
        left = [packet for packet in left if not _serves(subject, packet)]
        if not left:
            return
    raise RuntimeError(f"{subject.name} did not take {len(left)} packets")


def _serves(subject: Subject, packet: Packet) -> bool:
    return fetch(f"{subject.url}{packet.key}?policy=CacheOnly").body == packet.payload


def cpu_time_s(pid: int) -> float:
    """Return the CPU time, user and system, of all threads of a process so far."""
    # The second field is the program's name in parentheses and may hold blanks.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


@dataclass(slots=True)
class Row:
    """One question and the samples of every subject that answered it."""

    name: str
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    builds: dict[str, str] = field(default_factory=dict)

    def add(self, subject: Subject, sample: Sample) -> None:
        """Keep a sample."""
        self.samples.setdefault(subject.name, []).append(sample)
        self.builds[subject.name] = subject.build

    def median(self, subject: str, of: Callable[[Sample], float]) -> float:
        """Return the median over the rounds."""
        return statistics.median(map(of, self.samples[subject]))


def in_turns(plan: Plan, subjects: Sequence[Subject], turn: Callable[[Subject], None]) -> None:
    """Give every subject its turns, the order reversed each round, so that drift hits all."""
    for number in range(plan.rounds):
        for subject in subjects if number % 2 == 0 else list(reversed(subjects)):
            turn(subject)


def on_networks() -> Iterator[tuple[str, list[Subject]]]:
    """Yield each kind of network with both relays, each on a network of its own of that kind.

    On a shared one each relay would be among the nodes that the other has to ask.
    """
    for kind in ("libtorrent", "rust"):
        with ExitStack() as stack:
            nets = [stack.enter_context(network(kind)) for _ in range(2)]
            yield (
                kind,
                [
                    stack.enter_context(ours(nets[0].bootstrap)),
                    stack.enter_context(reference_peer(nets[1].bootstrap)),
                ],
            )


def spread(row: Row, subject: str, of: Callable[[Sample], float], digits: int = 0) -> str:
    """Return ``median (min to max)``."""
    values = [of(sample) for sample in row.samples[subject]]
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def table(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown, a line per subject; nothing for none."""
    if not rows:
        return ""
    lines = [
        "| measurement | subject | good answers/s | CPU µs/request | p50 ms | p99 ms | failed |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        for subject in row.samples:
            cells = [
                row.name,
                f"{subject} ({row.builds[subject]})",
                spread(row, subject, lambda s: s.rate),
                spread(row, subject, lambda s: s.cpu_us),
                spread(row, subject, lambda s: s.p50_us / 1000, 2),
                spread(row, subject, lambda s: s.p99_us / 1000, 2),
                f"{row.median(subject, lambda s: s.failed_ratio):.1%}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append(_ratio_line(row))
    return "\n".join(line for line in lines if line)


def _ratio_line(row: Row) -> str:
    if set(row.samples) != {"ours", "reference"}:
        return ""
    rates = [row.median(name, lambda s: s.rate) for name in ("ours", "reference")]
    cpu = [row.median(name, lambda s: s.cpu_us) for name in ("ours", "reference")]
    rate = f"{rates[0] / rates[1]:.2f}" if rates[1] else "-"
    cost = f"{cpu[0] / cpu[1]:.2f}" if cpu[1] else "-"
    return f"| | **ours : reference** | **{rate}** | **{cost}** | | | |"


def machine() -> dict[str, object]:
    """Describe the machine without naming it."""
    model = next(
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
    }


def commit() -> str:
    """Return the commit that was measured, with a plus sign if files had been changed."""
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=BENCH, check=False)
    return done.stdout.strip() or "unknown"


def save(rows: Sequence[Row], kernels: Sequence[Figure], plan: Plan) -> Path:
    """Write one run's figures to ``bench/results`` and return the file."""
    now = datetime.datetime.now(datetime.UTC)
    run = {
        "date": now.isoformat(timespec="seconds"),
        "commit": commit(),
        "version": relay.__version__,
        "machine": machine(),
        "plan": asdict(plan),
        "kernels": [asdict(figure) for figure in kernels],
        "rows": [asdict(row) for row in rows],
    }
    path = BENCH / "results" / f"{now:%Y-%m-%dT%H%M%SZ}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(run, indent=1) + "\n")
    return path
