"""When a link tries again: a row for each kind of failure, how the delays grow, and what is logged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from n8nrunner.protocol import retry
from n8nrunner.protocol.failures import (
    AuthRefused,
    ConnectionLost,
    LinkFailure,
    NotABroker,
    RateLimited,
    Unreachable,
    UpgradeRefused,
)
from n8nrunner.protocol.retry import Decision, Retry

LEAST, MOST = 0.0, 1.0
SECRET, GRANT = False, True
NEW, KNOWN = False, True


def doubling() -> Iterator[float]:
    """Yield the delays that `backoff` gives (tests/connection/test_library_internals.py)."""
    delay = 0.5
    while True:
        yield min(delay, 30.0)
        delay *= 2


def new_retry(one_shot: bool = SECRET, registered: bool = NEW) -> Retry:
    memory = Retry(one_shot, doubling)
    if registered:
        memory.note_registered()
    return memory


class Row(NamedTuple):
    """The step after a first failure: None for giving up, or the bounds of the delay in seconds."""

    failure: LinkFailure
    one_shot: bool
    registered: bool
    delay: tuple[float, float] | None
    probe: bool = False
    keep_grant: bool = False
    loud: bool = False


ROWS = [
    # The token: wrong from the beginning, or changed at n8n later.
    Row(AuthRefused(""), SECRET, NEW, None),
    Row(AuthRefused(""), SECRET, KNOWN, (30.0, 30.0), loud=True),
    Row(AuthRefused(""), GRANT, NEW, None),
    # The connection: a grant is good for one.
    Row(ConnectionLost(""), SECRET, NEW, (0.0, 0.5)),
    Row(ConnectionLost("", 1001), SECRET, KNOWN, (0.0, 0.5)),
    Row(ConnectionLost(""), GRANT, NEW, None),
    Row(ConnectionLost("", 1001), GRANT, KNOWN, None),
    # n8n limits the rate before it looks at the grant.
    Row(RateLimited(""), SECRET, NEW, (1.0, 2.0), keep_grant=True),
    Row(RateLimited(""), SECRET, KNOWN, (1.0, 2.0), keep_grant=True),
    Row(RateLimited(""), GRANT, NEW, (1.0, 2.0), keep_grant=True),
    # The upgrade: a new grant, if there is a secret to get one with.
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
    # No answer: probe first. A one-shot grant is unused, any other may be of an n8n that has ended.
    Row(Unreachable(""), SECRET, NEW, (0.0, 1.0), probe=True),
    Row(Unreachable(""), SECRET, KNOWN, (0.0, 1.0), probe=True),
    Row(Unreachable(""), GRANT, NEW, (0.0, 1.0), probe=True, keep_grant=True),
    # Another server answers: a probe of /healthz would call it healthy.
    Row(NotABroker(""), SECRET, NEW, (0.0, 1.0)),
    Row(NotABroker(""), SECRET, KNOWN, (0.0, 1.0)),
    Row(NotABroker(""), GRANT, NEW, (0.0, 1.0), keep_grant=True),
]


@pytest.mark.parametrize("jitter", [LEAST, MOST])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{type(row.failure).__name__}-{row[1:3]}")
def test_a_first_failure_is_followed_by_the_step_of_its_row(row: Row, jitter: float) -> None:
    decision = new_retry(row.one_shot, row.registered).decide(row.failure, 100.0, jitter)
    if row.delay is None:
        assert decision == Decision(None)
    else:
        assert decision == Decision(row.delay[int(jitter)], row.probe, row.keep_grant, row.loud)


def test_every_failure_has_a_row() -> None:
    kinds: list[Any] = LinkFailure.__subclasses__()
    assert {type(row.failure) for row in ROWS} == set(kinds)


def test_a_failure_without_a_rule_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="LinkFailure"):
        new_retry().decide(LinkFailure("new"), 0.0, MOST)


# --- an outage ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [Unreachable(""), NotABroker("")])
@pytest.mark.parametrize("jitter", [LEAST, MOST])
def test_an_outage_is_probed_at_five_percent_of_its_length_within_one_and_thirty_seconds(
    failure: LinkFailure, jitter: float
) -> None:
    memory = new_retry(registered=KNOWN)
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
        assert memory.decide(failure, began + since, jitter).delay == pytest.approx(jitter * interval)


def test_a_broker_that_is_back_after_ten_seconds_is_noticed_one_second_later_at_most() -> None:
    memory = new_retry(registered=KNOWN)
    now = 0.0
    while now < 10.0:
        delay = memory.decide(Unreachable(""), now, MOST).delay
        assert delay is not None
        now += delay + 0.01
    assert now < 11.1


def test_an_outage_begins_with_its_first_failure_of_any_kind() -> None:
    memory = new_retry(registered=KNOWN)
    memory.decide(ConnectionLost("", 1001), 0.0, MOST)
    assert memory.decide(Unreachable(""), 200.0, MOST).delay == pytest.approx(10.0)


def test_an_outage_ends_with_a_registration() -> None:
    memory = new_retry(registered=KNOWN)
    memory.decide(Unreachable(""), 0.0, MOST)
    memory.decide(Unreachable(""), 400.0, MOST)
    assert memory.failures == 2
    memory.note_registered()
    assert memory.failures == 0
    assert memory.decide(Unreachable(""), 500.0, MOST).delay == pytest.approx(1.0)
    assert memory.failures == 1


# --- other failures, one after the other -------------------------------------------------------------------


@pytest.mark.parametrize("failure", [ConnectionLost(""), UpgradeRefused("", 500)])
def test_delays_double_up_to_thirty_seconds(failure: LinkFailure) -> None:
    memory = new_retry(registered=KNOWN)
    delays = [memory.decide(failure, float(index), MOST).delay for index in range(9)]
    assert delays == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


@pytest.mark.parametrize(
    ("reason", "seconds", "tasks", "good"),
    [
        (ConnectionLost(""), retry.GOOD_CONNECTION - 0.1, 0, False),  # closed again and again
        (ConnectionLost("", 1002), 0.0, 0, False),
        (UpgradeRefused("", 500), 0.0, 0, False),
        (ConnectionLost(""), retry.GOOD_CONNECTION, 0, True),
        (ConnectionLost(""), 0.1, 1, True),
        (ConnectionLost("", 1001), 0.1, 0, True),  # n8n shuts down, as often as it likes
    ],
)
def test_a_good_connection_resets_the_delays(
    reason: LinkFailure, seconds: float, tasks: int, good: bool
) -> None:
    memory = new_retry()

    def next_delay() -> float | None:
        return memory.decide(ConnectionLost(""), 0.0, MOST).delay

    assert [next_delay(), next_delay(), next_delay()] == [0.5, 1, 2]
    memory.note_registered()
    memory.note_ended(reason, seconds, tasks)
    assert next_delay() == (0.5 if good else 4)


# --- what is logged ---------------------------------------------------------------------------------------


def test_a_reason_is_logged_once_a_minute_and_a_new_one_at_once() -> None:
    memory = new_retry()
    assert memory.should_log("refused", 100.0)
    assert not memory.should_log("refused", 159.9)
    assert memory.should_log("the token's file cannot be read", 160.0)
    assert memory.should_log("refused", 160.1)
    assert not memory.should_log("the token's file cannot be read", 219.9)
    assert memory.should_log("the token's file cannot be read", 220.0)


def test_after_a_registration_every_reason_is_new() -> None:
    memory = new_retry()
    assert memory.should_log("refused", 100.0)
    memory.note_registered()
    assert memory.should_log("refused", 100.1)


def test_only_the_reasons_of_the_last_minute_are_kept() -> None:
    memory = new_retry()
    for second in range(10_000):
        memory.should_log(f"reason {second}", float(second))
    assert len(memory._logged) <= 60
