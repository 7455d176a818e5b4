"""Run a written node in Node.js, with a substitute for n8n's package."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from n8nrunner.functions.function import make_function
from n8nrunner.functions.node.package import make_package
from n8nrunner.functions.node.writing import Package


def package(*functions: Any, name: str = "shop", limit: Any = None) -> Package:
    return make_package(name, [make_function(function, None, False, limit) for function in functions])


def node_file(written: Package) -> str:
    return next(text for name, text in written.files.items() if name.endswith(".node.js"))


N8N_WORKFLOW = """
exports.NodeConnectionTypes = { Main: 'main', AiTool: 'ai_tool' };
exports.sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds / 1000));
exports.NodeOperationError = class NodeOperationError {
    constructor(node, error, options) {
        if (error instanceof exports.NodeOperationError) return error;
        const { message, description } = error.message ? error : { message: error };
        Object.assign(this, { message, description, ...options });
    }
};
"""


def loaded(written: Package, folder: Path, program: str = "new Node()") -> Any:
    """Write the node. Return the value of a JavaScript expression about its `Node`. Skips without Node.js."""
    if shutil.which("node") is None:
        pytest.skip("Node.js is not installed")
    written.write(folder, {})
    workflow = folder / "node_modules" / "n8n-workflow"
    workflow.mkdir(parents=True, exist_ok=True)
    (workflow / "index.js").write_text(N8N_WORKFLOW)
    (path,) = folder.rglob("*.node.js")
    program = f"const [Node] = Object.values(require({json.dumps(str(path))})); " + (
        f"Promise.resolve({program}).then((result) => console.log(JSON.stringify(result)))"
    )
    done = subprocess.run(["node", "-e", program], capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)
