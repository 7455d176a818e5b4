"""The floor: one thread, one bare `websocket.WebSocket`, every task answered inline. No pool, no limits."""

from __future__ import annotations

import itertools
import json
import sys
from typing import Any, Callable

import websocket

from . import wire


def main(broker_url: str, capacity: int) -> None:
    serve(broker_url, capacity, wire.TASK_TYPE, lambda settings: settings["items"])


def serve(broker_url: str, capacity: int, task_type: str, answer: Callable[[Any], Any]) -> None:
    """Answers every task of a type with what `answer` makes of its settings, until the broker closes."""
    url, header = wire.way_in(broker_url, "floor")
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
            connection.send(wire.done(message["taskId"], answer(message["settings"])))
            connection.send(wire.offer(next(numbers), task_type))
        elif kind == "broker:inforequest":
            connection.send(wire.info("floor", task_type))
        elif kind == "broker:runnerregistered":
            for _ in range(capacity):
                connection.send(wire.offer(next(numbers), task_type))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
