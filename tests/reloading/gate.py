"""Lets a test hold code of a program at one point. It is of another folder, so it stays over all imports."""

from __future__ import annotations

import threading

from tests.conftest import LIMIT

_inside = threading.Semaphore(0)
_open = threading.Semaphore(0)


def wait() -> None:
    """Hold the calling code until the test opens the gate."""
    _inside.release()
    assert _open.acquire(timeout=LIMIT)


def wait_inside() -> None:
    """Wait until code is held."""
    assert _inside.acquire(timeout=LIMIT)


def open_() -> None:
    """Let the code go on."""
    _open.release()
