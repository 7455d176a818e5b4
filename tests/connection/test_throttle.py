"""How many similar log lines are let through."""

from __future__ import annotations

from n8nrunner.connection.throttle import Throttle


def test_the_first_lines_of_an_interval_are_let_through_and_the_others_counted() -> None:
    throttle = Throttle(burst=2, interval=60.0)
    answers: list[int | None] = [throttle.admit(10.0) for _ in range(5)]
    assert answers == [0, 0, None, None, None]
    assert throttle.admit(69.9) is None
    assert throttle.left_out == 4
    assert throttle.admit(70.0) == 4
    assert throttle.admit(70.0) == 0
    assert throttle.admit(129.9) is None
    assert throttle.admit(130.0) == 1
