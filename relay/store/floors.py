"""Freshness floors in memory: those not yet on the disk, and those lately seen there.

An evicted packet leaves its timestamp behind, so that an older packet of the same key, still
wandering about the DHT, cannot come back in its place. The disk keeps them for 30 days; here are
the few that a look-up may need without the disk.

The clock may be wrong. One that is behind ends no floor, and a floor set then starts its time
when the packet was signed or seen, or at the latest time known, if that is later: in doubt a
floor holds longer.

Sans-IO: callers pass the wall clock, `now_us`.
"""

from collections import OrderedDict
from collections.abc import Iterable
from itertools import islice
from typing import Final, NamedTuple, Self

from relay.store import records

FLOOR_LIFE_US: Final = 30 * 86_400 * 1_000_000
"""Long enough for any DHT node to have dropped the older packet (hours), by a wide margin."""
_FLOORS_PER_PACKET: Final = 4
_FLOORS_MIN: Final = 65_536
_RENEWED_US: Final = 86_400 * 1_000_000
"""A floor that is no older than this is as good as one that is set now."""
_SAVED_MAX: Final = 8192
"""How many of those that the disk has are kept here as well."""
_ABSENT_MAX: Final = 4096
"""A PUT asks twice, before and after the DHT; so many may be under way."""


_TIME_MAX_US: Final = 2**63 - 1
"""SQLite integers are signed."""
_DROPPED_AT_ONCE: Final = 16
"""More than one for each that comes, so that lower bounds are reached, and without a pause."""


def floors_kept(capacity: int) -> int:
    """Return how many the disk keeps at most: four for each packet that may be there.

    And 6 MB of them, also where hardly a packet is kept, or none.
    """
    return max(_FLOORS_PER_PACKET * capacity, _FLOORS_MIN)


class Floor(NamedTuple):
    """The timestamp of an evicted packet and when it was evicted, both in microseconds."""

    timestamp_us: int
    evicted_us: int

    @classmethod
    def of(cls, record: bytes, now_us: int) -> Self:
        """Return the floor that a packet leaves that goes now.

        It was not evicted before it was seen and signed, whatever a clock that is behind says.
        """
        timestamp_us = records.timestamp_us(record)
        evicted_us = max(now_us, records.last_seen_us(record), timestamp_us)
        return cls(timestamp_us, min(evicted_us, _TIME_MAX_US))


class FloorTable:
    """Floors by key, oldest first out.

    Args:
        floors_max: how many to know at most.
        unsaved_max: how many evictions may wait for the disk. More than `floors_max` for a
            small cache: their rows must go from the disk even when their floors have gone.
    """

    def __init__(self, floors_max: int, unsaved_max: int) -> None:
        self._floors_max = floors_max
        self._unsaved_max = unsaved_max
        self._known: OrderedDict[bytes, Floor] = OrderedDict()
        self._unsaved: OrderedDict[bytes, Floor] = OrderedDict()
        self._absent: OrderedDict[bytes, None] = OrderedDict()

    def resize(self, floors_max: int, unsaved_max: int) -> None:
        """Take other bounds; what is too much goes bit by bit, as others come."""
        self._floors_max = floors_max
        self._unsaved_max = unsaved_max

    def __len__(self) -> int:
        """How many floors are known here."""
        return len(self._known)

    @property
    def unsaved(self) -> int:
        """How many evictions the disk does not know of."""
        return len(self._unsaved)

    def add(self, key: bytes, floor: Floor, *, save: bool) -> bool:
        """Note the floor of a packet just evicted, to be saved if there is a disk.

        Returns:
            False if the disk will never learn of an older eviction, forgotten for this one.
        """
        self._absent.pop(key, None)
        self._know(key, floor)
        if not save:
            return True
        self._unsaved.pop(key, None)  # so that it goes to the end
        self._unsaved[key] = floor
        if len(self._unsaved) <= self._unsaved_max:
            return True
        self._unsaved.popitem(last=False)
        return False

    def take_back(self, key: bytes) -> None:
        """Note that `key` has a packet again, no older than its floor: its row is to stay."""
        self._unsaved.pop(key, None)

    def learn(self, key: bytes, floor: Floor) -> None:
        """Note a floor read from the disk, unless one is known that is as high.

        One that was set here while it was read must not take its place there.
        """
        known = self._known.get(key) or self._unsaved.get(key)
        if known is None or known.timestamp_us < floor.timestamp_us:
            self._know(key, floor)
            if key in self._unsaved:
                self._unsaved[key] = floor

    def learn_absent(self, key: bytes) -> None:
        """Note that the disk, just asked, has nothing of `key`: neither a floor nor a packet."""
        if key in self._known or key in self._unsaved:  # evicted while the disk was asked
            return
        self._absent[key] = None
        if len(self._absent) > _ABSENT_MAX:
            self._absent.popitem(last=False)

    def is_absent(self, key: bytes) -> bool:
        """Tell whether the disk need not be asked: it has nothing but what memory gave it."""
        return key in self._absent

    def forget_absent(self) -> None:
        """Note that it may be another disk from now on."""
        self._absent.clear()

    def get(self, key: bytes, now_us: int) -> int | None:
        """Return the floor of `key` in microseconds, None if none is known here."""
        floor = self._known.get(key) or self._unsaved.get(key)
        if floor is None or is_over(floor.evicted_us, now_us):
            return None
        return floor.timestamp_us

    def knows(self, key: bytes, floor: Floor) -> bool:
        """Tell whether there is a floor of `key` that makes this one needless."""
        known = self._known.get(key)
        return (
            known is not None
            and known.timestamp_us >= floor.timestamp_us
            and known.evicted_us >= floor.evicted_us - _RENEWED_US
        )

    def not_saved(self, key: bytes) -> Floor | None:
        """Return the floor of `key` if its eviction waits for the disk."""
        return self._unsaved.get(key)

    def to_save(self, count: int) -> dict[bytes, Floor]:
        """Return up to `count` evictions that the disk does not know of, oldest first."""
        return dict(islice(self._unsaved.items(), count))

    def saved(self, floors: Iterable[tuple[bytes, Floor]]) -> None:
        """Note that the disk has these now."""
        for key, floor in floors:
            if self._unsaved.get(key) is floor:  # else evicted once more meanwhile
                del self._unsaved[key]

    def never_save(self) -> None:
        """Note that there is no disk any more."""
        self._unsaved.clear()

    def _know(self, key: bytes, floor: Floor) -> None:
        self._known.pop(key, None)
        self._known[key] = floor
        for _ in range(_DROPPED_AT_ONCE):
            if not self._too_many():
                break
            self._known.popitem(last=False)

    def _too_many(self) -> bool:
        if len(self._known) > self._floors_max:
            return True
        return len(self._known) > _SAVED_MAX and next(iter(self._known)) not in self._unsaved


def is_over(evicted_us: int, now_us: int) -> bool:
    """Tell whether a floor set at `evicted_us` no longer holds."""
    return now_us - evicted_us >= FLOOR_LIFE_US
