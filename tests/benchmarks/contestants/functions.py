"""n8nrunner with functions: what a workflow calls through the node that is written from this module.

The same node is written once more under another name, N8NRUNNER_NAME, for the floor.
"""

from __future__ import annotations

from typing import Any, Dict

from n8nrunner import File, Runner, Task

runner = Runner()


@runner.function
def double(number: float) -> float:
    """Twice the number."""
    return 2 * number


@runner.function
def copy_file(document: File) -> Dict[str, Any]:
    """The file as it came."""
    content = document.read()
    return {"size": len(content), "copy": File(content, document.filename, document.mime)}


@runner.function
def spin(task: Task) -> None:
    """Keep a slot and the interpreter busy in pure Python until the task is cancelled."""
    print("spinning", flush=True)
    while not task.cancelled:
        for _ in range(1000):
            pass
