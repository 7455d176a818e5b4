"""A Python function as n8n sees it: its parameters, what kind each is, and a hash of what callers rely on."""

from __future__ import annotations

import enum
import hashlib
import inspect
import json
import types
import typing
from collections.abc import Sequence
from typing import Any, Callable, Optional

from n8nrunner.errors import ConfigurationError
from n8nrunner.functions.conversion import NOTHING, Conversion, Mismatch, TooMuchWork
from n8nrunner.functions.hints import UnknownHint, kind_of, read_hint
from n8nrunner.functions.kinds import (
    Bounded,
    FileKind,
    Kind,
    Mapping,
    Perhaps,
    Row,
    Sequences,
    Truth,
    bare,
)
from n8nrunner.task import Task

_MISSING = inspect.Parameter.empty


class Parameter:
    """One parameter that is a field of the node.

    Attributes:
        name: as the function names it.
        kind: what fits.
        required: whether it has no default.
        default: the default; meaningless if it is required.
        text: what an `Annotated` says about it; "" for nothing.
        each: for a function that takes all items at once, whether it gets a list with a value of each.
        is_file: whether it is for a file.
    """

    __slots__ = ("default", "each", "is_file", "kind", "name", "required", "text")

    def __init__(self, name: str, kind: Kind, default: Any, text: str, each: bool) -> None:
        self.name = name
        self.kind = kind
        self.required = default is _MISSING
        self.default = None if self.required else default
        self.text = text
        self.each = each
        self.is_file = takes_file(kind)

    def described(self) -> dict[str, Any]:
        """As it stands in a function's description: JSON."""
        described: dict[str, Any] = {
            "name": self.name,
            "kind": self.kind.name,
            "required": self.required,
            "type": self.kind.described(),
        }
        if self.kind.choices is not None:
            described["choices"] = [sent for _, sent in self.kind.choices]
        return described


class Signature:
    """What a function takes.

    Args:
        function: the function.
        name: the name n8n knows it by.
        batch: whether it takes all items at once.

    Raises:
        ConfigurationError: with everything that cannot become a field.
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
                self._add(parameter, hints.get(parameter.name, _MISSING))
            except UnknownHint as error:
                problems.append(f"{name}, parameter {parameter.name!r}: {error}")
        if problems:
            raise ConfigurationError(problems)
        #: What a node was written for: names, kinds, what is required and which choices there are.
        self.hash = _hash(self.describe())

    def describe(self) -> list[dict[str, Any]]:
        """All parameters: JSON."""
        return [parameter.described() for parameter in self.parameters.values()]

    def _add(self, parameter: inspect.Parameter, hint: Any) -> None:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**"
            raise UnknownHint(f"{stars}{parameter.name} has no fixed names: name each parameter")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise UnknownHint("it is positional only: arguments come by name")
        if hint is Task or hint == Optional[Task]:
            if self.task_parameter is not None:
                raise UnknownHint(f"{self.task_parameter!r} is the Task already")
            self.task_parameter = parameter.name
            return
        if hint is _MISSING:
            kind, text = _kind_of_default(parameter.default), ""
        else:
            kind, text = read_hint(hint)
        each = self.batch and isinstance(bare(kind), Sequences)
        if each:
            kind = _of_each(kind)
        if _holds_file(kind):
            raise UnknownHint("a File inside of something else: expected File, or Optional[File]")
        if parameter.default is None and not isinstance(kind, Perhaps):
            kind = Perhaps(kind)  # `name: str = None`, as it is often written
        self.parameters[parameter.name] = Parameter(parameter.name, kind, parameter.default, text, each)


def _of_each(kind: Kind) -> Kind:
    """The kind of one item's value, for a list that gets a value of each."""
    if isinstance(kind, Bounded):
        raise UnknownHint("a list with a value of each item has no bounds; its elements may have some")
    if isinstance(kind, Perhaps):
        return Perhaps(_of_each(kind.kind))
    assert isinstance(kind, Sequences)
    return kind.element


