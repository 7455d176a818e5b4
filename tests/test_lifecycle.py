"""`Lifecycle`: every event in every state, and who is woken by it."""

from __future__ import annotations

import re
import threading
import time
from typing import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from n8nrunner.deadline import Deadline
from n8nrunner.errors import AuthenticationError, N8nRunnerError, RunnerFailed
from n8nrunner.lifecycle import _NEXT, Lifecycle, RunnerState
from tests.conftest import LIMIT
from tests.pages import read

ERROR = RunnerFailed("of the test")

EVENTS: dict[str, Callable[[Lifecycle], object]] = {
    "run": Lifecycle.note_running,
    "stop": lambda lifecycle: lifecycle.request_stop(0.0),
    "fail": lambda lifecycle: lifecycle.fail(ERROR),
    "end": Lifecycle.note_ended,
}

#: The way to each state.
WAYS: dict[RunnerState, tuple[str, ...]] = {
    RunnerState.STARTING: (),
    RunnerState.RUNNING: ("run",),
    RunnerState.STOPPING: ("run", "stop"),
    RunnerState.STOPPED: ("run", "stop", "end"),
    RunnerState.FAILED: ("run", "fail", "stop", "end"),
}

#: Where an event leads that changes the state.
TRANSITIONS = {
    (RunnerState.STARTING, "run"): RunnerState.RUNNING,
    (RunnerState.STARTING, "end"): RunnerState.STOPPED,
    (RunnerState.RUNNING, "stop"): RunnerState.STOPPING,
    (RunnerState.STOPPING, "end"): RunnerState.STOPPED,
}


def lifecycle_in(state: RunnerState) -> Lifecycle:
    if state not in WAYS:
        return Lifecycle(state)
    lifecycle = Lifecycle()
    for event in WAYS[state]:
        EVENTS[event](lifecycle)
    assert lifecycle.state is state
    return lifecycle


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("state", RunnerState)
def test_every_event_in_every_state_leads_where_the_table_says(state: RunnerState, event: str) -> None:
    lifecycle = lifecycle_in(state)
    EVENTS[event](lifecycle)
    assert lifecycle.state is TRANSITIONS.get((state, event), state)
    assert lifecycle.state is state or lifecycle.state in _NEXT[state]


def test_the_diagram_in_the_documentation_shows_every_transition() -> None:
    diagram = read("docs/architecture.md").split("**Starting.**")[1].split("```")[1]
    shown = re.findall(r"^    (\w+|\[\*\]) --> (\w+)", diagram, re.MULTILINE)
    coded = [(state.name, after.name) for state in _NEXT for after in _NEXT[state]]
    first = [("[*]", state) for state in ("NEW", "STARTING", "FORKED")]
    assert sorted(shown) == sorted([*coded, *first])


@pytest.mark.parametrize("state", [RunnerState.STARTING, RunnerState.RUNNING, RunnerState.STOPPING])
def test_a_runner_that_ends_with_an_error_has_failed(state: RunnerState) -> None:
    lifecycle = lifecycle_in(state)
    assert lifecycle.fail(ERROR)
    assert lifecycle.fail(RunnerFailed("the second"))
    assert lifecycle.state is state
    lifecycle.request_stop(0.0)
    lifecycle.note_ended()
    assert lifecycle.state is RunnerState.FAILED
    assert lifecycle.error is ERROR


@pytest.mark.parametrize("state", [RunnerState.NEW, RunnerState.STOPPED, RunnerState.FORKED])
def test_a_runner_that_is_not_alive_cannot_fail(state: RunnerState) -> None:
    lifecycle = lifecycle_in(state)
    assert not lifecycle.fail(ERROR)
    assert lifecycle.error is None


@given(st.lists(st.sampled_from(sorted(EVENTS)), max_size=12))
def test_no_order_of_events_leaves_the_table(events: list[str]) -> None:
    lifecycle = Lifecycle()
    for event in events:
        before = lifecycle.state
        EVENTS[event](lifecycle)
        following = _NEXT.get(before, ())
        path = {before, *following, *(after for state in following for after in _NEXT.get(state, ()))}
        assert lifecycle.state in path
        assert lifecycle.is_alive is (
            lifecycle.state in (RunnerState.STARTING, RunnerState.RUNNING, RunnerState.STOPPING)
        )
        assert lifecycle.state is not RunnerState.FAILED or lifecycle.error is ERROR
        if event in ("run", "stop") and lifecycle.is_stop_requested:
            assert lifecycle.state is not RunnerState.RUNNING


def test_a_stop_during_the_start_is_in_force_when_all_threads_run() -> None:
    lifecycle = lifecycle_in(RunnerState.STARTING)
    lifecycle.request_stop(time.monotonic() + LIMIT)
    assert lifecycle.state is RunnerState.STARTING
    assert lifecycle.is_stop_requested
    lifecycle.note_running()
    assert lifecycle.state is RunnerState.STOPPING


def test_a_signal_handler_may_stop_the_runner_while_its_thread_holds_the_lock() -> None:
    lifecycle = lifecycle_in(RunnerState.RUNNING)
    with lifecycle._changed:
        lifecycle.request_stop(0.0)
    assert lifecycle.state is RunnerState.STOPPING


