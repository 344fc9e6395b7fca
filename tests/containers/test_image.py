"""The image by itself: what is in it, who runs in it, and what the entry point does first."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from relay import __version__
from tests.support.containers import (
    attempt,
    container,
    docker,
    logs,
    state,
    wait_healthy,
    wait_serving,
)
from tests.support.relay import wait_until

RELAY_UID = 10001
IMAGE_MB_MAX = 60
"""On top of the base image."""
FIRST_OF_1980 = 3652
"""Days since 1970."""
CONFIG = '[http]\nport = 8080\n[mainline]\nbootstrap = []\n[cache]\npath = "/cache"\n'


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A folder as Docker makes one: root's, closed to others. Tests may not be root, Docker is."""
    docker("run", "--rm", "-v", f"{tmp_path}/cache:/made", "--entrypoint", "true", BASE)
    return tmp_path / "cache"


BASE = "python:3.11-slim-bookworm"


def owner(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_uid, found.st_gid


def inspect(image: str) -> dict[str, Any]:
    return dict(json.loads(docker("image", "inspect", image))[0])


def test_its_size(image: str) -> None:
    size = inspect(image)["Size"] - inspect(BASE)["Size"]
    print(
        f"\nimage: {size / 1e6:.1f} MB on top of {BASE}, {inspect(image)['Size'] / 1e6:.1f} in all"
    )
    assert 0 < size < IMAGE_MB_MAX * 1_000_000


def test_what_it_says_of_itself(image: str) -> None:
    settings = inspect(image)["Config"]
    labels = settings["Labels"]
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.licenses"] == "MIT"
    assert labels["org.opencontainers.image.title"] == "pkarr-relay"
    assert settings["StopSignal"] == "SIGTERM"
    assert settings["Healthcheck"]["Test"] == ["CMD", "pkarr-relay", "health"]
    assert set(settings["ExposedPorts"]) == {"8080/tcp", "6881/tcp", "6881/udp"}


def test_what_is_not_in_it(image: str) -> None:
    """No compiler, no pip of ours and no cache of any, and nothing of where packages came from."""
    look = "ls -d /venv/bin/pip* /venv/lib/python3*/site-packages/pip ~root/.cache ~/.cache; "
    look += "for c in gcc cc g++ ld as make cython; do command -v $c; done; true"
    assert docker("run", "--rm", image, "sh", "-c", look) == ""
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image)
    assert "PIP_" not in history
    environ = docker("run", "--rm", image, "env")
    assert "PIP_" not in environ


@pytest.mark.parametrize("command", ["relay", "shell"])
def test_nobody_in_it_is_root(command: str, image: str, config: Path) -> None:
    tell = ("grep", "-E", "^(Uid|Gid|Groups|Cap...|NoNewPrivs):")
    options = ("-v", f"{config}:/config.toml:ro")
    if command == "relay":
        with container(image, *options) as relay:
            wait_serving(relay)
            said = docker("exec", relay, *tell, "/proc/1/status")
    else:
        said = docker("run", "--rm", *options, image, *tell, "/proc/self/status")
    found = {name.rstrip(":"): words for name, *words in map(str.split, said.splitlines())}
    assert found["Uid"] == found["Gid"] == [str(RELAY_UID)] * 4
    assert found["Groups"] == []
    assert int(found["CapEff"][0], 16) == int(found["CapPrm"][0], 16) == 0
    assert found["NoNewPrivs"] == ["1"]


def test_there_is_no_way_back(image: str) -> None:
    become_root = "import os; os.setuid(0)"
    done = attempt("run", "--rm", image, "python", "-c", become_root)
    assert "Operation not permitted" in done.stderr
    # `su` is set-uid in the base image, and root's password is not asked for by root.
    done = attempt("run", "--rm", image, "sh", "-c", "su -c id </dev/null")
    assert "uid=0" not in done.stdout


def test_the_kernels_are_compiled_and_bytecode_is_there(image: str) -> None:
    look = (
        "import relay.server, relay._kernels, sys; from pathlib import Path; "
        "print(relay._kernels.IMPLEMENTATION, *(m.__name__ for m in sys.modules.values() "
        "if getattr(m, '__cached__', None) and not Path(m.__cached__).exists()))"
    )
    assert docker("run", "--rm", image, "python", "-c", look) == "compiled"


def test_nothing_in_it_tells_when_it_was_built(image: str) -> None:
    """`nox -s rebuild -- images` compares two builds, but these are made on one day."""
    look = (
        "from pathlib import Path; found = [*Path('/venv').rglob('*.pyc')]; assert found; "
        "print(*(p for p in found if p.read_bytes()[4:8] != bytes([1, 0, 0, 0])))"
    )
    assert docker("run", "--rm", image, "python", "-c", look) == "", "times of sources"
    entry = docker("run", "--rm", "--entrypoint", "grep", image, "^pkarr:", "/etc/shadow")
    assert entry.split(":")[2] == str(FIRST_OF_1980)


def test_a_command_of_ones_own(image: str) -> None:
    assert docker("run", "--rm", image, "pkarr-relay", "--version") == f"pkarr-relay {__version__}"
    done = attempt("run", "--rm", image, "pkarr-relay", "check-config", "/nowhere.toml")
    assert done.returncode == 1
    assert done.stderr == "Error: failed to read /nowhere.toml: No such file or directory\n"
    assert attempt("run", "--rm", image, "no-such-command").returncode == 127


