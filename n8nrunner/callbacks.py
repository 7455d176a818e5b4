"""The thread that calls `on_undelivered`, which may be slow and then delays nothing else."""

from __future__ import annotations

import contextlib
import queue
import threading
from typing import Callable

from n8nrunner.deadline import Deadline
from n8nrunner.execution.contexts import StartContext
from n8nrunner.logs import describe, logger, task_logger
from n8nrunner.task import Undelivered

#: Called with each result that n8n did not get, or may not have got.
OnUndelivered = Callable[[Undelivered], object]


class Callbacks:
    """Calls `on_undelivered` on a thread, or logs the results if there is no callback or no thread any more.

    Args:
        callback: the application's function, or None. No exception of it ends the thread.
        on_failure: called on the thread with the unexpected error that ended it.
        error_details: whether the log shows the text and the traceback of an exception of the callback.
    """

    def __init__(
        self,
        callback: OnUndelivered | None,
        on_failure: Callable[[BaseException], None],
        error_details: bool = True,
    ) -> None:
        self._callback = callback
        self._on_failure = on_failure
        self._error_details = error_details
        self._start_context = StartContext()
        self._has_failed = False
        self._queue: queue.SimpleQueue[Undelivered | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._run, name="n8nrunner-callbacks", daemon=True)

    def start(self) -> None:
        """Start the thread, if there is a callback. Raises `RuntimeError` if no thread is available."""
        if self._callback is not None:
            self.thread.start()

    def put(self, result: Undelivered) -> None:
        """Report a result on the thread. Do not wait for it."""
        self._queue.put(result)
        if self._callback is None or self._has_failed:  # looked at last: the thread may fail at any moment
            self._log_rest()

    def end(self) -> None:
        """Let the thread end after the results in its queue. Do not wait for it."""
        self._queue.put(None)

    def join(self, deadline: Deadline) -> bool:
        """Wait for the end of the thread. Return whether it has ended, or was not started."""
        if self.thread.is_alive():
            self.thread.join(deadline.remaining())
        return not self.thread.is_alive()

    def _run(self) -> None:
        result = None
        try:
            while True:
                result = self._queue.get()
                if result is None:
                    return
                self._call(result)
                result = None
        except BaseException as error:  # noqa: BLE001 - reported by the runner
            self._has_failed = True
            self._queue.put(result)
            self._on_failure(error)
            self._log_rest()

    def _call(self, result: Undelivered) -> None:
        assert self._callback is not None
        try:
            self._start_context.run(self._callback, result)
        except BaseException as error:  # noqa: BLE001 - logged
            # The message is the application's, so it goes to the logger of tasks.
            shown = error if self._error_details else None
            task_logger.error("on_undelivered raised %s for %r", describe(error), result, exc_info=shown)

    def _log_rest(self) -> None:
        """Log the results with which the callback has not been called."""
        with contextlib.suppress(queue.Empty):
            while True:
                result = self._queue.get_nowait()
                if result is not None:
                    _log(result)


def _log(result: Undelivered) -> None:
    logger.warning(
        "The result of task %s (%s) %s n8n, because the connection was lost",
        result.task_id,
        result.task_type,
        "did not reach" if result.certain else "may not have reached",
    )
