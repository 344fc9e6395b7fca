"""Floods need a network namespace and a compiled generator; `nox -s floods` gives both."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from tests.floods.floods import FIRST_SOURCE, Generator


@pytest.fixture(scope="session")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Generator:
    """The flood's program; fails outside the namespace that it needs."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((FIRST_SOURCE, 0))
        except OSError as error:
            raise RuntimeError(
                "no address of a stranger here: run `python -m tests.floods`"
            ) from error
    folder = tmp_path_factory.mktemp("generator")
    program = folder / "udp_flood"
    source = Path(__file__).with_name("udp_flood.c")
    command = [os.environ.get("CC", "cc"), "-O2", "-o", program, source]
    subprocess.run([str(part) for part in command], check=True, timeout=120)
    return Generator(program, folder)
