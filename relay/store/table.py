"""The packet table: what answers are made from. Bounded, in memory; the least wanted goes first.

Two queues, in the order in which packets came (S3-FIFO, Yang et al., SOSP 2023). New ones stand in
a short one, a 32nd of the capacity: who is used there is kept, who is not goes, and leaves a ghost
for a while, by which a packet that comes back is known and kept at once. Of the kept ones the
oldest goes if it has not been used since it was last looked at; else it becomes the newest again.
So a use is a count in the packet alone, and a flood of new keys that nobody asks for drives
out new keys only. While there is room nothing goes: what is old among the new ones is kept.

Packets in use may stand one behind the other by the thousand, and no call is to take long: the
owner has them passed over a few at a time (`spare`) and evicts then.

At the start the order is known before the packets are: `expect` lays out the keys among the kept
ones, `load` fills them in place as the disk delivers.

All methods take and give plain bytes: a key of 32, a record as in `relay.store.records`. So the
table in C (`_speedups/table.pyx`) is `PacketTable` where the compiled kernels are in use; then
a record is a new object each time it is asked for. `PurePacketTable` is its twin and its
specification. Neither may be shared between Python threads.
"""

from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Final

from relay import _kernels
from relay.pkarr.packet import PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MIN
from relay.store.records import KEY_BYTES, unpack

_EXPECTED: Final = b""
"""Holds the place of a packet that is on the disk and not loaded yet; no record is empty."""
_NEW_PART: Final = 32
"""New packets may be this part of the capacity: enough to find out which are wanted, and less than
what a flood may cost."""
_USES_MAX: Final = 3
_SPARED_MAX: Final = 16
"""Packets that one call spares at most, so that it takes no longer than that."""
_GHOSTS_MAX: Final = 2**24
_RECORD_BYTES_MIN: Final = 8 + PAYLOAD_BYTES_MIN
_RECORD_BYTES_MAX: Final = 8 + PAYLOAD_BYTES_MAX


