"""A kernel of Jupyter, for tests."""

from __future__ import annotations

import contextlib
import os
import queue
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.conftest import LIMIT

ROOT = Path(__file__).parents[2]


class Kernel:
    """A kernel, and the messages that it has sent."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._cells: dict[str, str] = {}
        #: the text of each cell and stream. The kernel may send a line in two messages.
        self._outputs: dict[tuple[str, str], str] = {}

    def run(self, cell: str, code: str) -> dict[str, Any]:
        """Run a cell, wait for its end, and return its reply."""
        self._cells[self._client.execute(code)] = cell
        reply: dict[str, Any] = self._client.get_shell_msg(timeout=3 * LIMIT)["content"]
        assert reply["status"] == "ok", reply
        return reply

    def wait_for_output(self, text: str) -> tuple[str, str]:
        """Read messages until an output contains the text. Return the cell that shows it, and the stream."""
        end = time.monotonic() + 3 * LIMIT
        while time.monotonic() < end:
            for place, shown in self._outputs.items():
                if text in shown:
                    return place
            with contextlib.suppress(queue.Empty):
                message = self._client.get_iopub_msg(timeout=1)
                if message["msg_type"] == "stream":
                    content = message["content"]
                    place = self._cells[message["parent_header"]["msg_id"]], content["name"]
                    self._outputs[place] = self._outputs.get(place, "") + content["text"]
        raise AssertionError(f"no output has {text!r}: {self._outputs}")


@contextlib.contextmanager
def running_kernel() -> Iterator[Kernel]:
    """A kernel in a process of its own."""
    from jupyter_client.manager import KernelManager

    manager = KernelManager()
    manager.start_kernel(env={**os.environ, "PYTHONPATH": str(ROOT)})
    client = manager.client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=3 * LIMIT)
        yield Kernel(client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()
