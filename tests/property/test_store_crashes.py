"""Memory and disk together, crashed at any moment, as a state machine.

What the relay does to its store, step by step and without threads: merge packets, evict, commit
a group or fail to, read single keys or cannot, load piece by piece, crash, or start again with
another capacity. Whatever the order, a packet that was committed, or that somebody waited for, is
there after a crash or lies below a floor, and no key ever goes back to an older packet.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from relay.errors import NotMostRecentError
from relay.pkarr.keys import PublicKey
from relay.pkarr.packet import SeenPacket, SignedPacket
from relay.store.floors import floors_kept
from relay.store.found import Found
from relay.store.memory import Memory
from relay.store.packets import Changes, PacketCache
from relay.store.reader import PacketReader, Piece

NOW_US = 1_750_000_000_000_000
numbers = st.integers(1, 5)


def key(number: int) -> PublicKey:
    return PublicKey(number.to_bytes(32, "big"))


class CrashMachine(RuleBasedStateMachine):
    """`durable` is the newest timestamp of each key that a commit has confirmed.

    `waiting` are packets, by key and timestamp, and what those who published them wait for.
    """

    @initialize(capacity=st.integers(2, 4))
    def start(self, capacity: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pkarr-crash-"))
        self.durable: dict[int, int] = {}
        self.served: dict[int, int] = {}
        self.waiting: list[tuple[int, int, trio.Event]] = []
        self.boot(capacity)

    def boot(self, capacity: int) -> None:
        self.memory = Memory(capacity, lambda: NOW_US, lambda: None)
        self.memory.durable = True
        path = self.folder / "cache.sqlite3"
        self.cache = PacketCache(path, floors_max=floors_kept(capacity))
        self.reader = PacketReader(path)
        self.pieces: Iterator[Piece] | None = self.reader.load()

    def teardown(self) -> None:
        self.cache.close()
        self.reader.close()
        shutil.rmtree(self.folder)

    def read_through(self, number: int) -> None:
        """As `PacketStore` does before it decides about a key that is not in memory."""
        if key(number).octets not in self.memory.table:
            self.memory.adopt(self.reader.read([key(number).octets]))

    @rule(number=numbers, timestamp_us=st.integers(1, 50))
    def merge(self, number: int, timestamp_us: int) -> None:
        self.read_through(number)
        seen = SeenPacket(SignedPacket(key(number), bytes(64), timestamp_us, b""), NOW_US)
        try:
            winner = self.memory.merge(seen)
        except NotMostRecentError:
            return
        assert winner.packet.timestamp_us >= timestamp_us
        self.serve(number, winner)

    @rule(
        some=st.lists(numbers, min_size=1, unique=True),
        evicted=st.integers(0, 3),
        commits=st.integers(0, 2),
    )
    def publish(self, some: list[int], evicted: int, commits: int) -> None:
        """Newer packets of some keys, which make others go, or each other."""
        for number in some:
            timestamp_us = self.served.get(number, 0) + 1
            self.merge(number, timestamp_us)
            done = self.memory.written(key(number).octets)
            assert done is not None
            self.waiting.append((number, timestamp_us, done))
        self.memory.evict(evicted)
        for _ in range(commits):
            self.commit_group()

    @rule(number=numbers, timestamp_us=st.integers(1, 50), first=st.booleans())
    def publish_unread(self, number: int, timestamp_us: int, first: bool) -> None:
        """Merge a packet while reads fail, as from the start: the commit compares it."""
        if first:
            self.crash(3)
        seen = SeenPacket(SignedPacket(key(number), bytes(64), timestamp_us, b""), NOW_US)
        try:
            winner = self.memory.merge(seen)
            self.commit_group(unread=True)
            winner = self.memory.judged(winner)
        except NotMostRecentError:
            return
        assert winner.packet.timestamp_us >= timestamp_us
        self.serve(number, winner)

    @rule(number=numbers)
    def get(self, number: int) -> None:
        self.read_through(number)
        found = self.memory.get(key(number))
        if found is not None:
            self.serve(number, found)

    def serve(self, number: int, seen: SeenPacket) -> None:
        # Five keys, and room for the floors of all: none is ever forgotten.
        assert seen.packet.timestamp_us >= self.served.get(number, 0), "went back in time"
        self.served[number] = seen.packet.timestamp_us

    @rule(count=st.integers(1, 3))
    def evict(self, count: int) -> None:
        self.memory.evict(count)

    @rule(fails=st.booleans())
    def commit(self, fails: bool) -> None:
        if fails:
            self.memory.backlog.fail(self.memory.backlog.take(self.memory.floors.to_save(1)))
            self.waiting.clear()
        else:
            self.commit_group()

    def commit_group(self, *, unread: bool = False) -> None:
        group = self.memory.backlog.take(self.memory.floors.to_save(1))
        changes = Changes(group.records, group.evicted, unsure=unread or bool(self.pieces))
        found = self.cache.commit(changes, NOW_US)
        assert unread or found == Found(), "memory had read what the disk has"
        self.memory.floors.saved(changes.evicted.items())
        self.memory.adopt(found)
        self.memory.backlog.finish(group)
        for octets, record in group.records.items():
            self.note_durable(octets[-1], int.from_bytes(record[72:80], "big"))
        for octets, floor in group.evicted.items():
            self.note_durable(octets[-1], floor.timestamp_us)
        for number, timestamp_us, done in self.waiting:
            assert done.is_set()
            self.note_durable(number, timestamp_us)
        self.waiting.clear()

    def note_durable(self, number: int, timestamp_us: int) -> None:
        self.durable[number] = max(self.durable.get(number, 0), timestamp_us)

    @precondition(lambda self: self.pieces is not None)
    @rule()
    def load(self) -> None:
        assert self.pieces is not None
        piece = next(self.pieces, None)
        if piece is None:
            self.memory.table.forget_expected()
            self.pieces = None
        else:
            self.memory.take_over(piece, may_evict=True)

    @precondition(lambda self: self.pieces is None)
    @rule(split=st.integers(0, 4), whole=st.booleans())
    def write_recency(self, split: int, whole: bool) -> None:
        keys = self.memory.table.keys()
        generation = self.cache.next_generation()
        self.cache.write_recency(keys[:split], generation, last=False)
        if whole:
            self.cache.write_recency(keys[split:], generation, last=True)

    @rule(capacity=st.integers(2, 4))
    def crash(self, capacity: int) -> None:
        self.cache.close()
        self.reader.close()
        # What nobody was acknowledged may be gone.
        self.served = dict(self.durable)
        self.waiting.clear()
        self.boot(capacity)

    @invariant()
    def nothing_durable_is_lost(self) -> None:
        found = self.reader.read([key(number).octets for number in range(1, 6)])
        for number, timestamp_us in self.durable.items():
            octets = key(number).octets
            row = found.packets.get(octets)
            floor = found.floors.get(octets)
            stored_us = int.from_bytes(row[72:80], "big") if row else 0
            floor_us = floor.timestamp_us if floor else 0
            assert max(stored_us, floor_us) >= timestamp_us


TestCrashes = CrashMachine.TestCase
TestCrashes.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
