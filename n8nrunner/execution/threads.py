"""A fixed number of threads that run jobs, and that no exception ends.

An exception can come from outside at any point of a thread (`PyThreadState_SetAsyncExc`, which libraries use
to end a function that takes too long), and memory can run out at any point. `ThreadPoolExecutor` loses the
thread and the job then, and it queues a job before it fails for lack of threads. Here all threads start
first. A thread takes a job from the queue and records it in one C call, so an exception finds the job
recorded or still in the queue.
"""

from __future__ import annotations

import functools
import queue
import threading
import weakref
from collections.abc import Iterator
from typing import Any, Callable, Generic, TypeVar

from n8nrunner import process
from n8nrunner.deadline import Deadline
from n8nrunner.errors import ExecutorBroken

#: Nested loops around the work of a thread. An exception ends a loop only if it comes while that loop handles
#: another exception.
_LAYERS = 4

_Job = TypeVar("_Job")


class Threads(Generic[_Job]):
    """Threads that run jobs until `end`.

    Args:
        count: the number of threads.
        run: runs a job. It is called again with a job that an exception has interrupted, until it returns, so
            it has to know how far the job has come.
        name: the prefix of the threads' names.
        prepare: called once on each thread.
    """

    def __init__(
        self, count: int, run: Callable[[_Job], None], name: str, prepare: Callable[[], None]
    ) -> None:
        self._run = run
        self._prepare = prepare
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        # Daemons, so that only the exit hook below waits for them at the interpreter's end.
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}_{number}", daemon=True)
            for number in range(count)
        ]
        #: Run a job on one of the threads. Never blocks.
        self.put: Callable[[_Job], None] = self._queue.put

    def start(self) -> None:
        """Start all threads. Call `end` afterwards if this raises, because some of them may run.

        Raises:
            ExecutorBroken: the system refuses a thread.
        """
        for number, thread in enumerate(self._threads):
            try:
                thread.start()
            except RuntimeError as error:
                raise ExecutorBroken(
                    f"only {number} of {len(self._threads)} threads for tasks could be started: {error}. "
                    "Lower the capacity of the runner, or raise the system's limit of threads"
                ) from error
        _alive.add(self)

    def end(self) -> None:
        """Let each thread end after the jobs in the queue. Wait for nothing."""
        for _ in self._threads:
            self._queue.put(None)

    def join(self, deadline: Deadline) -> None:
        """Wait for the end of the threads, except the calling thread."""
        for thread in self._threads:
            if thread is not threading.current_thread() and thread.ident is not None:
                thread.join(deadline.remaining())

    def _work(self) -> None:
        taken: list[_Job] = []
        # One C call takes a job and appends it to `taken`. None ends the iterator for good.
        feed = map(taken.append, iter(self._queue.get, None))
        step = functools.partial(self._serve, taken, feed)
        # An exception can come between two iterations of a loop too, outside of its `try`.
        for _ in range(_LAYERS):
            step = functools.partial(self._retry, step)
        step()

    def _retry(self, step: Callable[[], None]) -> None:
        """Call `step` until it returns, although exceptions from outside interrupt it."""
        while True:
            try:
                self._prepare()
                step()
                return
            except BaseException:  # noqa: BLE001 - `taken` says what is left to do
                continue

    def _serve(self, taken: list[_Job], feed: Iterator[None]) -> None:
        if taken:
            self._run(taken[0])
            taken.clear()
        for _ in feed:
            self._run(taken[0])
            taken.clear()


_alive: weakref.WeakSet[Threads[Any]] = weakref.WeakSet()


def _join_at_exit() -> None:
    """Wait until all handlers have returned, as `concurrent.futures` does for its threads."""
    for threads in list(_alive):
        threads.end()
    for threads in list(_alive):
        threads.join(Deadline(None))


process.at_exit(_join_at_exit)
process.after_fork_in_child(_alive.clear)
