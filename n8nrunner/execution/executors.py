"""The executor of a pool: the caller's, or one that the caller's function makes and the runner replaces."""

from __future__ import annotations

import concurrent.futures
import os
import threading
import uuid
from concurrent.futures import BrokenExecutor, Executor
from typing import Callable, Protocol, Union

from n8nrunner import logs
from n8nrunner.errors import ExecutorBroken
from n8nrunner.execution.invoke import error_text, text_of
from n8nrunner.logs import logger, task_logger

#: An executor, which stays the caller's; or a function that makes one for the runner.
ExecutorOrFactory = Union[Executor, Callable[[], Executor]]

#: Seconds that an executor has to run its first function. Its processes may have to start first.
WARM_UP = 30.0
#: Delays before a broken executor is replaced, in seconds: the first, and the longest after doubling.
FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0
#: An executor that refuses this many tasks in a row counts as broken.
_REFUSALS = 3

_token = uuid.uuid4().hex


class Listener(Protocol):
    """Gets the reports of a pool about its executor, on any thread. No method waits."""

    def executor_broken(self, error: ExecutorBroken, /) -> None:
        """Handle a broken executor that the runner cannot replace."""

    def set_offering(self, wanted: bool, /) -> None:
        """Offer tasks, or pause offers while the executor is replaced."""


def is_factory(executor: object) -> bool:
    """Return whether an object makes executors, as a lambda or a class does."""
    return callable(executor) and (isinstance(executor, type) or not hasattr(executor, "submit"))


