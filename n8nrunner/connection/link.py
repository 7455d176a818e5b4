"""One broker's link, over all its connections: when it connects, what it does with what comes, when it ends.

A `BrokerLink` has no thread of its own. All links of a runner live on one, the links' thread (`serving.py`),
which is the only one that touches their sessions and sockets; what is for any thread says so. The blocking
steps of connecting run elsewhere (`attempt.py`).
"""

from __future__ import annotations

import itertools
import logging
import random
import time
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, Callable, NamedTuple, Protocol

import backoff

from n8nrunner import logs
from n8nrunner.config import RunnerConfig
from n8nrunner.connection.attempt import Failed, Opened, Probed, close_late_comers, start_attempt, start_probe
from n8nrunner.connection.inbox import Inbox
from n8nrunner.connection.transport import Connection
from n8nrunner.errors import AuthenticationError, GrantTokenSpent, N8nRunnerError, ProtocolError
from n8nrunner.execution.invoke import Answer, Handler, failure
from n8nrunner.execution.pools import OnEnd
from n8nrunner.protocol import codec
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
    OversizedMessage,
    Pong,
    StopRequested,
    UnreadableMessage,
)
from n8nrunner.protocol.failures import ConnectionLost, LinkFailure, Unreachable
from n8nrunner.protocol.frames import PongFrame, SkippedMessage
from n8nrunner.protocol.messages import RunnerRegistered
from n8nrunner.protocol.retry import HEALTHY_JITTER, MOST, REFUSED_WAIT, Decision, Retry
from n8nrunner.protocol.session import REASON_LOST, RunnerSession
from n8nrunner.protocol.slots import Slots
from n8nrunner.protocol.states import CONNECTED_STATES, State
from n8nrunner.protocol.tasks import Counters
from n8nrunner.protocol.throttle import Throttle
from n8nrunner.snapshot import LinkSnapshot
from n8nrunner.task import ActiveTask, Call, Tally, Undelivered

logger = logs.get_logger("n8nrunner")

#: Seconds that the broker gets to answer our close frame; the second, when the grace period is over.
CLOSE_WAIT = 2.0
CLOSE_WAIT_LATE = 0.3
#: Messages above this many bytes are decoded on the handler's thread.
LARGE_MESSAGE = 1024 * 1024

#: Delay before retrying a step that failed because of an unexpected error, in seconds.
DEFECT_PAUSE = 1.0

#: Bytes of an unreadable message in which its type and ids are looked for.
_HEAD_SIZE = 4096

_NEVER = float("inf")


class Ended(NamedTuple):
    """A task's handler has returned, or could not be run. May be posted twice for one task."""

    task: ActiveTask
    answer: Answer


class LinkOwner(Protocol):
    """What a link needs of its runner. All of it is called on the links' thread, and none of it waits."""

    def handler_of(self, task_type: str) -> Handler | None:
        """The handler of a task type, as it is registered now."""

    def link_registered(self, link: BrokerLink) -> None:
        """The broker has registered the runner."""

    def link_refused(self, link: BrokerLink, error: N8nRunnerError) -> bool:
        """The token was refused before any registration, or is used up; whether the link should give up."""

    def link_cannot_connect(self, error: Exception) -> None:
        """No thread could be started for an attempt to connect."""

    def link_idle(self) -> None:
        """The runner has had nothing to do for `auto_shutdown_timeout`."""

    def undelivered(self, result: Undelivered) -> None:
        """A result did not arrive, or may not have."""


