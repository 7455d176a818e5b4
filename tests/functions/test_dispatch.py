"""Tasks of nodes over the embedded broker: the settings that a node sends, and the answer that it gets."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import datetime
import enum
import json
import logging
import os
import pickle
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Callable, Dict, Iterator, List, Optional, Tuple, Union

import pytest

from n8nrunner import ConfigurationError, File, Runner, Task, TaskError
from n8nrunner.broker import Broker, BrokerTaskCancelled, BrokerTaskError
from n8nrunner.config import DEFAULT_NAME, directory_of
from n8nrunner.functions import conversion, dispatch
from n8nrunner.functions.function import make_function
from n8nrunner.protocol import messages as m
from n8nrunner.protocol.codec import LARGE_MESSAGE
from n8nrunner.task import ActiveTask
from tests.conftest import LIMIT, TOKEN, signature_of, wait_until

NAME = "shop"
UTC = datetime.timezone.utc


@pytest.fixture
def runner(broker: Broker) -> Iterator[Runner]:
    runner = Runner(broker.url, auth_token=TOKEN, name=NAME, capacity=4)
    yield runner
    runner.stop()


class Caller:
    """Call functions as a node does."""

    def __init__(self, broker: Broker, runner: Runner) -> None:
        self.broker = broker
        self.runner = runner

    def settings(self, function: str, *arguments: Dict[str, Any], **more: Any) -> Dict[str, Any]:
        calls = [{"item": item, "arguments": each} for item, each in enumerate(arguments)]
        signature = signature_of(self.runner, function)
        return {"version": 1, "function": function, "signature": signature, "calls": calls, **more}

    def __call__(
        self, function: str, *arguments: Dict[str, Any], type: str = f"n8nrunner.{NAME}", **more: Any
    ) -> Any:
        if self.runner.state == "new":
            self.runner.start(wait=LIMIT)
        files = more.pop("files", {})
        items = [{"json": {}} for _ in arguments]
        settings = self.settings(function, *arguments, **more)
        return self.broker.run_task(type, settings, items=items, files=files, timeout=LIMIT)


@pytest.fixture
def call(broker: Broker, runner: Runner) -> Caller:
    return Caller(broker, runner)


class From:
    """A lower bound in the form of `annotated_types`."""

    def __init__(self, ge: Any) -> None:
        self.ge = ge


@dataclasses.dataclass
class Folder:
    inside: List[Folder]
    cover: Optional[File] = None


class Empty(enum.Enum):
    pass


def double(number: int) -> int:
    return 2 * number


def fails_for_two(number: int) -> int:
    if number == 2:
        raise ValueError(f"{number} is bad")
    return number


def test_a_function_is_called_once_for_each_item(runner: Runner, call: Caller) -> None:
    assert runner.function(double) is double
    assert call("double", {"number": 1}, {"number": "2"}) == {
        "version": 1,
        "items": [
            {"json": {"result": 2}, "pairedItem": {"item": 0}},
            {"json": {"result": 4}, "pairedItem": {"item": 1}},
        ],
        "errors": [],
    }


def test_the_error_of_an_argument_names_parameter_item_and_value(runner: Runner, call: Caller) -> None:
    runner.function(double)
    answer = call("double", {"number": 1}, {"number": "x"}, {"number": 3})
    assert answer["items"] == []
    (error,) = answer["errors"]
    assert error["item"] == 1
    assert error["message"] == 'number: expected an integer, got "x"'
    assert "Item 1, parameter 'number' of double" in error["description"]


def test_an_argument_missing_from_an_expression_fails_its_item(runner: Runner, call: Caller) -> None:
    runner.function(double)
    answer = call("double", {"number": 1}, {}, {"number": 3}, continueOnFail=True)
    assert [item["json"]["result"] for item in answer["items"]] == [2, 6]
    (error,) = answer["errors"]
    assert (error["item"], error["message"]) == (1, "number: expected an integer, got nothing")


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (
            Annotated[datetime.datetime, From(datetime.datetime(2024, 1, 1, tzinfo=UTC))],
            "2024-02-01T00:00:00",
        ),
        (Annotated[Union[int, str], From(1)], "x"),
        (list, "[" * 100_000),
        (float, 10**400),
    ],
)
def test_a_value_whose_conversion_raises_fails_its_item(
    runner: Runner, call: Caller, hint: Any, value: Any
) -> None:
    def function(value: Any) -> str:
        return "fine"

    function.__annotations__ = {"value": hint}
    runner.function(function)
    answer = call("function", {"value": value}, continueOnFail=True)
    (error,) = answer["errors"]
    assert error["message"].startswith("value: expected ")


def test_datetimes_are_in_the_time_zone_that_the_node_sends(runner: Runner, call: Caller) -> None:
    @runner.function
    def when(at: datetime.datetime, on: datetime.date) -> str:
        return f"{at.isoformat()} {on.isoformat()}"

    arguments = {"at": "2024-05-06T09:00:00", "on": "2024-05-05T22:00:00.000Z"}
    (item,) = call("when", arguments, timezone="Europe/Warsaw")["items"]
    assert item["json"] == {"result": "2024-05-06T09:00:00+02:00 2024-05-06"}
    for more in ({}, {"timezone": 5}):  # an older node does not send the time zone
        (item,) = call("when", arguments, **more)["items"]
        assert item["json"] == {"result": "2024-05-06T09:00:00 2024-05-05"}
    with pytest.raises(BrokerTaskError, match="does not know the workflow's time zone, Mars/Olympus"):
        call("when", arguments, timezone="Mars/Olympus")


def test_conversions_end_with_their_task(broker: Broker, runner: Runner, call: Caller) -> None:
    begun, may_continue = threading.Event(), threading.Event()

    @dataclasses.dataclass
    class Slow:
        number: int

        def __post_init__(self) -> None:
            made.append(self.number)
            begun.set()
            assert may_continue.wait(LIMIT)

    made: List[int] = []

    def function(values: Any) -> None: ...

    function.__annotations__ = {"values": List[Slow]}
    runner.function(function)
    runner.start(wait=LIMIT)
    settings = call.settings("function", {"values": [{"number": number} for number in range(20_000)]})
    task = broker.submit(f"n8nrunner.{NAME}", settings, timeout=LIMIT)
    assert begun.wait(LIMIT)
    task.cancel("enough")
    wait_until(lambda: runner.snapshot().tasks[0].cancel_reason)
    may_continue.set()
    runner.stop()
    assert len(made) <= 10_000


def test_a_conversion_that_takes_too_many_steps_fails_its_item(
    runner: Runner, call: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    @runner.function
    def function(values: List[int]) -> int:
        return len(values)

    monkeypatch.setattr(conversion, "_FREE_STEPS", 10_000)
    monkeypatch.setattr(conversion, "_STEPS_PER_VALUE", 0)
    answer = call("function", {"values": [1]}, {"values": [1] * 30_000}, continueOnFail=True)
    assert [item["json"] for item in answer["items"]] == [{"result": 1}]
    (error,) = answer["errors"]
    assert error["message"].startswith("values: expected a list, which takes less work to read, got [1, 1")


def test_an_integer_that_n8n_has_rounded_fails_its_item(runner: Runner, call: Caller) -> None:
    runner.function(double)
    answer = call(
        "double", {"number": 7615917337495251231}, {"number": "7615917337495251231"}, continueOnFail=True
    )
    assert [item["json"] for item in answer["items"]] == [{"result": "15231834674990502462"}]
    (error,) = answer["errors"]
    # The embedded broker rounds as n8n does.
    assert error["message"] == (
        "number: expected an integer (n8n's numbers are exact up to 9007199254740991 only: send this one "
        "as a string), got 7615917337495251000"
    )


def test_a_result_that_json_cannot_represent_fails_its_item(runner: Runner, call: Caller) -> None:
    @runner.function
    def tags(number: int) -> Dict[str, Any]:
        return {"tags": {number} if number == 1 else [number]}

    arguments = [{"number": number} for number in range(3)]
    answer = call("tags", *arguments, continueOnFail=True)
    assert [item["json"]["tags"] for item in answer["items"]] == [[0], [2]]
    (error,) = answer["errors"]
    assert error["item"] == 1
    said = "The result cannot be sent to n8n: result['tags'] is a set, which JSON cannot represent"
    assert error["message"] == said


needs_digit_limit = pytest.mark.skipif(
    not hasattr(sys, "get_int_max_str_digits"), reason="this Python converts integers of any length"
)


def loop() -> Any:
    value: List[Any] = []
    value.append({"again": value})
    return value


#: Results that fail only when the whole answer is encoded.
NOT_ENCODABLE = [
    pytest.param(
        lambda: {"n": [0, 10**5000]},
        "result['n'][1] is an integer of more digits than",
        marks=needs_digit_limit,
    ),
    (lambda: {"ok": loop()}, "result['ok'][0]['again'] contains itself"),
    (lambda: [{"fine": 1}, {"ok": [{"tags": {1}}]}], "result[1]['ok'][0]['tags'] is a set"),
    (lambda: {"json": {}, "pairedItem": {"item": {1}}}, "result['pairedItem']['item'] is a set"),
    (lambda: {"json": {}, "binary": {"f": {"data": {1}}}}, "result['binary']['f']['data'] is a set"),
]


@pytest.mark.parametrize(("bad", "said"), NOT_ENCODABLE)
def test_a_result_that_cannot_be_encoded_fails_its_item(
    runner: Runner, call: Caller, bad: Callable[[], Any], said: str
) -> None:
    @runner.function
    def function(number: int) -> Any:
        return bad() if number == 1 else {"id": 2**60, "half": "\ud83d"}

    arguments = [{"number": number} for number in range(3)]
    answer = call("function", *arguments, continueOnFail=True)
    assert [(item["json"], item["pairedItem"]) for item in answer["items"]] == [
        ({"id": str(2**60), "half": "\ud83d"}, {"item": number}) for number in (0, 2)
    ]
    (error,) = answer["errors"]
    assert error["item"] == 1
    assert error["message"].startswith(f"The result cannot be sent to n8n: {said}")
    answer = call("function", *arguments)
    assert answer["items"] == []
    assert [error["item"] for error in answer["errors"]] == [1]


def test_a_result_of_a_batch_that_cannot_be_encoded_fails_all_its_items(runner: Runner, call: Caller) -> None:
    @runner.function(batch=True)
    def function(number: List[int]) -> Any:
        return [{"json": {}, "pairedItem": {1}}]

    answer = call("function", {"number": 1}, {"number": 2}, continueOnFail=True)
    assert answer["items"] == []
    assert [error["item"] for error in answer["errors"]] == [0, 1]


def test_half_of_a_surrogate_pair_arrives_in_n8n(runner: Runner, call: Caller) -> None:
    @runner.function
    def cut(text: str) -> Dict[str, Any]:
        return {text[0]: text[0]}

    assert call("cut", {"text": "\ud83dx"})["items"][0]["json"] == {"\ud83d": "\ud83d"}


def test_an_integer_that_n8n_would_round_is_returned_as_a_string(runner: Runner, call: Caller) -> None:
    @runner.function
    def ids() -> Dict[str, Any]:
        return {"big": 7615917337495251231, "all": [-(2**53), 2**53 - 1], "share": 0.1234567890123456}

    (item,) = call("ids", {})["items"]
    assert item["json"] == {
        "big": "7615917337495251231",
        "all": ["-9007199254740992", 9007199254740991],
        "share": 0.1234567890123456,
    }


def test_a_call_to_n8n_with_an_integer_that_it_would_round_is_refused(runner: Runner, call: Caller) -> None:
    @runner.function
    def ask(task: Task) -> Any:
        return task.rpc("helpers.httpRequest", {"body": {"id": 2**60}})

    (error,) = call("ask", {})["errors"]
    said = "params[0]['body']['id'] is an integer beyond 2**53 - 1, which n8n would round: make it a string"
    assert error["message"] == f"a call to n8n was not made: {said}"


def test_results_that_can_be_encoded_are_not_checked_one_by_one(
    runner: Runner, call: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner.function(double)
    checked: List[Any] = []
    monkeypatch.setattr(dispatch, "make_encodable", lambda result: checked.append(result) or result[0])
    assert len(call("double", *({"number": 1} for _ in range(100)))["items"]) == 100
    assert checked == []


def test_an_exception_arrives_with_the_traceback_of_the_function(
    runner: Runner, call: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    runner.function(fails_for_two)
    with caplog.at_level(logging.ERROR, "n8nrunner.tasks"):
        answer = call("fails_for_two", {"number": 1}, {"number": 2})
    (error,) = answer["errors"]
    assert (error["item"], error["message"]) == (1, "ValueError: 2 is bad")
    assert 'raise ValueError(f"{number} is bad")' in error["stack"]
    assert error["stack"].count("File ") == 1
    assert "2 is bad" in caplog.text


def test_a_task_error_arrives_as_it_is(runner: Runner, call: Caller) -> None:
    @runner.function
    def refuse() -> None:
        raise TaskError("Not today", "Come back tomorrow")

    (error,) = call("refuse", {})["errors"]
    assert error == {"item": 0, "message": "Not today", "description": "Come back tomorrow"}


@pytest.mark.parametrize("raised", [SystemExit(3), KeyboardInterrupt(), RecursionError("deep")])
def test_any_exception_fails_its_item_only(runner: Runner, call: Caller, raised: BaseException) -> None:
    @runner.function
    def function(number: int) -> int:
        if number == 1:
            raise raised
        return number

    answer = call("function", *({"number": number} for number in range(3)), continueOnFail=True)
    assert [item["json"]["result"] for item in answer["items"]] == [0, 2]
    assert [error["item"] for error in answer["errors"]] == [1]


def test_ctrl_c_in_a_process_of_an_executor_ends_the_whole_task() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    functions = dispatch.Functions()
    functions.add(make_function(interrupted, None, False, None))
    calls = [{"item": 0, "arguments": {}}]
    settings = {"version": 1, "function": "interrupted", "calls": calls, "continueOnFail": True}
    task = ActiveTask("1", "n8nrunner.shop", settings, time.monotonic() + LIMIT)
    with pytest.raises(KeyboardInterrupt):
        functions(pickle.loads(pickle.dumps(task)))


def functions_of(count: int) -> dispatch.Functions:
    """Return `double` among functions that cannot be pickled."""
    functions = dispatch.Functions()
    for number in range(1, count):
        functions.add(make_function(lambda: None, f"local_{number}", False, None))
    functions.add(make_function(double, None, False, 1))
    return functions


def task_of(function: str) -> ActiveTask:
    """Return a task whose settings are decoded when they are read."""
    settings = {"version": 1, "function": function, "calls": [{"item": 0, "arguments": {"number": 4}}]}
    undecoded = m.Undecoded(json.dumps({"settings": settings}), "settings")
    return ActiveTask("1", "n8nrunner.shop", undecoded, time.monotonic() + LIMIT)


def test_only_the_called_function_is_pickled() -> None:
    pickled = [pickle.dumps(functions_of(count).for_process(task_of("double"))) for count in (1, 200)]
    assert pickled[0] == pickled[1]
    result = pickle.loads(pickled[1])(task_of("double"))
    assert json.loads(result.text)["items"] == [{"json": {"result": 8}, "pairedItem": {"item": 0}}]


def test_a_process_knows_the_names_of_all_functions_when_an_unknown_one_is_called() -> None:
    task = task_of("triple")
    result = pickle.loads(pickle.dumps(functions_of(2).for_process(task)))(task)
    assert result["error"]["message"].endswith("has no function 'triple'; it has double, local_1")


def test_a_generator_that_fails_midway_fails_its_item(runner: Runner, call: Caller) -> None:
    @runner.function
    def rows(count: int) -> Iterator[Dict[str, int]]:
        for number in range(count):
            if number == 2:
                raise ValueError("no more")
            yield {"row": number}

    answer = call("rows", {"count": 2}, {"count": 3}, continueOnFail=True)
    assert [item["pairedItem"] for item in answer["items"]] == [{"item": 0}, {"item": 0}]
    assert [error["message"] for error in answer["errors"]] == ["ValueError: no more"]


def test_files_are_fetched_and_stored_by_calls_for_an_older_node(runner: Runner, call: Caller) -> None:
    seen: List[Any] = []

    @runner.function
    def shout(document: File, other: Optional[File] = None) -> Dict[str, Any]:
        seen.append((document.filename, document.mime, other))
        return {"size": len(document.read()), "loud": File(document.read().upper(), "loud.txt")}

    document = {"$file": "data", "fileName": "x.txt", "mimeType": "text/plain"}
    answer = call("shout", {"document": document}, files={(0, "data"): b"hello"})
    (item,) = answer["items"]
    loud = {"fileName": "loud.txt", "mimeType": "text/plain", "size": 5}
    assert item["json"] == {"size": 5, "loud": loud}
    assert item["binary"]["loud"]["fileName"] == "loud.txt"
    assert seen == [("x.txt", "text/plain", None)]


def test_files_travel_with_the_task_and_its_result(runner: Runner, call: Caller) -> None:
    @runner.function
    def shout(document: File) -> Dict[str, Any]:
        return {"loud": document.read().upper(), "report": File(b"short", "r.txt", "text/plain")}

    # The broker has no file of the item: reading it there would fail.
    document = {"$file": "data", "content": "aGVsbG8="}
    answer = call("shout", {"document": document}, inlineFiles=1000)
    (item,) = answer["items"]
    assert item["binary"] == {
        "loud": {"content": "SEVMTE8="},
        "report": {"content": "c2hvcnQ=", "fileName": "r.txt", "mimeType": "text/plain"},
    }


def test_files_above_the_limit_of_the_node_are_stored_by_a_call(
    broker: Broker, runner: Runner, call: Caller
) -> None:
    @runner.function
    def files() -> Dict[str, Any]:
        return {"first": b"1234", "second": b"5678"}

    runner.start(wait=LIMIT)
    settings = call.settings("files", {}, inlineFiles=7)
    task = broker.submit(f"n8nrunner.{NAME}", settings, items=[{"json": {}}], timeout=LIMIT)
    (item,) = task.result(LIMIT)["items"]
    assert item["binary"]["first"] == {"content": "MTIzNA=="}
    assert "content" not in item["binary"]["second"]
    assert [saved.data for saved in task.saved_files] == [b"5678"]


def test_a_file_name_with_a_slash_is_kept(runner: Runner, call: Caller) -> None:
    @runner.function
    def invoice() -> File:
        return File(b"%PDF", "Invoice 5/2024.pdf")

    for more in ({}, {"inlineFiles": 1000}):
        (item,) = call("invoice", {}, **more)["items"]
        assert item["json"]["fileName"] == "Invoice 5/2024.pdf"
        assert item["binary"]["data"]["fileName"] == "Invoice 5/2024.pdf"
        assert "directory" not in item["binary"]["data"]


def test_a_file_that_is_too_large_for_n8n_fails_its_item(runner: Runner, call: Caller) -> None:
    @runner.function
    def film(mebibytes: int) -> File:
        return File(bytes(mebibytes * 2**20), "film.mp4")

    answer = call("film", {"mebibytes": 17}, {"mebibytes": 0}, inlineFiles=2**20, continueOnFail=True)
    (error,) = answer["errors"]
    assert error["message"] == "The file film.mp4 is too large for n8n"
    assert "It has 17825792 bytes; the files of one result may have 1048576." in error["description"]
    assert [item["pairedItem"] for item in answer["items"]] == [{"item": 1}]


def test_a_parameter_of_type_task_gets_the_task(runner: Runner, call: Caller, broker: Broker) -> None:
    @runner.function
    def log(task: Task, text: str) -> str:
        task.log(text)
        return task.type

    runner.start(wait=LIMIT)
    task = broker.submit(f"n8nrunner.{NAME}", call.settings("log", {"text": "hello"}), timeout=LIMIT)
    assert task.result(LIMIT)["items"][0]["json"] == {"result": f"n8nrunner.{NAME}"}
    assert task.logs == ["'hello'"]


# --- all items at once --------------------------------------------------------------------------------


def test_a_batch_gets_lists_for_parameters_that_are_lists_and_the_first_value_for_others(
    runner: Runner, call: Caller
) -> None:
    @runner.function(batch=True)
    def scale(number: List[int], factor: int = 1) -> List[int]:
        return [each * factor for each in number]

    answer = call("scale", {"number": 1, "factor": 10}, {"number": "2", "factor": 99})
    assert [item["json"]["result"] for item in answer["items"]] == [10, 20]
    assert [item["pairedItem"] for item in answer["items"]] == [{"item": 0}, {"item": 1}]


def test_a_single_result_of_a_batch_is_paired_with_all_items(runner: Runner, call: Caller) -> None:
    runner.function(name="total", batch=True)(total)
    (item,) = call("total", {"number": 1}, {"number": 2}, {"number": 3})["items"]
    assert item == {"json": {"result": 6}, "pairedItem": [{"item": 0}, {"item": 1}, {"item": 2}]}


def total(number: List[int]) -> int:
    if 13 in number:
        raise ValueError("13")
    return sum(number)


def test_a_batch_leaves_out_items_whose_arguments_do_not_fit(runner: Runner, call: Caller) -> None:
    runner.function(batch=True)(total)
    answer = call("total", {"number": 1}, {"number": "x"}, {"number": 3}, continueOnFail=True)
    assert answer["items"][0]["json"] == {"result": 4}
    assert answer["items"][0]["pairedItem"] == [{"item": 0}, {"item": 2}]
    assert [error["item"] for error in answer["errors"]] == [1]


def columns(name: List[str], score: List[float] = [], note: Optional[List[str]] = None) -> List[Any]:  # noqa: B006
    return [{"name": name, "score": score, "note": note}]


def test_the_columns_of_a_batch_stay_aligned(runner: Runner, call: Caller) -> None:
    runner.function(batch=True)(columns)
    rows = [{"name": "a"}, {"name": "b", "score": 2, "note": "x"}, {"name": "c", "score": 3}]
    answer = call("columns", *rows, continueOnFail=True)
    assert answer["items"][0]["json"] == {"name": ["b", "c"], "score": [2.0, 3.0], "note": ["x", None]}
    assert answer["items"][0]["pairedItem"] == [{"item": 1}, {"item": 2}]
    (error,) = answer["errors"]
    assert (error["item"], error["message"]) == (0, "score: expected a number, got nothing")
    assert call("columns", *rows)["items"] == []
    answer = call("columns", {"name": "a"}, {"name": "b"})
    assert answer["items"][0]["json"] == {"name": ["a", "b"], "score": [], "note": None}


@pytest.mark.parametrize("continue_on_fail", [True, False])
def test_a_batch_is_called_with_the_items_that_have_all_arguments(
    runner: Runner, call: Caller, continue_on_fail: bool
) -> None:
    called: List[Any] = []

    @runner.function(batch=True)
    def scale(number: List[int], other: List[int] = [], factor: int = 1) -> None:  # noqa: B006
        called.append((number, other, factor))

    # The first item lacks an argument that others have; the number of the second does not fit.
    rows = [{"number": 1, "factor": 3}, {"number": "x", "other": 1}, {"other": 2, "number": 2}]
    answer = call("scale", *rows, continueOnFail=continue_on_fail)
    if continue_on_fail:
        assert sorted(error["item"] for error in answer["errors"]) == [0, 1]
        assert called == [([2], [2], 1)]
    else:
        assert [error["item"] for error in answer["errors"]] == [1]
        assert called == []
    answer = call(
        "scale", {"number": 1, "factor": 3}, {"number": "x", "other": 1}, continueOnFail=continue_on_fail
    )
    assert [error["item"] for error in answer["errors"]] == [1]
    assert called == ([([2], [2], 1), ([1], [], 3)] if continue_on_fail else [])


def test_a_batch_whose_items_all_lack_an_argument_calls_nothing(runner: Runner, call: Caller) -> None:
    @runner.function(batch=True)
    def function(x: List[int] = [], y: List[int] = [], factor: int = 1) -> str:  # noqa: B006
        return "called"

    answer = call("function", {"x": 1, "factor": 3}, {"y": 2}, continueOnFail=True)
    assert answer["items"] == []
    assert [(error["item"], error["message"]) for error in answer["errors"]] == [
        (1, "x: expected an integer, got nothing"),
        (0, "y: expected an integer, got nothing"),
    ]


def test_an_exception_in_a_batch_fails_all_its_items(runner: Runner, call: Caller) -> None:
    runner.function(batch=True)(total)
    arguments = [{"number": 13}, {"number": 1}]
    assert [error["item"] for error in call("total", *arguments)["errors"]] == [0]
    answer = call("total", *arguments, continueOnFail=True)
    assert [error["item"] for error in answer["errors"]] == [0, 1]
    assert answer["items"] == []


# --- counts -------------------------------------------------------------------------------------------


def positive(number: int) -> int:
    if number <= 0:
        raise ValueError("not positive")
    return number


def counts_of(runner: Runner) -> Dict[str, int]:
    wait_until(lambda: runner.snapshot().taken == 0)
    counts = runner.snapshot().counts._asdict()
    return {name: count for name, count in counts.items() if count and name != "accepted"}


def calls_of(runner: Runner) -> Dict[str, Tuple[int, int]]:
    """How many calls of each function returned, and how many failed. Each has a duration."""
    functions = runner.snapshot().functions
    assert all(each.duration.count == each.calls == each.done + each.failed for each in functions)
    return {each.name: (each.done, each.failed) for each in functions}


def test_a_task_with_a_failed_call_counts_as_failed(runner: Runner, call: Caller) -> None:
    runner.function(positive)
    for number in (-1, -2, 3, -4, -5, -6, -7):
        call("positive", {"number": number})
    assert counts_of(runner) == {"done": 1, "failed": 6}
    assert calls_of(runner) == {"positive": (1, 6)}


def test_calls_are_counted_by_function(runner: Runner, call: Caller) -> None:
    runner.function(positive)
    runner.function(double)
    more = [{"number": number} for number in (1, 2, -3, "x")]
    call("positive", *more, continueOnFail=True)  # one raises, and one does not fit
    call("positive", *more)  # a value that does not fit fails before anything runs
    call("positive", *more[:3])  # the first two have run
    call("double", {"number": 1}, {"number": 2})
    assert counts_of(runner) == {"done": 1, "failed": 3}
    assert calls_of(runner) == {"double": (2, 0), "positive": (4, 4)}


def test_calls_of_a_batch_and_results_that_cannot_be_sent_count_as_failed(
    runner: Runner, call: Caller
) -> None:
    @runner.function(batch=True)
    def total(number: List[int]) -> int:
        return sum(number) // (0 if 13 in number else 1)

    @runner.function
    def unencodable(number: int) -> Any:
        return {number} if number else float(number)

    call("total", {"number": 1}, {"number": 2})
    call("total", {"number": 1}, {"number": 13}, {"number": 2})
    call("unencodable", {"number": 0}, {"number": 1}, continueOnFail=True)
    assert counts_of(runner) == {"done": 1, "failed": 2}
    # A batch is one call for all items.
    assert calls_of(runner) == {"total": (1, 1), "unencodable": (1, 1)}


@pytest.mark.parametrize("function", ["double", "unknown"])
def test_a_changed_or_unknown_function_counts_as_failed_at_the_last_try(
    function: str, runner: Runner, call: Caller
) -> None:
    runner.function(double)
    for last in (False, False, False, True):
        assert call(function, {"value": 1}, lastTry=last)["error"]["code"]
    assert counts_of(runner) == {"retried": 3, "failed": 1}
    # Names of functions that do not exist are not kept.
    assert calls_of(runner) == {"double": (0, 1) if function == "double" else (0, 0)}
    call(function, {"value": 1})  # an older node does not say which try is the last
    assert counts_of(runner) == {"retried": 3, "failed": 2}


# --- versions -----------------------------------------------------------------------------------------


def test_unknown_and_missing_arguments_mean_that_the_function_has_changed(
    runner: Runner, call: Caller
) -> None:
    runner.function(double)
    answer = call("double", {"value": 1})
    assert answer["error"]["code"] == "changed"
    assert "has no parameter 'value'" in answer["error"]["message"]
    assert "'number' is missing" in answer["error"]["message"]
    assert answer["error"]["function"]["parameters"][0]["name"] == "number"


def test_an_error_names_at_most_twenty_differences(runner: Runner, call: Caller) -> None:
    runner.function(double)
    answer = call("double", {f"value{number}": 1 for number in range(1000)})
    assert "no parameter 'value19', and 981 more" in answer["error"]["message"]


def test_a_value_that_does_not_fit_means_a_change_if_the_signature_differs(
    runner: Runner, call: Caller
) -> None:
    runner.function(double)
    assert call("double", {"number": "x"}, signature="old")["error"]["code"] == "changed"
    assert call("double", {"number": 4}, signature="old")["items"][0]["json"] == {"result": 8}


def test_no_call_is_made_if_the_function_has_changed(runner: Runner, call: Caller) -> None:
    called: List[int] = []

    @runner.function
    def note(number: int) -> None:
        called.append(number)

    answer = call("note", {"number": 1}, {"number": "x"}, signature="old")
    assert answer["error"]["code"] == "changed"
    assert called == []


@pytest.mark.parametrize("batch", [False, True])
def test_a_task_without_calls_returns_no_items(runner: Runner, call: Caller, batch: bool) -> None:
    runner.function(batch=batch)(double)
    assert call("double") == {"version": 1, "items": [], "errors": []}


def test_arguments_may_be_a_json_string(runner: Runner, call: Caller) -> None:
    def takes(value: Any, constructor: str) -> Any:
        return {"got": [value, constructor]}

    runner.function(takes)
    text = '{"value": {"__proto__": 1}, "constructor": "x"}'
    answer = call("takes", text)  # type: ignore[arg-type]
    assert answer["items"] == [{"json": {"got": [{"__proto__": 1}, "x"]}, "pairedItem": {"item": 0}}]


@pytest.mark.parametrize("text", ["", "[1]", '"text"', "[" * 100_000])
def test_a_string_that_is_not_a_json_object_of_arguments_is_refused(
    runner: Runner, call: Caller, text: str
) -> None:
    runner.function(double)
    with pytest.raises(BrokerTaskError, match="not sent by a node of n8nrunner"):
        call("double", text)  # type: ignore[arg-type]


def test_an_unknown_function_is_refused_with_the_known_names(runner: Runner, call: Caller) -> None:
    runner.function(double)
    answer = call("triple", {"number": 1})
    assert answer["error"]["code"] == "unknown_function"
    assert "it has double" in answer["error"]["message"]


def test_a_node_with_a_newer_version_is_refused(runner: Runner, call: Caller) -> None:
    runner.function(double)
    assert call("double", {"number": 1}, version=2)["error"]["code"] == "newer_node"


@pytest.mark.parametrize(
    "settings",
    [None, 5, [], {}, {"function": 5}, {"version": 1, "function": "double"}]
    + [
        {"version": 1, "function": "double", "calls": calls}
        for calls in (5, [5], [{}], [{"item": "x", "arguments": {}}], [{"item": 0, "arguments": []}])
    ],
)
def test_settings_of_another_node_are_refused(broker: Broker, runner: Runner, settings: Any) -> None:
    runner.function(double)
    runner.start(wait=LIMIT)
    with pytest.raises(BrokerTaskError, match="not sent by a node of n8nrunner"):
        broker.run_task(f"n8nrunner.{NAME}", settings, timeout=LIMIT)


def test_a_function_that_is_registered_again_serves_the_next_task(runner: Runner, call: Caller) -> None:
    runner.function(double)
    assert call("double", {"number": 2})["items"][0]["json"] == {"result": 4}
    runner.function(name="double")(lambda number: number * 10)
    assert call("double", {"number": 2})["items"][0]["json"] == {"result": 20}


def test_registering_does_not_change_a_dictionary_that_other_threads_read() -> None:
    functions = dispatch.Functions()
    functions.add(make_function(double, None, False, None))
    before = functions.by_name
    functions.add(make_function(fails_for_two, None, False, None))
    assert list(before) == ["double"]
    assert list(functions.by_name) == ["double", "fails_for_two"]


def test_a_function_registered_while_the_runner_runs_is_offered(broker: Broker, call: Caller) -> None:
    call.runner.task("other")(lambda task: None)
    call.runner.start(wait=LIMIT)
    call.runner.function(limit=1)(double)
    answer = call("double", {"number": 2}, type=f"n8nrunner.{NAME}.double")
    assert answer["items"][0]["json"] == {"result": 4}


def test_a_node_written_before_a_limit_was_removed_still_works(call: Caller) -> None:
    call.runner.function(limit=1)(double)
    call.runner.start(wait=LIMIT)
    call.runner.function(double)
    answer = call("double", {"number": 2}, type=f"n8nrunner.{NAME}.double")
    assert answer["items"][0]["json"] == {"result": 4}


# --- other processes ----------------------------------------------------------------------------------


def where(document: File) -> Dict[str, Any]:
    return {"pid": os.getpid(), "size": len(document.read()), "copy": document}


def test_functions_run_in_other_processes_with_their_files(
    broker: Broker, processes: concurrent.futures.Executor
) -> None:
    runner = Runner(broker.url, auth_token=TOKEN, name=NAME, executor=processes)
    runner.function(limit=1)(where)
    try:
        document = {"$file": "data", "content": "aGVsbG8="}
        call = Caller(broker, runner)
        answer = call("where", {"document": document}, type=f"n8nrunner.{NAME}.where", inlineFiles=100)
    finally:
        runner.stop()
    (item,) = answer["items"]
    assert item["json"]["size"] == 5
    assert item["json"]["pid"] != os.getpid()
    assert item["binary"]["copy"] == {"content": "aGVsbG8="}


def wait_for_file(path: str, task: Task) -> None:
    while not os.path.exists(path):
        task.wait_for_cancel(0.01)


def test_a_time_limit_of_the_node_ends_a_call_in_another_process(
    tmp_path: Path, broker: Broker, processes: concurrent.futures.Executor
) -> None:
    path = tmp_path / "continue"
    runner = Runner(broker.url, auth_token=TOKEN, name=NAME, executor=processes)
    runner.function(wait_for_file)
    try:
        with pytest.raises(BrokerTaskError, match=r"timed out after 0\.1 seconds") as caught:
            Caller(broker, runner)("wait_for_file", {"path": str(path)}, timeLimit=0.1)
        assert "node's author" in str(caught.value.description)
    finally:
        path.touch()
        runner.stop()


# --- limits and cancellation ----------------------------------------------------------------------------


@pytest.mark.parametrize("own_type", [True, False])
def test_a_limit_covers_the_calls_of_both_task_types(
    broker: Broker, runner: Runner, call: Caller, own_type: bool
) -> None:
    inside, most = 0, 0
    counting = threading.Lock()

    @runner.function(limit=1)
    def alone(task: Task) -> None:
        nonlocal inside, most
        with counting:
            inside += 1
            most = max(most, inside)
        task.wait_for_cancel(0.02)
        with counting:
            inside -= 1

    runner.start(wait=LIMIT)
    task_type = f"n8nrunner.{NAME}.alone" if own_type else f"n8nrunner.{NAME}"
    tasks = [broker.submit(task_type, call.settings("alone", {}), timeout=LIMIT) for _ in range(6)]
    assert [task.result(LIMIT)["errors"] for task in tasks] == [[]] * 6
    assert most == 1


@pytest.mark.parametrize("is_removed", [False, True])
def test_a_limit_holds_while_a_function_is_replaced(
    broker: Broker, runner: Runner, call: Caller, is_removed: bool
) -> None:
    begun, may_continue, ran = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        begun.set()
        assert may_continue.wait(LIMIT)

    runner.function(name="alone", limit=1)(first)
    runner.start(wait=LIMIT)
    old = broker.submit(f"n8nrunner.{NAME}", call.settings("alone", {}), timeout=LIMIT)
    assert begun.wait(LIMIT)
    if is_removed:
        runner.remove("alone")
    runner.function(name="alone", limit=1)(lambda: ran.set())
    new = broker.submit(f"n8nrunner.{NAME}", call.settings("alone", {}), timeout=LIMIT)
    broker.wait_for(lambda counts: counts.running == 2)
    assert not ran.wait(0.3)
    may_continue.set()
    assert [task.result(LIMIT)["errors"] for task in (old, new)] == [[], []]
    assert ran.is_set()


def test_a_generator_runs_within_the_limit(broker: Broker, runner: Runner, call: Caller) -> None:
    inside, most = 0, 0
    counting = threading.Lock()

    @runner.function(limit=1)
    def rows(task: Task) -> Iterator[int]:
        nonlocal inside, most
        for row in range(3):
            with counting:
                inside += 1
                most = max(most, inside)
            task.wait_for_cancel(0.01)
            with counting:
                inside -= 1
            yield row

    runner.start(wait=LIMIT)
    settings = call.settings("rows", {})
    tasks = [broker.submit(f"n8nrunner.{NAME}", settings, timeout=LIMIT) for _ in range(4)]
    assert [len(task.result(LIMIT)["items"]) for task in tasks] == [3] * 4
    assert most == 1


def test_an_endless_generator_ends_with_its_task(broker: Broker, runner: Runner, call: Caller) -> None:
    begun, ended = threading.Event(), threading.Event()

    @runner.function
    def rows(task: Task) -> Iterator[int]:
        try:
            while True:
                begun.set()
                task.wait_for_cancel(0.01)
                yield 1
        finally:
            ended.set()

    runner.start(wait=LIMIT)
    task = broker.submit(f"n8nrunner.{NAME}", call.settings("rows", {}), timeout=LIMIT)
    assert begun.wait(LIMIT)
    task.cancel("enough")
    assert ended.wait(LIMIT)


@pytest.mark.parametrize("size", [1, 2 * LARGE_MESSAGE])
def test_a_time_limit_of_the_node_ends_its_calls(runner: Runner, call: Caller, size: int) -> None:
    """Large settings are decoded by the handler's thread."""
    seen: list[float] = []

    @runner.function
    def wait(text: str, task: Task) -> None:
        seen.append(task.deadline - time.monotonic())
        task.wait_for_cancel(LIMIT)

    with pytest.raises(BrokerTaskError) as caught:
        call("wait", {"text": "x" * size}, {"text": ""}, timeLimit=1)
    assert caught.value.message == "Task execution timed out after 1 second"
    assert caught.value.description == "The node's author set this limit (Time Limit, under Options)."
    assert seen[0] < 1
    assert len(seen) == 1
    assert runner.snapshot().counts.timed_out == 1


