"""The histograms of a snapshot."""

from __future__ import annotations

import statistics
from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from n8nrunner import Histogram
from n8nrunner.snapshot import BOUNDS, merged

SECONDS = st.lists(st.floats(0.0, 1000.0), max_size=50)


def histogram(times: list[float]) -> Histogram:
    counts = [0] * (len(BOUNDS) + 1)
    for seconds in times:
        counts[bisect_left(BOUNDS, seconds)] += 1
    return Histogram(BOUNDS, tuple(counts), sum(times))


@given(SECONDS, st.floats(0.0, 1.0))
def test_a_quantile_is_in_the_bucket_of_the_true_one(times: list[float], q: float) -> None:
    estimate = histogram(times).quantile(q)
    if not times:
        assert estimate is None
        return
    assert estimate is not None
    shares = [(index + 1) / len(times) for index in range(len(times))]
    true = sorted(times)[min(bisect_left(shares, q - 1e-9), len(times) - 1)]
    bucket = bisect_left(BOUNDS, true)
    lower = BOUNDS[bucket - 1] if bucket else 0.0
    upper = BOUNDS[bucket] if bucket < len(BOUNDS) else BOUNDS[-1]
    assert lower - 1e-9 <= estimate <= upper + 1e-9


@given(SECONDS, SECONDS)
def test_merged_histograms_have_the_times_of_both(some: list[float], more: list[float]) -> None:
    both = merged([histogram(some), histogram(more)])
    assert both.counts == histogram(some + more).counts
    assert both.count == len(some) + len(more)
    assert both.sum == pytest.approx(sum(some + more))
    assert both.mean == (pytest.approx(statistics.mean(some + more)) if some + more else None)


def test_nothing_merged_is_empty() -> None:
    assert merged([]) == Histogram()
    assert Histogram().quantile(0.5) is None
    assert Histogram().mean is None
