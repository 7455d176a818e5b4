"""The rules for tests (CONTRIBUTING.md), checked on their source."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from hypothesis import settings

TESTS = Path(__file__).parent
FILES = [path.relative_to(TESTS).as_posix() for path in sorted(TESTS.rglob("*.py"))]


def test_hypothesis_draws_the_same_examples_in_every_run(pytestconfig: pytest.Config) -> None:
    if pytestconfig.getoption("--hypothesis-profile") is not None:
        pytest.skip("another profile was asked for")
    assert settings().derandomize


@pytest.mark.parametrize("file", FILES)
def test_hypothesis_settings_come_from_the_profile(file: str) -> None:
    source = (TESTS / file).read_text(encoding="utf-8")
    # A state machine's own default would draw random examples in every run.
    machines = re.findall(r"^(\w+) = .*\.TestCase\b", source, re.MULTILINE)
    assert re.findall(r"^(\w+)\.settings = settings\(\)$", source, re.MULTILINE) == machines
    if file not in ("conftest.py", Path(__file__).name):
        assert not re.search(r"@settings\(|max_examples=|derandomize=", source)


#: Where time itself is what passes, such as the idleness that a benchmark measures or a limit of n8n's.
MAY_SLEEP = {
    "benchmarks/against.py",
    "benchmarks/measures.py",
    "benchmarks/workflows.py",
    "faults/soak.py",
    "faults/work.py",
    "n8n/functions_script.py",
    "n8n/processes.py",
    "n8n/test_failures.py",
    "n8n/test_lifecycle.py",
    "netns/cases.py",
    "netns/peer.py",
}


@pytest.mark.parametrize("file", FILES)
def test_sleeping_synchronises_no_test(file: str) -> None:
    sleeps = {
        node.lineno
        for node in ast.walk(ast.parse((TESTS / file).read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "time.sleep"
    }
    assert not sleeps or file in MAY_SLEEP


@pytest.mark.parametrize("file", [file for file in FILES if not file.startswith(("n8n/", "netns/"))])
def test_upper_limits_of_elapsed_time_are_those_of_promptly(file: str) -> None:
    """A tighter limit fails on a busy machine."""
    source = (TESTS / file).read_text(encoding="utf-8")
    limits = re.findall(r"assert .*time\.\w+\(\) - \w+ <=? (.+)", source)
    assert limits in ([], ["LIMIT"], ['limit, f"not within {limit:g} s"'])
