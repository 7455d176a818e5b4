"""What a runner shares with the whole process: signals, the interpreter's end, fork, imports."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import sys
import threading
from typing import Callable, Iterator, Optional

from n8nrunner import logs

logger = logs.get_logger("n8nrunner")

#: Seconds after which a signal that no wait has noticed is noticed.
_SIGNAL_TURN = 0.5

#: A queue of signals' numbers; None is for the end of the runner.
Signals = queue.SimpleQueue

# --- import ---------------------------------------------------------------------------------------

_importing = False


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """While a command imports a module for its runner only, `start()` and `run()` in it do nothing."""
    global _importing
    _importing = True
    try:
        yield
    finally:
        _importing = False


def is_importing() -> bool:
    """Whether `importing` is in force."""
    return _importing


# --- signals --------------------------------------------------------------------------------------


@contextlib.contextmanager
def signals() -> Iterator[Signals[Optional[int]]]:
    """A queue on which SIGINT and SIGTERM arrive, in the main thread; elsewhere one on which none does.

    The signal's handler only puts: its own thread may hold any lock.
    """
    received: Signals[Optional[int]] = queue.SimpleQueue()
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, lambda number, _: received.put(number)) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def next_signal(received: Signals[Optional[int]]) -> Optional[int]:
    """Waits for a signal's number, or for None."""
    # In turns, because a signal that comes just before a wait begins does not end it; on Windows, none does.
    while True:
        with contextlib.suppress(queue.Empty):
            return received.get(timeout=_SIGNAL_TURN)


def end_process(number: int) -> None:
    """After the second signal: whatever still runs, it is over. Exits with 128 + the signal's number."""
    logger.warning("Ending at once after a second signal")
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(128 + number)


# --- exit and fork --------------------------------------------------------------------------------


def at_exit(callback: Callable[[], None]) -> None:
    """Calls `callback` at the interpreter's end, before it waits for the threads of pools.

    `concurrent.futures` waits for its threads before anything of `atexit` runs. The private hook used here
    runs before that, in reverse order of registration, and `concurrent.futures.thread` has registered its own
    when it was imported. Where the hook is gone, `atexit` has to do.
    """
    import concurrent.futures.thread  # noqa: F401 - its hook has to be there before ours

    register = getattr(threading, "_register_atexit", None)
    if register is None:
        import atexit

        register = atexit.register
    with contextlib.suppress(RuntimeError):  # the interpreter is ending already
        register(callback)


def after_fork_in_child(callback: Callable[[], None]) -> None:
    """Calls `callback` in every child process that is forked from this one, where there is such a thing."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=callback)
