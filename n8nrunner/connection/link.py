"""One broker's link: a thread that connects, serves the connection, and connects again.

Everything in `BrokerLink` that is not marked as being for any thread runs on the link's own thread, which
is the only one that touches the session and the socket.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import random
import selectors
import threading
import time
import uuid
from typing import Any, Callable, Dict, Hashable, List, Mapping, Optional, Protocol, Tuple

from n8nrunner.config import BrokerUrl, RunnerConfig
from n8nrunner.connection import auth
from n8nrunner.connection.dial import dial
from n8nrunner.connection.failures import AuthRefused, ConnectionLost, LinkFailure, Unreachable
from n8nrunner.connection.inbox import Inbox
from n8nrunner.connection.retry import LOG_INTERVAL, REFUSED_WAIT, Decision, Retry
from n8nrunner.connection.transport import Connection, Ponged, Skipped
from n8nrunner.deadline import Deadline
from n8nrunner.errors import (
    AuthenticationError,
    ConfigurationError,
    GrantTokenSpent,
    N8nRunnerError,
    ProtocolError,
)
from n8nrunner.execution.invoke import Answer, Handler, failure
from n8nrunner.execution.pools import TaskPool
from n8nrunner.protocol import codec
from n8nrunner.protocol import session as s
from n8nrunner.protocol.messages import RunnerRegistered
from n8nrunner.protocol.slots import Slots
from n8nrunner.snapshot import LinkSnapshot
from n8nrunner.task import Call, Task, Undelivered

logger = logging.getLogger("n8nrunner")

#: Seconds for name look-up, TCP, proxy, TLS and the upgrade together.
CONNECT_TIMEOUT = 5.0
#: Seconds that the broker gets to answer our close frame; so much shorter when the grace period is over.
CLOSE_WAIT = 2.0
CLOSE_WAIT_LATE = 0.3
#: Messages above this many bytes are decoded on the handler's thread.
LARGE_MESSAGE = 1024 * 1024
#: No wait is longer than this, in seconds: a clock that was put right late costs no more.
_LONGEST_WAIT = 60.0


class LinkOwner(Protocol):
    """What a link needs of its runner. All of it may be called on any link's thread, and none of it waits."""

    def handler_of(self, task_type: str) -> Optional[Handler]:
        """The handler of a task type, as it is registered now."""

    def wake_links(self, links: Tuple[Hashable, ...]) -> None:
        """It is the turn of these links to offer."""

    def link_registered(self, link: BrokerLink) -> None:
        """The broker has registered the runner."""

    def link_refused(self, link: BrokerLink, error: N8nRunnerError) -> bool:
        """The token was refused before any registration; whether the link should give up."""

    def link_idle(self) -> None:
        """The runner has had nothing to do for `auto_shutdown_timeout`."""

    def link_ended(self, link: BrokerLink) -> None:
        """The link's thread is about to end; `link.error` says why, if nobody asked for it."""

    def undelivered(self, result: Undelivered) -> None:
        """A result did not arrive, or may not have."""


class _Stopping(Exception):
    """Leaves the wait between two attempts, because the link is to stop."""


