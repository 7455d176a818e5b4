"""Installs the n8n that these tests drive: `python -m tests.n8n.install`, and older ones by their version.

Everything comes as npm packages through the machine's own npm, as it is configured: Node 24, which n8n needs,
then n8n, then its two native modules, built here. It takes about ten minutes and 3 GB the first time, and an
instant afterwards. Only the standard library is used, so that it can run before anything else is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

N8N_VERSION = "2.40.7"
OLD_VERSION = "1.123.81"
"""Of the last line of n8n 1, which still gets patches. `test_old_version.py` drives it."""
VERSIONS = (N8N_VERSION, OLD_VERSION)

OVERRIDES: dict[str, dict[str, str]] = {
    # It asks for an archive that is not in the npm registry.
    OLD_VERSION: {"xlsx": "0.18.5"},
}
"""Dependencies of an n8n that are replaced by other versions of the same package."""

NODE_MAJOR = "24"
NATIVE_MODULES = ("sqlite3", "isolated-vm")

STEP_LIMIT = 1800.0
"""Seconds that one step may take before it counts as hung."""

PROGRESS_INTERVAL = 20.0
"""Seconds between two lines that say a long step is still alive."""

TAIL_LINES = 40


class InstallError(Exception):
    """n8n could not be installed. The message says which step failed and shows the end of its output."""


class Installation(NamedTuple):
    """Where things are in the cache folder; says nothing about whether they are there yet."""

    folder: Path
    version: str

    @property
    def stamp(self) -> Path:
        return self.folder / "complete.json"

    @property
    def log(self) -> Path:
        return self.folder / "install.log"

    @property
    def node_project(self) -> Path:
        return self.folder / "node"

    @property
    def node_package(self) -> Path:
        return self.node_project / "node_modules" / _node_package_name()

    @property
    def node(self) -> Path:
        return self.node_package / "bin" / "node"

    @property
    def n8n_project(self) -> Path:
        return self.folder / "n8n"

    @property
    def n8n_script(self) -> Path:
        return self.n8n_project / "node_modules" / "n8n" / "bin" / "n8n"

    @property
    def javascript_runner(self) -> Path:
        """The folder of n8n's own JavaScript runner."""
        return self.n8n_project / "node_modules" / "@n8n" / "task-runner"

    @property
    def is_complete(self) -> bool:
        return self.stamp.is_file()

    def environment(self) -> dict[str, str]:
        """This process's environment with Node 24 first on PATH and without any setting of n8n."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("N8N_")}
        environment["PATH"] = f"{self.node.parent}{os.pathsep}{environment.get('PATH', os.defpath)}"
        return environment


def cache_root() -> Path:
    """The folder that keeps installations: `$N8NRUNNER_TEST_CACHE`, or one in the user's own cache."""
    configured = os.environ.get("N8NRUNNER_TEST_CACHE")
    return Path(configured).expanduser() if configured else Path.home() / ".cache" / "n8nrunner-tests"


def installation(version: str = N8N_VERSION) -> Installation:
    """The place of an n8n in the cache, installed or not."""
    return Installation(cache_root().absolute() / f"n8n-{version}", version)


def install(version: str = N8N_VERSION) -> Installation:
    """Installs n8n unless it is there, and returns where it is.

    Two processes that call this at once do not disturb each other: the second waits, and finds the work done.
    Files of an interrupted attempt are deleted. Raises `InstallError`.
    """
    place = installation(version)
    if place.is_complete:
        return place
    with _exclusive(cache_root() / f"n8n-{version}.lock") as lock:
        if place.is_complete:
            return place
        if place.folder.exists():
            _say("removing what an unfinished attempt left behind")
            shutil.rmtree(place.folder)
        place.node_project.mkdir(parents=True)
        place.n8n_project.mkdir()
        started = time.monotonic()
        _install_into(place, lock)
        _say(f"n8n {version} is installed in {place.folder} ({time.monotonic() - started:.0f} s)")
    return place


def npm_package(place: Installation, name: str, version: str) -> Path:
    """The folder of another npm package, installed next to n8n the first time. Raises `InstallError`."""
    project = place.folder.parent / f"{name.replace('/', '-').lstrip('@')}-{version}"
    folder = project / "node_modules" / name
    with _exclusive(project.with_suffix(".lock")) as lock:
        if not (project / "complete").is_file():
            npm = shutil.which("npm")
            if npm is None:
                raise InstallError("npm is not on PATH: install Node.js with npm, any recent version")
            shutil.rmtree(project, ignore_errors=True)
            project.mkdir()
            (project / "package.json").write_text(json.dumps({"name": "n8nrunner-tests", "private": True}))
            command = [npm, "install", f"{name}@{version}", "--ignore-scripts", "--no-audit", "--no-fund"]
            _step(place, lock, name, command, project)
            (project / "complete").touch()
    return folder


