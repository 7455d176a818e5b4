"""What a parameter can be: for each kind, how a JSON value becomes the Python value, or why it does not.

`kind_of` reads a type hint; the kinds know nothing of n8n's fields (`node.py` does) or of tasks.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import enum
import json
import math
import re
import sys
import types
import typing
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple, Type, Union

from n8nrunner.functions.files import File

_NONE = type(None)
#: What a hint `X | Y` is made of, since Python 3.10.
_UNIONS: Tuple[Any, ...] = (Union, *((types.UnionType,) if sys.version_info >= (3, 10) else ()))
#: Characters of a value that an error shows.
_SHOWN = 80


class UnknownHint(Exception):
    """A type hint that cannot become a field; the text says which and what would do."""


class Mismatch(Exception):
    """A value that does not fit.

    Args:
        where: the path to it, such as ``lead.tags[2]``.
        expected: what would fit, such as "a whole number".
        value: what came.
    """

    def __init__(self, where: str, expected: str, value: Any) -> None:
        self.where = where
        self.expected = expected
        super().__init__(f"{where}: expected {expected}, got {shown(value)}")


def shown(value: Any) -> str:
    """A value as an error shows it: its JSON, cut, and what kind of JSON it is."""
    if value is None:
        return "null"
    try:
        text = json.dumps(value, ensure_ascii=False, default=repr)
    except (TypeError, ValueError, RecursionError):
        text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


class Kind:
    """A kind of parameter.

    Attributes:
        name: names it in a function's description, such as "number".
        choices: the values that are allowed, with their titles; None if there is no such list.
    """

    name = "any"
    choices: Optional[List[Tuple[str, Any]]] = None

    def convert(self, value: Any, where: str, exact: bool = False) -> Any:
        """The Python value of a JSON value.

        Args:
            where: the path to the value, for errors.
            exact: whether only what needs no reinterpretation fits; so a union tries its members first.

        Raises:
            Mismatch: it does not fit.
        """
        return value

    def described(self) -> str:
        """What decides whether arguments fit, as text; a part of a function's signature."""
        return self.name

    @property
    def expected(self) -> str:
        """What fits, in words for an error."""
        return "any value"


class Text(Kind):
    name = "string"
    expected = "a text"

    def convert(self, value: Any, where: str, exact: bool = False) -> Any:
        if isinstance(value, str):
            return value
        if not exact and isinstance(value, (int, float)) and not isinstance(value, bool):
            # An expression gives a number where the text is one; JavaScript writes 3.0 as 3.
            return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
        raise Mismatch(where, self.expected, value)


class Number(Kind):
    name = "number"
    expected = "a number"

    def convert(self, value: Any, where: str, exact: bool = False) -> Any:
        if isinstance(value, str) and not exact:
            try:
                value_as_number = float(value)
            except ValueError:
                raise Mismatch(where, self.expected, value) from None
            if not math.isfinite(value_as_number):
                raise Mismatch(where, self.expected, value)
            return value_as_number
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise Mismatch(where, self.expected, value)
        return float(value)


class Whole(Kind):
    name = "integer"
    expected = "a whole number"

    def convert(self, value: Any, where: str, exact: bool = False) -> Any:
        number = value
        if isinstance(value, str) and not exact:
            try:
                return int(value)
            except ValueError:
                try:
                    number = float(value)
                except ValueError:
                    raise Mismatch(where, self.expected, value) from None
        if isinstance(number, float) and number.is_integer():
            return int(number)
        if isinstance(number, bool) or not isinstance(number, int):
            raise Mismatch(where, self.expected, value)
        return number


class Truth(Kind):
    name = "boolean"
    expected = "true or false"

    def convert(self, value: Any, where: str, exact: bool = False) -> Any:
        if isinstance(value, str) and not exact and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if not isinstance(value, bool):
            raise Mismatch(where, self.expected, value)
        return value


class Choice(Kind):
    """One of several values: a Literal, or an Enum.

    Args:
        members: what is shown, what is sent, and what the function gets.
    """

    name = "options"

    def __init__(self, members: Sequence[Tuple[str, Any, Any]]) -> None:
        self.choices = [(title, sent) for title, sent, _ in members]
        self._members = members

    @property
    def expected(self) -> str:
        return "one of " + ", ".join(shown(sent) for _, sent in self.choices or ())

    def convert(self, value: Any, where: str, exact: bool = False) -> Any:
        for _, sent, member in self._members:
            if value == sent and isinstance(value, bool) is isinstance(sent, bool):
                return member
        if not exact:
            for title, sent, member in self._members:
                if isinstance(value, str) and value in (title, str(sent)):
                    return member
        raise Mismatch(where, self.expected, value)

    def described(self) -> str:
        return json.dumps(["options", sorted(json.dumps(sent) for _, sent in self.choices or ())])