def _holds_file(kind: Kind) -> bool:
    kind = bare(kind)
    inner: Sequence[Kind] = ()
    if isinstance(kind, Sequences):
        inner = [kind.element]
    elif isinstance(kind, Row):
        inner = kind.elements
    elif isinstance(kind, Mapping):
        inner = [kind.value]
    return any(takes_file(part) or _holds_file(part) for part in inner)


def takes_file(kind: Kind) -> bool:
    """Whether it is for a file."""
    return isinstance(bare(kind), FileKind)


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
    # Nobody needs it, and it may name what is imported for type checkers only.
    annotations.pop("return", None)
    stand_in = types.SimpleNamespace(__annotations__=annotations)
    try:
        return typing.get_type_hints(stand_in, getattr(target, "__globals__", None), include_extras=True)
    except Exception as error:  # noqa: BLE001 - whatever evaluating the user's annotations raises
        problems.append(f"{name}: its type hints cannot be read: {type(error).__name__}: {error}")
        return {}


def _kind_of_default(default: Any) -> Kind:
    """A parameter without a hint is what its default is; without either, anything."""
    if default is _MISSING or default is None:
        return Kind()
    if isinstance(default, bool):
        return Truth()
    for hint in (str, int, float, list, dict):
        if isinstance(default, hint) and not isinstance(default, enum.Enum):
            return kind_of(hint)
    try:
        return kind_of(type(default))
    except UnknownHint:
        return Kind()


def _hash(parameters: Sequence[dict[str, Any]]) -> str:
    what = sorted((p["name"], p["type"], p["required"]) for p in parameters)
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]


#: Differences between a call and its function that an error names.
_MOST_DIFFERENCES = 20


class Changed(Exception):
    """A call does not fit the function: the node was written for another version of it."""


def check_names(signature: Signature, names: Sequence[str], is_same: bool) -> Mismatch | None:
    """Whether a call with arguments of these names is possible.

    Args:
        is_same: whether the node was written for the function as it is: then what is missing is an
            expression's fault.

    Returns:
        What is wrong with the call alone.

    Raises:
        Changed: the function is not what the node was written for.
    """
    unknown = [name for name in names if name not in signature.parameters]
    missing = [
        parameter
        for parameter in signature.parameters.values()
        if parameter.required and parameter.name not in names
    ]
    if is_same and missing and not unknown:
        return Mismatch(missing[0].name, missing[0].kind.expected, NOTHING)
    if unknown or missing:
        parts = [f"it has no parameter {name!r}" for name in unknown]
        parts += [f"its parameter {parameter.name!r} is missing" for parameter in missing]
        if len(parts) > _MOST_DIFFERENCES:
            parts[_MOST_DIFFERENCES:] = [f"and {len(parts) - _MOST_DIFFERENCES} more"]
        raise Changed(f"the call does not fit the function {signature.name!r}: {', '.join(parts)}")
    return None


def convert_arguments(
    signature: Signature,
    arguments: dict[str, Any],
    file_of: Callable[[str, Any], Any],
    conversion: Conversion,
) -> tuple[dict[str, Any], Mismatch | None]:
    """The Python values of a call's arguments.

    Args:
        arguments: by name, as they came.
        file_of: makes the `File` of an argument for one, or returns what it got.
        conversion: of all arguments of the task.

    Returns:
        The values; and what is wrong with the first one that does not fit.

    Raises:
        UnknownZone: the workflow's time zone is needed and is not known here.
    """
    values: dict[str, Any] = {}
    parameters = signature.parameters
    name, value = "", None
    try:
        conversion.spend(len(arguments))
        for name, value in arguments.items():
            parameter = parameters[name]
            if parameter.is_file:
                value = file_of(name, value)
            values[name] = parameter.kind.read(value, conversion)
    except Mismatch as error:
        return values, error.within(name)
    except RecursionError:
        return values, Mismatch(name, f"{parameters[name].kind.expected}, with fewer levels", value)
    except TooMuchWork:
        return values, Mismatch(
            name, f"{parameters[name].kind.expected}, which takes less work to read", value
        )
    return values, None
