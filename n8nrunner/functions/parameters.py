"""The types that a parameter can have: each converts a JSON value to the Python value, or says why it cannot.

A Python *hint* becomes a *type*, which is a subclass of `ParameterType`. Its *kind* is the word for it in a
function's description; several types may have the same. Its *type key* tells whether a written node still
fits the function. Its *field type* is n8n's word for the field.

To add a type, write its class here, and the line for its type hint in `hints.py`, where `type_of_default` may
need one too. The types of dates and of objects with known keys are in `dates.py` and `records.py`.
CONTRIBUTING.md, "Add a type of parameter", has the whole recipe.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import math
import re
from collections.abc import Sequence
from typing import Any, Callable

from n8nrunner.functions.conversion import MISSING, Conversion, Mismatch, format_value
from n8nrunner.functions.files import File
from n8nrunner.functions.items import to_json
from n8nrunner.functions.schema import Nesting, Schema, add_bound, add_hint, any_value, choice, merge
from n8nrunner.protocol.json_faults import LARGEST_INTEGER

#: The advice in an error about an integer that n8n may have rounded.
SEND_AS_STRING = f"n8n's numbers are exact up to {LARGEST_INTEGER} only: send this one as a string"


class ParameterType:
    """A type of parameter."""

    kind: str  #: the type's name in a function's description, such as "number"
    choices: list[tuple[str, Any]] | None = None  #: the titles and JSON values of a drop-down
    element_types: Sequence[ParameterType] = ()  #: the types of its parts, as of a list's elements
    field_type = "string"  #: the type of its field in n8n
    form_type = "string"  #: the type of its field in a form, n8n's resource mapper
    schema_type = "string"  #: the type in its JSON Schema
    empty: Any = ""  #: the value of its field without a default
    default_types: type | tuple[type, ...] = str  #: the Python types of the defaults that the field can show

    def convert(self, value: Any, conversion: Conversion, strict: bool = False) -> Any:
        """Convert a JSON value to the Python value.

        Args:
            strict: accept only a value that has this type already. A string parameter then refuses a number.
                A union tries all its types strictly first.

        Raises:
            Mismatch: the value does not fit. Its path begins at this value.
            TooMuchWork: the conversion takes more steps than a value of this size may take.
            UnknownZone: the workflow's time zone is needed, and Python has no data for it.
            RecursionError: the value is nested too deeply.
        """
        raise NotImplementedError

    def type_key(self) -> str:
        """Return the part of a function's signature that decides which values fit.

        Generated nodes contain its hash, so the text of a type must not change.
        """
        return self.kind

    @property
    def expected(self) -> str:
        """A description of the values that fit, for errors."""
        raise NotImplementedError

    def field(self, default: Any) -> dict[str, Any]:
        """Return the field's type, default and options as JSON.

        Args:
            default: as `field_default` returns it.
        """
        return {"type": self.field_type, "default": self.empty if default is None else default}

    def form(self) -> dict[str, Any]:
        """Return the type and the options of the field in a form: JSON."""
        return {"type": self.form_type}

    def form_default(self) -> Any:
        """Return the value with which the field of a required parameter starts in a form; None for none."""
        return None

    def schema(self, nesting: Nesting) -> Schema:
        """Return the JSON Schema of the values that fit, as far as a schema can say it (`schema.py`).

        Args:
            nesting: the records that this type is a part of, because a record may contain its own type.
        """
        return {"type": self.schema_type}

    def schema_default(self, default: Any) -> Any:
        """Return a default for the JSON Schema.

        Args:
            default: as `field_default` returns it.
        """
        return default

    def field_default(self, default: Any) -> Any:
        """Return a parameter's default as JSON; None if the field cannot show it."""
        default = to_json(default)
        if isinstance(default, float) and not math.isfinite(default):
            return None  # JSON has no such number
        if isinstance(default, int) and abs(default) > LARGEST_INTEGER:
            return None  # JavaScript would round it
        return default if isinstance(default, self.default_types) else None


class AnyValue(ParameterType):
    """Any value, as it is."""

    kind = "any"
    expected = "any value"

    def convert(self, value: Any, conversion: Conversion, strict: bool = False) -> Any:
        return value


