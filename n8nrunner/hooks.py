"""The application's functions around calls and at other events.

They come from `Runner.on`, `task_context` and `on_undelivered`.
No function is called under a lock, and no exception of one changes what happens after it.
"""

from __future__ import annotations

import inspect
import threading
from contextlib import AbstractContextManager
from types import FunctionType
from typing import Any, Callable, Literal, NamedTuple, Union, get_args

from n8nrunner.errors import ConfigurationError
from n8nrunner.logs import describe, task_logger
from n8nrunner.snapshot import OutcomeName
from n8nrunner.task import ActiveTask, Task, Undelivered

#: Makes a context manager that is entered around every handler.
TaskContext = Union[
    Callable[[], AbstractContextManager[object]], Callable[[Task], AbstractContextManager[object]]
]
#: Called with each result that n8n did not get, or may not have got.
OnUndelivered = Callable[[Undelivered], object]

#: The functions that `is_plain` accepts, for an error.
PLAIN = "a plain function, without async and without yield"

#: The events of calls, on their own thread, and the other events, on the callbacks' thread.
CallEvent = Literal["started", "finished", "failed"]
OtherEvent = Literal["registered", "undelivered", "cancelled"]
EVENTS: tuple[str, ...] = (*get_args(CallEvent), *get_args(OtherEvent))

#: A function that `Runner.on` has registered. Its parameter depends on the event.
Hook = Callable[[Any], object]


class Registered(NamedTuple):
    """A registration with a broker."""

    broker: str  #: the broker's URL.
    runner: str  #: the runner's name.


class Call:
    """One call, for the hooks of `Runner.on`: of a function, or of the handler of a task type.

    The hooks of one call get the same object, from "started" to "finished" or "failed". Those of "cancelled"
    get a separate one.

    Attributes:
        task: the task.
        function: the function's name; None for the handler of a task type.
        item: the index of the call's item; None for a batch, for a handler, and for "cancelled".
        duration: the seconds inside of the call, without its hooks, and with the wait for the function's
            `limit`; None before its end. For "cancelled", the seconds until then; None if nothing has begun.
        outcome: how it ended, as in `FunctionSnapshot.outcomes`; None before its end.
        error: the exception that it raised; None if it raised none.
    """

    __slots__ = ("_state", "duration", "error", "function", "item", "outcome", "task")

    def __init__(self, task: Task, function: str | None, item: int | None) -> None:
        self.task = task
        self.function = function
        self.item = item
        self.duration: float | None = None
        self.outcome: OutcomeName | None = None
        self.error: BaseException | None = None
        self._state: dict[str, Any] | None = None

    def __repr__(self) -> str:
        item = "" if self.item is None else f", item {self.item}"
        return f"<Call of {self.name!r}{item}, task {self.task.id}, outcome={self.outcome!r}>"

    @property
    def name(self) -> str:
        """The function's name, or the task type."""
        return self.function or self.task.type

    @property
    def state(self) -> dict[str, Any]:
        """The hooks' own values: the same object from "started" to the end."""
        if self._state is None:
            self._state = {}
        return self._state

    @property
    def execution_id(self) -> str | None:
        """The id of the execution in n8n; None if unknown."""
        return self.task.execution_id

    @property
    def node(self) -> str | None:
        """The name of the node in the workflow; None if unknown."""
        return self.task.node_name


class CallHooks(NamedTuple):
    """The hooks of calls, for the threads of calls. A task keeps those that it began with."""

    started: tuple[Hook, ...] = ()
    finished: tuple[Hook, ...] = ()
    failed: tuple[Hook, ...] = ()

    def start(self, call: Call, task: ActiveTask) -> None:
        """Call the hooks of "started", once for each call."""
        for hook in self.started:
            try:
                hook(call)
            except BaseException as error:  # noqa: BLE001 - logged
                _handle("started", task, error)

    def end(self, call: Call, task: ActiveTask, duration: float, error: BaseException | None = None) -> None:
        """Call the hooks of "finished" or, after an exception, of "failed", once for each call."""
        call.duration = duration
        call.error = error
        if task.ending is not None:
            call.outcome = task.ending
        elif error is None:
            call.outcome = "done"
        elif isinstance(error, KeyboardInterrupt) and task.in_other_process:
            call.outcome = "unfinished"
        else:
            call.outcome = "failed"
        for hook in self.finished if error is None else self.failed:
            try:
                hook(call)
            except BaseException as raised:  # noqa: BLE001 - logged
                _handle("finished" if error is None else "failed", task, raised)


def _handle(event: CallEvent, task: ActiveTask, error: BaseException) -> None:
    """Log a hook's exception, or raise it if it ends the task."""
    if isinstance(error, KeyboardInterrupt) and task.in_other_process:
        raise error  # Ctrl-C ends the whole task there
    if task.admit_to_log(""):
        log_raised(f"A hook of {event!r}", error, task.describe(), task.error_details)


