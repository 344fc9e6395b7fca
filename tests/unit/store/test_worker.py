"""The packet store as the relay uses it: tasks, threads and a healthy disk."""

import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from relay.errors import NotMostRecentError, StoreError
from relay.pkarr.keys import PublicKey
from relay.store.floors import FLOOR_LIFE_US
from relay.store.packets import PacketCache
from relay.store.reader import PacketReader, Piece
from relay.store.worker import NOT_LOADED, PacketStore, StoreHealth

NOW_US = 1_750_000_000_000_000


def key(number: int) -> PublicKey:
    return PublicKey(number.to_bytes(32, "big"))


async def until(condition: Callable[[], bool]) -> None:
    """Let the store's tasks and threads go on until something is so.

    Some tests have one that is never blocked for long.
    """
    with trio.fail_after(10):
        while not condition():
            with trio.move_on_after(0.01):
                await trio.testing.wait_all_tasks_blocked(0.001)


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


async def loaded(store: PacketStore) -> None:
    await until(lambda: not store.stats().loading)


async def present(store: PacketStore, *numbers: int) -> set[int]:
    return {number for number in numbers if await store.get(key(number)) is not None}


async def test_packets_are_there_after_a_restart(tmp_path, packet):
    folder = tmp_path / "made" / "as needed"
    async with running(folder) as store:
        for number in range(20):
            seen = packet(number, 2**64 - 1 - number, bytes(number))
            assert await store.put_if_newer(seen) == seen
        assert store.stats().pending == 0
        assert store.health() == StoreHealth(True)
    async with running(folder) as store:
        for number in range(20):
            seen = packet(number, 2**64 - 1 - number, bytes(number))
            assert await store.get(key(number)) == seen
        await loaded(store)
        assert store.stats().packets == 20
        assert await store.get(key(99)) is None


async def test_the_acknowledgement_comes_after_the_commit(tmp_path, packet, monkeypatch):
    committed: list[set[bytes]] = []
    commit = PacketCache.commit

    def recorded(self, changes, now_us):
        kept = commit(self, changes, now_us)
        committed.append(set(changes.records))
        return kept

    monkeypatch.setattr(PacketCache, "commit", recorded)
    async with running(tmp_path) as store, trio.open_nursery() as nursery:

        async def put(number: int) -> None:
            await store.put_if_newer(packet(number))
            assert any(key(number).octets in group for group in committed)

        for number in range(100):
            nursery.start_soon(put, number)
    assert sum(map(len, committed)) == 100
    assert len(committed) < 20, "many share one fsync"


@pytest.mark.parametrize("capacity", [30, 1000])
async def test_of_more_packets_than_there_is_room_for_each_is_on_the_disk_or_its_floor(
    tmp_path, packet, monkeypatch, capacity
):
    committed: set[bytes] = set()
    commit = PacketCache.commit

    def recorded(self, changes, now_us):
        kept = commit(self, changes, now_us)
        committed.update(changes.records, changes.evicted)
        return kept

    monkeypatch.setattr(PacketCache, "commit", recorded)
    async with running(tmp_path, capacity) as store, trio.open_nursery() as nursery:
        await loaded(store)

        async def put(number: int) -> None:
            await store.put_if_newer(packet(number))
            assert key(number).octets in committed

        for number in range(3000):
            nursery.start_soon(put, number)
    assert store.stats().evictions == 3000 - capacity
    assert store.stats().commits < 60, "many share one fsync"


