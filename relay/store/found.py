"""What the disk has of some keys, read by whichever connection wants to know."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from relay.store import records
from relay.store.floors import Floor

READ_KEYS_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Found:
    """Packets, as records, and floors, by key."""

    packets: dict[bytes, bytes] = field(default_factory=dict)
    floors: dict[bytes, Floor] = field(default_factory=dict)


def find(connection: sqlite3.Connection, keys: Sequence[bytes]) -> tuple[Found, int]:
    """Return the packets and floors of up to `READ_KEYS_MAX` keys, and how many rows are spoiled.

    Raises:
        sqlite3.Error: what SQLite says.
    """
    places = ", ".join("?" * len(keys))
    found = Found()
    count, rows = connection.execute(
        f"SELECT count(*), group_concat({records.ROW_AS_HEX}, ' ') FROM packets "  # noqa: S608
        f"WHERE key IN ({places})",
        keys,
    ).fetchone()
    floors = connection.execute(
        f"SELECT key, timestamp, evicted_us, checksum FROM floors WHERE key IN ({places})",  # noqa: S608
        keys,
    ).fetchall()
    good = [row for row in map(records.checked_row, rows.split(" ")) if row] if rows else []
    found.packets.update(good)
    good_floors = [row for row in (records.checked_floor(*row) for row in floors) if row]
    found.floors.update((key, Floor(*times)) for key, *times in good_floors)
    return found, count - len(good) + len(floors) - len(good_floors)
