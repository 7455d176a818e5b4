"""JSON values of any size: strict encoding that names the place of a fault, and decoding in pieces.

The C parts of `json` hold the interpreter's lock from beginning to end: a result of 13 MB would stop every
other thread for a fifth of a second. So long lists are encoded and decoded a piece at a time.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple

from n8nrunner.errors import ProtocolError
from n8nrunner.protocol.messages import Undecoded

#: Characters of a piece that are aimed at. Item by item would be three times slower than all at once.
PIECE = 64 * 1024
#: A list up to this length is not looked at item by item.
_SHORT = 32
#: How deep long lists are searched for: n8n's items are {"json": {"rows": [...]}}.
_DEPTH = 4

#: The largest integer that JavaScript's numbers hold exactly together with all smaller ones.
LARGEST_INTEGER = 2**53 - 1

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class NotJson(ValueError):
    """A value that JSON or n8n cannot hold. The message names its place and type, never the value itself."""


class Encoded(NamedTuple):
    """A result whose JSON text has been made already."""

    text: str


def encode_value(value: Any, name: str = "result") -> str:
    """JSON text of a value; NaN and Infinity become null, as n8n's own JavaScript makes them.

    Half of a surrogate pair stays as it is: `codec` writes it as an escape sequence.

    Args:
        name: what the value is called in an error, such as "result" in ``result[0]['json']``.

    Raises:
        NotJson: the value holds something that JSON cannot represent, or an integer that n8n would round.
    """
    try:
        return _encode_in_pieces(value, _encode_exactly)
    except (TypeError, ValueError, RecursionError) as error:
        reason = str(error)
    fault = find_fault(value, name)
    if fault is not None:
        raise NotJson(fault)
    try:
        return _encode_in_pieces(_without_nan(value), _encode)
    except (TypeError, ValueError, RecursionError):
        raise NotJson(f"{name} cannot be written as JSON: {reason}") from None


class _MaybeRounded(ValueError):
    """A text has to be looked at: it may hold an integer above `LARGEST_INTEGER`."""


_AS_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)
_SIXTEEN_DIGITS = b"0" * 16
_INTEGER = re.compile(r"[\s:,\[-][0-9]{16,}[\s,}\]]")
#: Characters that are looked at without a chance for other threads to run: a millisecond or less.
_WINDOW = 1024 * 1024


def may_have_large_integer(text: str) -> bool:
    """Return whether JSON text has an integer above `LARGEST_INTEGER`, or a string that looks like it.

    Integers of 16 digits count whatever their value, for the caller to look at.
    """
    # The first step is ten times as fast as the second, and few texts have such a run of digits. The second
    # tells integers from the fractions of floats.
    for start in range(0, len(text), _WINDOW):
        window = text[start : start + _WINDOW + len(_SIXTEEN_DIGITS)]
        if _SIXTEEN_DIGITS in window.encode("utf-8", "surrogatepass").translate(_AS_ZEROS):
            return _INTEGER.search(f"[{text}]") is not None
    return False


def _encode_exactly(value: Any) -> str:
    text = _encode(value)
    if may_have_large_integer(text):
        raise _MaybeRounded("it may hold an integer that n8n would round")
    return text


def integers_as_text(value: Any) -> Any:
    """A copy of a value with each integer that n8n would round as a string.

    An integer of more digits than Python writes stays, for `encode_value` to name its place.
    """
    if isinstance(value, int):
        if -LARGEST_INTEGER <= value <= LARGEST_INTEGER or _fault_of_digits(value) is not None:
            return value
        return int.__repr__(value)
    if isinstance(value, dict):
        return {key: integers_as_text(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [integers_as_text(item) for item in value]
    return value


def _encode_in_pieces(value: Any, encode: Callable[[Any], str]) -> str:
    if not _is_long(value, _DEPTH):
        return encode(value)
    parts: list[str] = []
    _append_pieces(value, _DEPTH, parts, encode)
    return "".join(parts)


def _is_long(value: Any, depth: int) -> bool:
    kind = type(value)
    if kind is list:
        if len(value) > _SHORT:
            return True
        return depth > 0 and any(_is_long(item, depth - 1) for item in value)
    if kind is dict and depth > 0 and len(value) <= _SHORT:
        return any(_is_long(item, depth - 1) for item in value.values())
    return False


def _append_pieces(value: Any, depth: int, parts: list[str], encode: Callable[[Any], str]) -> None:
    if type(value) is list and len(value) > _SHORT:
        count = _SHORT
        start = 0
        opening = "["
        while start < len(value):
            text = encode(value[start : start + count])
            parts.append(opening)
            parts.append(text[1:-1])
            opening = ","
            start += count
            # The next piece has about as many characters an item as this one had.
            count = max(1, min(4 * count, count * PIECE // len(text)))
        parts.append("]")
    elif not _is_long(value, depth):
        parts.append(encode(value))
    elif type(value) is list:
        parts.append("[")
        for index, item in enumerate(value):
            if index:
                parts.append(",")
            _append_pieces(item, depth - 1, parts, encode)
        parts.append("]")
    else:
        parts.append("{")
        for index, (key, item) in enumerate(value.items()):
            # The encoder itself turns numbers and None into keys, and refuses what cannot be one.
            parts.append(("," if index else "") + encode({key: 0})[1:-2])
            _append_pieces(item, depth - 1, parts, encode)
        parts.append("}")


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return value


#: Beyond this many levels `find_fault` calls a value too deep; Python's encoder gives up near it, too.
_TOO_DEEP = 900


def find_fault(value: Any, name: str) -> str | None:
    """Why a value cannot be written, with the place: ``result[2]['json'] is a set``; None if it can."""
    return _find(value, name, _fault_of, _fault_of_key)


def find_loop(value: Any, name: str) -> str | None:
    """The place where a value contains itself or is nested too deeply; None if there is none."""
    return _find(value, name, lambda part: None, lambda key: None)


def _find(
    value: Any,
    name: str,
    fault_of: Callable[[Any], str | None],
    fault_of_key: Callable[[Any], str | None],
) -> str | None:
    """The first fault. Walks with a stack of its own, so that no depth of nesting is too much for it."""
    fault = fault_of(value)
    if fault is not None:
        return f"{name} {fault}"
    stack: list[tuple[Any, Iterator[tuple[Any, Any]]]] = [(value, _members(value))]
    path: list[Any] = []
    above = {id(value)}
    while stack:
        container, members = stack[-1]
        for key, item in members:
            fault = fault_of(item)
            if fault is None and isinstance(container, dict):
                fault = fault_of_key(key)
            if fault is not None:
                return f"{_place(name, [*path, key])} {fault}"
            if isinstance(item, (dict, list, tuple)):
                if id(item) in above:
                    return f"{_place(name, [*path, key])} contains itself"
                if len(stack) >= _TOO_DEEP:
                    return f"{_place(name, [*path, key])} is nested more than {_TOO_DEEP} levels deep"
                stack.append((item, _members(item)))
                path.append(key)
                above.add(id(item))
                break
        else:
            stack.pop()
            above.discard(id(container))
            if path:
                path.pop()
    return None


def _members(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict):
        return iter(list(value.items()))
    if isinstance(value, (list, tuple)):
        return iter(list(enumerate(value)))
    return iter(())


def _fault_of(value: Any) -> str | None:
    if value is None or isinstance(value, (str, bool, float, dict, list, tuple)):
        return None
    if isinstance(value, int):
        if -LARGEST_INTEGER <= value <= LARGEST_INTEGER:
            return None
        return (
            _fault_of_digits(value)
            or "is an integer beyond 2**53 - 1, which n8n would round: make it a string"
        )
    kind = type(value)
    article = "an" if kind.__name__[:1].lower() in "aeiou" else "a"
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"is {article} {module}{kind.__qualname__}, which JSON cannot represent"


def _fault_of_digits(value: int) -> str | None:
    try:
        int.__repr__(value)
    except ValueError:
        return "is an integer of more digits than Python writes (sys.set_int_max_str_digits)"
    return None


def _fault_of_key(key: Any) -> str | None:
    if isinstance(key, float) and not math.isfinite(key):
        return "has a key that is not a finite number"
    if isinstance(key, int):
        return _fault_of_digits(key)  # a key becomes a string, which nothing rounds
    if key is None or isinstance(key, (str, float)):
        return None
    return f"has a key of type {type(key).__qualname__}; the keys of JSON are strings"


def _place(name: str, path: list[Any]) -> str:
    shown = [_shown(key) for key in path]
    if len(shown) > 12:
        return name + "".join(f"[{key}]" for key in shown[:6]) + "[...]"
    return name + "".join(f"[{key}]" for key in shown)


def _shown(key: Any) -> str:
    if not isinstance(key, (str, int, float, type(None))):
        return "..."  # what it writes of itself is anybody's code
    try:
        text = repr(key)
    except ValueError:  # an integer of more digits than Python writes
        return "..."
    return text if len(text) <= 60 else text[:57] + "..."


_scan: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
_scan_string = json.decoder.scanstring  # type: ignore[attr-defined]
#: Containers around a task's items: the message, its settings, the list. An item itself is one piece.
_LEVELS = 3


def decode_value(undecoded: Undecoded) -> Any:
    """The value that was left out of a large message; None if the message has none.

    Raises:
        ProtocolError: the message is not JSON.
    """
    text = undecoded.text
    try:
        message, end = _scan_in_pieces(text, _skip_space(text, 0), _LEVELS)
        if text[end:].strip(" \t\n\r"):
            raise ValueError("there is more behind the end")
        return message.get(undecoded.key)
    except (AttributeError, IndexError, RecursionError, StopIteration, ValueError) as error:
        fault = fault_of_text(error) or "is not a JSON object"
        raise ProtocolError(f"a message of {len(text)} characters {fault}") from None


def fault_of_text(error: Exception) -> str | None:
    """Return why Python cannot decode a JSON text, given the exception; None if the text is not JSON."""
    if isinstance(error, RecursionError):
        return "is nested too deeply for Python"
    if isinstance(error, ValueError) and str(error).startswith("Exceeds the limit"):
        return "has an integer of more digits than Python reads"
    return None


def _scan_in_pieces(text: str, start: int, levels: int) -> tuple[Any, int]:
    """The value that begins at `start`, and where it ends; the outer levels are walked in Python."""
    if levels and text[start] == "{":
        return _scan_object(text, start, levels)
    if levels and text[start] == "[":
        return _scan_list(text, start, levels)
    return _scan(text, start)


def _scan_object(text: str, start: int, levels: int) -> tuple[Any, int]:
    members: dict[str, Any] = {}
    position = _skip_space(text, start + 1)
    if text[position] == "}":
        return members, position + 1
    while True:
        _expect(text, position, '"')
        key, position = _scan_string(text, position + 1, True)
        position = _skip_space(text, position)
        _expect(text, position, ":")
        members[key], position = _scan_in_pieces(text, _skip_space(text, position + 1), levels - 1)
        position = _skip_space(text, position)
        if text[position] == "}":
            return members, position + 1
        _expect(text, position, ",")
        position = _skip_space(text, position + 1)


def _scan_list(text: str, start: int, levels: int) -> tuple[Any, int]:
    items: list[Any] = []
    position = _skip_space(text, start + 1)
    if text[position] == "]":
        return items, position + 1
    while True:
        item, position = _scan_in_pieces(text, position, levels - 1)
        items.append(item)
        position = _skip_space(text, position)
        if text[position] == "]":
            return items, position + 1
        _expect(text, position, ",")
        position = _skip_space(text, position + 1)


def _skip_space(text: str, position: int) -> int:
    while text[position] in " \t\n\r":
        position += 1
    return position


def _expect(text: str, position: int, character: str) -> None:
    if text[position] != character:
        raise ValueError(f"expected {character!r}")
