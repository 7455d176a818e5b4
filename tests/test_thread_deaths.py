"""Faults on the runner's own threads: they end one connection, or the runner says that it has failed."""

from __future__ import annotations

import ctypes
import errno
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from n8nrunner import Runner, RunnerFailed, Task, TaskCancelled, Undelivered
from n8nrunner.broker import Broker
from n8nrunner.callbacks import Callbacks
from n8nrunner.connection import attempt
from n8nrunner.connection.loop import LinkThread
from n8nrunner.hooks import Hooks
from n8nrunner.protocol import link, retry
from n8nrunner.protocol.events import AttemptFailed, BrokerProbed, ConnectionOpened, SlotFreed
from tests.conftest import LIMIT, TOKEN, engine_of, wait_until
from tests.processes import python
from tests.test_misbehaving_brokers import RawBroker

NewRunner = Callable[..., Runner]


class Waiting:
    """A handler that waits until it is cancelled."""

    def __init__(self) -> None:
        self.running = threading.Event()
        self.cancelled = threading.Event()

    def __call__(self, task: Task) -> None:
        self.running.set()
        if task.wait_for_cancel(LIMIT):
            self.cancelled.set()


class Fault:
    """Raises an error in place of a function, as often as it is told to.

    With `kind`, only calls whose first argument is of that type raise.
    """

    def __init__(self, function: Any, error: BaseException, times: int = 1, kind: type | None = None) -> None:
        self.function = function
        self.error = error
        self.left = times
        self.kind = kind

    def __call__(self, *args: Any, **options: Any) -> Any:
        if self.left and (self.kind is None or type(args[0]) is self.kind):
            self.left -= 1
            raise self.error
        return self.function(*args, **options)


@pytest.fixture
def raising_handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[type[BaseException]], None]]:
    """Adds a log handler and a filter that raise on the runner's threads, whichever library logs there."""
    added: list[logging.Handler] = []
    loggers = [logging.getLogger(name) for name in (None, "n8nrunner", "n8nrunner.tasks")]
    before = [(logger.level, list(logger.filters)) for logger in loggers]

    def add(error: type[BaseException]) -> None:
        class Raising(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                name = threading.current_thread().name
                if name.startswith("n8nrunner") and name != "n8nrunner-broker":
                    raise error("of the application's log handler")

        added.append(Raising())
        for logger in loggers:
            logger.setLevel(logging.DEBUG)
            logger.addHandler(added[-1])
            logger.addFilter(added[-1].emit)  # type: ignore[arg-type]

    monkeypatch.setattr(logging, "raiseExceptions", False)  # its report on stderr would be long
    yield add
    for logger, (level, filters) in zip(loggers, before):
        logger.setLevel(level)
        logger.filters[:] = filters
        for handler in added:
            logger.removeHandler(handler)


def serving(runner: Runner) -> LinkThread:
    return engine_of(runner)._link_thread


def wake(runner: Runner) -> None:
    """Let the links' thread run another iteration."""
    thread = serving(runner)
    for one in thread.links:
        thread.inbox.post(one, SlotFreed())


# --- faults that one connection survives or pays for ----------------------------------------------------


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_log_handlers_that_raise_end_no_thread(
    broker: Broker,
    new_runner: NewRunner,
    raising_handlers: Callable[[type[BaseException]], None],
    error: type[BaseException],
) -> None:
    runner = new_runner()
    waiting = Waiting()
    runner.task("wait")(waiting)

    @runner.task("fail")
    def fail(task: Task) -> None:
        raise ValueError("of the handler")

    runner.start()
    raising_handlers(error)
    broker.submit("fail", {})
    broker.submit("wait", {})
    assert waiting.running.wait(LIMIT)
    broker.kill()  # logged: the lost connection, the undelivered result, every failed attempt
    wait_until(lambda: runner.snapshot().links[0].failures > 1)
    assert waiting.cancelled.wait(LIMIT)
    broker.start()
    assert runner.wait_registered(LIMIT)
    assert runner.state == "running"
    wait_until(lambda: runner.snapshot().taken == 0)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), SystemExit()])