class Around(NamedTuple):
    """The application's functions around a task, in this process or, pickled, in another one."""

    context: TaskContext | None = None
    takes_task: bool = False  #: whether the context's function gets the task.
    calls: CallHooks | None = None  #: None without a hook.

    def enter(self, task: ActiveTask) -> AbstractContextManager[object]:
        """Return the context manager of a task. Call this only if there is a context."""
        make: Any = self.context
        return make(task) if self.takes_task else make()  # type: ignore[no-any-return]


class Hooks:
    """All functions of one application. For any thread.

    Attributes:
        around: the functions around a task. Replaced at each change, so that a task can keep what it has.

    Raises:
        ConfigurationError: with everything about the two functions that does not fit.
    """

    def __init__(
        self, task_context: TaskContext | None = None, on_undelivered: OnUndelivered | None = None
    ) -> None:
        given = (
            ("task_context", f"{PLAIN}, that makes a context manager", task_context),
            ("on_undelivered", PLAIN, on_undelivered),
        )
        problems = [
            f"{name}: expected {expected}, got {function!r}"
            for name, expected, function in given
            if function is not None and not is_plain(function)
        ]
        if problems:
            raise ConfigurationError(problems)
        self.around = Around(task_context, task_context is not None and takes_task(task_context))
        self._others: dict[str, tuple[Hook, ...]] = dict.fromkeys(get_args(OtherEvent), ())
        # Guards changes. Nothing is called under it.
        self._lock = threading.Lock()
        if on_undelivered is not None:
            self.add("undelivered", on_undelivered)

    def add(self, event: str, hook: Hook) -> None:
        """Add a function, after all others of the event, or in the place of an earlier version of it.

        Raises:
            ConfigurationError: there is no such event, or this is not a plain function.
        """
        if not is_plain(hook):
            raise ConfigurationError([f"hook of {event!r}: expected {PLAIN}; got {hook!r}"])
        if event not in EVENTS:
            raise ConfigurationError([f"event: expected one of {', '.join(EVENTS)}; got {event!r}"])
        with self._lock:
            if event in self._others:
                self._others[event] = _with(self._others[event], hook)
            else:
                calls = self.around.calls or CallHooks()
                calls = calls._replace(**{event: _with(getattr(calls, event), hook)})
                self.around = self.around._replace(calls=calls)

    def add_first(self, hook: Hook) -> None:
        """Add a function for the end of calls, before all others: one of them may end the call's span."""
        with self._lock:
            calls = self.around.calls or CallHooks()
            calls = calls._replace(finished=(hook, *calls.finished), failed=(hook, *calls.failed))
            self.around = self.around._replace(calls=calls)

    def of(self, event: OtherEvent) -> tuple[Hook, ...]:
        """Return the functions of an event that is not one of calls."""
        return self._others[event]

    @property
    def needs_thread(self) -> bool:
        """Whether a function waits for an event on the callbacks' thread."""
        return any(self._others.values())

    def renew_after_fork(self) -> None:
        """Replace the lock in a child process: a thread of the parent process may have held it."""
        self._lock = threading.Lock()


def _with(hooks: tuple[Hook, ...], hook: Hook) -> tuple[Hook, ...]:
    """Return the hooks with one more, which replaces an earlier version of the same function.

    A cell of a notebook that runs again, or a module that is imported again, defines its functions again.
    """
    name = _name_of(hook)
    if name is not None and name in map(_name_of, hooks):
        return tuple(hook if _name_of(each) == name else each for each in hooks)
    return (*hooks, hook)


def _name_of(hook: Hook) -> tuple[str, str] | None:
    """Return the module and the name of a function at the top level of a module; None for all others."""
    if not isinstance(hook, FunctionType) or not hook.__qualname__.isidentifier():
        return None
    return hook.__module__, hook.__qualname__


def is_plain(function: object) -> bool:
    """Return whether this can be called, and a call runs it rather than making a coroutine or a generator."""
    unfit = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    return callable(function) and not any(is_kind(function) for is_kind in unfit)


def takes_task(context: Callable[..., object]) -> bool:
    """Return whether a function for `task_context` gets the task: it does if it has a required parameter.

    So a function that can be called without an argument is called without one.

    Raises:
        ConfigurationError: it has more required parameters than the task's.
    """
    try:
        parameters = inspect.signature(context).parameters.values()
    except (TypeError, ValueError):  # of C code, for example
        return False
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [each for each in parameters if each.default is each.empty and each.kind not in variable]
    if len(required) > 1 or any(each.kind is each.KEYWORD_ONLY for each in required):
        names = ", ".join(each.name for each in required)
        raise ConfigurationError(
            [f"task_context: expected a function that takes no argument, or the task; it takes {names}"]
        )
    return bool(required)


def log_raised(what: str, error: BaseException, about: str, details: bool) -> None:
    """Log an exception of one of these functions. Its text is the application's, and may be left out."""
    task_logger.error(
        "%s raised %s for %s", what, describe(error), about, exc_info=error if details else None
    )
