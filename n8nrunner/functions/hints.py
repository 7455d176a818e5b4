"""The parameter type of each type hint, and errors for the hints that cannot become a field.

Hints have the type `Any` here: `typing` has no common type for them.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import enum
import inspect
import sys
import types
import typing
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple

from n8nrunner.functions import parameters as p
from n8nrunner.functions.dates import Date, DateTime
from n8nrunner.functions.files import File
from n8nrunner.functions.labels import title_of, title_of_constant
from n8nrunner.functions.records import Member, Model, Record

_NONE = type(None)
#: The origins of `Union[X, Y]` and, since Python 3.10, of `X | Y`.
_UNIONS: tuple[Any, ...] = (typing.Union, *((types.UnionType,) if sys.version_info >= (3, 10) else ()))

_SIMPLE: dict[Any, Callable[[], p.ParameterType]] = {
    str: p.String,
    int: p.Integer,
    float: p.Number,
    bool: p.Boolean,
    datetime.datetime: DateTime,
    datetime.date: Date,
    File: p.FileProperty,
    Any: p.AnyValue,
    object: p.AnyValue,
    tuple: lambda: p.Array(p.AnyValue(), tuple),
}

_ARRAYS: dict[Any, Callable[[list[Any]], Any]] = {
    list: list,
    set: set,
    frozenset: frozenset,
    collections.abc.Sequence: list,
    collections.abc.Iterable: list,
    collections.abc.Collection: list,
    collections.abc.MutableSequence: list,
    collections.abc.Set: set,
}
_DICTIONARIES: tuple[Any, ...] = (dict, collections.abc.Mapping, collections.abc.MutableMapping)

_SUPPORTED = (
    "expected str, int, float, bool, Literal, Enum, datetime, date, list, tuple, set, dict, a dataclass, a "
    "TypedDict, a NamedTuple, a pydantic model, File, Task, or Optional, Union or Annotated of these"
)


class UnknownHint(Exception):
    """A type hint that cannot become a field. The text says which, and what to use."""


class AnnotatedType(NamedTuple):
    """A parameter type, and the description in an `Annotated`; "" if there is none."""

    type: p.ParameterType
    description: str


def read_hint(hint: Any, records: dict[Any, Record] | None = None) -> AnnotatedType:
    """Return the type and the description of a hint. Raises `UnknownHint` if it cannot become a field.

    Args:
        hint: a value of ``typing.get_type_hints(..., include_extras=True)``.
        records: the records around the hint, because a record may contain its own type.
    """
    if typing.get_origin(hint) is not typing.Annotated:
        return AnnotatedType(type_of(hint, records), "")
    inner, *extras = typing.get_args(hint)
    description = next((extra for extra in extras if isinstance(extra, str)), "")
    bounds: p.Bounds = {}
    for extra in extras:
        for name in ("description", "documentation"):
            text = getattr(extra, name, None)
            description = description or (text if isinstance(text, str) else "")
        for part in (extra, *(getattr(extra, "metadata", None) or ())):
            for name in p.BOUND_NAMES:
                bound = getattr(part, name, None)
                if isinstance(bound, (int, float, datetime.date)) and not isinstance(bound, bool):
                    bounds[name] = bound
    type = type_of(inner, records)
    return AnnotatedType(p.Bounded(type, bounds) if bounds else type, description)


def type_of(hint: Any, records: dict[Any, Record] | None = None) -> p.ParameterType:
    """Return the parameter type of a type hint. Raises `UnknownHint`."""
    records = {} if records is None else records
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return read_hint(hint, records).type
    if str(origin).rpartition(".")[2] in ("Required", "NotRequired", "ReadOnly"):  # of a TypedDict
        return type_of(arguments[0], records)
    try:
        simple = _SIMPLE.get(hint) if origin is None else None
    except TypeError:  # it has no hash, as [int]
        raise UnknownHint(f"{hint} cannot become a field: {_SUPPORTED}") from None
    if simple is not None:
        return simple()
    if origin is typing.Literal:
        return _type_of_literal(arguments)
    if origin in _UNIONS:
        return _type_of_union(arguments, records)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return p.Array(type_of(arguments[0], records), tuple)
        return p.Tuple([type_of(argument, records) for argument in arguments])
    if origin in _ARRAYS or hint in _ARRAYS:
        element = type_of(arguments[0], records) if arguments else p.AnyValue()
        return p.Array(element, _ARRAYS[origin or hint])
    if origin in _DICTIONARIES or hint in _DICTIONARIES:
        return _type_of_dict(arguments, records)
    if isinstance(hint, type):
        found = _type_of_class(hint, records)
        if found is not None:
            return found
    if hint in (bytes, bytearray, memoryview):
        raise UnknownHint(f"{_name_of(hint)} cannot become a field; use n8nrunner.File for a file of n8n")
    if isinstance(hint, typing.TypeVar):
        return type_of(hint.__bound__, records) if hint.__bound__ else p.AnyValue()
    raise UnknownHint(f"{_name_of(hint)} cannot become a field: {_SUPPORTED}")


def type_of_default(default: object) -> p.ParameterType:
    """Return the type of a parameter without a hint: that of its default, else any value."""
    if default is inspect.Parameter.empty or default is None:
        return p.AnyValue()
    if isinstance(default, bool):
        return p.Boolean()
    for hint in (str, int, float, list, dict):
        if isinstance(default, hint) and not isinstance(default, enum.Enum):
            return type_of(hint)
    try:
        return type_of(type(default))
    except UnknownHint:
        return p.AnyValue()


def _name_of(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)


def _type_of_literal(values: Sequence[Any]) -> p.ParameterType:
    for value in values:
        if not isinstance(value, (str, int, float, bool)) and value is not None:
            raise UnknownHint(
                f"a Literal of {type(value).__name__}: expected strings, numbers, True or False"
            )
    members = [
        (title_of(value) if isinstance(value, str) else str(value), value, value)
        for value in values
        if value is not None
    ]
    choice = p.Choice(members)
    return p.Optional(choice) if len(members) < len(values) else choice


def _type_of_union(arguments: Sequence[Any], records: dict[Any, Record]) -> p.ParameterType:
    hints = [argument for argument in arguments if argument is not _NONE]
    types = [type_of(hint, records) for hint in hints]
    union = types[0] if len(types) == 1 else p.Union(types)
    return p.Optional(union) if len(hints) < len(arguments) else union


def _type_of_dict(arguments: Sequence[Any], records: dict[Any, Record]) -> p.ParameterType:
    if not arguments:
        return p.Dictionary(p.AnyValue())
    if arguments[0] not in (str, Any):
        raise UnknownHint(f"a dict with keys of {_name_of(arguments[0])}: keys in JSON are strings")
    return p.Dictionary(type_of(arguments[1], records))


def _type_of_class(hint: type[Any], records: dict[Any, Record]) -> p.ParameterType | None:
    if issubclass(hint, enum.Enum):
        return _type_of_enum(hint)
    if hasattr(hint, "model_validate") or (hasattr(hint, "parse_obj") and hasattr(hint, "__fields__")):
        return Model(hint)
    if hint in records:
        return records[hint]
    if dataclasses.is_dataclass(hint):
        no_default = dataclasses.MISSING
        required = {
            field.name: field.default is no_default and field.default_factory is no_default
            for field in dataclasses.fields(hint)
            if field.init
        }
        record = Record(hint.__name__, hint)
    elif issubclass(hint, tuple) and hasattr(hint, "_fields"):
        required = {name: name not in getattr(hint, "_field_defaults", {}) for name in hint._fields}
        record = Record(hint.__name__, hint, is_tuple=True)
    elif issubclass(hint, dict) and hasattr(hint, "__total__"):
        required_keys = hint.__required_keys__  # type: ignore[attr-defined]
        required = {name: name in required_keys for name in _hints_of(hint)}
        record = Record(hint.__name__, dict)
    else:
        return None
    records[hint] = record
    hints = _hints_of(hint)
    for name, is_required in required.items():
        type, description = read_hint(hints.get(name, Any), records)
        record.members[name] = Member(type, is_required, description)
    record.element_types = [member.type for member in record.members.values()]
    return record


def _type_of_enum(hint: type[enum.Enum]) -> p.ParameterType:
    members = []
    for member in hint:
        is_json = isinstance(member.value, (str, int, float)) and not isinstance(member.value, bool)
        members.append((title_of_constant(member.name), member.value if is_json else member.name, member))
    if not members:
        raise UnknownHint(f"{hint.__name__} is an Enum without members")
    return p.Choice(members)


def _hints_of(record: type[Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(record, include_extras=True)
    except Exception as error:  # noqa: BLE001 - evaluating the user's annotations may raise anything
        raise UnknownHint(f"the hints of {_name_of(record)} cannot be read: {error}") from None
