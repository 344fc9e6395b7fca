"""What fuzzing has found to reach somewhere, or to go wrong once, with whichever kernels.

No fuzzer is needed here: a target is a function, and inputs are files.
"""

from __future__ import annotations

import subprocess
from importlib import import_module
from pathlib import Path

import pytest

from tests.fuzz import building, corpus
from tests.fuzz.__main__ import summary


@pytest.mark.parametrize("name", corpus.python_names())
def test_target_holds_on_what_was_ever_found(name: str) -> None:
    inputs = corpus.kept(name)
    assert len(inputs) >= 10
    target = import_module(f"tests.fuzz.targets.{name}").target
    for data in inputs:
        target(data)


@pytest.mark.compiled
@pytest.mark.parametrize("name", corpus.native_names())
def test_c_target_holds_on_what_was_ever_found(name: str, tmp_path: Path) -> None:
    """Compiled by whichever compiler is there, with sanitizers."""
    inputs = corpus.kept(name)
    assert len(inputs) >= 10
    program = building.native_target(name, tmp_path / "bin", replay=True)
    corpus.spread(tmp_path / "inputs", inputs)
    paths = sorted((tmp_path / "inputs").iterdir())
    done = subprocess.run([program, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{len(set(inputs))} inputs\n"


@pytest.mark.parametrize("name", corpus.python_names())
def test_seeds_are_inputs(name: str) -> None:
    seeds = list(import_module(f"tests.fuzz.targets.{name}").seeds())
    assert len(set(seeds)) >= 5


@pytest.mark.compiled
def test_the_corpus_is_small() -> None:
    files = list((corpus.FOLDER / "corpus").iterdir())
    assert {path.stem for path in files} == set(corpus.names())
    assert sum(path.stat().st_size for path in files) < 2_000_000


def test_the_summary_counts_what_came_after_the_last_finding() -> None:
    runs = """
| UTC | Commit | Target | CPU s | Executions | Coverage | Features | Corpus | Findings |
| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | --- |
| 2026-11-23 05:51 | 2f99b79 | dns | 100 | 5000 | 300 | 1111 | 158 | none |
| 2026-11-23 05:52 | 2f99b79 | dns | 4 | 357 | 368 | 1111 | 158 | crash-3b572d |
| 2026-11-23 05:56 | 2f99b79+ | dns | 1000 | 60000 | 386 | 1234 | 111 | none | 900 |
| 2026-11-23 05:59 | 2f99b79+ | dns (pure) | 80 | 677 | 390 | 1234 | 112 | none | 60 |
| 2026-11-23 06:02 | 2f99b79 | http | 4 | 357 | 368 | 1111 | 158 | crash-3b572d | 901 |
"""
    lines = summary(runs).splitlines()
    assert "| dns | 4 | 1,184 | 1,080 | 66,034 | 390 | 112 | 900 |" in lines
    assert "| http | 1 | 4 | 0 | 357 | - | - | - |" in lines
    assert "| keys | 0 | 0 | 0 | 0 | - | - | - |" in lines
    assert lines[-1] == "| all | 5 | 1,188 | | | | | |"
