"""docs/faults.md and docs/n8n-versions.md name tests that exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.benchmarks.processes import ROOT

HEADER = ["fault", "what the runner does", "how soon", "test"]


def rows() -> list[list[str]]:
    lines = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8").splitlines()
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in cells if not set("".join(row)) <= set("-: ")]


@cache
def names_in(path: Path) -> frozenset[str]:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, functions))


def test_every_table_has_the_same_columns() -> None:
    found = rows()
    assert found.count(HEADER) >= 5
    assert {len(row) for row in found} == {len(HEADER)}


@pytest.mark.parametrize("row", [row for row in rows() if row != HEADER], ids=lambda row: row[0][:60])
def test_every_fault_has_a_test_that_exists(row: list[str]) -> None:
    fault, does, soon, tests = row
    assert fault
    assert does
    assert soon
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::\w+)*::(\w+)`", tests)
    assert named, f"no test is named for {fault!r}"
    assert tests.count("`") == 2 * len(named)
    for path, name in named:
        assert (ROOT / path).is_file(), path
        assert name in names_in(ROOT / path), f"{path} has no test {name}"


def test_the_versions_of_n8n_name_tests_that_exist() -> None:
    text = (ROOT / "docs" / "n8n-versions.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", text)
    assert len(named) >= 20
    for file, name in named:
        assert (ROOT / "tests" / "n8n" / file).is_file(), file
        assert not name or name in names_in(ROOT / "tests" / "n8n" / file), f"{file} has no test {name}"
