"""n8n's own linter for community nodes, as n8n scans a published package with it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from n8nrunner import install_node

from .install import Installation, npm_package
from .n8n import write_node

pytestmark = pytest.mark.n8n

SCANNER = "@n8n/scan-community-package"
SCANNER_VERSION = "0.32.0"

#: Complaints of the rules that look at TypeScript only: half of them, those for texts and fields among them.
IN_TYPESCRIPT = {
    # An action is a sentence of the docstring, which agents read: it keeps its commas and capitals.
    ("Functions.node.ts", "n8n-nodes-base/node-param-operation-option-action-miscased"),
    # Failures of calls carry the items that failed, and errors of other kinds pass as they are.
    ("PythonFunction.node.ts", "@n8n/community-nodes/require-node-api-error"),
    ("PythonFunction.node.ts", "n8n-nodes-base/node-execute-block-wrong-error-thrown"),
    # A sentence in the place of a list that cannot be had.
    ("PythonTools.node.ts", "n8n-nodes-base/node-param-display-name-miscased"),
}

as_it_is_or_as_source = pytest.mark.parametrize(
    "as_source", [False, True], ids=["as it is", "as a source file"]
)


def complaints(place: Installation, folder: Path) -> set[tuple[str, str]]:
    """Return the names of the files of a package that the linter refuses, each with the rule."""
    scanner = npm_package(place, SCANNER, SCANNER_VERSION)
    command = [str(place.node), str(Path(__file__).with_name("scan.mjs")), str(scanner), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    result = json.loads(done.stdout)
    found, file = set(), ""
    for line in result.get("details", "").splitlines():
        if line.startswith("/"):
            file = Path(line).name
        elif match := re.search(r"\berror\b.* (\S+/\S+)$", line):
            found.add((file, match[1]))
    assert result["passed"] == (not found), result
    return found


def add_sources(folder: Path) -> None:
    """Put each node of a package next to it once more, as if it were written in TypeScript."""
    for written in list(folder.rglob("*.node.js")):
        shutil.copy(written, written.with_suffix(".ts"))


@as_it_is_or_as_source
def test_a_written_node_passes_the_linter(place: Installation, tmp_path: Path, as_source: bool) -> None:
    write_node("functions_script", tmp_path)
    folder = tmp_path / "n8n-nodes-functions"
    if as_source:
        add_sources(folder)
    assert complaints(place, folder) <= (IN_TYPESCRIPT if as_source else set())


@as_it_is_or_as_source
def test_the_nodes_for_all_runners_pass_the_linter(
    place: Installation, tmp_path: Path, as_source: bool
) -> None:
    folder = install_node(tmp_path)
    if as_source:
        add_sources(folder)
    assert complaints(place, folder) <= (IN_TYPESCRIPT if as_source else set())


def test_the_linter_finds_a_defect(place: Installation, tmp_path: Path) -> None:
    folder = install_node(tmp_path)
    description = folder / "package.json"
    description.write_text(description.read_text().replace("n8n-community-node-package", "something"))
    (folder / "dist" / "ask.js").write_text("const { tool } = require('@langchain/core/tools');")
    assert complaints(place, folder) == {
        ("package.json", "n8n-nodes-base/community-package-json-keywords-without-official-tag"),
        ("ask.js", "@n8n/community-nodes/no-restricted-imports"),
    }
