"""Python functions as a node of a real n8n: `MECHANISMS` and the tests below it, a row for each mechanism."""

from __future__ import annotations

import concurrent.futures
import signal
import sys
import time
from pathlib import Path
from typing import Any, Callable, NamedTuple

import pytest

from .conftest import in_both_modes
from .n8n import N8n, Workflow, function_node, job_node, webhook_node
from .runners import RunnerProcess

pytestmark = pytest.mark.n8n

StartRunner = Callable[..., RunnerProcess]

SCRIPT = Path(__file__).with_name("functions_script.py")


@pytest.fixture
def start_functions(start_runner: StartRunner) -> StartRunner:
    """Starts a runner of the functions."""

    def start(**variables: Any) -> RunnerProcess:
        return start_runner("functions", command=[sys.executable, str(SCRIPT)], **variables)

    return start


class Row(NamedTuple):
    """One mechanism: what the node's fields hold, and what comes out."""

    what: str
    operation: str
    fields: dict[str, Any]
    #: The JSON of the items that come out, or the beginning of the error's message.
    expected: Any
    body: Any = None


def got(text: str) -> list[dict[str, str]]:
    return [{"got": text}]


#: Properties of every object in JavaScript, and a field of the node.
JAVASCRIPT_NAMES = [
    "constructor", "toString", "valueOf", "hasOwnProperty", "isPrototypeOf", "propertyIsEnumerable",
    "toLocaleString", "__proto__", "__defineGetter__", "prototype", "options",
]  # fmt: skip

LEFT_OUT = "value: expected a string, got nothing"

