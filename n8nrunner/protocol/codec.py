"""Text of the wire to messages and back (docs/protocol.md, "Messages").

Strict in what is sent, tolerant in what is received: an unknown type or key is skipped, because a newer
n8n may send it; what cannot be a message at all is a `ProtocolError` for the caller to log.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Callable, Optional

from n8nrunner.errors import ProtocolError
from n8nrunner.protocol import messages as m
from n8nrunner.protocol.json_text import decoding_fault

#: (field of the class, key of the wire, type of the value; None for any value, absent ones included)
_Fields = tuple[tuple[str, str, Optional[type]], ...]

_TASK: _Fields = (("task_id", "taskId", str),)

_FROM_BROKER: dict[str, tuple[type[Any], _Fields]] = {
    "broker:inforequest": (m.InfoRequest, ()),
    "broker:runnerregistered": (m.RunnerRegistered, ()),
    "broker:taskofferaccept": (m.TaskOfferAccept, (("offer_id", "offerId", str), *_TASK)),
    "broker:tasksettings": (m.TaskSettings, (*_TASK, ("settings", "settings", None))),
    "broker:taskcancel": (m.TaskCancel, (*_TASK, ("reason", "reason", None))),
    "broker:rpcresponse": (
        m.RpcResponse,
        (*_TASK, ("call_id", "callId", str), ("status", "status", str), ("data", "data", None)),
    ),
    "broker:taskdataresponse": (
        m.TaskDataResponse,
        (*_TASK, ("request_id", "requestId", str), ("data", "data", None)),
    ),
    "broker:nodetypes": (
        m.NodeTypes,
        (*_TASK, ("request_id", "requestId", str), ("node_types", "nodeTypes", None)),
    ),
    "broker:drain": (m.Drain, ()),
}

_FROM_RUNNER: dict[str, tuple[type[Any], _Fields]] = {
    "runner:info": (m.RunnerInfo, (("name", "name", str), ("types", "types", list))),
    "runner:taskoffer": (
        m.TaskOffer,
        (("offer_id", "offerId", str), ("task_type", "taskType", str), ("valid_for", "validFor", int)),
    ),
    "runner:taskaccepted": (m.TaskAccepted, _TASK),
    "runner:taskrejected": (m.TaskRejected, (*_TASK, ("reason", "reason", None))),
    "runner:taskdeferred": (m.TaskDeferred, _TASK),
    "runner:taskdone": (m.TaskDone, (*_TASK, ("data", "data", dict))),
    "runner:taskerror": (m.TaskFailed, (*_TASK, ("error", "error", None))),
    "runner:rpc": (
        m.RpcCall,
        (("call_id", "callId", str), *_TASK, ("name", "name", str), ("params", "params", list)),
    ),
    "runner:taskdatarequest": (
        m.TaskDataRequest,
        (*_TASK, ("request_id", "requestId", str), ("request_params", "requestParams", dict)),
    ),
    "runner:nodetypesrequest": (
        m.NodeTypesRequest,
        (*_TASK, ("request_id", "requestId", str), ("request_params", "requestParams", list)),
    ),
}

_BY_CLASS: dict[type[Any], tuple[str, _Fields]] = {
    cls: (wire_type, fields)
    for table in (_FROM_BROKER, _FROM_RUNNER)
    for wire_type, (cls, fields) in table.items()
}

_to_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_scan: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
_quote = json.encoder.encode_basestring_ascii


def decode_from_broker(text: str) -> m.FromBroker | None:
    """One message of the broker; None if its type is not known.

    Raises:
        ProtocolError: `text` is no JSON object, or lacks a key of its type. It never quotes the text.
    """
    if text.startswith(_ACCEPT_START):  # the message that must be answered in time, and half of all that come
        match = _ACCEPT(text)
        if match is not None:
            return m.TaskOfferAccept(*match.groups())
    message: m.FromBroker | None = _decode(text, _FROM_BROKER)
    return message


def decode_from_runner(text: str) -> m.FromRunner | None:
    """One message of a runner; None if its type is not known. Raises as `decode_from_broker` does."""
    message: m.FromRunner | None = _decode(text, _FROM_RUNNER)
    return message


_ACCEPT_START = '{"type":"broker:taskofferaccept"'
#: As n8n writes it, with plain ids; any other order or spelling takes the general way.
_ACCEPT = re.compile(
    r'\{"type":"broker:taskofferaccept","offerId":"([\w-]+)","taskId":"([\w-]+)"\}', re.ASCII
).fullmatch


def _loads(text: str) -> Any:
    """As `json.loads`, half of whose time for a small message goes into what stands around the value."""
    try:
        value, end = _scan(text, 0)
    except StopIteration:
        return json.loads(text)
    return value if end == len(text) else json.loads(text)


def _decode(text: str, table: Mapping[str, tuple[type[Any], _Fields]]) -> Any:
    try:
        value = _loads(text)
    except (ValueError, RecursionError) as error:
        # The parser's own message is about positions only; the text itself may be private data.
        fault = decoding_fault(error) or f"is not JSON: {error}"
        raise ProtocolError(f"a message of {len(text)} characters {fault}") from None
    if type(value) is not dict:
        raise ProtocolError(f"a message of {len(text)} characters is JSON, but not an object")
    wire_type = value.get("type")
    entry = table.get(wire_type) if isinstance(wire_type, str) else None
    if entry is None:
        return None
    cls, fields = entry
    values: list[Any] = []
    for _, key, kind in fields:
        item: Any = value.get(key)
        if kind is int and isinstance(item, float) and item.is_integer():
            item = int(item)  # the same number to JavaScript
        if kind is not None and (not isinstance(item, kind) or isinstance(item, bool)):
            came = "nothing" if key not in value else type(item).__name__
            raise ProtocolError(f"{wire_type}: expected {kind.__name__} for {key!r}, got {came}")
        values.append(tuple(item) if key == "types" else item)
    return cls(*values)


def encode(message: Any) -> str:
    """The text of a message of either direction.

    Raises:
        ValueError, TypeError: the message holds something that is no JSON. NaN counts as none.
    """
    encoder = _FAST.get(type(message))
    if encoder is not None:
        return encoder(message)
    wire_type, fields = _BY_CLASS[type(message)]
    value: dict[str, Any] = {"type": wire_type}
    for (_, key, _), item in zip(fields, message):
        value[key] = item
    text = _to_json(value)
    return text if text.isascii() else text.encode("utf-8", _LONE_SURROGATES).decode()


def _task_accepted(message: m.TaskAccepted) -> str:
    return f'{{"type":"runner:taskaccepted","taskId":{_quote(message.task_id)}}}'


def _task_offer(message: m.TaskOffer) -> str:
    return (
        f'{{"type":"runner:taskoffer","offerId":{_quote(message.offer_id)},'
        f'"taskType":{_quote(message.task_type)},"validFor":{message.valid_for:d}}}'
    )


#: UTF-8 has no lone surrogates. They occur in strings alone, and this error handler writes them as JSON does:
#: the six characters ``\ud83d``.
_LONE_SURROGATES = "backslashreplace"

#: The messages of every task, written out: three times faster than the general way.
_FAST: dict[type[Any], Callable[[Any], str]] = {m.TaskAccepted: _task_accepted, m.TaskOffer: _task_offer}


def encode_result(task_id: str, result: str) -> bytes:
    """``runner:taskdone`` around a result that is JSON text already, as UTF-8."""
    text = f'{{"type":"runner:taskdone","taskId":{_quote(task_id)},"data":{{"result":{result}}}}}'
    return text.encode("utf-8", _LONE_SURROGATES)


def encode_error(task_id: str, error: Mapping[str, Any]) -> bytes:
    """``runner:taskerror`` as ASCII: whatever characters the texts hold, they pass."""
    return json.dumps({"type": "runner:taskerror", "taskId": task_id, "error": error}).encode()


def encode_call(message: Any, last: str) -> bytes:
    """`RpcCall`, `TaskDataRequest` or `NodeTypesRequest` with its last field given as JSON text, as UTF-8."""
    wire_type, fields = _BY_CLASS[type(message)]
    value: dict[str, Any] = {"type": wire_type}
    for (_, key, _), item in zip(fields[:-1], message):
        value[key] = item
    return f"{_to_json(value)[:-1]},{_quote(fields[-1][1])}:{last}}}".encode("utf-8", _LONE_SURROGATES)


_HEAD = re.compile(r'\s*"(type|taskId|callId|requestId|status)"\s*:\s*"([^"\\]*)"\s*,')


def peek(text: str) -> m.Head:
    """The type and ids at the beginning of a message, as far as they stand before its first large value.

    n8n writes them first. What stands behind a value that is not a plain string is not found.
    """
    found: dict[str, str] = {}
    position = text.find("{") + 1
    while True:
        match = _HEAD.match(text, position)
        if match is None:
            break
        found[match.group(1)] = match.group(2)
        position = match.end()
    return m.Head(
        found.get("type"),
        found.get("taskId"),
        found.get("callId"),
        found.get("requestId"),
        found.get("status"),
    )


def decode_large(text: str) -> m.FromBroker | None:
    """As `decode_from_broker`, but the message's one large value is left as `Undecoded`.

    Falls back to decoding the whole where the beginning does not tell enough.
    """
    head = peek(text)
    if head.type == "broker:tasksettings" and head.task_id is not None:
        return m.TaskSettings(head.task_id, m.Undecoded(text, "settings"))
    if head.type == "broker:rpcresponse" and head.task_id and head.call_id and head.status:
        return m.RpcResponse(head.task_id, head.call_id, head.status, m.Undecoded(text, "data"))
    if head.type == "broker:taskdataresponse" and head.task_id and head.request_id:
        return m.TaskDataResponse(head.task_id, head.request_id, m.Undecoded(text, "data"))
    if head.type == "broker:nodetypes" and head.task_id and head.request_id:
        return m.NodeTypes(head.task_id, head.request_id, m.Undecoded(text, "nodeTypes"))
    return decode_from_broker(text)
