"""Runs handlers, on threads of the pool or on an executor.

Every task ends, wherever an exception interrupts the pool: a `_Job` notes how far its task has come. `on_end`
may be called more than once for a task; its caller ignores all calls but the first.

The links' thread submits and cancels. The pool's threads, or those of an executor, run and end the jobs; the
thread that replaces an executor submits those that wait.
"""

from __future__ import annotations

import contextlib
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
from n8nrunner.execution.invoke import Answer, Handler, error_text, facts_of, failure, invoke, log_prefix
from n8nrunner.execution.threads import Threads
from n8nrunner.hooks import Around, Hooks
from n8nrunner.logs import describe, task_logger
from n8nrunner.task import ActiveTask

#: Called when a task has ended, on any thread. It only posts.
OnEnd = Callable[[ActiveTask, Answer], None]

#: How often `on_end` is called while it raises.
_TRIES = 5

_inside = threading.local()


def _clock_name() -> str:
    """Return the name of this machine's monotonic clock. Processes with the same name share the clock."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except (OSError, ValueError):
        return platform.node()  # macOS and Windows: one clock for each machine


def _for_process(handler: Handler, task: ActiveTask) -> Handler:
    """Return a handler for one task, to be pickled: without the functions that the task does not call."""
    make: Callable[[ActiveTask], Handler] | None = getattr(handler, "for_process", None)
    return handler if make is None else make(task)


def _invoke_elsewhere(
    handler: Handler, task: ActiveTask, around: Around, max_payload: int, clock: str
) -> Answer:
    """Run a task in another process, unless its time limit passed while it waited for the process."""
    if time.monotonic() >= task.deadline and clock == _clock_name():
        return _not_run(task, "its time limit had passed before a process was free for it")
    return invoke(handler, task, around, max_payload)


class _Job:
    """A task on its way through a pool.

    Attributes:
        around: the application's functions around the task, as they are when it is submitted.
        started: whether the handler may have begun.
        answer: the answer, once it is known.
        has_ended: whether `on_end` has returned.
    """

    __slots__ = ("answer", "around", "handler", "has_ended", "on_end", "started", "task")

    def __init__(self, handler: Handler, task: ActiveTask, on_end: OnEnd, around: Around) -> None:
        self.around = around
        self.handler = handler
        self.task = task
        self.on_end = on_end
        self.answer: Answer | None = None
        self.started = self.has_ended = False


class TaskPool:
    """Runs handlers, and knows which of them have not returned.

    In this process each task runs in a new copy of the context (`contextvars`) in which the pool was built.

    Args:
        executor: the caller's executor, or a function that makes one, or None for threads of the pool.
        capacity: how many tasks run at once. Without an executor, the pool has that many threads.
        hooks: the application's functions around tasks. It may be replaced; running tasks keep theirs.
        max_payload: bytes that an answer may have.
        listener: learns when the executor breaks and when it has been replaced.
    """

    def __init__(
        self,
        executor: ExecutorOrFactory | None,
        capacity: int,
        hooks: Hooks,
        max_payload: int,
        listener: Listener,
    ) -> None:
        #: Tasks whose handler has not returned. They hold their slots.
        self.active: dict[ActiveTask, None] = {}
        self.hooks = hooks
        self._max_payload = max_payload
        self._start_context = StartContext()
        self._is_shut_down = False
        self._workers: Threads[_Job] | _ExecutorJobs
        if executor is None:
            self._workers = Threads(capacity, self._run, "n8nrunner-pool", self._enter)
        else:
            self._workers = _ExecutorJobs(self, executor, capacity, listener)

    def renew_context(self) -> None:
        """Run later handlers in the calling thread's context, as it is now."""
        self._start_context = StartContext()

    def warm_up(self) -> None:
        """Start the threads of the pool, or let the executor run a first function.

        Raises:
            ExecutorBroken: no thread can be started, or the executor does not run anything, or runs it in the
                thread that submits it.
        """
        self._workers.start()

    @property
    def is_in_process(self) -> bool:
        """Whether handlers run in this process. Known after `warm_up`."""
        return isinstance(self._workers, Threads) or self._workers.is_in_process

    @property
    def is_current(self) -> bool:
        """Whether the calling thread is inside a handler of this pool."""
        return getattr(_inside, "pool", None) is self

    def submit(self, handler: Handler, task: ActiveTask, on_end: OnEnd) -> None:
        """Run a handler. `on_end` is called when it has returned or cannot run."""
        self.active[task] = None
        job = _Job(handler, task, on_end, self.hooks.around)
        if self._is_shut_down:
            self._end(job, _not_run(task))
        else:
            self._workers.put(job)

    def shut_down(self) -> None:
        """Accept no more tasks. Wait for nothing: the pool's threads end when their handlers return."""
        self._is_shut_down = True
        self._workers.end()

    def join(self, deadline: Deadline) -> list[str]:
        """Wait for the threads of the pool. Return the tasks whose handlers have not returned, as text."""
        self._workers.join(deadline)
        return [task.describe() for task in list(self.active)]

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
            return invoke(job.handler, job.task, job.around, self._max_payload)
        except BaseException as error:  # noqa: BLE001 - such as MemoryError: n8n must be told
            return failure(job.task, f"The runner could not finish the task: {type(error).__name__}")

    def _end(self, job: _Job, answer: Answer) -> None:
        """End a job, unless it has ended. If this is interrupted, call it again."""
        self.active.pop(job.task, None)
        tries = 0
        while not job.has_ended:
            try:
                job.on_end(job.task, answer)
                job.has_ended = True
            except BaseException as error:  # noqa: BLE001 - from outside, or MemoryError
                tries += 1
                if tries >= _TRIES:
                    job.has_ended = True
                    what = type(error).__name__
                    facts = facts_of(job.task)
                    task_logger.error("%s: its end was lost: %s", log_prefix(job.task), what, extra=facts)


