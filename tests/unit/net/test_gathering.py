"""Gathering under load that comes by itself, and under load that waits for answers."""

from collections.abc import Callable

import pytest

from relay.net.gathering import GATHER_S, Gathering

PASS_S = 60e-6
ANSWER_S = 5e-6


def simulate(
    waiting_at: Callable[[float, int], int], seconds: float, gathering: Gathering | None = None
) -> tuple[float, int, float]:
    """Serve `waiting_at(now, answered so far)` queries for a while.

    Returns:
        Queries per second, turns, and the share of turns after which was waited.
    """
    gathering = Gathering() if gathering is None else gathering
    start = now = 100.0
    answered = turns = waits = 0
    while now < start + seconds:
        batch = max(waiting_at(now - start, answered), 0)
        if batch == 0:
            now += 10e-6  # the event loop sleeps until one comes
            continue
        answered += batch
        now += PASS_S + batch * ANSWER_S
        turns += 1
        if gathering.note(batch, now):
            waits += 1
            now += GATHER_S
    return answered / seconds, turns, waits / turns


@pytest.mark.parametrize("rate", [3_000, 10_000, 50_000, 100_000])
def test_queries_that_come_by_themselves_gather(rate: float) -> None:
    served, _, waited = simulate(lambda now, answered: int(now * rate) - answered, 3.0)
    assert waited > 0.8
    assert served == pytest.approx(rate, rel=0.01)


@pytest.mark.parametrize("window", [1, 2, 8, 32, 64])
def test_those_who_wait_for_answers_are_not_kept_waiting(window: int) -> None:
    """All of them ask again as soon as they are answered."""
    alone = window / (PASS_S + window * ANSWER_S)
    served, _, waited = simulate(lambda now, answered: window, 3.0)
    assert waited < 0.01
    assert served > 0.8 * alone


@pytest.mark.parametrize("rate", [10, 100, 1000])
def test_few_queries_do_not_gather(rate: float) -> None:
    _, turns, waited = simulate(lambda now, answered: int(now * rate) - answered, 5.0)
    assert turns == pytest.approx(rate * 5, abs=1)
    assert waited == 0


def test_a_change_of_the_load_is_noticed() -> None:
    gathering = Gathering()
    for _ in range(3):
        _, _, waited = simulate(lambda now, answered: int(now * 20_000) - answered, 3.0, gathering)
        assert waited > 0.7
        served, _, _ = simulate(lambda now, answered: 16, 3.0, gathering)
        assert served > 50_000


def test_a_pause_begins_anew() -> None:
    gathering = Gathering()
    now = 1.0
    while not gathering.note(100, now):
        now += 0.001
    assert gathering.note(100, now + 0.01)
    assert not gathering.note(100, now + 10.0)