MECHANISMS = [
    # -- parameter types
    Row("str", "takes_string", {"value": "Grüße"}, got("'Grüße'")),
    Row("str, of an expression that gives a number", "takes_string", {"value": "={{ 42 }}"}, got("'42'")),
    Row(
        "str, of an item", "takes_string", {"value": "={{ $json.body.name }}"}, got("'Ada'"), {"name": "Ada"}
    ),
    Row("int", "takes_integer", {"value": 3}, got("3")),
    Row("int, of a string", "takes_integer", {"value": "={{ '3' }}"}, got("3")),
    Row(
        "int, of something else",
        "takes_integer",
        {"value": "={{ 3.5 }}"},
        "value: expected an integer",
    ),
    Row("float", "takes_number", {"value": 2.5}, got("2.5")),
    Row("bool", "takes_boolean", {"value": True}, got("True")),
    Row("Literal", "takes_literal", {"value": "blue"}, got("'blue'")),
    Row(
        "Literal, none of them", "takes_literal", {"value": "={{ 'green' }}"}, 'value: expected one of "red"'
    ),
    Row("Enum", "takes_enum", {"value": 2}, got("<Priority.VERY_HIGH: 2>")),
    Row("Enum, by its title", "takes_enum", {"value": "={{ 'Very High' }}"}, got("<Priority.VERY_HIGH: 2>")),
    Row("date", "takes_date", {"value": "2024-05-06T00:00:00"}, got("datetime.date(2024, 5, 6)")),
    Row("list, as JSON", "takes_list", {"value": '[1, "a"]'}, got("[1, 'a']")),
    Row("list, of an expression", "takes_list", {"value": "={{ [1, 2] }}"}, got("[1, 2]")),
    Row("list of int", "takes_list_of_numbers", {"value": "[1, 2]"}, got("[1, 2]")),
    Row(
        "list of int, wrong",
        "takes_list_of_numbers",
        {"value": '[1, "x"]'},
        "value[1]: expected an integer",
    ),
    Row("no JSON", "takes_list", {"value": "[1,"}, "value: expected a list, written as JSON"),
    Row("tuple", "takes_tuple", {"value": '[1, "a"]'}, got("(1, 'a')")),
    Row("set", "takes_set", {"value": '["a", "a"]'}, got("{'a'}")),
    Row("dict", "takes_dict", {"value": "={{ $json.body }}"}, got("{'a': {'b': 1}}"), {"a": {"b": 1}}),
    Row(
        "dataclass", "takes_dataclass", {"value": '{"city": "Bonn"}'}, got("Address(city='Bonn', zip_code=0)")
    ),
    Row(
        "dataclass, wrong inside",
        "takes_dataclass",
        {"value": '{"city": []}'},
        "value.city: expected a string",
    ),
    Row("TypedDict", "takes_typed_dict", {"value": '{"depth": 2}'}, got("{'depth': 2}")),
    Row("NamedTuple", "takes_named_tuple", {"value": "[1]"}, got("Point(x=1.0, y=0.0)")),
    Row("pydantic", "takes_model", {"value": '{"number": "7"}'}, got("Order(number=7, lines=[])")),
    Row("pydantic, wrong", "takes_model", {"value": '{"number": "x"}'}, "value.number: expected"),
    Row("Optional, left out", "takes_optional", {}, got("None")),
    Row("Optional, given", "takes_optional", {"additionalFields": {"value": 5}}, got("5")),
    Row("Union", "takes_union", {"value": "={{ 5 }}"}, got("5")),
    Row("Annotated with bounds", "takes_bounded", {"value": 10}, got("10")),
    Row(
        "Annotated, out of bounds",
        "takes_bounded",
        {"value": 11},
        "value: expected an integer, at least 1",
    ),
    Row(
        "takes_anything", "takes_anything", {"value": "={{ JSON.parse('{\"a\": [1]}') }}"}, got("{'a': [1]}")
    ),
    Row("a default", "takes_default", {}, got("'as it stands'")),
    # -- names and texts with a meaning of their own in JavaScript or n8n
    Row(
        "names of JavaScript",
        "takes_names",
        {f"{name}_": name for name in JAVASCRIPT_NAMES},
        [{"names": sorted(JAVASCRIPT_NAMES)}],
    ),
    Row(
        "names of JavaScript, of expressions",
        "takes_names",
        {f"{name}_": f"={{{{ '{name}' }}}}" for name in JAVASCRIPT_NAMES},
        [{"names": sorted(JAVASCRIPT_NAMES)}],
    ),
    Row("names of JavaScript, left out", "takes_optional_names", {}, [{"names": [None, None, None]}]),
    Row(
        "names of JavaScript, as additional fields",
        "takes_optional_names",
        {"additionalFields": {"constructor_": "c", "__proto___": "_", "prototype_": "p"}},
        [{"names": ["c", "_", "p"]}],
    ),
    Row("a function's name of JavaScript", "constructor", {"text": "x"}, [{"result": "x"}]),
    Row(
        "keys that n8n removes",
        "takes_dict",
        {"value": '{"constructor": {"__proto__": 1}, "prototype": 2}'},
        got("{'constructor': {'__proto__': 1}, 'prototype': 2}"),
    ),
    Row("a choice that is an expression's mark", "takes_operator", {}, got("'='")),
    Row("another such choice", "takes_operator", {"value": "==="}, got("'=='")),
    Row("a choice outside of these", "takes_operator", {"value": "<"}, got("'<'")),
    Row("a default that begins with =", "takes_formula", {}, got("'=SUM(A1:A3)'")),
    Row("a default that looks like an expression", "takes_braces", {}, got("'={{ 1 + 1 }}'")),
    # -- types of results
    Row("gives a dict", "gives_dict", {}, [{"a": 1}]),
    Row("gives a list of dicts", "gives_list", {}, [{"a": 1}, {"a": 2}]),
    Row("gives a number", "gives_number", {}, [{"result": 1.5}]),
    Row("gives a text", "gives_string", {}, [{"result": "text"}]),
    Row("gives None", "gives_nothing", {}, [{}]),
    Row("gives a dataclass", "gives_dataclass", {}, [{"city": "Berlin", "zip_code": 10115}]),
    Row("gives a pydantic model", "gives_model", {}, [{"number": 1, "lines": ["a"]}]),
    Row("gives NumPy", "gives_numpy", {}, [{"array": [0, 1, 2], "number": 0.5}]),
    Row("gives a DataFrame", "gives_frame", {}, [{"name": "a", "size": 1}, {"name": "b", "size": 2}]),
    Row("gives a Series", "gives_series", {}, [{"name": "a", "size": 1}]),
    Row("gives times", "gives_times", {}, [{"at": "2024-05-06T07:08:00", "on": "2024-05-06"}]),
    Row("gives a Decimal", "gives_decimal", {}, [{"price": "9.90"}]),
    Row("gives NaN", "gives_nan", {}, [{"missing": None, "there": 1}]),
    Row("gives an item of n8n", "gives_item", {}, [{"a": 1}]),
    Row("gives a generator", "gives_rows", {"count": 3}, [{"row": 0}, {"row": 1}, {"row": 2}]),
    Row("a field that an expression leaves empty", "takes_string", {"value": "={{ undefined }}"}, LEFT_OUT),
    Row("anything, by a default", "takes_default_anything", {}, got("'as it stands'")),
    Row("gives no JSON", "gives_no_json", {}, "The result cannot be sent to n8n"),
    # -- errors
    Row("words that n8n has others for", "says_why", {"reason": "Got ECONNREFUSED"}, "Got ECONNREFUSED"),
    Row("raises", "fails_for", {"number": 2}, "ValueError: 2 is bad"),
    Row("raises a TaskError", "says_why", {"reason": "There is no such lead"}, "There is no such lead"),
    Row("an operation that is gone", "was_there", {}, 'This node has no operation "was_there"'),
    Row("no such file", "read_file", {"document": "data"}, 'The item has no file "data"'),
    Row("a file that need not be", "maybe_file", {}, [{"result": False}]),
]


