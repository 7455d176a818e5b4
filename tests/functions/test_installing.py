"""Installing the node package that is the same for every runner, from a checkout and a zip file."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import n8nrunner
from n8nrunner import ConfigurationError, __version__, install_node
from n8nrunner.functions.node.installing import install
from tests.processes import zip_program

from .static_package import FOLDER

NAME = "n8n-nodes-n8nrunner"
ROOT = Path(n8nrunner.__file__).parents[1]


def contents(folder: Path) -> dict[str, str]:
    """Return the text of each file in a folder by its path there."""
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in folder.rglob("*")
        if path.is_file()
    }


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def test_the_package_is_written_where_n8n_keeps_its_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("N8N_USER_FOLDER", str(tmp_path))
    monkeypatch.setenv("N8N_CUSTOM_EXTENSIONS", str(tmp_path / "custom"))  # for other nodes
    folder = install_node()
    assert folder == tmp_path / ".n8n" / "nodes" / "node_modules" / NAME
    assert contents(folder) == contents(FOLDER)
    assert [path.name for path in tmp_path.iterdir()] == [".n8n"]


def test_the_package_can_be_written_into_another_folder(tmp_path: Path) -> None:
    assert install_node(tmp_path / "build") == tmp_path / "build" / NAME
    assert contents(tmp_path / "build" / NAME) == contents(FOLDER)


def test_a_package_that_is_current_is_not_written_again(tmp_path: Path) -> None:
    first = install(tmp_path, {})
    assert (first.changed, first.earlier, first.version) == (True, None, __version__)
    second = install(tmp_path, {})
    assert (second.changed, second.earlier, second.version) == (False, __version__, __version__)


@pytest.mark.parametrize("version", ["0.0.9", "99.0.0", None])
def test_another_version_is_replaced(tmp_path: Path, version: str | None) -> None:
    folder = install(tmp_path, {}).folder
    write_json(folder / "package.json", {"version": version})
    replaced = install(tmp_path, {})
    assert (replaced.changed, replaced.earlier) == (True, version)
    assert contents(folder) == contents(FOLDER)


@pytest.mark.parametrize(
    ("ledger", "listed"),
    [
        ({"dependencies": {NAME: "0.0.9"}}, "0.0.9"),
        ({"dependencies": {"n8n-nodes-other": "1.0.0"}}, None),
        ({"dependencies": None}, None),
        ([], None),
    ],
)
def test_the_version_in_n8n_s_own_list_is_reported(tmp_path: Path, ledger: Any, listed: str | None) -> None:
    environment = {"N8N_USER_FOLDER": str(tmp_path)}
    assert install(None, environment).listed is None
    path = tmp_path / ".n8n" / "nodes" / "package.json"
    write_json(path, ledger)
    assert install(None, environment).listed == listed
    assert json.loads(path.read_text()) == ledger, "it is n8n's"


@pytest.mark.skipif(sys.platform == "win32", reason="modes of POSIX")
def test_every_user_can_read_the_package_with_any_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        folder = install(tmp_path / "nodes", {}).folder
    finally:
        os.umask(before)
    for path in [folder.parent, folder, *folder.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644), path


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need a right there")
def test_a_package_that_is_a_symbolic_link_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "checkout").mkdir()
    (tmp_path / NAME).symlink_to(tmp_path / "checkout")
    with pytest.raises(ConfigurationError, match="is a symbolic link"):
        install_node(tmp_path)
    assert not list((tmp_path / "checkout").iterdir())


def test_installing_needs_no_other_package(tmp_path: Path) -> None:
    program = "import n8nrunner; n8nrunner.install_node('build')"
    # Without the packages of this Python's environment.
    command = [sys.executable, "-S", "-c", program]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=tmp_path, env=environment, timeout=60, check=True)
    assert (tmp_path / "build" / NAME / "package.json").is_file()


def test_a_program_in_a_zip_file_installs_the_package(tmp_path: Path) -> None:
    program = (
        "import n8nrunner\nassert 'program.pyz' in n8nrunner.__file__\nn8nrunner.install_node('build')\n"
    )
    subprocess.run(zip_program(tmp_path, program), cwd=tmp_path, timeout=60, check=True)
    assert contents(tmp_path / "build" / NAME) == contents(FOLDER)
