"""What a parameter can be: for each kind, how a JSON value becomes the Python value, or why it does not.

`hints.py` makes them of type hints; they know nothing of n8n's fields (`node.py` does) or of tasks.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import math
import re
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple

from n8nrunner.functions.conversion import NOTHING, Conversion, Mismatch, shown
from n8nrunner.functions.files import File
from n8nrunner.protocol.values import LARGEST_INTEGER

_AS_TEXT = f"n8n's numbers are exact up to {LARGEST_INTEGER} only: send this one as text"


class Kind:
    """A kind of parameter.

    Attributes:
        name: names it in a function's description, such as "number".
        choices: the values that are allowed, with their titles; None if there is no such list.
    """

    name = "any"
    choices: list[tuple[str, Any]] | None = None

    def read(self, value: Any, conversion: Conversion, exact: bool = False) -> Any:
        """The Python value of a JSON value.

        Args:
            exact: whether only a value that needs no reinterpretation fits; a union tries that first.

        Raises:
            Mismatch: it does not fit. The path in it begins at this value.
            TooMuchWork: it takes more steps than its size explains.
            UnknownZone: the workflow's time zone is needed and is not known here.
            RecursionError: it has too many levels.
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

    def read(self, value: Any, conversion: Conversion, exact: bool = False) -> Any:
        if isinstance(value, str):
            return value
        if not exact and isinstance(value, (int, float)) and not isinstance(value, bool):
            # An expression gives a number where the text is one; JavaScript writes 3.0 as 3.
            if _is_rounded(value, conversion):
                raise Mismatch("", f"{self.expected} ({_AS_TEXT})", value)
            is_whole = isinstance(value, float) and abs(value) <= LARGEST_INTEGER and value.is_integer()
            try:
                return str(int(value)) if is_whole else str(value)
            except ValueError:  # more digits than Python writes
                pass
        raise Mismatch("", self.expected, value)


def _is_rounded(value: Any, conversion: Conversion) -> bool:
    """Whether a number may have had other digits before n8n read it."""
    return not conversion.is_text and abs(value) > LARGEST_INTEGER


#: As JavaScript writes them: `int` and `float` read "1_0", "infinity" and the digits of all scripts as well.
_SPACE = " \t\r\n"
_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
#: Characters of a number in other forms than plain digits that is read exactly.
_LONGEST = 400


class Number(Kind):
    name = "number"
    expected = "a number"

    def read(self, value: Any, conversion: Conversion, exact: bool = False) -> Any:
        number = value
        if type(value) is float and math.isfinite(value):
            return value
        if isinstance(value, str) and not exact and _NUMBER.fullmatch(value.strip(_SPACE)):
            number = float(value)
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise Mismatch("", self.expected, value)
        try:
            number = float(number)
        except OverflowError:
            raise Mismatch("", self.expected, value) from None
        if not math.isfinite(number):
            raise Mismatch("", self.expected, value)
        return number


class Whole(Kind):
    name = "integer"
    expected = "a whole number"

    def read(self, value: Any, conversion: Conversion, exact: bool = False) -> Any:
        if type(value) is int and -LARGEST_INTEGER <= value <= LARGEST_INTEGER:
            return value
        if isinstance(value, str) and not exact:
            number = _integer_of(value.strip(_SPACE))
            if number is None:
                raise Mismatch("", self.expected, value)
            return number
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise Mismatch("", self.expected, value)
        if isinstance(value, float) and not value.is_integer():
            raise Mismatch("", self.expected, value)
        if _is_rounded(value, conversion):
            raise Mismatch("", f"{self.expected} ({_AS_TEXT})", value)
        return int(value)


def _integer_of(text: str) -> int | None:
    """The integer that a text is, exactly; None if it is none, or has more digits than Python reads."""
    if _INTEGER.fullmatch(text):
        try:
            return int(text)
        except ValueError:
            return None
    if len(text) > _LONGEST or not _NUMBER.fullmatch(text):
        return None
    number = decimal.Decimal(text)
    if abs(number.adjusted()) > _LONGEST or number != number.to_integral_value():
        return None
    return int(number)


class Truth(Kind):
    name = "boolean"
    expected = "true or false"

    def read(self, value: Any, conversion: Conversion, exact: bool = False) -> Any:
        if isinstance(value, str) and not exact and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if not isinstance(value, bool):
            raise Mismatch("", self.expected, value)
        return value