def test_a_later_stop_never_prolongs_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    lifecycle = lifecycle_in(RunnerState.RUNNING)
    limits: list[float] = []
    monkeypatch.setattr(lifecycle, "wait_ended", limits.append)
    now = time.monotonic()
    for seconds in (2000.0, 3000.0, 1000.0):
        lifecycle.request_stop(now + seconds)
        lifecycle.wait_stopped()
    assert [round(limit, -3) for limit in limits] == [2000.0, 2000.0, 1000.0]


# --- registration ---------------------------------------------------------------------------------


def refused(text: str) -> N8nRunnerError:
    return AuthenticationError(text)


def with_brokers(count: int, gives_up: bool = True) -> Lifecycle:
    lifecycle = Lifecycle(brokers=range(count), gives_up=gives_up)
    lifecycle.note_running()
    return lifecycle


def test_the_runner_ends_when_every_broker_has_refused_the_token() -> None:
    lifecycle = with_brokers(2)
    first = refused("first")
    assert not lifecycle.note_refused(0, first, is_final=False)
    assert lifecycle.refusal is None
    assert lifecycle.note_refused(1, refused("second"), is_final=False)
    assert lifecycle.refusal is first
    assert str(lifecycle.error) == "second"


def test_a_registration_makes_refusals_harmless() -> None:
    lifecycle = with_brokers(1)
    assert lifecycle.start_raises_refusals
    lifecycle.note_registered(0)
    assert not lifecycle.start_raises_refusals
    assert not lifecycle.note_refused(0, refused("later"), is_final=False)
    assert lifecycle.error is None
    assert lifecycle.note_refused(0, refused("the grant"), is_final=True)
    assert str(lifecycle.error) == "the grant"


def test_a_runner_that_does_not_give_up_can_be_told_to() -> None:
    lifecycle = with_brokers(1, gives_up=False)
    assert not lifecycle.give_up_when_refused()
    lifecycle = with_brokers(1, gives_up=False)
    assert not lifecycle.note_refused(0, refused("first"), is_final=False)
    assert lifecycle.give_up_when_refused()
    assert str(lifecycle.error) == "first"


def test_callbacks_are_called_once_or_at_once() -> None:
    lifecycle = with_brokers(1)
    called: list[str] = []
    lifecycle.on_registered(lambda: called.append("registered"))
    lifecycle.on_ended(lambda: called.append("ended"))
    lifecycle.note_registered(0)
    lifecycle.note_registered(0)
    lifecycle.request_stop(0.0)
    lifecycle.note_ended()
    lifecycle.note_ended()
    assert called == ["registered", "ended"]
    lifecycle.on_registered(lambda: called.append("late"))
    lifecycle.on_ended(lambda: called.append("later"))
    assert called == ["registered", "ended", "late", "later"]


def test_a_callback_that_raises_keeps_no_other_from_being_called() -> None:
    lifecycle = with_brokers(1)
    called = threading.Event()

    def fail() -> None:
        raise SystemExit

    lifecycle.on_ended(fail)
    lifecycle.on_ended(called.set)
    lifecycle.request_stop(0.0)
    lifecycle.note_ended()
    assert called.is_set()


# --- who waits ------------------------------------------------------------------------------------


def waiting(wait: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(wait()))
    thread.start()
    return thread, found


@pytest.mark.parametrize(
    ("wait", "event", "result"),
    [
        (Lifecycle.wait_started, "run", None),
        (Lifecycle.wait_started, "end", None),
        (lambda lifecycle: lifecycle.wait_ended(LIMIT), "end", True),
        (Lifecycle.wait_stopped, "end", True),
        (lambda lifecycle: lifecycle.wait_registered(Deadline(LIMIT)), "fail", False),
        (lambda lifecycle: lifecycle.wait_registered(Deadline(LIMIT)), "end", False),
    ],
)
def test_the_event_that_a_thread_waits_for_wakes_it(
    wait: Callable[[Lifecycle], object], event: str, result: object
) -> None:
    lifecycle = lifecycle_in(RunnerState.STARTING)
    thread, found = waiting(lambda: wait(lifecycle))
    EVENTS[event](lifecycle)
    thread.join(LIMIT)
    assert found == [result]


def test_only_the_thread_that_starts_the_runner_is_the_starter() -> None:
    lifecycle = lifecycle_in(RunnerState.STARTING)
    assert lifecycle.is_starter
    thread, found = waiting(lambda: lifecycle.is_starter)
    thread.join(LIMIT)
    assert found == [False]
    lifecycle.note_running()
    assert not lifecycle.is_starter


def test_a_wait_for_a_registration_ends_with_it_or_with_the_last_refusal() -> None:
    is_registered = threading.Event()
    lifecycle = Lifecycle(brokers=[0], is_registered=is_registered.is_set, gives_up=False)
    thread, found = waiting(lambda: lifecycle.wait_registered(Deadline(LIMIT), until_refused=True))
    lifecycle.note_refused(0, refused("first"), is_final=False)
    thread.join(LIMIT)
    assert found == [False]
    thread, found = waiting(lambda: lifecycle.wait_registered(Deadline(LIMIT)))
    is_registered.set()
    lifecycle.note_registered(0)
    thread.join(LIMIT)
    assert found == [True]


def test_waits_end_at_their_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("n8nrunner.lifecycle._STOP_LIMIT", 0.0)
    lifecycle = lifecycle_in(RunnerState.STOPPING)
    assert not lifecycle.wait_ended(0.0)
    assert not lifecycle.wait_stopped()
    assert not lifecycle.wait_registered(Deadline(0.0))
