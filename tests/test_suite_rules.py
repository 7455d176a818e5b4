"""The rules for tests (CONTRIBUTING.md), checked on their source."""

from __future__ import annotations

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