class Choice(Kind):
    """One of several values: a Literal, or an Enum.

    Args:
        members: what is shown, what is sent, and what the function gets.
    """

    name = "options"

    def __init__(self, members: Sequence[tuple[str, Any, Any]]) -> None:
        self.choices = [(title, sent) for title, sent, _ in members]
        self._members = members

    @property
    def expected(self) -> str:
        return "one of " + ", ".join(shown(sent) for _, sent in self.choices or ())

    def read(self, value: Any, conversion: Conversion, exact: bool = False) -> Any:
        for _, sent, member in self._members:
            if value == sent and isinstance(value, bool) is isinstance(sent, bool):
                return member
        if not exact and isinstance(value, str):
            for title, sent, member in self._members:
                if value in (title, str(sent)) or (isinstance(member, enum.Enum) and value == member.name):
                    return member
        raise Mismatch("", self.expected, value)

    def described(self) -> str:
        return json.dumps(["options", sorted(json.dumps(sent) for _, sent in self.choices or ())])


#: What Python reads of ISO 8601 only from 3.11 on: fractions of any length, "Z", and zones without a colon.
_TIME = re.compile(
    r"(?P<time>.+T\d\d:\d\d(?::\d\d)?)(?:[.,](?P<fraction>\d+))?(?:Z|(?P<zone>[+-]\d\d)(?::?(?P<minutes>\d\d))?)?",
    re.IGNORECASE | re.ASCII,
)
#: Characters of the longest text that may be a moment.
_LONGEST_MOMENT = 64


def _moment_of(text: str) -> datetime.datetime | None:
    """The moment that a text is, as it stands there; None if it is none."""
    if len(text) > _LONGEST_MOMENT:
        return None
    found = _TIME.fullmatch(text.replace(" ", "T", 1))
    if found is not None:
        fraction = f".{found['fraction']:0<6.6}" if found["fraction"] else ""
        zone = f"{found['zone']}:{found['minutes'] or '00'}" if found["zone"] else ""
        text = found["time"] + fraction + ("+00:00" if text[-1] in "Zz" else zone)
    try:
        return datetime.datetime.fromisoformat(text)
    except ValueError:
        return None


def _in_zone(moment: datetime.datetime, zone: datetime.tzinfo) -> datetime.datetime:
    """The moment in a zone, whose local time it is if it has none of its own. Raises `OverflowError`."""
    if moment.tzinfo is None:
        # By way of UTC, because an hour that the clocks left out is the next one.
        moment = moment.replace(tzinfo=zone).astimezone(datetime.timezone.utc)
    return moment.astimezone(zone)


class Moment(Kind):
    name = "dateTime"
    expected = "a date and time as 2024-12-31T23:59:59Z"

    def read(self, value: Any, conversion: Conversion, exact: bool = False) -> Any:
        moment = _moment_of(value) if isinstance(value, str) else None
        if moment is None:
            raise Mismatch("", self.expected, value)
        zone = conversion.zone
        try:
            return moment if zone is None else _in_zone(moment, zone)
        except OverflowError:  # in the first or the last hours that Python has
            raise Mismatch("", self.expected, value) from None


class Day(Kind):
    name = "date"
    expected = "a date as 2024-12-31"

    def read(self, value: Any, conversion: Conversion, exact: bool = False) -> Any:
        if not isinstance(value, str):
            raise Mismatch("", self.expected, value)
        if exact or value[10:11] not in ("T", " "):
            try:
                return datetime.date.fromisoformat(value)
            except ValueError:
                raise Mismatch("", self.expected, value) from None
        # n8n's field for dates has a time as well, and its Postgres node writes local midnight in UTC: the
        # day that was meant is that of the workflow's zone.
        moment = _moment_of(value)
        if moment is None:
            raise Mismatch("", self.expected, value)
        zone = conversion.zone
        try:
            return (moment if zone is None else _in_zone(moment, zone)).date()
        except OverflowError:  # as above
            raise Mismatch("", self.expected, value) from None


def _parsed(value: Any, conversion: Conversion, expected: str, exact: bool) -> tuple[Any, Conversion]:
    """The value of a JSON field, which is text until an expression makes it something else."""
    if isinstance(value, str) and not exact:
        try:
            return conversion.parse(value)
        except ValueError as error:
            raise Mismatch("", f"{expected}, written as JSON ({error})", value) from None
    return value, conversion


