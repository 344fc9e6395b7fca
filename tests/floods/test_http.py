"""Ten thousand connections that do nothing: memory, and the answers to others."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

import pytest

from tests.support.http_floods import MANY, Target, attacked
from tests.support.idle_connections import GROWTH_MAX, HANDED_ON, LANE, measure

COUNT: Final = int(os.environ.get("RELAY_FLOOD_CONNECTIONS", "10000"))
HANDED_ON_COUNT: Final = COUNT // 10


@pytest.fixture
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A relay of its own for each: the allocator keeps what once was used."""
    with attacked(tmp_path_factory.mktemp("idle"), MANY) as target:
        yield target


@pytest.mark.parametrize("kind", LANE)
def test_idle_connections(target: Target, kind: str) -> None:
    assert measure(target, kind, COUNT) * COUNT < GROWTH_MAX


@pytest.mark.parametrize("kind", HANDED_ON)
def test_idle_connections_that_the_lane_has_handed_on(target: Target, kind: str) -> None:
    """They cost more; the caps are their bound."""
    assert measure(target, kind, HANDED_ON_COUNT) < 150_000
