"""Messages of runners and bodies of HTTP requests, decoded as tolerantly as n8n does."""

from __future__ import annotations

import json
from urllib.parse import parse_qs

from n8nrunner.broker import events, javascript
from n8nrunner.errors import ProtocolError
from n8nrunner.protocol import codec
from n8nrunner.protocol import messages as m
from n8nrunner.protocol.json_text import PIECE, may_have_large_integer


def decode(connection: int, text: str) -> events.Received | events.Malformed | None:
    """Return the event of a runner's message, or None if its type is unknown.

    Large messages are decoded in pieces, so that other threads can run.
    """
    try:
        if len(text) <= PIECE and not _differs_in_javascript(text):
            message = codec.decode_from_runner(text)
        else:
            message = codec.decode_from_runner(text, javascript.parse)
    except ProtocolError as error:
        message = _decode_incomplete(text)
        if message is None:
            return events.Malformed(connection, str(error))
    except (ValueError, RecursionError) as error:
        return events.Malformed(connection, f"a message of {len(text)} characters is not valid JSON: {error}")
    return None if message is None else events.Received(connection, message)


def _differs_in_javascript(text: str) -> bool:
    return may_have_large_integer(text) or "NaN" in text or "Infinity" in text


def _decode_incomplete(text: str) -> m.FromRunner | None:
    """Return what an incomplete message leads to in n8n, or None if n8n ignores it.

    n8n does not check messages: a result without data fails its task, and a call without parameters fails.
    """
    try:
        value = javascript.parse(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("taskId"), str):
        return None
    if value.get("type") == "runner:taskdone":
        return m.TaskFailed(value["taskId"], {"message": "The runner sent a result without a data object"})
    if value.get("type") == "runner:rpc" and all(
        isinstance(value.get(key), str) for key in ("callId", "name")
    ):
        return m.RpcCall(value["callId"], value["taskId"], value["name"], None)
    return None


def log_in_members(content_type: str, body: bytes) -> dict[str, m.Json]:
    """Return the members of a log-in's body. There are none if n8n does not read its type.

    Raises `ValueError` or `RecursionError` if the body is not a JSON object or array.
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


def task_arguments(body: bytes) -> dict[str, m.Json]:
    """Return the arguments of `Broker.submit` in the body of ``POST /tasks``. A null counts as missing.

    Raises `ValueError`, which says why, if the body cannot be used.
    """
    try:
        value = javascript.parse(body.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the body is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError("expected an object with taskType, settings, items and timeout")
    members = {name: member for name, member in value.items() if member is not None}
    task_type = members.pop("taskType", None)
    settings, items = members.pop("settings", {}), members.pop("items", [])
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
    return {"task_type": task_type, "settings": settings, "items": items, "timeout": timeout}
