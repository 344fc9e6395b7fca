"""Short histories by seed; `python -m tests.simulation` has ten thousand of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.histories import run

ROOT = Path(__file__).parents[2]
BLOCK = 20


@pytest.mark.slow
@pytest.mark.parametrize("first", range(20, 260, BLOCK))
def test_whatever_happens_the_invariants_hold(first: int) -> None:
    answers = 0
    for seed in range(first, first + BLOCK):
        answers += run(seed).counts["answers"]
    assert answers > 50, "histories in which nothing is asked show nothing"


def test_a_few_histories_with_every_kind_of_kernels() -> None:
    kinds = set()
    for seed in range(8):
        report = run(seed)
        assert report.datagrams > 100
        kinds |= {name for name in report.counts if name.startswith(("liars", "fault"))}
    assert len(kinds) > 8


@pytest.mark.slow
def test_a_seed_is_one_history_in_any_process() -> None:
    """Nothing may depend on how Python hashes strings, nor on what ran before."""
    told = set()
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "tests.simulation", "--seed", "2"],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        told.add(done.stdout)
    assert len(told) == 1
    report = run(2)
    assert f"{report.datagrams} datagrams, digest {report.digest:08x}" in told.pop()


def test_the_command_lives_through_histories_in_processes_of_its_own() -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.simulation", "--only", "histories"),
            *("--seeds", "3", "--processes", "2"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "3 histories held, 0 failed" in done.stdout
