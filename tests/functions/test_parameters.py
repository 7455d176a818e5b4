"""The parameter types of hints, the JSON values that fit them, and the signatures of functions."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
import json
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
from n8nrunner.functions import conversion, parameters
from n8nrunner.functions.conversion import Conversion, Mismatch, UnknownZone
from n8nrunner.functions.hints import UnknownHint, read_hint, type_of
from n8nrunner.functions.parameters import Array, Bounded, Dictionary, ParameterType
from n8nrunner.functions.signature import Signature
from tests.functions import fuzz_conversion
from tests.functions.converting import convert
from tests.functions.fuzz_conversion import Left, Right

UTC = datetime.timezone.utc


class Color(enum.Enum):
    RED = "red"
    DARK_BLUE = "blue"


class Shape(enum.Enum):
    """An Enum whose values JSON cannot represent."""

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
    """Bounds in the form of `annotated_types`."""

    def __init__(self, **bounds: Any) -> None:
        self.__dict__.update(bounds)


@dataclasses.dataclass
class Tree:
    children: Annotated[List[Tree], Between(max_length=2)] = dataclasses.field(default_factory=list)


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
    (int, str(2**60), 2**60),
    (float, 3, 3.0),
    (float, "2.5", 2.5),
    (int, " 12\n", 12),
    (int, "+05", 5),
    (int, "1e5", 100_000),
    (int, "9007199254740993", 2**53 + 1),
    (int, "9007199254740993.0", 2**53 + 1),
    (int, 2**53 - 1, 2**53 - 1),
    (int, 1 - 2**53, 1 - 2**53),
    (List[int], f"[{2**60}]", [2**60]),
    (List[str], f"[{2**60}]", [str(2**60)]),
    (Union[int, float], 2**60, float(2**60)),
    (float, 2**60, float(2**60)),
    (float, "-.5e1", -5.0),
    (float, "7.", 7.0),
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
    (Optional[Annotated[str, Between(max_length=9)]], "", ""),
    (Optional[Annotated[int, Between(ge=1)]], "", None),
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
def test_a_value_that_fits_is_converted(hint: Any, value: Any, expected: Any) -> None:
    converted = convert(type_of(hint), value)
    assert converted == expected
    assert type(converted) is type(expected)


@pytest.mark.parametrize(
    ("hint", "value", "said"),
    [
        (str, None, "value: expected a string, got null"),
        (str, True, "value: expected a string, got true"),
        (str, ["x"], 'value: expected a string, got ["x"]'),
        (int, 1.5, "value: expected an integer, got 1.5"),
        (int, "x", 'value: expected an integer, got "x"'),
        (int, "1e999", "value: expected an integer"),
        (int, "12_34", 'value: expected an integer, got "12_34"'),
        (int, "\N{ARABIC-INDIC DIGIT THREE}", "value: expected an integer"),
        (int, "\N{NO-BREAK SPACE}3", "value: expected an integer"),
        (int, "0x10", "value: expected an integer"),
        (int, "0.99999999999999999999", "value: expected an integer"),
        (int, "", "value: expected an integer"),
        (int, "infinity", "value: expected an integer"),
        (
            int,
            2**53,
            "value: expected an integer (n8n's numbers are exact up to 9007199254740991 only: send",
        ),
        (int, -(2**53), "send this one as a string), got -9007199254740992"),
        (int, 1e22, "send this one as a string), got 1e+22"),
        (List[int], [1, 2**60], "value[1]: expected an integer (n8n's numbers are exact up to"),
        (
            str,
            2**60,
            "value: expected a string (n8n's numbers are exact up to 9007199254740991 only: send this one",
        ),
        (Union[int, str], 2**60, "value: expected an integer or a string, got 1152921504606846976"),
        (Address, {"city": "x", "zip_code": 2**60}, "value.zip_code: expected an integer (n8n's numbers"),
        (float, "1_0", 'value: expected a number, got "1_0"'),
        (float, "infinity", "value: expected a number"),
        (float, "-Inf", "value: expected a number"),
        (float, "\N{FULLWIDTH DIGIT ONE}", "value: expected a number"),
        (float, "1e999", "value: expected a number"),
        (List[float], "[NaN]", "value: expected a list, written as JSON (NaN is not JSON)"),
        (dict, "[" * 100_000, "value: expected an object, with fewer levels"),
        (int, True, "value: expected an integer, got true"),
        (float, "nan", 'value: expected a number, got "nan"'),
        (float, False, "value: expected a number, got false"),
        (bool, 1, "value: expected true or false, got 1"),
        (datetime.datetime, "tomorrow", "value: expected a date and time"),
        (datetime.date, 5, "value: expected a date such as 2024-12-31, got 5"),
        (datetime.date, "2024-13-01", "value: expected a date"),
        (Literal["a", "b"], "c", 'value: expected one of "a", "b", got "c"'),
        (Literal[1], True, "value: expected one of 1, got true"),
        (Color, "RED!", 'value: expected one of "red", "blue"'),
        (list, "[1", "value: expected a list, written as JSON"),
        (list, {"a": 1}, 'value: expected a list, got {"a": 1}'),
        (List[int], [1, "x"], 'value[1]: expected an integer, got "x"'),
        (List[List[int]], [[1], [2, None]], "value[1][1]: expected an integer, got null"),
        (Set[Any], [[1]], "value: expected a list of strings, numbers or other values"),
        (Tuple[int, str], [1], "value: expected a list of 2"),
        (Dict[str, int], {"a": []}, "value.a: expected an integer, got []"),
        (Address, {}, "value.city: expected a string, got nothing"),
        (Address, {"city": None}, "value.city: expected a string, got null"),
        (Person, {"name": "x", "address": {}}, "value.address.city: expected a string, got nothing"),
        (Point, {}, "value.x: expected a number, got nothing"),
        (Address, {"city": "x", "town": "y"}, 'value: expected an object with city, zip_code, and no "town"'),
        (Person, {"name": "a", "friends": [{}]}, "value.friends[0].name: expected a string"),
        (Positive, {"value": -1}, "value: expected a Positive (ValueError: it is negative)"),
        (Options, {"label": "x"}, "value.depth: expected an integer"),
        (Point, [1, 2, 3], "value: expected an object with x, y"),
        (Optional[int], "x", "value: expected an integer"),
        (Union[int, List[int]], "x", "value: expected an integer or a list"),
        (Annotated[int, Between(ge=1, lt=3)], 3, "value: expected an integer, at least 1, less than 3"),
        (Annotated[str, Between(max_length=2)], "abc", "of length 2 or less"),
        (str, {"x": "y" * 500}, "..."),
    ],
)
def test_an_error_names_the_path_the_expected_type_and_the_value(hint: Any, value: Any, said: str) -> None:
    with pytest.raises(Mismatch) as caught:
        convert(type_of(hint), value)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("hint", "said"),
    [
        (bytes, "use n8nrunner.File for a file of n8n"),
        (object.__class__, "cannot become a field"),
        (complex, "complex cannot become a field"),
        ([int], "[<class 'int'>] cannot become a field"),
        (Dict[int, str], "keys of int"),
        (Literal[b"x"], "a Literal of bytes"),
        (List[bytes], "n8nrunner.File"),
    ],
)
def test_a_hint_that_cannot_become_a_field_is_refused(hint: Any, said: str) -> None:
    with pytest.raises(UnknownHint) as caught:
        type_of(hint)
    assert said in str(caught.value)


def test_annotated_gives_a_description() -> None:
    assert read_hint(Annotated[int, Between(ge=1), "How many"]).description == "How many"
    assert (
        read_hint(Annotated[int, Between(description="As pydantic has it")]).description
        == "As pydantic has it"
    )
    assert read_hint(int).description == read_hint(Annotated[int, Between(description=5)]).description == ""


def test_a_pydantic_model_validates_its_value() -> None:
    pydantic = pytest.importorskip("pydantic")
    model = pydantic.create_model("Model", number=(int, ...), names=(List[str], []))
    type = type_of(model)
    assert convert(type, '{"number": "7"}').number == 7
    accepts = r"^value\.number: expected a value that Model accepts \(Input should be .*\), got \"x\"$"
    with pytest.raises(Mismatch, match=accepts):
        convert(type, {"number": "x"})
    with pytest.raises(Mismatch, match=r"^value\.number: expected a value, got nothing$"):
        convert(type, {"names": []})
    aliased = type_of(pydantic.create_model("Model", full_name=(str, pydantic.Field(alias="fullName"))))
    assert aliased.expected == "an object with fullName"
    bounded = read_hint(Annotated[int, pydantic.Field(ge=2, description="At least two")])
    assert bounded.description == "At least two"
    with pytest.raises(Mismatch, match="at least 2"):
        convert(bounded.type, 1)


def test_more_than_a_thousand_problems_of_pydantic_are_only_counted() -> None:
    pydantic = pytest.importorskip("pydantic", minversion="2")
    type = type_of(pydantic.create_model("Model", rows=(List[int], ...)))
    with pytest.raises(
        Mismatch, match=r"^value: expected an object with rows \(1001 parts of it do not fit\), got"
    ):
        convert(type, {"rows": ["x"] * 1001})
    with pytest.raises(Mismatch, match=r"^value\.rows\[0\]: expected a value that Model accepts"):
        convert(type, {"rows": ["x"] * 1000})


def test_a_pydantic_model_refuses_integers_that_n8n_has_rounded() -> None:
    pydantic = pytest.importorskip("pydantic", minversion="2")
    model = pydantic.create_model("Model", share=(float, 0), rows=(List[Dict[str, int]], []))
    type = type_of(model)
    assert convert(type, {"share": 2**60}).share == float(2**60)
    assert convert(type, f'{{"rows": [{{"a": {2**60}}}]}}').rows == [{"a": 2**60}]
    with pytest.raises(Mismatch, match=r"^value\.rows\[0\]\.a: expected an integer \(n8n's numbers"):
        convert(type, {"rows": [{"a": 2**60}]})


def test_a_record_may_contain_its_own_type_within_bounds() -> None:
    type = type_of(Tree)
    assert convert(type, {"children": [{}, {}]}) == Tree([Tree(), Tree()])
    with pytest.raises(
        Mismatch, match=r"^value\.children\[0\]\.children: expected a list, of length 2 or less"
    ):
        convert(type, {"children": [{"children": [{}, {}, {}]}]})


# --- datetimes and dates in the workflow's time zone ----------------------------------------------------


WARSAW = "Europe/Warsaw"


@pytest.mark.parametrize(
    ("hint", "zone", "value", "expected"),
    [
        (datetime.date, WARSAW, "2024-05-05T22:00:00.000Z", datetime.date(2024, 5, 6)),
        (datetime.date, "America/New_York", "2024-05-06T03:59:59Z", datetime.date(2024, 5, 5)),
        (datetime.date, "UTC", "2024-05-05T22:00:00.000Z", datetime.date(2024, 5, 5)),
        (datetime.date, None, "2024-05-05T22:00:00.000Z", datetime.date(2024, 5, 5)),
        (datetime.date, WARSAW, "2024-05-06T00:00:00", datetime.date(2024, 5, 6)),
        (datetime.date, WARSAW, "2024-05-06", datetime.date(2024, 5, 6)),
        (List[datetime.date], WARSAW, '["2024-05-05T22:00:00Z"]', [datetime.date(2024, 5, 6)]),
        (datetime.datetime, WARSAW, "2024-05-06T09:00:00", "2024-05-06T09:00:00+02:00"),
        (datetime.datetime, WARSAW, "2024-01-06T09:00:00", "2024-01-06T09:00:00+01:00"),
        (datetime.datetime, WARSAW, "2024-05-05T22:00:00Z", "2024-05-06T00:00:00+02:00"),
        (datetime.datetime, WARSAW, "2024-05-06", "2024-05-06T00:00:00+02:00"),
        # The clocks go from 2:00 to 3:00.
        (datetime.datetime, WARSAW, "2024-03-31T02:30:00", "2024-03-31T03:30:00+02:00"),
        (datetime.datetime, "UTC", "2024-05-06T09:00:00", "2024-05-06T09:00:00+00:00"),
        (datetime.datetime, None, "2024-05-06T09:00:00", "2024-05-06T09:00:00"),
        (datetime.datetime, None, "2024-05-06T09:00:00+02:00", "2024-05-06T09:00:00+02:00"),
    ],
)
def test_datetimes_and_dates_are_in_the_time_zone_of_the_workflow(
    hint: Any, zone: Optional[str], value: Any, expected: Any
) -> None:
    converted = convert(type_of(hint), value, Conversion(value, zone))
    assert (converted.isoformat() if hint is datetime.datetime else converted) == expected


@pytest.mark.parametrize(
    "value", ["0001-01-01T00:00:00", "9999-12-31T23:59:59-14:00", "2024-05-06Tx", "T" * 100_000]
)
@pytest.mark.parametrize("hint", [datetime.datetime, datetime.date])
def test_an_invalid_datetime_is_refused(hint: Any, value: str) -> None:
    with pytest.raises(Mismatch, match="value: expected a date"):
        convert(type_of(hint), value, Conversion(value, "Asia/Tokyo"))


def test_a_bound_without_a_time_zone_is_in_the_workflow_s() -> None:
    hint = Annotated[datetime.datetime, Between(ge=datetime.datetime(2024, 5, 6))]
    assert convert(type_of(hint), "2024-05-05T22:00:00Z", Conversion(None, WARSAW))
    with pytest.raises(Mismatch):
        convert(type_of(hint), "2024-05-05T21:59:59Z", Conversion(None, WARSAW))


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../../etc/passwd", "Europe", "\x00", "x" * 10_000])
def test_an_unknown_time_zone_is_an_error_only_if_it_is_needed(zone: str) -> None:
    assert convert(type_of(int), 1, Conversion(None, zone)) == 1
    for hint in (datetime.datetime, Optional[datetime.date], List[datetime.datetime]):
        value: Any = "2024-05-06T09:00:00"
        with pytest.raises(UnknownZone):
            convert(
                type_of(hint), [value] if hint is List[datetime.datetime] else value, Conversion(None, zone)
            )


# --- conversions that a caller could make slow -----------------------------------------------------------


@pytest.mark.parametrize("fits", [True, False])
def test_the_work_of_a_union_inside_of_itself_grows_with_its_levels(fits: bool) -> None:
    def steps(levels: int) -> int:
        value: Any = {"x": 1 if fits else []}
        for _ in range(levels):
            value = {"next": value}
        counting = Conversion(value)
        spend = counting.spend
        taken: List[int] = []
        counting.spend = lambda steps: (taken.append(steps), spend(steps))[1]
        try:
            made = convert(type_of(Union[Left, Right]), value, counting)
        except Mismatch:
            assert not fits
        else:
            assert fits
            assert isinstance(made, Left)
        return sum(taken)

    assert steps(60) < 2.2 * steps(30) < 10_000


#: Integers with the same hash.
SAME = [number * (2**61 - 1) for number in range(2000)]


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (Set[int], json.dumps(SAME)),
        (FrozenSet[int], [str(number) for number in SAME]),
        (Set[Tuple[int, str]], json.dumps([[number, "x"] for number in SAME])),
        (set, json.dumps(SAME)),
    ],
)
def test_a_set_of_values_with_the_same_hash_is_refused(hint: Any, value: Any) -> None:
    with pytest.raises(Mismatch, match="more than 100 different values have the same hash"):
        convert(type_of(hint), value)


def test_a_large_set_of_values_with_different_hashes_is_made() -> None:
    numbers = [*range(-2, 3000), *range(2000)]
    assert convert(type_of(Set[int]), numbers) == set(numbers)
    texts = ["a"] * 50_000
    assert convert(type_of(Set[str]), texts) == {"a"}


class Counting(ParameterType):
    """A type that counts its conversions."""

    def __init__(self) -> None:
        self.count = 0

    def convert(self, value: Any, conversion: Conversion, strict: bool = False) -> Any:
        self.count += 1
        return value


@pytest.mark.parametrize("around", [lambda type: type, parameters.Optional])
@pytest.mark.parametrize("as_text", [False, True])
def test_the_length_is_checked_before_the_elements(around: Any, as_text: bool) -> None:
    element = Counting()
    value: Any = json.dumps([1] * 101) if as_text else [1] * 101
    for type in (Array(element, set), Array(element, list)):
        with pytest.raises(Mismatch, match="of length 100 or less"):
            convert(Bounded(around(type), {"max_length": 100}), value)
    with pytest.raises(Mismatch, match="of length 1 or less"):
        convert(Bounded(around(Dictionary(element)), {"max_length": 1}), {"a": 1, "b": 2})
    assert element.count == 0
    assert convert(Bounded(around(Array(element, list)), {"max_length": 101}), value) == [1] * 101


class Wasteful(ParameterType):
    """A type that takes a million steps for a value."""

    def convert(self, value: Any, conversion: Conversion, strict: bool = False) -> Any:
        for _ in range(100):
            conversion.spend(10_000)


def test_a_conversion_that_takes_too_many_steps_ends() -> None:
    type = Array(Wasteful(), list)
    with pytest.raises(Mismatch, match="value: expected a list, which takes less work to read, got"):
        convert(type, [1] * 10)


def test_more_steps_are_allowed_for_more_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "_FREE_STEPS", 1000)
    value = [[1] * 100] * 300
    assert convert(type_of(List[List[int]]), value) == value


class Unwanted(Exception):
    pass


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (List[int], [1] * 30_000),
        (Dict[str, int], {str(n): n for n in range(30_000)}),
        (List[List[int]], [[1]] * 30_000),
    ],
)
def test_a_long_conversion_checks_for_cancellation(hint: Any, value: Any) -> None:
    def look() -> None:
        raise Unwanted

    with pytest.raises(Unwanted):
        convert(type_of(hint), value, Conversion(value, None, look))


@pytest.mark.parametrize("depth", [100, 900, 100_000])
def test_an_error_about_a_deeply_nested_value_is_short(depth: int) -> None:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    with pytest.raises(Mismatch) as caught:
        convert(type_of(Union[int, str]), value)
    assert len(str(caught.value)) < 300


def test_random_values_are_converted_or_refused_within_limits() -> None:
    seen = fuzz_conversion.run(3, seed=1)
    assert {"mismatch", "converted", "encoded", "refused"} <= set(seen)


# --- whole functions ----------------------------------------------------------------------------------


def test_one_error_names_all_parameters_that_cannot_become_a_field() -> None:
    def function(a: bytes, b: complex, *rest: int, **more: int) -> None: ...

    with pytest.raises(ConfigurationError) as caught:
        Signature(function, "function", False)
    assert len(caught.value.problems) == 4
    for name in ("'a'", "'b'", "'rest'", "'more'"):
        assert name in str(caught.value)


def test_hints_that_cannot_be_evaluated_are_refused() -> None:
    def function(a: NoSuchName) -> None: ...  # type: ignore[name-defined] # noqa: F821

    with pytest.raises(ConfigurationError, match="NoSuchName"):
        Signature(function, "function", False)


def test_parameters_without_hints_have_the_types_of_their_defaults() -> None:
    def function(a, b=1, c="x", d=True, e=1.5, f=None, g=Color.RED, h=()):  # type: ignore[no-untyped-def]
        pass

    found = {each.name: each.type.kind for each in Signature(function, "f", False).parameters.values()}
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


def test_a_parameter_of_type_task_is_not_a_field() -> None:
    def one(task: Task, a: int) -> None: ...

    def two(a: int, when: Optional[Task] = None) -> None: ...

    assert Signature(one, "one", False).task_parameter == "task"
    assert list(Signature(one, "one", False).parameters) == ["a"]
    assert Signature(two, "two", False).task_parameter == "when"


def test_partials_and_callable_objects_have_signatures() -> None:
    def function(a: int, b: str) -> None: ...

    class Callable:
        def __call__(self, c: float) -> None: ...

    assert list(Signature(functools.partial(function, b="x"), "f", False).parameters) == ["a", "b"]
    assert Signature(Callable(), "f", False).parameters["c"].type.kind == "number"


def test_the_hash_ignores_descriptions_and_values_of_defaults() -> None:
    def first(a: int, b: str = "x") -> None:
        """A docstring."""

    def reworded(a: Annotated[int, "Which"], b: str = "y") -> float:  # type: ignore[empty-body]
        """Another docstring."""

    def other(a: int, b: str) -> None: ...

    hashes = [Signature(each, "f", False).hash for each in (first, reworded, other)]
    assert hashes[0] == hashes[1]
    assert hashes[0] != hashes[2]


def test_the_hash_is_the_one_that_written_nodes_hold() -> None:
    def every_type(
        text: str, number: int, share: float, yes: bool, color: Color, kind: Literal["a", 1, True],
        at: datetime.datetime, day: datetime.date, names: List[str], pair: Tuple[int, str],
        table: Dict[str, float], address: Address, document: File, either: Union[int, str], anything: Any,
        task: Task, perhaps: Optional[int] = None, unannotated=1.5,
    ) -> None: ...  # fmt: skip

    assert Signature(every_type, "f", False).hash == "8cce34fb9a515195"
