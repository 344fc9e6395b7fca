"""A real relay meets faults: it answers what it can, says so within seconds, and recovers.

Each fault comes while the relay runs, and goes again. In between and afterwards hot packets are
served, PUTs are taken; `/health` tells of the fault and of its end; what was acknowledged outlives
a ``kill -9`` right after. The times it takes are printed (``-rP``); `nox -s faults` demands those
that are promised, and has the faults that last for minutes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import threading
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
    MINUTES,
    Ask,
    Faults,
    Publisher,
    kept,
    part,
    pending,
    timely,
)
from tests.support.packets import Author
from tests.support.peers import Peer
from tests.support.relay import RelayProcess, status_of, wait_until

pytestmark = pytest.mark.slow

DATABASE: Final = "pkarr-relay.sqlite3"


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

PASSING: Final[dict[str, tuple[Callable[[Disk], None], str | None]]] = {
    "fsync fails once": (
        lambda disk: disk.faults.set(fsync_error=errno.EIO, fsync_failures=1),
        "the disk cannot be read or written",
    ),
    "short writes": (lambda disk: disk.faults.set(short_writes=3), None),
    "file removed": (
        lambda disk: (disk.cache / DATABASE).unlink(),
        f"{DATABASE} was removed while it was in use",
    ),
    "log removed": (
        lambda disk: (disk.cache / f"{DATABASE}-wal").unlink(),
        f"{DATABASE}-wal was removed while it was in use",
    ),
    "file replaced": (replace, f"{DATABASE} was replaced while it was in use"),
    "folder emptied": (remove_all, "was removed while it was in use"),
}
"""What is over at once, or is mended by the relay, and what its log says of it (None: nothing, for
nothing is amiss): it must be well again by itself."""
AT_ONCE: Final = list(PASSING) if MINUTES else ["fsync fails once"]
"""All with `nox -s faults`; test_store_faults has the others in CI, with the store alone."""


def move_away(disk: Disk) -> None:
    (disk.cache / "kept").mkdir(exist_ok=True)
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
    """PUTs go on from memory; ``/health`` tells within seconds; afterwards all is on the disk.

    So it is the second time, too. Time counts from before the first PUT that meets the fault.
    """
    relay = disk.relay
    publisher = Publisher(relay)
    for _ in range(20):
        publisher.publish()
    # A kept connection: without descriptors nobody new is let in.
    with kept(relay) as ask:
        for turn in ("", " again"):
            assert cache_status(ask) == "ok"
            fail_and_heal(disk, harm, turn, publisher, ask)
    publisher.publish()
    wait_until(lambda: pending(relay) == 0, "everything to be written")
    publisher.all_there()
    wait_until(lambda: all_stored(disk, publisher), "all to be on the disk")
    assert "Traceback" not in relay.log()


def fail_and_heal(disk: Disk, harm: str, turn: str, publisher: Publisher, ask: Ask) -> None:
    begin, end = HARMS[harm]
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
    timely(f"{harm}{turn}: told", began)
    end(disk)
    began = time.monotonic()
    wait_until(lambda: cache_status(ask) == "ok", "health to tell of the end", poll_s=0.05)
    timely(f"{harm}{turn}: healed", began)


@pytest.mark.parametrize("harm", AT_ONCE)
def test_a_disk_that_fails_for_a_moment(disk: Disk, harm: str) -> None:
    """Nobody needs to do anything: soon all is on the disk, whatever happened to the files.

    The log tells of it. Health does where there is a second for it, before the next try; files
    that are lost are made anew at once (test_store_faults has what health says meanwhile).
    """
    relay = disk.relay
    publisher = Publisher(relay)
    for _ in range(20):
        publisher.publish()
    commits = relay.stats()["cache"]["commits"]
    begin, cause = PASSING[harm]

    def well() -> bool:
        cache = relay.stats()["cache"]
        return bool(
            cache["commits"] > commits
            and cache["pending"] == 0
            and part(relay, "cache") == "ok"
            and all_stored(disk, publisher)
        )

    with watched(relay) as seen:
        began = time.monotonic()
        begin(disk)
        publisher.publish(3)
        wait_until(well, "all to be on the disk", poll_s=0.05)
        timely(f"{harm}: all on the disk", began)
    print(f"{harm}: health said {', '.join(sorted(seen))}")
    if harm == "fsync fails once":
        assert seen == {"ok", "degraded"}
    if cause is None:
        assert seen == {"ok"}
        assert "going on from memory" not in relay.log()
    else:
        assert cause in relay.log()
        assert f"{DATABASE} is written again" in relay.log()
    for number in range(20):
        publisher.publish(number)
    publisher.all_there()
    wait_until(lambda: all_stored(disk, publisher), "all to be on the disk")
    assert "Traceback" not in relay.log()


def test_a_disk_that_never_answers(net: Peer, tmp_path: Path) -> None:
    """As NFS without its server: health tells, and the relay can be ended nevertheless."""
    faults = Faults(tmp_path)
    with RelayProcess(tmp_path, bootstrap=net.bootstrap, wrapper=faults.wrapper) as relay:
        relay.wait_bootstrapped()
        publisher = Publisher(relay)
        packet = publisher.publish()
        faults.set(fsync_hangs=1)
        waiting = Author().packet()
        head = f"PUT /{waiting.key} HTTP/1.1\r\nHost: relay\r\n"
        length = f"Content-Length: {len(waiting.payload)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", relay.port)) as client:
            client.sendall((head + length).encode() + waiting.payload)
            wait_until(lambda: faults.met, "the commit that hangs")
            with kept(relay) as ask:
                wait_until(lambda: cache_status(ask) == "degraded", "health to tell of it")
                assert b"the disk has not answered for more than" in ask("GET", "/health").body
                assert ask("GET", f"/{packet.key}").body == packet.payload
                faults.heal()
                wait_until(lambda: cache_status(ask) == "ok", "health to tell of the end")
                assert status_of(client) == 204
        publisher.acknowledged[waiting.key] = waiting

        faults.set(fsync_hangs=1)
        assert relay.stop() == 1
        log = relay.log()
        assert "shutdown takes too long; leaving without it" in log
        assert "relay/store/packets.py" in log.partition("leaving without it")[2], "where it hung"
        faults.heal()
        relay.start()
        publisher.all_there()


@contextlib.contextmanager
def watched(relay: RelayProcess) -> Iterator[set[str]]:
    """Ask ``/health`` again and again meanwhile; yield all that it has said of the cache."""
    seen: set[str] = set()
    over = threading.Event()

    def watch() -> None:
        with kept(relay) as ask:
            while not over.is_set():
                seen.add(cache_status(ask))
                over.wait(0.01)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        wait_until(lambda: seen, "the first answer")
        yield seen
    finally:
        over.set()
        thread.join()


def all_stored(disk: Disk, publisher: Publisher) -> bool:
    """Whether somebody who starts from the files as they are now finds all that was taken."""
    try:
        found = kills.timestamps(disk.cache / DATABASE, disk.relay.folder / "copy.sqlite3")
    except kills.ViolationError:
        return False  # copied while it was being written
    wanted = publisher.acknowledged.items()
    return all(found.get(key, 0) >= packet.timestamp_us for key, packet in wanted)


def cache_status(ask: Ask) -> str:
    health: dict[str, Any] = ask("GET", "/health").json()
    return str(health["parts"]["cache"]["status"])
