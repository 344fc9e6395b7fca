"""The places and the versions of iroh, and the report of what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.iroh import report
from tests.iroh.docker import relay_image
from tests.iroh.places import Containers, Loopback, containers, loopback
from tests.iroh.steps import VERSIONS, Iroh, Somewhere

ROWS: list[report.Row] = []

Note = Callable[..., None]


@pytest.fixture(params=VERSIONS, ids=lambda iroh: iroh.version)
def iroh(request: pytest.FixtureRequest) -> Iroh:
    found: Iroh = request.param
    return found


@pytest.fixture(scope="module")
def in_containers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    with containers(relay_image(), tmp_path_factory.mktemp("containers")) as place:
        yield place


@pytest.fixture(scope="module")
def on_loopback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    with loopback(tmp_path_factory.mktemp("loopback")) as place:
        yield place


@pytest.fixture(params=["on_loopback", "in_containers"])
def place(request: pytest.FixtureRequest) -> Somewhere:
    found: Somewhere = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def note(request: pytest.FixtureRequest, iroh: Iroh) -> Note:
    """Keep figures of a scenario: ``note("found", seconds=0.3)``."""
    names = request.fixturenames
    where = "loopback" if "on_loopback" in names else "containers"
    if "place" in names:
        where = request.getfixturevalue("place").name

    def keep(scenario: str, **figures: object) -> None:
        named = {name.replace("_", " "): float(str(value)) for name, value in figures.items()}
        ROWS.append(report.Row(scenario, where, iroh.version, named))

    return keep


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if ROWS:
        report.write(ROWS)
        terminalreporter.section(f"iroh ({report.FOLDER.name}/iroh.md)")
        terminalreporter.write(report.table(ROWS))
