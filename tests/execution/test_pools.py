"""Where handlers run: the runner's threads, executors, other processes, and executors that fail."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable

import pytest

from n8nrunner import ExecutorBroken, Runner, Task
from n8nrunner.broker import Broker, BrokerTaskError
from n8nrunner.deadline import Deadline
from n8nrunner.execution import executors
from n8nrunner.execution.executors import ExecutorOrFactory
from n8nrunner.execution.invoke import Answer
from n8nrunner.execution.pools import TaskPool
from n8nrunner.hooks import Hooks
from n8nrunner.task import ActiveTask
from tests.conftest import LIMIT, new_processes, promptly, wait_until
from tests.execution import handlers

NewRunner = Callable[..., Runner]


class Silent:
    """A listener that does nothing."""

    def executor_broken(self, error: ExecutorBroken) -> None: ...

    def set_offering(self, wanted: bool) -> None: ...


def new_task(settings: Any = None, task_id: str = "abcd1234") -> ActiveTask:
    port: Any = "the task is not in another process"
    return ActiveTask(task_id, "tests", settings, time.monotonic() + 60, port)


class Ends:
    """Collects the answers of the tasks that ended."""

    def __init__(self) -> None:
        self.all: list[tuple[Task, Answer]] = []
        self._came = threading.Semaphore(0)

    def __call__(self, task: Task, answer: Answer) -> None:
        self.all.append((task, answer))
        self._came.release()

    def wait(self, count: int = 1) -> None:
        for _ in range(count):
            assert self._came.acquire(timeout=LIMIT)

    def messages(self) -> list[Any]:
        found = []
        for _, answer in self.all:
            message = json.loads(answer.payload)
            found.append(message["error"] if answer.failed else message["data"]["result"])
        return found


@contextlib.contextmanager
def pool_of(executor: ExecutorOrFactory | None = None, capacity: int = 3) -> Iterator[TaskPool]:
    pool = TaskPool(executor, capacity, Hooks(), 1_000_000, Silent())
    pool.warm_up()
    try:
        yield pool
    finally:
        pool.shut_down()
        assert pool.join(Deadline(LIMIT)) == []


def run(pool: TaskPool, handler: Callable[[Task], Any], settings: Any = None) -> Any:
    ends = Ends()
    pool.submit(handler, new_task(settings), ends)
    ends.wait()
    return ends.messages()[0]


# --- the runner's threads -------------------------------------------------------------------------------


def test_handlers_run_on_as_many_threads_as_the_capacity() -> None:
    names = set()
    running = threading.Barrier(3)

    def handler(task: Task) -> None:
        names.add(threading.current_thread().name)
        running.wait(LIMIT)  # all three at once

    ends = Ends()
    with pool_of(capacity=3) as pool:
        for _ in range(9):
            pool.submit(handler, new_task(), ends)
        ends.wait(9)
        assert len(names) == 3
        assert all(name.startswith("n8nrunner-pool") for name in names)


def test_tasks_are_active_until_their_handlers_return() -> None:
    go_on = threading.Event()
    ends = Ends()
    tasks = [new_task(), new_task()]
    with pool_of() as pool:
        for task in tasks:
            pool.submit(lambda task: go_on.wait(LIMIT), task, ends)
        assert list(pool.active) == tasks
        go_on.set()
        ends.wait(2)
        assert list(pool.active) == []
    assert {task for task, _ in ends.all} == set(tasks)


def test_a_listener_may_submit_again_when_a_task_ends() -> None:
    ends = Ends()
    left = [50]

    with pool_of(capacity=1) as pool:

        def ended(task: Task, answer: Answer) -> None:
            assert task not in pool.active
            left[0] -= 1
            if left[0]:
                pool.submit(handlers.echo, new_task(), ended)
            else:
                ends(task, answer)

        pool.submit(handlers.echo, new_task(), ended)
        ends.wait()
    assert left == [0]


def test_an_exception_of_a_handler_ends_only_its_task() -> None:
    with pool_of(capacity=1) as pool:
        threads = set()
        for error in (ValueError("x"), SystemExit(1), KeyboardInterrupt(), GeneratorExit()):

            def handler(task: Task, error: BaseException = error) -> Any:
                threads.add(threading.get_ident())
                raise error

            assert run(pool, handler)["message"].startswith(type(error).__name__)
        assert run(pool, lambda task: threading.get_ident()) in threads
        assert len(threads) == 1


def test_is_current_is_true_only_in_a_handler_of_the_pool() -> None:
    with pool_of() as pool, pool_of() as other:
        assert not pool.is_current
        assert run(pool, lambda task: [pool.is_current, other.is_current]) == [True, False]
        assert not pool.is_current


def test_join_names_the_tasks_that_still_run() -> None:
    go_on = threading.Event()
    ends = Ends()
    pool = TaskPool(None, 2, Hooks(), 1000, Silent())
    pool.warm_up()
    pool.submit(lambda task: go_on.wait(LIMIT), new_task(task_id="still-running"), ends)
    pool.shut_down()
    with promptly():
        assert pool.join(Deadline(0.05)) == ["tests (task still-running)"]
    go_on.set()
    ends.wait()
    assert pool.join(Deadline(LIMIT)) == []


@pytest.mark.parametrize("executor", [None, ThreadPoolExecutor])
def test_a_task_that_comes_after_the_end_is_answered(executor: Any) -> None:
    with pool_of(executor) as pool:
        pool.shut_down()
        assert run(pool, handlers.echo) == {"message": "The task did not run: the runner has stopped"}
        assert not pool.active


def test_the_context_is_entered_around_every_handler() -> None:
    entered: list[str] = []

    @contextlib.contextmanager
    def context() -> Iterator[None]:
        entered.append(threading.current_thread().name)
        yield
        entered.append("left")

    pool = TaskPool(None, 1, Hooks(context), 1000, Silent())
    pool.warm_up()
    assert run(pool, handlers.echo, 5) == 5
    assert entered[0].startswith("n8nrunner-pool")
    assert entered[1:] == ["left"]
    pool.shut_down()
    pool.join(Deadline(LIMIT))


# --- a thread pool that was passed --------------------------------------------------------------------------


def test_a_thread_pool_that_was_passed_is_used_and_never_shut_down() -> None:
    with ThreadPoolExecutor(2, thread_name_prefix="of-the-caller") as executor:
        with pool_of(executor) as pool:
            name, current = run(pool, lambda task: [threading.current_thread().name, pool.is_current])
            assert name.startswith("of-the-caller")
            assert current
            # In this process, so the task is the very same.
            task, ends = new_task(), Ends()
            seen: list[Task] = []
            pool.submit(seen.append, task, ends)
            ends.wait()
            assert seen == [task]
        assert executor.submit(lambda: "still there").result(LIMIT) == "still there"


def test_tasks_fail_if_the_owner_has_shut_the_thread_pool_down() -> None:
    executor = ThreadPoolExecutor(1)
    with pool_of(executor) as pool:
        executor.shutdown()
        assert "ExecutorBroken" in run(pool, handlers.echo)["message"]
        assert not pool.active
    with pytest.raises(ExecutorBroken, match="RuntimeError: cannot schedule new futures"):
        TaskPool(executor, 1, Hooks(), 1000, Silent()).warm_up()


def test_tasks_that_a_thread_pool_cancels_in_its_queue_are_answered() -> None:
    go_on, busy = threading.Event(), threading.Event()
    ends = Ends()

    def hold(task: Task) -> None:
        busy.set()
        assert go_on.wait(LIMIT)

    executor = ThreadPoolExecutor(1)
    with pool_of(executor) as pool:
        pool.submit(hold, new_task(task_id="first"), ends)
        assert busy.wait(LIMIT)
        pool.submit(handlers.echo, new_task(task_id="second"), ends)
        executor.shutdown(wait=False, cancel_futures=True)
        ends.wait()
        assert [task.id for task, _ in ends.all] == ["second"]
        assert ends.messages()[0] == {
            "message": "ExecutorBroken: the runner's executor did not run the task",
            "description": "it dropped the task",
        }
        go_on.set()
        ends.wait()
    assert [task.id for task, _ in ends.all] == ["second", "first"]
    executor.shutdown()


# --- executors of another kind --------------------------------------------------------------------------


class Custom(Executor):
    """An executor that runs the first thing it gets, and does something else with all others."""

    def __init__(self, then: Callable[[Future[Any], Callable[[], Any]], None]) -> None:
        self._then = then
        self._warm = False
        self.shut_down = False

    def submit(self, fn: Any, /, *args: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        call = lambda: fn(*args, **options)  # noqa: E731
        if not self._warm:
            self._warm = True
            thread = threading.Thread(target=lambda: future.set_result(call()))
            thread.start()
            thread.join()
        else:
            self._then(future, call)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.shut_down = True


def test_tasks_that_an_executor_cancels_are_answered() -> None:
    executor = Custom(lambda future, call: future.cancel() and future.set_running_or_notify_cancel())
    with pool_of(executor) as pool:
        assert run(pool, handlers.echo)["description"] == "it dropped the task"
    assert not executor.shut_down


def test_tasks_that_an_executor_fails_are_answered() -> None:
    executor = Custom(lambda future, call: future.set_exception(OSError("the cluster is gone")))
    with pool_of(executor) as pool:
        assert run(pool, handlers.echo)["description"] == "OSError: the cluster is gone"


def test_tasks_that_an_executor_refuses_are_answered() -> None:
    def refuse(future: Any, call: Any) -> None:
        raise ConnectionError("no worker left")

    with pool_of(Custom(refuse)) as pool:
        assert run(pool, handlers.echo)["description"] == "ConnectionError: no worker left"
        assert not pool.active


def test_an_executor_that_runs_the_task_and_fails_its_future_gives_one_answer() -> None:
    def both(future: Future[Any], call: Callable[[], Any]) -> None:
        call()
        future.set_exception(OSError("too late"))

    ends = Ends()
    with pool_of(Custom(both)) as pool:
        pool.submit(handlers.echo, new_task(7), ends)
        ends.wait()
    assert ends.messages() == [7]


def test_an_executor_that_runs_everything_twice_gives_one_answer() -> None:
    def twice(future: Future[Any], call: Callable[[], Any]) -> None:
        call()
        call()
        future.set_result(None)

    ends = Ends()
    with pool_of(Custom(twice)) as pool:
        pool.submit(handlers.echo, new_task(7), ends)
        ends.wait()
    assert ends.messages() == [7]


def test_warming_up_finds_executors_that_run_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "WARM_UP", 0.05)

    class Dropping(Executor):
        def submit(self, fn: Any, /, *args: Any, **options: Any) -> Future[Any]:
            return Future()

    with pytest.raises(ExecutorBroken, match=r"runs nothing: not within 0\.05 s"):
        TaskPool(Dropping(), 1, Hooks(), 1000, Silent()).warm_up()


def test_warming_up_finds_executors_that_run_tasks_where_they_are_submitted() -> None:
    class Direct(Executor):
        def submit(self, fn: Any, /, *args: Any, **options: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_result(fn(*args, **options))
            return future

    with pytest.raises(ExecutorBroken, match="in the thread that submits them"):
        TaskPool(Direct(), 1, Hooks(), 1000, Silent()).warm_up()


def test_a_runner_with_an_executor_that_drops_tasks_answers_them_in_time(
    broker: Broker, new_runner: NewRunner
) -> None:
    """It gives no sign, so all that is left is the task's own time limit."""
    kept: list[Any] = []
    runner = new_runner(executor=Custom(lambda *dropped: kept.append(dropped)), capacity=2, task_timeout=0.2)
    ran: list[Task] = []
    runner.task("any")(ran.append)
    with runner:
        with pytest.raises(BrokerTaskError, match="timed out"):
            broker.run_task("any", {}, timeout=LIMIT)
        wait_until(lambda: runner.snapshot().taken == 0)
        for _, call in kept:
            call()  # too late: n8n has its answer
    assert ran == []
    kept.clear()


