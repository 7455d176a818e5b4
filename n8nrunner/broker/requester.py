"""The requester's side: what n8n answers to a runner that calls a helper or asks for data.

Everything here runs on a thread of its own, because a caller's function may take its time.
"""

from __future__ import annotations

import base64
import mimetypes
import os
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any, Callable
from urllib.parse import urlsplit

import requests

from n8nrunner.broker import javascript
from n8nrunner.broker.task import BrokerTask, SavedFile
from n8nrunner.protocol import messages as m
from n8nrunner.protocol.codec import encode

LOG = "logNodeOutput"
HTTP_TIMEOUT = 300.0


class Encoded:
    """A payload that is JSON text already; `encode_message` puts it into its message as it is."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


NULL = Encoded("null")


def encode_message(message: m.FromBroker) -> str:
    """The text of a message whose last field, its payload, may be `Encoded`."""
    values: tuple[Any, ...] = message
    payload = values[-1] if values else None
    if not isinstance(payload, Encoded):
        return encode(message)
    kind: Callable[..., m.FromBroker] = type(message)
    empty = kind(*values[:-1], None)
    # The payload is the last key of its message, so the text of one without it ends in "null}".
    return f"{encode(empty)[:-5]}{payload.text}}}"


def log_line(params: Sequence[Any]) -> str:
    """What n8n prints for the parameters of ``logNodeOutput``."""
    return " ".join(param if isinstance(param, str) else javascript.stringify(param) for param in params)


def answer(task: BrokerTask, message: m.Request) -> m.Response:
    """The answer to what a runner asks on behalf of a task; takes as long as the caller's function does."""
    if isinstance(message, m.TaskDataRequest):
        data = task_data(task, message.request_params)
        return m.TaskDataResponse(message.task_id, message.request_id, Encoded(javascript.stringify(data)))
    if isinstance(message, m.NodeTypesRequest):
        found = matching_node_types(task._node_types, message.request_params)
        return m.NodeTypes(message.task_id, message.request_id, Encoded(javascript.stringify(found)))
    try:
        result = Encoded(javascript.stringify(call(task, message.name, message.params)))
    except RpcRefused as error:
        return m.RpcResponse(message.task_id, message.call_id, "error", str(error))
    except Exception as error:  # noqa: BLE001 - whatever a caller's function raises is the runner's to see
        failure = Encoded(javascript.stringify({"message": str(error), "name": type(error).__name__}))
        return m.RpcResponse(message.task_id, message.call_id, "error", failure)
    return m.RpcResponse(message.task_id, message.call_id, "success", result)


# --- calls of helpers ---------------------------------------------------------------------------


class RpcRefused(Exception):
    """The name is not one that n8n lets a runner call."""


def call(task: BrokerTask, name: str, params: Sequence[Any]) -> Any:
    """What the named helper returns; the caller's own functions come first."""
    function: Callable[..., Any] | None = task._rpc.get(name)
    if function is not None:
        return function(*[_from_buffer(param) for param in params])
    helper = _HELPERS.get(name)
    if helper is None:
        raise RpcRefused("Could not find method" if name in _WITHOUT_HELPER else "Method not allowed")
    return helper(task, *[_from_buffer(param) for param in params])


def _from_buffer(value: Any) -> Any:
    if isinstance(value, dict) and value.get("type") == "Buffer" and isinstance(value.get("data"), list):
        return bytes(value["data"])
    return value


def _read_file(task: BrokerTask, item_index: Any, property_name: Any, *_: Any) -> bytes:
    if isinstance(
        property_name, dict
    ):  # n8n takes the binary data itself as well as the name it has in the item
        return base64.b64decode(property_name.get("data", ""))
    data = task._files.get((item_index, property_name))
    if data is not None:
        return data
    return base64.b64decode(_binary_of_item(task, item_index, property_name).get("data", ""))


def _assert_file(task: BrokerTask, item_index: Any, property_name: Any, *_: Any) -> Mapping[str, Any]:
    if isinstance(property_name, dict):
        return property_name
    data = task._files.get((item_index, property_name))
    if data is not None:
        return binary_data(data, None, None)
    return _binary_of_item(task, item_index, property_name)


def _binary_of_item(task: BrokerTask, item_index: Any, property_name: Any) -> Mapping[str, Any]:
    try:
        found = task._items[item_index]["binary"][property_name]
    except (LookupError, TypeError):
        found = None
    if not isinstance(found, dict):
        raise LookupError(f"item {item_index} has no file in a property named {property_name!r}")
    return found


