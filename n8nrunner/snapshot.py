"""The state of a runner at one moment, as immutable values."""

from __future__ import annotations

from typing import NamedTuple


class LinkSnapshot(NamedTuple):
    """One broker's connection.

    Attributes:
        broker: the broker's URL.
        state: "connecting", "waiting", "registered", "paused", "draining", or "closed". A paused link is
            registered, but offers nothing while the runner's executor is replaced.
        registrations: successful registrations, over all connections.
        failures: failed attempts to connect and lost connections since the last registration.
        last_error: why the last attempt failed or the last connection ended; None after a registration.
    """

    broker: str
    state: str
    registrations: int
    failures: int
    last_error: str | None


class TaskSnapshot(NamedTuple):
    """A task whose handler has not returned.

    Attributes:
        id: n8n's id of the task.
        type: the task type.
        age: seconds since the task was handed to the pool.
        progress: the handler's progress, from 0 to 1; None if it reports none.
        progress_text: the handler's text about its progress.
        cancel_reason: why the result is not wanted any more; None while it is. The task keeps its slot until
            the handler returns.
    """

    id: str
    type: str
    age: float
    progress: float | None
    progress_text: str
    cancel_reason: str | None


class Counts(NamedTuple):
    """Totals since the runner started.

    Attributes:
        accepted: offers that became tasks.
        rejected: acceptances that were refused; n8n then looks for another runner.
        done: results sent in which no call has failed.
        failed: errors sent, timeouts apart, and results in which a call has failed.
        timed_out: tasks that reached the runner's own time limit.
        cancelled: tasks that n8n cancelled.
        lost: tasks whose connection was lost.
        undelivered: results that n8n did not get, or may not have got.
        unfinished: tasks that a stop cut short.
        retried: results that told the node to try again, because a function has changed or is unknown.
    """

    accepted: int = 0
    rejected: int = 0
    done: int = 0
    failed: int = 0
    timed_out: int = 0
    cancelled: int = 0
    lost: int = 0
    undelivered: int = 0
    unfinished: int = 0
    retried: int = 0


class FunctionSnapshot(NamedTuple):
    """The calls to a function since the runner started.

    Attributes:
        name: the function's name in n8n.
        done: calls that returned.
        failed: calls that raised, or whose arguments did not fit.
    """

    name: str
    done: int
    failed: int


class Snapshot(NamedTuple):
    """A runner at one moment.

    Attributes:
        state: "new", "starting" (in `/status` only), "running", "stopping", "stopped", "failed" or "forked".
        name: the runner's name.
        capacity: how many tasks may run at once.
        taken: slots in use, those of tasks with a lost connection included.
        links: the brokers' connections.
        tasks: the tasks whose handlers have not returned.
        counts: the totals.
        functions: the functions that have been called, by name.
    """

    state: str
    name: str
    capacity: int
    taken: int
    links: tuple[LinkSnapshot, ...]
    tasks: tuple[TaskSnapshot, ...]
    counts: Counts
    functions: tuple[FunctionSnapshot, ...] = ()

    @property
    def is_registered(self) -> bool:
        """Whether the runner is registered with at least one broker."""
        return any(link.state in ("registered", "paused") for link in self.links)

    @property
    def is_offering(self) -> bool:
        """Whether the runner is registered with at least one broker, and its executor can run tasks."""
        return any(link.state == "registered" for link in self.links)