#: Of what a workflow in Warsaw sends and gets.
WARSAW = {"timezone": "Europe/Warsaw"}
IN_WARSAW = "tzinfo=zoneinfo.ZoneInfo(key='Europe/Warsaw')"
ROUNDED = "value: expected an integer (n8n's numbers are exact up to 9007199254740991 only: send this one"
CONVERSIONS = [
    Row("int that n8n rounds", "takes_integer", {"value": "={{ 7615917337495251231 }}"}, ROUNDED),
    Row(
        "int that n8n rounds, in a list",
        "takes_list_of_numbers",
        {"value": "={{ [1, 2**60] }}"},
        "value[1]: expected",
    ),
    Row(
        "str of a number that n8n rounds",
        "takes_string",
        {"value": "={{ 7615917337495251231 }}"},
        "value: expected a string (n8n's numbers are exact up to 9007199254740991 only",
    ),
    Row(
        "int of 19 digits, as a string",
        "takes_integer",
        {"value": "={{ '7615917337495251231' }}"},
        got("7615917337495251231"),
    ),
    Row("JSON with 19 digits", "takes_list_of_numbers", {"value": f"[{2**60}]"}, got(f"[{2**60}]")),
    Row("float that is large", "takes_number", {"value": "={{ 2**60 }}"}, got(repr(float(2**60)))),
    Row(
        "int that only Python reads",
        "takes_integer",
        {"value": "={{ '12_34' }}"},
        'value: expected an integer, got "12_34"',
    ),
    Row(
        "float that only Python reads",
        "takes_number",
        {"value": "={{ '1_0' }}"},
        'value: expected a number, got "1_0"',
    ),
    Row(
        "record without a member",
        "takes_dataclass",
        {"value": "{}"},
        "value.city: expected a string, got nothing",
    ),
    Row(
        "datetime, from the field",
        "takes_datetime",
        {"value": "2024-05-06T09:00:00"},
        got(f"datetime.datetime(2024, 5, 6, 9, 0, {IN_WARSAW})"),
    ),
    Row(
        "datetime, in UTC",
        "takes_datetime",
        {"value": "2024-05-05T22:00:00.000Z"},
        got(f"datetime.datetime(2024, 5, 6, 0, 0, {IN_WARSAW})"),
    ),
    Row(
        "datetime, of an expression",
        "takes_datetime",
        {"value": "={{ DateTime.fromISO('2024-05-06T07:08:09Z') }}"},
        got(f"datetime.datetime(2024, 5, 6, 9, 8, 9, {IN_WARSAW})"),
    ),
    Row(
        "datetime that the clocks leave out",
        "takes_datetime",
        {"value": "={{ DateTime.fromISO('2024-03-31T02:30:00') }}"},
        got(f"datetime.datetime(2024, 3, 31, 3, 30, {IN_WARSAW})"),
    ),
    Row(
        "date, of a database",
        "takes_date",
        {"value": "2024-05-05T22:00:00.000Z"},
        got("datetime.date(2024, 5, 6)"),
    ),
    Row(
        "date, from the field",
        "takes_date",
        {"value": "2024-05-06T00:00:00"},
        got("datetime.date(2024, 5, 6)"),
    ),
    Row(
        "gives an integer that n8n would round",
        "gives_large_integer",
        {},
        [{"id": "7615917337495251231", "all": [2**53 - 1, "9007199254740992"], "share": 0.1 + 0.2}],
    ),
    Row(
        "gives half of a character", "gives_half_a_character", {}, [{"half": "\ud83d", "whole": "\U0001f600"}]
    ),
    Row(
        "gives too many digits",
        "gives_too_many_digits",
        {},
        "The result cannot be sent to n8n: result['digits'][0] is an integer of more digits than",
    ),
    Row(
        "gives what contains itself",
        "gives_loop",
        {"number": 1},
        "The result cannot be sent to n8n: result['loop'][0] contains itself",
    ),
    Row(
        "gives a file alone",
        "gives_invoice",
        {},
        [{"fileName": "Invoice 5/2024.pdf", "mimeType": "application/pdf", "size": 4}],
    ),
    Row(
        "Enum of initials",
        "get_user_ids_of_api",
        {"api_url": "x", "region": "={{ 'EU' }}"},
        [{"region": "EU"}],
    ),
]


