"""A million new keys against a cache of a hundred thousand; the small form is in `integration`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

from bench.library import Library
from tests.support.cache_flood import Attack

CAPACITY: Final = int(os.environ.get("RELAY_FLOOD_CAPACITY", "100000"))
LOST_PERCENT_MAX: Final = 5.0
FILLED_BYTES_MAX: Final = 420
"""A packet of 253 bytes in the table, with its share of indexes, ghosts and floors."""
SPARE_BYTES: Final = 32 * 1024 * 1024


@pytest.mark.parametrize("keep_hot", [True, False], ids=["asked for meanwhile", "asked for once"])
def test_a_flood_of_ten_times_the_cache(tmp_path: Path, keep_hot: bool) -> None:
    library = Library(CAPACITY // 2 + 10 * CAPACITY)
    hot, flood = library[: CAPACITY // 2], library[CAPACITY // 2 :]
    outcome = Attack(tmp_path, CAPACITY).run(hot, flood, keep_hot=keep_hot)
    grown = outcome.rss_after - outcome.rss_before
    print(
        f"\n| {'asked for meanwhile' if keep_hot else 'asked for once'} | {outcome.hot:,} |"
        f" {outcome.stored:,} | {outcome.rate:,.0f} | {outcome.lost_percent:.2f} % |"
        f" {outcome.asked:,} | {outcome.missed:,} | {outcome.hot_p99_ms:.2f} |"
        f" {outcome.rss_before / 2**20:.0f} to {outcome.rss_after / 2**20:.0f} |"
    )
    assert outcome.stored == len(flood)
    assert outcome.lost_percent < LOST_PERCENT_MAX
    assert outcome.missed <= outcome.asked * LOST_PERCENT_MAX / 100
    assert outcome.stats["packets"] <= CAPACITY
    assert grown < CAPACITY * FILLED_BYTES_MAX + SPARE_BYTES
