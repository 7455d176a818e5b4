"""n8nrunner's own node package in n8n: written by `n8nrunner node --install`, and installed from npm.

For the latter, n8n itself runs the steps of *Settings > Community nodes*. A program in the place of npm
answers what npm would ask the registry, and packs the package from the disk; npm runs the other commands.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from n8nrunner import __version__
from tests import chromium
from tests.processes import python

from . import editor
from .conftest import installed, running, skip_or_fail
from .install import N8N_VERSION, VERSIONS, Installation
from .n8n import N8n
from .processes import free_port

with contextlib.suppress(ImportError):  # `chromium.missing` says so
    from playwright.sync_api import expect, sync_playwright

pytestmark = pytest.mark.n8n

PACKAGE = "n8n-nodes-n8nrunner"
TYPES = {f"{PACKAGE}.{name}" for name in ("pythonFunction", "pythonFunctionTool", "pythonTools")}

OTHER = "n8n-nodes-other"
OTHER_VERSION = "1.2.3"
OTHER_TYPES = {f"{OTHER}.other"}
OTHER_FILES = {
    "package.json": json.dumps(
        {
            "name": OTHER,
            "version": OTHER_VERSION,
            "author": {"name": "Other", "email": "other@example.com"},
            "files": ["dist"],
            "n8n": {"n8nNodesApiVersion": 1, "nodes": ["dist/Other.node.js"]},
            "peerDependencies": {"n8n-workflow": "*"},
        }
    ),
    "dist/Other.node.js": """
        exports.Other = class {
            description = {
                displayName: 'Other', name: 'other', group: ['transform'], version: 1, description: 'Other',
                defaults: { name: 'Other' }, inputs: ['main'], outputs: ['main'], properties: [],
            };
        };""",
}

NPM = """#!/bin/sh
set -e
case "$1" in
    view) echo "\\"${{2##*@}}\\"" ;;
    outdated) echo '{{}}' ;;
    pack) name=${{2%@*}}; cp "{packed}/$name.tgz" .; echo "$name.tgz" ;;
    *) exec "{npm}" "$@" ;;
esac
"""


def install(*arguments: str, **variables: str) -> str:
    """Run `n8nrunner node`, and return what it says."""
    with python("-m", "n8nrunner", "node", *arguments, env=variables) as program:
        assert program.wait() == 0, program.output
    return program.output


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pack(folder: Path, into: Path) -> Path:
    """Pack a package with npm; return the tarball, under the package's name."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    command = [npm, "pack", "--json", "--offline", "--pack-destination", str(into)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=True)
    (packed,) = json.loads(done.stdout)
    return (into / packed["filename"]).rename(into / f"{packed['name']}.tgz")


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A folder with the tarballs of n8nrunner's package and of another one."""
    folder = tmp_path / "packed"
    folder.mkdir()
    install("--out", str(tmp_path / "written"))
    for name, text in OTHER_FILES.items():
        path = tmp_path / "written" / OTHER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name in (PACKAGE, OTHER):
        pack(tmp_path / "written" / name, folder)
    return folder


def empty(n8n: N8n) -> N8n:
    """An n8n without packages, in the place of one that has the package for other tests."""
    shutil.rmtree(n8n.packages_folder.parent)
    return n8n


@pytest.fixture(params=VERSIONS)
def n8n(request: pytest.FixtureRequest, tmp_path: Path, packed: Path) -> Iterator[N8n]:
    """An n8n that has not been started yet, and whose npm downloads the packages of `packed`."""
    place = installed(request.param)
    program = tmp_path / "bin" / "npm"
    program.parent.mkdir()
    program.write_text(NPM.format(packed=packed, npm=shutil.which("npm")))
    program.chmod(0o755)
    variables = {
        "PATH": os.pathsep.join((str(program.parent), place.environment()["PATH"])),
        "HTTPS_PROXY": f"http://127.0.0.1:{free_port()}",  # n8n asks its own servers about a package
    }
    n8n = empty(N8n(place, tmp_path, variables=variables))
    try:
        yield n8n
    finally:
        n8n.kill()


def folder_in(n8n: N8n, package: str = PACKAGE) -> Path:
    return n8n.packages_folder / package


def install_from_npm(n8n: N8n, package: str, version: str) -> None:
    """Ask n8n for what the button of *Settings > Community nodes* asks for."""
    n8n.rest("POST", "/rest/community-packages", {"name": f"{package}@{version}"})


def community_packages(n8n: N8n) -> dict[str, dict[str, Any]]:
    """Return the packages that n8n shows under *Settings > Community nodes*, by their names."""
    return {each["packageName"]: each for each in n8n.rest("GET", "/rest/community-packages")}


def test_npm_packs_exactly_the_files_of_the_package(packed: Path, tmp_path: Path) -> None:
    with tarfile.open(packed / f"{PACKAGE}.tgz") as tarball:
        tarball.extractall(tmp_path / "unpacked")
    assert contents(tmp_path / "unpacked" / "package") == contents(tmp_path / "written" / PACKAGE)


