"""Reading the whole file, judging it, copying it."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest

from relay.errors import StoreError
from relay.store import records
from relay.store.database import DATABASE_FILE
from relay.store.faults import DatabaseFaultError
from relay.store.floors import Floor
from relay.store.inspection import TABLES, Inspector, checked
from relay.store.packets import Changes, PacketCache
from relay.store.reader import PacketReader

NOW_US = 1_750_000_000_000_000
NODES = [(bytes([number]) * 20, f"192.0.2.{number}", 6881 + number) for number in range(5)]


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / DATABASE_FILE


@pytest.fixture
def cache(path: Path, packet):
    """Return a writer of a database that has something in every table."""
    with PacketCache(path, floors_max=10_000) as cache:
        cache.commit(
            Changes(
                records={key(number): records.encode(packet(number)) for number in range(1200)},
                evicted={key(number): Floor(number, NOW_US) for number in range(5000, 8000)},
                nodes=NODES,
            ),
            NOW_US,
        )
        cache.write_recency([key(1), key(2)], cache.next_generation(), last=True)
        yield cache


@pytest.fixture
def inspector(path: Path, cache: PacketCache):
    with Inspector(path) as inspector:
        yield inspector


def spoil(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(statement)


def test_every_row_of_every_table_comes_once_and_whole(inspector: Inspector) -> None:
    counts = {"packets": 1200, "floors": 3000, "recency": 1, "nodes": 5}
    assert set(counts) == set(TABLES)
    for table, count in counts.items():
        last = -1
        texts = []
        for rows in inspector.rows(table):
            assert last < rows.first <= rows.last
            last = rows.last
            here = rows.text.split(b" ")
            assert len(here) == rows.count <= 2048
            texts += here
        assert len(set(texts)) == count
        assert all(checked(text) is not None for text in texts)


def test_packets_are_read_as_the_store_reads_them(inspector: Inspector, packet) -> None:
    (text, *_) = next(inspector.rows("packets")).text.decode().split(" ")
    assert records.checked_row(text) == (key(0), records.encode(packet(0)))


def test_an_empty_table_has_no_rows(tmp_path: Path) -> None:
    with PacketCache(tmp_path / "x", floors_max=1), Inspector(tmp_path / "x") as inspector:
        assert [list(inspector.rows(table)) for table in TABLES] == [[], [], [], []]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE packets SET payload = zeroblob(72) WHERE id = 600",
        "UPDATE floors SET evicted_us = evicted_us + 1 WHERE id = 600",
        "UPDATE recency SET keys = zeroblob(64)",
        "UPDATE nodes SET port = port + 1 WHERE position = 3",
    ],
)
def test_a_spoiled_row_is_seen(inspector: Inspector, path: Path, statement: str) -> None:
    spoil(path, statement)
    bad = [
        table
        for table in TABLES
        for rows in inspector.rows(table)
        for text in rows.text.split(b" ")
        if checked(text) is None
    ]
    assert bad == [statement.split(" ")[1]]


def test_what_comes_meanwhile_does_not_run_away(
    inspector: Inspector, cache: PacketCache, packet
) -> None:
    seen = 0
    for turn, rows in enumerate(inspector.rows("packets")):
        seen += rows.count
        new = {key(100_000 + 1000 * turn + n): records.encode(packet(n)) for n in range(1000)}
        cache.commit(Changes(records=new), NOW_US)
    assert seen == 1200


def test_integrity(inspector: Inspector, path: Path) -> None:
    assert inspector.integrity(quick=False) == []
    assert inspector.integrity(quick=True) == []
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        # An index entry without its row.
        connection.execute("PRAGMA writable_schema=ON")
        schema = "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_floors_1'"
        (root,) = connection.execute(schema).fetchone()
        connection.execute("PRAGMA writable_schema=RESET")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.seek((root - 1) * 4096 + 2000)
        file.write(bytes(2096))
    with Inspector(path) as other:
        assert other.integrity(quick=False)


def test_a_long_check_can_be_interrupted(inspector: Inspector) -> None:
    """The statement may be over before: then nothing happens, and the next try is in time."""
    for attempt in range(100):
        timer = threading.Timer(attempt / 20_000, inspector.interrupt)
        timer.start()
        try:
            inspector.integrity(quick=False)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname == "SQLITE_INTERRUPT":
                break
        finally:
            timer.join()
    else:
        pytest.fail("never interrupted")
    assert inspector.integrity(quick=False) == []


def test_a_copy_is_a_database_of_its_own(
    inspector: Inspector, cache: PacketCache, tmp_path: Path, packet
) -> None:
    target = tmp_path / "copy" / "copy.sqlite3"
    target.parent.mkdir()
    cache.commit(Changes(records={key(9999): records.encode(packet(9999))}), NOW_US)  # in the log
    size = inspector.copy_to(target, replace=False)
    assert target.stat().st_size == size
    assert target.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in target.parent.iterdir()] == ["copy.sqlite3"]
    with Inspector(target) as other:
        assert other.integrity(quick=False) == []
        assert sum(rows.count for rows in other.rows("packets")) == 1201
    with PacketCache(target, floors_max=10_000) as copied, PacketReader(target) as reader:
        assert not copied.created
        assert reader.nodes() == NODES
        copied.commit(Changes(records={key(5): records.encode(packet(5, 2))}), NOW_US)


def test_a_copy_is_of_one_moment_while_others_write(
    inspector: Inspector, cache: PacketCache, tmp_path: Path, packet
) -> None:
    """Also one that takes many steps: the writer commits between all of them."""
    big = {key(n): records.encode(packet(n, 3, bytes(1000))) for n in range(20_000, 40_000)}
    cache.commit(Changes(records=big), NOW_US)
    steps = 0

    def write() -> None:
        nonlocal steps
        steps += 1
        new = {key(50_000 + steps): records.encode(packet(steps))}
        cache.commit(Changes(records=new), NOW_US)

    inspector.copy_to(tmp_path / "copy", replace=False, on_progress=write)
    assert 3 <= steps < 10
    with Inspector(tmp_path / "copy") as other:
        assert sum(rows.count for rows in other.rows("packets")) == 21_200
        assert other.integrity(quick=False) == []


def test_a_copy_given_up_leaves_nothing(inspector: Inspector, tmp_path: Path) -> None:
    folder = tmp_path / "copies"
    folder.mkdir()

    def give_up() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        inspector.copy_to(folder / "copy", replace=False, on_progress=give_up)
    assert list(folder.iterdir()) == []
    inspector.copy_to(folder / "copy", replace=False)


def test_a_copy_replaces_only_when_told(inspector: Inspector, tmp_path: Path) -> None:
    (tmp_path / "copy").write_text("mine")
    with pytest.raises(StoreError, match="--force"):
        inspector.copy_to(tmp_path / "copy", replace=False)
    assert (tmp_path / "copy").read_text() == "mine"
    inspector.copy_to(tmp_path / "copy", replace=True)
    with Inspector(tmp_path / "copy"):
        pass


def test_whose_fault_a_failed_copy_is(inspector: Inspector, path: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be written: No such file") as caught:
        inspector.copy_to(tmp_path / "missing" / "copy", replace=False)
    assert not isinstance(caught.value, DatabaseFaultError)


@pytest.mark.parametrize("table", TABLES)
def test_rows_out_of_order_are_damage_and_no_endless_reading(
    path: Path, packet, number_alike, table: str
) -> None:
    with PacketCache(path, floors_max=99) as cache:
        group = {key(number): records.encode(packet(number)) for number in range(9)}
        floors = {key(number): Floor(number, NOW_US) for number in range(100, 109)}
        cache.commit(Changes(group, floors, NODES), NOW_US)
        for _ in range(9):
            cache.write_recency([key(1)], 1, last=False)
    number_alike(path, table)
    with (
        Inspector(path) as inspector,
        pytest.raises(DatabaseFaultError, match=f"rows of {table} are out of order"),
    ):
        list(islice(inspector.rows(table), 100))


def test_no_database_no_inspection(tmp_path: Path) -> None:
    with pytest.raises(DatabaseFaultError):
        Inspector(tmp_path / "missing")
    (tmp_path / "text").write_text("no database" * 50)
    with pytest.raises(DatabaseFaultError, match="not a SQLite database"):
        Inspector(tmp_path / "text")
