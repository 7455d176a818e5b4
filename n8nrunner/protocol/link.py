"""The life of one broker's link, over all its connections, as a state machine: events in, actions out.

`TRANSITIONS`, below the class, has every transition. The session (`session.py`) has the protocol on an open
connection; the machine passes its events on. Time, random numbers and the delays between attempts are passed
in, and the connection itself is only passed through.

The caller performs the actions in order. After each batch of events it calls `settle`, writes, and calls
`written`. `next_deadline` returns the moment at which to do so at the latest.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from math import inf
from typing import Any, Callable, NamedTuple, get_args

from n8nrunner.errors import AuthenticationError, GrantTokenSpent, N8nRunnerError
from n8nrunner.protocol import actions, events
from n8nrunner.protocol.failures import ConnectionLost, LinkFailure, Unreachable
from n8nrunner.protocol.messages import RunnerRegistered
from n8nrunner.protocol.retry import HEALTHY_JITTER, REFUSED_WAIT, Retry
from n8nrunner.protocol.session import RunnerSession
from n8nrunner.protocol.slots import Slots
from n8nrunner.protocol.states import CONNECTED_STATES, State
from n8nrunner.protocol.throttle import Throttle

#: How long to wait for the broker's close frame, in seconds; `CLOSE_WAIT_LATE` after the grace period.
CLOSE_WAIT = 2.0
CLOSE_WAIT_LATE = 0.3

#: Delay before a step is retried that an unexpected error has ended, in seconds.
DEFECT_PAUSE = 1.0

_AT_ONCE = -inf


class LinkState(enum.Enum):
    """The state of a link, with the event that it waits for."""

    WAITING = "the time of the next attempt or probe"
    CONNECTING = "the end of an attempt to connect"
    PROBING = "the answer to a probe"
    REFUSED = "the runner's decision whether to go on after its token was refused"
    CONNECTED = "the end of an open connection; the state of its session says more"
    CLOSING = "the broker's close frame, or the time limit for it"
    FINISHING = "handlers of lost connections, until the grace period is over"
    CLOSED = "nothing: it has ended"


WAITING, CONNECTING, PROBING, REFUSED, CONNECTED, CLOSING, FINISHING, CLOSED = LinkState


class _Closing:
    """Why an open connection is to end, and until when it may last."""

    def __init__(self, reason: str, until: float) -> None:
        self.reason = reason
        self.until = until
        #: The broker's close code.
        self.code: int | None = None


class LinkMachine:
    """One broker's link.

    Args:
        broker: the broker's URL, for texts.
        session: the protocol on the link's connections. Broker messages and events of tasks may be given to
            it, or to `handle`.
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
        #: Why the last attempt failed or the last connection ended; None if the broker registered the runner.
        self.last_error: str | None = None
        #: Whether to read nothing until the peer has taken more of what is written to it.
        self.is_paused = False
        self._broker = broker
        self._slots = slots
        self._is_one_shot = is_one_shot
        self._grant = grant
        self._auto_shutdown_timeout = auto_shutdown_timeout
        self._retry = Retry(is_one_shot, new_delays)
        self._trouble_level = actions.LogLevel.INFO
        self._skipped = Throttle()
        # The next step while the link waits.
        self._next_at = _AT_ONCE
        self._next_is_probe = False
        # The connection.
        self._opened_at = 0.0
        self._accepted_before = 0
        self._has_unwritten = False
        self._was_congested = self._is_unblocked = False
        self._closing: _Closing | None = None
        self._stop_until = inf
        self._methods = _METHODS[self.state]
        self._actions: list[actions.LinkAction] = []

    # --- for any thread -------------------------------------------------------------------------

    @property
    def failures(self) -> int:
        """Failures since the last registration."""
        return self._retry.failures

    @property
    def is_registered(self) -> bool:
        """Whether the broker knows this runner now and may send tasks."""
        return self.session.state is State.OFFERING

    @property
    def has_ended(self) -> bool:
        """Whether nothing is left to do: what handlers of lost connections return is reported no more."""
        return self.state is CLOSED

    @property
    def shown(self) -> str:
        """The state for `LinkSnapshot.state`."""
        if self.state not in (CONNECTED, CLOSING):
            return _SHOWN[self.state]
        state = self.session.state
        if state is State.OFFERING:
            return "registered" if self.session.offers_wanted else "paused"
        if state is State.DRAINING or (state is State.CLOSING and self.session.is_stopping):
            return "draining"
        return "connecting"

    # --- what the caller does ---------------------------------------------------------------------

    def handle(self, event: events.Event | events.LinkEvent, now: float) -> Sequence[actions.LinkAction]:
        """Handle one event, and return the actions that it asks for.

        If this raises, the actions that were asked for before the error are returned by the next call.
        """
        method = self._methods.get(type(event))
        if method is None:
            return self.session.handle(event, now)  # type: ignore[arg-type]  # not one of the link's
        method(self, event, now)
        wanted, self._actions = self._actions, []
        return wanted

    def settle(self, now: float, is_congested: bool = False) -> Sequence[actions.LinkAction]:
        """Return the actions that time and free slots ask for. Call it after each batch of events.

        Args:
            now: the moment.
            is_congested: whether a large message is on its way (`RunnerSession.set_congested`).
        """
        if not self._is_open:
            return self.handle(_TIME_PASSED, now)
        session = self.session
        session.set_congested(is_congested)
        self._was_congested = is_congested
        wanted = session.settle(now)
        if session.state is State.CLOSING:
            self._follow(wanted, now)
        return wanted

    def written(
        self, has_unwritten: bool, backlog: int, is_congested: bool, now: float
    ) -> Sequence[actions.LinkAction]:
        """Return the actions that follow writing. Call it after `settle`, while a connection is open.

        Args:
            has_unwritten: whether anything waits that the local kernel has not taken.
            backlog: bytes of small messages that wait.
            is_congested: whether a large message is still on its way.
            now: the moment.
        """
        self._is_unblocked = self._was_congested and not is_congested
        if has_unwritten or self._has_unwritten:
            self._has_unwritten = has_unwritten
            self.is_paused = self.session.set_waiting(has_unwritten, backlog, now)
        closing = self._closing
        if closing is not None:
            if not has_unwritten:  # the close frame has left
                closing.until = min(closing.until, now + CLOSE_WAIT)
            if now >= closing.until:
                return [actions.AbortConnection(closing.reason, closing.code)]
        elif self._auto_shutdown_timeout and now >= self._idle_until():
            return [actions.ReportIdle()]
        return []

    def next_deadline(self) -> float:
        """Return the moment at which to call `settle` at the latest; infinite if nothing waits for time."""
        state = self.state
        if state is CONNECTED:
            if self._is_unblocked:
                return _AT_ONCE  # what the large message has held back follows
            due = self.session.next_deadline()
            return min(due, self._idle_until()) if self._auto_shutdown_timeout else due
        if self._closing is not None:
            return self._closing.until
        if state is WAITING:
            return self._next_at
        return self._stop_until if state is FINISHING else inf

    def recover(self, now: float, is_attempting: bool) -> float:
        """Find a next step after an unexpected error, while no connection is open.

        Args:
            now: the moment.
            is_attempting: whether an attempt or a probe is under way.

        Returns:
            When to call `settle`.

        Raises:
            RuntimeError: the session still counts as connected, so no step can be right.
        """
        if self.session.state in CONNECTED_STATES:
            raise RuntimeError("a link without a connection has a connected session")
        pause = now + DEFECT_PAUSE
        if self.session.state is State.CLOSED:
            if self.state is not CLOSED:
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

    def _opened(self, event: events.ConnectionOpened, now: float) -> None:
        self._grant = None  # a grant is good for one connection
        self._opened_at = now
        self._accepted_before = self.session.counters.accepted
        self._go(CONNECTED)
        self._actions.append(actions.ServeConnection(event.connection))
        self._actions += self.session.handle(events.Connected(event.jitter), now)

    def _discard(self, event: events.ConnectionOpened, now: float) -> None:
        self._actions.append(actions.DiscardConnection(event.connection))

    def _attempt_failed(self, event: events.AttemptFailed, now: float) -> None:
        self._failed(event.reason, event.grant, event.jitter, now)

    def _probed(self, event: events.BrokerProbed, now: float) -> None:
        if event.problem is None:
            self._wait(event.jitter * HEALTHY_JITTER, False, now)
        else:
            self._failed(Unreachable(event.problem), self._grant, event.jitter, now)

    def _failed(self, reason: LinkFailure, grant: str | None, jitter: float, now: float) -> None:
        decision = self._retry.decide(reason, now, jitter)
        self.last_error = str(reason)
        self._grant = grant if decision.keep_grant else None
        if decision.delay is None:
            self._go(REFUSED)
            self._actions.append(actions.ReportRefused(_final_error(reason, self._is_one_shot)))
        else:
            self._log_failure(reason, decision.delay, decision.loud, now)
            self._wait(decision.delay, decision.probe, now)

    def _refusal_answered(self, event: events.RefusalAnswered, now: float) -> None:
        if event.is_final:
            self._stop(events.StopRequested(now), now)
        else:
            # The token has to be changed, here or at n8n.
            self._log_failure(event.error, REFUSED_WAIT, True, now)
            self._wait(REFUSED_WAIT, False, now)

    def _log_failure(self, reason: Exception, delay: float, is_loud: bool, now: float) -> None:
        text = str(reason)
        if self._retry.is_news(text, now) or is_loud:
            level = actions.LogLevel.ERROR if is_loud else actions.LogLevel.WARNING
            self._trouble_level = max(level, self._trouble_level)
            about = "" if self._broker in text else f"{self._broker}: "
            self._actions.append(actions.LogFailure(level, f"{about}{text}", delay))

    # --- an open connection -----------------------------------------------------------------------

    def _follow(self, wanted: list[actions.Action], now: float) -> None:
        """Follow the session when it closes the connection."""
        for action in wanted:
            if type(action) is actions.CloseConnection:
                self._methods.get(actions.CloseConnection, LinkMachine._ignore)(self, action, now)

    def _registered(self, event: RunnerRegistered, now: float) -> None:
        was_registered = self.is_registered
        self._actions += self.session.handle(event, now)
        if self.is_registered and not was_registered:
            self.registrations += 1
            self.last_error = None
            self._retry.registered()
            # At the level of the trouble that this ends: a log without INFO would not show the recovery.
            level, self._trouble_level = self._trouble_level, actions.LogLevel.INFO
            self._actions.append(actions.ReportRegistered(level))

    def _close(self, action: actions.CloseConnection, now: float) -> None:
        self.last_error = action.reason
        if self.session.is_stopping:
            # Answers that are on their way have the rest of the grace period.
            until = max(now, self._stop_until) + CLOSE_WAIT_LATE
        else:
            until = now + CLOSE_WAIT
        self._closing = _Closing(action.reason, until)
        self._go(CLOSING)

    def _close_received(self, event: events.CloseReceived, now: float) -> None:
        """End the connection after the next write, which sends the runner's close frame."""
        if self._closing is None:
            meaning = _meaning(event.code)
            self._closing = _Closing(f"the broker at {self._broker} closed the connection ({meaning})", now)
            self._go(CLOSING)
        self._closing.code = event.code
        self._closing.until = now

    def _oversized(self, event: events.OversizedMessage, now: float) -> None:
        size = f"{event.size} bytes: max_payload is {event.limit}"
        self._log_skipped(f"Skipped a message ({event.head.type!r:.40}) of {size}", now)
        self._actions += self.session.handle(event, now)

    def _unreadable(self, event: events.UnreadableMessage, now: float) -> None:
        self._log_skipped(f"Skipped a message from {self._broker}: {event.problem}", now)
        self._actions += self.session.handle(event, now)

    def _log_skipped(self, problem: str, now: float) -> None:
        left_out = self._skipped.admit(now)
        if left_out is not None:
            self._actions.append(actions.LogSkipped(problem, left_out))

    def _ended(self, event: events.ConnectionEnded, now: float) -> None:
        self._closing = None
        self.is_paused = self._has_unwritten = self._was_congested = self._is_unblocked = False
        self._actions += self.session.handle(events.Disconnected(event.written, event.clean), now)
        if self.session.state is State.CLOSED:
            self._go(FINISHING)
            self._finish(_TIME_PASSED, now)
            return
        self._retry.ended(
            event.reason, now - self._opened_at, self.session.counters.accepted - self._accepted_before
        )
        self._failed(event.reason, None, event.jitter, now)

    # --- the end ----------------------------------------------------------------------------------

    def _stop(self, event: events.StopRequested, now: float) -> None:
        """Stop. A second stop may shorten the grace period, and never prolongs it."""
        self._stop_until = min(self._stop_until, event.until)
        wanted = self.session.handle(event, now)
        self._actions += wanted
        self._follow(wanted, now)
        if self.session.state is State.CLOSED:
            self._go(FINISHING)
            self._finish(_TIME_PASSED, now)

    def _finish(self, event: events.TimePassed, now: float) -> None:
        if not self.session.orphans or now >= self._stop_until:
            self._go(CLOSED)

    def _idle_until(self) -> float:
        since = self._slots.idle_since
        if since is None or not self.is_registered:
            return inf
        return since + self._auto_shutdown_timeout

    def _ignore(self, event: events.LinkEvent, now: float) -> None:
        """Ignore an event that comes too late."""


