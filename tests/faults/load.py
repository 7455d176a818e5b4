"""Callers that give tasks to brokers, also during faults, and keep a book of the answers."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

from n8nrunner.broker import (
    Broker,
    BrokerNotRunning,
    BrokerTask,
    BrokerTaskError,
    BrokerTaskExpired,
    BrokerTaskLost,
    BrokerTaskTimeout,
)
from n8nrunner.broker.wording import SHUT_DOWN
from n8nrunner.task_types import DESCRIBE

from . import plan, work
from .ledger import CANCELLED, DONE, EXPIRED, FAILED, LOST, TIMED_OUT, WRONG, Request

#: Seconds after which a caller that has been told nothing gives up: beyond all of the broker's time limits.
PATIENCE = 240.0
#: Seconds for which a caller rests that found its broker down, and which pass between two questions.
REST = 0.1
#: Seconds after which a question counts as lost.
QUESTION_TIMEOUT = 5.0

_OUTCOMES = ((BrokerTaskExpired, EXPIRED), (BrokerTaskTimeout, TIMED_OUT), (BrokerTaskLost, LOST))


class Load:
    """Callers of several brokers, each on a thread of its own.

    Args:
        brokers: that get tasks.
        seed: of the tasks, see `plan.settings`.
        callers: how many for each broker.
        large: the share of large tasks, see `plan.settings`.
    """

    def __init__(self, brokers: Sequence[Broker], seed: int, callers: int, large: float = plan.LARGE) -> None:
        #: The outcome of each task that a broker took.
        self.book: list[Request] = []
        self._seed = seed
        self._large = large
        self._numbers = itertools.count()
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        self._waiting: dict[int, BrokerTask] = {}
        self._answered = 0
        self._threads = [
            threading.Thread(target=self._call, args=(broker,), name=f"caller {number} of {broker.port}")
            for broker in brokers
            for number in range(callers)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopping.set()
        with self._changed:
            waiting = list(self._waiting.values())
        if error is not None:
            for task in waiting:
                task.cancel()
        for thread in self._threads:
            thread.join(PATIENCE + 10)

    def in_flight(self) -> int:
        """How many tasks are with a runner now."""
        with self._changed:
            return sum(task.task_id is not None and not task.done() for task in self._waiting.values())

    def wait_for_answers(self, more: int, limit: float) -> None:
        """Wait until that many more tasks have an answer.

        Raises:
            TimeoutError: they have not within `limit` seconds.
        """
        with self._changed:
            target = self._answered + more
            if not self._changed.wait_for(lambda: self._answered >= target, limit):
                raise TimeoutError(f"there were not {more} more answers within {limit:.0f} s")

    def _call(self, broker: Broker) -> None:
        for number in self._own_numbers():
            settings = plan.settings(self._seed, number, self._large)
            request = Request(number)
            try:
                task = broker.submit(work.TASK_TYPE, settings)
            except BrokerNotRunning:
                self._stopping.wait(REST)
                continue
            with self._changed:
                self._waiting[number] = task
            self._note(request, settings, task)
            with self._changed:
                del self._waiting[number]
                self.book.append(request)
                self._answered += request.outcome in (DONE, FAILED)
                self._changed.notify_all()
            self._stopping.wait(plan.pause(self._seed, number))

    def _own_numbers(self) -> Iterator[int]:
        while not self._stopping.is_set():
            yield next(self._numbers)

    def _note(self, request: Request, settings: dict[str, Any], task: BrokerTask) -> None:
        try:
            error = task.error(PATIENCE)
        except TimeoutError:
            return
        request.task_id = task.task_id
        if error is None:
            request.outcome = DONE
            if task.result(0) != work.answer(settings):
                request.outcome, request.detail = WRONG, f"the answer is {task.result(0)!r:.200}"
            return
        request.detail = f"{error.message}: {error.description}"[:500]
        request.outcome = next((outcome for kind, outcome in _OUTCOMES if isinstance(error, kind)), FAILED)
        if request.outcome == LOST and error.message == SHUT_DOWN:
            request.outcome = CANCELLED
        if request.outcome == FAILED and (settings["do"] != "raise" or error.message != work.RAISED):
            request.outcome = WRONG


class Questions:
    """Ask several brokers which runner is there, each on a thread of its own.

    Attributes:
        answered: the number of right answers.
        lost: the number of questions without an answer.
        wrong: the other answers, and errors of the runner.
    """

    def __init__(self, brokers: Sequence[Broker]) -> None:
        self.answered = self.lost = 0
        self.wrong: list[str] = []
        self._stopping = threading.Event()
        self._counting = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(broker,)) for broker in brokers]

    def __enter__(self) -> Questions:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _ask(self, broker: Broker) -> None:
        while not self._stopping.wait(REST):
            try:
                answer = broker.run_task(DESCRIBE, {}, timeout=QUESTION_TIMEOUT)
            except BrokerNotRunning:
                continue
            except (BrokerTaskExpired, BrokerTaskTimeout, BrokerTaskLost):
                with self._counting:
                    self.lost += 1
            except BrokerTaskError as error:
                self.wrong.append(error.message)
            else:
                is_right = (answer["runner"], answer["functionCount"]) == (work.NAME, 0)
                with self._counting:
                    self.answered += is_right
                if not is_right:
                    self.wrong.append(f"{answer!r:.200}")
