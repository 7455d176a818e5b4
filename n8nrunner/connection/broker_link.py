"""Perform the actions of one broker's link, and give it the events of its socket.

`LinkMachine` (`protocol/link.py`) and its session decide. Everything here runs on the links' thread
(`loop.py`), except the constructor and the methods below "for any thread". The blocking steps of connecting
have their own threads (`attempt.py`).
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections.abc import Collection, Hashable, Sequence
from math import inf
from typing import Any, Callable, NamedTuple, Protocol, Union

from n8nrunner import logs
from n8nrunner.config import BrokerUrl, RunnerConfig, is_one_shot
from n8nrunner.connection.attempt import attempt, probe, run_on_thread
from n8nrunner.connection.delays import growing_delays, jitter
from n8nrunner.connection.inbox import Inbox
from n8nrunner.connection.transport import Connection
from n8nrunner.errors import N8nRunnerError
from n8nrunner.execution.invoke import Answer, Handler, failure
from n8nrunner.execution.pools import OnEnd
from n8nrunner.logs import logger
from n8nrunner.protocol import actions, codec, events
from n8nrunner.protocol.actions import LinkAction
from n8nrunner.protocol.events import Event, LinkEvent
from n8nrunner.protocol.failures import ConnectionLost, LinkFailure, Unreachable
from n8nrunner.protocol.frames import NORMAL_CLOSE, Sender
from n8nrunner.protocol.link import LinkMachine
from n8nrunner.protocol.session import REASON_LOST, RunnerSession
from n8nrunner.protocol.slots import Slots
from n8nrunner.record import Recorder
from n8nrunner.snapshot import LinkSnapshot
from n8nrunner.task import ActiveTask, Tally, Undelivered


class Ended(NamedTuple):
    """A task's handler has returned, or could not be run. May be posted twice for one task."""

    task: ActiveTask
    answer: Answer


#: The events in the inbox of the links.
Posted = Union[Event, LinkEvent, Ended]


class LinkOwner(Protocol):
    """The owner of the links. Its methods are called on the links' thread, and none of them waits."""

    def handler_of(self, task_type: str) -> Handler | None:
        """Return the handler of a task type, as it is registered now."""

    def brokers_changed(self, brokers: Collection[int]) -> None:
        """Note the keys of all brokers, after one has joined or left. A link's key is its index."""

    def link_registered(self, link: BrokerLink) -> None:
        """Note that the broker has registered the runner."""

    def link_refused(self, link: BrokerLink, error: N8nRunnerError) -> bool:
        """Handle a refused or used token. Return whether the link ends."""

    def link_cannot_connect(self, error: Exception) -> None:
        """Note that no thread could be started for an attempt to connect."""

    def link_idle(self) -> None:
        """Note that the runner has had no task for `auto_shutdown_timeout`."""

    def task_cancelled(self, task: ActiveTask) -> None:
        """Note that the result of a running task is not wanted any more."""

    def undelivered(self, result: Undelivered) -> None:
        """Note a result that did not arrive, or may not have arrived."""


