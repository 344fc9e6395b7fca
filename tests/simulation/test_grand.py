"""The promises of large worlds in worlds of a few hundred nodes; the command has the large ones."""

from __future__ import annotations

import pytest

from tests.simulation import grand
from tests.simulation.grand import Found, broken_promises

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


def test_many_look_ups_at_once_find_what_is_there() -> None:
    result = grand.rush(7, 200, missing=0, seconds=0.0, keys=60)
    assert result.lookups == 60
    assert broken_promises("a hundred look-ups at once", result) == []


def test_many_puts_at_once_are_stored_where_others_look() -> None:
    result = grand.crush(10, 200, keys=60, seconds=3.0)
    assert len(result.stored) == 60
    assert broken_promises("thirty PUTs a second", result) == []


def test_look_ups_among_busy_nodes_find_what_is_there() -> None:
    result = grand.besieged(12, 200, keys=10)
    assert result.lookups == len(result.spans_s) == 10
    assert broken_promises("all addresses are forged", result) == []
    quiet = grand.among_liars(1, 100, keys=2)
    assert max(result.spans_s) > max(quiet.spans_s), "they were busy"


def test_whoever_could_not_ask_does_not_say_that_there_is_nothing() -> None:
    result = grand.rush(9, 200, missing=500, seconds=0.0, keys=60)
    assert result.undecided > 0
    assert broken_promises("a thousand look-ups at once", result) == []


@pytest.mark.parametrize("one_key", [False, True])
def test_a_busy_relay_is_banned_by_nobody(one_key: bool) -> None:
    result = grand.steady(4, 200, seconds=60.0, one_key=one_key)
    print(result.most_packets, "packets to one address in 10 s")
    # 24 where all ask for one key, else 19. What goes to a node by right, 15 at once and one a
    # second, is 25; more may go while its account is nearly empty, so this is of these worlds.
    assert result.most_packets > 0
    assert broken_promises("a PUT a second", result) == []


def test_a_broken_promise_is_noticed() -> None:
    bad = Found(lookups=1000, found=980, stored=[9, 20], most_packets=26)
    for name, share in (("a fifth are liars", 0.98), ("half leave within an hour", 0.998)):
        bad.found = int(1000 * share)
        assert len(broken_promises(name, bad)) == 1
    assert len(broken_promises("Sybils", bad)) == 1
    assert len(broken_promises("a hundred PUTs at once", bad)) == 1
    bad.refused = 1
    assert len(broken_promises("a hundred PUTs at once", bad)) == 2
    bad.found, bad.undecided, bad.refused = 980, 9, 0
    assert len(broken_promises("a thousand look-ups at once", bad)) == 1
    assert len(broken_promises("a PUT a second", bad)) == 1
