"""Fixtures of all tests: an embedded broker, runners that are always stopped, and a check for leaks."""

from __future__ import annotations

import contextlib
import gc
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields
from multiprocessing import resource_tracker
from typing import Any, Callable

import pytest
from hypothesis import HealthCheck, settings

from n8nrunner import Runner, RunnerConfig
from n8nrunner.broker import Broker
from n8nrunner.engine import Engine

#: Seconds after which a test that waits for something has failed.
LIMIT = 10.0
TOKEN = "secret-of-the-tests"

# How many examples hypothesis draws; pytest's option `--hypothesis-profile` chooses another profile.
_common = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
# The same examples in every run, so that a failure is a failure of the change at hand.
settings.register_profile("default", _common, max_examples=100, derandomize=True)
# Other examples for every seed. `.ci/run` uses this profile with a seed made from the files, which it prints.
settings.register_profile("explore", _common, max_examples=500, derandomize=False, print_blob=True)
# The same as `explore`, for hours.
settings.register_profile(
    "thorough", _common, max_examples=5000, stateful_step_count=100, derandomize=False, print_blob=True
)
# Few examples, always the same. The mutation tool runs the tests several times in one process, which a health
# check of hypothesis reports.
settings.register_profile(
    "mutation", _common, max_examples=50, derandomize=True, suppress_health_check=list(HealthCheck)
)
settings.load_profile("default")

# A background job of a shell ignores SIGINT, and programs that tests start would inherit that.
if (
    signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    and threading.current_thread() is threading.main_thread()
):
    signal.signal(signal.SIGINT, signal.default_int_handler)

#: The environment variable of each setting but `auth_token_file`.
VARIABLES: dict[str, str] = {
    item.name: item.metadata["setting"].variable for item in fields(RunnerConfig) if item.metadata
}
_PREFIXES = ("N8N_RUNNERS_", "N8NRUNNER_")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Let `-n auto` use three workers for two cores: the tests wait for half of their time."""
    cores = os.cpu_count() or 1
    return cores + cores // 2


def wait_until(condition: Callable[[], Any], limit: float = LIMIT) -> Any:
    """Wait until a condition holds that no event announces, such as a counter, and return its value."""
    end = time.monotonic() + limit
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"not within {limit:g} s"
        threading.Event().wait(0.002)  # between two looks


@contextlib.contextmanager
def promptly() -> Iterator[None]:
    """Fail if the block takes half of `LIMIT`.

    For calls that must not wait for something that takes `LIMIT` or longer. A tighter limit would fail on a
    busy machine.
    """
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took < LIMIT / 2, f"took {took:.1f} s"


def engine_of(runner: Runner) -> Engine:
    """Return the engine of a runner that was started, for tests that cause a fault inside of it."""
    engine = runner._engine
    assert engine is not None
    return engine


def signature_of(runner: Runner, function: str) -> str:
    """Return the hash that a current node sends for a function; "" if the runner has no such function."""
    functions = runner._registry.functions
    assert functions is not None
    known = functions.by_name.get(function)
    return known.signature.hash if known is not None else ""


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the settings of the environment away from the tests."""
    for name in list(os.environ):
        if name.startswith(_PREFIXES) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Restore the logging, which a command sets up for its whole process."""
    loggers = [logging.getLogger(name) for name in (None, "n8nrunner", "n8nrunner.tasks")]
    before = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("n8nrunner")}


def _descriptors() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if target.startswith(("socket:", "anon_inode:[eventpoll]", "pipe:")):
            found.add(f"{name} -> {target}")
    return found


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail if a test leaves a thread or a descriptor of n8nrunner behind."""
    linux = sys.platform == "linux"
    threads = _threads()
    descriptors = _descriptors() if linux else set()
    yield
    wait_until(lambda: not (_threads() - threads))
    if linux and _descriptors() - descriptors:
        gc.collect()  # slow, and needed only where something waits for it
        left: list[str] = []

        def gone() -> bool:
            left[:] = sorted(_descriptors() - descriptors)
            return not left

        try:
            wait_until(gone, 2.0)
        except AssertionError:
            pytest.fail(f"descriptors left behind: {left}")


@pytest.fixture
def broker() -> Iterator[Broker]:
    """A running embedded broker."""
    with Broker(auth_token=TOKEN) as running:
        yield running
        running.kill()


@pytest.fixture
def new_runner(broker: Broker) -> Iterator[Callable[..., Runner]]:
    """Return a function that makes runners for the broker. All are stopped in the end."""
    runners: list[Runner] = []

    def new(url: Any = None, **settings: Any) -> Runner:
        settings.setdefault("auth_token", TOKEN)
        runner = Runner(broker.url if url is None else url, **settings)
        runners.append(runner)
        return runner

    yield new
    for runner in runners:
        runner.stop(0)


@pytest.fixture(scope="session")
def tracker() -> None:
    """Start the process with a pipe that `multiprocessing` keeps, before a test looks for leaks."""
    if sys.platform != "win32":
        resource_tracker.ensure_running()


def new_processes() -> ProcessPoolExecutor:
    """Return an executor with one other process. Its user needs `tracker`."""
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


@pytest.fixture(scope="module")
def processes(tracker: None) -> Iterator[ProcessPoolExecutor]:
    """Another process, shared by the tests of a module that leave it alive."""
    with new_processes() as executor:
        executor.submit(os.getpid).result(30)
        yield executor
