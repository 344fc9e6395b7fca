"""What the table holds and the disk does not: waiting to be written, or being written.

Somebody who waits for an acknowledgement waits for a group. Groups take all records that are
waited for and fill up with others, so a long backlog, after the disk was full for a while,
does not hold up those who wait. A record that is evicted while it is waited for leaves its floor
in its place: the group has one or the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

import trio

from relay.store.floors import Floor
from relay.store.table import PacketTable

GROUP_RECORDS_MAX: Final = 512
"""About 10 ms of writing. More only if more are waited for at once: one for each request."""


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """What is written together. `done`: it is on the disk, or writing has failed."""

    records: dict[bytes, bytes]
    evicted: dict[bytes, Floor]
    done: trio.Event


class Backlog:
    """Records by key, each the one that `table` holds. So the table's size bounds it."""

    def __init__(self, table: PacketTable) -> None:
        self._table = table
        self._awaited: dict[bytes, bytes] = {}
        self._awaited_evicted: dict[bytes, Floor] = {}
        self._awaited_done = trio.Event()
        self._others: dict[bytes, bytes] = {}
        self._writing: Group | None = None

    def __len__(self) -> int:
        """How many records are not on the disk."""
        writing = 0 if self._writing is None else len(self._writing.records)
        return writing + self.waiting

    @property
    def waiting(self) -> int:
        """How many records no group has taken yet."""
        return len(self._awaited) + len(self._others)

    def add(self, key: bytes, record: bytes) -> None:
        """Note a record that the disk does not have."""
        evicted = self._awaited_evicted.pop(key, None)
        is_awaited = evicted is not None or key in self._awaited
        (self._awaited if is_awaited else self._others)[key] = record

    def drop(self, key: bytes) -> None:
        """Forget a record that the disk has, or a newer one; nobody is to wait for it."""
        was_awaited = key in self._awaited or key in self._awaited_evicted
        self._awaited.pop(key, None)
        self._awaited_evicted.pop(key, None)
        self._others.pop(key, None)
        if not was_awaited or self._awaited or self._awaited_evicted:
            return  # those who wait for others wait with them
        self._awaited_done.set()  # there may be no next group
        self._awaited_done = trio.Event()

    def raise_floor(self, key: bytes, floor: Floor) -> None:
        """Note that a floor of `key` that somebody waits for is to be at least as high."""
        awaited = self._awaited_evicted.get(key)
        if awaited is not None and awaited.timestamp_us < floor.timestamp_us:
            self._awaited_evicted[key] = floor

    def evict(self, key: bytes, floor: Floor) -> None:
        """Forget a record that the table no longer holds; who waits for it waits for its floor."""
        if self._awaited.pop(key, None) is not None or key in self._awaited_evicted:
            self._awaited_evicted[key] = floor
        self._others.pop(key, None)

    def written(self, key: bytes, evicted: Floor | None = None) -> trio.Event | None:
        """Return what to wait for until the disk has what is known of `key`; None: it has.

        Args:
            key: the key.
            evicted: the floor that takes the record's place, if that is not on the disk yet.
        """
        if evicted is not None:
            if self._writing is not None and self._writing.evicted.get(key) is evicted:
                return self._writing.done
            self._awaited_evicted[key] = evicted
            return self._awaited_done
        if key in self._others:
            self._awaited[key] = self._others.pop(key)
        if key in self._awaited:
            return self._awaited_done
        if self._writing is not None and key in self._writing.records:
            return self._writing.done
        return None

    def take(self, evicted: Mapping[bytes, Floor]) -> Group:
        """Start writing a group. It ends with `finish` or `fail`.

        Args:
            evicted: floors to be written with it, besides those that are waited for.
        """
        records = self._awaited
        for key in list(islice(self._others, max(GROUP_RECORDS_MAX - len(records), 0))):
            records[key] = self._others.pop(key)
        group = Group(records, {**evicted, **self._awaited_evicted}, self._awaited_done)
        self._writing = group
        self._awaited, self._awaited_evicted, self._awaited_done = {}, {}, trio.Event()
        return group

    def finish(self, group: Group) -> None:
        """Note that `group` is on the disk."""
        self._writing = None
        group.done.set()

    def fail(self, group: Group) -> None:
        """Take back the records of `group` that are still the table's; let all waiters go."""
        for key, record in group.records.items():
            if self._table.peek(key) == record:
                self._others[key] = record
        self.finish(group)
        self.release()

    def release(self) -> None:
        """Let all waiters go; the records stay."""
        self._others.update(self._awaited)
        self._awaited, self._awaited_evicted = {}, {}
        self._awaited_done.set()
        self._awaited_done = trio.Event()

    def clear(self) -> None:
        """Give up: nothing will be written any more."""
        self.release()
        self._others.clear()