class String(ParameterType):
    """A str."""

    kind = "string"
    expected = "a string"

    def convert(self, value: Any, conversion: Conversion, strict: bool = False) -> Any:
        if isinstance(value, str):
            return value
        if not strict and isinstance(value, (int, float)) and not isinstance(value, bool):
            # n8n expressions turn a string of digits into a number, and JavaScript formats 3.0 as 3.
            if _may_be_rounded(value, conversion):
                raise Mismatch("", f"{self.expected} ({SEND_AS_STRING})", value)
            is_integer = isinstance(value, float) and abs(value) <= LARGEST_INTEGER and value.is_integer()
            try:
                return str(int(value)) if is_integer else str(value)
            except ValueError:  # more digits than Python converts
                pass
        raise Mismatch("", self.expected, value)


def _may_be_rounded(value: float, conversion: Conversion) -> bool:
    """Return whether n8n may have rounded a number before it sent it."""
    return not conversion.from_text and abs(value) > LARGEST_INTEGER


_SPACE = " \t\r\n"
#: Decimal numbers as JavaScript reads them. `int` and `float` also accept "1_0", "infinity" and other digits.
_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
#: Longest number with a fraction or an exponent that is converted to an integer, in characters.
_LONGEST_NUMBER = 400


class Number(ParameterType):
    """A float."""

    kind = "number"
    expected = "a number"
    field_type, empty, default_types = "number", 0, (int, float)
    form_type = schema_type = "number"

    def convert(self, value: Any, conversion: Conversion, strict: bool = False) -> Any:
        if type(value) is float and math.isfinite(value):
            return value
        number = value
        if isinstance(value, str) and not strict and _NUMBER.fullmatch(value.strip(_SPACE)):
            number = float(value)
        try:
            if isinstance(number, (int, float)) and not isinstance(number, bool) and math.isfinite(number):
                return float(number)
        except OverflowError:  # an integer that is too large for a float
            pass
        raise Mismatch("", self.expected, value)


class Integer(ParameterType):
    """An int."""

    kind = "integer"
    expected = "an integer"
    field_type, empty, default_types = "number", 0, int
    form_type, schema_type = "number", "integer"

    def convert(self, value: Any, conversion: Conversion, strict: bool = False) -> Any:
        if type(value) is int and -LARGEST_INTEGER <= value <= LARGEST_INTEGER:
            return value
        if isinstance(value, str) and not strict:
            number = _parse_integer(value.strip(_SPACE))
            if number is not None:
                return number
        elif type(value) is int or (isinstance(value, float) and value.is_integer()):
            if _may_be_rounded(value, conversion):
                raise Mismatch("", f"{self.expected} ({SEND_AS_STRING})", value)
            return int(value)
        raise Mismatch("", self.expected, value)

    def field(self, default: Any) -> dict[str, Any]:
        return {"type": "number", "typeOptions": {"numberPrecision": 0}, "default": default or 0}


def _parse_integer(text: str) -> int | None:
    """Return the exact integer; None if the text is not one, or has more digits than Python converts."""
    if _INTEGER.fullmatch(text):
        try:
            return int(text)
        except ValueError:
            return None
    if len(text) > _LONGEST_NUMBER or not _NUMBER.fullmatch(text):
        return None
    number = decimal.Decimal(text)
    if abs(number.adjusted()) > _LONGEST_NUMBER or number != number.to_integral_value():
        return None
    return int(number)


class Boolean(ParameterType):
    """A bool."""

    kind = "boolean"
    expected = "true or false"
    field_type, empty, default_types = "boolean", False, bool
    form_type = schema_type = "boolean"

    def convert(self, value: Any, conversion: Conversion, strict: bool = False) -> Any:
        if isinstance(value, str) and not strict and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if not isinstance(value, bool):
            raise Mismatch("", self.expected, value)
        return value


