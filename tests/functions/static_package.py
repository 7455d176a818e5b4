"""The static package, and a program of Node.js that loads a part of it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import n8nrunner

from .javascript import N8N_WORKFLOW

FOLDER = Path(n8nrunner.__file__).parent / "functions" / "node" / "static"


def evaluate(folder: Path, program: str) -> Any:
    """Return the value of an asynchronous JavaScript function's body. Skips without Node.js.

    In the body, `load` requires a file of the package. `folder` gets a copy of the package, with a substitute
    for n8n's own.
    """
    if shutil.which("node") is None:
        pytest.skip("Node.js is not installed")
    package = folder / "n8n-nodes-n8nrunner"
    if not package.exists():
        shutil.copytree(FOLDER, package)
        workflow = folder / "node_modules" / "n8n-workflow"
        workflow.mkdir(parents=True)
        (workflow / "index.js").write_text(N8N_WORKFLOW)
    source = f"""
        const load = (path) => require({json.dumps(str(package))} + '/' + path);
        (async () => {{ {program} }})().then((result) => console.log(JSON.stringify(result)));
    """
    done = subprocess.run(["node", "-e", source], capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)
