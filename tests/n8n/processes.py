"""Child processes of these tests: their output as it comes, and their end in every case."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Callable, TypeVar

T = TypeVar("T")

_running: list[ChildProcess] = []


class ChildProcess:
    """A process in a group of its own, whose output is in a file and can be waited for, line by line.

    The output of both streams goes to `log_path`; `lines` has those of standard output (and of standard error
    with `merge_output`), without their line ends.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: dict[str, str],
        log_path: Path,
        cwd: Path | None = None,
        merge_output: bool = True,
    ) -> None:
        self.name = name
        self.log_path = log_path
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._output_ended = False
        self._log = log_path.open("ab")
        self._process = subprocess.Popen(
            list(command),
            cwd=str(cwd) if cwd else None,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if merge_output else self._log,
            start_new_session=True,
        )
        _running.append(self)
        self._reader = threading.Thread(target=self._read_output, name=f"output of {name}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; minus the number of the signal that ended it."""
        return self._process.poll()

    def wait_for_line(self, found: Callable[[str], bool], limit: float, start: int = 0) -> str:
        """The first line from number `start` on for which `found` is true, now or within `limit` seconds.

        Raises `AssertionError`, with the end of the log, when it does not come or the process has ended.
        """
        deadline = time.monotonic() + limit
        looked_at = start
        with self._changed:
            while True:
                while looked_at < len(self.lines):
                    line = self.lines[looked_at]
                    looked_at += 1
                    if found(line):
                        return line
                remaining = deadline - time.monotonic()
                if self._output_ended or remaining <= 0:
                    why = "it ended" if self._output_ended else f"{limit:.0f} s passed"
                    raise AssertionError(f"{self.name}: the line did not come, {why}.\n{self.tail()}")
                self._changed.wait(remaining)

    def write_line(self, text: str) -> None:
        """Sends one line to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode() + b"\n")
        self._process.stdin.flush()

    def end_input(self) -> None:
        """Closes its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def wait(self, limit: float) -> int:
        """Its exit code, once it has ended by itself and its whole output is read."""
        try:
            code = self._process.wait(limit)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {limit:.0f} s.\n{self.tail()}") from None
        self._reader.join(limit)
        return code

    def signal(self, number: int) -> None:
        """Signals the process alone; nothing happens if it has ended."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """Ends the whole group at once, also what is left of it when the process itself has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(5.0)
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        self._log.close()
        if self in _running:
            _running.remove(self)

    def tail(self, lines: int = 60) -> str:
        """The end of its log, for error messages."""
        text = self.log_path.read_text(errors="replace") if self.log_path.exists() else ""
        return f"-- end of {self.log_path}\n" + "\n".join(text.splitlines()[-lines:])

    def _read_output(self) -> None:
        output = self._process.stdout
        assert output is not None
        for line in output:
            self._log.write(line)
            self._log.flush()
            with self._changed:
                self.lines.append(line.decode(errors="replace").rstrip("\r\n"))
                self._changed.notify_all()
        with self._changed:
            self._output_ended = True
            self._changed.notify_all()
        output.close()


@atexit.register
def _kill_what_runs() -> None:
    for process in list(_running):
        process.kill()


def children(pid: int) -> list[tuple[int, str]]:
    """The child processes of a process on Linux, each with its command."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        # A process may end at any moment.
        with contextlib.suppress(OSError):
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == pid:
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.append((int(folder.name), command))
    return found


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 without a listener."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def poll(check: Callable[[], T | None], what: str, limit: float, interval: float = 0.05) -> T:
    """Return the first result of `check` that is not None; for states that no event announces.

    Raises `AssertionError` after `limit` seconds.
    """
    deadline = time.monotonic() + limit
    while True:
        result = check()
        if result is not None:
            return result
        if time.monotonic() >= deadline:
            raise AssertionError(f"{what}: not within {limit:.0f} s")
        time.sleep(interval)
