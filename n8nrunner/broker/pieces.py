"""JSON of hundreds of megabytes without holding the interpreter lock for its whole length.

The standard library's encoder and decoder are C code that lets no other thread run until it is done, at 13 MB
for some 0.3 s. Here large values are taken apart by Python code and only pieces of them are given to it, so
that the broker's thread answers its other runners meanwhile. Both directions are strict: NaN and Infinity are
no JSON.
"""

from __future__ import annotations

import decimal
import json
import re
from typing import Any, NoReturn

from n8nrunner.protocol.values import LARGEST_INTEGER, may_have_large_integer

#: Characters after which a piece has been large enough to be worth the effort.
PIECE = 64 * 1024
#: Containers inside containers beyond this depth are left to the C code as they are.
_DEPTH = 12

_skip_space = re.compile(r"[ \t\n\r]*").match


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


_decoder = json.JSONDecoder(parse_constant=_refuse)


def _to_buffer(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"type": "Buffer", "data": list(value)}
    raise TypeError(f"an object of type {type(value).__name__} is no JSON")


_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_to_buffer)
_half_characters = re.compile("[\ud800-\udfff]")


def _encode(value: Any) -> str:
    text = _encoder.encode(value)
    if not text.isascii():
        # Halves of surrogate pairs cannot be sent as UTF-8; JavaScript writes them as this, too.
        text = _half_characters.sub(lambda half: f"\\u{ord(half.group()):04x}", text)
    return text


def loads(text: str) -> Any:
    """The value of a JSON text, with integers rounded as n8n's JavaScript does.

    Raises:
        ValueError: it is no JSON; NaN and Infinity count as none. RecursionError: it is nested too deeply.
    """
    value = _loads(text)
    return _rounded(value) if may_have_large_integer(text) else value


def _loads(text: str) -> Any:
    if len(text) <= PIECE:
        return _decoder.decode(text)
    value, end = _load(text, _space(text, 0), _DEPTH)
    if _space(text, end) != len(text):
        raise ValueError(f"more text behind the value, at character {end}")
    return value


def _rounded(value: Any) -> Any:
    """A copy of a value with each integer as JavaScript reads and writes it: as a 64-bit float."""
    if isinstance(value, int):
        if -LARGEST_INTEGER <= value <= LARGEST_INTEGER:
            return value
        try:
            number = float(value)
        except OverflowError:
            return None  # JavaScript reads Infinity, and writes null
        # It writes the shortest digits that tell the float from its neighbours, and an exponent from 1e21 on.
        return int(decimal.Decimal(repr(number))) if abs(number) < 1e21 else number
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(part) for part in value]
    return value


def _space(text: str, at: int) -> int:
    match = _skip_space(text, at)
    assert match is not None
    return match.end()


def _load(text: str, at: int, depth: int) -> tuple[Any, int]:
    opening = text[at : at + 1]
    if depth and opening == "{":
        return _load_object(text, at, depth)
    if depth and opening == "[":
        return _load_array(text, at, depth)
    return _decoder.raw_decode(text, at)


def _load_object(text: str, at: int, depth: int) -> tuple[dict[str, Any], int]:
    found: dict[str, Any] = {}
    at = _space(text, at + 1)
    if text[at : at + 1] == "}":
        return found, at + 1
    while True:
        if text[at : at + 1] != '"':
            raise ValueError(f"expected a key at character {at}")
        key, at = _decoder.raw_decode(text, at)
        at = _space(text, at)
        if text[at : at + 1] != ":":
            raise ValueError(f"expected a colon at character {at}")
        found[key], at = _load(text, _space(text, at + 1), depth - 1)
        at = _space(text, at)
        closing = text[at : at + 1]
        if closing == "}":
            return found, at + 1
        if closing != ",":
            raise ValueError(f"expected a comma or the end of an object at character {at}")
        at = _space(text, at + 1)


