"""n8nrunner imports the packages that `setup.cfg` declares."""

from __future__ import annotations

import ast
import configparser
import re
import sys
from pathlib import Path

import pytest

import n8nrunner

PACKAGE = Path(n8nrunner.__file__).parent
ROOT = Path(__file__).parent.parent

#: Names of modules whose package is called differently.
PACKAGES = {
    "websocket": "websocket-client",
    "docstring_parser": "docstring-parser",
    "prometheus_client": "prometheus-client",
    "opentelemetry": "opentelemetry-api",
}
#: Packages whose types functions may use; n8nrunner works without them.
IF_PRESENT = {"PyInstaller", "numpy", "pandas", "pydantic", "pytest"}


def declared() -> set[str]:
    """Return the packages that n8nrunner, or an extra of it for users, needs."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = config["options.extras_require"]
    texts = [
        config["options"]["install_requires"],
        *(extras[name] for name in ("broker", "testing", "demo", "node", "metrics", "otel", "reload")),
    ]
    return set(re.findall(r"^([a-z-]+)>=", "\n".join(texts), re.MULTILINE))


def imported() -> set[str]:
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                found.add(node.module.split(".")[0])
    return found


@pytest.mark.skipif(not (ROOT / "setup.cfg").exists(), reason="not in a checkout")
@pytest.mark.skipif(sys.version_info < (3, 10), reason="Python does not list its own modules")
def test_every_package_that_is_imported_is_declared() -> None:
    others = imported() - set(sys.stdlib_module_names) - {"n8nrunner"} - IF_PRESENT
    assert {PACKAGES.get(name, name) for name in others} == declared()
