"""An AI agent of n8n calls a function of a written node as a tool."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from .model import Model, ToolCall, agent_with
from .n8n import N8n, function_node
from .test_functions import SCRIPT, StartRunner

pytestmark = pytest.mark.n8n


def tool(operation: str, name: str, **parameters: Any) -> dict[str, Any]:
    return {**function_node(operation, name, **parameters), "type": "CUSTOM.functionsTool"}


def test_an_agent_calls_a_function(n8n: N8n, start_runner: StartRunner, model: Model) -> None:
    start_runner("functions", command=[sys.executable, str(SCRIPT)])
    model.turns = [[ToolCall(None, {"number": 21})]]
    number = "={{ $fromAI('number', 'What to double', 'number') }}"
    workflow = agent_with(n8n, model, "agent", tool("double", "Doubler", number=number))
    response = workflow.call()

    assert response.status_code == 200, workflow.wait_for_execution("error").error
    (answer,) = response.json()
    assert "42" in answer["output"]
    (offered,) = model.tools
    assert "number" in offered["parameters"]["properties"]
    # The function's docstring, and nothing of other functions.
    assert offered["description"] == "Twice the number in Functions"


def test_an_agent_sees_name_type_and_size_of_a_file(
    n8n: N8n, start_runner: StartRunner, model: Model
) -> None:
    start_runner("functions", command=[sys.executable, str(SCRIPT)])
    model.turns = [[ToolCall(None)]]
    workflow = agent_with(n8n, model, "agent-file", tool("gives_bytes", "Reporter"))
    response = workflow.call()

    assert response.status_code == 200, workflow.wait_for_execution("error").error
    (answer,) = response.json()
    assert '{"size":3}' in answer["output"]