class BrokerLink:
    """One broker's link.

    `index` is its key in `slots`, unlike that of every other link of the runner. `origin` is the name that
    has the address in `url` (`BrokerName`); None for a plain URL. All links share the slots, the inbox,
    the owner and the recorder. `submit` takes a handler to run, its task, and a function for its answer;
    `wake_links` takes the links that should look at the slots.
    """

    def __init__(
        self,
        index: int,
        url: BrokerUrl,
        origin: str | None,
        config: RunnerConfig,
        slots: Slots,
        submit: Callable[[Handler, ActiveTask, OnEnd], None],
        inbox: Inbox[Any, Any],
        wake_links: Callable[[tuple[Hashable, ...]], None],
        owner: LinkOwner,
        recorder: Recorder,
    ) -> None:
        self.index = index
        self.url = url
        self.origin = origin
        self.max_payload = config.max_payload
        self._error_details = config.error_details
        #: The open WebSocket; None while there is none.
        self.connection: Connection | None = None
        #: Copies of `LinkMachine.has_ended` and `next_deadline`, which the loop reads often.
        self.has_ended = False
        self.due_at = -inf
        #: Whether received bytes may be unread.
        self.has_unread = False
        self._config = config
        self._slots = slots
        self._submit = submit
        self._inbox = inbox
        self._wake_links = wake_links
        self._owner = owner
        self._recorder = recorder
        self._ids = itertools.count(1)
        session = RunnerSession(index, config.name, {}, slots, config.task_timeout, self.new_id)
        self.machine = LinkMachine(
            self.url.base,
            session,
            slots,
            config.grant_token,
            is_one_shot(config),
            config.auto_shutdown_timeout,
            growing_delays,
        )
        self._tasks: dict[str, ActiveTask] = {}
        # Whether an attempt or a probe is under way, whose thread has not posted its event yet.
        self._is_attempting = False

    # --- for any thread ---------------------------------------------------------------------------

    def new_id(self) -> str:
        """Return an id for an offer or a call, unlike all others of this link."""
        return f"{next(self._ids):x}"

    def call(
        self, task: ActiveTask, call_id: str, payload: bytes, answers: events.PendingCall | None
    ) -> None:
        """Post a handler's call to n8n. Its answer is put into `answers`."""
        self._post(events.CallMade(task.id, task.generation, call_id, payload, answers))

    def limit_time(self, task: ActiveTask, limit: float) -> None:
        """Post that a task has a time limit of its own. Its deadline is changed already."""
        self._post(events.TimeLimitSet(task.id, task.generation, task.deadline, limit))

    def _task_ended(self, task: ActiveTask, answer: Answer) -> None:
        """Post the end of a task.

        A thread of the pool calls this again if an exception interrupts it, so it only posts. The links'
        thread, which nothing interrupts, releases the slot.
        """
        self._inbox.post(self, Ended(task, answer))

    def _post(self, event: Event | LinkEvent) -> None:
        """Post an event that must not be left behind if the links' thread has ended."""
        self._inbox.post(self, event)
        if self._inbox.is_closed:
            end_unserved(self._inbox)

    def forked(self) -> None:
        """Close this process's copy of the socket, in a child process. The parent's stays open."""
        if self.connection is not None:
            self.connection.close()

    def snapshot(self) -> LinkSnapshot:
        """Return the link as it is now."""
        link = self.machine
        session = link.session
        received_at = session.received_at
        return LinkSnapshot(
            self.url.base,
            link.shown,
            link.registrations,
            link.retry.failures,
            link.last_error,
            len(session.offers.open),
            session.counters.accepted,
            session.counters.rejected,
            max(0, link.registrations - 1),
            session.counters.undelivered,
            None if received_at is None else time.monotonic() - received_at,
            self.origin,
        )

    # --- life -------------------------------------------------------------------------------------

    def handle(self, event: Posted, now: float) -> None:
        """Handle one event of the inbox."""
        if isinstance(event, Ended):
            finished = self._finished(event.task, event.answer, now)
            if finished is not None:
                self._perform(self.machine.session.handle(finished, now))
            return
        if type(event) in _OUTCOMES:
            self._is_attempting = False
        try:
            self._perform(self.machine.handle(event, now))
        except BaseException:
            if isinstance(event, events.ConnectionOpened) and event.connection is not self.connection:
                event.connection.close()
            raise

    def _finished(self, task: ActiveTask, answer: Answer, now: float) -> events.HandlerFinished | None:
        """Release the task's slot. Return the session's event, or None if the slot was released before."""
        if task.has_ended:
            return None
        task.has_ended = True
        if self._tasks.get(task.id) is task:
            del self._tasks[task.id]
        links = self._slots.release(task.type, now)
        freed = self.index in links
        if len(links) > freed:
            self._wake_links(tuple(link for link in links if link != self.index))
        self._recorder.note_ended(task, answer, now)
        payload, failed, interrupted, _, tally, _ = answer
        if tally is None:
            return events.HandlerFinished(task.id, task.generation, payload, failed, freed, interrupted)
        return events.HandlerFinished(
            task.id, task.generation, payload, failed, freed, interrupted, _calls_of(tally), tally.function
        )

    def read(self, now: float) -> None:
        """Read what has come and handle it. Raises `ConnectionLost`."""
        connection = self.connection
        assert connection is not None
        received, count, self.has_unread = connection.read()
        session = self.machine.session
        if count:
            session.note_received(now)
        received.reverse()  # taken from the end, so that a large message is not kept while others follow
        while received:
            event = codec.event_of(received.pop(), self._config.max_payload)
            if event is not None:
                self._perform(self.machine.handle(event, now))
        session.set_receiving(connection.receiver.in_message)
        if connection.received_close:
            self._perform(self.machine.handle(events.CloseReceived(connection.close_code), now))

    def settle(self, now: float) -> None:
        """Perform what time and free slots ask for, and write. Raises `ConnectionLost`."""
        connection = self.connection
        machine = self.machine
        if connection is None:
            self._perform(machine.settle(now))
            self.has_ended = machine.has_ended
        else:
            sender = connection.sender
            is_congested = sender.is_congested
            self._perform(machine.settle(now, is_congested))
            is_waiting = not sender.is_empty
            if is_waiting:
                connection.flush()
                is_waiting = not sender.is_empty
            wanted = machine.written(is_waiting, sender.backlog, is_congested and sender.is_congested, now)
            if wanted:
                self._perform(wanted)
        self.due_at = machine.next_deadline()

    def lose(self, reason: LinkFailure, now: float) -> None:
        """Handle the end of the connection: its slots and tasks first, then the socket."""
        connection, self.connection = self.connection, None
        assert connection is not None
        self.has_unread = False
        sender = connection.sender
        # A broker repeats the code of a close frame that it answers. Its own close may have come in between.
        is_answered = connection.close_code == NORMAL_CLOSE
        clean = sender.closed_in_order and sender.is_empty and is_answered
        ended = events.ConnectionEnded(reason, sender.started, clean, jitter())
        try:
            self._perform(self.machine.handle(ended, now))
        finally:
            tasks = list(self._tasks.values())  # empty, unless the session has failed to cancel them
            self._tasks.clear()
            for task in tasks:
                task.cancel(REASON_LOST, "lost")
            connection.close()

    def recover(self, now: float) -> None:
        """Choose the next step after an unexpected error while nothing was connected.

        Raises:
            RuntimeError: the link cannot continue.
        """
        self.due_at = self.machine.recover(now, self._is_attempting)

    def abandon(self, reason: LinkFailure, now: float) -> None:
        """End at once, because the links' thread ends: cancel the tasks and close the socket."""
        try:
            self.machine.handle(events.StopRequested(now), now)
        finally:
            if self.connection is not None:
                self.lose(reason, now)

    # --- actions --------------------------------------------------------------------------------

    def _perform(self, wanted: Sequence[LinkAction]) -> None:
        for action in wanted:
            perform = _PERFORM.get(type(action))
            if perform is not None:
                perform(self, action)
            elif self.connection is not None:
                sender = self.connection.sender
                send = _SEND.get(type(action))
                if send is not None:
                    send(sender, action)
                else:  # the tables have every action that is not a message
                    sender.send_message(codec.encode(action))  # type: ignore[arg-type]

    def _start_task(self, action: actions.StartTask) -> None:
        task = ActiveTask(
            action.task_id,
            action.task_type,
            action.settings,
            action.deadline,
            self,
            action.generation,
            self._error_details,
        )
        self._tasks[task.id] = task
        handler = self._owner.handler_of(task.type)
        if handler is None:
            self._task_ended(
                task, failure(task, f"This runner has no handler for tasks of type {task.type!r}")
            )
        else:
            self._submit(handler, task, self._task_ended)

    def _cancel_task(self, action: actions.CancelTask) -> None:
        task = self._tasks.pop(action.task_id, None)
        if task is not None:
            self._recorder.note_cut_short(task, action.ending, time.monotonic())
            task.cancel(action.reason, action.ending)
            self._owner.task_cancelled(task)

    def _answer(self, event: Event | LinkEvent) -> None:
        """Give the machine the event that answers an action."""
        self._perform(self.machine.handle(event, time.monotonic()))

    def _measure(self, action: actions.MeasureSocket) -> None:
        if self.connection is not None:
            self._answer(self.connection.measure())

    def _abort(self, action: actions.AbortConnection) -> None:
        raise ConnectionLost(action.reason, action.code)

    def _report_undelivered(self, action: actions.ReportUndelivered) -> None:
        self._recorder.note_undelivered(action.task_type, action.function)
        self._owner.undelivered(
            Undelivered(
                action.task_id,
                action.task_type,
                self.url.base,
                action.payload,
                action.failed,
                action.certain,
                action.function or None,
            )
        )

    # --- actions of the link ----------------------------------------------------------------------

    def _start_attempt(self, action: actions.StartAttempt) -> None:
        self._start(
            lambda: attempt(self.url, self._config, action.grant),
            lambda problem: events.AttemptFailed(Unreachable(problem), action.grant, jitter()),
        )

    def _start_probe(self, action: actions.StartProbe) -> None:
        self._start(
            lambda: probe(self.url, self._config), lambda problem: events.BrokerProbed(problem, jitter())
        )

    def _start(self, work: Callable[[], LinkEvent], failed: Callable[[str], LinkEvent]) -> None:
        """Run a blocking step on a thread. Handle its failure at once if the process can have no more."""
        try:
            run_on_thread(
                f"n8nrunner-connect-{self.index}", f"connecting to {self.url.base}", work, failed, self._post
            )
            self._is_attempting = True
        except RuntimeError as error:  # no more threads, or the interpreter is ending
            self._owner.link_cannot_connect(error)
            self._answer(failed(f"{self.url.base} was not tried: {error}"))

    def _serve(self, action: actions.ServeConnection) -> None:
        assert isinstance(action.connection, Connection)
        self.connection = action.connection
        self.connection.bind()
        self.has_unread = True  # the broker's first message may have come with the answer to the upgrade

    def _report_registered(self, action: actions.ReportRegistered) -> None:
        # Good news, which a log without the level INFO must show as well if it has shown the failure. Not at
        # the level ERROR, for which tools raise alarms.
        logger.log(
            logging.WARNING if action.after_failure else logging.INFO,
            "Registered with the broker at %s as %r (%s)%s",
            self.url.base,
            self._config.name,
            logs.this_process(),
            ". The connection works now" if action.after_failure else "",
        )
        self._owner.link_registered(self)

    def _report_refused(self, action: actions.ReportRefused) -> None:
        self._answer(events.RefusalAnswered(action.error, self._owner.link_refused(self, action.error)))

    def _log_skipped(self, action: actions.LogSkipped) -> None:
        more = f" ({action.left_out} similar lines were left out)" if action.left_out else ""
        logger.error("%s%s", action.problem, more)

    def _log_failure(self, action: actions.LogFailure) -> None:
        logger.log(action.level, "%s. Retrying in %.1f s", action.reason, action.delay)


