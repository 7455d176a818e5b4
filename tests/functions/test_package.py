"""Writing a node package, and the folder where n8n looks for it."""

from __future__ import annotations

import configparser
import json
import os
import runpy
import stat
import subprocess
import sys
import types
from pathlib import Path
from typing import Any, Dict

import pytest

import n8nrunner
from n8nrunner import ConfigurationError, Runner
from n8nrunner._pyinstaller import get_hook_dirs
from n8nrunner.functions.node.writing import custom_folder, n8n_folder
from tests.processes import zip_program

from .javascript import package

pytest.importorskip("docstring_parser")


def one(value: int) -> None: ...


def two(value: int) -> None: ...


def runner_with(name: str, *functions: Any) -> Runner:
    runner = Runner(auth_token="secret", name=name)
    for function in functions or (one,):
        runner.function(function)
    return runner


# --- its files ---------------------------------------------------------------------------------------


def test_files_that_are_current_are_not_written_again(tmp_path: Path) -> None:
    assert package(one).write(tmp_path, {}).changed is True
    assert package(one).write(tmp_path, {}).changed is False
    assert package(one, two).write(tmp_path, {}).changed is True
    assert not list(tmp_path.rglob("*.unfinished"))


def test_a_runner_writes_its_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner(auth_token="secret", name="shop")
    with pytest.raises(ConfigurationError, match="has no function"):
        runner.write_node(tmp_path)
    runner.function(one)
    folder = runner.write_node(tmp_path)
    assert folder == tmp_path / "n8n-nodes-shop"
    assert (folder / "dist" / "nodes" / "Shop" / "Shop.node.js").is_file()
    monkeypatch.setenv("N8N_USER_FOLDER", str(tmp_path))
    assert runner.write_node() == tmp_path / ".n8n" / "custom" / "n8n-nodes-shop"


def test_a_runner_without_a_name_of_its_own_writes_no_node(tmp_path: Path) -> None:
    runner = Runner(auth_token="secret")
    runner.function(one)
    with pytest.raises(ConfigurationError, match="its own name"):
        runner.write_node(tmp_path)
    assert not list(tmp_path.iterdir())


def test_writing_reports_which_operations_changed(tmp_path: Path) -> None:
    def changed(value: int) -> None:
        """Say more about it."""

    changed.__name__ = "one"
    first = package(one, two).write(tmp_path, {})
    assert (first.is_new, first.added, first.updated, first.removed) == (True, ["one", "two"], [], [])
    second = package(changed).write(tmp_path, {})
    assert (second.is_new, second.added, second.updated, second.removed) == (False, [], ["one"], ["two"])
    third = package(changed, two).write(tmp_path, {})
    assert (third.added, third.updated, third.removed) == (["two"], [], [])


@pytest.mark.parametrize("written", [{"n8nrunner": "0.1.0"}, {}, [], "not JSON"])
def test_the_operations_of_an_older_package_are_unknown(tmp_path: Path, written: Any) -> None:
    description = tmp_path / "n8n-nodes-shop" / "package.json"
    description.parent.mkdir()
    description.write_text(written if written == "not JSON" else json.dumps(written))
    found = package(one).write(tmp_path, {})
    assert (found.changed, found.is_new, found.added, found.removed) == (True, False, None, [])


# --- a folder that others may write to --------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="modes of POSIX")
@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_modes_do_not_depend_on_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        package(one).write(tmp_path / "above" / "custom", {})
    finally:
        os.umask(before)
    written = list((tmp_path / "above").rglob("*"))
    assert len(written) >= 8
    for path in [tmp_path / "above", *written]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644), path


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need a right there")
def test_no_symbolic_link_is_followed(tmp_path: Path) -> None:
    folder, victim = tmp_path / "shared" / "n8n-nodes-shop", tmp_path / "victim"
    folder.mkdir(parents=True)
    victim.write_text("mine")
    for name in (".package.json.unfinished", "package.json"):
        (folder / name).symlink_to(victim)
    package(one).write(tmp_path / "shared", {})
    assert victim.read_text() == "mine"
    assert json.loads((folder / "package.json").read_text())["name"] == "n8n-nodes-shop"
    assert not (folder / "package.json").is_symlink()


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need a right there")
@pytest.mark.parametrize("link", ["n8n-nodes-shop", "n8n-nodes-shop/dist"])
def test_no_folder_of_the_package_may_be_a_symbolic_link(tmp_path: Path, link: str) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    path = tmp_path / "shared" / link
    path.parent.mkdir(parents=True)
    path.symlink_to(victim)
    with pytest.raises(ConfigurationError, match="is a symbolic link"):
        package(one).write(tmp_path / "shared", {})
    assert not list(victim.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need a right there")
def test_a_current_file_behind_a_symbolic_link_is_replaced(tmp_path: Path) -> None:
    written = package(one).write(tmp_path, {}).folder / "package.json"
    elsewhere = tmp_path / "elsewhere"
    written.rename(elsewhere)
    written.symlink_to(elsewhere)
    assert package(one).write(tmp_path, {}).changed
    assert not written.is_symlink()


# --- where n8n looks ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"N8N_USER_FOLDER": "/data"}, Path("/data/.n8n/custom")),
        ({}, Path.home() / ".n8n" / "custom"),
        ({"N8N_CUSTOM_EXTENSIONS": "/nodes"}, Path("/nodes")),
        ({"N8N_CUSTOM_EXTENSIONS": "/one; /two;", "N8N_USER_FOLDER": "/data"}, Path("/two")),
        ({"N8N_CUSTOM_EXTENSIONS": "", "N8N_USER_FOLDER": "/data"}, Path("/data/.n8n/custom")),
    ],
)
def test_the_folder_is_the_one_where_n8n_looks_for_nodes(environment: Dict[str, str], folder: Path) -> None:
    assert custom_folder(environment) == folder


