"""`Registry`: what is registered, what it refuses, and what its listener is told."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from n8nrunner import ConfigurationError, Runner, logs
from n8nrunner.protocol.events import TypesChanged
from n8nrunner.registry import Registry, check_task_type
from n8nrunner.task_types import describe_type
from tests.conftest import LIMIT, TOKEN


def handle(task: Any) -> None:
    """Do nothing."""


def double(number: int) -> int:
    return 2 * number


class Listener:
    """A listener that keeps the events."""

    def __init__(self) -> None:
        self.events: list[TypesChanged] = []

    def __call__(self, event: TypesChanged) -> None:
        self.events.append(event)

    @property
    def types(self) -> list[Any]:
        return [event.types for event in self.events]

    def answer(self, task_type: str, state: str = "running") -> Any:
        """Return the last prepared answer to the tasks of a type."""
        return json.loads(getattr(self.events[-1].prepared[task_type], state))


def test_the_listener_is_told_the_types_at_once_and_after_each_registration() -> None:
    registry = Registry("sales")
    registry.add_task("first", handle, None)
    listener = Listener()
    registry.connect(listener)
    registry.add_task("second", handle, 3)
    registry.add_function(double, None, False, 1)
    assert listener.types == [
        {"first": None},
        {"first": None, "second": 3},
        {"n8nrunner.sales": None, "n8nrunner.sales.double": 1, "first": None, "second": 3},
    ]


def test_a_listener_is_told_nothing_after_it_was_disconnected() -> None:
    registry = Registry("sales")
    listener = Listener()
    registry.connect(listener)
    registry.disconnect(listener)
    registry.add_task("first", handle, None)
    assert listener.types == [{}]


def test_disconnecting_an_earlier_listener_leaves_its_successor_connected() -> None:
    registry = Registry("sales")
    earlier, later = Listener(), Listener()
    registry.connect(earlier)
    registry.connect(later)
    registry.disconnect(earlier)
    registry.add_task("first", handle, None)
    assert later.types == [{}, {"first": None}]


def test_a_successor_replaces_everything_by_one_change() -> None:
    registry, successor = Registry("sales"), Registry("sales")
    listener = Listener()
    registry.add_task("gone", handle, None)
    registry.add_function(double, None, False, 1)
    registry.connect(listener)
    successor.add_task("own", handle, 2)
    successor.add_function(lambda: 1, "quote", False, None)
    registry.prepare_successor(successor)()
    # The task type of a function with a limit stays, so that a node from before gets an answer.
    assert listener.types[1:] == [{"n8nrunner.sales": None, "n8nrunner.sales.double": None, "own": 2}]
    described = listener.answer(describe_type("sales"))["functions"]
    assert [function["name"] for function in described] == ["quote"]
    assert registry.handler_of("own") is handle


def test_calls_of_a_function_and_of_its_successor_share_a_limit() -> None:
    registry, successor = Registry("sales"), Registry("sales")
    for each in (registry, successor):
        each.add_function(double, None, False, 1)
    assert registry.functions is not None
    before = registry.functions.by_name["double"]
    registry.prepare_successor(successor)()
    after = registry.functions.by_name["double"]
    assert after is not before
    assert after._semaphore is before._semaphore


def test_a_successor_with_functions_needs_a_runner_with_a_name_of_its_own() -> None:
    successor = Registry("n8nrunner")
    successor.add_function(double, None, False, None)
    with pytest.raises(ConfigurationError, match="name: a runner with functions needs"):
        Registry("n8nrunner").prepare_successor(successor)


def test_a_handler_of_a_task_type_precedes_the_functions() -> None:
    registry = Registry("sales")
    assert registry.is_empty
    assert registry.handler_of("n8nrunner.sales") is None
    assert registry.add_function(double, None, False, None) is True
    assert registry.add_function(double, "again", False, None) is False
    assert registry.functions is not None
    assert registry.handler_of("n8nrunner.sales") is registry.functions
    registry.add_task("n8nrunner.sales", handle, None)
    assert registry.handler_of("n8nrunner.sales") is handle
    assert not registry.is_empty


@pytest.mark.parametrize("name", ["n8nrunner", "Sales", "sales team", "-sales", ""])
def test_functions_need_a_runner_with_a_name_of_its_own(name: str) -> None:
    registry = Registry(name)
    registry.check_name()  # every name is valid without functions
    registry.add_function(double, None, False, None)
    with pytest.raises(ConfigurationError, match="a runner with functions needs its own name"):
        registry.check_name()


def test_a_function_of_a_running_runner_without_a_name_is_refused() -> None:
    registry = Registry("n8nrunner")
    registry.connect(Listener())
    with pytest.raises(ConfigurationError, match="got 'n8nrunner'"):
        registry.add_function(double, None, False, None)
    assert registry.is_empty


async def coroutine(task: Any) -> None: ...


async def async_generator(task: Any) -> Any:
    yield task


def generator(task: Any) -> Any:
    yield


@pytest.mark.parametrize("handler", [coroutine, generator, async_generator, "text", None])
def test_a_handler_is_a_plain_function(handler: Any) -> None:
    registry = Registry("sales")
    with pytest.raises(ConfigurationError, match="handler of 'first': expected a"):
        registry.add_task("first", handler, None)
    assert registry.is_empty


@pytest.mark.parametrize("setting", ["task_context", "on_undelivered"])
@pytest.mark.parametrize("function", [coroutine, generator, async_generator, "text"])
def test_functions_that_a_runner_gets_are_plain_functions(setting: str, function: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{setting}: expected a plain function"):
        Runner(auth_token=TOKEN, **{setting: function})


def test_all_problems_with_a_task_type_are_reported_together() -> None:
    check_task_type("first", None)
    check_task_type("first", 1)
    with pytest.raises(ConfigurationError) as caught:
        check_task_type("", 0)
    assert caught.value.problems == [
        "task type: expected a non-empty string, got ''",
        "limit of '': expected an integer of 1 or more, got 0",
    ]


def test_registrations_of_several_threads_reach_the_listener_in_their_order() -> None:
    registry = Registry("sales")
    told: list[int] = []
    entered, overtaken = threading.Event(), threading.Event()

    def listen(event: TypesChanged) -> None:
        types = event.types
        if types and not entered.is_set():
            entered.set()
            overtaken.wait(0.1)  # by the other registration, which has to wait instead
        elif types:
            overtaken.set()
        told.append(len(types))

    registry.connect(listen)
    first = threading.Thread(target=registry.add_task, args=("first", handle, None))
    second = threading.Thread(target=registry.add_task, args=("second", handle, None))
    first.start()
    assert entered.wait(LIMIT)
    second.start()
    first.join(LIMIT)
    second.join(LIMIT)
    assert told == [0, 1, 2]


def test_a_child_process_gets_a_lock_of_its_own_and_no_listener() -> None:
    registry = Registry("sales")
    listener = Listener()
    registry.connect(listener)
    with registry._lock:
        registry.renew_after_fork()
        registry.add_task("first", handle, None)
    assert not registry.is_empty
    assert listener.types == [{}]


@pytest.mark.parametrize(("state", "said"), [("running", "running"), ("draining", "stopping")])
def test_a_runner_with_a_name_of_its_own_says_who_it_is_and_what_it_has(state: str, said: str) -> None:
    registry = Registry("sales")
    listener = Listener()
    registry.connect(listener)
    who = {"version": 1, "runner": "sales", "process": logs.this_process(), "state": said}
    assert listener.answer("n8nrunner:describe", state) == {**who, "functionCount": 0}
    assert listener.answer("n8nrunner:describe:sales", state) == {**who, "functions": []}
    assert listener.events[-1].announced == ("n8nrunner.sales",)
    for name in ("b_later", "a_first", "A_first"):
        registry.add_function(double, name, False, None)
    assert listener.answer("n8nrunner:describe", state) == {**who, "functionCount": 3}
    answer = listener.answer("n8nrunner:describe:sales", state)
    titles = [(function["title"], function["name"]) for function in answer["functions"]]
    assert titles == [("A First", "A_first"), ("A First", "a_first"), ("B Later", "b_later")]


def test_in_a_child_process_the_answers_name_that_process(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry("sales")
    registry.add_function(double, None, False, None)
    registry.connect(Listener())
    monkeypatch.setattr("n8nrunner.logs.this_process", lambda: "process 2 on host")
    registry.renew_after_fork()
    listener = Listener()
    registry.connect(listener)
    assert listener.answer("n8nrunner:describe")["process"] == "process 2 on host"
    assert listener.answer("n8nrunner:describe:sales")["process"] == "process 2 on host"


@pytest.mark.parametrize("name", ["n8nrunner", "Sales Team"])
def test_a_runner_without_a_name_of_its_own_describes_nothing(name: str) -> None:
    registry = Registry(name)
    listener = Listener()
    registry.connect(listener)
    assert listener.events == [TypesChanged({}, {}, ())]


def test_functions_are_described_when_a_listener_connects_and_only_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    described: list[str] = []

    def describe(runner_name: str, function: Any) -> str:
        described.append(function.signature.name)
        return json.dumps({"name": function.signature.name})

    monkeypatch.setattr("n8nrunner.functions.describe.describe_function", describe)
    registry = Registry("sales")
    registry.add_function(double, "early", False, None)
    assert described == []
    listener = Listener()
    registry.connect(listener)
    assert described == ["early"]
    registry.add_function(double, "late", False, None)
    registry.add_function(double, "early", False, None)
    registry.remove_function("late")
    assert described == ["early", "late", "early"]
    assert listener.answer("n8nrunner:describe:sales")["functions"] == [{"name": "early"}]


def test_a_function_is_described_without_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry("sales")

    def describe(runner_name: str, function: Any) -> str:
        assert not registry._lock.locked()
        if not registry._handlers:  # another thread registers something in the meantime
            registry.add_task("first", handle, None)
            registry.add_function(double, "other", False, None)
        return json.dumps(function.signature.name)

    monkeypatch.setattr("n8nrunner.functions.describe.describe_function", describe)
    registry.add_function(double, "early", False, None)
    listener = Listener()
    registry.connect(listener)
    assert listener.answer("n8nrunner:describe:sales")["functions"] == ["early", "other"]
