"""n8n's items, as a node gets them from a function."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

from n8nrunner.broker.helpers import binary_data
from n8nrunner.functions.files import File


class Item(dict[str, Any]):
    """An item of n8n: a dictionary with ``"json"``, ``"pairedItem"`` and, if it has files, ``"binary"``."""

    @property
    def json(self) -> dict[str, Any]:
        """The item's JSON."""
        value: dict[str, Any] = self["json"]
        return value

    def file(self, name: str = "data") -> File:
        """Return a file of the item.

        Args:
            name: its binary property in n8n: the key in the function's result, or "data" for a result that
                is a file.

        Raises:
            LookupError: the item has no such file.
        """
        entry = self.get("binary", {}).get(name)
        if entry is None:
            names = ", ".join(self.get("binary", {})) or "none"
            raise LookupError(f"the item has no file {name!r}; it has: {names}")
        return File(base64.b64decode(entry["data"]), entry.get("fileName"), entry.get("mimeType"))


def with_files(items: Iterable[Mapping[str, Any]]) -> list[Item]:
    """Return the items of an answer, with the files in it stored as n8n stores them."""
    stored = [Item(item) for item in items]
    for item in stored:
        if "binary" in item:
            item["binary"] = {name: _stored(file) for name, file in item["binary"].items()}
    return stored


def _stored(file: dict[str, Any]) -> dict[str, Any]:
    if "content" not in file:
        return file  # stored during the task
    stored = binary_data(base64.b64decode(file["content"]), file.get("fileName"), file.get("mimeType"))
    if file.get("fileName") is not None:
        stored["fileName"] = file["fileName"]
        stored.pop("directory", None)
    return stored
