"""The real peers of ``../shared/peers``: where they are, and how to start and stop them.

``tools/build-peers`` builds the Rust programs and the libtorrent environment into
``${XDG_CACHE_HOME:-~/.cache}/pkarr-relay``. What is missing there is an error that says so,
never a skipped test: an interoperability test that did not run has shown nothing.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self, TypeAlias, cast

ROOT: Final = Path(__file__).resolve().parents[2]
SHARED: Final = Path(os.environ.get("PKARR_RELAY_SHARED", ROOT.parent / "shared"))
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pkarr-relay"
BUILD_REMEDY: Final = "build the peers with `tools/build-peers`"
SHARED_REMEDY: Final = "let PKARR_RELAY_SHARED name the folder that holds `peers`"
ANSWER_S: Final = 120.0
"""Longer than any request takes: a silent peer must not hang a run for ever."""

Json: TypeAlias = "dict[str, object]"


class PeerMissingError(Exception):
    """A peer is not there; the text says what brings it."""

    def __init__(self, what: str, where: Path, remedy: str = BUILD_REMEDY) -> None:
        super().__init__(f"{what} is missing at {where}; {remedy}")


class PeerError(Exception):
    """A peer refused a request, fell silent or ended."""


def program(name: str) -> Path:
    """Return the path of a Rust peer, e.g. ``testnet``."""
    path = CACHE / "peers-target" / "debug" / name
    if not path.exists():
        raise PeerMissingError(name, path)
    return path


def script(name: str) -> list[str]:
    """Return the command that runs a Python peer, e.g. ``libtorrent_net.py``."""
    python, path = CACHE / "peers-venv" / "bin" / "python", SHARED / "peers" / name
    if not python.exists():
        raise PeerMissingError("the Python with libtorrent", python)
    if not path.exists():
        raise PeerMissingError(name, path, SHARED_REMEDY)
    return [str(python), str(path)]


class Peer:
    """A long-running peer that speaks JSON lines and ends when its stdin closes.

    ``ready`` is its first line. A call sends one request and returns the reply, or raises
    `PeerError` when the peer answers ``"ok": false``.
    """

    def __init__(self, *command: object) -> None:
        self._process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self._readable = selectors.DefaultSelector()
        self._readable.register(self._stdout, selectors.EVENT_READ)
        self._calls = 0
        try:
            self.ready = self._read()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The process, for its CPU time and memory."""
        return self._process.pid

    @property
    def bootstrap(self) -> list[str]:
        """Addresses of the nodes that are alive, as ``host:port``."""
        return [address for address in cast("list[str | None]", self.ready["bootstrap"]) if address]

    @property
    def url(self) -> str:
        """Base URL of a relay peer, with a slash at its end."""
        return cast("str", self.ready["url"])

    def __call__(self, op: str, **arguments: object) -> Json:
        """Send one request and wait for its reply."""
        self._calls += 1
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": self._calls, "op": op, **arguments}) + "\n")
        self._process.stdin.flush()
        reply = self._read()
        if not reply["ok"]:
            raise PeerError(reply["error"])
        return reply

    def close(self) -> None:
        """End the peer; one that ignores the end of its stdin is killed."""
        self._readable.close()
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def next_line(self) -> Json:
        """Wait for the next line of a peer that tells of what happens to it."""
        return self._read()

    @property
    def _stdout(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout

    def _read(self) -> Json:
        # One line out per line in, so nothing can be waiting in the text buffer.
        if not self._readable.select(ANSWER_S):
            raise PeerError(f"peer silent for {ANSWER_S:.0f} s")
        line = self._stdout.readline()
        if not line:
            raise PeerError(f"peer ended with status {self._process.wait()}")
        return cast("Json", json.loads(line))


def libtorrent_net(*options: object) -> Peer:
    """Start a libtorrent network, e.g. ``libtorrent_net("--nodes", 8)``."""
    return Peer(*script("libtorrent_net.py"), *options)


def rust_net(*options: object) -> Peer:
    """Start a network of Rust `mainline` nodes, e.g. ``rust_net("--nodes", 10)``."""
    return Peer(program("testnet"), *options)


def own_net(nodes: int) -> Peer:
    """Start a network of our own DHT nodes in one process of its own."""
    return Peer(sys.executable, "-m", "tests.support.own_dht", "--nodes", nodes)


def reference_relay(bootstrap: Iterable[str], storage: Path) -> Peer:
    """Start the Rust relay on a network; its ``url`` says where it listens."""
    return Peer(program("reference-relay"), *with_bootstrap(bootstrap), "--storage", storage)


def with_bootstrap(addresses: Iterable[str]) -> list[str]:
    """Return the options that make a Rust peer join a network."""
    return [part for address in addresses for part in ("--bootstrap", address)]


def run(name: str, *arguments: object, timeout_s: float = 60.0) -> Json:
    """Run a Rust peer that does one thing and prints one JSON line."""
    return last_line(program(name), *arguments, timeout_s=timeout_s)


def last_line(*command: object, timeout_s: float) -> Json:
    """Run a command to its end and return the last line that it prints, which is JSON."""
    done = subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    lines = done.stdout.splitlines()
    if not lines:
        raise PeerError(f"peer ended with status {done.returncode} and said nothing")
    return cast("Json", json.loads(lines[-1]))