def test_the_install_command_gives_the_types_of_an_installation_from_npm(n8n: N8n) -> None:
    nodes = n8n.packages_folder.parent
    assert not nodes.exists()
    said = install("--install", N8N_USER_FOLDER=str(n8n.user_folder))
    assert f"Wrote {folder_in(n8n)}, version {__version__}." in said
    written = contents(folder_in(n8n))
    n8n.start()
    assert n8n.node_types(PACKAGE) == TYPES
    assert json.loads((nodes / "package.json").read_text())["dependencies"] == {}
    assert community_packages(n8n) == {}

    # n8n installs another package from npm, into the same folder.
    install_from_npm(n8n, OTHER, OTHER_VERSION)
    assert n8n.node_types(OTHER) == OTHER_TYPES
    assert contents(folder_in(n8n)) == written
    n8n.stop()
    n8n.start()
    assert n8n.node_types(PACKAGE) | n8n.node_types(OTHER) == TYPES | OTHER_TYPES

    # n8n installs this package from npm, over it: it is its own from now on.
    install_from_npm(n8n, PACKAGE, __version__)
    assert community_packages(n8n)[PACKAGE]["installedVersion"] == __version__
    assert n8n.node_types(PACKAGE) == TYPES


@pytest.mark.parametrize("n8n", [N8N_VERSION], indirect=True)
def test_the_button_of_the_community_nodes_installs_the_package(n8n: N8n, tmp_path: Path) -> None:
    lacking = chromium.missing()
    if lacking:
        skip_or_fail(f"the editor's tests need {' and '.join(lacking)}")
    n8n.start()
    with sync_playwright() as playwright:
        browser = editor.launch(playwright)
        try:
            page = editor.log_in(browser, n8n).new_page()
            page.goto(f"{n8n.url}/settings/community-nodes")
            page.get_by_role("button", name="Install a community node").click()
            page.locator("[name=packageNameInput]").fill(f"{PACKAGE}@{__version__}")
            page.get_by_test_id("user-agreement-checkbox").click()
            page.get_by_test_id("install-community-package-button").click()
            expect(page.get_by_test_id("community-package-card")).to_contain_text("2 nodes: Python Function")
            expect(page.get_by_test_id("install-community-package-button")).to_have_count(0)
            page.screenshot(path=tmp_path / "community-nodes.png")
        finally:
            browser.close()
    assert n8n.node_types(PACKAGE) == TYPES


@pytest.mark.parametrize(
    ("variables", "types"),
    [
        # n8n 3 forbids to install unverified packages unless the first variable is set.
        ({"N8N_UNVERIFIED_PACKAGES_ENABLED": "false", "N8N_COMMUNITY_PACKAGES_ENABLED": "false"}, TYPES),
        ({"N8N_COMMUNITY_PACKAGES_PREVENT_LOADING": "true"}, set()),
        ({"N8N_DISABLED_MODULES": "community-packages"}, set()),
    ],
)
def test_only_a_ban_of_loading_concerns_the_install_command(
    place: Installation, tmp_path: Path, variables: dict[str, str], types: set[str]
) -> None:
    n8n = empty(N8n(place, tmp_path, variables=variables))
    install("--install", N8N_USER_FOLDER=str(n8n.user_folder))
    with running(n8n):
        assert n8n.node_types(PACKAGE) == types


def test_an_installation_from_npm_has_the_same_types_and_stays(n8n: N8n) -> None:
    n8n.start()
    install_from_npm(n8n, PACKAGE, __version__)
    install_from_npm(n8n, OTHER, OTHER_VERSION)
    assert n8n.node_types(PACKAGE) == TYPES  # without a restart
    installed = contents(folder_in(n8n))
    assert set(installed) == set(contents(n8n.user_folder.parent / "written" / PACKAGE))
    n8n.stop()
    n8n.start()
    assert n8n.node_types(PACKAGE) == TYPES
    assert contents(folder_in(n8n)) == installed

    # The command writes over it, and says what n8n goes on showing.
    ledger = n8n.packages_folder.parent / "package.json"
    assert json.loads(ledger.read_text())["dependencies"] == {PACKAGE: __version__, OTHER: OTHER_VERSION}
    ledger.write_text(ledger.read_text().replace(__version__, "0.0.9"))
    said = install("--install", N8N_USER_FOLDER=str(n8n.user_folder))
    assert f"version {__version__} (before: {__version__})" in said
    assert "has version 0.0.9 of it" in said
    n8n.stop()
    n8n.start()
    assert n8n.node_types(PACKAGE) == TYPES
    assert not community_packages(n8n)[PACKAGE].get("failedLoading")

    n8n.rest("DELETE", "/rest/community-packages", name=PACKAGE)
    assert not folder_in(n8n).exists()
    assert n8n.node_types(PACKAGE) | n8n.node_types(OTHER) == OTHER_TYPES
