"""One link's side of the protocol as a state machine: events in, actions out, no I/O and no clock.

`TRANSITIONS` has every state in which an event has an effect, and the state that follows (docs/protocol.md,
"States of a connection").

A session lives as long as its link, over all its connections. Each connection has a generation, and nothing
that belongs to an older one has an effect on a newer one.

`handle` takes one event at a time; `settle` then does what free slots and passed time ask for, and
`next_deadline` says when `settle` has to be called at the latest. Events and actions are defined in `events`,
`actions` and `messages`.
"""

from __future__ import annotations

import enum
from collections import OrderedDict, deque
from collections.abc import Hashable, Mapping
from typing import Callable, NamedTuple

from n8nrunner.protocol import messages as m
from n8nrunner.protocol.actions import (
    AbortConnection,
    Action,
    CancelTask,
    CloseConnection,
    EndCall,
    MeasureSocket,
    ReportUndelivered,
    SendPayload,
    SendPing,
    SendUrgentPing,
    StartTask,
    WakeLinks,
)
from n8nrunner.protocol.events import (
    CallMade,
    Connected,
    Disconnected,
    Event,
    FunctionCalls,
    HandlerFinished,
    OfferingChanged,
    OversizedMessage,
    PendingCall,
    Pong,
    SlotFreed,
    SocketMeasured,
    StopRequested,
    TypesChanged,
    UnreadableMessage,
)
from n8nrunner.protocol.liveness import Liveness
from n8nrunner.protocol.slots import Slots

# --- times, in seconds --------------------------------------------------------------------------

#: An offer is valid for this long and up to `OFFER_JITTER` more: short enough that a sleeping laptop leaves
#: no dead offers behind for long, long enough that an idle runner has next to nothing to do.
OFFER_VALIDITY = 10.0
OFFER_JITTER = 5.0
#: An offer that has lapsed by our clock is honoured this much longer, if a slot is free.
OFFER_HONOUR = 1.0
#: The broker waits 2 s for the answer to an acceptance. What cannot leave in this time need not leave at all.
ACCEPT_WINDOW = 1.5
#: From our acceptance to the task's settings; the broker gives its requester 2 s.
SETTINGS_TIMEOUT = 30.0
#: The broker's greeting and its registration must each come within this time.
HANDSHAKE_TIMEOUT = 10.0
#: A link that cannot offer says something this often: n8n 2.40 closes runners that stay silent.
KEEP_ALIVE = 1.5
#: While results wait for a pong, pings are at least this far apart.
PING_SPACING = 0.1
#: A ping behind results is repeated after this time: a peer may answer only the latest of several pings.
PING_REPEAT = 10.0
#: After a broker's drain, with no task left, the broker closes. If it does not, we do.
DRAIN_LIMIT = 60.0

#: Texts of results that no pong has covered yet are kept up to this many bytes; beyond, only ids.
UNCONFIRMED_LIMIT = 64 * 1024 * 1024

#: Reading pauses while more than this many bytes of small messages wait to be written, or more than this many
#: answers to acceptances are held back. A peer that sends and does not read would fill the memory.
BACKLOG_LIMIT = 4 * 1024 * 1024
HELD_LIMIT = 1000
#: Acceptances whose task id has more characters than this are ignored; those of n8n have 8.
ID_LIMIT = 256

#: Payload of the pings that ask for a sign of life; those behind results have a number.
LIVENESS_PING = "alive"

_NEVER = float("inf")

# --- reasons the official runners give, and n8n's own sentences ---------------------------------

REASON_EXPIRED = "Offer expired - not accepted within validity window"
REASON_FULL = "No open task slots - runner already at capacity"
REASON_STOPPING = "Runner is shutting down"
REASON_WINDOW = "Acknowledgement window elapsed"
REASON_LOST = "The connection to n8n was lost"
REASON_STOPPED = "The runner was stopped"

MESSAGE_STOPPED = "The task runner was stopped before the task had finished"


def timeout_message(seconds: float) -> str:
    """n8n's own sentence for a task that ran into its time limit."""
    return f"Task execution timed out after {seconds:g} second{'' if seconds == 1 else 's'}"


