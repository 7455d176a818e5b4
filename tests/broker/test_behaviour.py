"""The differences between the versions of n8n: for each field a scenario, and its outcome in each version."""

from __future__ import annotations

import dataclasses
from typing import Any, Callable, NamedTuple

import pytest

from n8nrunner.broker import PROFILES, Broker, actions, events
from n8nrunner.broker.access import GrantTokens
from n8nrunner.broker.behaviour import BEHAVIOURS, Behaviour
from n8nrunner.cli import main
from n8nrunner.protocol import messages as m
from tests.broker.test_matching import Table, acceptance, sent


def reasons(result: list[Any]) -> list[str]:
    """Return the reasons of all cancels."""
    return [message.reason for message in sent(result) if isinstance(message, m.TaskCancel)]


def closed(result: list[Any]) -> list[tuple[int, int]]:
    """Return connection and code of all closes."""
    return [(action.connection, action.code) for action in result if isinstance(action, actions.Close)]


def asked(result: list[Any]) -> list[int]:
    """Return the connections whose offers have been accepted."""
    return [
        action.connection
        for action in result
        if isinstance(action, actions.Send) and isinstance(action.message, m.TaskOfferAccept)
    ]


def first_of_two_is_asked(behaviour: Behaviour) -> tuple[Table, str]:
    """Let the first of two runners be asked while the second has an offer."""
    table = Table(behaviour)
    table.connect(1)
    table.connect(2)
    table.request()
    task_id = acceptance(table.offer(1)).task_id
    table.offer(2)
    return table, task_id


def grant_is_used_after_20_seconds(behaviour: Behaviour) -> bool:
    grants = GrantTokens(behaviour.grant_ttl, lambda: "grant")
    return grants.take(grants.issue(0.0), 20.0)


def runner_rejects(behaviour: Behaviour) -> list[int]:
    table, task_id = first_of_two_is_asked(behaviour)
    return asked(table.receive(1, m.TaskRejected(task_id, "full")))


def deferred_request_expires(behaviour: Behaviour) -> list[str]:
    table = Table(behaviour)
    table.connect(1)
    table.request()
    table.receive(1, m.TaskDeferred(acceptance(table.offer(1)).task_id))
    table.pass_time(60.0)
    assert table.counts.expired == 1
    result = table.offer(1)
    return reasons(table.receive(1, m.TaskAccepted(acceptance(result).task_id))) if result else []


def runner_defers_four_times(behaviour: Behaviour) -> int:
    table = Table(behaviour)
    table.connect(1)
    table.request()
    for _ in range(4):
        table.pass_time(50.0)
        table.receive(1, m.TaskDeferred(acceptance(table.offer(1)).task_id))
    table.pass_time(59.0)
    return int(table.counts.requests)


def runner_misses(behaviour: Behaviour) -> tuple[list[str], list[int], int]:
    table, _ = first_of_two_is_asked(behaviour)
    table.offer(1)
    result = table.pass_time(2.0)
    return reasons(result), asked(result), table.counts.offers


def runner_misses_three_times(behaviour: Behaviour) -> list[tuple[int, int]]:
    table = Table(behaviour)
    table.connect(1)
    table.request()
    for _ in range(2):
        acceptance(table.offer(1))
        assert closed(table.pass_time(2.0)) == []
    acceptance(table.offer(1))
    return closed(table.pass_time(2.0))


def runner_is_silent(behaviour: Behaviour) -> list[tuple[int, int]]:
    table = Table(behaviour)
    table.connect(1)
    table.request("q1", timeout=1.0)
    table.request("q2", timeout=3.0)
    return closed(table.pass_time(3.0))


def asked_runner_disconnects(behaviour: Behaviour) -> tuple[list[int], int]:
    table, _ = first_of_two_is_asked(behaviour)
    return asked(table.step(events.Disconnected(1))), table.counts.abandoned


def request_expires_before_the_runner_accepts(behaviour: Behaviour) -> tuple[list[str], int]:
    table = Table(behaviour)
    table.connect(1)
    table.request(timeout=1.0)
    task_id = acceptance(table.offer(1)).task_id
    table.pass_time(1.5)
    return reasons(table.receive(1, m.TaskAccepted(task_id))), table.counts.tasks


