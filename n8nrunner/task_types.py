"""The task types of a runner's functions and descriptions (docs/protocol.md, "Functions")."""

from __future__ import annotations

#: Task types of functions begin with this; the runner's name follows.
TYPE_PREFIX = "n8nrunner."
#: The task type to which every runner with its own name answers which runner it is.
DESCRIBE = "n8nrunner:describe"


def task_type(runner_name: str, function_name: str | None = None) -> str:
    """Return the task type of a runner's functions, or of one function with a limit."""
    suffix = "" if function_name is None else f".{function_name}"
    return f"{TYPE_PREFIX}{runner_name}{suffix}"


def describe_type(runner_name: str) -> str:
    """Return the task type to which a runner answers what functions it has."""
    return f"{DESCRIBE}:{runner_name}"
