"""Files between a task and n8n: within its settings and its result, or by calls to n8n."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from n8nrunner.errors import TaskError
from n8nrunner.functions.files import File, fetched_file
from n8nrunner.task import Task

#: Bytes of the largest file stored by a call: n8n makes a list of numbers of it, and may run out of memory.
_MAX_BYTES_BY_CALL = 16 * 1024 * 1024


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

        return fetched_file(fetch, value.get("fileName"), value.get("mimeType"))

    def send(self, file: File) -> dict[str, Any]:
        """Return the entry of a file in an output item: with its bytes as far as the node accepts them.

        Raises:
            TaskError: the file is too large, or n8n did not store it.
            TaskCancelled, TaskTimeout: the task ended in the meantime.
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
