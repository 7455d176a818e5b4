"""The files of the static package."""

from __future__ import annotations

import json
from pathlib import Path

import n8nrunner

from .static_package import FOLDER, evaluate


def test_the_package_has_the_version_of_n8nrunner() -> None:
    assert json.loads((FOLDER / "package.json").read_text())["version"] == n8nrunner.__version__


def test_each_node_of_the_package_can_be_loaded(tmp_path: Path) -> None:
    paths = json.loads((FOLDER / "package.json").read_text())["n8n"]["nodes"]
    for path in paths:
        name = Path(path).name.split(".")[0]
        description = evaluate(tmp_path, f"return new (load({json.dumps(path)}).{name})().description;")
        assert description["name"] == name[0].lower() + name[1:]
        for icon in description["icon"].values():
            assert (FOLDER / path).with_name(icon.replace("file:", "")).is_file()
