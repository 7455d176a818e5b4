"""The threads and objects of one `Runner.start`."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Callable, NamedTuple

from n8nrunner import errors, exit_hook, logs, process, units
from n8nrunner.callbacks import Callbacks
from n8nrunner.config import RunnerConfig, is_one_shot, urls_of
from n8nrunner.connection.sockets import close_copies
from n8nrunner.deadline import Deadline
from n8nrunner.execution.executors import ExecutorOrFactory, is_factory
from n8nrunner.execution.pools import TaskPool
from n8nrunner.exit_hook import STOP_MARGIN
from n8nrunner.hooks import Call, Hooks, Registered
from n8nrunner.lifecycle import Lifecycle, RunnerState, guarded
from n8nrunner.logs import logger
from n8nrunner.protocol.events import OfferingChanged, StopRequested, TypesChanged
from n8nrunner.protocol.slots import Slots
from n8nrunner.record import Recorder
from n8nrunner.registry import Registry
from n8nrunner.snapshot import LinkSnapshot, Snapshot, TaskSnapshot, is_any_offering
from n8nrunner.task import ActiveTask, Undelivered, renew_lock_after_fork

if TYPE_CHECKING:
    from n8nrunner.connection.broker_link import BrokerLink
    from n8nrunner.health import HealthServer


#: If the program ends sooner than this after the start, in seconds, it probably lacks `run()` or `join()`.
_SHORT_LIFE = 10.0

#: Seconds between two checks whether the links' thread has ended while another thread waits for it.
_END_CHECK_INTERVAL = 0.1

#: The number of running tasks that a log line names.
_NAMED_TASKS = 5

#: The number of links of one name that an error names.
_NAMED_LINKS = 3

#: Longest wait of the caller's thread for a log call, in seconds.
_LOG_WAIT = 0.5
#: Longest wait of a stop for each line of the log about it, in seconds.
STOP_LOG_WAIT = 0.1


class Extras(NamedTuple):
    """The settings of a runner that have no environment variable, besides its hooks. See `Runner`."""

    executor: ExecutorOrFactory | None = None
    shared: bool = False

    def check(self) -> None:
        """Check the executor.

        Raises:
            ConfigurationError: it is none.
        """
        executor: object = self.executor
        if executor is None or is_factory(executor) or callable(getattr(executor, "submit", None)):
            return
        expected = "a concurrent.futures.Executor or a function that makes one"
        raise errors.ConfigurationError([f"executor: expected {expected}, got {executor!r}"])


class Engine:
    """The links, the pool and the other threads of one start. A runner has a new engine for each start.

    `gives_up` is explained at `Lifecycle`.
    """

    def __init__(
        self, config: RunnerConfig, registry: Registry, hooks: Hooks, extras: Extras, gives_up: bool
    ) -> None:
        # Slow to import (requests, backoff), and many programs build a runner that they do not start.
        from n8nrunner.connection.loop import LinkThread

        #: Default grace period of a stop, in seconds.
        self.grace = config.graceful_shutdown_timeout
        self.handler_of = registry.handler_of
        self._config = config
        self._registry = registry
        # Read here, because a log handler may register a task during the start.
        self._has_handlers = not registry.is_empty
        self._shared = extras.shared
        self._slots = Slots(config.capacity, sum(not url.is_name for url in urls_of(config)))
        self._pool = TaskPool(extras.executor, config.capacity, hooks, config.max_payload, self)
        self._health: HealthServer | None = None
        #: The thread of hooks that are not of calls. `start` it when hooks are added.
        self.callbacks = Callbacks(
            hooks, lambda error: self._fail("n8nrunner-callbacks", error), config.error_details
        )
        self._recorder = Recorder(registry)
        self._link_thread = LinkThread(
            config, self._slots, self._pool, self, self._recorder, self._links_ended
        )
        self.lifecycle = Lifecycle(
            brokers=self._link_thread.brokers,
            is_registered=lambda: any(link.machine.is_registered for link in self.links),
            gives_up=gives_up,
        )

    @property
    def links(self) -> tuple[BrokerLink, ...]:
        """The links now. They come and go if a broker's URL begins with ``dns+``."""
        return self._link_thread.links

    # --- starting ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Start all threads. Call `undo_start` if this raises.

        Raises:
            ConfigurationError: the health check server cannot listen.
            ExecutorBroken: the executor cannot run a function.
            RunnerStopped: `request_stop` was called.
            OSError, RuntimeError: no descriptor or thread is available.
        """
        self._registry.connect(self._change_types)
        exit_hook.register()
        self._link_thread.open()
        self._pool.warm_up()
        self._raise_if_stopping()
        if self._config.health_check_enabled:
            self._start_health()
        self.callbacks.start()
        if not self._has_handlers:
            logger.warning("The runner %r has no handler yet, so n8n cannot send it tasks", self._config.name)
        self._raise_if_stopping()
        exit_hook.register()  # again: the executor's factory may have imported concurrent.futures.process
        exit_hook.engines.add(self)
        self.lifecycle.on_registered(self.take_over)
        self._link_thread.thread.start()
        self.lifecycle.note_running()

    def _start_health(self) -> None:
        from n8nrunner.health import HealthServer  # needed by few runners, and slow to import

        config = self._config
        try:
            self._health = HealthServer(
                config.health_check_host,
                config.health_check_port,
                self.snapshot,
                lambda: is_any_offering(self._link_snapshots()),
                config.health_check_allowed_hosts,
                lambda error: self._fail("n8nrunner-health", error),
            )
            self._health.start()
        except (errors.ConfigurationError, OSError, RuntimeError) as error:
            # With `start(wait=0)` the runner is part of an application, such as one of several gunicorn
            # workers, and runs without the server.
            if self.lifecycle.gives_up:
                raise
            logger.error("The runner runs without the health check server: %s", error)
            if self._health is not None:
                self._health.stop()
                self._health = None

    def _raise_if_stopping(self) -> None:
        if self.lifecycle.error is not None:  # a thread that had started has failed
            raise self.lifecycle.error
        if self.lifecycle.is_stop_requested:
            raise errors.RunnerStopped("stop() was called while the runner was starting")

    def undo_start(self) -> None:
        """End all threads after a `start` that has raised, or that an interrupt ended at any point."""
        self.request_stop(0)
        if self._link_thread.cancel_start():
            self._links_ended(None)
        if not self.is_own_thread():
            self.join(Deadline(STOP_MARGIN))

    def wait_registered(self, wait: float) -> None:
        """Wait for the first registration, for at most `wait` seconds.

        Raises:
            N8nRunnerError: no broker registered the runner. See `Runner.start`.
        """
        lifecycle = self.lifecycle
        if lifecycle.wait_registered(Deadline(wait), until_refused=True):
            return
        error = lifecycle.error or lifecycle.refusal
        if error is not None:
            raise error
        if lifecycle.is_stop_requested:
            raise errors.RunnerStopped("stop() was called before a broker had registered the runner")
        raise errors.BrokerConnectionError(
            f"no broker has registered the runner within {wait:g} s: {_reasons(self._link_snapshots())}. "
            "Check that n8n runs with N8N_RUNNERS_AUTH_TOKEN set, and that its task broker listens there "
            "(in a container: N8N_RUNNERS_BROKER_LISTEN_ADDRESS=0.0.0.0; n8n 1: N8N_RUNNERS_ENABLED=true). "
            "`n8nrunner check` names the likely cause"
        )

    def give_up_when_refused(self) -> None:
        """Set `Lifecycle.gives_up`, and stop if every broker has refused the token already."""
        if self.lifecycle.give_up_when_refused():
            self.request_stop(0)

    def take_over(self) -> None:
        """Stop earlier runners of this process that have functions, the same name and a common broker.

        Running a notebook cell again would otherwise leave a runner that no variable refers to. An earlier
        runner that has nothing yet is stopped too: it would tell nodes that there are no functions.

        Thread: the links' thread at the first registration, or the one that adds the first function.
        """
        for other in list(exit_hook.engines):
            if (
                isinstance(other, Engine)
                and other.lifecycle.state is RunnerState.RUNNING
                and other.lifecycle.started_at < self.lifecycle.started_at
                and (other._registry.functions is not None or other._registry.is_empty)
                and self._registry.functions is not None
                and not (other._shared and self._shared)
                and other._config.name == self._config.name
                and not _log_ins(other._config).isdisjoint(_log_ins(self._config))
            ):
                other.request_stop(other.grace)
                logger.warning(
                    "A newer runner %r in this process takes over. The earlier one finishes its running "
                    "tasks and stops. To keep both, build both with shared=True",
                    self._config.name,
                )

    @property
    def is_in_process(self) -> bool:
        """Whether handlers run in this process."""
        return self._pool.is_in_process

    def renew(self, change: Callable[[], None], hooks: Hooks) -> bool:
        """Make a change of the registry, and of the context and the hooks around handlers, between two tasks.

        So every task runs with functions, a context and hooks that belong together. Return after the change.
        Return False, without the change, if the runner ends before.
        """
        done = threading.Event()

        def renew() -> None:
            change()
            self._pool.hooks = self.callbacks.hooks = hooks
            done.set()

        self._link_thread.call(renew)
        while not done.wait(_END_CHECK_INTERVAL):
            if not self.lifecycle.is_alive:
                return done.is_set()
        self.callbacks.start()
        return True

    # --- stopping ---------------------------------------------------------------------------------

    def request_stop(self, grace: float) -> None:
        """Ask all links to end after a grace period of at most `grace` seconds, and return."""
        until = time.monotonic() + grace
        self.lifecycle.request_stop(until)
        self._link_thread.post(StopRequested(until))

    def renew_context(self) -> None:
        """Run later handlers and hooks in the context of the calling thread, as it is now."""
        self._pool.renew_context()
        self.callbacks.renew_context()

    def is_links_thread(self) -> bool:
        """Return whether the calling thread is the links' thread, which ends the engine."""
        return threading.current_thread() is self._link_thread.thread

    def is_own_thread(self) -> bool:
        """Return whether the calling thread is one of this engine's, for which a stop would wait."""
        own_threads = (self._link_thread.thread, self.callbacks.thread)
        return self._pool.is_current or threading.current_thread() in own_threads

    def join(self, deadline: Deadline) -> None:
        """Wait for the links' thread, the callbacks' thread and the pool, and log what has not ended."""
        self.lifecycle.wait_ended(deadline.remaining())
        thread = self._link_thread.thread
        if thread.is_alive():
            thread.join(deadline.remaining())
        if thread.is_alive():
            states = ", ".join(f"{link.url.base} is {link.machine.shown}" for link in self.links)
            _warn("The runner %r has not stopped in time: %s", self._config.name, states)
        # Connecting threads are not joined: they cannot be interrupted, and change nothing of the engine.
        if not self.callbacks.join(deadline):
            _warn("A hook, or on_undelivered, has not returned yet")
        running = self._pool.join(deadline)
        if running:
            _warn(
                "Handlers of cancelled tasks still run, and keep the process alive until they return: %s",
                ", ".join(running),
            )

    def log_exit(self) -> None:
        """Log that the end of the program stops the runner, and which tasks it waits for."""
        if time.monotonic() - self.lifecycle.started_at < _SHORT_LIFE:
            logger.warning(
                "The program has ended, and the runner %r with it. To keep it going, end the program with "
                "runner.run() or runner.join()",
                self._config.name,
            )
        running = self.describe_tasks()
        if running:
            logger.warning(
                "The end of the program waits for the runner %r, at most %g s: %s",
                self._config.name,
                self.grace,
                running,
            )

    def describe_tasks(self) -> str:
        """Return the running tasks for a log line; an empty string if there are none."""
        tasks = [task.describe() for task in list(self._pool.active)]
        if not tasks:
            return ""
        count = f"{len(tasks)} running {units.plural('task', len(tasks))}"
        more = f" and {len(tasks) - _NAMED_TASKS} more" if len(tasks) > _NAMED_TASKS else ""
        return f"{count}: {', '.join(tasks[:_NAMED_TASKS])}{more}"

    def forked(self) -> None:
        """Close this process's copies of the descriptors. The parent process and the broker do not notice."""
        self._link_thread.forked()
        if self._health is not None:
            self._health.forked()

    # --- for the links, on their thread -----------------------------------------------------------

    def brokers_changed(self, brokers: Collection[int]) -> None:
        self.lifecycle.note_brokers(brokers)

    def link_registered(self, link: BrokerLink) -> None:
        self.lifecycle.note_registered(link.index)
        self.callbacks.put("registered", Registered(link.url.base, self._config.name))

    def task_cancelled(self, task: ActiveTask) -> None:
        if self.callbacks.hooks.of("cancelled"):
            call = Call(task, task.function, None)
            call.outcome = task.ending
            call.duration = time.monotonic() - task.begun_at if task.begun_at else None
            self.callbacks.put("cancelled", call)

    def undelivered(self, result: Undelivered) -> None:
        self.callbacks.put("undelivered", result)

    def link_refused(self, link: BrokerLink, error: errors.N8nRunnerError) -> bool:
        # A launcher's grant token works once. A wrong secret can be corrected while the runner waits.
        is_final = isinstance(error, errors.GrantTokenSpent) or is_one_shot(self._config)
        if not self.lifecycle.note_refused(link.index, error, is_final):
            return False
        if not self.lifecycle.start_raises_refusals:
            logger.error("The runner ends: %s", error)
        self.request_stop(0)
        return True

    def link_cannot_connect(self, error: Exception) -> None:
        if process.main_thread_has_ended:
            failed = errors.RunnerFailed(
                f"{error}, so the runner cannot connect. Keep the main thread running"
            )
            self._end_with(failed, "The runner has failed: %s", failed)

    def link_idle(self) -> None:
        if not self.lifecycle.is_stop_requested:
            logger.info(
                "Stopping: no task for %g s (N8N_RUNNERS_AUTO_SHUTDOWN_TIMEOUT)",
                self._config.auto_shutdown_timeout,
            )
            self.request_stop(self.grace)

    def _change_types(self, event: TypesChanged) -> None:
        self._link_thread.post(event)

    # --- the end ----------------------------------------------------------------------------------

    def _links_ended(self, failure: BaseException | None) -> None:
        # `stop` waits for this, so it must not wait for handlers or callbacks.
        if failure is not None:
            self._fail("n8nrunner-links", failure)
        guarded(self._pool.shut_down)
        guarded(self.callbacks.end)
        if self._health is not None:
            guarded(self._health.stop)
        exit_hook.engines.discard(self)
        self._registry.disconnect(self._change_types)
        if self.lifecycle.state is RunnerState.STOPPING:
            guarded(self._log_stopped)
        self.lifecycle.note_ended()

    def _log_stopped(self) -> None:
        """Log how long the stop took, before the end, after which the process may end.

        The thread is a separate one, because a log handler may block.
        """
        seconds = time.monotonic() - (self.lifecycle.stopping_at or 0.0)
        unfinished = self._link_thread.current.counts().unfinished
        level = logging.WARNING if unfinished else logging.INFO
        message = "The runner %r has stopped. The stop took %s%s"
        more = f", and {unfinished} {units.plural('task', unfinished)} did not finish" if unfinished else ""
        arguments = (level, message, self._config.name, units.duration(seconds), more)
        thread = threading.Thread(target=logger.log, args=arguments, name="n8nrunner-log", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads, or the interpreter is ending
            logger.log(*arguments)
        else:
            thread.join(STOP_LOG_WAIT)

    def _fail(self, thread: str, error: BaseException) -> None:
        """End the runner as failed, because an unexpected error ended a thread."""
        failed = errors.RunnerFailed(
            f"the thread {thread} ended because of an unexpected error ({logs.describe(error)})"
        )
        failed.__cause__ = error
        self._end_with(
            failed, "The runner has failed: %s. Please report it\n%s", failed, logs.frames_of(error)
        )

    def _end_with(self, error: errors.N8nRunnerError, message: str, *args: object) -> None:
        if self.lifecycle.fail(error):
            self.request_stop(self.grace)
            logger.error(message, *args)

    # --- for the pool, on any thread --------------------------------------------------------------

    def executor_broken(self, error: errors.ExecutorBroken) -> None:
        """End the runner, because it can run no more tasks. Other runners get them."""
        self._end_with(error, "The runner ends: %s", error)

    def set_offering(self, wanted: bool) -> None:
        """Offer tasks, or pause offers until the executor is replaced."""
        self._link_thread.post(OfferingChanged(wanted))

    # --- for users --------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Return the state of the runner now. Reads single values of the links without a lock."""
        now = time.monotonic()
        active = list(self._pool.active)
        return Snapshot(
            self.lifecycle.state.value,
            self._config.name,
            self._config.capacity,
            # After the end no slot is released, but handlers may still return.
            self._slots.taken if self.lifecycle.is_alive else len(active),
            self._link_snapshots(),
            tuple(_task_snapshot(task, now) for task in active),
            self._link_thread.current.counts(),
            self._recorder.functions(active),
            time.time(),
            (self.lifecycle.ended_at or now) - self.lifecycle.started_at,
            self._recorder.errors,
            self._config.error_details,
        )

    def _link_snapshots(self) -> tuple[LinkSnapshot, ...]:
        # A link that is gone may still wait for handlers, while a new link has the same address.
        links = (link.snapshot() for link in self.links if not link.machine.is_gone)
        names = (name.snapshot() for name in self._link_thread.names)
        return (*links, *(name for name in names if name is not None))


def _task_snapshot(task: ActiveTask, now: float) -> TaskSnapshot:
    return TaskSnapshot(
        task.id,
        task.type,
        now - task.started_at,
        task.progress_fraction,
        task.progress_text,
        task.cancel_reason,
        task.function,
        task.execution_id,
        task.node_name,
        task.deadline - task.started_at,
    )


def _log_ins(config: RunnerConfig) -> set[str]:
    """Return the addresses of the brokers' log-ins, which are the same in every form of a broker's URL."""
    return {url.auth for url in urls_of(config)}


def _reasons(links: Iterable[LinkSnapshot]) -> str:
    """Return why the links are not registered. Links of one name stand together."""
    texts: dict[str | None, list[str]] = {}
    for link in links:
        texts.setdefault(link.origin, []).append(link.last_error or f"{link.broker} is {link.state}")
    reasons = texts.pop(None, [])
    for origin, of_name in texts.items():
        more = f"; and {len(of_name) - _NAMED_LINKS} more" if len(of_name) > _NAMED_LINKS else ""
        count = f"{len(of_name)} address{'' if len(of_name) == 1 else 'es'}"
        reasons.append(f"{origin} has {count}: {'; '.join(of_name[:_NAMED_LINKS])}{more}")
    return "; ".join(reasons)


def _warn(message: str, *args: object) -> None:
    """Log a warning on another thread, or on the caller's if none can be started.

    A log handler may block, and the caller's thread may be the only one that can still end the process.
    """
    if not process.run_detached(lambda: logger.warning(message, *args), _LOG_WAIT):
        logger.warning(message, *args)


def _after_fork_in_child() -> None:
    renew_lock_after_fork()
    close_copies()


process.after_fork_in_child(_after_fork_in_child)