def test_a_folder_of_roots_is_handed_over_without_its_contents(
    image: str, config: Path, cache: Path
) -> None:
    docker("run", "--rm", "-v", f"{cache}:/made", "--entrypoint", "touch", image, "/made/theirs")
    assert owner(cache) == (0, 0)
    with container(image, "-v", f"{config}:/config.toml:ro", "-v", f"{cache}:/cache") as relay:
        wait_serving(relay)
        assert owner(cache) == (RELAY_UID, RELAY_UID)
        assert owner(cache / "theirs") == (0, 0)
        listed = docker("exec", relay, "stat", "-c", "%u", "/cache/pkarr-relay.sqlite3")
        assert listed == str(RELAY_UID)
        assert "pkarr-relay image:" not in logs(relay)


def test_a_folder_that_can_be_written_keeps_its_owner(
    image: str, config: Path, cache: Path
) -> None:
    change = ("-v", f"{cache}:/made", "--entrypoint", "sh", image, "-c")
    docker("run", "--rm", *change, "chown 4321:4321 /made && chmod 777 /made")
    with container(image, "-v", f"{config}:/config.toml:ro", "-v", f"{cache}:/cache") as relay:
        wait_serving(relay)
        assert owner(cache) == (4321, 4321)


def test_another_user_is_told_what_to_do(image: str, config: Path, cache: Path) -> None:
    mounts = ("-v", f"{config}:/config.toml:ro", "-v", f"{cache}:/cache")
    with container(image, "--user", "4321:4321", *mounts) as relay:
        wait_serving(relay)
        assert docker("exec", relay, "id", "-u") == "4321"
        assert "user 4321 cannot write to /cache; " in logs(relay)
        assert "chown 4321:4321" in logs(relay)
        assert owner(cache) == (0, 0)
        assert "degraded: cache:" in docker("exec", relay, "pkarr-relay", "health")
    docker(
        "run", "--rm", "-v", f"{cache}:/made", "--entrypoint", "chown", image, "4321:4321", "/made"
    )
    with container(image, "--user", "4321:4321", *mounts) as relay:
        wait_serving(relay)
        assert "pkarr-relay image:" not in logs(relay)


def test_a_folder_that_is_mounted_read_only(image: str, config: Path, cache: Path) -> None:
    mounts = ("-v", f"{config}:/config.toml:ro", "-v", f"{cache}:/cache:ro")
    with container(image, *mounts) as relay:
        wait_serving(relay)
        said = logs(relay)
        assert "/cache cannot be given to the relay's user 10001 (Read-only file system)" in said


def test_root_that_cannot_be_given_up(image: str, config: Path) -> None:
    mount = ("-v", f"{config}:/config.toml:ro")
    done = attempt("run", "--rm", "--cap-drop", "ALL", *mount, image)
    assert done.returncode == 1
    assert "cannot become user 10001: Operation not permitted; " in done.stderr
    strict = ("--cap-drop", "ALL", "--user", f"{RELAY_UID}:{RELAY_UID}")
    with container(image, *strict, "--security-opt", "no-new-privileges", *mount) as relay:
        wait_serving(relay)


def test_a_configuration_that_docker_made_a_folder(image: str, tmp_path: Path) -> None:
    with container(image, "-v", f"{tmp_path}/config.toml:/config.toml") as relay:
        wait_until(lambda: not state(relay)["Running"], "the end of a relay without settings")
        assert state(relay)["ExitCode"] == 1
        (sentence,) = logs(relay).splitlines()
        assert sentence.startswith("Error: /config.toml is a folder, not a file: Docker makes")


def test_a_read_only_root_file_system(image: str, config: Path, cache: Path) -> None:
    mounts = ("-v", f"{config}:/config.toml:ro", "-v", f"{cache}:/cache")
    with container(image, "--read-only", *mounts) as relay:
        wait_serving(relay)
        health = docker("exec", relay, "pkarr-relay", "health")
        assert health == "degraded: dht: no DHT node has answered yet"
        page = "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/').read()"
        docker("exec", relay, "python", "-c", page)
        docker("stop", relay)
        assert state(relay)["ExitCode"] == 0
        said = logs(relay)
    assert "ERROR" not in said
    assert os.listdir(cache)


def test_the_configuration_of_the_project_keeps_its_packets_in_the_mounted_folder(
    image: str, clone: Path, cache: Path
) -> None:
    """There it says ``path = ".pkarr_cache"``, which is beside the file on the host."""
    mounts = ("-v", f"{clone}/config.toml:/config.toml:ro", "-v", f"{cache}:/cache")
    with container(image, *mounts) as relay:
        wait_serving(relay)
        assert (cache / "pkarr-relay.sqlite3").exists()


def test_the_health_check_knows_how_the_relay_was_started(image: str, tmp_path: Path) -> None:
    """Another file, another port, an init of Docker's, an address that is not loopback."""
    path = tmp_path / "other.toml"
    path.write_text('[http]\nbind = ["::1"]\nport = 9999\n[mainline]\nbootstrap = []\n')
    options = ("--init", "--sysctl", "net.ipv6.conf.all.disable_ipv6=0", "-v", f"{path}:/o.toml:ro")
    command = ("pkarr-relay", "-c", "/o.toml")
    with container(image, *options, command=command) as relay:
        wait_healthy(relay)
        # A relay that does not answer, frozen by a signal: it is not process 1 here.
        find = "import os, pathlib, signal; [os.kill(int(p.name), signal.SIGSTOP) for p in "
        find += "pathlib.Path('/proc').iterdir() if p.name.isdigit() and p.name != '1' and "
        find += "b'/venv/bin/pkarr-relay\\0-c' in (p / 'cmdline').read_bytes()]"
        docker("exec", relay, "python", "-c", find)
        done = attempt("exec", relay, "pkarr-relay", "health")
        assert done.returncode == 1
        assert done.stderr == "Error: http://[::1]:9999: no answer: timed out\n"
