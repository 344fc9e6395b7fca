"""How the programs that we measure ourselves against are found, started and pinned.

All of the Rust ones are release builds without logs, made by ``tools/build-peers --bench``: the
published ``pkarr-relay`` 2.1.0 with its ``--testnet``; the same crate on a network of our choice
and with its limiter where wanted (``reference/``, as the published program takes no bootstrap
nodes); one node of ``mainline`` 8.0.1; ``iroh-dns-server``. libtorrent comes from the peers.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.library import filled_database
from bench.results import OURS, REFERENCE
from tests.support import peers
from tests.support.peers import CACHE, Peer, PeerMissingError
from tests.support.relay import RelayProcess, fetch, free_port, wait_for_port, wait_until

SERVER_CORE: Final = 0
LOAD_CORE: Final = 1
"""The load generator and the DHT network share what is not the server's."""
RELEASE_PORT: Final = 15411
"""Fixed by ``pkarr-relay --testnet``."""
FOR_EVER: Final = 4_000_000_000
"""Seconds; packets of the library were signed long ago and must count as fresh."""
LIMIT: Final = 1_000_000
"""Requests a second and at once that the limiter allows when it is on and must refuse nothing."""
CONNECTIONS_MAX: Final = 4096
LOAD_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Subject:
    """A running relay to be measured."""

    name: str
    build: str
    pid: int
    port: int
    prefix: str = ""
    """What comes before the key in a path."""
    network_pid: int = 0
    """The process of its DHT network, where its share of a core is to be told; 0: it is not."""

    @property
    def url(self) -> str:
        """Base URL, with a slash at its end."""
        return f"http://127.0.0.1:{self.port}/"


@contextmanager
def pinned(*cores: int) -> Iterator[None]:
    """Let everything started inside run on these cores only."""
    before = os.sched_getaffinity(0)
    there = sorted(before)
    os.sched_setaffinity(0, {there[core % len(there)] for core in cores})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def program(name: str) -> Path:
    """Return the path of a release build, e.g. ``bench-node``."""
    path = CACHE / "bench" / "bin" / name
    if not path.exists():
        remedy = "build it with `tools/build-peers --bench`"
        raise PeerMissingError(name, path, remedy)
    return path


def our_sections(*, limited: bool = False, packets: int = 0) -> dict[str, str]:
    """Return configuration for a relay of ours: caps raised, packets of the library fresh."""
    sections = {
        "http": f"max_connections = {CONNECTIONS_MAX}\nmax_connections_per_address = 0",
        "cache": f"minimum_ttl = {FOR_EVER}\nmaximum_ttl = {FOR_EVER}",
    }
    if packets:
        sections["cache"] += f"\nsize = {max(packets, 1000)}"
    if limited:
        rates = "\n".join(
            f'{name}quota = "{LIMIT}r/s"\n{name}burst = {LIMIT}'
            for name in ("", "user_dht_", "dht_")
        )
        sections["rate_limiter"] = f"behind_proxy = false\n{rates}"
    return sections


@contextmanager
def our_relay(
    bootstrap: Sequence[str] = (), *, packets: int = 0, limited: bool = False, lane: str = "task"
) -> Iterator[RelayProcess]:
    """Our relay, as built in place, not started yet; its cache holds `packets` of the library."""
    with tempfile.TemporaryDirectory() as folder:
        sections = our_sections(limited=limited, packets=packets)
        wrapper = ("env", f"RELAY_FRONT_LANE={lane}")
        process = RelayProcess(
            Path(folder), bootstrap=bootstrap, sections=sections, wrapper=wrapper
        )
        if packets:
            filled_database(packets, process.cache)
        try:
            yield process
        finally:
            if process.alive:
                process.stop()


@contextmanager
def ours(
    bootstrap: Sequence[str] = (),
    *,
    packets: int = 0,
    limited: bool = False,
    name: str = OURS,
) -> Iterator[Subject]:
    """Our relay, running, all packets in memory; on a network if there are bootstrap nodes."""
    with our_relay(bootstrap, packets=packets, limited=limited) as process:
        with pinned(SERVER_CORE):
            process.start()
        if bootstrap:
            process.wait_bootstrapped()
        wait_until(lambda: loaded(process, packets), "the load of the cache", LOAD_S)
        yield Subject(name, "in place", process.pid, process.port)


