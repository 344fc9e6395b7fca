"""Tests of relay.notify: who is told, and how."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import trio

from relay.notify import ServiceManager


def listening(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(path)
    sock.settimeout(5.0)
    return sock


@pytest.fixture
def heard(tmp_path: Path):
    with listening(str(tmp_path / "n")) as sock:
        yield sock


@pytest.mark.parametrize("pid", [None, str(os.getpid())])
def test_the_variables_are_read_and_taken_away(pid: str | None) -> None:
    environ = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "3000000", "HOME": "/x"}
    if pid is not None:
        environ["WATCHDOG_PID"] = pid
    assert ServiceManager.from_environment(environ).watchdog_s == 3.0
    assert environ == {"HOME": "/x"}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "3000000"},
        {"NOTIFY_SOCKET": "", "WATCHDOG_USEC": "3000000"},
        {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"},
        {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "0"},
    ],
)
def test_no_sign_of_life_is_wanted(environ: dict[str, str]) -> None:
    assert ServiceManager.from_environment(environ).watchdog_s is None
    assert environ == {}


@pytest.mark.parametrize(
    "wrong",
    [{"NOTIFY_SOCKET": "vsock:2:1"}, {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "soon"}],
)
def test_what_cannot_be_used_is_told(
    wrong: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    value = list(wrong.values())[-1]
    assert ServiceManager.from_environment(wrong).watchdog_s is None
    assert value in caplog.text


async def test_a_message_is_lines(tmp_path: Path, heard: socket.socket) -> None:
    await ServiceManager(str(tmp_path / "n")).tell(READY=1, STATUS="all\nis well")
    assert heard.recv(100) == b"READY=1\nSTATUS=all is well"


async def test_an_abstract_socket() -> None:
    name = f"pkarr-relay-unit-{os.getpid()}"
    with listening(f"\0{name}") as heard:
        await ServiceManager(f"@{name}").tell(STOPPING=1)
        assert heard.recv(100) == b"STOPPING=1"


async def test_nobody_to_tell() -> None:
    await ServiceManager().tell(READY=1)


async def test_a_socket_that_was_made_anew_is_found(tmp_path: Path) -> None:
    manager = ServiceManager(str(tmp_path / "n"))
    for _ in range(2):
        with listening(str(tmp_path / "n")) as heard:
            await manager.tell(READY=1)
            assert heard.recv(100) == b"READY=1"
        (tmp_path / "n").unlink()


@pytest.mark.parametrize("address", ["/nowhere", "/" + "x" * 200, "@" + "x" * 200])
async def test_troubles_of_the_socket_are_told_and_forgotten(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    await ServiceManager(address).tell(READY=1)
    assert "cannot be told" in caplog.text


async def test_a_manager_that_does_not_listen_holds_nobody_up(
    tmp_path: Path,
    heard: socket.socket,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    manager = ServiceManager(str(tmp_path / "n"))
    for _ in range(2000):
        await manager.tell(WATCHDOG=1)
        if caplog.records:
            break
    assert "it does not listen" in caplog.text
    assert heard.recv(100) == b"WATCHDOG=1"
