"""How the programs that we measure ourselves against are found, started and pinned.

The release build of the reference, ``pkarr-relay`` 2.1.0 with its ``--testnet``, serves cached
GETs. It takes no bootstrap nodes, so on a network of our choice its place is taken by the peer
``reference-relay``: the same crate, built with opt-level 1. Every figure says which one it was.
``tools/build-peers --bench`` builds both.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support import peers
from tests.support.peers import CACHE, Peer, PeerMissingError
from tests.support.relay import RelayProcess, fetch, wait_until

SERVER_CORE: Final = 0
LOAD_CORE: Final = 1
"""The load generator and the DHT network share what is not the server's."""
RELEASE_PORT: Final = 15411
"""Fixed by ``pkarr-relay --testnet``."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A running relay to be measured."""

    name: str
    build: str
    pid: int
    port: int

    @property
    def url(self) -> str:
        """Base URL, with a slash at its end."""
        return f"http://127.0.0.1:{self.port}/"


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Let everything started inside run on one core only."""
    before = os.sched_getaffinity(0)
    cores = sorted(before)
    os.sched_setaffinity(0, {cores[core % len(cores)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def ours(bootstrap: Sequence[str]) -> Iterator[Subject]:
    """Our relay, as built in place, on a network."""
    with tempfile.TemporaryDirectory() as folder, pinned(SERVER_CORE):
        relay = RelayProcess(Path(folder), bootstrap=bootstrap)
        with relay:
            relay.wait_bootstrapped()
            yield Subject("ours", "release", relay.pid, relay.port)


@contextmanager
def reference_peer(bootstrap: Sequence[str]) -> Iterator[Subject]:
    """The reference relay on a network: the peer program, opt-level 1."""
    with (
        tempfile.TemporaryDirectory() as folder,
        pinned(SERVER_CORE),
        peers.reference_relay(bootstrap, Path(folder)) as relay,
    ):
        port = int(relay.url.rstrip("/").rpartition(":")[2])
        yield Subject("reference", "opt-level 1", relay.pid, port)


@contextmanager
def reference_release() -> Iterator[Subject]:
    """The reference relay's release build with a network of its own, without its request log."""
    program = CACHE / "bench" / "bin" / "pkarr-relay"
    if not program.exists():
        raise PeerMissingError("the reference's release build", program)
    # Its port is fixed, and another relay's answers there would pass for its own.
    with socket.create_server(("127.0.0.1", RELEASE_PORT)):
        pass
    with pinned(SERVER_CORE):
        process = subprocess.Popen(
            [program, "--testnet", "-t", "error"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    try:
        subject = Subject("reference", "release", process.pid, RELEASE_PORT)
        wait_until(lambda: _answers(subject.url), "the reference's first answer")
        if process.poll() is not None:
            raise RuntimeError(f"{program.name} ended with status {process.returncode}")
        yield subject
    finally:
        process.terminate()
        process.wait()


@contextmanager
def network(kind: str) -> Iterator[Peer]:
    """A DHT away from the server's core: ``libtorrent`` (12 nodes), ``rust`` (10), ``ours`` (4)."""
    start = {
        "libtorrent": lambda: peers.libtorrent_net("--nodes", 12),
        "rust": lambda: peers.rust_net("--nodes", 10),
        "ours": lambda: peers.own_net(4),
    }
    with pinned(LOAD_CORE):
        net = start[kind]()
    with net:
        yield net


def _answers(url: str) -> bool:
    try:
        return fetch(url).status == 200
    except OSError:
        return False