def run(n8n: N8n, name: str, *nodes: dict[str, Any], **settings: Any) -> Workflow:
    path = f"functions-{name}"  # other tests' workflows are in the same n8n
    return n8n.create_workflow(path, [webhook_node(path), *nodes], settings)


def error_of(workflow: Workflow) -> dict[str, Any]:
    return workflow.wait_for_execution("error").error


def wrong_rows(
    n8n: N8n,
    name: str,
    rows: list[Row],
    make_node: Callable[..., dict[str, Any]] = function_node,
    **settings: Any,
) -> list[str]:
    """Return the differences between the results of rows and their expectations.

    `make_node` takes the keywords of `function_node`.
    """

    def outcome(number: int, row: Row) -> str | None:
        workflow = run(n8n, f"{name}-{number}", make_node(row.operation, **row.fields), **settings)
        response = workflow.call(row.body)
        if isinstance(row.expected, str):
            message = error_of(workflow)["message"]
            return None if message.startswith(row.expected) else f"{row.what}: {message}"
        if response.status_code != 200:
            return f"{row.what}: {error_of(workflow)['message']}"
        return None if response.json() == row.expected else f"{row.what}: {response.text}"

    # Four at a time, because each is a workflow of its own, and n8n takes its time to activate one.
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        return [text for text in pool.map(outcome, range(len(rows)), rows) if text]


@in_both_modes
def test_every_mechanism_of_a_function_works_in_a_workflow(n8n: N8n, start_functions: StartRunner) -> None:
    start_functions()
    wrong = wrong_rows(n8n, "mechanism", MECHANISMS)
    assert not wrong, "\n".join(wrong)
    assert len(MECHANISMS) >= 50


def test_every_type_of_parameter_is_converted(n8n: N8n, start_functions: StartRunner) -> None:
    start_functions()
    wrong = wrong_rows(n8n, "conversion", CONVERSIONS, **WARSAW)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("size", [4, 1])
def test_an_item_that_cannot_be_written_does_not_stop_the_others(
    n8n: N8n, start_functions: StartRunner, size: int
) -> None:
    start_functions()
    node = function_node(
        "gives_loop", number="={{ $json.row }}", onError="continueRegularOutput", options={"batchSize": size}
    )
    first, second, third = run(n8n, f"loop-{size}", numbers(3), node).call().json()
    assert (first, third) == ({"number": 0}, {"number": 2})
    assert second == {"error": "The result cannot be sent to n8n: result['loop'][0] contains itself"}


def test_a_file_keeps_a_name_with_a_slash(n8n: N8n, start_functions: StartRunner) -> None:
    start_functions()
    workflow = run(n8n, "invoice", function_node("gives_invoice"))
    assert workflow.call().status_code == 200
    (item,) = workflow.wait_for_execution("success").output_of("Functions")
    assert item["binary"]["data"]["fileName"] == "Invoice 5/2024.pdf"
    assert item["binary"]["data"]["mimeType"] == "application/pdf"


def numbers(count: int) -> dict[str, Any]:
    """A node that puts out numbered items."""
    return function_node("gives_rows", name="Rows", count=count)


def test_each_item_gets_a_call_and_is_paired_with_its_result(n8n: N8n, start_functions: StartRunner) -> None:
    start_functions()
    each = function_node("double", number="={{ $json.row }}", options={"batchSize": 3})
    workflow = run(n8n, "paired", numbers(8), each)

    assert workflow.call().json() == [{"result": 2 * number} for number in range(8)]
    items = workflow.wait_for_execution("success").output_of("Functions")
    assert [item["pairedItem"] for item in items] == [{"item": number} for number in range(8)]


