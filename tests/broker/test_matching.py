"""The broker's algorithm, step by step with a clock under the test's control, as each version of n8n."""

from __future__ import annotations

import itertools
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from n8nrunner.broker import PROFILES, BrokerConstants, BrokerCounts, BrokerEvent, actions, events
from n8nrunner.broker.behaviour import BEHAVIOURS, Behaviour
from n8nrunner.broker.matching import Matching
from n8nrunner.broker.timers import Timers
from n8nrunner.broker.wording import runner_error
from n8nrunner.protocol import messages as m

ActionT = TypeVar("ActionT")


class Table:
    """A matching, its clock and its events."""

    def __init__(
        self, version: str | Behaviour = "2.40", totals: dict[str, int] | None = None, **constants: Any
    ) -> None:
        self.now = 1000.0
        self.events: list[BrokerEvent] = []
        numbers = itertools.count(1)
        # Heartbeats would disturb every test that waits longer than 30 seconds.
        constants.setdefault("heartbeat_interval", 1e6)
        self.matching = Matching(
            self.now,
            lambda: f"task{next(numbers)}",
            behaviour=BEHAVIOURS[version] if isinstance(version, str) else version,
            constants=BrokerConstants(**constants),
            totals={} if totals is None else totals,
            on_event=self.events.append,
        )
        self.offers = itertools.count(1)

    def step(self, event: Any) -> list[Any]:
        return list(self.matching.handle(event, self.now))

    def pass_time(self, seconds: float) -> list[Any]:
        """Move the clock, stopping at every deadline, and return all actions."""
        end = self.now + seconds
        result: list[Any] = []
        while True:
            at = self.matching.next_deadline()
            if at is None or at > end:
                break
            self.now = max(self.now, at)
            result += self.step(events.TimePassed())
        self.now = end
        return result

    def connect(self, key: int, runner_id: str = "", types: Any = ("t",)) -> None:
        assert self.step(events.Connected(key, runner_id or f"runner{key}")) == [
            actions.Send(key, m.InfoRequest())
        ]
        result = self.step(events.Received(key, m.RunnerInfo("name", tuple(types))))
        assert actions.Send(key, m.RunnerRegistered()) in result

    def offer(self, key: int, task_type: str = "t", valid_for: int = -1, offer_id: str = "") -> list[Any]:
        return self.receive(key, m.TaskOffer(offer_id or f"offer{next(self.offers)}", task_type, valid_for))

    def receive(self, key: int, message: Any) -> list[Any]:
        return self.step(events.Received(key, message))

    def request(self, request_id: str = "q", task_type: str = "t", timeout: float | None = None) -> list[Any]:
        return self.step(events.TaskRequested(request_id, task_type, timeout))

    def accepted(self, key: int = 1, request_id: str = "q") -> str:
        """Let runner `key` accept a request, and return the task's id."""
        self.request(request_id)
        task_id = acceptance(self.offer(key)).task_id
        assert self.receive(key, m.TaskAccepted(task_id)) == [actions.TaskReady(request_id, task_id)]
        return task_id

    def running(self, key: int = 1, request_id: str = "q") -> str:
        task_id = self.accepted(key, request_id)
        settings = {"for": request_id}
        result = self.step(events.SettingsGiven(task_id, settings))
        assert result == [actions.Send(key, m.TaskSettings(task_id, settings))]
        return task_id

    @property
    def counts(self) -> Any:
        return self.matching.counts()


def only(kind: type[ActionT], result: list[Any]) -> ActionT:
    found = [action for action in result if isinstance(action, kind)]
    assert len(found) == 1, result
    return found[0]


def sent(result: list[Any]) -> list[m.FromBroker]:
    return [action.message for action in result if isinstance(action, actions.Send)]


def acceptance(result: list[Any]) -> m.TaskOfferAccept:
    found = [message for message in sent(result) if isinstance(message, m.TaskOfferAccept)]
    assert len(found) == 1, result
    return found[0]


def cancel(key: int, task_id: str, reason: str) -> actions.Send:
    return actions.Send(key, m.TaskCancel(task_id, reason))


