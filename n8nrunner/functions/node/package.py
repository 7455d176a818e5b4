"""The node package of a runner: CommonJS that n8n loads without a build step.

The file of the node is generated from the functions. It requires a copy of `static/dist/runtime.js`, which is
the same in every package.
"""

from __future__ import annotations

import importlib.resources
import json
import re
from collections.abc import Sequence
from typing import Any

from n8nrunner._version import __version__
from n8nrunner.errors import ConfigurationError
from n8nrunner.functions.describe import JAVASCRIPT_NAMES
from n8nrunner.functions.function import Function
from n8nrunner.functions.node.description import Operation, describe_node
from n8nrunner.functions.node.javascript import to_javascript
from n8nrunner.functions.node.writing import Package

#: The type of the sample node *Runner Job*: n8n would take a node of the same type for the same node.
_SAMPLE_NODE = "runnerJob"

#: The page that the node's "Docs" link opens unless another one is given.
DOCS_URL = "https://docs.n8n.io/hosting/configuration/task-runners/"

_RUNTIME = "runtime.js"

_NODE = """\
'use strict';

// Written by n8nrunner from the Python functions of the runner "{runner}". Do not edit: write it again, with
// `n8nrunner node`, when the functions change.

const {{ NodeConnectionTypes }} = require('n8n-workflow');
const {{ execute }} = require('./{runtime}');

/** The functions when this was written: the parameters of each, and the task type of its calls. */
const NODE = {node};

// Not the runner's name, which may be one of JavaScript's own, such as "math" or "promise".
class RunnerNode {{
	description = {description};

	async execute() {{
		return await execute(this, NODE);
	}}
}}

module.exports = {{ {class_name}: RunnerNode }};
"""

_ICON = """\
<svg xmlns="http://www.w3.org/2000/svg" width="60" height="60" viewBox="0 0 60 60">
<rect width="60" height="60" rx="12" fill="{background}"/>
<path d="M14 20l10 10-10 10" fill="none" stroke="{arrow}" stroke-width="5" stroke-linecap="round" \
stroke-linejoin="round"/>
<text x="42" y="39" font-family="Helvetica,Arial,sans-serif" font-size="26" font-weight="bold" \
text-anchor="middle" fill="{letter}">{initial}</text>
</svg>
"""


def make_package(runner_name: str, functions: Sequence[Function], docs_url: str | None = None) -> Package:
    """Return the package of a runner's node, with an operation for each function.

    Args:
        docs_url: the page that the node's "Docs" link opens; None for n8n's page on task runners.

    Raises:
        ConfigurationError: there is no function, n8n cannot use the runner's name for a node, `docs_url` is
            not an HTTP address, or the package that reads docstrings is not installed.
    """
    if not functions:
        raise ConfigurationError(
            [f"the runner {runner_name!r} has no function: decorate one with @runner.function"]
        )
    if docs_url is not None and not re.match(r"https?://[^\s/?#]", docs_url):
        raise ConfigurationError(
            [f"docs_url: expected an address that begins with http:// or https://, got {docs_url!r}"]
        )
    docs_url = DOCS_URL if docs_url is None else docs_url
    class_name, node_name = _names_of(runner_name)
    package_name = f"n8n-nodes-{runner_name}"
    folder = f"dist/nodes/{class_name}"  # n8n's place for compiled files
    code = f"{folder}/{class_name}.node.js"
    operations = sorted(
        (Operation(runner_name, function) for function in functions),
        key=lambda operation: operation.title.lower(),
    )
    names = ", ".join(f"`{operation.name}`" for operation in operations)
    initial = class_name[:1].upper()
    # Not by a path: in a zip file, as zipapp makes one, there is none.
    runtime = importlib.resources.files(__package__) / "static" / "dist" / _RUNTIME
    readme = (
        f"# {package_name}\n\nThe node of the n8nrunner named `{runner_name}`: {names}.\n\n"
        "Written by `n8nrunner node`; write it again when the functions change.\n"
    )
    return Package(
        package_name,
        code,
        {
            "README.md": readme,
            f"{folder}/{_RUNTIME}": runtime.read_text("utf-8"),
            code: _code(runner_name, class_name, node_name, operations),
            f"{folder}/{class_name}.node.json": _json(_codex(package_name, node_name, docs_url, operations)),
            f"{folder}/{node_name}.svg": _ICON.format(
                background="#306998", arrow="#ffd43b", letter="#ffffff", initial=initial
            ),
            f"{folder}/{node_name}.dark.svg": _ICON.format(
                background="#8ab4f8", arrow="#8a6d00", letter="#202124", initial=initial
            ),
            # The last one, because it has the hashes of the operations in the other files.
            "package.json": _json(_package_json(package_name, runner_name, code, docs_url, operations)),
        },
    )


def _names_of(runner_name: str) -> tuple[str, str]:
    """Return the names of the node's class and of its type. Raises `ConfigurationError`."""
    class_name = "".join(word[:1].upper() + word[1:] for word in re.split(r"[_-]+", runner_name))
    if not class_name[:1].isalpha() or class_name[:1].lower() + class_name[1:] in JAVASCRIPT_NAMES:
        class_name = f"Runner{class_name}"
    node_name = class_name[:1].lower() + class_name[1:]
    if node_name == _SAMPLE_NODE:
        raise ConfigurationError(
            [
                f"name: n8n would take the node of the runner {runner_name!r} and the sample node Runner Job "
                f"for the same node (CUSTOM.{node_name}); give the runner another name"
            ]
        )
    return class_name, node_name


def _code(runner_name: str, class_name: str, node_name: str, operations: Sequence[Operation]) -> str:
    """Return the source of the node's own file."""
    node = {"runner": runner_name, "functions": [operation.definition() for operation in operations]}
    return _NODE.format(
        runner=runner_name,
        runtime=_RUNTIME,
        node=to_javascript(node),
        description=to_javascript(describe_node(runner_name, class_name, node_name, operations), 1),
        class_name=class_name,
    )


def _package_json(
    package_name: str, runner_name: str, code: str, docs_url: str, operations: Sequence[Operation]
) -> dict[str, Any]:
    return {
        "name": package_name,
        "version": "0.1.0",
        "description": f"Python functions of the n8nrunner named {runner_name}, as a node for n8n",
        "license": "MIT",
        "homepage": docs_url,
        "author": {"name": runner_name, "email": f"{runner_name}@localhost.localdomain"},
        "repository": {"type": "git", "url": f"git+https://localhost.localdomain/{package_name}.git"},
        "keywords": ["n8n-community-node-package"],
        "files": ["dist"],
        "n8n": {"n8nNodesApiVersion": 1, "credentials": [], "nodes": [code]},
        "peerDependencies": {"n8n-workflow": "*"},
        # `Package.write` compares it with the functions when the package is written again.
        "n8nrunner": {
            "version": __version__,
            "runner": runner_name,
            "operations": {operation.name: operation.digest() for operation in operations},
        },
    }


def _codex(
    package_name: str, node_name: str, docs_url: str, operations: Sequence[Operation]
) -> dict[str, Any]:
    """Return what n8n's search knows of the node. n8n ignores the file if it has no `resources`."""
    return {
        "node": f"{package_name}.{node_name}",
        "nodeVersion": "1.0",
        "codexVersion": "1.0",
        "categories": ["Development"],
        "subcategories": {"Development": ["Helpers"]},
        "alias": ["Python", *(alias for each in operations for alias in (each.title, each.name))],
        "resources": {"primaryDocumentation": [{"url": docs_url}]},
    }


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
