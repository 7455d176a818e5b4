"""Projects of users in temporary folders, whose tests run in this process by the fixture `pytester`."""

from __future__ import annotations

import contextlib
import pkgutil
import sys
from importlib import import_module

import pytest

import n8nrunner

# The fixture forgets modules that were first imported during its test. A second copy of a module of n8nrunner
# would not work with the modules that use the first one, so all of them are imported here.
for _found in pkgutil.walk_packages(n8nrunner.__path__, "n8nrunner."):
    if "_pyinstaller" not in _found.name and not _found.name.endswith("__main__"):
        with contextlib.suppress(ImportError):  # of an extra that is not installed
            import_module(_found.name)


def new_project(pytester: pytest.Pytester, **modules: str) -> pytest.Pytester:
    """Write modules into the folder, from which its tests can import them."""
    pytester.makepyfile(**modules)
    pytester.syspathinsert()
    for name in modules:
        sys.modules.pop(name, None)  # another test may have left one of the same name
    return pytester
