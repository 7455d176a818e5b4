"""The hooks of `Runner.on`, and a context that takes the task."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import gc
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from n8nrunner import Call, ConfigurationError, Registered, Runner, Task, TaskError, Undelivered
from n8nrunner.broker import Broker, BrokerTaskError
from n8nrunner.execution.invoke import invoke
from n8nrunner.hooks import EVENTS, Hooks, takes_task
from n8nrunner.task import ActiveTask
from tests.conftest import LIMIT, signature_of, wait_until
from tests.execution import handlers

NewRunner = Callable[..., Runner]
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nothing")


class Seen:
    """The calls that hooks have got, as they were then."""

    def __init__(self, *events: str) -> None:
        self.events = events or ("started", "finished", "failed")
        self.calls: list[tuple[Any, ...]] = []

    def add_to(self, hooks: Any) -> Seen:
        add = hooks.add if isinstance(hooks, Hooks) else hooks.on
        for event in self.events:
            add(event, functools.partial(self.note, event))
        return self

    def note(self, event: str, call: Call) -> None:
        call.state.setdefault("seen", []).append(event)
        error = None if call.error is None else str(call.error)
        self.calls.append((event, call.name, call.item, call.outcome, error))

    @property
    def brief(self) -> list[tuple[str, Any]]:
        return [(event, item) for event, _, item, _, _ in self.calls]


def run(handler: Callable[[Any], Any], hooks: Hooks, **settings: Any) -> Any:
    task = ActiveTask("1", "tests", settings, time.monotonic() + 60)
    return invoke(handler, task, hooks.around, 100_000)


def settings(function: str, *arguments: dict[str, Any], **more: Any) -> dict[str, Any]:
    calls = [{"item": item, "arguments": each} for item, each in enumerate(arguments)]
    names = {"executionId": "4711", "nodeName": "Score the lead"}
    return {"version": 1, "function": function, "calls": calls, **names, **more}


def call(runner: Runner, broker: Broker, function: str, *arguments: dict[str, Any], **more: Any) -> Any:
    current = {"signature": signature_of(runner, function), **more}
    return broker.run_task("n8nrunner.leads", settings(function, *arguments, **current), timeout=LIMIT)


# --- calls --------------------------------------------------------------------------------------------


def test_a_handler_is_one_call() -> None:
    hooks = Hooks()
    seen = Seen().add_to(hooks)
    run(lambda task: None, hooks)

    def fails(task: Task) -> None:
        raise ValueError("no")

    run(fails, hooks)
    assert seen.calls == [
        ("started", "tests", None, None, None),
        ("finished", "tests", None, "done", None),
        ("started", "tests", None, None, None),
        ("failed", "tests", None, "failed", "no"),
    ]


def test_each_item_of_a_function_is_a_call_and_a_batch_is_one(broker: Broker, new_runner: NewRunner) -> None:
    runner = new_runner(name="leads")
    seen = Seen().add_to(runner)

    @runner.function
    def half(number: int) -> float:
        if number % 2:
            raise TaskError("odd")
        return number / 2

    @runner.function(batch=True)
    def total(number: list[int]) -> int:
        return sum(number)

    with runner:
        call(runner, broker, "half", {"number": 2}, {"number": "x"}, {"number": 3}, continueOnFail=True)
        # All arguments are converted before the first call.
        assert seen.calls == [
            ("started", "half", 1, None, None),
            ("failed", "half", 1, "failed", 'number: expected an integer, got "x"'),
            ("started", "half", 0, None, None),
            ("finished", "half", 0, "done", None),
            ("started", "half", 2, None, None),
            ("failed", "half", 2, "failed", "odd"),
        ]
        seen.calls.clear()
        call(runner, broker, "total", {"number": 2}, {"number": 4})
        assert seen.brief == [("started", None), ("finished", None)]


@pytest.mark.parametrize("is_last", [True, False])
def test_a_function_that_has_changed_fails_at_the_last_try(
    broker: Broker, new_runner: NewRunner, is_last: bool
) -> None:
    runner = new_runner(name="leads")
    seen = Seen().add_to(runner)
    runner.function(lambda number: number, name="same")
    with runner:
        call(runner, broker, "same", {"other": 1}, {"other": 2}, lastTry=is_last)
        call(runner, broker, "unknown", {"other": 1})
    both = [("started", 0), ("failed", 0), ("started", 1), ("failed", 1)]
    assert seen.brief == (both if is_last else [])


def test_a_call_knows_its_task_execution_and_node_and_keeps_its_state(
    broker: Broker, new_runner: NewRunner
) -> None:
    runner = new_runner(name="leads")
    seen = Seen().add_to(runner)
    ended: list[Call] = []
    runner.on("finished")(ended.append)
    runner.function(lambda: None, name="score")
    with runner:
        call(runner, broker, "score", {})
    (one,) = ended
    assert (one.name, one.function, one.execution_id, one.node) == (
        "score",
        "score",
        "4711",
        "Score the lead",
    )
    assert one.task.type == "n8nrunner.leads"
    assert one.duration is not None
    assert 0 <= one.duration < LIMIT
    assert one.state == {"seen": ["started", "finished"]}
    assert len(seen.calls) == 2


def test_hooks_of_calls_run_on_the_thread_and_in_the_context_of_the_call(
    broker: Broker, new_runner: NewRunner
) -> None:
    places: list[tuple[str, int, str]] = []

    def note(event: str) -> None:
        places.append((event, threading.get_ident(), variable.get()))

    @contextlib.contextmanager
    def context() -> Iterator[None]:
        note("enter")
        variable.set("of the context")
        yield
        note("exit")

    runner = new_runner(name="leads", task_context=context)

    @runner.on("started")
    def started(call: Call) -> None:
        note("started")
        variable.set("of the hook")

    @runner.on("finished")
    def finished(call: Call) -> None:
        note("finished")

    @runner.function
    def function() -> None:
        note("function")
        variable.set("of the function")

    with runner:
        call(runner, broker, "function", {})
    assert len({thread for _, thread, _ in places}) == 1
    assert [(event, value) for event, _, value in places] == [
        ("enter", "nothing"),
        ("started", "of the context"),
        ("function", "of the hook"),
        ("finished", "of the function"),
        ("exit", "of the function"),
    ]


@pytest.mark.parametrize("outcome", ["cancelled", "timed_out", "lost", "unfinished"])
@pytest.mark.parametrize("raises", [True, False])
def test_a_call_whose_task_is_cut_short_ends_with_that_outcome(
    broker: Broker, new_runner: NewRunner, outcome: str, raises: bool
) -> None:
    runner = new_runner(name="leads", task_timeout=0.2 if outcome == "timed_out" else 60)
    seen = Seen("started", "finished", "failed").add_to(runner)
    cancelled: list[Call] = []
    was_cancelled = threading.Event()
    begun = threading.Semaphore(0)

    @runner.on("cancelled")
    def note(call: Call) -> None:
        cancelled.append(call)
        was_cancelled.set()

    def wait(task: Task) -> None:
        begun.release()
        assert task.wait_for_cancel(LIMIT)
        if raises:
            task.raise_if_cancelled()

    runner.function(wait)
    with runner:
        task = broker.submit("n8nrunner.leads", settings("wait", {}), timeout=LIMIT)
        assert begun.acquire(timeout=LIMIT)
        if outcome == "cancelled":
            task.cancel()
        elif outcome == "lost":
            broker.kill()
        elif outcome == "unfinished":
            runner.stop(0)
        assert was_cancelled.wait(LIMIT)
        wait_until(lambda: len(seen.calls) == 2)
    event, name, item, ended, _ = seen.calls[1]
    assert (event, name, item, ended) == ("failed" if raises else "finished", "wait", 0, outcome)
    (one,) = cancelled
    assert (one.name, one.item, one.outcome, one.state) == ("wait", None, outcome, {})
    assert one.duration is not None


@given(st.lists(st.sampled_from(["started", "finished", "failed"]), max_size=6), st.booleans())
def test_exactly_one_end_follows_each_start_although_hooks_raise(broken: list[str], fails: bool) -> None:
    hooks = Hooks()
    seen = Seen()

    def raise_(call: Call) -> None:
        raise SystemExit

    for event in broken:
        hooks.add(event, raise_)
    seen.add_to(hooks)

    def handler(task: Task) -> str:
        if fails:
            raise KeyboardInterrupt
        return "result"

    answer = run(handler, hooks)
    assert [each[0] for each in seen.calls] == ["started", "failed" if fails else "finished"]
    assert answer.failed is fails


@pytest.mark.parametrize("error", [ValueError("secret"), SystemExit(3), KeyboardInterrupt()])
@pytest.mark.parametrize("details", [True, False])
def test_an_exception_of_a_hook_is_logged_and_changes_nothing(
    broker: Broker,
    new_runner: NewRunner,
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
    details: bool,
) -> None:
    runner = new_runner(name="leads", error_details=details)
    registered = threading.Event()

    def raises(value: object) -> None:
        raise error

    for event in ("started", "finished", "registered"):
        runner.on(event, raises)  # type: ignore[call-overload]
    runner.on("registered", lambda value: registered.set())
    runner.function(lambda number: 2 * number, name="double")
    with runner:
        assert registered.wait(LIMIT)
        answer = call(runner, broker, "double", {"number": 2})
    assert answer["errors"] == []
    records = [record for record in caplog.records if "A hook of" in record.getMessage()]
    assert [record.name for record in records] == ["n8nrunner.tasks"] * 3
    text = "".join(caplog.text)
    assert f"A hook of 'started' raised {type(error).__name__} for double (task" in text
    assert ("secret" in text) is (details and isinstance(error, ValueError))


def test_hooks_are_called_in_their_order(broker: Broker, new_runner: NewRunner) -> None:
    runner = new_runner()
    found: list[int] = []
    for number in range(3):
        runner.on("finished", lambda call, number=number: found.append(number))  # type: ignore[misc]
    runner.task("echo")(lambda task: None)
    with runner:
        broker.run_task("echo", {})
    assert found == [0, 1, 2]


def versions() -> tuple[Any, Any]:
    """Return two versions of one function of a module."""
    made = []
    for number in range(2):
        names = {"__name__": "leads", "number": number}
        exec("def report(call): call.state.setdefault('by', []).append(number)", names)
        made.append(names["report"])
    return made[0], made[1]


def test_a_later_version_of_a_function_takes_the_place_of_the_earlier_one() -> None:
    hooks = Hooks()
    old, new = versions()
    ended: list[Any] = []
    hooks.add("finished", old)
    for _ in range(2):  # functions without a name of their own are all kept
        hooks.add("finished", lambda call: ended.append(call.state["by"]))
    hooks.add("finished", new)
    run(lambda task: None, hooks)
    assert ended == [[1], [1]]


def test_the_duration_of_a_call_is_without_its_hooks(broker: Broker, new_runner: NewRunner) -> None:
    runner = new_runner(name="leads")
    runner.on("started", lambda call: call.task.wait_for_cancel(0.3))
    durations: list[Any] = []
    runner.on("finished", lambda call: durations.append(call.duration))
    runner.function(lambda: None, name="fast")
    runner.task("fast")(lambda task: None)
    with runner:
        call(runner, broker, "fast", {})
        broker.run_task("fast", {})
    assert len(durations) == 2
    assert max(durations) < 0.3


def test_a_failure_is_logged_once_and_before_the_hooks(caplog: pytest.LogCaptureFixture) -> None:
    hooks = Hooks()
    logged: list[int] = []
    hooks.add("failed", lambda call: logged.append(len(caplog.records)))

    def fails(task: Task) -> None:
        raise ValueError("no")

    answer = run(fails, hooks)
    assert logged == [1]
    assert len(caplog.records) == 1
    assert len(answer.failures) == 1
    assert b"ValueError: no" in answer.payload


def test_an_error_of_the_context_takes_the_place_of_the_handlers(caplog: pytest.LogCaptureFixture) -> None:
    @contextlib.contextmanager
    def context() -> Iterator[None]:
        try:
            yield
        except ValueError:
            raise LookupError("of the context") from None

    hooks = Hooks(context)
    seen = Seen().add_to(hooks)

    def fails(task: Task) -> None:
        raise ValueError("of the handler")

    assert b"LookupError: of the context" in run(fails, hooks).payload
    assert [each[-1] for each in seen.calls] == [None, "of the handler"]


def test_the_error_of_a_call_keeps_nothing_alive(broker: Broker, new_runner: NewRunner) -> None:
    class Large:
        """Something that a frame of a traceback has."""

    alive: list[weakref.ref[Large]] = []
    runner = new_runner(name="leads", capacity=1)
    runner.on("failed", lambda call: call.state)

    @runner.function(name="fail")
    @runner.task("fail")
    def fail(task: Task) -> None:
        value = Large()
        alive.append(weakref.ref(value))
        raise ValueError("with a large variable in its frame")

    runner.function(lambda: None, name="next")
    gc.collect()
    gc.disable()
    try:
        with runner:
            call(runner, broker, "fail", {})
            with pytest.raises(BrokerTaskError):
                broker.run_task("fail", {})
            call(runner, broker, "next", {})  # the thread has forgotten the task before
            assert [ref() for ref in alive] == [None] * 2
    finally:
        gc.enable()


def test_without_a_hook_nothing_is_built() -> None:
    hooks = Hooks()
    hooks.add("registered", lambda value: None)
    seen: list[ActiveTask] = []
    run(seen.append, hooks)
    assert seen[0].hooks is None


def test_hooks_of_calls_work_in_another_process(
    broker: Broker, new_runner: NewRunner, processes: ProcessPoolExecutor
) -> None:
    runner = new_runner(executor=processes, capacity=1)
    runner.on("started", handlers.note_start)
    runner.on("finished", handlers.note_end)
    runner.task("notes")(handlers.notes)
    with runner:
        assert broker.run_task("notes", {}) == ["started notes"]
        assert broker.run_task("notes", {}) == ["started notes", "done True", "started notes"]


# --- other events -------------------------------------------------------------------------------------


def test_registrations_and_undelivered_results_are_reported(broker: Broker, new_runner: NewRunner) -> None:
    runner = new_runner(name="leads")
    registrations: list[tuple[Registered, str]] = []
    undelivered: list[Undelivered] = []
    begun = threading.Event()

    @runner.on("registered")
    def registered(event: Registered) -> None:
        registrations.append((event, threading.current_thread().name))

    runner.on("undelivered", undelivered.append)

    @runner.function
    def wait(task: Task) -> None:
        begun.set()
        task.wait_for_cancel(LIMIT)

    with runner:
        wait_until(lambda: len(registrations) == 1)
        broker.submit("n8nrunner.leads", settings("wait", {}))
        assert begun.wait(LIMIT)
        broker.kill()
        wait_until(lambda: undelivered)
        broker.start()
        wait_until(lambda: len(registrations) == 2)
    assert registrations == [(Registered(broker.url, "leads"), "n8nrunner-callbacks")] * 2
    (result,) = undelivered
    assert (result.function, result.task_type) == ("wait", "n8nrunner.leads")


def test_on_undelivered_and_a_hook_both_get_a_result(broker: Broker, new_runner: NewRunner) -> None:
    results: list[str] = []
    runner = new_runner(on_undelivered=lambda result: results.append("callback"))
    runner.on("undelivered", lambda result: results.append("hook"))
    begun = threading.Event()

    @runner.task("wait")
    def wait(task: Task) -> None:
        begun.set()
        task.wait_for_cancel(LIMIT)

    with runner:
        broker.submit("wait", {})
        assert begun.wait(LIMIT)
        broker.kill()
        wait_until(lambda: len(results) == 2)
    assert results == ["callback", "hook"]


def test_hooks_can_be_added_while_the_runner_runs(broker: Broker, new_runner: NewRunner) -> None:
    runner = new_runner()
    runner.task("echo")(lambda task: None)
    registered = threading.Event()
    with runner:
        runner.on("registered", lambda event: registered.set())
        seen = Seen().add_to(runner)
        broker.run_task("echo", {})
        assert [each[0] for each in seen.calls] == ["started", "finished"]
        broker.kill()
        broker.start()
        assert registered.wait(LIMIT)


def test_an_event_or_a_function_that_does_not_fit_is_refused(new_runner: NewRunner) -> None:
    runner = new_runner()

    async def later(call: Call) -> None: ...

    with pytest.raises(ConfigurationError, match=f"event: expected one of {', '.join(EVENTS)}; got 'ended'"):
        runner.on("ended", print)  # type: ignore[call-overload]
    with pytest.raises(ConfigurationError, match="hook of 'started': expected a plain function"):
        runner.on("started", later)
    assert runner._hooks.around.calls is None


# --- a context that takes the task ----------------------------------------------------------------------


class Context:
    """A context manager that knows its task."""

    def __init__(self, task: Any = "none") -> None:
        self.task = task

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *error: object) -> None: ...


def needs_task(task: Task) -> Context:
    return Context(task)


@pytest.mark.parametrize(
    ("context", "takes"),
    [
        (needs_task, True),
        (lambda task, more=1, *rest, **options: Context(task), True),
        (Context, False),
        (lambda: Context(), False),
        (lambda *arguments, **options: Context(), False),
        (functools.partial(needs_task, None), False),
        (contextlib.ExitStack, False),
    ],
)
def test_a_context_takes_the_task_if_it_has_a_required_parameter(
    context: Callable[..., Any], takes: bool
) -> None:
    assert takes_task(context) is takes


def test_a_context_that_takes_the_task_gets_it() -> None:
    found: list[Any] = []

    @contextlib.contextmanager
    def context(task: Task) -> Iterator[None]:
        found.append(task)
        yield

    run(found.append, Hooks(context), of="x")
    assert found[0] is found[1]
    assert found[0].settings == {"of": "x"}


@pytest.mark.parametrize("context", [lambda task, other: Context(), lambda *, task: Context()])
def test_a_context_that_takes_more_is_refused(context: Any) -> None:
    with pytest.raises(ConfigurationError, match="task_context: expected a function that takes no argument"):
        Runner("http://127.0.0.1:5679", auth_token="secret", task_context=context)


def test_a_context_that_cannot_be_entered_fails_the_task_without_a_call(
    broker: Broker, new_runner: NewRunner
) -> None:
    def context() -> Any:
        raise LookupError("no context")

    runner = new_runner(task_context=context)
    seen = Seen().add_to(runner)
    runner.task("echo")(lambda task: None)
    with runner, pytest.raises(BrokerTaskError, match="no context"):
        broker.run_task("echo", {})
    assert seen.calls == []