class BrokerLink:
    """One broker's connection, over all its reconnections.

    Args:
        index: its place among the runner's links; names the thread.
        url: the broker.
        config: the runner's settings.
        types: the task types with their limits, as they are now.
        slots: shared by all links of the runner.
        pool: runs the handlers.
        owner: the runner.
    """

    def __init__(
        self,
        index: int,
        url: BrokerUrl,
        config: RunnerConfig,
        types: Mapping[str, Optional[int]],
        slots: Slots,
        pool: TaskPool,
        owner: LinkOwner,
    ) -> None:
        self.index = index
        self.url = url
        self.max_payload = config.max_payload
        #: Why the link gave up; None while it has not.
        self.error: Optional[N8nRunnerError] = None
        self.inbox = Inbox()
        self.thread = threading.Thread(target=self._run, name=f"n8nrunner-link-{index}", daemon=True)
        self._config = config
        self._slots = slots
        self._pool = pool
        self._owner = owner
        self._ids = itertools.count(1)
        self._session = s.RunnerSession(index, config.name, types, slots, config.task_timeout, self.new_id)
        self._tasks: Dict[str, Task] = {}
        self._connection: Optional[Connection] = None
        self._selector: Optional[selectors.BaseSelector] = None
        self._retry = Retry()
        self._registrations = 0
        self._last_error: Optional[str] = None
        self._logged_at: Optional[float] = None
        self._grant = config.grant_token
        self._waiting = False
        self._stop_until = 0.0
        self._close_until: Optional[float] = None
        self._close_limit: Optional[float] = None

    # --- for any thread -------------------------------------------------------------------------

    def new_id(self) -> str:
        """An id for an offer or a call, unlike all others of this link."""
        return f"{next(self._ids):x}"

    def call(self, task: Task, call_id: str, payload: bytes, call: Optional[Call]) -> None:
        """Posts a handler's call to n8n; part of what a `Task` needs of its link."""
        self.inbox.post(s.CallMade(task.id, task._generation, call_id, payload, call))

    def stop(self, until: float) -> None:
        """Asks the link to finish its tasks, at most until that moment of the monotonic clock, and to end."""
        self.inbox.post(s.Stop(until))

    def snapshot(self) -> LinkSnapshot:
        """The link as it is now."""
        state = self._session.state
        if state is s.State.CLOSED:
            shown = "closed"
        elif state is s.State.OFFERING:
            shown = "registered"
        elif state is s.State.DRAINING:
            shown = "draining"
        else:
            shown = "waiting" if self._waiting else "connecting"
        return LinkSnapshot(self.url.base, shown, self._registrations, self._retry.failures, self._last_error)

    @property
    def counters(self) -> s.Counters:
        """What the link has counted; the numbers are the link's thread's to change."""
        return self._session.counters

    @property
    def is_registered(self) -> bool:
        """Whether the broker knows this runner now and may send tasks."""
        return self._session.state is s.State.OFFERING

    def forked(self) -> None:
        """In a child process: closes its copies of the descriptors; the parent notices nothing."""
        self.inbox.close()
        if self._selector is not None:
            self._selector.close()
        if self._connection is not None:
            self._connection.close()

    # --- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._session.state is not s.State.CLOSED:
                self._attempt()
            self._await_orphans()
        finally:
            self._owner.link_ended(self)
            self.inbox.close()

    def _await_orphans(self) -> None:
        """Tasks of lost connections may still run: what they return is owed to `on_undelivered`."""
        while self._session.orphans and time.monotonic() < self._stop_until:
            self.inbox.wait(self._stop_until - time.monotonic())
            while self.inbox.events:
                self._take(self.inbox.events.popleft(), time.monotonic())

    def _attempt(self) -> None:
        """One connection, from the grant token to its end, and the wait after it."""
        opened = time.monotonic()
        grant: Optional[str] = None
        reason: LinkFailure
        try:
            self._wait(0)
            grant = self._grant or self._fetch_grant()
            self._wait(0)
            opened = time.monotonic()
            self._connect(grant)
            return
        except _Stopping:
            self._perform(self._session.handle(s.Stop(self._stop_until), time.monotonic()))
            return
        except LinkFailure as error:
            reason = error
        except Exception:
            # A defect must not end the link: n8n would be without its runner until somebody notices.
            logger.exception(
                "A defect of n8nrunner ended the connection to %s; please report it", self.url.base
            )
            reason = ConnectionLost("a defect of n8nrunner ended the connection")
        if self._session.state is s.State.CLOSED:
            return
        if isinstance(reason, ConnectionLost):
            self._retry.lived(time.monotonic() - opened)
        self._after_failure(reason, grant)

    def _fetch_grant(self) -> str:
        try:
            token = self._config.read_auth_token()
        except ConfigurationError as error:
            raise Unreachable(str(error)) from None
        if token is None:
            raise AuthRefused("the one-shot grant token has been used")
        return auth.fetch_grant(self.url, token)

    def _connect(self, grant: str) -> None:
        deadline = Deadline(CONNECT_TIMEOUT)
        connection = Connection(dial(self.url, deadline), self.max_payload)
        self._connection = connection
        runner_id = self._config.runner_id or uuid.uuid4().hex
        try:
            connection.run(self.url.socket, runner_id, grant, deadline, self._serve)
        finally:
            self._connection = None
            closed_by_us = self._close_limit is not None and connection.writer.is_empty
            farewell = closed_by_us and connection.received_close
            self._close_until = self._close_limit = None
            self._lose(connection.writer.started, farewell)
            connection.close()

    def _lose(self, written: int, farewell: bool) -> None:
        """The connection is gone: its slots and tasks first, before anybody waits for anything."""
        self._perform(self._session.handle(s.Lost(written, farewell), time.monotonic()))
        self._tasks.clear()

    def _after_failure(self, reason: LinkFailure, grant: Optional[str]) -> None:
        one_shot = self._config.grant_token is not None
        decision = self._retry.decide(reason, time.monotonic(), one_shot, self._registrations > 0)
        self._last_error = str(reason)
        self._grant = grant if decision.keep_grant else None
        if decision.delay is None:
            error = _final_error(reason, one_shot)
            if self._owner.link_refused(self, error):
                self.error = error
                self._perform(self._session.handle(s.Stop(time.monotonic()), time.monotonic()))
                return
            decision = Decision(REFUSED_WAIT, loud=True)
        try:
            self._log_and_wait(reason, decision)
            while decision.probe and not auth.is_healthy(self.url):
                decision = self._retry.decide(reason, time.monotonic(), one_shot, self._registrations > 0)
                self._log_and_wait(reason, decision)
            if decision.probe:
                self._wait(self._retry.healthy_delay())
        except _Stopping:
            self._perform(self._session.handle(s.Stop(self._stop_until), time.monotonic()))

    def _log_and_wait(self, reason: LinkFailure, decision: Decision) -> None:
        delay = decision.delay or 0.0
        now = time.monotonic()
        if decision.loud or self._logged_at is None or now - self._logged_at >= LOG_INTERVAL:
            self._logged_at = now
            level = logging.ERROR if decision.loud else logging.WARNING
            logger.log(level, "%s. Trying again in %.1f s, and so on until it works", reason, delay)
        self._wait(delay)

    def _wait(self, seconds: float) -> None:
        """Waits between attempts, taking in what is posted. Raises `_Stopping` if the link is to stop."""
        until = time.monotonic() + seconds
        self._waiting = True
        try:
            while True:
                while self.inbox.events:
                    event = self.inbox.events.popleft()
                    if type(event) is s.Stop:
                        self._stop_until = event.until
                        raise _Stopping
                    self._take(event, time.monotonic())
                now = time.monotonic()
                if now >= until:
                    return
                self.inbox.wait(until - now)
        finally:
            self._waiting = False

    # --- serving a connection -------------------------------------------------------------------

    def _serve(self) -> None:
        connection = self._connection
        assert connection is not None
        with contextlib.closing(selectors.DefaultSelector()) as selector:
            self._selector = selector
            selector.register(connection.raw, selectors.EVENT_READ)
            selector.register(self.inbox.fileno(), selectors.EVENT_READ)
            self._session.handle(s.Connected(random.random()), time.monotonic())
            try:
                self._turns(connection, selector)
            finally:
                self._selector = None

    def _turns(self, connection: Connection, selector: selectors.BaseSelector) -> None:
        """Turn after turn, until the connection ends."""
        session, inbox, events = self._session, self.inbox, self.inbox.events
        writer, raw = connection.writer, connection.raw
        inbox_descriptor = inbox.fileno()
        writing = False
        more = True  # the broker's first message may have come with the answer to the upgrade
        while True:
            now = time.monotonic()
            timeout = self._timeout(now)
            inbox.asleep = True  # set before the last look: whoever posts after it wakes us
            if more or events:
                timeout = 0.0
            ready = selector.select(timeout)
            inbox.asleep = False
            readable = more
            for key, mask in ready:
                if key.fd == inbox_descriptor:
                    inbox.clear_wake_ups()
                elif mask & selectors.EVENT_READ:
                    readable = True
            now = time.monotonic()
            if readable:
                received, count, more = connection.read()
                if count:
                    session.note_activity(now)
                for item in received:
                    self._receive(item, now)
                session.set_receiving(connection.in_message)
            while events:
                self._take(events.popleft(), now)
            session.set_congested(writer.congested)
            self._perform(session.settle(now))
            if connection.flush():
                session.note_activity(now)
            if writing is writer.is_empty:
                writing = not writing
                selector.modify(raw, selectors.EVENT_READ | (selectors.EVENT_WRITE if writing else 0))
            self._end_if_over(connection, now)

    def _take(self, event: Any, now: float) -> None:
        """One event of the inbox."""
        if type(event) is s.Finished:
            task = self._tasks.get(event.task_id)
            if task is not None and task._generation == event.generation:
                del self._tasks[event.task_id]
        elif type(event) is s.Stop:
            self._stop_until = event.until
        self._perform(self._session.handle(event, now))

    def _timeout(self, now: float) -> float:
        """Seconds that the next turn may wait."""
        until = self._session.next_deadline()
        if self._close_limit is not None:
            until = self._close_until or self._close_limit
        timeout = _LONGEST_WAIT if until is None else min(_LONGEST_WAIT, max(0.0, until - now))
        idle_until = self._idle_until()
        return timeout if idle_until is None else min(timeout, max(0.0, idle_until - now))

    def _idle_until(self) -> Optional[float]:
        limit = self._config.auto_shutdown_timeout
        since = self._slots.idle_since
        return None if not limit or since is None or not self.is_registered else since + limit

    def _end_if_over(self, connection: Connection, now: float) -> None:
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
            if self._close_until is None and connection.writer.is_empty:
                self._close_until = min(self._close_limit, now + CLOSE_WAIT)
            if now >= (self._close_until or self._close_limit):
                raise ConnectionLost(self._last_error or "closed by the runner")

    def _receive(self, item: Any, now: float) -> None:
        kind = type(item)
        if kind is Ponged:
            self._perform(self._session.handle(s.Pong(item.payload.decode("latin-1")), now))
            return
        try:
            if kind is Skipped:
                head = codec.peek(item.head.decode("utf-8", "ignore"))
                logger.error(
                    "Skipped a message (%s) of %d bytes: max_payload is %d",
                    head.type,
                    item.size,
                    self.max_payload,
                )
                event: Any = s.Oversized(head, item.size, self.max_payload)
            elif len(item) > LARGE_MESSAGE:
                event = codec.decode_large(item.decode())
            else:
                event = codec.decode_from_broker(item.decode())
        except UnicodeDecodeError:
            logger.error("Skipped a message of %d bytes from %s: it is not UTF-8", len(item), self.url.base)
            return
        except ProtocolError as error:
            logger.error("Skipped a message from %s: %s", self.url.base, error)
            return
        if event is not None:
            self._perform(self._session.handle(event, now))
            if type(event) is RunnerRegistered and self.is_registered:
                self._registered()

    def _registered(self) -> None:
        self._registrations += 1
        self._retry.registered()
        self._last_error = None
        self._logged_at = None
        logger.info("Registered with the broker at %s as %r", self.url.base, self._config.name)
        self._owner.link_registered(self)

    # --- actions --------------------------------------------------------------------------------

    def _perform(self, actions: List[Any]) -> None:
        for action in actions:
            perform = _PERFORM.get(type(action))
            if perform is not None:
                perform(self, action)
            elif self._connection is not None:
                self._connection.writer.queue(codec.encode(action))

    def _send_payload(self, action: s.SendPayload) -> None:
        if self._connection is not None:
            self._connection.writer.queue(action.payload)

    def _start_task(self, action: s.StartTask) -> None:
        task = Task(
            action.task_id, action.task_type, action.settings, action.deadline, action.generation, self
        )
        self._tasks[task.id] = task
        handler = self._owner.handler_of(task.type)
        if handler is None:
            self._task_ended(
                task, failure(task, f"This runner has no handler for tasks of type {task.type!r}")
            )
        else:
            self._pool.submit(handler, task, self._task_ended)

    def _task_ended(self, task: Task, answer: Answer) -> None:
        """On the thread that ran the handler: frees the slot, then posts the answer."""
        links = self._slots.release(task.type, time.monotonic())
        self.inbox.post(s.Finished(task.id, task._generation, answer.payload, answer.failed))
        if links:
            others = tuple(link for link in links if link != self.index)
            if others:
                self._owner.wake_links(others)

    def _cancel_task(self, action: s.CancelTask) -> None:
        task = self._tasks.pop(action.task_id, None)
        if task is not None:
            task.cancel(action.reason, action.timed_out)

    def _answer_call(self, action: s.AnswerCall) -> None:
        action.call.end(action.value, action.error)

    def _send_ping(self, action: s.SendPing) -> None:
        if self._connection is not None:
            self._connection.queue_ping(action.payload)

    def _report(self, action: s.ReportUndelivered) -> None:
        self._owner.undelivered(
            Undelivered(
                action.task_id, action.task_type, self.url.base, action.payload, action.failed, action.certain
            )
        )

    def _wake_links(self, action: s.WakeLinks) -> None:
        self._owner.wake_links(action.links)

    def _close_connection(self, action: s.CloseConnection) -> None:
        if self._connection is not None:
            self._last_error = action.reason
            self._connection.queue_close(action.code)
            now = time.monotonic()
            if self._session.is_stopping:
                # Answers that are on their way have the rest of the grace period.
                self._close_limit = max(now, self._stop_until) + CLOSE_WAIT_LATE
            else:
                self._close_limit = now + CLOSE_WAIT