@pytest.mark.parametrize("method", ["register", "unregister"])
def test_a_fault_of_the_selector_ends_one_connection(
    broker: Broker, new_runner: NewRunner, monkeypatch: pytest.MonkeyPatch, method: str, error: BaseException
) -> None:
    broker.kill()
    runner = new_runner()
    runner.task("echo")(lambda task: task.settings)
    runner.start(wait=0)
    selector = serving(runner)._selector
    fault = Fault(getattr(selector, method), error)
    monkeypatch.setattr(selector, method, fault)
    monkeypatch.setattr(link, "DEFECT_PAUSE", 0.01)
    broker.start()
    assert runner.wait_registered(LIMIT)
    broker.kill()
    wait_until(lambda: not runner.is_registered)
    broker.start()
    assert runner.wait_registered(LIMIT)
    assert fault.left == 0
    assert broker.run_task("echo", 1, timeout=LIMIT) == 1


@pytest.mark.parametrize("error", [RuntimeError("a defect"), SystemExit()])
@pytest.mark.parametrize(
    "step", [ConnectionOpened, AttemptFailed, BrokerProbed, "end", "settle", "written", "read"]
)
def test_a_link_connects_again_after_a_fault_in_any_step(
    broker: Broker,
    new_runner: NewRunner,
    monkeypatch: pytest.MonkeyPatch,
    step: type | str,
    error: BaseException,
) -> None:
    monkeypatch.setattr(link, "DEFECT_PAUSE", 0.01)
    runner = new_runner()
    runner.task("echo")(lambda task: task.settings)
    runner.start()
    one = serving(runner).links[0]
    machine = one.machine
    if isinstance(step, type):
        fault = Fault(machine.handle, error, kind=step)
        monkeypatch.setattr(machine, "handle", fault)
    elif step == "end":
        # The session has handled the end of the connection; the fault comes after it.
        fault = Fault(machine.retry.note_ended, error)
        monkeypatch.setattr(machine.retry, "note_ended", fault)
    else:
        owner = machine if step == "written" else one
        fault = Fault(getattr(owner, step), error)
        monkeypatch.setattr(owner, step, fault)
    broker.kill()
    wait_until(lambda: not runner.is_registered)
    if step in (AttemptFailed, BrokerProbed):
        wait_until(lambda: fault.left == 0)
    broker.start()
    assert runner.wait_registered(LIMIT)
    assert broker.run_task("echo", 1, timeout=LIMIT) == 1
    assert fault.left == 0
    assert runner.state == "running"


@pytest.mark.parametrize("error", [RuntimeError("Bearer secret-text"), SystemExit("Bearer secret-text")])
@pytest.mark.parametrize("place", ["probe", "log-in", "dial", "upgrade"])
def test_every_attempt_posts_an_outcome(
    broker: Broker,
    new_runner: NewRunner,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    place: str,
    error: BaseException,
) -> None:
    runner = new_runner()
    runner.task("echo")(lambda task: task.settings)
    runner.start()
    where, name = {
        "probe": (attempt.auth, "why_unhealthy"),
        "log-in": (attempt.auth, "fetch_grant"),
        "dial": (attempt, "dial"),
        "upgrade": (attempt.Connection, "open"),
    }[place]
    monkeypatch.setattr(retry, "LOG_INTERVAL", 0.0)
    fault = Fault(getattr(where, name), error)
    with caplog.at_level(logging.WARNING, "n8nrunner"):
        if place == "upgrade":
            monkeypatch.setattr(where, name, lambda self, *args: fault(self, *args))
        else:
            monkeypatch.setattr(where, name, fault)
        broker.kill()
        if place == "probe":
            wait_until(lambda: fault.left == 0)
        else:
            wait_until(lambda: runner.snapshot().links[0].failures > 0)
        broker.start()
        assert runner.wait_registered(LIMIT)
    assert fault.left == 0
    assert f"failed with {type(error).__name__}" in caplog.text
    assert "Bearer" not in caplog.text
    assert "defect" not in caplog.text


