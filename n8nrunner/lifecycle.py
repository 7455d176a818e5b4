"""The state of a runner from one start to its end, and the threads that wait for it to change."""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Collection
from typing import Callable

from n8nrunner import logs
from n8nrunner.deadline import Deadline
from n8nrunner.errors import N8nRunnerError
from n8nrunner.logs import logger

#: Time that `wait_stopped` waits beyond the grace period, in seconds.
_STOP_LIMIT = 10.0


class RunnerState(enum.Enum):
    """The states of a runner."""

    NEW = "new"  #: built, and not started in this process
    STARTING = "starting"  #: its threads are being started
    RUNNING = "running"
    STOPPING = "stopping"  #: it offers nothing; running tasks have the grace period
    STOPPED = "stopped"
    FAILED = "failed"  #: `Lifecycle.error` ended it
    FORKED = "forked"  #: in a child process: the runner's threads are in the parent process


#: Every transition.
_NEXT: dict[RunnerState, tuple[RunnerState, ...]] = {
    # A stop that comes while threads are started waits for RUNNING, or ends the start with an exception.
    RunnerState.STARTING: (RunnerState.RUNNING, RunnerState.STOPPED, RunnerState.FAILED),
    RunnerState.RUNNING: (RunnerState.STOPPING,),
    RunnerState.STOPPING: (RunnerState.STOPPED, RunnerState.FAILED),
}


