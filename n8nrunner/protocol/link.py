"""The life of one broker's link, over all its connections, as a state machine: events in, actions out.

`TRANSITIONS`, below the class, has every transition but those of `recover`. Events of the protocol go to the
session (`session.py`). Time, random numbers and the delays between attempts are arguments. The machine only
passes the connection object on. Thread: the links', except for the section "for any thread".

The caller performs the actions in order. After each batch of events, the caller calls `settle`, writes, and
calls `written`. `next_deadline` returns when `settle` must be called next.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Callable, get_args

from n8nrunner.errors import AuthenticationError, GrantTokenSpent, N8nRunnerError
from n8nrunner.protocol import actions, events
from n8nrunner.protocol.failures import ConnectionLost, LinkFailure, Unreachable
from n8nrunner.protocol.messages import RunnerRegistered
from n8nrunner.protocol.retry import HEALTHY_JITTER, REFUSED_WAIT, Retry
from n8nrunner.protocol.session import RunnerSession
from n8nrunner.protocol.slots import Slots
from n8nrunner.protocol.states import CONNECTED_STATES, SessionState
from n8nrunner.protocol.throttle import Throttle

#: How long to wait for the broker's close frame, in seconds.
CLOSE_WAIT = 2.0
#: The same, after the grace period.
CLOSE_WAIT_LATE = 0.3

#: Delay before retrying a step that an unexpected error ended, in seconds.
DEFECT_PAUSE = 1.0


class LinkState(enum.Enum):
    """The state of a link, and what it waits for."""

    WAITING = "the time of the next attempt or probe"
    CONNECTING = "the end of an attempt to connect"
    PROBING = "the answer to a probe"
    REFUSED = "the runner's decision whether to retry with a token that is refused or used up"
    CONNECTED = "the end of an open connection; the state of its session says more"
    CLOSING = "the broker's close frame, or the time limit for it"
    FINISHING = "handlers of lost connections, until the grace period is over"
    ENDED = "nothing: it has ended"


WAITING, CONNECTING, PROBING, REFUSED, CONNECTED, CLOSING, FINISHING, ENDED = LinkState


@dataclass
class _Closing:
    """Reason and deadline of a closing connection, and the broker's close code."""

    reason: str
    until: float
    code: int | None = None


