"""The store on disks that fail: full, damaged, foreign, read-only, taken by somebody else.

Each time the same is asked for: nothing on the disk is spoiled, packets are still taken and
served, `health` says why it is not well, and where the disk can recover the packets reach it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
import trio.testing

from relay.errors import NotMostRecentError, StoreError
from relay.pkarr.keys import PublicKey
from relay.pkarr.packet import SeenPacket, SignedPacket
from relay.store import records
from relay.store.faults import DatabaseFaultError
from relay.store.found import Found
from relay.store.in_use import state_of
from relay.store.inspection import Inspector
from relay.store.packets import Changes, PacketCache
from relay.store.reader import PacketReader
from relay.store.worker import PacketStore
from tests.support.chance import seeded

NOW_US = 1_750_000_000_000_000
DATABASE = "pkarr-relay.sqlite3"
NOBODY = 65534


def key(number: int) -> PublicKey:
    return PublicKey(number.to_bytes(32, "big"))


def packet(number: int, timestamp_us: int = 1, dns: bytes = bytes(900)) -> SeenPacket:
    return SeenPacket(SignedPacket(key(number), bytes(64), timestamp_us, dns), NOW_US)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again sooner than the relay does: the tests have no second to wait."""
    for module in ("writer", "loading"):
        monkeypatch.setattr(f"relay.store.{module}.RETRY_S", 0.05)
    monkeypatch.setattr("relay.store.writer.LOOK_S", 0.05)


@asynccontextmanager
async def running(folder: Path, capacity: int = 10_000) -> AsyncIterator[PacketStore]:
    store = PacketStore(folder, capacity, lambda: NOW_US)
    store.open()
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        yield store
        with trio.fail_after(30):
            await store.close()


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(20):
        while not condition():
            await trio.testing.wait_all_tasks_blocked(0.002)


async def loaded(store: PacketStore) -> int:
    await until(lambda: not store.stats().loading)
    return store.stats().packets


async def fill(folder: Path, count: int) -> bytes:
    """Store some packets and return the bytes of the database."""
    async with running(folder) as store:
        for number in range(count):
            store.put_soon(packet(number))
        await until(lambda: store.stats().pending == 0)
    return (folder / DATABASE).read_bytes()


async def assert_works_from_memory(store: PacketStore, reason: str) -> None:
    """It takes and serves packets at once, and says what is wrong."""
    with trio.fail_after(30):
        assert await store.put_if_newer(packet(7001, 5)) == packet(7001, 5)
        assert await store.put_if_newer(packet(7001, 4)) == packet(7001, 5)
        store.put_soon(packet(7002))
        assert await store.get(key(7001)) == packet(7001, 5)
        assert await store.get(key(7002)) == packet(7002)
        assert await store.get(key(7003)) is None
    health = store.health()
    assert not health.ok
    assert health.reason is not None
    assert reason in health.reason


# ------------------------------------------------------------------------------- a full disk


