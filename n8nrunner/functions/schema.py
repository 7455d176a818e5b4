"""JSON Schema of parameters, for AI agents and MCP clients.

Each model provider accepts a part of JSON Schema. Most of them refuse a request with all its tools if the
schema of one tool has something else. So these schemas use only what OpenAI, Anthropic and Google all accept:

- Every schema has one `type`. Gemini refuses a schema without it, a list of types, and "null". n8n's node for
  Vertex AI refuses `anyOf` and `oneOf`.
- There is no `$ref`, which Gemini and some interfaces of Anthropic refuse. Where a type contains itself, the
  inner one is any object.
- `enum` has strings only, none of them empty, because Gemini knows no others. The runner accepts a number
  as a string.
- An array has `items`, and the only `format` is "date-time": Gemini refuses everything else.
- `const`, `exclusiveMinimum`, `exclusiveMaximum`, `multipleOf`, `prefixItems` and `uniqueItems` are missing,
  because Gemini does not know them, and `pattern`, because Python's differ from JavaScript's.

The description has in words what a schema cannot say. The runner checks the values anyway.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from n8nrunner.protocol.json_faults import LARGEST_INTEGER

Schema = dict[str, Any]

#: Levels of objects within each other. OpenAI's strict mode had this limit, and a model fills in no more.
MOST_LEVELS = 5
#: Keys of all objects of a parameter. Types that refer to each other would have a multiple at each level.
MOST_KEYS = 300
#: Values of an `enum`. OpenAI's strict mode accepts 500 in all.
_MOST_VALUES = 250
#: Values of a longer list that the description names.
_NAMED_VALUES = 20


class Nesting:
    """The objects that a part of one parameter's schema is in, and how many keys the schema has so far."""

    def __init__(self) -> None:
        self._around: list[object] = []
        self._keys = 0

    def enter(self, type: object, keys: int) -> bool:
        """Enter an object's type, which has so many keys. Return False if it has to be any object instead."""
        if type in self._around or len(self._around) == MOST_LEVELS or self._keys + keys > MOST_KEYS:
            return False
        self._around.append(type)
        self._keys += keys
        return True

    def leave(self) -> None:
        """Leave the type that was entered last."""
        self._around.pop()


def any_value() -> Schema:
    """Return the schema of a value of any type: a string, because there has to be one type."""
    return {"type": "string"}


def add_hint(schema: Schema, hint: str) -> None:
    """Add a sentence to the description of a schema."""
    before = str(schema.get("description", "")).rstrip(". ")
    hint = hint[:1].upper() + hint[1:]
    schema["description"] = f"{before}. {hint}" if before else hint


def choice(values: Iterable[Any]) -> Schema:
    """Return the schema of one of several values. The runner accepts them as strings."""
    texts = list(dict.fromkeys(str(value) for value in values))
    schema: Schema = {"type": "string"}
    if "" in texts or len(texts) > _MOST_VALUES:
        named = ", ".join(json.dumps(text, ensure_ascii=False) for text in texts[:_NAMED_VALUES])
        more = len(texts) - _NAMED_VALUES
        add_hint(schema, f"one of {named}{f', and {more} more' if more > 0 else ''}")
    else:
        schema["enum"] = texts
    return schema


def merge(schemas: Sequence[Schema], mixed: Schema) -> Schema:
    """Return one schema for the values of several. It may accept more than they do.

    Args:
        schemas: at least one.
        mixed: the schema for values of different types.
    """
    first = schemas[0]
    if all(schema == first for schema in schemas):
        return dict(first)
    types = {schema["type"] for schema in schemas}
    if types == {"integer", "number"}:
        return {"type": "number"}
    if len(types) > 1:
        return dict(mixed)
    if first["type"] == "object":
        return _merge_objects(schemas)
    if first["type"] == "array":
        return {"type": "array", "items": merge([schema["items"] for schema in schemas], any_value())}
    if all("enum" in schema for schema in schemas):
        return choice(value for schema in schemas for value in schema["enum"])
    return {"type": first["type"]}


def _merge_objects(schemas: Sequence[Schema]) -> Schema:
    if not all("properties" in schema for schema in schemas):
        return {"type": "object"}
    properties: dict[str, Schema] = {}
    for schema in schemas:
        for name, part in schema["properties"].items():
            properties[name] = merge([properties[name], part], any_value()) if name in properties else part
    required = [name for name in properties if all(name in schema.get("required", ()) for schema in schemas)]
    merged: Schema = {"type": "object", "properties": properties, "required": required}
    if all(schema.get("additionalProperties") is False for schema in schemas):
        merged["additionalProperties"] = False
    return merged


def add_bound(schema: Schema, name: str, bound: int | float | datetime.date) -> bool:
    """Add a bound to a schema. Return whether the schema says all of it.

    Args:
        name: the bound's name in `annotated_types`, such as "ge".
    """
    if isinstance(bound, datetime.date) or not math.isfinite(bound) or abs(bound) > LARGEST_INTEGER:
        return False
    kind = schema["type"]
    is_lower = name in ("ge", "gt", "min_length")
    if name in ("min_length", "max_length"):
        prefix, noun = "min" if is_lower else "max", {"string": "Length", "array": "Items"}.get(kind)
        if noun is None or "enum" in schema or not isinstance(bound, int) or bound < 0:
            return False
        schema[f"{prefix}{noun}"] = bound
        return True
    if kind not in ("integer", "number"):
        return False
    key = "minimum" if is_lower else "maximum"
    is_exact = True
    if kind == "integer":
        limits = {
            "ge": math.ceil(bound),
            "gt": math.floor(bound) + 1,
            "le": math.floor(bound),
            "lt": math.ceil(bound) - 1,
        }
        bound = limits[name]
    else:
        is_exact = name in ("ge", "le")
    before = schema.get(key, bound)
    schema[key] = max(before, bound) if is_lower else min(before, bound)
    return is_exact


