"""`n8nrunner run --reload` with a real n8n: a save is in the editor's next answer, and in the next call."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.processes import python

from .n8n import N8n
from .test_functions import run
from .test_python_function import chosen, fields, listed

pytestmark = pytest.mark.n8n

PROGRAM = """
from n8nrunner import Runner
runner = Runner(name="reloaded")

@runner.function
def quote(pieces: int) -> int:
    return pieces
"""


def test_a_save_is_in_the_editor_s_next_answer_and_in_the_next_call(n8n: N8n, tmp_path: Path) -> None:
    module = tmp_path / "quotes.py"
    module.write_text(PROGRAM)
    env = {"N8N_RUNNERS_TASK_BROKER_URI": n8n.broker_url, "N8N_RUNNERS_AUTH_TOKEN": n8n.auth_token}
    with python("-m", "n8nrunner", "run", "quotes", "--reload", env=env, cwd=tmp_path) as program:
        program.wait_for("Registered")
        assert list(fields(n8n, "reloaded", "quote")) == ["pieces"]
        workflow = run(n8n, "reloaded", n8n.python_function("quote", runner="reloaded", pieces=3))
        assert workflow.call().json() == [{"result": 3}]

        module.write_text(
            PROGRAM.replace("pieces: int", "pieces: int, note: str = ''").replace("n pieces", "n 2 * pieces")
        )
        program.wait_for("(changed: quote)")
        assert list(fields(n8n, "reloaded", "quote")) == ["pieces", "note"]
        assert workflow.call().json() == [{"result": 6}]

        module.write_text(PROGRAM + "@runner.function\ndef extra() -> None: pass\n")
        program.wait_for("(new: extra; changed: quote)")
        assert [each["value"] for each in listed(n8n, "listFunctions", chosen("reloaded"))] == [
            "extra",
            "quote",
        ]


def test_no_call_of_a_workflow_is_lost_while_the_program_is_saved(n8n: N8n, tmp_path: Path) -> None:
    module = tmp_path / "quotes.py"
    module.write_text(PROGRAM)
    env = {"N8N_RUNNERS_TASK_BROKER_URI": n8n.broker_url, "N8N_RUNNERS_AUTH_TOKEN": n8n.auth_token}
    with python("-m", "n8nrunner", "run", "quotes", "--reload", env=env, cwd=tmp_path) as program:
        program.wait_for("Registered")
        workflow = run(n8n, "saved", n8n.python_function("quote", runner="reloaded", pieces=1))
        workflow.call()
        end = threading.Event()

        def call_again_and_again() -> list[int]:
            results = []
            while not end.is_set():
                results += [item["result"] for item in workflow.call().json()]
            return results

        with ThreadPoolExecutor(2) as callers:
            calling = [callers.submit(call_again_and_again) for _ in range(2)]
            for factor in range(2, 12):
                module.write_text(PROGRAM.replace("return pieces", f"return {factor} * pieces"))
                program.wait_for("Reloaded")
            end.set()
            results = [result for each in calling for result in each.result()]
        assert workflow.call().json() == [{"result": 11}]
        assert set(results) <= set(range(1, 12))
        assert "Registered" not in program.output.partition("Reloaded")[2]
