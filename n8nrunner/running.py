"""What one `Runner.start` has started, from its links to its last thread."""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import Executor
from typing import Any, Callable, Dict, List, Optional, Set

from n8nrunner import logs, process
from n8nrunner.config import RunnerConfig
from n8nrunner.connection.link import BrokerLink
from n8nrunner.connection.serving import LinkThread
from n8nrunner.deadline import Deadline
from n8nrunner.errors import GrantTokenSpent, N8nRunnerError
from n8nrunner.execution.invoke import Handler, TaskContext
from n8nrunner.execution.pools import TaskPool
from n8nrunner.protocol.slots import Slots
from n8nrunner.snapshot import Counts, LinkSnapshot, Snapshot, TaskSnapshot
from n8nrunner.task import Undelivered

logger = logs.get_logger("n8nrunner")

#: What is called with each result that n8n did not get, or may not have got.
OnUndelivered = Callable[[Undelivered], Any]

#: Seconds beyond the grace period that a stop waits for what it has asked to end.
STOP_MARGIN = 0.45


class Run:
    """What one `start` has started, until its last link has ended. Its links call it on their thread.

    Args:
        config: the runner's settings.
        types: the task types with their limits, as they are now.
        handler_of: the handler of a task type, as it is registered when it is asked for.
        executor, task_context, on_undelivered: as `Runner` has them.
    """

    def __init__(
        self,
        config: RunnerConfig,
        types: Dict[str, Optional[int]],
        handler_of: Callable[[str], Optional[Handler]],
        executor: Optional[Executor],
        task_context: Optional[TaskContext],
        on_undelivered: Optional[OnUndelivered],
    ) -> None:
        self.error: Optional[N8nRunnerError] = None
        self.finished = threading.Event()
        self.stopping = False
        #: The handler of a task type, as it is registered now.
        self.handler_of = handler_of
        self._config = config
        self._on_undelivered = on_undelivered
        # Guards what follows, and announces registrations and ends. Nothing is called under it.
        self._changed = threading.Condition(threading.Lock())
        self._ever_registered = False
        self._refused: Dict[int, N8nRunnerError] = {}
        self._when_finished: List[Callable[[], None]] = []
        self._slots = Slots(config.capacity, len(config.urls), threading.Lock())
        self._pool = TaskPool(executor, config.capacity, task_context, config.max_payload)
        self._health: Any = None
        self._callbacks: Optional[Callbacks] = None
        self._serving = LinkThread(config, types, self._slots, self._pool, self, self._links_ended)
        self.links: List[BrokerLink] = self._serving.links
        if not types:
            logger.warning("The runner %r has no handler yet, so n8n can send it nothing", config.name)

    # --- for the runner, on any thread ------------------------------------------------

    def start(self) -> None:
        """Starts all threads. After a raise nothing runs."""
        try:
            self._pool.warm_up()
            if self._config.health_check_enabled:
                from n8nrunner.health import HealthServer  # needed by few, and slow to import

                self._health = HealthServer(
                    self._config.health_check_host,
                    self._config.health_check_port,
                    self.snapshot,
                    self._config.health_check_allowed_hosts,
                )
                self._health.start()
            if self._on_undelivered is not None:
                self._callbacks = Callbacks(self._on_undelivered)
        except BaseException:
            if self._health is not None:
                self._health.stop()
            self._serving.close()
            self._pool.shut_down()
            raise
        _running.add(self)
        self._serving.thread.start()

    @property
    def grace(self) -> float:
        """Seconds that running tasks get when nothing else is said."""
        return self._config.graceful_shutdown_timeout

    @property
    def state(self) -> str:
        """As in `Snapshot.state`."""
        if self.finished.is_set():
            return "stopped" if self.error is None else "failed"
        return "stopping" if self.stopping else "running"

    def wait_registered(self, deadline: Deadline) -> bool:
        """Whether a broker knows the runner; waits for it, or for the end."""

        def settled() -> bool:
            return self.finished.is_set() or self.error is not None or self._is_registered()

        with self._changed:
            self._changed.wait_for(settled, deadline.remaining())
        return self.error is None and self._is_registered()

    def _is_registered(self) -> bool:
        return any(link.is_registered for link in self.links)

    def request_stop(self, grace: float) -> None:
        """Asks all links to end, and returns."""
        self.stopping = True
        self._serving.stop(time.monotonic() + grace)

    def is_own_thread(self) -> bool:
        """Whether the calling thread is one that a stop would wait for."""
        current = threading.current_thread()
        return (
            self._pool.is_current
            or self._serving.thread is current
            or (self._callbacks is not None and self._callbacks.thread is current)
        )

    def join(self, deadline: Deadline) -> None:
        """Waits for the end, and says what does not end."""
        self.finished.wait(deadline.remaining())
        self._serving.thread.join(deadline.remaining())
        for link in self.links:
            if link.attempt is not None:
                link.attempt.join(deadline.remaining())
                if link.attempt.is_alive():
                    logger.warning(
                        "An attempt to reach %s has not ended yet; it will by itself", link.url.base
                    )
        if self._callbacks is not None:
            self._callbacks.thread.join(deadline.remaining())
            if self._callbacks.thread.is_alive():
                logger.warning("on_undelivered has not returned yet")
        running = self._pool.join(deadline)
        if running:
            logger.warning(
                "Handlers of cancelled tasks still run, and keep the process alive until they return: %s",
                ", ".join(running),
            )

    def on_finished(self, callback: Callable[[], None]) -> None:
        """Calls `callback` when the last link has ended, on the links' thread, or now."""
        with self._changed:
            if not self.finished.is_set():
                self._when_finished.append(callback)
                return
        callback()

    def change_types(self, types: Dict[str, Optional[int]]) -> None:
        """Handlers have been registered: their types are offered at once."""
        self._serving.change_types(types)

    def describe_links(self) -> str:
        """What was tried, and how it went."""
        parts = []
        for link in self.links:
            now = link.snapshot()
            parts.append(now.last_error or f"{now.broker} is {now.state}")
        return "; ".join(parts)

    def snapshot(self) -> Snapshot:
        """All of it as it is now."""
        now = time.monotonic()
        links: List[LinkSnapshot] = [link.snapshot() for link in self.links]
        tasks = tuple(
            TaskSnapshot(
                task.id,
                task.type,
                now - task.started_at,
                task.progress_fraction,
                task.progress_text,
                task.cancel_reason,
            )
            for task in list(self._pool.active)
        )
        totals = (sum(getattr(link.counters, name) for link in self.links) for name in Counts._fields)
        return Snapshot(
            self.state,
            self._config.name,
            self._config.capacity,
            self._slots.taken,
            tuple(links),
            tasks,
            Counts(*totals),
        )

    def forked(self) -> None:
        """In a child process: gives up copies of descriptors without a sign to the parent or the broker."""
        self._serving.forked()
        if self._health is not None:
            self._health.forked()

    # --- for the links, on their thread --------------------------------------------------------

    def link_registered(self, link: BrokerLink) -> None:
        with self._changed:
            self._ever_registered = True
            self._refused.pop(link.index, None)
            self._changed.notify_all()

    def link_refused(self, link: BrokerLink, error: N8nRunnerError) -> bool:
        with self._changed:
            self._refused[link.index] = error
            final = isinstance(error, GrantTokenSpent) or (
                not self._ever_registered and len(self._refused) == len(self.links)
            )
            if not final:
                return False
            self.error = error
            self._changed.notify_all()
        self.request_stop(0)
        return True

    def link_idle(self) -> None:
        if not self.stopping:
            logger.info(
                "Stopping: no task for %g s (N8N_RUNNERS_AUTO_SHUTDOWN_TIMEOUT)",
                self._config.auto_shutdown_timeout,
            )
            self.request_stop(self.grace)

    def _links_ended(self) -> None:
        # Stopping waits for this, so nothing in it may wait for a handler or a callback.
        self._pool.shut_down()
        if self._callbacks is not None:
            self._callbacks.end()
        if self._health is not None:
            self._health.stop()
        _running.discard(self)
        with self._changed:
            self.finished.set()
            callbacks, self._when_finished = self._when_finished, []
            self._changed.notify_all()
        for callback in callbacks:
            callback()

    def undelivered(self, result: Undelivered) -> None:
        if self._callbacks is not None:
            self._callbacks.put(result)
        else:
            logger.warning(
                "The result of task %s (%s) %s n8n, because the connection was lost",
                result.task_id,
                result.task_type,
                "did not reach" if result.certain else "may not have reached",
            )


class Callbacks:
    """The thread on which `on_undelivered` is called: it may take its time, and holds up nothing."""

    def __init__(self, callback: OnUndelivered) -> None:
        self._callback = callback
        self._queue: queue.SimpleQueue[Optional[Undelivered]] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._work, name="n8nrunner-callbacks", daemon=True)
        self.thread.start()

    def put(self, result: Undelivered) -> None:
        self._queue.put(result)

    def end(self) -> None:
        """After what has been put."""
        self._queue.put(None)

    def _work(self) -> None:
        while True:
            result = self._queue.get()
            if result is None:
                return
            try:
                self._callback(result)
            except Exception:
                logger.exception("on_undelivered raised for %r", result)


_running: Set[Run] = set()


def _stop_at_exit() -> None:
    """At the interpreter's end: n8n gets its answers, and handlers are told."""
    runs = list(_running)
    for run in runs:
        run.request_stop(run.grace)
    for run in runs:
        run.join(Deadline(run.grace + STOP_MARGIN))


process.at_exit(_stop_at_exit)
process.after_fork_in_child(_running.clear)
