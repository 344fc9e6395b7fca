"""``python -m bench [--quick] [NAME ...]``: run the benches, print the tables, keep the figures."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

import relay
from bench.harness import BENCH, FULL, QUICK, Plan, progress
from bench.picture import picture
from bench.results import Row, figures_tables, goals_table, notes
from bench.runner import BENCHES, run_one

RESULTS: Final = BENCH / "results"


def main() -> int:
    """Run what the arguments ask for; without names, everything."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two short rounds, under 3 minutes")
    parser.add_argument("--rounds", type=int, help="turns of every subject at every load")
    parser.add_argument("--seconds", type=float, help="length of a turn")
    parser.add_argument("--no-growth", action="store_true", help="only the points that goals need")
    parser.add_argument("--render", type=Path, metavar="JSON", help="print a kept run again")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHES))
    arguments = parser.parse_args()
    if arguments.render:
        run = json.loads(arguments.render.read_text())
        rows = [Row.from_json(row) for row in run["rows"]]
        sys.stdout.write(report(run, rows))
        return 0
    chosen = [name for name in BENCHES if _is_chosen(name, arguments.names)]
    if unknown := [
        part for part in arguments.names if not any(_is_chosen(b, [part]) for b in chosen)
    ]:
        parser.error(f"no such bench: {', '.join(unknown)}")
    plan = QUICK if arguments.quick else FULL
    plan = replace(
        plan,
        rounds=arguments.rounds or plan.rounds,
        seconds=arguments.seconds or plan.seconds,
        growth=plan.growth and not arguments.no_growth,
    )
    return _run(chosen, plan)


def _is_chosen(name: str, parts: Sequence[str]) -> bool:
    """Tell whether a bench is asked for, by its name or, like both of ``put``, by its beginning."""
    return not parts or any(name == part or name.startswith(f"{part}-") for part in parts)


def _run(names: Sequence[str], plan: Plan) -> int:
    begun_s = time.monotonic()
    now = datetime.datetime.now(datetime.UTC)
    run: dict[str, object] = {
        "date": now.isoformat(timespec="seconds"),
        "command": f"python -m bench {' '.join(sys.argv[1:])}".strip(),
        "commit": _commit(),
        "version": relay.__version__,
        "machine": _machine(),
        "plan": asdict(plan),
    }
    rows: list[Row] = []
    failures: dict[str, str] = {}
    try:
        for name in names:
            progress(f"bench {name} of {', '.join(names)}")
            try:
                rows.extend(run_one(name, plan))
            except RuntimeError as error:
                failures[name] = str(error)
                progress(f"bench {name} FAILED: {error}")
    finally:  # minutes of measuring are kept, also when the rest is interrupted
        run["seconds"] = round(time.monotonic() - begun_s)
        run["failures"] = failures
        if rows:
            _keep(f"{now:%Y-%m-%dT%H%M%SZ}", run, rows)
    return 1 if failures else 0


def _keep(name: str, run: Mapping[str, object], rows: Sequence[Row]) -> None:
    RESULTS.mkdir(exist_ok=True)
    kept = {**run, "rows": [row.to_json() for row in rows]}
    (RESULTS / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n")
    drawing = picture(rows, f"pkarr-relay {run['version']}, commit {run['commit']}")
    (RESULTS / f"{name}.svg").write_text(drawing)
    text = report(run, rows)
    (RESULTS / f"{name}.md").write_text(text)
    sys.stdout.write(text)
    progress(f"kept in bench/results/{name}.json, .svg and .md")


def report(run: Mapping[str, object], rows: Sequence[Row]) -> str:
    """Return a whole run as Markdown, to be put into RESULTS.md as it is."""
    machine = run["machine"]
    assert isinstance(machine, Mapping)
    failures = run.get("failures")
    assert isinstance(failures, Mapping)
    head = (
        f"`{run['command']}`, {run['date']}, commit {run['commit']}, {run['seconds']} s,"
        f" load average {machine['load_average']:.1f} at the start;"
        f" {machine['cores']} cores of {machine['cpu']}, Linux {machine['kernel']},"
        f" CPython {machine['python']}."
    )
    broken = "\n".join(f"- bench {name} failed: {words}" for name, words in failures.items())
    parts = [head, broken, goals_table(rows), figures_tables(rows), notes(rows)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _machine() -> dict[str, object]:
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
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
    }


def _commit() -> str:
    """Return the commit that was measured, with a plus sign if files had been changed."""
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=BENCH, check=False)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