async def test_commits_and_looks_at_the_files_intern_no_string(tmp_path, packet, monkeypatch):
    """A path made for each would: each that is forgotten leaves a hole in Python's own table.

    After some 40,000 that table is built anew, and 2 MB of memory are taken at once.
    """
    monkeypatch.setattr("relay.store.writer.LOOK_S", 0.02)  # `until` waits for quiet moments
    interned: list[str] = []
    looks = 0
    look, intern = PacketCache.look, sys.intern

    def counted(self):
        nonlocal looks
        looks += 1
        look(self)

    def recorded(text):
        interned.append(text)
        return intern(text)

    monkeypatch.setattr(PacketCache, "look", counted)
    async with running(tmp_path) as store:
        await loaded(store)
        await until(lambda: looks > 0)
        looks = 0
        monkeypatch.setattr(sys, "intern", recorded)
        for number in range(5):
            await store.put_if_newer(packet(number))
        await until(lambda: looks > 5)
        monkeypatch.setattr(sys, "intern", intern)
    assert interned == []


async def test_it_never_downgrades(tmp_path, packet):
    newest = packet(1, 9)
    async with running(tmp_path) as store:
        await store.put_if_newer(newest)
        assert await store.put_if_newer(packet(1, 8)) == newest
        store.put_soon(packet(1, 7))
    async with running(tmp_path) as store:
        # Not loaded yet: the disk is asked first.
        assert await store.put_if_newer(packet(1, 8)) == newest
        assert await store.get(key(1)) == newest


async def test_a_loser_too_waits_until_the_winner_is_durable(tmp_path, packet):
    async with running(tmp_path) as store:
        await loaded(store)
        store.put_soon(packet(1, 9))
        assert await store.put_if_newer(packet(1, 8)) == packet(1, 9)
        assert store.stats().pending == 0


async def test_while_loading_single_packets_are_read_at_once(tmp_path, packet, monkeypatch):
    async with running(tmp_path) as store:
        for number in range(5):
            store.put_soon(packet(number, 5))
    monkeypatch.setattr("relay.store.reader.PacketReader.load", lambda self: endless())
    async with running(tmp_path) as store:
        assert store.lookup(key(1)) is NOT_LOADED
        assert await store.get(key(1)) == packet(1, 5)
        assert store.lookup(key(1)) == packet(1, 5)
        assert await store.get(key(9)) is None
        store.put_soon(packet(2, 4))
        store.put_soon(packet(2, 6))
        store.put_soon(packet(3, 4))
        await until(lambda: store.stats().packets == 3)
        assert await store.get(key(2)) == packet(2, 6)
        assert await store.get(key(3)) == packet(3, 5)
        assert store.stats().loading
        assert (store.stats().hits, store.stats().misses) == (4, 1)


async def test_no_more_packets_wait_for_what_the_disk_has_than_there_may_be(
    tmp_path, packet, monkeypatch
):
    async with running(tmp_path) as store:
        store.put_soon(packet(1, 5))
    monkeypatch.setattr("relay.store.reader.PacketReader.load", lambda self: endless())
    async with running(tmp_path, capacity=10_000) as store:
        for number in range(5000):  # before any of them can be looked for
            store.put_soon(packet(number, 4))
        assert store.stats().packets == 0
        await until(lambda: store.stats().packets == 4096)
        assert await store.get(key(1)) == packet(1, 5)
        assert await store.get(key(4999)) is None, "asked for last, when all others were there"
        assert store.stats().packets == 4096


def endless() -> Iterator[Piece]:
    """Yield a start-up load that never comes to an end."""
    while True:
        yield Piece()


async def test_packets_found_by_lookups_are_written_soon(tmp_path, packet):
    async with running(tmp_path) as store:
        await loaded(store)
        store.put_soon(packet(1, 5))
        assert store.lookup(key(1)) == packet(1, 5)
        assert store.stats().pending == 1
        await until(lambda: store.stats().pending == 0)
        assert store.stats().commits == 1


