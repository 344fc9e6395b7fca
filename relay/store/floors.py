"""Freshness floors in memory: those not yet on the disk, and those lately seen there.

An evicted packet leaves its timestamp behind, so that an older packet of the same key, still
wandering about the DHT, cannot come back in its place. The disk keeps them for 30 days; here are
the few that a look-up may need without the disk.

Sans-IO: callers pass the wall clock, `now_us`.
"""

from collections import OrderedDict
from collections.abc import Iterable
from itertools import islice
from typing import Final, NamedTuple

FLOOR_LIFE_US: Final = 30 * 86_400 * 1_000_000
"""Long enough for any DHT node to have dropped the older packet (hours), by a wide margin."""
_SAVED_MAX: Final = 8192


class Floor(NamedTuple):
    """The timestamp of an evicted packet and when it was evicted, both in microseconds."""

    timestamp_us: int
    evicted_us: int


class FloorTable:
    """Floors by key. `unsaved_max` bounds those that the disk does not have."""

    def __init__(self, unsaved_max: int) -> None:
        self._unsaved_max: Final = unsaved_max
        self._unsaved: OrderedDict[bytes, Floor] = OrderedDict()
        self._saved: OrderedDict[bytes, Floor] = OrderedDict()

    @property
    def unsaved(self) -> int:
        """How many are not on the disk."""
        return len(self._unsaved)

    def add(self, key: bytes, floor: Floor) -> bool:
        """Note the floor of a packet just evicted.

        Returns:
            False if an older one, not on the disk, had to be forgotten for it.
        """
        self._unsaved.pop(key, None)  # so that it goes to the end
        self._saved.pop(key, None)
        self._unsaved[key] = floor
        if len(self._unsaved) <= self._unsaved_max:
            return True
        self._unsaved.popitem(last=False)
        return False

    def learn(self, key: bytes, floor: Floor) -> None:
        """Note a floor read from the disk, unless a later one is known."""
        if key not in self._unsaved and key not in self._saved:
            self._keep_saved(key, floor)

    def get(self, key: bytes, now_us: int) -> int | None:
        """Return the floor of `key` in microseconds, None if none is known here."""
        floor = self._unsaved.get(key) or self._saved.get(key)
        if floor is None or is_over(floor.evicted_us, now_us):
            return None
        return floor.timestamp_us

    def to_save(self, count: int) -> dict[bytes, Floor]:
        """Return up to `count` floors that the disk does not have, oldest first."""
        return dict(islice(self._unsaved.items(), count))

    def saved(self, floors: Iterable[tuple[bytes, Floor]]) -> None:
        """Note that the disk has these now."""
        for key, floor in floors:
            if self._unsaved.get(key) is floor:  # else evicted once more meanwhile
                del self._unsaved[key]
                self._keep_saved(key, floor)

    def _keep_saved(self, key: bytes, floor: Floor) -> None:
        self._saved[key] = floor
        if len(self._saved) > _SAVED_MAX:
            self._saved.popitem(last=False)


def is_over(evicted_us: int, now_us: int) -> bool:
    """Tell whether a floor set at `evicted_us` no longer holds."""
    return now_us - evicted_us >= FLOOR_LIFE_US