class ExecutorHolder:
    """The executor of a pool. For any thread.

    Args:
        given: the caller's executor or function.
        capacity: how many tasks run at once.
        listener: told when the executor breaks and when it has been replaced.
        replaced: called on the thread `n8nrunner-executor` when a new executor has replaced a broken one.

    Attributes:
        executor: the executor; None before `start`, and while it is replaced.
        is_in_process: whether it runs tasks in this process.
    """

    def __init__(
        self, given: ExecutorOrFactory, capacity: int, listener: Listener, replaced: Callable[[], None]
    ) -> None:
        self.executor: Executor | None = None
        self.is_in_process = True
        self._given = given
        # Whether the runner shuts the executor down, and replaces it.
        self._is_own = is_factory(given)
        self._capacity = capacity
        self._listener = listener
        self._replaced = replaced
        self._refusals = 0
        self._delay = FIRST_DELAY
        # Set when nothing is replaced any more: at the end, or when the caller's executor has broken.
        self._ended = threading.Event()
        # Guards the decision that an executor is broken. Nothing is called under it.
        self._lock = threading.Lock()

    def start(self) -> None:
        """Get the executor ready. Raises `ExecutorBroken`."""
        self.executor = self._make()

    def _make(self) -> Executor:
        """Return an executor that has run a first function: the caller's, or a new one.

        Raises:
            ExecutorBroken: the function that makes executors failed, or see `_runs_in_process`.
        """
        try:
            executor: Executor = self._given() if self._is_own else self._given  # type: ignore[assignment, operator]
        except Exception as error:
            raise ExecutorBroken(f"the function for the executor raised {error_text(error)}") from error
        if not callable(getattr(executor, "submit", None)):
            raise ExecutorBroken(
                "the function for the executor returned "
                f"{type(executor).__name__}, expected a concurrent.futures.Executor"
            )
        try:
            self.is_in_process = _runs_in_process(executor)
        except BaseException:
            self._shut_down_if_own(executor)
            raise
        self._warn_if_small(executor)
        return executor

    def _warn_if_small(self, executor: Executor) -> None:
        workers = getattr(executor, "_max_workers", None)  # of the executors of concurrent.futures
        if isinstance(workers, int) and workers < self._capacity:
            logger.warning(
                "The executor runs %d tasks at once, but the capacity is %d: tasks wait in the executor "
                "while another runner could take them. Pass capacity=%d, or a larger executor",
                workers,
                self._capacity,
                workers,
            )

    def note_accepted(self) -> None:
        """Note that the executor has accepted a task."""
        self._refusals = 0

    def may_wait_after(self, executor: Executor, error: BaseException) -> bool:
        """Note that the executor raised when it got a task.

        Return whether the task may wait: the executor broke before it accepted the task, and is replaced.
        """
        self._refusals += 1
        if not _is_final(error) and self._refusals < _REFUSALS:
            return False
        self._break(executor, error)
        return self._is_own and isinstance(error, BrokenExecutor) and not self._ended.is_set()

    def note_failed(self, executor: Executor, error: BaseException) -> None:
        """Note the exception of a future of the executor."""
        if _is_final(error):
            self._break(executor, error)

    def _break(self, executor: Executor, error: BaseException) -> None:
        """Replace a broken executor, or report it. Later calls for the same executor do nothing."""
        with self._lock:
            if self._ended.is_set() or self.executor is not executor:
                return
            if self._is_own:
                self.executor = None
            else:
                self._ended.set()
        reason = ExecutorBroken(
            f"the executor runs no tasks now ({type(error).__name__}; the logger n8nrunner.tasks says more)"
        )
        reason.__cause__ = error
        task_logger.error("The executor is broken: %s", error_text(error))
        if not self._is_own:
            self._listener.executor_broken(reason)
            return
        self._listener.set_offering(False)
        try:
            threading.Thread(
                target=self._replace, args=(executor,), name="n8nrunner-executor", daemon=True
            ).start()
        except RuntimeError:  # no more threads
            self._listener.executor_broken(reason)

    def _replace(self, broken: Executor) -> None:
        """Replace an executor, on a thread of its own, because making one may take long."""
        try:
            self._shut_down_if_own(broken)
            while not self._ended.is_set():
                delay, self._delay = self._delay, min(2 * self._delay, LONGEST_DELAY)
                logger.warning("The executor is broken; it is replaced in %.1f s", delay)
                if self._ended.wait(delay):
                    return
                try:
                    executor = self._make()
                except ExecutorBroken as error:
                    task_logger.error("The executor could not be replaced: %s", error)
                    continue
                self._refusals = 0
                # Before the executor can get a task and break, so that a pause of the offers comes later.
                self._listener.set_offering(True)
                self.executor = executor
                if self._ended.is_set():
                    self._shut_down_if_own(executor)
                    return
                logger.warning("The executor has been replaced")
                self._replaced()
                return
        except BaseException as error:  # noqa: BLE001 - the runner would stay without an executor
            failed = ExecutorBroken(f"the executor could not be replaced ({logs.describe(error)})")
            failed.__cause__ = error
            self._listener.executor_broken(failed)

    def note_success(self) -> None:
        """Note that the executor has run a task, so that its replacement waits for the first delay again."""
        self._delay = FIRST_DELAY

    def _shut_down_if_own(self, executor: Executor | None) -> None:
        """Shut an executor down if a function has made it for the runner."""
        if executor is None or not self._is_own:
            return
        try:
            executor.shutdown(wait=False)
        except Exception as error:  # noqa: BLE001 - an executor of any library
            task_logger.error("The executor could not be shut down: %s", error_text(error))

    def shut_down(self) -> None:
        """Shut the executor down if a function made it. Wait for nothing."""
        self._ended.set()
        self._shut_down_if_own(self.executor)


def _is_final(error: BaseException) -> bool:
    """Return whether an executor that raised an error can never run anything again."""
    return isinstance(error, BrokenExecutor) or (
        isinstance(error, RuntimeError) and text_of(error).startswith("cannot schedule new futures")
    )


def _place() -> tuple[str, int, int]:
    """Return what identifies this process and thread. A forked process has only the token in common."""
    return _token, os.getpid(), threading.get_ident()


def _runs_in_process(executor: Executor) -> bool:
    """Run a first function, which may take long, and return whether it ran in this process.

    Raises:
        ExecutorBroken: the executor does not run anything, or runs it in the thread that submits it.
    """
    try:
        place = executor.submit(_place).result(WARM_UP)
    except Exception as error:
        reason = error_text(error)
        if isinstance(error, concurrent.futures.TimeoutError):
            reason = f"not within {WARM_UP:g} s"
        raise ExecutorBroken(f"the executor runs nothing: {reason}") from error
    here = _place()
    if place == here:
        # Handlers would hold up the thread that serves the connections.
        raise ExecutorBroken("the executor runs tasks in the thread that submits them")
    return place[:2] == here[:2]
