"""Write a node package into a folder, and find the folder where n8n looks for nodes."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from n8nrunner.errors import ConfigurationError

#: Modes of files and folders, with any umask: n8n may run as another user, who has to read the code. Only
#: their owner can change them.
_FILE_MODE = 0o644
_FOLDER_MODE = 0o755

#: The environment variable with n8n's own list of folders, separated by ";".
CUSTOM_EXTENSIONS = "N8N_CUSTOM_EXTENSIONS"


class Written(NamedTuple):
    """The changes of one `Package.write`. Operations have the names of their functions."""

    folder: Path
    is_new: bool  #: whether there was no package in the folder before.
    changed: bool  #: whether any file was written.
    #: operations that are new in the package; None if its earlier operations are unknown.
    added: list[str] | None
    updated: list[str]
    removed: list[str]


class Package(NamedTuple):
    """A node package."""

    name: str  #: the name of the package, and of its folder.
    code: str  #: the path of the node's code. n8n takes the name of the class from its file name.
    files: dict[str, str]  #: the text of each file by its path in the package, in the order of writing.

    def write(self, where: Path, environment: Mapping[str, str]) -> Written:
        """Write the package into its folder in `where`, as `write_files` does.

        Args:
            environment: the environment variables with n8n's folders.

        Raises:
            ConfigurationError: n8n would confuse the node with another one, or a part of the path is a
                symbolic link.
            OSError: a file cannot be written.
        """
        folder = where / self.name
        self._check_rivals(where, folder, environment)
        before = _operations(folder / "package.json")
        changed = write_files(folder, self.files)
        now: dict[str, str] = json.loads(self.files["package.json"])["n8nrunner"]["operations"]
        return Written(
            folder,
            before == {},
            changed,
            None if before is None else [name for name in now if name not in before],
            [name for name in now if before is not None and before.get(name, now[name]) != now[name]],
            [name for name in before or () if name not in now],
        )

    def _check_rivals(self, where: Path, folder: Path, environment: Mapping[str, str]) -> None:
        """Raise `ConfigurationError` if there is another node of the type: n8n would load only one."""
        file_name = Path(self.code).name
        for other in _nodes_beside(where, file_name, environment):
            if folder in other.parents:
                continue
            package = other.parents[min(3, len(other.parents) - 1)]  # above dist/nodes/<name>
            runner = _our_entry(package / "package.json").get("runner")
            owner = f"the node of the runner {runner!r}" if runner else "another node"
            raise ConfigurationError(
                [
                    f"name: n8n would take this node and {owner} for the same node, because both are in a "
                    f"file {file_name}: {other}. Give this runner another name, or delete the other node if "
                    "it is no longer used"
                ]
            )


def write_files(folder: Path, files: Mapping[str, str]) -> bool:
    """Write the files of a package, by their paths in its folder. Return whether any was written.

    Files that are current already are left as they are. Each other file is replaced at once, so that n8n
    never reads an incomplete one.

    Raises:
        ConfigurationError: a part of the path is a symbolic link.
        OSError: a file cannot be written.
    """
    written = [path for path, text in files.items() if _write(folder, path, text)]
    return bool(written)


def packages_folder(environment: Mapping[str, str]) -> Path:
    """Return the folder where n8n keeps the packages that it installs. Raises as `custom_folder`."""
    return n8n_folder(environment) / "nodes" / "node_modules"


def custom_folder(environment: Mapping[str, str]) -> Path:
    """Return the folder where an n8n with this environment looks for nodes when it starts.

    It is the last one of `N8N_CUSTOM_EXTENSIONS`, the only one that n8n loads, or else ``.n8n/custom`` in
    `N8N_USER_FOLDER` or the home folder. Raises `ConfigurationError` if there is no home folder.
    """
    listed = [part for part in environment.get(CUSTOM_EXTENSIONS, "").split(";") if part.strip()]
    return Path(listed[-1].strip()) if listed else n8n_folder(environment) / "custom"


def folder_of(directory: str | os.PathLike[str]) -> Path:
    """Return the folder of a path in which "~" is the home folder. Raises `ConfigurationError`."""
    try:
        return Path(directory).expanduser()
    except RuntimeError:
        raise ConfigurationError(
            [f"{os.fspath(directory)}: there is no such home folder; name the folder from its root"]
        ) from None


def n8n_folder(environment: Mapping[str, str]) -> Path:
    """Return n8n's own folder, ``.n8n``, which may not exist. Raises as `custom_folder`."""
    above = environment.get("N8N_USER_FOLDER")
    if above:
        return Path(above) / ".n8n"
    try:
        return Path.home() / ".n8n"
    except RuntimeError:
        raise ConfigurationError(
            [
                "the user has no home folder, in which n8n's folder .n8n would be: set HOME, or "
                "N8N_USER_FOLDER to the folder that has .n8n in it, or name a folder with --out DIR"
            ]
        ) from None


def _nodes_beside(where: Path, file_name: str, environment: Mapping[str, str]) -> Iterator[Path]:
    """Yield the node files of this name that an n8n would load if it loads those in `where`."""
    yield from where.glob(file_name)
    yield from where.glob(f"*/dist/nodes/*/{file_name}")
    try:
        custom = custom_folder(environment)
    except ConfigurationError:
        return
    if custom == where or custom in where.parents:
        yield from custom.rglob(file_name)


def _write(folder: Path, name: str, text: str) -> bool:
    """Write one file of a package unless it is current. Return whether it was written."""
    path = folder / name
    if not path.is_symlink() and path.is_file() and path.read_bytes() == text.encode():
        return False
    _make_folders(folder, path.parent)
    # Under a random name, and only if no such file exists: in a folder that others may write to, a symbolic
    # link with this name would lead the text into another file.
    handle, unfinished = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".unfinished", dir=path.parent)
    try:
        with open(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.chmod(unfinished, _FILE_MODE)
        os.replace(unfinished, path)
    except BaseException:
        os.unlink(unfinished)
        raise
    return True


def _make_folders(package: Path, folder: Path) -> None:
    """Make a folder of a package, and the folders above it. None in the package may be a link."""
    for part in reversed([folder, *folder.parents]):
        if part.is_symlink() and (part == package or package in part.parents):
            raise ConfigurationError(
                [f"{part} is a symbolic link, which may lead anywhere: remove it, or choose another folder"]
            )
        if not part.is_dir():
            part.mkdir()
            os.chmod(part, _FOLDER_MODE)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; empty if there is none, or the file cannot be read."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _our_entry(path: Path) -> dict[str, Any]:
    """Return the entry "n8nrunner" of a package.json; empty if there is none."""
    entry = read_json(path).get("n8nrunner")
    return entry if isinstance(entry, dict) else {}


def _operations(path: Path) -> dict[str, str] | None:
    """Return the operations of a written package, with their hashes; None if an older n8nrunner wrote it."""
    if not path.exists():
        return {}
    operations = _our_entry(path).get("operations")
    return operations if isinstance(operations, dict) else None
