"""The differences between a program and its new import: functions, task types, and settings.

This compares, and changes nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Container, Mapping
from dataclasses import fields
from types import CodeType
from typing import Callable, NamedTuple, cast

from n8nrunner.config import RunnerConfig
from n8nrunner.engine import Extras
from n8nrunner.execution.executors import ExecutorOrFactory, is_factory


class Entry(NamedTuple):
    """A function, or the handler of a task type, as it is compared with its successor."""

    function: Callable[..., object]
    #: everything else that n8n or the runner uses of it, such as its description and its limit.
    about: object


class Differences(NamedTuple):
    """The names of functions and task types that are new, changed or gone."""

    new: list[str]
    changed: list[str]
    removed: list[str]

    def __str__(self) -> str:
        named = {"new": self.new, "changed": self.changed, "removed": self.removed}
        return "; ".join(f"{word}: {', '.join(names)}" for word, names in named.items() if names)


def compare(before: Mapping[str, Entry], after: Mapping[str, Entry]) -> Differences:
    """Compare what two runners have registered."""
    return Differences(
        sorted(after.keys() - before.keys()),
        sorted(name for name in after.keys() & before.keys() if not _is_same(before[name], after[name])),
        sorted(before.keys() - after.keys()),
    )


def stale(before: Mapping[str, Entry], after: Mapping[str, Entry], modules: Container[str]) -> list[str]:
    """Return the functions of some modules that a new import of these modules has not registered again."""
    return [
        name
        for name, registered in before.items()
        if name in after
        and after[name].function is registered.function
        and registered.function.__module__ in modules
    ]


def _is_same(one: Entry, other: Entry) -> bool:
    return one.about == other.about and is_same_code(one.function, other.function)


def is_same_code(one: Callable[..., object], other: Callable[..., object]) -> bool:
    """Return whether two functions have the same code, wherever in a file it is.

    The functions that they call, and the values of their modules, may differ. Other callable objects are the
    same if their classes have the same name.
    """
    codes = [getattr(inspect.unwrap(each), "__code__", type(each).__qualname__) for each in (one, other)]
    return _essence(codes[0]) == _essence(codes[1])


def _essence(value: object) -> object:
    """Return what matters of a code object or of one of its constants: not the numbers of its lines."""
    if isinstance(value, CodeType):
        constants = tuple(_essence(each) for each in value.co_consts)
        return value.co_name, value.co_code, constants, value.co_names, value.co_varnames, value.co_freevars
    return type(value), repr(value)  # 1, 1.0 and True are equal


def changed_settings(before: RunnerConfig, after: RunnerConfig) -> list[str]:
    """Return the names of the settings that differ. Values are not shown: one of them is a token."""
    names = (item.name for item in fields(RunnerConfig))
    return [name for name in names if getattr(before, name) != getattr(after, name)]


def changed_extras(before: Extras, after: Extras) -> list[str]:
    """Return the names of the other settings that differ and are not handed over."""
    names = []
    if not _is_same_executor(before.executor, after.executor):
        names.append("executor")
    if before.shared != after.shared:
        names.append("shared")
    return names


def _is_same_executor(one: ExecutorOrFactory | None, other: ExecutorOrFactory | None) -> bool:
    """Return whether two executors, or functions that make one, are alike. A new import makes new objects."""
    if is_factory(one) and is_factory(other):
        return is_same_code(cast("Callable[..., object]", one), cast("Callable[..., object]", other))
    return type(one) is type(other)
