"""The arguments of a task's calls: from the task's settings to the Python values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Callable, NamedTuple

from n8nrunner.errors import TaskError
from n8nrunner.functions.conversion import MISSING, Conversion, Mismatch, TooMuchWork
from n8nrunner.functions.parameters import Optional
from n8nrunner.functions.signature import Signature

#: Differences between a call and its function that an error names.
_MAX_DIFFERENCES = 20


class ItemCall(NamedTuple):
    """One call of a function."""

    item: int  #: the index of its item.
    arguments: dict[str, Any]  #: its arguments by name: JSON, or the Python values after `convert_arguments`.


class SignatureChanged(Exception):
    """A call does not fit the function: the node was written for another version of it."""

    def __init__(self, name: str, reason: object) -> None:
        super().__init__(f"the call does not fit the function {name!r}: {reason}")


def read_calls(settings: Mapping[str, Any]) -> list[ItemCall]:
    """Return the calls of a task, with JSON arguments. Raises `TaskError` if the settings have none."""
    calls = settings.get("calls")
    if isinstance(calls, list):
        valid = [
            ItemCall(call["item"], arguments)
            for call in calls
            if isinstance(call, dict)
            and isinstance(call.get("item"), int)
            and isinstance(arguments := _decode(call.get("arguments")), dict)
        ]
        if len(valid) == len(calls):
            return valid
    raise TaskError("This task was not sent by a node of n8nrunner", "Its settings have no calls.")


def _decode(arguments: Any) -> Any:
    """Return a call's arguments. They are a JSON string where n8n would remove some of their keys."""
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return None


def check_names(signature: Signature, names: Sequence[str], is_current: bool) -> None:
    """Check that the function can be called with arguments of these names.

    Args:
        is_current: whether the node was written for this version of the function. If so, an argument is
            missing because an expression returned undefined.

    Raises:
        Mismatch: an argument of a current node is missing.
        SignatureChanged: the node was written for another version of the function.
    """
    unknown = [name for name in names if name not in signature.parameters]
    missing = [
        parameter
        for parameter in signature.parameters.values()
        if parameter.required and parameter.name not in names
    ]
    if is_current and missing and not unknown:
        raise Mismatch(missing[0].name, missing[0].type.expected, MISSING)
    if unknown or missing:
        parts = [f"it has no parameter {name!r}" for name in unknown]
        parts += [f"its parameter {parameter.name!r} is missing" for parameter in missing]
        if len(parts) > _MAX_DIFFERENCES:
            parts[_MAX_DIFFERENCES:] = [f"and {len(parts) - _MAX_DIFFERENCES} more"]
        raise SignatureChanged(signature.name, ", ".join(parts))


def convert_arguments(
    signature: Signature,
    arguments: dict[str, Any],
    make_file: Callable[[Any], Any],
    conversion: Conversion,
) -> dict[str, Any]:
    """Return the Python values of the arguments of one call, by name.

    Args:
        arguments: JSON values by name, which `check_names` has accepted.
        make_file: returns the `File` of a file's argument, or an invalid argument as it is.
        conversion: shared by all calls of the task.

    Raises:
        Mismatch: an argument does not fit its parameter.
        UnknownZone: the workflow's time zone is needed, and Python has no data for it.
    """
    values: dict[str, Any] = {}
    parameters = signature.parameters
    name, value = "", None
    try:
        conversion.spend(len(arguments))
        for name, value in arguments.items():
            parameter = parameters[name]
            if parameter.is_file:
                value = make_file(value)
            values[name] = parameter.type.convert(value, conversion)
    except Mismatch as error:
        raise error.within(name) from None
    except RecursionError:
        expected = f"{parameters[name].type.expected}, with fewer levels"
        raise Mismatch(name, expected, value) from None
    except TooMuchWork:
        expected = f"{parameters[name].type.expected}, which takes less work to read"
        raise Mismatch(name, expected, value) from None
    return values


def join_calls(
    signature: Signature, calls: Sequence[ItemCall]
) -> tuple[dict[str, Any], list[ItemCall], list[tuple[ItemCall, Mismatch]]]:
    """Join converted calls into one call of a function that takes all items at once.

    Returns:
        The arguments by name: a list with a value of each item, or the first item's value.
        The calls that take part.
        The calls without an argument that other calls have, each with its mismatch.
    """
    complete = list(calls)
    incomplete: list[tuple[ItemCall, Mismatch]] = []
    given = [
        parameter
        for parameter in signature.parameters.values()
        if any(parameter.name in call.arguments for call in calls)
    ]
    for parameter in given:
        if parameter.is_column and not isinstance(parameter.type, Optional):
            mismatch = Mismatch(parameter.name, parameter.type.expected, MISSING)
            incomplete += [(call, mismatch) for call in complete if parameter.name not in call.arguments]
            complete = [call for call in complete if parameter.name in call.arguments]
    arguments: dict[str, Any] = {}
    for parameter in given:
        name = parameter.name
        if parameter.is_column:
            arguments[name] = [call.arguments.get(name) for call in complete]
        else:
            first = next((call for call in complete if name in call.arguments), None)
            if first is not None:
                arguments[name] = first.arguments[name]
    return arguments, complete, incomplete
