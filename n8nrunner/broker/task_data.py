"""Data of the execution that a task belongs to (docs/protocol.md, "Data of the execution")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from n8nrunner.protocol.messages import Json

_TRIGGER = "Start"
_NODE = "Code"
#: Addresses of an n8n instance, of which a runner gets only the names.
_URLS = ("restApiUrl", "instanceBaseUrl", "formWaitingBaseUrl", "webhookBaseUrl", "webhookWaitingBaseUrl",
         "webhookTestBaseUrl")  # fmt: skip


def task_data(request_id: str, items: Sequence[Json], params: Mapping[str, Json]) -> dict[str, Json]:
    """Return the data of an execution with two nodes, of which the first gave its items to the second.

    The request's id stands in for the execution's. `params` are the ``requestParams`` of the runner.
    """
    items = list(items)
    run = {
        "startTime": 0, "executionIndex": 0, "executionTime": 0, "executionStatus": "success", "source": [],
        "data": {"main": [items]},
    }  # fmt: skip
    wanted = params.get("dataOfNodes")
    shows_trigger = (
        wanted == "all" or (isinstance(wanted, list) and _TRIGGER in wanted) or params.get("prevNode")
    )
    nodes = [_node(_TRIGGER, "n8n-nodes-base.manualTrigger", 1), _node(_NODE, "n8n-nodes-base.code", 2)]
    return {
        "workflow": {
            "id": "1", "name": "n8nrunner", "active": False, "nodes": nodes, "pinData": {}, "settings": {},
            "connections": {_TRIGGER: {"main": [[{"node": _NODE, "type": "main", "index": 0}]]}},
            "staticData": {},
        },
        "inputData": _input_data(items, params.get("input")),
        "connectionInputSource": {"main": [{"previousNode": _TRIGGER}]},
        "node": nodes[1],
        "runExecutionData": {
            "version": 1,
            "startData": {},
            "resultData": {
                "runData": {_TRIGGER: [run]} if shows_trigger else {},
                "pinData": {}, "lastNodeExecuted": _TRIGGER,
            },
            "executionData": {
                "contextData": {}, "nodeExecutionStack": [], "metadata": {}, "waitingExecution": {},
                "waitingExecutionSource": {},
            },
        },
        "runIndex": 0, "itemIndex": 0, "activeNodeName": _NODE, "contextNodeName": _NODE,
        "siblingParameters": {}, "mode": "manual", "defaultReturnRunIndex": -1, "selfData": {},
        "envProviderState": {"env": {}, "isEnvAccessBlocked": True, "isProcessAvailable": True},
        "additionalData": {
            "executionId": request_id, **dict.fromkeys(_URLS, ""), "currentNodeParameters": {},
            "executionTimeoutTimestamp": None, "userId": "1", "variables": {},
        },
    }  # fmt: skip


def _node(name: str, kind: str, version: int) -> dict[str, Json]:
    return {
        "id": name, "name": name, "type": kind, "typeVersion": version, "position": [0, 0], "parameters": {},
    }  # fmt: skip


def _input_data(items: list[Json], wanted: Json) -> dict[str, Json]:
    if not isinstance(wanted, dict) or not wanted.get("include"):
        return {}
    chunk = wanted.get("chunk")
    if isinstance(chunk, dict):
        start, count = chunk.get("startIndex", 0), chunk.get("count", 0)
        both = isinstance(start, int) and isinstance(count, int)
        items = items[start : start + count] if both else []
    return {"main": [items]}
