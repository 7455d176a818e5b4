"""What one `Runner.start` has started, from its links to its last thread."""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Callable, Protocol

from n8nrunner import logs, process
from n8nrunner.config import RunnerConfig
from n8nrunner.connection.link import BrokerLink
from n8nrunner.connection.serving import LinkThread
from n8nrunner.connection.sockets import close_copies
from n8nrunner.deadline import Deadline
from n8nrunner.errors import (
    ConfigurationError,
    ExecutorBroken,
    GrantTokenSpent,
    N8nRunnerError,
    RunnerFailed,
    RunnerStopped,
)
from n8nrunner.execution.contexts import StartContext
from n8nrunner.execution.executors import ExecutorOrFactory
from n8nrunner.execution.invoke import TaskContext
from n8nrunner.execution.pools import TaskPool
from n8nrunner.protocol.slots import Slots
from n8nrunner.registry import Registry, Types
from n8nrunner.snapshot import Counts, FunctionSnapshot, LinkSnapshot, Snapshot, TaskSnapshot
from n8nrunner.task import Undelivered, renew_lock_after_fork

if TYPE_CHECKING:
    from n8nrunner.health import HealthServer

logger = logs.get_logger("n8nrunner")
task_logger = logs.get_logger("n8nrunner.tasks")

#: What is called with each result that n8n did not get, or may not have got.
OnUndelivered = Callable[[Undelivered], Any]

#: Seconds beyond the grace period that a stop waits for what it has asked to end.
STOP_MARGIN = 0.45

#: Seconds after the end of the grace period within which a run has ended. Closing a connection takes less.
_STOP_LIMIT = 10.0

#: Seconds below which the life of a runner at the program's end looks like a mistake.
_SHORT_LIFE = 10.0

#: How many running tasks a line of the log names.
_NAMED_TASKS = 5

#: Seconds that a thread of the caller's waits for a line of the log.
_LOG_WAIT = 0.5


