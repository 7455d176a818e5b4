"""``n8nrunner call``: call a function of a module once, and print n8n's items."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from n8nrunner import logs
from n8nrunner.functions.function import Function
from n8nrunner.functions.parameters import AnyValue, Optional, ParameterType, String, Union, Wrapper
from n8nrunner.functions.signature import Parameter
from n8nrunner.target import locate_runner
from n8nrunner.testing.items import Item
from n8nrunner.testing.serving import ServedRunner, serve


class WrongArguments(Exception):
    """The command's arguments do not fit the module. The message says why."""


def call(
    target: str, function: str, arguments: Sequence[str], items: str | None, folder: str | None, verbose: int
) -> list[Item]:
    """Call a function of a module's runner, and return the items of its result.

    The functions' output goes to stderr, so that stdout has the items alone.

    Args:
        target: the runner, as for ``n8nrunner run``.
        arguments: ``name=value`` for each argument.
        items: JSON with a list of objects, one with the arguments for each item; None for one item.
        folder: where to save the files of the result; None to save none.
        verbose: how much to log, as for `logs.configure`.

    Raises:
        CallFailed: the call failed.
        ConfigurationError: the runner's settings cannot work.
        OSError: a file cannot be read or written.
        TargetError: the target does not lead to a runner.
        WrongArguments: an argument or the function's name is wrong.
    """
    with contextlib.ExitStack() as ends:
        ends.enter_context(contextlib.redirect_stdout(sys.stderr))
        locate_runner(target)  # before the log is set up, because the module may set it up
        logs.configure(logging.CRITICAL, verbose)  # the command's error says the same as the log
        served = ends.enter_context(serve(target))
        registered = _find(served, target, function)
        common = dict(_argument(registered, text) for text in arguments)
        each = [{}] if items is None else _items(registered, items)
        try:
            result = served.call_items(function, [{**common, **own} for own in each])
        except TypeError as error:
            raise WrongArguments(str(error)) from None
    if folder is not None:
        _save(result, Path(folder))
    return result


def show(items: Sequence[Item]) -> str:
    """Return items as JSON text, without the content of their files."""
    shown: list[dict[str, Any]] = []
    for item in items:
        shown.append(dict(item))
        if "binary" in item:
            shown[-1]["binary"] = {
                name: {key: value for key, value in file.items() if key != "data"}
                for name, file in item["binary"].items()
            }
    return json.dumps(shown, indent=2, ensure_ascii=False)


def _find(served: ServedRunner, target: str, name: str) -> Function:
    functions = served.runner._registry.functions
    by_name: Mapping[str, Function] = {} if functions is None else functions.by_name
    if name not in by_name:
        known = ", ".join(sorted(by_name)) or "none"
        raise WrongArguments(f"{target} has no function {name!r}; its functions are: {known}")
    return by_name[name]


def _argument(function: Function, text: str) -> tuple[str, object]:
    """Return the name and the value of an argument ``name=value``."""
    name, equals, value = text.partition("=")
    parameters = function.signature.parameters
    if not equals or name not in parameters:
        known = ", ".join(f"{each}=..." for each in parameters) or "none"
        raise WrongArguments(f"{function.signature.name} takes {known}; got {text!r:.100}")
    return name, _value(parameters[name], value)


def _value(parameter: Parameter, text: str) -> object:
    """Return the value of a parameter for a text. The runner converts the text of most types."""
    if parameter.is_file:
        return Path(text)
    type: ParameterType = parameter.type
    while isinstance(type, Wrapper):
        if isinstance(type, Optional) and text == "null":
            return None
        type = type.inner
    if isinstance(type, String) or not isinstance(type, (AnyValue, Union)):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _items(function: Function, text: str) -> list[dict[str, Any]]:
    """Return the arguments of several items."""
    try:
        items = json.loads(text)
    except ValueError as error:
        raise WrongArguments(f"--items: expected JSON ({error})") from None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise WrongArguments("--items: expected a list of objects, one with the arguments for each item")
    files = {name for name, parameter in function.signature.parameters.items() if parameter.is_file}
    return [
        {
            key: Path(value) if key in files and isinstance(value, str) else value
            for key, value in item.items()
        }
        for item in items
    ]


def _save(items: Sequence[Item], folder: Path) -> None:
    """Save the files of items. Files of the same name get numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    names: set[str] = set()
    for item in items:
        for property_name in item.get("binary", {}):
            file = item.file(property_name)
            path = Path(file.safe_name if file.filename else property_name)
            unique, number = path.name, 1
            while unique in names:
                number += 1
                unique = f"{path.stem}-{number}{path.suffix}"
            names.add(unique)
            folder.joinpath(unique).write_bytes(file.read())
