"""Whether queries may gather for a moment before the next turn of the driver.

A pass through the event loop costs as much as ten answers, so where queries come in crowds it
pays to let more of them come. But only where they come at a pace of their own: who waits for
each answer before asking on is merely slowed down, and asks less. From outside both look alike.
So waiting is tried, and kept up for a while if it does not cost half of the queries per second:

    LOOK ──→ TRY ──→ KEEP ──→ LOOK ...
      ↑       └────→ REST ──→ TRY ...         LOOK and REST go without waiting
      └── after a pause, or while few come

No I/O, no clock: callers pass `now`.
"""

from enum import Enum
from typing import Final

BATCH: Final = 100
"""Queries to wait for: a pass is then a small part of their cost, and any buffer holds them."""
WAIT_MIN_S: Final = 0.001
WAIT_MAX_S: Final = 0.005
"""Longest wait: little beside any way through the Internet."""
CROWD: Final = 4
"""Queries that must be expected within that time."""
PAUSE_S: Final = 0.05
"""After a pause as long as this what was counted before it tells nothing."""


class _Phase(Enum):
    """What is done; the value is for how many turns."""

    LOOK = 16
    TRY = 4
    KEEP = 256
    REST = 4000


class Gathering:
    """Counts queries with and without waiting, and decides between the two."""

    def __init__(self) -> None:
        self._latest = 0.0
        self._plain_rate = 0.0
        self._begin(_Phase.LOOK, 0.0)

    def note(self, answered: int, now: float) -> float:
        """Count a turn; returns how many seconds to wait before the next one, mostly 0.

        Args:
            answered: queries answered in this turn.
            now: monotonic seconds.
        """
        if now - self._latest >= PAUSE_S:
            self._begin(_Phase.LOOK, now)
        self._latest = now
        self._answered += answered
        self._turns_left -= 1
        if self._turns_left == 0:
            self._decide(now)
        if answered == 0 or self._phase not in (_Phase.TRY, _Phase.KEEP):
            return 0.0
        return min(max(BATCH / self._plain_rate, WAIT_MIN_S), WAIT_MAX_S)

    def _decide(self, now: float) -> None:
        rate = self._answered / max(now - self._since, 1e-9)
        match self._phase:
            case _Phase.LOOK | _Phase.REST:
                self._plain_rate = rate
                self._begin(_Phase.TRY if rate * WAIT_MAX_S >= CROWD else _Phase.LOOK, now)
            case _Phase.TRY:
                self._begin(_Phase.REST if rate < self._plain_rate / 2 else _Phase.KEEP, now)
            case _Phase.KEEP:
                self._begin(_Phase.LOOK, now)

    def _begin(self, phase: _Phase, now: float) -> None:
        self._phase = phase
        self._turns_left: int = phase.value
        self._answered = 0
        self._since = now