def _calls_of(tally: Tally) -> events.FunctionCalls:
    if tally.again:
        return events.FunctionCalls.AGAIN
    # A task for a function that is unknown, or of a newer node, has no call.
    is_failed = tally.failed or not tally.function
    return events.FunctionCalls.FAILED if is_failed else events.FunctionCalls.DONE


def end_unserved(inbox: Inbox[Any, Any]) -> None:
    """Close the connections and end the calls that came too late for the links' thread.

    Call it once the inbox is closed.
    """
    while inbox.events:
        with contextlib.suppress(IndexError):  # another thread does the same
            _, event = inbox.events.popleft()
            if isinstance(event, events.ConnectionOpened):
                event.connection.close()
            elif isinstance(event, events.CallMade) and event.call is not None:
                event.call.put((None, "the task has ended"))


#: The events of the threads of `attempt.py`. After one of these, no such thread works for the link.
_OUTCOMES = frozenset({events.ConnectionOpened, events.AttemptFailed, events.BrokerProbed})

#: Actions that send something other than a message, while a connection is open.
_SEND: dict[type, Callable[[Sender, Any], None]] = {
    actions.SendPayload: lambda sender, action: sender.send_message(action.payload),
    actions.SendPing: lambda sender, action: sender.send_ping(action.payload.encode()),
    actions.SendUrgentPing: lambda sender, action: sender.send_urgent_ping(action.payload.encode()),
    actions.CloseConnection: lambda sender, action: sender.send_close(),
}

#: All other actions.
_PERFORM: dict[type, Callable[[BrokerLink, Any], None]] = {
    actions.StartTask: BrokerLink._start_task,
    actions.CancelTask: BrokerLink._cancel_task,
    actions.EndCall: lambda link, action: action.call.put((action.value, action.error)),
    actions.MeasureSocket: BrokerLink._measure,
    actions.AbortConnection: BrokerLink._abort,
    actions.ReportUndelivered: BrokerLink._report_undelivered,
    actions.WakeLinks: lambda link, action: link._wake_links(action.links),
    actions.StartAttempt: BrokerLink._start_attempt,
    actions.StartProbe: BrokerLink._start_probe,
    actions.ServeConnection: BrokerLink._serve,
    actions.DiscardConnection: lambda link, action: action.connection.close(),
    actions.ReportRegistered: BrokerLink._report_registered,
    actions.ReportRefused: BrokerLink._report_refused,
    actions.ReportIdle: lambda link, action: link._owner.link_idle(),
    actions.LogSkipped: BrokerLink._log_skipped,
    actions.LogFailure: BrokerLink._log_failure,
}