def test_a_batch_function_gets_all_items_at_once(n8n: N8n, start_functions: StartRunner) -> None:
    start_functions()
    ranked = run(n8n, "rank", numbers(3), function_node("rank", number="={{ $json.row }}", label="place"))
    assert ranked.call().json() == [{"place": 3}, {"place": 2}, {"place": 1}]

    summed = run(n8n, "total", numbers(4), function_node("total", number="={{ $json.row }}"))
    assert summed.call().json() == [{"result": 6}]
    (item,) = summed.wait_for_execution("success").output_of("Functions")
    assert item["pairedItem"] == [{"item": number} for number in range(4)]


def test_the_batch_size_spreads_items_over_tasks(n8n: N8n, start_functions: StartRunner) -> None:
    start_functions()
    node = function_node("task_of", number="={{ $json.row }}", options={"batchSize": 2, "parallelTasks": 3})
    found = run(n8n, "spread", numbers(7), node).call().json()

    assert [each["number"] for each in found] == list(range(7))
    assert len({each["task"] for each in found}) == 4


def test_files_go_in_and_out(n8n: N8n, start_functions: StartRunner) -> None:
    start_functions()
    workflow = run(n8n, "files", function_node("read_file", document="upload0"))
    content = bytes(range(256)) * 10

    response = workflow.call(files={"upload0": ("all.bin", content, "application/x-test")})

    about = {"size": 2560, "name": "all.bin", "mime": "application/x-test"}
    assert response.json() == [{**about, "copy": {"size": 2560}}]
    (item,) = workflow.wait_for_execution("success").output_of("Functions")
    assert item["binary"]["copy"]["fileSize"] in ("2.56 kB", "2560 B", "2.5 kB"), item


@pytest.mark.parametrize("operation", ["gives_file", "gives_bytes"])
def test_a_function_creates_files(n8n: N8n, start_functions: StartRunner, operation: str) -> None:
    start_functions()
    workflow = run(n8n, operation, function_node(operation))
    assert workflow.call().status_code == 200
    (item,) = workflow.wait_for_execution("success").output_of("Functions")
    (file,) = item["binary"].values()
    assert file["fileSize"] == "3 B"
    if operation == "gives_file":
        assert (file["fileName"], file["mimeType"]) == ("report.txt", "text/plain")
        report = {"fileName": "report.txt", "mimeType": "text/plain", "size": 3}
        assert item["json"] == {"size": 3, "report": report}
    else:
        assert item["json"] == {"size": 3}


@pytest.mark.parametrize(("size", "tasks"), [(1000, 1), (9_000_000, 3)])
def test_items_with_large_files_are_tasks_of_their_own(
    n8n: N8n, start_functions: StartRunner, size: int, tasks: int
) -> None:
    start_functions()
    made = function_node("gives_files", name="Files", count=3, size=size)
    node = function_node("task_of_file", document="data")
    found = run(n8n, f"files-of-{size}", made, node).call().json()
    assert [(each["number"], each["size"]) for each in found] == [(number, size) for number in range(3)]
    assert len({each["task"] for each in found}) == tasks


def test_files_that_need_too_much_memory_in_n8n_are_refused(n8n: N8n, start_functions: StartRunner) -> None:
    start_functions()
    size = 130 * 2**20
    workflow = run(n8n, "huge-file-out", function_node("gives_files", count=1, size=size))
    assert workflow.call().status_code == 500
    assert error_of(workflow)["message"] == "The file that was returned is too large for n8n"

    workflow = run(n8n, "huge-file-in", function_node("read_file", document="upload0"))
    upload = ("huge.bin", bytes(size), "application/octet-stream")
    assert workflow.call(files={"upload0": upload}).status_code == 500
    error = error_of(workflow)
    assert error["message"] == "The files are too large for one task"
    assert "can take 128 MiB of files at once" in error["description"]


# --- errors, and what the node's settings make of them ----------------------------------------------


