"""The packet table against plain lists, as a state machine.

The model is what the table promises: a list of new packets and one of those that are kept, each in
the order in which they came, places held for packets that are expected from the disk, and who was
evicted unused. The table in use is tested, and the pure one where that is another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from relay.store.records import KEY_BYTES, packed
from relay.store.table import PacketTable, PurePacketTable

keys = st.integers(0, 9).map(lambda number: b"%032d" % number)
records = st.tuples(st.sampled_from([80, 81, 92, 93, 261, 1080]), st.integers(0, 3)).map(
    lambda size_and_octet: bytes([size_and_octet[1]]) * size_and_octet[0]
)


@dataclass
class Entry:
    """A packet, or, without a record, the place of one; `uses` is how often it will be spared."""

    key: bytes
    record: bytes | None
    uses: int = 0
    used: bool = False

    def use(self) -> None:
        self.uses = min(self.uses + 1, 3)
        self.used = True


class TableMachine(RuleBasedStateMachine):
    """`new` and `kept` are the model, oldest first, `ghosts` the keys evicted from `new`.

    `throughout` are the packets that were there since the walk began, `visited` what it gave.
    """

    kind: ClassVar[type[PacketTable]] = PacketTable

    @initialize(capacity=st.one_of(st.integers(0, 6), st.just(70)))
    def start(self, capacity: int) -> None:
        self.table = self.kind(capacity)
        self.new: list[Entry] = []
        self.kept: list[Entry] = []
        self.ghosts: list[bytes | None] = []
        self.ghosts_max = self.ghosts_room
        self.throughout: set[bytes] | None = None
        self.visited = b""
        self.undisturbed = False
        self.changes = (self.table.changes, self.table.keys())

    def held(self, key: bytes) -> Entry | None:
        return next((entry for entry in self.new + self.kept if entry.key == key), None)

    def has_room(self) -> bool:
        return len(self.new + self.kept) < self.table.capacity

    def in_order(self) -> list[Entry]:
        entries = sorted(self.new + self.kept, key=lambda entry: entry.used)
        return [entry for entry in entries if entry.record is not None]

    @property
    def new_share(self) -> int:
        return max(self.table.capacity // 32, 1)

    @property
    def ghosts_room(self) -> int:
        return max(self.table.capacity - self.new_share, 0)

    def remember(self, key: bytes) -> None:
        """Among the last evicted; those that came back leave a gap."""
        self.ghosts.append(key)
        del self.ghosts[: max(len(self.ghosts) - self.ghosts_max, 0)]

    @rule(key=keys, record=records)
    def put(self, key: bytes, record: bytes) -> None:
        self.table.put(key, record)
        entry = self.held(key)
        if entry is not None:
            entry.record = record
            entry.use()
            return
        if key in self.ghosts:
            self.ghosts[self.ghosts.index(key)] = None
            self.kept.append(Entry(key, record))
        else:
            self.new.append(Entry(key, record))
        room = len(self.new + self.kept) <= self.table.capacity
        if room and len(self.new) > self.new_share:
            self.kept.append(self.new.pop(0))

    @rule(key=keys)
    def get(self, key: bytes) -> None:
        entry = self.held(key)
        if entry is None or entry.record is None:
            assert self.table.get(key) is None
        else:
            assert self.table.get(key) == entry.record
            entry.use()

    @rule(key=keys)
    def peek(self, key: bytes) -> None:
        entry = self.held(key)
        assert self.table.peek(key) == (None if entry is None else entry.record)
        assert (key in self.table) == (self.table.peek(key) is not None)

    @rule(run=st.lists(keys, max_size=4))
    def expect(self, run: list[bytes]) -> None:
        self.table.expect(b"".join(run))
        for key in run:
            if self.held(key) is None and self.has_room():
                self.kept.insert(0, Entry(key, None))

    def take(self, key: bytes, record: bytes) -> bool:
        """Load into the model; False: there is no room, or it is there already."""
        entry = self.held(key)
        if entry is None and self.has_room():
            self.kept.insert(0, Entry(key, record))
            return True
        if entry is not None and entry.record is None:
            entry.record = record
            return True
        return False

    @rule(key=keys, record=records)
    def load(self, key: bytes, record: bytes) -> None:
        entry = self.held(key)
        there = entry is not None and entry.record is not None
        assert self.table.load(key, record) == (self.take(key, record) or there)

    @rule(rows=st.lists(st.tuples(keys, records), max_size=4))
    def load_pack(self, rows: list[tuple[bytes, bytes]]) -> None:
        refused = [row for row in rows if not self.take(*row)]
        assert self.table.load_pack(b"".join(packed(*row) for row in rows)) == refused

    @rule()
    def forget_expected(self) -> None:
        self.table.forget_expected()
        self.kept = [entry for entry in self.kept if entry.record is not None]

    def queue_to_go(self) -> list[Entry]:
        """Where the next to go stands first; places before it are given up."""
        while True:
            kept_share = max(self.table.capacity - self.new_share, 0)
            is_new = len(self.new) > self.new_share or len(self.kept) <= kept_share
            queue = self.new if is_new and self.new else self.kept
            if not queue or queue[0].record is not None:
                return queue
            del queue[0]

    def spared(self) -> bool:
        """Spare some in the model."""
        for _ in range(16):
            queue = self.queue_to_go()
            if not queue or not queue[0].uses:
                return False
            entry = queue.pop(0)
            entry.uses -= 1
            self.kept.append(entry)
        return True

    def victim(self) -> tuple[bytes, bytes] | None:
        """Evict from the model."""
        self.spared()
        queue = self.queue_to_go()
        if not queue:
            return None
        entry = queue.pop(0)
        if queue is self.new:
            self.remember(entry.key)
        assert entry.record is not None
        return entry.key, entry.record

    @rule()
    def spare(self) -> None:
        assert self.table.spare() == self.spared()

    @rule()
    def evict(self) -> None:
        assert self.table.evict() == self.victim()

    @precondition(lambda self: len(self.new + self.kept) > self.table.capacity)
    @rule()
    def evict_what_is_too_much(self) -> None:
        while len(self.table) > self.table.capacity:
            self.evict()

    @rule(capacity=st.integers(0, 6))
    def resize(self, capacity: int) -> None:
        self.table.resize(capacity)
        if self.ghosts_max != self.ghosts_room:
            self.ghosts_max = self.ghosts_room
            self.ghosts.clear()
        assert self.table.capacity == capacity

    @rule()
    def spread(self) -> None:
        self.table.spread()

    @rule(key=keys)
    def remove(self, key: bytes) -> None:
        entry = self.held(key)
        if entry is None or entry.record is None:
            assert self.table.remove(key) is None
        else:
            assert self.table.remove(key) == entry.record
            (self.new if entry in self.new else self.kept).remove(entry)

    @rule()
    def begin_walk(self) -> None:
        self.table.begin_walk()
        self.throughout = {entry.key for entry in self.in_order()}
        self.visited = b""
        self.undisturbed = True

    @precondition(lambda self: self.throughout is not None)
    @rule(count=st.integers(1, 4))
    def walk(self, count: int) -> None:
        piece = self.table.walk(count)
        assert len(piece) % KEY_BYTES == 0
        assert len(piece) <= count * KEY_BYTES
        self.visited = piece + self.visited
        if piece:
            return
        octets = self.visited
        visited = [octets[at : at + KEY_BYTES] for at in range(0, len(octets), KEY_BYTES)]
        assert self.throughout is not None
        assert self.throughout <= set(visited)
        if self.undisturbed:
            assert visited == self.table.keys()
        self.throughout = None

    @invariant()
    def agrees_with_the_model(self) -> None:
        present = [(entry.key, entry.record) for entry in self.in_order()]
        assert len(self.table) == len(present)
        order = self.table.keys()
        assert order == [key for key, _ in reversed(present)]
        assert self.table.records() == dict(present)
        if order != self.changes[1]:
            assert self.table.changes > self.changes[0]
            self.undisturbed = False
        self.changes = (self.table.changes, order)
        if self.throughout is not None:
            self.throughout &= {key for key, _ in present}


class PureTableMachine(TableMachine):
    kind = PurePacketTable


TestTable = TableMachine.TestCase
TestTable.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestPureTable = PureTableMachine.TestCase
TestPureTable.settings = TestTable.settings
