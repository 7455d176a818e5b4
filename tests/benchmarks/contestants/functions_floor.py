"""The floor of a workflow: one thread and a bare `websocket.WebSocket` serve the node of `functions.py`.

It knows one function, checks nothing, and answers every task inline.
"""

from __future__ import annotations

import itertools
import json
import os

import websocket

from . import wire

TASK_TYPE = "n8nrunner.measured"


def main() -> None:
    url, header = wire.way_in(os.environ["N8N_RUNNERS_TASK_BROKER_URI"], "floor")
    connection = websocket.create_connection(url, header=header, skip_utf8_validation=True)
    numbers = itertools.count()
    while True:
        text = connection.recv()
        if not text:
            return  # closed by the broker
        message = json.loads(text)
        kind = message["type"]
        if kind == "broker:taskofferaccept":
            connection.send(wire.accepted(message["taskId"]))
        elif kind == "broker:tasksettings":
            items = [
                {"json": {"result": 2 * call["arguments"]["number"]}, "pairedItem": {"item": call["item"]}}
                for call in message["settings"]["calls"]
            ]
            result = {"version": 1, "items": items, "errors": []}
            connection.send(wire.done(message["taskId"], result))
            connection.send(wire.offer(next(numbers), TASK_TYPE))
        elif kind == "broker:inforequest":
            connection.send(wire.info("floor", TASK_TYPE))
        elif kind == "broker:runnerregistered":
            for _ in range(int(os.environ["N8N_RUNNERS_MAX_CONCURRENCY"])):
                connection.send(wire.offer(next(numbers), TASK_TYPE))


if __name__ == "__main__":
    main()