@pytest.mark.parametrize(
    ("limit", "shown"),
    [(0, "a lower number"), (-1, "a lower number"), (True, "bool"), ("30", "str"), ([1], "list")],
)
def test_an_invalid_time_limit_is_refused(call: Caller, limit: Any, shown: str) -> None:
    calls: List[int] = []
    call.runner.function(name="count")(lambda: calls.append(1))
    with pytest.raises(BrokerTaskError) as caught:
        call("count", {}, timeLimit=limit)
    assert caught.value.message == (
        f"The node's time limit is not valid: expected a number of seconds above 0, got {shown}"
    )
    assert "under Options" in str(caught.value.description)
    assert calls == []


def test_a_time_limit_of_the_node_does_not_extend_the_runners(broker: Broker) -> None:
    runner = Runner(broker.url, auth_token=TOKEN, name=NAME, task_timeout=1)

    @runner.function
    def wait(task: Task) -> None:
        task.wait_for_cancel(LIMIT)

    try:
        with pytest.raises(BrokerTaskError, match="timed out after 1 second") as caught:
            Caller(broker, runner)("wait", {}, timeLimit=5)
        assert "N8N_RUNNERS_TASK_TIMEOUT" in str(caught.value.description)
    finally:
        runner.stop()


def test_a_cancelled_task_makes_no_further_calls(broker: Broker, runner: Runner, call: Caller) -> None:
    called: List[int] = []
    begun, cancelled = threading.Event(), threading.Event()

    @runner.function
    def wait(number: int, task: Task) -> None:
        called.append(number)
        begun.set()
        if task.wait_for_cancel(LIMIT):
            cancelled.set()

    runner.start(wait=LIMIT)
    settings = call.settings("wait", {"number": 1}, {"number": 2}, continueOnFail=True)
    task = broker.submit(f"n8nrunner.{NAME}", settings, timeout=LIMIT)
    assert begun.wait(LIMIT)
    task.cancel("enough")
    assert cancelled.wait(LIMIT)
    with pytest.raises(BrokerTaskCancelled):
        task.result(LIMIT)
    runner.stop()
    assert called == [1]