def test_a_program_that_forbids_sockets_for_a_while_gets_its_link_back(
    broker: Broker, new_runner: NewRunner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class SocketBlockedError(RuntimeError):
        pass

    class Blocked(socket.socket):
        def __new__(cls, *args: Any, **options: Any) -> Any:
            raise SocketBlockedError("A test tried to use socket.socket.")

    monkeypatch.setattr(retry, "LOG_INTERVAL", 0.0)
    runner = new_runner()
    runner.task("echo")(lambda task: task.settings)
    runner.start()
    broker.kill()
    wait_until(lambda: not runner.is_registered)
    with caplog.at_level(logging.WARNING, "n8nrunner"), monkeypatch.context() as patch:
        patch.setattr(socket, "socket", Blocked)
        wait_until(lambda: "SocketBlockedError" in (runner.snapshot().links[0].last_error or ""))
        failures = runner.snapshot().links[0].failures
        wait_until(lambda: runner.snapshot().links[0].failures > failures + 1)
    assert "SocketBlockedError" in caplog.text
    broker.start()
    assert runner.wait_registered(LIMIT)


def test_an_executor_that_raises_anything_fails_one_task(broker: Broker, new_runner: NewRunner) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as executor:
        runner = new_runner(executor=executor)
        runner.task("echo")(lambda task: task.settings)
        runner.start()
        executor.submit = Fault(executor.submit, SystemExit())  # type: ignore[method-assign]
        with pytest.raises(Exception, match="did not run the task"):
            broker.run_task("echo", 1, timeout=LIMIT)
        assert broker.run_task("echo", 2, timeout=LIMIT) == 2
        assert runner.snapshot().taken == 0
        runner.stop()


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), ValueError("of the callback")])
def test_no_exception_of_on_undelivered_ends_its_thread(
    broker: Broker, new_runner: NewRunner, error: BaseException
) -> None:
    results: list[Undelivered] = []

    def report(result: Undelivered) -> None:
        results.append(result)
        raise error

    runner = new_runner(on_undelivered=report)
    waiting = Waiting()
    runner.task("wait")(waiting)
    runner.start()
    for count in (1, 2):
        waiting.running.clear()
        broker.submit("wait", {})
        assert waiting.running.wait(LIMIT)
        broker.kill()
        wait_until(lambda count=count: len(results) == count)  # type: ignore[misc]
        broker.start()
        assert runner.wait_registered(LIMIT)
    assert runner.state == "running"


# --- deaths ---------------------------------------------------------------------------------------------


def break_turns(runner: Runner) -> None:
    thread = serving(runner)
    thread._run_once = Fault(thread._run_once, SystemExit("of the test"))  # type: ignore[method-assign]
    wake(runner)


def close_the_selector(runner: Runner) -> None:
    """As a program does that calls `os.closerange`."""
    serving(runner)._selector.close()
    wake(runner)


def break_a_loss(runner: Runner) -> None:
    one = serving(runner).links[0]
    session = one.machine.session
    session.handle = Fault(session.handle, RuntimeError("of the test"), 1000)  # type: ignore[method-assign]
    wake(runner)


def raise_in(thread: threading.Thread) -> None:
    assert thread.ident is not None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))


