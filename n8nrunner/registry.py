"""The task types and functions of a runner."""

from __future__ import annotations

import inspect
import re
import threading
from typing import TYPE_CHECKING, Callable

from n8nrunner.config import DEFAULT_NAME
from n8nrunner.errors import ConfigurationError
from n8nrunner.execution.invoke import Handler

if TYPE_CHECKING:
    from n8nrunner.functions.dispatch import Functions
    from n8nrunner.functions.function import Function

#: A runner's name as a part of a task type, of a package's name and of a file's name.
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")

#: The task types of a runner and how many tasks of each may run at once; None for no limit of its own.
Types = dict[str, "int | None"]

#: The functions that `is_plain` accepts, for an error.
PLAIN = "a plain function, without async and without yield"


class Registry:
    """The handlers of one runner: of its task types, and of its functions. For any thread.

    The links have copies of the task types. One listener is told of every change, under the lock, so that it
    learns of the changes of several threads in their order.

    Args:
        runner_name: the runner's name, which is a part of the task types of its functions.
    """

    def __init__(self, runner_name: str) -> None:
        self.runner_name = runner_name
        #: None until the first function is registered: `n8nrunner.functions` is imported then.
        self.functions: Functions | None = None
        #: The handler and the limit of each task type.
        self._handlers: dict[str, tuple[Handler, int | None]] = {}
        self._listener: Callable[[Types], None] | None = None
        self._lock = threading.Lock()

    def add_task(self, task_type: str, handler: Handler, limit: int | None) -> None:
        """Register the handler of a task type, in place of an earlier one.

        Raises:
            ConfigurationError: the handler is not a plain function.
        """
        if not is_plain(handler):
            raise ConfigurationError([f"handler of {task_type!r}: expected {PLAIN}; got {handler!r}"])
        with self._lock:
            self._handlers[task_type] = (handler, limit)
            self._tell()

    def add_function(
        self, function: Callable[..., object], name: str | None, batch: bool, limit: int | None
    ) -> bool:
        """Register a function, in place of an earlier one with its name. Return whether it is the first one.

        Raises:
            ConfigurationError: the function cannot become an operation of a node, or the runner runs and has
                no name of its own.
        """
        # Slow to import, and many runners have no functions.
        from n8nrunner.functions.dispatch import Functions
        from n8nrunner.functions.function import make_function

        made: Function = make_function(function, name, batch, limit)
        with self._lock:
            if self._listener is not None:
                self._check_own_name()
            is_first = self.functions is None
            if self.functions is None:
                self.functions = Functions()
            self.functions.add(made)
            self._tell()
        return is_first

    def remove_function(self, name: str) -> None:
        """Remove a function.

        Raises:
            ConfigurationError: there is no function with this name.
        """
        with self._lock:
            by_name = {} if self.functions is None else self.functions.by_name
            if self.functions is None or name not in by_name:
                known = ", ".join(sorted(by_name)) or "none"
                raise ConfigurationError([f"function: expected a registered one ({known}), got {name!r}"])
            self.functions.remove(name)
            self._tell()

    def check_name(self) -> None:
        """Check that a runner with functions has a name of its own.

        Two runners without one would answer each other's calls.

        Raises:
            ConfigurationError: there are functions, and the runner's name cannot be a part of a task type.
        """
        if self.functions is not None:
            self._check_own_name()

    def _check_own_name(self) -> None:
        if self.runner_name == DEFAULT_NAME or not _NAME.fullmatch(self.runner_name):
            raise ConfigurationError(
                [
                    "name: functions need a runner with a name of its own, of lowercase letters, digits, '_' "
                    "and '-', such as Runner(name='sales') or N8NRUNNER_NAME=sales; "
                    f"got {self.runner_name!r}"
                ]
            )

    def connect(self, listener: Callable[[Types], None]) -> None:
        """Tell `listener` the task types, now and after every change. It replaces an earlier listener.

        It is called under the registry's lock, so it must not wait.
        """
        with self._lock:
            self._listener = listener
            self._tell()

    def disconnect(self, listener: Callable[[Types], None]) -> None:
        """Tell `listener` nothing more. This does nothing if another listener has replaced it."""
        with self._lock:
            if self._listener == listener:
                self._listener = None

    def _tell(self) -> None:
        assert self._lock.locked()
        if self._listener is not None:
            self._listener(self._types())

    def _types(self) -> Types:
        types = {task_type: limit for task_type, (_, limit) in self._handlers.items()}
        return types if self.functions is None else {**self.functions.types(self.runner_name), **types}

    def handler_of(self, task_type: str) -> Handler | None:
        """Return the handler of a task type, as it is registered now; None if there is none."""
        registered = self._handlers.get(task_type)
        if registered is not None:
            return registered[0]
        # The broker sends only types this runner has offered. A type without a handler belongs to a function.
        return None if self.functions is None else self.functions.handle

    @property
    def is_empty(self) -> bool:
        """Whether neither a handler nor a function is registered."""
        return not self._handlers and self.functions is None

    def renew_lock_after_fork(self) -> None:
        """Replace the lock in a child process: a thread of the parent process may have held it."""
        self._lock = threading.Lock()


def is_plain(function: object) -> bool:
    """Return whether this can be called, and a call runs it rather than making a coroutine or a generator."""
    unfit = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    return callable(function) and not any(is_kind(function) for is_kind in unfit)


def check_task_type(task_type: str, limit: int | None) -> None:
    """Check the arguments of `Runner.task`.

    Raises:
        ConfigurationError: with everything that is wrong.
    """
    problems = []
    if not isinstance(task_type, str) or not task_type:
        problems.append(f"task type: expected a non-empty string, got {task_type!r}")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        problems.append(f"limit of {task_type!r}: expected an integer of 1 or more, got {limit!r}")
    if problems:
        raise ConfigurationError(problems)
