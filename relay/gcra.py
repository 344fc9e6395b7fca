"""A rate limit with no windows: the generic cell rate algorithm, one number per client.

A client may spend `burst` cells at once; one comes back every interval. Instead of
counting, the algorithm stores the theoretical arrival time (TAT): when a client that had
kept to the rate would come next. A request is early by at most the tolerance, or refused.

    t = interval, tau = (burst - 1) * t;  TAT starts at now
    allowed when now >= TAT - tau; then TAT = max(TAT, now) + t

A client whose TAT has passed is as good as new, so forgetting it changes nothing: those go
first. When `max_keys` clients are known and none is as good as new, the one nearest to it
goes: it gains the least, and a flood of strangers cannot grow the memory.

Source: design/protocol.md, section 4.5; ITU-T I.371, annex A.
Leaf and sans-IO: callers pass `now`.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from heapq import heappop, heappush, heapreplace
from typing import Final

KEYS_MAX: Final = 65_536
"""Clients remembered by default; about 250 bytes each."""
_NS: Final = 1_000_000_000
_FORGET_PER_CHECK: Final = 2
"""More than one newcomer per check, so that idle memory shrinks."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the limiter says to one request."""

    allowed: bool
    remaining: int
    """Cells that are left after this request."""
    retry_after_s: float
    """Until the next one is allowed; 0 when this one was."""


class Gcra:
    """Decides for any number of clients, remembering at most `max_keys` of them.

    Time is counted in whole nanoseconds, so that counts of cells are exact.

    Args:
        interval_s: until one cell comes back, seconds.
        burst: cells of a client that has been away, at least 1.
        max_keys: clients remembered, at least 1.

    Raises:
        ValueError: an argument is not positive.

    >>> limiter = Gcra(interval_s=2.0, burst=2)
    >>> [limiter.check("client", now=0.0).allowed for _ in range(3)]
    [True, True, False]
    >>> limiter.check("client", now=2.0)
    Decision(allowed=True, remaining=0, retry_after_s=0.0)
    """

    def __init__(self, interval_s: float, burst: int, max_keys: int = KEYS_MAX) -> None:
        if interval_s <= 0 or burst < 1 or max_keys < 1:
            raise ValueError(f"not a rate: {interval_s} s, burst {burst}, {max_keys} keys")
        self.burst = burst
        self._interval_ns = max(round(interval_s * _NS), 1)
        self._tolerance_ns = (burst - 1) * self._interval_ns
        self._max_keys = max_keys
        self._arrivals: dict[Hashable, int] = {}
        # One entry a key, by the TAT it had when it was last at the top: a lower bound,
        # because a TAT only grows. Put right when it comes up; the number breaks ties.
        self._oldest: list[tuple[int, int, Hashable]] = []
        self._serial = 0

    def __len__(self) -> int:
        return len(self._arrivals)

    def check(self, key: Hashable, now: float) -> Decision:
        """Count one request of `key` at `now`, monotonic seconds; a refused one costs nothing."""
        now_ns = round(now * _NS)
        self._forget(now_ns, _FORGET_PER_CHECK)
        known = self._arrivals.get(key)
        arrival_ns = now_ns if known is None else known
        early_ns = arrival_ns - self._tolerance_ns - now_ns
        if early_ns > 0:
            return Decision(allowed=False, remaining=0, retry_after_s=early_ns / _NS)
        arrival_ns = max(arrival_ns, now_ns) + self._interval_ns
        if known is None:
            self._remember(key, arrival_ns)
        self._arrivals[key] = arrival_ns
        left_ns = now_ns + self._tolerance_ns + self._interval_ns - arrival_ns
        return Decision(allowed=True, remaining=left_ns // self._interval_ns, retry_after_s=0.0)

    def _remember(self, key: Hashable, arrival_ns: int) -> None:
        while len(self._arrivals) >= self._max_keys:
            self._drop_or_correct_top()
        self._serial += 1
        heappush(self._oldest, (arrival_ns, self._serial, key))

    def _forget(self, now_ns: int, steps: int) -> None:
        for _ in range(steps):
            if not self._oldest or self._oldest[0][0] > now_ns:
                return
            self._drop_or_correct_top()

    def _drop_or_correct_top(self) -> None:
        bound_ns, serial, key = self._oldest[0]
        arrival_ns = self._arrivals[key]
        if arrival_ns == bound_ns:
            heappop(self._oldest)
            del self._arrivals[key]
        else:
            heapreplace(self._oldest, (arrival_ns, serial, key))
