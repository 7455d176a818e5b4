"""The rules for tests (CONTRIBUTING.md), checked on their source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
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
    "benchmarks/reloading.py",
    "benchmarks/workflows.py",
    "faults/soak.py",
    "faults/work.py",
    "n8n/functions_script.py",
    "n8n/processes.py",
    "n8n/test_failures.py",
    "n8n/test_lifecycle.py",
    "netns/cases.py",
    "netns/names.py",
    "netns/peer.py",
}


def _calls(source: str, function: str) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(source)) if function in source else ():  # parsing takes long
        if isinstance(node, ast.Call) and ast.unparse(node.func) == function:
            yield node


def test_sleeping_synchronises_no_test() -> None:
    sleeping = {file for file, source in SOURCES.items() if any(_calls(source, "time.sleep"))}
    assert sleeping == MAY_SLEEP


def _naps_without_reason(source: str) -> list[int]:
    """Return the lines that wait for an event that no other code can set, without a comment on the line."""
    lines = source.splitlines()
    return [
        call.lineno
        for call in _calls(source, "threading.Event().wait")
        if "  # " not in lines[call.lineno - 1]
    ]


def test_a_wait_that_is_a_sleep_gives_its_reason() -> None:
    found = [f"{file}:{line}" for file, source in SOURCES.items() for line in _naps_without_reason(source)]
    assert found == []


def _is_elapsed(node: ast.AST, names: set[str]) -> bool:
    """Return whether an expression is an elapsed time: a difference of a clock, or a name for one."""
    return any(
        (
            isinstance(part, ast.BinOp)
            and isinstance(part.op, ast.Sub)
            and ast.unparse(part.left).startswith("time.")
        )
        or (isinstance(part, ast.Name) and part.id in names)
        for part in ast.walk(node)
    )


def _limits_of_elapsed_time(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each upper limit for an elapsed time in an assertion."""
    if not re.search(r"\btime\.\w+\(\) - ", source):
        return  # parsing takes long
    tree = ast.parse(source)
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and _is_elapsed(node.value, set()):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and any(_is_elapsed(argument, set()) for argument in node.args)
        ):
            names.add(node.func.value.id)  # a list that gets it
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assert):
            continue
        for part in ast.walk(node.test):
            if not isinstance(part, ast.Compare):
                continue
            for left, operator, right in zip([part.left, *part.comparators], part.ops, part.comparators):
                if isinstance(operator, (ast.Lt, ast.LtE)) and _is_elapsed(left, names):
                    yield node.lineno, ast.unparse(right)
                elif isinstance(operator, (ast.Gt, ast.GtE)) and _is_elapsed(right, names):
                    yield node.lineno, ast.unparse(left)


def test_upper_limits_of_elapsed_time_are_those_of_promptly() -> None:
    """A tighter limit fails on a busy machine."""
    found = [
        f"{file}:{line}: {limit}"
        for file, source in SOURCES.items()
        if not file.startswith(("n8n/", "netns/")) and "/fuzz_" not in file
        for line, limit in _limits_of_elapsed_time(source)
        if limit not in ("LIMIT", "LIMIT / 2")
    ]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "assert time.monotonic() - began < 1",
        "took = time.monotonic() - began\nassert 0.5 < took <= 3.0",
        "delays.append(time.monotonic() - began)\nassert median(delays) < 3",
        "took = time.perf_counter() - began\nassert 1 > took",
    ],
)
def test_a_limit_of_elapsed_time_is_found(source: str) -> None:
    ((_, limit),) = _limits_of_elapsed_time(source)
    assert limit in ("1", "3", "3.0")


def test_a_sleep_without_a_reason_is_found() -> None:
    assert _naps_without_reason("threading.Event().wait(1.2)") == [1]
    assert _naps_without_reason("threading.Event().wait(1.2)  # a slow peer") == []
