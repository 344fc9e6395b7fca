"""CI runs a test that failed once more, but not one by chance or about loss: see noxfile.py."""

from __future__ import annotations

import importlib.util
import json
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.compiled  # none of it depends on the kernels


class CommandFailed(Exception):  # noqa: N818 -- nox's own name
    """What nox raises when a program fails."""


@pytest.fixture(scope="module")
def noxfile() -> ModuleType:
    """Give noxfile.py, with the little that it needs of nox, which is not installed here."""
    nox = SimpleNamespace(
        options=SimpleNamespace(),
        project=SimpleNamespace(
            load_toml=lambda path: tomllib.loads(path.read_text()),
            dependency_groups=lambda *_: [],
        ),
        session=lambda function: function,
        command=SimpleNamespace(CommandFailed=CommandFailed),
    )
    spec = importlib.util.spec_from_file_location("noxfile", ROOT / "noxfile.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "nox", nox)
        spec.loader.exec_module(module)
    return module


@pytest.fixture
def in_ci(
    noxfile: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[bool, list[tuple[str, ...]], list[str]]]:
    """Run pytest as a session in CI does, where some tests fail at first and then pass.

    Gives whether the session passed, what pytest was run with, and the warnings.
    """
    monkeypatch.setenv("CI", "1")
    monkeypatch.setattr(noxfile, "ROOT", tmp_path)
    failures = tmp_path / ".pytest_cache" / "v" / "cache" / "lastfailed"
    failures.parent.mkdir(parents=True)

    def run_session(*failing: str) -> tuple[bool, list[tuple[str, ...]], list[str]]:
        runs: list[tuple[str, ...]] = []
        warnings: list[str] = []

        def run(_: Any, program: str, *arguments: str) -> None:
            assert program == "pytest"
            runs.append(arguments)
            if len(runs) == 1 and failing:
                failures.write_text(json.dumps(dict.fromkeys(failing, True)))
                raise CommandFailed

        monkeypatch.setattr(noxfile.Environment, "run", run)
        environment = object.__new__(noxfile.Environment)
        environment._session = SimpleNamespace(posargs=[], warn=warnings.append)
        try:
            environment.pytest("tests")
        except CommandFailed:
            return False, runs, warnings
        return True, runs, warnings

    return run_session


ORDINARY = "tests/integration/test_startup.py::test_something[1]"
FIRST = ("tests",)
AGAIN = ("--last-failed", "--last-failed-no-failures=none", "tests")


def test_a_test_that_failed_is_named_and_gets_a_second_go(in_ci) -> None:
    assert in_ci() == (True, [FIRST], [])
    passed, runs, (warning,) = in_ci(ORDINARY)
    assert passed
    assert runs == [FIRST, AGAIN]
    assert ORDINARY in warning


@pytest.mark.parametrize("number", range(10))
def test_what_is_driven_by_chance_or_about_loss_gets_none(in_ci, noxfile, number: int) -> None:
    """Neither by itself nor beside one that would get it."""
    assert len(noxfile.NO_SECOND_GO) == 10
    word = noxfile.NO_SECOND_GO[number]
    files = [path for path in files_of_tests() if word in path]
    assert files, f"no test has {word!r} in its name: was it renamed?"
    for path in files:
        final = f"{path}::test_something"
        assert in_ci(final) == (False, [FIRST], [])
        assert in_ci(ORDINARY, final) == (False, [FIRST], [])
    assert in_ci(f"{files[0]}") == (False, [FIRST], []), "it could not even be imported"


def test_more_than_a_few_get_none(in_ci, noxfile) -> None:
    many = [f"{ORDINARY}[{number}]" for number in range(noxfile.SECOND_GOES_MAX + 1)]
    assert in_ci(*many) == (False, [FIRST], [])
    assert in_ci(*many[1:])[:2] == (True, [FIRST, AGAIN])


def test_the_tests_of_the_stores_promises_get_none(noxfile) -> None:
    """By name, so that a rename is noticed."""
    promises = {
        "tests/property/test_store_crashes.py",
        "tests/integration/test_store_faults.py",
        "tests/integration/test_store_kill.py",
        "tests/integration/test_relay_kill.py",
        "tests/integration/test_relay_faults.py",
        "tests/integration/test_http_smuggling.py",
        "tests/integration/test_secrets.py",
    }
    assert promises <= files_of_tests()
    for path in promises:
        assert any(word in path for word in noxfile.NO_SECOND_GO), path


def files_of_tests() -> set[str]:
    return {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py")}
