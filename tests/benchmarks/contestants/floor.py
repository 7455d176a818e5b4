"""The floor: one thread, one bare `websocket.WebSocket`, every task answered inline. No pool, no limits."""

from __future__ import annotations

import itertools
import json
import sys

import websocket

from . import wire


def main(broker_url: str, capacity: int) -> None:
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
            connection.send(wire.done(message["taskId"], message["settings"]["items"]))
            connection.send(wire.offer(next(numbers)))
        elif kind == "broker:inforequest":
            connection.send(wire.info("floor"))
        elif kind == "broker:runnerregistered":
            for _ in range(capacity):
                connection.send(wire.offer(next(numbers)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
