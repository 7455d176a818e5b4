"""The broker's algorithm, without any I/O: which runner gets which request, and what becomes of its task.

`Matching.handle` is given one event and the time, and returns what is to be done, in order. It never waits:
whoever owns it calls again with `TimePassed` when `Matching.next_deadline` has come.

The versions of n8n differ in this algorithm; `n8nrunner.broker.behaviour.Behaviour` says how.

In n8n an answer to a runner can meet a runner that has just gone. Here the end of a connection and the end of
its tasks are one step, so that only a socket known to be half closed is left of that (`ConnectionFailing`).
"""

from __future__ import annotations

import heapq
import json
from collections import Counter, OrderedDict
from collections.abc import Mapping, MutableMapping
from typing import Any, Callable, NamedTuple, Union

from n8nrunner.broker.behaviour import N8N_2_40, Behaviour
from n8nrunner.broker.constants import BrokerConstants
from n8nrunner.broker.counts import TOTALS, BrokerEvent, Counts
from n8nrunner.protocol import messages as m

NORMAL_CLOSURE = 1000
GOING_AWAY = 1001
PROTOCOL_ERROR = 1002

RUNNER_GONE = "Node execution failed"
RUNNER_UNRESPONSIVE = "Task execution aborted because runner became unresponsive"
SHUT_DOWN = "Task aborted because the n8n instance was shutting down"
UNKNOWN_REQUEST = (
    "Request ID not found. In multi-main setup, it is possible for one of the mains to have reported ready "
    "state already."
)

# --- events -------------------------------------------------------------------------------------


class Connected(NamedTuple):
    """A runner's WebSocket is open; `connection` is a number of the caller's that is never used again."""

    connection: int
    runner_id: str


class Received(NamedTuple):
    """A runner sent a message."""

    connection: int
    message: m.FromRunner


class PongReceived(NamedTuple):
    """A runner answered a ping, or sent a pong on its own account."""

    connection: int


class ConnectionFailing(NamedTuple):
    """Nothing can be written to a connection any more, though its end has not been seen yet."""

    connection: int


class Disconnected(NamedTuple):
    """A connection has ended, by whomever and however."""

    connection: int


class TaskRequested(NamedTuple):
    """A requester wants a runner. `timeout` replaces the request timeout and the task timeout, in seconds."""

    request_id: str
    task_type: str
    timeout: float | None = None


class RequestWithdrawn(NamedTuple):
    """A requester takes back its request before it has become a task. n8n itself has no such thing."""

    request_id: str
    reason: str


class SettingsGiven(NamedTuple):
    """A requester answers `TaskReady`. What the settings are is none of this module's business."""

    task_id: str
    settings: Any


class TaskCancelled(NamedTuple):
    """A requester does not want its task any more."""

    task_id: str
    reason: str


class Answered(NamedTuple):
    """A requester answers a `Relay`."""

    task_id: str
    message: m.RpcResponse | m.TaskDataResponse | m.NodeTypes


class DrainStarted(NamedTuple):
    """The broker is to shut down within `timeout` seconds, or as soon as no task is left."""

    timeout: float


class TimePassed(NamedTuple):
    """`Matching.next_deadline` may have come."""


Event = Union[
    Connected,
    Received,
    PongReceived,
    ConnectionFailing,
    Disconnected,
    TaskRequested,
    RequestWithdrawn,
    SettingsGiven,
    TaskCancelled,
    Answered,
    DrainStarted,
    TimePassed,
]

# --- actions ------------------------------------------------------------------------------------


class Send(NamedTuple):
    """Send a message to a runner."""

    connection: int
    message: m.FromBroker


class Ping(NamedTuple):
    """Send a ping to a runner."""

    connection: int


class Close(NamedTuple):
    """Close a runner's connection. What it still sends is not wanted; `Disconnected` is."""

    connection: int
    code: int


class TaskReady(NamedTuple):
    """To the requester: a runner has accepted; it wants `SettingsGiven` now."""

    request_id: str
    task_id: str


class RequestExpired(NamedTuple):
    """To the requester: no runner, and none will be looked for; `reason` is "timeout" or "draining"."""

    request_id: str
    reason: str
    error: Mapping[str, Any]


class TaskDone(NamedTuple):
    """To the requester: the runner's result."""

    request_id: str
    task_id: str
    data: Mapping[str, Any]


