"""The parameters of a Python function, and a hash of what its callers rely on."""

from __future__ import annotations

import hashlib
import inspect
import json
import types
import typing
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple

from n8nrunner.errors import ConfigurationError
from n8nrunner.functions.hints import UnknownHint, read_hint, type_of_default
from n8nrunner.functions.parameters import Array, Bounded, Optional, ParameterType, takes_file, unwrap
from n8nrunner.task import Task

_EMPTY = inspect.Parameter.empty


class Parameter(NamedTuple):
    """A parameter that is a field of the node."""

    name: str  #: its name in the function
    type: ParameterType
    required: bool  #: whether it has no default
    default: object  #: the default; None if it is required
    description: str  #: the description in its `Annotated`; "" if there is none
    is_column: bool  #: whether a function that takes all items at once gets a list with a value of each item
    is_file: bool

    def describe(self) -> dict[str, Any]:
        """Return its entry in a function's description (docs/protocol.md, "Functions"): JSON."""
        described: dict[str, Any] = {
            "name": self.name,
            "kind": self.type.kind,
            "required": self.required,
            "type": self.type.type_key(),
        }
        if self.type.choices is not None:
            described["choices"] = [sent for _, sent in self.type.choices]
        return described


class Signature:
    """The parameters of a function. With `batch`, it takes all items at once.

    Raises:
        ConfigurationError: names every parameter that cannot become a field.
    """

    def __init__(self, function: Callable[..., Any], name: str, batch: bool) -> None:
        self.name = name
        self.batch = batch
        self.parameters: dict[str, Parameter] = {}
        #: The name of the parameter that gets the `Task`; None if there is none.
        self.task_parameter: str | None = None
        problems: list[str] = []
        hints = _hints(function, name, problems)
        for parameter in _parameters(function, name, problems):
            try:
                self._add(parameter, hints.get(parameter.name, _EMPTY))
            except UnknownHint as error:
                problems.append(f"{name}, parameter {parameter.name!r}: {error}")
        if problems:
            raise ConfigurationError(problems)
        #: A hash of the names, types, choices and required parameters. Written nodes contain it.
        relied_on = sorted((each["name"], each["type"], each["required"]) for each in self.describe())
        self.hash = hashlib.sha256(json.dumps(relied_on).encode()).hexdigest()[:16]

    def describe(self) -> list[dict[str, Any]]:
        """Return the descriptions of all parameters: JSON."""
        return [parameter.describe() for parameter in self.parameters.values()]

    def _add(self, parameter: inspect.Parameter, hint: Any) -> None:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**"
            raise UnknownHint(f"{stars}{parameter.name} has no fixed names: name each parameter")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise UnknownHint("it is positional only: arguments are passed by name")
        if hint is Task or hint == typing.Optional[Task]:
            if self.task_parameter is not None:
                raise UnknownHint(f"{self.task_parameter!r} is the Task already")
            self.task_parameter = parameter.name
            return
        if hint is _EMPTY:
            type, description = type_of_default(parameter.default), ""
        else:
            type, description = read_hint(hint)
        is_column = self.batch and isinstance(unwrap(type), Array)
        if is_column:
            type = _element_type(type)
        if _contains_file(type, set()):
            raise UnknownHint("a File inside of another type: expected File, or Optional[File]")
        if parameter.default is None and not isinstance(type, Optional):
            type = Optional(type)  # `name: str = None`, as it is often written
        required = parameter.default is _EMPTY
        default = None if required else parameter.default
        self.parameters[parameter.name] = Parameter(
            parameter.name, type, required, default, description, is_column, takes_file(type)
        )


def _element_type(type: ParameterType) -> ParameterType:
    """Return the type of one item's value, for a list with a value of each item."""
    if isinstance(type, Bounded):
        raise UnknownHint("a list with a value of each item has no bounds; its elements can have them")
    if isinstance(type, Optional):
        return Optional(_element_type(type.inner))
    assert isinstance(type, Array)
    return type.element


def _contains_file(type: ParameterType, seen: set[ParameterType]) -> bool:
    """Return whether a part of the type takes a file. Types in `seen` are skipped."""
    type = unwrap(type)
    if type in seen:  # a record may contain its own type
        return False
    seen.add(type)
    return any(takes_file(part) or _contains_file(part, seen) for part in type.element_types)


def _parameters(function: Callable[..., Any], name: str, problems: list[str]) -> Sequence[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        problems.append(f"{name}: its parameters cannot be read: {error}")
        return []


def _hints(function: Callable[..., Any], name: str, problems: list[str]) -> dict[str, Any]:
    target: Any = function
    while hasattr(target, "func") and not inspect.isroutine(target):  # functools.partial
        target = target.func
    if not inspect.isroutine(target):
        target = getattr(target, "__call__", target)  # noqa: B004 - an object with hints on its __call__
    target = inspect.unwrap(target)
    annotations = dict(getattr(target, "__annotations__", {}))
    # It is not needed, and may name something that only type checkers import.
    annotations.pop("return", None)
    stand_in = types.SimpleNamespace(__annotations__=annotations)
    try:
        return typing.get_type_hints(stand_in, getattr(target, "__globals__", None), include_extras=True)
    except Exception as error:  # noqa: BLE001 - evaluating the user's annotations may raise anything
        problems.append(f"{name}: its type hints cannot be read: {type(error).__name__}: {error}")
        return {}
