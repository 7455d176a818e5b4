"""The records that `Matching` keeps: connections, offers, requests, acceptances and tasks."""

from __future__ import annotations

from dataclasses import dataclass, field

from n8nrunner.broker.timers import Timer


@dataclass(eq=False)
class Connection:
    """One runner's connection."""

    key: int  #: the number in events and actions.
    runner_id: str
    types: tuple[str, ...] = ()
    registered: bool = False  #: whether the runner has sent ``runner:info``.
    closed: bool = False  #: whether the broker has closed it, or it has ended.
    reachable: bool = True  #: False once nothing can be written to it any more.
    ponged: bool = True  #: whether a pong has come since the last ping.
    misses: int = 0  #: missed acceptances in a row; several in one window count once.
    missed_at: float | None = None  #: the moment of the last one that was counted.
    #: the moment at which a request expired while it had nothing to do and nothing to offer.
    silent_since: float | None = None
    offers: dict[int, Offer] = field(default_factory=dict)
    acceptances: dict[str, Acceptance] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)


@dataclass(eq=False)
class Offer:
    """An open offer. Its `number` tells it from another one with the same `offer_id`."""

    number: int
    connection: Connection
    offer_id: str
    task_type: str


@dataclass(eq=False)
class Request:
    """A request that no runner has accepted yet."""

    #: its places in the queue, the first one first. Empty once it has left the queue. There are several only
    #: if `Behaviour.queues_deferred_again`.
    places: list[int]
    request_id: str
    task_type: str
    timeout: float | None  #: replaces the request timeout and the task timeout, in seconds.
    since: float  #: when it was made.
    restarts: int = 0  #: how often its timer was restarted.
    acceptance: Acceptance | None = None  #: the acceptance that its runner has not answered yet.
    timer: Timer | None = None
    ended: bool = False  #: whether the requester knows its outcome.


@dataclass(eq=False)
class Acceptance:
    """An offer that the broker has accepted at `since`, and that the runner has not answered yet."""

    task_id: str
    request: Request
    connection: Connection
    since: float
    timer: Timer | None = None


@dataclass(eq=False)
class Task:
    """A task that a runner has accepted."""

    task_id: str
    request: Request
    connection: Connection
    forgotten: bool  #: the request had expired when the runner accepted, so no requester knows of the task.
    running: bool = False  #: whether its settings have been sent.
    shutting_down: bool = False  #: whether its time limit is the drain's.
    timer: Timer | None = None