def _load_array(text: str, at: int, depth: int) -> tuple[list[Any], int]:
    found: list[Any] = []
    beginning = at
    at = _space(text, at + 1)
    if text[at : at + 1] == "]":
        return found, at + 1
    # Whether to take an element apart is guessed by the one before it: most lists hold things of one kind.
    take_apart = True
    wait = failures = 0
    boundary = ""
    while True:
        end = None
        if wait:
            wait -= 1
        elif boundary:
            # No more at once than three times what has been read: a wrong guess costs little then.
            end = _load_group(text, at, at + min(PIECE, 3 * (at - beginning)), boundary, found)
            if end is None:
                failures += 1
                wait = 2**failures
        if end is None:
            value, end = _load(text, at, depth - 1) if take_apart else _decoder.raw_decode(text, at)
            found.append(value)
            take_apart = end - at > PIECE
            boundary = _boundary(text, at, end)
        at = _space(text, end)
        closing = text[at : at + 1]
        if closing == "]":
            return found, at + 1
        if closing != ",":
            raise ValueError(f"expected a comma or the end of an array at character {at}")
        at = _space(text, at + 1)


def _boundary(text: str, start: int, end: int) -> str:
    """What probably stands between any two elements of a list, judged by the end of one of them."""
    first = end
    while first > start and end - first < 3 and text[first - 1] in '}]"':
        first -= 1
    return f"{text[first:end]},"


def _load_group(text: str, start: int, limit: int, boundary: str, found: list[Any]) -> int | None:
    """Reads all elements up to the last boundary before `limit`; returns where they end.

    None if there is no boundary, or if it was none after all: then what is before it is not a list of values.
    """
    cut = text.rfind(boundary, start, limit)
    end = cut + len(boundary) - 1
    if cut < 0 or end <= start:
        return None
    try:
        found.extend(_decoder.decode(f"[{text[start:end]}]"))
    except ValueError:
        return None
    return end


def dumps(value: Any) -> str:
    """The JSON text of a value, with integers rounded as n8n's JavaScript does.

    Bytes become n8n's ``{"type": "Buffer", "data": [...]}``.

    Raises:
        ValueError: NaN, Infinity, or a cycle. TypeError: an object that is no JSON. RecursionError: too deep.
    """
    text = _dumps(value)
    return _dumps(_rounded(value)) if may_have_large_integer(text) else text


def _dumps(value: Any) -> str:
    parts: list[str] = []
    _dump(value, parts, _DEPTH)
    return "".join(parts)


def _dump(value: Any, parts: list[str], depth: int) -> None:
    if depth and type(value) is list and value:
        _dump_list(value, parts, depth)
    elif depth and type(value) is dict and value and all(type(key) is str for key in value):
        opening = "{"
        for key, item in value.items():
            parts.append(f"{opening}{_encode(key)}:")
            _dump(item, parts, depth - 1)
            opening = ","
        parts.append("}")
    elif isinstance(value, (bytes, bytearray, memoryview)) and len(value) > PIECE:
        parts.append('{"type":"Buffer","data":')
        _dump_list(memoryview(value).cast("B"), parts, 0)
        parts.append("}")
    else:
        parts.append(_encode(value))


def _dump_list(value: Any, parts: list[str], depth: int) -> None:
    # Elements are written in groups of about one piece; one that is larger than that is taken apart itself.
    opening = "["
    at, step = 0, 1
    while at < len(value):
        group = value[at : at + step]
        if depth and step == 1:
            inner: list[str] = []
            _dump(group[0], inner, depth - 1)
            size = sum(map(len, inner))
            parts.append(opening)
            parts.extend(inner)
        else:
            text = _encode(list(group))
            size = len(text)
            parts.append(opening)
            parts.append(text[1:-1])
        opening = ","
        at += step
        step = max(1, min(step * 8, step * PIECE // max(size, 1)))
    parts.append("]")
