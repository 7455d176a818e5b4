"""An AI agent of n8n calls a function as a tool. The model is a small stand-in for its HTTP interface."""

from __future__ import annotations

import http.server
import json
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from .n8n import N8n, Workflow, function_node, webhook_node
from .test_functions import SCRIPT, StartRunner

pytestmark = pytest.mark.n8n


class Model:
    """Asks for the first tool it is offered, with `arguments`; then says what the tool answered."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self.requests: list[dict[str, Any]] = []
        self.arguments = arguments
        model = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                model.requests.append(request)
                body = json.dumps(model.answer(request, model.arguments)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def answer(self, request: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
        last = request["messages"][-1]
        message: dict[str, Any] = {"role": "assistant", "content": None}
        if last["role"] == "tool":
            message["content"] = f"The tool says: {last['content']}"
        else:
            call = {"name": request["tools"][0]["function"]["name"], "arguments": json.dumps(arguments)}
            message["tool_calls"] = [{"id": "call_1", "type": "function", "function": call}]
        reason = "stop" if message["content"] else "tool_calls"
        return {
            "id": "chat",
            "object": "chat.completion",
            "created": 1,
            "model": "stand-in",
            "choices": [{"index": 0, "message": message, "finish_reason": reason}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def model() -> Iterator[Model]:
    model = Model({"number": 21})
    yield model
    model.close()


def agent_with(
    n8n: N8n, model: Model, name: str, tool: dict[str, Any], type: str = "CUSTOM.functionsTool"
) -> Workflow:
    """Creates a workflow whose agent has this tool, a node of this type."""
    credential = n8n.rest(
        "POST",
        "/rest/credentials",
        {"name": "Stand-in", "type": "openAiApi", "data": {"apiKey": "none", "url": model.url}},
    )
    agent = {
        "name": "Agent",
        "type": "@n8n/n8n-nodes-langchain.agent",
        "typeVersion": 3.1,
        "parameters": {"promptType": "define", "text": "Double 21", "options": {}},
    }
    language_model = {
        "name": "Model",
        "type": "@n8n/n8n-nodes-langchain.lmChatOpenAi",
        "typeVersion": 1.2,
        "parameters": {"model": {"__rl": True, "mode": "id", "value": "stand-in"}, "options": {}},
        "credentials": {"openAiApi": {"id": credential["id"], "name": "Stand-in"}},
    }
    tool = {**tool, "type": type}
    return n8n.create_workflow(
        name, [webhook_node(name), agent], ai_languageModel=[language_model], ai_tool=[tool]
    )


def test_an_agent_calls_a_function(n8n: N8n, start_runner: StartRunner, model: Model) -> None:
    start_runner("functions", command=[sys.executable, str(SCRIPT)])
    number = "={{ $fromAI('number', 'What to double', 'number') }}"
    workflow = agent_with(n8n, model, "agent", function_node("double", name="Doubler", number=number))
    response = workflow.call()

    assert response.status_code == 200, workflow.wait_for_execution("error").error
    (answer,) = response.json()
    assert "42" in answer["output"]
    (offered,) = model.requests[0]["tools"]
    assert "number" in offered["function"]["parameters"]["properties"]
    # The function's docstring, and nothing of other functions.
    assert offered["function"]["description"] == "Twice the number in Functions"


def test_an_agent_sees_name_type_and_size_of_a_file(
    n8n: N8n, start_runner: StartRunner, model: Model
) -> None:
    start_runner("functions", command=[sys.executable, str(SCRIPT)])
    model.arguments = {}
    workflow = agent_with(n8n, model, "agent-file", function_node("gives_bytes", name="Reporter"))
    response = workflow.call()

    assert response.status_code == 200, workflow.wait_for_execution("error").error
    (answer,) = response.json()
    assert '{"size":3}' in answer["output"]
