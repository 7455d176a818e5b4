"""`File`: n8n's binary data as a function's argument, or as a part of its result."""

from __future__ import annotations

from typing import Any, Callable, Optional


class File:
    """A file that comes from n8n or goes there.

    As an argument it is one of the item's files; its bytes are fetched from n8n when they are read first. As
    a result, or as a value in a dictionary that is returned, it becomes a file of the output item.

    Args:
        data: its bytes.
        filename: such as "report.pdf"; None if it has none.
        mime: such as "application/pdf"; None lets n8n find it out from the name and the bytes.
    """

    __slots__ = ("_data", "_fetch", "filename", "mime")

    def __init__(self, data: bytes = b"", filename: Optional[str] = None, mime: Optional[str] = None) -> None:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"File: expected bytes, got {type(data).__name__}")
        self._data: Optional[bytes] = bytes(data)
        self._fetch: Optional[Callable[[], bytes]] = None
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
