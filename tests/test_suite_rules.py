"""The rules for tests (CONTRIBUTING.md), checked on their source."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from hypothesis import settings

TESTS = Path(__file__).parent
SOURCES = {
    path.relative_to(TESTS).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted(TESTS.rglob("*.py"))
}


def test_hypothesis_draws_the_same_examples_in_every_run(pytestconfig: pytest.Config) -> None:
    if pytestconfig.getoption("--hypothesis-profile") is not None:
        pytest.skip("another profile was asked for")
    assert settings().derandomize


def test_hypothesis_settings_come_from_the_profile() -> None:
    wrong: list[str] = []
    for file, source in SOURCES.items():
        # A state machine's own default would draw random examples in every run.
        machines = re.findall(r"^(\w+) = .*\.TestCase\b", source, re.MULTILINE)
        if re.findall(r"^(\w+)\.settings = settings\(\)$", source, re.MULTILINE) != machines:
            wrong.append(f"{file}: a state machine without settings()")
        if file not in ("conftest.py", Path(__file__).name) and re.search(
            r"@settings\(|max_examples=|derandomize=", source
        ):
            wrong.append(f"{file}: settings of its own")
    assert wrong == []


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


def test_sleeping_synchronises_no_test() -> None:
    sleeping = {
        file
        for file, source in SOURCES.items()
        if any(
            isinstance(node, ast.Call) and ast.unparse(node.func) == "time.sleep"
            for node in ast.walk(ast.parse(source))
        )
    }
    assert sleeping == MAY_SLEEP


def test_upper_limits_of_elapsed_time_are_those_of_promptly() -> None:
    """A tighter limit fails on a busy machine."""
    limits = {
        file: re.findall(r"assert .*time\.\w+\(\) - \w+ <=? (.+)", source)
        for file, source in SOURCES.items()
        if not file.startswith(("n8n/", "netns/"))
    }
    allowed: tuple[list[str], ...] = ([], ["LIMIT"], ['limit, f"not within {limit:g} s"'])
    assert [file for file, found in limits.items() if found not in allowed] == []
