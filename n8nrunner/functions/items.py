"""Results of functions become n8n's items: ``{"json": ..., "binary": ..., "pairedItem": ...}``.

Thread: the handler's. `to_json` also converts defaults, for the caller that writes a node.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import decimal
import enum
import itertools
import json
import mimetypes
import os
import uuid
from collections.abc import Iterable, Sequence
from typing import Any, Callable

from n8nrunner.functions.files import File
from n8nrunner.protocol.json_faults import find_loop, integers_as_strings
from n8nrunner.protocol.json_text import NotJson, encode_value

#: Saves a file in n8n, and returns its entry in an item.
SaveFile = Callable[[File], dict[str, Any]]
Item = dict[str, Any]
#: The items of one result, and whether the result was a list, so that errors number its elements.
ResultItems = tuple[list[Item], bool]

#: The key of a result that is a plain value.
RESULT_KEY = "result"
#: The binary property of a result that is a file.
FILE_PROPERTY = "data"

_ITEM_KEYS = {"json", "binary", "pairedItem"}
#: The result of a batch names at most this many pairs of an output item and an input item.
_MAX_PAIRS = 1_000_000


def make_items(result: Any, save: SaveFile) -> ResultItems:
    """Return the items of one result, without their pairing.

    A dictionary, dataclass, model or similar becomes one item; a list, generator or DataFrame becomes one for
    each element; None becomes an empty item, so that the workflow continues; any other value becomes an item
    with the key "result". A file at the top level of an item becomes its binary data, and the item's JSON has
    the file's name, type and size.

    Raises `NotJson`, with the path, if the result contains a value that JSON cannot represent.
    """
    result = _unwrap_root_model(result)
    rows = _rows(result)
    if rows is None:
        return [_checked_item(result, save, "result")], False
    return [_checked_item(row, save, f"result[{number}]") for number, row in enumerate(rows)], True


def _checked_item(value: Any, save: SaveFile, path: str) -> Item:
    unknown: list[Any] = []
    try:
        item = _item(_unwrap_root_model(value), save, unknown)
    except RecursionError:
        raise NotJson(find_loop(value, path) or f"{path} contains itself, or is nested too deeply") from None
    if unknown:
        return _encodable(item, path)  # raises, with the path of the unknown value
    return item


def make_encodable(result: ResultItems) -> list[Item]:
    """Return the items of a result. Integers that n8n would round become strings.

    Raises `NotJson`, with the path in the result, if another value in them cannot be encoded.
    """
    items, is_list = result
    return [_encodable(item, f"result[{n}]" if is_list else "result") for n, item in enumerate(items)]


def _encodable(item: Item, path: str) -> Item:
    checked = {}
    for key, part in item.items():
        part_path = path if key == "json" else f"{path}[{key!r}]"
        loop = find_loop(part, part_path)
        if loop is not None:
            raise NotJson(loop)
        checked[key] = integers_as_strings(part)
        encode_value(checked[key], part_path)
    return checked


def pair(items: list[Item], sources: Sequence[int]) -> None:
    """Pair output items with the input items of their call. Items that have a pairing keep it.

    The items of a batch are paired one to one if there are as many as sources, else each with all sources.
    If that makes more than `_MAX_PAIRS` pairs, they get no pairing.
    """
    pairings: Iterable[Any]
    if len(sources) == 1:
        pairings = itertools.repeat({"item": sources[0]})
    elif len(items) == len(sources):
        pairings = ({"item": each} for each in sources)
    elif len(items) * len(sources) <= _MAX_PAIRS:
        pairings = itertools.repeat([{"item": each} for each in sources])
    else:
        return
    for item, pairing in zip(items, pairings):
        item.setdefault("pairedItem", pairing)


# --- one item or many ------------------------------------------------------------------------------

_JSON_SCALARS: tuple[type, ...] = (str, bool, int, float, type(None))
#: Most results are plain values; these types need no further checks.
_ALWAYS_ONE_ITEM = (*_JSON_SCALARS, dict)
#: Iterables whose elements become items: also `dict.values()`, a range, a generator, a deque.
_ITERABLES = (
    collections.abc.Sequence,
    collections.abc.Iterator,
    collections.abc.ValuesView,
    collections.deque,
)
#: Values at the top level of an item that become its binary data.
_FILES = (File, bytes, bytearray, memoryview)


def _rows(result: Any) -> Iterable[Any] | None:
    """Return the elements of a result that becomes many items; None if it becomes one."""
    if type(result) in _ALWAYS_ONE_ITEM:
        return None
    if isinstance(result, (str, *_FILES)) or _fields(result) is not None:
        return None
    if isinstance(result, _ITERABLES):
        return result
    records = _data_frame_rows(result)
    if records is not None:
        return records
    if _is_array(result) and getattr(result, "ndim", 0) > 0:
        return result  # type: ignore[no-any-return]
    return None


def _unwrap_root_model(value: Any) -> Any:
    """Return the content of a pydantic model with a root; any other value as it is."""
    return value.model_dump(mode="json") if getattr(type(value), "__pydantic_root_model__", False) else value


def _data_frame_rows(value: Any) -> Iterable[Any] | None:
    """Return the rows of a DataFrame of pandas or polars; None for any other value."""
    if type(value).__name__ != "DataFrame":
        return None
    for name, arguments in (("to_dicts", ()), ("to_dict", ("records",))):  # polars, pandas
        method = getattr(value, name, None)
        if callable(method):
            rows: Iterable[Any] = method(*arguments)
            return rows
    return None


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") and hasattr(value, "tolist") and hasattr(value, "dtype")


# --- one item --------------------------------------------------------------------------------------


def _item(value: Any, save: SaveFile, unknown: list[Any]) -> Item:
    """Return the item of a value. Values that JSON may not represent are appended to `unknown`."""
    if isinstance(value, collections.abc.Mapping) and _is_item(value):
        return _copied_item(value, save, unknown)
    if isinstance(value, _FILES):
        file = _as_file(value)
        return {"binary": {FILE_PROPERTY: save(file)}, "json": _file_details(file)}
    if value is None:
        return {"json": {}}
    fields = _fields(value)
    if fields is None:
        return {"json": {RESULT_KEY: to_json(value, unknown)}}
    json_part: dict[str, Any] = {}
    binary: dict[str, Any] = {}
    for field, part in fields:
        key = _key(field)
        if isinstance(part, _FILES):
            file = _as_file(part)
            binary[key] = save(file)
            json_part.setdefault(key, _file_details(file))
        else:
            json_part[key] = to_json(part, unknown)
    return {"json": json_part, "binary": binary} if binary else {"json": json_part}


def _is_item(value: collections.abc.Mapping[Any, Any]) -> bool:
    """Return whether a dictionary has the form of an n8n item already."""
    return (
        "json" in value
        and isinstance(value["json"], collections.abc.Mapping)
        and set(value) <= _ITEM_KEYS
        and isinstance(value.get("binary") or {}, collections.abc.Mapping)
    )


def _copied_item(value: collections.abc.Mapping[str, Any], save: SaveFile, unknown: list[Any]) -> Item:
    item: Item = {"json": to_json(value["json"], unknown)}
    binary = {}
    for key, part in (value.get("binary") or {}).items():
        entry = save(_as_file(part)) if isinstance(part, _FILES) else to_json(part, unknown)
        if entry is not None:
            binary[key] = entry
    if binary:
        item["binary"] = binary
    if value.get("pairedItem") is not None:
        item["pairedItem"] = to_json(value["pairedItem"], unknown)
    return item


def _as_file(value: Any) -> File:
    return value if isinstance(value, File) else File(bytes(value))


def _file_details(file: File) -> dict[str, Any]:
    """Return the JSON that describes a file: an AI agent, for one, sees only this of it."""
    mime = file.mime or (mimetypes.guess_type(file.filename)[0] if file.filename else None)
    details = {"fileName": file.filename, "mimeType": mime, "size": len(file.read())}
    return {key: value for key, value in details.items() if value is not None}


def _fields(value: Any) -> Iterable[tuple[Any, Any]] | None:
    """Return the keys and values of a dictionary or a similar value; None for any other."""
    if type(value) in _JSON_SCALARS:
        return None
    if isinstance(value, collections.abc.Mapping):
        return list(value.items())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value))
    if hasattr(value, "model_dump") and hasattr(type(value), "model_fields"):
        return _model_fields(value)
    if hasattr(value, "parse_obj") and hasattr(value, "dict"):  # pydantic 1
        return list(value.dict().items())
    if type(value).__name__ == "Series" and hasattr(value, "to_dict"):
        return list(value.to_dict().items())
    if type(value).__name__ == "Row" and hasattr(value, "keys"):  # of sqlite3
        return [(key, value[key]) for key in value.keys()]  # noqa: SIM118 - it is not a mapping
    return None


def _model_fields(model: Any) -> list[tuple[str, Any]]:
    """Return the fields of a pydantic model as pydantic dumps them, with its files as they are."""
    files = {
        name: getattr(model, name)
        for name in type(model).model_fields
        if isinstance(getattr(model, name, None), _FILES)
    }
    return [*model.model_dump(mode="json", exclude=set(files)).items(), *files.items()]


# --- JSON ------------------------------------------------------------------------------------------


def _key(key: Any) -> str:
    key = to_json(key)
    if key is None or isinstance(key, bool):
        return json.dumps(key)
    return key if isinstance(key, str) else str(key)  # a number, or a tuple that names a column of pandas


def to_json(value: Any, unknown: list[Any] | None = None) -> Any:
    """Convert a value to JSON: dates to ISO strings, NumPy's numbers to numbers, a Decimal to its digits.

    Args:
        unknown: values of unknown types are appended to it, and returned as they are.
    """
    if type(value) in _JSON_SCALARS:
        return value
    if isinstance(value, enum.Enum):
        return to_json(value.value, unknown)
    if isinstance(value, (str, bool, int, float)):
        return value
    if type(value).__name__ in ("NaTType", "NAType"):  # the missing values of pandas
        return None
    value = _unwrap_root_model(value)
    fields = _fields(value)
    if fields is not None:
        return {_key(key): to_json(part, unknown) for key, part in fields}
    if isinstance(value, (list, tuple)):
        return [to_json(part, unknown) for part in value]
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, (decimal.Decimal, uuid.UUID)):
        return str(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    rows = _data_frame_rows(value)
    if rows is not None:
        return [to_json(row, unknown) for row in rows]
    if _is_array(value):
        return _array_to_json(value, unknown)
    if isinstance(value, _ITERABLES) and not isinstance(value, (bytes, bytearray, memoryview)):
        return [to_json(part, unknown) for part in value]
    if unknown is not None and value is not None:
        unknown.append(value)
    return value


def _array_to_json(array: Any, unknown: list[Any] | None) -> Any:
    # `tolist` returns integers for times in nanoseconds, as pandas has them, and datetimes for microseconds.
    # With a time zone, it returns datetimes, and `astype` refuses to remove the zone.
    for dtype in ("datetime64", "timedelta64"):
        if str(array.dtype).startswith(dtype) and getattr(array.dtype, "tz", None) is None:
            array = array.astype(f"{dtype}[us]")
    return to_json(array.tolist(), unknown)