class LinkMachine:
    """One broker's link.

    Args:
        broker: the broker's URL, for texts.
        session: the protocol on the link's connections. The caller may pass `HandlerFinished` to it directly.
        slots: those of the session.
        grant: the grant token to begin with; None to fetch one.
        is_one_shot: whether that is the only grant, because the runner has no secret.
        auto_shutdown_timeout: seconds without a task after which the runner ends; 0 for never.
        new_delays: see `Retry`.
    """

    def __init__(
        self,
        broker: str,
        session: RunnerSession,
        slots: Slots,
        grant: str | None,
        is_one_shot: bool,
        auto_shutdown_timeout: float,
        new_delays: Callable[[], Iterator[float]],
    ) -> None:
        self.state = WAITING
        self._is_open = False
        self.session = session
        #: Successful registrations, over all connections.
        self.registrations = 0
        #: Why the last attempt failed or the last connection ended; None after a registration or a stop.
        self.last_error: str | None = None
        #: Whether reading is paused until the peer has read more.
        self.is_paused = False
        #: The failures since the last registration, and what follows them.
        self.retry = Retry(is_one_shot, new_delays)
        self._broker = broker
        self._slots = slots
        self._is_one_shot = is_one_shot
        self._grant = grant
        self._auto_shutdown_timeout = auto_shutdown_timeout
        self._has_logged_failure = False
        self._skipped = Throttle()
        # The next step while the link waits. The first one comes at once.
        self._next_at = -inf
        self._next_is_probe = False
        # The connection.
        self._opened_at = 0.0
        self._accepted_before = 0
        self._has_unwritten = False
        self._closing: _Closing | None = None
        self._stop_until = inf
        #: Whether the broker's address is gone, so that the link ends without a connection.
        self.is_retired = False
        self._methods = _METHODS[self.state]
        self._actions: list[actions.LinkAction] = []

    # --- for any thread -------------------------------------------------------------------------

    @property
    def is_registered(self) -> bool:
        """Whether the broker knows this runner now and may send tasks."""
        return self.session.state is SessionState.OFFERING

    @property
    def has_ended(self) -> bool:
        """Whether the link has ended."""
        return self.state is ENDED

    @property
    def is_closed(self) -> bool:
        """Whether the link does not connect again. It may wait for handlers of lost connections."""
        return self.state in (FINISHING, ENDED)

    @property
    def is_gone(self) -> bool:
        """Whether the link has closed because its address is gone."""
        return self.is_retired and self.is_closed

    @property
    def shown(self) -> str:
        """The state for `LinkSnapshot.state`."""
        if self.is_closed:
            return "closed"
        if self.state in (WAITING, REFUSED):
            return "waiting"
        state = self.session.state
        if state is SessionState.OFFERING:
            return "registered" if self.session.offers_wanted else "paused"
        if state is SessionState.DRAINING or (state is SessionState.CLOSING and self.session.is_stopping):
            return "draining"
        return "connecting"

    # --- for the links' thread --------------------------------------------------------------------

    def handle(self, event: events.Event | events.LinkEvent, now: float) -> Sequence[actions.LinkAction]:
        """Handle one event, and return the actions that it asks for.

        After an exception, the next call also returns the actions collected before it.
        """
        method = self._methods.get(type(event))
        if method is None:
            return self.session.handle(event, now)  # type: ignore[arg-type]  # not one of the link's
        method(self, event, now)
        wanted, self._actions = self._actions, []
        return wanted

    def settle(self, now: float, is_congested: bool = False) -> Sequence[actions.LinkAction]:
        """Apply deadlines, offer free slots, and return the actions. Call it after each batch of events.

        `is_congested` says whether a large message is being sent (`RunnerSession.set_congested`).
        """
        if not self._is_open:
            return self.handle(_TIME_PASSED, now)
        session = self.session
        session.set_congested(is_congested)
        wanted = session.settle(now)
        if session.state is SessionState.CLOSING:
            self._follow(wanted, now)
        return wanted

    def written(
        self, has_unwritten: bool, backlog: int, is_congested: bool, now: float
    ) -> Sequence[actions.LinkAction]:
        """Return the actions that follow writing. Call it after `settle`, while a connection is open.

        `backlog` is the number of bytes of small messages that wait. `is_congested` says whether a large
        message is still being sent.
        """
        if self.session.is_congested and not is_congested:
            self.session.set_congested(False)  # messages that waited behind the large one can be sent now
        if has_unwritten or self._has_unwritten:
            self._has_unwritten = has_unwritten
            self.is_paused = self.session.set_waiting(has_unwritten, backlog, now)
        closing = self._closing
        if closing is not None:
            if not has_unwritten:  # the close frame has been written
                closing.until = min(closing.until, now + CLOSE_WAIT)
            if now >= closing.until:
                return [actions.AbortConnection(closing.reason, closing.code)]
        elif self._auto_shutdown_timeout and now >= self._idle_until():
            return [actions.ReportIdle()]
        return []

    def next_deadline(self) -> float:
        """Return when `settle` must be called next; infinity if nothing has a deadline."""
        state = self.state
        if state is CONNECTED:
            due = self.session.next_deadline()
            return min(due, self._idle_until()) if self._auto_shutdown_timeout else due
        if self._closing is not None:
            return self._closing.until
        if state is WAITING:
            return self._next_at
        return self._stop_until if state is FINISHING else inf

    def recover(self, now: float, is_attempting: bool) -> float:
        """Choose the next step after an unexpected error, while no connection is open.

        `is_attempting` says whether an attempt or a probe is under way. Returns when to call `settle`.

        Raises:
            RuntimeError: the session still counts as connected.
        """
        if self.session.state in CONNECTED_STATES:
            raise RuntimeError("a link without a connection has a connected session")
        pause = now + DEFECT_PAUSE
        if self.session.state is SessionState.CLOSED:
            if self.state is not ENDED:
                self._go(FINISHING)
        elif self.state is WAITING:
            self._next_at = max(self._next_at, pause)
        elif not is_attempting:
            self._wait(DEFECT_PAUSE, self.state is PROBING, now)
        return pause

    # --- connecting -------------------------------------------------------------------------------

    def _go(self, state: LinkState) -> None:
        self.state = state
        self._is_open = state is CONNECTED or state is CLOSING
        self._methods = _METHODS[state]

    def _wait(self, delay: float, is_probe: bool, now: float) -> None:
        self._next_at = now + delay
        self._next_is_probe = is_probe
        self._go(WAITING)

    def _take_next_step(self, event: events.TimePassed, now: float) -> None:
        if now < self._next_at:
            return
        if self._next_is_probe:
            self._go(PROBING)
            self._actions.append(actions.StartProbe())
        else:
            self._go(CONNECTING)
            self._actions.append(actions.StartAttempt(self._grant))

    def _on_opened(self, event: events.ConnectionOpened, now: float) -> None:
        self._grant = None  # a grant is valid for one connection
        self._opened_at = now
        self._accepted_before = self.session.counters.accepted
        self._go(CONNECTED)
        self._actions.append(actions.ServeConnection(event.connection))
        self._actions += self.session.handle(event, now)

    def _discard(self, event: events.ConnectionOpened, now: float) -> None:
        self._actions.append(actions.DiscardConnection(event.connection))

    def _on_probed(self, event: events.BrokerProbed, now: float) -> None:
        if event.problem is None:
            self._wait(event.jitter * HEALTHY_JITTER, False, now)
        else:
            failure = Unreachable(event.problem)
            self._on_failed(events.AttemptFailed(failure, self._grant, event.jitter), now)

    def _on_failed(self, event: events.AttemptFailed, now: float) -> None:
        reason, grant, jitter = event
        decision = self.retry.decide(reason, now, jitter)
        self.last_error = str(reason)
        self._grant = grant if decision.keep_grant else None
        if decision.delay is None:
            self._go(REFUSED)
            self._actions.append(actions.ReportRefused(_final_error(reason, self._is_one_shot)))
        else:
            self._log_failure(reason, decision.delay, decision.loud, now)
            self._wait(decision.delay, decision.probe, now)

    def _on_refusal_answered(self, event: events.RefusalAnswered, now: float) -> None:
        if event.is_final:
            self._on_stop(events.StopRequested(now), now)
        else:
            # Someone must correct the token, here or in n8n.
            self._log_failure(event.error, REFUSED_WAIT, True, now)
            self._wait(REFUSED_WAIT, False, now)

    def _log_failure(self, reason: Exception, delay: float, is_loud: bool, now: float) -> None:
        text = str(reason)
        if self.retry.should_log(text, now) or is_loud:
            level = actions.LogLevel.ERROR if is_loud else actions.LogLevel.WARNING
            self._has_logged_failure = True
            about = "" if self._broker in text else f"{self._broker}: "
            is_first = not self.registrations and self.retry.failures == 1
            advice = f". {_ADVICE}" if is_first and _ADVICE not in text else ""
            self._actions.append(actions.LogFailure(level, f"{about}{text}{advice}", delay))

    # --- an open connection -----------------------------------------------------------------------

    def _follow(self, wanted: list[actions.Action], now: float) -> None:
        """Follow the session when it closes the connection."""
        for action in wanted:
            if type(action) is actions.CloseConnection and self.state is CONNECTED:
                self._on_close(action, now)

    def _on_registered(self, event: RunnerRegistered, now: float) -> None:
        was_registered = self.is_registered
        self._actions += self.session.handle(event, now)
        if self.is_registered and not was_registered:
            self.registrations += 1
            self.last_error = None
            self.retry.note_registered()
            self._actions.append(actions.ReportRegistered(self._has_logged_failure))
            self._has_logged_failure = False

    def _on_close(self, action: actions.CloseConnection, now: float) -> None:
        self.last_error = None if self.session.is_stopping else action.reason
        self._closing = _Closing(action.reason, inf if self.session.is_stopping else now + CLOSE_WAIT)
        self._limit_closing(now)
        self._go(CLOSING)

    def _limit_closing(self, now: float) -> None:
        """Let unsent answers use the rest of the grace period at most."""
        if self._closing is not None:
            self._closing.until = min(self._closing.until, max(now, self._stop_until) + CLOSE_WAIT_LATE)

    def _on_close_received(self, event: events.CloseReceived, now: float) -> None:
        """End the connection after the next write, which sends the runner's close frame."""
        if self._closing is None:
            meaning = _meaning(event.code)
            self._closing = _Closing(f"the broker at {self._broker} closed the connection ({meaning})", now)
            self._go(CLOSING)
        self._closing.code = event.code
        self._closing.until = now

    def _on_message_skipped(self, event: events.MessageSkipped, now: float) -> None:
        left_out = self._skipped.admit(now)
        if left_out is not None:
            message = f"a message (type {event.head.type!r:.40}) from {self._broker}"
            problem = f"Skipped {message}: it {event.problem}. {event.description}"
            self._actions.append(actions.LogSkipped(problem, left_out))
        self._actions += self.session.handle(event, now)

    def _on_ended(self, event: events.ConnectionEnded, now: float) -> None:
        self._closing = None
        self.is_paused = self._has_unwritten = False
        self._actions += self.session.handle(event, now)
        if self.session.state is SessionState.CLOSED:
            self._finish(_TIME_PASSED, now)
            return
        if self.is_retired:
            self.last_error = str(event.reason)
            self._end_retired(events.Retired(), now)
            return
        self.retry.note_ended(
            event.reason, now - self._opened_at, self.session.counters.accepted - self._accepted_before
        )
        self._on_failed(events.AttemptFailed(event.reason, None, event.jitter), now)

    # --- the end ----------------------------------------------------------------------------------

    def _on_stop(self, event: events.StopRequested, now: float) -> None:
        """Stop. A second stop can only shorten the grace period."""
        self._stop_until = min(self._stop_until, event.until)
        wanted = self.session.handle(event, now)
        self._actions += wanted
        self._follow(wanted, now)
        self._limit_closing(now)
        if self.session.state is SessionState.CLOSED:
            self._finish(_TIME_PASSED, now)

    def _on_retired(self, event: events.Retired, now: float) -> None:
        self.is_retired = True

    def _on_restored(self, event: events.Restored, now: float) -> None:
        self.is_retired = False

    def _end_retired(self, event: events.Retired, now: float) -> None:
        """End, because there is no connection. Wait for handlers of lost ones."""
        self.is_retired = True
        self._on_stop(events.StopRequested(inf), now)

    def _finish(self, event: events.TimePassed, now: float) -> None:
        self._go(ENDED if not self.session.tasks.orphans or now >= self._stop_until else FINISHING)

    def _idle_until(self) -> float:
        since = self._slots.idle_since
        if since is None or not self.is_registered:
            return inf
        return since + self._auto_shutdown_timeout

    def _ignore(self, event: events.LinkEvent, now: float) -> None:
        """Ignore an event of a link that has no effect in this state."""


