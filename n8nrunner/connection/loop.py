"""The links' thread: one event loop for all connections of a runner.

An iteration waits for a socket, the inbox or the first deadline. It reads the received bytes, handles the
events in the inbox, settles every link to which something has happened, and writes the messages of each link
at once. Nothing in it blocks, so a broker that stops in the middle of a frame, or does not read, delays no
other.

There is one thread for all brokers, because threads that wake each other for every message spend most of
their time on handing over the interpreter's lock (docs/architecture.md, "Threads").
"""

from __future__ import annotations

import contextlib
import selectors
import threading
import time
from collections.abc import Hashable, Mapping
from typing import Callable

from n8nrunner import logs
from n8nrunner.config import RunnerConfig
from n8nrunner.connection.attempt import close_late_comers
from n8nrunner.connection.inbox import Inbox
from n8nrunner.connection.link import BrokerLink, LinkOwner, Posted
from n8nrunner.connection.transport import Connection
from n8nrunner.execution.invoke import Handler
from n8nrunner.execution.invoke import failure as failure_of
from n8nrunner.execution.pools import OnEnd, TaskPool
from n8nrunner.protocol.events import OfferingChanged, SlotFreed, StopRequested, TypesChanged
from n8nrunner.protocol.failures import ConnectionLost, LinkFailure
from n8nrunner.protocol.slots import Slots
from n8nrunner.protocol.throttle import Throttle
from n8nrunner.task import ActiveTask

logger = logs.get_logger("n8nrunner")

#: No wait is longer than this, in seconds, which bounds the harm of a clock that jumps.
_LONGEST_WAIT = 60.0

#: An executor that takes longer than this to accept the tasks of an iteration is logged, in seconds.
_SLOW_SUBMIT = 0.5

_SLOT_FREED = SlotFreed()