class Moment(Kind):
    name = "dateTime"
    expected = "a date and time as 2024-12-31T23:59:59Z"

    def convert(self, value: Any, where: str, exact: bool = False) -> Any:
        if isinstance(value, str):
            try:
                # Before 3.11, Python reads no "Z".
                return datetime.datetime.fromisoformat(value[:-1] + "+00:00" if value[-1:] in "Zz" else value)
            except ValueError:
                pass
        raise Mismatch(where, self.expected, value)


class Day(Kind):
    name = "date"
    expected = "a date as 2024-12-31"

    def convert(self, value: Any, where: str, exact: bool = False) -> Any:
        if isinstance(value, str):
            try:
                # n8n's field for dates has a time as well.
                return datetime.date.fromisoformat(value[:10] if value[10:11] in ("T", " ", "") else value)
            except ValueError:
                pass
        raise Mismatch(where, self.expected, value)


def _parsed(value: Any, where: str, expected: str, exact: bool) -> Any:
    """The value of a JSON field, which is text until an expression makes it something else."""
    if isinstance(value, str) and not exact:
        try:
            return json.loads(value)
        except ValueError as error:
            raise Mismatch(where, f"{expected}, written as JSON ({error})", value) from None
    return value


class Sequences(Kind):
    """A list, a set, or a tuple of any length.

    Args:
        element: the kind of its elements.
        make: makes the Python value of a list.
    """

    name = "list"
    expected = "a list"

    def __init__(self, element: Kind, make: Callable[[List[Any]], Any]) -> None:
        self.element = element
        self._make = make

    def convert(self, value: Any, where: str, exact: bool = False) -> Any:
        value = _parsed(value, where, self.expected, exact)
        if not isinstance(value, list):
            raise Mismatch(where, self.expected, value)
        parts = [self.element.convert(part, f"{where}[{i}]", exact) for i, part in enumerate(value)]
        try:
            return self._make(parts)
        except TypeError:  # a set of what cannot be in one
            raise Mismatch(where, "a list of plain values, each once", value) from None

    def described(self) -> str:
        return json.dumps(["list", self.element.described()])


class Row(Kind):
    """A tuple of fixed length."""

    name = "list"

    def __init__(self, elements: Sequence[Kind]) -> None:
        self._elements = elements

    @property
    def expected(self) -> str:
        return f"a list of {len(self._elements)}"

    def convert(self, value: Any, where: str, exact: bool = False) -> Any:
        value = _parsed(value, where, self.expected, exact)
        if not isinstance(value, list) or len(value) != len(self._elements):
            raise Mismatch(where, self.expected, value)
        pairs = zip(self._elements, value)
        return tuple(kind.convert(part, f"{where}[{i}]", exact) for i, (kind, part) in enumerate(pairs))

    def described(self) -> str:
        return json.dumps(["row", [element.described() for element in self._elements]])


class Mapping(Kind):
    """A dictionary."""

    name = "object"
    expected = "an object"

    def __init__(self, value: Kind) -> None:
        self._value = value

    def convert(self, value: Any, where: str, exact: bool = False) -> Any:
        value = _parsed(value, where, self.expected, exact)
        if not isinstance(value, dict):
            raise Mismatch(where, self.expected, value)
        return {key: self._value.convert(part, f"{where}.{key}", exact) for key, part in value.items()}

    def described(self) -> str:
        return json.dumps(["object", self._value.described()])


class Member(NamedTuple):
    """A named part of a record."""

    kind: Kind
    required: bool