class PurePacketTable:
    """Records by key, least wanted first out.

    `len` counts packets, not places held for expected ones; there are never more places than
    `capacity`. The owner evicts: `put` may take the table over its capacity, so that a burst
    of writes is not held up and eviction can go in batches of its own.

    Methods that take something in raise ValueError for a key or a record that cannot be one.
    """

    __slots__ = (
        "_evictions",
        "_expected",
        "_ghosts",
        "_ghosts_max",
        "_kept",
        "_new",
        "_used",
        "_uses",
        "_walk",
        "capacity",
        "changes",
    )

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.changes = 0
        """If it is what it was before, so is the order."""
        self._new: OrderedDict[bytes, bytes] = OrderedDict()
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()
        self._expected = 0
        self._uses: dict[bytes, int] = {}  # how often each will be spared
        self._used: set[bytes] = set()  # ever, since it is here
        self._ghosts: OrderedDict[bytes, int] = OrderedDict()  # by number of the eviction
        self._ghosts_max = self._ghosts_room
        self._evictions = 0  # of packets that nobody had used
        self._walk = iter(list[bytes]())

    def __len__(self) -> int:
        return len(self._new) + len(self._kept) - self._expected

    def __contains__(self, key: bytes) -> bool:
        return self.peek(key) is not None

    def get(self, key: bytes) -> bytes | None:
        """Return the record and count it as used."""
        record = self.peek(key)
        if record is not None:
            self._use(key)
        return record

    def peek(self, key: bytes) -> bytes | None:
        """Return the record, and leave everything alone."""
        return self._new.get(key) or self._kept.get(key) or None

    def put(self, key: bytes, record: bytes) -> None:
        """Insert a record, or replace one: that is a use of it."""
        _check(key, record)
        self.changes += 1
        if key in self._new or key in self._kept:
            queue = self._new if key in self._new else self._kept
            self._expected -= not queue[key]
            queue[key] = record
            self._use(key)
            return
        (self._kept if self._is_back(key) else self._new)[key] = record
        if len(self._new) > self._new_share and self._places <= self.capacity:
            self._keep(next(iter(self._new)))

    @property
    def _places(self) -> int:
        return len(self._new) + len(self._kept)

    @property
    def _new_share(self) -> int:
        return max(self.capacity // _NEW_PART, 1)

    @property
    def _ghosts_room(self) -> int:
        """As many as there may be kept ones."""
        return min(max(self.capacity - self._new_share, 0), _GHOSTS_MAX)

    @property
    def _are_new_to_go(self) -> bool:
        """Whether there are too many new ones, or at least not too many kept ones."""
        kept = len(self._kept)
        room = not kept or kept + self._new_share <= self.capacity
        return bool(self._new) and (len(self._new) > self._new_share or room)

    def _use(self, key: bytes) -> None:
        self._uses[key] = min(self._uses.get(key, 0) + 1, _USES_MAX)
        if key not in self._used:
            self._used.add(key)
            self.changes += 1

    def _keep(self, key: bytes) -> None:
        """Make `key` the newest of the kept ones."""
        record = self._new.pop(key, None)
        self._kept[key] = self._kept.pop(key) if record is None else record
        self.changes += 1

    def _is_back(self, key: bytes) -> bool:
        """Tell whether `key` was among the last evicted new ones, and forget that."""
        number = self._ghosts.pop(key, None)
        return number is not None and self._evictions - number < self._ghosts_max

    def _leave_ghost(self, key: bytes) -> None:
        self._evictions += 1
        self._ghosts[key] = self._evictions
        while len(self._ghosts) > self._ghosts_max:
            self._ghosts.popitem(last=False)

    def expect(self, keys: bytes) -> None:
        """Hold places for packets on the disk, each as the oldest of the kept ones so far.

        Args:
            keys: one or many, one after the other, the most wanted one first.
        """
        if len(keys) % KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes")
        for at in range(0, len(keys), KEY_BYTES):
            key = keys[at : at + KEY_BYTES]
            if key not in self._new and key not in self._kept and self._places < self.capacity:
                self._kept[key] = _EXPECTED
                self._kept.move_to_end(key, last=False)
                self._expected += 1

    def load(self, key: bytes, record: bytes) -> bool:
        """Put a record from the disk in its place, or as the oldest kept one if none was held.

        Returns:
            False if it was not expected and there is no room left. A key that has a record
            keeps it: memory is never behind the disk.
        """
        _check(key, record)
        self.changes += 1
        held = self._new.get(key, self._kept.get(key))
        if held is None:
            if self._places >= self.capacity:
                return False
            self._kept[key] = record
            self._kept.move_to_end(key, last=False)
        elif held == _EXPECTED:
            self._kept[key] = record
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
            missing = [key for key, record in self._kept.items() if not record]
            for key in missing:
                del self._kept[key]
            self._expected = 0

    def resize(self, capacity: int) -> None:
        """Take another capacity; the owner evicts what is too much, and calls `spread`.

        Who was evicted is forgotten: there will be more ghosts, or fewer.
        """
        if capacity < 0:
            raise OverflowError("a capacity is not negative")
        self.capacity = capacity
        if self._ghosts_max != self._ghosts_room:
            self._ghosts_max = self._ghosts_room
            self._ghosts.clear()

    def spread(self) -> bool:
        """Bring the order of places nearer to the capacity, in a few microseconds.

        Returns:
            False if it is there. A dictionary always is; the compiled table has buckets.
        """
        return False

    def settle(self) -> None:
        """Do what makes look-ups in a large table faster and takes time: nothing here.

        To be called after loading, from any thread: the compiled one asks for huge pages.
        """

    def spare(self) -> bool:
        """Pass over used packets that would be the next to go, a few at most.

        Returns:
            True if the next one may be used as well: call again before `evict`. It ends, as
            each packet passed over has one use less. False: it was not used, or there is none.
        """
        for _ in range(_SPARED_MAX):
            key = self._next_to_go()
            if key is None or not self._uses.get(key):
                return False
            self._uses[key] -= 1
            self._keep(key)
        return True

    def evict(self) -> tuple[bytes, bytes] | None:
        """Remove and return the least wanted packet; None when there is none.

        Who cannot wait for `spare` has a few passed over, and then the next goes, used or not.
        Places of expected packets on the way are given up.
        """
        self.spare()
        key = self._next_to_go()
        if key is None:
            return None
        is_new = key in self._new
        record = self.remove(key)
        if is_new:
            self._leave_ghost(key)
        return None if record is None else (key, record)

    def _next_to_go(self) -> bytes | None:
        while self._places:
            key, record = next(iter((self._new if self._are_new_to_go else self._kept).items()))
            if record != _EXPECTED:
                return key
            del self._kept[key]
            self._expected -= 1
        return None

    def remove(self, key: bytes) -> bytes | None:
        """Remove and return the record of `key`; None if there is none: a place stays."""
        record = self.peek(key)
        if record is not None:
            self._new.pop(key, None)
            self._kept.pop(key, None)
            self._uses.pop(key, None)
            self._used.discard(key)
            self.changes += 1
        return record

    def keys(self) -> list[bytes]:
        """Return all keys that have a record, most wanted first; see `walk` for many.

        Those that were used come first, and among each the kept ones; in each part the last to
        come is first.
        """
        return list(reversed(list(self.records())))

    def records(self) -> dict[bytes, bytes]:
        """Return all records by key, least wanted first; the dictionary is the caller's."""
        return dict(self._in_order())

    def _in_order(self) -> Iterator[tuple[bytes, bytes]]:
        for used in (False, True):
            for queue in (self._new, self._kept):
                for key, record in queue.items():
                    if record and (key in self._used) == used:
                        yield key, record

    def begin_walk(self) -> None:
        """Start a walk over all keys; one under way is given up."""
        self._walk = iter(list(self.records()))

    def walk(self, count: int) -> bytes:
        """Return the next keys of the walk, at most `count`, in one string; empty at the end.

        The first piece has the least wanted keys; within a piece they stand the other way round.
        So all pieces, put together last one first, are the order of `keys`.

        Between two pieces the table may change. What is used meanwhile may come again, or in
        its old place; what goes may be left out, and so may be what is new.
        """
        if count < 1:
            raise ValueError("a piece has at least one key")
        there = (key for key in self._walk if key in self)
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