class TaskFailed(NamedTuple):
    """To the requester: no result. `cause` is the total in `Counts` that this raised."""

    request_id: str
    task_id: str
    cause: str
    error: Any


class Relay(NamedTuple):
    """To the requester: the runner calls a helper, or asks for data or node types."""

    request_id: str
    task_id: str
    message: m.RpcCall | m.TaskDataRequest | m.NodeTypesRequest


class Drained(NamedTuple):
    """The drain is over: no connection, request or task is left."""


Action = Union[Send, Ping, Close, TaskReady, RequestExpired, TaskDone, TaskFailed, Relay, Drained]

# --- state --------------------------------------------------------------------------------------


class _Timer:
    __slots__ = ("action", "at", "live")

    def __init__(self, at: float, action: Callable[[float], None]) -> None:
        self.at = at
        self.action = action
        self.live = True


class _Timers:
    """Deadlines, soonest first; the one that was set first goes first among equals."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, _Timer]] = []
        self._sequence = 0
        self._cancelled = 0

    def set(self, at: float, action: Callable[[float], None]) -> _Timer:
        timer = _Timer(at, action)
        self._sequence += 1
        heapq.heappush(self._heap, (at, self._sequence, timer))
        return timer

    def cancel(self, timer: _Timer | None) -> None:
        if timer is not None and timer.live:
            timer.live = False
            self._cancelled += 1
            # Timeouts are long and tasks are short: without this, the heap would be full of cancelled timers.
            if self._cancelled > 64 and self._cancelled > len(self._heap) // 2:
                self._heap = [entry for entry in self._heap if entry[2].live]
                heapq.heapify(self._heap)
                self._cancelled = 0

    def next(self) -> float | None:
        while self._heap and not self._heap[0][2].live:
            heapq.heappop(self._heap)
            self._cancelled -= 1
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> _Timer | None:
        at = self.next()
        if at is None or at > now:
            return None
        timer = heapq.heappop(self._heap)[2]
        timer.live = False
        return timer


class _Connection:
    __slots__ = (
        "acceptances",
        "closed",
        "key",
        "missed",
        "missed_at",
        "offers",
        "ponged",
        "reachable",
        "registered",
        "runner_id",
        "silent_since",
        "tasks",
        "types",
    )

    def __init__(self, key: int, runner_id: str) -> None:
        self.key = key
        self.runner_id = runner_id
        self.types: tuple[str, ...] = ()
        self.registered = False
        self.closed = False
        self.reachable = True
        self.ponged = True
        self.missed = 0
        self.missed_at: float | None = None
        self.silent_since: float | None = None
        self.offers: dict[int, _Offer] = {}
        self.acceptances: dict[str, _Acceptance] = {}
        self.tasks: dict[str, _Task] = {}


class _Offer:
    __slots__ = ("connection", "offer_id", "sequence", "task_type")

    def __init__(self, sequence: int, connection: _Connection, offer_id: str, task_type: str) -> None:
        self.sequence = sequence
        self.connection = connection
        self.offer_id = offer_id
        self.task_type = task_type


class _Request:
    __slots__ = (
        "acceptance",
        "ended",
        "places",
        "request_id",
        "restarts",
        "since",
        "task_type",
        "timeout",
        "timer",
    )

    def __init__(
        self, place: int, request_id: str, task_type: str, timeout: float | None, since: float
    ) -> None:
        #: Its places in the queue, the first one first; several only if `Behaviour.queues_deferred_again`.
        self.places = [place]
        self.request_id = request_id
        self.task_type = task_type
        self.timeout = timeout
        self.since = since
        self.restarts = 0
        self.acceptance: _Acceptance | None = None
        self.timer: _Timer | None = None
        self.ended = False


class _Acceptance:
    __slots__ = ("connection", "request", "since", "task_id", "timer")

    def __init__(self, task_id: str, request: _Request, connection: _Connection, since: float) -> None:
        self.task_id = task_id
        self.request = request
        self.connection = connection
        self.since = since
        self.timer: _Timer | None = None


class _Task:
    __slots__ = ("connection", "forgotten", "request", "running", "shutting_down", "task_id", "timer")

    def __init__(self, task_id: str, request: _Request, connection: _Connection, forgotten: bool) -> None:
        self.task_id = task_id
        self.request = request
        self.connection = connection
        #: The request had expired when the runner accepted: no requester knows of this task.
        self.forgotten = forgotten
        self.running = False
        self.shutting_down = False
        self.timer: _Timer | None = None


class Matching:
    """The state of one broker, from its start to the end of its drain.

    Args:
        now: seconds on the clock that `handle` is given.
        new_task_id: returns an id that it has never returned before.
        behaviour: the version of n8n.
        constants: the limits and delays.
        totals: continues the totals of an earlier broker; a new set if not given. Changed in place.
        on_event: is told of everything that happens, from within `handle`.
    """

    def __init__(
        self,
        now: float,
        new_task_id: Callable[[], str],
        *,
        behaviour: Behaviour = N8N_2_40,
        constants: BrokerConstants | None = None,
        totals: MutableMapping[str, int] | None = None,
        on_event: Callable[[BrokerEvent], None] | None = None,
    ) -> None:
        self._behaviour = behaviour
        self._constants = constants or BrokerConstants()
        self._new_task_id = new_task_id
        self._totals: MutableMapping[str, int] = Counter() if totals is None else totals
        self._on_event = on_event
        self._now = now
        self._sequence = 0
        self._actions: list[Action] = []
        self._timers = _Timers()

        self._connections: dict[int, _Connection] = {}
        self._runners: dict[str, _Connection] = {}
        self._offers: dict[str, OrderedDict[int, _Offer]] = {}
        self._lapsing: list[tuple[float, int, _Offer]] = []
        self._offer_count = 0
        self._requests: dict[str, _Request] = {}
        # Requests to be matched, oldest first: heaps, because a rejected one goes back to its old place.
        self._waiting: dict[str, list[tuple[int, _Request]]] = {}
        # Types with requests that a match pass has not looked at since something changed for them.
        self._unmatched: set[str] = set()
        self._acceptances: dict[str, _Acceptance] = {}
        self._tasks: dict[str, _Task] = {}
        self._running = 0
        self._draining = False
        self._drained = False
        self._timers.set(now + self._constants.heartbeat_interval, self._heartbeat)

    # --- what the owner calls -------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> list[Action]:
        """Takes one event; returns what is to be done, in order.

        A deadline takes effect with `TimePassed` only: an answer that is handed in before counts as in time,
        because whoever hands it in late may have had it in time.
        """
        self._now = now
        self._HANDLERS[type(event)](self, event)
        actions, self._actions = self._actions, []
        return actions

    def next_deadline(self) -> float | None:
        """The time at which `TimePassed` is wanted; None once the drain is over."""
        return None if self._drained else self._timers.next()

    def counts(self) -> Counts:
        """How many of everything there are, and the totals."""
        totals = self._totals
        return Counts(
            sum(not connection.closed for connection in self._connections.values()),
            len(self._runners),
            self._offer_count,
            len(self._requests),
            len(self._acceptances),
            len(self._tasks),
            self._running,
            *[totals.get(kind, 0) for kind in TOTALS],
        )

    def note(self, kind: str, connection: int, now: float, detail: str | None = None) -> None:
        """Counts something that only the owner can see, such as a malformed message."""
        self._now = now
        known = self._connections.get(connection)
        self._tell(kind, runner_id=known.runner_id if known else None, detail=detail)

    # --- connections ----------------------------------------------------------------------------

    def _connected(self, event: Connected) -> None:
        connection = _Connection(event.connection, event.runner_id)
        self._connections[event.connection] = connection
        self._tell("connected", connection)
        if self._drained:
            self._leave(connection, GOING_AWAY)
        else:
            self._send(connection, m.InfoRequest())

    def _received(self, event: Received) -> None:
        connection = self._connections.get(event.connection)
        if connection is None or connection.closed:
            return
        message = event.message
        if not connection.registered:
            # n8n silently drops whatever comes before the registration.
            if type(message) is m.RunnerInfo:
                self._register(connection, message)
            return
        connection.silent_since = None
        self._MESSAGE_HANDLERS[type(message)](self, connection, message)

    def _register(self, connection: _Connection, message: m.RunnerInfo) -> None:
        old = self._runners.get(connection.runner_id)
        if old is not None:
            self._tell("evicted", old)
            self._leave(old, NORMAL_CLOSURE)
        connection.registered = True
        connection.types = message.types
        self._runners[connection.runner_id] = connection
        self._tell("registered", connection, detail=",".join(map(str, message.types)))
        self._send(connection, m.RunnerRegistered())

    def _registered_again(self, connection: _Connection, message: m.RunnerInfo) -> None:
        self._tell("ignored", connection, detail="runner:info")

    def _pong_received(self, event: PongReceived) -> None:
        connection = self._connections.get(event.connection)
        if connection is not None:
            connection.ponged = True

    def _connection_failing(self, event: ConnectionFailing) -> None:
        connection = self._connections.get(event.connection)
        if connection is not None:
            connection.reachable = False

    def _disconnected(self, event: Disconnected) -> None:
        connection = self._connections.pop(event.connection, None)
        if connection is None:
            return
        self._tell("disconnected", connection)
        if not connection.closed:
            self._leave(connection, None)
        if self._behaviour.closes_by_id:
            # The end of a replaced connection closes the one that replaced it.
            holder = self._runners.get(connection.runner_id)
            if holder is not None:
                self._tell("evicted", holder)
                self._leave(holder, NORMAL_CLOSURE)

    def _leave(self, connection: _Connection, code: int | None, error: str = RUNNER_GONE) -> None:
        """Forgets a connection and all that depends on it; closes it if there is a `code`."""
        connection.closed = True
        if code is not None:
            self._actions.append(Close(connection.key, code))
        if self._runners.get(connection.runner_id) is connection:
            del self._runners[connection.runner_id]
        self._drop_offers(connection)
        for task in list(connection.tasks.values()):
            self._fail(task, "lost", {"message": error})
        if self._behaviour.rematches_abandoned:
            for acceptance in list(connection.acceptances.values()):
                self._end_acceptance(acceptance)
                self._tell("abandoned", connection, acceptance.request, acceptance.task_id)
                self._wait_again(acceptance.request)
            self._match()

    def _heartbeat(self, _: float) -> None:
        self._timers.set(self._now + self._constants.heartbeat_interval, self._heartbeat)
        for connection in list(self._runners.values()):
            if connection.closed:
                continue
            if connection.ponged:
                connection.ponged = False
                self._actions.append(Ping(connection.key))
                continue
            self._tell("heartbeat_missed", connection)
            self._leave(connection, PROTOCOL_ERROR, RUNNER_UNRESPONSIVE)
            if self._behaviour.heartbeat_stops_at_dead:
                break

    def _kick_if_idle(self, connection: _Connection, reason: str) -> None:
        if not connection.tasks:
            self._tell("kicked", connection, detail=reason)
            self._leave(connection, PROTOCOL_ERROR, RUNNER_UNRESPONSIVE)

    # --- offers and requests --------------------------------------------------------------------

    def _offered(self, connection: _Connection, message: m.TaskOffer) -> None:
        self._sequence += 1
        offer = _Offer(self._sequence, connection, message.offer_id, message.task_type)
        self._offers.setdefault(offer.task_type, OrderedDict())[offer.sequence] = offer
        connection.offers[offer.sequence] = offer
        self._offer_count += 1
        if message.valid_for != -1:
            heapq.heappush(self._lapsing, (self._now + message.valid_for / 1000, offer.sequence, offer))
        self._tell("offered", connection, detail=offer.task_type)
        self._unmatched.add(offer.task_type)
        self._match()

    def _take_offer(self, offer: _Offer) -> None:
        of_type = self._offers[offer.task_type]
        del of_type[offer.sequence]
        if not of_type:
            del self._offers[offer.task_type]
        del offer.connection.offers[offer.sequence]
        self._offer_count -= 1

    def _drop_offers(self, connection: _Connection) -> None:
        for offer in list(connection.offers.values()):
            self._take_offer(offer)
            self._tell("offers_dropped", connection, detail=offer.task_type)

    def _drop_lapsed_offers(self) -> None:
        # n8n looks at the time of an offer in a match pass only.
        while self._lapsing and self._lapsing[0][0] <= self._now:
            offer = heapq.heappop(self._lapsing)[2]
            if offer.sequence in offer.connection.offers:
                self._take_offer(offer)
                self._tell("offers_lapsed", offer.connection, detail=offer.task_type)

    def _requested(self, event: TaskRequested) -> None:
        if event.request_id in self._requests:
            raise ValueError(f"the request id {event.request_id!r} is in use")
        self._sequence += 1
        request = _Request(self._sequence, event.request_id, event.task_type, event.timeout, self._now)
        self._tell("requested", request=request, detail=request.task_type)
        if self._draining:
            self._tell("refused", request=request, detail=request.task_type)
            self._actions.append(self._expired(request, "draining"))
            return
        self._requests[request.request_id] = request
        self._start_request_timer(request)
        self._wait(request)
        self._match()
        if request.acceptance is None and self._offers:
            self._tell("mismatched", request=request, detail=request.task_type)

    def _request_withdrawn(self, event: RequestWithdrawn) -> None:
        request = self._requests.get(event.request_id)
        if request is None:
            return
        self._end_request(request)
        self._tell("withdrawn", request=request, detail=event.reason)
        acceptance = request.acceptance
        if acceptance is not None:
            self._end_acceptance(acceptance)
            self._send(acceptance.connection, m.TaskCancel(acceptance.task_id, event.reason))

    def _start_request_timer(self, request: _Request) -> None:
        self._timers.cancel(request.timer)
        timeout = self._request_timeout(request)
        request.timer = self._timers.set(self._now + timeout, lambda _: self._request_timed_out(request))

    def _restart_request_timer(self, request: _Request) -> None:
        if self._behaviour.limits_restarts:
            if request.restarts >= self._constants.request_restarts:
                return
            request.restarts += 1
        self._start_request_timer(request)

    def _request_timeout(self, request: _Request) -> float:
        return self._constants.request_timeout if request.timeout is None else request.timeout

    def _request_timed_out(self, request: _Request) -> None:
        places = request.places[1:]
        if not request.ended:
            self._end_request(request)
            self._tell("expired", request=request, detail=request.task_type)
            self._actions.append(self._expired(request, "timeout"))
        request.places = places
        if places and request.acceptance is None:
            self._wait(request)
        if self._behaviour.closes_silent:
            self._look_for_silent_runners(request.task_type)

    def _look_for_silent_runners(self, task_type: str) -> None:
        for connection in list(self._runners.values()):
            if (
                connection.closed
                or not connection.reachable
                or task_type not in connection.types
                or connection.offers
                or connection.tasks
                or connection.acceptances
            ):
                continue
            if connection.silent_since is None:
                connection.silent_since = self._now
            elif self._now - connection.silent_since >= self._constants.silence_window:
                self._kick_if_idle(connection, "silent while requests expired")

    def _expired(self, request: _Request, reason: str) -> RequestExpired:
        message = "Task request timed out"
        if self._behaviour.names_configured_wait:
            message = f"{message} after {_seconds(self._request_timeout(request))}"
        waited = round(self._now - request.since, 1)
        description = (
            f"No runner took the task of type {request.task_type!r} within {_seconds(waited)}. Is a runner "
            "for this type connected, and does it have a free slot? N8N_RUNNERS_TASK_REQUEST_TIMEOUT sets "
            "how long to wait."
            if reason == "timeout"
            else f"The broker is shutting down; no runner was given the task of type {request.task_type!r}."
        )
        return RequestExpired(request.request_id, reason, {"message": message, "description": description})

    def _end_request(self, request: _Request) -> None:
        request.ended = True
        request.places = []
        self._timers.cancel(request.timer)
        del self._requests[request.request_id]

    def _wait(self, request: _Request) -> None:
        heapq.heappush(self._waiting.setdefault(request.task_type, []), (request.places[0], request))
        self._unmatched.add(request.task_type)

    def _wait_again(self, request: _Request) -> None:
        """Put a request back at its old place in the queue, unless it has left the queue. Match nothing."""
        if request.places:
            self._wait(request)

    def _match(self) -> None:
        """One match pass: first come, first served on both sides, without any fairness between runners."""
        self._drop_lapsed_offers()
        while self._unmatched:
            task_type = self._unmatched.pop()
            waiting = self._waiting.get(task_type)
            while waiting:
                place, request = waiting[0]
                if request.places[:1] != [place]:
                    heapq.heappop(waiting)
                    continue
                offer = self._first_offer(task_type)
                if offer is None:
                    break
                heapq.heappop(waiting)
                self._take_offer(offer)
                self._accept(request, offer)
            if waiting is not None and not waiting:
                del self._waiting[task_type]

    def _first_offer(self, task_type: str) -> _Offer | None:
        while True:
            of_type = self._offers.get(task_type)
            if not of_type:
                return None
            offer = next(iter(of_type.values()))
            if offer.connection.reachable or not self._behaviour.notices_unreachable:
                return offer
            self._take_offer(offer)
            self._tell("offers_dropped", offer.connection, detail=task_type)

    # --- acceptance -----------------------------------------------------------------------------

    def _accept(self, request: _Request, offer: _Offer) -> None:
        connection = offer.connection
        acceptance = _Acceptance(self._new_task_id(), request, connection, self._now)
        request.acceptance = acceptance
        self._acceptances[acceptance.task_id] = acceptance
        connection.acceptances[acceptance.task_id] = acceptance
        acceptance.timer = self._timers.set(
            self._now + self._constants.acceptance_timeout, lambda _: self._acceptance_missed(acceptance)
        )
        self._tell("acceptances", connection, request, acceptance.task_id)
        self._send(connection, m.TaskOfferAccept(offer.offer_id, acceptance.task_id))

    def _answer_to_acceptance(self, connection: _Connection, task_id: str, kind: str) -> _Acceptance | None:
        acceptance = self._acceptances.get(task_id)
        if acceptance is None or acceptance.connection is not connection:
            self._tell("late", connection, task_id=task_id, detail=kind)
            return None
        self._end_acceptance(acceptance)
        connection.missed = 0
        self._tell(kind, connection, acceptance.request, task_id)
        return acceptance

    def _end_acceptance(self, acceptance: _Acceptance) -> None:
        self._timers.cancel(acceptance.timer)
        del self._acceptances[acceptance.task_id]
        del acceptance.connection.acceptances[acceptance.task_id]
        acceptance.request.acceptance = None

    def _accepted(self, connection: _Connection, message: m.TaskAccepted) -> None:
        acceptance = self._answer_to_acceptance(connection, message.task_id, "accepted")
        if acceptance is None:
            return
        request = acceptance.request
        if request.ended and (request.places or self._behaviour.cancels_expired):
            reason = UNKNOWN_REQUEST if request.places else "Task request expired"
            self._timers.cancel(request.timer)
            request.places = []
            self._send(connection, m.TaskCancel(message.task_id, reason))
            return
        task = _Task(message.task_id, request, connection, forgotten=request.ended)
        self._tasks[task.task_id] = task
        connection.tasks[task.task_id] = task
        if request.ended:
            return
        self._end_request(request)
        task.timer = self._timers.set(
            self._now + self._constants.settings_timeout, lambda _: self._settings_missed(task)
        )
        self._actions.append(TaskReady(request.request_id, task.task_id))

    def _rejected(self, connection: _Connection, message: m.TaskRejected) -> None:
        acceptance = self._answer_to_acceptance(connection, message.task_id, "rejected")
        if acceptance is not None:
            self._wait_again(acceptance.request)
            if self._behaviour.rematches_rejected:
                self._match()

    def _deferred(self, connection: _Connection, message: m.TaskDeferred) -> None:
        acceptance = self._answer_to_acceptance(connection, message.task_id, "deferred")
        if acceptance is None:
            return
        request = acceptance.request
        if self._behaviour.queues_deferred_again:
            self._sequence += 1
            request.places.append(self._sequence)
        if request.places:
            self._restart_request_timer(request)
            self._wait(request)

    def _acceptance_missed(self, acceptance: _Acceptance) -> None:
        connection, request = acceptance.connection, acceptance.request
        self._end_acceptance(acceptance)
        self._tell("missed", connection, request, acceptance.task_id)
        self._wait_again(request)
        if self._behaviour.cancels_missed:
            if not request.ended:
                self._restart_request_timer(request)
            self._send(connection, m.TaskCancel(acceptance.task_id, "Acknowledgement window elapsed"))
            self._drop_offers(connection)
        if self._behaviour.closes_after_misses:
            self._count_miss(connection, acceptance)
        if self._behaviour.cancels_missed:
            self._match()

    def _count_miss(self, connection: _Connection, acceptance: _Acceptance) -> None:
        # Several acceptances of one window are one miss: only one that began after the last miss counts.
        if connection.missed_at is None or acceptance.since >= connection.missed_at:
            connection.missed += 1
            connection.missed_at = self._now
            if connection.missed >= self._constants.missed_limit:
                self._kick_if_idle(connection, f"{connection.missed} acceptances missed")

    # --- tasks ----------------------------------------------------------------------------------

    def _settings_given(self, event: SettingsGiven) -> None:
        task = self._tasks.get(event.task_id)
        if task is None or task.running or task.forgotten:
            return
        if not self._can_reach(task):
            return
        self._timers.cancel(task.timer)
        task.running = True
        self._running += 1
        task.timer = self._timers.set(
            self._now + self._task_timeout(task), lambda _: self._task_timed_out(task)
        )
        self._tell("started", task.connection, task.request, task.task_id)
        self._send(task.connection, m.TaskSettings(event.task_id, event.settings))

    def _settings_missed(self, task: _Task) -> None:
        reason = "Unknown reason"
        if self._behaviour.names_settings_timeout:
            reason = "Requester took too long to acknowledge the task"
        self._send(task.connection, m.TaskCancel(task.task_id, reason))
        self._fail(task, "settings_missed", {"message": reason})

    def _answered(self, event: Answered) -> None:
        task = self._tasks.get(event.task_id)
        if task is not None and self._can_reach(task):
            self._send(task.connection, event.message)

    def _can_reach(self, task: _Task) -> bool:
        """Return whether a message can be sent for a task; fail the task if not."""
        connection = task.connection
        if connection.reachable or not self._behaviour.notices_unreachable:
            return True
        error = f"Runner ({connection.runner_id}) became unreachable while processing task ({task.task_id})"
        self._fail(task, "lost", {"message": error})
        return False

    def _task_cancelled(self, event: TaskCancelled) -> None:
        task = self._tasks.get(event.task_id)
        if task is None:
            return
        self._end_task(task)
        self._tell("cancelled", task.connection, task.request, task.task_id, event.reason)
        self._send(task.connection, m.TaskCancel(event.task_id, event.reason))
        self._finish_drain()

    def _task_timeout(self, task: _Task) -> float:
        timeout = task.request.timeout
        return self._constants.task_timeout if timeout is None else timeout

    def _task_timed_out(self, task: _Task) -> None:
        if task.shutting_down:
            reason = "Task aborted because this n8n instance is shutting down"
            self._send(task.connection, m.TaskCancel(task.task_id, reason))
            self._fail(task, "shut_down", {"message": SHUT_DOWN})
            return
        limit = _seconds(self._task_timeout(task))
        self._send(task.connection, m.TaskCancel(task.task_id, "Task execution timed out"))
        description = (
            f"The runner did not finish the task within {limit}. N8N_RUNNERS_TASK_TIMEOUT sets the limit, in "
            "n8n and in the runner."
        )
        error = {"message": f"Task execution timed out after {limit}", "description": description}
        self._fail(task, "timed_out", error)

    def _task_of(self, connection: _Connection, task_id: str, what: str) -> _Task | None:
        # n8n does not check whose task it is; an answer on another connection is a runner's bug.
        task = self._tasks.get(task_id)
        if task is None or task.connection is not connection:
            self._tell("ignored", connection, task_id=task_id, detail=what)
            return None
        return task

    def _done(self, connection: _Connection, message: m.TaskDone) -> None:
        task = self._task_of(connection, message.task_id, "runner:taskdone")
        if task is None:
            return
        connection.missed = 0
        self._end_task(task)
        self._tell("done", connection, task.request, task.task_id)
        if not task.forgotten:
            self._actions.append(TaskDone(task.request.request_id, task.task_id, message.data))
        self._finish_drain()

    def _failed(self, connection: _Connection, message: m.TaskFailed) -> None:
        task = self._task_of(connection, message.task_id, "runner:taskerror")
        if task is None:
            return
        connection.missed = 0
        self._fail(task, "failed", message.error)

    def _fail(self, task: _Task, cause: str, error: Any) -> None:
        self._end_task(task)
        self._tell(cause, task.connection, task.request, task.task_id)
        if not task.forgotten:
            self._actions.append(TaskFailed(task.request.request_id, task.task_id, cause, error))
        self._finish_drain()

    def _end_task(self, task: _Task) -> None:
        self._timers.cancel(task.timer)
        del self._tasks[task.task_id]
        del task.connection.tasks[task.task_id]
        self._running -= task.running

    def _relayed(
        self, connection: _Connection, message: m.RpcCall | m.TaskDataRequest | m.NodeTypesRequest
    ) -> None:
        task = self._task_of(connection, message.task_id, _WIRE_NAMES[type(message)])
        if task is not None and not task.forgotten:
            self._tell("relayed", connection, task.request, task.task_id)
            self._actions.append(Relay(task.request.request_id, task.task_id, message))

    # --- drain ----------------------------------------------------------------------------------

    def _drain_started(self, event: DrainStarted) -> None:
        if self._draining:
            return
        self._draining = True
        if not self._behaviour.drains:
            self._end_drain()
            return
        for connection in self._runners.values():
            self._send(connection, m.Drain())
        if self._behaviour.shortens_tasks:
            for task in self._tasks.values():
                self._shorten(task, self._now + event.timeout)
        # Set after the tasks' timers, so that these come first.
        self._timers.set(self._now + event.timeout, lambda _: self._end_drain())
        self._finish_drain()

    def _shorten(self, task: _Task, at: float) -> None:
        if task.running and task.timer is not None and task.timer.at > at:
            self._timers.cancel(task.timer)
            task.shutting_down = True
            task.timer = self._timers.set(at, lambda _: self._task_timed_out(task))

    def _finish_drain(self) -> None:
        # Requests that still wait do not hold it up, nor do acceptances: n8n looks at its tasks alone.
        if self._draining and not self._tasks and not self._drained:
            self._end_drain()

    def _end_drain(self) -> None:
        self._drained = True
        for request in list(self._requests.values()):
            self._end_request(request)
            self._tell("expired", request=request, detail=request.task_type)
            self._actions.append(self._expired(request, "draining"))
        for connection in list(self._connections.values()):
            if not connection.closed:
                self._leave(connection, GOING_AWAY)
        for acceptance in list(self._acceptances.values()):
            self._end_acceptance(acceptance)
        self._actions.append(Drained())

    # --- helpers --------------------------------------------------------------------------------

    def _time_passed(self, _: TimePassed) -> None:
        while not self._drained:
            timer = self._timers.pop_due(self._now)
            if timer is None:
                break
            timer.action(self._now)

    def _send(self, connection: _Connection, message: m.FromBroker) -> None:
        if not connection.closed:
            self._actions.append(Send(connection.key, message))

    def _tell(
        self,
        kind: str,
        connection: _Connection | None = None,
        request: _Request | None = None,
        task_id: str | None = None,
        detail: str | None = None,
        runner_id: str | None = None,
    ) -> None:
        self._totals[kind] = self._totals.get(kind, 0) + 1
        if self._on_event is not None:
            if connection is not None:
                runner_id = connection.runner_id
            request_id = request.request_id if request is not None else None
            self._on_event(BrokerEvent(kind, self._now, runner_id, request_id, task_id, detail))

    _HANDLERS: dict[type, Callable[[Matching, Any], None]] = {
        Connected: _connected,
        Received: _received,
        PongReceived: _pong_received,
        ConnectionFailing: _connection_failing,
        Disconnected: _disconnected,
        TaskRequested: _requested,
        RequestWithdrawn: _request_withdrawn,
        SettingsGiven: _settings_given,
        TaskCancelled: _task_cancelled,
        Answered: _answered,
        DrainStarted: _drain_started,
        TimePassed: _time_passed,
    }

    _MESSAGE_HANDLERS: dict[type, Callable[[Matching, _Connection, Any], None]] = {
        m.RunnerInfo: _registered_again,
        m.TaskOffer: _offered,
        m.TaskAccepted: _accepted,
        m.TaskRejected: _rejected,
        m.TaskDeferred: _deferred,
        m.TaskDone: _done,
        m.TaskFailed: _failed,
        m.RpcCall: _relayed,
        m.TaskDataRequest: _relayed,
        m.NodeTypesRequest: _relayed,
    }


_WIRE_NAMES = {
    m.RpcCall: "runner:rpc",
    m.TaskDataRequest: "runner:taskdatarequest",
    m.NodeTypesRequest: "runner:nodetypesrequest",
}


def _seconds(number: float) -> str:
    """As n8n writes it: "1 second", "60 seconds"."""
    return f"{number:g} second{'' if number == 1 else 's'}"


def runner_error(error: Any) -> dict[str, Any]:
    """The error object that n8n's user sees for what a runner put into ``runner:taskerror``."""
    if not isinstance(error, dict):
        return {"message": f"Unknown error: {json.dumps(error)}"}
    if not isinstance(error.get("message"), str):
        return {**error, "message": "Unknown error"}
    return error
