"""n8n's binary data as arguments of functions and parts of their results, and its transfer.

Small files are parts of a task's settings and result. Larger ones are fetched and stored by calls to n8n.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any, Callable

from n8nrunner.errors import TaskError
from n8nrunner.task import Task

#: Characters that file names cannot have on Linux, macOS or Windows.
_FORBIDDEN = re.compile(r'[/\\:*?"<>|]')
#: Names of devices on Windows; what follows the first dot makes no difference.
_DEVICES = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|$)", re.IGNORECASE)
#: Bytes of the longest name that file systems accept.
_LONGEST_NAME = 255
#: Bytes of the largest file stored by a call: n8n makes a list of numbers of it, and may run out of memory.
_MAX_BYTES_BY_CALL = 16 * 1024 * 1024


class File:
    """A file of n8n's binary data.

    As an argument it is one of the item's files; its bytes are fetched from n8n when they are first read. As
    a result, or as a value in a returned dictionary, it becomes a file of the output item.

    Args:
        data: the bytes.
        filename: a name such as "report.pdf"; None if it has none. The workflow's author or the file's sender
            chose an argument's name, and it may be "../../etc/passwd": use `safe_name` to store the file.
        mime: a type such as "application/pdf"; None lets n8n detect it from name and bytes.

    Raises:
        TypeError: `data` is not bytes.
    """

    __slots__ = ("_data", "_fetch", "filename", "mime")

    def __init__(self, data: bytes = b"", filename: str | None = None, mime: str | None = None) -> None:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"File: expected bytes, got {type(data).__name__}")
        self._data: bytes | None = bytes(data)
        self._fetch: Callable[[], bytes] | None = None
        self.filename = filename
        self.mime = mime

    def __repr__(self) -> str:
        size = "not read yet" if self._data is None else f"{len(self._data)} bytes"
        return f"<File {self.filename!r}, {self.mime}, {size}>"

    @property
    def safe_name(self) -> str:
        """A file name that is safe on every system, to store the file in a folder of your own.

        It is never empty, and names no folder and no device. Different names may become the same, so files of
        several items need folders or numbers of their own.
        """
        kept = "".join(character if character.isprintable() else "_" for character in self.filename or "")
        kept = _FORBIDDEN.sub("_", kept).strip(" .")
        if _DEVICES.match(kept):
            kept = f"_{kept}"
        if len(kept.encode()) > _LONGEST_NAME:
            stem, dot, extension = kept.rpartition(".")
            ending = f"{dot}{extension}".encode()
            if not stem or len(ending) > _LONGEST_NAME // 2:
                stem, ending = kept, b""
            kept = (stem.encode()[: _LONGEST_NAME - len(ending)] + ending).decode(errors="ignore")
        return kept or "file"

    def read(self) -> bytes:
        """Return the bytes.

        Raises:
            TaskError: n8n did not send them.
            TaskCancelled, TaskTimeout: the task ended first.
        """
        if self._data is None:
            assert self._fetch is not None
            self._data = self._fetch()
        return self._data


class FileTransfer:
    """The files of one task.

    "inlineFiles" in its settings says how many bytes of files the node accepts in the result. Without it, the
    node is an older one, and all files are stored by calls.
    """

    def __init__(self, task: Task, settings: Mapping[str, Any]) -> None:
        self._task = task
        limit = settings.get("inlineFiles")
        self._inline_limit = limit if isinstance(limit, int) else None
        self._inline_left = self._inline_limit or 0

    def receive(self, item: int, value: Any) -> Any:
        """Return the `File` of an argument ``{"$file": property}`` of an item; any other value as it is.

        Its bytes are in "content", or are fetched from n8n when they are first read.
        """
        if not isinstance(value, dict) or not isinstance(value.get("$file"), str):
            return value
        task, name, content = self._task, value["$file"], value.get("content")

        def fetch() -> bytes:
            return base64.b64decode(content) if isinstance(content, str) else task.read_file(item, name)

        details = (value.get("fileName"), value.get("mimeType"))
        file = File(b"", *(detail if isinstance(detail, str) else None for detail in details))
        file._data, file._fetch = None, fetch
        return file

    def send(self, file: File) -> dict[str, Any]:
        """Return the entry of a file in an output item: with its bytes as far as the node accepts them.

        Raises:
            TaskError: the file is too large, or n8n did not store it.
            TaskCancelled, TaskTimeout: the task ended first.
        """
        content = file.read()
        if len(content) <= self._inline_left:
            self._inline_left -= len(content)
            details = {"fileName": file.filename, "mimeType": file.mime}
            known = {key: value for key, value in details.items() if value is not None}
            return {"content": base64.b64encode(content).decode(), **known}
        if self._inline_limit is not None and len(content) > _MAX_BYTES_BY_CALL:
            raise TaskError(
                f"The file {file.filename or 'that was returned'} is too large for n8n",
                f"It has {len(content)} bytes; the files of one result may have {self._inline_limit}. "
                "Store it elsewhere and return its place, or return fewer files at once.",
            )
        saved = self._task.save_file(content, file.filename, file.mime)
        if file.filename and saved.get("fileName") != file.filename:
            # n8n took the name for a path, as of "Invoice 5/2024.pdf".
            saved["fileName"] = file.filename
            saved.pop("directory", None)
        return saved
