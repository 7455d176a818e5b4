"""A registered function: what is called, its signature, and its limit of calls at once."""

from __future__ import annotations

import inspect
import re
import threading
from typing import Any, Callable, NamedTuple, TypeVar

from n8nrunner.errors import ConfigurationError
from n8nrunner.functions.labels import title_of
from n8nrunner.functions.signature import Signature
from n8nrunner.task import Task

_T = TypeVar("_T")

#: Seconds between two checks whether a call that waits for the function's limit is cancelled.
_CANCEL_CHECK_INTERVAL = 0.1

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Limit(NamedTuple):
    """A limit of calls at once, and the semaphore that counts them."""

    calls: int
    semaphore: threading.BoundedSemaphore


class Function:
    """A registered function. `limit` calls may run at once; None for as many as there are slots."""

    def __init__(self, function: Callable[..., Any], signature: Signature, limit: int | None) -> None:
        self.function = function
        self.signature = signature
        self.limit = limit
        #: Functions are shown in this order: by their titles.
        self.order = (title_of(signature.name).lower(), signature.name)
        #: Its part of the runner's answer to nodes that ask, as JSON; None until a runner needs it.
        self.described: str | None = None
        # A node from before the function had a limit sends its calls to the task type of all functions, which
        # has no limit.
        self._semaphore = None if limit is None else threading.BoundedSemaphore(limit)

    def share_limit(self, limits: dict[str, Limit]) -> None:
        """Count the calls of the function that had this name before, if it had the same limit.

        Args:
            limits: the last limit of each name.
        """
        if self.limit is None or self._semaphore is None:
            return
        own = Limit(self.limit, self._semaphore)
        last = limits.get(self.signature.name, own)
        limits[self.signature.name] = last if last.calls == self.limit else own
        self._semaphore = limits[self.signature.name].semaphore

    def copy(self) -> Function:
        """Return a copy that is not described yet, for a runner with another name. It shares the limit."""
        made = Function(self.function, self.signature, self.limit)
        made._semaphore = self._semaphore
        return made

    def __getstate__(self) -> dict[str, Any]:
        # In another process only the limit of the task type applies, and no node asks it.
        return {**self.__dict__, "_semaphore": None, "described": None}

    def call(self, task: Task, arguments: dict[str, Any], use_result: Callable[[Any], _T]) -> _T:
        """Call the function as soon as its limit allows. Return the value that `use_result` returns.

        `use_result` gets the function's result, within the limit, because a generator runs only then. Raises
        `TaskCancelled` or `TaskTimeout` if the task ends while it waits.
        """
        if self.signature.task_parameter is not None:
            arguments = {**arguments, self.signature.task_parameter: task}
        if self._semaphore is None:
            return use_result(self.function(**arguments))
        while not self._semaphore.acquire(timeout=_CANCEL_CHECK_INTERVAL):
            task.raise_if_cancelled()
        try:
            return use_result(self.function(**arguments))
        finally:
            self._semaphore.release()

    def describe(self) -> dict[str, Any]:
        """Return the function's description (docs/protocol.md, "Functions"): JSON."""
        signature = self.signature
        return {
            "name": signature.name,
            "batch": signature.batch,
            "parameters": signature.describe(),
            "signature": signature.hash,
        }


def make_function(function: Callable[..., Any], name: str | None, batch: bool, limit: int | None) -> Function:
    """Return a function as it is registered, with the arguments of `Runner.function`.

    Raises `ConfigurationError`, which names everything about the function that cannot work.
    """
    problems: list[str] = []
    if not callable(function) or isinstance(function, type):
        raise ConfigurationError([f"function: expected a function, got {function!r}"])
    own_name = name if name is not None else getattr(function, "__name__", "")
    if not isinstance(own_name, str) or not _NAME.fullmatch(own_name):
        problems.append(
            f"function: expected a name of letters, digits and '_' that does not begin with a digit, got "
            f"{own_name!r}; give it one: @runner.function(name=...)"
        )
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        problems.append(f"limit of {own_name!r}: expected an integer of 1 or more, got {limit!r}")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        problems.append(f"{own_name}: expected a plain function, without async")
    try:
        signature = Signature(function, str(own_name), batch)
    except ConfigurationError as error:
        problems += error.problems
    if problems:
        raise ConfigurationError(problems)
    return Function(function, signature, limit)
