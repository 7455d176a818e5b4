"""Signals, the end of the interpreter, and fork: the things that a runner shares with its whole process."""

from __future__ import annotations

import _thread
import atexit
import contextlib
import logging
import math
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Callable, Optional

from n8nrunner.logs import logger

#: Seconds after which a signal that did not end a wait is noticed.
_SIGNAL_POLL = 0.5

#: Seconds after which the end of the application's threads is noticed, if the first of them still lives.
_THREADS_POLL = 0.2

#: Seconds that a process which is ended by force gets to write its last output.
_LAST_OUTPUT = 0.5

# --- output that may block ------------------------------------------------------------------------

#: A lock for each call of `run_detached`, released when its work is done.
_detached: list[_thread.LockType] = []


def run_detached(work: Callable[[], object], wait: float = 0.0) -> bool:
    """Do work on another thread, because it may wait for a lock or for a pipe without a reader.

    The calling thread takes no lock, so this works in a signal handler as well. It waits at most `wait`
    seconds for the end of the work, whose exceptions are dropped. Return whether a thread could be started:
    Python 3.12 starts none once the main thread has ended.
    """
    done = _thread.allocate_lock()
    done.acquire()

    def run() -> None:
        try:
            with contextlib.suppress(Exception):
                work()
        finally:
            done.release()

    try:
        _thread.start_new_thread(run, ())
    except RuntimeError:
        return False
    _detached[:] = [other for other in _detached if other.locked()]
    _detached.append(done)
    if wait > 0 and done.acquire(timeout=wait):
        done.release()
    return True


def wait_for_detached() -> bool:
    """Wait at most `_LAST_OUTPUT` seconds for each work of `run_detached`. Return whether all is done."""
    for done in list(_detached):
        if not done.acquire(timeout=_LAST_OUTPUT):
            return False
        done.release()
    return True


# --- signals --------------------------------------------------------------------------------------

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

#: The `signals` blocks of other threads than the main thread.
_elsewhere: set[Signals] = set()

#: Whether the exit hooks run. From then on, Python 3.12 starts no threads.
main_thread_has_ended = False

#: A function that handles a signal.
_Handler = Callable[[int, Optional[FrameType]], object]

#: The installed handlers: the signal's number, the handler, and the handler to put back.
_installed: list[tuple[int, _Handler, _Handler | int]] = []


