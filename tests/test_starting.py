"""Starting and stopping: what a call has begun ends with it, and everything can be called again."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import selectors
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from linecache import getline
from pathlib import Path
from types import FrameType
from typing import Any, Callable

import pytest

import n8nrunner
from n8nrunner import (
    AuthenticationError,
    BrokerConnectionError,
    ExecutorBroken,
    N8nRunnerError,
    Runner,
    RunnerStopped,
)
from n8nrunner.broker import Broker
from n8nrunner.connection.loop import LinkThread
from n8nrunner.engine import Engine
from n8nrunner.execution.pools import TaskPool
from n8nrunner.health import HealthServer
from n8nrunner.lifecycle import Lifecycle, RunnerState
from n8nrunner.protocol import link
from n8nrunner.protocol.events import Event, TypesChanged
from tests.conftest import LIMIT, TOKEN, promptly, wait_until
from tests.connection.servers import Server
from tests.processes import python
from tests.test_thread_deaths import Waiting

NewRunner = Callable[..., Runner]
PACKAGE = os.path.dirname(n8nrunner.__file__)


def names_of_runner_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("n8nrunner-")]


def in_background(call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Run `call` on a thread; its result or its exception comes into the list."""
    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.append(call())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, outcome


# --- a start that raises --------------------------------------------------------------------------------


class ThreadFault:
    """Lets the system refuse threads with some names, or interrupts the call that starts them."""

    def __init__(self, name: str, interrupt: bool = False) -> None:
        self.name = name
        self.interrupt = interrupt
        self.start = threading.Thread.start

    def __call__(self, thread: threading.Thread) -> None:
        if not thread.name.startswith(self.name):
            self.start(thread)
        elif self.interrupt:
            self.start(thread)
            raise KeyboardInterrupt
        else:
            raise RuntimeError("can't start new thread")


def refuse_thread(name: str, interrupt: bool = False) -> Callable[[pytest.MonkeyPatch], None]:
    def refuse(patch: pytest.MonkeyPatch) -> None:
        fault = ThreadFault(name, interrupt)
        patch.setattr(threading.Thread, "start", lambda thread: fault(thread))

    return refuse


def raising(where: Any, name: str, error: BaseException) -> Callable[[pytest.MonkeyPatch], None]:
    def patch_it(patch: pytest.MonkeyPatch) -> None:
        def fail(*args: Any, **options: Any) -> None:
            raise error

        patch.setattr(where, name, fail)

    return patch_it


NO_DESCRIPTORS = OSError(errno.EMFILE, "Too many open files")


def interrupt_before_links(patch: pytest.MonkeyPatch) -> None:
    """Interrupt a start that has started all threads, before the links' thread has begun."""
    run = LinkThread._run

    def run_late(links: LinkThread) -> None:
        wait_until(links._start_token.locked)
        run(links)

    patch.setattr(LinkThread, "_run", run_late)
    raising(Runner, "_publish", KeyboardInterrupt())(patch)


STEPS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "no descriptors for the inbox": raising(socket, "socketpair", NO_DESCRIPTORS),
    "no descriptor for the selector": raising(selectors, "DefaultSelector", NO_DESCRIPTORS),
    "the selector takes nothing": raising(selectors.DefaultSelector, "register", NO_DESCRIPTORS),
    "the executor is broken": raising(TaskPool, "warm_up", ExecutorBroken("of the test")),
    "no thread for tasks": refuse_thread("n8nrunner-pool_3"),
    "Ctrl-C at a thread for tasks": refuse_thread("n8nrunner-pool_3", interrupt=True),
    "no port for health checks": raising(HealthServer, "__init__", OSError("of the test")),
    "no thread for health checks": refuse_thread("n8nrunner-health"),
    "no thread for callbacks": refuse_thread("n8nrunner-callbacks"),
    "no thread for links": refuse_thread("n8nrunner-links"),
    "Ctrl-C at the thread for health checks": refuse_thread("n8nrunner-health", interrupt=True),
    "Ctrl-C at the thread for callbacks": refuse_thread("n8nrunner-callbacks", interrupt=True),
    "Ctrl-C at the thread for links": refuse_thread("n8nrunner-links", interrupt=True),
    "Ctrl-C before the thread for links begins": interrupt_before_links,
    "Ctrl-C in the wait": raising(Engine, "wait_registered", KeyboardInterrupt()),
}
#: A start without a wait goes on without a health check server.
ONLY_WITH_A_WAIT = {"Ctrl-C in the wait", "no port for health checks", "no thread for health checks"}


