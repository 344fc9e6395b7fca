"""The relay is killed under load and its disk misbehaves: no acknowledged packet is lost.

Everything here is done to a real process on a DHT of our own nodes, which outlives it.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import random
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import pytest

from tests.support import peers
from tests.support.chance import seeded
from tests.support.packets import Author, Packet, zbase32
from tests.support.peers import Peer
from tests.support.relay import Answer, RelayProcess, exchange, wait_until

pytestmark = pytest.mark.slow

KILLS: Final = 50
WRITERS: Final = 8
KEYS_PER_WRITER: Final = 6
"""Few, so that most writes replace a packet and an older one could come back."""
NEW_KEY_RATIO: Final = 0.2
ACKNOWLEDGED_BEFORE_KILL: Final = (1, 40)
"""The kill comes after so many answers since the start: in the first write, or amid many."""
NODES: Final = 3
DATABASE: Final = "pkarr-relay.sqlite3"


@pytest.fixture(scope="module")
def net() -> Iterator[Peer]:
    with peers.own_net(NODES) as running:
        yield running


@dataclass(slots=True)
class Ledger:
    """What was sent for each key and what the relay has vouched for since."""

    sent: dict[str, dict[int, bytes]] = field(default_factory=dict)
    vouched_us: dict[str, int] = field(default_factory=dict)
    unchecked: set[str] = field(default_factory=set)
    acknowledged: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note_sent(self, packet: Packet) -> None:
        with self.lock:
            self.sent.setdefault(packet.key, {})[packet.timestamp_us] = packet.payload

    def note_acknowledged(self, packet: Packet) -> None:
        with self.lock:
            self.acknowledged += 1
            self.unchecked.add(packet.key)
            known_us = self.vouched_us.get(packet.key, 0)
            self.vouched_us[packet.key] = max(packet.timestamp_us, known_us)

    def check(self, relay: RelayProcess, keys: Iterable[str]) -> None:
        """Everything vouched for is there, or something newer, byte for byte as it was sent."""
        with closing(http.client.HTTPConnection("127.0.0.1", relay.port, timeout=30)) as connection:
            for key in keys:
                answer = exchange(connection, "GET", f"/{key}?policy=CacheOnly")
                assert answer.status == 200, f"lost {key}, acknowledged at {self.vouched_us[key]}"
                stamp_us = int.from_bytes(answer.body[64:72])
                assert stamp_us >= self.vouched_us[key], f"older packet served for {key}"
                assert answer.body == self.sent[key][stamp_us]
                self.vouched_us[key] = stamp_us
        self.unchecked.clear()


class Writers:
    """Threads that publish ever newer packets until the relay is gone or refuses one."""

    def __init__(self, relay: RelayProcess, ledger: Ledger, seed: int) -> None:
        self._relay, self._ledger = relay, ledger
        self._threads = [
            threading.Thread(target=self._write, args=(number, seeded(f"{seed}/{number}")))
            for number in range(WRITERS)
        ]
        self.refused: list[Answer] = []

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _write(self, writer: int, rng: random.Random) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", self._relay.port, timeout=30)) as to:
            for turn in itertools.count():
                author = self._author(writer, rng)
                packet = author.packet(f"turn {turn}", size=rng.choice([None, 300, 1000]))
                self._ledger.note_sent(packet)
                try:
                    answer = exchange(to, "PUT", f"/{packet.key}", packet.payload)
                except (OSError, http.client.HTTPException):
                    return
                if answer.status != 204:
                    self.refused.append(answer)
                    return
                self._ledger.note_acknowledged(packet)

    @staticmethod
    def _author(writer: int, rng: random.Random) -> Author:
        if rng.random() < NEW_KEY_RATIO:
            return Author(rng.randbytes(32))
        return Author.numbered(rng.randrange(KEYS_PER_WRITER), f"writer {writer}")


def test_no_acknowledged_packet_is_lost_over_fifty_kills(net: Peer, tmp_path: Path) -> None:
    ledger, rng = Ledger(), seeded(KILLS)
    relay = RelayProcess(tmp_path, bootstrap=net.bootstrap)
    for kill in range(KILLS):
        with relay:
            relay.wait_bootstrapped()
            ledger.check(relay, list(ledger.unchecked))
            enough = ledger.acknowledged + rng.randint(*ACKNOWLEDGED_BEFORE_KILL)
            writers = Writers(relay, ledger, seed=kill)
            writers.start()
            try:
                wait_until(
                    lambda: ledger.acknowledged >= enough or writers.refused,  # noqa: B023
                    "acknowledged packets",
                )
            finally:
                relay.kill()
                writers.join()
            assert not writers.refused, writers.refused
    with relay:
        ledger.check(relay, list(ledger.vouched_us))
        assert not store_degraded(relay)
    print(f"{ledger.acknowledged} acknowledged packets over {KILLS} kills")  # shown by -rP


@pytest.fixture
def small_disk(tmp_path: Path) -> tuple[str, ...]:
    """A wrapper that gives the relay's cache folder a file system of its own, of 4 MB."""
    return mounted(tmp_path, 'mount -t tmpfs -o size=4m tmpfs "$0"')


def mounted(folder: Path, command: str) -> tuple[str, ...]:
    """Run the relay in a mount namespace, after `command` has mounted something on ``$0``.

    Nothing outside sees the mount, and it goes when the relay ends. Without root rights a
    user namespace gives them.
    """
    cache = folder / "cache"
    cache.mkdir()
    as_root = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    return ("unshare", *as_root, "--mount", "sh", "-c", f'{command} && exec "$@"', str(cache))