class Signals:
    """The signals that arrive in a `signals` block. The second one ends the process at once."""

    def __init__(self) -> None:
        self._received: queue.SimpleQueue[int | Callable[[], object] | None] = queue.SimpleQueue()
        self._count = 0
        self._interrupts = False

    def handle(self, number: int, frame: FrameType | None = None) -> None:
        """Handle a signal. This takes no lock, because the interrupted thread may hold any lock."""
        self._count += 1
        if self._count > 1:
            end_process(number)
        self._received.put(number)
        if self._interrupts:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Let the first signal also raise `KeyboardInterrupt` in the block, on the thread that waits.

        It raises at once if a signal has come before.
        """
        self._interrupts = True
        try:
            if self._count:
                raise KeyboardInterrupt
            yield
        finally:
            self._interrupts = False

    def call(self, work: Callable[[], object]) -> None:
        """Let the thread that waits call `work`, which must not raise, and wait on. For any thread."""
        self._received.put(work)

    def end(self) -> None:
        """End a `wait` without a signal, on any thread: the runner has stopped."""
        self._received.put(None)

    def wait(self, timeout: float = math.inf) -> int | None:
        """Wait for a signal, for at most `timeout` seconds. Return its number, or None after `end`."""
        end = time.monotonic() + timeout
        # Waits repeatedly, because a signal right before a wait does not end it; on Windows, no signal does.
        while (left := end - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                received = self._received.get(timeout=min(left, _SIGNAL_POLL))
                if received is None or isinstance(received, int):
                    return received
                received()
        return None


@contextlib.contextmanager
def signals() -> Iterator[Signals]:
    """Receive SIGINT and SIGTERM, in the main thread; in other threads only when the main thread has ended.

    A signal that is ignored stays ignored (`nohup`, a shell's background job), and a handler that C code has
    installed stays in place, because Python cannot put it back.
    """
    received = Signals()
    if threading.current_thread() is not threading.main_thread():
        _elsewhere.add(received)
        try:
            yield received
        finally:
            _elsewhere.discard(received)
        return
    before = len(_installed)
    _install(received.handle)
    try:
        yield received
    finally:
        _restore(before)


def _install(handler: _Handler, instead: _Handler | int | None = None) -> None:
    """Handle SIGINT and SIGTERM. `instead` is put back afterwards, or the present handler if it is None."""
    for number in _STOP_SIGNALS:
        present = signal.getsignal(number)
        if present is not None and present != signal.SIG_IGN:
            _installed.append((number, handler, present if instead is None else instead))
            signal.signal(number, handler)


def _handle_elsewhere(number: int, frame: FrameType | None) -> None:
    for received in list(_elsewhere):
        received.handle(number)
    if not _elsewhere:
        _restore(0)
        os.kill(os.getpid(), number)


def _has_default_handlers() -> bool:
    return all(
        signal.getsignal(number) in (signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler)
        for number in _STOP_SIGNALS
    )


def _restore(count: int) -> None:
    """Put back the earlier handlers of the signals, until only `count` handlers are installed."""
    while len(_installed) > count:
        number, handler, before = _installed.pop()
        if signal.getsignal(number) == handler:
            signal.signal(number, before)


_at_fork = threading.local()


def _before_fork() -> None:
    # A signal between the fork and the child's `_restore` would be lost, so it waits until then.
    _at_fork.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS) if _installed else None


def _after_fork(is_child: bool) -> None:
    global main_thread_has_ended
    if is_child:
        main_thread_has_ended = False
        with contextlib.suppress(ValueError):  # the forking thread does not count as a main thread here
            _restore(0)
    if _at_fork.mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _at_fork.mask)


def end_at_signals() -> None:
    """Let SIGINT and SIGTERM end the process at once, without a traceback, until `signals` is entered.

    For commands, in the main thread, before they import anything slow. The kernel drops signals with the
    default action for process 1, which is the first one of a container, so that process gets a handler.
    """
    if os.getpid() == 1:
        _install(lambda number, frame: end_process(number), signal.SIG_DFL)
    elif signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def end_process(number: int) -> None:
    """End the process at once with exit code 128 + `number`. A signal handler may call this."""

    def say() -> None:
        logger.warning("Ending at once after %s", signal.Signals(number).name)
        logging.shutdown()

    def flush() -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()

    run_detached(say, _LAST_OUTPUT)
    run_detached(flush, _LAST_OUTPUT)
    os._exit(128 + number)


# --- exit and fork --------------------------------------------------------------------------------


def at_exit(callback: Callable[[], None]) -> bool:
    """Call `callback` when the main thread has ended. Return whether it will be called: not after that end.

    `concurrent.futures` shuts its pools down by a function in a private list of `threading`, before `atexit`
    calls anything. The functions in that list are called in reverse order, so `callback` is put after it.
    Without such a list, `atexit` is used.
    """
    import concurrent.futures.thread  # noqa: F401 - this registers its function

    register = getattr(threading, "_register_atexit", atexit.register)
    try:
        register(callback)
    except RuntimeError:
        return False
    return True


def wait_for_threads(is_needed: Callable[[], bool]) -> None:
    """Wait until no thread of the application keeps the program running, or `is_needed` returns False.

    For an exit hook, on the main thread. During the wait, signals reach the `signals` blocks of other
    threads, unless the application handles them.

    Raises:
        KeyboardInterrupt: SIGINT came, and no thread has a `signals` block.
    """
    global main_thread_has_ended
    main_thread_has_ended = True
    before = len(_installed)
    threads = _threads_of_application()
    try:
        if threads and is_needed():
            if _has_default_handlers():
                _install(_handle_elsewhere)
            logger.info(
                "The main thread has ended. The runner goes on until these threads end: %s",
                ", ".join(thread.name for thread in threads),
            )
        while threads and is_needed():
            threads[0].join(_THREADS_POLL)
            threads = _threads_of_application()
    finally:
        _restore(before)


def _threads_of_application() -> list[threading.Thread]:
    """Return the threads for which the interpreter would wait, except those that wait for its end."""
    pools = sys.modules.get("concurrent.futures.thread")
    workers = list(getattr(pools, "_threads_queues", ()))
    frames = sys._current_frames()
    return [
        thread
        for thread in threading.enumerate()
        if not thread.daemon
        and thread is not threading.main_thread()
        and thread is not threading.current_thread()
        and thread not in workers
        and not type(thread).__module__.startswith("concurrent.futures.")
        and not _waits_for_main_thread(frames.get(thread.ident or 0))
    ]


def _waits_for_main_thread(frame: FrameType | None) -> bool:
    """Return whether a thread is in ``threading.main_thread().join()``, which the exit hooks delay."""
    while frame is not None:
        if frame.f_code is threading.Thread.join.__code__:
            return frame.f_locals.get("self") is threading.main_thread()
        frame = frame.f_back
    return False


def after_fork_in_child(callback: Callable[[], None]) -> None:
    """Call `callback` in every child process that is forked from this process, on systems with fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=callback)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=lambda: _after_fork(is_child=False),
        after_in_child=lambda: _after_fork(is_child=True),
    )