@pytest.mark.parametrize(
    ("step", "wait"),
    [(step, wait) for step in STEPS for wait in (0, LIMIT) if wait or step not in ONLY_WITH_A_WAIT],
)
def test_nothing_runs_after_a_start_that_raised_and_all_can_be_called_again(
    broker: Broker, new_runner: NewRunner, monkeypatch: pytest.MonkeyPatch, step: str, wait: float
) -> None:
    before = names_of_runner_threads()
    runner = new_runner(health_check_enabled=True, health_check_port=0, on_undelivered=lambda result: None)
    runner.task("echo")(lambda task: task.settings)
    for state in ("new", "stopped"):
        with monkeypatch.context() as patch:
            STEPS[step](patch)
            with pytest.raises((OSError, RuntimeError, KeyboardInterrupt, ExecutorBroken)):
                runner.start(wait=wait)
        wait_until(lambda: set(names_of_runner_threads()) <= {*before, "n8nrunner-connect-0"})
        assert runner.state == ("stopped" if step == "Ctrl-C in the wait" else state)
        assert runner.error is None
        assert not runner.is_registered
        assert runner.wait_registered(0) is False
        runner.snapshot()
        runner.stop()
        assert runner.join(LIMIT)
        runner.start()
        assert broker.run_task("echo", state, timeout=LIMIT) == state
        runner.stop()


