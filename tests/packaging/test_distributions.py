"""The contents of what is uploaded: the sdist has the repository, and the wheel has the package."""

from __future__ import annotations

import configparser
import email
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.pages import ROOT, read

from .extras import SMOKES

BUILD = "import setuptools.build_meta as build, sys; print(getattr(build, sys.argv[1])(sys.argv[2]))"


def sources() -> set[str]:
    """Return the files of the repository, by their paths in it."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not in a checkout of git")
    return {path for path in listed.stdout.splitlines() if (ROOT / path).is_file()}


def build(kind: str, folder: Path, out: Path) -> Path:
    """Build a distribution of the sources in a folder, as pip and build do."""
    command = [sys.executable, "-c", BUILD, f"build_{kind}", str(out)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the sdist of a copy of the repository, and the wheel that is built of that sdist."""
    pytest.importorskip("setuptools", minversion="70.1")  # from then on, it builds wheels by itself
    folder = tmp_path_factory.mktemp("distributions")
    for path in sources():
        target = folder / "checkout" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, target)
    sdist = build("sdist", folder / "checkout", folder)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked")
    (unpacked,) = (folder / "unpacked").iterdir()
    return sdist, build("wheel", unpacked, folder)


def test_the_sdist_has_every_file_of_the_repository(distributions: tuple[Path, Path]) -> None:
    sdist, _ = distributions
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames() if archive.getmember(name).isfile()}
    added = {"PKG-INFO"} | {name for name in names if name.startswith("n8nrunner.egg-info/")}
    assert names - added == sources()


def test_the_wheel_has_the_package_and_nothing_else(distributions: tuple[Path, Path]) -> None:
    _, wheel = distributions
    with zipfile.ZipFile(wheel) as archive:
        carried = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = {name.partition(".dist-info/")[2] for name in archive.namelist()} - {""}
    assert carried == {path for path in sources() if path.startswith("n8nrunner/")}
    assert {"n8nrunner/py.typed", "n8nrunner/functions/node/static/package.json"} <= carried
    assert {"METADATA", "RECORD", "WHEEL", "entry_points.txt"} <= metadata
    assert any(name.endswith("LICENSE") for name in metadata)


def test_the_wheel_declares_its_python_its_extras_and_its_three_dependencies(
    distributions: tuple[Path, Path],
) -> None:
    _, wheel = distributions
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    assert metadata["Requires-Python"] == ">=3.9"
    assert set(metadata.get_all("Provides-Extra", [])) == extras()
    core = {line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line}
    assert {line.partition(">")[0].strip() for line in core} == {"websocket-client", "requests", "backoff"}
    assert metadata["Description-Content-Type"] == "text/markdown"


def extras() -> set[str]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return set(config["options.extras_require"])


def test_every_extra_for_users_is_tried_alone() -> None:
    assert set(SMOKES) - {"no extra"} == extras() - {"test", "dev", "docs"}


def test_the_home_page_lists_the_extras_for_users() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", read("docs/index.md"), re.MULTILINE)
    assert set(listed) == extras() - {"test", "dev", "docs"}
