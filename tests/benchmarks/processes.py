"""The processes of a measurement: the broker that makes the load, and the runner that is measured."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WS_PACKAGE = "ws@8"
STARTED_WITHIN = 60.0
ANSWERED_WITHIN = 30.0
ENDED_WITHIN = 20.0


class BenchmarkError(Exception):
    """A measurement that did not come about; the message says why."""


class Unavailable(BenchmarkError):
    """This machine lacks something that the benchmarks need."""


def require_machine() -> None:
    """Raises `Unavailable` unless everything that the measures stand on is there."""
    if not sys.platform.startswith("linux"):
        raise Unavailable("the benchmarks read CPU times and descriptors as Linux shows them")
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise Unavailable(f"{program} is not installed: the load comes from a Node.js program")
    if importlib.util.find_spec("wsaccel") is not None:
        raise Unavailable("wsaccel is installed: websocket-client would use it, and no figure would compare")


def ws_modules() -> Path:
    """The folder `node_modules` that holds `ws`; installs it with npm if it is not there yet."""
    home = os.environ.get("N8NRUNNER_TEST_CACHE") or "~/.cache/n8nrunner-tests"
    folder = Path(home).expanduser() / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "node_modules" / "ws" / "package.json").exists():
            command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), WS_PACKAGE]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
            if done.returncode != 0:
                said = done.stdout.decode("utf-8", "replace").strip()
                raise Unavailable(f"npm could not install {WS_PACKAGE}:\n{said}")
    return folder / "node_modules"


def cpu_seconds(pid: int) -> float:
    """CPU seconds that a process has used, to the nanosecond (/proc/PID/stat: in steps of 10 ms)."""
    clock_of_process = (~pid << 3) | 2  # as clock_getcpuclockid(3) makes it
    return time.clock_gettime(clock_of_process)


class LineProcess:
    """A process that hears and speaks lines of JSON; killed when its `with` ends."""

    def __init__(
        self, name: str, command: Sequence[str], env: dict[str, str] | None = None, folder: Path = ROOT
    ) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(os.environ, **(env or {})),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name=f"reads {name}", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    @property
    def pid(self) -> int:
        return self.process.pid

    def tell(self, message: Any) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self.failure("has ended") from None

    def hear(self, limit: float) -> Any:
        """The next line, decoded; `limit` is in seconds."""
        try:
            line = self._lines.get(timeout=limit)
        except queue.Empty:
            raise self.failure(f"said nothing for {limit:.0f} s") from None
        if line is None:
            raise self.failure("has ended")
        return json.loads(line)

    def cpu(self) -> float:
        """CPU seconds used so far by all threads."""
        return cpu_seconds(self.pid)

    def failure(self, what: str) -> BenchmarkError:
        self._errors.seek(0)
        last_words = self._errors.read().decode("utf-8", "replace").strip()[-2000:]
        return BenchmarkError(f"{self.name} {what}; its error output ends:\n{last_words or '(nothing)'}")

    def close(self) -> None:
        self.process.kill()
        self.process.wait(ENDED_WITHIN)
        self._reader.join(ENDED_WITHIN)
        for stream in (self.process.stdin, self.process.stdout, self._errors):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):  # of a line that was not read any more
                stream.close()

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class LoadBroker(LineProcess):
    """`broker.js`: its commands are described there."""

    def __init__(self, modules: Path, count: int = 1) -> None:
        program = Path(__file__).with_name("broker.js")
        super().__init__("the load broker", ["node", str(program)], {"NODE_PATH": str(modules)})
        self.urls: list[str] = self.ask("open", count=count)

    def ask(self, command: str, limit: float = ANSWERED_WITHIN, **arguments: Any) -> Any:
        self.tell(dict(arguments, do=command))
        reply = self.hear(limit)
        if "error" in reply:
            raise BenchmarkError(f"{command}: {reply['error']}")
        return reply["answer"]


class Contestant(LineProcess):
    """One of the compared runners: a Python program that takes broker URLs, a capacity, perhaps settings."""

    def __init__(
        self,
        name: str,
        program: Sequence[str],
        urls: Sequence[str],
        capacity: int,
        folder: Path = ROOT,
        **settings: Any,
    ) -> None:
        command = [sys.executable, *program, ",".join(urls), str(capacity)]
        if settings:
            command.append(json.dumps(settings))
        super().__init__(name, command, folder=folder)

    def stop(self) -> Any:
        """Ends a contestant that takes notes (`package`): what it saw, see there."""
        self.tell("stop")
        notes = self.hear(ENDED_WITHIN)
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            status = self.process.wait(ENDED_WITHIN)
        except subprocess.TimeoutExpired:
            raise self.failure(f"did not end within {ENDED_WITHIN:.0f} s of its stop()") from None
        if status != 0:
            raise self.failure(f"ended with status {status}")
        return notes


def wait_registered(broker: LoadBroker, contestants: Sequence[Contestant], runners: int = 1) -> None:
    """Returns when so many runners are registered at each of the broker's brokers."""
    deadline = time.monotonic() + STARTED_WITHIN
    while True:
        try:
            broker.ask("registered", runners=runners, seconds=0.5)
            return
        except BenchmarkError as error:
            for contestant in contestants:
                if contestant.process.poll() is not None:
                    raise contestant.failure("ended before it was registered") from None
            if time.monotonic() > deadline:
                raise contestants[0].failure(f"and its like: {error}") from None
