"""The runner of a run: a program that keeps a book of what its handlers did.

`python -m tests.faults.work URL,URL,... BOOK CAPACITY` appends one line of JSON to the file BOOK for each of
these:

- `{"begun": number, "task": id}`: a handler was called;
- `{"ended": number, "task": id, "raised": ...}`: it returned or raised;
- `{"undelivered": id, "certain": ...}`: `on_undelivered` was called.

A line on standard input stops the runner. Then one line of notes is printed, a JSON object:

- `stopped_in`: seconds that `stop()` took;
- `state`: the runner's, and `error`;
- `taken`: slots that were still taken;
- `threads_left`, `descriptors_left`: as in `tests.benchmarks.contestants.package`;
- `complaints`: records of n8nrunner's loggers of level ERROR and above, except for those about tasks;
- `memory`: megabytes of the process before its first task ("begin"), in the end, after a collection of
  garbage, and after the allocator gave back what it could; and those of Python's objects, each time.
"""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import os
import sys
import threading
import time
import zlib
from typing import Any

from n8nrunner import Runner, Task, TaskError, Undelivered

TASK_TYPE = "work"
NAME = "faults"
TOKEN = "secret-of-the-faults"
RAISED = "raised on purpose"
GRACE = 5.0


class Book:
    """The book: a line is in the file when `write` returns, even if the process is killed then."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, **line: Any) -> None:
        os.write(self._file, json.dumps(line).encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)


class Complaints(logging.Handler):
    """Keeps what n8nrunner logs as an error of its own."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name != "n8nrunner.tasks":
            self.lines.append(logging.Formatter().format(record)[:3000])


def answer(settings: dict[str, Any]) -> dict[str, Any]:
    """Return what the handler returns for these settings; the caller compares it."""
    return {"n": settings["n"], "crc": zlib.crc32(settings["text"].encode()), "text": "o" * settings["out"]}


def handle(task: Task) -> Any:
    settings = task.settings
    if settings["do"] == "raise":
        raise TaskError(RAISED, str(settings["n"]))
    if settings["do"] == "wait":
        task.wait_for_cancel(settings["seconds"])
    else:
        time.sleep(settings["seconds"])
    if settings["do"] == "call":
        task.request_data()
    return answer(settings)


def megabytes(process: int | str = "self") -> float:
    """Return the memory that a process occupies."""
    with open(f"/proc/{process}/status") as status:
        for line in status:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    return 0.0


def megabytes_of_objects() -> float:
    """Return the size of all containers and of what they hold; the collector does not track text itself."""
    seen = {}
    for container in gc.get_objects():
        seen[id(container)] = sys.getsizeof(container)
        for inner in gc.get_referents(container):
            seen[id(inner)] = sys.getsizeof(inner)
    return sum(seen.values()) / 1024 / 1024


def memory_at_end() -> dict[str, float]:
    memory = {"end": megabytes(), "objects": megabytes_of_objects()}
    gc.collect()
    memory["collected"] = megabytes()
    memory["objects collected"] = megabytes_of_objects()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
        memory["trimmed"] = megabytes()
    return memory


def main(urls: list[str], book_path: str, capacity: int) -> None:
    complaints = Complaints()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("n8nrunner").addHandler(complaints)
    book = Book(book_path)

    def undelivered(result: Undelivered) -> None:
        book.write(undelivered=result.task_id, certain=result.certain)

    descriptors = len(os.listdir("/proc/self/fd"))
    runner = Runner(
        urls,
        auth_token=TOKEN,
        name=NAME,
        capacity=capacity,
        graceful_shutdown_timeout=GRACE,
        on_undelivered=undelivered,
    )

    @runner.task(TASK_TYPE)
    def work(task: Task) -> Any:
        number = task.settings["n"]
        book.write(begun=number, task=task.id)
        raised = True
        try:
            result = handle(task)
            raised = False
            return result
        finally:
            book.write(ended=number, task=task.id, raised=raised)

    runner.start(wait=60)
    memory = {"begin": megabytes(), "objects begin": megabytes_of_objects()}
    print(json.dumps({"state": runner.state}), flush=True)
    sys.stdin.readline()
    begun = time.monotonic()
    runner.stop()
    notes = {
        "stopped_in": time.monotonic() - begun,
        "state": runner.state,
        "error": None if runner.error is None else str(runner.error),
        "taken": runner.snapshot().taken,
        "counts": runner.snapshot().counts._asdict(),
        "threads_left": [thread.name for thread in threading.enumerate() if thread.name != "MainThread"],
        "descriptors_left": len(os.listdir("/proc/self/fd")) - descriptors,
        "complaints": complaints.lines,
        "memory": {**memory, **memory_at_end()},
    }
    book.close()
    print(json.dumps(notes), flush=True)


if __name__ == "__main__":
    main(sys.argv[1].split(","), sys.argv[2], int(sys.argv[3]))
