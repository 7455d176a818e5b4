"""The sentences of n8n's broker: reasons for runners, and errors for requesters.

docs/protocol.md has them in "Messages" and "What n8n's user sees".
"""

from __future__ import annotations

import json
from typing import Any

RUNNER_GONE = "Node execution failed"
RUNNER_UNRESPONSIVE = "Task execution aborted because runner became unresponsive"
SHUT_DOWN = "Task aborted because the n8n instance was shutting down"

WINDOW_ELAPSED = "Acknowledgement window elapsed"
REQUEST_EXPIRED = "Task request expired"
UNKNOWN_REQUEST = (
    "Request ID not found. In multi-main setup, it is possible for one of the mains to have reported ready "
    "state already."
)
NO_SETTINGS = "Requester took too long to acknowledge the task"
UNKNOWN_REASON = "Unknown reason"
TIMED_OUT = "Task execution timed out"
SHUTTING_DOWN = "Task aborted because this n8n instance is shutting down"

#: An error as a requester gets it: an object with at least a ``message``.
ErrorObject = dict[str, Any]


def seconds(number: float) -> str:
    """Return a duration as n8n writes it: "1 second", "60 seconds"."""
    return f"{number:g} second{'' if number == 1 else 's'}"


def request_expired(task_type: str, waited: float, configured: float | None) -> ErrorObject:
    """Return the error of a request that no runner took. Times are in seconds.

    `configured` is the configured limit, or None if the message does not name it.
    """
    description = (
        f"No runner took the task of type {task_type!r} within {seconds(round(waited, 1))}. Is a runner "
        "for this type connected, and does it have a free slot? N8N_RUNNERS_TASK_REQUEST_TIMEOUT sets "
        "how long to wait."
    )
    return {"message": _request_timed_out(configured), "description": description}


def request_refused(task_type: str, configured: float | None) -> ErrorObject:
    """Return the error of a request that ends because of a shutdown; arguments as for `request_expired`."""
    description = f"The broker is shutting down; no runner was given the task of type {task_type!r}."
    return {"message": _request_timed_out(configured), "description": description}


def _request_timed_out(configured: float | None) -> str:
    return "Task request timed out" + ("" if configured is None else f" after {seconds(configured)}")


def task_timed_out(limit: float) -> ErrorObject:
    """Return the error of a task that ran longer than `limit` seconds."""
    description = (
        f"The runner did not finish the task within {seconds(limit)}. N8N_RUNNERS_TASK_TIMEOUT sets the "
        "limit, in n8n and in the runner."
    )
    return {"message": f"{TIMED_OUT} after {seconds(limit)}", "description": description}


def unreachable(runner_id: str, task_id: str) -> ErrorObject:
    """Return the error of a task whose runner's connection is half closed."""
    return {"message": f"Runner ({runner_id}) became unreachable while processing task ({task_id})"}


def runner_error(error: Any) -> ErrorObject:
    """Return the error that n8n's user sees for what a runner put into ``runner:taskerror``."""
    if not isinstance(error, dict):
        return {"message": f"Unknown error: {json.dumps(error)}"}
    if not isinstance(error.get("message"), str):
        return {**error, "message": "Unknown error"}
    return error
