"""How a task that was given to the embedded broker can end without a result.

The tree::

    N8nRunnerError
    +-- BrokerNotRunning             the broker has not been started, or has been stopped
    +-- BrokerTaskError              the runner reported an error
        +-- BrokerTaskExpired        no runner took the task, or the broker was shutting down
        +-- BrokerTaskTimeout        the task ran into the broker's time limit
        +-- BrokerTaskCancelled      whoever submitted the task cancelled it
        +-- BrokerTaskLost           the runner's connection ended, or the broker was stopped meanwhile
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from n8nrunner.errors import N8nRunnerError


class BrokerNotRunning(N8nRunnerError):
    """The broker has not been started, or has been stopped: call ``start()``."""


class BrokerTaskError(N8nRunnerError):
    """A task ended with an error: what a workflow's author would see in n8n.

    Attributes:
        message: the headline.
        description: the longer text below it, or None.
        stack: the stack that the runner sent, or None.
        error: the whole error object.
    """

    def __init__(self, error: Mapping[str, Any]) -> None:
        self.error: dict[str, Any] = dict(error)
        self.message: str = str(error.get("message"))
        self.description: str | None = _text(error.get("description"))
        self.stack: str | None = _text(error.get("stack"))
        super().__init__(self.message)

    def __reduce__(self) -> tuple[type[BrokerTaskError], tuple[dict[str, Any]]]:
        return type(self), (self.error,)


class BrokerTaskExpired(BrokerTaskError):
    """No runner took the task in time, or the broker was shutting down when it was asked."""


class BrokerTaskTimeout(BrokerTaskError):
    """A runner took the task and did not finish it in time."""


class BrokerTaskCancelled(BrokerTaskError):
    """Whoever submitted the task cancelled it."""


class BrokerTaskLost(BrokerTaskError):
    """The runner's connection ended before the task did, or the broker was stopped or killed."""


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
