"""The broker's algorithm, without any I/O: which runner gets which request, and how its task ends.

`Matching.handle` takes one event and the time, and returns actions to carry out in order. It never waits: the
caller sends `TimePassed` when `Matching.next_deadline` has come. The versions of n8n differ in this
algorithm; `n8nrunner.broker.behaviour.Behaviour` says how. `Switchboard` calls it, on the broker's thread.

n8n may send a message to a runner that has just disconnected. Here a connection ends together with its tasks,
so this happens only after `ConnectionFailing`, when the connection is half closed.
"""

from __future__ import annotations

import itertools
from typing import Callable, NamedTuple

from n8nrunner.broker import actions, events, wording
from n8nrunner.broker.behaviour import Behaviour
from n8nrunner.broker.constants import BrokerConstants
from n8nrunner.broker.counts import BrokerCounts, BrokerEvent
from n8nrunner.broker.records import Acceptance, Connection, Offer, OpenOffers, Request, RequestQueue, Task
from n8nrunner.broker.timers import Timers
from n8nrunner.protocol import messages as m

NORMAL_CLOSURE = 1000
GOING_AWAY = 1001
PROTOCOL_ERROR = 1002


class Description(NamedTuple):
    """A look inside a `Matching`, for tests."""

    waiting_types: set[str]  #: the types of requests that wait for an offer.
    timers: int  #: timers held in memory, including cancelled ones.