def _final_error(reason: LinkFailure, one_shot: bool) -> N8nRunnerError:
    if isinstance(reason, ConnectionLost):
        return GrantTokenSpent(f"{reason}; the one-shot grant token is used up, so this runner ends")
    advice = (
        "the grant token is unknown, used or too old"
        if one_shot
        else "n8n has another N8N_RUNNERS_AUTH_TOKEN"
    )
    return AuthenticationError(f"{reason}; {advice}")


def _meaning(code: Optional[int]) -> str:
    meanings: Dict[Optional[int], str] = {
        None: "without a code",
        1000: "1000: another runner uses the same id",
        1001: "1001: n8n shuts down",
        1002: "1002: it takes this runner for unresponsive",
        1007: "1007: a message was not UTF-8",
        1009: "1009: a message was above n8n's N8N_RUNNERS_MAX_PAYLOAD",
    }
    return meanings.get(code, str(code))


_PERFORM: Dict[type, Callable[[BrokerLink, Any], None]] = {
    s.SendPayload: BrokerLink._send_payload,
    s.StartTask: BrokerLink._start_task,
    s.CancelTask: BrokerLink._cancel_task,
    s.AnswerCall: BrokerLink._answer_call,
    s.SendPing: BrokerLink._send_ping,
    s.ReportUndelivered: BrokerLink._report,
    s.WakeLinks: BrokerLink._wake_links,
    s.CloseConnection: BrokerLink._close_connection,
}
