"""`File`: n8n's binary data as a function's argument, or as a part of its result."""

from __future__ import annotations

import re
from typing import Any, Callable

#: Characters that are no part of a name on Linux, macOS or Windows.
_FORBIDDEN = re.compile(r'[/\\:*?"<>|]')
#: Names that are devices on Windows, whatever follows their first dot.
_DEVICES = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|$)", re.IGNORECASE)
#: Bytes of the longest name that file systems take.
_LONGEST_NAME = 255


def safe_name(name: str | None) -> str:
    """Return a name under which a file can be stored in a folder of one's own, on any system.

    It is never empty, names no other folder and no device, and has no control characters. Different names may
    become the same.
    """
    kept = "".join(character if character.isprintable() else "_" for character in name or "")
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


class File:
    """A file that comes from n8n or goes there.

    As an argument it is one of the item's files; its bytes are fetched from n8n when they are read first. As
    a result, or as a value in a dictionary that is returned, it becomes a file of the output item.

    Args:
        data: its bytes.
        filename: such as "report.pdf"; None if it has none. An argument's is the text of the workflow's
            author, or of the file's sender, such as "../../etc/passwd": use `safe_name` where you store it.
        mime: such as "application/pdf"; None lets n8n find it out from the name and the bytes.
    """

    __slots__ = ("_data", "_fetch", "filename", "mime")

    def __init__(self, data: bytes = b"", filename: str | None = None, mime: str | None = None) -> None:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"File: expected bytes, got {type(data).__name__}")
        self._data: bytes | None = bytes(data)
        self._fetch: Callable[[], bytes] | None = None
        self.filename = filename
        self.mime = mime

    @classmethod
    def fetched_by(cls, fetch: Callable[[], bytes], filename: Any, mime: Any) -> File:
        """A file whose bytes `fetch` gets when they are read first."""
        file = cls()
        file._data, file._fetch = None, fetch
        file.filename = filename if isinstance(filename, str) else None
        file.mime = mime if isinstance(mime, str) else None
        return file

    def __repr__(self) -> str:
        size = "not read yet" if self._data is None else f"{len(self._data)} bytes"
        return f"<File {self.filename!r}, {self.mime}, {size}>"

    @property
    def safe_name(self) -> str:
        """The file's name as the name of a file in a folder of one's own: without folders, never empty.

        Names that differ may become the same, so files of several items need folders or numbers of their own.
        """
        return safe_name(self.filename)

    def read(self) -> bytes:
        """Its bytes.

        Raises:
            TaskError: n8n did not give them.
            TaskCancelled, TaskTimeout: the task has ended meanwhile.
        """
        if self._data is None:
            assert self._fetch is not None
            self._data = self._fetch()
        return self._data
