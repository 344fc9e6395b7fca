"""What the store knows without the disk, and the rules by which that changes.

Three parts that belong together: the table of packets, the floors of evicted ones, and the
backlog of what the disk does not have yet. The rules: never downgrade, refuse what is below its
floor, and take from the disk only what memory does not know better. No I/O, no waiting.
"""

import contextlib
from collections.abc import Callable
from typing import Final

import trio

from relay.errors import NotMostRecentError
from relay.pkarr.keys import PublicKey
from relay.pkarr.packet import CLOCK_CORRECTION_US, SeenPacket
from relay.store import records
from relay.store.backlog import Backlog
from relay.store.floors import Floor, FloorTable, floors_kept
from relay.store.found import Found
from relay.store.reader import Piece
from relay.store.records import unpack
from relay.store.table import PacketTable

SLACK_PACKETS: Final = 1024
"""How far the table may be over its capacity before an insertion evicts by itself."""
_FLOORS_EXTRA: Final = 65_536
_UNSAVED_MAX: Final = 8192


def _floor_bounds(capacity: int) -> tuple[int, int]:
    """Return how many floors there may be here, and how many of them that wait for the disk.

    Here there are as many as on the disk only while that cannot take them, and never many more
    than the packets weigh.
    """
    floors_max = max(min(floors_kept(capacity), capacity + _FLOORS_EXTRA), _UNSAVED_MAX)
    return floors_max, floors_max


