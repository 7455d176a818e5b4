"""What type hints become, and which JSON values fit them."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
from typing import (
    Annotated,
    Any,
    Dict,
    FrozenSet,
    Iterable,
    List,
    Literal,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
    TypedDict,
    TypeVar,
    Union,
)

import pytest

from n8nrunner import ConfigurationError, File, Task
from n8nrunner.functions.hints import UnknownHint, kind_of, read_hint
from n8nrunner.functions.kinds import Mismatch
from n8nrunner.functions.signature import Signature

UTC = datetime.timezone.utc


class Color(enum.Enum):
    RED = "red"
    DARK_BLUE = "blue"


class Shape(enum.Enum):
    """Members whose values are no JSON of their own."""

    ROUND = object()


@dataclasses.dataclass
class Address:
    city: str
    zip_code: int = 0


@dataclasses.dataclass
class Person:
    name: str
    address: Optional[Address] = None
    friends: List[Person] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Positive:
    value: int

    def __post_init__(self) -> None:
        if self.value < 0:
            raise ValueError("it is negative")


class Depth(TypedDict):
    depth: int


class Options(Depth, total=False):
    label: str


class Point(NamedTuple):
    x: float
    y: float = 0.0


class Between:
    """Bounds as `annotated_types` spells them."""

    def __init__(self, **bounds: Any) -> None:
        self.__dict__.update(bounds)


T = TypeVar("T")
NUMBER = TypeVar("NUMBER", bound=int)

FITTING: List[Tuple[Any, Any, Any]] = [
    (str, "text", "text"),
    (str, 42, "42"),
    (str, 3.0, "3"),
    (str, 1.5, "1.5"),
    (int, 3, 3),
    (int, 3.0, 3),
    (int, "3", 3),
    (int, "3.0", 3),
    (int, 2**60, 2**60),
    (float, 3, 3.0),
    (float, "2.5", 2.5),
    (bool, True, True),
    (bool, "False", False),
    (datetime.datetime, "2024-05-06T07:08:09Z", datetime.datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)),
    (datetime.datetime, "2024-05-06T07:08:09.123", datetime.datetime(2024, 5, 6, 7, 8, 9, 123000)),
    (datetime.datetime, "2024-05-06", datetime.datetime(2024, 5, 6)),
    (datetime.date, "2024-05-06", datetime.date(2024, 5, 6)),
    (datetime.date, "2024-05-06T23:00:00.000Z", datetime.date(2024, 5, 6)),
    (Literal["a", 1, True], "a", "a"),
    (Literal["a", 1, True], 1, 1),
    (Literal["a", 1, True], True, True),
    (Literal[1, 2], "2", 2),
    (Literal["a", None], None, None),
    (Color, "blue", Color.DARK_BLUE),
    (Color, "Dark Blue", Color.DARK_BLUE),
    (Shape, "ROUND", Shape.ROUND),
    (list, "[1]", [1]),
    (list, [1, "a"], [1, "a"]),
    (List[int], ["1", 2], [1, 2]),
    (Sequence[int], [1], [1]),
    (Iterable[str], ["a"], ["a"]),
    (Set[str], ["a", "a"], {"a"}),
    (FrozenSet[int], [1], frozenset([1])),
    (Tuple[int, ...], [1, 2], (1, 2)),
    (Tuple[int, str], "[1, 2]", (1, "2")),
    (tuple, [1], (1,)),
    (dict, '{"a": 1}', {"a": 1}),
    (Dict[str, int], {"a": "1"}, {"a": 1}),
    (Mapping[str, Any], {"a": [1]}, {"a": [1]}),
    (Address, {"city": "Bonn"}, Address("Bonn")),
    (Person, {"name": "Ada", "address": {"city": "Bonn"}}, Person("Ada", Address("Bonn"))),
    (Person, {"name": "Ada", "friends": [{"name": "Bob"}]}, Person("Ada", None, [Person("Bob")])),
    (Options, {"depth": 1}, {"depth": 1}),
    (Options, '{"depth": 1, "label": "x"}', {"depth": 1, "label": "x"}),
    (Point, [1], Point(1.0)),
    (Point, {"x": 1, "y": 2}, Point(1.0, 2.0)),
    (datetime.datetime, "2024-05-06T07:08:09.12Z", datetime.datetime(2024, 5, 6, 7, 8, 9, 120000, UTC)),
    (
        datetime.datetime,
        "2024-05-06T07:08:09.123456789+0000",
        datetime.datetime(2024, 5, 6, 7, 8, 9, 123456, UTC),
    ),
    (datetime.datetime, "2024-05-06 07:08", datetime.datetime(2024, 5, 6, 7, 8)),
    (Union[datetime.date, datetime.datetime], "2024-05-06", datetime.date(2024, 5, 6)),
    (
        Union[datetime.date, datetime.datetime],
        "2024-05-06T07:08:09Z",
        datetime.datetime(2024, 5, 6, 7, 8, 9, 0, UTC),
    ),
    (Color, "DARK_BLUE", Color.DARK_BLUE),
    (Optional[int], None, None),
    (Optional[int], "", None),
    (Optional[int], 5, 5),
    (Optional[str], "", ""),
    (Union[int, str], 5, 5),
    (Union[int, str], "5", "5"),
    (Union[str, int], 5, 5),
    (Union[int, List[int]], "[1]", [1]),
    (Union[float, None, str], None, None),
    (Annotated[int, Between(ge=1, le=3)], 3, 3),
    (Annotated[str, Between(min_length=2)], "ab", "ab"),
    (Annotated[Optional[int], Between(gt=1)], None, None),
    (List[Annotated[int, Between(lt=5)]], [4], [4]),
    (Any, {"a": 1}, {"a": 1}),
    (T, "x", "x"),
    (NUMBER, "4", 4),
]


@pytest.mark.parametrize(("hint", "value", "expected"), FITTING)
def test_what_fits(hint: Any, value: Any, expected: Any) -> None:
    converted = kind_of(hint).convert(value, "value")
    assert converted == expected
    assert type(converted) is type(expected)


@pytest.mark.parametrize(
    ("hint", "value", "said"),
    [
        (str, None, "value: expected a text, got null"),
        (str, True, "value: expected a text, got true"),
        (str, ["x"], 'value: expected a text, got ["x"]'),
        (int, 1.5, "value: expected a whole number, got 1.5"),
        (int, "x", 'value: expected a whole number, got "x"'),
        (int, "1e999", "value: expected a whole number"),
        (int, True, "value: expected a whole number, got true"),
        (float, "nan", 'value: expected a number, got "nan"'),
        (float, False, "value: expected a number, got false"),
        (bool, 1, "value: expected true or false, got 1"),
        (datetime.datetime, "tomorrow", "value: expected a date and time"),
        (datetime.date, 5, "value: expected a date as 2024-12-31, got 5"),
        (datetime.date, "2024-13-01", "value: expected a date"),
        (Literal["a", "b"], "c", 'value: expected one of "a", "b", got "c"'),
        (Literal[1], True, "value: expected one of 1, got true"),
        (Color, "RED!", 'value: expected one of "red", "blue"'),
        (list, "[1", "value: expected a list, written as JSON"),
        (list, {"a": 1}, 'value: expected a list, got {"a": 1}'),
        (List[int], [1, "x"], 'value[1]: expected a whole number, got "x"'),
        (List[List[int]], [[1], [2, None]], "value[1][1]: expected a whole number, got null"),
        (Set[Any], [[1]], "value: expected a list of plain values"),
        (Tuple[int, str], [1], "value: expected a list of 2"),
        (Dict[str, int], {"a": []}, "value.a: expected a whole number, got []"),
        (Address, {}, "value.city: expected a text, got null"),
        (Address, {"city": "x", "town": "y"}, "value: expected an object with city, zip_code, and no 'town'"),
        (Person, {"name": "a", "friends": [{}]}, "value.friends[0].name: expected a text"),
        (Positive, {"value": -1}, "value: expected a Positive (ValueError: it is negative)"),
        (Options, {"label": "x"}, "value.depth: expected a whole number"),
        (Point, [1, 2, 3], "value: expected an object with x, y"),
        (Optional[int], "x", "value: expected a whole number"),
        (Union[int, List[int]], "x", "value: expected a whole number or a list"),
        (Annotated[int, Between(ge=1, lt=3)], 3, "value: expected a whole number, at least 1, less than 3"),
        (Annotated[str, Between(max_length=2)], "abc", "of length 2 or less"),
        (str, {"x": "y" * 500}, "..."),
    ],
)
def test_what_does_not_fit_says_where_and_why(hint: Any, value: Any, said: str) -> None:
    with pytest.raises(Mismatch) as caught:
        kind_of(hint).convert(value, "value")
    assert said in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("hint", "said"),
    [
        (bytes, "it is n8nrunner.File"),
        (object.__class__, "cannot become a field"),
        (complex, "complex cannot become a field"),
        (Union[File, str], "File, or Optional[File]"),
        (Dict[int, str], "keys of int"),
        (Literal[b"x"], "a Literal of bytes"),
        (List[bytes], "n8nrunner.File"),
    ],
)
def test_what_cannot_become_a_field(hint: Any, said: str) -> None:
    with pytest.raises(UnknownHint) as caught:
        kind_of(hint)
    assert said in str(caught.value)


def test_annotated_tells_a_description() -> None:
    assert read_hint(Annotated[int, Between(ge=1), "How many"]).text == "How many"
    assert read_hint(Annotated[int, Between(description="As pydantic has it")]).text == "As pydantic has it"
    assert read_hint(int).text == ""


def test_pydantic() -> None:
    pydantic = pytest.importorskip("pydantic")
    model = pydantic.create_model("Model", number=(int, ...), names=(List[str], []))
    kind = kind_of(model)
    assert kind.convert('{"number": "7"}', "value").number == 7
    with pytest.raises(Mismatch, match=r"^value\.number: "):
        kind.convert({"number": "x"}, "value")
    bounded = read_hint(Annotated[int, pydantic.Field(ge=2, description="At least two")])
    assert bounded.text == "At least two"
    with pytest.raises(Mismatch, match="at least 2"):
        bounded.kind.convert(1, "value")


# --- whole functions ----------------------------------------------------------------------------------


def test_everything_that_is_wrong_is_said_at_once() -> None:
    def function(a: bytes, b: complex, *rest: int, **more: int) -> None: ...

    with pytest.raises(ConfigurationError) as caught:
        Signature(function, "function", False)
    assert len(caught.value.problems) == 4
    for name in ("'a'", "'b'", "'rest'", "'more'"):
        assert name in str(caught.value)


def test_hints_that_cannot_be_read() -> None:
    def function(a: NoSuchName) -> None: ...  # type: ignore[name-defined] # noqa: F821

    with pytest.raises(ConfigurationError, match="NoSuchName"):
        Signature(function, "function", False)


def test_parameters_without_hints_are_what_their_defaults_are() -> None:
    def function(a, b=1, c="x", d=True, e=1.5, f=None, g=Color.RED, h=()):  # type: ignore[no-untyped-def]
        pass

    found = {each.name: each.kind.name for each in Signature(function, "f", False).parameters.values()}
    assert found == {
        "a": "any",
        "b": "integer",
        "c": "string",
        "d": "boolean",
        "e": "number",
        "f": "any",
        "g": "options",
        "h": "list",
    }


def test_a_task_is_given_and_no_field() -> None:
    def one(task: Task, a: int) -> None: ...

    def two(a: int, when: Optional[Task] = None) -> None: ...

    assert Signature(one, "one", False).task_parameter == "task"
    assert list(Signature(one, "one", False).parameters) == ["a"]
    assert Signature(two, "two", False).task_parameter == "when"


def test_partials_and_objects() -> None:
    def function(a: int, b: str) -> None: ...

    class Callable:
        def __call__(self, c: float) -> None: ...

    assert list(Signature(functools.partial(function, b="x"), "f", False).parameters) == ["a", "b"]
    assert Signature(Callable(), "f", False).parameters["c"].kind.name == "number"


def test_the_hash_is_of_what_callers_rely_on() -> None:
    def first(a: int, b: str = "x") -> None:
        """A text."""

    def reworded(a: Annotated[int, "Which"], b: str = "y") -> float:  # type: ignore[empty-body]
        """Another text."""

    def other(a: int, b: str) -> None: ...

    hashes = [Signature(each, "f", False).hash for each in (first, reworded, other)]
    assert hashes[0] == hashes[1]
    assert hashes[0] != hashes[2]