def _install_into(place: Installation, lock: int) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise InstallError("npm is not on PATH: install Node.js with npm, any recent version")
    overrides = OVERRIDES.get(place.version, {})
    for project in (place.node_project, place.n8n_project):
        # Without a package.json of its own, npm would install into the nearest parent that has one.
        package = {"name": "n8nrunner-tests", "private": True, "overrides": overrides}
        (project / "package.json").write_text(json.dumps(package))

    quiet = ["--no-audit", "--no-fund"]
    _step(
        place,
        lock,
        f"Node {NODE_MAJOR}",
        [npm, "install", f"{_node_package_name()}@{NODE_MAJOR}", *quiet],
        place.node_project,
    )
    _step(
        place,
        lock,
        f"n8n {place.version} (2 to 4 minutes)",
        [npm, "install", f"n8n@{place.version}", "--ignore-scripts", *quiet],
        place.n8n_project,
    )
    # Prebuilt binaries would be looked for outside the npm registry; the headers for a build came with Node.
    _step(
        place,
        lock,
        f"native modules {', '.join(NATIVE_MODULES)} (3 to 6 minutes)",
        [npm, "rebuild", *NATIVE_MODULES, "--foreground-scripts"],
        place.n8n_project,
        {"npm_config_nodedir": str(place.node_package), "npm_config_build_from_source": "true"},
    )
    _step(
        place,
        lock,
        "check that n8n starts",
        [str(place.node), str(place.n8n_script), "--version"],
        place.n8n_project,
        # Otherwise n8n writes its settings into the home folder of the user who installs it.
        {"N8N_USER_FOLDER": str(place.folder / "check")},
    )
    _write_stamp(place)


def _write_stamp(place: Installation) -> None:
    node_version = json.loads((place.node_package / "package.json").read_text())["version"]
    unfinished = place.stamp.with_suffix(".partial")
    unfinished.write_text(json.dumps({"n8n": place.version, "node": node_version}))
    unfinished.replace(place.stamp)


def _step(
    place: Installation,
    lock: int,
    title: str,
    command: list[str],
    cwd: Path,
    extra_environment: dict[str, str] | None = None,
) -> None:
    """Runs one command, its output in the log; says now and then that it is alive, raises if it fails."""
    _say(f"{title} ...")
    environment = {**place.environment(), **(extra_environment or {})}
    started = time.monotonic()
    with place.log.open("ab") as log:
        start_of_output = log.tell()
        log.write(f"\n== {title}\n".encode())
        log.flush()
        process = subprocess.Popen(
            command,
            cwd=str(cwd),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # npm may outlive this process. It keeps the lock, so no other process installs into the folder.
            pass_fds=(lock,),
        )
        try:
            while True:
                try:
                    status = process.wait(PROGRESS_INTERVAL)
                    break
                except subprocess.TimeoutExpired:
                    elapsed = time.monotonic() - started
                    if elapsed > STEP_LIMIT:
                        raise InstallError(
                            f"{title}: not done after {elapsed:.0f} s, given up; see {place.log}"
                        ) from None
                    _say(f"  {title.split(' (')[0]}: {elapsed:.0f} s")
        finally:
            if process.poll() is None:
                # The whole group: compilers are grandchildren, and would go on without npm.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if status != 0:
        output = place.log.read_bytes()[start_of_output:].decode(errors="replace").splitlines()
        tail = "\n".join(output[-TAIL_LINES:])
        raise InstallError(f"{title}: ended with status {status}; the end of {place.log} is\n{tail}")


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[int]:
    """Holds a lock file, and yields its descriptor. The kernel gives it back however its holders end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("another process is installing n8n: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


def _node_package_name() -> str:
    machines = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}
    machine = machines.get(platform.machine().lower(), platform.machine())
    return f"node-{platform.system().lower()}-{machine}"


def _say(text: str) -> None:
    print(f"[n8n install] {text}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.n8n.install",
        description="Install an n8n for the tests of this folder.",
    )
    parser.add_argument("version", nargs="?", choices=VERSIONS, default=N8N_VERSION)
    parser.add_argument("--where", action="store_true", help="only print the folder; 1 if not installed")
    arguments = parser.parse_args()
    if arguments.where:
        place = installation(arguments.version)
        print(place.folder)
        return 0 if place.is_complete else 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        place = install(arguments.version)
    except InstallError as error:
        print(f"[n8n install] failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("[n8n install] interrupted; the next attempt starts again", file=sys.stderr)
        return 130
    _say(f"ready: {place.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