@pytest.fixture(params=PROFILES)
def profile(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class TestRegistration:
    def test_drops_messages_before_the_registration(self, profile: str) -> None:
        table = Table(profile)
        table.step(events.Connected(1, "a"))
        assert table.offer(1) == []
        assert table.counts.offers == 0
        assert table.counts.runners == 0
        assert table.counts.connections == 1

    def test_ignores_a_second_registration(self, profile: str) -> None:
        table = Table(profile)
        table.connect(1, types=["t"])
        assert table.receive(1, m.RunnerInfo("other", ("u",))) == []
        assert table.counts.runners == 1
        assert table.counts.ignored == 1

    def test_ignores_events_of_unknown_connections(self, profile: str) -> None:
        table = Table(profile)
        for event in (
            events.Received(9, m.RunnerInfo("name", ())),
            events.PongReceived(9),
            events.ConnectionFailing(9),
            events.Disconnected(9),
        ):
            assert table.step(event) == []
        assert table.counts == BrokerCounts()

    def test_keeps_the_runner_when_an_unregistered_connection_of_its_id_ends(self) -> None:
        table = Table("2.40")
        table.connect(1, "same")
        table.step(events.Connected(2, "same"))
        assert table.step(events.Disconnected(2)) == []
        assert table.counts.runners == 1


class TestSameId:
    def test_n8n_2_40_closes_the_old_connection_of_an_id(self) -> None:
        table = Table("2.40")
        table.connect(1, "same")
        task_id = table.running(1)
        table.step(events.Connected(2, "same"))
        result = table.receive(2, m.RunnerInfo("new", ("t",)))
        assert result == [
            actions.Close(1, 1000),
            actions.TaskFailed("q", task_id, "lost", {"message": "Node execution failed"}),
            actions.Send(2, m.RunnerRegistered()),
        ]
        # Later messages of the old connection, and its end, do not change the new one.
        assert table.receive(1, m.TaskDone(task_id, {"result": 1})) == []
        assert table.offer(1) == []
        assert table.counts.offers == 0
        assert table.step(events.Disconnected(1)) == []
        assert table.counts.runners == 1
        assert table.counts.evicted == 1
        assert acceptance([*table.request("again"), *table.offer(2)])

    def test_n8n_2_27_closes_the_new_connection_when_the_old_one_ends(self) -> None:
        table = Table("2.27")
        table.connect(1, "same")
        table.connect(2, "same")
        assert table.counts.runners == 1
        task_id = table.running(2)
        assert table.step(events.Disconnected(1)) == [
            actions.Close(2, 1000),
            actions.TaskFailed("q", task_id, "lost", {"message": "Node execution failed"}),
        ]
        assert table.counts.runners == 0
        assert table.counts.evicted == 2
        assert table.step(events.Disconnected(2)) == []
        assert table.counts.connections == 0

    def test_drops_the_offers_of_the_old_connection(self, profile: str) -> None:
        table = Table(profile)
        table.connect(1, "same")
        table.offer(1)
        table.connect(2, "same")
        assert table.counts.offers == 0
        assert table.request() == []


class TestMatchPass:
    def test_matches_the_oldest_request_with_the_oldest_offer(self, profile: str) -> None:
        table = Table(profile)
        table.connect(1)
        table.connect(2)
        table.request("q1")
        table.request("q2")
        first = acceptance(table.offer(2, offer_id="late runner"))
        assert first.offer_id == "late runner"
        table.offer(1, offer_id="second")
        table.offer(2, offer_id="third")
        assert acceptance(table.request("q3")).offer_id == "third"
        matched = [event.request_id for event in table.events if event.kind == "acceptances"]
        assert matched == ["q1", "q2", "q3"]

    def test_matches_within_one_type_only(self, profile: str) -> None:
        table = Table(profile)
        table.connect(1, types=["t", "u"])
        table.offer(1, "u")
        assert table.request("q", "t") == []
        assert table.counts.mismatched == 1
        assert acceptance(table.offer(1, "t"))
        assert table.counts.offers == 1
        assert acceptance(table.request("q2", "u"))
        table.request("q3", "t")
        assert table.counts.mismatched == 1, "without any offer, a request is not mismatched"

    def test_accepts_offers_of_types_that_were_not_registered(self, profile: str) -> None:
        table = Table(profile)
        table.connect(1, types=[])
        table.offer(1, "t")
        assert acceptance(table.request("q", "t"))

    @pytest.mark.parametrize(
        ("valid_for", "waits", "used"),
        [(0, 0.0, False), (5000, 4.999, True), (5000, 5.0, False), (-1, 1e5, True)],
    )
    def test_uses_an_offer_until_its_validity_ends(
        self, profile: str, valid_for: int, waits: float, used: bool
    ) -> None:
        table = Table(profile)
        table.connect(1)
        table.offer(1, valid_for=valid_for)
        table.now += waits
        result = table.request()
        assert bool(result) is used
        assert table.counts.offers == 0
        assert table.counts.offers_lapsed == (0 if used else 1)

    def test_keeps_a_lapsed_offer_until_the_next_match_pass_of_any_type(self, profile: str) -> None:
        table = Table(profile)
        table.connect(1)
        table.offer(1, valid_for=1000)
        table.pass_time(2.0)
        assert table.counts.offers == 1
        table.request("q", "other")
        assert table.counts.offers == 0

    def test_uses_a_waiting_offer_once(self, profile: str) -> None:
        table = Table(profile)
        table.connect(1)
        table.offer(1)
        assert acceptance(table.request("q1"))
        assert table.request("q2") == []

    def test_counts_two_offers_with_one_id(self, profile: str) -> None:
        table = Table(profile)
        table.connect(1)
        table.offer(1, offer_id="same")
        table.offer(1, offer_id="same")
        assert acceptance(table.request("q1")).offer_id == "same"
        assert acceptance(table.request("q2")).offer_id == "same"


class TestAnswerToAcceptance:
    """The answers of a runner to the acceptance of its offer, and the lack of one."""

    def test_tells_the_requester_when_a_runner_accepts(self, profile: str) -> None:
        table = Table(profile)
        table.connect(1)
        task_id = table.accepted()
        assert (table.counts.requests, table.counts.accepting, table.counts.tasks) == (0, 0, 1)
        assert table.step(events.SettingsGiven(task_id, 7)) == [actions.Send(1, m.TaskSettings(task_id, 7))]
        assert table.counts.running == 1

    def test_n8n_2_27_matches_a_rejected_request_at_the_next_offer_or_request(self) -> None:
        table = Table("2.27")
        table.connect(1)
        table.connect(2)
        table.request("q1")
        task_id = acceptance(table.offer(1)).task_id
        table.offer(2)
        assert table.receive(1, m.TaskRejected(task_id, "full")) == []
        assert table.pass_time(10) == []
        assert table.counts.requests == 1
        # A request of another type makes a match pass for all types.
        accept = acceptance(table.request("q2", "other"))
        assert accept.task_id != task_id

    def test_keeps_the_place_of_a_rejected_request(self, profile: str) -> None:
        table = Table(profile)
        table.connect(1)
        table.request("q1")
        table.request("q2")
        task_id = acceptance(table.offer(1)).task_id
        table.receive(1, m.TaskRejected(task_id, "full"))
        table.offer(1)
        matched = [event.request_id for event in table.events if event.kind == "acceptances"]
        assert matched == ["q1", "q1"]

    def test_restarts_the_request_timer_at_a_deferral(self, profile: str) -> None:
        table = Table(profile)
        table.connect(1)
        table.request()
        task_id = acceptance(table.offer(1)).task_id
        table.pass_time(1.0)
        assert table.receive(1, m.TaskDeferred(task_id)) == []
        assert table.pass_time(59.9) == []
        assert only(actions.RequestExpired, table.pass_time(0.2))

    def test_does_not_match_a_deferred_request_at_once(self, profile: str) -> None:
        table = Table(profile)
        table.connect(1)
        table.connect(2)
        table.request()
        task_id = acceptance(table.offer(1)).task_id
        table.offer(2)
        assert table.receive(1, m.TaskDeferred(task_id)) == []
        assert acceptance(table.offer(1)).offer_id == "offer2"

    def test_n8n_2_27_tells_no_one_of_a_missed_acceptance(self) -> None:
        table = Table("2.27")
        table.connect(1)
        table.request()
        acceptance(table.offer(1))
        table.offer(1)
        assert table.pass_time(1.99) == []
        assert table.pass_time(0.02) == []
        assert table.counts.missed == 1
        assert table.counts.offers == 1, "its other offers stay"
        assert acceptance(table.offer(1)).offer_id == "offer2"

    def test_n8n_2_40_cancels_a_missed_acceptance_drops_the_offers_and_matches_again(self) -> None:
        table = Table("2.40")
        table.connect(1)
        table.connect(2)
        table.request()
        acceptance(table.offer(1))
        table.offer(1)
        table.offer(2)
        assert table.pass_time(1.99) == []
        assert table.pass_time(0.02) == [
            cancel(1, "task1", "Acknowledgement window elapsed"),
            actions.Send(2, m.TaskOfferAccept("offer3", "task2")),
        ]
        assert table.counts.offers == 0
        assert table.counts.offers_dropped == 1

    def test_n8n_2_40_restarts_the_request_timer_for_three_misses(self) -> None:
        table = Table("2.40", missed_limit=1000)
        table.connect(1)
        table.request()
        start = table.now
        while table.counts.requests:
            table.pass_time(50.0)
            if table.counts.requests:
                acceptance(table.offer(1))
                table.pass_time(2.0)
        expired = next(event for event in table.events if event.kind == "expired")
        assert expired.at - start == pytest.approx(3 * 52.0 + 60.0)

    def test_n8n_2_27_notices_a_lost_runner_when_the_time_for_its_answer_ends(self) -> None:
        table = Table("2.27")
        table.connect(1)
        table.connect(2)
        table.request()
        acceptance(table.offer(1))
        table.offer(2)
        assert table.step(events.Disconnected(1)) == []
        assert table.pass_time(2.0) == []
        assert table.counts.missed == 1
        assert acceptance(table.offer(2))

    def test_n8n_2_40_matches_the_request_of_a_lost_runner_at_once(self) -> None:
        table = Table("2.40")
        table.connect(1)
        table.connect(2)
        table.request()
        acceptance(table.offer(1))
        table.offer(2)
        assert table.step(events.Disconnected(1)) == [actions.Send(2, m.TaskOfferAccept("offer2", "task2"))]
        assert table.counts.abandoned == 1
        assert table.counts.accepting == 1
        assert table.receive(2, m.TaskAccepted("task2")) == [actions.TaskReady("q", "task2")]
        table.step(events.SettingsGiven("task2", 1))
        assert table.pass_time(10.0) == [], "nothing is left of the first acceptance"

    def test_n8n_2_27_keeps_a_task_without_end_if_its_request_had_expired(self) -> None:
        table = Table("2.27")
        table.connect(1)
        table.request(timeout=1.0)
        task_id = acceptance(table.offer(1)).task_id
        assert only(actions.RequestExpired, table.pass_time(1.5))
        assert table.receive(1, m.TaskAccepted(task_id)) == []
        assert table.pass_time(1000.0) == []
        assert table.counts.tasks == 1
        assert table.step(events.SettingsGiven(task_id, 1)) == []
        # A drain waits for it until its own timeout, and the requester is not told.
        assert table.step(events.DrainStarted(24.0)) == [actions.Send(1, m.Drain())]
        assert table.pass_time(23.9) == []
        assert table.pass_time(0.2) == [actions.Close(1, 1001), actions.Drained()]

    @pytest.mark.parametrize(
        ("version", "answer"),
        [
            *[(version, m.TaskRejected("task1", "full")) for version in PROFILES],
            *[(version, m.TaskDeferred("task1")) for version in ("2.27", "2.40")],
        ],
    )
    def test_does_not_match_an_expired_request_that_a_runner_refuses(self, version: str, answer: Any) -> None:
        table = Table(version)
        table.connect(1)
        table.request(timeout=1.0)
        acceptance(table.offer(1))
        table.pass_time(1.5)
        assert table.receive(1, answer) == []
        assert table.offer(1) == []
        assert table.counts.requests == 0

    def test_does_not_match_an_expired_request_after_a_miss(self, profile: str) -> None:
        table = Table(profile)
        table.connect(1)
        table.request(timeout=1.0)
        acceptance(table.offer(1))
        result = table.pass_time(70.0)
        assert only(actions.RequestExpired, result)
        assert table.offer(1) == []

    @pytest.mark.parametrize("answer", [m.TaskRejected("task1", "full"), m.TaskDeferred("task1")])
    def test_ignores_late_refusals(self, profile: str, answer: Any) -> None:
        table = Table(profile)
        table.connect(1)
        table.request()
        acceptance(table.offer(1))
        table.pass_time(2.0)
        assert table.receive(1, answer) == []
        assert (table.counts.late, table.counts.requests) == (1, 1)

    def test_ignores_a_late_acceptance(self, profile: str) -> None:
        table = Table(profile)
        table.connect(1)
        table.request()
        task_id = acceptance(table.offer(1)).task_id
        table.pass_time(2.0)
        assert table.receive(1, m.TaskAccepted(task_id)) == []
        assert table.counts.tasks == 0
        assert table.counts.late == 1
        assert table.counts.requests == 1

    def test_counts_an_acceptance_that_comes_before_its_deadline_is_handled(self, profile: str) -> None:
        table = Table(profile)
        table.connect(1)
        table.request()
        task_id = acceptance(table.offer(1)).task_id
        table.now += 3.0
        assert table.receive(1, m.TaskAccepted(task_id)) == [actions.TaskReady("q", task_id)]

    def test_ignores_answers_of_a_runner_that_was_not_asked(self, profile: str) -> None:
        table = Table(profile)
        table.connect(1)
        table.connect(2)
        table.request()
        task_id = acceptance(table.offer(1)).task_id
        assert table.receive(2, m.TaskAccepted(task_id)) == []
        assert table.receive(1, m.TaskAccepted(task_id)) == [actions.TaskReady("q", task_id)]


class TestTasks:
    """Tasks that a runner has accepted."""

    def test_fails_a_task_without_settings_and_gives_the_runner_the_same_reason(self, profile: str) -> None:
        table = Table(profile)
        table.connect(1)
        task_id = table.accepted()
        assert table.pass_time(1.9) == []
        result = table.pass_time(0.2)
        failed = only(actions.TaskFailed, result)
        assert failed.cause == "settings_missed"
        assert result[0] == cancel(1, task_id, failed.error["message"])
        assert table.step(events.SettingsGiven(task_id, 1)) == []
        assert table.counts.tasks == 0

    def test_sends_settings_once(self, profile: str) -> None:
        table = Table(profile)
        table.connect(1)
        task_id = table.running()
        assert table.step(events.SettingsGiven(task_id, 1)) == []

    def test_drops_the_offers_of_a_lost_runner(self, profile: str) -> None:
        table = Table(profile)
        table.connect(1)
        table.offer(1)
        assert table.step(events.Disconnected(1)) == []
        assert table.counts.offers == 0
        assert table.request() == []

    def test_fails_the_tasks_of_a_lost_runner(self, profile: str) -> None:
        table = Table(profile)
        table.connect(1)
        waiting = table.accepted(1, "q1")
        running = table.running(1, "q2")
        error = {"message": "Node execution failed"}
        assert table.step(events.Disconnected(1)) == [
            actions.TaskFailed("q1", waiting, "lost", error),
            actions.TaskFailed("q2", running, "lost", error),
        ]
        assert table.pass_time(1000.0) == [], "their timers are cancelled"
        assert table.counts.requests == 0, "no task is tried again"

    def test_does_not_match_a_withdrawn_request(self, profile: str) -> None:
        table = Table(profile)
        table.connect(1)
        table.request()
        assert table.step(events.RequestWithdrawn("q", "why")) == []
        assert table.offer(1) == []
        assert table.pass_time(100.0) == []
        assert table.counts.withdrawn == 1

    def test_cancels_an_acceptance_whose_request_is_withdrawn(self, profile: str) -> None:
        table = Table(profile)
        table.connect(1)
        table.request()
        task_id = acceptance(table.offer(1)).task_id
        assert table.step(events.RequestWithdrawn("q", "why")) == [cancel(1, task_id, "why")]
        assert table.receive(1, m.TaskAccepted(task_id)) == []
        assert table.counts.tasks == 0
        assert table.pass_time(100.0) == []

    @pytest.mark.parametrize("answer", [m.TaskRejected("task1", "full"), m.TaskDeferred("task1"), None])
    def test_withdraws_a_request_after_a_failed_acceptance(self, profile: str, answer: Any) -> None:
        table = Table(profile)
        table.connect(1)
        table.request()
        acceptance(table.offer(1))
        if answer is None:
            table.pass_time(2.0)
        else:
            table.receive(1, answer)
        assert table.step(events.RequestWithdrawn("q", "why")) == []
        assert table.offer(1) == []

    def test_ignores_the_withdrawal_of_an_ended_request(self, profile: str) -> None:
        table = Table(profile)
        table.request(timeout=1.0)
        table.pass_time(1.0)
        assert table.step(events.RequestWithdrawn("q", "why")) == []

    @pytest.mark.parametrize("state", ["accepted", "running"])
    def test_cancels_a_task_at_its_runner_and_ignores_later_messages(self, profile: str, state: str) -> None:
        table = Table(profile)
        table.connect(1)
        task_id = getattr(table, state)()
        assert table.step(events.TaskCancelled(task_id, "enough")) == [cancel(1, task_id, "enough")]
        assert table.receive(1, m.TaskDone(task_id, {"result": 1})) == []
        assert table.receive(1, m.TaskFailed(task_id, {"message": "x"})) == []
        assert table.receive(1, m.RpcCall("c", task_id, "logNodeOutput", [])) == []
        assert table.step(events.TaskCancelled(task_id, "enough")) == []
        assert table.pass_time(1000.0) == []
        assert (table.counts.cancelled, table.counts.ignored) == (1, 3)

    def test_ignores_the_cancel_of_an_ended_task(self, profile: str) -> None:
        table = Table(profile)
        table.connect(1)
        task_id = table.running()
        table.receive(1, m.TaskDone(task_id, {"result": 1}))
        assert table.step(events.TaskCancelled(task_id, "enough")) == []

    @pytest.mark.parametrize(
        ("timeout", "text"), [(None, "300 seconds"), (1.0, "1 second"), (0.5, "0.5 seconds")]
    )
    def test_cancels_and_fails_a_task_at_its_timeout(
        self, profile: str, timeout: float | None, text: str
    ) -> None:
        table = Table(profile)
        table.connect(1)
        table.request(timeout=timeout)
        task_id = acceptance(table.offer(1)).task_id
        table.receive(1, m.TaskAccepted(task_id))
        table.pass_time(1.0)
        table.step(events.SettingsGiven(task_id, 1))
        limit = timeout or 300.0
        assert table.pass_time(limit - 0.1) == []
        result = table.pass_time(0.2)
        assert result[0] == cancel(1, task_id, "Task execution timed out")
        failed = only(actions.TaskFailed, result)
        assert failed.cause == "timed_out"
        assert failed.error["message"] == f"Task execution timed out after {text}"
        assert table.receive(1, m.TaskDone(task_id, {"result": 1})) == []

    def test_passes_on_a_result_once(self, profile: str) -> None:
        table = Table(profile)
        table.connect(1)
        task_id = table.running()
        data = {"result": [1], "customData": {}}
        assert table.receive(1, m.TaskDone(task_id, data)) == [actions.TaskDone("q", task_id, data)]
        assert table.receive(1, m.TaskDone(task_id, data)) == []
        assert table.pass_time(1000.0) == []
        assert (table.counts.tasks, table.counts.running, table.counts.done) == (0, 0, 1)

    def test_passes_on_the_runners_error(self, profile: str) -> None:
        table = Table(profile)
        table.connect(1)
        task_id = table.running()
        error = {"message": "no", "description": "not at all"}
        assert table.receive(1, m.TaskFailed(task_id, error)) == [
            actions.TaskFailed("q", task_id, "failed", error)
        ]

    def test_accepts_an_error_before_the_settings(self, profile: str) -> None:
        table = Table(profile)
        table.connect(1)
        task_id = table.accepted()
        result = table.receive(1, m.TaskFailed(task_id, {"message": "gave up"}))
        assert only(actions.TaskFailed, result).cause == "failed"
        assert table.step(events.SettingsGiven(task_id, 1)) == []

    def test_ignores_a_result_of_another_runner(self, profile: str) -> None:
        table = Table(profile)
        table.connect(1)
        table.connect(2)
        task_id = table.running(1)
        assert table.receive(2, m.TaskDone(task_id, {"result": 1})) == []
        assert table.counts.running == 1

    def test_relays_calls_and_answers_while_the_task_runs(self, profile: str) -> None:
        table = Table(profile)
        table.connect(1)
        task_id = table.running()
        pairs: list[Any] = [
            (m.RpcCall("c", task_id, "name", [1]), m.RpcResponse(task_id, "c", "success", 2)),
            (m.TaskDataRequest(task_id, "r", {}), m.TaskDataResponse(task_id, "r", {})),
            (m.NodeTypesRequest(task_id, "n", []), m.NodeTypes(task_id, "n", [])),
        ]
        for question, answer in pairs:
            assert table.receive(1, question) == [actions.Relay("q", task_id, question)]
            assert table.step(events.Answered(task_id, answer)) == [actions.Send(1, answer)]
        table.receive(1, m.TaskDone(task_id, {}))
        for question, answer in pairs:
            assert table.receive(1, question) == [], "unknown tasks get no reply"
            assert table.step(events.Answered(task_id, answer)) == []

    def test_fails_a_task_whose_answer_cannot_be_sent_from_240_on(self) -> None:
        answer = m.RpcResponse("task1", "c", "success", 1)
        table = Table("2.27")
        table.connect(1)
        table.running()
        table.step(events.ConnectionFailing(1))
        assert table.step(events.Answered("task1", answer)) == [actions.Send(1, answer)]

        table = Table("2.40")
        table.connect(1)
        table.running()
        table.step(events.ConnectionFailing(1))
        failed = only(actions.TaskFailed, table.step(events.Answered("task1", answer)))
        assert failed.error["message"] == "Runner (runner1) became unreachable while processing task (task1)"
        assert table.counts.lost == 1

    def test_n8n_2_40_fails_a_task_whose_settings_cannot_be_sent(self) -> None:
        table = Table("2.40")
        table.connect(1)
        task_id = table.accepted()
        table.step(events.ConnectionFailing(1))
        (failed,) = table.step(events.SettingsGiven(task_id, 1))
        assert isinstance(failed, actions.TaskFailed)
        assert table.counts.running == 0

    @pytest.mark.parametrize(
        ("sent", "seen"),
        [
            ({"message": "no", "stack": "s"}, {"message": "no", "stack": "s"}),
            ({}, {"message": "Unknown error"}),
            ({"message": 7, "a": 1}, {"message": "Unknown error", "a": 1}),
            ("text", {"message": 'Unknown error: "text"'}),
            (None, {"message": "Unknown error: null"}),
        ],
    )
    def test_completes_a_runners_error_as_n8n_does(self, sent: Any, seen: Any) -> None:
        assert runner_error(sent) == seen


class TestRequestExpiry:
    def test_n8n_2_27_names_one_second_in_the_singular(self) -> None:
        table = Table("2.27")
        table.request(timeout=1.0)
        expired = only(actions.RequestExpired, table.pass_time(1.0))
        assert expired.error["message"] == "Task request timed out after 1 second"

    def test_n8n_2_40_names_the_time_that_a_request_waited(self) -> None:
        table = Table("2.40")
        table.connect(1)
        table.request()
        task_id = acceptance(table.offer(1)).task_id
        table.pass_time(1.0)
        table.receive(1, m.TaskDeferred(task_id))
        expired = only(actions.RequestExpired, table.pass_time(60.0))
        assert expired.error["message"] == "Task request timed out"
        assert "61 seconds" in expired.error["description"]
        assert "N8N_RUNNERS_TASK_REQUEST_TIMEOUT" in expired.error["description"]

    def test_removes_an_expired_request(self, profile: str) -> None:
        table = Table(profile)
        table.connect(1)
        table.request()
        table.pass_time(60.0)
        assert table.counts.requests == 0
        assert table.offer(1) == []


class TestUnresponsive:
    """2.40 closes runners that do not answer acceptances, and runners that are silent."""

    def miss(self, table: Table, request_id: str = "q") -> list[Any]:
        acceptance(table.offer(1))
        return table.pass_time(2.0)

    def test_closes_a_runner_after_three_misses(self) -> None:
        table = Table("2.40")
        table.connect(1)
        table.request()
        assert actions.Close(1, 1002) not in self.miss(table)
        assert actions.Close(1, 1002) not in self.miss(table)
        assert actions.Close(1, 1002) in self.miss(table)
        assert table.counts.kicked == 1
        assert table.counts.runners == 0

    def test_counts_misses_of_one_window_once(self) -> None:
        table = Table("2.40")
        table.connect(1)
        for number in range(5):
            table.offer(1)
            table.request(f"q{number}")
        table.pass_time(2.0)
        assert table.counts.missed == 5
        assert table.counts.runners == 1

    @pytest.mark.parametrize("answer", ["accepted", "rejected", "deferred", "done", "failed"])
    def test_clears_the_misses_at_an_answer_or_a_result(self, answer: str) -> None:
        table = Table("2.40")
        table.connect(1)
        running = table.running(1, "other") if answer in ("done", "failed") else ""
        table.request()
        self.miss(table)
        self.miss(table)
        if answer == "done":
            table.receive(1, m.TaskDone(running, {}))
        elif answer == "failed":
            table.receive(1, m.TaskFailed(running, {}))
        else:
            task_id = acceptance(table.offer(1)).task_id
            replies: dict[str, Any] = {
                "accepted": m.TaskAccepted(task_id),
                "rejected": m.TaskRejected(task_id, "full"),
                "deferred": m.TaskDeferred(task_id),
            }
            table.receive(1, replies[answer])
            if answer == "accepted":
                # The requester ends the task: a result of the runner would clear the count as well.
                table.step(events.TaskCancelled(task_id, "x"))
                table.request("next")
        self.miss(table)
        self.miss(table)
        assert table.counts.kicked == 0
        self.miss(table)
        assert table.counts.kicked == 1

    def test_does_not_close_a_runner_with_a_task(self) -> None:
        table = Table("2.40")
        table.connect(1)
        task_id = table.running(1, "other")
        table.request()
        for _ in range(5):
            self.miss(table)
        assert table.counts.kicked == 0
        # The requester ends its other task.
        table.step(events.TaskCancelled(task_id, "x"))
        assert actions.Close(1, 1002) in self.miss(table)

    def test_matches_the_other_acceptances_of_a_closed_runner_again(self) -> None:
        table = Table("2.40", missed_limit=1)
        table.connect(1)
        table.connect(2)
        table.request("q1")
        acceptance(table.offer(1))
        table.pass_time(1.0)
        table.offer(1)
        acceptance(table.request("q2"))
        table.pass_time(0.5)
        table.offer(2)
        result = table.pass_time(0.5)
        assert actions.Close(1, 1002) in result
        assert acceptance(result).offer_id == "offer3"
        assert acceptance(table.offer(2))
        assert [event.request_id for event in table.events if event.kind == "abandoned"] == ["q2"]

    def test_closes_a_runner_that_is_silent_at_two_expiries(self) -> None:
        table = Table("2.40")
        table.connect(1)
        for number, seconds in enumerate((10.0, 11.9, 12.0)):
            table.request(f"q{number}", timeout=seconds)
        assert actions.Close(1, 1002) not in table.pass_time(11.95), (
            "less than two seconds between two expiries"
        )
        assert actions.Close(1, 1002) in table.pass_time(0.1)

    @pytest.mark.parametrize(
        "message", [m.TaskOffer("o", "t", 0), m.RunnerInfo("again", ()), m.TaskRejected("nothing", "")]
    )
    def test_restarts_the_silence_at_any_message(self, message: Any) -> None:
        table = Table("2.40")
        table.connect(1)
        table.request("q1", timeout=10.0)
        table.request("q2", timeout=20.0)
        table.request("q3", timeout=25.0)
        table.pass_time(15.0)
        table.receive(1, message)
        table.pass_time(5.0)
        assert table.counts.kicked == 0
        table.pass_time(5.0)
        assert table.counts.kicked == 1

    def test_does_not_restart_the_silence_at_a_pong(self) -> None:
        table = Table("2.40")
        table.connect(1)
        table.request("q1", timeout=1.0)
        table.request("q2", timeout=5.0)
        table.pass_time(2.0)
        table.step(events.PongReceived(1))
        table.pass_time(3.0)
        assert table.counts.kicked == 1

    @pytest.mark.parametrize("busy", ["offer of another type", "task", "acceptance", "other type", "failing"])
    def test_does_not_close_a_silent_runner_that_is_busy_or_of_another_type(self, busy: str) -> None:
        table = Table("2.40", acceptance_timeout=100.0)
        table.connect(1, types=["u"] if busy == "other type" else ["t", "u"])
        if busy == "offer of another type":
            table.offer(1, "u")
        elif busy == "task":
            table.running(1, "busy")
        elif busy == "acceptance":
            table.request("busy", "u")
            acceptance(table.offer(1, "u"))
        elif busy == "failing":
            table.step(events.ConnectionFailing(1))
        table.request("q1", timeout=1.0)
        table.request("q2", timeout=5.0)
        table.pass_time(10.0)
        assert table.counts.expired == 2
        assert table.counts.kicked == 0


class TestHeartbeat:
    def test_pings_a_runner_that_answers_at_every_heartbeat(self, profile: str) -> None:
        table = Table(profile, heartbeat_interval=30.0)
        table.connect(1)
        for _ in range(3):
            assert table.pass_time(30.0) == [actions.Ping(1)]
            table.step(events.PongReceived(1))

    def test_closes_a_runner_without_a_pong_and_fails_its_tasks(self, profile: str) -> None:
        table = Table(profile, heartbeat_interval=30.0)
        table.pass_time(20.0)
        table.connect(1)
        task_id = table.running()
        assert table.pass_time(10.0) == [actions.Ping(1)], (
            "one timer for all, that does not begin with a runner"
        )
        table.receive(1, m.RpcCall("c", task_id, "logNodeOutput", []))
        error = {"message": "Task execution aborted because runner became unresponsive"}
        assert table.pass_time(30.0) == [
            actions.Close(1, 1002),
            actions.TaskFailed("q", task_id, "lost", error),
        ]
        assert table.counts.heartbeat_missed == 1

    def test_counts_an_unsolicited_pong(self, profile: str) -> None:
        table = Table(profile, heartbeat_interval=30.0)
        table.connect(1)
        table.pass_time(30.0)
        table.step(events.PongReceived(1))
        assert table.pass_time(30.0) == [actions.Ping(1)]

    def test_ends_a_drain_when_a_heartbeat_closes_the_last_busy_runner(self) -> None:
        table = Table("2.40", heartbeat_interval=30.0)
        table.connect(1)
        table.connect(2)
        table.running(1)
        table.pass_time(30.0)
        table.step(events.DrainStarted(100.0))
        result = table.pass_time(30.0)
        closed = [action for action in result if isinstance(action, actions.Close)]
        assert closed == [actions.Close(1, 1002), actions.Close(2, 1001)]

    def test_neither_pings_nor_closes_an_unregistered_connection(self, profile: str) -> None:
        table = Table(profile, heartbeat_interval=30.0)
        table.step(events.Connected(1, "a"))
        assert table.pass_time(300.0) == []


class TestDrain:
    """The versions that drain; 1.123 closes all connections at once (see test_behaviour.py)."""

    @pytest.fixture(params=["2.27", "2.40"])
    def profile(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    def test_ends_at_once_without_tasks(self, profile: str) -> None:
        table = Table(profile)
        table.connect(1)
        table.step(events.Connected(2, "not registered"))
        table.offer(1)
        assert table.step(events.DrainStarted(24.0)) == [
            actions.Send(1, m.Drain()),
            actions.Close(1, 1001),
            actions.Close(2, 1001),
            actions.Drained(),
        ]
        assert table.matching.next_deadline() is None

    def test_ends_after_the_last_task(self, profile: str) -> None:
        table = Table(profile)
        table.connect(1)
        table.connect(2)
        first, second = table.running(1, "q1"), table.running(2, "q2")
        assert table.step(events.DrainStarted(24.0)) == [
            actions.Send(1, m.Drain()),
            actions.Send(2, m.Drain()),
        ]
        assert table.step(events.DrainStarted(1.0)) == [], "a second drain is ignored"
        done = actions.TaskDone("q1", first, {})
        assert table.receive(1, m.TaskDone(first, {})) == [done]
        result = table.receive(2, m.TaskDone(second, {}))
        assert result[-3:] == [actions.Close(1, 1001), actions.Close(2, 1001), actions.Drained()]

    def test_refuses_new_requests(self, profile: str) -> None:
        table = Table(profile)
        table.connect(1)
        table.running()
        table.step(events.DrainStarted(24.0))
        expired = only(actions.RequestExpired, table.request("new"))
        assert expired.error["message"].startswith("Task request timed out")
        assert "shutting down" in expired.error["description"]
        assert table.counts.refused == 1
        assert table.counts.requests == 0
        assert table.offer(1) == []

    def test_matches_queued_requests(self, profile: str) -> None:
        table = Table(profile)
        table.connect(1)
        task_id = table.running(1, "q1")
        table.request("q2")
        table.step(events.DrainStarted(24.0))
        second = acceptance(table.offer(1)).task_id
        assert table.receive(1, m.TaskAccepted(second)) == [actions.TaskReady("q2", second)]
        table.receive(1, m.TaskDone(task_id, {}))
        assert table.counts.runners == 1, "the drain waits for the second task"
        table.step(events.SettingsGiven(second, 1))
        assert actions.Drained() in table.receive(1, m.TaskDone(second, {}))

    def test_ends_queued_requests_with_the_drain(self, profile: str) -> None:
        table = Table(profile)
        table.request("q1")
        result = table.step(events.DrainStarted(24.0))
        assert "shutting down" in only(actions.RequestExpired, result).error["description"]
        assert result[-1] == actions.Drained()
        assert (table.counts.requests, table.counts.expired) == (0, 1)

    def test_does_not_wait_for_acceptances(self, profile: str) -> None:
        table = Table(profile)
        table.connect(1)
        table.request()
        acceptance(table.offer(1))
        result = table.step(events.DrainStarted(24.0))
        assert "shutting down" in only(actions.RequestExpired, result).error["description"]
        assert actions.Close(1, 1001) in result
        assert (table.counts.accepting, table.counts.requests) == (0, 0)

    @pytest.mark.parametrize("how", ["failed", "cancelled", "disconnected"])
    def test_ends_with_any_end_of_the_last_task(self, profile: str, how: str) -> None:
        table = Table(profile)
        table.connect(1)
        task_id = table.running()
        table.step(events.DrainStarted(24.0))
        event: Any = {
            "failed": events.Received(1, m.TaskFailed(task_id, {})),
            "cancelled": events.TaskCancelled(task_id, "x"),
            "disconnected": events.Disconnected(1),
        }[how]
        assert table.step(event)[-1] == actions.Drained()

    def test_n8n_2_27_fails_leftover_tasks_with_their_connection(self) -> None:
        table = Table("2.27")
        table.connect(1)
        task_id = table.running()
        table.step(events.DrainStarted(24.0))
        assert table.pass_time(24.0) == [
            actions.Close(1, 1001),
            actions.TaskFailed("q", task_id, "lost", {"message": "Node execution failed"}),
            actions.Drained(),
        ]

    def test_n8n_2_40_ends_leftover_tasks_with_the_shutdown_error(self) -> None:
        table = Table("2.40")
        table.connect(1)
        running = table.running(1, "q1")
        waiting = table.accepted(1, "q2")
        table.step(events.DrainStarted(1.0))
        assert table.pass_time(1.0) == [
            cancel(1, running, "Task aborted because this n8n instance is shutting down"),
            actions.TaskFailed(
                "q1",
                running,
                "shut_down",
                {"message": "Task aborted because the n8n instance was shutting down"},
            ),
            actions.Close(1, 1001),
            actions.TaskFailed("q2", waiting, "lost", {"message": "Node execution failed"}),
            actions.Drained(),
        ]

    def test_keeps_a_task_timeout_that_is_sooner(self, profile: str) -> None:
        table = Table(profile)
        table.connect(1)
        table.running()
        table.pass_time(295.0)
        table.step(events.DrainStarted(24.0))
        failed = only(actions.TaskFailed, table.pass_time(5.0))
        assert failed.cause == "timed_out"

    def test_closes_connections_that_open_after_the_drain(self, profile: str) -> None:
        table = Table(profile)
        table.step(events.DrainStarted(24.0))
        assert table.step(events.Connected(1, "late")) == [actions.Close(1, 1001)]


class TestTheRest:
    def test_forgets_cancelled_timers(self) -> None:
        table = Table()
        table.connect(1)
        for number in range(1000):
            table.receive(1, m.TaskDone(table.running(1, f"q{number}"), {}))
        assert table.matching.describe().timers < 200
        assert table.matching.next_deadline() == 1000.0 + 1e6

    @given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=300), st.integers(0, 25))
    def test_returns_timers_in_order(self, entries: list[tuple[int, bool]], now: int) -> None:
        timers = Timers()
        kept = []
        for number, (at, cancelled) in enumerate(entries):
            timer = timers.set(float(at), lambda: None)
            if cancelled:
                timers.cancel(timer)
                timers.cancel(timer)
            else:
                kept.append((float(at), number, timer))
        kept.sort(key=lambda entry: entry[:2])
        assert timers.next() == (kept[0][0] if kept else None)
        for at, _, timer in kept:
            assert timers.pop_due(float(now)) is (timer if at <= now else None)
            if at > now:
                break
            timers.cancel(timer)  # too late: the other timers stay

    def test_rejects_a_request_id_in_use(self) -> None:
        table = Table()
        table.request("q")
        with pytest.raises(ValueError, match="in use"):
            table.request("q")

    def test_names_runner_request_and_task_in_events(self) -> None:
        table = Table()
        table.connect(1, "a")
        task_id = table.running()
        started = next(event for event in table.events if event.kind == "started")
        assert started == BrokerEvent("started", 1000.0, "a", "q", task_id, None)

    def test_counts_each_event_in_its_total(self) -> None:
        table = Table(request_timeout=10.0)
        table.connect(1)
        task_id = table.running()
        table.receive(1, m.RpcCall("c", task_id, "name", []))
        table.receive(1, m.TaskDone(task_id, {}))
        table.receive(1, m.TaskFailed(table.running(1, "q2"), {}))
        table.request("q3")
        table.pass_time(10.0)
        table.step(events.Malformed(1, "no JSON"))
        table.step(events.Disconnected(1))
        expected = {
            "connected": 1, "registered": 1, "offered": 2, "requested": 3, "acceptances": 2, "accepted": 2,
            "started": 2, "relayed": 1, "done": 1, "failed": 1, "expired": 1, "malformed": 1,
            "disconnected": 1,
        }  # fmt: skip
        for kind in BrokerCounts._fields[7:]:
            assert getattr(table.counts, kind) == expected.get(kind, 0), kind
            assert sum(event.kind == kind for event in table.events) == expected.get(kind, 0), kind
        malformed = next(event for event in table.events if event.kind == "malformed")
        assert malformed == BrokerEvent("malformed", table.now, "runner1", detail="no JSON")

    def test_continues_the_totals_of_an_earlier_broker(self) -> None:
        totals = {"done": 7}
        table = Table(totals=totals)
        table.connect(1)
        assert (table.counts.done, table.counts.connected, totals["connected"]) == (7, 1, 1)
