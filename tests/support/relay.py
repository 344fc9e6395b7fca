"""A real relay process, started as an operator would, and an HTTP client to drive it."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar, cast

from tests.support.peers import ROOT, Json

START_S: Final = 30.0
"""Until the first answer. Far above the second that is promised: tests share their cores."""
BOOTSTRAP_S: Final = 30.0
STOP_S: Final = 15.0
POLL_S: Final = 0.05
TESTNET_PORT: Final = 15411
"""The port of ``--testnet`` is fixed."""
PORT_FREE_S: Final = 120.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Json:
        """Decode the body."""
        return cast("Json", json.loads(self.body))


def fetch(
    url: str,
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 30.0,
) -> Answer:
    """Send one request on a connection of its own."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=timeout_s)
    with closing(connection):
        return exchange(
            connection, method, url[url.index(parts.netloc) + len(parts.netloc) :], body, headers
        )


def exchange(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Send one request on a kept connection."""
    connection.request(method, path, body=body, headers=dict(headers or {}))
    response = connection.getresponse()
    content = response.read()
    return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, content)


def status_of(sock: socket.socket) -> int:
    """Wait for the one answer on a connection and return its status."""
    return int(sock.recv(4096).split(b" ")[1])


def wait_until(
    look: Callable[[], T], what: str, timeout_s: float = 30.0, *, poll_s: float = POLL_S
) -> T:
    """Poll another process until `look` returns something true; fail after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout_s:.0f} s, last seen {seen!r}")
        time.sleep(poll_s)


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM, host: str = "127.0.0.1") -> int:
    """Return a port nobody has, from below the range that the kernel hands out by itself."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port


def wait_for_port(port: int) -> None:
    """Wait until TCP `port` on loopback is free: another run of these tests may hold it."""

    def free() -> bool:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
            return True

    wait_until(free, f"port {port} to become free", PORT_FREE_S)


class RelayEndedError(Exception):
    """The relay ended before it answered."""


class RelayProcess:
    """One relay under test, on loopback, with its configuration and cache in `folder`.

    Restarting keeps ports, configuration and cache, as an operator's restart does.

    Args:
        folder: where ``config.toml``, ``relay.log`` and the ``cache`` folder are put.
        bootstrap: DHT nodes, ``host:port``; none makes a node without a network.
        cache: the cache folder; ``folder/cache`` if left out.
        sections: further TOML, a text per table, e.g. ``{"cache": "size = 10"}``.
        wrapper: a command that runs the relay's command, given as its last arguments.
    """

    def __init__(
        self,
        folder: Path,
        *,
        bootstrap: Sequence[str] = (),
        cache: Path | None = None,
        sections: Mapping[str, str] | None = None,
        wrapper: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.cache = cache or folder / "cache"
        self.port = free_port()
        self.wrapper = wrapper
        self.dht_port = free_port(socket.SOCK_DGRAM)
        self.log_path = folder / "relay.log"
        self.config_path = folder / "config.toml"
        self._process: subprocess.Popen[bytes] | None = None
        self.config_path.write_text(self._config(bootstrap, sections or {}))

    @property
    def url(self) -> str:
        """Base URL, with a slash at its end."""
        return f"http://127.0.0.1:{self.port}/"

    @property
    def dht_address(self) -> tuple[str, int]:
        """Where the DHT node listens."""
        return "127.0.0.1", self.dht_port

    @property
    def pid(self) -> int:
        """The process, for its CPU time and memory."""
        return self._running.pid

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start the relay and wait until it answers ``/health``."""
        self.launch()
        wait_until(self._answers, "the relay's first answer", START_S)
        return self

    def launch(self) -> None:
        """Start the relay and wait for nothing."""
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.wrapper, sys.executable, "-m", "relay", "-c", str(self.config_path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
            )

    def wait_bootstrapped(self) -> Self:
        """Wait until DHT nodes have entered the routing table."""
        wait_until(lambda: self.dht_stats()["table_size"], "the DHT bootstrap", BOOTSTRAP_S)
        return self

    def request(
        self,
        path: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request; `path` without the leading slash."""
        return fetch(self.url + path, method, body, headers)

    def get(self, key: str, policy: str | None = None) -> Answer:
        """Ask for a key."""
        return self.request(key if policy is None else f"{key}?policy={policy}")

    def put(self, key: str, payload: bytes, timeout_s: float = 30.0) -> Answer:
        """Publish a packet."""
        return fetch(self.url + key, "PUT", payload, timeout_s=timeout_s)

    @contextmanager
    def asked(self, keys: Sequence[str], timeout_s: float = 60.0) -> Iterator[list[socket.socket]]:
        """Ask for all keys at once, each on a connection of its own; see `status_of`."""
        address = "127.0.0.1", self.port
        with ExitStack() as stack:
            socks = [
                stack.enter_context(socket.create_connection(address, timeout_s)) for _ in keys
            ]
            for sock, key in zip(socks, keys, strict=True):
                sock.sendall(f"GET /{key} HTTP/1.1\r\nHost: relay\r\n\r\n".encode())
            yield socks

    def health(self) -> Answer:
        """Ask ``/health``."""
        return self.request("health")

    def stats(self) -> Json:
        """Ask ``/stats``."""
        return self.request("stats").json()

    def dht_stats(self) -> dict[str, Any]:
        """Return the DHT part of ``/stats``."""
        return cast("dict[str, Any]", self.stats()["dht"])

    def rss_bytes(self) -> int:
        """Return the resident memory of the process."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return next(
            int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS")
        )

    def log(self) -> str:
        """Return everything logged so far, over all restarts."""
        return self.log_path.read_text(errors="replace")

    def stop(self) -> int:
        """Ask the relay to end, as a service manager would, and return its exit code."""
        self._running.send_signal(signal.SIGTERM)
        return self._ended()

    def kill(self) -> None:
        """End it as a power cut would: nothing is flushed."""
        self._running.kill()
        self._ended()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException as error:
            self._leave(error)
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave(error)

    def _leave(self, error: BaseException | None) -> None:
        if error is not None:
            error.add_note(f"the relay's log ends with:\n{self.log()[-4000:]}")
        if self.alive:
            self.stop()

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the relay is not running")
        return self._process

    def _ended(self) -> int:
        process = self._running
        try:
            return process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        finally:
            self._process = None

    def _answers(self) -> bool:
        if not self.alive:
            raise RelayEndedError(f"exit code {self._ended()}")
        try:
            return self.health().status in {200, 503}
        except OSError:
            return False

    def _config(self, bootstrap: Sequence[str], sections: Mapping[str, str]) -> str:
        tables = {
            "http": f'bind = ["127.0.0.1"]\nport = {self.port}',
            "mainline": (
                f'port = {self.dht_port}\nbind_address = "127.0.0.1"\nserver_mode = true\n'
                f"bootstrap = {json.dumps(list(bootstrap))}"
            ),
            "cache": f"path = {json.dumps(os.fspath(self.cache))}",
        }
        for name, text in sections.items():
            tables[name] = f"{tables[name]}\n{text}" if name in tables else text
        return "".join(f"[{name}]\n{text}\n\n" for name, text in tables.items())
