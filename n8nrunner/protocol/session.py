"""The protocol of one link as a state machine: events in, actions out, no I/O and no clock.

A session lives as long as its link, and serves its connections in turn. Each connection has a generation:
events of an older generation do not affect the current connection. `RunnerSession` has the protocol, and asks
for a close. `LinkMachine` decides when to connect, when to retry, and how long a close may take. `BrokerLink`
does the I/O of both. Thread: the links'; a snapshot reads `state` and `counters` on any thread.

`handle` takes one event. `settle` applies deadlines and offers free slots, and `next_deadline` returns when
it must be called next. `events`, `actions` and `messages` define the input and the output, `states` the
states and the transitions.

The session coordinates its parts, each of which has one duty: `Offers`, `Tasks`, `PreparedTasks`, `Calls`,
`Receipts` and `Liveness`. Moments and times are in seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping
from collections.abc import Set as AbstractSet
from math import inf
from typing import Callable, Union

from n8nrunner.protocol import actions, events
from n8nrunner.protocol import messages as m
from n8nrunner.protocol.calls import Calls
from n8nrunner.protocol.codec import encode_result
from n8nrunner.protocol.liveness import Liveness
from n8nrunner.protocol.offers import Offers
from n8nrunner.protocol.prepared import PreparedTasks
from n8nrunner.protocol.receipts import Receipts
from n8nrunner.protocol.slots import Slots
from n8nrunner.protocol.states import IDLE_STATES, TASK_STATES, TRANSITIONS, SessionState, Trigger
from n8nrunner.protocol.tasks import SETTINGS_TIMEOUT, Counters, Tasks, remove_due, timeout_message

#: Time limit of each step of the handshake.
HANDSHAKE_TIMEOUT = 10.0
#: Limit for sending the answer to an acceptance; the broker waits 2 s. A later answer is not sent at all.
ACCEPT_WINDOW = 1.5
#: Seconds after a drain before which the runner does not close by itself. It also waits for its last task.
DRAIN_LIMIT = 60.0

#: Reading pauses while more than this many bytes of small messages wait to be written, or more than this many
#: answers to acceptances are delayed: a peer that sends and does not read would fill the memory.
BACKLOG_LIMIT = 4 * 1024 * 1024
DELAYED_LIMIT = 1000
#: Acceptances whose task id has more characters than this are ignored; n8n's ids have 8.
ID_LIMIT = 256

#: Payload of liveness pings. Pings for receipts carry a number.
LIVENESS_PING = "alive"

#: Reasons that n8n or its official runners give.
REASON_STOPPING = "Runner is shutting down"
REASON_WINDOW = "Acknowledgement window elapsed"
#: The runner's own reasons.
REASON_LOST = "The connection to n8n was lost"
REASON_STOPPED = "The runner was stopped"
_RUNNERS_LIMIT = "The runner set this limit (task_timeout, or N8N_RUNNERS_TASK_TIMEOUT)."
_NODES_LIMIT = "The node's author set this limit (Time Limit, under Options)."

_AT_ONCE = -inf

_Answer = Union[m.TaskAccepted, m.TaskRejected]


class RunnerSession:
    """The protocol state of one link.

    `link` is the link's key in `slots`, which all links of the runner share. `name` is for n8n's log. `types`
    has the limit of each task type. `task_timeout` is the time from a task's settings to its time limit.
    `new_id` returns an id for an offer.

    Attributes:
        state: changes with `TRANSITIONS`.
        offers_wanted: whether the runner can run tasks, as the last `OfferingChanged` says.
        is_congested: whether a large message is being sent.
        generation: the number of the connection, from 1.
        counters: the counts of all connections.
        offers, tasks, prepared, calls, receipts: the parts. Only the session changes them.
    """

    def __init__(
        self,
        link: Hashable,
        name: str,
        types: Mapping[str, int | None],
        slots: Slots,
        task_timeout: float,
        new_id: Callable[[], str],
    ) -> None:
        self.state = SessionState.DISCONNECTED
        self.offers_wanted = True
        self.is_congested = False
        self.generation = 0
        self.counters = Counters()
        self._link = link
        self._name = name
        self._slots = slots
        # The task types that `runner:info` names, each once.
        self._announced = tuple(types)
        self._liveness = Liveness()
        self.offers = Offers(link, slots, types, new_id)
        self.tasks = Tasks(task_timeout)
        self.prepared = PreparedTasks(new_id)
        self.calls = Calls()
        self.receipts = Receipts()
        # Answers to acceptances that wait behind a large message, each with the end of its window.
        self._delayed: deque[tuple[_Answer, float]] = deque()
        self._receiving = False
        self._sent_count = 0
        self._last_sent_at = 0.0
        self._handshake_until = 0.0
        self._drain_until = 0.0
        self._stop_until: float | None = None
        # Time of the next `settle`. The methods of the events in `_SETS_DUE` set it themselves, for speed.
        # After every other event it is `_AT_ONCE`.
        self._due = inf
        self._methods = _METHODS[self.state]
        self._actions: list[actions.Action] = []

    # --- for a snapshot -------------------------------------------------------------------------

    @property
    def received_at(self) -> float | None:
        """When the last bytes arrived; None before the first connection."""
        return self._liveness.received_at if self.generation else None

    # --- for the link ---------------------------------------------------------------------------

    @property
    def is_stopping(self) -> bool:
        """Whether a `StopRequested` has been handled."""
        return self._stop_until is not None

    def note_received(self, now: float) -> None:
        """Note that bytes have arrived. Only received bytes show that the peer is alive."""
        self._liveness.note_received(now)

    def set_waiting(self, waiting: bool, backlog: int, now: float) -> bool:
        """Note whether anything waits to be written, and how many bytes of small messages (`backlog`).

        Return whether reading has to pause until less waits.
        """
        paused = waiting and (backlog > BACKLOG_LIMIT or len(self._delayed) > DELAYED_LIMIT)
        self._liveness.set_waiting(waiting, paused, now)
        self._settle_by(self._liveness.due)
        return paused

    def set_congested(self, congested: bool) -> None:
        """Note whether a large message is being sent. No other message may be sent between its fragments."""
        if congested is not self.is_congested:
            self.is_congested = congested
            self._due = self.prepared.due = _AT_ONCE

    def set_receiving(self, receiving: bool) -> None:
        """Note whether received bytes wait that may be a part of a task's settings."""
        self._receiving = receiving

    def next_deadline(self) -> float:
        """Return when `settle` has to be called at the latest; infinity if nothing waits for time."""
        return self._due

    # --- events and time ------------------------------------------------------------------------

    def handle(self, event: events.Event, now: float) -> list[actions.Action]:
        """Handle one event, and return the actions that it asks for, in order."""
        kind = type(event)
        self._methods[kind](self, event, now)
        if kind not in _SETS_DUE:
            self._due = _AT_ONCE
        wanted, self._actions = self._actions, []
        return wanted

    def settle(self, now: float) -> list[actions.Action]:
        """Apply deadlines, offer free slots, and return the actions. Call it after each batch of events."""
        if now < self._due:
            return []
        if self.state in TASK_STATES:
            if self.tasks:
                self._settle_tasks(now)
            if self._delayed:
                self._settle_delayed(now)
            if self.state is SessionState.OFFERING:
                self._settle_offers(now)
            else:
                self._settle_drain(now)
            if now >= self.prepared.due and self.state is not SessionState.CLOSING:
                self._settle_prepared(now)
        elif self.state not in IDLE_STATES and now >= self._handshake_until:
            is_first = self.state is SessionState.AWAITING_INFO_REQUEST
            missing = "broker:inforequest" if is_first else "broker:runnerregistered"
            self._close(f"the broker did not send {missing} within {HANDSHAKE_TIMEOUT:g} s")
        if self.state not in IDLE_STATES:
            self._settle_liveness(now)
        self._due = self._next_due()
        wanted, self._actions = self._actions, []
        return wanted

    def _next_due(self) -> float:
        # This may be too early, which costs one idle `settle`, but never too late.
        if self.state in IDLE_STATES:
            return inf
        if self.state not in TASK_STATES:
            return self._handshake_until
        if self.state is SessionState.OFFERING:
            soonest = self.offers.next_deadline(self._silent_since())
        elif self._stop_until is not None:
            soonest = self._stop_until
        else:
            soonest = inf if self.tasks else self._drain_until
        if self._delayed:
            soonest = min(soonest, self._delayed[0][1])
        return min(
            soonest,
            self._liveness.due,
            self.tasks.next_deadline(),
            self.prepared.due,
            self.receipts.next_deadline(self.is_congested),
        )

    def _settle_by(self, moment: float) -> None:
        if moment < self._due:
            self._due = moment

    # --- connection -----------------------------------------------------------------------------

    def _enter(self, trigger: type[Trigger]) -> None:
        """Change the state as `TRANSITIONS` says."""
        self.state = TRANSITIONS[trigger][self.state]
        self._methods = _METHODS[self.state]

    def _opened(self, event: events.ConnectionOpened, now: float) -> None:
        self._enter(events.ConnectionOpened)
        self.generation += 1
        self._handshake_until = now + HANDSHAKE_TIMEOUT
        self._sent_count = 0
        self._last_sent_at = now
        self.is_congested = self._receiving = False
        self._liveness.begin(now)
        self.receipts.begin(now)
        self.offers.begin(event.jitter)

    def _info_request(self, event: m.InfoRequest, now: float) -> None:
        self._enter(m.InfoRequest)
        self._handshake_until = now + HANDSHAKE_TIMEOUT
        self._send(m.RunnerInfo(self._name, self._announced), now)

    def _runner_registered(self, event: m.RunnerRegistered, now: float) -> None:
        self._enter(m.RunnerRegistered)
        self._join(now)
        self.prepared.join(self.offers.validity)

    def _types_changed(self, event: events.TypesChanged, now: float) -> None:
        self.offers.types = dict(event.types)
        self.prepared.change(
            {name: event.prepared[name] for name in event.prepared if name not in event.types}
        )
        self._announced = tuple(dict.fromkeys([*event.types, *event.prepared, *event.announced]))
        self._join(now)

    def _offering_changed(self, event: events.OfferingChanged, now: float) -> None:
        self.offers_wanted = event.wanted
        if event.wanted:
            self._join(now)
        elif self.state is SessionState.OFFERING:
            self._wake(self.offers.withdraw(now))

    def _join(self, now: float) -> None:
        if self.state is SessionState.OFFERING and self.offers_wanted:
            self._wake(self.offers.join(now))

    def _drain(self, event: m.Drain, now: float) -> None:
        if self.state is SessionState.OFFERING:
            self._drain_until = now + DRAIN_LIMIT
            self._wake(self.offers.withdraw(now))
        self._enter(m.Drain)
        self.prepared.withdraw()

    def _stop(self, event: events.StopRequested, now: float) -> None:
        if self._stop_until is None or event.until < self._stop_until:
            self._stop_until = event.until
        before = self.state
        self._enter(events.StopRequested)
        if before is SessionState.OFFERING:
            self._wake(self.offers.withdraw(now))
        elif self.state is SessionState.CLOSING and before is not SessionState.CLOSING:
            self._actions.append(actions.CloseConnection("the runner stops"))

    def _ended(self, event: events.ConnectionEnded, now: float) -> None:
        """Forget the tasks without settings, cancel the running ones, and report results without a proof."""
        self._enter(events.ConnectionEnded)
        if self._stop_until is not None:
            self._enter(events.StopRequested)
        # Release the reserved slots first, because other links may be waiting for them.
        self._wake(self.offers.withdraw(now))
        self._delayed.clear()
        self.prepared.end()
        accepted, running = self.tasks.remove_all()
        self.counters.lost += len(accepted) + len(running)
        for _, task_type in accepted:
            self._release(task_type, now)
        for task_id, task_type in running:
            self.tasks.orphans[self.generation, task_id] = task_type
            self._cancel(task_id, REASON_LOST, "lost")
        reports = self.receipts.lose(event.started, event.clean)
        self.counters.undelivered += len(reports)
        self._actions.extend(reports)

    def _close(self, reason: str) -> None:
        self._enter(actions.CloseConnection)
        self._actions.append(actions.CloseConnection(reason))

    # --- tasks ----------------------------------------------------------------------------------

    def _task_offer_accept(self, event: m.TaskOfferAccept, now: float) -> None:
        task_id = event.task_id
        if task_id in self.tasks or len(task_id) > ID_LIMIT:
            return
        if self.state is SessionState.DRAINING:
            task_type, refusal = None, REASON_STOPPING
        else:
            task_type, refusal = self.offers.claim(event.offer_id, now)
        if task_type is None:
            if not self._accept_prepared(event, now):
                self._reject(task_id, refusal, now)
            return
        self.counters.accepted += 1
        if self._slots.can_serve:  # the pair of the offer waits now, and may be able to make its next offer
            self._due = _AT_ONCE
        self._settle_by(self.tasks.accept(task_id, task_type, now))
        self._send_in_window(m.TaskAccepted(task_id), now)

    def _accept_prepared(self, event: m.TaskOfferAccept, now: float) -> bool:
        """Accept a task that is answered at once. Return False if the offer is not of a prepared type."""
        if event.task_id in self.prepared.accepted:
            return True
        if not self.prepared.accept(event.offer_id, event.task_id, now):
            return False
        self._due = _AT_ONCE
        self._send_in_window(m.TaskAccepted(event.task_id), now)
        return True

    def _answer_prepared(self, task_id: str, now: float) -> None:
        """Answer a task of a prepared type, if there is one. Its settings do not matter."""
        prepared = self.prepared.remove(task_id)
        if prepared is not None:
            self._due = _AT_ONCE
            text = prepared.draining if self.is_stopping else prepared.running
            self._send(actions.SendPayload(encode_result(task_id, text)), now)

    def _reject(self, task_id: str, reason: str, now: float) -> None:
        self.counters.rejected += 1
        self.offers.note_rejection()
        self._due = _AT_ONCE
        self._send_in_window(m.TaskRejected(task_id, reason), now)

    def _task_settings(self, event: m.TaskSettings, now: float) -> None:
        task = self.tasks.start(event.task_id, now)
        if task is None:
            self._answer_prepared(event.task_id, now)
        else:
            task_type, deadline, _ = task
            self._settle_by(deadline)
            self._actions.append(
                actions.StartTask(event.task_id, task_type, self.generation, event.settings, deadline)
            )

    def _task_cancel(self, event: m.TaskCancel, now: float) -> None:
        reason = event.reason if isinstance(event.reason, str) else "The task was cancelled"
        task = self.tasks.accepted.pop(event.task_id, None)
        if task is not None:
            self.counters.cancelled += 1
            self._release(task[0], now)
        elif self.tasks.running.pop(event.task_id, None) is not None:
            self.counters.cancelled += 1
            self._cancel(event.task_id, reason, "cancelled")
        else:
            self.prepared.remove(event.task_id)
        if reason == REASON_WINDOW:
            # The broker missed the answer to an acceptance and has dropped all offers of this link.
            self._void_offers()

    def _void_offers(self) -> None:
        self.offers.void()
        self.prepared.void()

    def _time_limit_set(self, event: events.TimeLimitSet, now: float) -> None:
        if event.generation == self.generation:
            self.tasks.shorten(event.task_id, event.deadline, event.limit)
            self._settle_by(event.deadline)

    def _cancel(self, task_id: str, reason: str, ending: actions.Ending) -> None:
        self._actions.extend(self.calls.end_all_of(task_id, reason))
        self._actions.append(actions.CancelTask(task_id, reason, ending))

    def _release(self, task_type: str, now: float) -> None:
        self._wake(self._slots.release(task_type, now))

    def _finished(self, event: events.HandlerFinished, now: float) -> None:
        if event.freed or not self.offers.open:
            self._due = _AT_ONCE  # without an open offer, a drain may have ended or a keep-alive may be due
        task = None
        if event.generation == self.generation:
            task = self.tasks.running.pop(event.task_id, None)
        if task is None:
            # The answer is not wanted, because the task was cancelled or timed out, or belongs to a lost
            # connection. The latter is reported.
            orphan_type = self.tasks.orphans.pop((event.generation, event.task_id), None)
            if orphan_type is not None:
                self._report_undelivered(event, orphan_type)
            return
        task_type = task[0]
        self._actions.extend(self.calls.end_all_of(event.task_id, "the task has ended"))
        if self.state is SessionState.CLOSING:
            self.counters.lost += 1
            self._report_undelivered(event, task_type)
            return
        if event.interrupted:
            self.counters.unfinished += 1
        elif event.failed or event.calls is events.FunctionCalls.FAILED:
            self.counters.failed += 1
        elif event.calls is events.FunctionCalls.AGAIN:
            self.counters.retried += 1
        else:
            self.counters.done += 1
        self._send(actions.SendPayload(event.payload), now)
        self.receipts.add(
            self._sent_count, event.task_id, task_type, event.payload, event.failed, event.function
        )
        self._settle_by(self.receipts.next_deadline(self.is_congested))

    def _report_undelivered(self, event: events.HandlerFinished, task_type: str) -> None:
        self.counters.undelivered += 1
        self._actions.append(
            actions.ReportUndelivered(
                event.task_id, task_type, event.payload, event.failed, True, event.function
            )
        )

    def _message_skipped(self, event: events.MessageSkipped, now: float) -> None:
        """Fail the task, or the call, to which a skipped message belongs."""
        head, problem, description = event
        if head.type == "broker:tasksettings":
            task = self.tasks.accepted.pop(head.task_id or "", None)
            if task is None:
                self._answer_prepared(head.task_id or "", now)
            else:
                self.counters.failed += 1
                self._release(task[0], now)
                message = f"The task's input {problem}"
                self._fail(head.task_id or "", now, message=message, description=description)
            return
        call_id = head.call_id or head.request_id
        if call_id is not None:
            self._actions.extend(self.calls.end(call_id, None, f"the answer of n8n {problem}. {description}"))

    def _fail(self, task_id: str, now: float, **error: str) -> None:
        self._send(m.TaskFailed(task_id, error), now)

    # --- calls of handlers ----------------------------------------------------------------------

    def _call_made(self, event: events.CallMade, now: float) -> None:
        is_running = event.generation == self.generation and event.task_id in self.tasks.running
        if not is_running or self.state is SessionState.CLOSING:
            if event.call is not None:
                self._actions.append(actions.EndCall(event.call, None, "the task has ended"))
            return
        if event.call is not None:
            self.calls.add(event.call_id, event.task_id, event.call)
        self._send(actions.SendPayload(event.payload), now)

    def _rpc_response(self, event: m.RpcResponse, now: float) -> None:
        if event.status == "success":
            self._actions.extend(self.calls.end(event.call_id, event.data, None))
        else:
            self._actions.extend(self.calls.end(event.call_id, None, event.data or "n8n gave no reason"))

    def _data_response(self, event: m.TaskDataResponse | m.NodeTypes, now: float) -> None:
        self._actions.extend(self.calls.end(event.request_id, event[-1], None))

    # --- what `settle` does ---------------------------------------------------------------------

    def _settle_tasks(self, now: float) -> None:
        for task_id, (_, _, limit) in remove_due(self.tasks.running, now):
            self.counters.timed_out += 1
            message = timeout_message(limit)
            description = _RUNNERS_LIMIT if limit == self.tasks.timeout else _NODES_LIMIT
            self._fail(task_id, now, message=message, description=description)
            self._cancel(task_id, message, "timed_out")
        if self._receiving:  # perhaps the settings of one of these tasks
            self.tasks.extend_settings_time(now)
        for task_id, (task_type, _) in remove_due(self.tasks.accepted, now):
            self.counters.failed += 1
            self._release(task_type, now)
            self._fail_without_settings(task_id, now)

    def _fail_without_settings(self, task_id: str, now: float) -> None:
        self._fail(task_id, now, message=f"n8n sent no settings within {SETTINGS_TIMEOUT:g} seconds")

    def _settle_delayed(self, now: float) -> None:
        while self._delayed:
            answer, until = self._delayed[0]
            if self.is_congested and until > now:
                break
            self._delayed.popleft()
            if self.is_congested:
                self._drop_answer(answer, now)
            else:
                self._send(answer, now)

    def _drop_answer(self, answer: _Answer, now: float) -> None:
        """Forget an acceptance whose answer would be late, and all offers. n8n 2.40 drops them too."""
        if isinstance(answer, m.TaskAccepted):
            task = self.tasks.accepted.pop(answer.task_id, None)
            if task is None:
                self.prepared.remove(answer.task_id)
            else:
                self.counters.accepted -= 1
                self.counters.rejected += 1
                self._release(task[0], now)
        self._void_offers()

    def _settle_offers(self, now: float) -> None:
        offers, others = self.offers.renew(now, not self.is_congested, self._silent_since())
        self._wake(others)
        for offer in offers:
            self._send(offer, now)

    def _settle_prepared(self, now: float) -> None:
        for task_id in self.prepared.expire(now):
            self._fail_without_settings(task_id, now)
        for offer in self.prepared.renew(now, not self.is_congested):
            self._send(offer, now)

    def _silent_since(self) -> float | None:
        """Return when the last message was sent; None if a task or a large message will end the silence."""
        return None if self.is_congested or self.tasks else self._last_sent_at

    def _settle_drain(self, now: float) -> None:
        if self._stop_until is None:
            if not self.tasks and now >= self._drain_until:
                self._close("the broker did not close the connection after its drain")
            return
        if self.tasks and now >= self._stop_until:
            self._stop_tasks(now)
        if not self.tasks:
            self._close("the runner stops")

    def _stop_tasks(self, now: float) -> None:
        accepted, running = self.tasks.remove_all()
        self.counters.unfinished += len(accepted) + len(running)
        for task_id, _ in [*accepted, *running]:
            message = "The task runner was stopped before the task had finished"
            description = "Its grace period is over; run the workflow again."
            self._fail(task_id, now, message=message, description=description)
        for _, task_type in accepted:
            self._release(task_type, now)
        for task_id, _ in running:
            self._cancel(task_id, REASON_STOPPED, "unfinished")

    def _settle_liveness(self, now: float) -> None:
        if now >= self._liveness.due:
            ping, measure = self._liveness.check(now)
            if ping:
                self._actions.append(actions.SendUrgentPing(LIVENESS_PING))
            if measure:
                self._actions.append(actions.MeasureSocket())
        if now >= self.receipts.next_deadline(self.is_congested):
            self._actions.append(self.receipts.ping(self._sent_count, now))

    def _measured(self, event: events.SocketMeasured, now: float) -> None:
        reason = self._liveness.judge(event, now)
        if reason is None:
            self._settle_by(self._liveness.due)
        else:
            self._due = inf
            self._enter(actions.AbortConnection)
            self._actions.append(actions.AbortConnection(reason))

    def _pong(self, event: events.Pong, now: float) -> None:
        self.receipts.confirm(event.payload)

    # --- sending --------------------------------------------------------------------------------

    def _send(self, message: m.FromRunner | actions.SendPayload, now: float) -> None:
        self._sent_count += 1
        self._last_sent_at = now
        self._actions.append(message)

    def _send_in_window(self, answer: _Answer, now: float) -> None:
        if self.is_congested:
            self._delayed.append((answer, now + ACCEPT_WINDOW))
            self._settle_by(now + ACCEPT_WINDOW)
        else:
            self._send(answer, now)

    def _wake(self, links: AbstractSet[Hashable]) -> None:
        others = tuple(link for link in links if link != self._link)
        if others:
            self._actions.append(actions.WakeLinks(others))

    def _ignore(self, event: events.Event, now: float) -> None:
        """Ignore an event that has no effect in this state, or that `settle` handles (`SlotFreed`)."""


