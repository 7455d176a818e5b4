"""The parts that the hand-written contestants share: connecting, and the messages they send."""

from __future__ import annotations

import json
import os
from typing import Any, Dict, Tuple

import requests

AUTH_TOKEN = os.environ.get("N8N_RUNNERS_AUTH_TOKEN", "secret")
TASK_TYPE = "python"


def way_in(broker_url: str, name: str) -> Tuple[str, Dict[str, str]]:
    """The WebSocket URL and the headers for a new connection, with a fresh grant token."""
    reply = requests.post(broker_url + "/runners/auth", json={"token": AUTH_TOKEN}, timeout=10)
    reply.raise_for_status()
    grant = reply.json()["data"]["token"]
    url = broker_url.replace("http", "ws", 1) + "/runners/_ws?id=" + name
    return url, {"Authorization": "Bearer " + grant}


def info(name: str, task_type: str = TASK_TYPE) -> str:
    return json.dumps({"type": "runner:info", "name": name, "types": [task_type]})


def offer(number: int, task_type: str = TASK_TYPE) -> str:
    return json.dumps(
        {"type": "runner:taskoffer", "offerId": f"o{number}", "taskType": task_type, "validFor": -1}
    )


def accepted(task_id: str) -> str:
    return json.dumps({"type": "runner:taskaccepted", "taskId": task_id})


def done(task_id: str, result: Any) -> str:
    return json.dumps({"type": "runner:taskdone", "taskId": task_id, "data": {"result": result}})
