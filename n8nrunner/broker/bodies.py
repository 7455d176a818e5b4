"""The bodies of HTTP requests."""

from __future__ import annotations

import json
from typing import NamedTuple
from urllib.parse import parse_qs

from n8nrunner.broker import javascript
from n8nrunner.protocol.messages import Json


class TaskArguments(NamedTuple):
    """The body of ``POST /tasks``, as arguments of `Broker.submit`."""

    task_type: str
    settings: Json
    items: list[Json]
    timeout: float | None


def log_in_members(content_type: str, body: bytes) -> dict[str, Json]:
    """Return the members of a log-in's body. There are none if n8n does not read its type.

    Raises:
        ValueError, RecursionError: the body is not a JSON object or array.
    """
    if content_type == "application/json" and body:
        value = json.loads(body)
        if not isinstance(value, (dict, list)):
            raise ValueError("expected an object")
        return value if isinstance(value, dict) else {}
    if content_type == "application/x-www-form-urlencoded":
        form = parse_qs(body.decode(errors="replace"), keep_blank_values=True)
        return {name: values[0] if len(values) == 1 else values for name, values in form.items()}
    return {}


def task_arguments(body: bytes) -> TaskArguments:
    """Return the arguments in the body of ``POST /tasks``. A member that is null counts as missing.

    Raises:
        ValueError: the body cannot be used; the message says why.
    """
    try:
        value = javascript.parse(body.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the body is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError("expected an object with taskType, settings, items and timeout")
    members = {name: member for name, member in value.items() if member is not None}
    task_type = members.pop("taskType", None)
    settings = members.pop("settings", {})
    items = members.pop("items", [])
    timeout = members.pop("timeout", None)
    if members:
        known = "known are taskType, settings, items and timeout"
        raise ValueError(f"unknown: {', '.join(sorted(members))}; {known}")
    if not isinstance(task_type, str) or not task_type:
        raise ValueError("expected a non-empty string for taskType")
    if not isinstance(items, list):
        raise ValueError("expected an array for items")
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, (int, float))):
        raise ValueError("expected a number for timeout")
    if timeout is not None and timeout <= 0:
        raise ValueError("expected a timeout above 0 seconds")
    return TaskArguments(task_type, settings, items, timeout)
