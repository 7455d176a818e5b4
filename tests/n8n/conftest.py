"""One n8n in each mode for the whole run, and runners for a test."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, NoReturn

import pytest

from .install import N8N_VERSION, Installation, installation
from .mcp_client import McpClient
from .model import Model
from .n8n import JavaScriptRunner, Mode, N8n
from .runners import RunnerProcess

REQUIRED = "N8NRUNNER_REQUIRE_N8N"
NOT_INSTALLED = f"n8n {N8N_VERSION} is not installed: run `python -m tests.n8n.install` (ten minutes, 3 GB)"


#: Runs a test of a real n8n in both modes.
in_both_modes = pytest.mark.parametrize("mode", ["external", "internal"])


def skip_or_fail(lacking: str) -> NoReturn:
    """Skips a test for what this machine lacks; where skipping is forbidden, fails it."""
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{lacking} ({REQUIRED}=1 forbids to skip)")
    pytest.skip(lacking)


def pytest_configure(config: pytest.Config) -> None:
    # Otherwise the end of this process by a signal would leave n8n behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not installation().is_complete:
        terminalreporter.section("NOT TESTED AGAINST A REAL n8n", sep="!", red=True, bold=True)
        terminalreporter.line(NOT_INSTALLED)


@pytest.fixture(autouse=True)
def nothing_left_behind() -> None:
    """In place of the other tests' check: here runners are other processes, and n8n outlives a test."""


def installed(version: str) -> Installation:
    """Where an n8n is installed.

    If it is not, the test is skipped. Where skipping is forbidden, it fails, except for an older n8n, which
    `.ci/run` lists as skipped.
    """
    place = installation(version)
    if not place.is_complete:
        lacking = f"n8n {version} is not installed: run `python -m tests.n8n.install {version}`"
        if version == N8N_VERSION:
            skip_or_fail(lacking)
        pytest.skip(lacking)
    return place


@pytest.fixture(scope="session")
def place() -> Installation:
    """Where n8n is installed."""
    return installed(N8N_VERSION)


@pytest.fixture(scope="session")
def n8n_in(place: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Mode], N8n]]:
    """Return the n8n of the session in a mode: running, also if the last test stopped it."""
    instances: dict[Mode, N8n] = {}

    def running(mode: Mode) -> N8n:
        if mode not in instances:
            instances[mode] = N8n(place, tmp_path_factory.mktemp(f"n8n-{mode}"), mode=mode)
        instances[mode].start()
        return instances[mode]

    try:
        yield running
    finally:
        for n8n in instances.values():
            n8n.kill()


@pytest.fixture
def mode() -> Mode:
    """The mode of `n8n`. Tests of the core run in both modes: see `in_both_modes`."""
    return "external"


@pytest.fixture
def n8n(n8n_in: Callable[[Mode], N8n], mode: Mode) -> N8n:
    return n8n_in(mode)


@contextlib.contextmanager
def running(n8n: N8n) -> Iterator[N8n]:
    """Start an n8n of a test, and kill it at the end."""
    try:
        n8n.start()
        yield n8n
    finally:
        n8n.kill()


@contextlib.contextmanager
def runners_of(n8n: N8n, folder: Path) -> Iterator[Callable[..., RunnerProcess]]:
    """Start processes with a runner, each of which is registered. All end with the context."""
    runners: list[RunnerProcess] = []

    def start(
        name: str = "tests",
        arguments: Sequence[str] = (),
        command: Sequence[str] | None = None,
        registered: bool = True,
        **variables: str,
    ) -> RunnerProcess:
        settings: dict[str, str] = {"N8NRUNNER_NAME": name, **variables}
        runner = RunnerProcess(n8n, folder / f"{name}-{len(runners)}.log", arguments, settings, command)
        runners.append(runner)
        if registered:
            runner.wait_for("registered")
        return runner

    try:
        yield start
    finally:
        for runner in runners:
            runner.close()


@pytest.fixture
def start_runner(n8n: N8n, tmp_path: Path) -> Iterator[Callable[..., RunnerProcess]]:
    """Start a process with a runner and wait until it is registered. All processes end with the test."""
    with runners_of(n8n, tmp_path) as start:
        yield start


@pytest.fixture
def javascript_runner(n8n: N8n, tmp_path: Path) -> Iterator[JavaScriptRunner | None]:
    """n8n's own runner for JavaScript Code nodes; None where n8n has started it itself."""
    if n8n.mode == "internal":
        yield None
        return
    runner = JavaScriptRunner(n8n, tmp_path / "javascript-runner.log")
    try:
        yield runner
    finally:
        runner.kill()


@pytest.fixture
def model() -> Iterator[Model]:
    """A stand-in for a language model; a test sets its `turns`."""
    model = Model()
    try:
        yield model
    finally:
        model.close()


@pytest.fixture
def connect() -> Callable[[str], McpClient]:
    """Return an MCP client of an address."""
    pytest.importorskip("mcp", reason="the MCP client needs Python 3.10")
    return McpClient
