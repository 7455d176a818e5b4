"""The state of a runner at one moment, as immutable values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

#: How a call ends: "done" (it returned); "failed" (it raised, its arguments did not fit, or its result cannot
#: be sent); "timed_out"; "cancelled" (by n8n); "lost" (with its connection); "unfinished" (a stop, or Ctrl-C
#: in its process, cut it short).
OutcomeName = Literal["done", "failed", "timed_out", "cancelled", "lost", "unfinished"]
OUTCOMES: tuple[OutcomeName, ...] = ("done", "failed", "timed_out", "cancelled", "lost", "unfinished")

#: The upper bounds of the buckets of all histograms, in seconds: 1, 2 and 5 in each decade, from half a
#: millisecond, which is less than a task's way through n8n, to more than n8n's default time limit of 300 s.
BOUNDS = (
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5,
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0,
)  # fmt: skip


class Histogram(NamedTuple):
    """How many times were at most how long."""

    bounds: tuple[float, ...] = BOUNDS  #: the upper bounds of the buckets, in seconds, included.
    #: the times in each bucket. The last bucket, one more than the bounds, has those above all bounds.
    counts: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)
    sum: float = 0.0  #: all times together, in seconds.

    @property
    def count(self) -> int:  # type: ignore[override]
        """How many times there are."""
        return sum(self.counts)

    @property
    def mean(self) -> float | None:
        """The mean, in seconds; None without a time."""
        return self.sum / self.count if self.count else None

    def quantile(self, q: float) -> float | None:
        """Estimate a quantile: the time that the share `q` of all times did not exceed.

        It assumes that the times of a bucket are spread evenly over it, as Prometheus does. Above all bounds,
        it returns the last bound.

        Args:
            q: the share, from 0 to 1, such as 0.5 for the median.

        Returns:
            The estimate in seconds; None without a time.
        """
        total = self.count
        if not total:
            return None
        wanted = q * total
        lower = 0.0
        for upper, count in zip(self.bounds, self.counts):
            if count and wanted <= count:
                return lower + (upper - lower) * max(wanted, 0.0) / count
            wanted -= count
            lower = upper
        return lower


def merged(histograms: Iterable[Histogram]) -> Histogram:
    """Return one histogram of all times in several ones with the same bounds."""
    known = list(histograms) or [Histogram()]
    if len(known) == 1:
        return known[0]
    counts = tuple(map(sum, zip(*(each.counts for each in known))))
    return Histogram(known[0].bounds, counts, sum(each.sum for each in known))


class Outcome(NamedTuple):
    """The calls that ended in one way."""

    count: int  # type: ignore[assignment]  #: how many; a tuple's method has this name.
    #: the seconds inside of each call, with the wait for its function's `limit`; 0 for calls that could not
    #: be made. A task that is cut short has the time until that moment: from the begin of its handler on, or,
    #: in another process, from its arrival on.
    duration: Histogram


class CallError(NamedTuple):
    """A call, or a task, that has failed."""

    at: float  #: the time at which its task ended, in seconds since the epoch.
    function: str  #: the function's name, or the task type.
    task_id: str  #: n8n's id of the task.
    execution_id: str | None  #: the id of the execution in n8n; None if unknown.
    node: str | None  #: the name of the node in the workflow; None if unknown.
    item: int | None  #: the index of the first item of the call; None for a task.
    message: str  #: what n8n shows. Without `error_details`, the type of the exception alone.
    description: str | None  #: what n8n shows below. None without `error_details`.
    traceback: str | None  #: the traceback. None without `error_details`, and for a `TaskError`.


class LinkSnapshot(NamedTuple):
    """One broker's connection."""

    broker: str  #: the broker's URL.
    #: "connecting", "waiting", "registered", "paused", "draining", or "closed". A paused link is registered,
    #: but offers nothing while the runner's executor is replaced.
    state: str
    registrations: int  #: successful registrations, over all connections.
    failures: int  #: failed attempts to connect and lost connections since the last registration.
    #: why the last attempt failed or the last connection ended; None after a registration, and if the runner
    #: has ended the connection to stop.
    last_error: str | None
    open_offers: int = 0  #: offers of tasks that the broker has not accepted yet.
    accepted: int = 0  #: offers that became tasks.
    rejected: int = 0  #: acceptances that were refused; n8n then looks for another runner.
    reconnections: int = 0  #: registrations after the first one.
    undelivered: int = 0  #: results that n8n did not get, or may not have got.
    #: seconds since the last byte from the broker; None before the first connection.
    last_received: float | None = None
    #: the URL with ``dns+`` whose name has the broker's address; None if the broker's own URL was given. The
    #: snapshot has such a URL itself as a waiting link while its name has no address or its look-up fails.
    origin: str | None = None


