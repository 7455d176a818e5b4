"""Tasks of a link, from the acceptance to the answer, and their deadlines.

An accepted task waits for its settings; a running task waits for its handler. A task whose connection is lost
while it runs is an orphan: its handler still runs, and its result is reported instead of sent.
"""

from __future__ import annotations

from collections import OrderedDict
from math import inf

#: Seconds from the acceptance of a task to its settings. The broker gives its requester 2 s.
SETTINGS_TIMEOUT = 30.0


def timeout_message(seconds: float) -> str:
    """Return n8n's own sentence for a task that has reached its time limit."""
    return f"Task execution timed out after {seconds:g} second{'' if seconds == 1 else 's'}"


class Counters:
    """Counts of what became of acceptances and tasks, over all connections of a session."""

    __slots__ = (
        "accepted",
        "cancelled",
        "done",
        "failed",
        "lost",
        "rejected",
        "retried",
        "timed_out",
        "undelivered",
        "unfinished",
    )

    def __init__(self) -> None:
        self.accepted = 0  #: offers that became tasks
        self.rejected = 0  #: acceptances that were rejected
        self.done = 0  #: results sent in which no call has failed
        self.failed = 0  #: errors sent, timeouts apart, and results in which a call has failed
        self.retried = 0  #: results sent that tell the node to try again
        self.timed_out = 0  #: tasks that reached the runner's time limit
        self.cancelled = 0  #: tasks that the broker cancelled
        self.lost = 0  #: tasks whose connection was lost
        self.undelivered = 0  #: results reported as undelivered
        self.unfinished = 0  #: tasks that a stop cut short


class HeldTask:
    """A task that is accepted and not answered."""

    __slots__ = ("deadline", "task_id", "task_type")

    def __init__(self, task_id: str, task_type: str, deadline: float) -> None:
        self.task_id = task_id
        self.task_type = task_type
        #: While the task is accepted, the limit for its settings; while it runs, its time limit.
        self.deadline = deadline


class Tasks:
    """The tasks of one link.

    Args:
        timeout: seconds from a task's settings to its time limit.
    """

    __slots__ = ("_accepted", "_orphans", "_running", "_timeout")

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        # Both are in the order of their deadlines.
        self._accepted: OrderedDict[str, HeldTask] = OrderedDict()
        self._running: OrderedDict[str, HeldTask] = OrderedDict()
        self._orphans: dict[tuple[int, str], str] = {}

    @property
    def accepted(self) -> dict[str, tuple[str, float]]:
        """The type and the deadline of each task that waits for its settings, by id."""
        return {task_id: (task.task_type, task.deadline) for task_id, task in self._accepted.items()}

    @property
    def running(self) -> dict[str, tuple[str, float]]:
        """The type and the deadline of each task whose handler runs, by id."""
        return {task_id: (task.task_type, task.deadline) for task_id, task in self._running.items()}

    @property
    def orphans(self) -> int:
        """The number of orphans."""
        return len(self._orphans)

    def __len__(self) -> int:
        """Return the number of tasks that are accepted or running."""
        return len(self._accepted) + len(self._running)

    def __contains__(self, task_id: str) -> bool:
        """Return whether a task with this id is accepted or running."""
        return task_id in self._accepted or task_id in self._running

    def is_running(self, task_id: str) -> bool:
        """Return whether the handler of this task runs, and its answer is wanted."""
        return task_id in self._running

    def next_deadline(self) -> float:
        """Return the first deadline of a task; infinity without a task."""
        soonest = inf
        if self._running:
            soonest = next(iter(self._running.values())).deadline
        if self._accepted:
            soonest = min(soonest, next(iter(self._accepted.values())).deadline)
        return soonest

    def accept(self, task_id: str, task_type: str, now: float) -> HeldTask:
        """Add a task that waits for its settings from now on."""
        task = self._accepted[task_id] = HeldTask(task_id, task_type, now + SETTINGS_TIMEOUT)
        return task

    def start(self, task_id: str, now: float) -> HeldTask | None:
        """Make an accepted task a running one, because its settings have come; None if there is none."""
        task = self._accepted.pop(task_id, None)
        if task is not None:
            task.deadline = now + self._timeout
            self._running[task_id] = task
        return task

    def remove_accepted(self, task_id: str) -> HeldTask | None:
        """Remove and return an accepted task; None if there is none."""
        return self._accepted.pop(task_id, None)

    def remove_running(self, task_id: str) -> HeldTask | None:
        """Remove and return a running task; None if there is none."""
        return self._running.pop(task_id, None)

    def remove_timed_out(self, now: float) -> list[HeldTask]:
        """Remove and return the running tasks that have reached their time limit."""
        return _remove_due(self._running, now)

    def remove_without_settings(self, now: float) -> list[HeldTask]:
        """Remove and return the accepted tasks that have waited too long for their settings."""
        return _remove_due(self._accepted, now)

    def extend_settings_time(self, now: float) -> None:
        """Give accepted tasks that have waited too long the same time once more."""
        for task in _remove_due(self._accepted, now):
            task.deadline = now + SETTINGS_TIMEOUT
            self._accepted[task.task_id] = task

    def remove_all(self) -> tuple[list[HeldTask], list[HeldTask]]:
        """Remove and return the accepted and the running tasks."""
        accepted, running = list(self._accepted.values()), list(self._running.values())
        self._accepted.clear()
        self._running.clear()
        return accepted, running

    def add_orphan(self, generation: int, task: HeldTask) -> None:
        """Add a task of a lost connection, whose handler still runs."""
        self._orphans[generation, task.task_id] = task.task_type

    def remove_orphan(self, generation: int, task_id: str) -> str | None:
        """Remove an orphan and return its task type; None if there is none."""
        return self._orphans.pop((generation, task_id), None)


def _remove_due(tasks: OrderedDict[str, HeldTask], now: float) -> list[HeldTask]:
    removed: list[HeldTask] = []
    while tasks:
        task = next(iter(tasks.values()))
        if task.deadline > now:
            break
        del tasks[task.task_id]
        removed.append(task)
    return removed