def test_a_runner_with_an_executor_that_cancels_tasks_stays_at_its_capacity(
    broker: Broker, new_runner: NewRunner
) -> None:
    executor = Custom(lambda future, call: future.cancel() and future.set_running_or_notify_cancel())
    runner = new_runner(executor=executor, capacity=2)
    runner.task("any")(handlers.echo)
    with runner:
        for _ in range(10):
            with pytest.raises(BrokerTaskError, match="ExecutorBroken"):
                broker.run_task("any", {}, timeout=LIMIT)
        assert runner.snapshot().taken == 0
        assert runner.snapshot().counts.failed == 10


# --- other processes ------------------------------------------------------------------------------------


def test_a_pickled_task_is_plain_data() -> None:
    task = ActiveTask("abcd1234", "tests", {"items": [{"json": {}}]}, 12345.5, generation=7)
    task.progress(0.5, "half")
    copy = pickle.loads(pickle.dumps(task))
    assert type(copy) is ActiveTask
    assert (copy.id, copy.type, copy.settings, copy.deadline) == (
        "abcd1234",
        "tests",
        {"items": [{"json": {}}]},
        12345.5,
    )
    assert (copy.cancelled, copy.progress_fraction, copy.progress_text) == (False, None, "")
    assert copy.error_details
    silent = ActiveTask("abcd1234", "tests", None, 12345.5, error_details=False)
    assert not pickle.loads(pickle.dumps(silent)).error_details