def no_settings(behaviour: Behaviour) -> list[str]:
    table = Table(behaviour)
    table.connect(1)
    table.accepted()
    return reasons(table.pass_time(2.0))


def request_expires(behaviour: Behaviour) -> list[str]:
    table = Table(behaviour)
    table.request()
    return [a.error["message"] for a in table.pass_time(60.0) if isinstance(a, actions.RequestExpired)]


def connection_is_half_closed(behaviour: Behaviour) -> tuple[list[int], str]:
    table = Table(behaviour)
    table.connect(1)
    task_id = table.running(1, "q1")
    table.offer(1)
    table.step(events.ConnectionFailing(1))
    used = asked(table.request("q2"))
    (answer,) = table.step(events.Answered(task_id, m.RpcResponse(task_id, "c", "success", 1)))
    return used, type(answer).__name__


def replaced_connection_ends(behaviour: Behaviour) -> list[tuple[int, int]]:
    table = Table(behaviour)
    table.connect(1, "same")
    table.connect(2, "same")
    return closed(table.step(events.Disconnected(1)))


def two_of_three_runners_are_dead(behaviour: Behaviour) -> list[Any]:
    table = Table(behaviour, heartbeat_interval=30.0)
    for key in (1, 2, 3):
        table.connect(key)
    table.pass_time(30.0)
    table.step(events.PongReceived(3))
    return table.pass_time(30.0)


def shutdown_with_a_task(behaviour: Behaviour) -> list[str]:
    table = Table(behaviour)
    table.connect(1)
    table.running()
    return [type(getattr(a, "message", a)).__name__ for a in table.step(events.DrainStarted(24.0))]


def task_outlasts_the_drain(behaviour: Behaviour) -> list[str]:
    table = Table(behaviour)
    table.connect(1)
    table.running()
    result = table.step(events.DrainStarted(24.0)) + table.pass_time(24.0)
    return [action.cause for action in result if isinstance(action, actions.TaskFailed)]


class Difference(NamedTuple):
    """The outcomes of a scenario in 1.123, 2.27 and 2.40."""

    field: str
    scenario: Callable[[Behaviour], Any]
    outcomes: tuple[Any, Any, Any]


_GONE = "Request ID not found. In multi-main setup, it is possible for one of the mains to have reported "
_GONE += "ready state already."
_WINDOW = "Acknowledgement window elapsed"
_NO_SETTINGS = "Requester took too long to acknowledge the task"
_AFTER_60 = "Task request timed out after 60 seconds"
_BOTH_CLOSED = [actions.Close(1, 1002), actions.Close(2, 1002), actions.Ping(3)]

DIFFERENCES = [
    Difference("grant_ttl", grant_is_used_after_20_seconds, (False, True, True)),
    Difference("rematches_rejected", runner_rejects, ([], [], [2])),
    Difference("queues_deferred_again", deferred_request_expires, ([_GONE], [], [])),
    Difference("limits_restarts", runner_defers_four_times, (1, 1, 0)),
    Difference("cancels_missed_acceptances", runner_misses, (([], [], 2), ([], [], 2), ([_WINDOW], [2], 0))),
    Difference("closes_after_misses", runner_misses_three_times, ([], [], [(1, 1002)])),
    Difference("closes_silent_runners", runner_is_silent, ([], [], [(1, 1002)])),
    Difference("rematches_abandoned", asked_runner_disconnects, (([], 0), ([], 0), ([2], 1))),
    Difference(
        "cancels_expired_requests",
        request_expires_before_the_runner_accepts,
        (([], 1), ([], 1), (["Task request expired"], 0)),
    ),
    Difference(
        "names_settings_timeout", no_settings, (["Unknown reason"], ["Unknown reason"], [_NO_SETTINGS])
    ),
    Difference(
        "names_configured_wait", request_expires, ([_AFTER_60], [_AFTER_60], ["Task request timed out"])
    ),
    Difference(
        "notices_unreachable", connection_is_half_closed, (([1], "Send"), ([1], "Send"), ([], "TaskFailed"))
    ),
    Difference("closes_by_id", replaced_connection_ends, ([(2, 1000)], [(2, 1000)], [])),
    Difference(
        "heartbeat_stops_at_dead",
        two_of_three_runners_are_dead,
        ([actions.Close(1, 1002)], [actions.Close(1, 1002)], _BOTH_CLOSED),
    ),
    Difference("drains", shutdown_with_a_task, (["Close", "TaskFailed", "Drained"], ["Drain"], ["Drain"])),
    Difference("shortens_tasks", task_outlasts_the_drain, (["lost"], ["lost"], ["shut_down"])),
]
ALL = pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: difference.field)


