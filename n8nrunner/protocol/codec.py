"""Convert messages to text and back (docs/protocol.md, "Messages"), and received data to events.

Strict when sending and tolerant when receiving: unknown types and keys are skipped, because a newer n8n may
send them. Text that cannot be a message is a `ProtocolError`, for the caller to log.

For any thread: the links' thread decodes and encodes most messages, a handler's thread its result, and the
embedded broker's threads the other direction.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Callable, Optional, TypeVar, Union

from n8nrunner.errors import ProtocolError
from n8nrunner.protocol import messages as m
from n8nrunner.protocol.events import MessageSkipped, Pong
from n8nrunner.protocol.frames import HEAD_SIZE, Payload, PongFrame, SkippedMessage
from n8nrunner.protocol.json_text import decoding_fault, to_json

_M = TypeVar("_M", m.FromBroker, m.FromRunner)

#: The type of each key's value, in the order of the class's fields. None: any value, or no such key.
_Keys = dict[str, Optional[type]]

_FROM_BROKER: dict[str, tuple[type[m.FromBroker], _Keys]] = {
    "broker:inforequest": (m.InfoRequest, {}),
    "broker:runnerregistered": (m.RunnerRegistered, {}),
    "broker:taskofferaccept": (m.TaskOfferAccept, {"offerId": str, "taskId": str}),
    "broker:tasksettings": (m.TaskSettings, {"taskId": str, "settings": None}),
    "broker:taskcancel": (m.TaskCancel, {"taskId": str, "reason": None}),
    "broker:rpcresponse": (m.RpcResponse, {"taskId": str, "callId": str, "status": str, "data": None}),
    "broker:taskdataresponse": (m.TaskDataResponse, {"taskId": str, "requestId": str, "data": None}),
    "broker:nodetypes": (m.NodeTypes, {"taskId": str, "requestId": str, "nodeTypes": None}),
    "broker:drain": (m.Drain, {}),
}

_FROM_RUNNER: dict[str, tuple[type[m.FromRunner], _Keys]] = {
    "runner:info": (m.RunnerInfo, {"name": str, "types": list}),
    "runner:taskoffer": (m.TaskOffer, {"offerId": str, "taskType": str, "validFor": int}),
    "runner:taskaccepted": (m.TaskAccepted, {"taskId": str}),
    "runner:taskrejected": (m.TaskRejected, {"taskId": str, "reason": None}),
    "runner:taskdeferred": (m.TaskDeferred, {"taskId": str}),
    "runner:taskdone": (m.TaskDone, {"taskId": str, "data": dict}),
    "runner:taskerror": (m.TaskFailed, {"taskId": str, "error": None}),
    "runner:rpc": (m.RpcCall, {"callId": str, "taskId": str, "name": str, "params": list}),
    "runner:taskdatarequest": (m.TaskDataRequest, {"taskId": str, "requestId": str, "requestParams": dict}),
    "runner:nodetypesrequest": (m.NodeTypesRequest, {"taskId": str, "requestId": str, "requestParams": list}),
}

#: The type and the keys of each class.
_BY_CLASS: dict[type[m.Message], tuple[str, list[str]]] = {
    cls: (name, list(keys)) for name, (cls, keys) in [*_FROM_BROKER.items(), *_FROM_RUNNER.items()]
}

#: Handlers' threads decode the large value of a message above this many bytes.
LARGE_MESSAGE = 1024 * 1024

#: Whole messages, messages above the size limit, and pongs, in the order in which they came.
Received = Union[Payload, SkippedMessage, PongFrame]

#: Encodes one string as ASCII.
_quote = json.JSONEncoder().encode
_raw_decode = json.JSONDecoder().raw_decode
#: Makes a message of its fields, faster than its class does.
_new = tuple.__new__

#: An error handler for lone surrogates, which UTF-8 cannot encode. They occur only in strings, and it writes
#: them as JSON does: as the six characters ``\ud83d``.
_LONE_SURROGATES = "backslashreplace"


# --- receiving ----------------------------------------------------------------------------------


def decode_from_broker(text: str) -> m.FromBroker | None:
    """Return a message of the broker; None if its type is unknown.

    Raises:
        ProtocolError: the text is not a JSON object, or lacks a key of its type. The error never quotes it.
    """
    # Half of all messages are acceptances, and the runner has to answer them in time.
    if text.startswith(_ACCEPT_START):
        match = _ACCEPT(text)
        if match is not None:
            return _new(m.TaskOfferAccept, match.groups())
    return _decode(text, _parse, _FROM_BROKER)


_ACCEPT_START = '{"type":"broker:taskofferaccept"'
#: As n8n writes it, with plain ids. `_decode` handles any other order or spelling.
_ACCEPT = re.compile(
    r'\{"type":"broker:taskofferaccept","offerId":"([\w-]+)","taskId":"([\w-]+)"\}', re.ASCII
).fullmatch


def _parse(text: str) -> m.Json:
    try:
        # `raw_decode` takes two thirds of the time of `json.loads`, which allows space around the value.
        value, end = _raw_decode(text) if text[:1] == "{" else (None, -1)
        return value if end == len(text) else json.loads(text)
    except (ValueError, RecursionError) as error:
        # The decoder's error names positions only; the text itself may be private data.
        fault = decoding_fault(error) or f"is not valid JSON: {error}"
        raise ProtocolError(f"a message of {len(text)} characters {fault}") from None


def decode_from_runner(text: str, parse: Callable[[str], m.Json] = _parse) -> m.FromRunner | None:
    """Return a message of a runner, whose JSON `parse` decodes; None if its type is unknown.

    Raises:
        ProtocolError: as `decode_from_broker`. An error of `parse` is passed on.
    """
    message = _decode(text, parse, _FROM_RUNNER)
    return message._replace(types=tuple(message.types)) if type(message) is m.RunnerInfo else message


def _decode(
    text: str, parse: Callable[[str], m.Json], table: Mapping[str, tuple[type[_M], _Keys]]
) -> _M | None:
    value = parse(text)
    if type(value) is not dict:
        raise ProtocolError(f"a message of {len(text)} characters is JSON, but not an object")
    name = value.get("type")
    entry = table.get(name) if type(name) is str else None
    if entry is None:
        return None
    cls, keys = entry
    values: list[m.Json] = []
    for key, kind in keys.items():
        item = value.get(key)
        if kind is not None and type(item) is not kind:
            if kind is not int or type(item) is not float or not item.is_integer():
                got = type(item).__name__ if key in value else "nothing"
                raise ProtocolError(f"{name}: expected {kind.__name__} for {key!r}, got {got}")
            item = int(item)  # the same number in JavaScript
        values.append(item)
    return _new(cls, values)


_HEAD = re.compile(r'\s*"(type|taskId|callId|requestId|status)"\s*:\s*"([^"\\]*)"\s*,')


def peek(text: str) -> m.Head:
    """Return the type and the ids at the beginning of a message, where n8n writes them.

    Stops at the first member with another key, or whose value is not a plain string.
    """
    found: dict[str, str] = {}
    position = text.find("{") + 1
    while match := _HEAD.match(text, position):
        found[match[1]] = match[2]
        position = match.end()
    return m.Head(*map(found.get, ("type", "taskId", "callId", "requestId", "status")))


def decode_large(text: str) -> m.FromBroker | None:
    """Return a message of the broker with its large value as `Undecoded`; None if its type is unknown.

    Decodes the whole message if its beginning does not have the type and the ids.

    Raises:
        ProtocolError: as `decode_from_broker`.
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


