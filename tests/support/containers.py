"""Docker and docker-compose, as a user calls them, on copies of what is committed."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

from tests.support.peers import ROOT, SHARED
from tests.support.relay import fetch, wait_for_port, wait_until

BUILD_S: Final = 900.0
CALL_S: Final = 300.0
HEALTHY_S: Final = 10.0
"""What is promised, from `up -d` on."""
LOG_CHARACTERS: Final = 6000
COMPOSE: Final = ("docker-compose",) if shutil.which("docker-compose") else ("docker", "compose")
NAME: Final = "pkarr"
"""The container of docker-compose.yml; its name is part of the promise."""


class CommandFailedError(AssertionError):
    """A command ended with another exit code than 0; the text has what it printed."""


def run(
    *command: object,
    cwd: Path = ROOT,
    environ: Mapping[str, str] | None = None,
    timeout_s: float = CALL_S,
) -> str:
    """Run a command and return what it prints on standard output."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words,
        cwd=cwd,
        env={**os.environ, **(environ or {})},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        said = f"{done.stdout}\n{done.stderr}"[-LOG_CHARACTERS:]
        raise CommandFailedError(f"{' '.join(words)}: exit code {done.returncode}\n{said}")
    return done.stdout


def docker(*arguments: object) -> str:
    """Run docker; return what it prints, without the newline at its end."""
    return run("docker", *arguments).removesuffix("\n")


def attempt(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run docker where it is to fail, or to be judged by more than its standard output."""
    return subprocess.run(
        ["docker", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=CALL_S,
        check=False,
    )


def state(container: str = NAME) -> dict[str, Any]:
    """Return the state of a container, as ``docker inspect`` tells it."""
    return cast("dict[str, Any]", json.loads(docker("inspect", container))[0]["State"])


def logs(container: str = NAME) -> str:
    """Return what a container has printed on both channels."""
    done = attempt("logs", container)
    return done.stdout + done.stderr


def wait_healthy(container: str = NAME, timeout_s: float = 60.0) -> None:
    """Wait until a container's own health check has succeeded."""

    def healthy() -> bool:
        return bool(state(container)["Health"]["Status"] == "healthy")

    try:
        wait_until(healthy, f"{container} to become healthy", timeout_s)
    except TimeoutError as error:
        error.add_note(f"its log ends with:\n{logs(container)[-LOG_CHARACTERS:]}")
        raise


def wait_serving(container: str = NAME) -> None:
    """Wait until the relay in a container answers: sooner than Docker looks for itself."""
    try:
        wait_until(
            lambda: attempt("exec", container, "pkarr-relay", "health").returncode == 0,
            f"an answer in {container}",
        )
    except TimeoutError as error:
        error.add_note(f"its log ends with:\n{logs(container)[-LOG_CHARACTERS:]}")
        raise


def wait_for_room() -> None:
    """Wait until nobody has the ports of docker-compose.yml, nor the name of its container."""
    for port in (8080, 6881):
        wait_for_port(port)
    wait_until(_dht_port_is_free, "UDP port 6881 to become free", CALL_S)
    wait_until(lambda: attempt("inspect", NAME).returncode, f"a container {NAME} to end", CALL_S)


def _dht_port_is_free() -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", 6881))
        except OSError:
            return False
        return True


def address(container: str) -> str:
    """Return a container's address in its network."""
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
    return docker("inspect", "-f", form, container).split()[0]


def stats(url: str = "http://127.0.0.1:8080") -> dict[str, Any]:
    """Return ``/stats`` of a relay."""
    return cast("dict[str, Any]", fetch(f"{url}/stats").json())


def copy_of_the_project(folder: Path) -> Path:
    """Copy what is committed, or about to be, as a clean clone would have it."""
    names = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


class Compose:
    """One compose project: a folder, and files in it if they have names of their own."""

    def __init__(self, folder: Path, *files: str, project: str | None = None) -> None:
        self.folder = folder
        self.environ: dict[str, str] = {}
        self._files, self._project = files, project
        self._options = [part for file in files for part in ("-f", file)]
        if project is not None:
            self._options += ["-p", project]

    def __call__(self, *arguments: object, timeout_s: float = CALL_S) -> str:
        """Run docker-compose; return what it prints on standard output."""
        words = (*COMPOSE, *self._options, *arguments)
        return run(*words, cwd=self.folder, environ=self.environ, timeout_s=timeout_s)

    def build(self) -> None:
        """Build, with the machine's download settings where its tool for that is there."""
        tool = SHARED / "docker" / "compose-build"
        if tool.exists() and COMPOSE == ("docker-compose",):
            environ = dict(self.environ)
            if self._files:
                environ["COMPOSE_FILE"] = ":".join(self._files)
            if self._project is not None:
                environ["COMPOSE_PROJECT_NAME"] = self._project
            run(tool, cwd=self.folder, environ=environ, timeout_s=BUILD_S)
        else:
            self("build", timeout_s=BUILD_S)

    def container(self, service: str) -> str:
        """Return the id of a service's container."""
        return self("ps", "-q", service).strip()

    @contextmanager
    def up(self) -> Iterator[None]:
        """Start all services; afterwards remove containers, networks, volumes and images."""
        try:
            self("up", "-d")
            yield
        except BaseException as error:
            error.add_note(f"the logs end with:\n{self._last_words()}")
            raise
        finally:
            self("down", "--volumes", "--remove-orphans", "--rmi", "local")

    def _last_words(self) -> str:
        done = subprocess.run(
            [*COMPOSE, *self._options, "logs", "--no-color", "--tail", "40"],
            cwd=self.folder,
            env={**os.environ, **self.environ},
            capture_output=True,
            text=True,
            check=False,
            timeout=CALL_S,
        )
        return done.stdout[-LOG_CHARACTERS:]


@contextmanager
def container(image: str, *options: object, command: tuple[object, ...] = ()) -> Iterator[str]:
    """Run a container in the background for the length of the block; gives its id."""
    identity = docker("run", "-d", *options, image, *command)
    try:
        yield identity
    except BaseException as error:
        error.add_note(f"the container's log ends with:\n{logs(identity)[-LOG_CHARACTERS:]}")
        raise
    finally:
        docker("rm", "-f", "-v", identity)


def seconds_since(start: float) -> float:
    """Return how long ago `start` was, by the monotonic clock."""
    return time.monotonic() - start
