"""Gathering under load that comes by itself, and under load that waits for answers."""

from collections.abc import Callable

import pytest

from relay.net.gathering import WAIT_MAX_S, WAIT_MIN_S, Gathering

PASS_S = 60e-6
ANSWER_S = 5e-6


def simulate(
    waiting_at: Callable[[float, int], int],
    seconds: float,
    gathering: Gathering | None = None,
    start: float = 100.0,
) -> tuple[float, int, float]:
    """Serve `waiting_at(now, answered so far)` queries for a while.

    Returns:
        Queries per second, turns, and the share of the time that was spent waiting.
    """
    gathering = Gathering() if gathering is None else gathering
    now = start
    answered = turns = 0
    waited = 0.0
    while now < start + seconds:
        batch = max(waiting_at(now - start, answered), 0)
        if batch == 0:
            now += 10e-6  # the event loop sleeps until one comes
            continue
        answered += batch
        now += PASS_S + batch * ANSWER_S
        turns += 1
        if wait_s := gathering.note(batch, now):
            assert WAIT_MIN_S <= wait_s <= WAIT_MAX_S
            waited += wait_s
            now += wait_s
    return answered / seconds, turns, waited / seconds


@pytest.mark.parametrize("rate", [1_500, 10_000, 50_000, 100_000])
def test_queries_that_come_by_themselves_gather(rate: float) -> None:
    served, _, waited = simulate(lambda now, answered: int(now * rate) - answered, 3.0)
    assert waited > 0.4
    assert served == pytest.approx(rate, rel=0.01)


@pytest.mark.parametrize("window", [1, 2, 8, 32, 64])
def test_those_who_wait_for_answers_are_not_kept_waiting(window: int) -> None:
    """All of them ask again as soon as they are answered."""
    alone = window / (PASS_S + window * ANSWER_S)
    served, _, waited = simulate(lambda now, answered: window, 3.0)
    assert waited < 0.1
    assert served > 0.9 * alone


@pytest.mark.parametrize("rate", [10, 100, 500])
def test_few_queries_do_not_gather(rate: float) -> None:
    _, turns, waited = simulate(lambda now, answered: int(now * rate) - answered, 5.0)
    assert turns == pytest.approx(rate * 5, abs=1)
    assert waited == 0


def test_a_change_of_the_load_is_noticed() -> None:
    gathering = Gathering()
    for start in range(100, 130, 10):
        _, _, waited = simulate(
            lambda now, answered: int(now * 20_000) - answered, 5.0, gathering, start
        )
        assert waited > 0.7
        served, _, _ = simulate(lambda now, answered: 16, 5.0, gathering, start + 5)
        assert served > 50_000


def test_a_pause_begins_anew() -> None:
    gathering = Gathering()
    now = 1.0
    while not gathering.note(100, now):
        now += 0.001
    assert gathering.note(100, now + 0.01)
    assert not gathering.note(100, now + 10.0)
