"""Calls of handlers to n8n that wait for an answer (docs/protocol.md, "Calls to n8n").

A call has no deadline of its own: it ends with its answer, or with its task. Only `RunnerSession` calls this.
"""

from __future__ import annotations

from n8nrunner.protocol.actions import EndCall
from n8nrunner.protocol.events import PendingCall
from n8nrunner.protocol.messages import Json


class Calls:
    """The open calls of one connection."""

    def __init__(self) -> None:
        self._by_task: dict[str, dict[str, PendingCall]] = {}
        #: The task of each open call, by id.
        self.open: dict[str, str] = {}

    def add(self, call_id: str, task_id: str, call: PendingCall) -> None:
        """Add a call of a running task."""
        self.open[call_id] = task_id
        self._by_task.setdefault(task_id, {})[call_id] = call

    def end(self, call_id: str, value: Json, error: Json) -> list[EndCall]:
        """Return the end of a call; nothing if no such call is open."""
        task_id = self.open.pop(call_id, None)
        if task_id is None:
            return []
        return [EndCall(self._by_task[task_id].pop(call_id), value, error)]

    def end_all_of(self, task_id: str, reason: str) -> list[EndCall]:
        """Return the ends of all calls of a task that has ended."""
        calls = self._by_task.pop(task_id, None)
        if not calls:
            return []
        for call_id in calls:
            del self.open[call_id]
        return [EndCall(call, None, reason) for call in calls.values()]