def test_an_error_shows_the_traceback_of_the_function(n8n: N8n, start_functions: StartRunner) -> None:
    start_functions()
    workflow = run(n8n, "traceback", numbers(4), function_node("fails_for", number="={{ $json.row }}"))
    assert workflow.call().status_code == 500

    error = error_of(workflow)
    assert error["message"] == "ValueError: 2 is bad"
    assert error["context"]["itemIndex"] == 2
    assert 'raise ValueError(f"{number} is bad")' in error["description"]
    assert "calls.py" not in error["description"]
    assert error["description"].count("<br/>") >= 3  # n8n shows it as HTML


def test_a_task_error_shows_exactly_its_texts(n8n: N8n, start_functions: StartRunner) -> None:
    start_functions()
    workflow = run(n8n, "says-why", function_node("says_why", reason="No such lead"))
    workflow.call()
    error = error_of(workflow)
    assert (error["message"], error["description"]) == ("No such lead", "Ask for something else")


def test_an_item_that_fails_does_not_stop_the_others(n8n: N8n, start_functions: StartRunner) -> None:
    start_functions()
    node = function_node("fails_for", number="={{ $json.row }}", onError="continueRegularOutput")
    workflow = run(n8n, "continue", numbers(4), node)

    found = workflow.call().json()

    assert found == [{"result": 0}, {"result": 10}, {"error": "ValueError: 2 is bad"}, {"result": 30}]


def test_an_item_with_a_result_outside_of_json_does_not_stop_the_others(
    n8n: N8n, start_functions: StartRunner
) -> None:
    start_functions()
    node = function_node("tags_of", number="={{ $json.row }}", onError="continueRegularOutput")
    first, second, third = run(n8n, "continue-json", numbers(3), node).call().json()
    assert (first, third) == ({"tags": [0]}, {"tags": [2]})
    assert "result['tags'] is a set" in second["error"]


def test_items_that_fail_leave_by_the_error_output(n8n: N8n, start_functions: StartRunner) -> None:
    start_functions()
    node = function_node("fails_for", number="={{ $json.row }}", onError="continueErrorOutput")
    workflow = run(n8n, "error-output", numbers(4), node)
    assert workflow.call().status_code == 200
    run_data = workflow.wait_for_execution("success").data["resultData"]["runData"]["Functions"][-1]
    good, bad = run_data["data"]["main"]
    assert [item["json"] for item in good] == [{"result": 0}, {"result": 10}, {"result": 30}]
    assert len(bad) == 1


def test_a_failed_node_is_tried_again(n8n: N8n, start_functions: StartRunner) -> None:
    start_functions()
    node = function_node("fails_at_first", key="retry", retryOnFail=True, maxTries=3, waitBetweenTries=10)
    assert run(n8n, "retry", node).call().json() == [{"tries": 3}]


# --- the task ---------------------------------------------------------------------------------------


def test_log_and_progress_reach_the_runner(n8n: N8n, start_functions: StartRunner) -> None:
    start_functions()
    start = n8n.output_length
    assert run(n8n, "talks", function_node("talks")).call().json() == [{"progress": [[0.5, "half way"]]}]
    n8n.wait_for_output("a line", start=start)


def test_a_hook_knows_the_node_and_the_execution(n8n: N8n, start_functions: StartRunner) -> None:
    start_functions()
    workflow = run(n8n, "own-call", function_node("own_call", name="Score the lead"))
    (call,) = workflow.call().json()
    assert call == {"node": "Score the lead", "execution": workflow.executions()[0]["id"]}


@in_both_modes
def test_a_cancelled_execution_cancels_the_function(n8n: N8n, start_functions: StartRunner) -> None:
    runner = start_functions()
    workflow = run(n8n, "cancel", function_node("waits", seconds=60))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(workflow.call)
        runner.wait_for("started")
        workflow.wait_for_execution("running").stop()
        ended = runner.wait_for("ended")
        answer.result()
    assert ended["cancelled"] is True
    assert "cancel" in ended["reason"].lower()


@pytest.mark.parametrize("on_error", ["stopWorkflow", "continueRegularOutput"])
def test_a_stopped_execution_makes_no_further_calls(
    n8n: N8n, start_functions: StartRunner, on_error: str
) -> None:
    runner = start_functions(N8N_RUNNERS_MAX_CONCURRENCY="5")
    # Five of them run at the stop, five wait for a slot, and most have not been sent.
    options = {"batchSize": 1, "parallelTasks": 10}
    node = function_node("waits", seconds=60, options=options, onError=on_error)
    workflow = run(n8n, f"stop-{on_error}", numbers(600), node)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(workflow.call)
        runner.wait_for_events("started", 5)
        workflow.wait_for_execution("running").stop()
        runner.wait_for_events("ended", 5)
        answer.result()
    workflow.wait_for_execution("canceled", "error")
    # A task that was sent before this call would have started before it.
    assert run(n8n, f"after-stop-{on_error}", function_node("who")).call().json() == [{"pid": runner.pid}]
    assert len(runner.events("started")) == 5


