"""The card of a runner in JupyterLab, in Chromium.

The screenshots are put into the folder that `N8NRUNNER_SCREENSHOTS` names.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from n8nrunner.broker import Broker
from tests import chromium
from tests.conftest import TOKEN
from tests.notebooks.kernels import running_lab
from tests.test_samples import call, json_of

with contextlib.suppress(ImportError):  # `browser` says so
    from playwright.sync_api import Browser, Page, expect

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


class Lab:
    """A notebook in JupyterLab."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.card = page.locator(".n8nrunner-card")
        self._runs = 0

    def cell(self, index: int) -> Any:
        return self.page.locator(".jp-CodeCell").nth(index)

    def run(self, index: int) -> None:
        """Run a cell, and wait for its end."""
        self._runs += 1
        self.page.evaluate(
            "index => { jupyterapp.shell.currentWidget.content.activeCellIndex = index;"
            " void jupyterapp.commands.execute('notebook:run-cell') }",
            index,
        )
        expect(self.cell(index).locator(".jp-InputPrompt")).to_have_text(f"[{self._runs}]:")

    def is_refreshing(self) -> bool:
        """Return whether a thread of the kernel refreshes cards."""
        self.run(THREADS)
        output = self.cell(THREADS).locator(".jp-Cell-outputArea")
        expect(output).to_contain_text(f"run {self._runs} ")
        return "refreshing" in output.inner_text()

    def screenshot(self, name: str) -> None:
        chromium.keep_screenshot(self.page, name)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium.running() as browser:
        yield browser


@pytest.fixture
def lab(browser: Browser, broker: Broker, tmp_path: Path) -> Iterator[Lab]:
    pytest.importorskip("jupyterlab")
    pytest.importorskip("ipywidgets")
    nbformat = pytest.importorskip("nbformat")
    cells = [nbformat.v4.new_code_cell(code.format(url=broker.url, token=TOKEN)) for code in CELLS.values()]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
    (tmp_path / "prices.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    with running_lab(tmp_path) as address:
        context = browser.new_context(viewport={"width": 1100, "height": 1100}, reduced_motion="reduce")
        page = context.new_page()
        page.set_default_timeout(chromium.LIMIT)
        page.goto(address.format("prices.ipynb"))
        page.wait_for_function(
            "() => { const kernel = window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel;"
            " return kernel?.connectionStatus === 'connected' && kernel.status === 'idle' }"
        )
        page.add_style_tag(content=".Toastify { display: none }")  # a question about news
        lab = Lab(page)
        yield lab
        lab.screenshot("jupyterlab")
        context.close()


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
    lab.screenshot("card")

    # A traceback stays open, and the card is refreshed for longer than it would be without being seen.
    expect(lab.card).to_contain_text("up 1", timeout=chromium.LIMIT)  # 10 s and more
    expect(lab.card.locator("pre")).to_be_visible()
    assert lab.is_refreshing()

    # Without its output, the thread ends.
    lab.page.evaluate(
        "index => { jupyterapp.shell.currentWidget.content.activeCellIndex = index;"
        " void jupyterapp.commands.execute('notebook:clear-cell-output') }",
        SHOW,
    )
    expect(lab.card).to_have_count(0)
    while lab.is_refreshing():  # a run of a cell counts as a sign of the page
        lab.page.wait_for_timeout(9000)

    # Shown again, it follows the runner to its end.
    lab.run(SHOW)
    expect(lab.card).to_contain_text("Ready")
    lab.run(STOP)
    expect(lab.card).to_contain_text("Stopped")
    lab.screenshot("card-stopped")
    while lab.is_refreshing():
        lab.page.wait_for_timeout(100)
