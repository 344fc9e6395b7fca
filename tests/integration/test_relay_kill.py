"""The relay is killed under load and its disk misbehaves: no acknowledged packet is lost.

Everything here is done to a real process on a DHT of our own nodes, which outlives it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final, cast

import pytest

from tests.support import kills, peers
from tests.support.chance import seeded
from tests.support.faults import MINUTES
from tests.support.packets import Author, zbase32
from tests.support.peers import Peer
from tests.support.planted import DEFECTS
from tests.support.relay import RelayProcess, wait_until

pytestmark = pytest.mark.slow

KILLS: Final = 50
CHECK_EVERY: Final = 10
KILLS_TO_FIND_A_DEFECT: Final = 60
"""When it is found is up to chance, in life within a dozen."""
PLANTED: Final = list(DEFECTS) if MINUTES else ["commits nothing"]
"""All with `nox -s faults`; a minute each is too much for CI."""
NODES: Final = 3
DATABASE: Final = "pkarr-relay.sqlite3"


@pytest.fixture(scope="module")
def net() -> Iterator[Peer]:
    with peers.own_net(NODES) as running:
        yield running


def test_no_acknowledged_packet_is_lost_over_fifty_kills(tmp_path: Path) -> None:
    """`nox -s kills` goes on for a thousand."""
    campaign = kills.run(tmp_path, kills=KILLS, seed=KILLS, check_every=CHECK_EVERY)
    assert campaign.ledger.acknowledged > KILLS  # its figures are shown by -rP


@pytest.mark.parametrize("defect", PLANTED)
def test_a_planted_defect_is_found(net: Peer, tmp_path: Path, defect: str) -> None:
    """What looks for lost packets finds them where they are lost."""
    wrapper = (sys.executable, "-m", "tests.support.planted", defect)
    campaign = kills.Campaign(tmp_path, net.bootstrap, seed=1, wrapper=wrapper, capacity=40)
    with pytest.raises(kills.ViolationError, match=r"are not in the file|after a restart|served"):
        campaign.kill_often(KILLS_TO_FIND_A_DEFECT)


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
