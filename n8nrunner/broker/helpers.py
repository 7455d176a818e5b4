"""The helpers of n8n that a runner may call: files and HTTP requests (docs/protocol.md, "Calls to n8n")."""

from __future__ import annotations

import base64
import mimetypes
import os
import posixpath
from collections.abc import Mapping
from typing import Callable
from urllib.parse import urlsplit

import requests

from n8nrunner.broker import javascript
from n8nrunner.broker.task import BrokerTask, SavedFile
from n8nrunner.protocol.messages import Json

#: Time limit of an HTTP request that names none, in seconds.
HTTP_TIMEOUT = 300.0


def from_buffer(value: Json) -> Json | bytes:
    """Return the bytes of a Buffer of n8n, and any other value unchanged."""
    if isinstance(value, dict) and value.get("type") == "Buffer" and isinstance(value.get("data"), list):
        return bytes(value["data"])
    return value


def _read_file(task: BrokerTask, item_index: Json, property_name: Json, *_: Json) -> bytes:
    return base64.b64decode(_assert_file(task, item_index, property_name).get("data", ""))


def _assert_file(task: BrokerTask, item_index: Json, property_name: Json, *_: Json) -> Mapping[str, Json]:
    if isinstance(property_name, dict):  # n8n takes the object in an item's `binary` as well as its name
        return property_name
    data = task._files.get((item_index, property_name))
    if data is not None:
        return binary_data(data, None, None)
    try:
        found = task._items[item_index]["binary"][property_name]
    except (LookupError, TypeError):
        found = None
    if not isinstance(found, dict):
        raise LookupError(f"item {item_index} has no file in a property named {property_name!r}")
    return found


def _save_file(
    task: BrokerTask, data: Json, file_name: str | None = None, mime_type: str | None = None, *_: Json
) -> dict[str, Json]:
    content = _bytes(data)
    described = binary_data(content, file_name, mime_type)
    task.saved_files.append(SavedFile(content, file_name, described["mimeType"], described))
    return described


def _set_file(task: BrokerTask, described: Json, data: Json, *_: Json) -> dict[str, Json]:
    content = _bytes(data)
    given = described if isinstance(described, dict) else {}
    changed = {**given, **binary_data(content, given.get("fileName"), given.get("mimeType"))}
    task.saved_files.append(SavedFile(content, given.get("fileName"), changed["mimeType"], changed))
    return changed


def _bytes(data: Json) -> bytes:
    if isinstance(data, bytes):
        return data
    if isinstance(data, str):
        return data.encode()
    raise TypeError(f"expected a Buffer with the file's content, got {type(data).__name__}")


def _binary_to_string(_: BrokerTask, data: Json, encoding: str = "utf8", *__: Json) -> str:
    return _bytes(data).decode(encoding, errors="replace")


def binary_data(data: bytes, file_name: str | None, mime_type: str | None) -> dict[str, Json]:
    """Return n8n's object for a file: type, name, readable size, and the content in Base64."""
    if not mime_type:
        mime_type = (mimetypes.guess_type(file_name)[0] if file_name else None) or "text/plain"
    described: dict[str, Json] = {"mimeType": mime_type}
    file_type = _file_type(mime_type)
    if file_type is not None:
        described["fileType"] = file_type
    extension = os.path.splitext(file_name)[1][1:] if file_name else ""
    extension = extension or (mimetypes.guess_extension(mime_type) or "")[1:]
    if file_name:
        # n8n takes the name for a path.
        directory, described["fileName"] = posixpath.split(file_name)
        if directory:
            described["directory"] = directory
    if extension:
        described["fileExtension"] = extension
    described["fileSize"] = readable_size(len(data))
    described["data"] = base64.b64encode(data).decode("ascii")
    return described


def _file_type(mime_type: str) -> str | None:
    """Return how n8n's editor shows a file of this type."""
    main, _, sub = mime_type.partition(";")[0].strip().partition("/")
    if mime_type.startswith("application/json"):
        return "json"
    if sub in ("html", "pdf"):
        return sub
    if main in ("image", "audio", "video", "text"):
        return main
    return None


def readable_size(size: int) -> str:
    """Return a number of bytes as n8n writes it: "11 B", "1.5 kB", "3 MB"."""
    number = float(size)
    for unit in ("B", "kB", "MB"):
        if number < 999.5 or (unit == "B" and number < 1000):
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} GB"


def _http_request(_: BrokerTask, options: Json, *__: Json) -> Json:
    """Make a request as ``helpers.httpRequest`` does, without n8n's credentials."""
    if not isinstance(options, dict) or not isinstance(options.get("url"), str):
        raise TypeError("expected an object with a url")
    url = options["url"]
    base = options.get("baseURL")
    if isinstance(base, str) and "://" not in url:
        url = f"{base.rstrip('/')}/{url.lstrip('/')}"
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"only http and https can be requested, not {urlsplit(url).scheme!r}")
    body = options.get("body")
    arguments: dict[str, Json] = {}
    if isinstance(body, (dict, list)):
        buffer = from_buffer(body)
        arguments["data" if isinstance(buffer, bytes) else "json"] = buffer
    elif body is not None:
        arguments["data"] = body.encode() if isinstance(body, str) else javascript.stringify(body)
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
    content: Json = response.content if options.get("encoding") == "arraybuffer" else _body(response)
    if not options.get("returnFullResponse"):
        return content
    return {
        "body": content,
        "headers": {name.lower(): value for name, value in response.headers.items()},
        "statusCode": response.status_code,
        "statusMessage": response.reason,
    }


def _body(response: requests.Response) -> Json:
    try:
        return javascript.parse(response.text)
    except (ValueError, RecursionError):
        return response.text


HELPERS: dict[str, Callable[..., Json]] = {
    "helpers.getBinaryDataBuffer": _read_file,
    "helpers.assertBinaryData": _assert_file,
    "helpers.prepareBinaryData": _save_file,
    "helpers.setBinaryDataBuffer": _set_file,
    "helpers.binaryToString": _binary_to_string,
    "helpers.httpRequest": _http_request,
}
#: Names that n8n allows, but has in some of its nodes only.
WITHOUT_HELPER = ("helpers.request",)
