"""Containers on a network of their own, by the command of Docker."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Final

from tests.support.peers import ROOT, SHARED

BASE: Final = "python:3.11-slim-bookworm"
IMAGE: Final = "pkarr-relay:tests"


class DockerError(Exception):
    """Docker refused; the text is what it said."""


def command(*arguments: object) -> list[str]:
    """Return a docker command, for a program that is to run it."""
    docker = shutil.which("docker")
    if docker is None:
        raise DockerError("these tests need Docker Engine; without it, deselect them by name")
    return [docker, *map(str, arguments)]


def run(*arguments: object, timeout_s: float = 60.0) -> str:
    """Run docker and return what it prints."""
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=timeout_s, check=False
    )
    if done.returncode:
        raise DockerError(f"docker {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


@cache
def relay_image() -> str:
    """Return the relay's image: the one that PKARR_RELAY_IMAGE names, or built from this folder."""
    named = os.environ.get("PKARR_RELAY_IMAGE")
    if named:
        return named
    if not run("images", "--quiet", BASE):
        maker = SHARED / "docker" / "make-base-image"
        if maker.exists():  # no registry to pull from
            subprocess.run([maker], check=True, timeout=900)
    arguments = [
        part
        for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST")
        for part in ("--build-arg", name)
        if name in os.environ
    ]
    run("build", "--quiet", "--tag", IMAGE, *arguments, ROOT, timeout_s=1200)
    return IMAGE


@dataclass(frozen=True, slots=True)
class Container:
    """A running container with a fixed address."""

    name: str
    ip: str

    def stop(self) -> None:
        run("stop", self.name)

    def start(self) -> None:
        run("start", self.name)


class Network:
    """A network that leads nowhere else, and the containers on it."""

    def __init__(self, name: str, prefix: str) -> None:
        self.name = name
        self._prefix = prefix
        self.containers: list[Container] = []

    def address(self, number: int) -> str:
        return f"{self._prefix}.{number}"

    def run(self, name: str, ip: str, *arguments: object) -> Container:
        """Start a container; `arguments` are docker's, the image and its command."""
        container = Container(f"{self.name}-{name}", ip)
        self.containers.append(container)
        place = ("--network", self.name, "--ip", ip)
        run("run", "--detach", "--name", container.name, *place, *arguments)
        return container

    def disconnect(self, container: Container) -> None:
        run("network", "disconnect", self.name, container.name)

    def connect(self, container: Container, ip: str | None = None) -> None:
        run("network", "connect", "--ip", ip or container.ip, self.name, container.name)


@contextmanager
def network() -> Iterator[Network]:
    """Make a network that is gone at the end, with all that ran on it."""
    while True:
        mark = secrets.randbelow(200) + 20
        made = Network(f"pkarr-iroh-{secrets.token_hex(3)}", f"10.77.{mark}")
        try:
            run("network", "create", "--internal", "--subnet", made.address(0) + "/24", made.name)
        except DockerError as error:
            if "overlap" not in str(error).lower():
                raise
        else:
            break
    try:
        yield made
    finally:
        for container in made.containers:
            subprocess.run(
                command("rm", "--force", "--volumes", container.name),
                capture_output=True,
                check=False,
            )
        run("network", "rm", made.name)
