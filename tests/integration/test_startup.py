"""The command as a process: what starts, what does not, and how it ends.

The cases of ``v1cfg-startup`` were captured from the reference: of each, `started` and
`exit_code` bind, and ``seed-config`` starts. Their fixed ports are replaced by free ones, and
nothing here knows a bootstrap node, so nothing leaves the machine.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.peers import SHARED
from tests.support.relay import (
    TESTNET_PORT,
    Answer,
    fetch,
    free_port,
    wait_for_port,
    wait_until,
)

COMMAND: Final = (sys.executable, "-m", "relay")
FIRST_ANSWER_S: Final = 1.0
"""What is promised (issue 3, section 1)."""
EXIT_S: Final = 5.0
DEFAULT_PORT: Final = 6881


class Process:
    """One run of the command in `folder`; its output is in ``log``."""

    def __init__(
        self,
        folder: Path,
        arguments: Sequence[str],
        environ: Mapping[str, str] | None = None,
        command: Sequence[str] = COMMAND,
    ) -> None:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("PKARR_RELAY_") and name != "RUST_LOG"
        }
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self.running = subprocess.Popen(
                [*command, *arguments],
                cwd=folder,
                env={**inherited, "PKARR_RELAY__MAINLINE__BOOTSTRAP": "[]", **(environ or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def first_answer(self, port: int) -> Answer:
        """Poll until HTTP is answered; an end before that is an error with the log in it."""

        def answer() -> Answer | None:
            if self.running.poll() is not None:
                raise ChildProcessError(f"ended with {self.running.returncode}:\n{self.log}")
            try:
                return fetch(f"http://127.0.0.1:{port}/health")
            except OSError:
                return None

        found = wait_until(answer, "the first answer")
        assert found is not None
        return found

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end; return the exit code."""
        self.running.send_signal(number)
        return self.running.wait(EXIT_S)

    def exit_code(self) -> int:
        """Wait until it ends by itself."""
        return self.running.wait(30)


@contextmanager
def started(
    folder: Path,
    *arguments: str,
    environ: Mapping[str, str] | None = None,
    command: Sequence[str] = COMMAND,
) -> Iterator[Process]:
    process = Process(folder, arguments, environ, command)
    try:
        yield process
    finally:
        if process.running.poll() is None:
            process.running.kill()
            process.running.wait()


@pytest.fixture
def ports() -> tuple[int, int]:
    """Free ports: TCP, UDP."""
    return free_port(), free_port(socket.SOCK_DGRAM)


@pytest.fixture
def config(tmp_path: Path, ports: tuple[int, int]) -> Path:
    """Write a file for a relay that is alone on loopback and remembers packets."""
    path = tmp_path / "config.toml"
    path.write_text(
        f'[http]\nbind = ["127.0.0.1"]\nport = {ports[0]}\n'
        f'[mainline]\nbind_address = "127.0.0.1"\nport = {ports[1]}\nbootstrap = []\n'
        '[cache]\npath = "cache"\n'
    )
    return path


CASES: Final[list[dict[str, Any]]] = json.loads(
    (SHARED / "transcripts" / "v1cfg-startup.json").read_text()
)["cases"]


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_case_of_the_reference(
    case: dict[str, Any], tmp_path: Path, ports: tuple[int, int]
) -> None:
    environ = {}
    http_port = TESTNET_PORT if "--testnet" in case["args"] else ports[0]
    text: str | None = case["config_toml"]
    if text is not None:
        text = text.replace("18080", str(ports[0])).replace("6890", str(ports[1]))
        (tmp_path / "config.toml").write_text(text.replace("<DIR>", str(tmp_path)))
    if "port" not in (text or ""):
        # These would take the reference's default, which a neighbour may have.
        environ["PKARR_RELAY__HTTP__PORT"] = str(ports[0])
    wait_for_port(http_port)
    with started(tmp_path, *case["args"], environ=environ) as process:
        if case["started"] or case["id"] == "seed-config":
            assert process.first_answer(http_port).status == 200
            assert process.end() == 0
            assert "pkarr_relay: Running as a DHT node on " in process.log
            assert "pkarr_relay: Running as a relay on TCP socket " in process.log
        else:
            assert process.exit_code() == case["exit_code"]
            if case["exit_code"]:
                assert process.log.startswith("Error: ")


def test_the_default_port_is_the_references(tmp_path: Path) -> None:
    """Told by the log, whether the port is free on this machine or not."""
    with started(tmp_path, "-t", "debug") as process:
        wait_until(
            lambda: process.running.poll() is not None or "TCP socket" in process.log,
            "a listener or its failure",
        )
        assert f"port={DEFAULT_PORT}" in process.log or f":{DEFAULT_PORT}" in process.log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_with_0_in_time(
    config: Path, ports: tuple[int, int], number: signal.Signals
) -> None:
    with started(config.parent, "-c", "config.toml") as process:
        process.first_answer(ports[0])
        assert process.end(number) == 0
        assert process.log.rstrip().endswith("pkarr_relay: shutdown")


