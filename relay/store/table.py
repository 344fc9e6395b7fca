"""The packet table: what answers are made from. Bounded, ordered by last use, in memory.

A dictionary that keeps an order: the front is the least recently used end. At the start the
order is known before the packets are: `expect` lays out the keys, `load` fills them in place as
the disk delivers, and whatever is used meanwhile moves to the recent end as always.

All methods take and give plain bytes: a key of 32, a record as in `relay.store.records`. So the
table in C (`_speedups/table.pyx`) is `PacketTable` where the compiled kernels are in use; then
a record is a new object each time it is asked for. `PurePacketTable` is its twin and its
specification. Neither may be shared between Python threads.
"""

from collections import OrderedDict
from itertools import islice
from typing import TYPE_CHECKING, Final

from relay import _kernels
from relay.pkarr.packet import PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MIN
from relay.store.records import KEY_BYTES, unpack

_EXPECTED: Final = b""
"""Holds the place of a packet that is on the disk and not loaded yet; no record is empty."""
_RECORD_BYTES_MIN: Final = 8 + PAYLOAD_BYTES_MIN
_RECORD_BYTES_MAX: Final = 8 + PAYLOAD_BYTES_MAX


class PurePacketTable:
    """Records by key, least recently used first out.

    `len` counts packets, not places held for expected ones; there are never more places than
    `capacity`. The owner evicts: `put` may take the table over its capacity, so that a burst
    of writes is not held up and eviction can go in batches of its own.

    Methods that take something in raise ValueError for a key or a record that cannot be one.
    """

    __slots__ = ("_entries", "_expected", "_walk", "capacity", "changes")

    def __init__(self, capacity: int) -> None:
        self.capacity: Final = capacity
        self.changes = 0
        """If it is what it was before, so is the order of use."""
        self._entries: OrderedDict[bytes, bytes] = OrderedDict()
        self._expected = 0
        self._walk = iter(list[bytes]())

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
        self.changes += 1
        return record

    def peek(self, key: bytes) -> bytes | None:
        """Return the record, and leave the order alone."""
        return self._entries.get(key) or None

    def put(self, key: bytes, record: bytes) -> None:
        """Insert or replace a record; it is used now."""
        _check(key, record)
        self.changes += 1
        if self._entries.get(key) == _EXPECTED:
            self._expected -= 1
        self._entries[key] = record
        self._entries.move_to_end(key)

    def expect(self, keys: bytes) -> None:
        """Hold places for packets on the disk, each as the least recently used of all so far.

        Args:
            keys: one or many, one after the other, the most recently used one first.
        """
        if len(keys) % KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes")
        for at in range(0, len(keys), KEY_BYTES):
            key = keys[at : at + KEY_BYTES]
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
        _check(key, record)
        self.changes += 1
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

    def load_pack(self, pack: bytes) -> list[tuple[bytes, bytes]]:
        """Load many rows, as `relay.store.records.pack_rows` gives them, in their order.

        Returns:
            Key and record of each row that was not taken: the key has a record already, or
            was not expected and found no room.
        """
        return [
            (key, record)
            for key, record in list(unpack(pack))
            if self.peek(key) is not None or not self.load(key, record)
        ]

    def forget_expected(self) -> None:
        """Give up the places of packets that the disk did not deliver."""
        if self._expected:
            missing = [key for key, record in self._entries.items() if not record]
            for key in missing:
                del self._entries[key]
            self._expected = 0

    def settle(self) -> None:
        """Do what makes look-ups in a large table faster and takes time: nothing here.

        To be called after loading, from any thread: the compiled one asks for huge pages.
        """

    def evict(self) -> tuple[bytes, bytes] | None:
        """Remove and return the least recently used packet; None when there is none.

        Places of expected packets on the way are given up.
        """
        while self._entries:
            key, record = self._entries.popitem(last=False)
            if record:
                self.changes += 1
                return key, record
            self._expected -= 1
        return None

    def keys(self) -> list[bytes]:
        """Return all keys that have a record, most recently used first; see `walk` for many."""
        if not self._expected:  # the common case, five times faster
            return list(reversed(self._entries))
        return [key for key, record in reversed(self._entries.items()) if record]

    def records(self) -> dict[bytes, bytes]:
        """Return all records by key; the dictionary is the caller's."""
        return {key: record for key, record in self._entries.items() if record}

    def begin_walk(self) -> None:
        """Start a walk over all keys; one under way is given up."""
        self._walk = iter(list(self._entries))

    def walk(self, count: int) -> bytes:
        """Return the next keys of the walk, at most `count`, in one string; empty at the end.

        The first piece has the least recently used keys; within a piece they stand the other
        way round. So all pieces, put together last one first, are the order of use.

        Between two pieces the table may change. What is used meanwhile may come again, or in
        its old place; what goes may be left out, and so may be what is new.
        """
        if count < 1:
            raise ValueError("a piece has at least one key")
        there = (key for key in self._walk if self._entries.get(key))
        return b"".join(reversed(list(islice(there, count))))


def _check(key: bytes, record: bytes) -> None:
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes")
    if not _RECORD_BYTES_MIN <= len(record) <= _RECORD_BYTES_MAX:
        raise ValueError(f"a record has {_RECORD_BYTES_MIN} to {_RECORD_BYTES_MAX} bytes")


if TYPE_CHECKING or _kernels.IMPLEMENTATION == "pure":
    from relay.store.records import pack_rows

    PacketTable = PurePacketTable
else:
    from relay._speedups.table import PacketTable, pack_rows


__all__ = ["PacketTable", "PurePacketTable", "pack_rows"]
