"""What operators do to a store, and that it is the same whether a relay runs on it or not."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
import trio
import trio.testing

from relay.errors import NotMostRecentError, StoreError
from relay.pkarr.keys import PublicKey
from relay.pkarr.packet import SeenPacket
from relay.store.database import DATABASE_FILE
from relay.store.floors import FLOOR_LIFE_US
from relay.store.found import Found
from relay.store.lock import LOCK_FILE, FolderTakenError
from relay.store.offline import OfflineStore, Outcome
from relay.store.packets import Changes, PacketCache
from relay.store.reader import PacketReader, Piece
from relay.store.upkeep import Upkeep
from relay.store.worker import PacketStore

NOW_US = 1_750_000_000_000_000


def key(number: int) -> PublicKey:
    return PublicKey(number.to_bytes(32, "big"))


@asynccontextmanager
async def running(
    folder: Path | None, capacity: int = 1000, now_us: int = NOW_US
) -> AsyncIterator[PacketStore]:
    store = PacketStore(folder, capacity, lambda: now_us)
    store.open()
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        yield store
        await store.close()


async def until(condition: Callable[[], bool]) -> None:
    """Let the store's tasks and threads go on until something is so."""
    with trio.fail_after(20):
        while not condition():
            await trio.testing.wait_all_tasks_blocked(0.001)


class RunningWay:
    """Every step in a relay of its own, so that only the disk carries over."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def take_in(self, *packets: SeenPacket, now_us: int = NOW_US) -> Sequence[Outcome]:
        async with running(self.folder, now_us=now_us) as store:
            assert store.upkeep is not None
            return await store.upkeep.take_in(packets)

    async def purge(self, number: int, now_us: int = NOW_US) -> SeenPacket | None:
        async with running(self.folder, now_us=now_us) as store:
            assert store.upkeep is not None
            return await store.upkeep.purge(key(number))


class OfflineWay:
    """The file alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def take_in(self, *packets: SeenPacket, now_us: int = NOW_US) -> Sequence[Outcome]:
        with OfflineStore(self.folder, 1000, create=True) as store:
            return store.take_in(packets, now_us)

    async def purge(self, number: int, now_us: int = NOW_US) -> SeenPacket | None:
        with OfflineStore(self.folder, 1000, create=True) as store:
            return store.purge(key(number), now_us)


@pytest.fixture(params=[RunningWay, OfflineWay])
def way(request, tmp_path):
    return request.param(tmp_path / "cache")


def rows(folder: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(folder / DATABASE_FILE)) as connection:
        return connection.execute(query).fetchall()


async def test_packets_get_in_by_the_cache_update_rule(way, packet):
    many = [packet(number, 5) for number in range(100, 400)]
    assert await way.take_in(packet(1, 5), packet(2, 5), *many) == ["stored"] * 302
    assert await way.take_in(
        packet(1, 4), packet(1, 5), packet(1, 6), packet(1, 5, seen_us=NOW_US - 9), packet(3)
    ) == ["older", "known", "stored", "older", "stored"]
    assert await way.take_in(packet(2, 5), packet(2, 5, seen_us=NOW_US + 1)) == ["known", "stored"]
    assert rows(way.folder, "SELECT count(*) FROM packets") == [(303,)]
    async with running(way.folder) as store:
        assert await store.get(key(1)) == packet(1, 6)
        assert await store.get(key(2)) == packet(2, 5, seen_us=NOW_US + 1)


async def test_a_purged_packet_leaves_its_floor(way, packet):
    await way.take_in(packet(1, 5), packet(2, 5))
    assert await way.purge(1) == packet(1, 5)
    assert await way.purge(1) is None
    assert await way.purge(9) is None
    assert rows(way.folder, "SELECT key FROM packets") == [(key(2).octets,)]
    assert await way.take_in(packet(1, 4)) == ["older"]
    async with running(way.folder) as store:
        assert await store.get(key(1)) is None
        assert store.floor_us(key(1)) == 5
        with pytest.raises(NotMostRecentError):
            await store.put_if_newer(packet(1, 4))
    assert await way.take_in(packet(1, 5)) == ["stored"], "the same one may come back"