def inside(relay: RelayProcess) -> Path:
    """The cache folder as the relay's process sees it."""
    return Path(f"/proc/{relay.pid}/root{relay.cache}")


def store_degraded(relay: RelayProcess) -> bool:
    answer = relay.health()
    assert answer.status == 200, answer
    health = cast("dict[str, Any]", answer.json())
    degraded: bool = health["parts"]["cache"]["status"] == "degraded"
    assert not degraded or health["status"] == "degraded"
    return degraded


def stored_keys(database: Path, copy: Path) -> set[str]:
    """Read the keys out of a copy of the database, with its write-ahead log."""
    for suffix in ("", "-wal"):
        source = database.with_name(database.name + suffix)
        if source.exists():
            copy.with_name(copy.name + suffix).write_bytes(source.read_bytes())
    with closing(sqlite3.connect(copy)) as connection:
        rows = connection.execute("SELECT key FROM packets").fetchall()
    return {zbase32(row[0]) for row in rows}


def test_a_full_disk_degrades_and_heals(
    net: Peer, tmp_path: Path, small_disk: tuple[str, ...]
) -> None:
    """PUTs go on from memory; once there is room again everything is written."""
    with RelayProcess(tmp_path, bootstrap=net.bootstrap, wrapper=small_disk) as relay:
        relay.wait_bootstrapped()
        first = Author().packet("before")
        assert relay.put(first.key, first.payload).status == 204
        assert not store_degraded(relay)

        ballast = inside(relay) / "ballast"
        fill(ballast)
        packets = [Author().packet(f"number {n}", size=1000) for n in range(60)]
        for packet in packets:
            assert relay.put(packet.key, packet.payload).status == 204
        wait_until(lambda: store_degraded(relay), "the store noticing that the disk is full")
        for packet in [first, *packets]:
            assert relay.get(packet.key).body == packet.payload

        ballast.unlink()
        wait_until(lambda: not store_degraded(relay), "the store healing")
        last = Author().packet("after")
        assert relay.put(last.key, last.payload).status == 204
        kept = stored_keys(inside(relay) / DATABASE, tmp_path / "copy.sqlite3")
        assert kept >= {packet.key for packet in [first, *packets, last]}
        assert "Traceback" not in relay.log()


def fill(path: Path) -> None:
    """Write until the file system has no room left, not even for a byte."""
    with path.open("wb", buffering=0) as out:
        for size in (65536, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    out.write(bytes(size))


def test_a_read_only_folder_leaves_the_relay_working_from_memory(net: Peer, tmp_path: Path) -> None:
    wrapper = mounted(tmp_path, 'mount -t tmpfs -o ro tmpfs "$0"')
    with RelayProcess(tmp_path, bootstrap=net.bootstrap, wrapper=wrapper) as relay:
        serves_from_memory(relay)


def serves_from_memory(relay: RelayProcess) -> None:
    relay.wait_bootstrapped()
    assert store_degraded(relay)
    packet = Author().packet("kept in memory")
    assert relay.put(packet.key, packet.payload).status == 204
    assert relay.get(packet.key, "CacheOnly").body == packet.payload
    assert store_degraded(relay)
    assert "Traceback" not in relay.log()


def overwritten(data: bytes, start: int, length: int) -> bytes:
    return data[:start] + seeded(start).randbytes(length) + data[start + length :]


DAMAGES: Final[dict[str, Callable[[bytes], bytes]]] = {
    "random": lambda data: seeded(1).randbytes(len(data)),
    "header": lambda data: overwritten(data, 0, 100),
    "schema": lambda data: overwritten(data, 100, 3996),
    "truncated": lambda data: data[: len(data) // 2 + 7],
    "text": lambda _: b"this is no database, but somebody may need it\n" * 100,
}


@pytest.fixture(scope="module")
def good_database(net: Peer, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file that a relay has left behind after some work."""
    with RelayProcess(tmp_path_factory.mktemp("good"), bootstrap=net.bootstrap) as relay:
        relay.wait_bootstrapped()
        for number in range(100):
            packet = Author().packet(f"number {number}", size=600)
            assert relay.put(packet.key, packet.payload).status == 204
    return (relay.cache / DATABASE).read_bytes()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_database_is_left_alone(
    net: Peer, tmp_path: Path, good_database: bytes, damage: str
) -> None:
    relay = RelayProcess(tmp_path, bootstrap=net.bootstrap)
    relay.cache.mkdir()
    damaged = DAMAGES[damage](good_database)
    (relay.cache / DATABASE).write_bytes(damaged)
    with relay:
        serves_from_memory(relay)
        assert relay.stop() == 0
    assert (relay.cache / DATABASE).read_bytes() == damaged


def test_a_foreign_database_is_left_alone(net: Peer, tmp_path: Path) -> None:
    relay = RelayProcess(tmp_path, bootstrap=net.bootstrap)
    relay.cache.mkdir()
    with closing(sqlite3.connect(relay.cache / DATABASE)) as foreign:
        foreign.executescript("CREATE TABLE packets (mine TEXT); INSERT INTO packets VALUES ('x')")
    before = (relay.cache / DATABASE).read_bytes()
    with relay:
        serves_from_memory(relay)
        assert relay.stop() == 0
    assert (relay.cache / DATABASE).read_bytes() == before
