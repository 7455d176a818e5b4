"""The links' thread: one event loop for all connections of a runner.

An iteration waits for a socket, the inbox or the first deadline. It reads the received bytes, handles the
events in the inbox, settles every link that has a new event or a deadline that has come, and writes its
messages at once. Then it submits the handlers of new tasks. It never waits for a peer, so a broker that stops
in the middle of a frame, or does not read, delays no other broker.

There is one thread for all brokers, because threads that wake each other for every message spend most of
their time on passing the interpreter's lock (docs/architecture.md, "Threads").
"""

from __future__ import annotations

import contextlib
import itertools
import selectors
import threading
import time
from collections import deque
from collections.abc import Hashable
from functools import partial
from math import inf
from typing import Callable, NamedTuple, Union

from n8nrunner import logs
from n8nrunner.config import BrokerUrl, RunnerConfig, urls_of
from n8nrunner.connection.broker_link import BrokerLink, LinkOwner, Posted, end_unserved
from n8nrunner.connection.broker_name import BrokerName, LookupEnded
from n8nrunner.connection.inbox import Inbox
from n8nrunner.connection.transport import Connection
from n8nrunner.execution.invoke import Handler
from n8nrunner.execution.invoke import failure as failure_of
from n8nrunner.execution.pools import OnEnd, TaskPool
from n8nrunner.logs import logger
from n8nrunner.protocol.events import (
    OfferingChanged,
    Restored,
    Retired,
    SlotFreed,
    StopRequested,
    TypesChanged,
)
from n8nrunner.protocol.failures import ConnectionLost, LinkFailure
from n8nrunner.protocol.slots import Slots
from n8nrunner.protocol.throttle import Throttle
from n8nrunner.record import Recorder
from n8nrunner.snapshot import Counts
from n8nrunner.task import ActiveTask

#: Longest wait, in seconds. It limits the effect of a clock that jumps.
_LONGEST_WAIT = 60.0

#: A warning is logged if the executor takes longer than this, in seconds, to accept an iteration's tasks.
_SLOW_SUBMIT = 0.5

_SLOT_FREED = SlotFreed()

#: An event for all links, those that are opened later included.
ForAll = Union[TypesChanged, OfferingChanged, StopRequested]


class Links(NamedTuple):
    """The links of a runner at one moment."""

    links: tuple[BrokerLink, ...]
    past: Counts  #: the counts of the links that have gone.

    def counts(self) -> Counts:
        """Return the totals of all links, those that have gone included."""
        counters = [link.machine.session.counters for link in self.links]
        totals = zip(Counts._fields, self.past)
        return Counts(*(past + sum(getattr(each, name) for each in counters) for name, past in totals))


