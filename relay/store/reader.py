"""Reading the shadow: single packets on demand, and everything at the start, piece by piece.

`PacketReader` has a connection of its own: with a write-ahead log a reader neither waits for the
writer nor holds it up. Everything is read in short statements, fetched whole, so that the log can
be folded away between them. Spoiled rows are left out and counted.

Calls block; `relay.store.worker` makes them in a thread. All raise `DatabaseFaultError`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from zlib import crc32

from relay.store import records
from relay.store.database import Connected, open_for_reading
from relay.store.faults import as_faults, lasting
from relay.store.found import Found, find
from relay.store.packets import Node
from relay.store.table import pack_rows

_SCAN_ROWS: Final = 512
"""Packets in one piece: 1 ms of reading in the thread, 0.3 ms of taking over."""
_EXPECTED_KEYS: Final = 512
"""Keys in one piece of the order of use; as long, for each touches a page for the first time."""
NODES_MAX: Final = 10_000
_ABOVE_ALL_IDS: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Piece:
    """Something of the start-up load, each piece less wanted than those before it."""

    pack: bytes = b""
    """Keys and records, as `relay.store.records.pack_rows` gives them."""
    expected: bytes = b""
    """Keys alone, one after the other, most wanted first: their packets follow in any
    order."""


class PacketReader(Connected):
    """A reading connection to a database file. Use from one thread at a time; `close` it."""

    def __init__(self, path: Path) -> None:
        with as_faults(path):
            connection, self.frozen = open_for_reading(path)
        super().__init__(path, connection)
        self.bad_rows = 0
        """Spoiled rows met so far."""

    def has_floors(self) -> bool:
        """Tell whether there are any freshness floors."""
        with as_faults(self._path):
            row = self._connection.execute("SELECT EXISTS (SELECT 1 FROM floors)").fetchone()
            return bool(row[0])

    def latest_us(self) -> int:
        """Return when the packet was last seen that came last, 0 if nobody knows.

        Our wall clock has said so once: one that says less may be behind. Microseconds since 1970.
        """
        with as_faults(self._path):
            row = self._connection.execute(
                f"SELECT {records.ROW_AS_HEX} FROM packets ORDER BY id DESC LIMIT 1"  # noqa: S608
            ).fetchone()
        checked = records.checked_row(row[0] or "") if row is not None else None
        return 0 if checked is None else records.last_seen_us(checked[1])

    def read(self, keys: Sequence[bytes]) -> Found:
        """Return the packets and floors of up to `READ_KEYS_MAX` keys."""
        with as_faults(self._path):
            found, bad_rows = find(self._connection, keys)
        self.bad_rows += bad_rows
        return found

    def nodes(self) -> list[Node]:
        """Return the saved DHT routing table."""
        with as_faults(self._path):
            rows = self._connection.execute(
                "SELECT node_id, ip, port, checksum FROM nodes ORDER BY position LIMIT ?",
                (NODES_MAX,),
            ).fetchall()
        checked = [records.checked_node(*row) for row in rows]
        nodes = [node for node in checked if node is not None]
        self.bad_rows += len(checked) - len(nodes)
        return nodes

    def load(self) -> Iterator[Piece]:
        """Deliver the whole database, in pieces that take a few milliseconds each.

        First the packets that came after the order of use was last written, newest first;
        then that order, keys only; then all other packets from the newest to the oldest. So
        rows are read in the order they lie in, which is five times faster than in the order
        of use; whoever needs one packet earlier reads it by itself.
        """
        with as_faults(self._path):
            # While a generation is being written, the one before it is the complete one.
            generation, newest_id = self._connection.execute(
                "SELECT coalesce(min(generation), 0), "
                "CAST(coalesce(min(newest_id), 0) AS INTEGER) FROM recency "
                "WHERE generation = (SELECT min(generation) FROM recency)"
            ).fetchone()
        newest_id = min(newest_id, _ABOVE_ALL_IDS - 1)  # it may be spoiled
        yield from self._scan(_ABOVE_ALL_IDS, newest_id)
        yield from self._order_of_use(generation)
        yield from self._scan(newest_id + 1, 0)

    def _order_of_use(self, generation: int) -> Iterator[Piece]:
        row_id = 0
        while True:
            with as_faults(self._path):
                row = self._connection.execute(
                    "SELECT id, keys, checksum FROM recency WHERE id > ? AND generation = ? "
                    "ORDER BY id LIMIT 1",
                    (row_id, generation),
                ).fetchone()
            if row is None:
                return
            if row[0] <= row_id:  # else it would never end
                raise lasting(self._path, "is damaged (rows of recency are out of order)")
            row_id, keys, checksum = row
            if isinstance(keys, bytes) and crc32(keys) == checksum:
                whole = len(keys) - len(keys) % records.KEY_BYTES
                size = _EXPECTED_KEYS * records.KEY_BYTES
                for start in range(0, whole, size):
                    yield Piece(expected=keys[start : min(start + size, whole)])
            else:
                self.bad_rows += 1

    def _scan(self, below_id: int, above_id: int) -> Iterator[Piece]:
        """Deliver the packets between two ids, downwards.

        In a spoiled page ids need not be in order, and a walk over them may end early or leave out
        what lies between: then nobody can tell what there is.
        """
        while True:
            with as_faults(self._path):
                upwards_id, ids, rows = self._connection.execute(
                    "SELECT (SELECT min(id) FROM packets WHERE id < :below AND id > :above), "  # noqa: S608
                    f"group_concat(id), group_concat({records.ROW_AS_HEX}, ' ') "
                    "FROM (SELECT * FROM packets WHERE id < :below AND id > :above "
                    "ORDER BY id DESC LIMIT :count)",
                    {"below": below_id, "above": above_id, "count": _SCAN_ROWS},
                ).fetchone()
            if ids is None and upwards_id is None:
                return
            walk = [below_id, *map(int, ids.split(",")), above_id] if ids else []
            if not walk or walk != sorted(set(walk), reverse=True):
                raise lasting(self._path, "is damaged (rows of packets are out of order)")
            below_id = walk[-2]
            good, pack = pack_rows(rows or "")
            self.bad_rows += len(walk) - 2 - good  # a row with a NULL in it is not even in `rows`
            yield Piece(pack=pack)
