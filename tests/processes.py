"""Programs as users start them: each in a process of its own, with its output read line by line."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import zipapp
from pathlib import Path
from typing import IO, Any

import n8nrunner

#: Seconds after which a process that should have ended or said something has failed its test.
LIMIT = 30.0


class Program:
    """A running program. Use it as a context manager: it has ended afterwards, also after an exception."""

    def __init__(self, arguments: list[str], env: dict[str, str] | None = None, cwd: Any = None) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("N8N")}
        # Without a buffer, Python writes each part of a printed line separately, and a line of the log can
        # come between two parts.
        environment.pop("PYTHONUNBUFFERED", None)
        environment.update(env or {})
        self.lines: list[str] = []
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.process = subprocess.Popen(
            arguments,
            env=environment,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self._thread = threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True)
        self._thread.start()

    def _read(self, output: IO[str]) -> None:
        for line in output:
            self._queue.put(line)
        self._queue.put(None)

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(LIMIT)
        self._thread.join(LIMIT)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def wait_for(self, text: str) -> str:
        """Read lines until one contains `text`."""
        while True:
            line = self._next()
            assert line is not None, f"ended without {text!r}; it said:\n{self.output}"
            if text in line:
                return line

    def wait(self) -> int:
        """Read the rest, and return the exit code."""
        while self._next() is not None:
            pass
        return self.process.wait(LIMIT)

    def _next(self) -> str | None:
        try:
            line = self._queue.get(timeout=LIMIT)
        except queue.Empty:
            raise AssertionError(f"silent for {LIMIT:g} s; it said:\n{self.output}") from None
        if line is not None:
            self.lines.append(line)
        return line

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def signal(self, number: int) -> None:
        """Send a signal to the program itself, not to its children."""
        self.process.send_signal(number)


def python(*arguments: str, env: dict[str, str] | None = None, cwd: Any = None) -> Program:
    """Start this Python with these arguments."""
    return Program([sys.executable, *arguments], env, cwd)


def zip_program(folder: Path, main: str) -> list[str]:
    """Make a program of n8nrunner and this source in a zip file, as zipapp does. Return its command."""
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(n8nrunner.__file__).parent, source / "n8nrunner", ignore=ignored)
    (source / "__main__.py").write_text(main)
    zipapp.create_archive(source, folder / "program.pyz")
    # In the isolated mode the source tree is not on Python's path; the other packages are.
    return [sys.executable, "-I", str(folder / "program.pyz")]
