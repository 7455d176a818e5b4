"""The context (`contextvars`) of a start, in which the application's functions run later on other threads."""

from __future__ import annotations

import contextvars
import sys
from typing import Any, Callable, TypeVar

_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")


class StartContext:
    """The context in which this is made. What runs in it gets a fresh copy, so nothing it sets stays."""

    def __init__(self) -> None:
        self._context = contextvars.copy_context()
        # A copied context still shares the object that holds the precision. Where `decimal` has not been
        # imported, there is none.
        self._decimal: Any = sys.modules.get("decimal")
        self._precision: Any = None if self._decimal is None else self._decimal.getcontext().copy()

    def run(self, function: Callable[[_Argument], _Result], argument: _Argument) -> _Result:
        """Call a function in a fresh copy of the context."""
        context = self._context.copy()
        if self._decimal is not None:
            context.run(self._decimal.setcontext, self._precision.copy())
        return context.run(function, argument)
