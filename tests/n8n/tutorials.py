"""Follows a tutorial in an empty folder, from `pip install` to the first call that n8n's editor shows.

`python -m tests.n8n.tutorials` prints the seconds of each step, of both tutorials for one machine. The
commands, the program and the cells are those of the page. Only `n8nrunner` in `pip install` becomes this
checkout, n8n and the runner get free ports, and a kernel without JupyterLab runs the cells.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from tests import chromium
from tests.pages import ROOT, blocks

from . import editor
from .install import Installation, installation
from .n8n import OWNER
from .processes import ChildProcess, free_port

#: Seconds that one step may take: pip's downloads, or n8n's start on a busy machine.
STEP_LIMIT = 240.0
#: Starts a kernel, runs the cells in it, and keeps it.
CELLS = """\
import time
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel()
for cell in {cells!r}:
    assert client.execute_interactive(cell)["content"]["status"] == "ok", cell
print("The cells have run", flush=True)
time.sleep({limit})
"""


class Tutorial(NamedTuple):
    """A page, and what a reader enters in n8n's editor."""

    page: str
    runner: str
    function: str
    choice: str
    #: Part of the output.
    result: str


APPLICATION = Tutorial("docs/guide-application.md", "shop", "Sell: Take fruit out of the stock", "apple", "6")
NOTEBOOK = Tutorial("docs/guide-notebook.md", "prices", "Quote: Return the price of fruit", "apple", "2")


def follow(tutorial: Tutorial, place: Installation, folder: Path) -> dict[str, float]:
    """Follow a tutorial, and return the seconds from the beginning to the end of each step."""
    begun = time.monotonic()
    steps: dict[str, float] = {}

    def done(step: str) -> None:
        steps[step] = time.monotonic() - begun

    port = free_port()
    environment = _environment(place, folder, port)
    first, second = [
        block.text.replace('"n8nrunner[', f'"{ROOT}[') for block in blocks(tutorial.page, "sh")[:2]
    ]
    with ExitStack() as ending:

        def start(name: str, script: str) -> ChildProcess:
            program = ChildProcess(name, ["bash", "-ec", script], environment, folder / f"{name}.log", folder)
            ending.callback(program.kill)
            return program

        n8n = start("n8n", first)
        n8n.wait_for_line(lambda line: "Editor is now accessible via" in line, STEP_LIMIT)
        done("n8n is ready")
        programs = [block.text for block in blocks(tutorial.page, "python")]
        if tutorial is APPLICATION:
            (folder / "shop.py").write_text(programs[0])
            start("program", second).wait_for_line(lambda line: "Registered with" in line, STEP_LIMIT)
        else:
            (folder / "cells.py").write_text(CELLS.format(cells=programs[:3], limit=STEP_LIMIT))
            script = second.replace("jupyter lab", "python cells.py")
            start("kernel", script).wait_for_line(lambda line: "The cells have run" in line, STEP_LIMIT)
        done("the function is registered")
        page = ending.enter_context(_browser(folder, f"http://127.0.0.1:{port}"))
        _execute(page, tutorial)
        done("the editor shows the result")
    return steps


def _environment(place: Installation, folder: Path, port: int) -> dict[str, str]:
    """Return an environment in which `n8n` is a command, and its folder and ports are those of this run."""
    programs = folder / "bin"
    programs.mkdir()
    (programs / "n8n").write_text(f'#!/bin/sh\nexec "{place.node}" "{place.n8n_script}" "$@"\n')
    (programs / "n8n").chmod(0o755)
    environment = place.environment()
    broker_port = str(free_port())
    environment.update(
        PATH=f"{programs}:{environment['PATH']}",
        PIP_DISABLE_PIP_VERSION_CHECK="1",
        N8N_USER_FOLDER=str(folder),
        N8N_PORT=str(port),
        N8N_RUNNERS_BROKER_PORT=broker_port,
        N8N_RUNNERS_TASK_BROKER_URI=f"http://127.0.0.1:{broker_port}",
        N8N_SECURE_COOKIE="false",  # as for localhost, which this browser does not resolve
        N8N_DIAGNOSTICS_ENABLED="false",
        N8N_VERSION_NOTIFICATIONS_ENABLED="false",
        N8N_TEMPLATES_ENABLED="false",
        N8N_PERSONALIZATION_ENABLED="false",
    )
    return environment


@contextmanager
def _browser(folder: Path, url: str) -> Iterator[editor.Editor]:
    """Open n8n's address for a new workflow, fill in the form for the owner, and open it again."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = editor.launch(playwright)
        try:
            page = browser.new_page(viewport={"width": 1400, "height": 900}, reduced_motion="reduce")
            page.set_default_timeout(chromium.LIMIT)
            page.goto(f"{url}/workflow/new")
            for name, value in OWNER.items():
                page.locator(f"#{name}, input[name={name}]").first.fill(value)
            page.get_by_test_id("form-submit-button").click()
            page.wait_for_url(re.compile("^(?!.*/setup)"))
            page.goto(f"{url}/workflow/new")
            yield editor.Editor(page, url, folder)
        finally:
            browser.close()


def _execute(shown: editor.Editor, tutorial: Tutorial) -> None:
    """Do in the editor what the list of the page says."""
    page = shown.page
    shown.get("canvas-add-button").wait_for()
    page.keyboard.press("n")
    shown.get("node-creator").wait_for()
    shown.find_node("Python Function", "Python Function").click()
    page.get_by_text("Add to workflow").click()
    shown.choose_from_list("runner", tutorial.runner)
    shown.choose_from_list("function", tutorial.function)
    shown.field("fruit").click()
    shown.choose(tutorial.choice.title())
    shown.execute()
    (row,) = shown.output()
    assert tutorial.result in row.values(), row


def main() -> None:
    """Print the seconds of the steps of each tutorial."""
    for tutorial in (APPLICATION, NOTEBOOK):
        folder = Path(tempfile.mkdtemp())
        try:
            steps = follow(tutorial, installation(), folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        print(tutorial.page)
        for step, seconds in steps.items():
            print(f"  {seconds:5.0f} s  {step}")


if __name__ == "__main__":
    sys.exit(main())