def flipped(behaviour: Behaviour, field: str) -> Behaviour:
    value = getattr(behaviour, field)
    return dataclasses.replace(behaviour, **{field: 45.0 - value if field == "grant_ttl" else not value})


def test_every_field_has_a_scenario() -> None:
    fields = [field.name for field in dataclasses.fields(Behaviour)]
    assert ["version", *(difference.field for difference in DIFFERENCES)] == fields


@ALL
@pytest.mark.parametrize("version", PROFILES)
def test_a_scenario_has_the_outcome_of_its_version(difference: Difference, version: str) -> None:
    expected = dict(zip(PROFILES, difference.outcomes))[version]
    assert difference.scenario(BEHAVIOURS[version]) == expected


@ALL
@pytest.mark.parametrize("version", ["2.27", "2.40"])  # without drains, 1.123 has no use for `shortens_tasks`
def test_flipping_the_field_changes_the_outcome(difference: Difference, version: str) -> None:
    behaviour = BEHAVIOURS[version]
    outcome = difference.scenario(behaviour)
    assert difference.scenario(flipped(behaviour, difference.field)) != outcome


def test_the_command_line_offers_every_profile(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["broker", "--help"])
    assert f"{{{','.join(PROFILES)}}}" in capsys.readouterr().out


def test_an_unknown_profile_is_refused() -> None:
    with pytest.raises(ValueError, match="one of 1\\.123, 2\\.27, 2\\.40"):
        Broker("secret", profile="2.3")


class TestDeferredRequestOf1123:
    """n8n 1.123 puts a deferred request into its queue once more, and removes one entry when it expires."""

    def table(self) -> Table:
        table = Table("1.123")
        table.connect(1)
        table.request()
        table.receive(1, m.TaskDeferred(acceptance(table.offer(1)).task_id))
        return table

    def test_it_keeps_its_place_until_it_expires_and_has_a_later_one_then(self) -> None:
        table = self.table()
        table.request("q2", timeout=1000.0)
        table.receive(1, m.TaskDeferred(acceptance(table.offer(1)).task_id))  # again q, the oldest
        table.pass_time(60.0)
        table.offer(1)
        table.offer(1)
        asked_for = [event.request_id for event in table.events if event.kind == "acceptances"]
        assert asked_for == ["q", "q", "q", "q2"]

    def test_an_accepted_one_is_not_matched_again(self) -> None:
        table = self.table()
        table.receive(1, m.TaskAccepted(acceptance(table.offer(1)).task_id))
        assert table.offer(1) == []

    def test_the_second_entry_is_matched_until_a_runner_accepts_it(self) -> None:
        table = self.table()
        table.pass_time(60.0)
        table.receive(1, m.TaskRejected(acceptance(table.offer(1)).task_id, "full"))
        task_id = acceptance(table.offer(1)).task_id
        assert reasons(table.receive(1, m.TaskAccepted(task_id))) == [_GONE]
        assert table.offer(1) == []
        assert (table.counts.tasks, table.counts.requests, table.counts.expired) == (0, 0, 1)

    def test_it_expires_while_the_runner_is_asked(self) -> None:
        table = self.table()
        table.pass_time(59.0)
        task_id = acceptance(table.offer(1)).task_id
        table.pass_time(1.0)
        assert table.counts.expired == 1
        assert reasons(table.receive(1, m.TaskAccepted(task_id))) == [_GONE]
        assert table.offer(1) == []

    def test_a_deferral_after_the_expiry_makes_an_entry_that_lasts_another_timeout(self) -> None:
        table = Table("1.123")
        table.connect(1)
        table.request(timeout=1.0)
        task_id = acceptance(table.offer(1)).task_id
        table.pass_time(1.5)
        assert table.receive(1, m.TaskDeferred(task_id)) == []
        assert table.pass_time(1.0) == []
        assert table.offer(1) == []
        assert table.counts.expired == 1

    def test_a_withdrawn_one_is_gone(self) -> None:
        table = self.table()
        table.step(events.RequestWithdrawn("q", "why"))
        assert table.offer(1) == []
