"""The context (`contextvars`) of a start, in which functions of the application run on other threads."""

from __future__ import annotations

import contextvars
import sys
from typing import TYPE_CHECKING, Callable, TypeVar

if TYPE_CHECKING:
    import decimal

_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")


class StartContext:
    """The context in which the object is made. Each call runs in a new copy and so does not change it."""

    def __init__(self) -> None:
        self._context = contextvars.copy_context()
        # A copied context still shares the object that holds the precision. It exists only if `decimal` has
        # been imported.
        module = sys.modules.get("decimal")
        self._decimal: decimal.Context | None = None if module is None else module.getcontext().copy()

    def run(self, function: Callable[[_Argument], _Result], argument: _Argument) -> _Result:
        """Call a function in a new copy of the context, and return its result."""
        context = self._context.copy()
        if self._decimal is not None:
            context.run(sys.modules["decimal"].setcontext, self._decimal.copy())
        return context.run(function, argument)
