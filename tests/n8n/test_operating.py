"""The program of the page on operating a runner, with a real n8n: its log and its spans name n8n's ids."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.pages import blocks

from .conftest import in_both_modes
from .n8n import N8n, webhook_node
from .runners import RunnerProcess

pytestmark = pytest.mark.n8n

(PROGRAM,) = (block.text for block in blocks("docs/operating.md", "python") if block.heading == "Tracing")
COMMAND = ["-m", "n8nrunner", "run", "--log-calls", "--log-format", "json", "operated"]


@in_both_modes
def test_the_log_and_the_spans_name_the_node_and_the_execution(n8n: N8n, tmp_path: Path) -> None:
    (tmp_path / "operated.py").write_text(PROGRAM)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    begun = n8n.output_length
    runner = RunnerProcess(n8n, tmp_path / "log", COMMAND, {"PYTHONPATH": path}, [sys.executable])
    try:
        n8n.wait_for_output('Registered runner "leads"', start=begun)
        node = n8n.python_function("score_lead", "Score lead", "leads", budget="={{ $json.body.budget }}")
        workflow = n8n.create_workflow("operating", [webhook_node("operating"), node])
        assert workflow.call({"budget": 4}).json() == [{"result": 0.25}]
        execution = workflow.wait_for_execution("success")
        assert workflow.call({"budget": 0}).status_code == 500
        failed = workflow.wait_for_execution("error")
        runner.signal(signal.SIGTERM)
        assert runner.wait() == 0
        output = runner.log
    finally:
        runner.close()
    records = [json.loads(line) for line in output.splitlines() if line.startswith('{"time"')]
    calls = [record for record in records if "duration" in record]
    assert [
        (call["function"], call["node"], call["execution"], call["item"], call["outcome"]) for call in calls
    ] == [
        ("score_lead", "Score lead", execution.id, 0, "done"),
        ("score_lead", "Score lead", failed.id, 0, "failed"),
    ]
    (error,) = (record for record in records if record["level"] == "ERROR")
    assert "ZeroDivisionError" in error["exception"]
    assert error["span_id"] == calls[1]["span_id"]
    for call in calls:
        assert f'"span_id": "0x{call["span_id"]}"' in output
        assert f'"n8n.execution.id": "{call["execution"]}"' in output
    assert output.count('"n8n.node.name": "Score lead"') == 2
