"""The functions, task types, errors and brokers in a snapshot, over real sockets."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Callable

import pytest

from n8nrunner import FunctionSnapshot, Runner, Task, TaskError
from n8nrunner.broker import Broker, BrokerTask, BrokerTaskError
from tests.conftest import LIMIT, signature_of, wait_until
from tests.execution import handlers

NewRunner = Callable[..., Runner]
BEFORE = time.time()


def settings(function: str, *arguments: dict[str, Any], **more: Any) -> dict[str, Any]:
    calls = [{"item": item, "arguments": each} for item, each in enumerate(arguments or ({},))]
    names = {"executionId": "4711", "nodeName": "Score the lead"}
    return {"version": 1, "function": function, "calls": calls, **names, **more}


def submit(broker: Broker, function: str, *arguments: dict[str, Any], **more: Any) -> BrokerTask:
    return broker.submit("n8nrunner.leads", settings(function, *arguments, **more), timeout=LIMIT)


def functions(runner: Runner) -> tuple[FunctionSnapshot, ...]:
    """Return the functions and task types of a snapshot, when no task runs."""
    wait_until(lambda: runner.snapshot().taken == 0)
    return runner.snapshot().functions


def of(runner: Runner, name: str) -> FunctionSnapshot:
    (found,) = [each for each in functions(runner) if each.name == name]
    return found


def outcomes(found: FunctionSnapshot) -> dict[str, int]:
    assert all(outcome.count == outcome.duration.count for outcome in found.outcomes.values())
    return {name: outcome.count for name, outcome in found.outcomes.items()}


class Waiting:
    """A function and a handler that run until their task is cancelled."""

    def __init__(self, runner: Runner) -> None:
        self.begun = threading.Semaphore(0)
        runner.function(self.wait, name="wait")
        runner.task("wait")(self.wait)

    def wait(self, task: Task) -> str:
        self.begun.release()
        assert task.wait_for_cancel(LIMIT)
        return "late"

    def submit(self, broker: Broker, **more: Any) -> None:
        """Let one task of each kind begin."""
        submit(broker, "wait", **more)
        broker.submit("wait", more, timeout=LIMIT)
        for _ in range(2):
            assert self.begun.acquire(timeout=LIMIT)


def test_everything_that_is_registered_is_shown_without_a_call(new_runner: NewRunner) -> None:
    runner = new_runner(name="leads")
    runner.function(lambda: None, name="score")
    runner.task("enrich")(lambda task: None)
    for _ in range(2):
        snapshot = runner.snapshot()
        assert [(each.name, each.kind, each.calls) for each in snapshot.functions] == [
            ("enrich", "task", 0),
            ("score", "function", 0),
        ]
        assert all(each.queue.count == each.duration.count == 0 for each in snapshot.functions)
        runner.start()


def test_durations_and_waits_are_those_of_calls_and_tasks(broker: Broker, new_runner: NewRunner) -> None:
    runner = new_runner(name="leads", capacity=1)

    @runner.function
    def last(seconds: float, task: Task) -> None:
        task.wait_for_cancel(seconds)

    with runner:
        assert submit(broker, "last", {"seconds": 0.03}, {"seconds": 0.0}, {"seconds": 0.3}).result()
    found = of(runner, "last")
    duration = found.outcomes["done"].duration
    assert 0.33 <= duration.sum < LIMIT
    assert duration.count == found.calls == 3
    assert duration.quantile(0.1) < 0.03 < 0.2 < duration.quantile(1.0)  # type: ignore[operator]
    assert found.queue.count == 1  # one task
    assert found.queue.sum < LIMIT


@pytest.mark.parametrize("details", [True, False])
def test_the_last_errors_say_what_n8n_shows_or_only_its_kind(
    broker: Broker, new_runner: NewRunner, details: bool
) -> None:
    runner = new_runner(name="leads", error_details=details)

    @runner.function
    def score(budget: float) -> float:
        if budget > 10:
            raise TaskError("too much", "of it")
        return 1 / budget

    @runner.task("fails")
    def fails(task: Task) -> None:
        raise ValueError(task.settings)

    with runner:
        budgets: tuple[Any, ...] = (1, 0, 11, "secret")
        calls = [{"budget": each} for each in budgets]
        current = signature_of(runner, "score")
        submit(broker, "score", *calls, continueOnFail=True, signature=current).result()
        with pytest.raises(BrokerTaskError):
            broker.run_task("fails", "secret")
    of(runner, "score")
    plain, *errors = runner.snapshot().errors
    assert (plain.function, plain.item, plain.execution_id, plain.node) == ("fails", None, None, None)
    assert plain.message == ("ValueError: secret" if details else "ValueError")
    by_item = {error.item: error for error in errors}
    assert by_item.keys() == {1, 2, 3}
    for error in errors:
        assert (error.function, error.execution_id, error.node) == ("score", "4711", "Score the lead")
        assert BEFORE < error.at < time.time()
    assert (by_item[1].traceback is not None) is details
    if details:
        assert "ZeroDivisionError" in str(by_item[1].traceback)
        assert by_item[2][6:] == ("too much", "of it", None)
        assert "secret" in by_item[3].message
    else:
        assert by_item[2][6:] == ("n8nrunner.errors.TaskError", None, None)
        assert by_item[3].message == "Item 3, parameter 'budget' of score: it takes a number."
        assert "secret" not in repr(runner.snapshot().errors)


def test_the_errors_are_bounded_and_the_latest_is_first(broker: Broker, new_runner: NewRunner) -> None:
    runner = new_runner(name="leads")

    @runner.function
    def fail(number: int) -> None:
        raise TaskError(str(number))

    with runner:
        for first in range(0, 300, 20):
            numbers = [{"number": number} for number in range(first, first + 20)]
            submit(broker, "fail", *numbers, continueOnFail=True).result()
    assert of(runner, "fail").failed == 300
    errors = runner.snapshot().errors
    assert len(errors) == 50
    assert [int(error.message) for error in errors[:6]] == [284, 283, 282, 281, 280, 264]
    assert len({error.at for error in errors[:5]}) == 1  # noted at once, when the task ended


def test_a_cancelled_task_counts_once(broker: Broker, new_runner: NewRunner) -> None:
    runner = new_runner(name="leads")
    waiting = Waiting(runner)
    with runner:
        task = submit(broker, "wait", {}, {}, {})
        other = broker.submit("wait", {})
        for _ in range(2):
            assert waiting.begun.acquire(timeout=LIMIT)
        shown = {each.name: each.running for each in runner.snapshot().functions}
        task.cancel()
        other.cancel()
        wait_until(lambda: runner.snapshot().counts.cancelled == 2)
    assert shown == {"wait": 1}
    assert [outcomes(found) for found in functions(runner)] == [{"cancelled": 1}] * 2
    assert runner.snapshot().errors == ()


@pytest.mark.parametrize("outcome", ["timed_out", "lost", "unfinished"])
def test_a_task_that_is_cut_short_counts_once_and_at_once(
    broker: Broker, new_runner: NewRunner, outcome: str
) -> None:
    limit = 0.2 if outcome == "timed_out" else 60
    runner = new_runner(name="leads", task_timeout=limit)
    waiting = Waiting(runner)
    with runner:
        waiting.submit(broker)
        if outcome == "lost":
            broker.kill()
        elif outcome == "unfinished":
            runner.stop(0)
        wait_until(lambda: runner.snapshot().counts._asdict()[outcome] == 2)
    for found in functions(runner):
        assert outcomes(found) == {outcome: 1}
        assert found.duration.sum < LIMIT
        assert found.undelivered == (outcome == "lost")


def test_links_show_offers_acceptances_and_reconnections(broker: Broker, new_runner: NewRunner) -> None:
    runner = new_runner(name="leads", capacity=3)
    runner.task("echo")(lambda task: task.settings)
    (link,) = runner.snapshot().links or (None,)
    assert link is None
    with runner:
        wait_until(lambda: runner.snapshot().links[0].open_offers == 3)
        broker.run_task("echo", 1)
        (link,) = runner.snapshot().links
        assert link is not None
        assert (link.accepted, link.rejected, link.reconnections, link.undelivered) == (1, 0, 0, 0)
        assert link.last_received is not None
        assert 0 <= link.last_received < LIMIT
        broker.kill()
        broker.start()
        wait_until(lambda: runner.snapshot().links[0].reconnections == 1)


def test_a_running_task_shows_its_function_execution_node_and_limit(
    broker: Broker, new_runner: NewRunner
) -> None:
    runner = new_runner(name="leads", task_timeout=50)
    waiting = Waiting(runner)
    with runner:
        waiting.submit(broker)
        tasks = {task.type: task for task in runner.snapshot().tasks}
        runner.stop(0)
    task = tasks["n8nrunner.leads"]
    assert (task.function, task.execution_id, task.node) == ("wait", "4711", "Score the lead")
    assert task.limit == pytest.approx(50, abs=1)
    assert tasks["wait"].function is None


def test_calls_in_another_process_have_their_duration_queue_and_error(
    broker: Broker, new_runner: NewRunner, processes: ProcessPoolExecutor
) -> None:
    runner = new_runner(name="leads", executor=processes, capacity=1)
    runner.task("process")(handlers.process)
    runner.task("fails")(handlers.fails)
    with runner:
        broker.run_task("process", {})
        with pytest.raises(BrokerTaskError):
            broker.run_task("fails", "way")
    found = of(runner, "process")
    assert found.duration.count == found.queue.count == found.done == 1
    assert 0 < found.duration.sum < LIMIT
    (error,) = runner.snapshot().errors
    assert error.message == "ValueError: no way"
    assert "handlers.py" in str(error.traceback)


def test_the_uptime_ends_with_the_runner(broker: Broker, new_runner: NewRunner) -> None:
    runner = new_runner()
    assert runner.snapshot().uptime == 0
    with runner:
        assert BEFORE < runner.snapshot().at < time.time()
        assert runner.snapshot().uptime > 0
    first = runner.snapshot()
    assert runner.snapshot().uptime == first.uptime
