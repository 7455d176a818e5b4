"""The record of all calls, by function and outcome, from which snapshots are made.

The links' thread writes it, when a task ends or its result is not wanted any more. Any thread reads it,
without a lock: a histogram that is read in the middle of a change lacks a part of one call.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Literal, Protocol

from n8nrunner.execution.invoke import Answer
from n8nrunner.snapshot import BOUNDS, OUTCOMES, CallError, FunctionSnapshot, Histogram, Outcome, OutcomeName
from n8nrunner.task import ActiveTask

#: The number of errors that are kept. The text of one has at most some 70,000 characters.
_KEPT_ERRORS = 50

Kind = Literal["function", "task"]


class _Times:
    """A histogram that grows."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds

    def read(self) -> Histogram:
        return Histogram(BOUNDS, tuple(self.counts), self.sum)


class _Record:
    """The calls of one function, or the tasks of one type."""

    __slots__ = ("outcomes", "queue", "undelivered")

    def __init__(self) -> None:
        self.outcomes: dict[OutcomeName, _Times] = {}
        self.queue = _Times()
        self.undelivered = 0

    def add(self, outcome: OutcomeName, seconds: float) -> None:
        """Add a call. As fast as it can be, for it is called for each."""
        times = self.outcomes.get(outcome)
        if times is None:
            times = self.outcomes[outcome] = _Times()
        times.counts[bisect_left(BOUNDS, seconds)] += 1
        times.sum += seconds

    def read(self, name: str, kind: Kind, running: int) -> FunctionSnapshot:
        outcomes: dict[str, Outcome] = {}
        for outcome in OUTCOMES:
            if outcome in self.outcomes:
                duration = self.outcomes[outcome].read()
                outcomes[outcome] = Outcome(duration.count, duration)
        return FunctionSnapshot(name, kind, outcomes, self.queue.read(), self.undelivered, running)


class Names(Protocol):
    """The names that a runner has registered. Both may be read on any thread."""

    @property
    def task_types(self) -> Collection[str]:
        """The task types with a handler."""

    @property
    def function_names(self) -> Collection[str]:
        """The functions' names."""


class Recorder:
    """Counts and times of the calls of one start of a runner, and its last errors.

    Args:
        registered: the functions and types that are shown before their first call. A node may ask for other
            names; these do not count.
    """

    def __init__(self, registered: Names) -> None:
        self._registered = registered
        self._functions: dict[str, _Record] = {}
        self._types: dict[str, _Record] = {}
        #: The last errors, the latest first. Replaced, never changed in place, because other threads read it.
        self.errors: tuple[CallError, ...] = ()

    # --- for the links' thread --------------------------------------------------------------------

    def note_ended(self, task: ActiveTask, answer: Answer, now: float) -> None:
        """Note that the handler of a task has returned, or cannot run."""
        if task.ending is not None:  # noted then
            return
        if answer.interrupted:
            self.note_cut_short(task, "unfinished", now)
            return
        tally = answer.tally
        if tally is None:
            record = self._types.get(task.type) or self._record_of(task)
            if record is not None:
                record.add("failed" if answer.failed else "done", answer.duration)
        elif tally.again or not tally.function:
            record = None
        else:
            record = self._functions.get(tally.function) or self._new(self._functions, tally.function)
            for seconds in tally.done:
                record.add("failed" if answer.failed else "done", seconds)
            for seconds in tally.failed:
                record.add("failed", seconds)
        if record is not None:
            # Of a handler in another process, the wait is the time that it did not use.
            queue = (task.begun_at or now - answer.duration) - task.started_at
            record.queue.add(queue if queue > 0 else 0.0)
        if answer.failures:
            self._keep_errors(task, answer)

    def note_cut_short(self, task: ActiveTask, outcome: OutcomeName, now: float) -> None:
        """Note that the result of a task is not wanted any more, and why."""
        record = self._record_of(task)
        if record is not None:
            # A handler in another process has its own clock: its time begins with the task's arrival.
            record.add(outcome, now - (task.begun_at or task.started_at))

    def note_undelivered(self, task_type: str, function: str | None) -> None:
        """Note a result that n8n did not get, or may not have got."""
        record = self._types.get(task_type) if function is None else self._functions.get(function)
        if record is not None:
            record.undelivered += 1

    def _record_of(self, task: ActiveTask) -> _Record | None:
        """Return the record of a task without a tally; None if it is for no handler and no known function."""
        if task.type in self._registered.task_types:
            return self._types.get(task.type) or self._new(self._types, task.type)
        name = task.function
        if name is None or name not in self._registered.function_names:
            return None
        return self._functions.get(name) or self._new(self._functions, name)

    @staticmethod
    def _new(records: dict[str, _Record], name: str) -> _Record:
        record = records[name] = _Record()
        return record

    def _keep_errors(self, task: ActiveTask, answer: Answer) -> None:
        name = answer.tally.function if answer.tally is not None else task.function
        errors = self.errors
        at = time.time()
        for failure in answer.failures:
            message, description, traceback = failure.message, failure.description, failure.traceback
            if not task.error_details:
                message, description, traceback = failure.kind, None, None
            error = CallError(
                at,
                name or task.type,
                task.id,
                task.execution_id,
                task.node_name,
                failure.item,
                message,
                description,
                traceback,
            )
            errors = (error, *errors)
        self.errors = errors[:_KEPT_ERRORS]  # at once, so that a snapshot has all errors of a task or none

    # --- for any thread ---------------------------------------------------------------------------

    def functions(self, running: Iterable[ActiveTask] = ()) -> tuple[FunctionSnapshot, ...]:
        """Return the functions and the task types, by name.

        Args:
            running: the tasks whose handlers have not returned.
        """
        registered, active = self._registered, list(running)
        by_function = Counter(task.function for task in active)
        by_type = Counter(task.type for task in active)
        found: list[FunctionSnapshot] = []
        for name in {*registered.function_names, *self._functions}:
            record = self._functions.get(name) or _Record()
            found.append(record.read(name, "function", by_function[name]))
        for name in {*registered.task_types, *self._types}:
            record = self._types.get(name) or _Record()
            found.append(record.read(name, "task", by_type[name]))
        return tuple(sorted(found, key=lambda each: (each.name, each.kind)))
