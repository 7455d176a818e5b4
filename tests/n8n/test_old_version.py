"""n8n 1.123, which still gets patches, in its default mode: `python -m tests.n8n.install 1.123.81`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable

import pytest
import requests

from n8nrunner import cli

from .conftest import installed, running
from .install import OLD_VERSION, Installation
from .model import Model, ToolCall, agent_with, tools_node
from .n8n import N8n, function_node, javascript_node, job_node, webhook_node
from .processes import poll
from .runners import RunnerProcess
from .test_functions import SCRIPT
from .test_python_tools import SCRIPT as TOOLS_SCRIPT

pytestmark = pytest.mark.n8n

StartRunner = Callable[..., RunnerProcess]


@pytest.fixture(scope="module")
def place() -> Installation:
    return installed(OLD_VERSION)


@pytest.fixture(scope="module")
def n8n_of_the_module(place: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[N8n]:
    # A short limit, for the one test that waits for it.
    variables = {"N8N_RUNNERS_TASK_TIMEOUT": "5"}
    folder = tmp_path_factory.mktemp("n8n-old")
    with running(N8n(place, folder, mode="internal", variables=variables)) as n8n:
        yield n8n


@pytest.fixture
def n8n(n8n_of_the_module: N8n) -> N8n:
    n8n_of_the_module.start()
    return n8n_of_the_module


def test_a_runner_registers_and_serves_its_own_task_type(n8n: N8n, start_runner: StartRunner) -> None:
    runner = start_runner()
    n8n.wait_for_output('Registered runner "tests"')
    workflow = n8n.create_workflow("old-echo", [webhook_node("old-echo"), job_node("tests.echo")])
    assert workflow.call({"text": "Grüße"}).json()[0]["body"] == {"text": "Grüße"}
    runner.stop()


def test_the_check_passes_and_finds_the_version(
    n8n: N8n, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("N8N_RUNNERS_AUTH_TOKEN", n8n.auth_token)
    code = cli.main(["check", "--broker", n8n.broker_url, "--n8n", n8n.url])
    output = capsys.readouterr().out
    assert code == 0, output
    assert f"n8n {OLD_VERSION} answers at {n8n.url}" in output
    n8n.wait_for_output('Registered runner "n8nrunner check"')


def test_a_generated_node_calls_its_function(n8n: N8n, start_runner: StartRunner) -> None:
    start_runner("functions", command=[sys.executable, str(SCRIPT)])
    nodes = [webhook_node("old-function"), function_node("double", number=21)]
    assert n8n.create_workflow("old-function", nodes).call().json() == [{"result": 42}]


def test_python_function_is_filled_in_while_editing_and_calls_its_function(
    n8n: N8n, start_runner: StartRunner
) -> None:
    start_runner("functions", command=[sys.executable, str(SCRIPT)])
    runners = n8n.ask_while_editing("resource-locator-results", "listRunners", {}).json()["data"]["results"]
    assert [each["value"] for each in runners] == ["functions"]
    node = n8n.python_function("double", number=21)  # asks for the form
    assert [field["id"] for field in node["parameters"]["arguments"]["schema"]] == ["number"]
    workflow = n8n.create_workflow("old-python", [webhook_node("old-python"), node])
    assert workflow.call().json() == [{"result": 42}]


@pytest.mark.parametrize("version", [3, 2.2, 1.7])
def test_agents_call_functions_of_python_tools(n8n: N8n, start_runner: StartRunner, version: float) -> None:
    start_runner("shop", command=[sys.executable, str(TOOLS_SCRIPT)])
    model = Model()
    try:
        calls = [ToolCall("quote", {"pieces": 3}), ToolCall("quote", {"pieces": 101})]
        model.turns = [[call] for call in calls]
        name = f"old-agent-{version}".replace(".", "-")
        workflow = agent_with(n8n, model, name, tools_node("shop"), version=version)
        response = workflow.call()
        assert response.status_code == 200, workflow.wait_for_execution("error").error
        price, refused = model.results
        schemas = {tool["name"]: tool["parameters"] for tool in model.tools}
    finally:
        model.close()
    assert '"price":6' in price
    assert "at most 100, got 101" in refused
    assert schemas["quote"]["properties"]["pieces"]["maximum"] == 100


def test_an_mcp_client_can_call_a_function_but_gets_no_list_of_tools(
    n8n: N8n, start_runner: StartRunner
) -> None:
    """The MCP Server Trigger of n8n 1 lists tools with a schema of its own kind only."""
    start_runner("shop", command=[sys.executable, str(TOOLS_SCRIPT)])
    trigger = {
        "name": "MCP",
        "type": "@n8n/n8n-nodes-langchain.mcpTrigger",
        "typeVersion": 2,
        "webhookId": "old-mcp",
        "parameters": {"authentication": "none", "path": "old-mcp"},
    }
    saved = n8n.save_workflow("old-mcp", [trigger], ai_tool=[tools_node("shop")])
    n8n.rest("POST", f"/rest/workflows/{saved['id']}/activate", {"versionId": saved["versionId"]})
    session = requests.Session()
    session.headers["Accept"] = "application/json, text/event-stream"

    def ask(method: str, **parameters: Any) -> requests.Response:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}
        return session.post(f"{n8n.url}/mcp/old-mcp", json=body, timeout=30)

    def connected() -> requests.Response | None:
        client = {"name": "tests", "version": "1"}
        answer = ask("initialize", protocolVersion="2025-03-26", capabilities={}, clientInfo=client)
        return answer if answer.ok else None

    session.headers["mcp-session-id"] = poll(connected, "the trigger is active", 30.0).headers[
        "mcp-session-id"
    ]
    listed = ask("tools/list").text
    called = ask("tools/call", name="quote", arguments={"pieces": 3}).text
    assert "Cannot read properties of undefined" in listed
    assert json.dumps('"price":6')[1:-1] in called


def test_javascript_code_nodes_run_on_n8ns_own_runner_next_to_it(n8n: N8n, start_runner: StartRunner) -> None:
    start_runner()
    n8n.own_runner()
    nodes = [
        webhook_node("old-javascript"),
        job_node("tests.whole_numbers", settings={"count": 3}),
        javascript_node("return $input.all().map((item) => ({ json: { number: item.json.number * 2 } }));"),
    ]
    answer = n8n.create_workflow("old-javascript", nodes).call().json()
    assert answer == [{"number": 0}, {"number": 2}, {"number": 4}]


def test_a_stopped_execution_cancels_its_task(n8n: N8n, start_runner: StartRunner) -> None:
    runner = start_runner()
    webhook = webhook_node("old-stop", responseMode="onReceived")
    node = job_node("tests.wait", settings={"seconds": 60})
    workflow = n8n.create_workflow("old-stop", [webhook, node])
    assert workflow.call().status_code == 200
    runner.wait_for("started")
    workflow.wait_for_execution("running").stop()
    assert runner.wait_for("ended")["cancelled"] is True


def test_external_mode_serves_a_function_of_python_function(place: Installation, tmp_path: Path) -> None:
    n8n = N8n(place, tmp_path)
    runner = None
    try:
        n8n.start()
        variables = {"N8NRUNNER_NAME": "functions"}
        runner = RunnerProcess(n8n, tmp_path / "runner.log", (), variables, [sys.executable, str(SCRIPT)])
        runner.wait_for("registered")
        node = n8n.python_function("double", number=21)
        workflow = n8n.create_workflow("old-external", [webhook_node("old-external"), node])
        assert workflow.call().json() == [{"result": 42}]
    finally:
        if runner is not None:
            runner.close()
        n8n.kill()


def test_the_runner_registers_again_after_a_restart_of_n8n(n8n: N8n, start_runner: StartRunner) -> None:
    runner = start_runner()
    workflow = n8n.create_workflow("old-restart", [webhook_node("old-restart"), job_node("tests.echo")])
    n8n.kill()
    n8n.start()
    n8n.wait_for_output('Registered runner "tests"')
    workflow.wait_active()
    assert workflow.call({"at": "last"}).json()[0]["body"] == {"at": "last"}
    runner.stop()


def test_n8n_restarts_its_own_runner_when_a_task_of_another_one_passes_its_limit(
    n8n: N8n, start_runner: StartRunner
) -> None:
    """So a runner with too high a limit disturbs Code nodes (docs/protocol.md, "Modes of n8n")."""
    runner = start_runner()
    own = n8n.own_runner()
    slow = "await new Promise((resolve) => setTimeout(resolve, 20000)); return [];"
    code = n8n.create_workflow("old-code", [webhook_node("old-code"), javascript_node(slow)])
    above = n8n.create_workflow(
        "old-above", [webhook_node("old-above"), job_node("tests.wait", settings={"seconds": 10})]
    )
    with ThreadPoolExecutor(2) as callers:
        ours = callers.submit(above.call)
        runner.wait_for("started")
        theirs = callers.submit(code.call)
        assert ours.result().status_code == theirs.result().status_code == 500
    assert above.wait_for_execution("error").error["message"].startswith("Task execution timed out")
    assert code.wait_for_execution("error").error["message"] == "Node execution failed"
    assert n8n.own_runner(but_not=own) != own
    assert runner.wait_for("ended")["cancelled"] is False
    assert runner.log.count("Registered with the broker") == 1


def test_the_lower_limit_of_the_runner_disturbs_nothing(n8n: N8n, start_runner: StartRunner) -> None:
    runner = start_runner(N8N_RUNNERS_TASK_TIMEOUT="1")
    own = n8n.own_runner()
    node = job_node("tests.wait", settings={"seconds": 60})
    workflow = n8n.create_workflow("old-below", [webhook_node("old-below"), node])
    assert workflow.call().status_code == 500
    error = workflow.wait_for_execution("error").error
    assert error["message"] == "Task execution timed out after 1 second"
    assert runner.wait_for("ended")["cancelled"] is True
    assert n8n.own_runner() == own
