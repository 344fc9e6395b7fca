"""The image is built once, from a copy of the project, as after a clone.

Nothing here is left out where there is no Docker: it fails. `nox -s containers` says aloud that
it tests nothing then, and does not start it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.containers import Compose, copy_of_the_project, docker, wait_for_room


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project in a fresh folder, with its image built."""
    folder = copy_of_the_project(tmp_path_factory.mktemp("clone") / "pkarr-relay")
    Compose(folder).build()
    return folder


@pytest.fixture(scope="session")
def image(clone: Path) -> str:
    """The image of docker-compose.yml, under a name of its own."""
    name = "pkarr-relay-under-test"
    docker("tag", _built(clone), name)
    return name


def _built(folder: Path) -> str:
    """Return the name that Compose gave the image: version 1 joins by _, version 2 by -."""
    names = docker("image", "ls", "--format", "{{.Repository}}").splitlines()
    return next(name for name in names if name.replace("-", "_") == "pkarr_relay_pkarr")


@pytest.fixture
def room() -> None:
    """Wait until nothing is in the way of docker-compose.yml."""
    wait_for_room()
