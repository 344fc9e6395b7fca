"""Opening the file: what is not ours, not whole, or not of this version is left as it is."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import sqlite_utils

from relay.store import database
from relay.store.database import open_for_reading, open_for_writing
from relay.store.faults import DatabaseFaultError
from relay.store.packets import PacketCache
from relay.store.reader import PacketReader


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / database.DATABASE_FILE


def made(path: Path) -> Path:
    open_for_writing(path).connection.close()
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in folder.iterdir()}


def edit(path: Path, script: str) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()


def test_a_new_database_is_ours_private_and_durable(path):
    opened = open_for_writing(path)
    assert opened.created
    try:
        pragmas = {
            name: opened.connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in (
                "application_id",
                "user_version",
                "journal_mode",
                "synchronous",
                "auto_vacuum",
                "trusted_schema",
                "cell_size_check",
            )
        }
        opened.connection.execute("DELETE FROM nodes")
        opened.connection.execute("INSERT INTO nodes VALUES (1, x'00', '', 1, 0)")
        modes = {entry.name: entry.stat().st_mode & 0o777 for entry in path.parent.iterdir()}
    finally:
        opened.connection.close()
    assert pragmas == {
        "application_id": 0x706B6172,
        "user_version": 1,
        "journal_mode": "wal",
        "synchronous": 2,
        "auto_vacuum": 2,
        "trusted_schema": 0,
        "cell_size_check": 1,
    }
    names = [path.name + suffix for suffix in ("", "-shm", "-wal")]
    assert modes == dict.fromkeys(names, 0o600)


def test_people_can_look_into_it_with_their_tools(path):
    made(path)
    with closing(sqlite_utils.Database(path)) as tables:
        names = tables.table_names()
    assert sorted(names) == ["floors", "nodes", "packets", "recency"]


def test_an_old_database_is_opened_again_and_made_private(path):
    made(path).chmod(0o644)
    opened = open_for_writing(path)
    opened.connection.close()
    assert not opened.created
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_half_made_or_empty_file_is_made_anew(path):
    path.with_name(path.name + "-new").write_bytes(b"half of a database")
    path.write_bytes(b"")
    assert open_for_writing(made(path)).connection.close() is None
    assert contents(path.parent).keys() == {path.name}


def test_an_operators_own_table_is_no_harm(path):
    edit(made(path), "CREATE TABLE notes (text); CREATE INDEX mine ON packets (last_seen_us)")
    opened = open_for_writing(path)
    opened.connection.close()
    assert not opened.created


def other_text(path: Path) -> None:
    path.write_text("# not a database\n" * 20)


def other_short(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0")


def other_program(path: Path) -> None:
    edit(path, "PRAGMA journal_mode=WAL; CREATE TABLE bookmarks (url); CREATE TABLE visits (at)")


def other_empty(path: Path) -> None:
    edit(path, "VACUUM")
    edit(path, "PRAGMA user_version=1")


def other_program_damaged(path: Path) -> None:
    other_program(path)
    octets = bytearray(path.read_bytes())
    octets[100:300] = b"\xee" * 200
    path.write_bytes(octets)


def newer(path: Path) -> None:
    edit(made(path), "PRAGMA user_version=2")


def planted_trigger(path: Path) -> None:
    edit(
        made(path),
        "CREATE TRIGGER t AFTER INSERT ON packets BEGIN DELETE FROM packets; END",
    )


def altered(path: Path) -> None:
    edit(made(path), "DROP TABLE floors")


def log_alone(path: Path) -> None:
    path.with_name(path.name + "-wal").write_bytes(b"log")


def damaged_schema(path: Path) -> None:
    octets = bytearray(made(path).read_bytes())
    octets[100:4096] = b"\xee" * 3996
    path.write_bytes(octets)


def spoil(path: Path, word: bytes) -> None:
    """Flip the top bit of the first letter of a word that stands in the file."""
    octets = bytearray(path.read_bytes())
    at = octets.index(word)
    octets[at] ^= 0x80
    path.write_bytes(octets)


def schema_that_is_no_text(path: Path) -> None:
    spoil(made(path), b"UNIQUE")  # SQLite quotes it in what it says


def column_that_is_no_text(path: Path) -> None:
    spoil(made(path), b"payload BLOB")


def other_program_that_is_no_text(path: Path) -> None:
    other_program(path)
    spoil(path, b"TABLE")


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (other_text, "is not a SQLite database"),
        (other_short, "is not a SQLite database"),
        (other_program, r"of another program \(tables: bookmarks, visits\)"),
        (other_empty, "of another program; nothing"),
        (other_program_damaged, "of another program, damaged; nothing"),
        (newer, "has schema version 2, of another release"),
        (planted_trigger, "has tables or triggers that are not as pkarr-relay made them"),
        (altered, "has tables or triggers that are not as pkarr-relay made them"),
        (log_alone, "is missing, but its write-ahead log is there"),
        (damaged_schema, "is damaged"),
        (schema_that_is_no_text, r"is damaged \(malformed database schema"),
        (column_that_is_no_text, "has tables or triggers that are not as pkarr-relay made them"),
        (other_program_that_is_no_text, "of another program, damaged; nothing"),
    ],
)
def test_what_is_not_ours_is_refused_and_left_alone(
    path: Path, prepare: Callable[[Path], None], message: str
):
    prepare(path)
    before = contents(path.parent)
    with pytest.raises(DatabaseFaultError, match=message) as refusal:
        PacketCache(path, floors_max=1)
    assert not refusal.value.heals
    assert str(path) in str(refusal.value)
    with pytest.raises(DatabaseFaultError, match=message):
        PacketReader(path)
    after = contents(path.parent)
    assert before.items() <= after.items()
    # Our own file was opened, to be read, and SQLite keeps an index of its empty log.
    if prepare not in (
        *(planted_trigger, altered, damaged_schema),
        *(schema_that_is_no_text, column_that_is_no_text),
    ):
        assert after == before


def test_a_reader_makes_no_file(path):
    with pytest.raises(FileNotFoundError):
        open_for_reading(path)
    assert contents(path.parent) == {}


def test_a_file_that_the_writer_makes_meanwhile_is_not_taken_for_a_lost_one(path, monkeypatch):
    exists = Path.exists
    opened = []

    def exists_and_then_is_made(self: Path) -> bool:
        answer = exists(self)
        if self == path and not opened:
            opened.append(None)  # the writer looks, too
            opened[0] = open_for_writing(path).connection
            opened[0].execute("DELETE FROM nodes")
            opened[0].execute("INSERT INTO nodes VALUES (1, x'00', '', 1, 0)")
        return answer

    monkeypatch.setattr(Path, "exists", exists_and_then_is_made)
    with pytest.raises(FileNotFoundError):  # it tries again then
        open_for_reading(path)
    with closing(opened[0]):
        assert path.with_name(path.name + "-wal").stat().st_size > 0
        open_for_reading(path)[0].close()


def test_a_reader_cannot_write(path):
    connection, frozen = open_for_reading(made(path))
    try:
        assert not frozen
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("DELETE FROM packets")
    finally:
        connection.close()
