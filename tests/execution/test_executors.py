"""Executors that break: the caller's own ends the runner, one that the runner has made is replaced."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from math import inf
from typing import Any, Callable

import pytest

from n8nrunner import ConfigurationError, ExecutorBroken, Runner, Task
from n8nrunner.broker import Broker, BrokerTaskError
from n8nrunner.execution import executors
from n8nrunner.execution.pools import TaskPool
from n8nrunner.hooks import Hooks
from tests.conftest import LIMIT, TOKEN, engine_of, new_processes, wait_until
from tests.execution import handlers
from tests.execution.test_pools import Custom, Ends, new_task, run

NewRunner = Callable[..., Runner]


@pytest.fixture(autouse=True)
def replaced_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "FIRST_DELAY", 0.01)


class Breakable(ThreadPoolExecutor):
    """Threads that a test can break, as a process that dies breaks a process pool."""

    def __init__(self, accepts: float = inf) -> None:
        super().__init__(2, thread_name_prefix="breakable")
        self.is_broken = False
        self.accepts = accepts
        self.submitted = 0
        self.shut_down = False

    def submit(self, fn: Any, /, *args: Any, **options: Any) -> Future[Any]:
        self.submitted += 1
        if self.is_broken or self.submitted > self.accepts:
            raise BrokenExecutor("a worker died")
        return super().submit(fn, *args, **options)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.shut_down = True
        super().shutdown(wait, cancel_futures=cancel_futures)


class Listener:
    """Records whether the pool wants tasks to be offered."""

    def __init__(self) -> None:
        self.offering: list[bool] = []
        self.errors: list[ExecutorBroken] = []

    def set_offering(self, wanted: bool) -> None:
        self.offering.append(wanted)

    def executor_broken(self, error: ExecutorBroken) -> None:
        self.errors.append(error)


@contextlib.contextmanager
def pool_with(make: Callable[[], Executor], listener: Listener) -> Iterator[TaskPool]:
    """A pool whose executors a function makes. Its factory must not wait at the end."""
    pool = TaskPool(make, 2, Hooks(), 1_000_000, listener)
    pool.warm_up()
    try:
        yield pool
    finally:
        pool.shut_down()


def status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=LIMIT) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


# --- the caller's -------------------------------------------------------------------------------------------


def test_a_runner_ends_when_its_executor_breaks_and_another_runner_gets_the_tasks(
    broker: Broker, new_runner: NewRunner, caplog: pytest.LogCaptureFixture
) -> None:
    with Breakable() as executor:
        runner = new_runner(executor=executor, health_check_enabled=True, health_check_port=0)
        runner.task("echo")(handlers.echo)
        other = new_runner()
        other.task("echo")(handlers.echo)
        ended: list[BaseException] = []

        def serve() -> None:
            try:
                runner.run()
            except ExecutorBroken as error:
                ended.append(error)

        thread = threading.Thread(target=serve)
        thread.start()
        wait_until(lambda: runner.is_registered)
        assert broker.run_task("echo", 1, timeout=LIMIT) == 1
        executor.is_broken = True
        with pytest.raises(BrokerTaskError, match="ExecutorBroken"):
            broker.run_task("echo", 2, timeout=LIMIT)
        thread.join(LIMIT)
        assert [type(error) for error in ended] == [ExecutorBroken]
        assert runner.error is ended[0]
        assert runner.state == "failed"
        assert runner.snapshot().counts.failed == 1
        assert not executor.shut_down
        with other:
            assert [broker.run_task("echo", number, timeout=LIMIT) for number in range(3)] == [0, 1, 2]
    assert "The runner ends: the executor runs no tasks" in caplog.text


def test_a_pool_whose_initializer_fails_ends_the_runner(broker: Broker, new_runner: NewRunner) -> None:
    begins = threading.Semaphore(1)  # the first thread succeeds

    def initialize() -> None:
        if not begins.acquire(blocking=False):
            raise OSError("the model cannot be loaded")

    with ThreadPoolExecutor(2, initializer=initialize) as executor:
        runner = new_runner(executor=executor, capacity=2)
        both = threading.Barrier(2)
        runner.task("both")(lambda task: both.wait(1.0))
        with runner:
            for task in [broker.submit("both", {}, timeout=LIMIT) for _ in range(2)]:
                with pytest.raises(BrokerTaskError):
                    task.result(LIMIT)
            assert wait_until(lambda: runner.state == "failed")
            assert isinstance(runner.error, ExecutorBroken)


def test_an_executor_whose_owner_has_shut_it_down_ends_the_runner(
    broker: Broker, new_runner: NewRunner
) -> None:
    executor = ThreadPoolExecutor(1)
    runner = new_runner(executor=executor, capacity=1)
    runner.task("echo")(handlers.echo)
    with runner:
        executor.shutdown()
        with pytest.raises(BrokerTaskError, match="ExecutorBroken"):
            broker.run_task("echo", 1, timeout=LIMIT)
        assert wait_until(lambda: runner.state == "failed")


def test_an_executor_that_refuses_three_tasks_in_a_row_is_broken(
    broker: Broker, new_runner: NewRunner
) -> None:
    class Refusing(ThreadPoolExecutor):
        refuses = 0

        def submit(self, fn: Any, /, *args: Any, **options: Any) -> Future[Any]:
            if self.refuses > 0:
                self.refuses -= 1
                raise ConnectionError("no worker left")
            return super().submit(fn, *args, **options)

    with Refusing(1) as executor:
        runner = new_runner(executor=executor, capacity=1)
        runner.task("echo")(handlers.echo)
        with runner:
            for refusals in (2, 2):
                executor.refuses = refusals
                for _ in range(refusals):
                    with pytest.raises(BrokerTaskError, match="ExecutorBroken"):
                        broker.run_task("echo", 1, timeout=LIMIT)
                assert broker.run_task("echo", 1, timeout=LIMIT) == 1
            assert runner.state == "running"
            executor.refuses = 3
            for _ in range(3):
                with pytest.raises(BrokerTaskError, match="ExecutorBroken"):
                    broker.run_task("echo", 1, timeout=LIMIT)
            assert wait_until(lambda: runner.state == "failed")


# --- made by a function of the caller's ---------------------------------------------------------------------


def test_an_executor_made_by_a_function_is_replaced_when_it_breaks_and_shut_down_at_the_end(
    broker: Broker, new_runner: NewRunner
) -> None:
    made: list[Breakable] = []
    may_go_on = threading.Event()

    def make() -> Executor:
        if made:
            assert may_go_on.wait(LIMIT)
        made.append(Breakable())
        return made[-1]

    runner = new_runner(executor=make, capacity=2, health_check_enabled=True, health_check_port=0)
    runner.task("name")(lambda task: threading.current_thread().name)
    with runner:
        health = engine_of(runner)._health
        assert health is not None
        ready = "http://{}:{}/readyz".format(*health.address)
        assert broker.run_task("name", {}, timeout=LIMIT).startswith("breakable")
        assert status_of(ready) == 200
        made[0].is_broken = True
        waiting = broker.submit("name", {}, timeout=LIMIT)  # for the next executor
        wait_until(lambda: runner.snapshot().links[0].state == "paused")
        assert status_of(ready) == 503
        later = broker.submit("name", {}, timeout=LIMIT)  # nothing is offered
        assert runner.error is None
        may_go_on.set()
        for task in (waiting, later):
            assert task.result(LIMIT).startswith("breakable")
        assert len(made) == 2
        assert made[0].shut_down
        assert not made[1].shut_down
        assert runner.snapshot().links[0].state == "registered"
        assert status_of(ready) == 200
        assert runner.snapshot().counts.failed == 0
    assert made[1].shut_down
    with runner:  # a new start makes a new one
        assert broker.run_task("name", {}, timeout=LIMIT).startswith("breakable")
    assert len(made) == 3
    assert made[2].shut_down


def test_a_task_that_waits_for_the_next_executor_can_be_cancelled(
    broker: Broker, new_runner: NewRunner
) -> None:
    made: list[Breakable] = []
    may_go_on = threading.Event()
    ran: list[Task] = []

    def make() -> Executor:
        if made:
            assert may_go_on.wait(LIMIT)
        made.append(Breakable())
        return made[-1]

    runner = new_runner(executor=make, capacity=1)
    runner.task("late")(ran.append)
    runner.task("echo")(handlers.echo)
    with runner:
        made[0].is_broken = True
        late = broker.submit("late", {}, timeout=LIMIT)
        wait_until(lambda: runner.snapshot().tasks)
        late.cancel()
        wait_until(lambda: runner.snapshot().taken == 0)
        may_go_on.set()
        assert broker.run_task("echo", 1, timeout=LIMIT) == 1
    assert ran == []


def test_a_replacement_that_fails_is_tried_again(
    broker: Broker, new_runner: NewRunner, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[Any] = []

    def make() -> Any:
        made.append(Breakable())
        if len(made) == 2:
            raise OSError("no memory for processes")
        if len(made) == 3:
            return "not an executor"
        if len(made) == 4:
            made[-1].is_broken = True
        return made[-1]

    runner = new_runner(executor=make, capacity=1)
    runner.task("echo")(handlers.echo)
    with runner:
        made[0].is_broken = True
        assert broker.run_task("echo", 7, timeout=LIMIT) == 7
    assert len(made) == 5
    for text in ("raised OSError", "returned str, expected", "runs nothing: BrokenExecutor"):
        assert text in caplog.text
    for executor in made[1:3]:
        executor.shutdown()


def test_a_stop_while_an_executor_is_replaced_ends_everything(broker: Broker, new_runner: NewRunner) -> None:
    made: list[Breakable] = []
    making, may_go_on = threading.Event(), threading.Event()

    def make() -> Executor:
        if made:
            making.set()
            assert may_go_on.wait(LIMIT)
        made.append(Breakable())
        return made[-1]

    runner = new_runner(executor=make, capacity=1)
    runner.task("echo")(handlers.echo)
    runner.start()
    made[0].is_broken = True
    waiting = broker.submit("echo", 1, timeout=LIMIT)
    wait_until(lambda: runner.snapshot().links[0].state == "paused")
    wait_until(lambda: runner.snapshot().tasks)
    assert making.wait(LIMIT)
    runner.stop(0)
    with pytest.raises(BrokerTaskError):
        waiting.result(LIMIT)
    wait_until(lambda: runner.state == "stopped")
    assert runner.snapshot().tasks == ()
    may_go_on.set()
    wait_until(lambda: len(made) == 2 and made[1].shut_down)


def test_tasks_wait_without_a_loop_when_their_next_executor_breaks_too() -> None:
    made: list[Breakable] = []
    may_go_on = threading.Event()

    def make() -> Executor:
        if len(made) == 2:
            assert may_go_on.wait(LIMIT)
        made.append(Breakable(accepts=1 if len(made) == 1 else inf))
        return made[-1]

    def replacing() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name == "n8nrunner-executor"]

    listener, ends = Listener(), Ends()
    with pool_with(make, listener) as pool:
        made[0].is_broken = True
        try:
            for number in range(2):
                pool.submit(handlers.echo, new_task(number), ends)
            wait_until(lambda: listener.offering[2:])
            assert listener.offering == [False, True, False]
            wait_until(lambda: len(replacing()) == 1)  # the thread that had replaced the first one has ended
            assert made[1].submitted == 2  # the first function, and one task
        finally:
            may_go_on.set()
        ends.wait(2)
        assert sorted(ends.messages()) == [0, 1]
        wait_until(lambda: listener.offering == [False, True, False, True])
    assert listener.errors == []


def test_tasks_wait_for_the_next_executor_while_the_break_is_still_being_logged() -> None:
    made: list[Breakable] = []
    logging_it, may_go_on = threading.Event(), threading.Event()

    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("The executor is broken"):
                logging_it.set()
                assert may_go_on.wait(LIMIT)

    def make() -> Executor:
        made.append(Breakable())
        return made[-1]

    handler, ends = Slow(), Ends()
    with pool_with(make, Listener()) as pool:
        made[0].is_broken = True
        first = threading.Thread(target=pool.submit, args=(handlers.echo, new_task(1), ends))
        logging.getLogger("n8nrunner.tasks").addHandler(handler)
        try:
            first.start()
            assert logging_it.wait(LIMIT)
            pool.submit(handlers.echo, new_task(2), ends)
            assert made[0].submitted == 2  # the first function, and the task that broke it
        finally:
            may_go_on.set()
            first.join()
            logging.getLogger("n8nrunner.tasks").removeHandler(handler)
        ends.wait(2)
    assert sorted(ends.messages()) == [1, 2]


def test_a_late_failure_of_an_executor_that_was_replaced_long_ago_breaks_nothing() -> None:
    kept: list[Future[Any]] = []

    def keep_one(future: Future[Any], call: Callable[[], Any]) -> None:
        if kept:
            raise BrokenExecutor("a worker died")
        kept.append(future)

    def refuse(future: Future[Any], call: Callable[[], Any]) -> None:
        raise BrokenExecutor("a worker died")

    third = Breakable()
    unused = iter([Custom(keep_one), Custom(refuse), third])
    listener, ends = Listener(), Ends()
    with pool_with(lambda: next(unused), listener) as pool:
        pool.submit(handlers.echo, new_task(1), ends)
        pool.submit(handlers.echo, new_task(2), ends)
        ends.wait()
        assert ends.messages() == [2]
        kept[0].set_exception(BrokenExecutor("another worker died"))
        ends.wait()
        assert run(pool, handlers.echo, 3) == 3
        assert not third.shut_down
        assert listener.offering == [False, True, False, True]


@pytest.mark.parametrize("make", [lambda: 5, lambda: 1 / 0])
def test_start_raises_if_the_function_does_not_return_an_executor(
    make: Callable[[], Any], broker: Broker, new_runner: NewRunner
) -> None:
    runner = new_runner(executor=make)
    with pytest.raises(ExecutorBroken, match="the function for the executor"):
        runner.start()
    assert runner.state == "new"


def test_an_executor_class_counts_as_a_function_that_makes_executors(
    broker: Broker, new_runner: NewRunner
) -> None:
    runner = new_runner(executor=ThreadPoolExecutor)
    runner.task("echo")(handlers.echo)
    with runner:
        assert broker.run_task("echo", 1, timeout=LIMIT) == 1


def test_refuses_an_executor_without_submit() -> None:
    with pytest.raises(ConfigurationError, match="or a function that makes one, got 5"):
        Runner(auth_token=TOKEN, executor=5)  # type: ignore[arg-type]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_a_process_pool_whose_process_dies_is_replaced(
    broker: Broker, new_runner: NewRunner, tracker: None
) -> None:
    runner = new_runner(executor=new_processes, capacity=1)
    runner.task("killed")(handlers.is_killed)
    runner.task("process")(handlers.process)
    with runner:
        first = broker.run_task("process", {}, timeout=LIMIT)["process"]
        with pytest.raises(BrokerTaskError, match="ExecutorBroken"):
            broker.run_task("killed", {}, timeout=LIMIT)
        second = broker.run_task("process", {}, timeout=LIMIT)["process"]
        assert len({first, second, os.getpid()}) == 3
        assert runner.state == "running"
