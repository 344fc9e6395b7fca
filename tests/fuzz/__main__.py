"""``python -m tests.fuzz [TARGET ...] [--seconds N]``: fuzz, minimise the corpus, write it down.

``python -m tests.fuzz --summary`` only adds up what is written down.

Each target runs alone for so many seconds, from all that is in the repository. What it finds
stops it: the input is kept in ``build/fuzz/work/TARGET``, and the exit status is 1. Else the new
corpus, minimised, replaces the one in the repository, and a row is added to RUNS.md.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

from tests.fuzz import building, corpus

RUNS = corpus.FOLDER / "RUNS.md"
INPUT_BYTES_MAX = 4096
SECONDS = 900
INPUT_SECONDS_MAX = 30
"""An input that takes longer is a finding: a hang. Sanitizers and a busy machine are slow."""
MEBIBYTES_MAX = 3072
_STATUS = re.compile(r"^#(\d+)\s+\w+\s+cov: (\d+) ft: (\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """What came of fuzzing one target."""

    executions: int
    coverage: int
    features: int
    cpu_s: float
    wall_s: float
    findings: tuple[Path, ...]


def main(arguments: list[str]) -> int:
    """Fuzz what is asked for, one target after the other; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", help=", ".join(corpus.names()))
    parser.add_argument("--seconds", type=int, default=SECONDS, help="for each target")
    parser.add_argument("--pure", action="store_true", help="with the pure-Python kernels")
    parser.add_argument("--summary", action="store_true", help="print what all runs come to")
    options = parser.parse_args(arguments)
    if options.summary:
        print(summary(RUNS.read_text()))
        return 0
    numbers = [name for name in options.targets if name.isdigit()]
    seconds = int(numbers[0]) if numbers else options.seconds
    targets = [name for name in options.targets if not name.isdigit()] or corpus.names()
    if unknown := set(targets) - set(corpus.names()):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    findings: list[Path] = []
    for name in targets:
        findings += fuzz(name, seconds, pure=options.pure).findings
    for finding in findings:
        print(f"FOUND: {finding}", file=sys.stderr)
    return 1 if findings else 0