@contextmanager
def file_size_limit(limit: int) -> Iterator[Callable[[], None]]:
    """Refuse writes beyond `limit` bytes of a file; Python ignores the signal that goes with it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def lift() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield lift
    finally:
        lift()


async def test_where_a_file_may_not_grow_it_goes_on_and_catches_up(tmp_path):
    await fill(tmp_path, 10)
    async with running(tmp_path) as store:
        assert await loaded(store) == 10
        with file_size_limit(200_000) as lift:
            with trio.fail_after(20):
                for number in range(10, 1000):
                    await store.put_if_newer(packet(number))
            await assert_works_from_memory(store, str(tmp_path / DATABASE))
            assert store.stats().pending > 500
            lift()
        await until(lambda: store.health().ok and store.stats().pending == 0)
        assert await store.put_if_newer(packet(1, 2)) == packet(1, 2)
    async with running(tmp_path) as store:
        assert await loaded(store) == 1002
        assert await store.get(key(1)) == packet(1, 2)
        assert await store.get(key(999)) == packet(999)


@contextmanager
def small_disk(mebibytes: int) -> Iterator[Path]:
    """Mount a disk of our own; to be refused that is a failure, not a reason to test less."""
    folder = Path(tempfile.mkdtemp(prefix="pkarr-full-"))
    command = ("mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "pkarr-full", folder)
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        folder.rmdir()
        pytest.fail(
            "this test needs the right to mount a tmpfs (root, and in a container also"
            f" CAP_SYS_ADMIN): {mounted.stderr.strip()}"
        )
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
        folder.rmdir()


@pytest.fixture(params=["mounted", "limited"])
def full_disk(request, tmp_path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """Give a folder on a disk of about 1 MiB that is full, and a way to make room."""
    if request.param == "limited":
        with file_size_limit(4096) as lift:
            yield tmp_path / "cache", lift
        return
    with small_disk(2) as folder:
        ballast = folder / "ballast"
        with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            file.writelines(bytes(4096) for _ in range(1024))
        yield folder / "cache", ballast.unlink


async def test_on_a_full_disk_it_starts_from_memory_and_catches_up(full_disk, caplog):
    folder, make_room = full_disk
    async with running(folder) as store:
        await assert_works_from_memory(store, str(folder))
        assert len([entry for entry in caplog.records if entry.levelno >= logging.ERROR]) == 1
        make_room()
        await until(lambda: store.health().ok and store.stats().pending == 0)
        assert not await loaded(store) < 2
    async with running(folder) as store:
        assert await loaded(store) == 2
        assert await store.get(key(7001)) == packet(7001, 5)


async def test_a_full_disk_while_closing_does_not_hold_it_up(tmp_path, caplog):
    async with running(tmp_path) as store:
        await loaded(store)
        with file_size_limit(4096):
            await store.put_if_newer(packet(1))
            with trio.fail_after(30):
                await store.close()
    assert "1 packets could not be written" in caplog.text


# ------------------------------------------------------- damaged, foreign, of another version


def is_text(file: Path) -> None:
    file.write_text("my notes\n" * 100)


def is_another_programs(file: Path) -> None:
    connection = sqlite3.connect(file)
    connection.executescript("CREATE TABLE bookmarks (url); INSERT INTO bookmarks VALUES ('x')")
    connection.close()


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (is_text, "is not a SQLite database"),
        (is_another_programs, "is a SQLite database of another program (tables: bookmarks)"),
    ],
)
async def test_a_file_that_is_not_ours_is_left_alone(tmp_path, caplog, prepare, reason):
    file = tmp_path / DATABASE
    prepare(file)
    before = file.read_bytes()
    async with running(tmp_path) as store:
        await assert_works_from_memory(store, reason)
        assert store.stats().pending == 0, "nothing waits for a disk that will not come"
        store.save_nodes([(bytes(20), "192.0.2.1", 6881)])
    assert file.read_bytes() == before
    assert {entry.name for entry in tmp_path.iterdir()} == {DATABASE, "pkarr-relay.lock"}
    assert reason in caplog.text
    assert "nothing in it is changed" in caplog.text


async def test_a_file_damaged_in_the_middle_is_noticed_and_left_as_it_is(tmp_path):
    octets = bytearray(await fill(tmp_path, 2000))
    third = len(octets) // 3 // 4096 * 4096
    octets[third : 2 * third] = b"\xee" * third
    file = tmp_path / DATABASE
    file.write_bytes(octets)
    async with running(tmp_path) as store:
        await until(lambda: not store.health().ok)
        await assert_works_from_memory(store, "is damaged")
        await until(lambda: store.stats().pending == 0)
    assert file.read_bytes() == octets, "not even the log was folded into it"


async def test_a_file_cut_short_is_left_as_it_is(tmp_path):
    octets = await fill(tmp_path, 2000)
    file = tmp_path / DATABASE
    file.write_bytes(octets[: len(octets) // 2 // 4096 * 4096])
    before = file.read_bytes()
    async with running(tmp_path) as store:
        await until(lambda: not store.health().ok)
        await assert_works_from_memory(store, "is damaged")
    assert file.read_bytes() == before


PAGE = 4096
LEAF = 13  # of a table: https://www.sqlite.org/fileformat2.html, section 1.6
LOG_HEADER, FRAME_HEADER = 32, 24  # section 4.1
ROWS = 120


def turn(number: int, which: int, *, anew: bool) -> SeenPacket:
    """Make the packet of a turn; where its row is of another size its page is laid out anew."""
    chance = seeded((number, which))
    size = 100 + chance.randrange(800) if anew and which == 2 else 700
    while True:
        seen = packet(number, which, chance.randbytes(size))
        checksum = records.row(seen.packet.public_key.octets, records.encode(seen))[3]
        if anew or 2**23 <= checksum < 2**31:  # SQLite spends four bytes on these
            return seen


@dataclass
class TwoCommits:
    """A database before and after half of its packets were replaced by newer ones."""

    before: bytes
    after: bytes
    log: bytes
    """As it was at the second commit, not yet folded into the file."""
    old: list[SeenPacket]
    new: list[SeenPacket]

    def torn(self) -> Iterator[tuple[bytes, set[int]]]:
        """Tear each leaf that differs: its first half new, its second as it was before.

        Yields the file, and the numbers of the packets that the page had before or has now.
        """
        assert len(self.before) <= len(self.after)
        for at in range(PAGE, len(self.before), PAGE):
            was, now = self.before[at : at + PAGE], self.after[at : at + PAGE]
            if was != now and was[0] == now[0] == LEAF:
                half = at + PAGE // 2
                file = self.after[:half] + self.before[half : at + PAGE] + self.after[at + PAGE :]
                yield (
                    file,
                    {
                        number
                        for number, versions in enumerate(zip(self.old, self.new, strict=True))
                        if any(seen.packet.dns in was + now for seen in versions)
                    },
                )


@pytest.fixture
def two_commits(tmp_path, monkeypatch) -> Callable[..., Awaitable[TwoCommits]]:
    """Make a database and replace half of its packets, with or without other sizes."""
    folder = tmp_path / "whole"

    async def make(*, anew: bool) -> TwoCommits:
        new = [turn(number, 1, anew=anew) for number in range(ROWS)]
        async with running(folder) as store:
            for seen in new:
                store.put_soon(seen)
            await until(lambda: store.stats().pending == 0)
        old, before = list(new), (folder / DATABASE).read_bytes()
        async with running(folder) as store:
            assert await loaded(store) == ROWS
            for number in sorted(seeded("replaced").sample(range(ROWS), ROWS // 2)):
                new[number] = turn(number, 2, anew=anew)
                await store.put_if_newer(new[number])
            assert (folder / DATABASE).read_bytes() == before
            log = (folder / (DATABASE + "-wal")).read_bytes()
        copy = left_behind(tmp_path / "folded", before, log) / DATABASE
        with closing(sqlite3.connect(copy)) as connection:  # the last to close folds the log away
            connection.execute("SELECT count(*) FROM packets").fetchone()
        return TwoCommits(before, copy.read_bytes(), log, old, new)

    # After the load the writer would fold the log away as well, sooner or later.
    monkeypatch.setattr(PacketCache, "shrink", lambda cache: False)
    return make


def left_behind(folder: Path, file: bytes, log: bytes = b"") -> Path:
    """Make a cache folder as it is found after a crash."""
    folder.mkdir()
    (folder / DATABASE).write_bytes(file)
    if log:
        (folder / (DATABASE + "-wal")).write_bytes(log)
    return folder


async def served(store: PacketStore) -> list[SeenPacket | None]:
    """Load what can be loaded, and ask for everything."""
    await until(lambda: not store.stats().loading or not store.health().ok)
    return [await store.get(key(number)) for number in range(ROWS)]


@pytest.mark.slow
@pytest.mark.parametrize("anew", [False, True], ids=["in place", "laid anew"])
async def test_of_a_torn_page_nothing_wrong_is_served(tmp_path, caplog, two_commits, anew):
    """A disk that tore a page and lost the log, against what it had said to have written.

    SQLite has no checksums of pages; rows have. Rewritten in place, a row across the tear is left
    out and counted, and one behind it is as it was before. Laid out anew, a row may also be gone
    that nobody counts; where ids are out of order nobody can tell what there is, and the file
    is left to the operator, as any that is damaged.
    """
    caplog.set_level(logging.INFO)
    commits = await two_commits(anew=anew)
    spoiled = damaged = 0
    for place, (file, concerned) in enumerate(commits.torn()):
        caplog.clear()
        async with running(left_behind(tmp_path / str(place), file)) as store:
            found = await served(store)
            for seen, old, new in zip(found, commits.old, commits.new, strict=True):
                assert seen in (None, old, new)
            if store.health().ok:
                others = set(range(ROWS)) - concerned
                assert [found[number] for number in others] == [commits.new[n] for n in others]
                bad, missing = store.stats().bad_rows, found.count(None)
                spoiled += bad
                assert bad <= missing if anew else bad == missing
                assert f"{ROWS - missing} packets loaded" in caplog.text
                assert f"{bad} spoiled rows left out" in caplog.text
                continue
            damaged += 1
            with (
                Inspector(tmp_path / str(place) / DATABASE) as inspector,
                pytest.raises(DatabaseFaultError, match="is damaged"),
            ):
                list(inspector.rows("packets"))
            await assert_works_from_memory(store, "is damaged")
        assert (tmp_path / str(place) / DATABASE).read_bytes() == file
    assert damaged if anew else spoiled and not damaged


async def test_a_page_torn_while_the_log_is_folded_away_costs_nothing(tmp_path, two_commits):
    """As a crash tears it: the log is given up only once the file is on the disk."""
    commits = await two_commits(anew=True)
    for place, (file, _) in enumerate(commits.torn()):
        async with running(left_behind(tmp_path / str(place), file, commits.log)) as store:
            assert await served(store) == commits.new
            assert store.health().ok
            assert store.stats().bad_rows == 0


@pytest.mark.parametrize("frames_lost", [1, 7])
@pytest.mark.parametrize("how", ["cut", "spoiled"])
async def test_a_torn_log_is_good_up_to_the_tear(tmp_path, two_commits, how, frames_lost):
    """Frames have checksums: packets of those before the first wrong one are there.

    A crash tears the last frame alone, of a commit that was not acknowledged. What a disk lost
    of others is lost, for SQLite without a trace: this is where the log seems to end.
    """
    commits = await two_commits(anew=False)
    size = FRAME_HEADER + PAGE
    frames, rest = divmod(len(commits.log) - LOG_HEADER, size)
    replaced = [n for n in range(ROWS) if commits.old[n] != commits.new[n]]
    assert (frames, rest) == (len(replaced), 0), "a frame for each"
    chance = seeded((how, frames_lost))
    at = len(commits.log) - frames_lost * size + chance.randrange(size)
    log = commits.log[:at]
    if how == "spoiled":
        log += bytes([commits.log[at] ^ 1 << chance.randrange(8)]) + commits.log[at + 1 :]
    kept = set(replaced[:-frames_lost])
    there = [commits.new[n] if n in kept else commits.old[n] for n in range(ROWS)]
    folder = left_behind(tmp_path / "torn", commits.before, log)
    async with running(folder) as store:
        assert await served(store) == there
        assert store.health().ok
        await store.put_if_newer(packet(ROWS))
    async with running(folder) as store:
        assert await served(store) == there
        assert await store.get(key(ROWS)) == packet(ROWS)


async def test_a_damaged_log_costs_what_was_in_it_alone(tmp_path):
    """SQLite ignores a log from the first frame on whose checksum is wrong."""
    await fill(tmp_path, 10)
    (tmp_path / (DATABASE + "-wal")).write_bytes(seeded("log").randbytes(100_000))
    async with running(tmp_path) as store:
        assert await loaded(store) == 10
        assert store.health().ok


# ------------------------------------------------------------------- reads fail, writes do not


@pytest.fixture
def unreadable(monkeypatch) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Have the reader's connection fail for a while, as of a disk with a bad block."""

    def broken(*_: object) -> None:
        raise DatabaseFaultError("the disk cannot be read", heals=True)

    @contextmanager
    def unreadable_for_a_while() -> Iterator[None]:
        with monkeypatch.context() as patch:
            for name in ("__init__", "has_floors", "read", "load", "latest_us"):
                patch.setattr(PacketReader, name, broken)
            yield

    return unreadable_for_a_while


