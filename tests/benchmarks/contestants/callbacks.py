"""A runner of an afternoon: `WebSocketApp` callbacks, and pool threads that send results themselves."""

from __future__ import annotations

import itertools
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import websocket

from . import wire


def main(broker_url: str, capacity: int) -> None:
    numbers = itertools.count()
    pool = ThreadPoolExecutor(capacity)

    def work(app: websocket.WebSocketApp, task_id: str, settings: Any) -> None:
        app.send(wire.done(task_id, settings["items"]))
        app.send(wire.offer(next(numbers)))

    def on_message(app: websocket.WebSocketApp, text: str) -> None:
        message = json.loads(text)
        kind = message["type"]
        if kind == "broker:taskofferaccept":
            app.send(wire.accepted(message["taskId"]))
        elif kind == "broker:tasksettings":
            pool.submit(work, app, message["taskId"], message["settings"])
        elif kind == "broker:inforequest":
            app.send(wire.info("callbacks"))
        elif kind == "broker:runnerregistered":
            for _ in range(capacity):
                app.send(wire.offer(next(numbers)))

    url, header = wire.way_in(broker_url, "callbacks")
    websocket.WebSocketApp(url, header=header, on_message=on_message).run_forever(skip_utf8_validation=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
