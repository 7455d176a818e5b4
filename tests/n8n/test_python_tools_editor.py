"""*Python Tools* in n8n's editor, as the author of a workflow sees it.

`test_editor.py` says where the screenshots are.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from .editor import Editor
from .model import Model, agent_with, tools_node
from .n8n import N8n
from .runners import RunnerProcess
from .test_editor import context as context
from .test_editor import screenshots as screenshots
from .test_functions import StartRunner
from .test_python_tools import SCRIPT, TOOLS, unique

with contextlib.suppress(ImportError):  # `context` says so
    from playwright.sync_api import BrowserContext, expect

pytestmark = pytest.mark.n8n

MCP_TRIGGER = {
    "name": "MCP Server Trigger",
    "type": "@n8n/n8n-nodes-langchain.mcpTrigger",
    "typeVersion": 2,
    "webhookId": "editor",
    "parameters": {"path": "editor"},
}


@pytest.fixture
def open_saved(context: BrowserContext, n8n: N8n, screenshots: Path) -> Iterator[Callable[[str], Editor]]:
    """Open a saved workflow."""
    page = context.new_page()

    def open_saved(workflow_id: str) -> Editor:
        editor = Editor(page, n8n.url, screenshots)
        editor.open(workflow_id)
        return editor

    yield open_saved
    page.close()


@pytest.fixture
def runner(start_runner: StartRunner) -> RunnerProcess:
    return start_runner("shop", command=[sys.executable, str(SCRIPT)])


BELOW = {"position": [280, 220]}


def test_the_node_is_among_the_tools_of_an_agent(
    open_saved: Callable[[str], Editor], n8n: N8n, model: Model
) -> None:
    editor = open_saved(agent_with(n8n, model, unique("editor")).id)
    handle = editor.page.locator("[data-connection-type=ai_tool]")
    handle.get_by_test_id("canvas-handle-plus").click()
    found = editor.find_node("python", "Python Tools")
    editor.screenshot("tools-1-search")
    found.click()
    editor.label("runner").wait_for()
    assert editor.titles() == ["Runner", "Functions to Offer", "Options"]
    editor.screenshot("tools-1-added")


def test_the_functions_are_chosen_from_those_of_the_runner(
    open_saved: Callable[[str], Editor], n8n: N8n, model: Model, runner: RunnerProcess
) -> None:
    workflow = agent_with(n8n, model, unique("editor"), {**tools_node("another"), **BELOW})
    editor = open_saved(workflow.id)
    editor.open_node("Python Tools")
    editor.choose_from_list("runner", "shop")
    editor.field("include").click()
    editor.screenshot("tools-2-include")
    editor.choose("Only Chosen")
    expect(editor.open_options("functions")).to_have_count(len(TOOLS))
    expect(editor.options().filter(has_text="Quote")).to_contain_text("Return the price of an order")
    editor.screenshot("tools-2-functions")
    editor.options().filter(has_text="Quote").click()
    editor.options().filter(has_text="Find Orders").click()
    editor.page.keyboard.press("Escape")
    expect(editor.field("functions")).to_contain_text("Quote")
    editor.page.set_viewport_size({"width": 1230, "height": 620})
    editor.get("tab-params").click()
    expect(editor.field("functions").locator(".is-loading")).to_have_count(0)
    editor.picture_of_node("tools-2-chosen")  # which is docs/images/tools.png
    editor.page.set_viewport_size({"width": 1600, "height": 900})
    editor.close_node()
    editor.screenshot("tools-2-canvas")


def test_it_gives_an_mcp_server_its_tools(
    open_saved: Callable[[str], Editor], n8n: N8n, runner: RunnerProcess
) -> None:
    saved = n8n.save_workflow("MCP server", [MCP_TRIGGER], ai_tool=[{**tools_node("shop"), **BELOW}])
    editor = open_saved(saved["id"])
    editor.screenshot("tools-4-mcp")
    editor.open_node("Python Tools")
    expect(editor.open_list("runner")).to_have_text(["shop"])
    editor.page.keyboard.press("Escape")
    editor.screenshot("tools-4-node")


def test_without_a_runner_there_is_a_message_and_the_values_stay(
    open_saved: Callable[[str], Editor], n8n: N8n, model: Model
) -> None:
    chosen = {**tools_node("nowhere", include="chosen", functions=["quote"]), **BELOW}
    editor = open_saved(agent_with(n8n, model, unique("editor"), chosen).id)
    editor.open_node("Python Tools")
    expect(editor.field("functions")).to_contain_text("quote")
    expect(editor.get("resource-locator-runner").get_by_test_id("rlc-input")).to_have_value("nowhere")
    expect(editor.open_options("functions").first).to_contain_text('No runner "nowhere" answered')
    editor.screenshot("tools-5-values")
    editor.page.keyboard.press("Escape")
    begun = time.monotonic()
    editor.open_list("runner")
    expect(editor.list_error()).to_contain_text("No runner answered")
    assert time.monotonic() - begun < 10.0  # on a busy machine; n8n alone would wait for a minute
    editor.screenshot("tools-5-no-runner")