async def purged(folder: Path, *numbers: int, timestamp_us: int = 5) -> None:
    """Leave floors on the disk that a store which starts there has not in memory."""
    async with running(folder) as store:
        for number in numbers:
            await store.put_if_newer(packet(number, timestamp_us))
            assert store.upkeep is not None
            await store.upkeep.purge(key(number))


async def test_where_reads_fail_the_writer_looks_whether_there_is_a_floor(tmp_path, unreadable):
    await purged(tmp_path, *range(1, 6))
    async with running(tmp_path) as store:
        assert await loaded(store) == 0
        with unreadable():
            for number in (1, 2, 3):  # the first of them finds out that reads fail
                with pytest.raises(NotMostRecentError):
                    await store.put_if_newer(packet(number, 4))
                assert store.lookup(key(number)) is None
            assert store.health().reason == "the disk cannot be read"
            store.put_soon(packet(4, 4))
            await until(lambda: store.floor_us(key(4)) == 5)
            assert await store.put_if_newer(packet(5, 6)) == packet(5, 6)
            assert await store.put_if_newer(packet(6, 1)) == packet(6, 1)
        await until(lambda: store.health().ok and not store.stats().loading)
        assert store.stats().packets == 2
    assert stored_elsewhere(tmp_path, tmp_path / "copy") == {5, 6}
    async with running(tmp_path) as store:
        for number, timestamp_us in ((1, 4), (4, 4)):
            with pytest.raises(NotMostRecentError):
                await store.put_if_newer(packet(number, timestamp_us))


