"""Functions whose calls show what works on an executor. Its processes import this module."""

from __future__ import annotations

import contextlib
import contextvars
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from n8nrunner import Call, File, Task

#: Set where the runner is started.
of_the_start = contextvars.ContextVar("of_the_start", default=False)
_entered = contextvars.ContextVar("_entered", default=False)
_hooked: list[str] = []


@contextlib.contextmanager
def context() -> Iterator[None]:
    token = _entered.set(True)
    yield
    _entered.reset(token)


def hook(call: Call) -> None:
    _hooked.append(call.name)


def add(a: int, b: int) -> int:
    return a + b


def read(document: File) -> int:
    return len(document.read())


def write(size: int) -> File:
    return File(bytes(size), "zeros.bin")


def log(task: Task) -> None:
    task.log("seen in the browser")


def around() -> dict:
    return {"context": _entered.get(), "start": of_the_start.get(), "hooks": bool(_hooked)}


def fail() -> None:
    raise ValueError("no such lead")


def wait_for_end(folder: str, task: Task) -> None:
    """Report progress, and then whether the end of the task is noticed."""
    task.progress(0.5, "half way")
    Path(folder, "begun").touch()
    seen = "yes" if task.wait_for_cancel(2) else "no"
    Path(folder, "seen.new").write_text(seen)
    Path(folder, "seen.new").rename(Path(folder, "seen"))


def survive(folder: str) -> str:
    """End the worker process at the first time; report its successor's id at the second."""
    with contextlib.suppress(FileExistsError):
        Path(folder, "killed").touch(exist_ok=False)
        os.kill(os.getpid(), signal.SIGKILL)
        threading.Event().wait(30)  # until the signal ends the process
    return "ran again"


def bystand(folder: str) -> str:
    """Wait until the other process was killed, and a moment longer."""
    while not Path(folder, "killed").exists():
        threading.Event().wait(0.01)  # another process makes the file
    threading.Event().wait(0.5)  # the executor notices the death during that time
    return "undisturbed"


def burn(seconds: float) -> float:
    """Use this much time of a processor."""
    begun = time.thread_time()
    while time.thread_time() - begun < seconds:
        sum(range(1000))
    return seconds


def process_id(loops: int) -> int:
    """Compute for as long as this many loops take, and return the id of this process."""
    work(loops)
    return os.getpid()


def work(loops: int) -> int:
    """Compute for as long as this many loops take."""
    total = 0
    for number in range(loops):
        total += number % 7
    return total
