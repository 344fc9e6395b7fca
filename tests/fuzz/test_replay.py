"""What fuzzing has found to reach somewhere, or to go wrong once, with whichever kernels.

No fuzzer is needed here: a target is a function, and inputs are files.
"""

from __future__ import annotations

import subprocess
from importlib import import_module
from pathlib import Path

import pytest

from tests.fuzz import building, corpus


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
