"""The thread of the hooks that are not of calls. They may be slow, and then delay nothing else."""

from __future__ import annotations

import contextlib
import queue
import threading
from typing import Callable, NamedTuple

from n8nrunner.deadline import Deadline
from n8nrunner.execution.contexts import StartContext
from n8nrunner.hooks import Hook, Hooks, OtherEvent, log_raised
from n8nrunner.logs import logger
from n8nrunner.task import Undelivered


class _Event(NamedTuple):
    """An event, with the hooks that were registered for it when it happened."""

    name: OtherEvent
    hooks: tuple[Hook, ...]
    value: object


class Callbacks:
    """Calls hooks on a thread. Results without a hook, or without the thread, are logged.

    Args:
        hooks: the application's functions. It may be replaced; events that have happened keep theirs.
        on_failure: called on the thread with the unexpected error that ended it.
        error_details: whether the log shows the text and the traceback of an exception of a hook.
    """

    def __init__(
        self, hooks: Hooks, on_failure: Callable[[BaseException], None], error_details: bool = True
    ) -> None:
        self.hooks = hooks
        self._on_failure = on_failure
        self._error_details = error_details
        self._start_context = StartContext()
        self._has_failed = False
        self._queue: queue.SimpleQueue[_Event | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._run, name="n8nrunner-callbacks", daemon=True)
        # Acquired by the one that starts the thread.
        self._start_token = threading.Lock()

    def start(self) -> None:
        """Start the thread, if there is a hook, unless it was started.

        Raises:
            RuntimeError: the process can have no more threads.
        """
        if self.hooks.needs_thread and self._start_token.acquire(blocking=False):
            try:
                self.thread.start()
            except RuntimeError:
                self._start_token.release()
                raise

    def renew_context(self) -> None:
        """Run later hooks in the calling thread's context, as it is now."""
        self._start_context = StartContext()

    def put(self, event: OtherEvent, value: object) -> None:
        """Report an event to its hooks, on the thread. Do not wait for them."""
        hooks = self.hooks.of(event)
        if hooks:
            self._queue.put(_Event(event, hooks, value))
            if self._has_failed:  # looked at last: the thread may fail at any moment
                self._log_rest()
        elif isinstance(value, Undelivered):
            _log(value)

    def end(self) -> None:
        """Let the thread end after the events in its queue. Do not wait for it."""
        if self.thread.ident is None:
            self._log_rest()
        self._queue.put(None)

    def join(self, deadline: Deadline) -> bool:
        """Wait for the end of the thread. Return whether it has ended, or was not started."""
        if self.thread.is_alive():
            self.thread.join(deadline.remaining())
        return not self.thread.is_alive()

    def _run(self) -> None:
        event = None
        try:
            while True:
                event = self._queue.get()
                if event is None:
                    return
                self._call(event)
                event = None
        except BaseException as error:  # noqa: BLE001 - reported by the runner
            self._has_failed = True
            self._queue.put(event)
            self._on_failure(error)
            self._log_rest()

    def _call(self, event: _Event) -> None:
        for hook in event.hooks:
            try:
                self._start_context.run(hook, event.value)
            except BaseException as error:  # noqa: BLE001 - logged
                log_raised(f"A hook of {event.name!r}", error, repr(event.value), self._error_details)

    def _log_rest(self) -> None:
        """Log the results with which no hook has been called."""
        with contextlib.suppress(queue.Empty):
            while True:
                event = self._queue.get_nowait()
                if event is not None and isinstance(event.value, Undelivered):
                    _log(event.value)


def _log(result: Undelivered) -> None:
    logger.warning(
        "The result of task %s (%s) %s n8n, because the connection was lost",
        result.task_id,
        result.task_type,
        "did not reach" if result.certain else "may not have reached",
    )
