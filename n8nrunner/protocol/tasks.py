"""Tasks of a link, from the acceptance to the answer, and their deadlines.

An accepted task waits for its settings; a running task waits for its handler. A task whose connection is lost
while it runs is an orphan: its handler still runs, and its result is reported instead of sent. Only
`RunnerSession` calls this; a snapshot reads `Counters` on any thread.
"""

from __future__ import annotations

from collections import OrderedDict
from math import inf
from typing import TypeVar

#: Seconds from the acceptance of a task to its settings. n8n itself waits 2 s.
SETTINGS_TIMEOUT = 30.0

#: The type and the deadline of an accepted task.
Accepted = tuple[str, float]
#: The type, the deadline and the time limit of a running task, the limit in seconds.
Running = tuple[str, float, float]

_Entry = TypeVar("_Entry", Accepted, Running)


def timeout_message(seconds: float) -> str:
    """Return n8n's own sentence for a task that has reached its time limit."""
    return f"Task execution timed out after {seconds:g} second{'' if seconds == 1 else 's'}"


class Counters:
    """Counts of acceptances and tasks over all connections of a session. `snapshot.Counts` describes each."""

    accepted = rejected = done = failed = retried = timed_out = 0
    cancelled = lost = undelivered = unfinished = 0


class Tasks:
    """The tasks of one link.

    Args:
        timeout: the time limit of a task in seconds, from its settings on.

    Attributes:
        accepted: tasks that wait for their settings, by id, in the order of their deadlines.
        running: tasks whose handler runs and whose answer is wanted, likewise.
        orphans: the type of each orphan, by the generation of its connection and its id.
    """

    def __init__(self, timeout: float) -> None:
        self.accepted: OrderedDict[str, Accepted] = OrderedDict()
        self.running: OrderedDict[str, Running] = OrderedDict()
        self.orphans: dict[tuple[int, str], str] = {}
        self.timeout = timeout

    def __len__(self) -> int:
        """Return the number of tasks that are accepted or running."""
        return len(self.accepted) + len(self.running)

    def __contains__(self, task_id: str) -> bool:
        """Return whether a task with this id is accepted or running."""
        return task_id in self.accepted or task_id in self.running

    def next_deadline(self) -> float:
        """Return the first deadline of a task; infinity without a task."""
        soonest = inf
        if self.running:
            soonest = next(iter(self.running.values()))[1]
        if self.accepted:
            soonest = min(soonest, next(iter(self.accepted.values()))[1])
        return soonest

    def accept(self, task_id: str, task_type: str, now: float) -> float:
        """Add a task that waits for its settings from now on, and return its deadline."""
        deadline = now + SETTINGS_TIMEOUT
        self.accepted[task_id] = task_type, deadline
        return deadline

    def start(self, task_id: str, now: float) -> Running | None:
        """Make an accepted task a running one, and return it; None if there is no such task."""
        task = self.accepted.pop(task_id, None)
        if task is None:
            return None
        started = self.running[task_id] = task[0], now + self.timeout, self.timeout
        return started

    def shorten(self, task_id: str, deadline: float, limit: float) -> None:
        """Give a running task an earlier deadline, which follows from a time limit of its own."""
        task = self.running.get(task_id)
        if task is not None and deadline < task[1]:
            self.running[task_id] = task[0], deadline, limit
            self.running = OrderedDict(sorted(self.running.items(), key=lambda entry: entry[1][1]))

    def extend_settings_time(self, now: float) -> None:
        """Let accepted tasks that have waited too long wait for `SETTINGS_TIMEOUT` again."""
        for task_id, (task_type, _) in remove_due(self.accepted, now):
            self.accept(task_id, task_type, now)

    def remove_all(self) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """Remove the accepted and the running tasks; return the ids and types of both."""
        accepted = [(task_id, task[0]) for task_id, task in remove_due(self.accepted, inf)]
        return accepted, [(task_id, task[0]) for task_id, task in remove_due(self.running, inf)]


def remove_due(tasks: OrderedDict[str, _Entry], now: float) -> list[tuple[str, _Entry]]:
    """Remove the tasks whose deadline has come, and return them with their ids."""
    removed: list[tuple[str, _Entry]] = []
    while tasks and next(iter(tasks.values()))[1] <= now:
        removed.append(tasks.popitem(last=False))
    return removed