class Matching:
    """The state of one broker, from its start to the end of its drain.

    Args:
        now: seconds on the clock that `handle` is given.
        new_task_id: returns an id that it has never returned before.
        behaviour: the version of n8n.
        constants: the limits and delays.
        totals: the totals of an earlier broker, to continue; changed in place.
        on_event: called with each `BrokerEvent`, from within `handle`.
    """

    def __init__(
        self,
        now: float,
        new_task_id: Callable[[], str],
        *,
        behaviour: Behaviour,
        constants: BrokerConstants,
        totals: dict[str, int],
        on_event: Callable[[BrokerEvent], None],
    ) -> None:
        self._behaviour = behaviour
        self._constants = constants
        self._new_task_id = new_task_id
        self._totals = totals
        self._on_event = on_event
        self._now = now
        self._places = itertools.count(1)
        self._actions: list[actions.Action] = []
        self._timers = Timers()

        self._connections: dict[int, Connection] = {}
        self._runners: dict[str, Connection] = {}
        self._offers = OpenOffers()
        self._requests: dict[str, Request] = {}
        self._queue = RequestQueue()
        self._acceptances: dict[str, Acceptance] = {}
        self._tasks: dict[str, Task] = {}
        self._running = 0
        self._draining = False
        self._drained = False
        self._timers.set(now + self._constants.heartbeat_interval, self._heartbeat)

    # --- for the caller -------------------------------------------------------------------------

    def handle(self, event: events.Event, now: float) -> list[actions.Action]:
        """Handle one event and return the actions, in order.

        A deadline takes effect with `TimePassed` only. An answer that is handled before it counts as in time,
        because it may have arrived in time.
        """
        self._now = now
        _EVENT_HANDLERS[type(event)](self, event)
        requested, self._actions = self._actions, []
        return requested

    def next_deadline(self) -> float | None:
        """Return the time at which to send `TimePassed`, or None once the drain is over."""
        return None if self._drained else self._timers.next()

    def counts(self) -> BrokerCounts:
        """Return the number of connections, requests, tasks and so on, and the totals."""
        return BrokerCounts(
            sum(not connection.closed for connection in self._connections.values()),
            len(self._runners),
            len(self._offers),
            len(self._requests),
            len(self._acceptances),
            len(self._tasks),
            self._running,
            **self._totals,
        )

    def describe(self) -> Description:
        """Return a look inside, for tests."""
        return Description(self._queue.types(), len(self._timers))

    # --- connections ----------------------------------------------------------------------------

    def _on_connected(self, event: events.Connected) -> None:
        connection = Connection(event.connection, event.runner_id)
        self._connections[event.connection] = connection
        self._record("connected", connection)
        if self._drained:
            self._drop(connection, GOING_AWAY)
        else:
            self._send(connection, m.InfoRequest())

    def _on_received(self, event: events.Received) -> None:
        connection = self._connections.get(event.connection)
        if connection is None or connection.closed:
            return
        message = event.message
        # n8n silently drops other messages before the registration.
        if connection.registered or isinstance(message, m.RunnerInfo):
            connection.silent_since = None
            _MESSAGE_HANDLERS[type(message)](self, connection, message)

    def _on_malformed(self, event: events.Malformed) -> None:
        self._record("malformed", self._connections.get(event.connection), detail=event.reason)

    def _on_runner_info(self, connection: Connection, message: m.RunnerInfo) -> None:
        if connection.registered:
            self._record("ignored", connection, detail="runner:info")
            return
        old = self._runners.get(connection.runner_id)
        if old is not None:
            self._record("evicted", old)
            self._drop(old, NORMAL_CLOSURE)
        connection.registered = True
        connection.types = message.types
        self._runners[connection.runner_id] = connection
        self._record("registered", connection, detail=",".join(map(str, message.types)))
        self._send(connection, m.RunnerRegistered())

    def _on_pong(self, event: events.PongReceived) -> None:
        connection = self._connections.get(event.connection)
        if connection is not None:
            connection.ponged = True

    def _on_connection_failing(self, event: events.ConnectionFailing) -> None:
        connection = self._connections.get(event.connection)
        if connection is not None:
            connection.reachable = False

    def _on_disconnected(self, event: events.Disconnected) -> None:
        connection = self._connections.pop(event.connection, None)
        if connection is None:
            return
        self._record("disconnected", connection)
        if not connection.closed:
            self._drop(connection, None)
        if self._behaviour.closes_by_id:
            # The end of a replaced connection closes the one that replaced it.
            holder = self._runners.get(connection.runner_id)
            if holder is not None:
                self._record("evicted", holder)
                self._drop(holder, NORMAL_CLOSURE)

    def _drop(self, connection: Connection, code: int | None, error: str = wording.RUNNER_GONE) -> None:
        """End a connection with its offers and tasks. Some versions of n8n also end its acceptances.

        Close it if there is a `code`.
        """
        connection.closed = True
        if code is not None:
            self._actions.append(actions.Close(connection.key, code))
        if self._runners.get(connection.runner_id) is connection:
            del self._runners[connection.runner_id]
        self._drop_offers(connection)
        for task in list(connection.tasks.values()):
            self._fail(task, "lost", {"message": error})
        if self._behaviour.rematches_abandoned:
            for acceptance in list(connection.acceptances.values()):
                self._end_acceptance(acceptance)
                self._record("abandoned", connection, acceptance.request, acceptance.task_id)
                self._requeue(acceptance.request)
            self._match()

    def _heartbeat(self) -> None:
        self._timers.set(self._now + self._constants.heartbeat_interval, self._heartbeat)
        for connection in list(self._runners.values()):
            if connection.closed:
                continue
            if connection.ponged:
                connection.ponged = False
                self._actions.append(actions.Ping(connection.key))
                continue
            self._record("heartbeat_missed", connection)
            self._drop(connection, PROTOCOL_ERROR, wording.RUNNER_UNRESPONSIVE)
            if self._behaviour.heartbeat_stops_at_dead:
                break

    def _close_unless_busy(self, connection: Connection, reason: str) -> None:
        """Close an unresponsive runner, unless it has a task."""
        if not connection.tasks:
            self._record("kicked", connection, detail=reason)
            self._drop(connection, PROTOCOL_ERROR, wording.RUNNER_UNRESPONSIVE)

    # --- offers ---------------------------------------------------------------------------------

    def _on_offer(self, connection: Connection, message: m.TaskOffer) -> None:
        lapses_at = None if message.valid_for == -1 else self._now + message.valid_for / 1000
        self._offers.add(connection, message.offer_id, message.task_type, lapses_at)
        self._record("offered", connection, detail=message.task_type)
        self._queue.changed(message.task_type)
        self._match()

    def _drop_offers(self, connection: Connection) -> None:
        for offer in list(connection.offers.values()):
            self._drop_offer(offer)

    def _drop_offer(self, offer: Offer) -> None:
        self._offers.remove(offer)
        self._record("offers_dropped", offer.connection, detail=offer.task_type)

    def _first_offer(self, task_type: str) -> Offer | None:
        while True:
            offer = self._offers.first(task_type)
            if offer is None or offer.connection.reachable or not self._behaviour.notices_unreachable:
                return offer
            self._drop_offer(offer)

    def _match(self) -> None:
        """Make one match pass: first come, first served on both sides, without fairness between runners."""
        # n8n looks at the time of an offer in a match pass only.
        for lapsed in self._offers.remove_lapsed(self._now):
            self._record("offers_lapsed", lapsed.connection, detail=lapsed.task_type)
        while (task_type := self._queue.next_unmatched_type()) is not None:
            while True:
                request = self._queue.first(task_type)
                offer = self._first_offer(task_type) if request is not None else None
                if request is None or offer is None:
                    break
                self._queue.remove_first(task_type)
                self._offers.remove(offer)
                self._accept(request, offer)

    # --- requests -------------------------------------------------------------------------------

    def _on_task_requested(self, event: events.TaskRequested) -> None:
        if event.request_id in self._requests:
            raise ValueError(f"the request id {event.request_id!r} is in use")
        request = Request([next(self._places)], event.request_id, event.task_type, event.timeout, self._now)
        self._record("requested", request=request, detail=request.task_type)
        if self._draining:
            self._record("refused", request=request, detail=request.task_type)
            self._tell_refused(request)
            return
        self._requests[request.request_id] = request
        self._start_request_timer(request)
        self._queue.add(request)
        self._match()
        if request.acceptance is None and self._offers:
            self._record("mismatched", request=request, detail=request.task_type)

    def _on_request_withdrawn(self, event: events.RequestWithdrawn) -> None:
        request = self._requests.get(event.request_id)
        if request is None:
            return
        self._end_request(request)
        self._record("withdrawn", request=request, detail=event.reason)
        acceptance = request.acceptance
        if acceptance is not None:
            self._end_acceptance(acceptance)
            self._send(acceptance.connection, m.TaskCancel(acceptance.task_id, event.reason))

    def _start_request_timer(self, request: Request) -> None:
        self._timers.cancel(request.timer)
        at = self._now + self._request_timeout(request)
        request.timer = self._timers.set(at, lambda: self._request_timed_out(request))

    def _restart_request_timer(self, request: Request) -> None:
        if self._behaviour.limits_restarts:
            if request.restarts >= self._constants.request_restarts:
                return
            request.restarts += 1
        self._start_request_timer(request)

    def _request_timeout(self, request: Request) -> float:
        return self._constants.request_timeout if request.timeout is None else request.timeout

    def _request_timed_out(self, request: Request) -> None:
        places = request.places[1:]
        if not request.ended:
            self._end_request(request)
            self._record("expired", request=request, detail=request.task_type)
            waited = self._now - request.since
            error = wording.request_expired(request.task_type, waited, self._named_wait(request))
            self._actions.append(actions.RequestExpired(request.request_id, error))
        request.places = places
        if request.acceptance is None:
            self._requeue(request)
        if self._behaviour.closes_silent_runners:
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
                self._close_unless_busy(connection, "silent while requests expired")

    def _tell_refused(self, request: Request) -> None:
        error = wording.request_refused(request.task_type, self._named_wait(request))
        self._actions.append(actions.RequestExpired(request.request_id, error))

    def _named_wait(self, request: Request) -> float | None:
        return self._request_timeout(request) if self._behaviour.names_configured_wait else None

    def _end_request(self, request: Request) -> None:
        request.ended = True
        request.places = []
        self._timers.cancel(request.timer)
        del self._requests[request.request_id]

    def _requeue(self, request: Request) -> None:
        """Put a request back into the queue, unless it has no place there. Do not match."""
        if request.places:
            self._queue.add(request)

    # --- acceptances ----------------------------------------------------------------------------

    def _accept(self, request: Request, offer: Offer) -> None:
        connection = offer.connection
        acceptance = Acceptance(self._new_task_id(), request, connection, self._now)
        request.acceptance = acceptance
        self._acceptances[acceptance.task_id] = acceptance
        connection.acceptances[acceptance.task_id] = acceptance
        at = self._now + self._constants.acceptance_timeout
        acceptance.timer = self._timers.set(at, lambda: self._acceptance_missed(acceptance))
        self._record("acceptances", connection, request, acceptance.task_id)
        self._send(connection, m.TaskOfferAccept(offer.offer_id, acceptance.task_id))

    def _answered_acceptance(self, connection: Connection, task_id: str, kind: str) -> Acceptance | None:
        """End and return the acceptance that a runner answers, or return None if it is over."""
        acceptance = self._acceptances.get(task_id)
        if acceptance is None or acceptance.connection is not connection:
            self._record("late", connection, task_id=task_id, detail=kind)
            return None
        self._end_acceptance(acceptance)
        connection.misses = 0
        self._record(kind, connection, acceptance.request, task_id)
        return acceptance

    def _end_acceptance(self, acceptance: Acceptance) -> None:
        self._timers.cancel(acceptance.timer)
        del self._acceptances[acceptance.task_id]
        del acceptance.connection.acceptances[acceptance.task_id]
        acceptance.request.acceptance = None

    def _on_task_accepted(self, connection: Connection, message: m.TaskAccepted) -> None:
        acceptance = self._answered_acceptance(connection, message.task_id, "accepted")
        if acceptance is None:
            return
        request = acceptance.request
        if request.ended and (request.places or self._behaviour.cancels_expired_requests):
            reason = wording.UNKNOWN_REQUEST if request.places else wording.REQUEST_EXPIRED
            self._timers.cancel(request.timer)
            request.places = []
            self._send(connection, m.TaskCancel(message.task_id, reason))
            return
        task = Task(message.task_id, request, connection, forgotten=request.ended)
        self._tasks[task.task_id] = task
        connection.tasks[task.task_id] = task
        if request.ended:
            return
        self._end_request(request)
        at = self._now + self._constants.settings_timeout
        task.timer = self._timers.set(at, lambda: self._settings_missed(task))
        self._actions.append(actions.TaskReady(request.request_id, task.task_id))

    def _on_task_rejected(self, connection: Connection, message: m.TaskRejected) -> None:
        acceptance = self._answered_acceptance(connection, message.task_id, "rejected")
        if acceptance is not None:
            self._requeue(acceptance.request)
            if self._behaviour.rematches_rejected:
                self._match()

    def _on_task_deferred(self, connection: Connection, message: m.TaskDeferred) -> None:
        acceptance = self._answered_acceptance(connection, message.task_id, "deferred")
        if acceptance is None:
            return
        request = acceptance.request
        if self._behaviour.queues_deferred_again:
            request.places.append(next(self._places))
        if request.places:
            self._restart_request_timer(request)
            self._queue.add(request)

    def _acceptance_missed(self, acceptance: Acceptance) -> None:
        connection, request = acceptance.connection, acceptance.request
        self._end_acceptance(acceptance)
        self._record("missed", connection, request, acceptance.task_id)
        self._requeue(request)
        if self._behaviour.cancels_missed_acceptances:
            if not request.ended:
                self._restart_request_timer(request)
            self._send(connection, m.TaskCancel(acceptance.task_id, wording.WINDOW_ELAPSED))
            self._drop_offers(connection)
        if self._behaviour.closes_after_misses:
            self._count_miss(connection, acceptance)
        if self._behaviour.cancels_missed_acceptances:
            self._match()

    def _count_miss(self, connection: Connection, acceptance: Acceptance) -> None:
        # Several acceptances of one window are one miss: only one that began after the last miss counts.
        if connection.missed_at is not None and acceptance.since < connection.missed_at:
            return
        connection.misses += 1
        connection.missed_at = self._now
        if connection.misses >= self._constants.missed_limit:
            self._close_unless_busy(connection, f"{connection.misses} acceptances missed")

    # --- tasks ----------------------------------------------------------------------------------

    def _on_settings_given(self, event: events.SettingsGiven) -> None:
        task = self._tasks.get(event.task_id)
        if task is None or task.running or task.forgotten or not self._can_reach(task):
            return
        task.running = True
        self._running += 1
        self._start_task_timer(task, self._now + self._task_timeout(task))
        self._record("started", task.connection, task.request, task.task_id)
        self._send(task.connection, m.TaskSettings(event.task_id, event.settings))

    def _start_task_timer(self, task: Task, at: float) -> None:
        self._timers.cancel(task.timer)
        task.timer = self._timers.set(at, lambda: self._task_timed_out(task))

    def _settings_missed(self, task: Task) -> None:
        reason = wording.NO_SETTINGS if self._behaviour.names_settings_timeout else wording.UNKNOWN_REASON
        self._send(task.connection, m.TaskCancel(task.task_id, reason))
        self._fail(task, "settings_missed", {"message": reason})

    def _on_answered(self, event: events.Answered) -> None:
        task = self._tasks.get(event.task_id)
        if task is not None and self._can_reach(task):
            self._send(task.connection, event.message)

    def _can_reach(self, task: Task) -> bool:
        """Return whether a message can be sent for a task; fail the task if not."""
        connection = task.connection
        if connection.reachable or not self._behaviour.notices_unreachable:
            return True
        self._fail(task, "lost", wording.unreachable(connection.runner_id, task.task_id))
        return False

    def _on_task_cancelled(self, event: events.TaskCancelled) -> None:
        task = self._tasks.get(event.task_id)
        if task is None:
            return
        self._end_task(task)
        self._record("cancelled", task.connection, task.request, task.task_id, event.reason)
        self._send(task.connection, m.TaskCancel(event.task_id, event.reason))
        self._finish_drain()

    def _task_timeout(self, task: Task) -> float:
        timeout = task.request.timeout
        return self._constants.task_timeout if timeout is None else timeout

    def _task_timed_out(self, task: Task) -> None:
        if task.shutting_down:
            self._send(task.connection, m.TaskCancel(task.task_id, wording.SHUTTING_DOWN))
            self._fail(task, "shut_down", {"message": wording.SHUT_DOWN})
        else:
            self._send(task.connection, m.TaskCancel(task.task_id, wording.TIMED_OUT))
            self._fail(task, "timed_out", wording.task_timed_out(self._task_timeout(task)))

    def _task_of(self, connection: Connection, task_id: str, message_type: str) -> Task | None:
        # n8n does not check whose task it is; an answer on another connection is a bug of the runner.
        task = self._tasks.get(task_id)
        if task is None or task.connection is not connection:
            self._record("ignored", connection, task_id=task_id, detail=message_type)
            return None
        return task

    def _on_task_done(self, connection: Connection, message: m.TaskDone) -> None:
        task = self._task_of(connection, message.task_id, "runner:taskdone")
        if task is None:
            return
        connection.misses = 0
        self._end_task(task)
        self._record("done", connection, task.request, task.task_id)
        if not task.forgotten:
            self._actions.append(actions.TaskDone(task.request.request_id, task.task_id, message.data))
        self._finish_drain()

    def _on_task_failed(self, connection: Connection, message: m.TaskFailed) -> None:
        task = self._task_of(connection, message.task_id, "runner:taskerror")
        if task is None:
            return
        connection.misses = 0
        self._fail(task, "failed", message.error)

    def _fail(self, task: Task, cause: str, error: m.Json) -> None:
        self._end_task(task)
        self._record(cause, task.connection, task.request, task.task_id)
        if not task.forgotten:
            self._actions.append(actions.TaskFailed(task.request.request_id, task.task_id, cause, error))
        self._finish_drain()

    def _end_task(self, task: Task) -> None:
        self._timers.cancel(task.timer)
        del self._tasks[task.task_id]
        del task.connection.tasks[task.task_id]
        self._running -= task.running

    def _on_relayed(
        self, connection: Connection, message: m.RpcCall | m.TaskDataRequest | m.NodeTypesRequest
    ) -> None:
        task = self._task_of(connection, message.task_id, _WIRE_NAMES[type(message)])
        if task is not None and not task.forgotten:
            self._record("relayed", connection, task.request, task.task_id)
            self._actions.append(actions.Relay(task.request.request_id, task.task_id, message))

    # --- drain ----------------------------------------------------------------------------------

    def _on_drain_started(self, event: events.DrainStarted) -> None:
        if self._draining:
            return
        self._draining = True
        if not self._behaviour.drains:
            self._end_drain()
            return
        for connection in self._runners.values():
            self._send(connection, m.Drain())
        if self._behaviour.shortens_tasks:
            at = self._now + event.timeout
            for task in self._tasks.values():
                if task.running and task.timer is not None and task.timer.at > at:
                    task.shutting_down = True
                    self._start_task_timer(task, at)
        # Set after the tasks' timers, so that those come first.
        self._timers.set(self._now + event.timeout, self._end_drain)
        self._finish_drain()

    def _finish_drain(self) -> None:
        # Waiting requests and acceptances do not delay the end of a drain: n8n looks at its tasks only.
        if self._draining and not self._tasks and not self._drained:
            self._end_drain()

    def _end_drain(self) -> None:
        self._drained = True
        for request in list(self._requests.values()):
            self._end_request(request)
            self._record("expired", request=request, detail=request.task_type)
            self._tell_refused(request)
        for connection in list(self._connections.values()):
            if not connection.closed:
                self._drop(connection, GOING_AWAY)
        for acceptance in list(self._acceptances.values()):
            self._end_acceptance(acceptance)
        self._actions.append(actions.Drained())

    # --- helpers --------------------------------------------------------------------------------

    def _on_time_passed(self, event: events.TimePassed) -> None:
        while not self._drained and (timer := self._timers.pop_due(self._now)) is not None:
            timer.action()

    def _send(self, connection: Connection, message: m.FromBroker) -> None:
        if not connection.closed:
            self._actions.append(actions.Send(connection.key, message))

    def _record(
        self,
        kind: str,
        connection: Connection | None = None,
        request: Request | None = None,
        task_id: str | None = None,
        detail: str | None = None,
    ) -> None:
        """Count what has happened, and report it as a `BrokerEvent`."""
        self._totals[kind] = self._totals.get(kind, 0) + 1
        runner_id = connection.runner_id if connection is not None else None
        request_id = request.request_id if request is not None else None
        self._on_event(BrokerEvent(kind, self._now, runner_id, request_id, task_id, detail))


