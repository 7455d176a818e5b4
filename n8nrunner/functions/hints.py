"""Type hints become kinds: which of them can be a field, and what is told to those who use another."""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import enum
import sys
import types
import typing
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple, Union

from n8nrunner.functions.files import File
from n8nrunner.functions.kinds import (
    Bounded,
    Choice,
    Day,
    Either,
    FileKind,
    Kind,
    Mapping,
    Member,
    Model,
    Moment,
    Number,
    Perhaps,
    Record,
    Row,
    Sequences,
    Text,
    Truth,
    Whole,
)
from n8nrunner.functions.labels import title_of, title_of_constant

_NONE = type(None)
#: What a hint `X | Y` is made of, since Python 3.10.
_UNIONS: tuple[Any, ...] = (Union, *((types.UnionType,) if sys.version_info >= (3, 10) else ()))

#: The attributes of `annotated_types` and of pydantic's `Field` that are bounds.
_BOUNDS = {
    "ge": "minimum",
    "le": "maximum",
    "gt": "above",
    "lt": "below",
    "min_length": "shortest",
    "max_length": "longest",
}


class UnknownHint(Exception):
    """A type hint that cannot become a field; the text says which and what would do."""


_PLAIN: dict[Any, Callable[[], Kind]] = {
    str: Text,
    int: Whole,
    float: Number,
    bool: Truth,
    datetime.datetime: Moment,
    datetime.date: Day,
    File: FileKind,
    Any: Kind,
    object: Kind,
    list: lambda: Sequences(Kind(), list),
    tuple: lambda: Sequences(Kind(), tuple),
    set: lambda: Sequences(Kind(), set),
    frozenset: lambda: Sequences(Kind(), frozenset),
    dict: lambda: Mapping(Kind()),
}

_LISTS: dict[Any, Callable[[list[Any]], Any]] = {
    list: list,
    set: set,
    frozenset: frozenset,
    collections.abc.Sequence: list,
    collections.abc.Iterable: list,
    collections.abc.Collection: list,
    collections.abc.MutableSequence: list,
    collections.abc.Set: set,
}
_DICTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)

_USABLE = (
    "expected str, int, float, bool, Literal, Enum, datetime, date, list, tuple, set, dict, a dataclass, a "
    "TypedDict, a NamedTuple, a pydantic model, File, Task, or Optional, Union or Annotated of these"
)


class Described(NamedTuple):
    """A hint's kind, and the description that an `Annotated` gives."""

    kind: Kind
    text: str


def read_hint(hint: Any, seen: dict[Any, Record] | None = None) -> Described:
    """The kind of a type hint, as `typing.get_type_hints(..., include_extras=True)` gives it.

    Args:
        seen: the records that the hint stands in, because a record may hold its own kind.

    Raises:
        UnknownHint: it cannot become a field.
    """
    if typing.get_origin(hint) is not typing.Annotated:
        return Described(kind_of(hint, seen), "")
    inner, *extras = typing.get_args(hint)
    text = next((extra for extra in extras if isinstance(extra, str)), "")
    bounds: dict[str, Any] = {}
    for extra in extras:
        text = text or getattr(extra, "description", None) or getattr(extra, "documentation", None) or ""
        for part in (extra, *(getattr(extra, "metadata", None) or ())):
            for attribute, bound in _BOUNDS.items():
                at = getattr(part, attribute, None)
                if isinstance(at, (int, float, datetime.date)) and not isinstance(at, bool):
                    bounds[bound] = at
    kind = kind_of(inner, seen)
    return Described(Bounded(kind, bounds) if bounds else kind, text)


def kind_of(hint: Any, seen: dict[Any, Record] | None = None) -> Kind:
    """The kind of a type hint. Raises `UnknownHint`."""
    seen = {} if seen is None else seen
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return read_hint(hint, seen).kind
    if str(origin).rpartition(".")[2] in ("Required", "NotRequired", "ReadOnly"):  # of a TypedDict
        return kind_of(arguments[0], seen)
    try:
        plain = _PLAIN.get(hint)
    except TypeError:  # a hint that has no hash
        plain = None
    if plain is not None:
        return plain()
    if origin is typing.Literal:
        return _choice_of_literal(arguments)
    if origin in _UNIONS:
        return _kind_of_union(arguments, seen)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return Sequences(kind_of(arguments[0], seen), tuple)
        return Row([kind_of(argument, seen) for argument in arguments])
    if origin in _LISTS or hint in _LISTS:
        element = kind_of(arguments[0], seen) if arguments else Kind()
        return Sequences(element, _LISTS[origin or hint])
    if origin in _DICTS or hint in _DICTS:
        return _kind_of_dict(arguments, seen)
    if isinstance(hint, type):
        kind = _kind_of_class(hint, seen)
        if kind is not None:
            return kind
    if hint in (bytes, bytearray, memoryview):
        raise UnknownHint(f"{_name_of(hint)} is no value of a field; for a file of n8n it is n8nrunner.File")
    if isinstance(hint, typing.TypeVar):
        return kind_of(hint.__bound__, seen) if hint.__bound__ else Kind()
    raise UnknownHint(f"{_name_of(hint)} cannot become a field: {_USABLE}")


