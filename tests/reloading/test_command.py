"""`n8nrunner run --reload`, started as users start it."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from n8nrunner import cli
from n8nrunner.broker import Broker
from tests.benchmarks import reloading
from tests.conftest import LIMIT, TOKEN
from tests.pages import blocks
from tests.processes import Program, python
from tests.reloading.programs import LEADS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


def serve(broker: Broker, folder: Path, *options: str) -> Program:
    env = {"N8N_RUNNERS_TASK_BROKER_URI": broker.url, "N8N_RUNNERS_AUTH_TOKEN": TOKEN}
    return python("-m", "n8nrunner", "run", "leads", "--reload", *options, env=env, cwd=folder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_an_import_and_then_the_program(broker: Broker, tmp_path: Path, number: int) -> None:
    module = tmp_path / "leads.py"
    module.write_text(LEADS)
    with serve(broker, tmp_path) as program:
        program.wait_for("Registered")
        module.write_text("import threading\nprint('importing', flush=True)\nthreading.Event().wait(60)\n")
        program.wait_for("importing")
        program.signal(number)
        assert program.wait() == 0
    assert "Traceback" not in program.output


def test_the_commands_of_the_page_serve_new_code(broker: Broker, tmp_path: Path) -> None:
    (text,) = [block.text for block in blocks("docs/development.md", "sh")]
    _, serve = [line.split() for line in text.splitlines()]
    module = tmp_path / "shop.py"
    module.write_text(LEADS.replace('name="leads"', ""))
    env = {"N8N_RUNNERS_TASK_BROKER_URI": broker.url, "N8N_RUNNERS_AUTH_TOKEN": TOKEN}
    with python("-m", *serve, env=env, cwd=tmp_path) as program:
        program.wait_for("Registered")
        module.write_text(LEADS.replace('name="leads"', "").replace("score", "refund"))
        program.wait_for("(new: refund; removed: score)")


def test_the_option_for_calls_stays_in_force_after_a_save(broker: Broker, tmp_path: Path) -> None:
    module = tmp_path / "leads.py"
    module.write_text(LEADS)
    settings = {"version": 1, "function": "score", "calls": [{"item": 0, "arguments": {}}]}
    with serve(broker, tmp_path, "--log-calls") as program:
        program.wait_for("Registered")
        module.write_text(LEADS.replace('"score": 1', '"score": 2'))
        program.wait_for("Reloaded")
        broker.run_task("n8nrunner.leads", settings, timeout=LIMIT)
        program.wait_for("score: done after")
    assert "changed settings" not in program.output


def test_a_module_that_fails_at_the_start_is_waited_for(broker: Broker, tmp_path: Path) -> None:
    module = tmp_path / "leads.py"
    module.write_text("import helpers\n" + LEADS)
    settings = {"version": 1, "function": "score", "calls": [{"item": 0, "arguments": {}}]}
    with serve(broker, tmp_path) as program:
        said = program.wait_for(
            "Waiting for a change, because of this: the module 'leads' cannot be imported"
        )
        assert "ERROR" in said
        program.wait_for("No module named 'helpers'")
        (tmp_path / "helpers").mkdir()
        (tmp_path / "helpers" / "__init__.py").write_text("x =\n")
        program.wait_for("SyntaxError")
        module.write_text("import helpers\n" + LEADS.replace("email: str", "email: object()"))
        (tmp_path / "helpers" / "__init__.py").write_text("x = 1\n")
        program.wait_for("(leads.py, line ")
        module.write_text("import helpers\n" + LEADS)
        program.wait_for("Registered")
        assert broker.run_task("n8nrunner.leads", settings, timeout=LIMIT)["items"]


def test_a_module_s_configuration_of_logging_does_not_silence_the_log(broker: Broker, tmp_path: Path) -> None:
    """`dictConfig` disables the loggers that exist."""
    module = tmp_path / "leads.py"
    logs = "import logging.config\nlogging.config.dictConfig({'version': 1})\n"
    module.write_text(LEADS)
    with serve(broker, tmp_path) as program:
        program.wait_for("Registered")
        module.write_text(logs + LEADS)
        program.wait_for("Reloaded leads")
        module.write_text("x =\n")
        program.wait_for("SyntaxError")


def test_without_watchfiles_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("n8nrunner.reloading")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    assert cli.main(["run", "leads", "--reload"]) == 2
    assert 'pip install "n8nrunner[reload]"' in capsys.readouterr().err


def test_the_option_for_kept_modules_needs_reloading(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "leads", "--keep", "models"]) == 2
    assert "--keep is for --reload" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("not_there", "there is no module 'not_there'"),
        ("./leads.py", "Did you mean 'leads'"),
        ("sys", "file"),
    ],
)
def test_a_target_without_a_file_is_exit_code_2(
    target: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert cli.main(["run", target, "--reload"]) == 2
    assert said in capsys.readouterr().err


def test_the_measure_loses_no_call(capsys: pytest.CaptureFixture[str]) -> None:
    assert reloading.main(["--saves", "2", "--callers", "2", "--modules", "2"]) == 0
    assert "2 modules: from a save to an answer of the new code" in capsys.readouterr().out
