"""The quick start, in English and in Japanese: every command, in its order, by one script.

The pages' indented lines are the commands, as they stand there. They are run in the copy of the
project, as in a clone: docker-compose.yml and config.toml are the ones that a user gets.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.containers import (
    COMPOSE,
    HEALTHY_S,
    NAME,
    Compose,
    attempt,
    docker,
    logs,
    run,
    seconds_since,
    state,
    wait_healthy,
)
from tests.support.peers import ROOT
from tests.support.relay import wait_until

STOP_S = 5.0
PAGES = {
    "english": (ROOT / "README.md", "## With Docker", "\n## "),
    "japanese": (ROOT / "docs" / "quickstart.ja.md", "# ", None),
}
COMMANDS = [
    "docker-compose up -d",
    "docker-compose ps",
    "docker-compose logs -f",
    "curl http://127.0.0.1:8080/health",
    "curl http://127.0.0.1:8080/stats",
    "docker-compose stop",
    "docker-compose down",
    "docker-compose up -d",
]


def commands_of(language: str) -> list[str]:
    """Return the indented lines of a page's part, without their comments."""
    path, begin, end = PAGES[language]
    text = path.read_text()
    text = text[text.index(begin) :]
    text = text[: text.index(end)] if end else text
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = re.findall(r"^    (\S.*)$", text, flags=re.MULTILINE)
    return [re.sub(r"\s+#.*", "", line) for line in lines]


@pytest.mark.parametrize("language", PAGES)
def test_both_languages_have_the_same_commands(language: str) -> None:
    assert commands_of(language) == COMMANDS


@pytest.mark.usefixtures("room")
@pytest.mark.parametrize("language", PAGES)
def test_every_command_of_the_quick_start(language: str, clone: Path) -> None:
    docker("run", "--rm", "-v", f"{clone}:/clone", "--entrypoint", "rm", BASE, "-rf", CACHE)
    try:
        for command in commands_of(language):
            follow(command, clone)
    except BaseException as error:
        error.add_note(f"the relay's log ends with:\n{attempt('logs', NAME).stderr[-4000:]}")
        raise
    finally:
        Compose(clone)("down")


BASE = "python:3.11-slim-bookworm"
CACHE = "/clone/.pkarr_cache"


def follow(command: str, folder: Path) -> None:
    """Run one command as it stands on the page, and look at what comes of it."""
    words = shlex.split(command)
    if words[0] == "docker-compose":
        words[:1] = COMPOSE
    began = time.monotonic()
    match command.split():
        case ["docker-compose", "logs", "-f"]:
            look_at_the_logs(words, folder)
        case ["docker-compose", "up", "-d"]:
            run(*words, cwd=folder)
            wait_healthy()
            took = seconds_since(began)
            print(f"\n{command}: healthy after {took:.1f} s")
            assert took < HEALTHY_S
        case ["docker-compose", "ps"]:
            said = run(*words, cwd=folder)
            assert NAME in said
            assert "(healthy)" in said
            assert "6881/udp" in said
        case ["curl", url]:
            answer = json.loads(run(*words, "--silent", "--show-error", "--fail", cwd=folder))
            if url.endswith("/health"):
                assert answer["status"] in {"ok", "degraded"}
                assert answer["parts"]["cache"] == {"status": "ok"}
            else:
                assert answer["implementation"] == "compiled"
                assert answer["dht"]["local_address"] == "0.0.0.0:6881"
        case ["docker-compose", "stop"]:
            run(*words, cwd=folder)
            took = seconds_since(began)
            print(f"\n{command}: {took:.1f} s")
            assert took < STOP_S
            assert state()["ExitCode"] == 0
            assert logs().splitlines()[-1].endswith("shutdown")
        case ["docker-compose", "down"]:
            run(*words, cwd=folder)
            assert attempt("inspect", NAME).returncode != 0
            assert (folder / ".pkarr_cache" / "pkarr-relay.sqlite3").exists()
        case _:
            raise AssertionError(f"{command}: this script does not know what to expect")


def look_at_the_logs(words: list[str], folder: Path) -> None:
    """Follow the logs until they tell of the start, then end the looking, as Ctrl-C does.

    (Not by the same signal: whoever is started in the background ignores SIGINT.)
    """
    shown = folder / "shown.log"
    with shown.open("wb") as file:
        following = subprocess.Popen(
            words,
            cwd=folder,
            stdout=file,
            start_new_session=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},  # Compose 1 is written in Python
        )
    try:
        started = "Running as a relay on TCP socket"
        wait_until(lambda: started in shown.read_text(), "the start in the logs")
        assert following.poll() is None
    finally:
        os.killpg(following.pid, signal.SIGTERM)
        following.wait(STOP_S)
    assert state()["Running"]