def _save_file(
    task: BrokerTask, data: Any, file_name: str | None = None, mime_type: str | None = None, *_: Any
) -> dict[str, Any]:
    content = _bytes(data)
    described = binary_data(content, file_name, mime_type)
    task.saved_files.append(SavedFile(content, file_name, described["mimeType"], described))
    return described


def _set_file(task: BrokerTask, described: Any, data: Any, *_: Any) -> dict[str, Any]:
    content = _bytes(data)
    given = described if isinstance(described, dict) else {}
    changed = {**given, **binary_data(content, given.get("fileName"), given.get("mimeType"))}
    task.saved_files.append(SavedFile(content, given.get("fileName"), changed["mimeType"], changed))
    return changed


def _bytes(data: Any) -> bytes:
    if isinstance(data, bytes):
        return data
    if isinstance(data, str):
        return data.encode()
    raise TypeError(f"expected a Buffer with the file's content, got {type(data).__name__}")


def _binary_to_string(_: BrokerTask, data: Any, encoding: str = "utf8", *__: Any) -> str:
    return _bytes(data).decode(encoding, errors="replace")


def binary_data(data: bytes, file_name: str | None, mime_type: str | None) -> dict[str, Any]:
    """The object that n8n keeps of a file: type, name, size for people, and the content in base64."""
    if not mime_type:
        mime_type = (mimetypes.guess_type(file_name)[0] if file_name else None) or "text/plain"
    described: dict[str, Any] = {"mimeType": mime_type}
    file_type = _file_type(mime_type)
    if file_type is not None:
        described["fileType"] = file_type
    extension = os.path.splitext(file_name)[1][1:] if file_name else ""
    extension = extension or (mimetypes.guess_extension(mime_type) or "")[1:]
    if file_name:
        # As n8n does, which takes the name for a path.
        directory, described["fileName"] = posixpath.split(file_name)
        if directory:
            described["directory"] = directory
    if extension:
        described["fileExtension"] = extension
    described["fileSize"] = size_for_people(len(data))
    described["data"] = base64.b64encode(data).decode("ascii")
    return described


def _file_type(mime_type: str) -> str | None:
    """What n8n's screen shows the file as."""
    main, _, sub = mime_type.partition(";")[0].strip().partition("/")
    if mime_type.startswith("application/json"):
        return "json"
    if sub in ("html", "pdf"):
        return sub
    if main in ("image", "audio", "video", "text"):
        return main
    return None


def size_for_people(size: int) -> str:
    """As n8n writes it: "11 B", "1.5 kB", "3 MB"."""
    number = float(size)
    for unit in ("B", "kB", "MB"):
        if number < 999.5 or (unit == "B" and number < 1000):
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} GB"


def _http_request(_: BrokerTask, options: Any, *__: Any) -> Any:
    """``helpers.httpRequest`` for what can be asked for without n8n's credentials."""
    if not isinstance(options, dict) or not isinstance(options.get("url"), str):
        raise TypeError("expected an object with a url")
    url = options["url"]
    base = options.get("baseURL")
    if isinstance(base, str) and "://" not in url:
        url = f"{base.rstrip('/')}/{url.lstrip('/')}"
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"only http and https can be requested, not {urlsplit(url).scheme!r}")
    body = options.get("body")
    arguments: dict[str, Any] = {}
    if isinstance(body, (dict, list)):
        buffer = _from_buffer(body)
        arguments["data" if isinstance(buffer, bytes) else "json"] = buffer
    elif body is not None:
        arguments["data"] = body if isinstance(body, str) else javascript.stringify(body)
        if isinstance(body, str):
            arguments["data"] = body.encode()
    headers = dict(options.get("headers") or {})
    if options.get("json") and not any(name.lower() == "accept" for name in headers):
        headers["Accept"] = "application/json"
    milliseconds = options.get("timeout")
    response = requests.request(
        str(options.get("method") or "GET").upper(),
        url,
        headers=headers,
        params=options.get("qs"),
        timeout=milliseconds / 1000 if isinstance(milliseconds, (int, float)) else HTTP_TIMEOUT,
        allow_redirects=not options.get("disableFollowRedirect"),
        verify=not options.get("skipSslCertificateValidation"),
        **arguments,
    )
    if response.status_code >= 400 and not options.get("ignoreHttpStatusErrors"):
        raise RuntimeError(f"Request failed with status code {response.status_code}")
    content: Any = response.content if options.get("encoding") == "arraybuffer" else _body(response)
    if not options.get("returnFullResponse"):
        return content
    return {
        "body": content,
        "headers": {name.lower(): value for name, value in response.headers.items()},
        "statusCode": response.status_code,
        "statusMessage": response.reason,
    }


