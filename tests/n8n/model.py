"""A stand-in for a language model's HTTP interface, and workflows with an agent that uses it."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

from .n8n import N8n, Workflow, webhook_node


class ToolCall(NamedTuple):
    name: str | None  #: None for the first tool that is offered
    arguments: dict[str, Any] = {}


class Model:
    """Makes the calls of one turn after the other; then says what the tools have answered.

    `turns` has a text instead of calls where the agent expects text.
    """

    def __init__(self, *turns: Sequence[ToolCall] | str) -> None:
        self.requests: list[dict[str, Any]] = []
        self.turns = list(turns)
        model = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                message = model.answer(request)
                reason = "stop" if message["content"] else "tool_calls"
                choice = {"index": 0, "finish_reason": reason}
                answer = {
                    "id": "chat",
                    "created": 1,
                    "model": "stand-in",
                    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
                }
                if request.get("stream"):
                    chunk = {
                        **answer,
                        "object": "chat.completion.chunk",
                        "choices": [{**choice, "delta": message}],
                    }
                    content, body = "text/event-stream", f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"
                else:
                    whole = {
                        **answer,
                        "object": "chat.completion",
                        "choices": [{**choice, "message": message}],
                    }
                    content, body = "application/json", json.dumps(whole)
                self.send_response(200)
                self.send_header("Content-Type", content)
                self.send_header("Content-Length", str(len(body.encode())))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def tools(self) -> list[dict[str, Any]]:
        """The tools of the last request: the name, the description and the parameters of each."""
        return [each["function"] for each in self.requests[-1]["tools"]]

    @property
    def results(self) -> list[str]:
        """The texts that the tools have answered, in the last request."""
        return [each["content"] for each in self.requests[-1]["messages"] if each["role"] == "tool"]

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        self.requests.append(request)
        message: dict[str, Any] = {"role": "assistant", "content": None}
        # A request has all earlier turns, but not as messages of their own where the agent knows only text.
        said = sum(each["role"] == "assistant" for each in request["messages"])
        if any(isinstance(turn, str) for turn in self.turns):
            said = len(self.requests) - 1
        turn = self.turns[said] if said < len(self.turns) else None
        if turn is None:
            message["content"] = f"The tool says: {' '.join(self.results)}"
        elif isinstance(turn, str):
            message["content"] = turn
        else:
            message["tool_calls"] = [
                {
                    "index": number,
                    "id": f"call_{said}_{number}",
                    "type": "function",
                    "function": {
                        "name": call.name or request["tools"][0]["function"]["name"],
                        "arguments": json.dumps(call.arguments),
                    },
                }
                for number, call in enumerate(turn)
            ]
        return message

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def agent_with(
    n8n: N8n, model: Model, name: str, *tools: dict[str, Any], version: float = 3.1, **parameters: Any
) -> Workflow:
    """Create a workflow whose agent has these tools."""
    credential = n8n.rest(
        "POST",
        "/rest/credentials",
        {"name": "Stand-in", "type": "openAiApi", "data": {"apiKey": "none", "url": model.url}},
    )
    agent = {
        "name": "Agent",
        "type": "@n8n/n8n-nodes-langchain.agent",
        "typeVersion": version,
        "parameters": {"promptType": "define", "text": "Do it", "options": {}, **parameters},
    }
    language_model = {
        "name": "Model",
        "type": "@n8n/n8n-nodes-langchain.lmChatOpenAi",
        "typeVersion": 1.2,
        "parameters": {"model": {"__rl": True, "mode": "id", "value": "stand-in"}, "options": {}},
        "credentials": {"openAiApi": {"id": credential["id"], "name": "Stand-in"}},
    }
    return n8n.create_workflow(
        name, [webhook_node(name), agent], ai_languageModel=[language_model], ai_tool=tools
    )


def tools_node(runner: str, **parameters: Any) -> dict[str, Any]:
    """The node *Python Tools*."""
    return {
        "name": "Python Tools",
        "type": "n8n-nodes-n8nrunner.pythonTools",
        "typeVersion": 1,
        "parameters": {"runner": {"__rl": True, "mode": "list", "value": runner}, **parameters},
    }
