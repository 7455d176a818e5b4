"""JSON as n8n's JavaScript reads and writes it: large integers rounded, bytes as Buffers, no NaN."""

from __future__ import annotations

import decimal
import json
from typing import Any, NoReturn

from n8nrunner.protocol.json_faults import LARGEST_INTEGER, map_leaves
from n8nrunner.protocol.json_text import encode_in_pieces, give_way, may_have_large_integer


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not valid JSON")


_decode = json.JSONDecoder(object_hook=give_way, parse_constant=_refuse).decode


def parse(text: str) -> Any:
    """Return the value of JSON text as ``JSON.parse`` does, with integers above 2**53 - 1 rounded.

    Raises `ValueError` if the text is not valid JSON, such as NaN, and `RecursionError` if it is too deep.
    """
    value = _decode(text)
    return map_leaves(value, _rounded) if may_have_large_integer(text) else value


def stringify(value: Any) -> str:
    """Return a value as JSON text as ``JSON.stringify`` does, with integers above 2**53 - 1 rounded.

    Bytes become n8n's ``{"type": "Buffer", "data": [...]}``.

    Raises:
        ValueError: the value holds NaN or Infinity, or contains itself.
        TypeError: the value holds something that JSON cannot represent.
        RecursionError: the value is nested too deeply.
    """
    if isinstance(value, (bytes, bytearray, memoryview)):
        value = _buffer(value)
    text = encode_in_pieces(value, _encode)
    return encode_in_pieces(map_leaves(value, _rounded), _encode) if may_have_large_integer(text) else text


def _buffer(value: Any) -> dict[str, Any]:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"type": "Buffer", "data": list(value)}
    raise TypeError(f"JSON cannot represent an object of type {type(value).__name__}")


_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_buffer)


def _encode(value: Any) -> str:
    text = _encoder.encode(value)
    # UTF-8 has no lone surrogates: JavaScript, too, writes them as escape sequences.
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _rounded(leaf: Any) -> Any:
    """Return an integer as JavaScript reads and writes it: as a 64-bit float."""
    if not isinstance(leaf, int) or -LARGEST_INTEGER <= leaf <= LARGEST_INTEGER:
        return leaf
    try:
        number = float(leaf)
    except OverflowError:
        return None  # JavaScript reads Infinity, and writes null
    # It writes the shortest digits that tell the float from its neighbours, and an exponent from 1e21 on.
    return int(decimal.Decimal(repr(number))) if abs(number) < 1e21 else number