class LinkThread:
    """The links of a runner and the thread that serves them, which alone changes the slots.

    The plain URLs among the brokers have a link each. The links of a name come and go (`BrokerName`).

    When the thread ends, it calls `on_exit`: with None when the last link has ended, otherwise with the
    unexpected error that ended the thread.
    """

    def __init__(
        self,
        config: RunnerConfig,
        slots: Slots,
        pool: TaskPool,
        owner: LinkOwner,
        recorder: Recorder,
        on_exit: Callable[[BaseException | None], None],
    ) -> None:
        # An event for all links has no link.
        self.inbox: Inbox[BrokerLink | None, Posted | ForAll | LookupEnded] = Inbox()
        # Handled after the other events, so that none opens a link when a stop has been posted behind it.
        self._looked_up: deque[LookupEnded] = deque()
        self._selector: selectors.BaseSelector | None = None
        self._config = config
        self._slots = slots
        self._owner = owner
        self._recorder = recorder
        #: The links now. Replaced when a link is opened or has gone.
        self.current = Links((), Counts())
        self._link_of: dict[Hashable, BrokerLink] = {}
        self._unended: set[BrokerLink | BrokerName] = set()
        urls = list(enumerate(urls_of(config)))
        self._indexes = itertools.count(len(urls))
        #: The names among the brokers.
        self.names = tuple(BrokerName(index, url, self) for index, url in urls if url.is_name)
        self._unended.update(self.names)
        for index, url in urls:
            if not url.is_name:
                self._add(index, url, None)
        # The last events for all links, for the links that are opened later.
        self._lasting: dict[type, ForAll] = {}
        self.thread = threading.Thread(target=self._run, name="n8nrunner-links", daemon=True)
        self._on_exit = on_exit
        self._pool = pool
        self._to_submit: list[tuple[Handler, ActiveTask, OnEnd]] = []
        self._watched: dict[BrokerLink, tuple[Connection, int]] = {}
        # The links to settle before the next wait.
        self._to_settle: dict[BrokerLink, None] = {}
        # Work for the time between two tasks, from other threads.
        self._calls: deque[Callable[[], None]] = deque()
        # The earliest deadline of a link, and the moment of the current iteration.
        self._due_at = self._now = -inf
        self._slow_submits = Throttle(burst=1)
        # The thread acquires it when it begins; `cancel_start` acquires it first to prevent that.
        self._start_token = threading.Lock()

    # --- for any thread ---------------------------------------------------------------------------

    def open(self) -> None:
        """Open the descriptors that the thread waits on.

        Call `cancel_start` afterwards if the start fails, also if this raises.

        Raises:
            OSError: the process has no descriptor left.
        """
        self.inbox.open()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self.inbox.fileno(), selectors.EVENT_READ)

    def cancel_start(self) -> bool:
        """Prevent the start and close the descriptors.

        Return False if the thread has begun already, or the start was cancelled before. An interrupt may end
        `thread.start` before or after the thread has begun to run.
        """
        if not self._start_token.acquire(blocking=False):
            return False
        self.close()
        return True

    @property
    def links(self) -> tuple[BrokerLink, ...]:
        """The links now."""
        return self.current.links

    @property
    def brokers(self) -> tuple[int, ...]:
        """The keys of all brokers: those of the links, and of the names that have no link."""
        links = self.links
        origins = {link.origin for link in links}
        return (
            *(link.index for link in links),
            *(name.index for name in self.names if name.url.base not in origins),
        )

    def post(self, event: ForAll) -> None:
        """Post an event for all links."""
        self.inbox.post(None, event)

    def post_lookup(self, ended: LookupEnded) -> None:
        """Post the end of a look-up."""
        self.inbox.post(None, ended)

    def call(self, work: Callable[[], None]) -> None:
        """Let the thread call `work` while it has no task to submit. It must neither wait nor raise."""
        self._calls.append(work)
        self.inbox.wake()

    def forked(self) -> None:
        """Close this process's copies of the descriptors, in a child process. The parent's stay open."""
        self.close()
        for link in self.links:
            link.forked()

    def close(self) -> None:
        """Close the thread's own descriptors, when it has ended or was never started. Never raises."""
        self.inbox.close()
        if self._selector is not None:
            with contextlib.suppress(OSError):  # the application may have closed the descriptor itself
                self._selector.close()

    # --- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        if not self._start_token.acquire(blocking=False):
            return
        failure: BaseException | None = None
        assert self._selector is not None
        try:
            while self._unended:
                self._run_once(self._selector)
        except BaseException as error:  # noqa: BLE001 - reported by the runner
            failure = error
            self._abandon(error)
        finally:
            self.close()
            self._on_exit(failure)
            end_unserved(self.inbox)

    def _abandon(self, error: BaseException) -> None:
        """Cancel the tasks and close the sockets after the unexpected error that ends the thread."""
        reason = ConnectionLost(f"the links' thread ended with {logs.describe(error)}")
        for link in self.links:
            try:
                link.abandon(reason, time.monotonic())
            except BaseException as another:  # noqa: BLE001 - the other links have to end too
                self._log_defect(f"Could not close the connection to {link.url.base} cleanly", another)

    def _run_once(self, selector: selectors.BaseSelector) -> None:
        self._submit()
        inbox, events, to_settle, now = self.inbox, self.inbox.events, self._to_settle, time.monotonic()
        if to_settle or events or self._due_at <= now:
            ready = selector.select(0.0)
        else:
            inbox.asleep = True  # before the check below, so that a thread that posts after it wakes this one
            ready = selector.select(0.0 if events else min(_LONGEST_WAIT, self._due_at - now))
            inbox.asleep = False
            now = time.monotonic()
        self._now = now
        woken = False
        for key, mask in ready:
            link = key.data
            if link is None:
                woken = True
            else:
                to_settle[link] = None
                link.has_unread = link.has_unread or bool(mask & selectors.EVENT_READ)
        if woken:
            while self._calls:
                self._calls.popleft()()
        for link in list(to_settle):
            if link.has_unread and not link.machine.is_paused:
                self._run_step(link, link.read, now)
        while events:
            link, event = events.popleft()
            if link is None:
                self._handle_for_all(event, now)
                continue
            to_settle[link] = None
            self._handle(link, event, now)  # type: ignore[arg-type]  # it is for a link
        while self._looked_up:
            ended = self._looked_up.popleft()
            self._run_name(ended.name, partial(ended.name.looked_up, ended.event), now)
        if self._due_at <= now:
            for name in self.names:
                if name.due_at <= now:
                    self._run_name(name, name.settle, now)
            for link in self.current.links:
                if link.due_at <= now:
                    to_settle[link] = None
        # Settling one link may wake another.
        while to_settle:
            link, _ = to_settle.popitem()
            self._run_step(link, link.settle, now)
            self._watch(link, selector)
            if link.has_ended and link in self._unended:
                self._end(link, now)
        if woken:
            # Last, because this system call releases the interpreter's lock to the thread that posted.
            inbox.clear_wake_ups()
            if self._calls:  # this may have cleared the wake-up of a call that came after those above
                inbox.wake()
        links = self.current.links
        self._due_at = min([link.due_at for link in links], default=inf)
        for name in self.names:
            self._due_at = min(self._due_at, name.due_at)
        for link in links:
            if link.has_unread and not link.machine.is_paused:
                to_settle[link] = None

    def _submit_later(self, handler: Handler, task: ActiveTask, on_end: OnEnd) -> None:
        self._to_submit.append((handler, task, on_end))

    def _submit(self) -> None:
        """Submit the tasks of the last iteration to the pool, right before the wait.

        Submitting earlier would start handlers that compete for the interpreter's lock while this thread
        reads and writes.
        """
        if self._to_submit:
            to_submit, self._to_submit = self._to_submit, []
            began = time.monotonic()
            for handler, task, on_end in to_submit:
                try:
                    self._pool.submit(handler, task, on_end)
                except BaseException as error:  # noqa: BLE001 - a defect of the pool must not end this thread
                    self._log_defect(f"The executor did not run task {task.id}", error)
                    on_end(task, failure_of(task, "The runner's executor did not run the task"))
            self._note_submit_time(time.monotonic() - began, len(to_submit))

    def _note_submit_time(self, seconds: float, count: int) -> None:
        if seconds > _SLOW_SUBMIT and self._slow_submits.admit(time.monotonic()) is not None:
            logger.warning(
                "The executor took %.1f s to accept %d tasks. No broker is served in that time, so "
                "connections and tasks may be lost: use an executor whose submit() does not wait",
                seconds,
                count,
            )

    def _wake(self, indexes: tuple[Hashable, ...]) -> None:
        for index in indexes:
            link = self._link_of[index]
            self._to_settle[link] = None
            self._handle(link, _SLOT_FREED, self._now)

    # --- links that come and go -------------------------------------------------------------------

    def _add(self, index: int, url: BrokerUrl, origin: str | None) -> BrokerLink:
        link = BrokerLink(
            index,
            url,
            origin,
            self._config,
            self._slots,
            self._submit_later,
            self.inbox,
            self._wake,
            self._owner,
            self._recorder,
        )
        self._link_of[index] = link
        self._unended.add(link)
        self.current = self.current._replace(links=(*self.links, link))
        return link

    def open_link(self, url: BrokerUrl, origin: str) -> BrokerLink:
        """Open a link to an address of a name."""
        link = self._add(next(self._indexes), url, origin)
        self._note_links(self._now)
        for event in self._lasting.values():
            self._handle(link, event, self._now)
        self._to_settle[link] = None
        return link

    def tell(self, link: BrokerLink, event: Retired | Restored) -> None:
        """Let a link of a name handle an event."""
        self._to_settle[link] = None
        self._handle(link, event, self._now)

    def cannot_look_up(self, error: Exception) -> None:
        """Note that no thread could be started for a look-up."""
        self._owner.link_cannot_connect(error)

    def _end(self, link: BrokerLink, now: float) -> None:
        """Note that a link has ended. Forget it if it has done so because its address is gone."""
        self._unended.discard(link)
        if not link.machine.is_gone:
            return
        reason = link.machine.last_error or "its address is gone"
        logger.info("The link to %s has ended: %s", link.url.base, reason)
        others = tuple(other for other in self.links if other is not link)
        self.current = Links(others, Links((link,), self.current.past).counts())
        del self._link_of[link.index]
        self._note_links(now)

    def _note_links(self, now: float) -> None:
        self._wake(tuple(self._slots.expect(len(self.links), now)))
        self._owner.brokers_changed(self.brokers)

    def _handle_for_all(self, event: Posted | ForAll | LookupEnded, now: float) -> None:
        if isinstance(event, LookupEnded):
            self._looked_up.append(event)
            return
        assert isinstance(event, (TypesChanged, OfferingChanged, StopRequested))
        self._lasting[type(event)] = event
        if isinstance(event, StopRequested):
            for name in self.names:
                name.stop()
                self._unended.discard(name)
        for link in self.links:
            self._to_settle[link] = None
            self._handle(link, event, now)

    def _run_name(self, name: BrokerName, step: Callable[[float], None], now: float) -> None:
        """Run a step of a name. After an error in it, the name is looked up again later."""
        try:
            step(now)
        except BaseException as error:  # noqa: BLE001 - logged
            self._log_defect(f"An unexpected error while {name.url.base} was looked up", error)
            name.recover(now)

    # --- steps of links ---------------------------------------------------------------------------

    def _handle(self, link: BrokerLink, event: Posted, now: float) -> None:
        try:
            link.handle(event, now)
        except BaseException as error:  # noqa: BLE001 - logged
            self._handle_defect(link, error, now)

    def _run_step(self, link: BrokerLink, step: Callable[[float], None], now: float) -> None:
        """Run a step of a link. An error in it ends only the link's connection."""
        try:
            step(now)
        except LinkFailure as reason:
            self._end_connection(link, reason, now)
        except BaseException as error:  # noqa: BLE001 - logged
            self._handle_defect(link, error, now)

    def _handle_defect(self, link: BrokerLink, error: BaseException, now: float) -> None:
        """End a link's connection after an unexpected error; the link connects again."""
        self._log_defect(f"An unexpected error ended the connection to {link.url.base}", error)
        self._end_connection(link, ConnectionLost(f"the connection ended with {logs.describe(error)}"), now)

    def _end_connection(self, link: BrokerLink, reason: LinkFailure, now: float) -> None:
        """End a link's connection. Raises only if the link cannot continue."""
        if link.connection is not None:
            self._to_settle[link] = None
            try:
                self._unwatch(link)
                link.lose(reason, now)
                return
            except BaseException as error:  # noqa: BLE001 - logged
                self._log_defect(f"An unexpected error while the connection to {link.url.base} ended", error)
        link.recover(now)

    def _log_defect(self, what: str, error: BaseException) -> None:
        logger.error("%s: %s. Please report it\n%s", what, logs.describe(error), logs.frames_of(error))

    # --- the selector -----------------------------------------------------------------------------

    def _watch(self, link: BrokerLink, selector: selectors.BaseSelector) -> None:
        connection = link.connection
        if connection is None:
            return
        wanted = 0 if link.machine.is_paused else selectors.EVENT_READ
        if not connection.sender.is_empty:  # always so while reading is paused
            wanted |= selectors.EVENT_WRITE
        known = self._watched.get(link)
        if known is not None and known[1] == wanted and known[0] is connection:
            return
        try:
            if known is None:
                if connection.raw.fileno() in selector.get_map():
                    # Left over from a socket that the application has closed, by `os.closerange` for example.
                    selector.unregister(connection.raw.fileno())
                selector.register(connection.raw, wanted, link)
            else:
                selector.modify(connection.raw, wanted, link)
        except BaseException as error:  # noqa: BLE001 - the system has no room for it, for example
            self._handle_defect(link, error, time.monotonic())
        else:
            self._watched[link] = (connection, wanted)

    def _unwatch(self, link: BrokerLink) -> None:
        """Stop watching a link's socket, before it is closed."""
        if self._watched.pop(link, None) is not None and link.connection is not None:
            try:
                assert self._selector is not None
                self._selector.unregister(link.connection.raw)
            except BaseException as error:  # noqa: BLE001 - the connection must end nevertheless
                self._log_defect(f"Could not stop watching the connection to {link.url.base}", error)
