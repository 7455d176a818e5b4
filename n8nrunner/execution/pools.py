"""Runs handlers, on threads of the pool or on an executor of the caller.

Each task ends exactly once, wherever an exception interrupts the pool. A `_Job` notes how far its task has
come, and `TaskPool._end` can be called again until `on_end` has returned. `on_end` may be called twice then,
so the caller counts the first call.
"""

from __future__ import annotations

import platform
import threading
import time
from collections import deque
from concurrent.futures import Executor, Future
from typing import Callable

from n8nrunner.deadline import Deadline
from n8nrunner.errors import ExecutorBroken
from n8nrunner.execution.contexts import StartContext
from n8nrunner.execution.executors import ExecutorHolder, ExecutorOrFactory, Listener
from n8nrunner.execution.invoke import Answer, Handler, TaskContext, about, error_text, failure, invoke
from n8nrunner.execution.threads import Threads
from n8nrunner.logs import task_logger
from n8nrunner.task import ActiveTask

#: Called when a task has ended, on any thread. It only posts. The first call for a task counts.
OnEnd = Callable[[ActiveTask, Answer], None]

#: How often `on_end` is called while it raises.
_TRIES = 5

_inside = threading.local()


def _clock() -> str:
    """Return the name of this machine's monotonic clock. Processes with the same name share the clock."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except (OSError, ValueError):
        return platform.node()  # macOS and Windows: one clock for each machine


def _invoke_elsewhere(
    handler: Handler, task: ActiveTask, context: TaskContext | None, max_payload: int, clock: str
) -> Answer:
    """Run a task in another process, unless its time limit passed while it waited for the process."""
    if time.monotonic() >= task.deadline and clock == _clock():
        return _not_run(task, "its time limit had passed before a process was free for it")
    return invoke(handler, task, context, max_payload)


class _Job:
    """A task on its way through a pool.

    Attributes:
        started: whether the handler may have begun.
        answer: the answer, once it is known.
        has_ended: whether `on_end` has returned.
        tries: how often `on_end` has raised.
    """

    __slots__ = ("answer", "handler", "has_ended", "on_end", "started", "task", "tries")

    def __init__(self, handler: Handler, task: ActiveTask, on_end: OnEnd) -> None:
        self.handler = handler
        self.task = task
        self.on_end = on_end
        self.answer: Answer | None = None
        self.started = self.has_ended = False
        self.tries = 0


class TaskPool:
    """Runs handlers, and knows which of them have not returned.

    In this process each task runs in a new copy of the context (`contextvars`) in which the pool was built.

    Args:
        executor: the caller's executor, or a function that makes one, or None for threads of the pool.
        capacity: how many tasks run at once. Without an executor, the pool has that many threads.
        context: makes a context manager that is entered around every handler; None for none.
        max_payload: bytes that an answer may have.
        listener: learns when the executor breaks and when it has been replaced.
    """

    def __init__(
        self,
        executor: ExecutorOrFactory | None,
        capacity: int,
        context: TaskContext | None,
        max_payload: int,
        listener: Listener,
    ) -> None:
        #: Tasks whose handler has not returned. They hold their slots.
        self.active: dict[ActiveTask, None] = {}
        self._task_context = context
        self._max_payload = max_payload
        self._start_context = StartContext()
        self._is_shut_down = False
        self._clock = ""
        # Tasks that wait in an executor's queue, or for an executor. The thread that removes a task runs it
        # or ends it.
        self._queued: dict[_Job, None] = {}
        # Tasks that wait until a broken executor has been replaced.
        self._held: deque[_Job] = deque()
        self._threads: Threads[_Job] | None = None
        self._holder: ExecutorHolder | None = None
        if executor is None:
            self._threads = Threads(capacity, self._run, "n8nrunner-pool", self._enter)
        else:
            self._holder = ExecutorHolder(executor, capacity, listener, self._submit_held)

    def warm_up(self) -> None:
        """Start the threads of the pool, or let the executor run a first function.

        Raises:
            ExecutorBroken: no thread can be started, or the executor does not run anything, or runs it in the
                thread that submits it.
        """
        if self._threads is not None:
            self._threads.start()
        if self._holder is not None:
            self._clock = _clock()
            self._holder.start()

    @property
    def is_current(self) -> bool:
        """Whether the calling thread is inside a handler of this pool."""
        return getattr(_inside, "pool", None) is self

    def submit(self, handler: Handler, task: ActiveTask, on_end: OnEnd) -> None:
        """Run a handler. `on_end` is called when it has returned or cannot run. This never raises."""
        self.active[task] = None
        job = _Job(handler, task, on_end)
        if self._holder is not None:
            self._submit_elsewhere(job, self._holder)
        elif self._threads is None or self._is_shut_down:
            self._end(job, _not_run(task))
        else:
            self._threads.put(job)

    # --- on a thread of this process --------------------------------------------------------------

    def _enter(self) -> None:
        """Prepare a thread of the pool, before its first task."""
        _inside.pool = self

    def _run(self, job: _Job) -> None:
        """Run a job and end it. This is called again after an exception that interrupted it."""
        task = job.task
        answer = job.answer
        if answer is None:
            if job.started:
                answer = failure(task, "The runner could not finish the task: an exception interrupted it")
            elif task.cancelled:
                answer = _not_run(task)
            else:
                job.started = True
                answer = self._start_context.run(self._invoke, job)
            job.answer = answer
        self._end(job, answer)

    def _invoke(self, job: _Job) -> Answer:
        try:
            return invoke(job.handler, job.task, self._task_context, self._max_payload)
        except BaseException as error:  # noqa: BLE001 - such as MemoryError: n8n must be told
            return failure(job.task, f"The runner could not finish the task: {type(error).__name__}")

    def _end(self, job: _Job, answer: Answer) -> None:
        """End a job, unless it has ended. If this is interrupted, call it again."""
        self.active.pop(job.task, None)
        while not job.has_ended:
            try:
                job.on_end(job.task, answer)
                job.has_ended = True
            except BaseException as error:  # noqa: BLE001 - from outside, or MemoryError
                job.tries += 1
                if job.tries >= _TRIES:
                    job.has_ended = True
                    task_logger.error("%s: its end was lost: %s", about(job.task), type(error).__name__)

    # --- on an executor of the caller -------------------------------------------------------------

    def _submit_elsewhere(self, job: _Job, holder: ExecutorHolder) -> None:
        executor, task = holder.executor, job.task
        if task.cancelled or self._is_shut_down:
            self._end(job, _not_run(task))
            return
        self._queued[job] = None
        if executor is None:
            self._hold(job, holder)
            return
        here = holder.is_here
        try:
            future: Future[Answer | None]
            if here:
                future = executor.submit(self._run_queued, job)
            else:
                future = executor.submit(
                    _invoke_elsewhere, job.handler, task, self._task_context, self._max_payload, self._clock
                )
            holder.note_accepted()
            self._follow(job, future, here, executor)
        except BaseException as error:  # noqa: BLE001 - a broken or shut-down executor of any library
            if holder.note_refused(executor, error):
                self._hold(job, holder)
                return
            # An executor may queue the task and raise afterwards, such as for lack of threads.
            queued = None if here else _future_of(executor, task)
            if queued is not None and not queued.cancel():
                self._follow(job, queued, here, executor)  # a process has it already
            elif self._claim(job):
                self._end(job, _broken(task, error_text(error)))

    def _follow(self, job: _Job, future: Future[Answer | None], here: bool, executor: Executor) -> None:
        job.task.on_cancel(lambda: self._cancel(job, future, here))
        future.add_done_callback(lambda future: self._check(job, future, here, executor))

    def _hold(self, job: _Job, holder: ExecutorHolder) -> None:
        """Keep a job until there is an executor again."""
        job.task.on_cancel(lambda: self._cancel_held(job))
        self._held.append(job)
        if holder.executor is not None or self._is_shut_down:
            self._submit_held()

    def _submit_held(self) -> None:
        """Submit the jobs that wait for an executor. If it breaks, the rest waits for the next one."""
        holder = self._holder
        while self._held and holder is not None and (holder.executor is not None or self._is_shut_down):
            try:
                job = self._held.popleft()
            except IndexError:  # another thread was faster
                return
            if self._claim(job):
                self._submit_elsewhere(job, holder)

    def _cancel_held(self, job: _Job) -> None:
        if self._claim(job):
            self._end(job, _not_run(job.task))

    def _claim(self, job: _Job) -> bool:
        """Return whether the caller may run the job, or end it without a run. True once for each job."""
        return self._queued.pop(job, job) is None

    def _run_queued(self, job: _Job) -> None:
        """Run a job, on a thread of the executor."""
        if not self._claim(job):
            return
        _inside.pool = self
        try:
            self._run(job)
        finally:
            _inside.pool = None
        if self._holder is not None:
            self._holder.note_success()

    def _cancel(self, job: _Job, future: Future[Answer | None], here: bool) -> None:
        """End a cancelled job that its executor has not begun, on the thread that cancels it."""
        is_claimed = here and self._claim(job)
        try:
            withdrawn = (is_claimed or not here) and future.cancel()
        except Exception:  # noqa: BLE001 - a future of any library
            withdrawn = False
        if is_claimed or withdrawn:
            self._end(job, _not_run(job.task))

    def _check(self, job: _Job, future: Future[Answer | None], here: bool, executor: Executor) -> None:
        """End a job that the executor has finished, cancelled, or lost with a process."""
        is_claimed = self._claim(job)
        if job.has_ended:
            return
        task, holder, answer = job.task, self._holder, job.answer
        try:
            if future.cancelled():
                if is_claimed:
                    answer = _not_run(task) if task.cancelled else _broken(task, "it dropped the task")
            elif future.exception() is not None:
                if holder is not None:
                    holder.note_failed(executor, future.exception())
                answer = answer or _broken(task, error_text(future.exception()))
            elif not here:
                answer = future.result()
                if holder is not None:
                    holder.note_success()
            elif is_claimed:
                answer = _broken(task, "it dropped the task")
        except BaseException as error:  # noqa: BLE001 - a future of any library
            answer = _broken(task, error_text(error))
        if answer is not None:  # otherwise it still runs
            self._end(job, answer)

    # --- the end ----------------------------------------------------------------------------------

    def shut_down(self) -> None:
        """Accept no more tasks. Wait for nothing: the pool's threads end when their handlers return."""
        self._is_shut_down = True
        if self._threads is not None:
            self._threads.end()
        if self._holder is not None:
            self._holder.shut_down()
            self._submit_held()  # which ends them now

    def join(self, deadline: Deadline) -> list[str]:
        """Wait for the threads of the pool. Return the tasks whose handlers have not returned, as text."""
        if self._threads is not None:
            self._threads.join(deadline)
        return [task.describe() for task in list(self.active)]


def _future_of(executor: Executor, task: ActiveTask) -> Future[Answer | None] | None:
    """Return the future of a task that a `ProcessPoolExecutor` has queued although its `submit` raised."""
    pending = getattr(executor, "_pending_work_items", None)
    for item in list(pending.values()) if isinstance(pending, dict) else ():
        future = getattr(item, "future", None)
        if isinstance(future, Future) and any(argument is task for argument in getattr(item, "args", ())):
            return future
    return None


def _not_run(task: ActiveTask, reason: str | None = None) -> Answer:
    """Return the answer for a task that ended before its handler began."""
    why = reason or task.cancel_reason or "the runner has stopped"
    task_logger.info("%s did not run: %s", about(task), why)
    return failure(task, f"The task did not run: {why}")


def _broken(task: ActiveTask, reason: str) -> Answer:
    task_logger.error("%s was not run by the executor: %s", about(task), reason)
    return failure(task, f"{ExecutorBroken.__name__}: the runner's executor did not run the task", reason)