async def test_an_evicted_packet_leaves_a_floor_also_for_the_next_run(tmp_path, packet):
    async with running(tmp_path, capacity=2) as store:
        for number in range(4):
            await store.put_if_newer(packet(number, 10 + number))
        await until(lambda: store.stats().packets == 2)
        assert store.floor_us(key(1)) == 11
        with pytest.raises(NotMostRecentError):
            await store.put_if_newer(packet(1, 10))
        assert store.stats().evictions == 2
    async with running(tmp_path, capacity=2) as store:
        with pytest.raises(NotMostRecentError):
            await store.put_if_newer(packet(1, 10))
        assert await store.get(key(2)) is None
        assert store.floor_us(key(2)) == 12
        store.put_soon(packet(2, 11))
        assert await store.put_if_newer(packet(1, 11)) == packet(1, 11)
        assert await present(store, 2) == set()


@pytest.mark.parametrize("behind_us", [2 * FLOOR_LIFE_US, NOW_US])
async def test_floors_outlive_a_run_with_the_clock_behind_and_so_do_those_set_then(
    tmp_path, packet, behind_us
):
    """Set before, set then, and looked at again when the clock is right again."""
    then_us = NOW_US - behind_us

    async def evicted(store: PacketStore, number: int, now_us: int) -> None:
        await store.put_if_newer(packet(number, 5, seen_us=now_us))
        assert store.upkeep is not None
        await store.upkeep.purge(key(number))

    async with running(tmp_path) as store:
        await store.put_if_newer(packet(9))
        await evicted(store, 1, NOW_US)
    async with running(tmp_path, now_us=then_us) as store:
        await evicted(store, 2, then_us)
        for number in (1, 2):
            with pytest.raises(NotMostRecentError):
                await store.put_if_newer(packet(number, 4))
    async with running(tmp_path) as store:
        await evicted(store, 3, NOW_US)
    async with running(tmp_path) as store:
        for number in (1, 2, 3):
            with pytest.raises(NotMostRecentError):
                await store.put_if_newer(packet(number, 4))


async def test_the_disk_is_asked_once_for_a_key_it_does_not_know(tmp_path, packet, monkeypatch):
    """A PUT looks before and after it has been to the DHT."""
    asked = []
    read = PacketReader.read

    def noted(self, keys):
        asked.extend(keys)
        return read(self, keys)

    monkeypatch.setattr(PacketReader, "read", noted)
    async with running(tmp_path, capacity=2) as store:
        for number in range(3):
            await store.put_if_newer(packet(number))
        await until(lambda: store.stats().packets == 2)
    async with running(tmp_path, capacity=2) as store:
        await loaded(store)
        asked.clear()
        for number in (7, 8):
            assert await store.get(key(number)) is None
            await store.put_if_newer(packet(number, 5))
        assert asked == [key(7).octets, key(8).octets]
        await store.put_if_newer(packet(9, 5))
        await until(lambda: store.floor_us(key(7)) == 5)
        with pytest.raises(NotMostRecentError):
            await store.put_if_newer(packet(7, 4))


async def test_the_order_of_use_outlives_a_restart(tmp_path, packet):
    async with running(tmp_path) as store:
        for number in range(6):
            await store.put_if_newer(packet(number))
        assert await present(store, 1, 0) == {0, 1}
    async with running(tmp_path) as store:
        await loaded(store)
        await store.put_if_newer(packet(6))
    async with running(tmp_path, capacity=4) as store:
        await loaded(store)
        assert await present(store, *range(7)) == {0, 1, 4, 5}


async def test_an_order_of_use_that_is_as_before_is_not_written_again(
    tmp_path, packet, monkeypatch
):
    monkeypatch.setattr("relay.store.writer.RECENCY_INTERVAL_S", 0.005)
    written: list[bytes] = []
    write = PacketCache.write_recency

    def recorded(self, keys, generation, *, last):
        write(self, keys, generation, last=last)
        written.append(b"".join(keys))

    monkeypatch.setattr(PacketCache, "write_recency", recorded)
    one, two, new = (key(number).octets for number in (1, 2, 3))
    async with running(tmp_path, capacity=3) as store:
        for number in (1, 2, 3):
            await store.put_if_newer(packet(number))
        await until(lambda: two + one + new in written)
        await store.get(key(1))
        await until(lambda: one + two + new in written)
        before = len(written)
    assert len(written) == before, "closing adds nothing"


