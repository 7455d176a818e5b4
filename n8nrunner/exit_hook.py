"""Stops the runners of this process when its program ends, before the executors that their handlers use.

Thread: `note_runner` and `register` run on the caller's, `_stop_at_exit` on the main thread.
"""

from __future__ import annotations

import contextlib
import sys
import weakref
from typing import Protocol

from n8nrunner import process
from n8nrunner.deadline import Deadline
from n8nrunner.errors import RunnerStopped

#: Seconds beyond the grace period that a stop waits for threads and connections to end.
STOP_MARGIN = 0.45


class RunnerLike(Protocol):
    """A runner."""

    @property
    def state(self) -> str: ...


class EngineLike(Protocol):
    """The engine of one start of a runner."""

    grace: float

    def request_stop(self, grace: float) -> None: ...

    def log_exit(self) -> None: ...

    def join(self, deadline: Deadline) -> None: ...


#: The engines that run. They are stopped when the threads of the application have ended.
engines: set[EngineLike] = set()

#: The runners of this process. While one is new or runs, the hook waits for the threads of the application.
runners: weakref.WeakSet[RunnerLike] = weakref.WeakSet()

#: Whether `concurrent.futures.process` had been imported when the hook was registered; None before that.
_is_after_processes: bool | None = None
_is_ending = False


def note_runner(runner: RunnerLike) -> None:
    """Register the hook for a runner that has been built."""
    runners.add(runner)
    with contextlib.suppress(RunnerStopped):
        register()


def register() -> None:
    """Register the hook. Register it again after a process pool was imported: hooks run in reverse order.

    Raises:
        RunnerStopped: the main thread has ended, so that the hook would not be called.
    """
    global _is_after_processes
    has_processes = "concurrent.futures.process" in sys.modules
    is_new = _is_after_processes is not has_processes
    if _is_ending or (is_new and not process.at_exit(_stop_at_exit)):
        raise RunnerStopped("the program is ending, so the runner cannot be started")
    _is_after_processes = has_processes


def _is_any_needed() -> bool:
    return bool(engines) or any(runner.state in ("new", "running") for runner in list(runners))


def _stop_at_exit() -> None:
    """Stop the engines that run, when all threads of the application have ended."""
    global _is_ending
    try:
        process.wait_for_threads(_is_any_needed)
    finally:
        _is_ending = True
        ending = list(engines)
        for engine in ending:
            engine.request_stop(engine.grace)
        for engine in ending:
            engine.log_exit()
        for engine in ending:
            engine.join(Deadline(engine.grace + STOP_MARGIN))


def _after_fork_in_child() -> None:
    global _is_ending
    _is_ending = False
    engines.clear()


process.after_fork_in_child(_after_fork_in_child)
