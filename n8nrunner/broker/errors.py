"""Errors of the embedded broker: how a task can end without a result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from n8nrunner.errors import N8nRunnerError


class BrokerNotRunning(N8nRunnerError):
    """The broker has not been started, or has been stopped: call ``start()``."""


class BrokerTaskError(N8nRunnerError):
    """A task ended with an error, in the words that a workflow's author would see in n8n.

    Attributes:
        message: the headline.
        description: the longer text below it, or None.
        stack: the stack that the runner sent, or None.
        error: the whole error object.
    """

    def __init__(self, error: Mapping[str, Any]) -> None:
        self.error: dict[str, Any] = dict(error)
        self.message: str = str(error.get("message"))
        description, stack = error.get("description"), error.get("stack")
        self.description: str | None = description if isinstance(description, str) else None
        self.stack: str | None = stack if isinstance(stack, str) else None
        super().__init__(self.message)

    def __reduce__(self) -> tuple[type[BrokerTaskError], tuple[dict[str, Any]]]:
        return type(self), (self.error,)


class BrokerTaskExpired(BrokerTaskError):
    """No runner took the task in time, or the broker was shutting down."""


class BrokerTaskTimeout(BrokerTaskError):
    """A runner took the task and did not finish it in time."""


class BrokerTaskCancelled(BrokerTaskError):
    """The requester cancelled the task."""


class BrokerTaskLost(BrokerTaskError):
    """The runner's connection ended before the task did, or the broker was stopped or killed."""
