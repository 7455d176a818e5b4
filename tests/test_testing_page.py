"""The page about testing: its programs and commands, in a folder of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pages import blocks
from tests.projects import new_project

PAGE = "docs/testing.md"

pytest_plugins = ["pytester"]


def block(heading: str, number: int = 0, language: str = "python") -> str:
    return [block.text for block in blocks(PAGE, language) if block.heading == heading][number]


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """A folder with the modules of the page."""
    return new_project(pytester, leads=block("A first test"), reports=block("Calls"))


def test_the_tests_of_the_page_pass(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_leads=block("A first test", 1),
        test_report=block("Calls"),
        test_choice=block("Choose the runner"),
        test_application=block("Choose the runner", 1),
    )
    project.runpytest_inprocess().assert_outcomes(passed=7)


def test_the_context_manager_and_the_command_of_the_page_print_the_items(project: pytest.Pytester) -> None:
    expected = [{"json": {"score": 15, "year": 2024}, "pairedItem": {"item": 0}}]
    script = project.makepyfile(script=block("Without pytest"))
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == str(expected).replace("15", "15.0")
    (command,) = block("On the command line", language="sh").splitlines()
    expected[0]["json"] = {"score": 20, "year": 2024}
    program = str(Path(sys.executable).with_name("n8nrunner"))
    arguments = [program, *command.split()[1:]]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == expected


def test_the_commands_to_install_and_to_run_are_the_known_ones() -> None:
    assert block("", language="sh") == 'pip install "n8nrunner[testing]" pytest\n'
    assert block("A first test", language="sh") == "pytest\n"
