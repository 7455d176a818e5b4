"""*Python Function* in a real n8n: the functions of `functions_script.py`, and a program that changes."""

from __future__ import annotations

import concurrent.futures
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from .conftest import in_both_modes
from .model import Model, ToolCall, agent_with
from .n8n import PYTHON_FUNCTION, N8n, javascript_node
from .test_functions import (
    CONVERSIONS,
    MECHANISMS,
    WARSAW,
    Row,
    StartRunner,
    error_of,
    got,
    numbers,
    run,
    wrong_rows,
)
from .test_functions import start_functions as start_functions

pytestmark = pytest.mark.n8n

CELLS = Path(__file__).with_name("cells_script.py")

#: Mechanisms with another outcome through this node: `LIVE_MECHANISMS` has them.
DIFFERENT = {"no JSON", "NamedTuple", "an operation that is gone"}

LIVE_MECHANISMS = [
    *(row for row in MECHANISMS if row.what not in DIFFERENT),
    Row("NamedTuple", "takes_named_tuple", {"value": '{"x": 1}'}, got("Point(x=1.0, y=0.0)")),
    Row("NamedTuple, as a list", "takes_named_tuple", {"value": "={{ [1] }}"}, got("Point(x=1.0, y=0.0)")),
    Row("no JSON", "takes_list", {"value": "={{ '[1,' }}"}, "value: expected a list, written as JSON"),
]


def chosen(runner: str, function: str = "") -> dict[str, Any]:
    """The node's parameters after its author has chosen from the two lists."""
    return {
        "runner": {"__rl": True, "mode": "list", "value": runner},
        "function": {"__rl": True, "mode": "list", "value": function},
    }


def by_name(runner: str, function: str, arguments: Any, name: str = "Functions", **settings: Any) -> Any:
    """The node with both names typed in, and its arguments as JSON."""
    parameters = {
        "runner": {"__rl": True, "mode": "name", "value": runner},
        "function": {"__rl": True, "mode": "name", "value": function},
        "specifyArguments": "json",
        "argumentsJson": arguments,
    }
    return {"name": name, "type": PYTHON_FUNCTION, "typeVersion": 1, "parameters": parameters, **settings}


