"""*Python Function* in n8n's editor, as the author of a workflow sees it while the program changes.

`test_editor.py` says where the screenshots are.
"""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from .editor import Editor
from .n8n import PYTHON_FUNCTION, N8n
from .runners import RunnerProcess
from .test_editor import OpenWorkflow
from .test_editor import context as context
from .test_editor import open_workflow as open_workflow
from .test_editor import screenshots as screenshots
from .test_functions import StartRunner

with contextlib.suppress(ImportError):  # `context` says so
    from playwright.sync_api import expect

pytestmark = pytest.mark.n8n

CELLS = Path(__file__).with_name("cells_script.py")

QUOTE = '''
import datetime
from typing import Literal, Optional
from n8nrunner import File

@runner.function
def quote(
    pieces: int,
    express: bool = True,
    region: Literal["eu", "us"] = "eu",
    until: Optional[datetime.date] = None,
    tags: list = [],
    terms: Optional[File] = None,
) -> dict:
    """Return the price of an order."""
    return {"total": pieces * 10, "express": express, "region": region, "tags": len(tags)}
'''

CHANGED = '''
@runner.function
def quote(pieces: int, currency: str, express: bool = True) -> str:
    """Return the price of an order."""
    return f"{pieces * 10} {currency}"
'''

AGENT = {
    "name": "AI Agent",
    "type": "@n8n/n8n-nodes-langchain.agent",
    "typeVersion": 3,
    "parameters": {"promptType": "define", "text": "x", "options": {}},
}


def python_function(runner: str = "", function: str = "", **more: Any) -> dict[str, Any]:
    """The node as it comes onto the canvas, or with names that are chosen already."""
    parameters = {
        "runner": {"__rl": True, "mode": "list", "value": runner},
        "function": {"__rl": True, "mode": "list", "value": function},
    }
    node = {"name": "Python Function", "type": PYTHON_FUNCTION, "typeVersion": 1, "parameters": parameters}
    return {**node, **more}


def start_program(start_runner: StartRunner, *cells: str) -> RunnerProcess:
    runner = start_runner("sales", command=[sys.executable, str(CELLS)])
    for cell in cells:
        runner.run_cell(cell)
    return runner


def number(editor: Editor, name: str) -> Any:
    return editor.field(name).get_by_role("spinbutton")


def test_the_node_is_found_by_several_words(open_workflow: OpenWorkflow) -> None:
    editor = open_workflow()
    editor.get("canvas-handle-plus-wrapper").click()
    for searched in ("python function", "n8nrunner"):
        editor.find_node(searched, "Python Function")
    editor.screenshot("live-1-search")


def test_a_function_is_chosen_and_changed_without_a_restart(
    open_workflow: OpenWorkflow, start_runner: StartRunner
) -> None:
    runner = start_program(start_runner, QUOTE)
    editor = open_workflow(python_function())
    editor.open_node("Python Function")
    expect(editor.get("empty-fields-notice")).to_have_text("Choose a runner first.")
    expect(editor.open_list("runner")).to_have_text(["sales"])
    editor.screenshot("live-2-runners")
    editor.page.keyboard.press("Escape")
    editor.choose_from_list("runner", "sales")
    expect(editor.open_list("function")).to_have_text(["Quote: Return the price of an order"])
    editor.screenshot("live-2-functions")
    editor.page.keyboard.press("Escape")
    editor.choose_from_list("function", "Quote: Return the price of an order")

    number(editor, "pieces").fill("3")
    for title in ("Express", "Region", "Until", "Tags", "Terms (Binary Field)"):
        editor.add_argument(title)
    expect(editor.field("terms")).to_be_visible()
    expect(editor.field("express").get_by_role("switch")).to_be_checked()
    expect(editor.field("tags").locator(".cm-editor")).to_have_text(re.compile("\\[\\]"))
    expect(editor.field("until").get_by_placeholder("Select date and time")).to_be_visible()
    editor.field("region").click()
    expect(editor.options()).to_have_text(["EU", "US"])
    editor.choose("US")
    editor.field("express").locator(".el-switch").click()
    editor.enter("tags", '["new"]')
    editor.execute()
    assert editor.output() == [{"total": "30", "express": "false", "region": "us", "tags": "1"}]
    editor.screenshot("live-2-executed")

    runner.run_cell(CHANGED)
    editor.execute("danger")
    title = 'The function "quote" has changed since this node\'s arguments were filled in'
    expect(editor.get("node-error-message")).to_have_text(title)
    description = editor.get("node-error-description")
    expect(description).to_contain_text('Parameter "currency" is new, and required')
    expect(description).to_contain_text("Open the node, and refresh its arguments: ")
    editor.screenshot("live-2-changed")
    editor.refresh_arguments()
    editor.enter("currency", "EUR")
    expect(editor.field("tags")).to_have_count(0)
    expect(number(editor, "pieces")).to_have_value("3")
    editor.execute()
    assert editor.output() == [{"result": "30 EUR"}]
    editor.screenshot("live-2-refreshed")