def _name_of(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)


def _choice_of_literal(values: Sequence[Any]) -> Kind:
    for value in values:
        if not isinstance(value, (str, int, float, bool)) and value is not None:
            raise UnknownHint(f"a Literal of {type(value).__name__}: expected texts, numbers, True or False")
    members = [
        (title_of(value) if isinstance(value, str) else str(value), value, value)
        for value in values
        if value is not None
    ]
    kind = Choice(members)
    return Perhaps(kind) if len(members) < len(values) else kind


def _kind_of_union(arguments: Sequence[Any], seen: dict[Any, Record]) -> Kind:
    hints = [argument for argument in arguments if argument is not _NONE]
    kinds = [kind_of(hint, seen) for hint in hints]
    if any(isinstance(kind, FileKind) for kind in kinds) and len(kinds) > 1:
        raise UnknownHint("a File or something else: expected File, or Optional[File]")
    kind = kinds[0] if len(kinds) == 1 else Either(kinds)
    return Perhaps(kind) if len(hints) < len(arguments) else kind


def _kind_of_dict(arguments: Sequence[Any], seen: dict[Any, Record]) -> Kind:
    if not arguments:
        return Mapping(Kind())
    if arguments[0] not in (str, Any):
        raise UnknownHint(f"a dict with keys of {_name_of(arguments[0])}: JSON has texts as keys")
    return Mapping(kind_of(arguments[1], seen))


def _kind_of_class(hint: type[Any], seen: dict[Any, Record]) -> Kind | None:
    if issubclass(hint, enum.Enum):
        members = []
        for member in hint:
            plain = isinstance(member.value, (str, int, float)) and not isinstance(member.value, bool)
            members.append((title_of_constant(member.name), member.value if plain else member.name, member))
        if not members:
            raise UnknownHint(f"{hint.__name__} is an Enum without members")
        return Choice(members)
    if hasattr(hint, "model_validate") or (hasattr(hint, "parse_obj") and hasattr(hint, "__fields__")):
        return Model(hint)
    if hint in seen:
        return seen[hint]
    if dataclasses.is_dataclass(hint):
        kind = seen[hint] = Record(hint.__name__, hint)
        for field in dataclasses.fields(hint):
            if field.init:
                required = (
                    field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
                )
                kind.members[field.name] = Member(_member(hint, field.name, seen), required)
        return kind
    if issubclass(hint, tuple) and hasattr(hint, "_fields"):
        kind = seen[hint] = Record(hint.__name__, hint, is_row=True)
        for name in hint._fields:
            required = name not in getattr(hint, "_field_defaults", {})
            kind.members[name] = Member(_member(hint, name, seen), required)
        return kind
    if issubclass(hint, dict) and hasattr(hint, "__total__"):
        kind = seen[hint] = Record(hint.__name__, dict)
        for name in typing.get_type_hints(hint):
            required = name in hint.__required_keys__  # type: ignore[attr-defined]
            kind.members[name] = Member(_member(hint, name, seen), required)
        return kind
    return None


def _member(owner: Any, name: str, seen: dict[Any, Record]) -> Kind:
    try:
        hint = typing.get_type_hints(owner, include_extras=True).get(name, Any)
    except Exception as error:  # noqa: BLE001 - whatever evaluating the user's annotations raises
        raise UnknownHint(f"the hints of {_name_of(owner)} cannot be read: {error}") from None
    if typing.get_origin(hint) is typing.Annotated:
        return read_hint(hint, seen).kind
    kind = kind_of(hint, seen)
    if isinstance(kind, FileKind):
        raise UnknownHint(f"a File inside of {_name_of(owner)}: expected a parameter of its own for it")
    return kind