async def test_a_long_order_of_use_is_written_in_pieces(tmp_path, packet, monkeypatch):
    monkeypatch.setattr("relay.store.writer.RECENCY_PIECE_KEYS", 4)
    monkeypatch.setattr("relay.store.writer._KEYS_AT_ONCE", 2)
    async with running(tmp_path) as store:
        for number in range(11):
            await store.put_if_newer(packet(number))
        await store.get(key(3))
    async with running(tmp_path, capacity=6) as store:
        await loaded(store)
        assert await present(store, *range(11)) == {3, 6, 7, 8, 9, 10}


async def test_a_smaller_capacity_shrinks_the_file_at_the_next_start(tmp_path, packet):
    async with running(tmp_path, capacity=5000) as store:
        await loaded(store)
        for number in range(3000):
            store.put_soon(packet(number, 1, bytes(1000)))
    file = tmp_path / "pkarr-relay.sqlite3"
    before = file.stat().st_size
    async with running(tmp_path, capacity=30) as store:
        await until(lambda: file.stat().st_size < before / 5)
        assert store.stats().packets == 30
        assert store.stats().evictions == 2970
    async with running(tmp_path, capacity=5000) as store:
        await loaded(store)
        assert store.stats().packets == 30
        assert await present(store, *range(3000)) == set(range(2814, 2844)), "the last ones kept"


async def test_a_smaller_capacity_evicts_bit_by_bit_while_it_runs(tmp_path, packet):
    """The disk follows: packets go, floors come, and no eviction outruns it."""
    async with running(tmp_path, capacity=9000) as store:
        await loaded(store)
        for number in range(9000):
            store.put_soon(packet(number))
        await until(lambda: store.stats().pending == 0)
        store.resize(10)
        waiting = 0
        while store.stats().packets > 10:
            waiting = max(waiting, store._memory.floors.unsaved)
            await trio.lowlevel.checkpoint()
        assert waiting < 5000
        assert store.stats().capacity == 10
        assert store.floor_us(key(8709)) is not None
        assert await present(store, 8709, 8710, 8998, 8999) == {8710, 8999}
    async with running(tmp_path, capacity=9000) as store:
        await loaded(store)
        assert store.stats().packets == 10


async def test_a_packet_published_after_its_key_was_evicted_outlives_that_eviction(
    tmp_path, packet
):
    """More evictions wait than a commit takes, and the packet is written before them."""
    async with running(tmp_path, capacity=5000) as store:
        await loaded(store)
        for number in range(5000):
            store.put_soon(packet(number))
        await until(lambda: store.stats().pending == 0)
        store.resize(1000)
        while store._memory.floors.unsaved < 1500:
            await trio.lowlevel.checkpoint()
        late = [int.from_bytes(octets, "big") for octets in store._memory.floors.to_save(9999)]
        late = late[-30:]
        async with trio.open_nursery() as nursery:
            for number in late:
                nursery.start_soon(store.put_if_newer, packet(number, 2))
        assert store._memory.floors.unsaved > 0
        await until(lambda: store._memory.floors.unsaved == 0)
    async with running(tmp_path, capacity=1000) as store:
        for number in late:
            assert await store.get(key(number)) == packet(number, 2)


async def test_a_larger_capacity_takes_more_while_it_runs(tmp_path, packet):
    async with running(tmp_path, capacity=5) as store:
        await loaded(store)
        for number in range(20):
            await store.put_if_newer(packet(number))
        await until(lambda: store.stats().packets == 5)
        store.resize(50_000)
        for number in range(20, 2000):
            store.put_soon(packet(number))
        await until(lambda: store.stats().packets == 1985)
        await until(lambda: not store._memory.table.spread())
        assert await present(store, 3, 4, 19, 1000, 1999) == {3, 19, 1000, 1999}


