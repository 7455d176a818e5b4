"""The limits of n8n itself, where they are below the runner's."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import running
from .install import Installation
from .n8n import N8n, function_node
from .processes import poll
from .runners import EVENT_LIMIT
from .test_functions import SCRIPT, StartRunner, error_of, run

pytestmark = pytest.mark.n8n


@pytest.fixture
def n8n(place: Installation, tmp_path: Path) -> Iterator[N8n]:
    """An n8n with low limits."""
    variables = {"N8N_RUNNERS_TASK_TIMEOUT": "2", "N8N_RUNNERS_MAX_PAYLOAD": "100000"}
    with running(N8n(place, tmp_path, variables=variables)) as n8n:
        yield n8n


def test_limits_of_n8n_are_named(n8n: N8n, start_runner: StartRunner) -> None:
    runner = start_runner("functions", command=[sys.executable, str(SCRIPT)])
    workflow = run(n8n, "time", function_node("waits", seconds=60))
    assert workflow.call().status_code == 500
    error = error_of(workflow)
    assert error["message"] == "Task execution timed out after 2 seconds"
    assert "N8N_RUNNERS_TASK_TIMEOUT where n8n was started" in error["description"]
    assert "<br" not in error["description"]
    assert runner.wait_for("ended")["cancelled"] is True

    workflow = run(n8n, "payload", function_node("gives_rows", count=10_000))
    assert workflow.call().status_code == 500
    error = error_of(workflow)
    assert error["message"] == 'The runner "functions" was lost during the call'
    assert "larger than n8n accepts (N8N_RUNNERS_MAX_PAYLOAD of n8n)" in error["description"]
    poll(lambda: True if "1009" in runner.log else None, "the runner's log names the limit", EVENT_LIMIT)