class Sequences(Kind):
    """A list, a set, or a tuple of any length.

    Args:
        element: the kind of its elements.
        make: makes the Python value of a list.
    """

    name = "list"
    expected = "a list"

    def __init__(self, element: Kind, make: Callable[[list[Any]], Any]) -> None:
        self.element = element
        self._make = make

    def read(self, value: Any, conversion: Conversion, exact: bool = False) -> Any:
        value, conversion = _parsed(value, conversion, self.expected, exact)
        if not isinstance(value, list):
            raise Mismatch("", self.expected, value)
        parts: list[Any] = []
        read = self.element.read
        try:
            for part in conversion.steps(value):
                parts.append(read(part, conversion, exact))
        except Mismatch as error:
            raise error.within(f"[{len(parts)}]") from None
        if self._make is list:
            return parts
        try:
            if self._make is not tuple:
                conversion.check_hashes(parts)
            return self._make(parts)
        except TypeError:  # a set of what cannot be in one
            raise Mismatch("", "a list of plain values, each once", value) from None
        except ValueError as error:
            raise Mismatch(
                "", f"{self.expected} whose values can be told apart soon ({error})", value
            ) from None

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

    def read(self, value: Any, conversion: Conversion, exact: bool = False) -> Any:
        value, conversion = _parsed(value, conversion, self.expected, exact)
        if not isinstance(value, list) or len(value) != len(self.elements):
            raise Mismatch("", self.expected, value)
        conversion.spend(len(value))
        parts: list[Any] = []
        try:
            for kind, part in zip(self.elements, value):
                parts.append(kind.read(part, conversion, exact))
        except Mismatch as error:
            raise error.within(f"[{len(parts)}]") from None
        return tuple(parts)

    def described(self) -> str:
        return json.dumps(["row", [element.described() for element in self.elements]])


class Mapping(Kind):
    """A dictionary."""

    name = "object"
    expected = "an object"

    def __init__(self, value: Kind) -> None:
        self.value = value

    def read(self, value: Any, conversion: Conversion, exact: bool = False) -> Any:
        value, conversion = _parsed(value, conversion, self.expected, exact)
        if not isinstance(value, dict):
            raise Mismatch("", self.expected, value)
        members: dict[str, Any] = {}
        key = ""
        try:
            for key in conversion.steps(value):
                members[key] = self.value.read(value[key], conversion, exact)
        except Mismatch as error:
            raise error.within(f".{key}") from None
        return members

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
        self.members: dict[str, Member] = {}

    @property
    def expected(self) -> str:
        return f"an object with {', '.join(self.members) or 'no keys'}"

    def read(self, value: Any, conversion: Conversion, exact: bool = False) -> Any:
        value, conversion = _parsed(value, conversion, self.expected, exact)
        if self._is_row and isinstance(value, list) and len(value) <= len(self.members):
            value = dict(zip(self.members, value))
        if not isinstance(value, dict):
            raise Mismatch("", self.expected, value)
        for key in value:
            if key not in self.members:
                raise Mismatch("", f"{self.expected}, and no {shown(key)}", value)
        conversion.spend(len(self.members))
        arguments = {}
        key = ""
        try:
            for key, member in self.members.items():
                if key in value:
                    arguments[key] = member.kind.read(value[key], conversion, exact)
                elif member.required:
                    raise Mismatch("", member.kind.expected, NOTHING)
        except Mismatch as error:
            raise error.within(f".{key}") from None
        try:
            return self._make(**arguments)
        except Exception as error:  # noqa: BLE001 - the record's own checks
            raise Mismatch("", f"a {self.title} ({type(error).__name__}: {error})", value) from None

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

    def read(self, value: Any, conversion: Conversion, exact: bool = False) -> Any:
        value, conversion = _parsed(value, conversion, self.expected, exact)
        try:
            made = self._validate(value)
        except Exception as error:  # noqa: BLE001 - pydantic's, or a validator's of the user
            problems = getattr(error, "errors", None)
            if not callable(problems):
                raise Mismatch("", f"{self.expected} ({error})", value) from None
            count = getattr(error, "error_count", None)  # pydantic 2
            if callable(count) and count() > _MOST_PROBLEMS:
                # All of them would be made, at once and at 10 us each, while no other thread runs.
                raise Mismatch("", f"{self.expected} ({count()} parts of it do not fit)", value) from None
            first = problems()[0]
            path = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in first["loc"])
            if first.get("type") in _MISSING:
                raise Mismatch(path, "a value", NOTHING) from None
            wanted = f"a value that {self._model.__name__} accepts ({first['msg']})"
            raise Mismatch(path, wanted, first.get("input", value)) from None
        if not conversion.is_text:
            self._check_integers(made, value)
        return made

    def _check_integers(self, made: Any, value: Any) -> None:
        """Refuses an integer that n8n has rounded, unless the model makes a float of it."""
        large = _large_integer(value, "")
        if large is not None:
            dump = getattr(made, "model_dump", None) or made.dict
            if _large_integer(dump(), "") is not None:
                raise Mismatch(large[0], f"{Whole.expected} ({_AS_TEXT})", large[1])

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


