"""Find what JSON or n8n cannot represent in a value, name its place, and replace it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Callable

#: The largest integer up to which JavaScript's numbers represent every integer.
LARGEST_INTEGER = 2**53 - 1
#: Deeper nesting is a fault. Python's encoder also fails near this depth.
_MOST_LEVELS = 900
#: A place with more keys than this is cut.
_MOST_KEYS = 12


def find_fault(value: Any, name: str) -> str | None:
    """Return why a value cannot be encoded, such as "result[2]['json'] is a set"; None if it can."""
    return _find(value, name, _fault_of, _fault_of_key)


def find_loop(value: Any, name: str) -> str | None:
    """Return where a value contains itself or is nested too deeply; None if it does not."""
    return _find(value, name, lambda part: None, lambda key: None)


def integers_as_strings(value: Any) -> Any:
    """Return a copy of a value in which integers that n8n would round are strings.

    An integer of more digits than Python writes stays as it is, so that `find_fault` can name its place.
    """
    return map_leaves(value, _integer_as_string)


def _integer_as_string(leaf: Any) -> Any:
    if isinstance(leaf, int) and not -LARGEST_INTEGER <= leaf <= LARGEST_INTEGER:
        return leaf if _fault_of_digits(leaf) else int.__repr__(leaf)
    return leaf


def map_leaves(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a copy of a value in which `change` has replaced everything that is not a container."""
    if isinstance(value, dict):
        return {key: map_leaves(member, change) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [map_leaves(member, change) for member in value]
    return change(value)


def _find(
    value: Any,
    name: str,
    fault_of: Callable[[Any], str | None],
    fault_of_key: Callable[[Any], str | None],
) -> str | None:
    """Return the first fault. The stack is a list, so no depth of nesting is too much."""
    fault = fault_of(value)
    if fault is not None:
        return f"{name} {fault}"
    stack: list[tuple[Any, Iterator[tuple[Any, Any]]]] = [(value, _members(value))]
    # The key of each container in the stack, by the container's id. The value itself has none.
    path: dict[int, Any] = {id(value): None}
    while stack:
        container, members = stack[-1]
        for key, member in members:
            fault = fault_of(member)
            if fault is None and isinstance(container, dict):
                fault = fault_of_key(key)
            if fault is None and isinstance(member, (dict, list, tuple)):
                if id(member) in path:
                    fault = "contains itself"
                elif len(stack) >= _MOST_LEVELS:
                    fault = f"is nested more than {_MOST_LEVELS} levels deep"
                else:
                    stack.append((member, _members(member)))
                    path[id(member)] = key
                    break
            if fault is not None:
                return f"{_place(name, [*path.values(), key][1:])} {fault}"
        else:
            stack.pop()
            path.popitem()
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
        return _fault_of_digits(key)  # a key becomes a string, which n8n does not round
    if key is None or isinstance(key, (str, float)):
        return None
    return f"has a key of type {type(key).__qualname__}; the keys of JSON are strings"


def _place(name: str, path: list[Any]) -> str:
    if len(path) > _MOST_KEYS:
        return name + "".join(f"[{_shown(key)}]" for key in path[:6]) + "[...]"
    return name + "".join(f"[{_shown(key)}]" for key in path)


def _shown(key: Any) -> str:
    if not isinstance(key, (str, int, float, type(None))):
        return "..."  # its repr would run the application's code
    try:
        text = repr(key)
    except ValueError:  # an integer of more digits than Python writes
        return "..."
    return text if len(text) <= 60 else text[:57] + "..."