async def test_a_floor_holds_for_its_time(way, packet):
    await way.take_in(packet(1, 5))
    await way.purge(1)
    later_us = NOW_US + FLOOR_LIFE_US
    assert await way.take_in(packet(1, 4), now_us=later_us) == ["stored"]


async def test_a_floor_set_while_the_clock_is_behind_holds_for_its_time(way, packet):
    behind_us = NOW_US - 2 * FLOOR_LIFE_US
    await way.take_in(packet(1, 5, seen_us=behind_us), packet(2, 5), now_us=behind_us)
    await way.purge(1, now_us=behind_us)
    await way.take_in(packet(3, 5))
    await way.purge(3)  # which drops floors whose time is over
    assert await way.take_in(packet(1, 4), packet(1, 5)) == ["older", "stored"]


async def test_purging_takes_it_out_of_memory_at_once(tmp_path, packet):
    async with running(tmp_path) as store:
        await store.put_if_newer(packet(1, 5))
        assert store.upkeep is not None
        await store.upkeep.purge(key(1))
        assert store.stats().packets == 0
        assert await store.get(key(1)) is None
        assert rows(tmp_path, "SELECT count(*) FROM packets") == [(0,)]
        await store.put_if_newer(packet(1, 6))
        assert await store.get(key(1)) == packet(1, 6)


@pytest.mark.parametrize("newest_us", [6, 5])
async def test_a_packet_published_while_its_key_is_purged_stays(
    tmp_path, packet, monkeypatch, newest_us
):
    """While the commit that takes the row is under way. No signature here is good."""
    gates = [threading.Event() for _ in range(3)]
    waiting: list[threading.Event] = []
    commit = PacketCache.commit

    def held_up(cache: PacketCache, changes: Changes, now_us: int) -> Found:
        if gates:
            waiting.append(gates.pop(0))
            assert waiting[-1].wait(20)
        return commit(cache, changes, now_us)

    with OfflineStore(tmp_path, 1000, create=True) as offline:
        offline.take_in([packet(1, 5)], NOW_US)
    monkeypatch.setattr(PacketCache, "commit", held_up)
    async with running(tmp_path) as store, trio.open_nursery() as nursery:
        upkeep = store.upkeep
        assert upkeep is not None
        for _ in range(2):
            nursery.start_soon(upkeep.purge, key(1))
            await until(lambda: bool(waiting))
            nursery.start_soon(store.put_if_newer, packet(1, newest_us, b"again"))
            await until(lambda: store.stats().pending == 1)
            waiting.pop().set()
        await until(lambda: bool(waiting))
        waiting.pop().set()
    assert rows(tmp_path, "SELECT count(*) FROM packets") == [(1,)]
    async with running(tmp_path) as store:
        assert await store.get(key(1)) == packet(1, newest_us, b"again")
        assert await store.put_if_newer(packet(1, 4)) == packet(1, newest_us, b"again")


async def test_to_purge_a_key_whose_row_is_spoiled_takes_no_floor_and_nothing_newer(way, packet):
    """Nobody can tell what the row was: it is as if it were not there, until a packet comes."""
    await way.take_in(packet(1, 5))
    await way.purge(1)
    await way.take_in(packet(1, 6))
    with closing(sqlite3.connect(way.folder / DATABASE_FILE)) as connection, connection:
        connection.execute("UPDATE packets SET checksum = checksum + 1")
    assert await way.purge(1) is None
    assert await way.take_in(packet(1, 4)) == ["older"]
    assert await way.take_in(packet(1, 7)) == ["stored"]
    assert await way.purge(1) == packet(1, 7)
    assert await way.take_in(packet(1, 6)) == ["older"]
    assert rows(way.folder, "SELECT count(*) FROM packets") == [(0,)]


async def test_purging_during_the_load_lets_nothing_come_back(tmp_path, packet, monkeypatch):
    """The row has been read, or will be, while its key is purged."""
    gate = threading.Event()
    load = PacketReader.load

    def held_up(reader: PacketReader) -> Iterator[Piece]:
        pieces = load(reader)
        yield next(pieces)
        read_before = next(pieces)
        while not gate.is_set():
            yield Piece()
        yield read_before
        yield from pieces

    monkeypatch.setattr(PacketReader, "load", held_up)
    with OfflineStore(tmp_path, 10_000, create=True) as offline:
        offline.take_in([packet(number, 5) for number in range(3000)], NOW_US)
    async with running(tmp_path, 10_000) as store:
        assert store.upkeep is not None
        for number in (0, 2999, 2300):
            assert await store.upkeep.purge(key(number)) == packet(number, 5)
        assert store.stats().loading
        gate.set()
        await until(lambda: not store.stats().loading)
        assert store.stats().packets == 2997
        for number in (0, 2999, 2300):
            assert await store.get(key(number)) is None
    assert rows(tmp_path, "SELECT count(*) FROM packets") == [(2997,)]


