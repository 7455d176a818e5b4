"""`Runner`, the facade: its settings, its registry of handlers, and an engine for each start."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Literal, TypeVar, overload

from n8nrunner import exit_hook, logs, process, reimports
from n8nrunner.call_log import log_call
from n8nrunner.config import DEFAULT_NAME, RunnerConfig, missing_token
from n8nrunner.deadline import Deadline
from n8nrunner.engine import STOP_LOG_WAIT, Engine, Extras
from n8nrunner.errors import ConfigurationError, N8nRunnerError, RunnerForked, RunnerStopped
from n8nrunner.execution.executors import ExecutorOrFactory
from n8nrunner.exit_hook import STOP_MARGIN
from n8nrunner.hooks import (
    Call,
    CallEvent,
    Hook,
    Hooks,
    OnUndelivered,
    Registered,
    TaskContext,
)
from n8nrunner.lifecycle import Lifecycle, RunnerState
from n8nrunner.logs import logger
from n8nrunner.record import Recorder
from n8nrunner.registry import Registry, check_task_type
from n8nrunner.snapshot import Counts, Snapshot
from n8nrunner.task import Task, Undelivered

if TYPE_CHECKING:
    from n8nrunner.functions.node.writing import Written


_HandlerType = TypeVar("_HandlerType", bound=Callable[[Task], object])
_FunctionType = TypeVar("_FunctionType", bound=Callable[..., object])
_OnRegistered = TypeVar("_OnRegistered", bound=Callable[[Registered], object])
_OnResult = TypeVar("_OnResult", bound=Callable[[Undelivered], object])
_OnCall = TypeVar("_OnCall", bound=Callable[[Call], object])


class Runner:
    """A task runner for n8n in this process. Building one opens nothing and starts nothing.

    A parameter that is None has the value of its environment variable (docs/settings.md has a table), or else
    its default. All methods may be called from any thread. ``with runner:`` starts the runner, and stops it
    at the end of the block.

    Args:
        broker: the URL of n8n's task broker, or several URLs. Several brokers share the capacity. A URL that
            begins with ``dns+http://`` or ``dns+https://`` means the brokers at all addresses of its host,
            as they come and go.
        auth_token: the secret shared with n8n (``N8N_RUNNERS_AUTH_TOKEN`` there).
        auth_token_file: a file that holds the secret, read again for every attempt to connect. A relative
            path becomes absolute when the runner is built.
        grant_token: a one-shot grant from a launcher. Later connections use the secret, if there is one.
        runner_id: the id that n8n sees. None (recommended): a new id for each connection.
        name: the name that n8n's log shows. A runner with functions needs another one than the default.
        capacity: how many tasks may run at once.
        task_timeout: seconds that a task may take.
        max_payload: bytes that a message may have, in both directions.
        graceful_shutdown_timeout: seconds that running tasks get when the runner stops.
        auto_shutdown_timeout: seconds without a task after which the runner stops; 0 for never.
        health_check_enabled: whether a health check server runs.
        health_check_host: the address on which the health check server listens.
        health_check_port: the port on which the health check server listens; 0 for any free one.
        health_check_allowed_hosts: names in the Host header to which ``/``, ``/status`` and ``/metrics``
            answer, besides ``localhost`` and IP addresses. Of IP addresses, a server on a loopback address
            accepts only loopback ones.
        error_details: whether the log shows the texts and tracebacks of exceptions that handlers raise. They
            can contain values of items. If not, it shows only the exceptions' types. n8n gets the texts in
            both cases.
        log_calls: whether the logger ``n8nrunner.tasks`` has a record with the level INFO for each call that
            ends.
        executor: where handlers run. None: on `capacity` threads of the runner. If it is an executor, the
            caller shuts it down, and the runner ends with `ExecutorBroken` when it breaks, such as when a
            process of a `ProcessPoolExecutor` dies. If it is a function that returns an executor, such as
            ``lambda: ProcessPoolExecutor(4)``, the runner shuts the executor down, and replaces a broken one;
            it offers no tasks until the replacement works.
        task_context: a function that makes a context manager, which is entered around every handler, such as
            ``app.app_context`` of Flask. If it has a required parameter, it gets the `Task`; a function that
            can be called without an argument is called without one.
        on_undelivered: a function that is called with an `Undelivered` for each result that n8n did not get,
            or may not have got, because the connection was lost. It runs on a thread of its own.
        shared: whether this runner tolerates another shared runner of this process that has functions, the
            same name and a common broker. If one of the two is not shared, the runner that is started last
            takes over, and the other one finishes its tasks and stops.

    Attributes:
        config: the settings.

    Raises:
        ConfigurationError: with all mistakes. A missing token alone is an error only when the runner starts.
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
        error_details: bool | None = None,
        log_calls: bool | None = None,
        executor: ExecutorOrFactory | None = None,
        task_context: TaskContext | None = None,
        on_undelivered: OnUndelivered | None = None,
        shared: bool = False,
    ) -> None:
        given = locals()  # all parameters; nothing else is local yet
        self.config = RunnerConfig.from_env(**{item.name: given[item.name] for item in fields(RunnerConfig)})
        self._extras = Extras(executor, shared)
        self._extras.check()
        self._hooks = Hooks(task_context, on_undelivered)
        if self.config.log_calls:
            self._hooks.add_first(log_call)
        self._registry = Registry(self.config.name)
        self._lock = threading.Lock()
        # The engine of the latest start, which may have failed. The lock guards this and the next two.
        self._latest: Engine | None = None
        # The engine that started last, and its lifecycle: users see these.
        self._engine: Engine | None = None
        self._lifecycle = Lifecycle(RunnerState.NEW)
        exit_hook.note_runner(self)

    def __repr__(self) -> str:
        return f"<Runner {self.config.name!r} for {', '.join(self.config.broker)}, {self.state}>"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        """Return the card that a notebook shows when the runner is the last expression of a cell."""
        from n8nrunner.notebook import bundle_of

        return bundle_of(self)

    # --- handlers -------------------------------------------------------------------------------

    def task(self, type: str, *, limit: int | None = None) -> Callable[[_HandlerType], _HandlerType]:
        """Decorate a function that handles tasks of one type. It takes a `Task` and returns a JSON value.

        The function itself does not change. Registering a type again replaces its handler from the next task
        on. While the runner runs, it offers a new type at once.

        Args:
            type: the task type, as the node in n8n names it.
            limit: how many tasks of this type may run at once; None for the capacity of the runner.

        Returns:
            A decorator that returns the function.

        Raises:
            ConfigurationError: the type, the limit or the function is not valid.
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
        function: _FunctionType | None = None,
        *,
        name: str | None = None,
        batch: bool = False,
        limit: int | None = None,
    ) -> _FunctionType | Callable[[_FunctionType], _FunctionType]:
        """Decorate a function that workflows call by n8n's node *Python Function*, or agents as a tool.

        Its type hints, defaults and docstring become the node's fields, the tool's JSON Schema, and their
        descriptions (docs/functions.md). It is also an operation of the node that `write_node` writes. The
        function itself does not change, and can be called as before. Registering a name again replaces the
        function from the next task on, as when a cell of a notebook runs again; n8n shows the change when a
        node asks the next time. The runner needs another name than the default.

        Args:
            function: the function, for ``@runner.function`` without parentheses.
            name: the function's name in n8n; None for its own name.
            batch: whether the function takes all items at once. A parameter that is a list then gets the
                values of all items, and any other parameter the value of the first item.
            limit: how many calls may run at once, such as 1 for a function that is not thread-safe; None for
                the capacity of the runner.

        Returns:
            The function, or a decorator that returns it.

        Raises:
            ConfigurationError: with every parameter that cannot become a field, and the reason.
        """

        def register(registered: _FunctionType) -> _FunctionType:
            is_first = self._registry.add_function(registered, name, batch, limit)
            engine = self._current_engine()
            if is_first and engine is not None:
                engine.lifecycle.on_registered(engine.take_over)
            return registered

        return register if function is None else register(function)

    @property
    def functions(self) -> Mapping[str, Callable[..., object]]:
        """The registered functions, by their names in n8n. It does not change; read it again."""
        known = self._registry.functions
        return {} if known is None else {name: made.function for name, made in known.by_name.items()}

    def remove(self, name: str) -> None:
        """Remove a function. Calls of it that run go on; a later call fails, and names the functions left.

        Args:
            name: its name in n8n.

        Raises:
            ConfigurationError: there is no function with this name.
        """
        self._registry.remove_function(name)

    def write_node(
        self, directory: str | os.PathLike[str] | None = None, *, docs_url: str | None = None
    ) -> Path:
        """Write the package of a node with this runner's functions. n8n loads it without a build.

        Args:
            directory: the folder in which to write the package's folder. None for the folder in which an n8n
                on this machine looks when it starts: the last one of ``N8N_CUSTOM_EXTENSIONS``, or else
                ``.n8n/custom`` in ``N8N_USER_FOLDER`` or in the home folder. Files that are current are not
                written.
            docs_url: the page to which the node's "Docs" link in n8n leads; None for n8n's page on task
                runners.

        Returns:
            The package's folder.

        Raises:
            ConfigurationError: no function is registered, the runner has no valid name, `docs_url` is
                not an HTTP address, there is no home folder, n8n would confuse the node with another one in
                the folder, the package's path has a symbolic link, or the extra "node" is not installed.
            OSError: the folder cannot be written to.
        """
        return self._write_node(directory, docs_url).folder

    def _write_node(self, directory: str | os.PathLike[str] | None, docs_url: str | None) -> Written:
        """Write the package as `write_node` does, and return what has changed."""
        from n8nrunner.functions.node.package import make_package  # imported only where a node is written
        from n8nrunner.functions.node.writing import custom_folder, folder_of

        functions = self._registry.functions
        self._registry.check_name()
        known = [] if functions is None else list(functions.by_name.values())
        package = make_package(self.config.name, known, docs_url)
        where = custom_folder(os.environ) if directory is None else folder_of(directory)
        return package.write(where, os.environ)

    def _take_from(self, other: Runner) -> None:
        """Serve what another runner has, which was not started, in place of everything that this one has.

        From then on, both objects are the same runner. Settings stay as they are.

        Raises:
            ConfigurationError: there are functions now, and the runner has no valid name.
        """
        change = self._registry.prepare_successor(other._registry)
        had_functions = self._registry.functions is not None
        engine = self._current_engine()
        if engine is None or not engine.lifecycle.is_alive or not engine.renew(change, other._hooks):
            change()
        elif not had_functions and self._registry.functions is not None:
            engine.lifecycle.on_registered(engine.take_over)
        self._hooks = other._hooks
        other.config, other._extras, other._registry = self.config, self._extras, self._registry
        other._lock, other._latest = self._lock, self._latest
        other._engine, other._lifecycle = self._engine, self._lifecycle

    @property
    def _runs_in_process(self) -> bool:
        """Whether the functions of the runner, which runs, are called in this process."""
        engine = self._current_engine()
        return engine is None or engine.is_in_process

    def _copy(self, **settings: object) -> Runner:
        """Return a new runner with the same handlers and other settings. This runner stays as it is."""
        made = copy.copy(self)
        made.config = replace(self.config, **settings)  # type: ignore[arg-type]
        made._registry = Registry(made.config.name)
        made._registry.copy_from(self._registry)
        made._lock = threading.Lock()
        made._latest = made._engine = None
        made._lifecycle = Lifecycle(RunnerState.NEW)
        exit_hook.note_runner(made)
        return made

    def _use_name(self, name: str) -> None:
        """Give the runner this name if it has none of its own. Characters that are not allowed become '_'."""
        own = name_from(name)
        if own and self.config.name == DEFAULT_NAME and self._current_engine() is None:
            self._change_setting("name", own)
            self._registry.runner_name = own

    def _log_calls(self) -> None:
        """Log each call, as with the setting `log_calls`."""
        if not self.config.log_calls:
            self._change_setting("log_calls", True)
            self._hooks.add_first(log_call)

    def _change_setting(self, name: str, value: object) -> None:
        """Change a setting. `dataclasses.replace` would note the folder of now, as for new settings."""
        self.config = copy.copy(self.config)
        object.__setattr__(self.config, name, value)

    @overload
    def on(self, event: Literal["registered"]) -> Callable[[_OnRegistered], _OnRegistered]: ...

    @overload
    def on(self, event: Literal["registered"], function: _OnRegistered) -> _OnRegistered: ...

    @overload
    def on(self, event: Literal["undelivered"]) -> Callable[[_OnResult], _OnResult]: ...

    @overload
    def on(self, event: Literal["undelivered"], function: _OnResult) -> _OnResult: ...

    @overload
    def on(self, event: CallEvent | Literal["cancelled"]) -> Callable[[_OnCall], _OnCall]: ...

    @overload
    def on(self, event: CallEvent | Literal["cancelled"], function: _OnCall) -> _OnCall: ...

    def on(self, event: str, function: Hook | None = None) -> object:
        """Let a function be called at every event of one kind: a hook. Add it before or after the start.

        Use it as a decorator, ``@runner.on("failed")``, or directly, ``runner.on("failed", report)``. Several
        hooks of an event are called in the order in which they were added. A function at the top level of a
        module replaces an earlier one of the same name, as when a cell of a notebook runs again. The events
        are:

        - "started": before each call of a function, and before the handler of a task type. It gets a `Call`.
        - "finished": after a call that returned. It gets the same `Call`.
        - "failed": after a call that raised, or whose arguments do not fit. It gets the same `Call`.
        - "cancelled": a running task's result is not wanted any more, because n8n cancelled it, it timed out,
          its connection was lost, or the runner stops. It gets a separate `Call`.
        - "undelivered": a result did not arrive, or may not have arrived. It gets an `Undelivered`.
        - "registered": a broker has registered the runner. It gets a `Registered`.

        The first three run on the thread of the call, inside of the `task_context`, and delay the call.
        Exactly one of "finished" and "failed" follows each "started", also if the task is cancelled in
        between: `Call.outcome` says it. In a process of an executor, they run there, and are pickled as a
        handler is. All others run on a thread of their own. An exception of a hook is logged, to the logger
        ``n8nrunner.tasks``, and changes nothing else.

        Args:
            event: the event.
            function: the hook; None for a decorator.

        Returns:
            The function, or a decorator that returns it.

        Raises:
            ConfigurationError: there is no such event, or the function is not a plain one.
            RuntimeError: the process can have no more threads.
        """

        def add(hook: Hook) -> Hook:
            self._hooks.add(event, hook)
            engine = self._current_engine()
            if engine is not None and engine.lifecycle.is_alive:
                engine.callbacks.start()
            return hook

        return add if function is None else add(function)

    # --- life -----------------------------------------------------------------------------------

    def start(self, wait: float = 10.0) -> None:
        """Start the runner in the background, or wait for the registration of a runner that runs already.

        In the parent process of a reloader, and while `multiprocessing` imports the program, do nothing and
        log the reason. In a notebook, print how to call the runner from n8n.

        If the runner is stopping, first wait until it has stopped. If this raises, everything that this call
        started has stopped. A runner that was already running keeps running.

        Args:
            wait: seconds to wait for the first registration. With 0, do not wait for a broker, and do not
                raise if n8n cannot be reached or refuses the token: log it and try again. This is for
                applications that start before n8n does.

        Raises:
            AuthenticationError: every broker refused the token.
            BrokerConnectionError: no broker registered the runner in time. It has each broker's last failure.
            ConfigurationError: there is no token, the health check server cannot listen (with `wait=0`, this
                is logged, and the runner runs without it), or a runner with functions has no valid name.
            ExecutorBroken: the executor does not run anything, or the threads for tasks cannot be started.
            OSError: the process has no descriptor left.
            RuntimeError: another thread of the runner cannot be started.
            RunnerStopped: `stop` was called during this call, an earlier stop takes too long, or the program
                is ending.
        """
        if reimports.may_start():
            self._start(wait, gives_up=wait > 0, tells=True)

    def _start(self, wait: float, gives_up: bool, tells: bool = False) -> Engine:
        """Start the runner unless it runs; wait for the first registration if `wait` is above 0.

        With `gives_up`, the runner ends when every broker refuses the token before a registration. With
        `tells`, a notebook shows the start, and outputs of later calls below the cell that runs.
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
            if tells and "IPython" in sys.modules:  # imported by every notebook
                from n8nrunner.notebook import note_start

                if note_start(self):
                    engine.renew_context()
            return engine
        except BaseException:
            for engine in begun:
                engine.undo_start()
            raise

    def _begin(self, begun: list[Engine], gives_up: bool) -> Engine:
        """Return the engine that runs or is being started; if there is none, start one that `begun` gets."""
        import_module("n8nrunner.connection.loop")  # slow, so before the lock under which an engine is built
        while True:
            with self._lock:
                other = self._latest
                if other is None or not other.lifecycle.is_alive:
                    missing = missing_token(self.config)
                    if missing:
                        raise ConfigurationError(missing)
                    self._registry.check_name()
                    engine = Engine(self.config, self._registry, self._hooks, self._extras, gives_up)
                    begun.append(engine)
                    self._latest = engine
                    break
            if other.lifecycle.is_starter:
                return other  # called by a log handler, inside of `start`
            state = other.lifecycle.state  # read once, because another thread may change it
            if state is RunnerState.RUNNING:
                self._publish(other)  # the thread that has started it may not have come to this
                return other
            if state is RunnerState.STARTING:
                other.lifecycle.wait_started()
            else:
                _wait_for_stop(other)
        engine.start()
        self._publish(engine)
        return engine

    def _publish(self, engine: Engine) -> None:
        """Make a started engine the one that users see, unless a later start has begun."""
        with self._lock:
            if self._latest is engine:
                self._engine, self._lifecycle = engine, engine.lifecycle

    def _current_engine(self) -> Engine | None:
        """Return the engine that is being started, or else the last one that ran."""
        latest = self._latest
        return latest if latest is not None and latest.lifecycle.is_alive else self._engine

    def _current_lifecycle(self) -> Lifecycle:
        """Return what a caller can wait for; raise `RunnerForked` if it is in the parent process."""
        engine = self._current_engine()
        if engine is None and self._lifecycle.state is RunnerState.FORKED:
            raise RunnerForked(
                "this runner was started before the process forked, and runs in the parent only; "
                "call start() here to run it in this process too"
            )
        return self._lifecycle if engine is None else engine.lifecycle

    def stop(self, timeout: float | None = None) -> None:
        """Stop the runner: take no new tasks, let running tasks finish, cancel the rest, and disconnect.

        This may be called in every state and any number of times. A call from a handler or from
        `on_undelivered` does not wait for the end.

        Args:
            timeout: seconds that running tasks get to finish; None for `graceful_shutdown_timeout`.
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
        """Wait until the runner has stopped. Return at once if it was not started.

        Args:
            timeout: the longest wait, in seconds; None for no limit.

        Returns:
            Whether the runner has stopped.

        Raises:
            N8nRunnerError: the runner ended by itself. This is the reason, as in `error`.
            RunnerForked: the runner runs in the parent process.
        """
        lifecycle = self._current_lifecycle()
        if not lifecycle.wait_ended(timeout):
            return False
        if lifecycle.error is not None:
            raise lifecycle.error
        return True

    def run(self) -> None:
        """Start the runner, and wait until SIGINT, SIGTERM, `stop`, the idle shutdown or an error stops it.

        A second signal ends the process at once. On another thread than the main thread, signals count only
        after the end of the main thread. Signals that are ignored or handled by C code keep their handling.
        If the program has not configured logging, stderr shows the log with the level INFO while the runner
        runs. Where `start` does nothing, this returns at once.

        Raises:
            N8nRunnerError: as for `start` and `join`.
        """
        if reimports.may_start():
            self._run(lambda signals: contextlib.nullcontext())

    def _run(self, beside: Callable[[process.Signals], AbstractContextManager[object]]) -> None:
        """Run as `run` does, in the context that `beside` makes of the signals."""
        with logs.shown_during_run(), process.signals() as signals, beside(signals):
            engine = self._start(wait=0, gives_up=True)
            engine.lifecycle.on_ended(signals.end)
            number = signals.wait()
            if number is not None:
                # To log may mean to wait, for a lock or for a pipe that has no reader. A short wait keeps the
                # order of the lines: the stop logs its end.
                is_logged = process.run_detached(lambda: _log_stop(engine, number), STOP_LOG_WAIT)
                engine.request_stop(engine.grace)
                if not is_logged:
                    _log_stop(engine, number)
                signals.wait(engine.grace + STOP_MARGIN)
            engine.join(Deadline(STOP_MARGIN))
            process.wait_for_detached()
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
        """The state: "new", "running", "stopping", "stopped", "failed", or "forked" in a child process."""
        return self._lifecycle.state.value

    @property
    def error(self) -> N8nRunnerError | None:
        """Why the runner ended by itself; None if it did not."""
        return self._lifecycle.error

    @property
    def is_registered(self) -> bool:
        """Whether the runner is registered with at least one broker now."""
        return self._lifecycle.is_registered

    def wait_registered(self, timeout: float | None = None) -> bool:
        """Wait until the runner is registered with a broker. Return at once if it was not started.

        Args:
            timeout: the longest wait, in seconds; None for no limit.

        Returns:
            Whether the runner is registered.

        Raises:
            N8nRunnerError: the runner ended by itself. This is the reason, as in `error`.
            RunnerForked: the runner runs in the parent process.
        """
        lifecycle = self._current_lifecycle()
        registered = lifecycle.wait_registered(Deadline(timeout))
        if not registered and lifecycle.error is not None:
            raise lifecycle.error
        return registered

    def snapshot(self) -> Snapshot:
        """Return the state of the runner now: its connections, running tasks, functions and totals."""
        engine = self._engine
        if engine is None:
            functions = Recorder(self._registry).functions()
            return Snapshot(
                self.state,
                self.config.name,
                self.config.capacity,
                0,
                (),
                (),
                Counts(),
                functions,
                time.time(),
                error_details=self.config.error_details,
            )
        return engine.snapshot()

    def _after_fork(self) -> None:
        """Forget the engine, in a child process: its threads are in the parent process."""
        self._lock = threading.Lock()
        self._registry.renew_after_fork()
        self._hooks.renew_after_fork()
        if self._latest is not None and self._latest.lifecycle.is_alive:
            self._latest.forked()
        if self._lifecycle.is_alive:
            self._lifecycle = Lifecycle(RunnerState.FORKED)
        elif self._engine is not None:
            self._lifecycle = Lifecycle(RunnerState.NEW)
        self._engine = self._latest = None


def name_from(text: str) -> str:
    """Return the name that a text gives a runner: characters that are not allowed become "_"."""
    return re.sub(r"[^a-z0-9_-]+", "_", text.lower()).strip("_-")[:64]


def _wait_for_stop(engine: Engine) -> None:
    """Wait until an engine has stopped, so that another one can start."""
    if engine.is_links_thread():
        raise RunnerStopped("start() was called on the thread that stops the runner; call it on another one")
    if not engine.lifecycle.wait_stopped():
        raise RunnerStopped("the runner is still stopping, so it cannot be started")


def _log_stop(engine: Engine, number: int) -> None:
    tasks = engine.describe_tasks()
    logger.log(
        logging.WARNING if tasks else logging.INFO,
        "Stopping after %s%s. Another signal ends the process at once",
        signal.Signals(number).name,
        f": waiting at most {engine.grace:g} s for {tasks}" if tasks else "",
    )


def _after_fork_in_child() -> None:
    for runner in list(exit_hook.runners):
        if isinstance(runner, Runner):
            runner._after_fork()


process.after_fork_in_child(_after_fork_in_child)
