"""A runner's messages, read as tolerantly as n8n does."""

from __future__ import annotations

from n8nrunner.broker import javascript
from n8nrunner.errors import ProtocolError
from n8nrunner.protocol import codec
from n8nrunner.protocol import messages as m
from n8nrunner.protocol.json_text import PIECE, may_have_large_integer


def decode(text: str) -> m.FromRunner | None:
    """Return a runner's message, or None if its type is unknown.

    Large messages are decoded in pieces, so that other threads can run.

    Raises:
        ProtocolError: the text is not a message.
    """
    try:
        if len(text) <= PIECE and not _differs_in_javascript(text):
            return codec.decode_from_runner(text)
        return codec.message_from_runner(javascript.parse(text))
    except ProtocolError:
        message = _decode_incomplete(text)
        if message is None:
            raise
        return message
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a message of {len(text)} characters is not valid JSON: {error}") from None


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
