"""Arguments of Python become the JSON values that a node sends for its fields."""

from __future__ import annotations

import base64
import dataclasses
import enum
import json
import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from n8nrunner.broker.helpers import binary_data
from n8nrunner.functions.files import File
from n8nrunner.functions.items import to_json
from n8nrunner.functions.parameters import JsonType, unwrap
from n8nrunner.functions.signature import Parameter

#: Bytes of files that travel with a task or its answer. The other files are fetched and stored by calls.
INLINE_BYTES = 128 * 1024 * 1024


def as_sent(parameter: Parameter, value: object) -> Any:
    """Return an argument as the node sends it. A file stays a `File`: `FilesOfTask` sends it.

    Raises:
        TypeError: n8n has no such value.
    """
    if parameter.is_file:
        return _as_file(parameter, value)
    try:
        plain = _plain(value)
        if value is None or isinstance(plain, str) or not isinstance(unwrap(parameter.type), JsonType):
            return plain
        return json.dumps(plain)  # the field is for JSON, which n8n has as text
    except _Unknown as error:
        raise TypeError(f"{parameter.name}: n8n cannot send {error}") from None


def any_as_sent(name: str, value: object) -> Any:
    """Return an argument for a parameter that is not known.

    Raises:
        TypeError: n8n has no such value.
    """
    try:
        return _plain(value)
    except _Unknown as error:
        raise TypeError(f"{name}: n8n cannot send {error}") from None


class _Unknown(Exception):
    """A value that JSON cannot represent. The text names its type."""


def _as_file(parameter: Parameter, value: object) -> File | None:
    if value is None and not parameter.required:
        return None
    if isinstance(value, File):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return File(bytes(value))
    if isinstance(value, Path):
        return File(value.read_bytes(), value.name)
    raise TypeError(f"{parameter.name}: expected a File, bytes or a Path, got {type(value).__name__}")


def _plain(value: object) -> Any:
    """Return a value as JSON. A record has the names of its arguments, so that the runner can make it."""
    if isinstance(value, enum.Enum):
        is_json = isinstance(value.value, (str, int, float)) and not isinstance(value.value, bool)
        return value.value if is_json else value.name
    if isinstance(value, float) and not math.isfinite(value):
        return None  # as JavaScript writes it
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json", by_alias=True)
    if hasattr(value, "parse_obj") and hasattr(value, "json"):  # pydantic 1
        return json.loads(value.json(by_alias=True))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        arguments = [field.name for field in dataclasses.fields(value) if field.init]
        return {name: _plain(getattr(value, name)) for name in arguments}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {name: _plain(part) for name, part in zip(value._fields, value)}
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple, AbstractSet)):
        return [_plain(part) for part in value]
    unknown: list[Any] = []
    plain = to_json(value, unknown)
    if unknown:
        raise _Unknown(f"a {type(unknown[0]).__name__}")
    return plain


class FilesOfTask:
    """The files of the calls of one task: in its settings as far as there is room, or for `Broker.submit`."""

    def __init__(self) -> None:
        #: The files that the runner fetches, by item and name.
        self.to_fetch: dict[tuple[int, str], bytes] = {}
        self._room = INLINE_BYTES

    def send(self, item: int, name: str, file: File) -> dict[str, Any]:
        """Return the argument for a file of an item."""
        content = file.read()
        stored = binary_data(b"", file.filename, file.mime)
        sent = {"$file": name, "fileName": file.filename, "mimeType": stored["mimeType"]}
        if len(content) <= self._room:
            self._room -= len(content)
            return {**sent, "content": base64.b64encode(content).decode()}
        self.to_fetch[item, name] = content
        return sent
