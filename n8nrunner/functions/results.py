"""What a function returns becomes n8n's items: ``{"json": ..., "binary": ..., "pairedItem": ...}``."""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import decimal
import enum
import json
import mimetypes
import os
import uuid
from collections.abc import Sequence
from typing import Any, Callable

from n8nrunner.functions.files import File
from n8nrunner.protocol.json_faults import find_loop, integers_as_strings
from n8nrunner.protocol.json_text import NotJson, encode_value

#: Saves a file in n8n, and returns what stands in an item for it.
Save = Callable[[File], dict[str, Any]]
Item = dict[str, Any]

#: The key of a result that is no dictionary.
VALUE = "result"
#: The binary property of a result that is a file.
FILE = "data"

_ITEM_KEYS = {"json", "binary", "pairedItem"}
#: The most pairs of an output item and an input item that a batch's result may spell out.
_MOST_PAIRS = 1_000_000


#: The items of one result, and whether it was a list or the like, so that its parts have numbers.
Made = tuple[list[Item], bool]


def items_of(result: Any, save: Save) -> Made:
    """The items of one result, without their pairing.

    A dictionary, or what is like one, is an item; a list, a generator or a DataFrame is many; None is one
    item with nothing in it, so that the workflow goes on; everything else is an item with it as "result".
    Files become the item's files, wherever they stand at the top of a dictionary; the item's JSON says their
    names, types and sizes.

    Raises:
        NotJson: the result holds something that JSON cannot represent. The text names its place.
    """
    result = _unwrapped(result)
    rows = _rows(result)
    if rows is None:
        return [_checked_item(result, save, "result")], False
    return [_checked_item(row, save, f"result[{number}]") for number, row in enumerate(rows)], True


def _checked_item(value: Any, save: Save, name: str) -> Item:
    strangers: list[Any] = []
    try:
        item = _item(_unwrapped(value), save, strangers)
    except RecursionError:
        raise NotJson(find_loop(value, name) or f"{name} contains itself, or is nested too deeply") from None
    if strangers:
        return _writable(item, name)  # raises, and names the place
    return item


def writable(made: Made) -> list[Item]:
    """The items of a result with each integer that n8n would round as a string.

    Raises:
        NotJson: something else in one of them cannot be written. The text names its place in the result.
    """
    items, many = made
    return [_writable(item, f"result[{number}]" if many else "result") for number, item in enumerate(items)]


def _writable(item: Item, name: str) -> Item:
    checked = {}
    for key, part in item.items():
        place = name if key == "json" else f"{name}[{key!r}]"
        loop = find_loop(part, place)
        if loop is not None:
            raise NotJson(loop)
        checked[key] = integers_as_strings(part)
        encode_value(checked[key], place)
    return checked


def paired(items: list[Item], source: int) -> list[Item]:
    """All items come from the input item at `source`, unless one says something else."""
    for item in items:
        item.setdefault("pairedItem", {"item": source})
    return items


def paired_with_all(items: list[Item], sources: Sequence[int]) -> list[Item]:
    """The items of a batch: one to one if there are as many as sources, else each comes from all of them."""
    if len(items) == len(sources):
        for item, source in zip(items, sources):
            item.setdefault("pairedItem", {"item": source})
    elif len(items) * len(sources) <= _MOST_PAIRS:
        everything = [{"item": source} for source in sources]
        for item in items:
            item.setdefault("pairedItem", everything)
    return items


def _rows(result: Any) -> Any:
    """The parts of a result that is many items; None if it is one."""
    if type(result) in _ONE_ITEM:
        return None
    if isinstance(result, (str, bytes, bytearray, memoryview, File)) or _fields(result) is not None:
        return None
    if isinstance(result, _SERIES):
        return result
    records = _records(result)
    if records is not None:
        return records
    if _is_array(result) and getattr(result, "ndim", 0) > 0:
        return result
    return None


#: What is many items beside generators: also what `dict.values()` gives, a range, a deque.
_SERIES = (collections.abc.Sequence, collections.abc.Iterator, collections.abc.ValuesView, collections.deque)


def _unwrapped(value: Any) -> Any:
    """What a pydantic model with a root stands for; anything else as it is."""
    return value.model_dump(mode="json") if getattr(type(value), "__pydantic_root_model__", False) else value


def _records(value: Any) -> Any:
    """The rows of a DataFrame, of pandas or of polars; None if it is none."""
    if type(value).__name__ != "DataFrame":
        return None
    to_dicts = getattr(value, "to_dicts", None)  # polars
    if callable(to_dicts):
        return to_dicts()
    to_dict = getattr(value, "to_dict", None)
    return to_dict("records") if callable(to_dict) else None


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") and hasattr(value, "tolist") and hasattr(value, "dtype")


