"""Which modules belong to a program, and which changes concern it."""

from __future__ import annotations

import os
import sys
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest

import n8nrunner
from n8nrunner.reloading.folder import Change, Folder, concerned, folder_of, may_concern, packages_of

HOME = os.path.abspath("home")


def module(name: str, *path: str, is_package: bool = False) -> ModuleType:
    made = ModuleType(name)
    made.__file__ = os.path.join(HOME, *path)
    if is_package:
        made.__path__ = [os.path.dirname(made.__file__)]
    return made


def spec(name: str, *path: str, is_package: bool = False) -> ModuleSpec:
    made = ModuleSpec(name, None, origin=os.path.join(HOME, *path), is_package=is_package)
    made.has_location = True
    return made


def test_the_folder_is_the_one_from_which_the_program_is_imported() -> None:
    assert folder_of(spec("leads", "leads.py")) == Folder(HOME)
    assert folder_of(spec("shop", "shop", "__init__.py", is_package=True)) == Folder(HOME)
    without_init = ModuleSpec("shop", None, is_package=True)
    without_init.submodule_search_locations = [os.path.join(HOME, "shop")]
    assert folder_of(without_init) == Folder(HOME)
    assert folder_of(ModuleSpec("sys", None, origin="built-in")) is None


def test_of_installed_packages_only_the_program_s_own_belongs_to_it() -> None:
    folder = folder_of(spec("shop", "site-packages", "shop", "__init__.py", is_package=True))
    assert folder == Folder(os.path.join(HOME, "site-packages"), only="shop")
    assert folder.has_module("shop", module("shop", "site-packages", "shop", "__init__.py", is_package=True))
    assert not folder.has_module("requests", module("requests", "site-packages", "requests.py"))


def test_modules_of_the_folder_are_those_whose_top_level_lies_directly_in_it() -> None:
    compiled = module("shop.fast", "shop", "fast.so")
    compiled.__spec__ = ModuleSpec("shop.fast", ExtensionFileLoader("shop.fast", "fast.so"))
    modules: dict[str, object] = {
        "leads": module("leads", "leads.py"),
        "shop": module("shop", "shop", "__init__.py", is_package=True),
        "shop.jobs": module("shop.jobs", "shop", "jobs.py"),
        "shop.fast": compiled,
        "shop.missing": None,
        # A virtual environment and another project may lie in the same folder.
        "requests": module("requests", "venv", "lib", "site-packages", "requests.py"),
        "other": module("other", "src", "other", "__init__.py", is_package=True),
        "__main__": module("__main__", "n8nrunner.py"),
        "n8nrunner": module("n8nrunner", "n8nrunner", "__init__.py", is_package=True),
        "json": sys.modules["json"],
        "sys": sys,
    }
    assert list(Folder(HOME).modules(modules)) == ["leads", "shop", "shop.jobs"]
    assert list(Folder(HOME, kept=frozenset({"shop"})).modules(modules)) == ["leads"]
    assert packages_of([ModuleType("leads"), n8nrunner]) == {str(Path(n8nrunner.__file__).parent)}


SHOP = os.path.join(HOME, "shop")


@pytest.mark.parametrize(
    ("path", "is_new", "is_broken", "expected"),
    [
        ("notes.py", False, False, False),  # not imported; the imported files are compared
        ("notes.py", True, False, False),
        ("shop/new.py", True, False, True),
        ("shop/new.py", False, False, False),
        ("shop/new.txt", True, False, False),
        ("shop/jobs.py", True, False, False),  # imported
        ("shop/jobs.py", True, True, False),
        ("missing.py", True, True, True),
        ("missing.py", False, True, True),
        ("missing", True, True, True),
        ("missing", False, True, False),
        ("shop/__pycache__", True, True, False),
        ("data.csv", True, True, False),
    ],
)
def test_changes_of_other_files_that_concern_the_program(
    path: str, is_new: bool, is_broken: bool, expected: bool
) -> None:
    change = Change(os.path.join(HOME, *path.split("/")), is_new)
    files = [os.path.join(SHOP, "jobs.py")]
    assert concerned([change], files, [SHOP], is_broken) is expected
    assert may_concern(change) or not expected


@pytest.mark.parametrize(
    "name", ["leads.tmp", "data.csv", "leads.py~", "__pycache__", ".git", "app.db-journal"]
)
def test_changes_of_data_concern_no_program(name: str) -> None:
    assert not may_concern(Change(os.path.join(HOME, name), is_new=True))
