"""A kernel of Jupyter, and JupyterLab in Chromium, for tests."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.conftest import LIMIT
from tests.processes import Program, python

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


@contextlib.contextmanager
def running_lab(folder: Path) -> Iterator[str]:
    """JupyterLab with the notebooks of a folder. Yield its address; "{}" in it is a notebook's name."""
    own = folder / ".jupyter"  # nothing of the user's
    variables = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    env = {name: str(own / value) for name, value in variables.items()}
    options = [
        "--no-browser",
        "--allow-root",
        "--ServerApp.port=0",
        "--ServerApp.token=tests",
        f"--ServerApp.root_dir={folder}",
        "--LabApp.expose_app_in_browser=True",  # the tests call its commands
        "--LabApp.news_url=",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    program: Program
    with python("-m", "jupyterlab", *options, env={**env, "PYTHONPATH": str(ROOT)}, cwd=folder) as program:
        found = re.search(r"http://127\.0\.0\.1:\d+", program.wait_for("http://127.0.0.1"))
        assert found is not None
        yield f"{found[0]}/lab/tree/{{}}?token=tests&reset"
        program.process.terminate()  # ends its kernels too
        program.wait()