class Lifecycle:
    """The life of a runner from one start on. For any thread.

    Args:
        state: the first state. A `Lifecycle` that begins as NEW or FORKED stays so: each start has its own.
        brokers: the keys of all brokers.
        is_registered: returns whether one of them knows the runner now.
        gives_up: see the attribute.

    Attributes:
        error: the first error that ended the runner or ends it; None if it runs or was stopped.
        gives_up: whether the runner ends when every broker refuses the token before a registration.
        started_at: the moment of `time.monotonic()` at which the start began.
        stopping_at: the moment of the first request to stop; None before.
        ended_at: the moment at which the runner ended; None before.
    """

    def __init__(
        self,
        state: RunnerState = RunnerState.STARTING,
        brokers: Collection[int] = (),
        is_registered: Callable[[], bool] = lambda: False,
        gives_up: bool = True,
    ) -> None:
        self.error: N8nRunnerError | None = None
        self.gives_up = gives_up
        self.started_at = time.monotonic()
        self.stopping_at: float | None = None
        self.ended_at: float | None = None
        self._any_registered = is_registered
        self._state = state
        self._brokers = brokers
        self._starter = threading.get_ident()
        self._stop_until: float | None = None
        self._ever_registered = False
        self._refused: dict[int, N8nRunnerError] = {}
        self._when_registered: list[Callable[[], None]] = []
        self._when_ended: list[Callable[[], None]] = []
        # Guards all changes. Only `_any_registered` is called under it. Its lock is reentrant, because a
        # signal handler may call `Runner.stop` at any point of the main thread.
        self._changed = threading.Condition(threading.RLock())

    # --- the state --------------------------------------------------------------------------------

    @property
    def state(self) -> RunnerState:
        """The state now."""
        return self._state

    @property
    def is_registered(self) -> bool:
        """Whether a broker knows the runner now."""
        return self._any_registered()

    @property
    def is_alive(self) -> bool:
        """Whether the runner has been started and has not ended."""
        return self._state in (RunnerState.STARTING, RunnerState.RUNNING, RunnerState.STOPPING)

    @property
    def is_stop_requested(self) -> bool:
        """Whether the runner stops, or will stop as soon as it has started."""
        return self._stop_until is not None

    @property
    def is_starter(self) -> bool:
        """Whether the calling thread is starting the runner, so that it cannot wait for the start."""
        return self._state is RunnerState.STARTING and threading.get_ident() == self._starter

    def _enter(self, state: RunnerState) -> None:
        """Enter a state if a transition leads to it."""
        with self._changed:
            if state in _NEXT.get(self._state, ()):
                self._state = state

    def note_running(self) -> None:
        """Note that all threads have been started."""
        with self._changed:
            self._enter(RunnerState.RUNNING)
            if self.is_stop_requested:
                self._enter(RunnerState.STOPPING)
            self._changed.notify_all()

    def request_stop(self, until: float) -> None:
        """Note that the runner has to stop, with a grace period until `until` on the monotonic clock.

        A later request can only shorten the grace period.
        """
        # The moment comes before the state: a signal handler may call this in the middle of `note_running`.
        # It may also have interrupted a `notify_all`, so this does not notify. No thread waits for STOPPING.
        with self._changed:
            self.stopping_at = self.stopping_at or time.monotonic()
            self._stop_until = until if self._stop_until is None else min(self._stop_until, until)
            self._enter(RunnerState.STOPPING)

    def fail(self, error: N8nRunnerError) -> bool:
        """Note the error that ends the runner, if it is alive. Return whether it is."""
        with self._changed:
            if self.is_alive:
                self.error = self.error or error
                self._changed.notify_all()
            return self.is_alive

    def note_ended(self) -> None:
        """Note the end, and call the functions of `on_ended`. A second call does nothing."""
        with self._changed:
            self.ended_at = self.ended_at or time.monotonic()
            self._enter(RunnerState.STOPPED if self.error is None else RunnerState.FAILED)
            callbacks, self._when_ended = self._when_ended, []
            self._changed.notify_all()
        for callback in callbacks:
            guarded(callback)

    # --- registration -----------------------------------------------------------------------------

    @property
    def refusal(self) -> N8nRunnerError | None:
        """The first refusal, if every broker refused the token before any registration; otherwise None."""
        if self._ever_registered or not self._refused.keys() >= set(self._brokers):
            return None
        return next(iter(self._refused.values()), None)

    @property
    def start_raises_refusals(self) -> bool:
        """Whether `start` or `run` raises a refusal of the token, so that it is not logged."""
        return self.gives_up and not self._ever_registered

    def note_brokers(self, brokers: Collection[int]) -> None:
        """Note the keys of all brokers, after one has joined or left."""
        with self._changed:
            self._brokers = brokers
            self._refused = {key: error for key, error in self._refused.items() if key in brokers}
            self._changed.notify_all()

    def note_registered(self, broker: int) -> None:
        """Note that a broker has registered the runner."""
        with self._changed:
            self._ever_registered = True
            self._refused.pop(broker, None)
            callbacks, self._when_registered = self._when_registered, []
            self._changed.notify_all()
        for callback in callbacks:
            callback()

    def note_refused(self, broker: int, error: N8nRunnerError, is_final: bool) -> bool:
        """Note that a broker has refused the token.

        If `is_final`, the runner ends in any case. Return whether it ends because of `error`.
        """
        with self._changed:
            self._refused[broker] = error
            is_final = is_final or (self.gives_up and self.refusal is not None)
            if is_final:
                self.fail(error)
            self._changed.notify_all()
        return is_final

    def give_up_when_refused(self) -> bool:
        """From now on, end if every broker refuses the token before the first registration.

        Return whether every broker has refused it already.
        """
        with self._changed:
            self.gives_up = True
            return self.refusal is not None and self.fail(self.refusal)

    # --- waiting ----------------------------------------------------------------------------------

    def on_registered(self, callback: Callable[[], None]) -> None:
        """Call `callback` at the first registration, on the links' thread, or at once if it is over.

        The callback must not wait.
        """
        with self._changed:
            if not self._ever_registered:
                self._when_registered.append(callback)
                return
        callback()

    def on_ended(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the runner ends, on the links' thread, or at once if it has ended."""
        with self._changed:
            if self.is_alive:
                self._when_ended.append(callback)
                return
        callback()

    def wait_started(self) -> None:
        """Wait until the start on another thread has succeeded or failed."""
        with self._changed:
            self._changed.wait_for(lambda: self._state is not RunnerState.STARTING)

    def wait_registered(self, deadline: Deadline, until_refused: bool = False) -> bool:
        """Wait until a broker has registered the runner, and return whether one has.

        Return False when the runner ends or, if `until_refused`, when every broker has refused the token.
        """

        def is_settled() -> bool:
            return (
                not self.is_alive
                or self.error is not None
                or self.is_registered
                or (until_refused and self.refusal is not None)
            )

        with self._changed:
            self._changed.wait_for(is_settled, deadline.remaining())
        return self.error is None and self.is_registered

    def wait_ended(self, timeout: float | None) -> bool:
        """Wait until the runner has ended, for at most `timeout` seconds. Return whether it has."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.is_alive, timeout)

    def wait_stopped(self) -> bool:
        """Wait for the end of a requested stop, for the longest time that it can take.

        Return whether the runner has ended.
        """
        grace = 0.0 if self._stop_until is None else max(0.0, self._stop_until - time.monotonic())
        return self.wait_ended(grace + _STOP_LIMIT)


def guarded(step: Callable[[], object]) -> None:
    """Run a step whose failure must not keep the next one from running."""
    try:
        step()
    except BaseException as error:  # noqa: BLE001 - logged
        logger.error("Could not end cleanly: %s\n%s", logs.describe(error), logs.frames_of(error))
