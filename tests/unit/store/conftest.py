"""What the store's tests share: packets that need no valid signature, and a clock that stands."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from relay.pkarr.keys import PublicKey
from relay.pkarr.packet import SeenPacket, SignedPacket

NOW_US = 1_750_000_000_000_000


@pytest.fixture
def packet() -> Callable[..., SeenPacket]:
    """Make a packet: the store believes what it is given."""

    def make(number: int, timestamp_us: int = 1, dns: bytes = b"dns", seen_us: int = NOW_US):
        key = PublicKey(number.to_bytes(32, "big"))
        return SeenPacket(SignedPacket(key, bytes(64), timestamp_us, dns), seen_us)

    return make


PAGE_BYTES = 4096
_ROW_ID = 2


@pytest.fixture
def number_alike() -> Callable[[Path, str], None]:
    """Give all rows of a small table one number, as a spoiled disk may (fileformat2, 1.6)."""

    def spoil(path: Path, table: str) -> None:
        with closing(sqlite3.connect(path)) as connection:
            (root,) = connection.execute(
                "SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)
            ).fetchone()
        octets = bytearray(path.read_bytes())
        page = memoryview(octets)[(root - 1) * PAGE_BYTES : root * PAGE_BYTES]
        assert page[0] == 13  # a leaf
        count = int.from_bytes(page[3:5], "big")
        assert count >= 5
        for at in range(8, 8 + 2 * count, 2):
            cell = int.from_bytes(page[at : at + 2], "big")
            while page[cell] & 0x80:  # the size of the row
                cell += 1
            assert not page[cell + 1] & 0x80
            page[cell + 1] = _ROW_ID
        path.write_bytes(octets)

    return spoil