async def test_where_reads_fail_from_the_start_nothing_newer_on_the_disk_is_overwritten(
    tmp_path, unreadable
):
    async with running(tmp_path) as store:
        await store.put_if_newer(packet(1, 5))
        await store.put_if_newer(packet(2, 5))
    with unreadable():
        async with running(tmp_path, 1) as store:
            await until(lambda: not store.health().ok)
            assert await store.put_if_newer(packet(1, 4)) == packet(1, 5)
            assert store.lookup(key(1)) == packet(1, 5)
            assert store.upkeep is not None
            with pytest.raises(StoreError, match="cannot be read"):
                await store.upkeep.purge(key(2))
            with pytest.raises(StoreError, match="cannot be read"):
                await store.upkeep.take_in([packet(2, 4)])
    async with running(tmp_path) as store:
        assert await store.get(key(1)) == packet(1, 5)
        assert await store.get(key(2)) == packet(2, 5)


async def test_a_cache_that_keeps_nothing_lowers_no_floor_where_reads_fail(tmp_path, unreadable):
    await purged(tmp_path, 1)
    async with running(tmp_path, 0) as store:
        await loaded(store)
        with unreadable():
            for _ in range(2):
                with pytest.raises(NotMostRecentError):
                    await store.put_if_newer(packet(1, 4))
    async with running(tmp_path) as store:
        assert await store.get(key(1)) is None
        assert store.floor_us(key(1)) == 5