def test_first_answer_within_a_second(config: Path, ports: tuple[int, int]) -> None:
    """Counted in CPU time, which busy neighbours on the same cores change little.

    The start waits for nothing, so on an idle core this is the wall clock's second as well.
    """
    with started(config.parent, "-c", "config.toml") as process:
        process.first_answer(ports[0])
        fields = Path(f"/proc/{process.running.pid}/stat").read_text().rpartition(")")[2].split()
        user, system = fields[11:13]
        assert (int(user) + int(system)) / os.sysconf("SC_CLK_TCK") < FIRST_ANSWER_S


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        ("relay.cli", "trio hypercorn quart sqlite3 tomllib"),
        (
            "relay.server relay.http.app relay.http.front relay.http.serve relay.net.start"
            " relay.net.packets relay.store.worker relay.service",
            "hypercorn wsproto h2 h11 quart jinja2 sqlite_utils",
        ),
    ],
    ids=["version", "first answers"],
)
def test_what_is_slow_to_import_waits_until_it_is_wanted(modules: str, unwanted: str) -> None:
    """Nearly all of a start is importing."""
    script = (
        "import importlib, sys\n"
        f"for name in {modules.split()}: importlib.import_module(name)\n"
        f"print([name for name in {unwanted.split()} if name in sys.modules])"
    )
    command = (sys.executable, "-c", script)
    assert subprocess.run(command, capture_output=True, check=True, text=True).stdout == "[]\n"


def test_a_dead_name_server_holds_up_nothing(config: Path, ports: tuple[int, int]) -> None:
    """Bootstrap names are looked up behind the start; none of these can be found."""
    names = '["a.invalid:1", "b.invalid:2"]'
    environ = {"PKARR_RELAY__MAINLINE__BOOTSTRAP": names}
    with started(config.parent, "-c", "config.toml", environ=environ) as process:
        assert process.first_answer(ports[0]).json()["status"] == "degraded"
        assert process.end() == 0


@pytest.mark.parametrize(
    ("kind", "which"), [(socket.SOCK_STREAM, 0), (socket.SOCK_DGRAM, 1)], ids=["tcp", "udp"]
)
def test_a_port_that_is_taken(
    config: Path, ports: tuple[int, int], kind: socket.SocketKind, which: int
) -> None:
    with socket.socket(socket.AF_INET, kind) as neighbour:
        neighbour.bind(("127.0.0.1", ports[which]))
        if kind is socket.SOCK_STREAM:
            neighbour.listen()
        with started(config.parent, "-c", "config.toml") as process:
            assert process.exit_code() == 1
            assert "Error: " in process.log
            assert str(ports[which]) in process.log
            assert "Traceback" not in process.log


def test_a_second_relay_on_the_cache_is_refused(config: Path, ports: tuple[int, int]) -> None:
    with started(config.parent, "-c", "config.toml") as first:
        first.first_answer(ports[0])
        second_folder = config.parent / "second"
        second_folder.mkdir()
        environ = {"PKARR_RELAY__HTTP__PORT": "0", "PKARR_RELAY__MAINLINE__PORT": "0"}
        with started(second_folder, "-c", str(config), environ=environ) as second:
            assert second.exit_code() == 1
            assert "Error: another relay" in second.log
        assert first.end() == 0


def test_a_relative_cache_is_made_beside_the_file(config: Path, ports: tuple[int, int]) -> None:
    elsewhere = config.parent / "elsewhere"
    elsewhere.mkdir()
    reference = config.parent / "cache" / "pkarr-cache" / "data.mdb"
    reference.parent.mkdir(parents=True)
    reference.write_bytes(b"LMDB of the reference")
    with started(elsewhere, f"--config={config}") as process:
        process.first_answer(ports[0])
        assert process.end() == 0
    database = config.parent / "cache" / "pkarr-relay.sqlite3"
    assert database.stat().st_mode & 0o777 == 0o600
    assert reference.read_bytes() == b"LMDB of the reference"
    assert [path.name for path in elsewhere.iterdir()] == ["log"]


def test_json_lines(config: Path, ports: tuple[int, int]) -> None:
    arguments = ("-c", "config.toml", "--log-format", "json")
    with started(config.parent, *arguments, environ={"RUST_LOG": "debug"}) as process:
        process.first_answer(ports[0])
        assert process.end() == 0
        records = [json.loads(line) for line in process.log.splitlines()]
    assert {"timestamp", "level", "target", "message"} <= set(records[0])
    assert any(record["level"] == "DEBUG" for record in records)
    assert any("Running as a relay" in record["message"] for record in records)


def test_silence_where_it_is_asked_for(config: Path, ports: tuple[int, int]) -> None:
    with started(config.parent, "-c", "config.toml", "-t", "off") as process:
        process.first_answer(ports[0])
        assert process.end() == 0
        assert process.log == ""


def test_without_the_extension_it_refuses_or_obeys(config: Path, ports: tuple[int, int]) -> None:
    script = (
        "import sys; sys.modules['relay._speedups'] = None\n"
        "from relay.cli import main; sys.exit(main())"
    )
    command = (sys.executable, "-c", script)
    environ = {"RELAY_PURE_PYTHON": "0"}
    with started(config.parent, "-c", str(config), command=command, environ=environ) as process:
        assert process.exit_code() == 1
        assert "RELAY_PURE_PYTHON=1" in process.log
    environ = {"RELAY_PURE_PYTHON": "1"}
    with started(config.parent, "-c", str(config), command=command, environ=environ) as process:
        assert process.first_answer(ports[0]).status == 200
        assert process.end() == 0
