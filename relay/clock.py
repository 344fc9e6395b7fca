"""The wall clock: the only place that reads it. Leaf module; sans-IO rooms are handed its value."""

import time


def wall_clock_us() -> int:
    """Return microseconds since 1970, the unit of packet time."""
    return time.time_ns() // 1000
