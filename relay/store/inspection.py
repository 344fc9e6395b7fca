"""Reading the whole file for an operator: every row as it stands, its integrity, a copy of it.

An `Inspector` has a connection of its own, so that neither the writer nor the relay's reader
waits. Rows come in short statements, fetched whole; the write-ahead log can be folded away
between them. A copy and a check of integrity hold on to one state of the file, and the log grows
by what is written meanwhile.

Calls block, for long, and keep the interpreter lock for moments only. All raise
`DatabaseFaultError` for what is wrong with the file.
"""

import os
import sqlite3
from binascii import unhexlify
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from zlib import crc32

from relay.errors import StoreError
from relay.store import records
from relay.store.database import Connected, open_for_reading
from relay.store.faults import as_faults, lasting
from relay.store.new_file import new_file, told

_COPY_PAGES: Final = 2048
"""8 MiB: copied and brought to the disk in one go, lest 600 MB hold up the writer's own fsync."""
_FINDING_LETTERS_MAX: Final = 300
_FINDINGS_MAX: Final = 100
_OF_THE_SOURCE: Final = (
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_IOERR_READ,
    sqlite3.SQLITE_IOERR_SHORT_READ,
)


@dataclass(frozen=True, slots=True)
class _Table:
    """How rows of a table are read: as text in hex, the checksum (CRC-32) of the rest first."""

    id_column: str
    row_as_hex: str
    rows_at_once: int


TABLES: Final[Mapping[str, _Table]] = {
    "packets": _Table("id", records.ROW_AS_HEX, 512),
    "floors": _Table(
        "id",
        "printf('%08x', checksum) || hex(key) || hex(timestamp) || printf('%016x', evicted_us)",
        2048,
    ),
    "recency": _Table("id", "printf('%08x', checksum) || hex(keys)", 1),
    "nodes": _Table(
        "position",
        "printf('%08x', checksum) || hex(node_id) || hex(ip) || printf('%04x', port)",
        2048,
    ),
}
"""Every table with rows of ours."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows that stand together in a table."""

    count: int
    first: int
    """The smallest id among them."""
    last: int
    text: bytes
    """Hex in ASCII, a space between two rows. A row that cannot even be read is missing."""


class Inspector(Connected):
    """A reading connection to a database file. Use from one thread at a time; `close` it.

    Args:
        path: the file.
        alone: the caller holds the folder's lock, and does not write meanwhile.
    """

    def __init__(self, path: Path, *, alone: bool = False) -> None:
        with as_faults(path):
            connection, _ = open_for_reading(path, alone=alone)
        super().__init__(path, connection)

    def interrupt(self) -> None:
        """End the statement under way, with sqlite3.OperationalError; from any thread."""
        self._connection.interrupt()

    def rows(self, table: str) -> Iterator[Rows]:
        """Deliver all rows of one of `TABLES`, by growing id.

        Those that come while it is under way may be missing, those that change are delivered
        as they were or as they are.
        """
        how = TABLES[table]
        with as_faults(self._path):
            (newest,) = self._connection.execute(
                f"SELECT max({how.id_column}) FROM {table}"  # noqa: S608 -- names of ours
            ).fetchone()
        last = -1
        while newest is not None:
            with as_faults(self._path):
                downwards, ids, text = self._connection.execute(
                    f"SELECT (SELECT max({how.id_column}) FROM {table} "  # noqa: S608
                    f"WHERE {how.id_column} > :last AND {how.id_column} <= :newest), "
                    f"group_concat({how.id_column}), group_concat({how.row_as_hex}, ' ') "
                    f"FROM (SELECT * FROM {table} "
                    f"WHERE {how.id_column} > :last AND {how.id_column} <= :newest "
                    f"ORDER BY {how.id_column} LIMIT :count)",
                    {"last": last, "newest": newest, "count": how.rows_at_once},
                ).fetchone()
            if ids is None and downwards is None:
                return
            # Else it would never end, or leave out what lies between: see `PacketReader.load`.
            walk = [last, *map(int, ids.split(","))] if ids else []
            if not walk or walk != sorted(set(walk)):
                raise lasting(self._path, f"is damaged (rows of {table} are out of order)")
            last = walk[-1]
            yield Rows(len(walk) - 1, walk[1], last, (text or "").encode("ascii"))

    def integrity(self, *, quick: bool) -> list[str]:
        """Return what SQLite finds wrong with the file's structure: nothing, if all is well.

        Args:
            quick: do not compare indexes with their tables.
        """
        pragma = "quick_check" if quick else "integrity_check"
        with as_faults(self._path):
            rows = self._connection.execute(f"PRAGMA {pragma}({_FINDINGS_MAX})").fetchall()
        findings = [str(text)[:_FINDING_LETTERS_MAX] for (text,) in rows]
        return [] if findings == ["ok"] else findings

    def copy_to(
        self, target: Path, *, replace: bool, on_progress: Callable[[], None] = lambda: None
    ) -> int:
        """Copy the database as it is now to a new file, which a relay can use as its own.

        Args:
            target: the file's path; mode 0600.
            replace: take the place of a file that is there.
            on_progress: called every 8 MiB; what it raises ends the copy, and no file is left.

        Returns:
            Its size in bytes; it is on the disk.

        Raises:
            StoreError: `target` exists and is not to be replaced, or cannot be written.
        """

        def progress(status: int, remaining: int, total: int) -> None:
            os.fdatasync(draft.descriptor)
            on_progress()

        try:
            with new_file(target, replace=replace) as draft:
                self._copy(draft.path, target, progress)
                return os.fstat(draft.descriptor).st_size
        except OSError as error:
            raise StoreError(told(target, error)) from error

    def _copy(self, draft: Path, target: Path, progress: Callable[[int, int, int], None]) -> None:
        with as_faults(self._path):
            # A state to hold on to: without it a copy begins anew with every commit.
            self._connection.execute("BEGIN")
            self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        try:
            copy = sqlite3.connect(draft, isolation_level=None)
            try:
                # Whatever happens to a draft, it is thrown away; it is synced as it grows.
                copy.execute("PRAGMA journal_mode=OFF")
                copy.execute("PRAGMA synchronous=OFF")
                self._connection.backup(copy, pages=_COPY_PAGES, progress=progress)
            finally:
                copy.close()
        except sqlite3.DatabaseError as error:
            # SQLite names neither file; only these can be the source's.
            if getattr(error, "sqlite_errorcode", None) not in _OF_THE_SOURCE:
                raise StoreError(f"{target} cannot be written: {error}") from error
            with as_faults(self._path):
                raise
        finally:
            self._connection.execute("ROLLBACK")


def checked(text: bytes) -> bytes | None:
    """Return a row's columns one after the other, None if its checksum is wrong."""
    try:
        octets = unhexlify(text)
    except ValueError:
        return None
    if len(octets) < 4 or crc32(octets[4:]) != int.from_bytes(octets[:4], "big"):
        return None
    return octets[4:]