_METHOD_OF: dict[type[events.Event], Callable[..., None]] = {
    m.InfoRequest: RunnerSession._info_request,
    m.RunnerRegistered: RunnerSession._runner_registered,
    m.TaskOfferAccept: RunnerSession._task_offer_accept,
    m.TaskSettings: RunnerSession._task_settings,
    m.TaskCancel: RunnerSession._task_cancel,
    m.RpcResponse: RunnerSession._rpc_response,
    m.TaskDataResponse: RunnerSession._data_response,
    m.NodeTypes: RunnerSession._data_response,
    m.Drain: RunnerSession._drain,
    events.ConnectionOpened: RunnerSession._opened,
    events.ConnectionEnded: RunnerSession._ended,
    events.HandlerFinished: RunnerSession._finished,
    events.CallMade: RunnerSession._call_made,
    events.TimeLimitSet: RunnerSession._time_limit_set,
    events.SlotFreed: RunnerSession._ignore,
    events.TypesChanged: RunnerSession._types_changed,
    events.OfferingChanged: RunnerSession._offering_changed,
    events.MessageSkipped: RunnerSession._message_skipped,
    events.Pong: RunnerSession._pong,
    events.SocketMeasured: RunnerSession._measured,
    events.StopRequested: RunnerSession._stop,
}

#: The methods in each state.
_METHODS: dict[SessionState, dict[type[events.Event], Callable[..., None]]] = {
    state: {
        kind: method if state in TRANSITIONS[kind] else RunnerSession._ignore
        for kind, method in _METHOD_OF.items()
    }
    for state in SessionState
}

#: Frequent events, whose methods set `_due` themselves.
_SETS_DUE = frozenset(
    {
        m.TaskOfferAccept,
        m.TaskSettings,
        events.HandlerFinished,
        events.TimeLimitSet,
        events.SocketMeasured,
    }
)
