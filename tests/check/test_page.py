"""docs/troubleshooting.md has every set-up, every cause, and commands that work."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from n8nrunner import cli
from n8nrunner.broker import Broker
from tests.check.setups import COMMON, OTHERS, REPORTED, SetUp
from tests.conftest import TOKEN
from tests.connection.servers import HttpServer, http_answer
from tests.pages import ROOT, blocks, read

PAGE = "docs/troubleshooting.md"


def row(setup: SetUp) -> str:
    """Return the set-up's row in the table of the page."""
    causes = ", ".join(f"[{cause.key}](#{cause.key})" for cause in setup.causes)
    report = f"[report]({setup.report}) " if setup.report else ""
    return f"| {setup.name} | {causes} | {report}|"


def test_the_page_has_a_row_for_each_set_up_in_the_order_of_the_tests() -> None:
    section = read(PAGE).split("## Set-ups that the check names")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (?!set-up|---).*\|$", section, re.MULTILINE)
    assert rows == [row(setup) for setup in (*COMMON, *REPORTED, *OTHERS)]


def test_the_list_of_causes_is_current() -> None:
    script = ROOT / "docs" / "make_causes.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_commands_of_the_page_check_a_runner(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "leads.py").write_text("from n8nrunner import Runner\nrunner = Runner()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "leads", ModuleType("leads"))  # so that it is gone after the test
    monkeypatch.delitem(sys.modules, "leads")
    monkeypatch.setenv("N8N_RUNNERS_TASK_BROKER_URI", broker.url)
    monkeypatch.setenv("N8N_RUNNERS_AUTH_TOKEN", TOKEN)
    (commands,) = blocks(PAGE, "sh")
    with HttpServer(http_answer(200, b"[]")) as n8n:
        for line in commands.text.replace("http://localhost:5678", n8n.url).splitlines():
            program, *arguments = shlex.split(line, comments=True)
            assert program == "n8nrunner"
            assert cli.main(arguments) == 0
        posted = [request.line for request in n8n.requests if request.line.startswith("POST")]
        assert posted == ["POST /webhook/leads HTTP/1.1"]
