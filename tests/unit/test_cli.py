"""Tests of relay.cli: arguments, exit codes, and what is said where. The server is a stand-in."""

from __future__ import annotations

import logging
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from relay import __version__, _kernels, cli
from relay.config import Config, load_config
from relay.config import testnet_config as settings_of_testnet
from relay.errors import RelayError, StartupError, StoreError
from relay.notify import ServiceManager

Runs = list[tuple[Config, bool]]


@pytest.fixture(autouse=True)
def _ordinary_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No settings from the caller's environment, and the test run's log left as it was."""
    monkeypatch.delenv("RUST_LOG", raising=False)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in ("relay", "pkarr_relay"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture
def serve_with(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], int]], Runs]:
    """Put a stand-in in the server's place; it notes its arguments and then calls what it got."""

    def put(outcome: Callable[[], int]) -> Runs:
        runs: Runs = []

        def run(config: Config, *, testnet: bool, manager: ServiceManager) -> int:
            runs.append((config, testnet))
            return outcome()

        server = types.ModuleType("relay.server")
        server.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "relay.server", server)
        monkeypatch.setattr(sys.modules["relay"], "server", server, raising=False)
        return runs

    return put


@pytest.fixture
def runs(serve_with: Callable[[Callable[[], int]], Runs]) -> Runs:
    return serve_with(lambda: 0)


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text("[http]\nport = 1234\nhost = 'x'\n")
    return path


@pytest.mark.parametrize("form", [["-c", "{}"], ["--config", "{}"], ["--config={}"], ["-c{}"]])
def test_every_form_of_config(runs: Runs, config_file: Path, form: list[str]) -> None:
    assert cli.main([argument.format(config_file) for argument in form]) == 0
    assert runs == [(load_config(config_file, {}), False)]
    assert runs[0][0].http.port == 1234


def test_without_a_file_the_defaults_hold(runs: Runs) -> None:
    assert cli.main([]) == 0
    assert runs == [(load_config(None, {}), False)]


def test_testnet_wins_over_config(runs: Runs) -> None:
    assert cli.main(["--config", "/nonexistent.toml", "--testnet"]) == 0
    assert runs == [(settings_of_testnet(), True)]


def test_environment_overrides_the_file(
    runs: Runs, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PKARR_RELAY__HTTP__PORT", "4321")
    assert cli.main(["-c", str(config_file)]) == 0
    assert runs[0][0].http.port == 4321


def test_exit_code_is_the_servers(serve_with: Callable[[Callable[[], int]], Runs]) -> None:
    serve_with(lambda: 3)
    assert cli.main([]) == 3


@pytest.mark.parametrize("error", [StartupError("port 1 is taken"), StoreError("locked")])
def test_startup_errors_end_with_1(
    serve_with: Callable[[Callable[[], int]], Runs],
    capsys: pytest.CaptureFixture[str],
    error: RelayError,
) -> None:
    def fail() -> int:
        raise error

    serve_with(fail)
    assert cli.main([]) == 1
    assert capsys.readouterr().err == f"Error: {error}\n"


def test_missing_file_ends_with_1(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--config", "/nonexistent/config.toml"]) == 1
    assert capsys.readouterr().err == (
        "Error: failed to read /nonexistent/config.toml: No such file or directory\n"
    )
    assert runs == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--nonsense"],
        ["--conf", "x"],
        ["-c"],
        ["nonsense"],
        ["check-config"],
        ["--log-format", "x"],
    ],
)
def test_wrong_usage_ends_with_2(
    runs: Runs, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage: pkarr-relay" in capsys.readouterr().err
    assert runs == []


def test_version_and_help_end_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    for argument, expected in (("--version", f"pkarr-relay {__version__}\n"), ("-h", "--testnet")):
        with pytest.raises(SystemExit) as caught:
            cli.main([argument])
        assert caught.value.code == 0
        assert expected in capsys.readouterr().out


def test_check_config(
    runs: Runs, config_file: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["check-config", str(config_file)]) == 0
    said = capsys.readouterr()
    assert said.out == f"{config_file}: OK\n"
    assert said.err == f"Warning: {config_file}, line 3: unknown key http.host is ignored\n"
    config_file.write_text("[http]\nport = 'x'\n")
    assert cli.main(["check-config", str(config_file)]) == 1
    assert capsys.readouterr().err.startswith(f"Error: {config_file}, line 2: http.port")
    assert runs == []
    assert list(tmp_path.iterdir()) == [config_file]


@pytest.mark.parametrize(
    "arguments", [["backup", "x"], ["export", "x"], ["check", "--cache", "x"], ["import", "x"]]
)
def test_commands_without_a_working_directory(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert cli.main(arguments) == 1
    said = capsys.readouterr().err
    assert said.startswith("Error: ")
    assert said.endswith("No such file or directory\n") or "no cache folder" in said


def test_the_filters_faults_are_logged(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["-t", "warn,x y"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert 'WARN pkarr_relay: log filter: "x y" is ignored' in line
    assert len(runs) == 1


def test_debug_shows_the_configuration(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["-t", "pkarr_relay=debug", "--testnet"]) == 0
    assert "DEBUG pkarr_relay: configuration: Config(http=HttpConfig(" in capsys.readouterr().err
    assert len(runs) == 1


def test_refuses_to_crawl_in_silence(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_kernels, "IMPLEMENTATION", "pure")
    monkeypatch.setattr(_kernels, "FORCED_PURE", False)
    assert cli.main([]) == 1
    assert "RELAY_PURE_PYTHON=1" in capsys.readouterr().err
    assert runs == []
    monkeypatch.setattr(_kernels, "FORCED_PURE", True)
    assert cli.main([]) == 0
    assert len(runs) == 1


@pytest.mark.parametrize("argument", ["--help", "--version", "check-config"])
def test_what_needs_no_server_imports_none(argument: str, config_file: Path) -> None:
    arguments = [argument, str(config_file)] if argument == "check-config" else [argument]
    script = (
        "import sys; from relay.cli import main\n"
        "try: code = main(sys.argv[1:])\n"
        "except SystemExit as end: code = end.code\n"
        "slow = {'trio', 'quart', 'hypercorn', 'nacl', 'sqlite_utils'} & set(sys.modules)\n"
        "assert code == 0 and not slow, (code, slow)\n"
    )
    subprocess.run([sys.executable, "-c", script, *arguments], check=True, capture_output=True)