@pytest.mark.parametrize("folder", [True, False])
async def test_resized_to_zero_and_back(tmp_path, packet, folder):
    async with running(tmp_path if folder else None) as store:
        await store.put_if_newer(packet(1))
        store.resize(0)
        await until(lambda: store.stats().packets == 0)
        await store.put_if_newer(packet(2))
        assert await present(store, 1, 2) == set()
        store.resize(2)
        await store.put_if_newer(packet(3))
        assert await present(store, 1, 2, 3) == {3}


@pytest.mark.parametrize("folder", [True, False])
async def test_capacity_zero_stores_nothing(tmp_path, packet, folder):
    async with running(tmp_path if folder else None, capacity=0) as store:
        assert await store.put_if_newer(packet(1)) == packet(1)
        store.put_soon(packet(2))
        assert await present(store, 1, 2) == set()
        assert store.stats().packets == store.stats().pending == 0


@pytest.mark.parametrize("folder", [True, False])
async def test_capacity_zero_takes_nothing_older_than_what_it_was_given(tmp_path, packet, folder):
    async with running(tmp_path if folder else None, capacity=0) as store:
        await store.put_if_newer(packet(1, 5))
        store.put_soon(packet(2, 5))
        await until(lambda: store.floor_us(key(2)) == 5)
        for number in (1, 2):
            assert await store.get(key(number)) is None
            assert store.floor_us(key(number)) == 5
            with pytest.raises(NotMostRecentError):
                await store.put_if_newer(packet(number, 4))
            store.put_soon(packet(number, 4))
            assert store.floor_us(key(number)) == 5
            assert await store.put_if_newer(packet(number, 6)) == packet(number, 6)
            assert store.floor_us(key(number)) == 6
        assert store.stats().packets == store.stats().evictions == store.stats().pending == 0


async def test_capacity_zero_acknowledges_when_the_floor_is_on_the_disk(tmp_path, packet):
    async with running(tmp_path, capacity=0) as store:
        await loaded(store)
        for number in range(20):
            await store.put_if_newer(packet(number, 5))
            assert store._memory.floors.unsaved == 0
        commits = store.stats().commits
        await store.put_if_newer(packet(3, 5))
        assert store.stats().commits == commits, "the disk knows"
    async with running(tmp_path, capacity=0) as store:
        with pytest.raises(NotMostRecentError):
            await store.put_if_newer(packet(3, 4))
    async with running(tmp_path, capacity=100) as store:
        with pytest.raises(NotMostRecentError):
            await store.put_if_newer(packet(4, 4))
        assert await store.put_if_newer(packet(4, 5)) == packet(4, 5)


@pytest.mark.parametrize("folder", [True, False])
async def test_resized_to_zero_it_takes_nothing_older_than_what_it_had(tmp_path, packet, folder):
    async with running(tmp_path if folder else None) as store:
        for number in range(600):
            store.put_soon(packet(number, 5))
        store.resize(0)
        await until(lambda: store.stats().packets == 0)
        await store.put_if_newer(packet(1000, 5))  # after which the disk drops floors, if it does
        await until(lambda: not store._memory.floors.unsaved)
        for number in (0, 300, 599, 1000):
            with pytest.raises(NotMostRecentError):
                await store.put_if_newer(packet(number, 4))


async def test_started_with_zero_it_takes_nothing_older_than_what_is_on_the_disk(tmp_path, packet):
    async with running(tmp_path) as store:
        for number in range(300):
            store.put_soon(packet(number, 5))
    async with running(tmp_path, capacity=0) as store:
        store.put_soon(packet(7, 4))
        await loaded(store)
        assert await present(store, *range(300)) == set()
        await until(lambda: not store._memory.floors.unsaved)
    async with running(tmp_path, capacity=0) as store:
        for number in (0, 7, 299):
            with pytest.raises(NotMostRecentError):
                await store.put_if_newer(packet(number, 4))