class Record(Kind):
    """A dataclass, a TypedDict or a NamedTuple.

    Args:
        title: its class's name.
        make: makes the Python value of keyword arguments.
        members: filled in by `kind_of` once it is there, because a record may hold its own kind.
    """

    name = "object"

    def __init__(self, title: str, make: Callable[..., Any], is_row: bool = False) -> None:
        self.title = title
        self._make = make
        self._is_row = is_row
        self.members: Dict[str, Member] = {}

    @property
    def expected(self) -> str:
        return f"an object with {', '.join(self.members) or 'no keys'}"

    def convert(self, value: Any, where: str, exact: bool = False) -> Any:
        value = _parsed(value, where, self.expected, exact)
        if self._is_row and isinstance(value, list) and len(value) <= len(self.members):
            value = dict(zip(self.members, value))
        if not isinstance(value, dict):
            raise Mismatch(where, self.expected, value)
        for key in value:
            if key not in self.members:
                raise Mismatch(where, f"{self.expected}, and no {key!r}", value)
        arguments = {}
        for key, member in self.members.items():
            if key in value:
                arguments[key] = member.kind.convert(value[key], f"{where}.{key}", exact)
            elif member.required:
                raise Mismatch(f"{where}.{key}", member.kind.expected, None)
        try:
            return self._make(**arguments)
        except Exception as error:  # noqa: BLE001 - the record's own checks
            raise Mismatch(where, f"a {self.title} ({type(error).__name__}: {error})", value) from None

    def described(self) -> str:
        # By name where it is not its own: one that holds its own kind would never end.
        names = [f"{name}{'' if member.required else '?'}" for name, member in self.members.items()]
        return json.dumps(["record", sorted(names)])


class Model(Kind):
    """A pydantic model, of version 1 or 2."""

    name = "object"

    def __init__(self, model: Any) -> None:
        self._model = model
        self._validate = getattr(model, "model_validate", None) or model.parse_obj
        self._fields = list(getattr(model, "model_fields", None) or model.__fields__)

    @property
    def expected(self) -> str:
        return f"an object with {', '.join(self._fields) or 'no keys'}"

    def convert(self, value: Any, where: str, exact: bool = False) -> Any:
        value = _parsed(value, where, self.expected, exact)
        try:
            return self._validate(value)
        except Exception as error:  # noqa: BLE001 - pydantic's, or a validator's of the user
            problems = getattr(error, "errors", None)
            if not callable(problems):
                raise Mismatch(where, f"{self.expected} ({error})", value) from None
            first = problems()[0]
            path = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in first["loc"])
            raise Mismatch(where + path, first["msg"], first.get("input", value)) from None

    def described(self) -> str:
        return json.dumps(["model", sorted(self._fields)])


class Either(Kind):
    """A union."""

    def __init__(self, kinds: Sequence[Kind]) -> None:
        self.kinds = kinds
        # A field in which everything can be written.
        self.name = "string" if any(kind.name == "string" for kind in kinds) else "any"

    @property
    def expected(self) -> str:
        return " or ".join(kind.expected for kind in self.kinds)

    def convert(self, value: Any, where: str, exact: bool = False) -> Any:
        for as_it_is in (True,) if exact else (True, False):
            for kind in self.kinds:
                try:
                    return kind.convert(value, where, as_it_is)
                except Mismatch:
                    continue
        raise Mismatch(where, self.expected, value)

    def described(self) -> str:
        return json.dumps(["either", sorted(kind.described() for kind in self.kinds)])


class Perhaps(Kind):
    """A value or None."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.name = kind.name
        self.choices = kind.choices

    @property
    def expected(self) -> str:
        return f"{self.kind.expected}, or nothing"

    def convert(self, value: Any, where: str, exact: bool = False) -> Any:
        if value is None or (value == "" and not isinstance(self.kind, (Text, Either)) and not exact):
            return None  # an empty field
        return self.kind.convert(value, where, exact)

    def described(self) -> str:
        return json.dumps(["perhaps", self.kind.described()])


class Bounded(Kind):
    """A value within bounds.

    Args:
        bounds: from "minimum", "maximum", "above", "below", "shortest" and "longest" to the bound.
    """

    def __init__(self, kind: Kind, bounds: Dict[str, Any]) -> None:
        self.kind = kind
        self.name = kind.name
        self.choices = kind.choices
        self.bounds = bounds

    @property
    def expected(self) -> str:
        words = {
            "minimum": "at least {}",
            "maximum": "at most {}",
            "above": "more than {}",
            "below": "less than {}",
            "shortest": "of length {} or more",
            "longest": "of length {} or less",
        }
        return ", ".join([self.kind.expected, *(words[name].format(at) for name, at in self.bounds.items())])

    def convert(self, value: Any, where: str, exact: bool = False) -> Any:
        converted = self.kind.convert(value, where, exact)
        if converted is not None and not all(
            _IS_WITHIN[name](converted, at) for name, at in self.bounds.items()
        ):
            raise Mismatch(where, self.expected, value)
        return converted


_IS_WITHIN: Dict[str, Callable[[Any, Any], bool]] = {
    "minimum": lambda value, at: bool(value >= at),
    "maximum": lambda value, at: bool(value <= at),
    "above": lambda value, at: bool(value > at),
    "below": lambda value, at: bool(value < at),
    "shortest": lambda value, at: len(value) >= at,
    "longest": lambda value, at: len(value) <= at,
}

#: The attributes of `annotated_types` and of pydantic's `Field` that are bounds.
_BOUNDS = {
    "ge": "minimum",
    "le": "maximum",
    "gt": "above",
    "lt": "below",
    "min_length": "shortest",
    "max_length": "longest",
}


class FileKind(Kind):
    """The name of one of the item's files; whoever calls the function makes the `File` of it."""

    name = "file"
    expected = "the name of one of the item's files"

    def convert(self, value: Any, where: str, exact: bool = False) -> Any:
        if isinstance(value, File):
            return value
        raise Mismatch(where, self.expected, value)


