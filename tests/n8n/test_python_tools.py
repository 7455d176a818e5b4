"""The node *Python Tools* of a real n8n: functions as tools of its agents, and of MCP clients."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any, Callable, NamedTuple

import pytest
import requests

from tests.pages import blocks

from .conftest import in_both_modes
from .mcp_client import McpClient, mcp_server
from .model import Model, ToolCall, agent_with, tools_node
from .n8n import N8n
from .processes import poll
from .runners import RunnerProcess
from .test_functions import StartRunner

pytestmark = pytest.mark.n8n

SCRIPT = Path(__file__).with_name("tools_script.py")

#: The functions of `tools_script.py` that can be tools: all but the one that needs a file.
TOOLS = {"quote", "find_orders", "measure", "refuse", "fail", "report", "wait"}

#: The parameters of `quote` as a model sees them. n8n has the tool's name in the same object as arguments.
QUOTE = {
    "type": "object",
    "properties": {
        "pieces": {"type": "integer", "minimum": 1, "maximum": 100, "description": "How many pieces"},
        "region": {"type": "string", "enum": ["eu", "us"], "default": "eu"},
        "express": {"type": "boolean", "default": False},
        "query": {"type": "object", "description": "Other facts about the order", "additionalProperties": {}},
        "tool_": {"type": "string", "default": "hammer"},
    },
    "required": ["pieces"],
    "additionalProperties": False,
}


@pytest.fixture
def runner(start_runner: StartRunner) -> RunnerProcess:
    return start_runner("shop", command=[sys.executable, str(SCRIPT)])


def run(n8n: N8n, model: Model, *calls: ToolCall, version: float = 3.1) -> list[str]:
    """Run an agent whose model makes these calls, one after the other. Return the tools' answers."""
    model.turns = [[call] for call in calls]
    options = {"maxIterations": len(calls) + 1}
    workflow = agent_with(n8n, model, unique("agent"), tools_node("shop"), version=version, options=options)
    response = workflow.call()
    assert response.status_code == 200, workflow.wait_for_execution("error").error
    return model.results


def unique(name: str) -> str:
    return f"{name}-{uuid.uuid4().hex[:8]}"


# --- n8n's agents ------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A call, and the end of what the model gets for it in n8n's current agent and in its older ones."""

    what: str
    call: ToolCall
    result: str
    #: Whether the result is an error.
    fails: bool = False


CALLS = [
    Row(
        "arguments of all types",
        ToolCall(
            "quote", {"pieces": 3, "region": "us", "express": True, "query": {"a": [1]}, "tool_": "saw"}
        ),
        '{"price":6,"region":"us","express":true,"query":{"a":[1]},"tool":"saw"}',
    ),
    Row(
        "defaults of arguments that are left out",
        ToolCall("quote", {"pieces": 3}),
        '{"price":6,"region":"eu","express":false,"query":null,"tool":"hammer"}',
    ),
    Row(
        "several results",
        ToolCall("find_orders", {"customer": "Ada"}),
        '[{"number":1,"customer":"Ada"},{"number":2,"customer":"Ada"}]',
    ),
    Row("names with other letters", ToolCall("measure", {"gro_e": 2}), '{"result":4}'),
    Row(
        "a file: its name, type and size",
        ToolCall("report"),
        '{"fileName":"report.txt","mimeType":"text/plain","size":5}',
    ),
    Row(
        "an argument of another type",
        ToolCall("quote", {"pieces": "many"}),
        'pieces: expected an integer, got "many"',
        fails=True,
    ),
    Row(
        "an argument out of bounds",
        ToolCall("quote", {"pieces": 101}),
        "pieces: expected an integer, at least 1, at most 100, got 101",
        fails=True,
    ),
    Row(
        "a missing argument",
        ToolCall("quote", {}),
        "pieces: expected an integer, at least 1, at most 100, got nothing",
        fails=True,
    ),
    Row(
        "an unknown argument",
        ToolCall("quote", {"pieces": 1, "color": "red"}),
        'quote has no argument "color". Its arguments: pieces, region, express, query, tool_.',
        fails=True,
    ),
    Row(
        "a TaskError: both texts", ToolCall("refuse"), "The order is closed. Ask for a new order", fails=True
    ),
    Row("an exception", ToolCall("fail"), "KeyError: 'b'", fails=True),
]


def expected(row: Row, by_item: bool) -> str:
    """Return the model's text. n8n's current agent gets items, and older ones a text."""
    if not by_item:
        return f"There was an error: {row.result}" if row.fails else row.result
    if row.fails:
        return json.dumps([{"error": row.result}], separators=(",", ":"))
    return row.result if row.result.startswith("[") else f"[{row.result}]"