@pytest.mark.parametrize("how", [break_turns, close_the_selector, break_a_loss])
def test_a_dead_links_thread_is_a_failed_runner(
    broker: Broker,
    new_runner: NewRunner,
    caplog: pytest.LogCaptureFixture,
    how: Callable[[Runner], None],
) -> None:
    runner = new_runner(health_check_enabled=True, health_check_port=0, on_undelivered=lambda result: None)
    waiting = Waiting()
    runner.task("wait")(waiting)
    runner.start()
    broker.submit("wait", {})
    assert waiting.running.wait(LIMIT)
    with caplog.at_level(logging.ERROR, "n8nrunner"):
        how(runner)
        with pytest.raises(
            RunnerFailed, match="n8nrunner-links ended because of an unexpected error"
        ) as raised:
            runner.join(LIMIT)
        assert waiting.cancelled.wait(LIMIT)
    assert raised.value.__cause__ is not None
    assert "of the test" not in str(raised.value)  # no exception's own text
    assert runner.state == "failed"
    assert runner.error is raised.value
    assert runner.snapshot().links[0].state in ("closed", "registered")
    assert "The runner has failed" in caplog.text
    wait_until(lambda: broker.counts.runners == 0)
    with pytest.raises(RunnerFailed):
        runner.wait_registered(0)
    runner.stop()
    runner.start()
    assert runner.state == "running"


def error_of_a_call(broker: Broker, runner: Runner, before: Callable[[], object]) -> BaseException:
    """Return the one error of a handler's call to n8n. The handler calls `before` first."""
    raised: list[BaseException] = []
    ended = threading.Event()

    @runner.task("ask")
    def ask(task: Task) -> None:
        before()
        try:
            task.rpc("helpers.httpRequest", {})
        except BaseException as error:
            raised.append(error)
        ended.set()

    runner.start()
    broker.submit("ask", {})
    assert ended.wait(LIMIT)
    assert len(raised) == 1
    return raised[0]


def test_a_handler_in_a_call_is_told_when_the_links_thread_dies(
    broker: Broker, new_runner: NewRunner
) -> None:
    runner = new_runner()
    error_of_a_call(broker, runner, lambda: break_turns(runner))


