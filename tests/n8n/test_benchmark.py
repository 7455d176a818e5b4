"""The measures with a real n8n work; what they measure is for who runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.n8n

ROOT = Path(__file__).parents[2]


@pytest.mark.usefixtures("place")
def test_every_measure_has_a_result(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "tests.benchmarks.workflows", "--quick", "--json", str(figures)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=180)
    printed = done.stdout.decode(errors="replace")
    assert done.returncode == 0, printed
    rows = {row["what"]: row for row in json.loads(figures.read_text())["rows"]}
    assert set(rows) == {what for what in rows if what in printed}
    for what in (
        "one caller, p50: n8nrunner / floor",
        "one caller, p50: n8nrunner / FastAPI",
        "ten callers: n8nrunner / FastAPI",
        "500 items: n8nrunner / floor",
        "1 MB there and back: n8nrunner / FastAPI",
        "one caller, p50: Python Function / written node",
        "500 items: Python Function / written node",
        "the editor asks while 5 loops run, p99",
        "from the end of a cell to the function and its form, longest",
        "an agent's tool call, p50: Python Tools / MCP Client Tool",
    ):
        assert rows[what]["median"] > 0
    assert rows["of 1 restarts of n8n, survived"]["met"] is True