class LinkThread:
    """The links of a runner and the thread that serves them.

    Args:
        config: the runner's settings, with a URL for each link.
        types: the task types with their limits.
        slots: the runner's slots, which only the thread uses.
        pool: runs the handlers.
        owner: the owner of the links.
        ended: called on the thread when it ends: with None when the last link has ended, otherwise with the
            unexpected error that ended the thread.
    """

    def __init__(
        self,
        config: RunnerConfig,
        types: Mapping[str, int | None],
        slots: Slots,
        pool: TaskPool,
        owner: LinkOwner,
        ended: Callable[[BaseException | None], None],
    ) -> None:
        self.inbox: Inbox[BrokerLink, Posted] = Inbox()
        self._selector: selectors.BaseSelector | None = None
        self.links: list[BrokerLink] = [
            BrokerLink(index, config, types, slots, self._submit_later, self.inbox, self._wake, owner)
            for index in range(len(config.broker))
        ]
        self._unended = set(self.links)
        self.thread = threading.Thread(target=self._run, name="n8nrunner-links", daemon=True)
        self._ended = ended
        self._pool = pool
        self._to_submit: list[tuple[Handler, ActiveTask, OnEnd]] = []
        self._registered: dict[BrokerLink, tuple[Connection, int]] = {}
        # The links to settle in this iteration, or in the next one at once; and when the next one is due.
        self._touched: dict[BrokerLink, None] = {}
        self._due_at = 0.0
        self._slow_submits = Throttle(burst=1)
        # The thread removes the one element when it begins; `cancel_start` removes it to prevent that.
        self._undecided = [None]

    # --- for any thread ---------------------------------------------------------------------------

    def open(self) -> None:
        """Open the descriptors that the thread waits on. After this, even after a raise, call `cancel_start`.

        Raises:
            OSError: the process has no descriptor left.
        """
        self.inbox.open()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self.inbox.fileno(), selectors.EVENT_READ)

    def start(self) -> None:
        """Start the thread.

        Raises:
            RuntimeError: the process can have no more threads.
        """
        self.thread.start()

    def cancel_start(self) -> bool:
        """Return whether the thread does not run and never will; if so, its descriptors are closed.

        An interrupt may end `start` before or after the thread has begun to run.
        """
        if not self._decide():
            return False
        self.close()
        return True

    def _decide(self) -> bool:
        try:
            self._undecided.pop()
        except IndexError:
            return False
        return True

    def stop(self, until: float) -> None:
        """Ask all links to finish their tasks, until that moment of the monotonic clock at most, and end."""
        for link in self.links:
            self.inbox.post(link, StopRequested(until))

    def change_types(self, types: Mapping[str, int | None]) -> None:
        """Offer the types of handlers that have been registered."""
        for link in self.links:
            self.inbox.post(link, TypesChanged(types))

    def set_offering(self, wanted: bool) -> None:
        """Offer tasks from now on, or stop offering them."""
        for link in self.links:
            self.inbox.post(link, OfferingChanged(wanted))

    def forked(self) -> None:
        """Close this process's copies of the descriptors, in a child process. The parent notices nothing."""
        self.close()
        for link in self.links:
            link.forked()

    def close(self) -> None:
        """Close the thread's own descriptors, when it has ended or was never started. Raises nothing."""
        self.inbox.close()
        if self._selector is not None:
            with contextlib.suppress(OSError):  # the application may have closed the descriptor itself
                self._selector.close()

    # --- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        if not self._decide():
            return
        failure: BaseException | None = None
        assert self._selector is not None
        try:
            while self._unended:
                self._run_once(self._selector)
            self._submit()  # from the last iteration: a task that is not run would keep its slot
        except BaseException as error:  # noqa: BLE001 - reported by the runner
            failure = error
            self._abandon(error)
        finally:
            self.close()
            self._ended(failure)
            close_late_comers(self.inbox)

    def _abandon(self, error: BaseException) -> None:
        """Cancel the tasks and close the sockets of a thread that cannot go on."""
        reason = ConnectionLost(f"the links' thread ended with {logs.describe(error)}")
        for link in self.links:
            try:
                link.abandon(reason, time.monotonic())
            except BaseException as another:  # noqa: BLE001 - the other links have to end too
                self._report(f"Could not close the connection to {link.url.base} in order", another)

    def _run_once(self, selector: selectors.BaseSelector) -> None:
        self._submit()
        inbox, events, touched, now = self.inbox, self.inbox.events, self._touched, time.monotonic()
        if touched or events or self._due_at <= now:
            ready = selector.select(0.0)
        else:
            inbox.asleep = True  # before the last look: a thread that posts after it wakes this one
            ready = selector.select(0.0 if events else min(_LONGEST_WAIT, self._due_at - now))
            inbox.asleep = False
            now = time.monotonic()
        woken = False
        for key, mask in ready:
            link = key.data
            if link is None:
                woken = True
            else:
                touched[link] = None
                link.more = link.more or bool(mask & selectors.EVENT_READ)
        for link in list(touched):
            if link.more and not link.paused:
                self._guarded(link, link.read, now)
        while events:
            link, event = events.popleft()
            touched[link] = None
            self._handle(link, event, now)
        if self._due_at <= now:
            for link in self.links:
                if link.due_at <= now:
                    touched[link] = None
        # Settling one link may wake another.
        while touched:
            link, _ = touched.popitem()
            self._guarded(link, link.settle, now)
            self._watch(link, selector)
            if link.has_ended:
                self._unended.discard(link)
        if woken:
            # After the answers are sent: this call lets the thread that woke this one go on first.
            inbox.clear_wake_ups()
        self._due_at = min([link.due_at for link in self.links])
        for link in self.links:
            if link.more and not link.paused:
                touched[link] = None

    def _submit_later(self, handler: Handler, task: ActiveTask, ended: OnEnd) -> None:
        self._to_submit.append((handler, task, ended))

    def _submit(self) -> None:
        """Submit the tasks of the last iteration to the pool, right before the wait.

        A handler's thread that wakes while this one holds the interpreter's lock has to sleep again, and a
        handler that runs takes the lock at each read or write.
        """
        if self._to_submit:
            to_submit, self._to_submit = self._to_submit, []
            began = time.monotonic()
            for handler, task, ended in to_submit:
                try:
                    self._pool.submit(handler, task, ended)
                except BaseException as error:  # noqa: BLE001 - the caller's executor may raise anything
                    self._report(f"The executor did not run task {task.id}", error)
                    ended(task, failure_of(task, "The runner's executor did not run the task"))
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
            link = self.links[index]  # type: ignore[call-overload]
            self._touched[link] = None
            self._handle(link, _SLOT_FREED, 0.0)

    def _handle(self, link: BrokerLink, event: Posted, now: float) -> None:
        try:
            link.handle(event, now)
        except BaseException as error:  # noqa: BLE001 - reported there
            self._defect(link, error, now)

    def _guarded(self, link: BrokerLink, step: Callable[[float], None], now: float) -> None:
        """Run a step of a link. An error in it ends the link's connection, and nothing else."""
        try:
            step(now)
        except LinkFailure as reason:
            self._lose(link, reason, now)
        except BaseException as error:  # noqa: BLE001 - reported there
            self._defect(link, error, now)

    def _defect(self, link: BrokerLink, error: BaseException, now: float) -> None:
        """End a link's connection after an unexpected error; the link connects again."""
        self._report(f"An unexpected error ended the connection to {link.url.base}", error)
        self._lose(link, ConnectionLost(f"the connection ended with {logs.describe(error)}"), now)

    def _lose(self, link: BrokerLink, reason: LinkFailure, now: float) -> None:
        """End a link's connection. Raises only if the link cannot go on."""
        if link.connection is not None:
            self._touched[link] = None
            try:
                self._forget(link)
                link.lose(reason, now)
                return
            except BaseException as error:  # noqa: BLE001 - reported there
                self._report(f"An unexpected error while the connection to {link.url.base} ended", error)
        link.recover(now)

    def _report(self, what: str, error: BaseException) -> None:
        logger.error("%s: %s. Please report it\n%s", what, logs.describe(error), logs.frames_of(error))

    # --- what the selector watches ----------------------------------------------------------------

    def _watch(self, link: BrokerLink, selector: selectors.BaseSelector) -> None:
        connection = link.connection
        if connection is None:
            return
        wanted = 0 if link.paused else selectors.EVENT_READ
        if not connection.sender.is_empty:  # always so while reading is paused
            wanted |= selectors.EVENT_WRITE
        known = self._registered.get(link)
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
            self._defect(link, error, time.monotonic())
        else:
            self._registered[link] = (connection, wanted)

    def _forget(self, link: BrokerLink) -> None:
        """Stop watching a link's socket, before it is closed."""
        if self._registered.pop(link, None) is not None and link.connection is not None:
            try:
                assert self._selector is not None
                self._selector.unregister(link.connection.raw)
            except BaseException as error:  # noqa: BLE001 - the connection has to end all the same
                self._report(f"Could not stop watching the connection to {link.url.base}", error)