def test_a_call_that_comes_too_late_for_the_links_thread_ends(
    broker: Broker, new_runner: NewRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = new_runner()
    send = Task._send

    def send_late(self: Task, *arguments: Any) -> None:
        break_turns(runner)
        serving(runner).thread.join(LIMIT)
        send(self, *arguments)

    monkeypatch.setattr(Task, "_send", send_late)
    assert isinstance(error_of_a_call(broker, runner, lambda: None), TaskCancelled)


def test_a_dead_links_thread_is_exit_code_1(broker: Broker, tmp_path: Path) -> None:
    (tmp_path / "jobs.py").write_text(
        """
import threading
from n8nrunner import Runner
runner = Runner()

@runner.task("die")
def die(task):
    def raise_error(selector):
        raise OSError(9, "Bad file descriptor")
    runner._engine._link_thread._run_once = raise_error
    return "done"
"""
    )
    env = {"N8N_RUNNERS_TASK_BROKER_URI": broker.url, "N8N_RUNNERS_AUTH_TOKEN": TOKEN}
    with python("-m", "n8nrunner", "run", "jobs:runner", env=env, cwd=tmp_path) as program:
        program.wait_for("Registered")
        broker.submit("die", {})
        assert program.wait() == 1
        assert "The runner has failed: the thread n8nrunner-links ended" in program.output
        assert "OSError: [Errno 9] Bad file descriptor" in program.output


def test_a_program_that_closes_all_descriptors_is_exit_code_1(broker: Broker, tmp_path: Path) -> None:
    (tmp_path / "jobs.py").write_text(
        """
import os
from n8nrunner import Runner
runner = Runner(task_timeout=1)

@runner.task("close")
def close(task):
    os.closerange(3, 256)
    task.wait_for_cancel(20)
"""
    )
    env = {"N8N_RUNNERS_TASK_BROKER_URI": broker.url, "N8N_RUNNERS_AUTH_TOKEN": TOKEN}
    with python("-m", "n8nrunner", "run", "jobs:runner", env=env, cwd=tmp_path) as program:
        program.wait_for("Registered")
        broker.submit("close", {})
        assert program.wait() == 1
        assert "The runner has failed" in program.output


def test_a_dead_callbacks_thread_is_a_failed_runner(
    broker: Broker, new_runner: NewRunner, caplog: pytest.LogCaptureFixture
) -> None:
    runner = new_runner(on_undelivered=lambda result: None)
    waiting = Waiting()
    runner.task("wait")(waiting)
    runner.start()
    callbacks = engine_of(runner).callbacks
    callbacks._call = Fault(callbacks._call, SystemExit())  # type: ignore[method-assign]
    task = broker.submit("wait", {})
    assert waiting.running.wait(LIMIT)
    with caplog.at_level(logging.WARNING, "n8nrunner"):
        broker.kill()
        with pytest.raises(RunnerFailed, match="n8nrunner-callbacks ended"):
            runner.join(LIMIT)
        wait_until(lambda: f"The result of task {task.task_id} (wait) did not reach n8n" in caplog.text)
    assert runner.state == "failed"


def test_a_result_is_logged_if_the_callbacks_thread_ends_while_it_is_put(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class LateQueue:
        """Lets the thread end right before the second result is in the queue."""

        def __init__(self, queue: Any) -> None:
            self.get, self.get_nowait, self._put = queue.get, queue.get_nowait, queue.put

        def put(self, result: Any) -> None:
            if result.value is second:
                self._put(result._replace(value=first))
                callbacks.thread.join(LIMIT)
            self._put(result)

    first, second = (Undelivered(name, "tests", "http://n8n", None, False, True) for name in ("1st", "2nd"))
    failures: list[BaseException] = []
    callbacks = Callbacks(Hooks(None, lambda result: None), failures.append)
    callbacks._call = Fault(callbacks._call, SystemExit())  # type: ignore[method-assign]
    callbacks._queue = LateQueue(callbacks._queue)  # type: ignore[assignment]
    callbacks.start()
    callbacks.put("undelivered", second)
    assert not callbacks.thread.is_alive()
    assert len(failures) == 1
    for name in ("1st", "2nd"):
        assert caplog.text.count(f"The result of task {name} (tests) did not reach n8n") == 1


def test_a_dead_health_server_is_a_failed_runner(broker: Broker, new_runner: NewRunner) -> None:
    runner = new_runner(health_check_enabled=True, health_check_port=0)
    waiting = Waiting()
    runner.task("wait")(waiting)
    runner.start()
    health = engine_of(runner)._health
    assert health is not None
    raise_in(health.thread)
    with pytest.raises(RunnerFailed, match="n8nrunner-health ended"):
        runner.join(LIMIT)
    assert runner.state == "failed"


# --- a thread that does not rest ------------------------------------------------------------------------


def test_the_links_thread_rests_while_one_of_two_links_is_still_closing(
    new_runner: NewRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other broker is down, so its link is closed at once, and the stop's deadline is in the past."""
    turns: list[None] = []
    turn = LinkThread._run_once

    def counted(self: LinkThread, selector: Any) -> None:
        turns.append(None)
        turn(self, selector)

    with RawBroker() as raw, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        runner = new_runner([raw.url, f"http://127.0.0.1:{free.getsockname()[1]}"])
        runner.task("echo")(lambda task: task.settings)
        runner.start(wait=0)
        raw.next_peer().register()  # and does not answer the close frame
        assert runner.wait_registered(LIMIT)
        monkeypatch.setattr(LinkThread, "_run_once", counted)
        runner.stop(0)
        assert runner.join(LIMIT)
    assert len(turns) < 30


def test_a_call_on_the_links_thread_is_not_slept_through_while_wake_ups_are_cleared(
    broker: Broker, new_runner: NewRunner
) -> None:
    runner = new_runner()
    runner.task("echo")(lambda task: task.settings)
    runner.start()
    thread = serving(runner)
    clear, clears, called = thread.inbox.clear_wake_ups, threading.Semaphore(1), threading.Event()

    def call_first() -> None:
        if clears.acquire(blocking=False):
            calling = threading.Thread(target=thread.call, args=(called.set,))
            calling.start()
            calling.join(LIMIT)
        clear()

    thread.inbox.clear_wake_ups = call_first  # type: ignore[method-assign]
    thread.inbox.wake()
    assert called.wait(5), "the thread sleeps for up to a minute"
