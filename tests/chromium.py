"""Debian's Chromium without a window, driven by Playwright."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
from collections.abc import Iterator

import pytest

with contextlib.suppress(ImportError):  # `missing` says so
    from playwright.sync_api import Browser, Playwright, expect, sync_playwright

#: The variable that names the folder for the screenshots of the tests.
SCREENSHOTS = "N8NRUNNER_SCREENSHOTS"

ARGUMENTS = [
    "--no-sandbox",  # the sandbox refuses root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",  # where a page would ask for news
]

LIMIT = 60_000.0
"""Milliseconds that anything in a page may take to appear; pages take long on a busy machine."""


def missing() -> list[str]:
    """Return the programs that tests with a browser need and this machine lacks."""
    lacking = [] if shutil.which("chromium") else ["Debian's package chromium"]
    return lacking if importlib.util.find_spec("playwright") else [*lacking, "the Python package playwright"]


def launch(playwright: Playwright) -> Browser:
    return playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)


@contextlib.contextmanager
def running() -> Iterator[Browser]:
    """A browser for tests, which are skipped where it is missing."""
    lacking = missing()
    if lacking:
        pytest.skip(f"needs {' and '.join(lacking)}")
    with sync_playwright() as playwright:
        expect.set_options(timeout=LIMIT)
        browser = launch(playwright)
        try:
            yield browser
        finally:
            browser.close()