@pytest.mark.parametrize("step", ["no thread for links", "no descriptor for the selector"])
def test_run_raises_if_a_step_of_the_start_raises(
    broker: Broker, new_runner: NewRunner, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    runner = new_runner()
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        STEPS[step](patch)
        with pytest.raises((OSError, RuntimeError)):
            runner.run()
    assert runner.state == "new"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_start_that_finds_no_thread_leaves_no_trace_at_the_end_of_the_script(
    broker: Broker, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        """
import threading
from n8nrunner import Runner
start = threading.Thread.start

def refuse(thread):
    if thread.name == "n8nrunner-links":
        raise RuntimeError("can't start new thread")
    start(thread)

threading.Thread.start = refuse
runner = Runner()
runner.task("echo")(lambda task: task.settings)
try:
    runner.start()
except RuntimeError as error:
    print("raised:", error)
"""
    )
    env = {"N8N_RUNNERS_TASK_BROKER_URI": broker.url, "N8N_RUNNERS_AUTH_TOKEN": TOKEN}
    with python(str(script), env=env) as program:
        assert program.wait() == 0
    assert program.output == "raised: can't start new thread\n"


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_a_start_with_few_descriptors_raises_or_works(broker: Broker, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        """
import os, resource, socket, ssl, sys, threading
from n8nrunner import Runner
import n8nrunner.connection.attempt, n8nrunner.health
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
runner = Runner(health_check_enabled=True, health_check_port=0)

@runner.task("echo")
def echo(task):
    return task.settings

for left in range(8):
    used = []
    try:
        while True:
            used.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    for descriptor in used[:left]:
        os.close(descriptor)
    state = runner.state
    try:
        runner.start(wait=0)
    except Exception as error:
        assert runner.state == state, (runner.state, state)
        print(left, "raised", flush=True)
    else:
        print(left, "runs", flush=True)
    runner.stop(0)
    assert runner.join(5)
    for descriptor in used[left:]:
        os.close(descriptor)
    assert threading.active_count() < 3, threading.enumerate()
runner.start()
print("registered", flush=True)
"""
    )
    env = {"N8N_RUNNERS_TASK_BROKER_URI": broker.url, "N8N_RUNNERS_AUTH_TOKEN": TOKEN}
    with python(str(script), env=env) as program:
        program.wait_for("2 raised")
        program.wait_for("registered")
        assert program.wait() == 0
    assert "Traceback" not in program.output


def test_a_link_that_finds_no_thread_for_an_attempt_tries_again(
    broker: Broker, new_runner: NewRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = new_runner()
    with monkeypatch.context() as patch:
        refuse_thread("n8nrunner-connect")(patch)
        with pytest.raises(BrokerConnectionError, match="can't start new thread"):
            runner.start(wait=0.1)
        runner.start(wait=0)
        wait_until(lambda: runner.snapshot().links[0].failures > 1)
    assert runner.wait_registered(LIMIT)


# --- interrupts -----------------------------------------------------------------------------------------


class Interrupt:
    """Raises KeyboardInterrupt at the n-th line that the runner's own modules run on this thread."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Any:
        path = frame.f_code.co_filename
        if not path.startswith(PACKAGE):
            return None
        # The interpreter reports a `with` line again at the end of its block, before it calls `__exit__`. It
        # handles no signal there.
        if event == "line" and not getline(path, frame.f_lineno).lstrip().startswith("with "):
            self.left -= 1
            if self.left == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self

    @contextlib.contextmanager
    def armed(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self)
        try:
            yield
        finally:
            sys.settrace(before)


@pytest.mark.parametrize("how", ["start", "with"])
def test_an_interrupt_at_any_line_of_a_start_leaves_nothing_running(
    new_runner: NewRunner, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(Engine, "wait_registered", lambda *args, **options: True)
    before = names_of_runner_threads()
    line = 0
    runner = new_runner("http://127.0.0.1:1", on_undelivered=lambda result: None)
    while True:
        line += 1
        entered = False
        interrupt = Interrupt(line)
        try:
            with interrupt.armed():
                if how == "start":
                    runner.start()
                else:
                    with runner:
                        sys.settrace(None)
                        entered = True
        except KeyboardInterrupt:
            pass
        if interrupt.left > 0:
            break
        assert not entered
        assert runner.state in ("new", "stopped"), f"interrupted at line {line}"
        assert runner._latest is None or not runner._latest.lifecycle.is_alive
        allowed = {*before, "n8nrunner-connect-0"}
        wait_until(lambda allowed=allowed: set(names_of_runner_threads()) <= allowed)  # type: ignore[misc]
        runner.start()
        assert runner.state == "running"
        runner.stop()
        assert runner.state == "stopped"
    runner.stop()
    assert line > 50


# --- a start meets another one, or a stop ---------------------------------------------------------------


def test_a_start_during_an_outage_leaves_a_running_runner_alone(
    broker: Broker, new_runner: NewRunner
) -> None:
    runner = new_runner()
    waiting = Waiting()
    runner.task("wait")(waiting)
    runner.start()
    broker.kill()
    wait_until(lambda: not runner.is_registered)
    with pytest.raises(BrokerConnectionError, match="no broker has registered the runner within"):
        runner.start(wait=0.1)
    assert runner.state == "running"
    broker.start()
    assert runner.wait_registered(LIMIT)


def test_an_interrupted_second_start_leaves_a_running_runner_alone(
    broker: Broker, new_runner: NewRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = new_runner()
    runner.start()
    with monkeypatch.context() as patch:
        STEPS["Ctrl-C in the wait"](patch)
        with pytest.raises(KeyboardInterrupt):
            runner.start()
    assert runner.state == "running"
    assert runner.is_registered


@pytest.mark.parametrize("wait", [0, LIMIT])
def test_a_start_during_a_long_stop_starts_after_it(
    broker: Broker, new_runner: NewRunner, wait: float
) -> None:
    runner = new_runner(graceful_shutdown_timeout=0.05)
    running, release = threading.Event(), threading.Event()

    @runner.task("wait")
    def handle(task: Any) -> str:
        running.set()
        assert release.wait(LIMIT)
        return "finished"

    runner.start()
    task = broker.submit("wait", {})
    assert running.wait(LIMIT)
    stopping, _ = in_background(lambda: runner.stop(LIMIT))
    wait_until(lambda: runner.state == "stopping")
    starting, outcome = in_background(lambda: runner.start(wait=wait))
    starting.join(1)  # longer than the configured grace period
    assert starting.is_alive()
    release.set()
    assert task.result(LIMIT) == "finished"
    starting.join(LIMIT)
    stopping.join(LIMIT)
    assert outcome == [None]
    assert runner.state == "running"
    assert runner.wait_registered(LIMIT)


def test_a_start_on_the_thread_that_stops_the_runner_says_so(broker: Broker, new_runner: NewRunner) -> None:
    runner = new_runner()
    raised: list[BaseException] = []

    class Restarting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if threading.current_thread().name == "n8nrunner-links":
                try:
                    runner.stop()
                    runner.start()
                except N8nRunnerError as error:
                    raised.append(error)

    runner.start()
    logger, handler = logging.getLogger("n8nrunner"), Restarting()
    logger.addHandler(handler)
    try:
        broker.kill()
        assert runner.join(LIMIT)
    finally:
        logger.removeHandler(handler)
    assert "on the thread that stops the runner" in str(raised[0])


def test_two_calls_of_start_at_once_start_one_engine(broker: Broker, new_runner: NewRunner) -> None:
    runner = new_runner()
    begun = [in_background(runner.start) for _ in range(4)]
    for thread, outcome in begun:
        thread.join(LIMIT)
        assert outcome == [None]
    assert broker.counts.runners == 1


def test_a_start_that_another_one_overtakes_finds_the_runner_running(
    broker: Broker, new_runner: NewRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = new_runner()
    runner.start()
    state = Lifecycle.state.fget  # type: ignore[attr-defined]
    seen = [RunnerState.STARTING]  # as it was when this start looked first
    monkeypatch.setattr(Lifecycle, "state", property(lambda self: seen.pop() if seen else state(self)))
    runner.start(wait=0)
    assert not seen
    assert runner.state == "running"


def test_users_see_the_engine_of_the_later_start_although_the_earlier_one_returns_later(
    broker: Broker, new_runner: NewRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = new_runner()
    started, release = threading.Event(), threading.Event()
    start = Engine.start

    def start_and_wait(engine: Engine) -> None:
        start(engine)
        if not started.is_set():
            started.set()
            assert release.wait(LIMIT)

    monkeypatch.setattr(Engine, "start", start_and_wait)
    earlier, _ = in_background(lambda: runner.start(wait=0))
    assert started.wait(LIMIT)
    runner.start(wait=0)
    assert runner.state == "running"
    runner.stop()
    runner.start()
    release.set()
    earlier.join(LIMIT)
    assert runner.state == "running"
    assert runner.is_registered


def test_a_stop_during_a_start_is_reported_as_a_stop(broker: Broker, new_runner: NewRunner) -> None:
    broker.kill()
    runner = new_runner()
    starting, outcome = in_background(lambda: runner.start(wait=LIMIT))
    wait_until(lambda: runner.state == "running")
    runner.stop()
    starting.join(LIMIT)
    assert isinstance(outcome[0], RunnerStopped)
    assert "stop() was called before a broker had registered the runner" in str(outcome[0])
    assert runner.state == "stopped"


# --- nothing waits, and nothing of the application's runs, under a lock -----------------------------------


class Slow(ThreadPoolExecutor):
    """An executor whose first answer waits for `release`."""

    def __init__(self) -> None:
        super().__init__(1)
        self.asked = threading.Event()
        self.release = threading.Event()

    def submit(self, function: Any, /, *args: Any, **options: Any) -> Any:
        def wait() -> Any:
            self.asked.set()
            assert self.release.wait(LIMIT)
            return function(*args, **options)

        return super().submit(wait)


def test_an_executor_that_warms_up_holds_up_no_registration_and_no_stop(
    broker: Broker, new_runner: NewRunner
) -> None:
    with Slow() as executor:
        runner = new_runner(executor=executor)
        starting, outcome = in_background(runner.start)
        assert executor.asked.wait(LIMIT)
        runner.task("echo")(lambda task: task.settings)
        assert runner.state == "new"
        assert not runner.join(0)
        runner.snapshot()
        executor.release.set()
        starting.join(LIMIT)
        assert outcome == [None]
        assert broker.run_task("echo", 1, timeout=LIMIT) == 1
        runner.stop()

        executor.asked.clear()
        executor.release.clear()
        starting, outcome = in_background(runner.start)
        assert executor.asked.wait(LIMIT)
        runner.stop(0)
        executor.release.set()
        starting.join(LIMIT)
        assert isinstance(outcome[0], RunnerStopped)
        wait_until(lambda: runner.state == "stopped")


def test_log_handlers_may_use_the_runner_that_logs(broker: Broker, new_runner: NewRunner) -> None:
    """They register a task, start the runner and read its state. A lock held while logging would end it."""
    runner = new_runner(health_check_enabled=True, health_check_port=0)
    messages: list[str] = []

    class Using(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())
            runner.task(f"type {len(messages)}")(lambda task: task.settings)
            runner.start(wait=0)
            runner.snapshot()
            runner.wait_registered(0)

    logger, handler = logging.getLogger("n8nrunner"), Using()
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        starting, outcome = in_background(runner.start)
        starting.join(LIMIT)
        assert outcome == [None]
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    assert any("no handler yet" in message for message in messages)
    assert any("Health check" in message for message in messages)
    assert broker.run_task("type 1", 5, timeout=LIMIT) == 5


def test_a_log_handler_may_stop_the_runner_that_starts(broker: Broker, new_runner: NewRunner) -> None:
    runner = new_runner()  # without a handler, which is logged inside of `start`

    class Stopping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            runner.stop(3 * LIMIT)

    logger, handler = logging.getLogger("n8nrunner"), Stopping()
    logger.addHandler(handler)
    try:
        starting, outcome = in_background(runner.start)
        starting.join(LIMIT)
        assert isinstance(outcome[0], RunnerStopped)
    finally:
        logger.removeHandler(handler)
    assert runner.state == "new"


def test_types_registered_by_two_threads_are_posted_in_their_order(
    broker: Broker, new_runner: NewRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link offers the types of the last event, so the last event must have all types."""
    runner = new_runner()
    runner.start()
    posted: list[int] = []
    entered, overtaken = threading.Event(), threading.Event()
    post = LinkThread.post

    def note(self: LinkThread, event: Event) -> None:
        if isinstance(event, TypesChanged):
            if entered.is_set():
                overtaken.set()
            else:
                entered.set()
                overtaken.wait(0.5)  # by the other registration, which has to wait instead
            posted.append(len(event.types))
        post(self, event)

    monkeypatch.setattr(LinkThread, "post", note)
    first, _ = in_background(lambda: runner.task("first")(lambda task: task.settings))
    assert entered.wait(LIMIT)
    second, _ = in_background(lambda: runner.task("second")(lambda task: task.settings))
    first.join(LIMIT)
    second.join(LIMIT)
    assert posted == [1, 2]
    assert broker.run_task("second", 5, timeout=LIMIT) == 5


# --- a token that is refused ----------------------------------------------------------------------------


def test_a_start_without_a_wait_logs_a_refused_token_and_tries_again(
    broker: Broker,
    new_runner: NewRunner,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(link, "REFUSED_WAIT", 0.05)
    token = tmp_path / "token"
    token.write_text("not-the-token")
    runner = new_runner(auth_token=None, auth_token_file=str(token))
    runner.task("echo")(lambda task: task.settings)
    with caplog.at_level(logging.ERROR, "n8nrunner"):
        runner.start(wait=0)
        wait_until(lambda: runner.snapshot().links[0].failures > 1)
    assert runner.state == "running"
    assert runner.error is None
    assert "N8N_RUNNERS_AUTH_TOKEN" in caplog.records[0].getMessage()
    assert "Retrying in" in caplog.records[0].getMessage()
    assert "not-the-token" not in caplog.text
    token.write_text(TOKEN)
    assert runner.wait_registered(LIMIT)
    assert broker.run_task("echo", 1, timeout=LIMIT) == 1


def test_a_start_with_a_wait_raises_for_a_token_that_was_refused_before_it(
    broker: Broker, new_runner: NewRunner
) -> None:
    runner = new_runner(auth_token="not-the-token")
    runner.start(wait=0)
    with pytest.raises(AuthenticationError):
        runner.start(wait=LIMIT)
    assert runner.state == "running"  # this call has not started it
    thread, outcome = in_background(runner.run)
    thread.join(LIMIT)
    assert isinstance(outcome[0], AuthenticationError)
    assert runner.state == "failed"


@pytest.mark.parametrize("how", ["start", "run"])
def test_start_with_a_wait_and_run_raise_for_a_refused_token(
    broker: Broker, new_runner: NewRunner, how: str
) -> None:
    runner = new_runner(auth_token="not-the-token")
    with pytest.raises(AuthenticationError):
        getattr(runner, how)()
    assert runner.state == "failed"


def test_a_refused_one_shot_grant_ends_a_start_without_a_wait_with_an_error_line(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    runner = Runner(broker.url, grant_token="0" * 64)
    with caplog.at_level(logging.ERROR, "n8nrunner"):
        runner.start(wait=0)
        with pytest.raises(AuthenticationError):
            runner.join(LIMIT)
    assert "The runner ends: " in caplog.text


# --- attempts that take their time ----------------------------------------------------------------------


def test_stop_does_not_wait_for_an_attempt_to_connect(new_runner: NewRunner) -> None:
    asked = threading.Event()

    def stay_silent(connection: socket.socket) -> None:
        asked.set()
        silent.closing.wait(3 * LIMIT)

    with Server(stay_silent) as silent:
        runner = new_runner(silent.url)
        runner.start(wait=0)
        assert asked.wait(LIMIT)
        with promptly():
            runner.stop()  # with the configured grace period
        assert runner.state == "stopped"
        assert (
            "n8nrunner-connect-0" in names_of_runner_threads()
        )  # it cannot be interrupted, and ends by itself


def test_the_end_of_a_script_does_not_wait_for_an_attempt_to_connect(tmp_path: Path) -> None:
    asked = threading.Event()

    def stay_silent(connection: socket.socket) -> None:
        asked.set()
        silent.closing.wait(3 * LIMIT)

    script = tmp_path / "script.py"
    script.write_text(
        """
import threading
from n8nrunner import Runner
runner = Runner()
runner.start(wait=0)
threading.Event().wait(1)
"""
    )
    with Server(stay_silent) as silent:
        env = {"N8N_RUNNERS_TASK_BROKER_URI": silent.url, "N8N_RUNNERS_AUTH_TOKEN": TOKEN}
        script.write_text(
            script.read_text().replace("input()", "import sys, threading\nthreading.Event().wait(1)")
        )
        with python(str(script), env=env) as program:
            assert asked.wait(LIMIT)
            with promptly():
                assert program.wait() == 0
    assert "Traceback" not in program.output


# --- the embedded broker --------------------------------------------------------------------------------


@pytest.mark.parametrize("interrupt", [False, True])
def test_an_embedded_broker_whose_start_raised_can_be_started(
    monkeypatch: pytest.MonkeyPatch, interrupt: bool
) -> None:
    broker = Broker(auth_token=TOKEN)
    for _ in range(2):
        with monkeypatch.context() as patch:
            refuse_thread("n8nrunner-broker", interrupt)(patch)
            with pytest.raises((RuntimeError, KeyboardInterrupt)):
                broker.start()
        assert not broker.is_running
        broker.stop()
        with broker:
            assert broker.is_running
