"""The task types and functions of a runner, and its answers to nodes that ask for them."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Callable

from n8nrunner import logs
from n8nrunner.config import DEFAULT_NAME
from n8nrunner.errors import ConfigurationError
from n8nrunner.execution.invoke import Handler
from n8nrunner.hooks import PLAIN, is_plain
from n8nrunner.protocol.events import Prepared, TypesChanged
from n8nrunner.task_types import DESCRIBE, describe_type, task_type

if TYPE_CHECKING:
    from n8nrunner.functions.dispatch import Functions
    from n8nrunner.functions.function import Function

#: A runner's name as a part of a task type, of a package's name and of a file's name.
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")

#: The version of the answers to nodes that ask.
_VERSION = 1


class Registry:
    """The handlers of one runner: of its task types, and of its functions. For any thread.

    The links have copies of the task types and of the answers. One listener is told of every change, under
    the lock, so that it learns of the changes of several threads in their order.

    A function is described once, when a listener needs it, so that nothing is computed while n8n asks. This
    calls code of the application, such as the methods of a default, so it happens without the lock.

    Args:
        runner_name: the runner's name, which is a part of the task types of its functions.
    """

    def __init__(self, runner_name: str) -> None:
        self.runner_name = runner_name
        #: None until the first function is registered: `n8nrunner.functions` is imported then.
        self.functions: Functions | None = None
        #: The handler and the limit of each task type. Replaced, never changed in place.
        self._handlers: dict[str, tuple[Handler, int | None]] = {}
        self._listener: Callable[[TypesChanged], None] | None = None
        self._lock = threading.Lock()
        #: Rises with every change.
        self.version = 0

    def add_task(self, task_type: str, handler: Handler, limit: int | None) -> None:
        """Register the handler of a task type, in place of an earlier one.

        Raises:
            ConfigurationError: the handler is not a plain function.
        """
        if not is_plain(handler):
            raise ConfigurationError([f"handler of {task_type!r}: expected {PLAIN}; got {handler!r}"])
        with self._lock:
            self._handlers = {**self._handlers, task_type: (handler, limit)}
            self._tell()

    def add_function(
        self, function: Callable[..., object], name: str | None, batch: bool, limit: int | None
    ) -> bool:
        """Register a function, in place of an earlier one with its name. Return whether it is the first one.

        Raises:
            ConfigurationError: the function cannot become an operation of a node, or the runner runs and has
                no valid name.
        """
        # Slow to import, and many runners have no functions.
        from n8nrunner.functions.dispatch import Functions
        from n8nrunner.functions.function import make_function

        made: Function = make_function(function, name, batch, limit)
        while True:
            with self._lock:
                if self._listener is not None:
                    self._check_own_name()
                if self._listener is None or made.described is not None:
                    is_first = self.functions is None
                    if self.functions is None:
                        self.functions = Functions()
                    self.functions.add(made)
                    self._tell()
                    return is_first
            self._describe([made])

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

    def prepare_successor(self, other: Registry) -> Callable[[], None]:
        """Return a function that registers what another registry has, in place of everything here.

        It makes one change, does not wait, and calls no code of the application.

        Raises:
            ConfigurationError: there are functions now, and the runner has no valid name.
        """
        with other._lock:
            handlers, functions = dict(other._handlers), other.functions
        made = [] if functions is None else list(functions.by_name.values())
        if made:
            self._check_own_name()
        self._describe([function for function in made if function.described is None])

        def replace() -> None:
            with self._lock:
                known = self.functions or functions
                self.functions = None if known is None else known.successor(made)
                self._handlers = handlers
                self._tell()

        return replace

    def copy_from(self, other: Registry) -> None:
        """Register exactly the handlers and functions that another registry has now.

        Raises:
            ConfigurationError: there are functions, the runner runs, and it has no valid name.
        """
        with other._lock:
            handlers = dict(other._handlers)
            known = other.functions
        # Copies, because the description of a function contains the runner's name.
        made = [] if known is None else [function.copy() for function in known.by_name.values()]
        with self._lock:
            is_connected = self._listener is not None
        if is_connected and made:
            self._check_own_name()
            self._describe(made)
        with self._lock:
            self._handlers = handlers
            self.functions = None if known is None else known.successor(made)
            self._tell()

    def check_name(self) -> None:
        """Check that a runner with functions has its own name.

        Two runners without one would answer each other's calls.

        Raises:
            ConfigurationError: there are functions, and the runner's name cannot be a part of a task type.
        """
        if self.functions is not None:
            self._check_own_name()

    @property
    def _has_own_name(self) -> bool:
        return self.runner_name != DEFAULT_NAME and _NAME.fullmatch(self.runner_name) is not None

    def _check_own_name(self) -> None:
        if not self._has_own_name:
            raise ConfigurationError(
                [
                    "name: a runner with functions needs its own name, of lowercase letters, digits, '_' and "
                    "'-', such as Runner(name='sales') or N8NRUNNER_NAME=sales; "
                    f"got {self.runner_name!r}"
                ]
            )

    def connect(self, listener: Callable[[TypesChanged], None]) -> None:
        """Tell `listener` the task types, now and after every change. It replaces an earlier listener.

        It is called under the registry's lock, so it must not wait.
        """
        while True:
            with self._lock:
                known = () if self.functions is None else self.functions.by_name.values()
                new = [function for function in known if function.described is None]
                if not new:
                    self._listener = listener
                    self._tell()
                    return
            self._describe(new)

    def disconnect(self, listener: Callable[[TypesChanged], None]) -> None:
        """Tell `listener` nothing more. This does nothing if another listener has replaced it."""
        with self._lock:
            if self._listener == listener:
                self._listener = None

    def _describe(self, functions: Sequence[Function]) -> None:
        """Describe functions. Without the lock: this calls code of the application."""
        from n8nrunner.functions.describe import describe_function

        for function in functions:
            function.described = describe_function(self.runner_name, function)

    def _tell(self) -> None:
        assert self._lock.locked()
        self.version += 1
        if self._listener is None:
            return
        types = {task_type: limit for task_type, (_, limit) in self._handlers.items()}
        if self.functions is not None:
            types = {**self.functions.types(self.runner_name), **types}
        if self._has_own_name:
            functions = [] if self.functions is None else self.functions.descriptions()
            # Newer versions of n8n refuse a task at once if no runner has ever announced its type, so the
            # type of functions is announced before there are any.
            announced = (task_type(self.runner_name),)
            self._listener(TypesChanged(types, _answers(self.runner_name, functions), announced))
        else:
            self._listener(TypesChanged(types, {}, ()))

    def handler_of(self, task_type: str) -> Handler | None:
        """Return the handler of a task type, as it is registered now; None if there is none."""
        registered = self._handlers.get(task_type)
        if registered is not None:
            return registered[0]
        # The broker sends only types this runner has offered. A type without a handler belongs to a function.
        return self.functions

    @property
    def task_types(self) -> Collection[str]:
        """The task types with a handler. Read it again after a change."""
        return self._handlers.keys()

    @property
    def function_names(self) -> Collection[str]:
        """The functions' names, likewise."""
        return () if self.functions is None else self.functions.by_name.keys()

    @property
    def handlers(self) -> Mapping[str, tuple[Handler, int | None]]:
        """The handler and the limit of each task type. It does not change; read it again."""
        return self._handlers

    @property
    def is_empty(self) -> bool:
        """Whether neither a handler nor a function is registered."""
        return not self._handlers and self.functions is None

    def renew_after_fork(self) -> None:
        """Forget the lock and the listener in a child process.

        A thread of the parent process may have held the lock, and only the parent process has the links.
        """
        self._lock = threading.Lock()
        self._listener = None


def _answers(runner_name: str, functions: Sequence[str]) -> dict[str, Prepared]:
    """Return the answers of a runner to nodes that ask, by task type (docs/protocol.md, "Descriptions").

    Args:
        functions: the description of each function, as JSON text.
    """
    states = ("running", "stopping")
    head = {"version": _VERSION, "runner": runner_name, "process": logs.this_process()}
    heads = [json.dumps({**head, "state": state}) for state in states]
    listed = ",".join(functions)
    return {
        DESCRIBE: Prepared(*(f'{each[:-1]}, "functionCount": {len(functions)}}}' for each in heads)),
        describe_type(runner_name): Prepared(*(f'{each[:-1]}, "functions": [{listed}]}}' for each in heads)),
    }


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
