"""The card of a runner in JupyterLab, in Chromium.

The screenshots are put into the folder that `N8NRUNNER_SCREENSHOTS` names.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from n8nrunner.broker import Broker
from tests import chromium
from tests.conftest import TOKEN
from tests.notebooks.lab import Lab, open_lab
from tests.test_samples import call, json_of

with contextlib.suppress(ImportError):  # `browser` says so
    from playwright.sync_api import Browser, expect

MAKE, DEFINE, START, SHOW, THREADS, PATIENCE, STOP = range(7)
CELLS = {
    MAKE: "from n8nrunner import Runner, Task\nrunner = Runner({url!r}, auth_token={token!r}, name='prices')",
    DEFINE: """\
prices = {{"apple": 2.0, "pear": 3.0}}

import time

@runner.function
def quote(fruit: str, pieces: int = 1):
    print("a quote for", pieces, fruit)
    return {{"total": pieces * prices[fruit]}}

@runner.function
def train(task: Task):
    task.progress(0.4, "round 40 of 100")
    while not task.cancelled:
        time.sleep(0.1)
""",
    START: "runner.start()",
    SHOW: "runner",
    THREADS: """\
import threading
names = [thread.name for thread in threading.enumerate()]
print("run", len(In) - 1, "ended" if "n8nrunner-card" not in names else "refreshing")
""",
    PATIENCE: "from n8nrunner import notebook; notebook.PATIENCE = 6.0",
    STOP: "runner.stop()",
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium.running() as browser:
        yield browser


@pytest.fixture
def lab(browser: Browser, broker: Broker, tmp_path: Path) -> Iterator[Lab]:
    for package in ("jupyterlab", "ipywidgets", "nbformat"):
        pytest.importorskip(package)
    cells = [code.format(url=broker.url, token=TOKEN) for code in CELLS.values()]
    with open_lab(browser, tmp_path, cells) as lab:
        yield lab
        chromium.keep_screenshot(lab.page, "jupyterlab")


def is_refreshing(lab: Lab) -> bool:
    """Return whether a thread of the kernel refreshes cards."""
    lab.run(THREADS)
    expect(lab.output(THREADS)).to_contain_text(f"run {lab.runs} ")
    return "refreshing" in lab.output(THREADS).inner_text()


def test_a_card_in_jupyterlab_follows_the_runner_while_it_is_seen(lab: Lab, broker: Broker) -> None:
    for index in (MAKE, DEFINE, PATIENCE):
        lab.run(index)
    lab.run(START)
    expect(lab.cell(START)).to_contain_text("choose the runner prices and a function, such as Quote.")
    lab.run(SHOW)
    expect(lab.card).to_contain_text("prices")
    expect(lab.card).to_contain_text("Ready")

    # It shows calls, progress and errors. Prints are shown below the cell that started the runner.
    train = {"version": 1, "function": "train", "calls": [{"item": 0, "arguments": {}}]}
    broker.submit("n8nrunner.prices", train, items=[{"json": {}}])
    for pieces in range(1, 40):
        assert json_of(call(broker, "prices", "quote", fruit="apple", pieces=pieces)) == [
            {"total": 2.0 * pieces}
        ]
    with pytest.raises(AssertionError, match="KeyError"):
        call(broker, "prices", "quote", fruit="<b>kiwi</b>")
    expect(lab.card).to_contain_text("round 40 of 100")
    expect(lab.card).to_contain_text("40 calls")
    expect(lab.cell(START)).to_contain_text("a quote for 1 apple")
    summary = lab.card.locator("summary")
    expect(summary).to_contain_text("KeyError: '<b>kiwi</b>'")
    summary.click()
    expect(lab.card.locator("pre")).to_contain_text("in quote")
    lab.card.scroll_into_view_if_needed()
    chromium.keep_screenshot(lab.page, "card")

    # A traceback stays open, and the card is refreshed for longer than it would be without being seen.
    expect(lab.card).to_contain_text("up 1", timeout=chromium.LIMIT)  # 10 s and more
    expect(lab.card.locator("pre")).to_be_visible()
    assert is_refreshing(lab)

    # Without its output, the thread ends.
    lab.command(SHOW, "notebook:clear-cell-output")
    expect(lab.card).to_have_count(0)
    while is_refreshing(lab):  # a run of a cell counts as a sign of the page
        lab.page.wait_for_timeout(9000)

    # Shown again, it follows the runner to its end.
    lab.run(SHOW)
    expect(lab.card).to_contain_text("Ready")
    lab.run(STOP)
    expect(lab.card).to_contain_text("Stopped")
    chromium.keep_screenshot(lab.page, "card-stopped")
    while is_refreshing(lab):
        lab.page.wait_for_timeout(100)
