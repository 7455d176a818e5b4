"""`n8nrunner check` names the cause of each broken set-up.

`python -m pytest tests/check/test_setups.py -v` lists them. tests/n8n/test_check.py has those of a real n8n.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from n8nrunner import cli
from n8nrunner.check import walk
from tests.check.setups import COMMON, OTHERS, REPORTED, TOKEN, SetUp, World
from tests.connection.conftest import Authority


@pytest.mark.parametrize("setup", [*COMMON, *REPORTED, *OTHERS], ids=lambda setup: setup.name)
def test_the_check_names_the_cause_of(
    setup: SetUp,
    names: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    authority: Authority,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(walk, "is_in_container", lambda: False)
    monkeypatch.setenv("N8N_RUNNERS_AUTH_TOKEN", TOKEN)
    with setup.build(World(monkeypatch, tmp_path, authority)) as arguments:
        code = cli.main(["check", *arguments])
    output = capfd.readouterr().out
    named = re.findall(r"^(?:Likely cause|Or) \[([a-z0-9-]+)\]", output, re.MULTILINE)
    assert tuple(named[: len(setup.causes)]) == tuple(cause.key for cause in setup.causes), output
    assert code != 0
    assert len(re.findall(r"^  \S.* FAILED", output, re.MULTILINE)) == 1
    assert TOKEN not in output
    assert "{" not in output.replace('{"', ""), "a name in a text is not filled in"
    assert max(map(len, output.splitlines())) <= 100
