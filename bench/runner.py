"""Runs benches one after the other, each in a process group of its own with a time limit.

A bench that fails or hangs loses its unfinished rows and nobody else's: rows arrive as lines of
JSON as they are finished, and at the end of its time the whole group, servers and networks
included, is ended by its id.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import IO, Final

from bench.harness import Loader, Plan, progress
from bench.results import Row

BENCHES: Final = {
    "kernels": "kernels.run",
    "get": "get.run",
    "iroh": "get.run_iroh",
    "limiter": "get.run_limited",
    "threads": "threads.run",
    "keys": "keys.run",
    "mixed": "mixed.run",
    "put-libtorrent": "put.run_libtorrent",
    "put-rust": "put.run_rust",
    "lookup-libtorrent": "dht_lookup.run_libtorrent",
    "lookup-rust": "dht_lookup.run_rust",
    "replies": "dht_lookup.run_replies",
    "dht": "dht_server.run",
    "durable": "durable.run",
    "memory": "memory.run",
    "start": "start.run",
}
"""Name -> function in a module of this package, in the order they run."""
BASE_S: Final = 150.0
"""What a bench may take besides measuring: networks, caches and, the first time, signatures."""
MEASURING_TURNS: Final = 60
"""Turns of a round that the longest bench has, each as long as the plan says."""
ENDING_S: Final = 5.0


def run_one(name: str, plan: Plan) -> Iterator[Row]:
    """Run one bench and yield its rows as they are finished.

    Raises:
        RuntimeError: it failed or took too long; the rows so far have been yielded.
    """
    limit_s = BASE_S + plan.rounds * plan.seconds * MEASURING_TURNS
    end_s = time.monotonic() + limit_s
    with tempfile.TemporaryDirectory(prefix="pkarr-bench-") as folder:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.runner", name, json.dumps(asdict(plan))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "TMPDIR": folder},
        )
        try:
            assert process.stdout is not None
            for line in _lines(process.stdout, end_s):
                yield Row.from_json(json.loads(line))
            if process.wait(ENDING_S) != 0:
                raise RuntimeError(f"ended with status {process.returncode}; see above")
        except TimeoutError:
            raise RuntimeError(f"not finished within {limit_s:.0f} s") from None
        finally:
            _end_group(process)


def _lines(stream: IO[str], end_s: float) -> Iterator[str]:
    """Yield lines until the end of the stream; raise TimeoutError at `end_s`."""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while True:
            # Each row is written at once and much later than the last: no line waits in a buffer.
            if not selector.select(max(end_s - time.monotonic(), 0)):
                raise TimeoutError
            line = stream.readline()
            if not line:
                return
            yield line


def _end_group(process: subprocess.Popen[str]) -> None:
    """End what is left of a bench: its own process and every one that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(ENDING_S)
            break
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def main() -> None:
    """Run one bench in this process; its rows are written to stdout."""
    name, plan = sys.argv[1], Plan(**json.loads(sys.argv[2]))
    module, _, function = BENCHES[name].partition(".")
    run = getattr(import_module(f"bench.{module}"), function)
    progress(f"bench {name}")
    # Programs started here would inherit stdout, and write into our rows.
    rows = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with tempfile.TemporaryDirectory() as folder, rows:
        for row in run(plan, Loader(Path(folder))):
            rows.write(json.dumps(row.to_json()) + "\n")
            rows.flush()


if __name__ == "__main__":
    main()
