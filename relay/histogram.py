"""How often which size of a number came up: what metrics make of durations and batch sizes.

A step of a histogram counts what was at most its bound and more than the bound before; the last
one counts all that is larger. A few words of memory, whatever is observed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

SPANS_S: Final = tuple(8e-6 * 2**step for step in range(22))
"""Bounds for durations, seconds: 8 us to 17 s, each twice the one before.

The front lane counts by the same (`_speedups/front_connections.h`, FL_SPAN_NS and FL_SPANS).
"""
SIZES: Final = tuple(float(2**power) for power in range(11))
"""Bounds for numbers of things that are handled together: 1 to 1024."""
NODES: Final = (0.0, 1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 20.0, 24.0, 32.0, 64.0, 128.0)
"""Bounds for numbers of DHT nodes. A packet is stored on 20 in a healthy network."""


class Histogram:
    """Counts of observations by size.

    >>> histogram = Histogram((1.0, 10.0))
    >>> histogram.observe(10)
    >>> histogram.observe(11)
    >>> histogram.counts, histogram.total, histogram.count
    ([0, 1, 1], 21.0, 2)
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds: Final = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    @property
    def count(self) -> int:
        """How many observations there were."""
        return sum(self.counts)

    def observe(self, value: float) -> None:
        """Take one observation in."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def add(self, counts: Sequence[int], total: float) -> None:
        """Take in what was counted elsewhere by the same bounds, and the sum of it."""
        self.counts = [ours + theirs for ours, theirs in zip(self.counts, counts, strict=True)]
        self.total += total
