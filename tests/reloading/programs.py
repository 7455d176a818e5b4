"""A program in a folder, which a `Reloader` serves on a thread of this process."""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from n8nrunner.broker import Broker
from n8nrunner.reloading.reloader import Reloader
from tests.conftest import LIMIT

#: A program of one module.
LEADS = """
from n8nrunner import Runner
runner = Runner(name="leads")

@runner.function
def score(email: str = "") -> dict:
    return {"score": 1}
"""


class _Records(logging.Handler):
    """Keeps the log as text, and lets a test wait for a record."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: queue.SimpleQueue[str] = queue.SimpleQueue()

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.put(f"{record.levelname} {record.getMessage()}")


class Served:
    """A program that is being served.

    Args:
        broker: the broker that its runner is connected with.
        folder: where its modules are.
    """

    def __init__(self, broker: Broker, folder: Path) -> None:
        self.broker = broker
        self.folder = folder
        self.log: list[str] = []
        self._records = _Records()
        self._failed: list[BaseException] = []
        self.reloader: Reloader

    def write(self, **sources: str) -> None:
        """Write modules, each as an editor does that replaces a file."""
        for name, source in sources.items():
            path = self.folder / f"{name.replace('__in__', os.sep)}.py"
            path.parent.mkdir(exist_ok=True)
            new = path.with_suffix(".tmp")
            new.write_text(source)
            new.replace(path)

    @contextmanager
    def serving(self, target: str = "leads", *kept: str) -> Iterator[Served]:
        """Serve the target in the block. `kept` are the modules that are not imported again."""
        own = logging.getLogger("n8nrunner")
        own.addHandler(self._records)
        own.setLevel(logging.INFO)
        self.reloader = Reloader(target, kept, None, lambda log_format: None)
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            self.wait_for("Registered")
            yield self
        finally:
            self.reloader.runner.stop(1)
            thread.join(LIMIT)
            own.removeHandler(self._records)
        assert self._failed == []

    def _run(self) -> None:
        try:
            self.reloader.run()
        except BaseException as error:  # reported by `serving`
            self._failed.append(error)

    def wait_for(self, text: str) -> str:
        """Wait for a record of the log that contains a text, and return it."""
        while True:
            try:
                record = self._records.texts.get(timeout=LIMIT)
            except queue.Empty:
                raise AssertionError(f"no {text!r} in {self.log}") from None
            self.log.append(record)
            if text in record:
                return record

    def change(self, **sources: str) -> str:
        """Write modules, and return the record of the log about the import that follows."""
        self.write(**sources)
        return self.wait_for("Reloaded")

    def call(self, function: str = "score", task_type: str = "n8nrunner.leads", **arguments: Any) -> Any:
        """Call a function, and return the JSON value of its item, or its error."""
        calls = [{"item": 0, "arguments": arguments}]
        settings = {"version": 1, "function": function, "calls": calls}
        result = self.broker.run_task(task_type, settings, timeout=LIMIT)
        return result["items"][0]["json"] if result.get("items") else result.get("error") or result["errors"]

    def described(self) -> dict[str, Any]:
        """Return the functions with the names of their parameters, as the runner answers n8n's editor."""
        answer = self.broker.run_task("n8nrunner:describe:leads", {"version": 1}, timeout=LIMIT)
        functions = json.loads(answer)["functions"] if isinstance(answer, str) else answer["functions"]
        return {each["name"]: [one["name"] for one in each["parameters"]] for each in functions}