class SlowDisk:
    """Commits that wait until they are let through; `begun` is what was in those, and if unsure."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun: list[tuple[set[bytes], bool]] = []
        self._gates: list[threading.Event] = []
        commit = PacketCache.commit

        def slow(cache: PacketCache, changes: Changes, now_us: int) -> Found:
            gate = threading.Event()
            self._gates.append(gate)
            self.begun.append((set(changes.records), changes.unsure))
            assert gate.wait(20)
            return commit(cache, changes, now_us)

        monkeypatch.setattr(PacketCache, "commit", slow)

    def let_through(self, number: int) -> None:
        """Let the commit with that number, from 0, go on."""
        self._gates[number].set()


async def test_nobody_waits_for_a_group_when_the_disk_has_better(
    tmp_path, unreadable, monkeypatch, nursery
):
    """A PUT whose packet is dropped while it waits for the group after the present one."""
    async with running(tmp_path) as store:
        await store.put_if_newer(packet(1, 9))
    with unreadable():
        async with running(tmp_path) as store:
            await until(lambda: not store.health().ok)
            disk = SlowDisk(monkeypatch)
            store.put_soon(packet(1, 4))
            await until(lambda: len(disk.begun) == 1)
            told: list[SeenPacket] = []

            async def put() -> None:
                told.append(await store.put_if_newer(packet(1, 5)))

            nursery.start_soon(put)
            await trio.testing.wait_all_tasks_blocked()
            disk.let_through(0)
            await until(lambda: told == [packet(1, 9)])
            assert len(disk.begun) == 1
            monkeypatch.undo()


async def test_a_floor_set_while_a_higher_one_is_read_does_not_replace_it(
    tmp_path, unreadable, monkeypatch, nursery
):
    await purged(tmp_path, 1, timestamp_us=9)
    async with running(tmp_path) as store:
        await loaded(store)
        with unreadable():
            disk = SlowDisk(monkeypatch)
            store.put_soon(packet(2, 1))
            await until(lambda: len(disk.begun) == 1)
            await store.get(key(3))
            await until(lambda: not store.health().ok)
            store.put_soon(packet(1, 4))  # with nothing to compare it with
        await until(lambda: store.health().ok and not store.stats().loading)
        disk.let_through(0)
        await until(lambda: len(disk.begun) == 2)
        assert disk.begun[1] == ({key(1).octets}, True)
        assert store.upkeep is not None
        nursery.start_soon(store.upkeep.purge, key(1))  # as an eviction would
        await trio.testing.wait_all_tasks_blocked()
        disk.let_through(1)
        await until(lambda: len(disk.begun) == 3)
        disk.let_through(2)
        await until(lambda: store.stats().pending == 0)
        monkeypatch.undo()
    async with running(tmp_path) as store:
        with pytest.raises(NotMostRecentError):
            await store.put_if_newer(packet(1, 6))


async def test_a_commit_that_began_before_reads_failed_ends_no_doubt(
    tmp_path, unreadable, monkeypatch, nursery
):
    await purged(tmp_path, 1, timestamp_us=9)
    async with running(tmp_path) as store:
        await loaded(store)
        disk = SlowDisk(monkeypatch)
        store.put_soon(packet(2, 1))
        await until(lambda: len(disk.begun) == 1)
        refused: list[bool] = []

        async def put() -> None:
            with pytest.raises(NotMostRecentError):
                await store.put_if_newer(packet(1, 4))
            refused.append(True)

        with unreadable():
            await store.get(key(3))
            await until(lambda: not store.health().ok)
            nursery.start_soon(put)
            await trio.testing.wait_all_tasks_blocked()
        await until(lambda: store.health().ok and not store.stats().loading)
        disk.let_through(0)
        await until(lambda: len(disk.begun) == 2)
        disk.let_through(1)
        await until(lambda: refused == [True])
        monkeypatch.undo()


async def test_what_was_taken_while_reads_failed_is_compared_whenever_it_is_written(
    tmp_path, unreadable, monkeypatch
):
    """Nothing could be written either, and reads come back first."""
    monkeypatch.setattr("relay.store.database._BUSY_TIMEOUT_S", 0.01)
    await purged(tmp_path, 1, 2)
    async with running(tmp_path) as store:
        await loaded(store)
        with closing(sqlite3.connect(tmp_path / DATABASE, isolation_level=None)) as shell:
            shell.execute("BEGIN IMMEDIATE")
            with unreadable():
                assert await store.put_if_newer(packet(1, 4)) == packet(1, 4)
                assert await store.put_if_newer(packet(2, 6)) == packet(2, 6)
            await until(lambda: not store.stats().loading and store._loader.fault is None)
            assert not store.health().ok
            shell.execute("ROLLBACK")
        await until(lambda: store.health().ok and store.stats().pending == 0)
        assert await store.get(key(1)) is None
        assert store.floor_us(key(1)) == 5
        assert await store.get(key(2)) == packet(2, 6)
        assert not store._writer.in_doubt, "all has been compared"
    assert stored_elsewhere(tmp_path, tmp_path / "copy") == {2}


# ---------------------------------------------------------------------------------- read-only


@pytest.fixture
def as_nobody(tmp_path) -> Iterator[Path]:
    """Give a folder, and run without the right of root to write whatever it likes."""
    folder = Path(tempfile.mkdtemp(prefix="pkarr-read-only-"))
    owner = os.geteuid()
    if owner == 0:
        os.chown(folder, NOBODY, -1)
        os.seteuid(NOBODY)
    try:
        yield folder
    finally:
        os.seteuid(owner)
        folder.chmod(0o700)
        shutil.rmtree(folder)


async def test_a_read_only_folder_is_read_and_written_when_it_can_be(as_nobody):
    before = await fill(as_nobody, 50)
    as_nobody.chmod(0o500)
    async with running(as_nobody) as store:
        assert await loaded(store) == 50
        await assert_works_from_memory(store, str(as_nobody))
        assert (as_nobody / DATABASE).read_bytes() == before
        as_nobody.chmod(0o700)
        await until(lambda: store.health().ok and store.stats().pending == 0)
        assert await store.put_if_newer(packet(1, 3)) == packet(1, 3)
    async with running(as_nobody) as store:
        assert await loaded(store) == 52
        assert await store.get(key(1)) == packet(1, 3)


async def test_a_read_only_file_is_read_and_written_when_it_can_be(as_nobody):
    before = await fill(as_nobody, 50)
    file = as_nobody / DATABASE
    file.chmod(0o400)
    async with running(as_nobody) as store:
        assert await loaded(store) == 50
        await assert_works_from_memory(store, str(file))
        assert file.read_bytes() == before
        file.chmod(0o600)
        await until(lambda: store.health().ok and store.stats().pending == 0)
    async with running(as_nobody) as store:
        assert await loaded(store) == 52


async def test_a_folder_that_cannot_be_made_is_made_when_it_can_be(as_nobody):
    as_nobody.chmod(0o500)
    folder = as_nobody / "cache"
    async with running(folder) as store:
        await assert_works_from_memory(store, str(folder))
        as_nobody.chmod(0o700)
        await until(lambda: store.health().ok and store.stats().pending == 0)
    async with running(folder) as store:
        assert await loaded(store) == 2


@pytest.fixture
def unmounted(tmp_path) -> tuple[Path, Callable[[Path], object]]:
    """Give a cache folder that is not there, and a way to put a folder in its place at once."""
    volume = tmp_path / "volume"
    (tmp_path / "cache").symlink_to(volume)
    return tmp_path / "cache", lambda folder: folder.rename(volume)


async def test_a_database_that_appears_later_is_not_downgraded(unmounted, tmp_path):
    """As when a volume is mounted late: the disk holds newer packets than memory."""
    folder, mount = unmounted
    await fill(tmp_path / "elsewhere", 5)
    async with running(tmp_path / "elsewhere") as store:
        await store.put_if_newer(packet(1, 9))
    async with running(folder) as store:
        await store.put_if_newer(packet(1, 8))
        await store.put_if_newer(packet(2, 8))
        await assert_works_from_memory(store, str(folder))
        mount(tmp_path / "elsewhere")
        await until(lambda: store.health().ok and store.stats().pending == 0)
        assert await loaded(store) == 7
        assert await store.get(key(1)) == packet(1, 9)
    async with running(folder) as store:
        assert await store.get(key(1)) == packet(1, 9)
        assert await store.get(key(2)) == packet(2, 8)


# ----------------------------------------------------------------------------- somebody else's

HOLDER = """
import fcntl, os, sys
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
file.write(str(os.getpid()))
file.flush()
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held_by_another_process(folder: Path) -> Iterator[int]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, folder / "pkarr-relay.lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process.pid


