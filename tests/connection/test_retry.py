"""When a link tries again: a row for each kind of failure, and how the delays grow and begin anew."""

from __future__ import annotations

from typing import Any, NamedTuple

import backoff
import pytest

from n8nrunner.connection import retry
from n8nrunner.connection.retry import Decision, Retry
from n8nrunner.protocol.failures import (
    AuthRefused,
    ConnectionLost,
    LinkFailure,
    NotABroker,
    RateLimited,
    Unreachable,
    UpgradeRefused,
)


@pytest.fixture(autouse=True)
def nothing_left_behind() -> None:
    """Nothing here opens anything, and the look at what is left takes longer than these tests."""


@pytest.fixture(params=["least", "most"])
def jitter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The jitter at both of its ends; `test_library_internals` shows that it has these."""
    ends = {"least": lambda value: 0.0, "most": lambda value: value}
    monkeypatch.setattr(backoff, "full_jitter", ends[request.param])
    return str(request.param)


class Row(NamedTuple):
    """What follows a first failure: None for giving up, or the bounds of the delay in seconds."""

    failure: LinkFailure
    one_shot: bool
    registered: bool
    delay: tuple[float, float] | None
    probe: bool = False
    keep_grant: bool = False
    loud: bool = False


SECRET, GRANT = False, True
NEW, KNOWN = False, True

ROWS = [
    # The token: wrong from the beginning, or changed in n8n meanwhile.
    Row(AuthRefused(""), SECRET, NEW, None),
    Row(AuthRefused(""), SECRET, KNOWN, (30.0, 30.0), loud=True),
    Row(AuthRefused(""), GRANT, NEW, None),
    # The connection: a grant is good for one.
    Row(ConnectionLost(""), SECRET, NEW, (0.0, 0.5)),
    Row(ConnectionLost("", 1001), SECRET, KNOWN, (0.0, 0.5)),
    Row(ConnectionLost(""), GRANT, NEW, None),
    Row(ConnectionLost("", 1001), GRANT, KNOWN, None),
    # n8n takes so many a second; the grant has not been looked at.
    Row(RateLimited(""), SECRET, NEW, (1.0, 2.0), keep_grant=True),
    Row(RateLimited(""), SECRET, KNOWN, (1.0, 2.0), keep_grant=True),
    Row(RateLimited(""), GRANT, NEW, (1.0, 2.0), keep_grant=True),
    # The upgrade: a new grant, if there is a secret to get one by.
    Row(UpgradeRefused("", 403), SECRET, NEW, (0.0, 0.5)),
    Row(UpgradeRefused("", 403), SECRET, KNOWN, (0.0, 0.5)),
    Row(UpgradeRefused("", 401), GRANT, NEW, None),
    Row(UpgradeRefused("", 403), GRANT, NEW, None),
    Row(UpgradeRefused("", 403, is_n8ns=False), SECRET, NEW, (0.0, 0.5)),
    # A proxy's refusal says nothing about the grant, so a one-shot is still good.
    Row(UpgradeRefused("", 401, is_n8ns=False), GRANT, NEW, (0.0, 0.5), keep_grant=True),
    Row(UpgradeRefused("", 403, is_n8ns=False), GRANT, NEW, (0.0, 0.5), keep_grant=True),
    *(Row(UpgradeRefused("", status), SECRET, NEW, (0.0, 0.5)) for status in (0, 400, 404, 500, 503)),
    *(
        Row(UpgradeRefused("", status), GRANT, NEW, (0.0, 0.5), keep_grant=True)
        for status in (0, 302, 400, 404, 500, 503)
    ),
    # Nobody there: look first. A one-shot grant has not been used, any other may be of an n8n that is gone.
    Row(Unreachable(""), SECRET, NEW, (0.0, 1.0), probe=True),
    Row(Unreachable(""), SECRET, KNOWN, (0.0, 1.0), probe=True),
    Row(Unreachable(""), GRANT, NEW, (0.0, 1.0), probe=True, keep_grant=True),
    # Somebody else there: a look at /healthz would find them well.
    Row(NotABroker(""), SECRET, NEW, (0.0, 1.0)),
    Row(NotABroker(""), SECRET, KNOWN, (0.0, 1.0)),
    Row(NotABroker(""), GRANT, NEW, (0.0, 1.0), keep_grant=True),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{type(row.failure).__name__}-{row[1:3]}")
def test_what_follows_a_first_failure(row: Row, jitter: str) -> None:
    decision = Retry().decide(row.failure, 100.0, row.one_shot, row.registered)
    if row.delay is None:
        assert decision == Decision(None)
        return
    least, most = row.delay
    assert decision == Decision(least if jitter == "least" else most, row.probe, row.keep_grant, row.loud)


def test_every_failure_has_a_row() -> None:
    kinds: list[Any] = LinkFailure.__subclasses__()
    assert {type(row.failure) for row in ROWS} == set(kinds)


def test_a_failure_without_a_rule_is_a_mistake_of_ours() -> None:
    with pytest.raises(AssertionError, match="LinkFailure"):
        Retry().decide(LinkFailure("new"), 0.0, False, False)


# --- an outage ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [Unreachable(""), NotABroker("")])
def test_an_outage_is_looked_into_at_five_percent_of_its_length_within_one_and_thirty_seconds(
    failure: LinkFailure, jitter: str
) -> None:
    memory = Retry()
    began = 1000.0
    for since, interval in [
        (0.0, 1.0),
        (5.0, 1.0),
        (20.0, 1.0),
        (40.0, 2.0),
        (100.0, 5.0),
        (599.0, 29.95),
        (600.0, 30.0),
        (86_400.0, 30.0),
    ]:
        delay = memory.decide(failure, began + since, False, True).delay
        assert delay == pytest.approx(0.0 if jitter == "least" else interval)


def test_a_short_outage_costs_a_short_wait() -> None:
    """Ten seconds after the broker is back, a runner has looked; most have within a second."""
    for _ in range(200):
        memory = Retry()
        now = 0.0
        while now < 10.0:
            delay = memory.decide(Unreachable(""), now, False, True).delay
            assert delay is not None
            now += delay + 0.01
        assert now < 11.1


def test_an_outage_begins_with_its_first_failure_of_any_kind(jitter: str) -> None:
    memory = Retry()
    memory.decide(ConnectionLost("", 1001), 0.0, False, True)
    delay = memory.decide(Unreachable(""), 200.0, False, True).delay
    assert delay == pytest.approx(0.0 if jitter == "least" else 10.0)


def test_an_outage_ends_with_a_registration(jitter: str) -> None:
    memory = Retry()
    memory.decide(Unreachable(""), 0.0, False, True)
    memory.decide(Unreachable(""), 400.0, False, True)
    assert memory.failures == 2
    memory.registered()
    assert memory.failures == 0
    delay = memory.decide(Unreachable(""), 500.0, False, True).delay
    assert delay == pytest.approx(0.0 if jitter == "least" else 1.0)
    assert memory.failures == 1


def test_runners_come_back_spread_over_half_a_second() -> None:
    delays = [Retry().healthy_delay() for _ in range(1000)]
    assert 0 <= min(delays) < 0.05
    assert 0.45 < max(delays) <= retry.HEALTHY_JITTER


# --- other failures, one after the other -------------------------------------------------------------------


@pytest.mark.parametrize("failure", [ConnectionLost(""), UpgradeRefused("", 500)])
def test_delays_double_up_to_thirty_seconds(failure: LinkFailure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "full_jitter", lambda value: value)
    memory = Retry()
    delays = [memory.decide(failure, float(index), False, True).delay for index in range(9)]
    assert delays == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


@pytest.mark.parametrize(
    ("reason", "seconds", "tasks", "good"),
    [
        (ConnectionLost(""), retry.GOOD_CONNECTION - 0.1, 0, False),  # thrown out again and again
        (ConnectionLost("", 1002), 0.0, 0, False),
        (UpgradeRefused("", 500), 0.0, 0, False),
        (ConnectionLost(""), retry.GOOD_CONNECTION, 0, True),
        (ConnectionLost(""), 0.1, 1, True),
        (ConnectionLost("", 1001), 0.1, 0, True),  # n8n shuts down, as often as it likes
    ],
)
def test_the_delays_begin_anew_after_a_good_connection(
    reason: LinkFailure, seconds: float, tasks: int, good: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "full_jitter", lambda value: value)
    memory = Retry()

    def next_delay() -> float | None:
        return memory.decide(ConnectionLost(""), 0.0, False, True).delay

    assert [next_delay(), next_delay(), next_delay()] == [0.5, 1, 2]
    memory.registered()
    memory.ended(reason, seconds, tasks)
    assert next_delay() == (0.5 if good else 4)


def test_the_delays_are_spread_over_their_whole_range() -> None:
    delays = [Retry().decide(ConnectionLost(""), 0.0, False, True).delay or 0.0 for _ in range(1000)]
    assert 0 <= min(delays) < 0.05
    assert 0.45 < max(delays) <= 0.5


# --- what is logged ---------------------------------------------------------------------------------------


def test_a_reason_is_logged_once_a_minute_and_a_new_one_at_once() -> None:
    memory = Retry()
    assert memory.is_news("refused", 100.0)
    assert not memory.is_news("refused", 159.9)
    assert memory.is_news("the token's file cannot be read", 160.0)
    assert memory.is_news("refused", 160.1)
    assert not memory.is_news("the token's file cannot be read", 219.9)
    assert memory.is_news("the token's file cannot be read", 220.0)


def test_after_a_registration_every_reason_is_new() -> None:
    memory = Retry()
    assert memory.is_news("refused", 100.0)
    memory.registered()
    assert memory.is_news("refused", 100.1)


def test_reasons_of_the_last_minute_alone_are_kept() -> None:
    memory = Retry()
    for second in range(10_000):
        memory.is_news(f"reason {second}", float(second))
    assert len(memory._logged) <= 60
