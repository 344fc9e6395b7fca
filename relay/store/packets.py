"""The durable shadow of the packet table: SQLite, plain and synchronous.

`PacketCache` is the writer: whole groups of changes, each one transaction and one fsync. Reading
is done by `relay.store.reader`, on a connection of its own, so that nobody who reads waits for a
disk to write. Calls block; `relay.store.worker` makes them in a thread. The wall clock is an
argument, `now_us`.

All methods raise `DatabaseFaultError` for what is wrong with the disk or the file; the transaction
has then not happened.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final
from zlib import crc32

from relay.store import records
from relay.store.database import Connected, open_for_writing
from relay.store.faults import as_faults
from relay.store.floors import FLOOR_LIFE_US, Floor, is_over
from relay.store.found import READ_KEYS_MAX, Found, find
from relay.store.in_use import FilesInUse, check_writable

Node = tuple[bytes, str, int]
"""A DHT node: id (20 bytes), IPv4 address, port."""

RECENCY_PIECE_KEYS: Final = 8192
_ROWS_AT_ONCE: Final = (64, 16, 4, 1)
_FLOORS_DROPPED_MAX: Final = 4096
"""How many floors one commit drops at most, so that no commit takes long."""
_GENERATIONS_MAX: Final = 2**62
_PACKET_BYTES_MIN: Final = 128
"""What a packet takes in the file, at least: 116 bytes in its row, and its key in the index."""
_VACUUM_PAGES: Final = 512
_SPARE_PAGES: Final = 64
"""Free pages worth keeping; they are used again before the file grows."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What one group commit writes. A key in both maps was evicted and then came back."""

    records: Mapping[bytes, bytes] = field(default_factory=dict)
    evicted: Mapping[bytes, Floor] = field(default_factory=dict)
    """Rows of these keys go, unless they are newer than the floors."""
    nodes: Sequence[Node] | None = None
    """The whole routing table, or None to keep what is there."""
    floors_max: int | None = None
    """How many floors to keep from now on; None: as many as before."""
    unsure: bool = False
    """Whether the file may know better: it is compared, and what is newer stays as it is."""