class State(enum.Enum):
    """The state of a session. `TRANSITIONS` has what leads from one to another."""

    DISCONNECTED = "disconnected"
    AWAITING_INFO_REQUEST = "awaiting info request"
    AWAITING_REGISTRATION = "awaiting registration"
    OFFERING = "offering"
    DRAINING = "draining"  #: tasks finish; no new ones begin
    CLOSING = "closing"  #: the runner has ended the connection: nothing more is sent on it
    CLOSED = "closed"  #: for good


#: States in which there is a connection.
CONNECTED_STATES = frozenset(State) - {State.DISCONNECTED, State.CLOSED}


def _stay_in(*states: State) -> dict[State, State]:
    return {state: state for state in states}


_IDLE_STATES = frozenset({State.DISCONNECTED, State.CLOSING, State.CLOSED})
_TASK_STATES = (State.OFFERING, State.DRAINING)

#: For each event, the states in which it has an effect, and the state that follows. In all other states it is
#: ignored. The two actions that end a connection change the state as well.
TRANSITIONS: dict[type[Event | CloseConnection | AbortConnection], dict[State, State]] = {
    # The connection
    Connected: {State.DISCONNECTED: State.AWAITING_INFO_REQUEST},
    m.InfoRequest: {State.AWAITING_INFO_REQUEST: State.AWAITING_REGISTRATION},
    m.RunnerRegistered: {State.AWAITING_REGISTRATION: State.OFFERING},
    m.Drain: {State.OFFERING: State.DRAINING},
    StopRequested: {
        State.DISCONNECTED: State.CLOSED,
        State.AWAITING_INFO_REQUEST: State.CLOSING,
        State.AWAITING_REGISTRATION: State.CLOSING,
        State.OFFERING: State.DRAINING,
        State.DRAINING: State.DRAINING,
        State.CLOSING: State.CLOSING,
    },
    CloseConnection: {
        State.AWAITING_INFO_REQUEST: State.CLOSING,
        State.AWAITING_REGISTRATION: State.CLOSING,
        State.DRAINING: State.CLOSING,
    },
    AbortConnection: dict.fromkeys(CONNECTED_STATES - {State.CLOSING}, State.CLOSING),
    # After a stop, `StopRequested` follows.
    Disconnected: dict.fromkeys(CONNECTED_STATES, State.DISCONNECTED),
    SocketMeasured: _stay_in(*CONNECTED_STATES - {State.CLOSING}),
    # Tasks. Nothing begins in CLOSING, because its answer could not be sent.
    m.TaskOfferAccept: _stay_in(*_TASK_STATES),
    m.TaskSettings: _stay_in(*_TASK_STATES),
    OversizedMessage: _stay_in(*_TASK_STATES),
    UnreadableMessage: _stay_in(*_TASK_STATES),
    m.TaskCancel: _stay_in(*_TASK_STATES, State.CLOSING),
    m.RpcResponse: _stay_in(*_TASK_STATES, State.CLOSING),
    m.TaskDataResponse: _stay_in(*_TASK_STATES, State.CLOSING),
    m.NodeTypes: _stay_in(*_TASK_STATES, State.CLOSING),
    Pong: _stay_in(*_TASK_STATES, State.CLOSING),
    # The runner. A handler may return or call after its connection is lost.
    HandlerFinished: _stay_in(*State),
    CallMade: _stay_in(*State),
    TypesChanged: _stay_in(*State),
    OfferingChanged: _stay_in(*State),
    SlotFreed: _stay_in(State.OFFERING),
}


class Counters:
    """What a session has counted, over all its connections."""

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
        self.rejected = 0  #: acceptances that were refused
        self.done = 0  #: results sent in which no call has failed
        self.failed = 0  #: errors sent, timeouts apart, and results in which a call has failed
        self.retried = 0  #: results sent that tell the node to try again
        self.timed_out = 0  #: tasks that ran into our own time limit
        self.cancelled = 0  #: tasks that the broker cancelled
        self.lost = 0  #: tasks whose connection was lost
        self.undelivered = 0  #: results reported as undelivered
        self.unfinished = 0  #: tasks that a stop cut short


class _Task:
    __slots__ = ("calls", "deadline", "task_id", "task_type")

    def __init__(self, task_id: str, task_type: str, deadline: float) -> None:
        self.task_id = task_id
        self.task_type = task_type
        #: Until the settings come: when to give up on them. Then: when the task times out.
        self.deadline = deadline
        self.calls: set[str] | None = None


