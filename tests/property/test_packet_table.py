"""The packet table against a plain list, as a state machine.

The model is what the table promises: a list in order of last use, and places held for packets
that are expected from the disk.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from relay.store.table import PacketTable

keys = st.integers(0, 9).map(lambda number: b"%032d" % number)
records = st.integers(0, 3).map(lambda number: b"%080d" % number)


class TableMachine(RuleBasedStateMachine):
    """`order` is the model, least recently used first; None holds a place."""

    @initialize(capacity=st.integers(0, 6))
    def start(self, capacity: int) -> None:
        self.table = PacketTable(capacity)
        self.order: list[tuple[bytes, bytes | None]] = []

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

    @rule(key=keys)
    def expect(self, key: bytes) -> None:
        self.table.expect(key)
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

    @rule()
    def forget_expected(self) -> None:
        self.table.forget_expected()
        self.order = [entry for entry in self.order if entry[1] is not None]

    @rule()
    def evict(self) -> None:
        while self.order and self.order[0][1] is None:
            del self.order[0]
        assert self.table.evict() == (self.order.pop(0) if self.order else None)

    @invariant()
    def agrees_with_the_model(self) -> None:
        present = [entry for entry in self.order if entry[1] is not None]
        assert len(self.table) == len(present)
        assert self.table.keys() == [key for key, _ in reversed(present)]
        assert self.table.records() == dict(present)


TestTable = TableMachine.TestCase
TestTable.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