def is_any_offering(links: Iterable[LinkSnapshot]) -> bool:
    """Return whether a runner with these links can get tasks from one of their brokers."""
    return any(link.state == "registered" for link in links)


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
    function: str | None = None  #: the function's name; None for a handler of a task type.
    execution_id: str | None = None  #: the id of the execution in n8n; None if unknown.
    node: str | None = None  #: the name of the node in the workflow; None if unknown.
    limit: float | None = None  #: the time limit of the task, in seconds.


class Counts(NamedTuple):
    """Totals of tasks since the runner started."""

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
    """The calls of a function, or the tasks of a type, since the runner started.

    A call of a function is for one item, or for all items of the task if the function takes a batch. A task
    that does not end with its result or error (`timed_out`, `cancelled`, `lost`, `unfinished`) counts once.
    """

    name: str  #: the function's name in n8n, or the task type.
    kind: Literal["function", "task"]  #: whether the name is a function's or a task type.
    outcomes: Mapping[str, Outcome]  #: the calls by outcome. It has only the outcomes that occurred.
    #: the seconds of each task from its settings until its function or handler began.
    queue: Histogram = Histogram()
    undelivered: int = 0  #: results that n8n did not get, or may not have got.
    running: int = 0  #: tasks whose function or handler has not returned.

    @property
    def done(self) -> int:
        """The calls that returned."""
        return self.outcomes["done"].count if "done" in self.outcomes else 0

    @property
    def failed(self) -> int:
        """The calls that raised, whose arguments did not fit, or whose result cannot be sent."""
        return self.outcomes["failed"].count if "failed" in self.outcomes else 0

    @property
    def calls(self) -> int:
        """All calls that have ended."""
        return sum(outcome.count for outcome in self.outcomes.values())

    @property
    def duration(self) -> Histogram:
        """The durations of all calls that have ended."""
        return merged(outcome.duration for outcome in self.outcomes.values())


class Snapshot(NamedTuple):
    """A runner at one moment."""

    #: "new", "starting" (in `/status` only), "running", "stopping", "stopped", "failed" or "forked".
    state: str
    name: str  #: the runner's name.
    capacity: int  #: how many tasks may run at once.
    taken: int  #: slots in use, those of tasks with a lost connection included.
    links: tuple[LinkSnapshot, ...]  #: the brokers' connections.
    tasks: tuple[TaskSnapshot, ...]  #: the tasks whose handlers have not returned.
    counts: Counts  #: the totals of tasks.
    #: the registered functions and task types, and those that were removed after a call, by name.
    functions: tuple[FunctionSnapshot, ...] = ()
    at: float = 0.0  #: the moment, in seconds since the epoch.
    uptime: float = 0.0  #: seconds since the runner started, until it ended.
    errors: tuple[CallError, ...] = ()  #: the last errors, the latest first.
    error_details: bool = True  #: whether the errors have their texts and tracebacks: the setting.

    def __repr__(self) -> str:
        """Return the brokers, functions, running tasks and last errors as a table, without tracebacks."""
        from n8nrunner.overview import overview  # many programs make snapshots, and few print one

        return overview(self)

    @property
    def has_ended(self) -> bool:
        """Whether the runner has stopped or failed, `uptime` seconds after its start."""
        return self.state in ("stopped", "failed")

    @property
    def is_registered(self) -> bool:
        """Whether the runner is registered with at least one broker."""
        return any(link.state in ("registered", "paused") for link in self.links)

    @property
    def is_offering(self) -> bool:
        """Whether the runner is registered with at least one broker, and its executor can run tasks."""
        return is_any_offering(self.links)
