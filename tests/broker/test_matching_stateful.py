"""Invariants of the broker's algorithm under any order of events."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from n8nrunner.broker import BrokerConstants, actions, events
from n8nrunner.broker.behaviour import N8N_1_123, N8N_2_27, N8N_2_40
from n8nrunner.broker.matching import Matching
from n8nrunner.protocol import messages as m

TYPES = ("t", "u")
#: Any of the things that exist, by number: taken modulo how many there are.
any_of = st.integers(0, 1000)


class Connection:
    def __init__(self, runner_id: str) -> None:
        self.runner_id = runner_id
        self.registered = False
        self.usable = True
        self.offers: dict[str, tuple[str, float | None]] = {}


class MatchingMachine(RuleBasedStateMachine):
    behaviour = N8N_2_40

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        numbers = itertools.count(1)
        self.constants = BrokerConstants(request_timeout=10.0, task_timeout=20.0, heartbeat_interval=25.0)
        self.matching = Matching(
            0.0,
            lambda: f"task{next(numbers)}",
            behaviour=self.behaviour,
            constants=self.constants,
            totals={},
            on_event=lambda event: None,
        )
        self.numbers = itertools.count(1)
        self.open: dict[int, Connection] = {}
        self.closing: list[int] = []
        self.requests: set[str] = set()
        self.ended: set[str] = set()
        self.asked: dict[str, int] = {}
        self.ready: dict[str, str] = {}
        self.running: dict[str, str] = {}
        self.owners: dict[str, int] = {}
        self.task_types: dict[str, str] = {}
        self.wanted: dict[str, str] = {}
        self.cancelled: set[str] = set()
        self.used: set[str] = set()
        self.drained = False

    # --- actions of the broker ------------------------------------------------------------------

    def step(self, event: Any) -> list[Any]:
        result = self.matching.handle(event, self.now)
        for action in result:
            getattr(self, f"on_{type(action).__name__}")(action)
        return list(result)

    def on_Send(self, action: actions.Send) -> None:
        connection = self.open.get(action.connection)
        assert connection is not None, f"{action} to a connection that is closed"
        message = action.message
        if isinstance(message, m.TaskOfferAccept):
            assert connection.usable, "an offer of an unreachable runner was used"
            task_type, lapses_at = connection.offers.pop(message.offer_id)
            assert lapses_at is None or lapses_at > self.now, "a lapsed offer was used"
            assert message.offer_id not in self.used, "an offer was used twice"
            assert message.task_id not in self.owners, "a task id was used twice"
            self.used.add(message.offer_id)
            self.task_types[message.task_id] = task_type
            self.owners[message.task_id] = action.connection
            self.asked[message.task_id] = action.connection
        elif isinstance(message, m.TaskCancel):
            assert self.owners[message.task_id] == action.connection, "the wrong runner was told"
            assert message.task_id not in self.cancelled, "a task was cancelled twice"
            self.cancelled.add(message.task_id)
            self.asked.pop(message.task_id, None)
            if message.reason == "Acknowledgement window elapsed":
                connection.offers.clear()
        elif isinstance(message, (m.TaskSettings, m.RpcResponse)):
            assert self.owners[message.task_id] == action.connection, "the wrong runner was told"
        elif isinstance(message, m.RunnerRegistered):
            assert not connection.registered
            connection.registered = True

    def on_Ping(self, action: actions.Ping) -> None:
        assert self.open[action.connection].registered

    def on_Close(self, action: actions.Close) -> None:
        assert action.connection in self.open, "a connection was closed twice"
        del self.open[action.connection]
        self.closing.append(action.connection)
        self.forget(action.connection)

    def on_TaskReady(self, action: actions.TaskReady) -> None:
        assert action.request_id in self.requests
        assert action.request_id not in self.ready
        assert self.task_types[action.task_id] == self.wanted[action.request_id]
        self.ready[action.request_id] = action.task_id

    def on_RequestExpired(self, action: actions.RequestExpired) -> None:
        assert action.request_id not in self.ready, "a request expired that a runner had taken"
        self.end(action.request_id)

    def on_TaskDone(self, action: actions.TaskDone) -> None:
        assert self.ready[action.request_id] == action.task_id
        self.end(action.request_id)

    def on_TaskFailed(self, action: actions.TaskFailed) -> None:
        assert self.ready[action.request_id] == action.task_id
        self.end(action.request_id)

    def on_Relay(self, action: actions.Relay) -> None:
        assert self.ready[action.request_id] == action.task_id
        assert action.request_id not in self.ended

    def on_Drained(self, _: actions.Drained) -> None:
        assert not self.drained
        self.drained = True

    def end(self, request_id: str) -> None:
        assert request_id in self.requests
        assert request_id not in self.ended, f"{request_id} ended twice"
        self.ended.add(request_id)

    def forget(self, key: int) -> None:
        for task_id in [task_id for task_id, owner in self.asked.items() if owner == key]:
            del self.asked[task_id]

    def pick(self, things: Any, number: int) -> Any:
        things = sorted(things)
        return things[number % len(things)] if things else None

    # --- events ---------------------------------------------------------------------------------

    @rule(runner_id=st.sampled_from(["a", "b", "c"]))
    def connect(self, runner_id: str) -> None:
        key = next(self.numbers)
        self.open[key] = Connection(runner_id)
        self.step(events.Connected(key, runner_id))

    @rule(number=any_of, types=st.sampled_from([("t",), ("u",), TYPES, ()]))
    def register(self, number: int, types: tuple[str, ...]) -> None:
        key = self.pick(self.open, number)
        if key is not None:
            self.step(events.Received(key, m.RunnerInfo("name", types)))

    @rule(runner_id=st.sampled_from(["a", "b", "c"]), offers=st.integers(1, 3))
    def connect_whole(self, runner_id: str, offers: int) -> None:
        key = next(self.numbers)
        self.open[key] = Connection(runner_id)
        self.step(events.Connected(key, runner_id))
        if key in self.open:
            self.step(events.Received(key, m.RunnerInfo("name", TYPES)))
        for _ in range(offers):
            self.send_offer(key, "t", -1)

    @rule(number=any_of, task_type=st.sampled_from(TYPES), valid_for=st.sampled_from([-1, 0, 500, 5000]))
    def offer(self, number: int, task_type: str, valid_for: int) -> None:
        key = self.pick(self.open, number)
        if key is not None:
            self.send_offer(key, task_type, valid_for)

    def send_offer(self, key: int, task_type: str, valid_for: int) -> None:
        connection = self.open.get(key)
        offer_id = f"offer{next(self.numbers)}"
        counts_for = connection is not None and connection.registered
        if connection is not None and counts_for and connection.usable:
            connection.offers[offer_id] = (task_type, None if valid_for < 0 else self.now + valid_for / 1000)
        self.step(events.Received(key, m.TaskOffer(offer_id, task_type, valid_for)))
        if counts_for:
            self.check_all_matched()

    @rule(task_type=st.sampled_from(TYPES), timeout=st.sampled_from([None, 1.0, 5.0]))
    def request(self, task_type: str, timeout: float | None) -> None:
        request_id = f"request{next(self.numbers)}"
        self.requests.add(request_id)
        self.wanted[request_id] = task_type
        self.step(events.TaskRequested(request_id, task_type, timeout))
        self.check_all_matched()

    @rule(number=any_of, answer=st.sampled_from([m.TaskAccepted, m.TaskRejected, m.TaskDeferred]))
    def answer(self, number: int, answer: Any) -> None:
        task_id = self.pick(self.asked, number)
        if task_id is not None:
            key = self.asked.pop(task_id)
            self.step(events.Received(key, answer(task_id, *(["no"] if answer is m.TaskRejected else []))))

    @rule(number=any_of)
    def accept(self, number: int) -> None:
        self.answer(number, m.TaskAccepted)

    @rule(number=any_of, other=any_of, kind=st.sampled_from([m.TaskAccepted, m.TaskDone, m.TaskFailed]))
    def say_something_about_any_task(self, number: int, other: int, kind: Any) -> None:
        """A runner repeats a message, is late, or names another runner's task."""
        task_id, key = self.pick(self.owners, number), self.pick(self.open, other)
        if task_id is not None and key is not None:
            self.step(events.Received(key, kind(task_id, *([] if kind is m.TaskAccepted else [{}]))))
            if self.owners[task_id] == key:
                self.asked.pop(task_id, None)

    @rule(number=any_of)
    def give_settings(self, number: int) -> None:
        request_id = self.pick(self.ready, number)
        if request_id is not None:
            self.step(events.SettingsGiven(self.ready[request_id], 1))

    @rule(number=any_of, done=st.booleans())
    def finish(self, number: int, done: bool) -> None:
        request_id = self.pick(set(self.ready) - self.ended, number)
        if request_id is not None:
            task_id = self.ready[request_id]
            message: Any = m.TaskDone(task_id, {}) if done else m.TaskFailed(task_id, {"message": "no"})
            self.step(events.Received(self.owners[task_id], message))
            assert request_id in self.ended

    @rule(number=any_of)
    def call(self, number: int) -> None:
        request_id = self.pick(self.ready, number)
        if request_id is not None:
            task_id = self.ready[request_id]
            self.step(events.Received(self.owners[task_id], m.RpcCall("c", task_id, "name", [])))
            self.step(events.Answered(task_id, m.RpcResponse(task_id, "c", "success", None)))

    @rule(number=any_of)
    def withdraw_or_cancel(self, number: int) -> None:
        request_id = self.pick(self.requests - self.ended, number)
        if request_id is None:
            return
        self.end(request_id)
        if request_id in self.ready:
            self.step(events.TaskCancelled(self.ready[request_id], "enough"))
        else:
            self.step(events.RequestWithdrawn(request_id, "enough"))

    @rule(number=any_of)
    def disconnect(self, number: int) -> None:
        key = self.pick([*self.open, *self.closing], number)
        if key is None:
            return
        if key in self.open:
            del self.open[key]
            self.forget(key)
        else:
            self.closing.remove(key)
        self.step(events.Disconnected(key))

    @rule(number=any_of)
    def failing(self, number: int) -> None:
        key = self.pick(self.open, number)
        if key is not None:
            self.step(events.ConnectionFailing(key))
            if self.behaviour.notices_unreachable:
                self.open[key].usable = False

    @rule(number=any_of)
    def pong(self, number: int) -> None:
        key = self.pick(self.open, number)
        if key is not None:
            self.step(events.PongReceived(key))

    @rule(seconds=st.sampled_from([0.1, 0.9, 1.0, 2.0, 5.0, 30.0]))
    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            at = self.matching.next_deadline()
            if at is None or at > end:
                break
            self.now = max(self.now, at)
            self.step(events.TimePassed())
        self.now = end

    @precondition(lambda self: len(self.requests) > 20)
    @rule(timeout=st.sampled_from([0.5, 24.0]))
    def drain(self, timeout: float) -> None:
        self.step(events.DrainStarted(timeout))

    # --- invariants -----------------------------------------------------------------------------

    def check_all_matched(self) -> None:
        """After a match pass, no request waits that has an open offer of its type."""
        waiting = self.matching.describe().waiting_types
        offered = {
            task_type
            for connection in self.open.values()
            if connection.usable
            for task_type, lapses_at in connection.offers.values()
            if lapses_at is None or lapses_at > self.now
        }
        assert not waiting & offered

    @invariant()
    def counts_agree(self) -> None:
        counts = self.matching.counts()
        assert min(counts) >= 0
        waiting = self.requests - self.ended - set(self.ready)
        assert counts.requests == len(waiting)
        assert counts.connections == len(self.open)
        assert counts.runners == sum(connection.registered for connection in self.open.values())
        assert counts.running <= counts.tasks
        with_runner = set(self.ready) - self.ended
        forgotten = counts.tasks - len(with_runner)
        assert forgotten == 0 or (forgotten > 0 and not self.behaviour.cancels_expired_requests)
        assert counts.requested == len(self.requests)
        assert len({connection.runner_id for connection in self.open.values() if connection.registered}) == (
            counts.runners
        )

    @invariant()
    def requests_are_not_held_longer_than_they_may_be(self) -> None:
        deadline = self.matching.next_deadline()
        if self.drained:
            assert deadline is None
            assert self.ended == self.requests
            assert not self.open
        else:
            assert deadline is not None
            assert deadline > self.now - 1e-6

    def teardown(self) -> None:
        self.step(events.DrainStarted(24.0))
        self.pass_time(24.0)
        assert self.drained
        assert self.ended == self.requests, "every request ends exactly once"
        assert not self.open
        counts = self.matching.counts()
        assert (counts.requests, counts.accepting, counts.tasks, counts.running, counts.offers) == (
            0,
            0,
            0,
            0,
            0,
        )


class Machine227(MatchingMachine):
    behaviour = N8N_2_27


class Machine1123(MatchingMachine):
    behaviour = N8N_1_123


TestMatching240 = pytest.mark.filterwarnings("default")(MatchingMachine.TestCase)
TestMatching240.settings = settings()
TestMatching227 = pytest.mark.filterwarnings("default")(Machine227.TestCase)
TestMatching227.settings = settings()
TestMatching1123 = pytest.mark.filterwarnings("default")(Machine1123.TestCase)
TestMatching1123.settings = settings()
