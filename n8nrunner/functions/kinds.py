"""What a parameter can be: for each kind, how a JSON value becomes the Python value, or why it does not.

`hints.py` makes them of type hints; they know nothing of n8n's fields (`node.py` does) or of tasks.
"""

from __future__ import annotations

import datetime
import enum
import json
import math
import re
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from n8nrunner.functions.files import File

#: Characters of a value that an error shows.
_SHOWN = 80

#: In place of a value: there is none.
NOTHING = object()


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
    """A value as an error shows it: its JSON, cut."""
    if value is NOTHING:
        return "nothing"
    try:
        text = json.dumps(value, ensure_ascii=False, default=repr)
    except (TypeError, ValueError, RecursionError):
        text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def title_of(name: str) -> str:
    """A name of Python's as n8n shows names: ``zip_code`` is "Zip Code"."""
    return " ".join(word[:1].upper() + word[1:] for word in re.split(r"[_\s-]+", name) if word) or name


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
        if not exact and isinstance(value, str):
            for title, sent, member in self._members:
                if value in (title, str(sent)) or (isinstance(member, enum.Enum) and value == member.name):
                    return member
        raise Mismatch(where, self.expected, value)

    def described(self) -> str:
        return json.dumps(["options", sorted(json.dumps(sent) for _, sent in self.choices or ())])


#: What Python reads of ISO 8601 only from 3.11 on: fractions of any length, "Z", and zones without a colon.
_TIME = re.compile(
    r"(?P<time>.+T\d\d:\d\d(?::\d\d)?)(?:[.,](?P<fraction>\d+))?(?:Z|(?P<zone>[+-]\d\d)(?::?(?P<minutes>\d\d))?)?",
    re.IGNORECASE,
)


class Moment(Kind):
    name = "dateTime"
    expected = "a date and time as 2024-12-31T23:59:59Z"

    def convert(self, value: Any, where: str, exact: bool = False) -> Any:
        if isinstance(value, str):
            try:
                return datetime.datetime.fromisoformat(self._plain(value))
            except ValueError:
                pass
        raise Mismatch(where, self.expected, value)

    def _plain(self, text: str) -> str:
        """The text as every Python reads it."""
        found = _TIME.fullmatch(text.replace(" ", "T", 1))
        if found is None:
            return text
        fraction = f".{found['fraction']:0<6.6}" if found["fraction"] else ""
        zone = f"{found['zone']}:{found['minutes'] or '00'}" if found["zone"] else ""
        return found["time"] + fraction + ("+00:00" if text[-1] in "Zz" else zone)


class Day(Kind):
    name = "date"
    expected = "a date as 2024-12-31"

    def convert(self, value: Any, where: str, exact: bool = False) -> Any:
        if isinstance(value, str):
            try:
                # n8n's field for dates has a time as well.
                has_time = value[10:11] in ("T", " ") and not exact
                return datetime.date.fromisoformat(value[:10] if has_time else value)
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
        self.elements = elements

    @property
    def expected(self) -> str:
        return f"a list of {len(self.elements)}"

    def convert(self, value: Any, where: str, exact: bool = False) -> Any:
        value = _parsed(value, where, self.expected, exact)
        if not isinstance(value, list) or len(value) != len(self.elements):
            raise Mismatch(where, self.expected, value)
        pairs = zip(self.elements, value)
        return tuple(kind.convert(part, f"{where}[{i}]", exact) for i, (kind, part) in enumerate(pairs))

    def described(self) -> str:
        return json.dumps(["row", [element.described() for element in self.elements]])


class Mapping(Kind):
    """A dictionary."""

    name = "object"
    expected = "an object"

    def __init__(self, value: Kind) -> None:
        self.value = value

    def convert(self, value: Any, where: str, exact: bool = False) -> Any:
        value = _parsed(value, where, self.expected, exact)
        if not isinstance(value, dict):
            raise Mismatch(where, self.expected, value)
        return {key: self.value.convert(part, f"{where}.{key}", exact) for key, part in value.items()}

    def described(self) -> str:
        return json.dumps(["object", self.value.described()])


class Member(NamedTuple):
    """A named part of a record."""

    kind: Kind
    required: bool


class Record(Kind):
    """A dataclass, a TypedDict or a NamedTuple.

    Args:
        title: its class's name.
        make: makes the Python value of keyword arguments.
        members: filled in by `hints.kind_of` once it is there, because a record may hold its own kind.
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
        fields = getattr(model, "model_fields", None) or model.__fields__
        self._fields = list(fields)
        #: The keys that an object has to have.
        self.required = [_key_of(name, field) for name, field in fields.items() if _is_required(field)]

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


def _is_required(field: Any) -> bool:
    """Return whether a field of a pydantic model has no default."""
    is_required = getattr(field, "is_required", None)  # pydantic 2
    return bool(is_required() if callable(is_required) else field.required)


def _key_of(name: str, field: Any) -> str:
    """Return the key of a pydantic field in an object: its alias, if it has one."""
    for alias in (getattr(field, "validation_alias", None), getattr(field, "alias", None)):
        if isinstance(alias, str):
            return alias
    return name


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

    def described(self) -> str:
        return self.kind.described()  # bounds may change as texts may


_IS_WITHIN: Dict[str, Callable[[Any, Any], bool]] = {
    "minimum": lambda value, at: bool(value >= at),
    "maximum": lambda value, at: bool(value <= at),
    "above": lambda value, at: bool(value > at),
    "below": lambda value, at: bool(value < at),
    "shortest": lambda value, at: len(value) >= at,
    "longest": lambda value, at: len(value) <= at,
}


class FileKind(Kind):
    """The name of one of the item's files; whoever calls the function makes the `File` of it."""

    name = "file"
    expected = "the name of one of the item's files"

    def convert(self, value: Any, where: str, exact: bool = False) -> Any:
        if isinstance(value, File):
            return value
        raise Mismatch(where, self.expected, value)