class _ExecutorJobs:
    """The jobs of a pool with an executor. It runs and ends them with the pool's methods."""

    def __init__(
        self, pool: TaskPool, executor: ExecutorOrFactory, capacity: int, listener: Listener
    ) -> None:
        self._pool = pool
        self._holder = ExecutorHolder(executor, capacity, listener, self._submit_waiting)
        self._clock = ""
        # Jobs that no thread has begun. The thread that removes a job runs it or ends it.
        self._unclaimed: dict[_Job, None] = {}
        # Those of them that wait until a broken executor has been replaced.
        self._waiting: deque[_Job] = deque()

    @property
    def is_in_process(self) -> bool:
        """Whether the executor runs tasks in this process."""
        return self._holder.is_in_process

    def start(self) -> None:
        """Start the executor. Raises `ExecutorBroken`."""
        self._clock = _clock_name()
        self._holder.start()

    def end(self) -> None:
        """Shut an executor of the runner down, and end the jobs that wait for one. Wait for nothing."""
        self._holder.shut_down()
        self._submit_waiting()

    def join(self, deadline: Deadline) -> None:
        """Do nothing: the processes or threads are the executor's."""

    def put(self, job: _Job) -> None:
        """Submit a job to the executor, or keep it until there is one."""
        holder, task, executor = self._holder, job.task, self._holder.executor
        if task.cancelled or self._pool._is_shut_down:
            self._pool._end(job, _not_run(task))
            return
        self._unclaimed[job] = None
        if executor is None:
            self._wait(job)
            return
        in_process = holder.is_in_process
        try:
            future: Future[Answer | None]
            if in_process:
                future = executor.submit(self._run, job)
            else:
                handler, max_payload = _for_process(job.handler, task), self._pool._max_payload
                future = executor.submit(
                    _invoke_elsewhere, handler, task, job.around, max_payload, self._clock
                )
            holder.note_accepted()
            self._watch(job, future, in_process, executor)
        except BaseException as error:  # noqa: BLE001 - a broken or shut-down executor of any library
            if holder.may_wait_after(executor, error):
                self._wait(job)
                return
            # An executor may queue the task and raise afterwards, such as for lack of threads.
            queued = None if in_process else _future_of(executor, task)
            if queued is not None and not queued.cancel():
                self._watch(job, queued, in_process, executor)  # a process has it already
            elif self._claim(job):
                self._pool._end(job, _broken(task, error))

    def _wait(self, job: _Job) -> None:
        """Keep a job until there is an executor again."""
        job.task.on_cancel(lambda: self._cancel(job))
        self._waiting.append(job)
        if self._holder.executor is not None or self._pool._is_shut_down:
            self._submit_waiting()

    def _submit_waiting(self) -> None:
        """Submit the jobs that wait for an executor. If it breaks, the rest waits for the next one."""
        while self._waiting and (self._holder.executor is not None or self._pool._is_shut_down):
            try:
                job = self._waiting.popleft()
            except IndexError:  # another thread was faster
                return
            if self._claim(job):
                self.put(job)

    def _claim(self, job: _Job) -> bool:
        """Return whether the caller may run the job, or end it without a run. True once for each job."""
        return self._unclaimed.pop(job, job) is None

    def _run(self, job: _Job) -> None:
        """Run a job, on a thread of the executor."""
        if not self._claim(job):
            return
        _inside.pool = self._pool
        try:
            self._pool._run(job)
        finally:
            _inside.pool = None
        self._holder.note_success()

    def _watch(self, job: _Job, future: Future[Answer | None], in_process: bool, executor: Executor) -> None:
        job.task.on_cancel(lambda: self._cancel(job, future, in_process))
        future.add_done_callback(lambda future: self._future_done(job, future, in_process, executor))

    def _cancel(
        self, job: _Job, future: Future[Answer | None] | None = None, in_process: bool = True
    ) -> None:
        """End a cancelled job that no thread or process has begun, on the thread that cancels it."""
        is_claimed = in_process and self._claim(job)
        is_withdrawn = False
        if future is not None and (is_claimed or not in_process):
            with contextlib.suppress(Exception):  # a future of any library
                is_withdrawn = future.cancel()
        if (is_claimed or is_withdrawn) and not job.has_ended:
            self._pool._end(job, _not_run(job.task))

    def _future_done(
        self, job: _Job, future: Future[Answer | None], in_process: bool, executor: Executor
    ) -> None:
        """End a job that the executor has finished, cancelled, or lost with a process."""
        is_claimed = self._claim(job)
        if job.has_ended:
            return
        task, answer = job.task, job.answer
        try:
            error = None if future.cancelled() else future.exception()
            if error is not None:
                self._holder.note_failed(executor, error)
                answer = answer or _broken(task, error)
            elif not in_process and not future.cancelled():
                answer = future.result()
                self._holder.note_success()
            elif is_claimed:
                answer = _not_run(task) if task.cancelled else _broken(task, "it dropped the task")
        except BaseException as error:  # noqa: BLE001 - a future of any library
            answer = _broken(task, error)
        if answer is not None:  # otherwise it still runs
            self._pool._end(job, answer)


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
    task_logger.info("%s did not run: %s", log_prefix(task), why, extra=facts_of(task))
    return failure(task, f"The task did not run: {why}")


def _broken(task: ActiveTask, error: BaseException | str) -> Answer:
    """Return the answer for a task that the executor did not run, because of an error or another reason."""
    reason = shown = error if isinstance(error, str) else error_text(error)
    if isinstance(error, BaseException) and not task.error_details:
        shown = describe(error)  # an error of pickling can quote the task
    message = "%s was not run by the executor: %s"
    task_logger.error(message, log_prefix(task), shown, extra=facts_of(task, outcome="failed"))
    return failure(task, f"{ExecutorBroken.__name__}: the runner's executor did not run the task", reason)
