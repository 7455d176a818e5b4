"""JSON values as JavaScript source, formatted as n8n's linter wants it."""

from __future__ import annotations

import json
import re
from typing import Any

_INDENT = "\t"
#: Characters of a list that stays on one line.
_LINE = 80


class Expression(str):
    """JavaScript source that is not a string."""


def to_javascript(value: Any, depth: int = 0) -> str:
    """Return a JSON value, in which there may be `Expression`s, as JavaScript source.

    Args:
        depth: the indentation of the line that the value begins on.
    """
    if isinstance(value, Expression):
        return str(value)
    inner, outer = _INDENT * (depth + 1), _INDENT * depth
    if isinstance(value, dict) and value:
        lines = (f"{inner}{_key(key)}: {to_javascript(part, depth + 1)},\n" for key, part in value.items())
        return "{\n" + "".join(lines) + outer + "}"
    if isinstance(value, list) and value:
        parts = [to_javascript(part, depth + 1) for part in value]
        line = ", ".join(parts)
        if "\n" not in line and len(line) < _LINE:
            return f"[{line}]"
        return "[\n" + "".join(f"{inner}{part},\n" for part in parts) + outer + "]"
    if isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)[1:-1].replace('\\"', '"').replace("'", "\\'")
        # Both end a line in older JavaScript, and cannot stand in its strings.
        return "'" + text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029") + "'"
    return json.dumps(value)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z_$][A-Za-z0-9_$]*", key) else to_javascript(key)
