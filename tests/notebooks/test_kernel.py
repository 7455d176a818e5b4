"""Outputs of functions, as the kernel of a notebook sends them."""

from __future__ import annotations

import pytest

from n8nrunner.broker import Broker
from tests.conftest import LIMIT, TOKEN

pytest.importorskip("jupyter_client")
pytest.importorskip("ipykernel")

from tests.notebooks.kernels import running_kernel

DEFINE = """
import sys

@runner.task("divide")
def divide(task):
    print("called with", task.settings)
    print("a warning", file=sys.stderr)
    return 1 / task.settings["by"]
"""


def test_prints_and_exceptions_of_functions_are_shown_below_the_last_cell_that_called_start(
    broker: Broker,
) -> None:
    with running_kernel() as kernel:
        make = (
            f"from n8nrunner import Runner; runner = Runner({broker.url!r}, auth_token={TOKEN!r}, name='x')"
        )
        kernel.run("make", make)
        kernel.run("define", DEFINE)
        kernel.run("start", "runner.start()")
        assert kernel.wait_for_output("Connected to n8n") == ("start", "stdout")
        kernel.run("later", "1 + 1")
        assert broker.run_task("divide", {"by": 2}, timeout=LIMIT) == 0.5
        assert kernel.wait_for_output("called with {'by': 2}") == ("start", "stdout")
        assert kernel.wait_for_output("a warning") == ("start", "stderr")
        with pytest.raises(Exception, match="division by zero"):
            broker.run_task("divide", {"by": 0}, timeout=LIMIT)
        assert kernel.wait_for_output("ZeroDivisionError: division by zero") == ("start", "stderr")

        kernel.run("start again", "runner.start()")
        assert broker.run_task("divide", {"by": 4}, timeout=LIMIT) == 0.25
        assert kernel.wait_for_output("called with {'by': 4}") == ("start again", "stdout")
        kernel.run("stop", "runner.stop()")
