"""The error of a call, with the texts that n8n shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from n8nrunner.broker import (
    BrokerTaskError,
    BrokerTaskExpired,
    BrokerTaskLost,
    BrokerTaskTimeout,
)

#: The titles and descriptions that the node gives n8n's own errors, with the runner's name for {runner}.
#: They are those of `N8N_ERRORS` in runtime.js.
_N8N_ERRORS: dict[type[BrokerTaskError], tuple[str, str]] = {
    BrokerTaskExpired: (
        'No runner "{runner}" took the call',
        'Either the Python program with the runner "{runner}" does not run, or it is connected to another '
        "n8n, or all its slots are taken.",
    ),
    BrokerTaskLost: (
        'The runner "{runner}" was lost during the call',
        "Its connection to n8n ended before it answered.",
    ),
    BrokerTaskTimeout: (
        "{message}",
        "The limit is n8n's own (N8N_RUNNERS_TASK_TIMEOUT where n8n was started).",
    ),
}


class CallFailed(BrokerTaskError):
    """A call of a function failed, in the words that the workflow's author sees in n8n.

    For a failure of a whole task, such as a lost connection, ``__cause__`` is the broker's error.

    Attributes:
        message: the headline.
        description: the text below it: of a `TaskError` or a wrong argument; otherwise the function's
            traceback. None if there is none.
        item: the index of the item that failed.
        stack: the function's traceback; None if no exception was raised.
        error: all parts of the error.
    """

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(error)
        self.item: int = self.error.get("item", 0)
        if self.description is None and self.stack is not None:
            self.description = self.stack.strip()

    def __str__(self) -> str:
        head = f"{self.message} [item {self.item}]"
        return head if self.description is None else f"{head}\n{self.description}"


def failure_of(error: BrokerTaskError, runner_name: str, item: int) -> CallFailed:
    """Return the failure of a whole task, with the texts that the node shows.

    Args:
        item: the index of the task's first item.
    """
    title, description = _N8N_ERRORS.get(type(error), ("{message}", error.description))
    texts = {"runner": runner_name, "message": error.message}
    shown = {
        **error.error,
        "message": title.format(**texts),
        "description": None if description is None else description.format(**texts),
        "item": item,
    }
    return CallFailed(shown)


def refusal_of(refused: Mapping[str, Any], function: str, runner_name: str, item: int) -> CallFailed:
    """Return the failure of a task that the runner refused (docs/protocol.md, "Functions")."""
    message = str(refused.get("message"))
    title = message
    if refused.get("code") == "unknown_function":
        title = f'The runner "{runner_name}" has no function "{function}"'
    return CallFailed({"message": title, "description": f"{message[:1].upper()}{message[1:]}.", "item": item})
