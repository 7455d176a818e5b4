"""Start runners in separate processes (`runner_script.py`), and read their output."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable

from .n8n import N8n
from .processes import ChildProcess, poll

SCRIPT = Path(__file__).with_name("runner_script.py")

PLAIN_ENVIRONMENT = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH")
"""The variables that a runner inherits. None of them configures n8n or a proxy by accident."""

EVENT_LIMIT = 30.0
"""Seconds until a runner must have told what it is asked about."""


class RunnerProcess:
    """A plain Python process with a runner, configured by n8n's own variables.

    `variables` adds to them, such as `N8N_RUNNERS_MAX_CONCURRENCY="10"`.
    """

    def __init__(
        self,
        n8n: N8n,
        log_path: Path,
        arguments: Sequence[str] = (),
        variables: dict[str, str] | None = None,
        command: Sequence[str] | None = None,
    ) -> None:
        environment = {name: os.environ[name] for name in PLAIN_ENVIRONMENT if name in os.environ}
        environment["N8N_RUNNERS_TASK_BROKER_URI"] = n8n.broker_url
        environment["N8N_RUNNERS_AUTH_TOKEN"] = n8n.auth_token
        environment.update(variables or {})
        self._secret = environment["N8N_RUNNERS_AUTH_TOKEN"]
        self._process = ChildProcess(
            log_path.stem,
            list(command or [sys.executable, str(SCRIPT)]) + list(arguments),
            environment,
            log_path,
            cwd=SCRIPT.parent,
            merge_output=False,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        return self._process.exit_code

    def wait_for(
        self,
        event: str,
        limit: float = EVENT_LIMIT,
        matches: Callable[[dict[str, Any]], bool] = lambda told: True,
    ) -> dict[str, Any]:
        """The first event of this kind that `matches`, told already or within `limit` seconds."""

        def is_it(line: str) -> bool:
            told = json.loads(line)
            return told["event"] == event and matches(told)

        found: dict[str, Any] = json.loads(self._process.wait_for_line(is_it, limit))
        return found

    def wait_for_events(self, event: str, count: int) -> None:
        """Waits until it has told this many events of a kind."""
        poll(lambda: len(self.events(event)) >= count or None, f"{count} events {event!r}", EVENT_LIMIT)

    def events(self, event: str) -> list[dict[str, Any]]:
        """All events of this kind that were told so far."""
        told = [json.loads(line) for line in list(self._process.lines)]
        return [each for each in told if each["event"] == event]

    def run_cell(self, code: str) -> None:
        """Runs Python code in `cells_script.py`, and waits until that has ended."""
        ran = len(self.events("ran"))
        self._process.write_line(json.dumps(code))
        self.wait_for_events("ran", ran + 1)

    def end_cells(self) -> None:
        """Ends the input of `cells_script.py`, and waits until the program has stopped its runner."""
        self._process.end_input()
        self.wait()

    def ask_to_stop(self) -> None:
        """Asks for `runner.stop()`, and returns at once."""
        self._process.write_line("stop")

    def wait(self, limit: float = EVENT_LIMIT) -> int:
        """Its exit code, once it has ended by itself."""
        return self._process.wait(limit)

    def stop(self, limit: float = EVENT_LIMIT) -> None:
        """Stops the runner and checks that it ends as it should: no thread of its own left, exit code 0."""
        self.ask_to_stop()
        stopped = self.wait_for("stopped", limit)
        assert stopped["threads"] == []
        code = self.wait(limit)
        assert code == 0, f"exit code {code}\n{self._process.tail()}"

    def signal(self, number: int) -> None:
        self._process.signal(number)

    @property
    def log(self) -> str:
        """Everything it wrote, events and log."""
        return self._process.log_path.read_text(errors="replace")

    def close(self) -> None:
        """Ends it if it still runs, and checks that it gave its secret away nowhere."""
        self._process.kill()
        assert self._secret not in self.log, f"the shared secret is in {self._process.log_path}"