def _final_error(reason: LinkFailure, one_shot: bool) -> N8nRunnerError:
    if isinstance(reason, ConnectionLost):
        return GrantTokenSpent(f"{reason}; the one-shot grant token is used up, so this runner ends")
    advice = (
        "the grant token is unknown, used or too old"
        if one_shot
        else "set N8N_RUNNERS_AUTH_TOKEN at n8n to the token of this runner, and restart n8n: it reads the "
        "variable when it starts"
    )
    return AuthenticationError(f"{reason}; {advice}")


def _meaning(code: int | None) -> str:
    """Return the meaning of n8n's close codes (docs/protocol.md, "Close codes")."""
    meanings: dict[int | None, str] = {
        None: "without a code",
        1000: "1000: another runner uses the same id",
        1001: "1001: n8n shuts down",
        1002: "1002: it takes this runner for unresponsive, or a frame was broken",
        1007: "1007: a message was not UTF-8",
        1009: "1009: a message was above n8n's N8N_RUNNERS_MAX_PAYLOAD",
    }
    return meanings.get(code, str(code))


_TIME_PASSED = events.TimePassed()

_SHOWN = {
    WAITING: "waiting",
    CONNECTING: "connecting",
    PROBING: "connecting",
    REFUSED: "waiting",
    FINISHING: "closed",
    CLOSED: "closed",
}


