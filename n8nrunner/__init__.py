"""A threaded, synchronous task runner for n8n: your workflows call Python functions where they live.

`__all__` lists the public names. The modules `n8nrunner.broker`, `n8nrunner.metrics`, `n8nrunner.otel` and
`n8nrunner.testing` have public names of their own; all others are private. Each name is imported when it is
first used, so that a child process, for example, loads only the part that it needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

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
    from n8nrunner.formatters import JsonFormatter, TextFormatter
    from n8nrunner.functions.files import File
    from n8nrunner.functions.node.installing import install_node
    from n8nrunner.hooks import Call, Registered
    from n8nrunner.runner import Runner
    from n8nrunner.snapshot import (
        CallError,
        Counts,
        FunctionSnapshot,
        Histogram,
        LinkSnapshot,
        Outcome,
        Snapshot,
        TaskSnapshot,
    )
    from n8nrunner.task import Task, Undelivered

#: The modules of the names that are not in `n8nrunner.errors`.
_MODULES = {
    **dict.fromkeys(
        ("CallError", "Counts", "FunctionSnapshot", "Histogram", "LinkSnapshot", "Outcome"), "snapshot"
    ),
    **dict.fromkeys(("Snapshot", "TaskSnapshot"), "snapshot"),
    "Call": "hooks",
    "File": "functions.files",
    "JsonFormatter": "formatters",
    "Registered": "hooks",
    "Runner": "runner",
    "RunnerConfig": "config",
    "Task": "task",
    "TextFormatter": "formatters",
    "Undelivered": "task",
    "ignore_interrupts": "execution.initializers",
    "install_node": "functions.node.installing",
}

__all__ = [
    "AuthenticationError", "BrokerConnectionError", "Call", "CallError", "ConfigurationError", "Counts",
    "ExecutorBroken", "File", "FunctionSnapshot", "GrantTokenSpent", "Histogram", "JsonFormatter",
    "LinkSnapshot", "N8nRunnerError", "Outcome", "ProtocolError", "Registered", "Runner", "RunnerConfig",
    "RunnerFailed", "RunnerForked", "RunnerStopped", "Snapshot", "Task", "TaskCancelled", "TaskError",
    "TaskSnapshot", "TaskTimeout", "TextFormatter", "Undelivered", "__version__", "ignore_interrupts",
    "install_node",
]  # fmt: skip

if not TYPE_CHECKING:  # a type checker would take it that every name exists

    def __getattr__(name):
        if name not in __all__:
            raise AttributeError(f"module 'n8nrunner' has no attribute {name!r}")
        value = getattr(import_module(f"n8nrunner.{_MODULES.get(name, 'errors')}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return __all__
