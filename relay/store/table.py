"""The packet table: what answers are made from. Bounded, ordered by last use, in memory.

A dictionary that keeps an order: the front is the least recently used end. At the start the
order is known before the packets are: `expect` lays out the keys, `load` fills them in place as
the disk delivers, and whatever is used meanwhile moves to the recent end as always.

All methods take and give plain bytes (a key of 32, a record as in `relay.store.records`), so a
table in C can stand here without anybody noticing. Not safe to share between threads.
"""

from collections import OrderedDict
from typing import Final

_EXPECTED: Final = b""
"""Holds the place of a packet that is on the disk and not loaded yet; no record is empty."""


class PacketTable:
    """Records by key, least recently used first out.

    `len` counts packets, not places held for expected ones; there are never more places than
    `capacity`. The owner evicts: `put` may take the table over its capacity, so that a burst
    of writes is not held up and eviction can go in batches of its own.
    """

    __slots__ = ("_entries", "_expected", "capacity")

    def __init__(self, capacity: int) -> None:
        self.capacity: Final = capacity
        self._entries: OrderedDict[bytes, bytes] = OrderedDict()
        self._expected = 0

    def __len__(self) -> int:
        return len(self._entries) - self._expected

    def __contains__(self, key: bytes) -> bool:
        return self._entries.get(key, _EXPECTED) is not _EXPECTED

    def get(self, key: bytes) -> bytes | None:
        """Return the record and mark it as used now."""
        record = self._entries.get(key, _EXPECTED)
        if record is _EXPECTED:
            return None
        self._entries.move_to_end(key)
        return record

    def peek(self, key: bytes) -> bytes | None:
        """Return the record, and leave the order alone."""
        return self._entries.get(key) or None

    def put(self, key: bytes, record: bytes) -> None:
        """Insert or replace a record; it is used now."""
        if self._entries.get(key) == _EXPECTED:
            self._expected -= 1
        self._entries[key] = record
        self._entries.move_to_end(key)

    def expect(self, key: bytes) -> None:
        """Hold a place for a packet on the disk, as the least recently used of all so far."""
        if key not in self._entries and len(self._entries) < self.capacity:
            self._entries[key] = _EXPECTED
            self._entries.move_to_end(key, last=False)
            self._expected += 1

    def load(self, key: bytes, record: bytes) -> bool:
        """Put a record from the disk in its place, or last in the order if none was held.

        Returns:
            False if it was not expected and there is no room left. A key that has a record
            keeps it: memory is never behind the disk.
        """
        held = self._entries.get(key)
        if held is None:
            if len(self._entries) >= self.capacity:
                return False
            self._entries[key] = record
            self._entries.move_to_end(key, last=False)
        elif held == _EXPECTED:
            self._entries[key] = record
            self._expected -= 1
        return True

    def forget_expected(self) -> None:
        """Give up the places of packets that the disk did not deliver."""
        if self._expected:
            missing = [key for key, record in self._entries.items() if not record]
            for key in missing:
                del self._entries[key]
            self._expected = 0

    def evict(self) -> tuple[bytes, bytes] | None:
        """Remove and return the least recently used packet; None when there is none.

        Places of expected packets on the way are given up.
        """
        while self._entries:
            key, record = self._entries.popitem(last=False)
            if record:
                return key, record
            self._expected -= 1
        return None

    def keys(self) -> list[bytes]:
        """Return all keys that have a record, most recently used first."""
        if not self._expected:  # the common case, five times faster
            return list(reversed(self._entries))
        return [key for key, record in reversed(self._entries.items()) if record]

    def records(self) -> dict[bytes, bytes]:
        """Return all records by key; the dictionary is the caller's."""
        return {key: record for key, record in self._entries.items() if record}
