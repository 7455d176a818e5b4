"""Debian's Chromium without a window, driven by Playwright."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

with contextlib.suppress(ImportError):  # `missing` says so
    from playwright.sync_api import Browser, Page, Playwright, expect, sync_playwright

#: The variable that names the folder for the screenshots of the tests.
SCREENSHOTS = "N8NRUNNER_SCREENSHOTS"
# Read here, because tests take the settings out of the environment.
_folder = os.environ.get(SCREENSHOTS)

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


def keep_screenshot(page: Page, name: str, full_page: bool = False) -> None:
    """Save a picture of a page if the variable names a folder."""
    if _folder is not None:
        page.screenshot(path=Path(_folder) / f"{name}.png", full_page=full_page)


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
