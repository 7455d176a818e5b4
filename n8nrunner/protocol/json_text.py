"""Encode and decode JSON of any size, strictly, while other threads run.

The C code of `json` holds the interpreter's lock from beginning to end: encoding 13 MB would stop every other
thread for a fifth of a second. So large values are encoded in pieces of about 64 KB, and the decoder calls a
Python function for each object, which lets a waiting thread have the lock. One string, however long, remains
one piece; so does a list without objects when it is decoded.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Callable, NamedTuple

from n8nrunner.errors import ProtocolError
from n8nrunner.protocol.json_faults import find_fault, map_leaves

#: Characters that a piece should have. Encoding member by member would be three times slower.
PIECE = 64 * 1024
#: A container with more members than this is encoded in pieces. Many results are one object with 50 members.
_MOST_MEMBERS: dict[type, int] = {list: 32, dict: 1000}
#: How many levels are searched for such containers: a broker's results are
#: {"result": {"items": [{"json": {"rows": [...]}}]}}.
_LEVELS = 6


class NotJson(ValueError):
    """A value holds something that JSON or n8n cannot represent.

    The message names its place and type, never the value itself.
    """


class Encoded(NamedTuple):
    """A value that is JSON text already, ready to be put into a message."""

    text: str


#: Returns a value as compact JSON text.
to_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def encode_value(value: Any, name: str = "result") -> str:
    """Return a value as JSON text, with NaN and Infinity as null, as n8n's JavaScript writes them.

    A lone surrogate stays as it is: `codec` writes it as an escape sequence.

    Args:
        value: any value.
        name: the value's name in errors, such as "result" in ``result[0]['json']``.

    Raises:
        NotJson: the value holds something that JSON cannot represent, or an integer that n8n would round.
    """
    try:
        text = encode_in_pieces(value, to_json)
        if not may_have_large_integer(text):
            return text
        reason = "it may hold an integer that n8n would round"
    except (TypeError, ValueError, RecursionError) as error:
        reason = str(error)
    fault = find_fault(value, name)
    if fault is not None:
        raise NotJson(fault)
    try:
        return encode_in_pieces(map_leaves(value, _nan_as_none), to_json)
    except (TypeError, ValueError, RecursionError):
        raise NotJson(f"{name} cannot be written as JSON: {reason}") from None


def _nan_as_none(leaf: Any) -> Any:
    return None if isinstance(leaf, float) and not math.isfinite(leaf) else leaf


def encode_in_pieces(value: Any, encode: Callable[[Any], str], levels: int = _LEVELS) -> str:
    """Return the compact JSON text ``encode(value)``, made of pieces so that other threads run in between."""
    if not levels or type(value) not in _MOST_MEMBERS or not _is_large(value, levels):
        return encode(value)
    is_list = type(value) is list
    members = value if is_list else list(value.items())
    texts: list[str] = []
    most = _MOST_MEMBERS[type(value)]
    start, count = 0, 1
    while start < len(members):
        if count > 1:
            group = members[start : start + count]
            text = encode(group if is_list else dict(group))[1:-1]
        elif is_list:
            text = encode_in_pieces(members[start], encode, levels - 1)
        else:
            key, member = members[start]
            # The encoder turns numbers and None into keys, and refuses other types.
            text = encode({key: 0})[1:-2] + encode_in_pieces(member, encode, levels - 1)
        texts.append(text)
        start += count
        if len(members) > most:
            # Most members of a long container resemble each other, so these tell the size of the next ones.
            count = max(1, min(8 * count, count * PIECE // len(text)))
    joined = ",".join(texts)
    return f"[{joined}]" if is_list else f"{{{joined}}}"


def _is_large(container: list[Any] | dict[Any, Any], levels: int) -> bool:
    """Return whether a container, or one within so many levels, has more than `_MOST_MEMBERS`."""
    if len(container) > _MOST_MEMBERS[type(container)]:
        return True
    if levels > 1:
        for member in container.values() if type(container) is dict else container:
            if type(member) in _MOST_MEMBERS and _is_large(member, levels - 1):
                return True
    return False


_AS_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)
_SIXTEEN_DIGITS = b"0" * 16
_INTEGER_START = re.compile(r"(?:\A|[\s:,\[-])[0-9]{16}")
_INTEGER_END = re.compile(r"[0-9]*(?:[\s,}\]]|\Z)")


def may_have_large_integer(text: str) -> bool:
    """Return whether JSON text has an integer above `LARGEST_INTEGER`, or a string that looks like one.

    Any integer of 16 digits counts, for the caller to check its value.
    """
    for start in range(0, len(text), PIECE):
        end = start + PIECE + len(_SIXTEEN_DIGITS)
        # This step is ten times as fast as the next, and few texts have such a run of digits.
        if _SIXTEEN_DIGITS in text[start:end].encode("utf-8", "surrogatepass").translate(_AS_ZEROS):
            # This one excludes the digits of floats.
            for match in _INTEGER_START.finditer(text, start, end):
                if _INTEGER_END.match(text, match.end()):
                    return True
    return False


def give_way(members: dict[str, Any]) -> dict[str, Any]:
    """Return an object's members as they are, as the `object_hook` of a decoder.

    At each call of a Python function, Python gives the interpreter's lock to a thread that waits for it.
    """
    return members


_decode = json.JSONDecoder(object_hook=give_way).decode


def decode_member(text: str, key: str) -> Any:
    """Return one member of a large message; None if the message does not have it.

    Raises:
        ProtocolError: the message is not a JSON object. The error never quotes it.
    """
    try:
        return _decode(text).get(key)
    except (AttributeError, ValueError, RecursionError) as error:
        fault = decoding_fault(error) or "is not a JSON object"
        raise ProtocolError(f"a message of {len(text)} characters {fault}") from None


def decoding_fault(error: Exception) -> str | None:
    """Return which limit of Python a text exceeds, given the decoder's error; None for another error."""
    if isinstance(error, RecursionError):
        return "is nested too deeply for Python"
    if isinstance(error, ValueError) and str(error).startswith("Exceeds the limit"):
        return "has an integer of more digits than Python reads"
    return None
