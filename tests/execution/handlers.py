"""Handlers and contexts for executors of other processes, which import them by name. Light on purpose."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any, Callable

from n8nrunner import Call, Task, TaskError


def process(task: Task) -> Any:
    """Which process this is, and what the task is made of."""
    return {
        "process": os.getpid(),
        "parent": os.getppid(),
        "id": task.id,
        "type": task.type,
        "settings": task.settings,
        "items": task.items,
        "cancelled": task.cancelled,
        "imported": sorted(name for name in ("aiohttp", "requests", "websocket") if name in sys.modules),
    }


def links(task: Task) -> Any:
    """Return the errors of all calls to n8n in a process without a connection."""
    calls: dict[str, Callable[[], Any]] = {
        "log": lambda: task.log("x"),
        "rpc": lambda: task.rpc("helpers.httpRequest", {}),
        "request_data": task.request_data,
        "request_node_types": lambda: task.request_node_types([]),
        "read_file": lambda: task.read_file(0, "data"),
        "save_file": lambda: task.save_file(b"x"),
        "http_request": lambda: task.http_request(url="http://n8n"),
    }
    found = {}
    for name, call in calls.items():
        try:
            call()
            found[name] = "nothing"
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    task.progress(0.5, "half")
    found["progress"] = f"{task.progress_fraction} {task.progress_text}"
    return found


def fails(task: Task) -> Any:
    raise ValueError(f"no {task.settings}")


def refuses(task: Task) -> Any:
    raise TaskError("to the author", description="and more")


def exits(task: Task) -> Any:
    raise SystemExit(3)


def returns_a_set(task: Task) -> Any:
    return {"rows": [1, {2}]}


def is_killed(task: Task) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait(30)  # until the signal ends the process


def echo(task: Task) -> Any:
    return task.settings


entered = 0


@contextlib.contextmanager
def context() -> Iterator[None]:
    global entered
    entered += 1
    yield


def times_entered(task: Task) -> int:
    return entered


def sleeps(task: Task) -> None:
    """Hold the process; the task's cancellation does not reach it."""
    threading.Event().wait(task.settings["seconds"])  # the task that holds a process


def waits_for_a_file(task: Task) -> None:
    """Hold the process until the file exists, whether or not the task is cancelled."""
    for _ in range(3000):
        if os.path.exists(task.settings["path"]):
            return
        threading.Event().wait(0.01)  # between two looks


def touch(task: Task) -> None:
    """Leaves a trace of the run, a file, and may take its time afterwards."""
    with open(task.settings["path"], "w", encoding="ascii"):
        pass
    threading.Event().wait(task.settings.get("seconds", 0))  # the task that takes its time


_notes: list[str] = []


def note_start(call: Call) -> None:
    _notes.append(f"started {call.name}")


def note_end(call: Call) -> None:
    _notes.append(f"{call.outcome} {call.duration is not None}")


def notes(task: Task) -> list[str]:
    """Return what the two hooks above have noted in this process."""
    return list(_notes)
