"""What a service manager hears of a relay, from a socket as systemd's."""

from __future__ import annotations

import itertools
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.peers import ROOT
from tests.support.relay import STOP_S, RelayProcess, fetch, wait_until
from tests.support.service_manager import ServiceManager

WATCHDOG_S = 4.0
"""Long enough that a busy machine does not look like one that hangs."""
HANGING = (sys.executable, "-m", "tests.support.hanging_relay")


@pytest.mark.parametrize("abstract", [False, True])
def test_the_whole_life_is_told(tmp_path: Path, *, abstract: bool) -> None:
    with ServiceManager(None if abstract else tmp_path) as manager:
        relay = RelayProcess(tmp_path, wrapper=manager.environment(WATCHDOG_S))
        relay.launch()
        try:
            ready = manager.hear_of("READY")
            assert ready["READY"] == "1"
            assert "0 packets" in ready["STATUS"]
            assert fetch(f"{relay.url}health").status == 200  # at once: it listens

            heard = [time.monotonic()]
            for _ in range(3):
                assert manager.hear_of("WATCHDOG", WATCHDOG_S) == {"WATCHDOG": "1"}
                heard.append(time.monotonic())
            pauses = [after - before for before, after in itertools.pairwise(heard)]
            assert max(pauses) < 0.75 * WATCHDOG_S
            assert min(pauses[1:]) > 0.2 * WATCHDOG_S

            before = time.monotonic_ns() // 1000
            os.kill(relay.pid, signal.SIGHUP)
            reloading = manager.hear_of("RELOADING")
            assert reloading["RELOADING"] == "1"
            assert before <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
            assert manager.hear_of("READY")["READY"] == "1"
            assert "reloaded" in relay.log()

            os.kill(relay.pid, signal.SIGTERM)
            assert manager.hear_of("STOPPING")["STOPPING"] == "1"
            assert relay._ended() == 0
        finally:
            if relay.alive:
                relay.kill()


def test_the_status_says_what_is_wrong(tmp_path: Path) -> None:
    with (
        ServiceManager(tmp_path) as manager,
        RelayProcess(tmp_path, wrapper=manager.environment()),
    ):
        assert manager.hear_of("STATUS")["STATUS"].startswith("degraded (dht: no DHT node")


def test_a_hanging_event_loop_falls_silent_and_says_where_it_hung(tmp_path: Path) -> None:
    with ServiceManager(tmp_path) as manager:
        wrapper = (*manager.environment(1.0), *HANGING)
        with RelayProcess(tmp_path, wrapper=wrapper) as relay:
            assert manager.hear_of("WATCHDOG")
            assert manager.hear_of("WATCHDOG")
            os.kill(relay.pid, signal.SIGUSR1)
            wait_until(lambda: not manager.hear_of("WATCHDOG", 1.5), "silence")
            os.kill(relay.pid, signal.SIGABRT)  # as systemd does
            assert relay._ended() == -signal.SIGABRT
            assert "hanging_relay.py" in relay.log()


@pytest.mark.compiled
def test_a_front_lane_that_does_not_turn_is_not_covered_up(tmp_path: Path) -> None:
    """The event loop is alive, but nobody is served."""
    with ServiceManager(tmp_path) as manager:
        wrapper = (*manager.environment(1.0), *HANGING)
        with RelayProcess(tmp_path, wrapper=wrapper) as relay:
            assert manager.hear_of("WATCHDOG")
            os.kill(relay.pid, signal.SIGUSR2)
            with closing(socket.create_connection(("127.0.0.1", relay.port))):
                wait_until(lambda: not manager.hear_of("WATCHDOG", 1.5), "silence")
                assert "the front lane does not do its work" in relay.log()
                relay.kill()


@pytest.mark.parametrize("lane", ["task", "threads:2", "0"])
def test_signs_of_life_go_on_under_load_and_in_idleness(tmp_path: Path, lane: str) -> None:
    with ServiceManager(tmp_path) as manager:
        wrapper = (*manager.environment(WATCHDOG_S), "env", f"RELAY_FRONT_LANE={lane}")
        with RelayProcess(tmp_path, wrapper=wrapper) as relay:
            for _ in range(3):
                end = time.monotonic() + WATCHDOG_S / 2
                while time.monotonic() < end:
                    assert relay.get("no-key").status == 400
                assert manager.hear_of("WATCHDOG", WATCHDOG_S / 2)
            assert manager.hear_of("WATCHDOG", WATCHDOG_S)
            assert "does not do its work" not in relay.log()


def test_a_manager_that_is_gone_is_no_reason_to_end(tmp_path: Path) -> None:
    wrapper = ("env", f"NOTIFY_SOCKET={tmp_path}/nobody", "WATCHDOG_USEC=800000")
    with RelayProcess(tmp_path, wrapper=wrapper) as relay:
        wait_until(lambda: "the service manager cannot be told" in relay.log(), "the warning")
        assert relay.health().status == 200


@pytest.mark.parametrize("stays", [False, True])
def test_a_terminal_that_goes_takes_the_relay_with_it(tmp_path: Path, *, stays: bool) -> None:
    """Unless it was started by nohup: then SIGHUP reloads."""
    relay = RelayProcess(tmp_path)
    command = [sys.executable, "-m", "relay", "-c", str(relay.config_path)]
    if stays:
        command = ["nohup", *command]
    ours, theirs = pty.openpty()
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            # Whoever runs the tests may have started them by nohup.
            ["setsid", "--ctty", "env", "--default-signal=HUP", *command],
            stdin=theirs,
            stdout=log,
            stderr=log,
            cwd=ROOT,
        )
    os.close(theirs)
    try:
        wait_until(lambda: "TCP socket" in (tmp_path / "log").read_text(), "the start")
        os.close(ours)
        if stays:
            wait_until(lambda: "reloaded" in (tmp_path / "log").read_text(), "the reload")
            process.terminate()
        assert process.wait(STOP_S) == 0
        said = (tmp_path / "log").read_text()
        assert ("SIGTERM: shutting down" if stays else "SIGHUP: shutting down") in said
    finally:
        process.kill()
        process.wait()