def test_handlers_run_in_another_process_with_a_task_of_plain_data(
    processes: ProcessPoolExecutor, broker: Broker, new_runner: NewRunner
) -> None:
    runner = new_runner(executor=processes)
    runner.task("process")(handlers.process)
    runner.task("fails")(handlers.fails)
    runner.task("refuses")(handlers.refuses)
    runner.task("exits")(handlers.exits)
    runner.task("set")(handlers.returns_a_set)
    with runner:
        settings = {"n": 1, "items": [{"json": {"a": 1}}]}
        found = broker.run_task("process", settings, timeout=LIMIT)
        assert found["process"] != os.getpid()
        assert found["parent"] == os.getpid()
        assert (found["type"], found["settings"], found["items"]) == ("process", settings, settings["items"])
        assert found["cancelled"] is False
        assert found["imported"] == []  # a process that only runs handlers needs no network
        for task_type, says in [
            ("fails", "ValueError: no {'n': 1}"),
            ("refuses", "to the author"),
            ("exits", "SystemExit: 3"),
            ("set", r"result\['rows'\]\[1\] is a set"),
        ]:
            with pytest.raises(BrokerTaskError, match=says):
                broker.run_task(task_type, {"n": 1}, timeout=LIMIT)
        assert runner.snapshot().taken == 0
    # It is the caller's, and goes on.
    assert processes.submit(os.getpid).result(LIMIT) == found["process"]