async def test_a_folder_in_use_is_refused(tmp_path):
    await fill(tmp_path, 1)
    with held_by_another_process(tmp_path) as holder:
        with pytest.raises(StoreError) as refusal:
            PacketStore(tmp_path, 10, lambda: NOW_US).open()
        assert str(refusal.value) == (
            f"another relay (process {holder}) is using the cache folder {tmp_path}"
        )
    async with running(tmp_path) as store:
        assert await loaded(store) == 1


async def test_a_folder_taken_while_it_could_not_be_used_is_left_to_the_other(unmounted, tmp_path):
    folder, mount = unmounted
    (tmp_path / "elsewhere").mkdir()
    with held_by_another_process(tmp_path / "elsewhere"):
        async with running(folder) as store:
            await store.put_if_newer(packet(1))
            mount(tmp_path / "elsewhere")
            await until(lambda: "another relay" in str(store.health().reason))
            await assert_works_from_memory(store, "is using the cache folder")
    assert not (folder / DATABASE).exists()


async def test_a_person_with_the_database_open_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("relay.store.database._BUSY_TIMEOUT_S", 0.01)
    async with running(tmp_path) as store:
        await loaded(store)
        shell = sqlite3.connect(tmp_path / DATABASE, isolation_level=None)
        shell.execute("BEGIN IMMEDIATE")
        await store.put_if_newer(packet(1))
        await assert_works_from_memory(store, "another program keeps it locked")
        shell.execute("COMMIT")
        shell.close()
        await until(lambda: store.health().ok and store.stats().pending == 0)
    async with running(tmp_path) as store:
        assert await loaded(store) == 3


