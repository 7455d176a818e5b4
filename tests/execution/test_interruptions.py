"""Exceptions from outside at every point of a pool's thread, and tasks that must not run any more."""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import decimal
import gc
import json
import logging
import os
import select
import sys
import threading
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any, Callable

import pytest

import n8nrunner
from n8nrunner import ExecutorBroken, Runner, Task
from n8nrunner.broker import Broker, BrokerTaskError
from n8nrunner.callbacks import Callbacks
from n8nrunner.connection.inbox import Inbox
from n8nrunner.deadline import Deadline
from n8nrunner.execution.invoke import Answer, failure
from n8nrunner.execution.pools import TaskPool
from n8nrunner.hooks import Hooks
from n8nrunner.task import Undelivered
from tests.conftest import LIMIT, new_processes, wait_until
from tests.execution import handlers
from tests.execution.test_pools import Custom, Ends, Silent, new_task, pool_of, run

NewRunner = Callable[..., Runner]

PACKAGE = os.path.dirname(n8nrunner.__file__)


class Interruption(BaseException):
    """The exception that another thread raises in a thread of the pool."""


class Interrupter:
    """Raises `Interruption` in the calling thread before the opcode of the package with the given number."""

    def __init__(self, number: int) -> None:
        self.left = number
        self.where = ""

    def begin(self) -> None:
        """In a handler: from here on the package's opcodes on this thread count."""
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            if frame.f_code.co_filename.startswith(PACKAGE):
                frame.f_trace = self._trace
                frame.f_trace_opcodes = True
            frame = frame.f_back
        sys.settrace(self._trace)

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if self.where or not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            self.left -= 1
            if self.left < 0:
                self.where = f"{frame.f_code.co_name}, line {frame.f_lineno}"
                sys.settrace(None)
                raise Interruption
        return self._trace


def interrupted_run(number: int) -> str | None:
    """Run tasks on one thread, and interrupt the second one at an opcode. Return the place, or None."""
    inbox = Inbox()
    inbox.open()
    inbox.asleep = True  # one wake-up is due, and no more
    over = threading.Event()
    interrupter = Interrupter(number)
    answers: dict[str, Answer] = {}
    runs: list[str] = []

    def ended(task: Task, answer: Answer) -> None:
        inbox.post(task, answer)
        if task.id == "after":
            over.set()

    def begin(task: Task) -> None:
        interrupter.begin()

    def middle(task: Task) -> str:
        runs.append(task.id)
        return "result"

    def last(task: Task) -> str:
        sys.settrace(None)
        return "last"

    pool = TaskPool(None, 1, Hooks(), 100_000, Silent())
    pool.warm_up()
    try:
        tasks = {"begin": begin, "middle": middle, "last": last, "after": handlers.echo}
        for name, handler in tasks.items():
            pool.submit(handler, new_task(task_id=name), ended)
        assert over.wait(LIMIT), interrupter.where
        assert select.select([inbox.fileno()], [], [], LIMIT)[0]
        for task, answer in inbox.events:
            answers.setdefault(task.id, answer)  # of several ends the first counts
    finally:
        pool.shut_down()
        assert pool.join(Deadline(LIMIT)) == []
        inbox.close()
    assert set(answers) == set(tasks), interrupter.where
    assert sum(answers[name].failed for name in ("begin", "middle", "last")) <= 1, interrupter.where
    assert not answers["after"].failed
    assert len(runs) <= 1, interrupter.where
    if not answers["middle"].failed:
        assert json.loads(answers["middle"].payload)["data"] == {"result": "result"}
    assert not pool.active
    return interrupter.where or None


@pytest.mark.parametrize("part", range(4))
def test_an_exception_at_any_point_of_a_pool_thread_costs_at_most_its_task(part: int) -> None:
    places = set()
    number = part
    while True:
        where = interrupted_run(number)
        if where is None:
            break
        places.add(where.split(",")[0])
        number += 4
    assert {"_serve", "_run", "_invoke", "invoke", "_end", "post"} <= places
    assert number > 100


