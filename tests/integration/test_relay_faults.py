"""A real relay meets faults: it answers what it can, says so within seconds, and recovers.

Each fault comes while the relay runs, and goes again. In between and afterwards hot packets are
served, PUTs are taken; `/health` tells of the fault and of its end; what was acknowledged outlives
a ``kill -9`` right after. The times it takes are printed (``-rP``); `nox -s faults` has the table,
and the faults that last for minutes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.integration.test_relay_kill import fill, inside, mounted
from tests.support import kills, peers
from tests.support.faults import (
    FOR_EVER,
    Ask,
    Faults,
    Publisher,
    kept,
    part,
    pending,
)
from tests.support.peers import Peer
from tests.support.relay import RelayProcess, wait_until

pytestmark = pytest.mark.slow

DATABASE: Final = "pkarr-relay.sqlite3"
TOLD_S: Final = 2.0
"""What is promised of ``/health``, after a fault and after its end."""
SLOWER: Final = 15.0
"""How many times slower than that a busy machine may be."""


@pytest.fixture(scope="module")
def net() -> Iterator[Peer]:
    with peers.own_net(3) as running:
        yield running


@dataclass(frozen=True, slots=True)
class Disk:
    """A relay's disk, and the way to harm it."""

    relay: RelayProcess
    faults: Faults

    @property
    def cache(self) -> Path:
        return inside(self.relay)


def replace(disk: Disk) -> None:
    """Put an older copy in the file's place, as who restores a backup under a running relay."""
    shutil.copyfile(disk.cache / DATABASE, disk.cache / "incoming")
    (disk.cache / "incoming").rename(disk.cache / DATABASE)


def remove_all(disk: Disk) -> None:
    for path in disk.cache.iterdir():
        path.unlink()


HARMS: Final[dict[str, tuple[Callable[[Disk], None], Callable[[Disk], None]]]] = {
    "disk full": (
        lambda disk: fill(disk.cache / "ballast"),
        lambda disk: (disk.cache / "ballast").unlink(),
    ),
    "I/O errors": (lambda disk: disk.faults.disk_error(), lambda disk: disk.faults.heal()),
    "writes fail": (
        lambda disk: disk.faults.disk_error(reads=False),
        lambda disk: disk.faults.heal(),
    ),
    "fsync fails": (
        lambda disk: disk.faults.set(fsync_error=errno.EIO, fsync_failures=FOR_EVER),
        lambda disk: disk.faults.heal(),
    ),
    # As after an emergency remount: the kernel grants no other while files are open for writing.
    "read-only": (
        lambda disk: disk.faults.set(write_error=errno.EROFS),
        lambda disk: disk.faults.heal(),
    ),
    "cut short": (
        lambda disk: os.truncate(disk.cache / DATABASE, 4096),
        lambda disk: move_away(disk),
    ),
}
"""What befalls the disk, and how it ends: ``/health`` must tell of both."""

PASSING: Final[dict[str, Callable[[Disk], None]]] = {
    "fsync fails once": lambda disk: disk.faults.set(fsync_error=errno.EIO, fsync_failures=1),
    "short writes": lambda disk: disk.faults.set(short_writes=3),
    "file removed": lambda disk: (disk.cache / DATABASE).unlink(),
    "log removed": lambda disk: (disk.cache / f"{DATABASE}-wal").unlink(),
    "file replaced": replace,
    "folder emptied": remove_all,
}
"""What is over at once, or is mended by the relay: it must be well again by itself."""
AT_ONCE: Final = list(PASSING) if "PKARR_TEST_MINUTES" in os.environ else ["fsync fails once"]
"""All with `nox -s faults`; test_store_faults has the others in CI, with the store alone."""


def move_away(disk: Disk) -> None:
    (disk.cache / "kept").mkdir()
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            (disk.cache / (DATABASE + suffix)).rename(disk.cache / "kept" / f"file{suffix}")


@pytest.fixture
def disk(net: Peer, tmp_path: Path) -> Iterator[Disk]:
    faults = Faults(tmp_path)
    wrapper = (*mounted(tmp_path, 'mount -t tmpfs -o size=4m tmpfs "$0"'), *faults.wrapper)
    with RelayProcess(tmp_path, bootstrap=net.bootstrap, wrapper=wrapper) as relay:
        relay.wait_bootstrapped()
        yield Disk(relay, faults)


@pytest.mark.parametrize("harm", HARMS)
def test_a_disk_that_fails_and_heals(disk: Disk, harm: str) -> None:
    """PUTs go on from memory; ``/health`` tells within seconds; afterwards all is on the disk."""
    relay = disk.relay
    begin, end = HARMS[harm]
    publisher = Publisher(relay)
    for _ in range(20):
        publisher.publish()
    # A kept connection: without descriptors nobody new is let in.
    with kept(relay) as ask:
        assert ask("GET", "/health").status == 200
        begin(disk)
        began = time.monotonic()
        taken = 0

        def told() -> bool:
            nonlocal taken
            packet = publisher.publish_on(ask, place=taken % 20)
            assert ask("GET", f"/{packet.key}").body == packet.payload
            taken += 1
            return cache_status(ask) == "degraded"

        wait_until(told, "health to tell of it", poll_s=0.05)
        told_s = time.monotonic() - began
        end(disk)
        began = time.monotonic()
        wait_until(lambda: cache_status(ask) == "ok", "health to tell of the end", poll_s=0.05)
        healed_s = time.monotonic() - began
    print(f"{harm}: told after {told_s:.2f} s, healed after {healed_s:.2f} s")  # shown by -rP
    assert told_s < TOLD_S * SLOWER
    assert healed_s < TOLD_S * SLOWER
    publisher.publish()
    wait_until(lambda: pending(relay) == 0, "everything to be written")
    publisher.all_there()
    assert stored(disk) >= publisher.acknowledged.keys()
    assert "Traceback" not in relay.log()


@pytest.mark.parametrize("harm", AT_ONCE)
def test_a_disk_that_fails_for_a_moment(disk: Disk, harm: str) -> None:
    """Nobody needs to do anything: soon all is on the disk, whatever happened to the files."""
    relay = disk.relay
    publisher = Publisher(relay)
    for _ in range(20):
        publisher.publish()
    commits = relay.stats()["cache"]["commits"]
    began = time.monotonic()
    PASSING[harm](disk)
    publisher.publish(3)

    def well() -> bool:
        cache = relay.stats()["cache"]
        return bool(
            cache["commits"] > commits
            and cache["pending"] == 0
            and part(relay, "cache") == "ok"
            and stored(disk) >= publisher.acknowledged.keys()
        )

    wait_until(well, "all to be on the disk", poll_s=0.05)
    print(f"{harm}: all on the disk after {time.monotonic() - began:.2f} s")
    for number in range(20):
        publisher.publish(number)
    publisher.all_there()
    assert stored(disk) >= publisher.acknowledged.keys()
    assert "Traceback" not in relay.log()


def stored(disk: Disk) -> set[str]:
    """Read the keys that somebody finds who starts from the files, as they are now."""
    try:
        return set(kills.timestamps(disk.cache / DATABASE, disk.relay.folder / "copy.sqlite3"))
    except kills.ViolationError:
        return set()  # copied while it was being written


def cache_status(ask: Ask) -> str:
    health: dict[str, Any] = ask("GET", "/health").json()
    return str(health["parts"]["cache"]["status"])