#: As many problems as pydantic may have with a value for the first to be looked up.
_MOST_PROBLEMS = 1000
#: What pydantic 2 and 1 call a field that is not there.
_MISSING = ("missing", "value_error.missing")


def _large_integer(value: Any, path: str) -> tuple[str, Any] | None:
    """The place and value of an integer that n8n may have rounded; None if there is none."""
    if isinstance(value, int):
        return (path, value) if abs(value) > LARGEST_INTEGER else None
    found = None
    if isinstance(value, dict):
        for key, part in value.items():
            found = found or _large_integer(part, f"{path}.{key}")
    elif isinstance(value, (list, tuple, set, frozenset)):
        for number, part in enumerate(value):
            found = found or _large_integer(part, f"{path}[{number}]")
    return found


class Either(Kind):
    """A union."""

    def __init__(self, kinds: Sequence[Kind]) -> None:
        self.kinds = kinds
        # A field in which everything can be written.
        self.name = "string" if any(kind.name == "string" for kind in kinds) else "any"

    @property
    def expected(self) -> str:
        return " or ".join(kind.expected for kind in self.kinds)

    def read(self, value: Any, conversion: Conversion, exact: bool = False) -> Any:
        if not isinstance(value, (dict, list)):
            return self._read(value, conversion, exact)
        # Without a memory, a union inside of itself would take twice the time for each level.
        key = (id(self), id(value), exact)
        if key not in conversion.known:
            try:
                conversion.known[key] = self._read(value, conversion, exact)
            except Mismatch:
                conversion.known[key] = NOTHING
        if conversion.known[key] is NOTHING:
            raise Mismatch("", self.expected, value)
        return conversion.known[key]

    def _read(self, value: Any, conversion: Conversion, exact: bool) -> Any:
        for as_it_is in (True,) if exact else (True, False):
            for kind in self.kinds:
                conversion.spend(1)
                try:
                    return kind.read(value, conversion, as_it_is)
                except Mismatch:
                    continue
        raise Mismatch("", self.expected, value)

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

    def read(self, value: Any, conversion: Conversion, exact: bool = False) -> Any:
        if value is None or (value == "" and not isinstance(self.kind, (Text, Either)) and not exact):
            return None  # an empty field
        return self.kind.read(value, conversion, exact)

    def described(self) -> str:
        return json.dumps(["perhaps", self.kind.described()])


class Bounded(Kind):
    """A value within bounds.

    Args:
        bounds: from "minimum", "maximum", "above", "below", "shortest" and "longest" to the bound.
    """

    def __init__(self, kind: Kind, bounds: dict[str, Any]) -> None:
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

    def read(self, value: Any, conversion: Conversion, exact: bool = False) -> Any:
        longest = self.bounds.get("longest")
        if longest is not None:
            # Before the elements are converted: the bound is there to save that work.
            raw = value
            if isinstance(bare(self.kind), (Sequences, Mapping)) and value != "":
                raw, _ = _parsed(value, conversion, self.expected, exact)
            if isinstance(raw, (list, dict)) and len(raw) > longest:
                raise Mismatch("", self.expected, value)
        converted = self.kind.read(value, conversion, exact)
        if converted is not None and not all(
            self._is_within(name, converted, at) for name, at in self.bounds.items()
        ):
            raise Mismatch("", self.expected, value)
        return converted

    def _is_within(self, name: str, value: Any, at: Any) -> bool:
        if isinstance(at, datetime.datetime) and at.tzinfo is None:
            at = at.replace(
                tzinfo=getattr(value, "tzinfo", None)
            )  # a bound without a zone is in the workflow's
        try:
            return _IS_WITHIN[name](value, at)
        except TypeError:  # of another kind, as in a union, or without a length
            return False

    def described(self) -> str:
        return self.kind.described()  # bounds may change as texts may


_IS_WITHIN: dict[str, Callable[[Any, Any], bool]] = {
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

    def read(self, value: Any, conversion: Conversion, exact: bool = False) -> Any:
        if isinstance(value, File):
            return value
        raise Mismatch("", self.expected, value)


def bare(kind: Kind) -> Kind:
    """A kind without bounds, and without that it may be left out."""
    while isinstance(kind, (Bounded, Perhaps)):
        kind = kind.kind
    return kind