async def test_a_database_deleted_under_it_is_made_anew_with_all_packets(tmp_path, monkeypatch):
    monkeypatch.setattr("relay.store.database._BUSY_TIMEOUT_S", 0.01)
    await fill(tmp_path, 20)
    async with running(tmp_path) as store:
        assert await loaded(store) == 20
        shell = sqlite3.connect(tmp_path / DATABASE, isolation_level=None)
        shell.execute("BEGIN IMMEDIATE")
        await store.put_if_newer(packet(1, 2))
        assert not store.health().ok
        shell.execute("COMMIT")
        shell.close()
        for suffix in ("", "-wal", "-shm"):
            (tmp_path / (DATABASE + suffix)).unlink(missing_ok=True)
        await until(lambda: store.health().ok and store.stats().pending == 0)
    async with running(tmp_path) as store:
        assert await loaded(store) == 20
        assert await store.get(key(1)) == packet(1, 2)


LOOKER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
print(connection.execute("SELECT count(*) FROM packets").fetchone()[0])
connection.close()
"""


async def test_a_person_who_looks_into_the_file_leaves_it_as_it_is(tmp_path):
    """Other programs find the file locked: the last to leave would fold the log away."""
    async with running(tmp_path) as store:
        await store.put_if_newer(packet(1))
        looker = (sys.executable, "-c", LOOKER, tmp_path / DATABASE)
        done = await trio.run_process(looker, capture_stdout=True)
        assert done.stdout == b"1\n"
        await store.put_if_newer(packet(2))
        assert stored_elsewhere(tmp_path, tmp_path / "copy") == {1, 2}
        assert store.health().ok


def stored_elsewhere(folder: Path, copy: Path) -> set[int]:
    """Read which packets somebody finds who starts from the files alone."""
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for suffix in ("", "-wal"):
        source = folder / (DATABASE + suffix)
        if source.exists():
            shutil.copyfile(source, copy / (DATABASE + suffix))
    with closing(sqlite3.connect(copy / DATABASE)) as connection:
        rows = connection.execute("SELECT key FROM packets").fetchall()
    return {int.from_bytes(key, "big") for (key,) in rows}


def remove(folder: Path, *suffixes: str) -> None:
    for suffix in suffixes:
        (folder / (DATABASE + suffix)).unlink()


def replace_by_another(folder: Path) -> None:
    """Put there what another relay has left, of which one packet is newer than ours."""
    shutil.copyfile(folder.parent / "other" / DATABASE, folder / "incoming")
    (folder / "incoming").rename(folder / DATABASE)


def move_away(folder: Path) -> None:
    folder.rename(folder.with_name("moved"))


class Watch(trio.abc.Instrument):
    """Notes all that a store's `health` would have told whoever asked, whenever he asked."""

    def __init__(self, store: PacketStore) -> None:
        self.reasons: list[str | None] = []
        self._store = store

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        reason = self._store.health().reason
        if [reason] != self.reasons[-1:]:
            self.reasons.append(reason)


@contextmanager
def watched(store: PacketStore) -> Iterator[Watch]:
    watch = Watch(store)
    trio.lowlevel.add_instrument(watch)
    try:
        yield watch
    finally:
        trio.lowlevel.remove_instrument(watch)


LOSSES = {
    "file": lambda folder: remove(folder, ""),
    "all files": lambda folder: remove(folder, "", "-wal", "-shm"),
    "log": lambda folder: remove(folder, "-wal"),
    "index": lambda folder: remove(folder, "-shm"),
    "log and index": lambda folder: remove(folder, "-wal", "-shm"),
    "replaced": replace_by_another,
    "folder": shutil.rmtree,
    "folder moved": move_away,
    "lock": lambda folder: (folder / "pkarr-relay.lock").unlink(),
}


