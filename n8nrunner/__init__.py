"""A threaded, synchronous task runner for n8n: your workflows call Python functions where they live.

The names below are the public ones. They are imported when they are first used, so that what needs only a
part of the package, such as a child process, loads only that.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from n8nrunner._version import __version__

if TYPE_CHECKING:
    from n8nrunner.config import RunnerConfig
    from n8nrunner.errors import (
        AuthenticationError,
        BrokerConnectionError,
        ConfigurationError,
        ExecutorBroken,
        GrantTokenSpent,
        N8nRunnerError,
        ProtocolError,
        RunnerFailed,
        RunnerForked,
        RunnerStopped,
        TaskCancelled,
        TaskError,
        TaskTimeout,
    )
    from n8nrunner.execution.initializers import ignore_interrupts
    from n8nrunner.functions.files import File
    from n8nrunner.runner import Runner
    from n8nrunner.snapshot import Counts, FunctionSnapshot, LinkSnapshot, Snapshot, TaskSnapshot
    from n8nrunner.task import Task, Undelivered

_MODULES = {
    "AuthenticationError": "errors",
    "BrokerConnectionError": "errors",
    "ConfigurationError": "errors",
    "Counts": "snapshot",
    "ExecutorBroken": "errors",
    "File": "functions.files",
    "FunctionSnapshot": "snapshot",
    "GrantTokenSpent": "errors",
    "LinkSnapshot": "snapshot",
    "N8nRunnerError": "errors",
    "ProtocolError": "errors",
    "Runner": "runner",
    "RunnerConfig": "config",
    "RunnerFailed": "errors",
    "RunnerForked": "errors",
    "RunnerStopped": "errors",
    "Snapshot": "snapshot",
    "Task": "task",
    "TaskCancelled": "errors",
    "TaskError": "errors",
    "TaskSnapshot": "snapshot",
    "TaskTimeout": "errors",
    "Undelivered": "task",
    "ignore_interrupts": "execution.initializers",
}

__all__ = [
    "AuthenticationError",
    "BrokerConnectionError",
    "ConfigurationError",
    "Counts",
    "ExecutorBroken",
    "File",
    "FunctionSnapshot",
    "GrantTokenSpent",
    "LinkSnapshot",
    "N8nRunnerError",
    "ProtocolError",
    "Runner",
    "RunnerConfig",
    "RunnerFailed",
    "RunnerForked",
    "RunnerStopped",
    "Snapshot",
    "Task",
    "TaskCancelled",
    "TaskError",
    "TaskSnapshot",
    "TaskTimeout",
    "Undelivered",
    "__version__",
    "ignore_interrupts",
]


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module 'n8nrunner' has no attribute {name!r}")
    value = getattr(import_module(f"n8nrunner.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
