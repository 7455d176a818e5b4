"""n8n's own linter for community nodes over the node that is written from functions."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from .install import Installation, npm_package
from .n8n import write_node

pytestmark = pytest.mark.n8n

SCANNER = "@n8n/scan-community-package"
SCANNER_VERSION = "0.32.0"


@pytest.mark.parametrize("as_source", [False, True], ids=["as it is", "as a source file"])
def test_a_written_node_passes_the_linter(place: Installation, tmp_path: Path, as_source: bool) -> None:
    scanner = npm_package(place, SCANNER, SCANNER_VERSION)
    write_node("functions_script", tmp_path)
    folder = tmp_path / "n8n-nodes-functions"
    if as_source:
        # Half of the rules, those for texts and fields among them, look at TypeScript only.
        (written,) = folder.rglob("*.node.js")
        shutil.copy(written, written.with_suffix(".ts"))
    command = [str(place.node), str(Path(__file__).with_name("scan.mjs")), str(scanner), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = json.loads(done.stdout)
    if as_source:
        # An action is a sentence of the docstring, which agents read: it keeps its commas and capitals.
        complaints = set(re.findall(r"\berror\b.* (\S+)$", found.get("details", ""), re.MULTILINE))
        assert complaints <= {"n8n-nodes-base/node-param-operation-option-action-miscased"}, found
    else:
        assert found["passed"], found.get("details", found)


def test_the_linter_finds_a_defect(place: Installation, tmp_path: Path) -> None:
    scanner = npm_package(place, SCANNER, SCANNER_VERSION)
    write_node("functions_script", tmp_path)
    folder = tmp_path / "n8n-nodes-functions"
    description = folder / "package.json"
    description.write_text(description.read_text().replace("n8n-community-node-package", "something"))
    command = [str(place.node), str(Path(__file__).with_name("scan.mjs")), str(scanner), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert not json.loads(done.stdout)["passed"]
