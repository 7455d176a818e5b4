"""The description of a function that a runner sends to nodes that ask (docs/protocol.md, "Descriptions")."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
import itertools
import json
import logging
import pickle
import sys
from typing import Annotated, Any, Dict, List, Literal, NamedTuple, Optional, TypedDict, Union

import pytest

from n8nrunner import File, Task
from n8nrunner.functions.describe import describe_function
from n8nrunner.functions.function import make_function


class Level(enum.Enum):
    LOW = 1
    VERY_HIGH = 2


@dataclasses.dataclass
class Address:
    city: str
    country: str = "DE"


class Owner(NamedTuple):
    name: str


class Style(TypedDict, total=False):
    color: str


def described(
    function: Any, name: Optional[str] = None, batch: bool = False, limit: Optional[int] = None
) -> Any:
    return json.loads(describe_function("sales", make_function(function, name, batch, limit)))


def parameter(function: Any, name: str) -> Any:
    """Return the description of one parameter."""
    return next(each for each in described(function)["parameters"] if each["name"] == name)


def property_of(function: Any, name: str) -> Any:
    """Return a parameter's part of the JSON Schema."""
    return described(function)["schema"]["properties"][name]


def test_the_description_of_a_function() -> None:
    pytest.importorskip("docstring_parser")

    def quote(pieces: Annotated[int, "How many pieces."], express: bool = False) -> float:
        """Return the price of an order.

        Not the discount.

        Args:
            pieces: another text.
            express: If true, send it today
        """
        return 0.0

    function = make_function(quote, None, False, None)
    assert json.loads(describe_function("sales", function)) == {
        "name": "quote",
        "title": "Quote",
        "description": "Return the price of an order",
        "taskType": "n8nrunner.sales",
        "signature": function.signature.hash,
        "batch": False,
        "batchSize": 50,
        "parallelTasks": 5,
        "parameters": [
            {
                "name": "pieces",
                "title": "Pieces",
                "kind": "integer",
                "type": "integer",
                "required": True,
                "description": "How many pieces",
                "field": "pieces",
                "form": {"type": "number"},
            },
            {
                "name": "express",
                "title": "Express",
                "kind": "boolean",
                "type": "boolean",
                "required": False,
                "description": "If true, send it today",
                "field": "express",
                "form": {"type": "boolean", "default": False},
            },
        ],
        "schema": {
            "type": "object",
            "properties": {
                "pieces": {"type": "integer", "description": "How many pieces"},
                "express": {"type": "boolean", "description": "If true, send it today", "default": False},
            },
            "required": ["pieces"],
            "additionalProperties": False,
        },
    }


def test_a_function_with_a_limit_and_one_for_all_items() -> None:
    def rank(score: List[float], label: str) -> None: ...

    one = described(rank, name="one", limit=2)
    assert (one["taskType"], one["parallelTasks"]) == ("n8nrunner.sales.one", 2)
    batch = described(rank, batch=True)
    assert (batch["batch"], batch["batchSize"]) == (True, 0)
    # An agent gives the values of one item.
    assert batch["schema"]["properties"]["score"] == {"type": "number"}


def test_a_function_without_parameters_and_docstring() -> None:
    answer = described(lambda: None, name="nothing")
    assert (answer["description"], answer["parameters"]) == ("", [])
    assert answer["schema"] == {
        "type": "object",
        "properties": {},
        "required": [],
        "additionalProperties": False,
    }


JSON_DEFAULT = '{\n  "city": null\n}'