async def test_without_a_folder_it_works_from_memory(packet):
    async with running(None, capacity=2) as store:
        for number in range(4):
            assert await store.put_if_newer(packet(number, 5)) == packet(number, 5)
        await until(lambda: store.stats().packets == 2)
        assert await present(store, *range(4)) == {0, 3}
        with pytest.raises(NotMostRecentError):
            await store.put_if_newer(packet(1, 4))
        assert store.health() == StoreHealth(True)
        assert store.stats().pending == 0
        store.save_nodes([(bytes(20), "192.0.2.1", 6881)])
        assert store.load_nodes() == [(bytes(20), "192.0.2.1", 6881)]


async def test_dht_nodes_are_there_at_the_next_start(tmp_path):
    nodes = [(bytes([number] * 20), f"192.0.2.{number}", 6881) for number in range(1, 30)]
    async with running(tmp_path) as store:
        assert store.load_nodes() == []
        store.save_nodes(nodes)
        store.save_nodes(nodes[:20])
    async with running(tmp_path) as store:
        assert store.load_nodes() == nodes[:20]


async def test_a_second_store_on_the_folder_is_refused(tmp_path):
    async with running(tmp_path):
        with pytest.raises(StoreError, match="another relay") as refusal:
            PacketStore(tmp_path, 10, lambda: NOW_US).open()
        assert str(tmp_path) in str(refusal.value)
    async with running(tmp_path) as store:
        assert store.health().ok


async def test_files_of_the_reference_relay_are_left_alone(tmp_path, packet):
    theirs = tmp_path / "pkarr-cache" / "data.mdb"
    theirs.parent.mkdir()
    theirs.write_bytes(b"lmdb")
    async with running(tmp_path) as store:
        await store.put_if_newer(packet(1))
    assert theirs.read_bytes() == b"lmdb"
    assert list(theirs.parent.iterdir()) == [theirs]


async def test_cancelling_writes_what_waits(tmp_path, packet):
    store = PacketStore(tmp_path, 1000, lambda: NOW_US)
    store.open()
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        await loaded(store)
        for number in range(700):
            store.put_soon(packet(number))
        nursery.cancel_scope.cancel()
    await store.close()
    async with running(tmp_path) as store:
        await loaded(store)
        assert store.stats().packets == 700


async def test_a_put_whose_client_is_gone_is_stored_all_the_same(tmp_path, packet):
    async with running(tmp_path) as store:
        await loaded(store)
        with trio.CancelScope() as scope:
            scope.cancel()
            await store.put_if_newer(packet(1))
    async with running(tmp_path) as store:
        assert await present(store, 1) == {1}


async def test_after_closing_it_answers_from_memory(tmp_path, packet):
    store = PacketStore(tmp_path, 10, lambda: NOW_US)
    store.open()
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        await store.put_if_newer(packet(1))
        await store.close()
        await store.close()
    with trio.fail_after(30):
        assert await store.put_if_newer(packet(2)) == packet(2)
        assert await present(store, 1, 2, 3) == {1, 2}


async def test_opened_and_never_run_it_can_be_closed(tmp_path):
    store = PacketStore(tmp_path, 10, lambda: NOW_US)
    store.open()
    await store.close()
    async with running(tmp_path) as store:
        assert store.health().ok


async def test_spoiled_rows_are_counted(tmp_path, packet):
    async with running(tmp_path) as store:
        for number in range(5):
            await store.put_if_newer(packet(number))
    connection = sqlite3.connect(tmp_path / "pkarr-relay.sqlite3")
    with connection:
        connection.execute("UPDATE packets SET checksum = 1 WHERE id <= 2")
    connection.close()
    async with running(tmp_path) as store:
        await loaded(store)
        assert (store.stats().packets, store.stats().bad_rows) == (3, 2)
        await store.put_if_newer(packet(0, 2))
    async with running(tmp_path) as store:
        await loaded(store)
        assert (store.stats().packets, store.stats().bad_rows) == (4, 1)
