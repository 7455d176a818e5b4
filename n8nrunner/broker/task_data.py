"""Data of the execution that a task belongs to (docs/protocol.md, "Data of the execution")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from n8nrunner.protocol.messages import Json

_TRIGGER = "Start"
_NODE = "Code"


def task_data(request_id: str, items: Sequence[Json], params: Mapping[str, Json]) -> dict[str, Json]:
    """Return the data of an execution with two nodes, of which the first gave its items to the second.

    Args:
        request_id: stands in for the id of the execution.
        items: the input items.
        params: ``requestParams`` of the runner: what it wants to know.
    """
    items = list(items)
    run = {
        "startTime": 0,
        "executionIndex": 0,
        "executionTime": 0,
        "executionStatus": "success",
        "source": [],
        "data": {"main": [items]},
    }
    wanted = params.get("dataOfNodes")
    shows_trigger = (
        wanted == "all" or (isinstance(wanted, list) and _TRIGGER in wanted) or params.get("prevNode")
    )
    nodes = [_node(_TRIGGER, "n8n-nodes-base.manualTrigger", 1), _node(_NODE, "n8n-nodes-base.code", 2)]
    return {
        "workflow": {
            "id": "1",
            "name": "n8nrunner",
            "active": False,
            "nodes": nodes,
            "connections": {_TRIGGER: {"main": [[{"node": _NODE, "type": "main", "index": 0}]]}},
            "pinData": {},
            "settings": {},
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
                "pinData": {},
                "lastNodeExecuted": _TRIGGER,
            },
            "executionData": {
                "contextData": {},
                "nodeExecutionStack": [],
                "metadata": {},
                "waitingExecution": {},
                "waitingExecutionSource": {},
            },
        },
        "runIndex": 0,
        "itemIndex": 0,
        "activeNodeName": _NODE,
        "contextNodeName": _NODE,
        "siblingParameters": {},
        "mode": "manual",
        "envProviderState": {"env": {}, "isEnvAccessBlocked": True, "isProcessAvailable": True},
        "defaultReturnRunIndex": -1,
        "selfData": {},
        "additionalData": {
            "executionId": request_id,
            "restApiUrl": "",
            "instanceBaseUrl": "",
            "formWaitingBaseUrl": "",
            "webhookBaseUrl": "",
            "webhookWaitingBaseUrl": "",
            "webhookTestBaseUrl": "",
            "currentNodeParameters": {},
            "executionTimeoutTimestamp": None,
            "userId": "1",
            "variables": {},
        },
    }


def _node(name: str, node_type: str, version: int) -> dict[str, Json]:
    return {
        "id": name,
        "name": name,
        "type": node_type,
        "typeVersion": version,
        "position": [0, 0],
        "parameters": {},
    }


def _input_data(items: list[Json], wanted: Json) -> dict[str, Json]:
    if not isinstance(wanted, dict) or not wanted.get("include"):
        return {}
    chunk = wanted.get("chunk")
    if isinstance(chunk, dict):
        start, count = _chunk(chunk)
        items = items[start : start + count]
    return {"main": [items]}


def _chunk(chunk: Mapping[str, Json]) -> tuple[int, int]:
    start, count = chunk.get("startIndex", 0), chunk.get("count", 0)
    return (start, count) if isinstance(start, int) and isinstance(count, int) else (0, 0)