async def test_a_purge_overtakes_a_write_under_way(tmp_path, packet):
    async with running(tmp_path) as store, trio.open_nursery() as nursery:
        assert store.upkeep is not None
        for _ in range(20):
            nursery.start_soon(store.put_if_newer, packet(1, 5))
            await trio.lowlevel.checkpoint()
            await store.upkeep.purge(key(1))
    async with running(tmp_path) as store:
        seen = await store.get(key(1))
        assert seen is None or seen == packet(1, 5)
        assert rows(tmp_path, "SELECT count(*) FROM packets") == [(int(seen is not None),)]


async def test_nothing_is_acknowledged_while_the_disk_fails(tmp_path, packet):
    async with running(tmp_path) as store:
        upkeep = store.upkeep
        assert upkeep is not None
        await store.put_if_newer(packet(1, 5))
        with closing(sqlite3.connect(tmp_path / DATABASE_FILE)) as intruder:
            intruder.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreError, match="locked"):
                await upkeep.take_in([packet(2, 5)])
            with pytest.raises(StoreError, match="locked"):
                await upkeep.purge(key(1))
            assert store.lookup(key(1)) is None
            intruder.execute("ROLLBACK")
        await until(lambda: store.health().ok)
        assert await upkeep.take_in([packet(2, 5)]) == ["known"]
        assert rows(tmp_path, "SELECT key FROM packets") == [(key(2).octets,)]


async def test_a_cache_of_no_size_takes_nothing(tmp_path, packet):
    async with running(tmp_path, 0) as store:
        assert store.upkeep is not None
        with pytest.raises(StoreError, match="size is 0"):
            await store.upkeep.take_in([packet(1)])
    with (
        OfflineStore(tmp_path, 0, create=True) as offline,
        pytest.raises(StoreError, match="size is 0"),
    ):
        offline.take_in([packet(1)], NOW_US)


async def test_there_is_no_hand_on_a_memory_or_a_foreign_folder(tmp_path):
    async with running(None) as store:
        assert store.upkeep is None
    (tmp_path / "file").write_text("")
    async with running(tmp_path / "file") as store:
        assert store.upkeep is None
    async with running(tmp_path) as store:
        assert isinstance(store.upkeep, Upkeep)
        assert store.upkeep.path == tmp_path / DATABASE_FILE


async def test_the_folder_belongs_to_one(tmp_path):
    async with running(tmp_path):
        with pytest.raises(FolderTakenError, match="another relay"):
            OfflineStore(tmp_path, 10, create=False)
    with OfflineStore(tmp_path, 10, create=False), pytest.raises(StoreError, match="another"):
        PacketStore(tmp_path, 10, lambda: NOW_US).open()


def test_nothing_is_made_unless_asked_for(tmp_path):
    with pytest.raises(StoreError, match="no database"):
        OfflineStore(tmp_path, 10, create=False)
    with pytest.raises(StoreError, match="no database"):
        OfflineStore(tmp_path / "missing", 10, create=False)
    assert list(tmp_path.iterdir()) == []


def test_root_leaves_the_files_to_the_folders_owner(tmp_path, packet, monkeypatch):
    given = []
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("os.chown", lambda *call, **how: given.append((call, how)))
    with OfflineStore(tmp_path, 10, create=True) as store:
        store.take_in([packet(1)], NOW_US)
    owner = tmp_path.stat()
    assert given == [
        ((tmp_path / name, owner.st_uid, owner.st_gid), {"follow_symlinks": False})
        for name in (LOCK_FILE, DATABASE_FILE)
    ]


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / LOCK_FILE).symlink_to(victim)
    with pytest.raises(StoreError):
        OfflineStore(folder, 10, create=True)
    assert victim.read_text() == "precious"