class _Unconfirmed(NamedTuple):
    ordinal: int
    task_id: str
    task_type: str
    payload: bytes | None
    failed: bool


class RunnerSession:
    """The protocol state of one link.

    Args:
        link: names the link towards `slots`.
        name: the runner's name, for n8n's log.
        types: the task types with their limits.
        slots: shared with the runner's other links.
        task_timeout: seconds from a task's settings to its end.
        new_id: makes ids for offers and calls, each only once.
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
        self.state = State.DISCONNECTED
        self._handlers = _HANDLERS[self.state]
        #: Whether the runner can run tasks, as the last `OfferingChanged` says.
        self.offers_wanted = True
        self.generation = 0
        self.counters = Counters()
        self._liveness = Liveness()
        self._link = link
        self._name = name
        self._types = dict(types)
        self._slots = slots
        self._task_timeout = task_timeout
        self._new_id = new_id
        self._offers: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._lapsed: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._accepted: OrderedDict[str, _Task] = OrderedDict()
        self._running: OrderedDict[str, _Task] = OrderedDict()
        self._orphans: dict[tuple[int, str], str] = {}
        self._calls: dict[str, tuple[str, PendingCall]] = {}
        self._unconfirmed: deque[_Unconfirmed] = deque()
        self._unconfirmed_size = 0
        self._congested = False
        self._receiving = False
        self._held: deque[tuple[m.TaskAccepted | m.TaskRejected, float]] = deque()
        self._ordinal = 0
        self._validity = OFFER_VALIDITY
        self._handshake_until: float | None = None
        self._last_sent_at = 0.0
        self._ping: tuple[str, int] | None = None
        self._pinged_at = 0.0
        self._drained_at: float | None = None
        self._stop_until: float | None = None
        self._rejected = False
        # Whether something has happened that `settle` has to look at, and when it has to in any case.
        self._unsettled = True
        self._due = 0.0
        self._actions: list[Action] = []

    # --- what the link asks ---------------------------------------------------------------------

    @property
    def held_tasks(self) -> int:
        """Tasks of this connection that are accepted and not answered."""
        return len(self._accepted) + len(self._running)

    @property
    def orphans(self) -> int:
        """Tasks of lost connections whose handlers have not returned."""
        return len(self._orphans)

    @property
    def is_registered(self) -> bool:
        """Whether the broker knows this runner now."""
        return self.state in _TASK_STATES

    @property
    def is_stopping(self) -> bool:
        """Whether a `StopRequested` has been handled."""
        return self._stop_until is not None

    def note_received(self, now: float) -> None:
        """Note that bytes of the peer have come, the only sign of life."""
        self._liveness.received(now)

    def set_waiting(self, waiting: bool, backlog: int, now: float) -> bool:
        """Note what the local kernel has not taken.

        Args:
            waiting: whether anything waits to be written.
            backlog: bytes of small messages among it.

        Returns:
            Whether reading has to pause until less waits.
        """
        paused = waiting and (backlog > BACKLOG_LIMIT or len(self._held) > HELD_LIMIT)
        self._liveness.set_waiting(waiting, now)
        self._liveness.set_paused(paused, now)
        self._due = min(self._due, self._liveness.due)
        return paused

    def set_congested(self, congested: bool) -> None:
        """Whether a large answer is on its way, between whose fragments no other message may stand."""
        if congested is not self._congested:
            self._congested = congested
            self._unsettled = True

    def set_receiving(self, receiving: bool) -> None:
        """Whether a part of a large message has come, and its end has not."""
        self._receiving = receiving

    def next_deadline(self) -> float | None:
        """The moment at which `settle` has to be called at the latest; None if nothing waits for time."""
        due = self._next_deadline() if self._unsettled else self._due
        return None if due == _NEVER else due

    def _next_deadline(self) -> float:
        if self.state in _IDLE_STATES:
            return _NEVER
        if self._handshake_until is not None:
            return self._handshake_until
        # A stale or early wake-up costs one idle turn; a late one would cost a deadline.
        soonest = self._liveness.due
        if self._unconfirmed:
            soonest = min(soonest, self._proof_due())
        if self._running:
            soonest = min(soonest, next(iter(self._running.values())).deadline)
        if self._accepted:
            soonest = min(soonest, next(iter(self._accepted.values())).deadline)
        if self._offers:
            soonest = min(soonest, next(iter(self._offers.values()))[1])
        elif self._needs_keep_alive():
            soonest = min(soonest, self._last_sent_at + KEEP_ALIVE)
        if self._lapsed:
            soonest = min(soonest, next(iter(self._lapsed.values()))[1])
        if self._held:
            soonest = min(soonest, self._held[0][1])
        if self._stop_until is not None:
            soonest = min(soonest, self._stop_until)
        elif self._drained_at is not None and not self.held_tasks:
            soonest = min(soonest, self._drained_at + DRAIN_LIMIT)
        turn = self._slots.next_deadline(self._link) if self._slots.turns else None
        return soonest if turn is None else min(soonest, turn)

    # --- events ---------------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> list[Action]:
        """Handle one event.

        Returns:
            The actions it asks for, in order.
        """
        kind = type(event)
        self._handlers[kind](self, event, now)
        if kind not in _SETTLED:
            self._unsettled = True
        return self._taken_actions()

    def settle(self, now: float) -> list[Action]:
        """Does what time and free slots ask for; to be called after each batch of events.

        Returns:
            The actions, in order.
        """
        if not self._unsettled and now < self._due:
            return []
        if self.state not in _IDLE_STATES:
            if self._handshake_until is not None:
                self._settle_handshake(self._handshake_until, now)
            if self._running or self._accepted:
                self._settle_tasks(now)
            if self._held:
                self._settle_held(now)
            if self.state is State.DRAINING:
                self._settle_drain(now)
            if self.state is State.OFFERING:
                self._settle_offers(now)
            if self.state is not State.CLOSING:
                self._settle_liveness(now)
        self._due = self._next_deadline()
        self._unsettled = False
        return self._taken_actions()

    def _taken_actions(self) -> list[Action]:
        actions, self._actions = self._actions, []
        return actions

    # --- connection -----------------------------------------------------------------------------

    def _enter(self, trigger: type[Event | CloseConnection | AbortConnection]) -> None:
        """Change the state as `TRANSITIONS` says."""
        self.state = TRANSITIONS[trigger][self.state]
        self._handlers = _HANDLERS[self.state]

    def _connected(self, event: Connected, now: float) -> None:
        self._enter(Connected)
        self.generation += 1
        self._validity = OFFER_VALIDITY + OFFER_JITTER * event.jitter
        self._handshake_until = now + HANDSHAKE_TIMEOUT
        self._ordinal = 0
        self._ping = None
        self._pinged_at = self._last_sent_at = now
        self._liveness.begin(now)
        self._drained_at = None
        self._congested = self._receiving = self._rejected = False

    def _info_request(self, event: m.InfoRequest, now: float) -> None:
        self._enter(m.InfoRequest)
        self._handshake_until = now + HANDSHAKE_TIMEOUT
        self._send(m.RunnerInfo(self._name, tuple(self._types)), now)

    def _runner_registered(self, event: m.RunnerRegistered, now: float) -> None:
        self._enter(m.RunnerRegistered)
        self._handshake_until = None
        self._join(now)

    def _types_changed(self, event: TypesChanged, now: float) -> None:
        self._types = dict(event.types)
        self._join(now)

    def _offering_changed(self, event: OfferingChanged, now: float) -> None:
        self.offers_wanted = event.wanted
        if event.wanted:
            self._join(now)
        elif self.state is State.OFFERING:
            self._withdraw_offers(now)

    def _join(self, now: float) -> None:
        if self.state is State.OFFERING and self.offers_wanted:
            self._wake(self._slots.join(self._link, self._types, now))

    def _drain(self, event: m.Drain, now: float) -> None:
        self._enter(m.Drain)
        self._drained_at = now
        self._withdraw_offers(now)

    def _stop(self, event: StopRequested, now: float) -> None:
        if self._stop_until is None or event.until < self._stop_until:
            self._stop_until = event.until
        before = self.state
        self._enter(StopRequested)
        if before is State.OFFERING:
            self._withdraw_offers(now)
        elif self.state is State.CLOSING and before is not State.CLOSING:
            self._actions.append(CloseConnection(1000, "the runner stops"))

    def _withdraw_offers(self, now: float) -> None:
        self._offers.clear()
        self._lapsed.clear()
        self._wake(self._slots.leave(self._link, now))

    def _disconnected(self, event: Disconnected, now: float) -> None:
        self._enter(Disconnected)
        if self._stop_until is not None:
            self._enter(StopRequested)
        # First of all: others may be waiting for what this link was promised.
        self._wake(self._slots.leave(self._link, now))
        self._offers.clear()
        self._lapsed.clear()
        self._held.clear()
        for task in self._accepted.values():
            self.counters.lost += 1
            self._wake(self._slots.release(task.task_type, now))
        self._accepted.clear()
        for task in self._running.values():
            self.counters.lost += 1
            self._orphans[self.generation, task.task_id] = task.task_type
            self._end_calls(task, REASON_LOST)
            self._actions.append(CancelTask(task.task_id, REASON_LOST))
        self._running.clear()
        for entry in () if event.clean else self._unconfirmed:
            certain = entry.ordinal > event.written
            self._undelivered(entry.task_id, entry.task_type, entry.payload, entry.failed, certain)
        self._unconfirmed.clear()
        self._unconfirmed_size = 0
        self._ping = None
        self._handshake_until = None

    def _close(self, reason: str) -> None:
        self._enter(CloseConnection)
        self._actions.append(CloseConnection(1000, reason))

    # --- tasks ----------------------------------------------------------------------------------

    def _task_offer_accept(self, event: m.TaskOfferAccept, now: float) -> None:
        task_id = event.task_id
        if task_id in self._accepted or task_id in self._running or len(task_id) > ID_LIMIT:
            return
        if self.state is State.DRAINING:
            self._reject(task_id, REASON_STOPPING, now)
            return
        offer = self._offers.pop(event.offer_id, None)
        lapsed = offer is None
        if offer is None:
            offer = self._lapsed.pop(event.offer_id, None)
            if offer is None or offer[1] <= now:
                self._reject(task_id, REASON_EXPIRED, now)
                return
        task_type = offer[0]
        if not self._slots.take(self._link, task_type, now, lapsed):
            self._reject(task_id, REASON_EXPIRED if lapsed else REASON_FULL, now)
            return
        self.counters.accepted += 1
        task = _Task(task_id, task_type, now + SETTINGS_TIMEOUT)
        self._accepted[task_id] = task
        self._due = min(self._due, task.deadline)
        self._unsettled = self._unsettled or self._congested or self._slots.can_serve
        self._send_in_window(m.TaskAccepted(task_id), now)

    def _reject(self, task_id: str, reason: str, now: float) -> None:
        self.counters.rejected += 1
        self._rejected = self._unsettled = True
        self._send_in_window(m.TaskRejected(task_id, reason), now)

    def _task_settings(self, event: m.TaskSettings, now: float) -> None:
        task = self._accepted.pop(event.task_id, None)
        if task is not None:
            task.deadline = now + self._task_timeout
            self._due = min(self._due, task.deadline)
            self._running[task.task_id] = task
            self._actions.append(
                StartTask(task.task_id, task.task_type, self.generation, event.settings, task.deadline)
            )

    def _task_cancel(self, event: m.TaskCancel, now: float) -> None:
        reason = event.reason if isinstance(event.reason, str) else "The task was cancelled"
        task = self._accepted.pop(event.task_id, None)
        if task is not None:
            self.counters.cancelled += 1
            self._wake(self._slots.release(task.task_type, now))
        else:
            task = self._running.pop(event.task_id, None)
            if task is not None:
                self.counters.cancelled += 1
                self._end_calls(task, reason)
                self._actions.append(CancelTask(task.task_id, reason))
        if reason == REASON_WINDOW:
            # The broker has thrown away every offer of this connection with the one we were late for.
            self._void_offers()

    def _finished(self, event: HandlerFinished, now: float) -> None:
        if event.freed or not self._offers:  # without offers, a drain may be over, or a keep-alive be due
            self._unsettled = True
        if event.generation == self.generation and self.state in CONNECTED_STATES:
            task = self._running.pop(event.task_id, None)
            if task is None:
                return  # cancelled or timed out meanwhile: nobody waits for it
            if task.calls:
                self._end_calls(task, "the task has ended")
            if self.state is State.CLOSING:
                self.counters.lost += 1
                self._undelivered(task.task_id, task.task_type, event.payload, event.failed, True)
                return
            if event.interrupted:
                self.counters.unfinished += 1
            elif event.failed or event.calls is FunctionCalls.FAILED:
                self.counters.failed += 1
            elif event.calls is FunctionCalls.AGAIN:
                self.counters.retried += 1
            else:
                self.counters.done += 1
            self._send_answer(task, event.payload, event.failed, now)
            return
        task_type = self._orphans.pop((event.generation, event.task_id), None)
        if task_type is not None:
            self._undelivered(event.task_id, task_type, event.payload, event.failed, True)

    def _send_answer(self, task: _Task, payload: bytes, failed: bool, now: float) -> None:
        self._send(SendPayload(payload), now)
        size = len(payload)
        kept: bytes | None = payload
        if self._unconfirmed_size + size > UNCONFIRMED_LIMIT:
            kept, size = None, 0
        self._unconfirmed_size += size
        self._unconfirmed.append(_Unconfirmed(self._ordinal, task.task_id, task.task_type, kept, failed))
        if self._ping is None:
            self._due = min(self._due, self._pinged_at + PING_SPACING)

    def _fail(self, task: _Task, message: str, description: str | None, now: float) -> None:
        error = {"message": message}
        if description is not None:
            error["description"] = description
        self._send(m.TaskFailed(task.task_id, error), now)

    def _undelivered(
        self, task_id: str, task_type: str, payload: bytes | None, failed: bool, certain: bool
    ) -> None:
        self.counters.undelivered += 1
        self._actions.append(ReportUndelivered(task_id, task_type, payload, failed, certain))

    def _oversized(self, event: OversizedMessage, now: float) -> None:
        what = f"{event.size} bytes, and the runner takes {event.limit} (N8N_RUNNERS_MAX_PAYLOAD)"
        self._skipped(event.head, "is too large for the runner", f"It has {what}.", now)

    def _unreadable(self, event: UnreadableMessage, now: float) -> None:
        self._skipped(event.head, "cannot be read by the runner", event.problem, now)

    def _skipped(self, head: m.Head, why: str, description: str, now: float) -> None:
        """Fail the task, or the call, for which a skipped message was."""
        if head.type == "broker:tasksettings":
            task = None if head.task_id is None else self._accepted.pop(head.task_id, None)
            if task is not None:
                self.counters.failed += 1
                self._wake(self._slots.release(task.task_type, now))
                self._fail(task, f"The task's input {why}", description, now)
            return
        call_id = head.call_id or head.request_id
        if call_id is not None:
            self._answer(call_id, None, f"the answer of n8n {why}. {description}")

    # --- calls of handlers ----------------------------------------------------------------------

    def _call_made(self, event: CallMade, now: float) -> None:
        task = self._running.get(event.task_id) if event.generation == self.generation else None
        if task is None or self.state is State.CLOSING:
            if event.call is not None:
                self._actions.append(EndCall(event.call, None, "the task has ended"))
            return
        if event.call is not None:
            self._calls[event.call_id] = (task.task_id, event.call)
            if task.calls is None:
                task.calls = set()
            task.calls.add(event.call_id)
        self._send(SendPayload(event.payload), now)

    def _rpc_response(self, event: m.RpcResponse, now: float) -> None:
        if event.status == "success":
            self._answer(event.call_id, event.data, None)
        else:
            self._answer(event.call_id, None, event.data if event.data else "n8n gave no reason")

    def _task_data_response(self, event: m.TaskDataResponse, now: float) -> None:
        self._answer(event.request_id, event.data, None)

    def _node_types(self, event: m.NodeTypes, now: float) -> None:
        self._answer(event.request_id, event.node_types, None)

    def _answer(self, call_id: str, value: m.Json, error: m.Json) -> None:
        entry = self._calls.pop(call_id, None)
        if entry is not None:
            task_id, call = entry
            task = self._running.get(task_id)
            if task is not None and task.calls is not None:
                task.calls.discard(call_id)
            self._actions.append(EndCall(call, value, error))

    def _end_calls(self, task: _Task, reason: str) -> None:
        for call_id in task.calls or ():
            _, call = self._calls.pop(call_id)
            self._actions.append(EndCall(call, None, reason))
        task.calls = None

    # --- time and slots -------------------------------------------------------------------------

    def _settle_handshake(self, until: float, now: float) -> None:
        if now >= until:
            what = "its greeting" if self.state is State.AWAITING_INFO_REQUEST else "the registration"
            self._close(f"the broker did not send {what} within {HANDSHAKE_TIMEOUT:g} s")

    def _settle_tasks(self, now: float) -> None:
        while self._running:
            task = next(iter(self._running.values()))
            if task.deadline > now:
                break
            del self._running[task.task_id]
            self.counters.timed_out += 1
            self._fail(
                task,
                timeout_message(self._task_timeout),
                "The limit is the runner's own (N8N_RUNNERS_TASK_TIMEOUT where the runner was started).",
                now,
            )
            self._end_calls(task, timeout_message(self._task_timeout))
            self._actions.append(CancelTask(task.task_id, timeout_message(self._task_timeout), True))
        while self._accepted:
            task = next(iter(self._accepted.values()))
            if task.deadline > now:
                break
            if self._receiving:  # a large message is on its way, which may be these very settings
                task.deadline = now + SETTINGS_TIMEOUT
                self._accepted.move_to_end(task.task_id)
                continue
            del self._accepted[task.task_id]
            self.counters.failed += 1
            self._wake(self._slots.release(task.task_type, now))
            self._fail(task, f"n8n sent no settings within {SETTINGS_TIMEOUT:g} seconds", None, now)

    def _settle_held(self, now: float) -> None:
        while self._held:
            message, until = self._held[0]
            if not self._congested:
                self._held.popleft()
                self._send(message, now)
            elif until <= now:
                self._held.popleft()
                self._drop_held(message, now)
            else:
                break

    def _drop_held(self, message: m.TaskAccepted | m.TaskRejected, now: float) -> None:
        """An answer to an acceptance can no longer arrive in its window: as if it had never been asked."""
        task = self._accepted.pop(message.task_id, None) if isinstance(message, m.TaskAccepted) else None
        if task is not None:
            self.counters.accepted -= 1
            self.counters.rejected += 1
            self._wake(self._slots.release(task.task_type, now))
        self._void_offers()

    def _settle_drain(self, now: float) -> None:
        if self._stop_until is not None:
            if self.held_tasks and now >= self._stop_until:
                for task in [*self._accepted.values(), *self._running.values()]:
                    self.counters.unfinished += 1
                    self._fail(
                        task, MESSAGE_STOPPED, "Its grace period is over; run the workflow again.", now
                    )
                    self._end_calls(task, REASON_STOPPED)
                for task in self._accepted.values():
                    self._wake(self._slots.release(task.task_type, now))
                for task in self._running.values():
                    self._actions.append(CancelTask(task.task_id, REASON_STOPPED))
                self._accepted.clear()
                self._running.clear()
            if not self.held_tasks:
                self._close("the runner stops")
        elif self._drained_at is not None and not self.held_tasks and now >= self._drained_at + DRAIN_LIMIT:
            self._close("the broker drains, but does not close")

    def _settle_offers(self, now: float) -> None:
        lapsed: dict[str, int] = {}
        while self._offers:
            offer_id, (task_type, until) = next(iter(self._offers.items()))
            if until > now:
                break
            del self._offers[offer_id]
            self._lapsed[offer_id] = (task_type, until + OFFER_HONOUR)
            lapsed[task_type] = lapsed.get(task_type, 0) + 1
        while self._lapsed and next(iter(self._lapsed.values()))[1] <= now:
            self._lapsed.popitem(last=False)
        for task_type, count in lapsed.items():
            self._slots.lapse(self._link, task_type, count)
        # While a large answer is on its way, offers would have to wait behind it, and lapse there.
        wanted, others = self._slots.offers(self._link, now, not self._congested)
        self._wake(others)
        until = now + self._validity
        valid_for = int(self._validity * 1000)
        for task_type, count in wanted:
            for _ in range(count):
                offer_id = self._new_id()
                self._offers[offer_id] = (task_type, until)
                self._send(m.TaskOffer(offer_id, task_type, valid_for), now)
        if self._rejected and not self._congested:
            self._rejected = False
            if self._types and not wanted:
                # n8n 2.27 matches a rejected request with the offers it has, of other runners too, only when
                # another one arrives.
                self._send_expired_offer(now)
        if self._needs_keep_alive() and now >= self._last_sent_at + KEEP_ALIVE:
            self._send_expired_offer(now)

    def _send_expired_offer(self, now: float) -> None:
        self._send(m.TaskOffer(self._new_id(), next(iter(self._types)), 0), now)

    def _needs_keep_alive(self) -> bool:
        """Whether n8n would take this link for unresponsive, unless it says something."""
        return (
            self.state is State.OFFERING
            and bool(self._types)
            and not self._offers
            and not self._accepted
            and not self._running
            and not self._congested
        )

    def _void_offers(self) -> None:
        self._offers.clear()
        self._lapsed.clear()
        self._slots.void(self._link)

    # --- liveness -------------------------------------------------------------------------------

    def _settle_liveness(self, now: float) -> None:
        if now >= self._liveness.due:
            step = self._liveness.look(now)
            if step.ping:
                self._actions.append(SendUrgentPing(LIVENESS_PING))
            if step.measure:
                self._actions.append(MeasureSocket())
        if self._unconfirmed and now >= self._proof_due():
            payload = str(self._ordinal)
            self._ping = (payload, self._ordinal)
            self._pinged_at = now
            self._actions.append(SendPing(payload))

    def _measured(self, event: SocketMeasured, now: float) -> None:
        reason = self._liveness.judge(event, now)
        if reason is not None:
            self._enter(AbortConnection)
            self._actions.append(AbortConnection(reason))

    def _proof_due(self) -> float:
        """Return when a ping has to follow the results that no pong covers."""
        if self._ping is None:
            return self._pinged_at + PING_SPACING
        # While a large answer is on its way, the ping is behind it, and another one would be too.
        return _NEVER if self._congested else self._pinged_at + PING_REPEAT

    def _pong(self, event: Pong, now: float) -> None:
        if self._ping is None or self._ping[0] != event.payload:
            return
        covered = self._ping[1]
        self._ping = None
        while self._unconfirmed and self._unconfirmed[0].ordinal <= covered:
            entry = self._unconfirmed.popleft()
            if entry.payload is not None:
                self._unconfirmed_size -= len(entry.payload)

    # --- small things ---------------------------------------------------------------------------

    def _send(self, message: m.FromRunner | SendPayload, now: float) -> None:
        self._ordinal += 1
        self._last_sent_at = now
        self._actions.append(message)

    def _send_in_window(self, message: m.TaskAccepted | m.TaskRejected, now: float) -> None:
        if self._congested:
            self._held.append((message, now + ACCEPT_WINDOW))
        else:
            self._send(message, now)

    def _wake(self, links: set[Hashable]) -> None:
        others = tuple(link for link in links if link != self._link)
        if others:
            self._actions.append(WakeLinks(others))

    def _settle_only(self, event: SlotFreed, now: float) -> None:
        """`settle` does the rest."""

    def _ignore(self, event: Event, now: float) -> None:
        """The state has no use for this event; see `TRANSITIONS`."""


_HANDLER_OF: dict[type[Event], Callable[..., None]] = {
    m.InfoRequest: RunnerSession._info_request,
    m.RunnerRegistered: RunnerSession._runner_registered,
    m.TaskOfferAccept: RunnerSession._task_offer_accept,
    m.TaskSettings: RunnerSession._task_settings,
    m.TaskCancel: RunnerSession._task_cancel,
    m.RpcResponse: RunnerSession._rpc_response,
    m.TaskDataResponse: RunnerSession._task_data_response,
    m.NodeTypes: RunnerSession._node_types,
    m.Drain: RunnerSession._drain,
    Connected: RunnerSession._connected,
    Disconnected: RunnerSession._disconnected,
    HandlerFinished: RunnerSession._finished,
    CallMade: RunnerSession._call_made,
    SlotFreed: RunnerSession._settle_only,
    TypesChanged: RunnerSession._types_changed,
    OfferingChanged: RunnerSession._offering_changed,
    OversizedMessage: RunnerSession._oversized,
    UnreadableMessage: RunnerSession._unreadable,
    Pong: RunnerSession._pong,
    SocketMeasured: RunnerSession._measured,
    StopRequested: RunnerSession._stop,
}

#: The same for each state, with the events that it ignores.
_HANDLERS: dict[State, dict[type[Event], Callable[..., None]]] = {
    state: {
        kind: handler if state in TRANSITIONS[kind] else RunnerSession._ignore
        for kind, handler in _HANDLER_OF.items()
    }
    for state in State
}

#: What every task brings. These tell their deadlines themselves, and whether there is more to settle.
_SETTLED = frozenset({m.TaskOfferAccept, m.TaskSettings, HandlerFinished})