#: Part of the error of a refused token, and of the first failure of a link that was never registered.
_ADVICE = "`n8nrunner check` names the likely cause"


def _final_error(reason: LinkFailure, one_shot: bool) -> N8nRunnerError:
    if isinstance(reason, ConnectionLost):
        return GrantTokenSpent(f"{reason}; the one-shot grant token is used up, so this runner ends")
    advice = (
        "the grant token is unknown, used or too old"
        if one_shot
        else "set N8N_RUNNERS_AUTH_TOKEN at n8n to the token of this runner, and restart n8n: it reads the "
        f"variable when it starts. {_ADVICE}"
    )
    return AuthenticationError(f"{reason}; {advice}")


def _meaning(code: int | None) -> str:
    """Return the meaning of n8n's close codes (docs/protocol.md, "Close codes")."""
    meanings: dict[int | None, str] = {
        None: "without a code",
        1000: "1000: another runner uses the same id",
        1001: "1001: n8n shuts down",
        1002: "1002: n8n considers this runner unresponsive, or a frame was invalid",
        1007: "1007: a message was not UTF-8",
        1009: "1009: a message was above n8n's N8N_RUNNERS_MAX_PAYLOAD",
    }
    return meanings.get(code, str(code))


_TIME_PASSED = events.TimePassed()

