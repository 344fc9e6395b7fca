"""Tells when the DHT has fallen silent: we ask, and nobody answers any more.

Single nodes fall silent all the time, and most of a look-up's contacts may be dead; that none of
them answers for longer than any round trip is a network that is cut. No query, no judgement: an
idle relay finds out when somebody asks it.

Sans-IO: callers pass `now`.
"""

from __future__ import annotations

from typing import Final

SILENT_S: Final = 1.25
"""Health is right within two seconds, and round trips on the Internet are well below one."""
QUERIES_MIN: Final = 3
"""So many queries must have gone unanswered: one or two may have met dead nodes."""


class Silence:
    """Watches two growing counts: the queries we sent, and the answers that came."""

    def __init__(self) -> None:
        self.silent = False
        self._asked = 0
        self._answered = 0
        self._since: float | None = None

    def note(self, asked: int, answered: int, waiting: int, now: float) -> None:
        """Take in the counts of this moment; call it several times a second.

        Args:
            asked: queries sent, in all.
            answered: answers to them, in all.
            waiting: how many queries may still be answered.
            now: monotonic seconds.
        """
        if answered != self._answered:
            self._answered, self._asked = answered, asked - waiting
            self._since, self.silent = None, False
        if asked > self._asked:
            self._since = now if self._since is None else self._since
            unanswered = asked - self._asked
            self.silent = now - self._since >= SILENT_S and unanswered >= QUERIES_MIN
