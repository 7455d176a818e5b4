"""The measure of agents: a call through *Python Tools*, against n8n's *MCP Client Tool* and a FastMCP server.

The model is a stand-in that answers at once. A call lasts from the model's answer that asks for it until the
model gets its result; a run lasts from the webhook to the agent's answer.
"""

from __future__ import annotations

import random
import statistics
import time
from typing import TYPE_CHECKING, Any

from tests.n8n.model import Model, ToolCall, agent_with, tools_node
from tests.n8n.n8n import Workflow

from .report import Row

if TYPE_CHECKING:
    from .workflows import Bench

TOOLS, MCP = "Python Tools", "MCP Client Tool"


class TimedModel(Model):
    """Calls the first tool once for each run, and takes the time until it gets the result."""

    def __init__(self) -> None:
        super().__init__([ToolCall(None, {"number": 21})])
        self.milliseconds = 0.0
        self._asked = 0.0

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        now = time.perf_counter()
        self.requests.clear()
        answer = super().answer(request)
        if answer["content"]:
            self.milliseconds = (now - self._asked) * 1000
        self._asked = time.perf_counter()
        return answer


def tool_calls(bench: Bench, contestant: str, runner: str) -> list[Row]:
    """An agent's tool call, by one agent at a time. The contestant has the runner with the function."""
    model = TimedModel()
    sizes, chance = bench.sizes, random.Random(0)
    try:
        with bench.at_work(contestant), bench.at_work(MCP):
            workflows = {
                TOOLS: agent_with(bench.n8n, model, "agent", _tools(runner)),
                MCP: agent_with(bench.n8n, model, "agent-mcp", _mcp_client(bench.mcp_url)),
            }
            runs: dict[str, list[list[float]]] = {name: [] for name in workflows}

            def repetition() -> dict[str, list[float]]:
                calls: dict[str, list[float]] = {name: [] for name in workflows}
                whole: dict[str, list[float]] = {name: [] for name in workflows}
                for _ in range(sizes.runs * sizes.calls_of_a_run):
                    # In an order of chance: in a fixed one, who is called after whom would count.
                    for name in chance.sample(list(workflows), len(workflows)):
                        whole[name].append(_run(workflows[name]))
                        calls[name].append(model.milliseconds)
                for name, values in whole.items():
                    runs[name].append(values)
                return calls

            for _ in range(sizes.warm_up):
                for workflow in workflows.values():
                    _run(workflow)
            found = bench.medians("an agent's tool call", repetition)
    finally:
        model.close()
    whole = {name: [statistics.median(values) for values in each] for name, each in runs.items()}
    return [*_rows("an agent's tool call", found), *_rows("an agent's run with one tool call", whole)]


def _rows(what: str, found: dict[str, list[float]]) -> list[Row]:
    ratios = [ours / theirs for ours, theirs in zip(found[TOOLS], found[MCP])]
    return [
        *(Row(f"{what}, p50: {name}", values, "ms") for name, values in found.items()),
        Row(f"{what}, p50: {TOOLS} / {MCP}", ratios, "x", at_most=1.0),
    ]


def _run(workflow: Workflow) -> float:
    """Run an agent; return the milliseconds."""
    begun = time.perf_counter()
    response = workflow.call()
    milliseconds = (time.perf_counter() - begun) * 1000
    assert "42" in response.json()[0]["output"], response.text[:300]
    return milliseconds


def _tools(runner: str) -> dict[str, Any]:
    return tools_node(runner, include="chosen", functions=["double"])


def _mcp_client(url: str) -> dict[str, Any]:
    return {
        "name": "MCP Client",
        "type": "@n8n/n8n-nodes-langchain.mcpClientTool",
        "typeVersion": 1.4,
        "parameters": {"endpointUrl": url, "serverTransport": "httpStreamable"},
    }