def _body(response: requests.Response) -> Any:
    try:
        return javascript.parse(response.text)
    except (ValueError, RecursionError):
        return response.text


_HELPERS: dict[str, Callable[..., Any]] = {
    "helpers.getBinaryDataBuffer": _read_file,
    "helpers.assertBinaryData": _assert_file,
    "helpers.prepareBinaryData": _save_file,
    "helpers.setBinaryDataBuffer": _set_file,
    "helpers.binaryToString": _binary_to_string,
    "helpers.httpRequest": _http_request,
}
#: n8n allows these, but has them in some of its nodes only.
_WITHOUT_HELPER = ("helpers.request",)

# --- data of the execution ----------------------------------------------------------------------

_TRIGGER = "Start"
_NODE = "Code"


def matching_node_types(
    node_types: Sequence[Mapping[str, Any]], wanted: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Those of the known node types whose name and version are asked for."""

    def is_wanted(node_type: Mapping[str, Any], name: Any, version: Any) -> bool:
        versions = node_type.get("version")
        known = versions if isinstance(versions, list) else [versions]
        return node_type.get("name") == name and (version is None or versions is None or version in known)

    return [
        node_type
        for node_type in node_types
        if any(is_wanted(node_type, entry.get("name"), entry.get("version")) for entry in wanted)
    ]


def task_data(task: BrokerTask, params: Mapping[str, Any]) -> dict[str, Any]:
    """What n8n tells about an execution: two nodes, of which the first gave its items to the second."""
    items = list(task._items)
    run = {
        "startTime": 0,
        "executionIndex": 0,
        "executionTime": 0,
        "executionStatus": "success",
        "source": [],
        "data": {"main": [items]},
    }
    wanted = params.get("dataOfNodes")
    shows_trigger = (
        wanted == "all" or (isinstance(wanted, list) and _TRIGGER in wanted) or params.get("prevNode")
    )
    nodes = [_node(_TRIGGER, "n8n-nodes-base.manualTrigger", 1), _node(_NODE, "n8n-nodes-base.code", 2)]
    return {
        "workflow": {
            "id": "1",
            "name": "n8nrunner",
            "active": False,
            "nodes": nodes,
            "connections": {_TRIGGER: {"main": [[{"node": _NODE, "type": "main", "index": 0}]]}},
            "pinData": {},
            "settings": {},
            "staticData": {},
        },
        "inputData": _input_data(items, params.get("input")),
        "connectionInputSource": {"main": [{"previousNode": _TRIGGER}]},
        "node": nodes[1],
        "runExecutionData": {
            "version": 1,
            "startData": {},
            "resultData": {
                "runData": {_TRIGGER: [run]} if shows_trigger else {},
                "pinData": {},
                "lastNodeExecuted": _TRIGGER,
            },
            "executionData": {
                "contextData": {},
                "nodeExecutionStack": [],
                "metadata": {},
                "waitingExecution": {},
                "waitingExecutionSource": {},
            },
        },
        "runIndex": 0,
        "itemIndex": 0,
        "activeNodeName": _NODE,
        "contextNodeName": _NODE,
        "siblingParameters": {},
        "mode": "manual",
        "envProviderState": {"env": {}, "isEnvAccessBlocked": True, "isProcessAvailable": True},
        "defaultReturnRunIndex": -1,
        "selfData": {},
        "additionalData": {
            "executionId": task.request_id,
            "restApiUrl": "",
            "instanceBaseUrl": "",
            "formWaitingBaseUrl": "",
            "webhookBaseUrl": "",
            "webhookWaitingBaseUrl": "",
            "webhookTestBaseUrl": "",
            "currentNodeParameters": {},
            "executionTimeoutTimestamp": None,
            "userId": "1",
            "variables": {},
        },
    }


def _node(name: str, node_type: str, version: int) -> dict[str, Any]:
    return {
        "id": name,
        "name": name,
        "type": node_type,
        "typeVersion": version,
        "position": [0, 0],
        "parameters": {},
    }


def _input_data(items: list[Any], wanted: Any) -> dict[str, Any]:
    if not isinstance(wanted, dict) or not wanted.get("include"):
        return {}
    chunk = wanted.get("chunk")
    if isinstance(chunk, dict):
        start, count = _chunk(chunk)
        items = items[start : start + count]
    return {"main": [items]}


def _chunk(chunk: Mapping[str, Any]) -> tuple[int, int]:
    start, count = chunk.get("startIndex", 0), chunk.get("count", 0)
    return (start, count) if isinstance(start, int) and isinstance(count, int) else (0, 0)
