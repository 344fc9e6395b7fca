"""A flood of ten times the cache, over HTTP, costs a hot set less than 5 % of its packets.

The small form of `tests/floods/test_cache.py`: a cache of 1,000 packets, 10,000 new keys.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cache_flood import Attack
from tests.support.packets import Author, Packet

pytestmark = [pytest.mark.slow]

CAPACITY = 1_000
LOST_PERCENT_MAX = 5.0


@pytest.fixture(scope="module")
def hot() -> list[Packet]:
    return [Author.numbered(number, "hot").packet() for number in range(CAPACITY // 2)]


@pytest.fixture(scope="module")
def flood() -> list[Packet]:
    return [Author.numbered(number, "flood").packet() for number in range(10 * CAPACITY)]


@pytest.mark.parametrize("keep_hot", [True, False], ids=["asked for meanwhile", "asked for once"])
def test_a_flood_of_ten_times_the_cache(
    tmp_path: Path, hot: list[Packet], flood: list[Packet], keep_hot: bool
) -> None:
    outcome = Attack(tmp_path, CAPACITY).run(hot, flood, keep_hot=keep_hot)
    print(outcome)
    assert outcome.stored == len(flood)
    assert outcome.lost_percent < LOST_PERCENT_MAX
    assert outcome.missed <= outcome.asked * LOST_PERCENT_MAX / 100
    assert (outcome.asked > 0) == keep_hot
    assert outcome.stats["packets"] <= CAPACITY
    assert outcome.stats["evictions"] >= len(hot) + len(flood) - CAPACITY