def summary(runs: str) -> str:
    """Return a table of what the runs of each target come to, from the text of RUNS.md.

    "CPU s clean" counts the runs after the last that found something. Edges and inputs kept are of
    the last of those. A run with the pure kernels counts for its target. The longest run is by the
    clock, without a finding; early rows do not have that, their last cell is missing.
    """
    rows = [line.strip("| ").split(" | ") for line in runs.splitlines() if line.startswith("| 2")]
    table = [
        "| Target | Runs | CPU s | CPU s clean | Executions | Edges | Inputs kept | Longest, s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    cpu_s_of_all = 0
    for name in corpus.names():
        own = [row for row in rows if row[2].partition(" ")[0] == name]
        cpu_s = [int(row[3]) for row in own]
        cpu_s_of_all += sum(cpu_s)
        executions = sum(int(row[4]) for row in own)
        found = [number for number, row in enumerate(own, 1) if row[8] != "none"]
        begin = found[-1] if found else 0
        edges, kept = (own[-1][5], own[-1][7]) if own[begin:] else ("-", "-")
        clean = [row for row in own if row[8] == "none"]
        longest_s = max((int(row[9]) for row in clean if row[9:]), default="-")
        figures = (name, len(own), sum(cpu_s), sum(cpu_s[begin:]), executions)
        last = f"{edges} | {kept} | {_shown(longest_s)} |"
        table.append(f"| {' | '.join(map(_shown, figures))} | {last}")
    return "\n".join([*table, f"| all | {len(rows)} | {cpu_s_of_all:,} | | | | | |"])


def _shown(figure: str | int) -> str:
    return figure if isinstance(figure, str) else f"{figure:,}"


def fuzz(name: str, seconds: int, *, pure: bool = False) -> Run:
    """Run a target for so many seconds, and write down what came of it."""
    native = name in corpus.native_names()
    program = building.native_target(name) if native else building.python_target(name, pure=pure)
    work = building.BUILD / "work" / name
    shutil.rmtree(work, ignore_errors=True)
    begin, new = work / "begin", work / "new"
    new.mkdir(parents=True)
    corpus.spread(begin, [*corpus.kept(name), *_seeds(name)])
    options = _options(name, work)
    log = work / "log.txt"
    print(f"{name}: {seconds} s; {log}")
    before, began = os.times(), time.monotonic()
    _run(log, program, *options, f"-max_total_time={seconds}", new, begin)
    after, wall_s = os.times(), time.monotonic() - began
    executions, coverage, features = _last_status(log.read_text(errors="replace"))
    run = Run(
        executions,
        coverage,
        features,
        after.children_user + after.children_system - before.children_user - before.children_system,
        wall_s,
        tuple(sorted(path for path in work.glob("*-*") if path.is_file())),
    )
    kept = len(corpus.packed(name))
    if executions and not run.findings:
        kept = _minimise(name, program, work)
    elif not run.findings:
        raise SystemExit(f"{name} did not run; {log}:\n{log.read_text(errors='replace')[-3000:]}")
    _write_down(f"{name} (pure)" if pure else name, run, kept)
    return run


def _run(log: Path, *command: str | Path) -> int:
    """Run libFuzzer, with a folder in memory for what the target writes; return its status."""
    memory = Path("/dev/shm")  # noqa: S108 -- a folder of our own is made there
    folder = tempfile.mkdtemp(prefix="pkarr-fuzz-", dir=memory if memory.is_dir() else None)
    try:
        with log.open("wb") as output:
            return subprocess.run(
                command,
                stdout=output,
                stderr=output,
                env={**os.environ, "TMPDIR": folder},
                check=False,
            ).returncode
    finally:
        shutil.rmtree(folder)


def _seeds(name: str) -> Iterable[bytes]:
    if name in corpus.python_names():
        seeds: Iterable[bytes] = import_module(f"tests.fuzz.targets.{name}").seeds()
        return seeds
    path = corpus.FOLDER / "native" / f"{name}.seeds"
    lines = path.read_text("ascii").splitlines() if path.exists() else []
    return [line.encode().decode("unicode_escape").encode("latin-1") for line in lines]


def _options(name: str, work: Path) -> list[str]:
    module = None
    if name in corpus.python_names():
        module = import_module(f"tests.fuzz.targets.{name}")
    options = [
        f"-max_len={getattr(module, 'INPUT_BYTES_MAX', INPUT_BYTES_MAX)}",
        f"-timeout={INPUT_SECONDS_MAX}",
        f"-rss_limit_mb={MEBIBYTES_MAX}",
        f"-artifact_prefix={work}/",
        "-print_final_stats=1",
    ]
    words = getattr(module, "DICTIONARY", ())
    if words:
        dictionary = work / "dictionary"
        lines = ('"' + "".join(f"\\x{octet:02x}" for octet in word) + '"\n' for word in words)
        dictionary.write_text("".join(lines))
        options.append(f"-dict={dictionary}")
    return options


def _last_status(log: str) -> tuple[int, int, int]:
    """Return executions, covered edges and features as libFuzzer's last line tells them."""
    executions, coverage, features = 0, 0, 0
    for match in _STATUS.finditer(log):
        executions, coverage, features = (int(number) for number in match.groups())
    final = re.search(r"stat::number_of_executed_units:\s+(\d+)", log)
    return int(final[1]) if final else executions, coverage, features


def _minimise(name: str, program: Path, work: Path) -> int:
    """Put the fewest, smallest inputs with the same features into the repository; their number."""
    least = work / "least"
    least.mkdir()
    log = work / "merge.txt"
    options = _options(name, work)
    if _run(log, program, *options, "-merge=1", least, work / "new", work / "begin"):
        raise SystemExit(f"{name}: merging failed; {log}")
    return corpus.pack(name, corpus.gather(least))


def _write_down(name: str, run: Run, kept: int) -> None:
    commit = _git("rev-parse", "--short", "HEAD")
    if _git(
        "status", "--porcelain", "relay", "_speedups", "tests/fuzz/targets", "tests/fuzz/native"
    ):
        commit += "+"
    found = ", ".join(path.name for path in run.findings) or "none"
    row = (
        f"| {datetime.now(UTC):%Y-%m-%d %H:%M} | {commit} | {name} | {run.cpu_s:.0f}"
        f" | {run.executions} | {run.coverage} | {run.features} | {kept} | {found}"
        f" | {run.wall_s:.0f} |\n"
    )
    with RUNS.open("a") as file:
        file.write(row)
    print(row, end="")


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=building.ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