class Choice(ParameterType):
    """A Literal or an Enum.

    Args:
        members: the title, the JSON value and the Python value of each.
    """

    kind = "options"
    field_type = form_type = "options"

    def __init__(self, members: Sequence[tuple[str, Any, Any]]) -> None:
        self.choices = [(title, sent) for title, sent, _ in members]
        self._members = members

    @property
    def expected(self) -> str:
        return "one of " + ", ".join(format_value(sent) for _, sent in self.choices or ())

    def convert(self, value: Any, conversion: Conversion, strict: bool = False) -> Any:
        for _, sent, member in self._members:
            if value == sent and isinstance(value, bool) is isinstance(sent, bool):
                return member
        if not strict and isinstance(value, str):
            for title, sent, member in self._members:
                if value in (title, str(sent)) or (isinstance(member, enum.Enum) and value == member.name):
                    return member
        raise Mismatch("", self.expected, value)

    def type_key(self) -> str:
        return json.dumps(["options", sorted(json.dumps(sent) for _, sent in self.choices or ())])

    def field(self, default: Any) -> dict[str, Any]:
        options = [{"name": title, "value": sent} for title, sent in self.choices or ()]
        if len(options) >= 5 and all(isinstance(option["value"], str) for option in options):
            options.sort(key=lambda option: str(option["name"]).lower())  # n8n's linter requires it
        default = options[0]["value"] if default is None else default
        return {"type": "options", "options": options, "default": default}

    def form(self) -> dict[str, Any]:
        options = [{"name": title, "value": sent} for title, sent in self.choices or ()]
        return {"type": self.form_type, "options": options}

    def schema(self, nesting: Nesting) -> Schema:
        choices = self.choices or ()
        schema = choice(sent for _, sent in choices)
        if "enum" in schema and any(
            title != str(sent) and not isinstance(sent, str) for title, sent in choices
        ):
            add_hint(schema, ", ".join(f"{sent}: {title}" for title, sent in choices))
        return schema

    def schema_default(self, default: Any) -> Any:
        return str(default)

    def field_default(self, default: Any) -> Any:
        for _, sent, member in self._members:
            if default is member or to_json(default) == sent:
                return sent
        return None


class FileProperty(ParameterType):
    """A file of the item. n8n sends its name; `convert` expects the `File` that its caller has made."""

    kind = "file"
    expected = "the name of one of the item's files"
    empty, default_types = "data", ()

    def form_default(self) -> Any:
        return self.empty

    def convert(self, value: Any, conversion: Conversion, strict: bool = False) -> Any:
        if isinstance(value, File):
            return value
        raise Mismatch("", self.expected, value)


# --- types of JSON fields ---------------------------------------------------------------------------


def parse_field(value: Any, conversion: Conversion, expected: str, strict: bool) -> tuple[Any, Conversion]:
    """Parse the value of a JSON field. Return it, and the conversion to continue with.

    n8n sends a string, unless the field has an expression. Raises `Mismatch` if it is not valid JSON.
    """
    if isinstance(value, str) and not strict:
        try:
            return conversion.parse(value)
        except ValueError as error:
            raise Mismatch("", f"{expected}, written as JSON ({error})", value) from None
    return value, conversion


class JsonType(ParameterType):
    """A type whose field in n8n is for JSON."""

    field_type, empty = "json", "{}"
    form_type = schema_type = "object"

    def form_default(self) -> Any:
        return None if self.empty in ("{}", "[]") else self.empty

    def schema_default(self, default: Any) -> Any:
        return json.loads(default)

    def field_default(self, default: Any) -> Any:
        default = to_json(default)
        try:
            return None if default is None else json.dumps(default, allow_nan=False)
        except (TypeError, ValueError):
            return None


class Array(JsonType):
    """A list, a set, or a tuple of any length.

    Args:
        element: the type of its elements.
        make: makes the Python value from a list.
    """

    kind = "list"
    expected = "a list"
    empty = "[]"
    form_type = schema_type = "array"

    def __init__(self, element: ParameterType, make: Callable[[list[Any]], Any]) -> None:
        self.element = element
        self.element_types = (element,)
        self._make = make

    def convert(self, value: Any, conversion: Conversion, strict: bool = False) -> Any:
        value, conversion = parse_field(value, conversion, self.expected, strict)
        if not isinstance(value, list):
            raise Mismatch("", self.expected, value)
        elements: list[Any] = []
        convert = self.element.convert
        try:
            for element in conversion.steps(value):
                elements.append(convert(element, conversion, strict))
        except Mismatch as error:
            raise error.within(f"[{len(elements)}]") from None
        if self._make is list:
            return elements
        try:
            if self._make is not tuple:
                conversion.check_hashes(elements)
            return self._make(elements)
        except TypeError:  # a set of values without a hash
            raise Mismatch(
                "", "a list of strings, numbers or other values that a set can contain", value
            ) from None
        except ValueError as error:
            raise Mismatch("", f"{self.expected} of values with different hashes ({error})", value) from None

    def type_key(self) -> str:
        return json.dumps(["list", self.element.type_key()])

    def schema(self, nesting: Nesting) -> Schema:
        return {"type": "array", "items": self.element.schema(nesting)}


