"""Results of functions become n8n's items."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import sqlite3
import uuid
from pathlib import PurePosixPath
from typing import Any, Dict, Iterator, List, NamedTuple, Sequence, Set, Tuple

import pytest

from n8nrunner import File
from n8nrunner.functions import items
from n8nrunner.functions.items import make_encodable, pair
from n8nrunner.protocol.json_text import NotJson


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Lead:
    name: str
    since: datetime.date


class Point(NamedTuple):
    x: int
    y: int


@dataclasses.dataclass
class Linked:
    """A record that contains itself."""

    others: List[Any]

    def __post_init__(self) -> None:
        self.others.append(self)


LOOP: Dict[str, Any] = {}
LOOP["me"] = LOOP


def save(file: File) -> Dict[str, Any]:
    return {"saved": file.read().decode(), "fileName": file.filename}


def items_of(result: Any, save: items.SaveFile) -> List[items.Item]:
    return items.make_items(result, save)[0]


def rows() -> Iterator[Any]:
    yield {"a": 1}
    yield {"a": 2}


NO_FILE = {"saved": "abc", "fileName": None}

RESULTS: List[Tuple[Any, List[Dict[str, Any]]]] = [
    ({"a": 1}, [{"json": {"a": 1}}]),
    ({}, [{"json": {}}]),
    ([], []),
    ([{"a": 1}, {"a": 2}], [{"json": {"a": 1}}, {"json": {"a": 2}}]),
    (({"a": 1},), [{"json": {"a": 1}}]),
    ([1, "x"], [{"json": {"result": 1}}, {"json": {"result": "x"}}]),
    (1.5, [{"json": {"result": 1.5}}]),
    ("text", [{"json": {"result": "text"}}]),
    (True, [{"json": {"result": True}}]),
    (None, [{"json": {}}]),
    ([None, None], [{"json": {}}, {"json": {}}]),
    (rows(), [{"json": {"a": 1}}, {"json": {"a": 2}}]),
    (Lead("Ada", datetime.date(2024, 5, 6)), [{"json": {"name": "Ada", "since": "2024-05-06"}}]),
    (Point(1, 2), [{"json": {"x": 1, "y": 2}}]),
    ([Point(1, 2)], [{"json": {"x": 1, "y": 2}}]),
    (Color.RED, [{"json": {"result": "red"}}]),
    (datetime.datetime(2024, 5, 6, 7, 8), [{"json": {"result": "2024-05-06T07:08:00"}}]),
    ({"took": datetime.timedelta(seconds=90)}, [{"json": {"took": 90.0}}]),
    ({"price": decimal.Decimal("9.90")}, [{"json": {"price": "9.90"}}]),
    ({"id": uuid.UUID(int=1)}, [{"json": {"id": "00000000-0000-0000-0000-000000000001"}}]),
    ({"path": PurePosixPath("a/b")}, [{"json": {"path": "a/b"}}]),
    ({2: "a", None: "b", True: "c"}, [{"json": {"2": "a", "null": "b", "true": "c"}}]),
    ({"deep": [{"point": Point(1, 2)}]}, [{"json": {"deep": [{"point": {"x": 1, "y": 2}}]}}]),
    (b"abc", [{"json": {"size": 3}, "binary": {"data": NO_FILE}}]),
    (
        File(b"abc", "x.txt"),
        [
            {
                "json": {"fileName": "x.txt", "mimeType": "text/plain", "size": 3},
                "binary": {"data": {"saved": "abc", "fileName": "x.txt"}},
            }
        ],
    ),
    (
        [File(b"abc", mime="application/x-test"), File(b"", "no type")],
        [
            {"json": {"mimeType": "application/x-test", "size": 3}, "binary": {"data": NO_FILE}},
            {
                "json": {"fileName": "no type", "size": 0},
                "binary": {"data": {"saved": "", "fileName": "no type"}},
            },
        ],
    ),
    ({"n": 1, "f": File(b"abc")}, [{"json": {"n": 1, "f": {"size": 3}}, "binary": {"f": NO_FILE}}]),
    ([b"abc", {"n": 1}], [{"json": {"size": 3}, "binary": {"data": NO_FILE}}, {"json": {"n": 1}}]),
    ({"json": {"a": 1}}, [{"json": {"a": 1}}]),
    ({"json": {"a": 1}, "pairedItem": 3}, [{"json": {"a": 1}, "pairedItem": 3}]),
    ({"json": {}, "binary": {"f": b"abc"}}, [{"json": {}, "binary": {"f": NO_FILE}}]),
    ({"json": {"a": 1}, "other": 1}, [{"json": {"json": {"a": 1}, "other": 1}}]),
    ({"json": "text"}, [{"json": {"json": "text"}}]),
]


@pytest.mark.parametrize(("result", "expected"), RESULTS)
def test_each_result_becomes_its_items(result: Any, expected: Any) -> None:
    assert items_of(result, save) == expected


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ({"a": {1, 2}}, "result['a'] is a set, which JSON cannot represent"),
        (
            [{"a": 1}, {"deep": [{"b": object}]}],
            "result[1]['deep'][0]['b'] is a type, which JSON cannot represent",
        ),
        (object, "result['result'] is a type, which JSON cannot represent"),
        ({"id": 2**60, "a": {1, 2}}, "result['a'] is a set, which JSON cannot represent"),
        (LOOP, "result['me'] contains itself"),
        ([{}, LOOP], "result[1]['me'] contains itself"),
        (Linked([]), "result contains itself, or is nested too deeply"),
    ],
)
def test_an_error_has_the_path_of_a_value_that_json_cannot_represent(result: Any, said: str) -> None:
    with pytest.raises(NotJson) as caught:
        items_of(result, save)
    assert str(caught.value) == said


def test_integers_that_n8n_would_round_become_strings() -> None:
    item = {"json": {"id": 2**53, "ids": [-(2**60), 5], "fine": [2**53 - 1, 1e22]}, "pairedItem": 2**53}
    assert make_encodable(([item], False))[0] == {
        "json": {"id": str(2**53), "ids": [str(-(2**60)), 5], "fine": [2**53 - 1, 1e22]},
        "pairedItem": str(2**53),
    }


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({"json": {"big": 2**60, "tags": {1}}}, "result['tags'] is a set"),
        ({"json": {}, "binary": {"data": {"data": {1}}}}, "result['binary']['data']['data'] is a set"),
        ({"json": LOOP}, "result['me'] contains itself"),
    ],
)
def test_an_error_has_the_path_of_a_value_that_cannot_be_encoded(item: Any, said: str) -> None:
    with pytest.raises(NotJson) as caught:
        make_encodable(([item], False))[0]
    assert str(caught.value).startswith(said)


def test_ranges_views_deques_and_rows_become_items() -> None:
    assert items_of(range(2), save) == [{"json": {"result": 0}}, {"json": {"result": 1}}]
    assert items_of({"a": 1}.values(), save) == [{"json": {"result": 1}}]
    assert items_of(collections.deque([{"a": 1}]), save) == [{"json": {"a": 1}}]
    connection = sqlite3.connect(":memory:")
    connection.row_factory = sqlite3.Row
    rows = connection.execute("select 1 as a, 'x' as b")
    assert items_of(rows, save) == [{"json": {"a": 1, "b": "x"}}]
    connection.close()


def test_a_binary_property_of_none_is_left_out() -> None:
    assert items_of({"json": {}, "binary": {"f": None, "g": b"abc"}}, save) == [
        {"json": {}, "binary": {"g": NO_FILE}}
    ]


def test_arrays_and_numbers_of_numpy_become_items() -> None:
    numpy = pytest.importorskip("numpy")
    assert items_of({"a": numpy.arange(2), "b": numpy.float32(0.5)}, save) == [
        {"json": {"a": [0, 1], "b": 0.5}}
    ]
    assert items_of(numpy.array([[1, 2], [3, 4]]), save) == [
        {"json": {"result": [1, 2]}},
        {"json": {"result": [3, 4]}},
    ]
    assert items_of(numpy.int64(3), save) == [{"json": {"result": 3}}]
    assert items_of({"at": numpy.datetime64("2024-05-06T07:08")}, save) == [
        {"json": {"at": "2024-05-06T07:08:00"}}
    ]
    assert type(items_of(numpy.int64(3), save)[0]["json"]["result"]) is int
    for unit in ("s", "ns"):
        took = numpy.timedelta64(90, "s").astype(f"timedelta64[{unit}]")
        assert items_of({"took": took}, save) == [{"json": {"took": 90.0}}]


def test_frames_and_series_of_pandas_become_items() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"name": ["a", "b"], "at": pandas.to_datetime(["2024-05-06", None])})
    assert items_of(frame, save) == [
        {"json": {"name": "a", "at": "2024-05-06T00:00:00"}},
        {"json": {"name": "b", "at": None}},
    ]
    assert items_of(pandas.Series({"a": 1, "b": 2}), save) == [{"json": {"a": 1, "b": 2}}]
    assert items_of({"rows": frame[["name"]]}, save) == [{"json": {"rows": [{"name": "a"}, {"name": "b"}]}}]


@pytest.mark.parametrize(("zone", "suffix"), [(None, ""), ("UTC", "+00:00")])
def test_times_of_pandas_inside_of_a_result_are_iso_strings(zone: str | None, suffix: str) -> None:
    pandas = pytest.importorskip("pandas")
    index = pandas.DatetimeIndex(["2024-05-06T07:08", None], tz=zone)
    assert items_of({"at": index}, save) == [{"json": {"at": [f"2024-05-06T07:08:00{suffix}", None]}}]
    assert items_of({"at": index.array}, save) == [{"json": {"at": [f"2024-05-06T07:08:00{suffix}", None]}}]


def test_a_pydantic_model_becomes_an_item() -> None:
    pydantic = pytest.importorskip("pydantic")
    model = pydantic.create_model("Model", number=(int, 1), on=(datetime.date, datetime.date(2024, 5, 6)))
    assert items_of([model()], save) == [{"json": {"number": 1, "on": "2024-05-06"}}]


def test_nested_pydantic_models_are_dumped_by_pydantic() -> None:
    pydantic = pytest.importorskip("pydantic", minversion="2")

    class Inner(pydantic.BaseModel):
        tags: Set[str] = {"a"}

    class Outer(pydantic.BaseModel):
        inner: Inner = Inner()
        content: bytes = b"abc"

    class Rows(pydantic.RootModel[List[Inner]]):
        pass

    Outer.model_rebuild(_types_namespace={"Inner": Inner})
    (item,) = items_of(Outer(), save)
    about = {"inner": {"tags": ["a"]}, "content": {"size": 3}}
    assert item == {"json": about, "binary": {"content": NO_FILE}}
    assert items_of(Rows([Inner(), Inner()]), save) == [{"json": {"tags": ["a"]}}] * 2
    assert items_of({"rows": Rows([Inner()])}, save) == [{"json": {"rows": [{"tags": ["a"]}]}}]


def test_items_are_paired_with_the_item_of_their_call_unless_they_say_otherwise() -> None:
    made: List[Dict[str, Any]] = [{"json": {}}, {"json": {}, "pairedItem": 7}]
    pair(made, [3])
    assert made == [{"json": {}, "pairedItem": {"item": 3}}, {"json": {}, "pairedItem": 7}]


@pytest.mark.parametrize(
    ("count", "sources", "first"),
    [
        (2, [4, 6], {"item": 4}),
        (1, [4, 6], [{"item": 4}, {"item": 6}]),
        (2000, range(1000), None),  # too many pairs
    ],
)
def test_the_items_of_a_batch_are_paired_one_to_one_or_with_all(
    count: int, sources: Sequence[int], first: Any
) -> None:
    made: List[Dict[str, Any]] = [{"json": {}} for _ in range(count)]
    pair(made, sources)
    assert made[0].get("pairedItem") == first
