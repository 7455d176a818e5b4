"""Finds the `Runner` that the user of a command names: the runner of a module."""

from __future__ import annotations

import importlib
import os
import re
import sys
import traceback
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from n8nrunner.runner import Runner


#: The beginnings of the names of files whose frames tracebacks leave out.
_IMPORTING = (
    "<frozen importlib",
    os.path.join(os.path.dirname(importlib.__file__), ""),
    __file__,
    os.path.join(os.path.dirname(__file__), "reloading", ""),
)


class TargetError(Exception):
    """A target that does not lead to a Runner. The message says why.

    Args:
        has_raised: whether the module is there, and its import raised.
    """

    def __init__(self, message: str, has_raised: bool = False) -> None:
        super().__init__(message)
        self.has_raised = has_raised


def find_runner(target: str, log_calls: bool = False) -> Runner:
    """Return the Runner that a target names: ``MODULE``, with one Runner in it, or ``MODULE:ATTRIBUTE``.

    During the import, `start()` and `run()` do nothing. A Runner with the default name gets the module's.
    With `log_calls`, it gets this setting.

    Raises:
        ConfigurationError: the settings of the Runner are wrong.
        TargetError: the target does not lead to a Runner.
    """
    found = locate_runner(target)
    found._use_name(default_name(target))
    if log_calls:
        found._log_calls()
    return found


def default_name(target: str) -> str:
    """Return the name for a Runner with the default name: the module's."""
    return target.partition(":")[0].rpartition(".")[2]


def locate_runner(target: str) -> Runner:
    """Return the Runner as `find_runner` does, and leave its name as it is."""
    from n8nrunner.runner import Runner

    module_name, attribute = module_of(target), target.partition(":")[2]
    module = _import(module_name)
    runners = {value: name for name, value in vars(module).items() if isinstance(value, Runner)}
    names = ", ".join(runners.values())
    if attribute and not hasattr(module, attribute):
        raise TargetError(f"there is no {attribute!r} in {module_name!r}; its runners are: {names or 'none'}")
    if not attribute and not runners:
        raise TargetError(f"there is no Runner in {module_name!r}")
    if not attribute and len(runners) > 1:
        raise TargetError(f"{module_name!r} has several runners: {names}; say which: {module_name}:NAME")
    found = getattr(module, attribute) if attribute else next(iter(runners))
    if not isinstance(found, Runner):
        raise TargetError(f"{target!r}: expected a Runner, got {type(found).__name__}")
    return found


def module_of(target: str) -> str:
    """Return the name of a target's module, after a check, and let it be imported from the current folder.

    Raises:
        TargetError: it cannot be the name of a module.
    """
    module_name, _, attribute = target.partition(":")
    _check_module_name(module_name, attribute)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return module_name


def _check_module_name(module_name: str, attribute: str) -> None:
    if all(part.isidentifier() for part in module_name.split(".")) and not module_name.endswith(".py"):
        return
    # A path, as a shell completes it: ./leads.py, pkg/jobs.py, pkg\\jobs.py
    parts = re.sub(r"\.py$", "", module_name).replace("\\", "/").split("/")
    guess = ".".join(part for part in parts if part not in ("", "."))
    if guess and all(part.isidentifier() for part in guess.split(".")):
        guess = f"{guess}:{attribute}" if attribute else guess
        raise TargetError(
            f"expected a module, and no file or path; got {module_name!r}. Did you mean {guess!r}?"
        )
    raise TargetError(
        f"expected a module, such as jobs or shop.jobs, and no file or path; got {module_name!r}"
    )


def _import(module_name: str) -> ModuleType:
    from n8nrunner import reimports
    from n8nrunner.errors import N8nRunnerError

    try:
        with reimports.importing():
            return importlib.import_module(module_name)
    except N8nRunnerError:
        raise
    except Exception as error:  # noqa: BLE001 - the module may raise anything
        name = error.name if isinstance(error, ModuleNotFoundError) else None
        if name is not None and (module_name == name or module_name.startswith(f"{name}.")):
            raise TargetError(f"there is no module {module_name!r} here or on Python's path") from None
        raise TargetError(
            f"the module {module_name!r} cannot be imported\n{traceback_of(error)}", has_raised=True
        ) from None


def traceback_of(error: BaseException) -> str:
    """Return the traceback without the frames of the import itself."""
    shown = traceback.TracebackException.from_exception(error)
    chain: list[traceback.TracebackException | None] = [shown]
    for each in chain:
        if each is not None:
            own = [frame for frame in each.stack if not frame.filename.startswith(_IMPORTING)]
            each.stack = traceback.StackSummary.from_list(own)
            chain += [each.__cause__, each.__context__]
    return "".join(shown.format()).rstrip()