@pytest.mark.parametrize("version", [3.1, 3, 2.3, 2])
@pytest.mark.usefixtures("runner")
def test_a_model_gets_results_and_errors_that_it_can_act_on(n8n: N8n, model: Model, version: float) -> None:
    found = run(n8n, model, *(row.call for row in CALLS), version=version)
    texts = {row.what: expected(row, by_item=version >= 3) for row in CALLS}
    assert dict(zip(texts, found)) == texts


@in_both_modes
@pytest.mark.usefixtures("runner")
def test_a_model_sees_the_docstring_and_a_json_schema(n8n: N8n, model: Model) -> None:
    run(n8n, model)
    tools = {tool["name"]: tool for tool in model.tools}
    assert set(tools) == TOOLS
    assert tools["quote"]["description"] == "Return the price of an order"
    parameters = tools["quote"]["parameters"]
    assert {key: value for key, value in parameters.items() if key != "$schema"} == QUOTE


AGENTS = [
    (1.9, "toolsAgent"),
    (1.6, "toolsAgent"),
    (1.5, "openAiFunctionsAgent"),
    (1.1, "openAiFunctionsAgent"),
]


@pytest.mark.parametrize(("version", "kind"), AGENTS)
@pytest.mark.usefixtures("runner")
def test_the_first_agents_call_tools(n8n: N8n, model: Model, version: float, kind: str) -> None:
    model.turns = [[CALLS[0].call]]
    workflow = agent_with(n8n, model, unique("old"), tools_node("shop"), version=version, agent=kind)
    assert workflow.call().status_code == 200
    assert model.results == [CALLS[0].result]


def action(name: str, value: Any) -> str:
    return f"Action:\n```json\n{json.dumps({'action': name, 'action_input': value})}\n```"


#: The turns of the agents that know only text: each calls `quote` with a text, then ends.
TEXTS = {
    "conversationalAgent": [
        action("quote", '{"pieces": 3}').removeprefix("Action:\n"),
        action("Final Answer", "done").removeprefix("Action:\n"),
    ],
    "reActAgent": [action("quote", '{"pieces": 3}'), "Final Answer: done"],
    "planAndExecuteAgent": [
        "Plan:\n\n1. Ask\n<END_OF_PLAN>",
        action("quote", {"pieces": 3}),
        "Final Answer: done",
    ],
}


@pytest.mark.parametrize("kind", TEXTS)
def test_agents_that_know_only_text_call_tools(
    n8n: N8n, model: Model, runner: RunnerProcess, kind: str
) -> None:
    model.turns = list(TEXTS[kind])
    workflow = agent_with(n8n, model, unique("text"), tools_node("shop"), version=1.5, agent=kind)
    assert workflow.call().json() == [{"output": "done"}]
    assert '"price":6' in json.dumps(model.requests[-1]).replace("\\", "")


@pytest.mark.usefixtures("runner")
def test_several_calls_at_once_have_their_own_arguments(n8n: N8n, model: Model) -> None:
    model.turns = [[ToolCall("quote", {"pieces": number}) for number in (1, 2, 3)]]
    assert agent_with(n8n, model, unique("many"), tools_node("shop")).call().status_code == 200
    assert [json.loads(result)[0]["price"] for result in model.results] == [2, 4, 6]


def test_an_argument_is_not_taken_from_the_agent_s_own_input(
    n8n: N8n, model: Model, runner: RunnerProcess
) -> None:
    """A webhook's item has a field `query`, and the agent's engine puts both into one object."""
    run(n8n, model, ToolCall("quote", {"pieces": 3}))
    assert runner.wait_for("quoted")["query"] is None


@pytest.mark.parametrize(
    ("include", "functions", "offered"),
    [
        ("chosen", ["quote", "scan"], {"quote"}),
        ("chosen", "={{ 'quote, report' }}", {"quote", "report"}),
        ("except", ["quote", "wait"], TOOLS - {"quote", "wait"}),
    ],
)
@pytest.mark.usefixtures("runner")
def test_functions_are_chosen_or_excluded(
    n8n: N8n, model: Model, include: str, functions: Any, offered: set[str]
) -> None:
    node = tools_node("shop", include=include, functions=functions)
    assert agent_with(n8n, model, unique("chosen"), node).call().status_code == 200
    assert {tool["name"] for tool in model.tools} == offered


def test_a_new_function_is_a_tool_without_a_restart_of_n8n(
    n8n: N8n, model: Model, start_runner: StartRunner
) -> None:
    command = [sys.executable, str(SCRIPT)]
    before = start_runner("shop", command=command)
    workflow = agent_with(n8n, model, unique("new"), tools_node("shop"))
    assert workflow.call().status_code == 200
    assert {tool["name"] for tool in model.tools} == TOOLS
    before.stop()
    start_runner("shop", command=command, VARIANT="new")

    def is_offered() -> bool | None:
        assert workflow.call().status_code == 200
        return {tool["name"] for tool in model.tools} == {*TOOLS, "cancel_order"} or None

    poll(is_offered, "the new function is offered", 5.0)


