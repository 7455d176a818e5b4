"""Install n8nrunner's own node package, which is the same for every runner: data files in ``static``."""

from __future__ import annotations

import importlib.resources
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from n8nrunner.functions.node.writing import folder_of, packages_folder, read_json, write_files

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable  # its place since Python 3.11


class Installed(NamedTuple):
    """The changes of one `install`."""

    folder: Path
    changed: bool  #: whether any file was written.
    version: str
    earlier: str | None  #: the version that was in the folder; None if there was none.
    listed: str | None  #: the version in n8n's list of the packages that it has installed itself.


def install_node(directory: str | os.PathLike[str] | None = None) -> Path:
    """Write the node package ``n8n-nodes-n8nrunner`` to where n8n finds it when it starts next.

    Its nodes *Python Function* and *Python Tools* ask a running runner for its functions. The package does
    not depend on the functions or on a runner: install it once, and again after an update of n8nrunner.
    Files that are current are not written.

    Args:
        directory: the folder in which to write the package's folder. None for the folder in which an n8n on
            this machine keeps its packages: ``.n8n/nodes/node_modules`` in ``N8N_USER_FOLDER`` or in the
            home folder. The types of the nodes then begin with ``n8n-nodes-n8nrunner.``, as they do after
            an installation from npm.

    Returns:
        The package's folder.

    Raises:
        ConfigurationError: there is no home folder, or the package's path has a symbolic link.
        OSError: the folder cannot be written to.
    """
    return install(directory, os.environ).folder


def install(directory: str | os.PathLike[str] | None, environment: Mapping[str, str]) -> Installed:
    """Write the package as `install_node` does, and return what has changed."""
    files = static_files()
    package = json.loads(files["package.json"])
    name, version = package["name"], package["version"]
    folder = (packages_folder(environment) if directory is None else folder_of(directory)) / name
    earlier = read_json(folder / "package.json").get("version")
    listed = read_json(folder.parents[1] / "package.json").get("dependencies")
    return Installed(
        folder,
        write_files(folder, files),
        version,
        earlier if isinstance(earlier, str) else None,
        listed.get(name) if isinstance(listed, dict) else None,
    )


def static_files() -> dict[str, str]:
    """Return the text of each file of the package by its path. The last one is ``package.json``."""
    # Not by a path: in a zip file, as zipapp makes one, there is none.
    root = importlib.resources.files(__package__).joinpath("static")
    files = dict(_files(root, ""))
    files["package.json"] = files.pop("package.json")  # n8n finds the package by it
    return files


def _files(folder: Traversable, prefix: str) -> Iterator[tuple[str, str]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _files(entry, f"{prefix}{entry.name}/")
        else:
            yield f"{prefix}{entry.name}", entry.read_text(encoding="utf-8")