def listed(n8n: N8n, method: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    answer = n8n.ask_while_editing("resource-locator-results", method, parameters)
    assert answer.status_code == 200, answer.text
    results: list[dict[str, Any]] = answer.json()["data"]["results"]
    return results


def fields(n8n: N8n, runner: str, function: str) -> dict[str, Any]:
    """The form of a function, as its editor gets it: the fields by their id."""
    answer = n8n.ask_while_editing("resource-mapper-fields", "getArguments", chosen(runner, function))
    assert answer.status_code == 200, answer.text
    return {field["id"]: field for field in answer.json()["data"]["fields"]}


# --- while the node is edited ----------------------------------------------------------------------------


@in_both_modes
def test_all_runners_are_listed(n8n: N8n, start_runner: StartRunner) -> None:
    names = ["accounts", "billing", "contracts", "deliveries"]
    for name in reversed(names):
        start_runner(name, command=[sys.executable, str(CELLS)])
    assert [each["value"] for each in listed(n8n, "listRunners", {})] == names


@in_both_modes
def test_the_functions_of_a_runner_are_listed_with_their_descriptions(
    n8n: N8n, start_functions: StartRunner
) -> None:
    start_functions()
    functions = {each["value"]: each["name"] for each in listed(n8n, "listFunctions", chosen("functions"))}
    assert functions["double"] == "Double: Twice the number"
    assert functions["gives_dict"] == "Gives Dict"
    assert len(functions) > 50


@pytest.mark.parametrize(
    ("function", "type"),
    [
        ("takes_string", "string"),
        ("takes_integer", "number"),
        ("takes_number", "number"),
        ("takes_boolean", "boolean"),
        ("takes_literal", "options"),
        ("takes_enum", "options"),
        ("takes_datetime", "dateTime"),
        ("takes_date", "dateTime"),
        ("takes_list", "array"),
        ("takes_tuple", "array"),
        ("takes_set", "array"),
        ("takes_dict", "object"),
        ("takes_dataclass", "object"),
        ("takes_model", "object"),
        ("takes_union", "string"),
        ("takes_anything", "string"),
    ],
)
def test_each_kind_of_parameter_has_its_field(
    n8n: N8n, start_functions: StartRunner, function: str, type: str
) -> None:
    start_functions()
    field = fields(n8n, "functions", function)["value"]
    assert (field["type"], field["required"], field["removed"]) == (type, True, False)


def test_a_file_is_a_text_and_an_optional_parameter_is_hidden(n8n: N8n, start_functions: StartRunner) -> None:
    start_functions()
    assert fields(n8n, "functions", "read_file")["document"]["type"] == "string"
    optional = fields(n8n, "functions", "takes_default")["value"]
    assert (optional["removed"], optional["defaultValue"]) == (True, "as it stands")


@in_both_modes
def test_an_editor_without_a_runner_gets_an_answer_within_five_seconds(
    n8n: N8n, start_runner: StartRunner
) -> None:
    def ask(kind: str, method: str, parameters: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        began = time.monotonic()
        answer = n8n.ask_while_editing(kind, method, parameters)
        assert time.monotonic() - began < 5
        return answer.status_code, answer.json()

    status, answer = ask("resource-locator-results", "listRunners", {})
    assert status == 500
    assert answer["message"].startswith("No runner answered. Start the Python program")

    status, answer = ask("resource-locator-results", "listFunctions", chosen("absent"))
    assert status == 500
    assert answer["message"].startswith('No runner "absent" answered. Start the Python program')

    status, answer = ask("resource-mapper-fields", "getArguments", chosen("absent", "quote"))
    assert (status, answer["data"]["fields"]) == (200, [])
    assert 'No runner "absent" answered' in answer["data"]["emptyFieldsNotice"]

    # An answer without fields would remove the stored ones, and the values in them.
    filled = {**chosen("absent", "quote"), "arguments": {"value": {"a": 1}, "schema": [{"id": "a"}]}}
    status, answer = ask("resource-mapper-fields", "getArguments", filled)
    assert status == 500

    runner = start_runner("absent", command=[sys.executable, str(CELLS)])
    runner.run_cell("@runner.function\ndef quote(pieces: int) -> int: return pieces")
    assert list(fields(n8n, "absent", "quote")) == ["pieces"]


def test_each_change_of_a_running_program_is_in_the_editor_s_next_answer(
    n8n: N8n, start_runner: StartRunner
) -> None:
    runner = start_runner("cells", command=[sys.executable, str(CELLS)])
    assert listed(n8n, "listFunctions", chosen("cells")) == []
    runner.run_cell("@runner.function\ndef quote(pieces: int) -> int: return pieces")
    assert list(fields(n8n, "cells", "quote")) == ["pieces"]
    runner.run_cell("@runner.function\ndef quote(pieces: int, currency: str) -> int: return pieces")
    assert list(fields(n8n, "cells", "quote")) == ["pieces", "currency"]
    runner.run_cell("runner.remove('quote')")
    assert listed(n8n, "listFunctions", chosen("cells")) == []


# --- execution -------------------------------------------------------------------------------------------


def test_every_mechanism_of_a_function_works_through_python_function(
    n8n: N8n, start_functions: StartRunner
) -> None:
    start_functions()
    wrong = wrong_rows(n8n, "live-mechanism", LIVE_MECHANISMS, n8n.python_function)
    assert not wrong, "\n".join(wrong)


def test_every_type_of_parameter_is_converted_through_python_function(
    n8n: N8n, start_functions: StartRunner
) -> None:
    start_functions()
    wrong = wrong_rows(n8n, "live-conversion", CONVERSIONS, n8n.python_function, **WARSAW)
    assert not wrong, "\n".join(wrong)


def test_n8n_refuses_to_publish_a_form_with_a_value_that_does_not_fit(
    n8n: N8n, start_functions: StartRunner
) -> None:
    start_functions()
    for value in ({"value": "[1,"}, {}):
        with pytest.raises(AssertionError, match="Missing or invalid required parameters"):
            run(n8n, "live-refused", n8n.python_function("takes_list", **value))


@in_both_modes
def test_items_are_paired_and_a_javascript_code_node_works_next_to_the_function(
    n8n: N8n, start_functions: StartRunner, javascript_runner: object
) -> None:
    start_functions()
    code = "return $input.all().map(({ json }) => ({ json: { row: json.row + 1 } }));"
    each = n8n.python_function("double", number="={{ $json.row }}", options={"batchSize": 3})
    workflow = run(n8n, "live-paired", numbers(8), javascript_node(code), each)
    assert workflow.call().json() == [{"result": 2 * number + 2} for number in range(8)]
    items = workflow.wait_for_execution("success").output_of("Functions")
    assert [item["pairedItem"] for item in items] == [{"item": number} for number in range(8)]


def test_a_batch_function_gets_all_items_of_python_function_at_once(
    n8n: N8n, start_functions: StartRunner
) -> None:
    start_functions()
    node = n8n.python_function("rank", number="={{ $json.row }}", label="place")
    assert run(n8n, "live-rank", numbers(3), node).call().json() == [{"place": 3}, {"place": 2}, {"place": 1}]


def test_the_batch_size_of_python_function_spreads_items_over_tasks(
    n8n: N8n, start_functions: StartRunner
) -> None:
    start_functions()
    options = {"batchSize": 2, "parallelTasks": 3}
    node = n8n.python_function("task_of", number="={{ $json.row }}", options=options)
    found = run(n8n, "live-spread", numbers(7), node).call().json()
    assert [each["number"] for each in found] == list(range(7))
    assert len({each["task"] for each in found}) == 4


def test_files_go_in_and_out_of_python_function(n8n: N8n, start_functions: StartRunner) -> None:
    start_functions()
    workflow = run(n8n, "live-files", n8n.python_function("read_file", document="upload0"))
    content = bytes(range(256)) * 10
    response = workflow.call(files={"upload0": ("all.bin", content, "application/x-test")})
    about = {"size": 2560, "name": "all.bin", "mime": "application/x-test"}
    assert response.json() == [{**about, "copy": {"size": 2560}}]
    (item,) = workflow.wait_for_execution("success").output_of("Functions")
    assert "copy" in item["binary"]


def test_an_item_of_python_function_that_fails_does_not_stop_the_others(
    n8n: N8n, start_functions: StartRunner
) -> None:
    start_functions()
    node = n8n.python_function("fails_for", number="={{ $json.row }}", onError="continueRegularOutput")
    found = run(n8n, "live-continue", numbers(4), node).call().json()
    assert found == [{"result": 0}, {"result": 10}, {"error": "ValueError: 2 is bad"}, {"result": 30}]


def test_python_function_is_tried_again(n8n: N8n, start_functions: StartRunner) -> None:
    start_functions()
    retry = {"retryOnFail": True, "maxTries": 3, "waitBetweenTries": 10}
    node = n8n.python_function("fails_at_first", key="live-retry", **retry)
    assert run(n8n, "live-retry", node).call().json() == [{"tries": 3}]


def test_a_stopped_execution_of_python_function_makes_no_further_calls(
    n8n: N8n, start_functions: StartRunner
) -> None:
    runner = start_functions(N8N_RUNNERS_MAX_CONCURRENCY="5")
    node = n8n.python_function("waits", seconds=60, options={"batchSize": 1, "parallelTasks": 10})
    workflow = run(n8n, "live-stop", numbers(600), node)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(workflow.call)
        runner.wait_for_events("started", 5)
        workflow.wait_for_execution("running").stop()
        runner.wait_for_events("ended", 5)
        answer.result()
    assert run(n8n, "live-after-stop", n8n.python_function("who")).call().json() == [{"pid": runner.pid}]
    assert len(runner.events("started")) == 5


def test_a_function_with_a_limit_runs_alone_through_python_function(
    n8n: N8n, start_functions: StartRunner
) -> None:
    start_functions()
    options = {"batchSize": 1, "parallelTasks": 4}
    node = n8n.python_function("one_at_a_time", seconds=0.05, options=options)
    assert run(n8n, "live-alone", numbers(6), node).call().json() == [{"most": 1}] * 6


def test_the_time_limit_of_python_function_ends_its_task(n8n: N8n, start_functions: StartRunner) -> None:
    runner = start_functions()
    workflow = run(n8n, "live-limit", n8n.python_function("waits", seconds=60, options={"timeLimit": 1}))
    assert workflow.call().status_code == 500
    error = error_of(workflow)
    assert error["message"] == "Task execution timed out after 1 second"
    assert "Time Limit, under Options" in error["description"]
    assert runner.wait_for("ended")["cancelled"] is True


def test_an_empty_text_is_sent_by_an_expression_alone(n8n: N8n, start_functions: StartRunner) -> None:
    start_functions()
    node = n8n.python_function("takes_default", value="={{ '' }}")
    assert run(n8n, "live-empty", node).call().json() == got("''")


def test_a_workflow_that_a_program_has_written_needs_no_stored_fields(
    n8n: N8n, start_functions: StartRunner
) -> None:
    start_functions()
    node = n8n.python_function("double", number="={{ 21 }}")
    node["parameters"]["arguments"] = {"mappingMode": "defineBelow", "value": {"number": 21}, "schema": []}
    assert run(n8n, "live-no-schema", node).call().json() == [{"result": 42}]


def test_arguments_can_be_json_and_names_can_be_typed(n8n: N8n, start_functions: StartRunner) -> None:
    start_functions()
    node = by_name("functions", "takes_bounded", '{"value": 7}')
    assert run(n8n, "live-json", node).call().json() == got("7")

    node = by_name("functions", "takes_bounded", "={{ $json.body }}")
    workflow = run(n8n, "live-json-item", node)
    assert workflow.call({"value": 8}).json() == got("8")
    workflow.call({"valeu": 8})
    error = error_of(workflow)
    assert error["message"] == 'The function "takes_bounded" has no parameter "valeu"'
    assert "Its parameters are: value." in error["description"]
    workflow.call({})
    assert error_of(workflow)["message"] == "value: expected an integer, at least 1, at most 10, got nothing"


def test_an_expression_can_choose_another_function_for_each_item(
    n8n: N8n, start_functions: StartRunner
) -> None:
    start_functions()
    function = "={{ $json.row % 2 ? 'takes_string' : 'takes_integer' }}"
    node = by_name("={{ 'functions' }}", function, "={{ { value: $json.row } }}")
    found = run(n8n, "live-expressions", numbers(4), node).call().json()
    assert found == [{"got": "0"}, {"got": "'1'"}, {"got": "2"}, {"got": "'3'"}]


def test_a_call_of_python_function_waits_for_a_runner_that_joins_late(
    n8n: N8n, start_functions: StartRunner
) -> None:
    workflow = run(n8n, "live-late", by_name("functions", "double", {"number": 2}))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(workflow.call)
        workflow.wait_for_execution("running")
        start_functions()
        assert answer.result().json() == [{"result": 4}]


# --- a function that changes -----------------------------------------------------------------------------


def test_the_error_for_a_changed_function_says_how_it_differs_and_a_refresh_is_the_remedy(
    n8n: N8n, start_runner: StartRunner
) -> None:
    runner = start_runner("cells", command=[sys.executable, str(CELLS)])
    runner.run_cell("@runner.function\ndef quote(pieces: int) -> int: return pieces")
    node = n8n.python_function("quote", runner="cells", pieces=3)
    workflow = run(n8n, "live-changed", node)
    assert workflow.call().json() == [{"result": 3}]

    runner.run_cell("@runner.function\ndef quote(pieces: int, note: str = '') -> int: return 2 * pieces")
    assert workflow.call().json() == [{"result": 6}]  # it takes the same calls

    runner.run_cell(
        "@runner.function\ndef quote(boxes: int, currency: str) -> str: return f'{boxes} {currency}'"
    )
    assert workflow.call().status_code == 500
    error = error_of(workflow)
    assert error["message"] == 'The function "quote" has changed since this node\'s arguments were filled in'
    assert 'Parameter "pieces" is gone' in error["description"]
    assert 'Parameter "currency" is new, and required' in error["description"]
    assert "Open the node, and refresh its arguments: " in error["description"]

    refreshed = n8n.python_function("quote", runner="cells", boxes=3, currency="EUR")
    assert run(n8n, "live-refreshed", refreshed).call().json() == [{"result": "3 EUR"}]

    runner.run_cell("runner.remove('quote')")
    workflow = run(n8n, "live-removed", refreshed)
    workflow.call()
    error = error_of(workflow)
    assert error["message"] == 'The runner "cells" has no function "quote"'
    assert "Open the node, and choose one of" in error["description"]


# --- as a tool -------------------------------------------------------------------------------------------


def test_an_agent_fills_in_the_form_of_python_function(
    n8n: N8n, start_functions: StartRunner, model: Model
) -> None:
    start_functions()
    number = "={{ $fromAI('number', 'What to double', 'number') }}"
    node = n8n.python_function("double", name="Doubler", number=number)
    node["parameters"]["toolDescription"] = "Doubles a number"
    node["type"] = f"{PYTHON_FUNCTION}Tool"
    model.turns = [[ToolCall(None, {"number": 21})]]
    workflow = agent_with(n8n, model, "live-agent", node)
    response = workflow.call()
    assert response.status_code == 200, error_of(workflow)
    assert "42" in response.json()[0]["output"]
    (offered,) = model.tools
    assert offered["description"] == "Doubles a number"
    assert "number" in offered["parameters"]["properties"]
