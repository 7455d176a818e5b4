"""A task as its requester holds it."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Mapping, Sequence
from typing import Any, Callable, NamedTuple

from n8nrunner.broker.errors import BrokerTaskError

CANCELLED_BY_USER = "Task cancelled by user"


class SavedFile(NamedTuple):
    """A file that a task saved with ``helpers.prepareBinaryData`` or ``helpers.setBinaryDataBuffer``."""

    data: bytes  #: its content.
    filename: str | None  #: its name, if the task gave one.
    mime: str  #: its type, as given or guessed.
    binary_data: dict[str, Any]  #: n8n's object for an item's ``binary``. Its ``data`` is Base64.


class BrokerTask:
    """One task, from `Broker.submit` to its end. Its methods can be called from any thread.

    Attributes:
        task_type: the type that its runner has to offer.
        request_id: the broker's id for its request for a runner.
        logs: the lines that the task has logged, one for each ``logNodeOutput``, its parts joined by spaces.
        saved_files: the files that the task has saved.
    """

    def __init__(
        self,
        task_type: str,
        request_id: str,
        settings: str,
        items: Sequence[Any],
        files: Mapping[tuple[int, str], bytes],
        node_types: Sequence[Mapping[str, Any]],
        rpc: Mapping[str, Callable[..., Any]],
        timeout: float | None,
        cancel: Callable[[BrokerTask, str], None],
    ) -> None:
        self.task_type = task_type
        self.request_id = request_id
        self.logs: list[str] = []
        self.saved_files: list[SavedFile] = []
        self._settings: str | None = settings
        self._items = items
        self._files = files
        self._node_types = node_types
        self._rpc = rpc
        self._timeout = timeout
        self._cancel = cancel
        self._task_id: str | None = None
        self._future: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def __repr__(self) -> str:
        waiting = "waiting for a runner" if self._task_id is None else "with a runner"
        state = "done" if self.done() else waiting
        return f"<BrokerTask {self.task_type!r} {self._task_id or self.request_id}: {state}>"

    @property
    def task_id(self) -> str | None:
        """The task's id on the wire; None until a runner has accepted it."""
        return self._task_id

    def done(self) -> bool:
        """Return whether the task has ended."""
        return self._future.done()

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the end of the task and return its result, any JSON value.

        Args:
            timeout: seconds to wait; None to wait without a limit. The task goes on after a timeout.

        Raises:
            BrokerTaskError: the task ended without a result; the subclasses say why.
            TimeoutError: the task has not ended in time.
        """
        error = self.error(timeout)
        if error is not None:
            raise error
        return self._future.result(0)

    def error(self, timeout: float | None = None) -> BrokerTaskError | None:
        """Wait as `result` does, and return the task's error, or None if it ended with a result."""
        try:
            error = self._future.exception(timeout)
        except concurrent.futures.TimeoutError:
            raise TimeoutError(f"the task has not ended within {timeout:g} seconds: {self!r}") from None
        assert error is None or isinstance(error, BrokerTaskError)
        return error

    def cancel(self, reason: str = CANCELLED_BY_USER) -> None:
        """Ask the broker to end the task. Do nothing if it has ended.

        `result` raises `BrokerTaskCancelled` then. A request that no runner has accepted is withdrawn.
        """
        self._cancel(self, reason)

    def add_done_callback(self, callback: Callable[[BrokerTask], None]) -> None:
        """Call `callback` with this task when it has ended, on the broker's thread.

        It must return soon. If it stops the broker, that does not wait. If the task has ended already, the
        callback runs at once, on the caller's thread.
        """
        self._future.add_done_callback(lambda _: callback(self))

    # For the broker's thread only.

    def _end(self, result: Any) -> None:
        self._release()
        if not self._future.done():
            self._future.set_result(result)

    def _fail(self, error: BrokerTaskError) -> None:
        self._release()
        if not self._future.done():
            self._future.set_exception(error)

    def _release(self) -> None:
        # Settings and items can be large, and the caller may keep the task for its result.
        self._settings = None
        self._items = ()
        self._files = {}