def test_calls_to_n8n_from_another_process_say_why_they_fail(
    processes: ProcessPoolExecutor, broker: Broker, new_runner: NewRunner
) -> None:
    runner = new_runner(executor=processes)
    runner.task("links")(handlers.links)
    with runner:
        found: dict[str, str] = broker.run_task("links", {}, timeout=LIMIT)
    assert found.pop("progress") == "0.5 half"
    assert len(found) == 7
    for name, text in found.items():
        assert "runs in another process, which has no connection to n8n" in text, name
        assert "executor of threads" in text


def test_a_context_is_entered_in_the_other_process(
    processes: ProcessPoolExecutor, broker: Broker, new_runner: NewRunner
) -> None:
    runner = new_runner(executor=processes, task_context=handlers.context)
    runner.task("times")(handlers.times_entered)
    with runner:
        first = broker.run_task("times", {}, timeout=LIMIT)
        assert broker.run_task("times", {}, timeout=LIMIT) == first + 1
    assert handlers.entered == 0


def test_a_handler_that_cannot_be_pickled_fails_with_the_reason(
    processes: ProcessPoolExecutor, broker: Broker, new_runner: NewRunner
) -> None:
    runner = new_runner(executor=processes, capacity=1)
    runner.task("lambda")(lambda task: 1)
    runner.task("echo")(handlers.echo)
    with runner:
        for _ in range(3):
            with pytest.raises(BrokerTaskError, match="ExecutorBroken") as caught:
                broker.run_task("lambda", {}, timeout=LIMIT)
            assert "lambda" in str(caught.value.description)
        assert broker.run_task("echo", 5, timeout=LIMIT) == 5


def test_large_settings_and_results_reach_another_process(
    processes: ProcessPoolExecutor, broker: Broker, new_runner: NewRunner
) -> None:
    runner = new_runner(executor=processes)
    runner.task("echo")(handlers.echo)
    rows = [{"json": {"n": n, "text": "x" * 100}} for n in range(30_000)]
    with runner:
        assert broker.run_task("echo", {"items": rows}, timeout=30) == {"items": rows}


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_a_task_fails_when_its_process_is_killed(
    broker: Broker, new_runner: NewRunner, tracker: None, caplog: pytest.LogCaptureFixture
) -> None:
    with new_processes() as executor:
        runner = new_runner(executor=executor, capacity=2)
        runner.task("killed")(handlers.is_killed)
        runner.task("echo")(handlers.echo)
        with runner:
            assert broker.run_task("echo", 1, timeout=LIMIT) == 1
            with caplog.at_level(logging.ERROR), pytest.raises(BrokerTaskError) as caught:
                broker.run_task("killed", {}, timeout=LIMIT)
            assert caught.value.message == "ExecutorBroken: the runner's executor did not run the task"
            assert "BrokenProcessPool" in str(caught.value.description)
            assert "was not run by the executor" in caplog.text
            # Such an executor never runs anything again, so the runner ends.
            assert wait_until(lambda: runner.state == "failed")
            assert runner.snapshot().taken == 0
        assert isinstance(runner.error, ExecutorBroken)
        with pytest.raises(ExecutorBroken, match="BrokenProcessPool"):
            runner.join(LIMIT)
        with pytest.raises(ExecutorBroken, match="BrokenProcessPool"):
            runner.start()


def test_a_runner_that_stops_does_not_wait_for_the_other_process(
    processes: ProcessPoolExecutor, broker: Broker, new_runner: NewRunner, tmp_path: Path
) -> None:
    runner = new_runner(executor=processes, capacity=1)
    runner.task("wait")(handlers.waits_for_a_file)
    runner.start()
    task = broker.submit("wait", {"path": str(tmp_path / "go-on")}, timeout=LIMIT)
    wait_until(lambda: runner.snapshot().taken == 1)
    with promptly():
        runner.stop(0)
    with pytest.raises(BrokerTaskError):
        task.result(LIMIT)
    (tmp_path / "go-on").touch()
    wait_until(lambda: not runner.snapshot().tasks)
