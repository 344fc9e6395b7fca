"""`relay.asgi:app` under the operator's own Hypercorn: TCP, HTTP/2, Unix socket, one worker."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.packets import Author
from tests.support.peers import ROOT, Peer
from tests.support.relay import fetch, free_port, wait_until


@pytest.fixture(scope="module")
def bootstrap() -> Iterator[list[str]]:
    with Peer(sys.executable, "-m", "tests.support.own_dht", "--nodes", 4) as network:
        yield network.bootstrap


class Hypercorn:
    """A Hypercorn process with the relay's application; its output in `log`."""

    def __init__(self, folder: Path, bootstrap: list[str], *arguments: str) -> None:
        self.log = folder / "hypercorn.log"
        dht_port = free_port(socket.SOCK_DGRAM)
        config = folder / "relay.toml"
        config.write_text(
            f'[mainline]\nport = {dht_port}\nbind_address = "127.0.0.1"\n'
            f"bootstrap = {json.dumps(bootstrap)}\n"
            f"[cache]\npath = {json.dumps(str(folder / 'cache'))}\n"
        )
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hypercorn", "-k", "trio", *arguments, "relay.asgi:app"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env={**os.environ, "PKARR_RELAY_CONFIG": str(config)},
            )

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(15)
        finally:
            self.process.kill()
            self.process.wait()


@contextmanager
def hypercorn(folder: Path, bootstrap: list[str], *arguments: str) -> Iterator[Hypercorn]:
    server = Hypercorn(folder, bootstrap, *arguments)
    try:
        yield server
    finally:
        server.stop()


def answers(url: str) -> bool:
    try:
        return fetch(url + "health").status == 200
    except OSError:
        return False


def test_publishes_and_resolves_and_keeps_its_cache(tmp_path: Path, bootstrap: list[str]) -> None:
    packet = Author().packet("through ASGI")
    for _ in range(2):
        port = free_port()
        url = f"http://127.0.0.1:{port}/"
        with hypercorn(tmp_path, bootstrap, "-b", f"127.0.0.1:{port}") as server:
            wait_until(lambda url=url: answers(url), "Hypercorn's first answer")
            cached = fetch(f"{url}{packet.key}?policy=CacheOnly")
            if cached.status == 404:
                assert fetch(url + packet.key, "PUT", packet.payload).status == 204
                cached = fetch(f"{url}{packet.key}?policy=CacheOnly")
            assert cached.body == packet.payload
            assert b"<html" in fetch(url).body
            assert server.stop() == 0, server.text()
        assert "Traceback" not in server.text()


def health_by(path: Path) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        try:
            client.connect(str(path))
        except OSError:  # not there, or bound and not yet listening
            return b""
        client.sendall(b"GET /health HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n")
        return client.makefile("rb").read()


def test_serves_a_unix_socket(tmp_path: Path, bootstrap: list[str]) -> None:
    path = tmp_path / "http.sock"
    with hypercorn(tmp_path, bootstrap, "-b", f"unix:{path}") as server:
        answer = wait_until(lambda: health_by(path), "the Unix socket's first answer")
        assert answer.startswith(b"HTTP/1.1 200")
        assert "Traceback" not in server.text()


def test_a_second_worker_is_refused_with_a_clear_message(
    tmp_path: Path, bootstrap: list[str]
) -> None:
    port = free_port()
    with hypercorn(tmp_path, bootstrap, "-w", "2", "-b", f"127.0.0.1:{port}") as server:
        wait_until(lambda: "run one worker only" in server.text(), "the refusal")
        assert "the DHT port and the cache cannot be shared" in server.text()


def test_a_bad_configuration_is_named(tmp_path: Path) -> None:
    with hypercorn(tmp_path, [], "-b", f"127.0.0.1:{free_port()}") as server:
        server.stop()
        (tmp_path / "relay.toml").write_text('[http]\nport = "x"\n')
        done = subprocess.run(
            [*map(str, server.process.args)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            cwd=ROOT,
            check=False,
            env={**os.environ, "PKARR_RELAY_CONFIG": str(tmp_path / "relay.toml")},
        )
    assert "relay.toml" in done.stderr
    assert "http.port" in done.stderr