def test_a_runner_keeps_its_slots_when_exceptions_come_from_outside(
    broker: Broker, new_runner: NewRunner
) -> None:
    runner = new_runner(capacity=2)
    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
    idents: list[int] = []
    over = threading.Event()

    def note(task: Task) -> None:
        idents.append(threading.get_ident())
        together.wait(LIMIT)

    def interrupt() -> None:
        while not over.wait(0.001):
            for ident in set(idents):
                raise_in(ctypes.c_ulong(ident), ctypes.py_object(Interruption))

    together = threading.Barrier(2)
    runner.task("note")(note)
    runner.task("echo")(handlers.echo)
    thread = threading.Thread(target=interrupt)
    with runner:
        for task in [broker.submit("note", {}, timeout=LIMIT) for _ in range(2)]:
            task.result(LIMIT)
        thread.start()
        try:
            for number in range(500):
                with contextlib.suppress(BrokerTaskError):
                    assert broker.run_task("echo", number, timeout=LIMIT) == number
        finally:
            over.set()
            thread.join()
        wait_until(lambda: runner.snapshot().taken == 0)
        counts = runner.snapshot().counts
        assert counts.accepted == counts.done + counts.failed == 502
        assert [broker.run_task("echo", number, timeout=LIMIT) for number in range(4)] == [0, 1, 2, 3]


def test_an_end_that_raises_is_tried_again() -> None:
    """Such as for lack of memory."""
    ends = Ends()
    left = [MemoryError(), Interruption(), RuntimeError()]

    def ended(task: Task, answer: Answer) -> None:
        if left:
            raise left.pop()
        ends(task, answer)

    with pool_of(capacity=1) as pool:
        pool.submit(handlers.echo, new_task(7), ended)
        ends.wait()
        assert run(pool, handlers.echo, 8) == 8
    assert ends.messages() == [7]


def test_memory_that_runs_out_costs_a_task_and_no_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    left = [1, 1, 1]

    def short_of_memory(*arguments: Any) -> Answer:
        if left:
            left.pop()
            raise MemoryError
        return failure(*arguments)

    monkeypatch.setattr("n8nrunner.execution.pools.failure", short_of_memory)
    monkeypatch.setattr("n8nrunner.execution.pools.invoke", short_of_memory)
    with pool_of(capacity=1) as pool:
        assert "could not finish the task" in run(pool, handlers.echo)["message"]
        assert left == []
        monkeypatch.undo()
        assert run(pool, handlers.echo, 8) == 8


# --- threads that cannot be started ----------------------------------------------------------------------


class FewThreads:
    """A system that starts only so many threads whose name begins with a prefix."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, prefix: str, count: int) -> None:
        self.left = count
        start = threading.Thread.start

        def refuse(thread: threading.Thread) -> None:
            if thread.name.startswith(prefix):
                if self.left <= 0:
                    raise RuntimeError("can't start new thread")
                self.left -= 1
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", refuse)


def test_start_raises_and_leaves_no_thread_if_a_thread_cannot_be_started(
    broker: Broker, new_runner: NewRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = new_runner(capacity=4)
    runner.task("echo")(handlers.echo)
    system = FewThreads(monkeypatch, "n8nrunner-pool", 2)
    with pytest.raises(
        ExecutorBroken, match="only 2 of 4 threads for tasks could be started: can't start new"
    ):
        runner.start()
    wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith("n8nrunner-pool")])
    system.left = 4
    with runner:
        assert broker.run_task("echo", 5, timeout=LIMIT) == 5


def test_a_task_that_was_answered_for_lack_of_threads_never_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ThreadPoolExecutor.submit` queues the task, and raises afterwards."""
    ran: list[Task] = []
    with ThreadPoolExecutor(2, thread_name_prefix="few") as executor, pool_of(executor, capacity=2) as pool:
        go_on, busy = threading.Event(), threading.Event()
        executor.submit(lambda: busy.set() or go_on.wait(LIMIT))
        assert busy.wait(LIMIT)
        FewThreads(monkeypatch, "few", 0)
        error = run(pool, ran.append)
        assert error["description"] == "RuntimeError: can't start new thread"
        go_on.set()  # the queued task comes to a thread now
        assert executor.shutdown() is None  # it waits until the queue is empty
    assert ran == []


