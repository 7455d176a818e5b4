"""Where handlers run: our own threads, or an executor of the caller's.

An executor that the caller passed is never shut down here. Whether it runs in this process is found out by
running something on it when the runner starts, which also gets its processes going before a task waits for
them.
"""

from __future__ import annotations

import concurrent.futures
import os
import threading
import uuid
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Callable, Dict, List, Optional, Tuple

from n8nrunner import logs
from n8nrunner.deadline import Deadline
from n8nrunner.errors import ExecutorBroken
from n8nrunner.execution.invoke import Answer, Handler, TaskContext, failure, invoke
from n8nrunner.task import Task

logger = logs.get_logger("n8nrunner")

#: Called when a handler has returned, on whatever thread that is; only posts.
Ended = Callable[[Task, Answer], None]

#: Seconds that an executor of other processes gets to run something for the first time.
WARM_UP = 30.0

_token = uuid.uuid4().hex
_inside = threading.local()


def _where() -> Tuple[str, int, int]:
    """Names the process and the thread it runs in: a forked process has our token, but not our number."""
    return _token, os.getpid(), threading.get_ident()


class TaskPool:
    """Runs handlers and keeps account of them.

    Args:
        executor: the caller's, or None for threads of our own.
        capacity: how many threads of our own.
        context: entered around every handler; None for nothing.
        max_payload: bytes that an answer may have.
    """

    def __init__(
        self, executor: Optional[Executor], capacity: int, context: Optional[TaskContext], max_payload: int
    ) -> None:
        #: Tasks whose handler has not returned: they hold their slots.
        self.active: Dict[Task, None] = {}
        self._given = executor
        self._context = context
        self._max_payload = max_payload
        self._here = True
        self._threads: List[threading.Thread] = []
        if executor is None:
            self._executor: Executor = ThreadPoolExecutor(
                capacity, thread_name_prefix="n8nrunner-pool", initializer=self._note_thread
            )
        else:
            self._executor = executor

    def _note_thread(self) -> None:
        self._threads.append(threading.current_thread())

    def warm_up(self) -> None:
        """Gets a given executor going, and finds out whether it runs in this process.

        Raises:
            ExecutorBroken: it does not run anything, or only in the thread that asks it to.
        """
        if self._given is None:
            return
        try:
            where = self._executor.submit(_where).result(WARM_UP)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            if isinstance(error, concurrent.futures.TimeoutError):
                reason = f"not within {WARM_UP:g} s"
            raise ExecutorBroken(f"the executor that was passed runs nothing: {reason}") from error
        here = _where()
        if where == here:
            # Handlers would hold up the thread that serves the connections.
            raise ExecutorBroken("the executor that was passed runs tasks in the thread that submits them")
        self._here = where[:2] == here[:2]

    @property
    def is_current(self) -> bool:
        """Whether the calling thread is inside a handler of this pool."""
        return getattr(_inside, "pool", None) is self

    def submit(self, handler: Handler, task: Task, ended: Ended) -> None:
        """Runs `handler`; `ended` is called once, whatever happens."""
        self.active[task] = None
        try:
            if self._here:
                future = self._executor.submit(self._run, handler, task, ended)
                if self._given is not None:
                    future.add_done_callback(lambda future: self._check(future, task, ended))
            else:
                remote = self._executor.submit(invoke, handler, task, self._context, self._max_payload)
                remote.add_done_callback(lambda future: self._end_remote(future, task, ended))
        except Exception as error:  # noqa: BLE001 - a broken or shut-down executor of any library
            self._end(task, _broken(task, error), ended)

    def _run(self, handler: Handler, task: Task, ended: Ended) -> None:
        _inside.pool = self
        try:
            answer = invoke(handler, task, self._context, self._max_payload)
        except BaseException as error:  # noqa: BLE001 - such as MemoryError: the slot must come back
            answer = failure(task, f"The runner could not finish the task: {type(error).__name__}")
        finally:
            _inside.pool = None
        self._end(task, answer, ended)

    def _check(self, future: Future[None], task: Task, ended: Ended) -> None:
        """A given executor may drop what it took: cancelled in its queue, or its worker gone."""
        if future.cancelled():
            self._end(task, _broken(task, None), ended)
        elif future.exception() is not None:
            self._end(task, _broken(task, future.exception()), ended)

    def _end_remote(self, future: Future[Answer], task: Task, ended: Ended) -> None:
        if future.cancelled():
            answer = _broken(task, None)
        elif future.exception() is not None:
            answer = _broken(task, future.exception())
        else:
            answer = future.result()
        self._end(task, answer, ended)

    def _end(self, task: Task, answer: Answer, ended: Ended) -> None:
        if self.active.pop(task, task) is None:
            ended(task, answer)

    def shut_down(self) -> None:
        """No more tasks. Waits for nothing; our own threads end when their handlers return."""
        if self._given is None:
            self._executor.shutdown(wait=False)

    def join(self, deadline: Deadline) -> List[str]:
        """Waits for our own threads.

        Returns:
            What still runs at the end: ids and types of tasks.
        """
        for thread in list(self._threads):
            if thread is not threading.current_thread():
                thread.join(deadline.remaining())
        return [f"{task.id} ({task.type})" for task in list(self.active)]


def _broken(task: Task, error: Optional[BaseException]) -> Answer:
    what = "it dropped the task" if error is None else f"{type(error).__name__}: {error}"
    logger.error("The executor did not run task %s: %s", task.id, what)
    return failure(task, f"{ExecutorBroken.__name__}: the runner's executor did not run the task", what)
