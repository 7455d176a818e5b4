"""The state of a runner at one moment, as immutable values."""

from __future__ import annotations

from typing import NamedTuple


class LinkSnapshot(NamedTuple):
    """One broker's connection."""

    broker: str  #: the broker's URL.
    #: "connecting", "waiting", "registered", "paused", "draining", or "closed". A paused link is registered,
    #: but offers nothing while the runner's executor is replaced.
    state: str
    registrations: int  #: successful registrations, over all connections.
    failures: int  #: failed attempts to connect and lost connections since the last registration.
    #: why the last attempt failed or the last connection ended; None after a registration.
    last_error: str | None


class TaskSnapshot(NamedTuple):
    """A task whose handler has not returned."""

    id: str  #: n8n's id of the task.
    type: str  #: the task type.
    age: float  #: seconds since the task was handed to the pool.
    progress: float | None  #: the handler's progress, from 0 to 1; None if it reports none.
    progress_text: str  #: the handler's text about its progress.
    #: why the result is not wanted any more; None while it is. The task keeps its slot until the handler
    #: returns.
    cancel_reason: str | None


class Counts(NamedTuple):
    """Totals since the runner started."""

    accepted: int = 0  #: offers that became tasks.
    rejected: int = 0  #: acceptances that were refused; n8n then looks for another runner.
    done: int = 0  #: results sent in which no call has failed.
    #: errors sent, except for time limits and interruptions, and results in which a call has failed.
    failed: int = 0
    timed_out: int = 0  #: tasks that reached the runner's own time limit.
    cancelled: int = 0  #: tasks that n8n cancelled.
    lost: int = 0  #: tasks whose connection was lost.
    undelivered: int = 0  #: results that n8n did not get, or may not have got.
    unfinished: int = 0  #: tasks that a stop, or Ctrl-C in their process, cut short.
    #: results that told the node to try again, because a function has changed or is unknown.
    retried: int = 0


class FunctionSnapshot(NamedTuple):
    """The calls to a function since the runner started."""

    name: str  #: the function's name in n8n.
    done: int  #: calls that returned.
    failed: int  #: calls that raised, or whose arguments did not fit.


class Snapshot(NamedTuple):
    """A runner at one moment."""

    #: "new", "starting" (in `/status` only), "running", "stopping", "stopped", "failed" or "forked".
    state: str
    name: str  #: the runner's name.
    capacity: int  #: how many tasks may run at once.
    taken: int  #: slots in use, those of tasks with a lost connection included.
    links: tuple[LinkSnapshot, ...]  #: the brokers' connections.
    tasks: tuple[TaskSnapshot, ...]  #: the tasks whose handlers have not returned.
    counts: Counts  #: the totals.
    functions: tuple[FunctionSnapshot, ...] = ()  #: the functions that have been called, by name.

    @property
    def is_registered(self) -> bool:
        """Whether the runner is registered with at least one broker."""
        return any(link.state in ("registered", "paused") for link in self.links)

    @property
    def is_offering(self) -> bool:
        """Whether the runner is registered with at least one broker, and its executor can run tasks."""
        return any(link.state == "registered" for link in self.links)
