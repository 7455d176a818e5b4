"""The types of objects with known keys: dataclasses, TypedDicts, NamedTuples and pydantic models."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Callable, NamedTuple

from n8nrunner.functions.conversion import MISSING, Conversion, Mismatch, format_value
from n8nrunner.functions.parameters import SEND_AS_STRING, Integer, JsonType, ParameterType, parse_field
from n8nrunner.functions.schema import Nesting, Schema, add_hint, from_pydantic
from n8nrunner.protocol.json_faults import LARGEST_INTEGER


class Member(NamedTuple):
    """A key of a record."""

    type: ParameterType
    required: bool
    description: str = ""  #: the description in its `Annotated`


class Record(JsonType):
    """A dataclass, a TypedDict or a NamedTuple.

    Args:
        title: the name of its class.
        make: makes the Python value from keyword arguments.
        is_tuple: also accept a list of its values, in the order of its members.
        members: filled in by `hints.py` afterwards, because a record may contain its own type.
    """

    kind = "object"

    def __init__(self, title: str, make: Callable[..., Any], is_tuple: bool = False) -> None:
        self.title = title
        self._make = make
        self._is_tuple = is_tuple
        self.members: dict[str, Member] = {}

    @property
    def expected(self) -> str:
        return f"an object with {', '.join(self.members) or 'no keys'}"

    def convert(self, value: Any, conversion: Conversion, strict: bool = False) -> Any:
        value, conversion = parse_field(value, conversion, self.expected, strict)
        if self._is_tuple and isinstance(value, list) and len(value) <= len(self.members):
            value = dict(zip(self.members, value))
        if not isinstance(value, dict):
            raise Mismatch("", self.expected, value)
        for key in value:
            if key not in self.members:
                raise Mismatch("", f"{self.expected}, and no {format_value(key)}", value)
        conversion.spend(len(self.members))
        arguments = {}
        key = ""
        try:
            for key, member in self.members.items():
                if key in value:
                    arguments[key] = member.type.convert(value[key], conversion, strict)
                elif member.required:
                    raise Mismatch("", member.type.expected, MISSING)
        except Mismatch as error:
            raise error.within(f".{key}") from None
        try:
            return self._make(**arguments)
        except Exception as error:  # noqa: BLE001 - the record's own checks
            raise Mismatch("", f"a {self.title} ({type(error).__name__}: {error})", value) from None

    def type_key(self) -> str:
        # Only the names of its members: the signature of a record that contains itself would not end.
        names = [f"{name}{'' if member.required else '?'}" for name, member in self.members.items()]
        return json.dumps(["record", sorted(names)])

    def schema(self, nesting: Nesting) -> Schema:
        if not nesting.enter(self, len(self.members)):
            return {"type": "object"}
        properties = {}
        for name, member in self.members.items():
            properties[name] = member.type.schema(nesting)
            if member.description:
                hint = properties[name].pop("description", "")
                properties[name]["description"] = member.description
                if hint:
                    add_hint(properties[name], hint)
        nesting.leave()
        required = [name for name, member in self.members.items() if member.required]
        return {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        }

    @property
    def empty(self) -> str:  # type: ignore[override]
        return _with_null(key for key, member in self.members.items() if member.required)


def _with_null(keys: Iterable[str]) -> str:
    """Return the JSON of an object with required keys.

    Their values are null, so that a key that is not filled in is an error, and not a silent empty value.
    """
    values = dict.fromkeys(keys)
    return json.dumps(values, indent=2, ensure_ascii=False) if values else "{}"


#: pydantic lists at most this many problems of a value; above, errors only have their number.
_MAX_PROBLEMS = 1000
#: The names that pydantic 2 and 1 have for the error of a missing key.
_MISSING_KEY = ("missing", "value_error.missing")


class Model(JsonType):
    """A pydantic model, of version 1 or 2."""

    kind = "object"

    def __init__(self, model: Any) -> None:
        self._model = model
        self._validate = getattr(model, "model_validate", None) or model.parse_obj
        fields = getattr(model, "model_fields", None) or model.__fields__
        #: The key of each field in an object.
        self._keys = {name: _key_of(name, field) for name, field in fields.items()}
        self.empty = _with_null(self._keys[name] for name, field in fields.items() if _is_required(field))

    @property
    def expected(self) -> str:
        return f"an object with {', '.join(self._keys.values()) or 'no keys'}"

    def convert(self, value: Any, conversion: Conversion, strict: bool = False) -> Any:
        value, conversion = parse_field(value, conversion, self.expected, strict)
        try:
            converted = self._validate(value)
        except Exception as error:  # noqa: BLE001 - pydantic's, or one of the user's validators'
            raise self._mismatch(error, value) from None
        if not conversion.from_text:
            self._check_integers(converted, value)
        return converted

    def _mismatch(self, error: Any, value: Any) -> Mismatch:
        """Return the first problem that the model has with the value."""
        problems = getattr(error, "errors", None)
        if not callable(problems):
            return Mismatch("", f"{self.expected} ({error})", value)
        count = getattr(error, "error_count", None)  # pydantic 2
        if callable(count) and count() > _MAX_PROBLEMS:
            # pydantic makes all of them at once, in 10 us each, and no other thread runs during that time.
            return Mismatch("", f"{self.expected} ({count()} parts of it do not fit)", value)
        first = problems()[0]
        path = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in first["loc"])
        if first.get("type") in _MISSING_KEY:
            return Mismatch(path, "a value", MISSING)
        expected = f"a value that {self._model.__name__} accepts ({first['msg']})"
        return Mismatch(path, expected, first.get("input", value))

    def _check_integers(self, converted: Any, value: Any) -> None:
        """Reject an integer that n8n may have rounded, unless the model converts it to a float."""
        large = _find_large_integer(value, "")
        if large is not None:
            dump = getattr(converted, "model_dump", None) or converted.dict
            if _find_large_integer(dump(), "") is not None:
                raise Mismatch(large[0], f"{Integer.expected} ({SEND_AS_STRING})", large[1])

    def type_key(self) -> str:
        return json.dumps(["model", sorted(self._keys)])

    def schema(self, nesting: Nesting) -> Schema:
        make = getattr(self._model, "model_json_schema", None) or self._model.schema
        return from_pydantic(make(), nesting)


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


def _find_large_integer(value: Any, path: str) -> tuple[str, int] | None:
    """Return the path and value of an integer that n8n may have rounded; None if there is none."""
    if isinstance(value, int):
        return (path, value) if abs(value) > LARGEST_INTEGER else None
    found = None
    if isinstance(value, dict):
        for key, part in value.items():
            found = found or _find_large_integer(part, f"{path}.{key}")
    elif isinstance(value, (list, tuple, set, frozenset)):
        for number, part in enumerate(value):
            found = found or _find_large_integer(part, f"{path}[{number}]")
    return found