@pytest.mark.parametrize(
    ("hint", "form"),
    [
        (str, {"type": "string"}),
        (int, {"type": "number"}),
        (float, {"type": "number"}),
        (bool, {"type": "boolean"}),
        (Any, {"type": "string"}),
        (datetime.datetime, {"type": "dateTime"}),
        (datetime.date, {"type": "dateTime"}),
        (list, {"type": "array"}),
        (List[int], {"type": "array"}),
        (tuple, {"type": "array"}),
        (set, {"type": "array"}),
        (dict, {"type": "object"}),
        (Dict[str, int], {"type": "object"}),
        (Address, {"type": "object", "default": JSON_DEFAULT}),
        (Optional[Address], {"type": "object", "default": JSON_DEFAULT}),
        (Owner, {"type": "object", "default": '{\n  "name": null\n}'}),
        (Style, {"type": "object"}),
        (File, {"type": "string", "default": "data"}),
        (Optional[int], {"type": "number"}),
        (Union[int, str], {"type": "string"}),
        (Annotated[int, "described"], {"type": "number"}),
        (
            Level,
            {"type": "options", "options": [{"name": "Low", "value": 1}, {"name": "Very High", "value": 2}]},
        ),
        (
            Literal["b", "=a"],
            {"type": "options", "options": [{"name": "B", "value": "b"}, {"name": "=a", "value": "==a"}]},
        ),
    ],
)
def test_each_parameter_has_its_field_in_a_form(hint: Any, form: Any) -> None:
    def function(value: Any) -> None: ...

    function.__annotations__["value"] = hint
    assert parameter(function, "value")["form"] == form


MOMENT = datetime.datetime(2024, 1, 2, 3, 4)


@pytest.mark.parametrize(
    ("hint", "default", "shown", "in_schema"),
    [
        (str, "", "", ""),
        (str, "=1", "==1", "=1"),
        (int, 5, 5, 5),
        (float, 0.5, 0.5, 0.5),
        (bool, False, False, False),
        (Level, Level.VERY_HIGH, 2, "2"),
        (Literal["a", "b"], "b", "b", "b"),
        (List[float], [0.5], "[0.5]", [0.5]),
        (dict, {"a": 1}, '{"a": 1}', {"a": 1}),
        (Address, Address("Bonn"), '{"city": "Bonn", "country": "DE"}', {"city": "Bonn", "country": "DE"}),
        (datetime.datetime, MOMENT, "2024-01-02T03:04:00", "2024-01-02T03:04:00"),
        (Optional[int], 3, 3, 3),
        (Union[int, str], "a", "a", "a"),
    ],
)
def test_defaults_are_in_the_form_and_in_the_schema(
    hint: Any, default: Any, shown: Any, in_schema: Any
) -> None:
    def function(value: Any = default) -> None: ...

    function.__annotations__["value"] = hint
    assert parameter(function, "value")["form"]["default"] == shown
    assert property_of(function, "value")["default"] == in_schema


