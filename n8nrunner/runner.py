"""`Runner`: what a program sees of all this. Builds links, pool and slots; starts and stops them."""

from __future__ import annotations

import os
import re
import signal
import threading
import weakref
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, TypeVar, overload

from n8nrunner import exit_hook, logs, process, reimports
from n8nrunner.callbacks import OnUndelivered
from n8nrunner.config import DEFAULT_NAME, RunnerConfig
from n8nrunner.deadline import Deadline
from n8nrunner.engine import Engine, Extras
from n8nrunner.errors import ConfigurationError, N8nRunnerError, RunnerForked, RunnerStopped
from n8nrunner.execution.executors import ExecutorOrFactory
from n8nrunner.execution.invoke import TaskContext
from n8nrunner.exit_hook import STOP_MARGIN
from n8nrunner.lifecycle import Lifecycle, State
from n8nrunner.registry import Registry, check_task_type
from n8nrunner.snapshot import Counts, Snapshot
from n8nrunner.task import Task

if TYPE_CHECKING:
    from n8nrunner.functions.node.writing import Written

logger = logs.get_logger("n8nrunner")

_HandlerType = TypeVar("_HandlerType", bound=Callable[[Task], Any])
_FunctionType = TypeVar("_FunctionType", bound=Callable[..., Any])