class Memory:
    """The state of a store. Not safe to share between threads.

    Args:
        capacity: how many packets to keep.
        wall_clock_us: microseconds since 1970.
        on_change: called when there is something to evict or to write.
    """

    def __init__(
        self, capacity: int, wall_clock_us: Callable[[], int], on_change: Callable[[], None]
    ) -> None:
        self.table = PacketTable(capacity)
        self.floors = FloorTable(*_floor_bounds(capacity))
        self.backlog = Backlog(self.table)
        self.durable = False
        """Whether there is, or may again be, a disk to write to."""
        self.lost_evictions = False
        """Whether the file may hold packets that were evicted, whose floors were lost."""
        self.evictions = 0
        self._wall_clock_us = wall_clock_us
        self._latest_us = 0
        self._on_change = on_change

    def resize(self, capacity: int) -> None:
        """Take another capacity; packets that are too many go as ever, by `evict`."""
        self.table.resize(capacity)
        self.floors.resize(*_floor_bounds(capacity))
        self._on_change()

    @property
    def may_evict(self) -> bool:
        """Whether the disk keeps up with what was evicted: who has the time waits for it."""
        return self.floors.unsaved < _UNSAVED_MAX // 2

    @property
    def crowded(self) -> bool:
        """Whether there are more packets than the capacity."""
        return len(self.table) > self.table.capacity

    def get(self, key: PublicKey) -> SeenPacket | None:
        """Return the packet of `key` and mark it as used."""
        record = self.table.get(key.octets)
        return None if record is None else records.decode(key, record)

    def floor_us(self, key: bytes) -> int | None:
        """Return the floor of `key` as far as it is known here."""
        return self.floors.get(key, self._now_us())

    def note_time(self, latest_us: int) -> None:
        """Note a time of our wall clock, microseconds since 1970: none before it is to come."""
        self._latest_us = max(self._latest_us, latest_us)

    def merge(self, seen: SeenPacket) -> SeenPacket:
        """Apply the cache update rule; return the winner.

        Raises:
            NotMostRecentError: a more recent packet of the key was evicted.
        """
        key = seen.packet.public_key.octets
        new = records.encode(seen)
        old = self.table.peek(key)
        if old is not None and not records.newer(new, old) and not self._corrects(new, old):
            return records.decode(seen.packet.public_key, old)
        if old is None:
            floor_us = self.floor_us(key)
            if floor_us is not None and seen.packet.timestamp_us < floor_us:
                raise NotMostRecentError
            if self.table.capacity == 0:
                self._pass_on(key, new)
                return seen
        self._insert(key, new)
        return seen

    def _corrects(self, new: bytes, old: bytes) -> bool:
        """Tell whether it is the same packet, once seen at a time that was wrong: still to come."""
        return records.same_packet(new, old) and (
            records.last_seen_us(old) > self._wall_clock_us() + CLOCK_CORRECTION_US
        )

    def merge_unless_below_floor(self, seen: SeenPacket) -> None:
        """Apply the cache update rule for a packet that nobody waits for."""
        with contextlib.suppress(NotMostRecentError):
            self.merge(seen)

    def adopt(self, found: Found) -> None:
        """Take packets and floors that were read from the disk because somebody needs them.

        A packet that was taken in while the disk could not be read may turn out to be too old.
        """
        for key, record in found.packets.items():
            if self._is_news(key, record):
                self._replace(key, record)
        for key, floor in found.floors.items():
            self.floors.learn(key, floor)
            self.backlog.raise_floor(key, floor)
            self._drop_below_floor(key)

    def judged(self, winner: SeenPacket) -> SeenPacket:
        """Return the winner once more, now that the disk has been asked.

        Raises:
            NotMostRecentError: a more recent packet of the key was evicted.
        """
        key = winner.packet.public_key
        held = self.table.peek(key.octets)
        if held is not None:
            newer = records.newer(held, records.encode(winner))
            return records.decode(key, held) if newer else winner
        if winner.packet.timestamp_us < (self.floor_us(key.octets) or 0):
            raise NotMostRecentError
        return winner

    def take_over(self, piece: Piece, *, may_evict: bool) -> None:
        """Take a piece of the start-up load.

        Packets that find no room are evicted from the disk, if `may_evict`; otherwise they
        stay there for the next start.
        """
        self.table.expect(piece.expected)
        # Whether a row is below a floor only Python knows; there are seldom floors so early.
        has_floors = self.floors or self.floors.unsaved
        rows = unpack(piece.pack) if has_floors else self.table.load_pack(piece.pack)
        for key, record in rows:
            self._take_over_row(key, record, may_evict=may_evict)
        self._on_change()

    def _take_over_row(self, key: bytes, record: bytes, *, may_evict: bool) -> None:
        if self.table.peek(key) is not None:
            if self._is_news(key, record):
                self._replace(key, record)
        elif not self._is_news(key, record):
            pass
        elif self.table.load(key, record):
            self.floors.take_back(key)
        elif may_evict:
            self._note_eviction(key, record)
        else:
            self.lost_evictions = True

    def written(self, key: bytes) -> trio.Event | None:
        """Return what to wait for until the disk has what is known of `key`; None: it has.

        That is its packet or, if it was evicted meanwhile, the floor. One group suffices.
        """
        return self.backlog.written(key, self.floors.not_saved(key))

    def write_again(self, key: bytes) -> None:
        """Note that the disk does not have the packet of `key` any more."""
        record = self.table.peek(key)
        if record is not None:
            self.backlog.add(key, record)

    def evict(self, count: int) -> None:
        """Evict packets until the table is at its capacity, in at most `count` steps.

        A step takes one packet out, or passes over a few that are in use. Call again while the
        memory is `crowded`.
        """
        for _ in range(count):
            if not self.crowded:
                break
            if not self.table.spare():
                self._evict_next()
        self._on_change()

    def purge(self, key: bytes) -> bytes | None:
        """Evict the packet of `key`, whenever it was used last; None: there is none."""
        record = self.table.remove(key)
        if record is not None:
            self._note_eviction(key, record)
            self._on_change()
        return record

    def forsake_disk(self) -> None:
        """Note that nothing will be written any more; let all go who wait for it."""
        self.durable = False
        self.backlog.clear()
        self.floors.never_save()

    def _insert(self, key: bytes, record: bytes) -> None:
        self.table.put(key, record)
        self.floors.take_back(key)
        if self.durable:
            self.backlog.add(key, record)
        if len(self.table) > self.table.capacity + SLACK_PACKETS:
            self._evict_next()  # at once, even if it is in use
        self._on_change()

    def _pass_on(self, key: bytes, record: bytes) -> None:
        """Keep no packet, and let none that is older follow it."""
        if not self.floors.knows(key, self._floor_of(record)):
            self._set_floor(key, record)
            self._on_change()

    def _evict_next(self) -> None:
        evicted = self.table.evict()
        if evicted is not None:
            self._note_eviction(*evicted)

    def _replace(self, key: bytes, record: bytes) -> None:
        self.table.put(key, record)
        self.floors.take_back(key)
        self.backlog.drop(key)  # the disk has it already

    def _drop_below_floor(self, key: bytes) -> None:
        held = self.table.peek(key)
        if held is not None and records.timestamp_us(held) < (self.floor_us(key) or 0):
            self.table.remove(key)
            self.backlog.drop(key)

    def _is_news(self, key: bytes, record: bytes) -> bool:
        """Tell whether a record on the disk is newer than what is known here."""
        held = self.table.peek(key)
        if held is not None:
            return records.newer(record, held)
        # With a floor it is most likely what was evicted a moment ago and not deleted yet.
        floor_us = self.floor_us(key)
        return floor_us is None or records.timestamp_us(record) > floor_us

    def _note_eviction(self, key: bytes, record: bytes) -> None:
        self.evictions += 1
        self._set_floor(key, record)

    def _set_floor(self, key: bytes, record: bytes) -> None:
        floor = self._floor_of(record)
        self.backlog.evict(key, floor)
        if not self.floors.add(key, floor, save=self.durable):
            self.lost_evictions = True

    def _floor_of(self, record: bytes) -> Floor:
        self._now_us()
        return Floor.of(record, self._latest_us)

    def _now_us(self) -> int:
        now_us = self._wall_clock_us()
        self.note_time(now_us)
        return now_us
