"""`File`: n8n's binary data as an argument of a function, or as a part of its result."""

from __future__ import annotations

import re
from typing import Callable

#: Characters that file names cannot have on Linux, macOS or Windows.
_FORBIDDEN = re.compile(r'[/\\:*?"<>|]')
#: Names of devices on Windows; what follows the first dot makes no difference.
_DEVICES = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|$)", re.IGNORECASE)
#: Bytes of the longest name that file systems accept.
_LONGEST_NAME = 255


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
            TaskCancelled, TaskTimeout: the task ended in the meantime.
        """
        if self._data is None:
            assert self._fetch is not None
            self._data = self._fetch()
        return self._data


def fetched_file(fetch: Callable[[], bytes], filename: object, mime: object) -> File:
    """Return a file whose bytes `fetch` returns when they are first read."""
    file = File()
    file._data, file._fetch = None, fetch
    file.filename = filename if isinstance(filename, str) else None
    file.mime = mime if isinstance(mime, str) else None
    return file
