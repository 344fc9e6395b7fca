"""The limiter against the formulas of protocol.md 4.5, its memory bound, and the edges."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.gcra import Decision, Gcra


def test_cells_run_out_and_come_back() -> None:
    limiter = Gcra(interval_s=60.0, burst=3)
    assert [limiter.check("a", 1000.0).remaining for _ in range(3)] == [2, 1, 0]
    assert limiter.check("a", 1001.0) == Decision(False, 0, 59.0)
    assert limiter.check("a", 1059.9).allowed is False
    assert limiter.check("a", 1060.0) == Decision(True, 0, 0.0)


def test_refused_requests_cost_nothing() -> None:
    limiter = Gcra(interval_s=1.0, burst=1)
    limiter.check("a", 0.0)
    for _ in range(100):
        limiter.check("a", 0.5)
    assert limiter.check("a", 1.0).allowed


def test_clients_are_independent() -> None:
    limiter = Gcra(interval_s=1.0, burst=1)
    assert limiter.check("a", 0.0).allowed
    assert limiter.check(("b", 4), 0.0).allowed
    assert not limiter.check("a", 0.0).allowed


def test_an_idle_client_gets_no_more_than_the_burst() -> None:
    limiter = Gcra(interval_s=1.0, burst=2)
    limiter.check("a", 0.0)
    assert [limiter.check("a", 1e6).allowed for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("arguments", [(0.0, 1, 1), (-1.0, 1, 1), (1.0, 0, 1), (1.0, 1, 0)])
def test_impossible_rates_are_refused(arguments: tuple[float, int, int]) -> None:
    with pytest.raises(ValueError, match="not a rate"):
        Gcra(*arguments)


def test_memory_is_bounded_and_the_fully_replenished_go_first() -> None:
    limiter = Gcra(interval_s=10.0, burst=3, max_keys=3)
    for _ in range(3):
        limiter.check("spent", 0.0)
    limiter.check("fresh", 0.0)
    limiter.check("late", 15.0)  # "fresh" is as good as new by now
    limiter.check("new", 15.0)
    assert len(limiter) == 3
    assert limiter.check("spent", 15.0) == Decision(True, 0, 0.0)  # was remembered
    limiter.check("newer", 16.0)  # nobody is as good as new: the nearest to it goes
    assert len(limiter) == 3
    assert not limiter.check("spent", 16.0).allowed


def test_a_flood_of_strangers_does_not_grow_it() -> None:
    limiter = Gcra(interval_s=3600.0, burst=2, max_keys=100)
    for stranger in range(5000):
        limiter.check(stranger, stranger / 1000)
    assert len(limiter) == 100


def test_idle_memory_shrinks() -> None:
    limiter = Gcra(interval_s=1.0, burst=1, max_keys=1000)
    for client in range(1000):
        limiter.check(client, 0.0)
    for turn in range(600):
        limiter.check("a", 10.0 + turn)
    assert len(limiter) == 1


@given(
    st.integers(1, 100),
    st.sampled_from([Fraction(1), Fraction(1, 4), Fraction(60), Fraction(1, 8)]),
    st.lists(st.integers(0, 400), max_size=60),
)
def test_equals_the_formulas(burst: int, interval: Fraction, steps: list[int]) -> None:
    """Exact arithmetic on fractions; the times are sixteenths of a second."""
    limiter = Gcra(float(interval), burst)
    tau, now, arrival = (burst - 1) * interval, Fraction(5), None
    for step in steps:
        now += Fraction(step, 16)
        arrival = now if arrival is None else arrival
        got = limiter.check("client", float(now))
        if now >= arrival - tau:
            arrival = max(arrival, now) + interval
            left = min(now + tau + interval - arrival, tau + interval) // interval
            assert got == Decision(True, left, 0.0)
        else:
            assert got == Decision(False, 0, float(arrival - tau - now))