class PacketCache(Connected):
    """The one writer of a database file. Use from one thread at a time; `close` it.

    Args:
        path: the database file, made if there is none.
        floors_max: how many freshness floors to keep, oldest first out.
    """

    def __init__(self, path: Path, *, floors_max: int) -> None:
        self._floors_max = floors_max
        with as_faults(path):
            opened = open_for_writing(path)
            self._files = FilesInUse(path)
            self._file_bytes = path.stat().st_size
        super().__init__(path, opened.connection)
        self.created: Final = opened.created
        """Whether there was no file before."""
        self._floor_count: int | None = None
        self._floors_spared = 0

    @property
    def replaced(self) -> bool:
        """Whether another file has taken the name of this one."""
        with as_faults(self._path):
            return self._files.replaced

    def remove_leftovers(self) -> None:
        """Remove what a file that is gone has left beside it; call it when all are closed."""
        with as_faults(self._path):
            self._files.remove_leftovers()

    def look(self) -> None:
        """Make sure that the files are still there, whole as far as their size tells, writable."""
        with as_faults(self._path):
            self._files.check()
            check_writable(self._path.parent)
            (pages,) = self._connection.execute("PRAGMA page_count").fetchone()
            (page_bytes,) = self._connection.execute("PRAGMA page_size").fetchone()
            self._file_bytes = self._files.check_size(pages * page_bytes, self._file_bytes)

    def commit(self, changes: Changes, now_us: int) -> Found:
        """Write `changes` as one transaction; on the disk when this returns.

        Returns:
            Packets and floors that are newer than what `changes` has of their keys, which was not
            written then. Only if `changes` is unsure.
        """
        if changes.floors_max is not None:
            if changes.floors_max < self._floors_max:
                self._floor_count = None  # see what there is to spare
            self._floors_max = changes.floors_max
        with self._transaction():
            found = self._newer_than(changes, now_us) if changes.unsure else Found()
            if changes.evicted:
                self._count_floors()
                floors = [
                    records.floor_row(key, *_higher(floor, found.floors.get(key)))
                    for key, floor in changes.evicted.items()
                ]
                self._run_in_groups(_DELETE_PACKETS, [floor[:2] for floor in floors])
                self._add_floors(floors, now_us)
            rows = [
                records.row(key, record)
                for key, record in changes.records.items()
                if key not in found.packets and key not in found.floors
            ]
            self._run_in_groups(_UPSERT_PACKETS, rows)
            if changes.nodes is not None:
                self._replace_nodes(changes.nodes)
        return found

    def write_recency(self, keys: Sequence[bytes], generation: int, *, last: bool) -> None:
        """Write one piece of the order of use, of at most `RECENCY_PIECE_KEYS` keys.

        An item may be several keys in a row. A key that comes again counts where it came first.
        The last piece makes the generation the valid one; until then the one before is.
        """
        octets = b"".join(keys)
        with self._transaction():
            self._connection.execute(
                "INSERT INTO recency (generation, newest_id, keys, checksum) "
                "VALUES (?, (SELECT coalesce(max(id), 0) FROM packets), ?, ?)",
                (generation, octets, crc32(octets)),
            )
            if last:
                self._connection.execute("DELETE FROM recency WHERE generation <> ?", (generation,))

    def next_generation(self) -> int:
        """Return a number that no piece of the order of use has; drops pieces left unfinished."""
        with self._transaction():
            oldest, newest = self._connection.execute(
                "SELECT min(generation), max(generation) FROM recency"
            ).fetchone()
            if newest is None:
                return 1
            if not (isinstance(newest, int) and newest < _GENERATIONS_MAX):  # it is spoiled
                self._connection.execute("DELETE FROM recency")
                return 1
            self._connection.execute("DELETE FROM recency WHERE generation > ?", (oldest,))
            return newest + 1

    def shrink(self) -> bool:
        """Give some free pages back to the file system.

        Returns:
            True if there is more to give; call again.
        """
        with as_faults(self._path):
            free = self._free_pages()
            if free > _SPARE_PAGES:
                self._connection.execute(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").fetchall()
                if self._free_pages() < free:
                    return True
                # A file whose mode others have changed, or whose header is spoiled, gives nothing.
            # The file gets shorter when the log is copied into it.
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            return False

    def _free_pages(self) -> int:
        (free,) = self._connection.execute("PRAGMA freelist_count").fetchone()
        return int(free)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with as_faults(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                self._floor_count = None
                # After some errors (a full disk) SQLite has rolled back by itself.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            self._files.check()  # else nobody will ever see it

    def _run_in_groups(self, template: str, rows: Sequence[tuple[bytes | str | int, ...]]) -> int:
        """Run a statement over all rows, many at a time; return how many rows it changed.

        `executemany` gives the interpreter lock away for each row and waits to get it back,
        which takes longer than the row when the Trio thread is busy.
        """
        done = changed = 0
        for size in _ROWS_AT_ONCE:
            while len(rows) - done >= size:
                values = [value for row in rows[done : done + size] for value in row]
                statement = _with_rows(template, size, len(rows[0]))
                changed += self._connection.execute(statement, values).rowcount
                done += size
        return changed

    def _newer_than(self, changes: Changes, now_us: int) -> Found:
        newer = Found()
        keys = list({**changes.records, **changes.evicted})
        for start in range(0, len(keys), READ_KEYS_MAX):
            found, _ = find(self._connection, keys[start : start + READ_KEYS_MAX])
            for key, record in found.packets.items():
                ours = changes.records.get(key)
                if (
                    records.timestamp_us(record) > changes.evicted[key].timestamp_us
                    if ours is None
                    else records.newer(record, ours)
                ):
                    newer.packets[key] = record
            for key, floor in found.floors.items():
                ours = changes.records.get(key)
                ours_us = (
                    changes.evicted[key].timestamp_us
                    if ours is None
                    else records.timestamp_us(ours)
                )
                if floor.timestamp_us > ours_us and not is_over(floor.evicted_us, now_us):
                    newer.floors[key] = floor
        return newer

    def _count_floors(self) -> int:
        """Count the floors, once; those that a larger cache leaves are to go by their age alone.

        They are as many as it had packets, at least.
        """
        if self._floor_count is None:
            (count,) = self._connection.execute("SELECT count(*) FROM floors").fetchone()
            packets = 0
            if self._file_bytes > self._floors_max * _PACKET_BYTES_MIN:  # else there are not more
                (packets,) = self._connection.execute("SELECT count(*) FROM packets").fetchone()
            self._floors_spared = max(self._floors_spared, count, packets)
            self._floor_count = int(count)
        return self._floor_count

    def _add_floors(self, rows: Sequence[tuple[bytes, bytes, int, int]], now_us: int) -> None:
        # Deleted and inserted again, not updated: the new id puts it last in the order.
        replaced = self._run_in_groups(_DELETE_FLOORS, [row[:1] for row in rows])
        self._run_in_groups(_INSERT_FLOORS, rows)
        count = self._count_floors() + len(rows) - replaced
        kept = max(self._floors_max, self._floors_spared)
        excess = min(max(count - kept, 0), _FLOORS_DROPPED_MAX)
        dropped = self._connection.execute(
            _DROP_OLD_FLOORS,
            {
                "excess": excess,
                "looked_at": _FLOORS_DROPPED_MAX,
                "over_us": now_us - FLOOR_LIFE_US,
            },
        )
        self._floor_count = count - dropped.rowcount

    def _replace_nodes(self, nodes: Sequence[Node]) -> None:
        self._connection.execute("DELETE FROM nodes")
        rows = [records.node_row(place, *node) for place, node in enumerate(nodes)]
        self._run_in_groups(_INSERT_NODES, rows)


# The oldest floors, by id: those in excess, and of some more those whose time is over. Times need
# not be in the order of ids: the clock may have been behind.
_DROP_OLD_FLOORS: Final = """
    DELETE FROM floors WHERE id IN (
        SELECT id FROM (SELECT id FROM floors ORDER BY id LIMIT :excess)
        UNION ALL
        SELECT id FROM (SELECT id, evicted_us FROM floors ORDER BY id LIMIT :looked_at)
        WHERE evicted_us <= :over_us)
"""


_UPSERT_PACKETS: Final = (
    "INSERT INTO packets (key, last_seen_us, payload, checksum) VALUES ROWS "
    "ON CONFLICT (key) DO UPDATE SET last_seen_us = excluded.last_seen_us, "
    "payload = excluded.payload, checksum = excluded.checksum"
)
_DELETE_PACKETS: Final = (
    "DELETE FROM packets WHERE id IN (SELECT id FROM (VALUES ROWS) AS evicted CROSS JOIN packets "
    "ON key = evicted.column1 WHERE (substr(payload, 65, 8) > evicted.column2) IS NOT TRUE)"
)
"""Keys and timestamps, which are compared as bytes; a spoiled row without one goes as well."""
_DELETE_FLOORS: Final = "DELETE FROM floors WHERE key IN (VALUES ROWS)"
_INSERT_FLOORS: Final = "INSERT INTO floors (key, timestamp, evicted_us, checksum) VALUES ROWS"
_INSERT_NODES: Final = "INSERT INTO nodes (position, node_id, ip, port, checksum) VALUES ROWS"


def _higher(floor: Floor, on_the_disk: Floor | None) -> Floor:
    """Return the floor to be written of one that is set now and one that is there."""
    if on_the_disk is None:
        return floor
    return Floor(on_the_disk.timestamp_us, max(floor.evicted_us, on_the_disk.evicted_us))


@cache
def _with_rows(template: str, rows: int, columns: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return template.replace("ROWS", ", ".join([row] * rows))