_Method = Callable[[LinkMachine, Any, float], None]


#: Transitions by state and event: the method that handles the event, and the states that it may lead to.
#: A `LinkEvent` without a row is ignored in that state. Other events without a row go to the session.
#: The row of `CloseConnection`, an action of the session, is not looked up: `_follow` finds the action.
#: `ConnectionEnded` leads to FINISHING or ENDED after a stop, as `_finish` says, and if the link is retired;
#: otherwise to REFUSED if `Retry` gives up, and to WAITING if not.
TRANSITIONS: dict[LinkState, dict[type, tuple[_Method, set[LinkState]]]] = {
    WAITING: {
        events.TimePassed: (LinkMachine._take_next_step, {WAITING, CONNECTING, PROBING}),
        events.Retired: (LinkMachine._end_retired, {FINISHING, ENDED}),
        events.StopRequested: (LinkMachine._on_stop, {FINISHING, ENDED}),
    },
    CONNECTING: {
        events.ConnectionOpened: (LinkMachine._on_opened, {CONNECTED}),
        events.AttemptFailed: (LinkMachine._on_failed, {WAITING, REFUSED}),  # REFUSED: `Retry` gives up
        events.Retired: (LinkMachine._end_retired, {FINISHING, ENDED}),
        events.StopRequested: (LinkMachine._on_stop, {FINISHING, ENDED}),
    },
    PROBING: {
        events.BrokerProbed: (LinkMachine._on_probed, {WAITING}),  # `Retry` does not give up on `Unreachable`
        events.Retired: (LinkMachine._end_retired, {FINISHING, ENDED}),
        events.StopRequested: (LinkMachine._on_stop, {FINISHING, ENDED}),
    },
    REFUSED: {
        events.RefusalAnswered: (LinkMachine._on_refusal_answered, {WAITING, ENDED}),  # ENDED: it is final
        events.Retired: (LinkMachine._end_retired, {FINISHING, ENDED}),
        events.StopRequested: (LinkMachine._on_stop, {FINISHING, ENDED}),
    },
    CONNECTED: {
        RunnerRegistered: (LinkMachine._on_registered, {CONNECTED}),
        actions.CloseConnection: (LinkMachine._on_close, {CLOSING}),
        events.Retired: (LinkMachine._on_retired, {CONNECTED}),
        events.Restored: (LinkMachine._on_restored, {CONNECTED}),
        events.StopRequested: (LinkMachine._on_stop, {CONNECTED, CLOSING}),
        events.CloseReceived: (LinkMachine._on_close_received, {CLOSING}),
        events.MessageSkipped: (LinkMachine._on_message_skipped, {CONNECTED}),
        events.ConnectionEnded: (LinkMachine._on_ended, {WAITING, REFUSED, FINISHING, ENDED}),
    },
    CLOSING: {
        events.Retired: (LinkMachine._on_retired, {CLOSING}),
        events.Restored: (LinkMachine._on_restored, {CLOSING}),
        events.StopRequested: (LinkMachine._on_stop, {CLOSING}),
        events.CloseReceived: (LinkMachine._on_close_received, {CLOSING}),
        events.MessageSkipped: (LinkMachine._on_message_skipped, {CLOSING}),
        events.ConnectionEnded: (LinkMachine._on_ended, {WAITING, REFUSED, FINISHING, ENDED}),
    },
    FINISHING: {
        events.TimePassed: (LinkMachine._finish, {FINISHING, ENDED}),  # FINISHING: orphans still run
        events.StopRequested: (LinkMachine._on_stop, {FINISHING, ENDED}),
    },
    ENDED: {},
}

#: The methods in each state. A `LinkEvent` without a transition is ignored; only the new connection of a
#: `ConnectionOpened` is closed.
_METHODS: dict[LinkState, dict[type, _Method]] = {
    state: {
        **dict.fromkeys(get_args(events.LinkEvent), LinkMachine._ignore),
        events.ConnectionOpened: LinkMachine._discard,
        **{event: method for event, (method, _) in transitions.items()},
    }
    for state, transitions in TRANSITIONS.items()
}
