"""A line in the log for each call, with the facts of the call as attributes of its record."""

from __future__ import annotations

from n8nrunner import units
from n8nrunner.hooks import Call
from n8nrunner.logs import task_logger


def log_call(call: Call) -> None:
    """Log a call that has ended: its function or task type, outcome and duration, and where it belongs.

    This is a hook, and in a process of an executor it runs there.
    """
    facts = {
        "task": call.task.id,
        "function": call.name,
        "execution": call.execution_id,
        "node": call.node,
        "item": call.item,
        "duration": round(call.duration or 0.0, 6),
        "outcome": call.outcome,
    }
    places = ("item", "task", "node", "execution")
    shown = ", ".join(f"{place} {facts[place]}" for place in places if facts[place] is not None)
    after = units.duration(call.duration or 0.0)
    task_logger.info("%s: %s after %s (%s)", call.name, call.outcome, after, shown, extra=facts)