class Tuple(JsonType):
    """A tuple of fixed length."""

    kind = "list"
    empty = "[]"
    form_type = schema_type = "array"

    def __init__(self, elements: Sequence[ParameterType]) -> None:
        self.element_types = elements

    @property
    def expected(self) -> str:
        return f"a list of {len(self.element_types)} values"

    def convert(self, value: Any, conversion: Conversion, strict: bool = False) -> Any:
        value, conversion = parse_field(value, conversion, self.expected, strict)
        if not isinstance(value, list) or len(value) != len(self.element_types):
            raise Mismatch("", self.expected, value)
        conversion.spend(len(value))
        elements: list[Any] = []
        try:
            for element_type, element in zip(self.element_types, value):
                elements.append(element_type.convert(element, conversion, strict))
        except Mismatch as error:
            raise error.within(f"[{len(elements)}]") from None
        return tuple(elements)

    def type_key(self) -> str:
        return json.dumps(["row", [element.type_key() for element in self.element_types]])

    def schema(self, nesting: Nesting) -> Schema:
        items = [element.schema(nesting) for element in self.element_types] or [any_value()]
        count = len(self.element_types)
        schema: Schema = {"type": "array", "items": merge(items, any_value())}
        schema.update(minItems=count, maxItems=count)
        if any(item != items[0] for item in items):
            expected = "; ".join(element.expected for element in self.element_types)
            add_hint(schema, f"{self.expected}: {expected}")
        return schema


class Dictionary(JsonType):
    """A dict with any keys."""

    kind = "object"
    expected = "an object"

    def __init__(self, value: ParameterType) -> None:
        self.value = value
        self.element_types = (value,)

    def convert(self, value: Any, conversion: Conversion, strict: bool = False) -> Any:
        value, conversion = parse_field(value, conversion, self.expected, strict)
        if not isinstance(value, dict):
            raise Mismatch("", self.expected, value)
        converted: dict[str, Any] = {}
        key = ""
        try:
            for key in conversion.steps(value):
                converted[key] = self.value.convert(value[key], conversion, strict)
        except Mismatch as error:
            raise error.within(f".{key}") from None
        return converted

    def type_key(self) -> str:
        return json.dumps(["object", self.value.type_key()])

    def schema(self, nesting: Nesting) -> Schema:
        if isinstance(self.value, AnyValue):
            return {"type": "object"}
        return {"type": "object", "additionalProperties": self.value.schema(nesting)}


# --- wrapper types ----------------------------------------------------------------------------------


class Union(ParameterType):
    """A value of one of several types."""

    def __init__(self, types: Sequence[ParameterType]) -> None:
        self.element_types = types
        # Part of the definition in generated nodes, so it must not change.
        self.kind = "string" if any(each.kind == "string" for each in types) else "any"

    @property
    def expected(self) -> str:
        return " or ".join(each.expected for each in self.element_types)

    def convert(self, value: Any, conversion: Conversion, strict: bool = False) -> Any:
        if not isinstance(value, (dict, list)):
            return self._convert(value, conversion, strict)
        # Without the cache, a recursive union would take twice as long for each level.
        key = (id(self), id(value), strict)
        results = conversion.union_results
        if key not in results:
            try:
                results[key] = self._convert(value, conversion, strict)
            except Mismatch:
                results[key] = MISSING
        if results[key] is MISSING:
            raise Mismatch("", self.expected, value)
        return results[key]

    def _convert(self, value: Any, conversion: Conversion, strict: bool) -> Any:
        passes = (True,) if strict else (True, False)
        for is_strict in passes:
            for each in self.element_types:
                conversion.spend(1)
                try:
                    return each.convert(value, conversion, is_strict)
                except Mismatch:
                    continue
        raise Mismatch("", self.expected, value)

    def type_key(self) -> str:
        return json.dumps(["either", sorted(each.type_key() for each in self.element_types)])

    def schema(self, nesting: Nesting) -> Schema:
        # Every type accepts its values as strings too: numbers in digits, lists and objects as JSON.
        merged = merge([each.schema(nesting) for each in self.element_types], any_value())
        merged.pop("description", None)
        add_hint(merged, self.expected)
        return merged


class Wrapper(ParameterType):
    """A type that wraps another type, and has the same field."""

    def __init__(self, inner: ParameterType) -> None:
        self.inner = inner
        self.kind = inner.kind
        self.choices = inner.choices

    def field(self, default: Any) -> dict[str, Any]:
        return self.inner.field(default)

    def form(self) -> dict[str, Any]:
        return self.inner.form()

    def form_default(self) -> Any:
        return self.inner.form_default()

    def schema(self, nesting: Nesting) -> Schema:
        return self.inner.schema(nesting)

    def schema_default(self, default: Any) -> Any:
        return self.inner.schema_default(default)

    def field_default(self, default: Any) -> Any:
        return self.inner.field_default(default)