def test_a_workflow_at_its_time_limit_makes_no_further_calls(n8n: N8n, start_functions: StartRunner) -> None:
    runner = start_functions(N8N_RUNNERS_MAX_CONCURRENCY="5")
    node = function_node(
        "waits", seconds=60, options={"batchSize": 1, "parallelTasks": 5}, onError="continueRegularOutput"
    )
    path = "functions-workflow-limit"
    workflow = n8n.create_workflow(path, [webhook_node(path), numbers(600), node], {"executionTimeout": 2})
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(workflow.call)
        runner.wait_for_events("ended", 5)
        answer.result()
    assert run(n8n, "after-limit", function_node("who")).call().json() == [{"pid": runner.pid}]
    assert len(runner.events("started")) == 5


def test_a_stopped_execution_sends_no_further_raw_jobs(n8n: N8n, start_functions: StartRunner) -> None:
    runner = start_functions()
    call = {"version": 1, "function": "waits", "calls": [{"item": 0, "arguments": {"seconds": 60}}]}
    job = job_node("n8nrunner.functions", settings=call, mode="runOnceForEachItem")
    job["onError"] = "continueRegularOutput"
    workflow = run(n8n, "stop-raw", numbers(600), job)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(workflow.call)
        runner.wait_for("started")
        workflow.wait_for_execution("running").stop()
        runner.wait_for("ended")
        answer.result()
    assert run(n8n, "after-stop-raw", function_node("who")).call().json() == [{"pid": runner.pid}]
    assert len(runner.events("started")) == 1


@in_both_modes
def test_a_function_that_takes_too_long_fails_with_the_limit(n8n: N8n, start_functions: StartRunner) -> None:
    runner = start_functions(N8N_RUNNERS_TASK_TIMEOUT="1")
    workflow = run(n8n, "timeout", function_node("waits", seconds=60))
    assert workflow.call().status_code == 500
    assert error_of(workflow)["message"] == "Task execution timed out after 1 second"
    assert runner.wait_for("ended")["cancelled"] is True


@in_both_modes
def test_the_node_says_that_the_runner_was_lost_during_the_call(
    n8n: N8n, start_functions: StartRunner
) -> None:
    runner = start_functions()
    workflow = run(n8n, "lost", function_node("waits", seconds=60))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(workflow.call)
        runner.wait_for("started")
        runner.signal(signal.SIGKILL)
        answer.result()
    error = error_of(workflow)
    assert error["message"] == 'The runner "functions" was lost during the call'
    assert "N8N_RUNNERS_MAX_OLD_SPACE_SIZE" not in error["description"]
    assert "N8N_RUNNERS_MAX_PAYLOAD" in error["description"]
    assert "&lt;" not in error["description"]


def test_a_function_with_a_limit_runs_alone(n8n: N8n, start_functions: StartRunner) -> None:
    start_functions()
    node = function_node("one_at_a_time", seconds=0.05, options={"batchSize": 1, "parallelTasks": 4})
    found = run(n8n, "alone", numbers(6), node).call().json()
    assert found == [{"most": 1}] * 6


def test_ten_thousand_items_pass_through_a_function(n8n: N8n, start_functions: StartRunner) -> None:
    start_functions()
    nodes = [
        numbers(10_000),
        function_node("double", number="={{ $json.row }}"),
        function_node("total", "Sum"),
    ]
    nodes[2]["parameters"]["number"] = "={{ $json.result }}"
    assert run(n8n, "ten-thousand", *nodes).call().json() == [{"result": 10_000 * 9_999}]


# --- runners of other ages, other people's, and none -------------------------------------------------


