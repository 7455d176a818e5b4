"""The JSON Schema of parameters: what it accepts fits the parameter, and every model provider accepts it."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import sys
from typing import Annotated, Any, Dict, List, Literal, NamedTuple, Optional, Set, Tuple, TypedDict, Union

import pytest
from hypothesis import given
from hypothesis import strategies as st

from n8nrunner.functions.conversion import Conversion, Mismatch
from n8nrunner.functions.describe import describe_function
from n8nrunner.functions.function import make_function
from n8nrunner.functions.hints import read_hint
from n8nrunner.functions.parameters import Tuple as FixedTuple
from n8nrunner.functions.schema import MOST_KEYS, MOST_LEVELS, Nesting, fits, from_pydantic
from n8nrunner.protocol.json_faults import LARGEST_INTEGER

jsonschema = pytest.importorskip("jsonschema")

Schema = Dict[str, Any]

#: The keywords that OpenAI, Anthropic and Google all accept.
KEYWORDS = {
    "type", "description", "default", "enum", "format", "items", "minItems", "maxItems", "properties",
    "required", "additionalProperties", "minimum", "maximum", "minLength", "maxLength",
}  # fmt: skip


def check_portable(schema: Schema) -> None:
    """Fail if a model provider refuses the schema or a part of it."""
    assert set(schema) <= KEYWORDS
    assert schema["type"] in ("string", "integer", "number", "boolean", "array", "object")
    assert schema.get("format", "date-time") == "date-time"
    assert ("items" in schema) is (schema["type"] == "array")
    if "enum" in schema:
        assert schema["type"] == "string"
        assert all(isinstance(value, str) and value for value in schema["enum"])
    parts = [*schema.get("properties", {}).values()]
    parts += [schema[key] for key in ("items", "additionalProperties") if isinstance(schema.get(key), dict)]
    for part in parts:
        check_portable(part)
    jsonschema.Draft202012Validator.check_schema(schema)


class Bound:
    """Bounds as `annotated_types` has them."""

    def __init__(self, **bounds: Any) -> None:
        self.__dict__.update(bounds)


class Level(enum.Enum):
    LOW = 1
    VERY_HIGH = 2


class Color(enum.Enum):
    RED = "red"
    DARK_BLUE = "dark blue"


@dataclasses.dataclass
class Address:
    city: Annotated[str, "Where it is"]
    country: str = "DE"


class Owner(NamedTuple):
    name: str
    address: Address
    note: str = ""


class Style(TypedDict, total=False):
    color: Color
    width: Annotated[int, Bound(gt=0)]


@dataclasses.dataclass
class Tree:
    name: str
    children: List[Tree] = dataclasses.field(default_factory=list)


def schema_of(hint: Any) -> Schema:
    schema = read_hint(hint).type.schema(Nesting())
    check_portable(schema)
    return schema


ADDRESS = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "Where it is"}, "country": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("hint", "schema"),
    [
        (str, {"type": "string"}),
        (int, {"type": "integer"}),
        (float, {"type": "number"}),
        (bool, {"type": "boolean"}),
        (Any, {"type": "string"}),
        (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}),
        (Literal[1, 2], {"type": "string", "enum": ["1", "2"]}),
        (Literal["1", 1], {"type": "string", "enum": ["1"]}),
        (Literal["", "a"], {"type": "string", "description": 'One of "", "a"'}),
        (Level, {"type": "string", "enum": ["1", "2"], "description": "1: Low, 2: Very High"}),
        (Color, {"type": "string", "enum": ["red", "dark blue"]}),
        (datetime.datetime, {"type": "string", "format": "date-time"}),
        (datetime.date, {"type": "string", "description": "A date such as 2024-12-31"}),
        (list, {"type": "array", "items": {"type": "string"}}),
        (List[int], {"type": "array", "items": {"type": "integer"}}),
        (Set[str], {"type": "array", "items": {"type": "string"}}),
        (Tuple[int, ...], {"type": "array", "items": {"type": "integer"}}),
        (Tuple[int, int], {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}),
        (
            Tuple[int, str],
            {
                "type": "array",
                "items": {"type": "string"},
                "minItems": 2,
                "maxItems": 2,
                "description": "A list of 2 values: an integer; a string",
            },
        ),
        (dict, {"type": "object"}),
        (Dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (Address, ADDRESS),
        (Optional[int], {"type": "integer"}),
        (Union[int, float], {"type": "number", "description": "An integer or a number"}),
        (Union[int, str, None], {"type": "string", "description": "An integer or a string"}),
        (
            Union[Literal["a"], Literal["b"]],
            {"type": "string", "enum": ["a", "b"], "description": 'One of "a" or one of "b"'},
        ),
        (
            Union[List[int], List[float]],
            {"type": "array", "items": {"type": "number"}, "description": "A list or a list"},
        ),
        (Annotated[int, Bound(ge=1, le=9)], {"type": "integer", "minimum": 1, "maximum": 9}),
        (Annotated[int, Bound(gt=1, lt=9)], {"type": "integer", "minimum": 2, "maximum": 8}),
        (Annotated[int, Bound(gt=1.5, le=2.5)], {"type": "integer", "minimum": 2, "maximum": 2}),
        (Annotated[int, Bound(ge=1.5, lt=2.5)], {"type": "integer", "minimum": 2, "maximum": 2}),
        (Annotated[int, Bound(ge=2, gt=0)], {"type": "integer", "minimum": 2}),
        (Annotated[float, Bound(ge=0.5)], {"type": "number", "minimum": 0.5}),
        (Annotated[float, Bound(gt=0)], {"type": "number", "minimum": 0, "description": "More than 0"}),
        (Annotated[float, Bound(lt=float("inf"))], {"type": "number", "description": "Less than inf"}),
        (Annotated[str, Bound(min_length=1)], {"type": "string", "minLength": 1}),
        (Annotated[str, Bound(ge=1)], {"type": "string", "description": "At least 1"}),
        (
            Annotated[str, Bound(min_length=-1, max_length=2.5)],
            {"type": "string", "description": "Of length -1 or more, of length 2.5 or less"},
        ),
        (
            Annotated[List[int], Bound(min_length=1, max_length=3)],
            {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 3},
        ),
        (
            Annotated[dict, Bound(min_length=1)],
            {"type": "object", "description": "Of length 1 or more"},
        ),
        (
            Annotated[datetime.date, Bound(ge=datetime.date(2024, 1, 1))],
            {"type": "string", "description": "A date such as 2024-12-31. At least 2024-01-01"},
        ),
    ],
)
def test_each_hint_has_its_schema(hint: Any, schema: Schema) -> None:
    assert schema_of(hint) == schema


def test_the_schema_of_an_empty_tuple_has_items_as_well() -> None:
    schema = FixedTuple([]).schema(Nesting())
    assert schema == {"type": "array", "items": {"type": "string"}, "minItems": 0, "maxItems": 0}


def test_a_union_of_records_has_the_keys_of_all() -> None:
    schema = schema_of(Union[Address, Owner])
    assert schema["properties"] == {
        **ADDRESS["properties"],  # type: ignore[dict-item]
        "name": {"type": "string"},
        "address": ADDRESS,
        "note": {"type": "string"},
    }
    assert schema["required"] == []
    assert schema["additionalProperties"] is False
    assert schema_of(Union[Address, Dict[str, str]]) == {
        "type": "object",
        "description": "An object with city, country or an object",
    }


def test_a_record_that_contains_itself_is_any_object_there() -> None:
    tree = schema_of(Tree)
    assert tree["properties"]["children"] == {"type": "array", "items": {"type": "object"}}


def test_records_are_any_objects_below_the_deepest_level() -> None:
    inner: Any = Address
    for number in range(MOST_LEVELS + 2):
        inner = dataclasses.make_dataclass(f"Level{number}", [("inner", inner)])
    schema = schema_of(inner)
    for _ in range(MOST_LEVELS):
        schema = schema["properties"]["inner"]
    assert schema == {"type": "object"}


def count_keys(schema: Schema) -> int:
    properties = schema.get("properties", {})
    return len(properties) + sum(count_keys(part) for part in properties.values())


def test_the_schema_of_records_that_refer_to_each_other_is_limited() -> None:
    names = [f"Record{number}" for number in range(20)]
    records: Dict[str, Any] = {}
    for name in names:
        hints = {other.lower(): Optional[other] for other in names}
        records[name] = dataclasses.make_dataclass(name, [("key", str), *hints.items()])
    for record in records.values():
        record.__annotations__ = {
            name: Optional[records[f"R{name[1:]}"]] if name != "key" else str
            for name in record.__annotations__
        }
        for field in dataclasses.fields(record):
            field.type = record.__annotations__[field.name]
    schema = schema_of(records["Record0"])
    assert MOST_KEYS - 21 < count_keys(schema) <= MOST_KEYS


def test_the_schema_of_models_that_refer_to_each_other_is_limited() -> None:
    names = [f"Model{number}" for number in range(20)]
    definition = {
        "type": "object",
        "properties": {"key": {"type": "string"}, **{name: {"$ref": f"#/$defs/{name}"} for name in names}},
    }
    given = {"$ref": "#/$defs/Model0", "$defs": dict.fromkeys(names, definition)}
    schema = from_pydantic(given, Nesting())
    check_portable(schema)
    assert MOST_KEYS - 21 < count_keys(schema) <= MOST_KEYS


def test_a_long_choice_is_named_in_the_description_alone() -> None:
    schema = schema_of(Literal[tuple(f"v{number}" for number in range(1000))])  # type: ignore[misc]
    assert "enum" not in schema
    assert schema["description"].startswith('One of "v0", "v1", ')
    assert schema["description"].endswith(', "v19", and 980 more')


# --- schemas and conversions --------------------------------------------------------------------------

#: Hints whose schemas say everything that `convert` checks.
simple_hints = st.sampled_from(
    [
        str, int, float, bool, Any, Literal["a", "b c"], Literal[1, 2, 3], Literal[True, 0.5], Level, Color,
        Optional[int], Address, Owner, Style, Union[int, str], Union[float, int], Union[Literal["a"], str],
        Annotated[int, Bound(ge=-3, lt=7)], Annotated[float, Bound(ge=-1.5, le=2)],
        Annotated[str, Bound(min_length=1, max_length=4)], Annotated[Optional[int], Bound(gt=3)],
    ]
)  # fmt: skip
hints = st.recursive(
    simple_hints,
    lambda inner: st.one_of(
        inner.map(lambda hint: List[hint]),  # type: ignore[valid-type]
        inner.map(lambda hint: Tuple[hint, hint]),  # type: ignore[valid-type]
        inner.map(lambda hint: Tuple[hint, ...]),  # type: ignore[valid-type]
        inner.map(lambda hint: Dict[str, hint]),  # type: ignore[valid-type]
        inner.map(lambda hint: Optional[hint]),
        inner.map(lambda hint: Annotated[List[hint], Bound(min_length=1, max_length=2)]),  # type: ignore[valid-type]
    ),
    max_leaves=3,
)


def values_of(schema: Schema) -> st.SearchStrategy[Any]:
    """Return values that a schema accepts."""
    kind = schema["type"]
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if kind == "string":
        return st.text(min_size=schema.get("minLength", 0), max_size=schema.get("maxLength"))
    if kind == "integer":
        return st.integers(schema.get("minimum", -LARGEST_INTEGER), schema.get("maximum", LARGEST_INTEGER))
    if kind == "number":
        return st.floats(schema.get("minimum"), schema.get("maximum"), allow_nan=False, allow_infinity=False)
    if kind == "boolean":
        return st.booleans()
    if kind == "array":
        return st.lists(
            values_of(schema["items"]),
            min_size=schema.get("minItems", 0),
            max_size=schema.get("maxItems", 3),
        )
    if "properties" in schema:
        required = {name: values_of(schema["properties"][name]) for name in schema["required"]}
        optional = {
            name: values_of(part) for name, part in schema["properties"].items() if name not in required
        }
        return st.fixed_dictionaries(required, optional=optional)
    return st.dictionaries(
        st.text(), values_of(schema.get("additionalProperties", {"type": "string"})), max_size=3
    )


@pytest.mark.hypothesis
@given(hint=hints, data=st.data())
def test_a_value_that_the_schema_accepts_fits_the_parameter(hint: Any, data: st.DataObject) -> None:
    type = read_hint(hint).type
    schema = type.schema(Nesting())
    check_portable(schema)
    value = data.draw(values_of(schema))
    jsonschema.validate(value, schema)
    type.convert(value, Conversion())
    assert json.loads(json.dumps(schema)) == schema


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (int, "1"),
        (bool, 1),
        (Literal["a"], "c"),
        (Level, 3),
        (List[int], {}),
        (Tuple[int, int], [1]),
        (Dict[str, int], {"a": "x"}),
        (Address, {}),
        (Address, {"city": "Bonn", "street": "x"}),
        (Annotated[int, Bound(gt=1)], 1),
        (Annotated[str, Bound(max_length=1)], "ab"),
    ],
)
def test_a_schema_refuses_values_that_do_not_fit(hint: Any, value: Any) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(value, schema_of(hint))


@pytest.mark.parametrize(
    ("hint", "value", "does_fit"),
    [
        (list, ["a"], True),
        (list, ["a", 1], False),
        (List[int], [1, True], False),
        (Dict[str, int], {"a": 1}, True),
        (Dict[str, int], {"a": "b"}, False),
        (dict, {"a": [1]}, True),
        (Address, {"city": "Bonn"}, True),
        (Address, {"city": 1}, False),
        (Address, {"street": "a"}, False),
        (Literal["a"], "b", False),
        (float, 1, True),
        (int, 1.0, False),
    ],
)
def test_a_default_has_the_types_of_its_schema(hint: Any, value: Any, does_fit: bool) -> None:
    assert fits(value, schema_of(hint)) is does_fit


def test_the_one_value_that_an_open_bound_of_a_float_excludes_is_refused_by_the_runner() -> None:
    type = read_hint(Annotated[float, Bound(gt=0)]).type
    jsonschema.validate(0, type.schema(Nesting()))
    with pytest.raises(Mismatch):
        type.convert(0, Conversion())


# --- pydantic -----------------------------------------------------------------------------------------


def test_the_schema_of_a_model_has_no_references() -> None:
    pydantic = pytest.importorskip("pydantic")

    class Item(pydantic.BaseModel):  # type: ignore[name-defined, misc]
        sku: str = pydantic.Field(description="The article", pattern="^[A-Z]+$")
        pieces: int = pydantic.Field(gt=0, le=10)
        price: float = pydantic.Field(gt=0, multiple_of=0.5)

    class Order(pydantic.BaseModel):  # type: ignore[name-defined, misc]
        """An order."""

        items: List[Item] = pydantic.Field(min_length=1)
        first: Optional[Item] = None
        either: Union[Item, int, str] = "x"
        either_object: Union[int, Item] = 1
        level: Level = Level.LOW
        kind: Literal["new", "old"] = "new"
        only: Literal["this"] = "this"
        day: Optional[datetime.date] = None
        at: Optional[datetime.datetime] = None
        pair: Tuple[int, int] = (1, 2)
        extra: Dict[str, int] = {}
        anything: Any = None
        postal_code: str = pydantic.Field("", alias="postalCode")

    Item.model_rebuild(_types_namespace=locals())
    Order.model_rebuild(_types_namespace={**globals(), **locals()})
    schema = schema_of(Order)
    item = {
        "type": "object",
        "properties": {
            "sku": {"type": "string", "description": "The article. It matches ^[A-Z]+$"},
            "pieces": {"type": "integer", "minimum": 1, "maximum": 10},
            "price": {"type": "number", "minimum": 0, "description": "A multiple of 0.5. More than 0"},
        },
        "required": ["sku", "pieces", "price"],
    }
    assert schema == {
        "type": "object",
        "description": "An order.",
        "properties": {
            "items": {"type": "array", "items": item, "minItems": 1},
            "first": item,
            "either": {"type": "string", "default": "x"},
            "either_object": {"type": "integer", "default": 1},
            "level": {"type": "integer", "description": "One of 1, 2", "default": 1},
            "kind": {"type": "string", "enum": ["new", "old"], "default": "new"},
            "only": {"type": "string", "enum": ["this"], "default": "this"},
            "day": {"type": "string", "description": "In the format date"},
            "at": {"type": "string", "format": "date-time"},
            "pair": {
                "type": "array",
                "items": {"type": "integer"},
                "minItems": 2,
                "maxItems": 2,
                "default": [1, 2],
            },
            "extra": {"type": "object", "additionalProperties": {"type": "integer"}, "default": {}},
            "anything": {"type": "string"},
            "postalCode": {"type": "string", "default": ""},
        },
        "required": ["items"],
    }


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="pydantic 1 does not run on it")
def test_the_schema_of_a_model_of_pydantic_1() -> None:
    v1 = pytest.importorskip("pydantic.v1")
    item = v1.create_model("Item", pieces=(int, v1.Field(1, gt=0)))
    item.__doc__ = "An article."
    first = v1.Field(..., description="The first one.")
    order = v1.create_model("Order", first=(item, first), level=(Level, Level.LOW))
    assert schema_of(order)["properties"] == {
        "first": {
            "type": "object",
            "properties": {"pieces": {"type": "integer", "minimum": 1, "default": 1}},
            "required": [],
            "description": "The first one. An article.",
        },
        "level": {"type": "integer", "description": "An enumeration. One of 1, 2", "default": 1},
    }


def test_the_schema_of_a_model_that_contains_itself_ends() -> None:
    schema = from_pydantic(
        {
            "$ref": "#/$defs/Tree",
            "$defs": {
                "Tree": {
                    "type": "object",
                    "properties": {
                        "children": {"type": "array", "items": {"$ref": "#/$defs/Tree"}},
                        "rows": {"$ref": "#/$defs/Rows"},
                    },
                },
                "Rows": {"type": "array", "items": {"$ref": "#/$defs/Rows"}},
            },
        },
        Nesting(),
    )
    check_portable(schema)
    assert schema["properties"] == {
        "children": {"type": "array", "items": {"type": "object"}},
        "rows": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}},
    }


@pytest.mark.parametrize(
    ("given", "simple"),
    [
        (True, {"type": "string"}),
        ({}, {"type": "string"}),
        ({"type": ["null", "integer"]}, {"type": "integer"}),
        ({"type": "null"}, {"type": "string"}),
        ({"anyOf": [{"type": "null"}]}, {"type": "string"}),
        ({"enum": [True]}, {"type": "boolean", "description": "One of true"}),
        ({"const": 1}, {"type": "integer", "description": "One of 1"}),
        (
            {"allOf": [{"type": "integer"}], "description": "a\n  b"},
            {"type": "integer", "description": "a b"},
        ),
        (
            {"properties": {"a": True}},
            {"type": "object", "properties": {"a": {"type": "string"}}, "required": []},
        ),
        (
            {"type": "array", "items": [{"type": "integer"}, {"type": "number"}]},
            {"type": "array", "items": {"type": "number"}},
        ),
        (
            {"type": "integer", "enum": [1, 2], "description": "A level."},
            {"type": "integer", "description": "A level. One of 1, 2"},
        ),
        (
            {"type": "object", "minLength": 1, "maxLength": 2, "minItems": 3, "maxItems": 4},
            {
                "type": "object",
                "description": "Of length 1 or more. Of length 2 or less. Of length 3 or more. "
                "Of length 4 or less",
            },
        ),
        ({"type": "object", "additionalProperties": True}, {"type": "object"}),
        ({"type": "object", "additionalProperties": {}}, {"type": "object"}),
        ({"type": "integer", "default": "x"}, {"type": "integer"}),
        ({"type": "integer", "default": True}, {"type": "integer"}),
        ({"type": "boolean", "default": False}, {"type": "boolean", "default": False}),
        ({"type": "number", "default": 1}, {"type": "number", "default": 1}),
        ({"items": {"type": "integer"}}, {"type": "array", "items": {"type": "integer"}}),
        (
            {"type": "array", "prefixItems": [{"type": "integer"}], "uniqueItems": True},
            {"type": "array", "items": {"type": "integer"}},
        ),
        (
            {"type": "object", "additionalProperties": False},
            {"type": "object", "additionalProperties": False},
        ),
    ],
)
def test_other_forms_of_a_schema_become_simple(given: Any, simple: Schema) -> None:
    if isinstance(given, dict):
        assert from_pydantic(given, Nesting()) == simple
    assert from_pydantic({"properties": {"part": given}}, Nesting())["properties"]["part"] == simple
    check_portable(simple)


# --- whole functions ----------------------------------------------------------------------------------

defaults = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.datetimes(),
        st.just(object()), st.sampled_from([*Level, *Color, Address("Bonn"), Owner("a", Address("b"))]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@pytest.mark.hypothesis
@given(hint=hints, default=defaults, text=st.text(max_size=20))
def test_every_function_has_a_description_that_is_json(hint: Any, default: Any, text: str) -> None:
    def function(value: Any = default) -> None: ...

    function.__annotations__["value"] = Annotated[hint, text]
    function.__doc__ = text
    answer = json.loads(describe_function("sales", make_function(function, None, False, None)))
    check_portable(answer["schema"])
    (described,) = answer["parameters"]
    if "default" in described["form"]:
        kinds = {"number": (int, float), "boolean": bool, "options": object}
        assert isinstance(described["form"]["default"], kinds.get(described["form"]["type"], str))
