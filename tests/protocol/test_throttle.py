"""Bound how many similar log lines are admitted."""

from __future__ import annotations

from n8nrunner.protocol.throttle import Throttle


def test_admits_the_first_lines_of_an_interval_and_counts_the_others() -> None:
    throttle = Throttle(burst=2, interval=60.0)
    answers: list[int | None] = [throttle.admit(10.0) for _ in range(5)]
    assert answers == [0, 0, None, None, None]
    assert throttle.admit(69.9) is None
    assert throttle.left_out == 4
    assert throttle.admit(70.0) == 4
    assert throttle.admit(70.0) == 0
    assert throttle.admit(129.9) is None
    assert throttle.admit(130.0) == 1