def test_the_error_for_a_changed_function_names_the_differences(
    n8n: N8n, start_functions: StartRunner
) -> None:
    start_functions(VARIANT="changed")
    workflow = run(n8n, "changed", function_node("double", number=1))
    assert workflow.call().status_code == 500
    error = error_of(workflow)
    assert error["message"] == 'The function "double" has changed since this node was written'
    assert 'Parameter "number" is gone' in error["description"]
    assert 'Parameter "currency" is new, and required' in error["description"]

    workflow = run(n8n, "changed-choices", function_node("takes_literal", value="blue"))
    workflow.call()
    assert "was one of red, blue and is one of green" in error_of(workflow)["description"]


def test_changed_texts_and_new_optional_parameters_fail_no_call(
    n8n: N8n, start_functions: StartRunner
) -> None:
    start_functions(VARIANT="reworded")
    assert run(n8n, "reworded", function_node("double", number=2)).call().json() == [{"result": 4}]


def test_a_call_that_meets_an_older_replica_is_tried_again(n8n: N8n, start_functions: StartRunner) -> None:
    start_functions(VARIANT="old", N8N_RUNNERS_MAX_CONCURRENCY="1")
    new = start_functions(N8N_RUNNERS_MAX_CONCURRENCY="1")
    workflow = run(n8n, "older", function_node("who"))
    for _ in range(6):
        assert workflow.call().json() == [{"pid": new.pid}]


def test_a_call_fails_if_all_replicas_are_older(n8n: N8n, start_functions: StartRunner) -> None:
    start_functions(VARIANT="old")
    workflow = run(n8n, "only-older", function_node("who"))
    assert workflow.call().status_code == 500
    assert error_of(workflow)["message"] == 'The runner "functions" has no function "who"'


def test_replicas_share_the_load(n8n: N8n, start_functions: StartRunner) -> None:
    replicas = [start_functions() for _ in range(2)]
    workflow = run(n8n, "replicas", function_node("who"))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: workflow.call().json()[0]["pid"], range(80)))
    assert set(answers) == {replica.pid for replica in replicas}
    assert min(answers.count(replica.pid) for replica in replicas) >= 20


def test_runners_with_different_names_do_not_share_calls(
    n8n: N8n, start_functions: StartRunner, start_runner: StartRunner
) -> None:
    mine = start_functions()
    start_runner("another", command=[sys.executable, str(SCRIPT)])
    workflow = run(n8n, "people", function_node("who"))
    assert {workflow.call().json()[0]["pid"] for _ in range(8)} == {mine.pid}


def test_a_runner_that_joins_late_gets_calls(n8n: N8n, start_functions: StartRunner) -> None:
    workflow = run(n8n, "late", function_node("double", number=2))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(workflow.call)
        workflow.wait_for_execution("running")
        start_functions()
        assert answer.result().json() == [{"result": 4}]


def test_functions_work_after_a_restart_of_n8n_during_a_call(n8n: N8n, start_functions: StartRunner) -> None:
    runner = start_functions()
    waiting = run(n8n, "restart", function_node("waits", seconds=60))
    workflow = run(n8n, "restarted", function_node("double", number=2))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(waiting.call)
        runner.wait_for("started")
        n8n.kill()
        assert answer.exception() is not None
    assert runner.wait_for("ended")["cancelled"] is True
    n8n.start()
    workflow.wait_active()
    assert workflow.call().json() == [{"result": 4}]


def test_the_node_says_that_no_runner_took_the_call(n8n: N8n) -> None:
    # At the same time, because each of them waits a minute.
    stops = run(n8n, "no-runner", function_node("double", number=2))
    options = {"batchSize": 1, "parallelTasks": 2}
    node = function_node("double", number=2, options=options, onError="continueRegularOutput")
    parameters = {"fieldToSplitOut": "body.rows", "options": {}}
    split = {"name": "Rows", "type": "n8n-nodes-base.splitOut", "typeVersion": 1, "parameters": parameters}
    goes_on = run(n8n, "no-runner-continues", split, node)
    started = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(workflow.call, {"rows": list(range(20))}) for workflow in (stops, goes_on)]
        stopped, continued = (answer.result() for answer in answers)
    assert time.monotonic() - started < 110  # one wait of n8n's, not one for each pair of items
    assert stopped.status_code == 500
    error = error_of(stops)
    assert error["message"] == 'No runner "functions" took the call'
    assert "n8n waited 6" in error["description"]  # 60 seconds, or a few more on a busy machine
    assert "n8nrunner run" in error["description"]
    assert continued.json() == [{"error": 'No runner "functions" took the call'}] * 20