_EVENT_HANDLERS: dict[type[events.Event], Callable[..., None]] = {
    events.Connected: Matching._on_connected,
    events.Received: Matching._on_received,
    events.Malformed: Matching._on_malformed,
    events.PongReceived: Matching._on_pong,
    events.ConnectionFailing: Matching._on_connection_failing,
    events.Disconnected: Matching._on_disconnected,
    events.TaskRequested: Matching._on_task_requested,
    events.RequestWithdrawn: Matching._on_request_withdrawn,
    events.SettingsGiven: Matching._on_settings_given,
    events.TaskCancelled: Matching._on_task_cancelled,
    events.Answered: Matching._on_answered,
    events.DrainStarted: Matching._on_drain_started,
    events.TimePassed: Matching._on_time_passed,
}

_MESSAGE_HANDLERS: dict[type[m.FromRunner], Callable[..., None]] = {
    m.RunnerInfo: Matching._on_runner_info,
    m.TaskOffer: Matching._on_offer,
    m.TaskAccepted: Matching._on_task_accepted,
    m.TaskRejected: Matching._on_task_rejected,
    m.TaskDeferred: Matching._on_task_deferred,
    m.TaskDone: Matching._on_task_done,
    m.TaskFailed: Matching._on_task_failed,
    m.RpcCall: Matching._on_relayed,
    m.TaskDataRequest: Matching._on_relayed,
    m.NodeTypesRequest: Matching._on_relayed,
}

_WIRE_NAMES = {
    m.RpcCall: "runner:rpc",
    m.TaskDataRequest: "runner:taskdatarequest",
    m.NodeTypesRequest: "runner:nodetypesrequest",
}