# --- registering --------------------------------------------------------------------------------------


async def later() -> None: ...


@pytest.mark.parametrize(
    ("function", "options", "said"),
    [
        (5, {}, "expected a function"),
        (int, {}, "expected a function"),
        (later, {}, "without async"),
        (lambda: 1, {}, "give it one"),
        (lambda: 1, {"name": "2x"}, "does not begin with a digit"),
        (double, {"limit": 0}, "expected an integer of 1 or more"),
        (double, {"limit": True}, "expected an integer of 1 or more"),
        (lambda docs: 1, {"name": "none", "hint": Empty}, "an Enum without members"),
        (
            lambda docs: 1,
            {"name": "b", "hint": Annotated[list, From(1)], "batch": True},
            "has no bounds",
        ),
    ],
)
def test_a_function_that_cannot_work_is_refused(function: Any, options: Dict[str, Any], said: str) -> None:
    if "hint" in options:
        function.__annotations__ = {"docs": options.pop("hint")}
    with pytest.raises(ConfigurationError, match=said):
        Runner(auth_token=TOKEN, name=NAME).function(**options)(function)


def record_of(hint: Any) -> Any:
    return dataclasses.make_dataclass("Record", [("file", hint)])


@pytest.mark.parametrize(
    "hint",
    [
        List[File], Dict[str, File], Union[File, str], Union[List[File], int], record_of(File),
        record_of(Optional[File]), record_of(Annotated[File, "A scan"]), record_of(List[File]),
        List[record_of(File)], Folder,
    ],
)  # fmt: skip
def test_a_file_inside_of_another_type_is_refused(hint: Any) -> None:
    def function(value: Any) -> None: ...

    function.__annotations__["value"] = hint
    with pytest.raises(ConfigurationError, match="a File inside of another type"):
        Runner(auth_token=TOKEN, name=NAME).function(function)


