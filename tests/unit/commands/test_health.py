"""`relay.commands.health`, against servers on loopback that say all kinds of things."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from relay import cli
from relay.commands import health
from relay.config import HttpConfig
from relay.errors import CommandError

OK = {"status": "ok", "parts": {"http": {"status": "ok"}, "dht": {"status": "ok"}}}
DEGRADED = {
    "status": "degraded",
    "parts": {"cache": {"status": "degraded", "reason": "the disk is full\n\x1b[2J"}},
}

Serve = Callable[..., str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server that gives one answer to all, and return its URL."""
    with ExitStack() as stack:

        def start(status: int, body: object, host: str = "127.0.0.1") -> str:
            class Handler(BaseHTTPRequestHandler):
                def do_GET(self) -> None:
                    self.send_response(status if self.path.endswith("/health") else 404)
                    self.send_header("location", "/elsewhere/health")
                    self.end_headers()
                    self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

                def log_message(self, *_: object) -> None:
                    pass

            class Server(HTTPServer):
                address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

            server = Server((host, 0), Handler)
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            return f"http://{f'[{host}]' if ':' in host else host}:{server.server_port}"

        yield start


def test_one_line_and_the_exit_code(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["health", "--url", serve(200, OK)]) == 0
    assert capsys.readouterr() == ("ok\n", "")
    assert cli.main(["health", "--url", serve(200, DEGRADED) + "/"]) == 0
    assert capsys.readouterr() == ("degraded: cache: the disk is full??[2J\n", "")
    url = serve(503, {"status": "unavailable", "parts": {}})
    assert cli.main(["health", "--url", url]) == 1
    assert capsys.readouterr() == ("", f"Error: {url}: status 503, unavailable\n")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<html>It works!</html>"),
        (200, b"[" * 60_000),
        (200, b"x" * 10_000_000),
        (200, {"status": "ok"}),
        (200, {"status": "ok", "parts": {"dht": None}}),
        (200, ["ok"]),
        (302, b""),
        (404, b"{}"),
    ],
)
def test_who_is_no_relay(status: int, body: object, serve: Serve) -> None:
    with pytest.raises(CommandError, match=f"status {status}, not as a relay answers"):
        health.ask(serve(status, body))


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "localhost:80", "http://", "http://[::1", "http://a:b/", "x"]
)
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(CommandError):
        health.ask(url)


def test_nobody_there(serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port = serve(200, OK).rpartition(":")[2]
    config = tmp_path / "config.toml"
    config.write_text(f'[http]\nbind = ["127.0.0.2"]\nport = {port}\n')
    assert cli.main(["health", "--config", str(config)]) == 1
    assert "http://127.0.0.2" in capsys.readouterr().err


def test_the_address_comes_from_configuration_and_environment(
    serve: Serve,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[http]\nport = 1\n")
    monkeypatch.setenv("PKARR_RELAY__HTTP__PORT", serve(200, OK).rpartition(":")[2])
    assert cli.main(["health", "-c", str(config)]) == 0
    assert cli.main(["-c", str(config), "health"]) == 0
    process = tmp_path / "cmdline"
    monkeypatch.setattr(health, "PROCESS_1", process)
    process.write_bytes(b"/venv/bin/python\0/venv/bin/pkarr-relay\0--config=%b\0" % bytes(config))
    assert cli.main(["health"]) == 0
    assert capsys.readouterr() == ("ok\nok\nok\n", "")
    monkeypatch.delenv("PKARR_RELAY__HTTP__PORT")
    config.write_text("[http]\nport = 'x'\n")
    assert cli.main(["health"]) == 1
    assert f"{config}, line 2: http.port" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "path", "testnet"),
    [
        ("python /venv/bin/pkarr-relay --config=/a.toml", "/a.toml", False),
        ("init -- python -m relay.entrypoint pkarr-relay -t debug -c /a.toml", "/a.toml", False),
        ("/usr/bin/python3 -m relay --testnet", None, True),
        ("pkarr-relay", None, False),
        ("/sbin/init splash --config /a.toml", None, False),
        ("", None, False),
    ],
)
def test_the_options_of_process_1(
    words: str, path: str | None, testnet: bool, tmp_path: Path
) -> None:
    process = tmp_path / "cmdline"
    process.write_bytes(b"".join(word.encode() + b"\0" for word in words.split()))
    assert health.options_of(process) == (path and Path(path), testnet)
    assert health.options_of(tmp_path / "none") == (None, False)


@pytest.mark.parametrize(
    ("bind", "url"),
    [
        (None, "http://127.0.0.1:80"),
        (("0.0.0.0",), "http://127.0.0.1:80"),  # noqa: S104
        (("::", "0.0.0.0"), "http://[::1]:80"),  # noqa: S104
        (("192.0.2.1", "::1"), "http://192.0.2.1:80"),
        (("fe80::1%eth0",), "http://[fe80::1%eth0]:80"),
    ],
)
def test_where_a_relay_is_asked(bind: tuple[str, ...] | None, url: str) -> None:
    assert health.url_of(HttpConfig(bind=bind, port=80)) == url


def test_a_port_that_nobody_knows() -> None:
    with pytest.raises(CommandError, match="--url"):
        health.url_of(HttpConfig(port=0))


def test_a_relay_on_ipv6(serve: Serve) -> None:
    assert health.ask(serve(200, OK, "::1")) == "ok"
