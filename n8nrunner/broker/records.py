"""The state that `Matching` keeps: connections, offers, requests, acceptances and tasks."""

from __future__ import annotations

import heapq
from collections import OrderedDict
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
    #: since when requests of its types expire while it has no offer, acceptance or task. A message ends it.
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
    """A request of a requester for a runner. `Task` keeps it once a runner has accepted it."""

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


class OpenOffers:
    """Open offers by task type, oldest first."""

    def __init__(self) -> None:
        self._by_type: dict[str, OrderedDict[int, Offer]] = {}
        self._lapsing: list[tuple[float, int, Offer]] = []
        self._number = 0

    def __len__(self) -> int:
        return sum(map(len, self._by_type.values()))

    def add(self, connection: Connection, offer_id: str, task_type: str, lapses_at: float | None) -> None:
        """Add an offer; `lapses_at` is None if it never lapses."""
        self._number += 1
        offer = Offer(self._number, connection, offer_id, task_type)
        self._by_type.setdefault(task_type, OrderedDict())[offer.number] = offer
        connection.offers[offer.number] = offer
        if lapses_at is not None:
            heapq.heappush(self._lapsing, (lapses_at, offer.number, offer))

    def first(self, task_type: str) -> Offer | None:
        """Return the oldest offer of a type."""
        of_type = self._by_type.get(task_type)
        return next(iter(of_type.values())) if of_type else None

    def remove(self, offer: Offer) -> None:
        """Remove an offer, also from its connection."""
        of_type = self._by_type[offer.task_type]
        del of_type[offer.number]
        if not of_type:
            del self._by_type[offer.task_type]
        del offer.connection.offers[offer.number]

    def remove_lapsed(self, now: float) -> list[Offer]:
        """Remove and return the offers that have lapsed."""
        lapsed = []
        while self._lapsing and self._lapsing[0][0] <= now:
            offer = heapq.heappop(self._lapsing)[2]
            if offer.number in offer.connection.offers:
                self.remove(offer)
                lapsed.append(offer)
        return lapsed


class RequestQueue:
    """Waiting requests by task type, in the order of their places.

    A heap for each type, because a request whose runner rejected it goes back to its old place.
    """

    def __init__(self) -> None:
        self._by_type: dict[str, list[tuple[int, Request]]] = {}
        self._unmatched: set[str] = set()

    def add(self, request: Request) -> None:
        """Add a request at the first of its places."""
        heapq.heappush(self._by_type.setdefault(request.task_type, []), (request.places[0], request))
        self._unmatched.add(request.task_type)

    def changed(self, task_type: str) -> None:
        """Let the next match pass look at this type: it has a new offer."""
        self._unmatched.add(task_type)

    def next_unmatched_type(self) -> str | None:
        """Return a type that changed since a match pass looked at it, each type once."""
        return self._unmatched.pop() if self._unmatched else None

    def first(self, task_type: str) -> Request | None:
        """Return the first waiting request of a type."""
        of_type = self._by_type.get(task_type)
        while of_type:
            place, request = of_type[0]
            if request.places and request.places[0] == place:
                return request
            heapq.heappop(of_type)  # it has left this place
        if of_type is not None:
            del self._by_type[task_type]
        return None

    def remove_first(self, task_type: str) -> None:
        """Remove the request that `first` has just returned."""
        heapq.heappop(self._by_type[task_type])

    def types(self) -> set[str]:
        """Return the types of all waiting requests."""
        return {task_type for task_type in list(self._by_type) if self.first(task_type) is not None}