@pytest.mark.parametrize("taken", [*[True] * (sys.version_info >= (3, 11)), False])
def test_a_task_that_was_answered_for_lack_of_processes_never_runs(
    taken: bool, tmp_path: Path, tracker: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ProcessPoolExecutor.submit` does the same. A task that a process has already is not answered."""
    trace = tmp_path / "trace"
    with new_processes() as executor, pool_of(executor, capacity=1) as pool:
        with monkeypatch.context() as context:
            wake = executor._executor_manager_thread_wakeup.wakeup  # type: ignore[attr-defined]

            def refuse() -> None:
                if taken:
                    wake()
                    wait_until(lambda: any(item.future.running() for item in list(pending.values())))
                raise OSError("no more processes")

            pending = executor._pending_work_items  # type: ignore[attr-defined]
            if not taken:  # the thread that gives tasks to processes does not hear of it
                context.setattr(executor._executor_manager_thread_wakeup, "wakeup", lambda: None)  # type: ignore[attr-defined]
            context.setattr(executor, "_start_executor_manager_thread", refuse)
            answer = run(pool, handlers.touch, {"path": str(trace), "seconds": 0.5})
        assert run(pool, handlers.echo, 5) == 5  # on the one process, after what was queued before
    assert trace.exists() is taken
    if taken:
        assert answer is None  # its result
    else:
        assert answer["description"] == "OSError: no more processes"


def test_an_executor_whose_error_has_no_text_costs_no_slot() -> None:
    class Speechless(RuntimeError):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    for fail in (
        lambda future, call: future.set_exception(Speechless()),
        lambda future, call: (_ for _ in ()).throw(Speechless()),
    ):
        with pool_of(Custom(fail)) as pool:
            assert "(its text could not be made)" in run(pool, handlers.echo)["description"]
            assert not pool.active


# --- tasks whose result is not wanted when they begin ----------------------------------------------------


def test_a_task_cancelled_in_an_executors_queue_never_runs_and_frees_its_slot(
    broker: Broker, new_runner: NewRunner
) -> None:
    ran: list[Task] = []
    go_on, busy = threading.Event(), threading.Event()

    def hold(task: Task) -> None:
        busy.set()
        assert go_on.wait(LIMIT)

    with ThreadPoolExecutor(1) as executor:
        runner = new_runner(executor=executor, capacity=2)
        runner.task("hold")(hold)
        runner.task("late")(ran.append)
        with runner:
            first = broker.submit("hold", {}, timeout=LIMIT)
            assert busy.wait(LIMIT)
            late = broker.submit("late", {}, timeout=LIMIT)
            wait_until(lambda: runner.snapshot().taken == 2)
            wait_until(lambda: len(runner.snapshot().tasks) == 2)
            late.cancel()
            wait_until(lambda: runner.snapshot().taken == 1)
            go_on.set()
            first.result(LIMIT)
            assert executor.submit(lambda: "after it").result(LIMIT) == "after it"
    assert ran == []


@pytest.mark.parametrize("stop", ["time limit", "stop"])
def test_a_task_that_ended_in_an_executors_queue_never_runs(
    stop: str, broker: Broker, new_runner: NewRunner
) -> None:
    ran: list[Task] = []
    go_on, busy = threading.Event(), threading.Event()

    def hold() -> None:
        busy.set()
        assert go_on.wait(LIMIT)

    with ThreadPoolExecutor(1) as executor:
        runner = new_runner(executor=executor, capacity=2, task_timeout=0.2 if stop == "time limit" else 60)
        runner.task("late")(ran.append)
        with runner:
            executor.submit(hold)
            assert busy.wait(LIMIT)
            late = broker.submit("late", {}, timeout=LIMIT)
            wait_until(lambda: runner.snapshot().tasks)
            if stop == "stop":
                runner.stop(0)
            with pytest.raises(BrokerTaskError):
                late.result(LIMIT)
            wait_until(lambda: runner.snapshot().taken == 0)
            go_on.set()
            assert executor.submit(lambda: "after it").result(LIMIT) == "after it"
    assert ran == []


def test_a_task_cancelled_before_it_is_submitted_never_runs() -> None:
    ran: list[Task] = []
    task = new_task()
    task.cancel("n8n said so")
    with ThreadPoolExecutor(1) as executor:
        for pool_executor in (None, executor):
            ends = Ends()
            with pool_of(pool_executor, capacity=1) as pool:
                pool.submit(ran.append, task, ends)
                ends.wait()
            assert ends.messages() == [{"message": "The task did not run: n8n said so"}]
    assert ran == []


def test_an_executor_that_cannot_cancel_does_not_run_a_cancelled_task() -> None:
    class Stubborn(Future):  # type: ignore[type-arg]
        def cancel(self) -> bool:
            raise NotImplementedError

    class Queueing(Custom):
        def submit(self, fn: Any, /, *args: Any, **options: Any) -> Future[Any]:
            if not self._warm:
                return super().submit(fn, *args, **options)
            kept.append(lambda: fn(*args, **options))
            return Stubborn()

    kept: list[Callable[[], Any]] = []
    ran: list[Task] = []
    ends = Ends()
    with pool_of(Queueing(lambda *dropped: None)) as pool:
        task = new_task()
        pool.submit(ran.append, task, ends)
        task.cancel("n8n said so")
        ends.wait()
        kept[0]()
    assert ran == []
    assert ends.messages() == [{"message": "The task did not run: n8n said so"}]


def test_a_task_whose_time_limit_passed_in_a_process_pools_queue_never_runs(
    tmp_path: Path, tracker: None, broker: Broker, new_runner: NewRunner
) -> None:
    """A process pool counts the task as running as soon as it is in its pipe."""
    trace = tmp_path / "trace"
    with new_processes() as executor:
        runner = new_runner(executor=executor, capacity=2, task_timeout=0.5)
        runner.task("sleep")(handlers.sleeps)
        runner.task("touch")(handlers.touch)
        with runner:
            first = broker.submit("sleep", {"seconds": 1.0}, timeout=LIMIT)
            wait_until(lambda: len(runner.snapshot().tasks) == 1)
            late = broker.submit("touch", {"path": str(trace)}, timeout=LIMIT)
            for task in (first, late):
                with pytest.raises(BrokerTaskError, match="timed out"):
                    task.result(LIMIT)
            wait_until(lambda: runner.snapshot().taken == 0)
    assert not trace.exists()


def test_a_task_cancelled_in_a_process_pools_queue_never_runs(
    tmp_path: Path,
    tracker: None,
    broker: Broker,
    new_runner: NewRunner,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "n8nrunner.tasks")
    traces = [tmp_path / str(number) for number in range(4)]
    with new_processes() as executor:
        runner = new_runner(executor=executor, capacity=5)
        runner.task("sleep")(handlers.sleeps)
        runner.task("touch")(handlers.touch)
        with runner:
            first = broker.submit("sleep", {"seconds": 1.0}, timeout=LIMIT)
            wait_until(lambda: len(runner.snapshot().tasks) == 1)
            late = []
            for number, trace in enumerate(traces, 2):
                late.append(broker.submit("touch", {"path": str(trace)}, timeout=LIMIT))
                wait_until(lambda count=number: len(runner.snapshot().tasks) == count)
            late[-1].cancel()  # the first of them are in the pool's pipe, out of reach
            wait_until(lambda: len(runner.snapshot().tasks) == 4)
            first.result(LIMIT)
            for task in late[:-1]:
                task.result(LIMIT)
    assert [trace.exists() for trace in traces] == [True, True, True, False]
    assert caplog.text.count(" did not run: ") == 1


@pytest.mark.parametrize(("workers", "warns"), [(1, True), (3, False)])
def test_warns_of_an_executor_smaller_than_the_capacity(
    workers: int, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with ThreadPoolExecutor(workers) as executor, caplog.at_level(logging.WARNING), pool_of(executor, 3):
        assert ("runs 1 tasks at once, but the capacity is 3" in caplog.text) is warns


# --- the context of a task -------------------------------------------------------------------------------

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@pytest.mark.parametrize("own", [True, False])
def test_each_task_runs_in_a_fresh_copy_of_the_context_of_the_start(own: bool) -> None:
    def handler(task: Task) -> Any:
        found = [variable.get(), decimal.getcontext().prec]
        variable.set("left by a task")
        decimal.getcontext().prec = 3
        return found

    def in_context() -> tuple[TaskPool, contextvars.Context]:
        variable.set("set before the start")
        decimal.setcontext(decimal.Context(prec=50))
        pool = TaskPool(None if own else executor, 1, Hooks(), 1000, Silent())
        pool.warm_up()
        return pool, contextvars.copy_context()

    with ThreadPoolExecutor(1) as executor:
        pool, context = contextvars.copy_context().run(in_context)
        try:
            for _ in range(3):
                assert run(pool, handler) == ["set before the start", 50]
            assert context[variable] == "set before the start"
            assert variable.get() == "unset"
        finally:
            pool.shut_down()
            assert pool.join(Deadline(LIMIT)) == []


def test_each_callback_runs_in_a_fresh_copy_of_the_context_of_the_start() -> None:
    found: list[Any] = []

    def callback(result: Any) -> None:
        found.append((variable.get(), decimal.getcontext().prec))
        variable.set("left by a callback")
        decimal.getcontext().prec = 3

    def in_context() -> Callbacks:
        variable.set("set before the start")
        decimal.setcontext(decimal.Context(prec=50))
        return Callbacks(Hooks(None, callback), lambda error: None)

    callbacks = contextvars.copy_context().run(in_context)
    callbacks.thread.start()
    for number in range(2):
        callbacks.put("undelivered", Undelivered(str(number), "tests", "http://n8n", None, False, True))
    callbacks.end()
    callbacks.thread.join(LIMIT)
    assert found == [("set before the start", 50)] * 2


def test_a_runner_takes_the_context_of_its_start(broker: Broker, new_runner: NewRunner) -> None:
    runner = new_runner(capacity=1)

    @runner.task("context")
    def context(task: Task) -> str:
        found = variable.get()
        variable.set("left by a task")
        return found

    token = variable.set("of the program")
    try:
        runner.start()
    finally:
        variable.reset(token)
    assert [broker.run_task("context", {}, timeout=LIMIT) for _ in range(2)] == ["of the program"] * 2


# --- memory ----------------------------------------------------------------------------------------------


class Large:
    """Something that JSON cannot represent."""


@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: [{"json": {"x": value}}] * 100])
def test_keeps_no_reference_to_a_result_that_is_not_json(wrap: Callable[[Any], Any]) -> None:
    alive: list[weakref.ref[Large]] = []

    def handler(task: Task) -> Any:
        value = Large()
        alive.append(weakref.ref(value))
        return wrap(value)

    def fails(task: Task) -> Any:
        value = Large()
        alive.append(weakref.ref(value))
        raise ValueError("with a large variable in its frame")

    gc.collect()
    gc.disable()
    try:
        with pool_of(capacity=1) as pool:
            for failing in (handler, fails):
                assert run(pool, failing)["message"]
                assert run(pool, handlers.echo, 1) == 1  # the thread has forgotten the task before
            assert [ref() for ref in alive] == [None, None]
    finally:
        gc.enable()
