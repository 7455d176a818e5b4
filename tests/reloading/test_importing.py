"""Modules that are imported from their sources, and imported again."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from n8nrunner.reloading.folder import Folder
from n8nrunner.reloading.importing import Sources


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a program."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "shop").mkdir()
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def sources(folder: Path) -> Iterator[Sources]:
    found = Sources(Folder(str(folder)))
    with found.installed():
        yield found


def import_again(sources: Sources, name: str) -> ModuleType:
    with sources.again():
        return importlib.import_module(name)


def test_no_module_of_a_package_that_failed_at_the_first_import_stays(sources: Sources, folder: Path) -> None:
    package, part = folder / "shop" / "__init__.py", folder / "shop" / "part.py"
    package.write_text("from . import part\n1 / 0\n")
    part.write_text("VALUE = 1\n")
    with pytest.raises(ZeroDivisionError):
        import_again(sources, "shop")
    assert "shop.part" not in sys.modules
    package.write_text("from . import part\n")
    part.write_text("VALUE = 22\n")
    assert sources.changed() == [str(package), str(part)]
    assert import_again(sources, "shop").part.VALUE == 22
    assert sources.changed() == []


def test_a_failed_import_puts_the_old_modules_back(sources: Sources, folder: Path) -> None:
    package, part = folder / "shop" / "__init__.py", folder / "shop" / "part.py"
    package.write_text("from . import part\n")
    part.write_text("VALUE = 1\n")
    shop = import_again(sources, "shop")
    (folder / "shop" / "new.py").write_text("")
    package.write_text("from . import new, part\n1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        import_again(sources, "shop")
    assert sys.modules["shop"] is shop
    assert sys.modules["shop.part"] is shop.part
    assert "shop.new" not in sys.modules


def test_an_unchanged_module_is_compiled_once(
    sources: Sources, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "shop" / "__init__.py").write_text("def f(): pass\n")
    code = import_again(sources, "shop").f.__code__
    assert import_again(sources, "shop").f.__code__ is code
    assert not (folder / "shop" / "__pycache__").exists()


def test_other_modules_are_found_as_python_finds_them(sources: Sources) -> None:
    assert sources.find_spec("json", None) is None
    assert sources.find_spec("json.tool", sys.modules["json"].__path__) is None
    assert sources.find_spec("not_there", None) is None