class Weird:
    """An object whose methods raise."""

    def __len__(self) -> int:
        raise RuntimeError

    def __iter__(self) -> Any:
        raise RuntimeError

    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("hint", "default"),
    [
        (Optional[int], None),
        (Optional[Address], None),
        (float, float("nan")),
        (float, float("inf")),
        (int, 2**60),
        (int, 10**5000),
        (List[float], [float("nan")]),
        (str, "x" * 10_000_000),
        (List[int], [1] * 100_000),
        (List[str], ["x" * 10_000]),
        (dict, {"a": object()}),
        (Any, object()),
        (Any, Weird()),
        (str, Weird()),
        (Literal["a", "b"], Weird()),
        (list, Weird()),
        (list, itertools.count()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_default_that_cannot_be_shown_is_left_out(hint: Any, default: Any) -> None:
    def function(value: Any = default) -> None: ...

    function.__annotations__["value"] = hint
    assert "default" not in parameter(function, "value")["form"]
    assert "default" not in property_of(function, "value")
    assert described(function)["schema"]["required"] == []
    assert len(describe_function("sales", make_function(function, None, False, None))) < 2000


def test_the_schema_leaves_out_files_and_a_function_that_needs_one_has_none() -> None:
    def optional(text: str, file: Optional[File] = None) -> None: ...
    def required(text: str, file: File) -> None: ...

    assert list(described(optional)["schema"]["properties"]) == ["text"]
    assert described(required)["schema"] is None


def test_javascript_s_own_names_have_another_field_and_no_place_in_a_schema() -> None:
    def optional(__proto__: int = 1, constructor: int = 2, options: int = 3) -> None: ...
    def required(__proto__: int) -> None: ...

    fields = {each["name"]: each["field"] for each in described(optional)["parameters"]}
    assert fields == {"__proto__": "__proto___", "constructor": "constructor_", "options": "options_"}
    assert list(described(optional)["schema"]["properties"]) == ["options"]
    assert described(required)["schema"] is None


def test_a_parameter_for_the_task_is_not_described() -> None:
    def function(task: Task, value: int) -> None: ...

    assert [each["name"] for each in described(function)["parameters"]] == ["value"]
    assert list(described(function)["schema"]["properties"]) == ["value"]


def test_a_choice_with_values_that_json_lacks_is_described() -> None:
    class Odd(enum.Enum):
        LARGE = 2**60
        NAN = float("nan")

    def function(value: Any) -> None: ...

    function.__annotations__["value"] = Odd
    assert parameter(function, "value")["choices"] == [str(2**60), None]
    assert property_of(function, "value")["enum"] == [str(2**60), "nan"]


def test_long_texts_are_cut() -> None:
    def function(value: Annotated[int, "y" * 100_000]) -> None: ...

    function.__annotations__["value"] = Annotated[int, "y" * 100_000]
    function.__doc__ = "x" * 100_000
    answer = described(function)
    assert answer["description"] == "X" + "x" * 996 + "..."
    assert len(answer["parameters"][0]["description"]) == 1000
    assert len(answer["schema"]["properties"]["value"]["description"]) == 1000


def test_the_description_in_a_schema_ends_with_what_the_schema_cannot_say() -> None:
    def function(day: Any) -> None: ...

    function.__annotations__["day"] = Annotated[datetime.date, "When it is sent."]
    assert property_of(function, "day")["description"] == "When it is sent. A date such as 2024-12-31"
    assert parameter(function, "day")["description"] == "When it is sent"


def test_a_huge_schema_is_reduced_to_its_type() -> None:
    described = Annotated[int, "x" * 500]
    record = dataclasses.make_dataclass("Wide", [(f"field_{number}", described) for number in range(50)])

    def function(one: Any, many: Any) -> None: ...

    function.__annotations__.update(one=record, many=List[record])  # type: ignore[valid-type]
    assert property_of(function, "one") == {"type": "object"}
    assert property_of(function, "many") == {"type": "array", "items": {"type": "string"}}


def test_a_model_whose_schema_fails_is_any_object(caplog: pytest.LogCaptureFixture) -> None:
    pydantic = pytest.importorskip("pydantic")

    class Custom:
        pass

    class Lead(pydantic.BaseModel):  # type: ignore[name-defined, misc]
        model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
        custom: Custom

    def function(lead: Any) -> None: ...

    function.__annotations__["lead"] = Annotated[Lead, "The lead"]
    with caplog.at_level(logging.DEBUG, "n8nrunner"):
        assert property_of(function, "lead") == {"type": "object", "description": "The lead"}
    (record,) = caplog.records
    assert record.levelno == logging.DEBUG
    assert "parameter lead: agents get no schema of it (pydantic" in record.getMessage()


def test_without_the_parser_the_description_is_the_first_paragraph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "docstring_parser", None)

    def function(value: int, other: Annotated[int, "Another."]) -> None:
        """Return the
        price.

        Args:
            value: the value.
        """

    answer = described(function)
    assert answer["description"] == "Return the price"
    assert [each["description"] for each in answer["parameters"]] == ["", "Another"]


def test_a_docstring_that_cannot_be_read_describes_nothing() -> None:
    class Odd:
        __name__ = "odd"

        @property
        def __doc__(self) -> str:  # type: ignore[override]
            raise RuntimeError

        def __call__(self, value: int) -> None: ...

    assert described(Odd())["description"] == ""


def test_a_partial_function_has_the_docstring_of_its_function() -> None:
    def function(value: int, other: int) -> None:
        """Add both."""

    assert described(functools.partial(function, other=1), name="add")["description"] == "Add both"


def absolute(value: int) -> int:
    return abs(value)


def test_a_description_does_not_travel_to_the_processes_of_an_executor() -> None:
    function = make_function(absolute, None, False, None)
    function.described = "{}"
    assert pickle.loads(pickle.dumps(function)).described is None