#: The Python types of the values of each type.
_PYTHON_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
}


def fits(value: Any, schema: Schema) -> bool:
    """Return whether a default has the types that its schema has."""
    kind = schema["type"]
    if not _has_type(value, kind):
        return False
    if kind == "array":
        return all(fits(each, schema["items"]) for each in value)
    if kind != "object":
        return value in schema.get("enum", (value,))
    properties, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    parts = ((part, properties.get(name, others)) for name, part in value.items())
    return all(fits(part, of) if isinstance(of, dict) else bool(of) for part, of in parts)


def _has_type(value: Any, kind: str) -> bool:
    return isinstance(value, _PYTHON_TYPES[kind]) and isinstance(value, bool) is (kind == "boolean")


# --- pydantic ---------------------------------------------------------------------------------------

#: pydantic's names of bounds, and their names in `annotated_types` with the words for them.
_BOUNDS = {
    "minimum": ("ge", "at least {}"),
    "maximum": ("le", "at most {}"),
    "exclusiveMinimum": ("gt", "more than {}"),
    "exclusiveMaximum": ("lt", "less than {}"),
    "minLength": ("min_length", "of length {} or more"),
    "maxLength": ("max_length", "of length {} or less"),
    "minItems": ("min_length", "of length {} or more"),
    "maxItems": ("max_length", "of length {} or less"),
}
#: The words for keywords that these schemas do without.
_IN_WORDS = {
    "format": "in the format {}",
    "pattern": "it matches {}",
    "multipleOf": "a multiple of {}",
}


def from_pydantic(schema: Mapping[str, Any], nesting: Nesting) -> Schema:
    """Return pydantic's schema of a model in the form that this module describes."""
    definitions = schema.get("$defs") or schema.get("definitions") or {}
    return _simplify(schema, definitions, nesting)


def _simplify(schema: Any, definitions: Mapping[str, Any], nesting: Nesting) -> Schema:
    """Return a schema without references to the definitions."""
    if not isinstance(schema, Mapping):  # `true`
        return any_value()
    simple = _simplify_type(schema, definitions, nesting)
    description = " ".join(str(schema.get("description", "")).split())
    hint = simple.pop("description", "")  # of the type that this one refers to
    if description:
        simple["description"] = description
    if hint and hint != description:
        add_hint(simple, hint)
    for keyword, words in _IN_WORDS.items():
        if keyword in schema and (keyword, schema[keyword]) != ("format", "date-time"):
            add_hint(simple, words.format(schema[keyword]))
    for keyword, (name, words) in _BOUNDS.items():
        if keyword in schema and not add_bound(simple, name, schema[keyword]):
            add_hint(simple, words.format(schema[keyword]))
    if fits(schema.get("default"), simple):
        simple["default"] = schema["default"]
    return simple


def _simplify_type(schema: Mapping[str, Any], definitions: Mapping[str, Any], nesting: Nesting) -> Schema:
    reference = schema.get("$ref")
    if reference is not None:
        name = str(reference).rpartition("/")[2]
        definition = definitions.get(name) or {}
        if not nesting.enter(name, len(definition.get("properties", ()))):
            kind = _type_of(definition, None)
            return {"type": kind, "items": any_value()} if kind == "array" else {"type": kind}
        simple_type = _simplify(definition, definitions, nesting)
        nesting.leave()
        return simple_type
    for keyword in ("anyOf", "oneOf", "allOf"):
        if keyword in schema:
            parts = [part for part in schema[keyword] if part.get("type") != "null"]
            simple = [_simplify(part, definitions, nesting) for part in parts] or [any_value()]
            # pydantic accepts a string only where one of the types is a string.
            return merge(simple, next((part for part in simple if part["type"] == "string"), simple[0]))
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if values and all(isinstance(value, str) for value in values):
        return choice(values)
    kind = _type_of(schema, values)
    simple_type = {"type": kind}
    if values:
        add_hint(simple_type, f"one of {', '.join(json.dumps(value) for value in values[:_NAMED_VALUES])}")
    if schema.get("format") == "date-time":
        simple_type["format"] = "date-time"
    if kind == "array":
        items = schema.get("items") or []
        # pydantic 1 has a list of the items of a tuple.
        parts = [*schema.get("prefixItems", ()), *(items if isinstance(items, list) else [items])]
        elements = [_simplify(part, definitions, nesting) for part in parts] or [any_value()]
        simple_type["items"] = merge(elements, elements[0])
    if kind == "object" and schema.get("properties"):
        simple_type["properties"] = {
            name: _simplify(part, definitions, nesting) for name, part in schema["properties"].items()
        }
        simple_type["required"] = list(schema.get("required", ()))
    if kind == "object":
        more = schema.get("additionalProperties")
        if more is False:
            simple_type["additionalProperties"] = False
        elif isinstance(more, Mapping) and more:
            simple_type["additionalProperties"] = _simplify(more, definitions, nesting)
    return simple_type


def _type_of(schema: Mapping[str, Any], values: Sequence[Any] | None) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((each for each in kind if each != "null"), None)
    if isinstance(kind, str) and kind in _PYTHON_TYPES:
        return kind
    if values:
        known = {bool: "boolean", int: "integer", float: "number"}
        return known.get(type(values[0]), "string")
    return "object" if "properties" in schema else "array" if "items" in schema else "string"
