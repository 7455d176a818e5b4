"""The requester's side: the answers of n8n when a runner calls a helper or asks for data.

`answer` runs on a thread of its own, because a caller's function may take long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from n8nrunner.broker import javascript
from n8nrunner.broker.helpers import HELPERS, WITHOUT_HELPER, from_buffer
from n8nrunner.broker.task import BrokerTask
from n8nrunner.broker.task_data import task_data
from n8nrunner.protocol import messages as m
from n8nrunner.protocol.codec import encode, encode_with
from n8nrunner.protocol.json_text import Encoded

LOG = "logNodeOutput"
NULL = Encoded("null")


def encode_message(message: m.FromBroker) -> bytes:
    """Return a message as UTF-8. Its last field, the payload, may be `Encoded`."""
    values: tuple[m.Json, ...] = message
    payload = values[-1] if values else None
    if isinstance(payload, Encoded):
        return encode_with(message, payload.text)
    return encode(message).encode()


def log_line(params: Sequence[m.Json]) -> str:
    """Return the line that n8n prints for the parameters of ``logNodeOutput``."""
    return " ".join(param if isinstance(param, str) else javascript.stringify(param) for param in params)


def answer(task: BrokerTask, message: m.Request) -> m.Response:
    """Return the answer to a runner's call or request on behalf of a task."""
    if isinstance(message, m.TaskDataRequest):
        data = _encoded(task_data(task.request_id, task._items, message.request_params))
        return m.TaskDataResponse(message.task_id, message.request_id, data)
    if isinstance(message, m.NodeTypesRequest):
        found = _encoded(matching_node_types(task._node_types, message.request_params))
        return m.NodeTypes(message.task_id, message.request_id, found)
    name = message.name
    function = task._rpc.get(name)
    if function is None and name not in HELPERS:
        refusal = "Could not find method" if name in WITHOUT_HELPER else "Method not allowed"
        return m.RpcResponse(message.task_id, message.call_id, "error", refusal)
    try:
        arguments = [from_buffer(param) for param in message.params]
        result = _encoded(function(*arguments) if function is not None else HELPERS[name](task, *arguments))
    except Exception as error:  # noqa: BLE001 - any exception of a caller's function is for the runner
        failure = _encoded({"message": str(error), "name": type(error).__name__})
        return m.RpcResponse(message.task_id, message.call_id, "error", failure)
    return m.RpcResponse(message.task_id, message.call_id, "success", result)


def _encoded(value: m.Json) -> Encoded:
    return Encoded(javascript.stringify(value))


def matching_node_types(
    node_types: Sequence[Mapping[str, m.Json]], wanted: Sequence[Mapping[str, m.Json]]
) -> list[Mapping[str, m.Json]]:
    """Return the node types whose name and version are wanted."""

    def is_wanted(node_type: Mapping[str, m.Json], name: m.Json, version: m.Json) -> bool:
        versions = node_type.get("version")
        known = versions if isinstance(versions, list) else [versions]
        return node_type.get("name") == name and (version is None or versions is None or version in known)

    return [
        node_type
        for node_type in node_types
        if any(is_wanted(node_type, entry.get("name"), entry.get("version")) for entry in wanted)
    ]