class Optional(Wrapper):
    """A value of a type, or None."""

    @property
    def expected(self) -> str:
        return f"{self.inner.expected}, or nothing"

    def convert(self, value: Any, conversion: Conversion, strict: bool = False) -> Any:
        is_empty_field = value == "" and not strict and not isinstance(unwrap(self.inner), (String, Union))
        if value is None or is_empty_field:
            return None
        return self.inner.convert(value, conversion, strict)

    def type_key(self) -> str:
        return json.dumps(["perhaps", self.inner.type_key()])


#: Bounds by their names in `annotated_types` and in pydantic's `Field`.
Bounds = dict[str, "int | float | datetime.date"]

#: For each bound: the words for it in errors, and the check of a value.
_BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "ge": ("at least {}", lambda value, bound: bool(value >= bound)),
    "le": ("at most {}", lambda value, bound: bool(value <= bound)),
    "gt": ("more than {}", lambda value, bound: bool(value > bound)),
    "lt": ("less than {}", lambda value, bound: bool(value < bound)),
    "min_length": ("of length {} or more", lambda value, bound: len(value) >= bound),
    "max_length": ("of length {} or less", lambda value, bound: len(value) <= bound),
}
BOUND_NAMES = tuple(_BOUNDS)


class Bounded(Wrapper):
    """A value within bounds.

    Args:
        inner: the type of the value.
        bounds: the value of each bound, by its name in `BOUND_NAMES`.
    """

    def __init__(self, inner: ParameterType, bounds: Bounds) -> None:
        super().__init__(inner)
        self.bounds = bounds

    @property
    def expected(self) -> str:
        words = (_BOUNDS[name][0].format(bound) for name, bound in self.bounds.items())
        return ", ".join([self.inner.expected, *words])

    def convert(self, value: Any, conversion: Conversion, strict: bool = False) -> Any:
        max_length = self.bounds.get("max_length")
        if isinstance(max_length, (int, float)):
            # Check the length before the conversion, which may be expensive.
            raw = value
            if isinstance(unwrap(self.inner), (Array, Dictionary)) and value != "":
                raw, _ = parse_field(value, conversion, self.expected, strict)
            if isinstance(raw, (list, dict)) and len(raw) > max_length:
                raise Mismatch("", self.expected, value)
        converted = self.inner.convert(value, conversion, strict)
        if converted is not None and not all(
            self._is_within(name, converted, bound) for name, bound in self.bounds.items()
        ):
            raise Mismatch("", self.expected, value)
        return converted

    def _is_within(self, name: str, value: Any, bound: int | float | datetime.date) -> bool:
        if isinstance(bound, datetime.datetime) and bound.tzinfo is None:
            bound = bound.replace(tzinfo=getattr(value, "tzinfo", None))  # the workflow's time zone
        try:
            return _BOUNDS[name][1](value, bound)
        except TypeError:  # not comparable, as in a union, or without a length
            return False

    def type_key(self) -> str:
        return self.inner.type_key()  # bounds do not count, so that they can change

    def schema(self, nesting: Nesting) -> Schema:
        schema = self.inner.schema(nesting)
        in_words = [
            _BOUNDS[name][0].format(bound)
            for name, bound in self.bounds.items()
            if not add_bound(schema, name, bound)
        ]
        if in_words:
            add_hint(schema, ", ".join(in_words))
        return schema

    def field(self, default: Any) -> dict[str, Any]:
        field = self.inner.field(default)
        if field["type"] == "number":
            names = {"ge": "minValue", "le": "maxValue"}
            limits = {
                names[name]: bound
                for name, bound in self.bounds.items()
                if name in names and not isinstance(bound, datetime.date)  # dates bound no number
            }
            field["typeOptions"] = {**field.get("typeOptions", {}), **limits}
        return field


def unwrap(type: ParameterType) -> ParameterType:
    """Return the innermost type, such as that in an `Optional`."""
    while isinstance(type, Wrapper):
        type = type.inner
    return type


def takes_file(type: ParameterType) -> bool:
    """Return whether the parameter takes a file."""
    return isinstance(unwrap(type), FileProperty)
