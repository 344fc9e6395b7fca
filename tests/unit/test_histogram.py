"""Histograms: which step counts what, and taking in what others counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.histogram import NODES, SIZES, SPANS_S, Histogram


@pytest.mark.parametrize("bounds", [SPANS_S, SIZES, NODES])
def test_bounds_rise(bounds: tuple[float, ...]) -> None:
    assert list(bounds) == sorted(set(bounds))


@given(st.lists(st.floats(0, 1e6)))
def test_each_step_counts_what_is_at_most_its_bound(values: list[float]) -> None:
    histogram = Histogram((1.0, 10.0, 100.0))
    for value in values:
        histogram.observe(value)
    at_most = [sum(value <= bound for value in values) for bound in (1.0, 10.0, 100.0)]
    counts = histogram.counts
    assert [counts[0], sum(counts[:2]), sum(counts[:3])] == at_most
    assert histogram.count == len(values)
    assert histogram.total == pytest.approx(sum(values))


def test_counts_of_others_are_added() -> None:
    histogram = Histogram((1.0, 10.0))
    histogram.observe(3)
    histogram.add([1, 0, 2], 50.5)
    assert (histogram.counts, histogram.total) == ([1, 1, 2], 53.5)
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        histogram.add([1, 0], 1.0)