class Runner:
    """A task runner of n8n in this process. Building one opens nothing and starts nothing.

    What is not given is taken from n8n's own environment variables (`config.VARIABLES`), and then from
    `RunnerConfig`'s defaults. All methods may be called from any thread.

    Args:
        broker: the URL of n8n's task broker, or several; they share the capacity.
        auth_token: the secret shared with n8n (``N8N_RUNNERS_AUTH_TOKEN`` there).
        auth_token_file: a file that holds it, read again for every attempt to connect.
        grant_token: a one-shot grant from a launcher; the secret, if there is one, serves for reconnecting.
        runner_id: the id towards n8n; best left out.
        name: shown in n8n's log.
        capacity: how many tasks may run at once.
        task_timeout: seconds that a task may take.
        max_payload: bytes that a message may have, in both directions.
        graceful_shutdown_timeout: seconds that running tasks get when the runner stops.
        auto_shutdown_timeout: seconds without a task after which the runner stops; 0 for never.
        health_check_enabled: whether a health check server runs.
        health_check_host: the address on which it listens.
        health_check_port: the port on which it listens; 0 for any free one.
        health_check_allowed_hosts: names under which its ``/status`` may be asked.
        executor: where handlers run; None for `capacity` threads of the runner. An executor that is passed
            stays the caller's: the runner never shuts it down, and ends with `ExecutorBroken` when it breaks,
            such as when a process of a `ProcessPoolExecutor` dies. A function that makes an executor, such as
            ``lambda: ProcessPoolExecutor(4)``, gives it to the runner: the runner shuts it down at the end,
            and replaces it when it breaks. No task is offered until then.
        task_context: a factory of context managers, entered around every handler, such as
            ``app.app_context`` of Flask.
        on_undelivered: called with an `Undelivered` for each result whose connection was lost, on a thread of
            its own.
        shared: whether another runner of this process with functions and the same name may run beside this
            one, if it is shared as well. Otherwise the one that is started last takes over, and the other one
            finishes its tasks and stops.

    Attributes:
        config: the settings.

    Raises:
        ConfigurationError: with all mistakes. A missing token is an error only when the runner starts.
    """

    def __init__(
        self,
        broker: str | Sequence[str] | None = None,
        *,
        auth_token: str | None = None,
        auth_token_file: str | None = None,
        grant_token: str | None = None,
        runner_id: str | None = None,
        name: str | None = None,
        capacity: int | None = None,
        task_timeout: float | None = None,
        max_payload: int | None = None,
        graceful_shutdown_timeout: float | None = None,
        auto_shutdown_timeout: float | None = None,
        health_check_enabled: bool | None = None,
        health_check_host: str | None = None,
        health_check_port: int | None = None,
        health_check_allowed_hosts: Sequence[str] | None = None,
        executor: ExecutorOrFactory | None = None,
        task_context: TaskContext | None = None,
        on_undelivered: OnUndelivered | None = None,
        shared: bool = False,
    ) -> None:
        given = locals()
        self.config = RunnerConfig.from_env(**{item.name: given[item.name] for item in fields(RunnerConfig)})
        self._extras = Extras(executor, task_context, on_undelivered, shared)
        self._extras.check()
        self._registry = Registry(self.config.name)
        self._lock = threading.Lock()
        # The start that was begun last, which may have failed; guarded by the lock.
        self._begun: Engine | None = None
        # The start that succeeded last, and its lifecycle: what users see.
        self._engine: Engine | None = None
        self._lifecycle = Lifecycle(State.NEW)
        _runners.add(self)
        exit_hook.note_runner(self)

    def __repr__(self) -> str:
        return f"<Runner {self.config.name!r} for {', '.join(self.config.broker)}, {self.state}>"

    # --- handlers -------------------------------------------------------------------------------

    def task(self, type: str, *, limit: int | None = None) -> Callable[[_HandlerType], _HandlerType]:
        """Registers the decorated function for tasks of a type. It takes a `Task` and returns any JSON.

        Registering a type again replaces its handler from the next task on. A handler that is registered
        while the runner runs is offered at once.

        Args:
            type: the task type, as the node in n8n names it.
            limit: how many tasks of this type may run at once; None for as many as there are slots.

        Raises:
            ConfigurationError: the type, the limit or the function cannot work.
        """
        check_task_type(type, limit)

        def register(handler: _HandlerType) -> _HandlerType:
            self._registry.add_task(type, handler, limit)
            return handler

        return register

    @overload
    def function(self, function: _FunctionType) -> _FunctionType: ...

    @overload
    def function(
        self, *, name: str | None = None, batch: bool = False, limit: int | None = None
    ) -> Callable[[_FunctionType], _FunctionType]: ...

    def function(
        self,
        function: Callable[..., Any] | None = None,
        *,
        name: str | None = None,
        batch: bool = False,
        limit: int | None = None,
    ) -> Any:
        """Makes the decorated function an operation of this runner's node in n8n.

        Its type hints become the fields, its defaults theirs, its docstring their descriptions. The function
        itself stays as it is, and can be called as before. Registering a name again replaces the function
        from the next task on, as a notebook does when a cell runs again. The runner needs a name of its own.

        Args:
            function: with ``@runner.function`` alone, the function.
            name: what n8n knows it by; None for the function's own name.
            batch: whether it takes all items at once: a parameter that is a list gets a value of each item,
                and every other parameter the first item's.
            limit: how many calls may run at once, such as 1 for what is not thread-safe; None for as many as
                there are slots.

        Raises:
            ConfigurationError: with every parameter that cannot become a field, and why.
        """
        if function is None:
            return lambda function: self._add_function(function, name, batch, limit)
        return self._add_function(function, name, batch, limit)

    def _add_function(
        self, function: _FunctionType, name: str | None, batch: bool, limit: int | None
    ) -> _FunctionType:
        is_first = self._registry.add_function(function, name, batch, limit)
        engine = self._current_engine()
        if is_first and engine is not None:
            engine.lifecycle.on_registered(engine.take_over)
        return function

    def write_node(
        self, directory: str | os.PathLike[str] | None = None, *, docs_url: str | None = None
    ) -> Path:
        """Write the node package of this runner's functions, which n8n loads as it is.

        Args:
            directory: the folder for the package's folder; None for the one where an n8n on this machine
                looks when it starts: the last one of ``N8N_CUSTOM_EXTENSIONS``, else ``~/.n8n/custom`` (or
                below ``N8N_USER_FOLDER``, if that is set). Files that are current already are not written.
            docs_url: the page that the node's "Docs" link in n8n shows; None for n8n's page on task runners.

        Returns:
            The package's folder.

        Raises:
            ConfigurationError: there is no function, the runner has no name of its own, n8n would take the
                node and another one in the folder for the same, or the extra "node" is not installed.
            OSError: the folder cannot be written to.
        """
        return self._write_node(directory, docs_url).folder

    def _write_node(self, directory: str | os.PathLike[str] | None, docs_url: str | None) -> Written:
        """As `write_node`, which returns a part of this."""
        from n8nrunner.functions.node.package import make_package  # imported only where a node is written
        from n8nrunner.functions.node.writing import custom_folder, folder_of

        functions = self._registry.functions
        self._registry.check_name()
        known = [] if functions is None else list(functions.by_name.values())
        package = make_package(self.config.name, known, docs_url)
        where = custom_folder(os.environ) if directory is None else folder_of(directory)
        return package.write(where, os.environ)

    def _use_name(self, name: str) -> None:
        """Gives a runner that has no name of its own yet this one; what starts a module's runner names it so.

        Args:
            name: anything; what a name may not hold becomes '_'.
        """
        if self.config.name == DEFAULT_NAME and self._current_engine() is None:
            self.config = replace(self.config, name=re.sub(r"[^a-z0-9_-]+", "_", name.lower()).strip("_-"))
            self._registry.runner_name = self.config.name

    # --- life -----------------------------------------------------------------------------------

    def start(self, wait: float = 10.0) -> None:
        """Start the runner in the background, or wait for the registration of a runner that runs already.

        If the runner is stopping, first wait until it has stopped. What this call has started does not run
        after it has raised; a runner that ran before the call goes on.

        Args:
            wait: seconds to wait for the first registration. With 0, do not wait for a broker, and do not
                raise if n8n cannot be reached or refuses the token: log it and try again. This is for
                applications that start before n8n does.

        Raises:
            AuthenticationError: every broker refused the token.
            BrokerConnectionError: no broker registered the runner in time. It says what was tried.
            ConfigurationError: there is no token, the health check server cannot listen, or functions lack a
                runner's name.
            ExecutorBroken: the executor that was passed runs nothing.
            OSError, RuntimeError: the process has no descriptor or no thread left.
            RunnerStopped: `stop` was called during this call.
        """
        if reimports.may_start():
            self._start(wait, gives_up=wait > 0)

    def _start(self, wait: float, gives_up: bool) -> Engine:
        """Start the runner unless it runs; wait for the first registration if `wait` is above 0.

        Args:
            gives_up: whether the runner ends when every broker refuses the token before a registration.
        """
        begun: list[Engine] = []  # filled before a thread is started, so that no interrupt loses the engine
        try:
            engine = self._begin(begun, gives_up)
            if begun:
                reimports.note_start()
            elif gives_up and wait <= 0:
                engine.give_up_when_refused()
            if wait > 0:
                engine.wait_registered(wait)
            return engine
        except BaseException:
            for engine in begun:
                engine.undo_start()
            raise

    def _begin(self, begun: list[Engine], gives_up: bool) -> Engine:
        """Return the engine that runs or is being started; if there is none, start one that `begun` gets."""
        while True:
            with self._lock:
                other = self._begun
                if other is None or not other.lifecycle.is_alive:
                    self._check_startable()
                    engine = Engine(self.config, self._registry, self._extras, gives_up)
                    begun.append(engine)
                    engine.lifecycle.begin()
                    self._begun = engine
                    break
            if other.lifecycle.state is State.RUNNING or other.lifecycle.is_starter:
                return other  # in the latter case, called by a log handler, inside of `start`
            if other.lifecycle.state is State.STARTING:
                other.lifecycle.wait_started()
            else:
                _wait_for_stop(other)
        engine.start()
        self._engine, self._lifecycle = engine, engine.lifecycle
        return engine

    def _check_startable(self) -> None:
        missing = self.config.missing()
        if missing:
            raise ConfigurationError(missing)
        self._registry.check_name()

    def _current_engine(self) -> Engine | None:
        """Return the engine that is being started, or else the last one that ran."""
        begun = self._begun
        return begun if begun is not None and begun.lifecycle.is_alive else self._engine

    def stop(self, timeout: float | None = None) -> None:
        """Stops the runner: no new tasks, running ones get time to finish, then they are cancelled.

        Works in every state, any number of times. From within a handler or `on_undelivered` it asks and
        returns.

        Args:
            timeout: seconds that running tasks get; None for ``graceful_shutdown_timeout``.
        """
        engine = self._current_engine()
        if engine is None:
            return
        grace = engine.grace if timeout is None else timeout
        engine.request_stop(grace)
        if engine.is_own_thread() or engine.lifecycle.is_starter:
            return  # in the latter case, called by a log handler or a signal handler, inside of `start`
        engine.join(Deadline(grace + STOP_MARGIN))

    def join(self, timeout: float | None = None) -> bool:
        """Waits until the runner has stopped.

        Args:
            timeout: seconds; None for as long as it takes.

        Returns:
            Whether it has stopped.

        Raises:
            N8nRunnerError: it ended by itself, with the reason; see `error`.
            RunnerForked: it runs in the parent process.
        """
        self._refuse_forked()
        lifecycle = self._lifecycle
        if not lifecycle.wait_ended(timeout):
            return False
        if lifecycle.error is not None:
            raise lifecycle.error
        return True

    def run(self) -> None:
        """Starts the runner and returns when it has stopped: by SIGINT, SIGTERM, `stop`, or by itself.

        A second signal ends the process at once. Signals are handled in the main thread only, and not if they
        are ignored or handled by C code. In a program that has not configured logging, the log from INFO on
        is shown on stderr meanwhile.

        Raises:
            N8nRunnerError: as `start` and `join`.
        """
        if not reimports.may_start():
            return
        with logs.shown(), process.signals() as signals:
            engine = self._start(wait=0, gives_up=True)
            engine.lifecycle.on_ended(signals.end)
            number = signals.wait()
            if number is not None:
                # First the stop: to log may mean to wait, for a lock or for a pipe that has no reader.
                engine.request_stop(engine.grace)
                if not process.aside(lambda: _log_stop(engine, number)):
                    _log_stop(engine, number)
                signals.wait(Deadline(engine.grace + STOP_MARGIN))
            engine.join(Deadline(STOP_MARGIN))
            process.wait_for_asides()
        if engine.lifecycle.error is not None:
            raise engine.lifecycle.error

    def __enter__(self) -> Runner:
        before = self._engine
        try:
            self.start()
            return self
        except BaseException:
            # An interrupt may come after `start` has returned and before the body of the block begins.
            engine = self._engine
            if engine is not None and engine is not before:
                engine.undo_start()
            raise

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    # --- state ----------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """One of "new", "running", "stopping", "stopped", "failed" and "forked"."""
        return self._lifecycle.state.value

    @property
    def error(self) -> N8nRunnerError | None:
        """Why the runner ended by itself; None if it did not."""
        return self._lifecycle.error

    @property
    def is_registered(self) -> bool:
        """Whether at least one broker knows the runner now."""
        return self._lifecycle.is_registered()

    def wait_registered(self, timeout: float | None = None) -> bool:
        """Waits until a broker knows the runner.

        Args:
            timeout: seconds; None for as long as it takes.

        Returns:
            Whether one does.

        Raises:
            N8nRunnerError: the runner has ended by itself.
            RunnerForked: it runs in the parent process.
        """
        self._refuse_forked()
        engine = self._current_engine()
        lifecycle = self._lifecycle if engine is None else engine.lifecycle
        registered = lifecycle.wait_registered(Deadline(timeout))
        if not registered and lifecycle.error is not None:
            raise lifecycle.error
        return registered

    def snapshot(self) -> Snapshot:
        """The runner as it is now: connections, running tasks, totals."""
        engine = self._engine
        if engine is None:
            return Snapshot(self.state, self.config.name, self.config.capacity, 0, (), (), Counts())
        return engine.snapshot()

    # --- fork -----------------------------------------------------------------------------------

    def _refuse_forked(self) -> None:
        if self._lifecycle.state is State.FORKED:
            raise RunnerForked(
                "this runner was started before the process forked, and runs in the parent only; "
                "call start() here to run it in this process too"
            )

    def _after_fork(self) -> None:
        """In a child process: the threads are the parent's, and so is what they hold."""
        self._lock = threading.Lock()
        self._registry.renew_lock_after_fork()
        if self._begun is not None and self._begun.lifecycle.is_alive:
            self._begun.forked()
        if self._lifecycle.is_alive:
            self._lifecycle = Lifecycle(State.FORKED)
        elif self._engine is not None:
            self._lifecycle = Lifecycle(State.NEW)
        self._engine = self._begun = None


def _wait_for_stop(engine: Engine) -> None:
    """Wait until an engine has stopped, so that another one can start."""
    if engine.is_links_thread():
        raise RunnerStopped("start() was called on the thread that stops the runner; call it on another one")
    if not engine.lifecycle.wait_stopped():
        raise RunnerStopped("the runner is still stopping, so it cannot be started")


def _log_stop(engine: Engine, number: int) -> None:
    name = signal.Signals(number).name
    running = engine.describe_tasks()
    if running:
        logger.warning(
            "Stopping after %s: waiting at most %g s for %s. Another signal ends the process at once",
            name,
            engine.grace,
            running,
        )
    else:
        logger.info("Stopping after %s. Another signal ends the process at once", name)


_runners: weakref.WeakSet[Runner] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for runner in list(_runners):
        runner._after_fork()


process.after_fork_in_child(_after_fork_in_child)