if TYPE_CHECKING:
    from decimal import Decimal as OnlyForTypeCheckers


def test_the_hint_of_the_result_is_not_evaluated(runner: Runner, call: Caller) -> None:
    @runner.function
    def price(number: int) -> OnlyForTypeCheckers:
        return number  # type: ignore[return-value]

    assert call("price", {"number": "3"})["items"][0]["json"] == {"result": 3}


@pytest.mark.parametrize("name", ["n8nrunner", "My Shop"])
def test_a_runner_with_functions_needs_a_valid_name(broker: Broker, name: str) -> None:
    runner = Runner(broker.url, auth_token=TOKEN, name=name)
    runner.function(double)
    with pytest.raises(ConfigurationError, match="its own name"):
        runner.start(wait=LIMIT)
    assert runner.state == "new"


@pytest.mark.parametrize(("name", "shared"), [("elsewhere", False), (NAME, True)])
def test_runners_of_other_names_or_shared_ones_run_at_the_same_time(
    new_runner: Callable[..., Runner], caplog: pytest.LogCaptureFixture, name: str, shared: bool
) -> None:
    runners = [new_runner(name=each, shared=shared) for each in (NAME, name)]
    for runner in runners:
        runner.function(double)
        runner.start(wait=LIMIT)
    assert [runner.state for runner in runners] == ["running", "running"]
    assert "takes over" not in caplog.text


