"""Times and shares as texts."""

from __future__ import annotations

import pytest

from n8nrunner import units


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "< 0.1 ms"),
        (0.00042, "0.4 ms"),
        (0.0123, "12 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (9.96, "10 s"),
        (99.4, "1 min 39 s"),
        (7500, "2 h 5 min"),
        (200000, "2 d 7 h"),
    ],
)
def test_a_duration_has_a_unit_that_fits(seconds: float, text: str) -> None:
    assert units.duration(seconds) == text


def test_an_estimate_below_the_first_bound_says_no_more_than_that() -> None:
    assert units.estimate(0.0003, 0.0005, "-") == "< 0.5 ms"
    assert units.estimate(0.0005, 0.0005, "-") == "0.5 ms"
    assert units.estimate(None, 0.0005, "-") == "-"


def test_one_thing_is_in_the_singular() -> None:
    assert [units.plural("task", number) for number in (0, 1, 2)] == ["tasks", "task", "tasks"]


def test_a_share_of_nothing_has_another_text() -> None:
    assert [units.percent(*each, "-") for each in [(0, 0), (0, 5), (1, 8)]] == ["-", "0 %", "12.5 %"]