def event_of(received: Received, max_payload: int) -> m.FromBroker | MessageSkipped | Pong | None:
    """Return the event of a received message; None if the type of the message is unknown.

    A large `bytearray` is cleared, to free its memory. `max_payload` is the limit that a skipped message
    exceeds, in bytes.
    """
    if isinstance(received, SkippedMessage):
        limit = f"the runner's limit is {max_payload} (N8N_RUNNERS_MAX_PAYLOAD)"
        description = f"It has {received.size} bytes; {limit}."
        return MessageSkipped(_peek(received.head), "is too large for the runner", description)
    if isinstance(received, PongFrame):
        return Pong(received.payload.decode("latin-1"))
    beginning = b""
    try:
        if len(received) <= LARGE_MESSAGE:
            return decode_from_broker(received.decode())
        beginning = bytes(received[:HEAD_SIZE])
        text = received.decode()
        if isinstance(received, bytearray):
            received.clear()  # the caller still refers to it
        return decode_large(text)
    except UnicodeDecodeError:
        problem = f"a message of {len(received)} bytes is not UTF-8"
    except ProtocolError as error:
        problem = str(error)
    head = _peek(beginning or bytes(received[:HEAD_SIZE]))
    return MessageSkipped(head, "cannot be read by the runner", f"The reason: {problem}.")


def _peek(start: bytes) -> m.Head:
    return peek(start.decode("utf-8", "ignore"))


# --- sending ------------------------------------------------------------------------------------


def encode(message: m.Message) -> str:
    """Return the text of a message of either direction.

    Raises:
        ValueError, TypeError: the message holds something that JSON cannot represent, such as NaN.
    """
    # Each task has these two, and this is three times as fast as the rest of this function.
    if type(message) is m.TaskOffer:
        return (
            f'{{"type":"runner:taskoffer","offerId":{_quote(message.offer_id)},'
            f'"taskType":{_quote(message.task_type)},"validFor":{message.valid_for:d}}}'
        )
    if type(message) is m.TaskAccepted:
        return f'{{"type":"runner:taskaccepted","taskId":{_quote(message.task_id)}}}'
    name, keys = _BY_CLASS[type(message)]
    text = to_json({"type": name, **dict(zip(keys, message))})
    return text if text.isascii() else text.encode("utf-8", _LONE_SURROGATES).decode()


def encode_result(task_id: str, result: str) -> bytes:
    """Return a ``runner:taskdone`` as UTF-8. `result` is JSON text."""
    text = f'{{"type":"runner:taskdone","taskId":{_quote(task_id)},"data":{{"result":{result}}}}}'
    return text.encode("utf-8", _LONE_SURROGATES)


def encode_error(task_id: str, error: Mapping[str, m.Json]) -> bytes:
    """Return a ``runner:taskerror`` as ASCII."""
    return json.dumps({"type": "runner:taskerror", "taskId": task_id, "error": error}).encode()


def encode_with(message: m.Message, last: str) -> bytes:
    """Return a message as UTF-8, with the value of its last field given as JSON text."""
    name, keys = _BY_CLASS[type(message)]
    first = to_json({"type": name, **dict(zip(keys[:-1], message))})
    return f"{first[:-1]},{_quote(keys[-1])}:{last}}}".encode("utf-8", _LONE_SURROGATES)
