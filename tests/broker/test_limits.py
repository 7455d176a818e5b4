"""Grant tokens and rate limits, with a clock under the test's control."""

from __future__ import annotations

import itertools

import pytest

from n8nrunner.broker import BrokerConstants
from n8nrunner.broker.access import Allowance, FixedWindow, GrantTokens, SlidingWindow


def tokens(ttl: float = 30.0) -> GrantTokens:
    numbers = itertools.count(1)
    return GrantTokens(ttl, lambda: f"grant{next(numbers)}")


def test_a_grant_token_works_once() -> None:
    grants = tokens()
    token = grants.issue(0.0)
    assert grants.take(token, 1.0)
    assert not grants.take(token, 1.0)


def test_an_unknown_token_is_refused() -> None:
    assert not tokens().take("grant1", 0.0)


@pytest.mark.parametrize(("age", "valid"), [(29.9, True), (30.0, False), (1000.0, False)])
def test_a_grant_token_lapses(age: float, valid: bool) -> None:
    grants = tokens()
    token = grants.issue(5.0)
    assert grants.take(token, 5.0 + age) is valid


def test_lapsed_tokens_are_forgotten() -> None:
    grants = tokens()
    for now in range(10_000):
        grants.issue(float(now))
    assert len(grants) <= 31


def test_a_fixed_window_allows_its_count_for_each_client() -> None:
    window = FixedWindow(2, 1.0)
    assert window.ask("a", 10.0) == Allowance(True, 1, 1.0)
    assert window.ask("a", 10.5) == Allowance(True, 0, 0.5)
    assert window.ask("a", 10.75) == Allowance(False, 0, 0.25)
    assert window.ask("b", 10.75).allowed, "each client has its own"
    assert window.ask("a", 11.0) == Allowance(True, 1, 1.0)


def test_a_fixed_window_forgets_clients() -> None:
    window = FixedWindow(2, 1.0)
    for number in range(10_000):
        window.ask(str(number), float(number))
    assert len(window) <= 1001


def test_a_sliding_window_does_not_count_refusals() -> None:
    window = SlidingWindow(2, 1.0)
    assert [window.ask(now) for now in (0.0, 0.5, 0.75, 0.99)] == [True, True, False, False]
    assert window.ask(1.0)
    assert not window.ask(1.4)
    assert window.ask(1.5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"task_timeout": 0},
        {"heartbeat_interval": -1.0},
        {"max_payload": 0},
        {"request_timeout": 0.0},
        {"acceptance_timeout": 0},
    ],
)
def test_constants_that_cannot_work_are_refused(wrong: dict) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BrokerConstants(**wrong)
