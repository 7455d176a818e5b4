"""JSON values of any size: strict encoding that names the place of a fault, and decoding in pieces.

The C parts of `json` hold the interpreter's lock from beginning to end: a result of 13 MB would stop every
other thread for a fifth of a second. So long lists are encoded and decoded a piece at a time.
"""

from __future__ import annotations

import json
import math
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from n8nrunner.errors import ProtocolError
from n8nrunner.protocol.messages import Undecoded

#: Characters of a piece that are aimed at. Item by item would be three times slower than all at once.
PIECE = 64 * 1024
#: A list up to this length is not looked at item by item.
_SHORT = 32
#: How deep long lists are searched for: n8n's items are {"json": {"rows": [...]}}.
_DEPTH = 4

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class NotJson(ValueError):
    """A value that is no JSON. The message names its place and what stands there, never the value itself."""


def encode_value(value: Any, name: str = "result") -> str:
    """JSON text of a value; NaN and Infinity become null, as n8n's own JavaScript makes them.

    Args:
        name: what the value is called in an error, such as "result" in ``result[0]['json']``.

    Raises:
        NotJson: the value holds something that is no JSON.
    """
    try:
        return _encode_in_pieces(value)
    except (TypeError, ValueError, RecursionError) as error:
        reason = str(error)
    fault = find_fault(value, name)
    if fault is not None:
        raise NotJson(fault)
    try:
        return _encode_in_pieces(_without_nan(value))
    except (TypeError, ValueError, RecursionError):
        raise NotJson(f"{name} cannot be written as JSON: {reason}") from None


def _encode_in_pieces(value: Any) -> str:
    if not _is_long(value, _DEPTH):
        return _encode(value)
    parts: List[str] = []
    _append_pieces(value, _DEPTH, parts)
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


def _append_pieces(value: Any, depth: int, parts: List[str]) -> None:
    if type(value) is list and len(value) > _SHORT:
        count = _SHORT
        start = 0
        opening = "["
        while start < len(value):
            text = _encode(value[start : start + count])
            parts.append(opening)
            parts.append(text[1:-1])
            opening = ","
            start += count
            # The next piece has about as many characters an item as this one had.
            count = max(1, min(4 * count, count * PIECE // len(text)))
        parts.append("]")
    elif not _is_long(value, depth):
        parts.append(_encode(value))
    elif type(value) is list:
        parts.append("[")
        for index, item in enumerate(value):
            if index:
                parts.append(",")
            _append_pieces(item, depth - 1, parts)
        parts.append("]")
    else:
        parts.append("{")
        for index, (key, item) in enumerate(value.items()):
            # The encoder itself turns numbers and None into keys, and refuses what cannot be one.
            parts.append(("," if index else "") + _encode({key: 0})[1:-2])
            _append_pieces(item, depth - 1, parts)
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


def find_fault(value: Any, name: str) -> Optional[str]:
    """Why a value is no JSON, with the place: ``result[2]['json']['tags'] is a set``; None if it is.

    Walks with a stack of its own, so that no depth of nesting is too much for it.
    """
    fault = _fault_of(value)
    if fault is not None:
        return f"{name} {fault}"
    stack: List[Tuple[Any, Iterator[Tuple[Any, Any]]]] = [(value, _members(value))]
    path: List[Any] = []
    above = {id(value)}
    while stack:
        container, members = stack[-1]
        for key, item in members:
            fault = _fault_of(item)
            if fault is None and isinstance(container, dict):
                fault = _fault_of_key(key)
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


def _members(value: Any) -> Iterator[Tuple[Any, Any]]:
    if isinstance(value, dict):
        return iter(list(value.items()))
    if isinstance(value, (list, tuple)):
        return iter(list(enumerate(value)))
    return iter(())


def _fault_of(value: Any) -> Optional[str]:
    if value is None or isinstance(value, (bool, float, dict, list, tuple)):
        return None
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return "has half of a surrogate pair in its text, which is not Unicode"
        return None
    if isinstance(value, int):
        try:
            int.__repr__(value)
        except ValueError:
            return "is an integer of more digits than Python writes"
        return None
    kind = type(value)
    article = "an" if kind.__name__[:1].lower() in "aeiou" else "a"
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"is {article} {module}{kind.__qualname__}, which is not JSON"


def _fault_of_key(key: Any) -> Optional[str]:
    if isinstance(key, float) and not math.isfinite(key):
        return "has a key that is no finite number"
    if key is None or isinstance(key, (str, int, float)):
        return _fault_of(key)
    return f"has a key of type {type(key).__qualname__}; JSON has text as keys"


def _place(name: str, path: List[Any]) -> str:
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


_scan: Callable[[str, int], Tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
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
    except (AttributeError, IndexError, RecursionError, StopIteration, ValueError):
        raise ProtocolError(f"a message of {len(text)} characters is not a JSON object") from None


def _scan_in_pieces(text: str, start: int, levels: int) -> Tuple[Any, int]:
    """The value that begins at `start`, and where it ends; the outer levels are walked in Python."""
    if levels and text[start] == "{":
        return _scan_object(text, start, levels)
    if levels and text[start] == "[":
        return _scan_list(text, start, levels)
    return _scan(text, start)


def _scan_object(text: str, start: int, levels: int) -> Tuple[Any, int]:
    members: Dict[str, Any] = {}
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


def _scan_list(text: str, start: int, levels: int) -> Tuple[Any, int]:
    items: List[Any] = []
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