def test_the_error_without_a_home_folder_names_the_variables_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(ConfigurationError, match="set HOME, or N8N_USER_FOLDER"):
        n8n_folder({})
    assert custom_folder({"N8N_CUSTOM_EXTENSIONS": "/nodes"}) == Path("/nodes")


def test_the_error_of_a_missing_home_folder_names_it() -> None:
    with pytest.raises(ConfigurationError, match="~no-such-user/nodes: there is no such home folder"):
        runner_with("shop").write_node("~no-such-user/nodes")


# --- two nodes of one type --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"), [("my-leads", "my_leads"), ("shop-2", "shop2"), ("2shops", "runner2shops")]
)
def test_a_node_that_n8n_would_confuse_with_another_one_is_refused(
    tmp_path: Path, first: str, second: str
) -> None:
    folder = package(one, name=first).write(tmp_path, {}).folder
    with pytest.raises(ConfigurationError) as refused:
        package(one, name=second).write(tmp_path, {})
    assert f"the node of the runner {first!r}" in str(refused.value)
    assert str(folder) in str(refused.value)
    assert not package(one, name=first).write(tmp_path, {}).changed


@pytest.mark.parametrize("where", ["custom", "custom/nodes"])
def test_all_folders_that_n8n_reads_are_searched_for_such_nodes(tmp_path: Path, where: str) -> None:
    environment = {"N8N_CUSTOM_EXTENSIONS": str(tmp_path / "custom")}
    package(one, name="my-leads").write(tmp_path / "custom" / "other" / "deeper", environment)
    with pytest.raises(ConfigurationError, match="'my-leads'"):
        package(one, name="my_leads").write(tmp_path / where, environment)
    package(one, name="my_leads").write(tmp_path / "elsewhere", environment)


def test_a_node_of_another_author_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "Shop.node.js").write_text("module.exports = {};")
    with pytest.raises(ConfigurationError, match="this node and another node"):
        package(one).write(tmp_path, {})


@pytest.mark.parametrize("name", ["runner-job", "runner_job"])
def test_the_sample_node_s_type_is_reserved(name: str) -> None:
    with pytest.raises(ConfigurationError, match="sample node Runner Job"):
        package(one, name=name)


# --- without files on a disk ------------------------------------------------------------------------------


def test_a_program_in_a_zip_file_writes_its_node(tmp_path: Path) -> None:
    command = zip_program(
        tmp_path,
        "import n8nrunner\n"
        "assert 'program.pyz' in n8nrunner.__file__\n"
        "runner = n8nrunner.Runner(auth_token='secret', name='shop')\n"
        "runner.function(name='one')(lambda: 1)\n"
        "print(runner.write_node('build'))\n",
    )
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "build" / "n8n-nodes-shop" / "dist" / "nodes" / "Shop" / "Shop.node.js").is_file()


def test_every_package_has_the_runtime_that_a_wheel_carries() -> None:
    setup = configparser.ConfigParser()
    setup.read(Path(n8nrunner.__file__).parents[1] / "setup.cfg")
    folder = Path(n8nrunner.__file__).parent / "functions" / "node"
    patterns = setup["options.package_data"]["n8nrunner.functions.node"].split()
    carried = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    assert carried == {path for path in (folder / "static").rglob("*") if path.is_file()}
    runtime = (folder / "static" / "dist" / "runtime.js").read_text(encoding="utf-8")
    assert package(one).files["dist/nodes/Shop/runtime.js"] == runtime
    assert package(two, name="other").files["dist/nodes/Other/runtime.js"] == runtime


def test_a_package_of_one_file_is_replaced_by_one_with_a_runtime(tmp_path: Path) -> None:
    """Earlier versions wrote the whole code into the file of the node."""
    folder = package(one).write(tmp_path, {}).folder / "dist" / "nodes" / "Shop"
    (folder / "runtime.js").unlink()
    (folder / "Shop.node.js").write_text("module.exports = { Shop: class {} };")
    assert package(one).write(tmp_path, {}).changed
    assert (folder / "runtime.js").is_file()
    assert "require('./runtime.js')" in (folder / "Shop.node.js").read_text(encoding="utf-8")


def test_pyinstaller_packs_the_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = configparser.ConfigParser()
    setup.read(Path(n8nrunner.__file__).parents[1] / "setup.cfg")
    assert (
        "hook-dirs = n8nrunner._pyinstaller:get_hook_dirs" in setup["options.entry_points"]["pyinstaller40"]
    )

    hooks = types.ModuleType("PyInstaller.utils.hooks")
    hooks.collect_data_files = lambda name: [f"the data files of {name}"]  # type: ignore[attr-defined]
    for name, module in (("PyInstaller", hooks), ("PyInstaller.utils", hooks), (hooks.__name__, hooks)):
        monkeypatch.setitem(sys.modules, name, module)
    (folder,) = get_hook_dirs()
    assert runpy.run_path(str(Path(folder) / "hook-n8nrunner.py"))["datas"] == ["the data files of n8nrunner"]
