"""The modules of a program's own folder, and the changes of files that concern them.

This decides, and reads no file: the callers pass the modules and the changes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from types import ModuleType
from typing import NamedTuple

#: Packages that are never imported again.
_KEPT = ("__main__", "n8nrunner")

#: The names of folders with installed packages.
_INSTALLED = ("site-packages", "dist-packages")


class Folder(NamedTuple):
    """The folder from which a program imports its own modules.

    A module belongs to it if its top-level module or package lies directly in it. So neither installed
    packages nor Python's library belong to a folder above them, such as a home folder.
    """

    path: str
    #: the one top-level module that belongs to it, in a folder of installed packages; None for all of them.
    only: str | None = None
    #: modules and packages that the user keeps as they are.
    kept: frozenset[str] = frozenset()

    def keeps(self, name: str) -> bool:
        """Return whether the user keeps a module as it is, by its name or that of a package around it."""
        return any(name == kept or name.startswith(f"{kept}.") for kept in self.kept)

    def has(self, top_level: str, path: str | None) -> bool:
        """Return whether a top-level module that lies in the folder `path` belongs to this folder."""
        return path == self.path and top_level not in _KEPT and self.only in (None, top_level)

    def has_spec(self, spec: ModuleSpec) -> bool:
        """Return whether the top-level module of a spec belongs to the folder."""
        return self.has(spec.name, _place_of_spec(spec))

    def has_module(self, name: str, module: object) -> bool:
        """Return whether an imported top-level module belongs to the folder."""
        return isinstance(module, ModuleType) and self.has(name, _folder_of(module))

    def modules(self, modules: Mapping[str, object]) -> dict[str, ModuleType]:
        """Return those of the imported modules that belong to the folder and can be imported again.

        Compiled extensions cannot, in general.
        """
        own = {name for name, module in modules.items() if "." not in name and self.has_module(name, module)}
        return {
            name: module
            for name, module in modules.items()
            if name.partition(".")[0] in own
            and isinstance(module, ModuleType)
            and not _is_compiled(module)
            and not self.keeps(name)
        }


def folder_of(spec: ModuleSpec) -> Folder | None:
    """Return the folder of a program, from the spec of its top-level module; None if it has no file."""
    path = _place_of_spec(spec)
    if path is None:
        return None
    return Folder(path, spec.name if os.path.basename(path) in _INSTALLED else None)


def _place_of_spec(spec: ModuleSpec) -> str | None:
    return _place_of(spec.origin if spec.has_location else None, spec.submodule_search_locations)


def _folder_of(module: ModuleType) -> str | None:
    return _place_of(vars(module).get("__file__"), vars(module).get("__path__"))


def _place_of(file: object, search_path: Iterable[str] | None) -> str | None:
    """Return the folder in which a top-level module or package lies; None if it has no file."""
    if isinstance(file, str):
        folder = os.path.dirname(os.path.abspath(file))
        return folder if search_path is None else os.path.dirname(folder)
    folders = [] if search_path is None else [os.path.abspath(each) for each in search_path]
    return os.path.dirname(folders[0]) if folders else None  # a package without __init__.py


def _is_compiled(module: ModuleType) -> bool:
    spec = vars(module).get("__spec__")
    return isinstance(getattr(spec, "loader", None), ExtensionFileLoader)


def packages_of(modules: Iterable[ModuleType]) -> frozenset[str]:
    """Return the folders of the packages among some modules."""
    paths = (vars(module).get("__path__") or () for module in modules)
    return frozenset(os.path.abspath(path) for each in paths for path in each)


class Change(NamedTuple):
    """A change of a file or a folder."""

    path: str
    is_new: bool  #: whether it has been created, or been renamed to this path.


def may_concern(change: Change) -> bool:
    """Return whether a change is one of a source or of a folder, by its name."""
    name = os.path.basename(change.path)
    return name.endswith(".py") or _may_be_package(name)


def _may_be_package(name: str) -> bool:
    return "." not in name and name != "__pycache__"


def concerned(
    changes: Iterable[Change], files: Iterable[str], packages: Iterable[str], is_broken: bool
) -> bool:
    """Return whether changes of other files than the imported ones can change the result of an import.

    Args:
        changes: what has changed.
        files: the imported files. Their states are compared instead, because one save may be several changes.
        packages: the folders of the program's packages. A program may import all modules that one has.
        is_broken: whether the last import has failed. Then a module may appear that was missing.
    """
    known = {os.path.normcase(path) for path in files}
    folders = {os.path.normcase(path) for path in packages}
    for path, is_new in ((os.path.normcase(change.path), change.is_new) for change in changes):
        if path in known:
            continue
        folder, name = os.path.split(path)
        if name.endswith(".py"):
            if is_broken or (is_new and folder in folders):
                return True
        elif is_broken and is_new and _may_be_package(name):
            return True
    return False