_Method = Callable[[LinkMachine, Any, float], None]


class Transition(NamedTuple):
    """The method that handles an event, and the states that it may lead to."""

    method: _Method
    to: frozenset[LinkState]


def _to(method: _Method, *states: LinkState) -> Transition:
    return Transition(method, frozenset(states))


#: Every transition, by state and event; `CloseConnection` is an action of the session. Other events are the
#: session's, or too late (`_TOO_LATE`).
TRANSITIONS: dict[LinkState, dict[type, Transition]] = {
    WAITING: {
        events.TimePassed: _to(LinkMachine._take_next_step, WAITING, CONNECTING, PROBING),
        events.StopRequested: _to(LinkMachine._stop, FINISHING, CLOSED),
    },
    CONNECTING: {
        events.ConnectionOpened: _to(LinkMachine._opened, CONNECTED),
        events.AttemptFailed: _to(LinkMachine._attempt_failed, WAITING, REFUSED),
        events.StopRequested: _to(LinkMachine._stop, FINISHING, CLOSED),
    },
    PROBING: {
        events.BrokerProbed: _to(LinkMachine._probed, WAITING),
        events.StopRequested: _to(LinkMachine._stop, FINISHING, CLOSED),
    },
    REFUSED: {
        events.RefusalAnswered: _to(LinkMachine._refusal_answered, WAITING, CLOSED),
        events.StopRequested: _to(LinkMachine._stop, FINISHING, CLOSED),
    },
    CONNECTED: {
        RunnerRegistered: _to(LinkMachine._registered, CONNECTED),
        actions.CloseConnection: _to(LinkMachine._close, CLOSING),
        events.StopRequested: _to(LinkMachine._stop, CONNECTED, CLOSING),
        events.CloseReceived: _to(LinkMachine._close_received, CLOSING),
        events.OversizedMessage: _to(LinkMachine._oversized, CONNECTED),
        events.UnreadableMessage: _to(LinkMachine._unreadable, CONNECTED),
        events.ConnectionEnded: _to(LinkMachine._ended, WAITING, REFUSED, FINISHING, CLOSED),
    },
    CLOSING: {
        events.StopRequested: _to(LinkMachine._stop, CLOSING),
        events.CloseReceived: _to(LinkMachine._close_received, CLOSING),
        events.OversizedMessage: _to(LinkMachine._oversized, CLOSING),
        events.UnreadableMessage: _to(LinkMachine._unreadable, CLOSING),
        events.ConnectionEnded: _to(LinkMachine._ended, WAITING, REFUSED, FINISHING, CLOSED),
    },
    FINISHING: {
        events.TimePassed: _to(LinkMachine._finish, FINISHING, CLOSED),
        events.StopRequested: _to(LinkMachine._stop, FINISHING, CLOSED),
    },
    CLOSED: {},
}

#: Events of a link in the states in which `TRANSITIONS` does not have them. The state remains.
_TOO_LATE: dict[type, _Method] = {
    **dict.fromkeys(get_args(events.LinkEvent), LinkMachine._ignore),
    events.ConnectionOpened: LinkMachine._discard,
}

_METHODS: dict[LinkState, dict[type, _Method]] = {
    state: {**_TOO_LATE, **{event: transition.method for event, transition in transitions.items()}}
    for state, transitions in TRANSITIONS.items()
}
