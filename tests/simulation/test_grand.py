"""The promises of large worlds in worlds of a few hundred nodes; the command has the large ones."""

from __future__ import annotations

import pytest

from tests.simulation import grand
from tests.simulation.grand import Found, broken_promises
from tests.simulation.invariants import PACKETS_MAX

pytestmark = pytest.mark.slow


def test_a_fifth_of_the_nodes_may_lie() -> None:
    result = grand.among_liars(1, 200, keys=20)
    assert result.lookups == 200
    assert broken_promises("a fifth are liars", result) == []
    assert min(result.stored) >= 10


@pytest.mark.parametrize("valid", [False, True])
def test_sybils_next_to_a_key_do_not_have_it_for_themselves(valid: bool) -> None:
    result = grand.sybils(2, 150, valid=valid, keys=3)
    assert len(result.stored) == 3
    assert broken_promises("Sybils", result) == []


def test_half_of_the_nodes_may_leave_within_an_hour() -> None:
    result = grand.exodus(3, 80, keys=20, gap_s=6.0)
    assert result.lookups == 600
    assert broken_promises("half leave within an hour", result) == []


@pytest.mark.parametrize("one_key", [False, True])
def test_a_busy_relay_is_banned_by_nobody(one_key: bool) -> None:
    result = grand.steady(4, 200, seconds=60.0, one_key=one_key)
    assert 0 < result.most_packets <= PACKETS_MAX


def test_a_broken_promise_is_noticed() -> None:
    bad = Found(lookups=1000, found=980, stored=[9, 20], most_packets=26)
    for name, share in (("a fifth are liars", 0.98), ("half leave within an hour", 0.998)):
        bad.found = int(1000 * share)
        assert len(broken_promises(name, bad)) == 1
    assert len(broken_promises("Sybils", bad)) == 1
    assert len(broken_promises("a PUT a second", bad)) == 1
