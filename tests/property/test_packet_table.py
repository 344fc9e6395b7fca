"""The packet table against a plain list, as a state machine.

The model is what the table promises: a list in order of last use, and places held for packets
that are expected from the disk. The table in use is tested, and the pure one where that is
another.
"""

from __future__ import annotations

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


class TableMachine(RuleBasedStateMachine):
    """`order` is the model, least recently used first; None holds a place.

    `throughout` are the packets that were there since the walk began, `visited` what it gave.
    """

    kind: ClassVar[type[PacketTable]] = PacketTable

    @initialize(capacity=st.integers(0, 6))
    def start(self, capacity: int) -> None:
        self.table = self.kind(capacity)
        self.order: list[tuple[bytes, bytes | None]] = []
        self.throughout: set[bytes] | None = None
        self.visited = b""
        self.undisturbed = False
        self.changes = (self.table.changes, self.table.keys())

    def held(self, key: bytes) -> tuple[bytes, bytes | None] | None:
        return next((entry for entry in self.order if entry[0] == key), None)

    @rule(key=keys, record=records)
    def put(self, key: bytes, record: bytes) -> None:
        self.table.put(key, record)
        self.order = [entry for entry in self.order if entry[0] != key] + [(key, record)]

    @rule(key=keys)
    def get(self, key: bytes) -> None:
        entry = self.held(key)
        if entry is None or entry[1] is None:
            assert self.table.get(key) is None
        else:
            assert self.table.get(key) == entry[1]
            self.order.remove(entry)
            self.order.append(entry)

    @rule(key=keys)
    def peek(self, key: bytes) -> None:
        entry = self.held(key)
        assert self.table.peek(key) == (None if entry is None else entry[1])
        assert (key in self.table) == (self.table.peek(key) is not None)

    @rule(run=st.lists(keys, max_size=4))
    def expect(self, run: list[bytes]) -> None:
        self.table.expect(b"".join(run))
        for key in run:
            if self.held(key) is None and len(self.order) < self.table.capacity:
                self.order.insert(0, (key, None))

    @rule(key=keys, record=records)
    def load(self, key: bytes, record: bytes) -> None:
        entry = self.held(key)
        if entry is not None:
            assert self.table.load(key, record)
            if entry[1] is None:
                self.order[self.order.index(entry)] = (key, record)
        else:
            room = len(self.order) < self.table.capacity
            assert self.table.load(key, record) == room
            if room:
                self.order.insert(0, (key, record))

    @rule(rows=st.lists(st.tuples(keys, records), max_size=4))
    def load_pack(self, rows: list[tuple[bytes, bytes]]) -> None:
        refused = []
        for key, record in rows:
            entry = self.held(key)
            if entry is not None and entry[1] is None:
                self.order[self.order.index(entry)] = (key, record)
            elif entry is None and len(self.order) < self.table.capacity:
                self.order.insert(0, (key, record))
            else:
                refused.append((key, record))
        assert self.table.load_pack(b"".join(packed(*row) for row in rows)) == refused

    @rule()
    def forget_expected(self) -> None:
        self.table.forget_expected()
        self.order = [entry for entry in self.order if entry[1] is not None]

    @rule()
    def evict(self) -> None:
        while self.order and self.order[0][1] is None:
            del self.order[0]
        assert self.table.evict() == (self.order.pop(0) if self.order else None)

    @rule()
    def begin_walk(self) -> None:
        self.table.begin_walk()
        self.throughout = {key for key, record in self.order if record is not None}
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
        present = [entry for entry in self.order if entry[1] is not None]
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
