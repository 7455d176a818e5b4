"""JupyterLab in Chromium, for tests."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests import chromium
from tests.notebooks.kernels import ROOT
from tests.processes import python

with contextlib.suppress(ImportError):  # `chromium.missing` says so
    from playwright.sync_api import Browser, Page, expect


class Lab:
    """A notebook in JupyterLab."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.card = page.locator(".n8nrunner-card")
        self.runs = 0

    def cell(self, index: int) -> Any:
        return self.page.locator(".jp-CodeCell").nth(index)

    def output(self, index: int) -> Any:
        return self.cell(index).locator(".jp-Cell-outputArea")

    def command(self, index: int, command: str) -> None:
        """Choose a cell, and call a command of JupyterLab."""
        self.page.evaluate(
            "([index, command]) => { jupyterapp.shell.currentWidget.content.activeCellIndex = index;"
            " void jupyterapp.commands.execute(command) }",
            [index, command],
        )

    def run(self, index: int) -> None:
        """Run a cell, and wait for its end."""
        self.runs += 1
        self.command(index, "notebook:run-cell")
        expect(self.cell(index).locator(".jp-InputPrompt")).to_have_text(f"[{self.runs}]:")


@contextlib.contextmanager
def open_lab(browser: Browser, folder: Path, cells: Sequence[str]) -> Iterator[Lab]:
    """A notebook with these cells in JupyterLab, whose files are in the folder."""
    import nbformat

    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in cells], metadata=kernel
    )
    (folder / "prices.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    with _running(folder) as address:
        context = browser.new_context(viewport={"width": 1100, "height": 1100}, reduced_motion="reduce")
        page = context.new_page()
        page.set_default_timeout(chromium.LIMIT)
        page.goto(f"{address}/lab/tree/prices.ipynb?token=tests&reset")
        page.wait_for_function(
            "() => { const kernel = window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel;"
            " return kernel?.connectionStatus === 'connected' && kernel.status === 'idle' }"
        )
        page.add_style_tag(content=".Toastify { display: none }")  # a question about news
        yield Lab(page)
        context.close()


@contextlib.contextmanager
def _running(folder: Path) -> Iterator[str]:
    """JupyterLab with the notebooks of a folder. Yield its address."""
    own = folder / ".jupyter"  # nothing of the user's
    variables = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    env = {name: str(own / value) for name, value in variables.items()}
    options = [
        "--no-browser",
        "--allow-root",
        "--ServerApp.port=0",
        "--ServerApp.token=tests",
        f"--ServerApp.root_dir={folder}",
        "--LabApp.expose_app_in_browser=True",  # the tests call its commands
        "--LabApp.news_url=",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    with python("-m", "jupyterlab", *options, env={**env, "PYTHONPATH": str(ROOT)}, cwd=folder) as program:
        found = re.search(r"http://127\.0\.0\.1:\d+", program.wait_for("http://127.0.0.1"))
        assert found is not None
        yield found[0]
        program.process.terminate()  # ends its kernels too
        program.wait()