_PLAIN: Dict[Any, Callable[[], Kind]] = {
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

_LISTS: Dict[Any, Callable[[List[Any]], Any]] = {
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


def read_hint(hint: Any) -> Described:
    """The kind of a type hint, as `typing.get_type_hints(..., include_extras=True)` gives it.

    Raises:
        UnknownHint: it cannot become a field.
    """
    if typing.get_origin(hint) is not typing.Annotated:
        return Described(kind_of(hint), "")
    inner, *extras = typing.get_args(hint)
    text = next((extra for extra in extras if isinstance(extra, str)), "")
    bounds: Dict[str, Any] = {}
    for extra in extras:
        text = text or getattr(extra, "description", None) or getattr(extra, "documentation", None) or ""
        for part in (extra, *(getattr(extra, "metadata", None) or ())):
            for attribute, bound in _BOUNDS.items():
                at = getattr(part, attribute, None)
                if isinstance(at, (int, float, datetime.date)) and not isinstance(at, bool):
                    bounds[bound] = at
    kind = kind_of(inner)
    return Described(Bounded(kind, bounds) if bounds else kind, text)


def kind_of(hint: Any, seen: Optional[Dict[Any, Record]] = None) -> Kind:
    """The kind of a type hint. Raises `UnknownHint`."""
    seen = {} if seen is None else seen
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return read_hint(hint).kind
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


def _title(name: str) -> str:
    return " ".join(word[:1].upper() + word[1:] for word in re.split(r"[_\s-]+", name) if word) or name


def _choice_of_literal(values: Sequence[Any]) -> Kind:
    for value in values:
        if not isinstance(value, (str, int, float, bool)) and value is not None:
            raise UnknownHint(f"a Literal of {type(value).__name__}: expected texts, numbers, True or False")
    members = [
        (_title(value) if isinstance(value, str) else str(value), value, value)
        for value in values
        if value is not None
    ]
    kind = Choice(members)
    return Perhaps(kind) if len(members) < len(values) else kind


def _kind_of_union(arguments: Sequence[Any], seen: Dict[Any, Record]) -> Kind:
    hints = [argument for argument in arguments if argument is not _NONE]
    kinds = [kind_of(hint, seen) for hint in hints]
    if any(isinstance(kind, FileKind) for kind in kinds) and len(kinds) > 1:
        raise UnknownHint("a File or something else: expected File, or Optional[File]")
    kind = kinds[0] if len(kinds) == 1 else Either(kinds)
    return Perhaps(kind) if len(hints) < len(arguments) else kind


def _kind_of_dict(arguments: Sequence[Any], seen: Dict[Any, Record]) -> Kind:
    if not arguments:
        return Mapping(Kind())
    if arguments[0] not in (str, Any):
        raise UnknownHint(f"a dict with keys of {_name_of(arguments[0])}: JSON has texts as keys")
    return Mapping(kind_of(arguments[1], seen))


def _kind_of_class(hint: Type[Any], seen: Dict[Any, Record]) -> Optional[Kind]:
    if issubclass(hint, enum.Enum):
        members = []
        for member in hint:
            plain = isinstance(member.value, (str, int, float)) and not isinstance(member.value, bool)
            members.append((_title(member.name.lower()), member.value if plain else member.name, member))
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


def _member(owner: Any, name: str, seen: Dict[Any, Record]) -> Kind:
    try:
        hint = typing.get_type_hints(owner, include_extras=True).get(name, Any)
    except Exception as error:  # noqa: BLE001 - whatever evaluating the user's annotations raises
        raise UnknownHint(f"the hints of {_name_of(owner)} cannot be read: {error}") from None
    if typing.get_origin(hint) is typing.Annotated:
        return read_hint(hint).kind
    kind = kind_of(hint, seen)
    if isinstance(kind, FileKind):
        raise UnknownHint(f"a File inside of {_name_of(owner)}: expected a parameter of its own for it")
    return kind
