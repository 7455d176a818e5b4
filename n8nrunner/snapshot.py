"""What a runner looks like at one moment: an immutable picture that every screen renders."""

from __future__ import annotations

from typing import NamedTuple


class LinkSnapshot(NamedTuple):
    """One broker's connection."""

    #: The broker's URL.
    broker: str
    #: "connecting", "waiting", "registered", "paused", "draining", or "closed". A paused link is registered,
    #: but offers nothing while the runner's executor is replaced.
    state: str
    #: Successful registrations, over all connections.
    registrations: int
    #: Attempts to connect since the last registration.
    attempts: int
    #: Why the last attempt failed or the last connection ended; None if nothing has.
    last_error: str | None


class TaskSnapshot(NamedTuple):
    """A task whose handler has not returned."""

    id: str
    type: str
    #: Seconds since it was handed to the pool.
    age: float
    #: From 0 to 1, as the handler says; None if it does not.
    progress: float | None
    progress_text: str
    #: Why no result is wanted any more; None while one is. Its slot stays taken until the handler returns.
    cancel_reason: str | None


class Counts(NamedTuple):
    """Totals since the runner started."""

    accepted: int = 0  #: offers that became tasks
    rejected: int = 0  #: acceptances that were refused; n8n looks for another runner then
    done: int = 0  #: results sent in which no call has failed
    failed: int = 0  #: errors sent, timeouts apart, and results in which a call has failed
    timed_out: int = 0  #: tasks that ran into the runner's own time limit
    cancelled: int = 0  #: tasks that n8n cancelled
    lost: int = 0  #: tasks whose connection was lost
    undelivered: int = 0  #: results that n8n did not get, or may not have got
    unfinished: int = 0  #: tasks that a stop cut short
    retried: int = 0  #: results that told the node to try again, because a function has changed or is unknown


class FunctionSnapshot(NamedTuple):
    """The calls to a function since the runner started."""

    name: str
    #: Calls that returned.
    done: int
    #: Calls that raised, or could not be made because their arguments did not fit.
    failed: int


class Snapshot(NamedTuple):
    """A runner at one moment."""

    #: "new", "running", "stopping", "stopped", "failed" or "forked".
    state: str
    name: str
    capacity: int
    #: Slots in which a task sits, tasks of lost connections included.
    taken: int
    links: tuple[LinkSnapshot, ...]
    tasks: tuple[TaskSnapshot, ...]
    counts: Counts
    #: Functions that have been called, by name.
    functions: tuple[FunctionSnapshot, ...] = ()

    @property
    def is_registered(self) -> bool:
        """Whether at least one broker knows the runner now."""
        return any(link.state == "registered" for link in self.links)
