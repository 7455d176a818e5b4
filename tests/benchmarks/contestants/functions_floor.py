"""The floor of a workflow: the bare loop of `floor.py` serves the node of `functions.py`.

It knows one function, and checks nothing.
"""

from __future__ import annotations

import os
from typing import Any, Dict

from . import floor

TASK_TYPE = "n8nrunner.floor"


def double(settings: Dict[str, Any]) -> Dict[str, Any]:
    items = [
        {"json": {"result": 2 * call["arguments"]["number"]}, "pairedItem": {"item": call["item"]}}
        for call in settings["calls"]
    ]
    return {"version": 1, "items": items, "errors": []}


if __name__ == "__main__":
    capacity = int(os.environ["N8N_RUNNERS_MAX_CONCURRENCY"])
    floor.serve(os.environ["N8N_RUNNERS_TASK_BROKER_URI"], capacity, TASK_TYPE, double)
