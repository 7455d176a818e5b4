"""The delays and random numbers that the retry policy is given."""

from __future__ import annotations

from itertools import islice

from n8nrunner.connection.delays import growing_delays, jitter


def test_delays_double_from_half_a_second_to_thirty_seconds() -> None:
    assert list(islice(growing_delays(), 9)) == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_jitter_is_spread_from_0_to_1() -> None:
    values = [jitter() for _ in range(1000)]
    assert 0 <= min(values) < 0.1
    assert 0.9 < max(values) <= 1
