"""Imports the modules of a folder from their sources, and imports them again.

Thread: `Sources` installs itself, and `again` runs, on the thread of the command. Any thread may import
a module during that time.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import NamedTuple

from n8nrunner.reloading.folder import Folder


class Fingerprint(NamedTuple):
    """The state of a file. Its time alone would miss a second save within the resolution of the clock."""

    modified: int
    size: int
    file: int
    content: int


def fingerprint(path: str) -> Fingerprint | None:
    """Return the state of a file now; None if it is not there."""
    try:
        state = os.stat(path)
        with open(path, "rb") as file:
            content = hash(file.read())
    except OSError:
        return None
    return Fingerprint(state.st_mtime_ns, state.st_size, state.st_ino, content)


class Sources(MetaPathFinder):
    """Imports a folder's modules from their sources, and knows the state in which it has read each of them.

    It does not use the files in ``__pycache__``: Python compares a source's time in seconds with them, so it
    would take the old code after two saves of the same size within one second.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        #: The files that were imported, with their state when they were read; None if a file has gone.
        self.read: dict[str, Fingerprint | None] = {}
        #: The same of the modules that are kept as they are.
        self._kept: dict[str, Fingerprint | None] = {}
        #: The last source of each file, and its code.
        self.compiled: dict[str, tuple[bytes, CodeType]] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module of the folder, as Python does. Return None for any other module."""
        top = fullname.partition(".")[0]
        if top != fullname and not self._folder.has_module(top, sys.modules.get(top)):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin is None or type(spec.loader) is not SourceFileLoader:
            return None
        if top == fullname and not self._folder.has_spec(spec):
            return None
        record = self._kept if self._folder.keeps(fullname) else self.read
        spec.loader = _SourceLoader(fullname, spec.origin, record, self.compiled)
        return spec

    def modules(self) -> dict[str, ModuleType]:
        """Return the modules of the folder that are imported now and can be imported again."""
        modules = dict(sys.modules)
        # An import that fails leaves modules of a package whose own import has failed.
        read = {name: module for name, module in modules.items() if self._has_read(name, module)}
        return {**self._folder.modules(modules), **read}

    def _has_read(self, name: str, module: ModuleType) -> bool:
        spec = vars(module).get("__spec__") if isinstance(module, ModuleType) else None
        return isinstance(getattr(spec, "loader", None), _SourceLoader) and not self._folder.keeps(name)

    @property
    def files(self) -> list[str]:
        """All files that were imported."""
        return [*self.read, *self._kept]

    def take_changed_kept(self) -> list[str]:
        """Return the files of kept modules that have changed since the last call."""
        changed = []
        for path, state in list(self._kept.items()):
            self._kept[path] = fingerprint(path)
            if self._kept[path] != state:
                changed.append(path)
        return changed

    def changed(self) -> list[str]:
        """Return the imported files that are not in the state in which they were read."""
        return [path for path, state in list(self.read.items()) if fingerprint(path) != state]

    def accept(self) -> None:
        """Count the files as read in their present state, without an import."""
        for path in list(self.read):
            self.read[path] = fingerprint(path)

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Import the folder's modules by this finder in the block."""
        sys.meta_path.insert(0, self)
        try:
            yield
        finally:
            sys.meta_path.remove(self)

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """Import the folder's modules again in the block. If it raises, put the old ones back.

        All of them together: a module that was imported before would keep names of an old one.
        """
        before, read = self.modules(), self.read.copy()
        now = {path: fingerprint(path) for path in read}
        for name in before:
            sys.modules.pop(name, None)
        self.read.clear()
        importlib.invalidate_caches()
        try:
            yield
        except BaseException:
            for name in self.modules():
                sys.modules.pop(name, None)
            sys.modules.update(before)
            # Files that this import has not come to count as read, so that they are not read again at once.
            for path, state in now.items():
                self.read.setdefault(path, state)
            raise


class _SourceLoader(SourceFileLoader):
    """Compiles a source, unless it has compiled the same before, and notes the state in which it was read."""

    def __init__(
        self,
        fullname: str,
        path: str,
        record: dict[str, Fingerprint | None],
        compiled: dict[str, tuple[bytes, CodeType]],
    ) -> None:
        super().__init__(fullname, path)
        self._record = record
        self._compiled = compiled

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return a new module. A package has its modules that were not removed for this import."""
        module = ModuleType(spec.name)
        for name, other in list(sys.modules.items()):
            package, _, child = name.rpartition(".")
            if package == spec.name and isinstance(other, ModuleType):
                setattr(module, child, other)
        return module

    def get_code(self, fullname: str) -> CodeType:
        """Return the code of the module."""
        path = self.path
        state = os.stat(path)
        data = self.get_data(path)
        self._record[path] = Fingerprint(state.st_mtime_ns, state.st_size, state.st_ino, hash(data))
        known, code = self._compiled.get(path, (None, None))
        if code is None or known != data:
            code = self.source_to_code(data, path)
            self._compiled[path] = (data, code)
        return code