@pytest.mark.parametrize("shared", [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("is_late", [False, True])
def test_a_newer_runner_of_a_name_takes_over(
    broker: Broker,
    new_runner: Callable[..., Runner],
    caplog: pytest.LogCaptureFixture,
    shared: Tuple[bool, bool],
    is_late: bool,
) -> None:
    """A notebook's cell that builds a runner is run again. The earlier runner finishes its calls."""
    may_continue, called = threading.Event(), threading.Event()
    older = new_runner(name=NAME, shared=shared[0])

    @older.function
    def version() -> str:
        called.set()
        may_continue.wait(LIMIT)
        return "older"

    older.start(wait=LIMIT)
    settings = {"version": 1, "function": "version", "calls": [{"item": 0, "arguments": {}}]}
    running = broker.submit(f"n8nrunner.{NAME}", settings)
    assert called.wait(LIMIT)

    newer = new_runner(name=NAME, shared=shared[1])
    if is_late:
        newer.start(wait=LIMIT)
    newer.function(name="version")(lambda: "newer")
    newer.start(wait=LIMIT)
    wait_until(lambda: older.state == "stopping")
    may_continue.set()
    assert running.result(LIMIT)["items"][0]["json"] == {"result": "older"}
    assert older.join(LIMIT)
    for _ in range(5):
        answer = broker.run_task(f"n8nrunner.{NAME}", settings, timeout=LIMIT)
        assert answer["items"][0]["json"] == {"result": "newer"}
    assert caplog.text.count("takes over") == 1


def test_a_newer_runner_takes_over_from_one_that_has_nothing_yet(new_runner: Callable[..., Runner]) -> None:
    """A notebook's cell that builds a runner is run again, before the cell of the first function."""
    older, busy, newer = (new_runner(name=NAME) for _ in range(3))
    busy.task("other")(lambda task: None)
    for runner in (older, busy, newer):
        runner.start(wait=LIMIT)
    assert older.state == "running"
    newer.function(double)
    assert older.join(LIMIT)
    assert (busy.state, newer.state) == ("running", "running")


def test_a_runner_without_a_name_gets_one() -> None:
    runner = Runner(auth_token=TOKEN)
    runner._use_name("My.Jobs")
    assert runner.config.name == "my_jobs"
    runner._use_name("another")
    assert runner.config.name == "my_jobs"


@pytest.mark.parametrize("name", ["\u4ed5\u4e8b", "_"])
def test_a_runner_stays_without_a_name_if_the_module_s_has_no_allowed_character(name: str) -> None:
    runner = Runner(auth_token=TOKEN)
    runner._use_name(name)
    assert runner.config.name == DEFAULT_NAME


def test_a_name_leaves_the_other_settings_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner(auth_token=TOKEN)
    before = directory_of(runner.config)
    monkeypatch.chdir(tmp_path)
    runner._use_name("a" * 100)
    assert (runner.config.name, directory_of(runner.config)) == ("a" * 64, before)