class BrokerLink:
    """One broker's link.

    Args:
        index: its place among the runner's links.
        config: the runner's settings.
        types: the task types with their limits, as they are now.
        slots: shared by all links of the runner, whose thread alone uses it.
        submit: takes a handler that is to run, with its task and what is told of its answer.
        inbox: takes events for all links of the runner.
        wake_links: told which links should look at the slots; called on the links' thread.
        owner: the runner.
    """

    def __init__(
        self,
        index: int,
        config: RunnerConfig,
        types: Mapping[str, int | None],
        slots: Slots,
        submit: Callable[[Handler, ActiveTask, OnEnd], None],
        inbox: Inbox,
        wake_links: Callable[[tuple[Hashable, ...]], None],
        owner: LinkOwner,
    ) -> None:
        self.index = index
        self.url = config.urls[index]
        self.max_payload = config.max_payload
        #: The open WebSocket; None while there is none.
        self.connection: Connection | None = None
        #: Of each function that was called: calls that returned and calls that failed.
        self.calls: dict[str, tuple[int, int]] = {}
        #: When `settle` has to be called at the latest, on the monotonic clock.
        self.due_at = 0.0
        #: Whether more may have come than the last turn read.
        self.more = False
        #: Whether reading pauses until the peer has taken more of what waits for it.
        self.paused = False
        self._waiting = False
        self._skipped = Throttle()
        self._config = config
        self._slots = slots
        self._submit = submit
        self._inbox = inbox
        self._wake_links = wake_links
        self._owner = owner
        self._ids = itertools.count(1)
        self._session = RunnerSession(index, config.name, types, slots, config.task_timeout, self.new_id)
        self._tasks: dict[str, ActiveTask] = {}
        self._retry = Retry(config.is_one_shot, _new_delays)
        self._registrations = 0
        self._last_error: str | None = None
        self._trouble_level = logging.INFO
        self._grant = config.grant_token
        self._opened_at = 0.0
        self._accepted_before = 0
        # Whether a thread that connects or probes has yet to post its outcome.
        self._attempting = False
        # What to do next while there is no connection, and when; None while a blocking step is under way.
        self._next_step: Callable[[], None] | None = self._attempt
        self._next_at = 0.0
        self._stop_until = 0.0
        self._close_until: float | None = None
        self._close_limit: float | None = None

    # --- for any thread ---------------------------------------------------------------------------

    def new_id(self) -> str:
        """An id for an offer or a call, unlike all others of this link."""
        return f"{next(self._ids):x}"

    def call(self, task: ActiveTask, call_id: str, payload: bytes, call: Call | None) -> None:
        """Posts a handler's call to n8n; part of what a `Task` needs of its link."""
        self._inbox.post(self, CallMade(task.id, task.generation, call_id, payload, call))

    def snapshot(self) -> LinkSnapshot:
        """The link as it is now."""
        state = self._session.state
        if state is State.DISCONNECTED:
            shown = "connecting" if self._next_step is None else "waiting"
        else:
            shown = _SHOWN.get(state, "connecting")
            if state is State.CLOSING and self._session.is_stopping:
                shown = "draining"
            if shown == "registered" and not self._session.offers_wanted:
                shown = "paused"
        return LinkSnapshot(self.url.base, shown, self._registrations, self._retry.failures, self._last_error)

    @property
    def counters(self) -> Counters:
        """What the link has counted; the numbers are the links' thread's to change."""
        return self._session.counters

    @property
    def is_registered(self) -> bool:
        """Whether the broker knows this runner now and may send tasks."""
        return self._session.state is State.OFFERING

    # --- life -------------------------------------------------------------------------------------

    @property
    def has_ended(self) -> bool:
        """Whether the link is closed and owes nothing to anybody.

        Tasks of lost connections may still run: what they return is owed to `on_undelivered`, until the grace
        period is over.
        """
        return self._session.state is State.CLOSED and (
            not self._session.orphans or time.monotonic() >= self._stop_until
        )

    def take(self, event: Any, now: float) -> None:
        """One event of the inbox."""
        kind = type(event)
        if kind is Ended:
            event = self._finished(event.task, event.answer, now)
            if event is None:
                return
        elif kind is StopRequested:
            # As in the session: a second stop may shorten the grace period, and never prolongs it.
            self._stop_until = min(self._stop_until or event.until, event.until)
        elif kind in _OUTCOMES:
            self._attempting = False
            try:
                _OUTCOMES[kind](self, event, now)
            except BaseException:
                if kind is Opened and event.connection is not self.connection:
                    event.connection.close()
                raise
            return
        self._perform(self._session.handle(event, now))

    def _finished(self, task: ActiveTask, answer: Answer, now: float) -> HandlerFinished | None:
        """Give back the task's slot. Return the session's event, or None if the task had ended before."""
        if task.has_ended:
            return None
        task.has_ended = True
        if self._tasks.get(task.id) is task:
            del self._tasks[task.id]
        links = self._slots.release(task.type, now)
        freed = self.index in links
        if len(links) > freed:
            self._wake_links(tuple(link for link in links if link != self.index))
        calls = FunctionCalls.DONE if answer.tally is None else self._count_calls(answer.tally, answer.failed)
        return HandlerFinished(
            task.id, task.generation, answer.payload, answer.failed, freed, answer.interrupted, calls
        )

    def _count_calls(self, tally: Tally, failed: bool) -> FunctionCalls:
        if tally.again:
            return FunctionCalls.AGAIN
        if tally.function:
            done, failures = self.calls.get(tally.function, (0, 0))
            if failed:  # no result of theirs is sent
                counted = (done, failures + tally.done + tally.failed)
            else:
                counted = (done + tally.done, failures + tally.failed)
            self.calls[tally.function] = counted
        return FunctionCalls.FAILED if tally.failed else FunctionCalls.DONE

    def read(self, now: float) -> None:
        """Reads what has come and does what it asks for. Raises `ConnectionLost`."""
        connection = self.connection
        assert connection is not None
        received, count, self.more = connection.read()
        session = self._session
        if count:
            session.note_received(now)
        received.reverse()  # taken from the end, so that a large message is not kept while others follow
        while received:
            self._receive(received.pop(), now)
        session.set_receiving(connection.in_message)

    def settle(self, now: float) -> None:
        """Does what time and free slots ask for, and writes. Raises `ConnectionLost`."""
        connection = self.connection
        session = self._session
        if connection is None:
            if self._next_step is not None and now >= self._next_at and session.state is State.DISCONNECTED:
                step, self._next_step = self._next_step, None
                try:
                    step()
                except BaseException:
                    self._wait(DEFECT_PAUSE, step, now)
                    raise
        else:
            sender = connection.sender
            was_congested = sender.is_congested
            session.set_congested(was_congested)
            self._perform(session.settle(now))
            if not sender.is_empty:
                connection.flush()
            if self._waiting or not sender.is_empty:
                self._waiting = not sender.is_empty
                self.paused = session.set_waiting(self._waiting, sender.backlog, now)
            self._end_if_over(connection, now)
            if was_congested and not sender.is_congested:
                self.due_at = now  # a large answer is out: what it held back follows with the next turn
                return
        self.due_at = self._next_due(now)

    def lose(self, reason: LinkFailure, now: float) -> None:
        """Handle the end of the connection: its slots and tasks first, then the socket."""
        connection, self.connection = self.connection, None
        assert connection is not None
        self.more = self.paused = self._waiting = False
        sender = connection.sender
        clean = sender.closed_in_order and sender.is_empty and connection.received_close
        self._close_until = self._close_limit = None
        try:
            self._perform(self._session.handle(Disconnected(sender.started, clean), now))
        finally:
            self._cancel_tasks()
            connection.close()
        if self._session.state is not State.CLOSED:
            tasks = self._session.counters.accepted - self._accepted_before
            self._retry.ended(reason, now - self._opened_at, tasks)
            self._failed(reason, None, now)

    def recover(self, now: float) -> None:
        """Make sure that there is a next step, after an unexpected error while nothing was connected.

        Raises:
            RuntimeError: the session still counts as connected, so that no step can be right.
        """
        if self._session.state in CONNECTED_STATES:
            raise RuntimeError("a link without a connection has a connected session")
        if self._next_step is None and not self._attempting and self._session.state is State.DISCONNECTED:
            self._wait(DEFECT_PAUSE, self._attempt, now)
        self.due_at = now + DEFECT_PAUSE

    def abandon(self, reason: LinkFailure, now: float) -> None:
        """End at once, because the links' thread ends: cancel the tasks and close the socket."""
        self._stop_until = now
        try:
            self._session.handle(StopRequested(now), now)
            if self.connection is not None:
                self.lose(reason, now)
        finally:
            connection, self.connection = self.connection, None
            self._cancel_tasks()
            if connection is not None:
                connection.close()

    def _cancel_tasks(self) -> None:
        """Cancel what still runs, without the session."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel(REASON_LOST)

    def forked(self) -> None:
        """In a child process: closes its copy of the socket; the parent notices nothing."""
        if self.connection is not None:
            self.connection.close()

    # --- connecting -------------------------------------------------------------------------------

    def _post(self, event: Any) -> None:
        """On the thread of an attempt."""
        self._inbox.post(self, event)
        if self._inbox.is_closed:
            close_late_comers(self._inbox)

    def _attempt(self) -> None:
        self._start(lambda: start_attempt(self.index, self._config, self._grant, self._post))

    def _probe(self) -> None:
        self._start(lambda: start_probe(self.index, self._config, self._post))

    def _start(self, start: Callable[[], object]) -> None:
        self._attempting = True
        try:
            start()
        except RuntimeError as error:  # no more threads, or the interpreter is ending
            self._attempting = False
            self._owner.link_cannot_connect(error)
            self._failed(
                Unreachable(f"{self.url.base} was not tried: {error}"), self._grant, time.monotonic()
            )
        except BaseException:
            self._attempting = False
            raise

    def _wait(self, seconds: float, step: Callable[[], None], now: float) -> None:
        self._next_step = step
        self._next_at = now + seconds

    def _opened(self, connection: Connection, now: float) -> None:
        if self._session.state is not State.DISCONNECTED or self.connection is not None:
            connection.close()  # the link has been stopped, or has another connection
            return
        self.connection = connection
        connection.bind()
        self._opened_at = now
        self._accepted_before = self._session.counters.accepted
        self.more = True  # the broker's first message may have come with the answer to the upgrade
        self._grant = None
        self._perform(self._session.handle(Connected(random.random()), now))

    def _failed(self, reason: LinkFailure, grant: str | None, now: float) -> None:
        if self._session.state is not State.DISCONNECTED:
            return
        decision = self._retry.decide(reason, now, backoff.full_jitter(1.0))
        self._last_error = str(reason)
        self._grant = grant if decision.keep_grant else None
        shown: Exception = reason
        if decision.delay is None:
            shown = error = _final_error(reason, self._config.is_one_shot)
            if self._owner.link_refused(self, error):
                self._perform(self._session.handle(StopRequested(now), now))
                return
            decision = Decision(REFUSED_WAIT, loud=True)
        self._log(shown, decision, now)
        self._wait(decision.delay or 0.0, self._probe if decision.probe else self._attempt, now)

    def _probed(self, outcome: Probed, now: float) -> None:
        if self._session.state is not State.DISCONNECTED:
            return
        if outcome.healthy:
            self._wait(backoff.full_jitter(HEALTHY_JITTER), self._attempt, now)
        else:
            self._failed(Unreachable(outcome.error or ""), self._grant, now)

    def _log(self, reason: Exception, decision: Decision, now: float) -> None:
        if self._retry.is_news(str(reason), now) or decision.loud:
            level = logging.ERROR if decision.loud else logging.WARNING
            delay = decision.delay or 0.0
            about = "" if self.url.base in str(reason) else f"{self.url.base}: "
            logger.log(level, "%s%s. Trying again in %.1f s, and so on until it works", about, reason, delay)
            self._trouble_level = max(level, self._trouble_level)

    # --- serving ----------------------------------------------------------------------------------

    def _next_due(self, now: float) -> float:
        """When `settle` has to be called at the latest."""
        if self.connection is None:
            if self._session.state is State.CLOSED:
                # Only tasks of lost connections are left to wait for, until the grace period is over.
                return self._stop_until if self._session.orphans and now < self._stop_until else _NEVER
            return _NEVER if self._next_step is None else self._next_at
        if self._close_limit is not None:
            return self._close_until or self._close_limit
        due = self._session.next_deadline()
        idle_until = self._idle_until() if self._config.auto_shutdown_timeout else None
        if idle_until is not None:
            return idle_until if due is None else min(due, idle_until)
        return _NEVER if due is None else due

    def _idle_until(self) -> float | None:
        since = self._slots.idle_since
        if since is None or not self.is_registered:
            return None
        return since + self._config.auto_shutdown_timeout

    def _end_if_over(self, connection: Connection, now: float) -> None:
        if self._config.auto_shutdown_timeout:
            idle_until = self._idle_until()
            if idle_until is not None and now >= idle_until:
                self._owner.link_idle()
        if connection.received_close:
            code = connection.close_code
            if self._close_limit is not None:
                raise ConnectionLost(self._last_error or "closed by the runner", code)
            raise ConnectionLost(
                f"the broker at {self.url.base} closed the connection ({_meaning(code)})", code
            )
        if self._close_limit is not None:
            if self._close_until is None and connection.sender.is_empty:
                self._close_until = min(self._close_limit, now + CLOSE_WAIT)
            if now >= (self._close_until or self._close_limit):
                raise ConnectionLost(self._last_error or "closed by the runner")

    def _receive(self, item: Any, now: float) -> None:
        if type(item) is PongFrame:
            self._perform(self._session.handle(Pong(item.payload.decode("latin-1")), now))
            return
        start = b""  # of a large message
        try:
            if type(item) is SkippedMessage:
                head = codec.peek(item.head.decode("utf-8", "ignore"))
                self._log_skipped(
                    now,
                    "Skipped a message (%.40r) of %d bytes: max_payload is %d",
                    head.type,
                    item.size,
                    self.max_payload,
                )
                event: Event | None = OversizedMessage(head, item.size, self.max_payload)
            elif len(item) > LARGE_MESSAGE:
                start = bytes(item[:_HEAD_SIZE])
                text = item.decode()
                if type(item) is bytearray:
                    item.clear()  # the caller still refers to it while the text is worked on
                event = codec.decode_large(text)
            else:
                event = codec.decode_from_broker(item.decode())
        except (UnicodeDecodeError, ProtocolError) as error:
            not_utf8 = f"a message of {len(item)} bytes is not UTF-8"
            problem = str(error) if isinstance(error, ProtocolError) else not_utf8
            self._log_skipped(now, "Skipped a message from %s: %s", self.url.base, problem)
            event = UnreadableMessage(
                codec.peek((start or item[:_HEAD_SIZE]).decode("utf-8", "ignore")),
                f"It came in a message that was skipped: {problem}.",
            )
        if type(event) is RunnerRegistered:
            was_registered = self.is_registered
            self._perform(self._session.handle(event, now))
            if self.is_registered and not was_registered:
                self._registered()
        elif event is not None:
            self._perform(self._session.handle(event, now))

    def _log_skipped(self, now: float, message: str, *args: object) -> None:
        """Log a message that the broker should not have sent; a flood of them has few lines."""
        left_out = self._skipped.admit(now)
        if left_out:
            logger.error(f"{message} (%d similar lines were left out)", *args, left_out)
        elif left_out == 0:
            logger.error(message, *args)

    def _registered(self) -> None:
        self._registrations += 1
        self._retry.registered()
        self._last_error = None
        # At the level of the trouble that this ends: a log without INFO would not show the recovery.
        level, self._trouble_level = self._trouble_level, logging.INFO
        logger.log(
            level,
            "Registered with the broker at %s as %r (%s)",
            self.url.base,
            self._config.name,
            logs.this_process(),
        )
        self._owner.link_registered(self)

    # --- actions --------------------------------------------------------------------------------

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            perform = _PERFORM.get(type(action))
            if perform is not None:
                perform(self, action)
            elif self.connection is not None:
                # _PERFORM has every action that is not a message.
                self.connection.sender.send_message(codec.encode(action))  # type: ignore[arg-type]

    def _send_payload(self, action: SendPayload) -> None:
        if self.connection is not None:
            self.connection.sender.send_message(action.payload)

    def _start_task(self, action: StartTask) -> None:
        task = ActiveTask(
            action.task_id, action.task_type, action.settings, action.deadline, self, action.generation
        )
        self._tasks[task.id] = task
        handler = self._owner.handler_of(task.type)
        if handler is None:
            self._task_ended(
                task, failure(task, f"This runner has no handler for tasks of type {task.type!r}")
            )
        else:
            self._submit(handler, task, self._task_ended)

    def _task_ended(self, task: ActiveTask, answer: Answer) -> None:
        """Post the end of a task, on any thread. An exception may interrupt it: it is called again then.

        So it does nothing but post, and the links' thread, which nothing interrupts, gives back the slot.
        """
        self._inbox.post(self, Ended(task, answer))

    def _cancel_task(self, action: CancelTask) -> None:
        task = self._tasks.pop(action.task_id, None)
        if task is not None:
            task.cancel(action.reason, action.timed_out)

    def _answer_call(self, action: EndCall) -> None:
        action.call.end(action.value, action.error)

    def _send_ping(self, action: SendPing) -> None:
        if self.connection is not None:
            self.connection.sender.send_ping(action.payload.encode())

    def _send_urgent_ping(self, action: SendUrgentPing) -> None:
        if self.connection is not None:
            self.connection.sender.send_urgent_ping(action.payload.encode())

    def _measure(self, action: MeasureSocket) -> None:
        if self.connection is not None:
            self._perform(self._session.handle(self.connection.measure(), time.monotonic()))

    def _end_connection(self, action: AbortConnection) -> None:
        raise ConnectionLost(action.reason)

    def _report(self, action: ReportUndelivered) -> None:
        self._owner.undelivered(
            Undelivered(
                action.task_id, action.task_type, self.url.base, action.payload, action.failed, action.certain
            )
        )

    def _wake(self, action: WakeLinks) -> None:
        self._wake_links(action.links)

    def _close_connection(self, action: CloseConnection) -> None:
        if self.connection is not None:
            self._last_error = action.reason
            self.connection.sender.send_close(action.code)
            now = time.monotonic()
            if self._session.is_stopping:
                # Answers that are on their way have the rest of the grace period.
                self._close_limit = max(now, self._stop_until) + CLOSE_WAIT_LATE
            else:
                self._close_limit = now + CLOSE_WAIT


def _new_delays() -> Iterator[float]:
    """Return the growing limits of the delays between attempts, in seconds.

    The decorators of `backoff` cannot be used, because nothing can interrupt their sleep.
    """
    delays: Iterator[float] = backoff.expo(base=2, factor=0.5, max_value=MOST)
    next(delays)  # the first value is None: `backoff` primes its generators with it
    return delays


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
    meanings: dict[int | None, str] = {
        None: "without a code",
        1000: "1000: another runner uses the same id",
        1001: "1001: n8n shuts down",
        1002: "1002: it takes this runner for unresponsive, or a frame was broken",
        1007: "1007: a message was not UTF-8",
        1009: "1009: a message was above n8n's N8N_RUNNERS_MAX_PAYLOAD",
    }
    return meanings.get(code, str(code))


#: How the session's states are shown; while it is disconnected, it depends on what is done about it.
_SHOWN = {State.OFFERING: "registered", State.DRAINING: "draining", State.CLOSED: "closed"}

#: What the threads of `attempt.py` post. After one of these, no such thread works for the link.
_OUTCOMES: dict[type, Callable[[BrokerLink, Any, float], None]] = {
    Opened: lambda link, event, now: link._opened(event.connection, now),
    Failed: lambda link, event, now: link._failed(event.reason, event.grant, now),
    Probed: lambda link, event, now: link._probed(event, now),
}

_PERFORM: dict[type[Action], Callable[..., None]] = {
    SendPayload: BrokerLink._send_payload,
    StartTask: BrokerLink._start_task,
    CancelTask: BrokerLink._cancel_task,
    EndCall: BrokerLink._answer_call,
    SendPing: BrokerLink._send_ping,
    SendUrgentPing: BrokerLink._send_urgent_ping,
    MeasureSocket: BrokerLink._measure,
    AbortConnection: BrokerLink._end_connection,
    ReportUndelivered: BrokerLink._report,
    WakeLinks: BrokerLink._wake,
    CloseConnection: BrokerLink._close_connection,
}