def test_a_stopped_agent_cancels_its_call_and_makes_no_other(
    n8n: N8n, model: Model, runner: RunnerProcess
) -> None:
    model.turns = [[ToolCall("wait")], [ToolCall("quote", {"pieces": 1})]]
    workflow = agent_with(n8n, model, unique("stop"), tools_node("shop"))
    with contextlib.suppress(Exception):  # n8n may answer before it is stopped, or not at all
        workflow.call(limit=1.0)
    runner.wait_for("started")
    workflow.wait_for_execution("running").stop()
    assert runner.wait_for("ended")["cancelled"] is True
    workflow.wait_for_execution("canceled")
    assert runner.events("quoted") == []


def test_without_a_runner_the_author_reads_which_one_is_missing(n8n: N8n, model: Model) -> None:
    workflow = agent_with(n8n, model, unique("missing"), tools_node("nowhere"))
    begun = time.monotonic()
    assert workflow.call().status_code == 500
    assert time.monotonic() - begun < 20.0  # n8n alone would wait for a minute
    error = workflow.wait_for_execution("error").error
    assert error["message"] == "Error in sub-node Python Tools"
    assert error["description"].startswith(
        'No runner "nowhere" took the call. The node waited 10 seconds. Either the Python'
    )


@pytest.mark.usefixtures("runner")
def test_the_author_sees_the_call_and_the_traceback_of_its_exception(n8n: N8n, model: Model) -> None:
    model.turns = [[ToolCall("fail")]]
    workflow = agent_with(n8n, model, unique("traceback"), tools_node("shop"))
    assert workflow.call().status_code == 200
    (call,) = workflow.wait_for_execution("success").data["resultData"]["runData"]["Python Tools"]
    assert call["inputOverride"]["ai_tool"][0][0]["json"] == {"tool": "fail"}
    assert call["error"]["message"] == "KeyError: 'b'"
    assert "in fail<br/>" in call["error"]["description"]


@pytest.mark.usefixtures("runner")
def test_the_file_of_a_result_is_in_the_execution(n8n: N8n, model: Model) -> None:
    model.turns = [[ToolCall("report")]]
    workflow = agent_with(n8n, model, unique("file"), tools_node("shop"))
    assert workflow.call().status_code == 200
    runs = workflow.wait_for_execution("success").data["resultData"]["runData"]["Python Tools"]
    (item,) = runs[-1]["data"]["ai_tool"][0]
    assert item["binary"]["data"]["fileName"] == "report.txt"


# --- MCP clients ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("runner")
def test_an_mcp_client_lists_the_functions_with_their_schemas(
    n8n: N8n, connect: Callable[[str], McpClient]
) -> None:
    tools = connect(mcp_server(n8n, unique("mcp-list"), tools_node("shop")).url).tools()
    assert set(tools) == TOOLS
    quote = tools["quote"]
    assert quote.description == "Return the price of an order"
    assert {key: value for key, value in quote.input_schema.items() if key != "$schema"} == QUOTE


@pytest.mark.usefixtures("runner")
def test_an_mcp_client_gets_results_and_errors(n8n: N8n, connect: Callable[[str], McpClient]) -> None:
    server = mcp_server(n8n, unique("mcp-call"), tools_node("shop"))
    found = connect(server.url).call(*(row.call for row in CALLS))
    texts = {row.what: (row.fails, expected(row, by_item=False)) for row in CALLS}
    assert dict(zip(texts, found)) == texts


@pytest.mark.usefixtures("runner", "connect")
def test_the_client_of_the_documentation_passes_the_trigger_s_authentication(
    n8n: N8n, tmp_path: Path
) -> None:
    data = {"name": "Token", "type": "httpBearerAuth", "data": {"token": "a-token-of-the-tests"}}
    credential = n8n.rest("POST", "/rest/credentials", data)
    credentials = {"httpBearerAuth": {"id": credential["id"], "name": "Token"}}
    server = mcp_server(n8n, unique("mcp-token"), tools_node("shop"), "bearerAuth", credentials=credentials)
    assert requests.post(server.url, json={}).status_code == 403

    client = tmp_path / "client.py"
    client.write_text(blocks("docs/agents.md", "python")[1].text)
    command = [sys.executable, str(client), server.url, "a-token-of-the-tests"]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "quote - Return the price of an order" in printed
    assert json.loads(printed.splitlines()[-1])["price"] == 40