def loaded(process: RelayProcess, packets: int) -> bool:
    """Tell whether all of a relay's packets have come from the disk into memory."""
    cache = process.stats()["cache"]
    assert isinstance(cache, dict)
    return not cache["loading"] and cache["packets"] >= packets


@contextmanager
def reference(
    bootstrap: Sequence[str], *, limited: bool = False, name: str = REFERENCE
) -> Iterator[Subject]:
    """The Rust relay on a network."""
    limit = ["--limit", LIMIT] if limited else []
    with tempfile.TemporaryDirectory() as folder:
        with pinned(SERVER_CORE):
            joined = peers.with_bootstrap(bootstrap)
            relay = Peer(program("bench-relay"), *joined, "--storage", folder, *limit)
        with relay:
            port = int(relay.url.rstrip("/").rpartition(":")[2])
            yield Subject(name, "release", relay.pid, port)


@contextmanager
def _running(*command: object, environment: Mapping[str, str] | None = None) -> Iterator[int]:
    with pinned(SERVER_CORE):
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **(environment or {})},
        )
    try:
        yield process.pid
        if process.poll() is not None:
            raise RuntimeError(f"{command[0]} ended with status {process.returncode}")
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def reference_published() -> Iterator[Subject]:
    """The published program with the network of its own, without its request log."""
    # Its port is fixed, and another relay's answers there would pass for its own.
    wait_for_port(RELEASE_PORT)
    with tempfile.TemporaryDirectory() as folder:
        command = (program("pkarr-relay"), "--testnet", "-t", "error")
        with _running(*command, environment={"TMPDIR": folder}) as pid:
            subject = Subject(REFERENCE, "published, release", pid, RELEASE_PORT)
            wait_until(lambda: _answers(subject.url), "the reference's first answer")
            yield subject


@contextmanager
def iroh_dns() -> Iterator[Subject]:
    """iroh-dns-server on loopback: no HTTPS, no limit, no metrics, no logs, no DHT."""
    port, dns_port = free_port(), free_port(socket.SOCK_DGRAM)
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.toml"
        config.write_text(
            f"""pkarr_put_rate_limit = "disabled"
data_dir = "{folder}/data"

[http]
port = {port}
bind_addr = "127.0.0.1"

[dns]
port = {dns_port}
bind_addr = "127.0.0.1"
default_soa = "dns1.example hostmaster.example 0 10800 3600 604800 3600"
default_ttl = 900
origins = ["example.", "."]
rr_a = "127.0.0.1"
rr_ns = "ns1.example."

[zone_store]
max_batch_size = 65536
max_batch_time = "1s"
eviction = "3650d"
eviction_interval = "10s"

[metrics]
disabled = true

[mainline]
enabled = false
"""
        )
        command = (program("iroh-dns-server"), "--config", config)
        with _running(*command, environment={"RUST_LOG": "off"}) as pid:
            subject = Subject("iroh-dns-server", "1.4.1, release", pid, port, "pkarr/")
            wait_until(lambda: _accepts(port), "iroh-dns-server's first answer")
            yield subject


@contextmanager
def network(kind: str, nodes: int = 0) -> Iterator[Peer]:
    """A DHT away from the server's core: ``libtorrent`` (12 nodes), ``rust`` (10), ``ours`` (4)."""
    start = {
        "libtorrent": lambda: peers.libtorrent_net("--nodes", nodes or 12),
        "rust": lambda: peers.rust_net("--nodes", nodes or 10),
        "ours": lambda: peers.own_net(nodes or 4),
    }
    with pinned(LOAD_CORE):
        net = start[kind]()
    with net:
        yield net


@contextmanager
def our_stub() -> Iterator[Subject]:
    """Our relay with a DHT that takes everything at once: what is left is HTTP and the cache."""
    with tempfile.TemporaryDirectory() as folder:
        with pinned(SERVER_CORE):
            relay = Peer(sys.executable, "-m", "bench.stub_relay", folder)
        with relay:
            port = int(relay.url.rstrip("/").rpartition(":")[2])
            yield Subject(OURS, "in place, DHT stubbed", relay.pid, port)


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1):
            return True
    except OSError:
        return False


def _answers(url: str) -> bool:
    try:
        return fetch(url).status == 200
    except OSError:
        return False