@pytest.mark.slow
@pytest.mark.parametrize("idle", [True, False], ids=["idle", "busy"])
@pytest.mark.parametrize("loss", LOSSES)
async def test_files_lost_under_it_are_made_anew_with_all_packets(tmp_path, loss, idle):
    """What was acknowledged, before and after, is where the next start will look for it.

    Until it is there `health` tells what was lost.
    """
    folder = tmp_path / "cache"
    await fill(folder, 20)
    async with running(tmp_path / "other") as other:
        await other.put_if_newer(packet(3, 9))
        await other.put_if_newer(packet(4, 0))
    async with running(folder) as store:
        assert await loaded(store) == 20
        await store.put_if_newer(packet(1, 2))
        commits = store.stats().commits
        with watched(store) as watch:
            LOSSES[loss](folder)
            if not idle:
                await store.put_if_newer(packet(2, 2))
            await until(lambda: store.stats().commits > commits and store.stats().pending == 0)
            await until(lambda: len(watch.reasons) > 2 and not store.stats().loading)
        before, told, *_, after = watch.reasons  # not for long: all is made anew at once
        assert before is after is None
        assert "while it was in use" in str(told)
        await store.put_if_newer(packet(30))
        assert stored_elsewhere(folder, tmp_path / "copy") == {*range(20), 30}
        newest = packet(3, 9) if loss == "replaced" else packet(3)
        assert await store.get(key(3)) == newest
    with held_by_another_process(folder):  # the lock is there, and given up
        pass
    async with running(folder) as store:
        assert await loaded(store) == 21
        assert await store.get(key(1)) == packet(1, 2)
        assert await store.get(key(2)) == packet(2, 1 if idle else 2)
        assert await store.get(key(3)) == newest
        assert await store.get(key(4)) == packet(4)
        assert await store.get(key(30)) == packet(30)


async def test_files_lost_at_the_end_are_made_anew_too(tmp_path, monkeypatch):
    monkeypatch.setattr("relay.store.writer.LOOK_S", 60)
    await fill(tmp_path, 20)
    async with running(tmp_path) as store:
        assert await loaded(store) == 20
        remove(tmp_path, "")
        store.put_soon(packet(30))
    async with running(tmp_path) as store:
        assert await loaded(store) == 21


def put_by(folder: Path) -> None:
    """Move the database away, as who has read that it is of no use, and remove its log."""
    (folder / DATABASE).rename(folder / "for the operator")
    for suffix in ("-wal", "-shm"):
        (folder / (DATABASE + suffix)).unlink(missing_ok=True)


async def test_a_file_cut_short_under_it_is_noticed_and_written_anew_once_it_is_away(
    tmp_path, monkeypatch
):
    looks = 0

    def counted(path: Path) -> object:
        nonlocal looks
        looks += 1
        return state_of(path)

    monkeypatch.setattr("relay.store.writer.state_of", counted)
    await fill(tmp_path, 200)
    async with running(tmp_path) as store:
        assert await loaded(store) == 200
        path = tmp_path / DATABASE
        os.truncate(path, path.stat().st_size // 2)
        await until(lambda: not store.health().ok)
        await assert_works_from_memory(store, "nothing in it is changed")
        cut = path.read_bytes()
        before = looks
        await until(lambda: looks > before + 3)
        assert path.read_bytes() == cut
        put_by(tmp_path)
        await until(lambda: store.health().ok and store.stats().pending == 0)
        assert stored_elsewhere(tmp_path, tmp_path / "copy") == {*range(200), 7001, 7002}
    assert (tmp_path / "for the operator").read_bytes() == cut


async def test_a_file_moved_away_as_soon_as_it_is_told_of_is_missed(tmp_path, monkeypatch):
    """Who is quicker than the writer, which has to close the file first, is noticed as well."""
    away, close = tmp_path / "for the operator", PacketCache.close

    def close_late(cache: PacketCache) -> None:
        if not away.exists():
            put_by(tmp_path)
        close(cache)

    await fill(tmp_path, 200)
    async with running(tmp_path) as store:
        assert await loaded(store) == 200
        monkeypatch.setattr(PacketCache, "close", close_late)
        os.truncate(tmp_path / DATABASE, (tmp_path / DATABASE).stat().st_size // 2)
        await until(away.exists)
        await until(lambda: store.health().ok and store.stats().pending == 0)
        assert stored_elsewhere(tmp_path, tmp_path / "copy") == set(range(200))


async def test_a_damaged_file_that_is_replaced_is_used_without_a_restart(tmp_path):
    good = await fill(tmp_path / "good", 20)
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / DATABASE).write_bytes(b"this is no database" * 100)
    async with running(folder) as store:
        await assert_works_from_memory(store, "is not a SQLite database")
        (folder / DATABASE).write_bytes(good)  # in place: the same file to the kernel
        await until(lambda: store.health().ok and store.stats().pending == 0)
        assert await loaded(store) == 22
        assert stored_elsewhere(folder, tmp_path / "copy") == {*range(20), 7001, 7002}