class Run:
    """What one `start` has started, until its last link has ended. Its links call it on their thread.

    Args:
        config: the runner's settings.
        registry: the runner's handlers.
        executor, task_context, on_undelivered: as `Runner` has them.
        gives_up: whether the run ends when every broker refuses the token before the first registration.
    """

    def __init__(
        self,
        config: RunnerConfig,
        registry: Registry,
        executor: ExecutorOrFactory | None,
        task_context: TaskContext | None,
        on_undelivered: OnUndelivered | None,
        gives_up: bool = True,
    ) -> None:
        self.error: N8nRunnerError | None = None
        self.finished = threading.Event()
        #: Whether `start` has returned or raised, and the runner knows of it.
        self.start_ended = threading.Event()
        self.stopping = False
        self.handler_of = registry.handler_of
        self._registry = registry
        self._has_handlers = not registry.is_empty
        self._config = config
        self._on_undelivered = on_undelivered
        self._gives_up = gives_up
        # When the last stop that was asked for ends at the latest, on the monotonic clock.
        self._stop_until = 0.0
        self._starter = threading.get_ident()
        # Guards what follows, and announces registrations and ends. Nothing is called under it.
        self._changed = threading.Condition(threading.Lock())
        self._ever_registered = False
        self._refused: dict[int, N8nRunnerError] = {}
        self._when_finished: list[Callable[[], None]] = []
        self._when_registered: list[Callable[[], None]] = []
        #: The moment of `time.monotonic()` at which the run was made.
        self.started_at = time.monotonic()
        self._slots = Slots(config.capacity, len(config.urls))
        self._pool = TaskPool(executor, config.capacity, task_context, config.max_payload, self)
        self._health: HealthServer | None = None
        self._callbacks: Callbacks | None = None
        self._serving = LinkThread(config, {}, self._slots, self._pool, self, self._links_ended)
        self.links: list[BrokerLink] = self._serving.links

    # --- for the runner, on any thread ------------------------------------------------

    def start(self) -> None:
        """Start all threads. After a raise, nothing runs and all descriptors are closed.

        Raises:
            ConfigurationError: the health check server cannot listen.
            ExecutorBroken: the executor that was passed runs nothing.
            RunnerStopped: `request_stop` was called.
            OSError, RuntimeError: the process has no descriptor or no thread left.
        """
        with contextlib.ExitStack() as undo:
            undo.callback(self._finish)
            self._registry.connect(self._change_types)
            _register_exit_hook()
            undo.callback(self._serving.cancel_start)
            self._serving.open()
            undo.callback(self._pool.shut_down)
            self._pool.warm_up()
            self._refuse_when_stopping()
            if self._config.health_check_enabled:
                from n8nrunner.health import HealthServer  # needed by few, and slow to import

                try:
                    self._health = HealthServer(
                        self._config.health_check_host,
                        self._config.health_check_port,
                        self.snapshot,
                        self._config.health_check_allowed_hosts,
                        lambda error: self._fail("n8nrunner-health", error),
                    )
                    undo.callback(self._health.stop)
                    self._health.start()
                except (ConfigurationError, OSError, RuntimeError) as error:
                    # With `start(wait=0)` the process is an application, such as one of several gunicorn
                    # workers, which goes on without the health check server.
                    if self._gives_up:
                        raise
                    logger.error("The runner goes on without the health check server: %s", error)
                    if self._health is not None:
                        self._health.stop()
                        self._health = None
            if self._on_undelivered is not None:
                self._callbacks = Callbacks(self._on_undelivered, self._callbacks_failed)
                undo.callback(self._callbacks.cancel_start)
                self._callbacks.thread.start()
            if not self._has_handlers:
                logger.warning(
                    "The runner %r has no handler yet, so n8n can send it nothing", self._config.name
                )
            self._refuse_when_stopping()
            _register_exit_hook()  # again: the executor may have been imported since
            _running.add(self)
            undo.callback(self._end_serving)
            self._serving.start()
            undo.pop_all()

    def undo_start(self) -> None:
        """End what `start` has started, wherever an exception or an interrupt has ended it."""
        if self._serving.cancel_start():
            self._finish()
            return
        self.request_stop(0)
        if not self.is_own_thread():
            self.join(Deadline(STOP_MARGIN))

    def is_starter(self) -> bool:
        """Return whether the calling thread is the one on which the run was made and is started."""
        return threading.get_ident() == self._starter

    def _refuse_when_stopping(self) -> None:
        if self.error is not None:  # a thread that had started has failed
            raise self.error
        if self.stopping:
            raise RunnerStopped("stop() was called while the runner was starting")

    def _end_serving(self) -> None:
        """Undo `LinkThread.start`, which an interrupt may have ended before or after the thread began."""
        if not self._serving.cancel_start():
            self.request_stop(0)
            self.finished.wait(STOP_MARGIN)

    @property
    def grace(self) -> float:
        """Seconds that running tasks get when nothing else is said."""
        return self._config.graceful_shutdown_timeout

    @property
    def state(self) -> str:
        """As in `Snapshot.state`."""
        if self.finished.is_set():
            return "stopped" if self.error is None else "failed"
        return "stopping" if self.stopping else "running"

    @property
    def refusal(self) -> N8nRunnerError | None:
        """Why every broker refused the token before any registration; None if one did not."""
        if self._ever_registered or len(self._refused) < len(self.links):
            return None
        return next(iter(self._refused.values()))

    def give_up_when_refused(self) -> None:
        """End the run, now or later, when every broker refuses the token before the first registration."""
        with self._changed:
            self._gives_up = True
            error = self.refusal
            if error is None or self.finished.is_set():
                return
            self.error = error
            self._changed.notify_all()
        self.request_stop(0)

    def wait_registered(self, deadline: Deadline, until_refused: bool = False) -> bool:
        """Wait until a broker has registered the runner, or until the end.

        Args:
            until_refused: whether to return as soon as every broker has refused the token.

        Returns:
            Whether a broker has registered the runner.
        """

        def settled() -> bool:
            return (
                self.finished.is_set()
                or self.error is not None
                or self._is_registered()
                or (until_refused and self.refusal is not None)
            )

        with self._changed:
            self._changed.wait_for(settled, deadline.remaining())
        return self.error is None and self._is_registered()

    def _is_registered(self) -> bool:
        return any(link.is_registered for link in self.links)

    def request_stop(self, grace: float) -> None:
        """Ask all links to end, and return."""
        until = time.monotonic() + grace
        self._stop_until = min(self._stop_until or until, until)
        self.stopping = True
        self._serving.stop(until)

    def wait_finished(self) -> bool:
        """Wait for the end of the stop that was asked for.

        Returns:
            Whether the run has ended; False if the time that its stop may take is over.
        """
        return self.finished.wait(max(0.0, self._stop_until - time.monotonic()) + _STOP_LIMIT)

    def is_links_thread(self) -> bool:
        """Return whether the calling thread is the one that ends the run."""
        return threading.current_thread() is self._serving.thread

    def is_own_thread(self) -> bool:
        """Whether the calling thread is one that a stop would wait for."""
        current = threading.current_thread()
        return (
            self._pool.is_current
            or self._serving.thread is current
            or (self._callbacks is not None and self._callbacks.thread is current)
        )

    def join(self, deadline: Deadline) -> None:
        """Wait for the end, and log what does not end."""
        self.finished.wait(deadline.remaining())
        _join(self._serving.thread, deadline)
        if self._serving.thread.is_alive():
            _warn("The runner %r has not stopped in time: a log handler may be blocked", self._config.name)
        # Nothing waits for a thread that connects: it cannot be interrupted, and touches nothing of the run.
        if self._callbacks is not None:
            _join(self._callbacks.thread, deadline)
            if self._callbacks.thread.is_alive():
                _warn("on_undelivered has not returned yet")
        running = self._pool.join(deadline)
        if running:
            _warn(
                "Handlers of cancelled tasks still run, and keep the process alive until they return: %s",
                ", ".join(running),
            )

    def log_exit(self) -> None:
        """Log that the end of the program stops the run, and what it waits for."""
        if time.monotonic() - self.started_at < _SHORT_LIFE:
            logger.warning(
                "The program has ended, and the runner %r with it. To keep it going, end the program with "
                "runner.run() or runner.join()",
                self._config.name,
            )
        running = self.describe_tasks()
        if running:
            logger.warning(
                "The program has ended: the runner %r waits at most %g s for %s",
                self._config.name,
                self.grace,
                running,
            )

    def describe_tasks(self) -> str:
        """Return the running tasks for a line of the log; an empty string if there are none."""
        tasks = [task.describe() for task in list(self._pool.active)]
        if not tasks:
            return ""
        more = f" and {len(tasks) - _NAMED_TASKS} more" if len(tasks) > _NAMED_TASKS else ""
        return f"{len(tasks)} running task{'s'[: len(tasks) > 1]}: {', '.join(tasks[:_NAMED_TASKS])}{more}"

    def on_registered(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, at the first registration, on the links' thread, or now. It must not wait."""
        with self._changed:
            if not self._ever_registered:
                self._when_registered.append(callback)
                return
        callback()

    def on_finished(self, callback: Callable[[], None]) -> None:
        """Calls `callback` when the last link has ended, on the links' thread, or now."""
        with self._changed:
            if not self.finished.is_set():
                self._when_finished.append(callback)
                return
        callback()

    def _change_types(self, types: Types) -> None:
        """Let the links offer the types that are registered now."""
        self._serving.change_types(types)

    def describe_links(self) -> str:
        """What was tried, and how it went."""
        parts = []
        for link in self.links:
            now = link.snapshot()
            parts.append(now.last_error or f"{now.broker} is {now.state}")
        return "; ".join(parts)

    def snapshot(self) -> Snapshot:
        """All of it as it is now."""
        now = time.monotonic()
        links: list[LinkSnapshot] = [link.snapshot() for link in self.links]
        tasks = tuple(
            TaskSnapshot(
                task.id,
                task.type,
                now - task.started_at,
                task.progress_fraction,
                task.progress_text,
                task.cancel_reason,
            )
            for task in list(self._pool.active)
        )
        totals = (sum(getattr(link.counters, name) for link in self.links) for name in Counts._fields)
        return Snapshot(
            self.state,
            self._config.name,
            self._config.capacity,
            # After the end nothing gives slots back, but handlers may still return.
            len(self._pool.active) if self.finished.is_set() else self._slots.taken,
            tuple(links),
            tasks,
            Counts(*totals),
            self._functions(),
        )

    def _functions(self) -> tuple[FunctionSnapshot, ...]:
        calls: dict[str, tuple[int, int]] = {}
        for link in self.links:
            for name, (done, failed) in list(link.calls.items()):
                before = calls.get(name, (0, 0))
                calls[name] = before[0] + done, before[1] + failed
        return tuple(FunctionSnapshot(name, *calls[name]) for name in sorted(calls))

    def forked(self) -> None:
        """In a child process: gives up copies of descriptors without a sign to the parent or the broker."""
        self._serving.forked()
        if self._health is not None:
            self._health.forked()

    # --- for the links, on their thread --------------------------------------------------------

    def link_registered(self, link: BrokerLink) -> None:
        with self._changed:
            self._ever_registered = True
            self._refused.pop(link.index, None)
            callbacks, self._when_registered = self._when_registered, []
            self._changed.notify_all()
        for callback in callbacks:
            callback()

    def link_refused(self, link: BrokerLink, error: N8nRunnerError) -> bool:
        with self._changed:
            self._refused[link.index] = error
            # A grant token of a launcher is good once. A token can be corrected while the runner waits.
            one_shot = isinstance(error, GrantTokenSpent) or self._config.is_one_shot
            final = one_shot or (self._gives_up and self.refusal is not None)
            is_told = self._gives_up and not self._ever_registered  # `start` or `run` raises the error
            if final:
                self.error = error
            self._changed.notify_all()
        if not final:
            return False
        if not is_told:
            logger.error("The runner ends: %s", error)
        self.request_stop(0)
        return True

    def link_cannot_connect(self, error: Exception) -> None:
        if process.main_thread_has_ended():
            failed = RunnerFailed(f"{error}, so the runner cannot connect. Keep the main thread running")
            with self._changed:
                self.error = self.error or failed
                self._changed.notify_all()
            self.request_stop(self.grace)
            logger.error("The runner has failed: %s", failed)

    def link_idle(self) -> None:
        if not self.stopping:
            logger.info(
                "Stopping: no task for %g s (N8N_RUNNERS_AUTO_SHUTDOWN_TIMEOUT)",
                self._config.auto_shutdown_timeout,
            )
            self.request_stop(self.grace)

    def _links_ended(self, failure: BaseException | None) -> None:
        # Stopping waits for this, so nothing in it may wait for a handler or a callback.
        if failure is not None:
            self._fail("n8nrunner-links", failure)
        _guarded(self._pool.shut_down)
        if self._callbacks is not None:
            _guarded(self._callbacks.end)
        if self._health is not None:
            _guarded(self._health.stop)
        self._finish()

    def _finish(self) -> None:
        """Tell all who wait for the end."""
        _running.discard(self)
        self._registry.disconnect(self._change_types)
        with self._changed:
            self.finished.set()
            callbacks, self._when_finished = self._when_finished, []
            self._changed.notify_all()
        for callback in callbacks:
            _guarded(callback)

    def _fail(self, thread: str, error: BaseException) -> None:
        """A thread of the run has ended because of an unexpected error: the run ends as failed."""
        failed = RunnerFailed(
            f"the thread {thread} ended because of an unexpected error ({logs.describe(error)})"
        )
        failed.__cause__ = error
        with self._changed:
            if self.finished.is_set():
                return
            if self.error is None:
                self.error = failed
            self._changed.notify_all()
        self.request_stop(self.grace)
        logger.error("The runner has failed: %s. Please report it\n%s", failed, logs.frames_of(error))

    # --- for the pool, on any thread ------------------------------------------------------------

    def executor_broken(self, error: ExecutorBroken) -> None:
        """End the run: it can run no task any more. Other runners get the tasks."""
        with self._changed:
            if self.finished.is_set():
                return
            if self.error is None:
                self.error = error
            self._changed.notify_all()
        self.request_stop(self.grace)
        logger.error("The runner ends: %s", error)

    def set_offering(self, wanted: bool) -> None:
        """Offer tasks, or stop that until the executor has been replaced."""
        self._serving.set_offering(wanted)

    def _callbacks_failed(self, error: BaseException) -> None:
        self._fail("n8nrunner-callbacks", error)
        if self._callbacks is not None:
            for result in self._callbacks.take_rest():
                _log_undelivered(result)

    def undelivered(self, result: Undelivered) -> None:
        if self._callbacks is not None and not self._callbacks.has_failed:
            self._callbacks.put(result)
        else:
            _log_undelivered(result)


def _log_undelivered(result: Undelivered) -> None:
    logger.warning(
        "The result of task %s (%s) %s n8n, because the connection was lost",
        result.task_id,
        result.task_type,
        "did not reach" if result.certain else "may not have reached",
    )


def _guarded(step: Callable[[], object]) -> None:
    """Run a step whose failure must not keep the next one from running."""
    try:
        step()
    except BaseException as error:  # noqa: BLE001 - logged
        logger.error("Could not end in order: %s\n%s", logs.describe(error), logs.frames_of(error))


def _join(thread: threading.Thread, deadline: Deadline) -> None:
    """Wait for a thread's end. A thread that was never started has ended."""
    if thread.is_alive():
        thread.join(deadline.remaining())


class Callbacks:
    """The thread on which `on_undelivered` is called: it may take its time, and holds up nothing.

    Args:
        callback: the application's function. No exception of it ends the thread.
        failed: called on the thread with the unexpected error that ended it.
    """

    def __init__(self, callback: OnUndelivered, failed: Callable[[BaseException], None]) -> None:
        self._callback = callback
        self._start_context = StartContext()
        #: Whether the thread has ended because of an unexpected error.
        self.has_failed = False
        self._failed = failed
        self._queue: queue.SimpleQueue[Undelivered | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._run, name="n8nrunner-callbacks", daemon=True)

    def cancel_start(self) -> None:
        """Undo the start of the thread, which may have failed."""
        self.end()
        _join(self.thread, Deadline(STOP_MARGIN))

    def put(self, result: Undelivered) -> None:
        self._queue.put(result)

    def end(self) -> None:
        """After what has been put."""
        self._queue.put(None)

    def _run(self) -> None:
        result = None
        try:
            while True:
                result = self._queue.get()
                if result is None:
                    return
                self._call(result)
                result = None
        except BaseException as error:  # noqa: BLE001 - reported by the runner
            self.has_failed = True
            self._queue.put(result)
            self._failed(error)

    def take_rest(self) -> list[Undelivered]:
        """Remove and return what the thread has not called the function with, after it has failed."""
        rest: list[Undelivered] = []
        with contextlib.suppress(queue.Empty):
            while True:
                result = self._queue.get_nowait()
                if result is not None:
                    rest.append(result)
        return rest

    def _call(self, result: Undelivered) -> None:
        try:
            self._start_context.run(self._callback, result)
        except BaseException as error:
            # The text is the application's, so it goes to the logger of tasks.
            task_logger.error("on_undelivered raised for %r", result, exc_info=error)


def _warn(message: str, *args: Any) -> None:
    """Log a warning on the caller's thread, which may be the only one that can still end the process."""
    if not process.aside(lambda: logger.warning(message, *args), _LOG_WAIT):
        logger.warning(message, *args)


_running: set[Run] = set()

#: Whether `concurrent.futures.process` was there when the exit hook was registered; None before that.
_hook_is_after_processes: bool | None = None
_is_ending = False

#: The runners of this process. If one is new or runs, the threads of the application end first.
_runners: weakref.WeakSet[HasState] = weakref.WeakSet()


class HasState(Protocol):
    """A runner, for the exit hook."""

    @property
    def state(self) -> str:
        """As in `Snapshot.state`."""


def note_runner(runner: HasState) -> None:
    """Register the exit hook for a runner that has been built."""
    _runners.add(runner)
    with contextlib.suppress(RunnerStopped):
        _register_exit_hook()


def _is_any_needed() -> bool:
    return bool(_running) or any(runner.state in ("new", "running") for runner in list(_runners))


def _register_exit_hook() -> None:
    """See to it that runs are stopped before the executors that their handlers may use.

    Raises:
        RunnerStopped: the main thread has ended, and what needs the program's end is no longer told.
    """
    global _hook_is_after_processes
    has_processes = "concurrent.futures.process" in sys.modules
    is_new = _hook_is_after_processes is not has_processes
    if _is_ending or (is_new and not process.at_exit(_stop_at_exit)):
        raise RunnerStopped("the program is ending, so the runner cannot be started")
    _hook_is_after_processes = has_processes


def _stop_at_exit() -> None:
    """Stop all runs when the main thread and the application's other threads have ended."""
    global _is_ending
    try:
        process.wait_for_threads(_is_any_needed)
    finally:
        _is_ending = True
        runs = list(_running)
        for run in runs:
            run.request_stop(run.grace)
        for run in runs:
            run.log_exit()
        for run in runs:
            run.join(Deadline(run.grace + STOP_MARGIN))


def _after_fork_in_child() -> None:
    global _is_ending
    _is_ending = False
    _running.clear()
    renew_lock_after_fork()
    close_copies()


process.after_fork_in_child(_after_fork_in_child)