def test_a_changed_parameter_is_in_the_form_after_a_refresh_and_when_the_node_is_opened(
    open_workflow: OpenWorkflow, start_runner: StartRunner
) -> None:
    runner = start_program(start_runner, QUOTE)
    editor = open_workflow(python_function("sales", "quote"))
    editor.open_node("Python Function")
    number(editor, "pieces").wait_for()
    runner.run_cell(CHANGED)
    editor.refresh_arguments()
    editor.entry("currency").wait_for()
    editor.close_node()
    runner.run_cell(QUOTE)
    editor.open_node("Python Function")  # which refreshes the form, too
    expect(editor.field("currency")).to_have_count(0)


def test_an_editor_without_a_runner_says_how_to_start_it_and_keeps_the_values(
    open_workflow: OpenWorkflow, start_runner: StartRunner, n8n: N8n
) -> None:
    runner = start_program(start_runner, QUOTE)
    saved = n8n.python_function("quote", name="Saved", runner="sales", pieces=7, region="us")
    runner.end_cells()

    editor = open_workflow(saved, python_function())
    editor.open_node("Python Function")
    editor.open_list("runner")
    error = editor.list_error()
    expect(error).to_contain_text("No runner answered. Start the Python program", timeout=10_000)
    editor.screenshot("live-3-no-runner")
    editor.page.keyboard.press("Escape")
    editor.close_node()

    editor.open_node("Saved")
    expect(number(editor, "pieces")).to_have_value("7")
    with editor.page.expect_response(re.compile("resource-mapper-fields")) as answered:
        editor.refresh_arguments()
    assert answered.value.status == 500
    expect(number(editor, "pieces")).to_have_value("7")
    number(editor, "pieces").fill("8")
    editor.screenshot("live-3-saved")
    editor.close_node()

    start_program(start_runner, QUOTE)
    editor.open_node("Saved")
    expect(number(editor, "pieces")).to_have_value("8")
    editor.execute()
    assert editor.output() == [{"total": "80", "express": "true", "region": "us", "tags": "0"}]
    editor.close_node()
    editor.open_node("Python Function")
    editor.choose_from_list("runner", "sales")
    editor.screenshot("live-3-runner")


def test_the_model_can_fill_in_each_field_of_a_tool(
    open_workflow: OpenWorkflow, start_runner: StartRunner, n8n: N8n
) -> None:
    start_program(start_runner, QUOTE)
    tool = python_function("sales", "quote", name="Quotes", type=f"{PYTHON_FUNCTION}Tool")
    editor = open_workflow(AGENT, ai_tool=[tool])
    editor.open_node("Quotes")
    editor.add_argument("Express")
    form = editor.get("resource-mapper-container")
    buttons = form.get_by_test_id("from-ai-override-button")
    expect(buttons).to_have_count(2)
    editor.screenshot("live-4-tool")
    buttons.first.click()
    expect(form.get_by_test_id("fromAI-override-field")).to_be_visible()
    editor.screenshot("live-4-tool-filled-by-model")


def test_names_are_typed_and_arguments_are_json(
    open_workflow: OpenWorkflow, start_runner: StartRunner
) -> None:
    start_program(start_runner, QUOTE)
    node = python_function()
    node["parameters"] = {
        "runner": {"__rl": True, "mode": "name", "value": ""},
        "function": {"__rl": True, "mode": "name", "value": ""},
    }
    editor = open_workflow(node)
    editor.open_node("Python Function")
    for name, text in (("runner", "sales"), ("function", "quote")):
        editor.get(f"resource-locator-{name}").locator("input").last.fill(text)  # behind the drop-down
    editor.field("specifyArguments").click()
    editor.choose("Using JSON")
    editor.enter("argumentsJson", '{"pieces": 2, "tags": [1, 2]}')
    editor.screenshot("live-5-json")
    editor.execute()
    assert editor.output() == [{"total": "20", "express": "true", "region": "eu", "tags": "2"}]