def _item(value: Any, save: Save, strangers: list[Any]) -> Item:
    if isinstance(value, collections.abc.Mapping) and _is_item(value):
        item: Item = {"json": plain(value["json"], strangers)}
        binary = {key: _file(part, save, strangers) for key, part in (value.get("binary") or {}).items()}
        item.update(_with_files({key: part for key, part in binary.items() if part is not None}))
        if value.get("pairedItem") is not None:
            item["pairedItem"] = plain(value["pairedItem"], strangers)
        return item
    if isinstance(value, _FILES):
        file = _as_file(value)
        return {"binary": {FILE: save(file)}, "json": _about(file)}
    if value is None:
        return {"json": {}}
    fields = _fields(value)
    if fields is None:
        return {"json": {VALUE: plain(value, strangers)}}
    json_part: dict[str, Any] = {}
    binary = {}
    for key, part in fields:
        key = _key(key)
        if isinstance(part, _FILES):
            file = _as_file(part)
            binary[key] = save(file)
            json_part.setdefault(key, _about(file))
        else:
            json_part[key] = plain(part, strangers)
    return {"json": json_part, **_with_files(binary)}


#: What becomes a file of the item at the top of a result.
_FILES = (File, bytes, bytearray, memoryview)


def _as_file(value: Any) -> File:
    return value if isinstance(value, File) else File(bytes(value))


def _about(file: File) -> dict[str, Any]:
    """What an item's JSON says of a file: an AI agent, for one, sees nothing else of it."""
    mime = file.mime or (mimetypes.guess_type(file.filename)[0] if file.filename else None)
    known = {"fileName": file.filename, "mimeType": mime, "size": len(file.read())}
    return {key: value for key, value in known.items() if value is not None}


def _with_files(binary: dict[str, Any]) -> Item:
    return {"binary": binary} if binary else {}


def _file(part: Any, save: Save, strangers: list[Any]) -> Any:
    """A value of an item's "binary" that is in n8n's form."""
    return save(_as_file(part)) if isinstance(part, _FILES) else plain(part, strangers)


def _is_item(value: Any) -> bool:
    """Whether a dictionary is in n8n's own form already."""
    return (
        "json" in value
        and isinstance(value["json"], collections.abc.Mapping)
        and set(value) <= _ITEM_KEYS
        and isinstance(value.get("binary") or {}, collections.abc.Mapping)
    )


def _fields(value: Any) -> Any:
    """The keys and values of what is like a dictionary; None if it is not."""
    if type(value) in _NO_CONVERSION:
        return None
    if isinstance(value, collections.abc.Mapping):
        return list(value.items())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value))
    if hasattr(value, "model_dump") and hasattr(type(value), "model_fields"):
        return _fields_of_model(value)
    if hasattr(value, "parse_obj") and hasattr(value, "dict"):  # pydantic 1
        return list(value.dict().items())
    if type(value).__name__ == "Series" and hasattr(value, "to_dict"):
        return list(value.to_dict().items())
    if type(value).__name__ == "Row" and hasattr(value, "keys"):  # of sqlite3
        return [(key, value[key]) for key in value.keys()]  # noqa: SIM118 - it is no mapping
    return None


def _fields_of_model(model: Any) -> list[tuple[str, Any]]:
    """A pydantic model as pydantic writes it, but for its files."""
    files = {
        name: getattr(model, name)
        for name in type(model).model_fields
        if isinstance(getattr(model, name, None), _FILES)
    }
    return [*model.model_dump(mode="json", exclude=set(files)).items(), *files.items()]


def _key(key: Any) -> str:
    key = plain(key)
    if key is None or isinstance(key, bool):
        return json.dumps(key)
    return key if isinstance(key, str) else str(key)  # a number, or a tuple that names a column of pandas


_NO_CONVERSION: tuple[type, ...] = (str, bool, int, float, type(None))
#: What most functions return need not be asked for everything that it may be like.
_ONE_ITEM = (*_NO_CONVERSION, dict)


def plain(value: Any, strangers: list[Any] | None = None) -> Any:
    """A value as JSON has it: dates in ISO form, numbers of NumPy as numbers, a Decimal as its text.

    Args:
        strangers: gets what it does not know, which is returned as it is.
    """
    if type(value) in _NO_CONVERSION:
        return value
    if isinstance(value, enum.Enum):
        return plain(value.value, strangers)
    if isinstance(value, (str, bool, int, float)):
        return value
    if _is_missing(value):
        return None
    value = _unwrapped(value)
    fields = _fields(value)
    if fields is not None:
        return {_key(key): plain(part, strangers) for key, part in fields}
    if isinstance(value, (list, tuple)):
        return [plain(part, strangers) for part in value]
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, (decimal.Decimal, uuid.UUID)):
        return str(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    records = _records(value)
    if records is not None:
        return [plain(record, strangers) for record in records]
    if _is_array(value):
        return _plain_array(value, strangers)
    if isinstance(value, _SERIES) and not isinstance(value, (bytes, bytearray, memoryview)):
        return [plain(part, strangers) for part in value]
    if strangers is not None and value is not None:
        strangers.append(value)
    return value


def _is_missing(value: Any) -> bool:
    """Whether it is NaT or NA of pandas."""
    return type(value).__name__ in ("NaTType", "NAType")


def _plain_array(value: Any, strangers: list[Any] | None) -> Any:
    # In nanoseconds, as pandas has them, both would become plain numbers.
    for kind in ("datetime64", "timedelta64"):
        if str(value.dtype).startswith(kind):
            value = value.astype(f"{kind}[us]")
    return plain(value.tolist(), strangers)
