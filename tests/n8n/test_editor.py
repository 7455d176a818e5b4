"""The node of `leads.py` in n8n's editor, as the author of a workflow sees it.

The screenshots of its steps are put into the folder that `N8NRUNNER_SCREENSHOTS` names.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from tests import chromium
from tests.chromium import SCREENSHOTS

from . import editor
from .conftest import skip_or_fail
from .editor import Editor
from .n8n import Mode, N8n, function_node
from .test_functions import StartRunner

with contextlib.suppress(ImportError):  # `context` says so
    from playwright.sync_api import BrowserContext, expect, sync_playwright

pytestmark = pytest.mark.n8n

OpenWorkflow = Callable[..., Editor]

TRIGGER = {"name": "Start", "type": "n8n-nodes-base.manualTrigger", "typeVersion": 1, "parameters": {}}


def leads_node(operation: str, name: str = "Leads") -> dict[str, Any]:
    return {
        "name": name,
        "type": "CUSTOM.leads",
        "typeVersion": 1,
        "parameters": {"operation": operation},
    }


@pytest.fixture(scope="module")
def context(n8n_in: Callable[[Mode], N8n]) -> Iterator[BrowserContext]:
    """A browser in which n8n's owner is logged in."""
    lacking = chromium.missing()
    if lacking:
        skip_or_fail(f"the editor's tests need {' and '.join(lacking)}")
    with sync_playwright() as playwright:
        browser = editor.launch(playwright)
        try:
            yield editor.log_in(browser, n8n_in("external"))
        finally:
            browser.close()


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Looked up for the module, because a test's own environment has no setting of n8nrunner.
    if SCREENSHOTS not in os.environ:
        return tmp_path_factory.mktemp("screenshots")
    folder = Path(os.environ[SCREENSHOTS])
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def open_workflow(context: BrowserContext, n8n: N8n, screenshots: Path) -> Iterator[OpenWorkflow]:
    """Opens a workflow of these nodes behind a trigger; takes the keywords of `N8n.save_workflow`."""
    page = context.new_page()

    def open_workflow(*nodes: dict[str, Any], **attached: Any) -> Editor:
        opened = Editor(page, n8n.url, screenshots)
        opened.open(n8n.save_workflow("Leads of the week", [TRIGGER, *nodes], **attached)["id"])
        return opened

    yield open_workflow
    page.close()


@pytest.fixture
def leads_runner(n8n: N8n, start_runner: StartRunner) -> None:
    """The program with the functions, started as the README says."""
    begun = n8n.output_length
    command = [sys.executable, "-m", "n8nrunner", "run", "leads"]
    start_runner("leads", command=command, registered=False)
    n8n.wait_for_output('Registered runner "leads"', start=begun)


def test_the_node_is_found_with_its_operations(open_workflow: OpenWorkflow) -> None:
    editor = open_workflow()
    editor.get("canvas-handle-plus-wrapper").click()
    for searched in ("python", "score lead", "score_lead"):
        editor.find_node(searched, "Leads")
    editor.find_node("leads", "Leads")
    names = editor.get("node-creator-item-name")
    expect(names.first).to_have_text("Leads")
    about = editor.get("node-creator-item-description").first
    expect(about).to_have_text("Calls Python functions of the runner leads")
    editor.screenshot("1-search")

    names.first.click()
    expect(editor.get("node-creator-category-item")).to_have_text("Actions (4)")
    expect(names).to_have_text(
        [
            "Find the leads of this week",
            "Plan a call with a lead",
            "Remind a lead of an invoice",
            "Score one lead",
        ]
    )
    editor.screenshot("1-actions")

    names.get_by_text("Score one lead", exact=True).click()
    expect(editor.entry("operation")).to_have_value("Score Lead")
    docs = editor.page.get_by_role("link", name="Docs")
    expect(docs).to_have_attribute(
        "href", re.compile("^https://docs.n8n.io/hosting/configuration/task-runners/")
    )
    editor.close_node()
    expect(editor.get("canvas-node").nth(1)).to_contain_text("Score one lead")
    editor.screenshot("1-canvas")


def test_each_parameter_has_the_field_of_its_kind(open_workflow: OpenWorkflow) -> None:
    editor = open_workflow(leads_node("find_leads"))
    editor.open_node("Leads")
    assert editor.titles() == ["Operation", "Options"]

    editor.field("operation").click()
    expect(editor.options()).to_have_text(
        [
            "Find LeadsFind the leads of this week",
            "Plan CallPlan a call with a lead",
            "Remind LeadRemind a lead of an invoice",
            "Score LeadScore one lead",
        ]
    )
    editor.screenshot("2-operations")
    editor.choose("Plan Call")

    expect(editor.label("email")).to_be_visible()
    titles = ["Email", "Attempts", "Priority", "Remind", "Answers"]
    assert editor.titles() == ["Operation", *titles, "Additional Fields", "Options"]
    editor.screenshot("2-fields")
    expect(editor.entry("email")).to_have_value("")
    expect(editor.entry("email")).to_have_attribute("placeholder", "name@email.com")
    expect(editor.field("attempts").get_by_role("spinbutton")).to_have_value("3")
    expect(editor.field("remind").get_by_role("switch")).not_to_be_checked()
    expect(editor.field("answers").locator(".cm-editor")).to_be_visible()
    expect(editor.entry("answers")).to_have_text("{}")
    expect(editor.entry("priority")).to_have_value("Normal")

    editor.field("priority").click()
    expect(editor.options()).to_have_text(["Low", "Normal", "Very High"])
    editor.screenshot("2-drop-down")
    editor.choose("Very High")

    assert editor.description("email") == "The address of the lead"
    assert editor.description("attempts") == "How often to try"
    assert editor.description("remind") == "Whether to send a reminder the day before"
    assert editor.description("answers") == "Their answers so far, by question"

    editor.add_field()
    expect(editor.options()).to_have_text(["Discount", "Notes"])
    editor.screenshot("2-additional-fields")
    editor.choose("Discount")
    expect(editor.field("discount").get_by_role("spinbutton")).to_have_value("0")
    assert editor.description("discount") == "The discount to offer, in percent"


def test_tags_and_marks_of_expressions_are_shown_as_they_are_written(open_workflow: OpenWorkflow) -> None:
    functions = [function_node("constructor"), function_node("takes_formula", "Formula")]
    editor = open_workflow(*functions)
    editor.open_node("Functions")
    assert editor.description("text") == "The text to <i>return</i>, if it is < 5"
    editor.field("operation").click()
    option = editor.options().filter(has_text="Constructor")
    expect(option).to_contain_text("Return <text>, and keep its <b>tags</b> & entities")
    editor.screenshot("6-tags")
    editor.page.keyboard.press("Escape")
    editor.close_node()

    editor.open_node("Formula")
    expect(editor.get("parameter-expression-preview-value")).to_have_text("=SUM(A1:A3)")
    editor.screenshot("6-formula")


def test_fields_are_filled_in_and_the_step_is_executed(
    open_workflow: OpenWorkflow, leads_runner: None
) -> None:
    editor = open_workflow(leads_node("plan_call"))
    editor.open_node("Leads")
    editor.get("node-execute-button").click()
    editor.get("parameter-issues").hover()
    expect(editor.get("tooltip-content").filter(visible=True)).to_contain_text('"Email" is required')
    editor.screenshot("3-required")

    editor.enter("email", "ada@example.com")
    editor.enter("attempts", "5")
    editor.field("priority").click()
    editor.choose("Very High")
    editor.field("remind").locator(".el-switch").click()
    editor.enter("answers", '{"why": "curious", "when": "soon"}')
    editor.add_field()
    editor.choose("Notes")
    editor.enter("notes", "A friend of Grace")
    editor.execute()

    assert editor.output() == [
        {
            "lead": "ada@example.com",
            "attempts": "5",
            "priority": "VERY_HIGH",
            "remind": "true",
            "answers": "when, why",
            "notes": "A friend of Grace",
            "discount": "null",
        }
    ]
    editor.screenshot("3-result")


def test_an_exception_shows_its_traceback(open_workflow: OpenWorkflow, leads_runner: None) -> None:
    editor = open_workflow(leads_node("remind_lead"))
    editor.open_node("Leads")
    editor.enter("invoice", "A17")
    editor.execute("danger")

    expect(editor.get("node-error-message")).to_have_text("IndexError: list index out of range")
    description = editor.get("node-error-description")
    expect(description.locator("code")).to_have_count(1)  # where characters are of one width
    lines = [line.strip() for line in description.inner_text().splitlines() if line.strip()]
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].endswith("in remind_lead")
    assert lines[2] == 'return f"Please pay invoice {number_of(invoice)} & soon"'
    assert 'return int(invoice.split("-")[1])' in lines
    assert lines[-2] == "IndexError: list index out of range"
    assert re.fullmatch(r"the runner leads \(process \d+ on .+\)", lines[-1])
    editor.screenshot("4-traceback")


def test_a_value_that_does_not_fit_its_field_shows_the_expectation(
    open_workflow: OpenWorkflow, leads_runner: None
) -> None:
    editor = open_workflow(leads_node("plan_call"))
    editor.open_node("Leads")
    editor.enter("email", "ada@example.com")
    editor.enter_expression("attempts", "{{ 'many' }}", "many")
    editor.execute("danger")

    expect(editor.get("node-error-message")).to_have_text('attempts: expected an integer, got "many"')
    expect(editor.get("node-error-description")).to_contain_text("parameter 'attempts' of plan_call")
    editor.screenshot("4-misfit")


def test_an_expression_is_evaluated_for_each_item(open_workflow: OpenWorkflow, leads_runner: None) -> None:
    editor = open_workflow(leads_node("find_leads", "Find Leads"), leads_node("score_lead", "Score Lead"))
    editor.open_node("Score Lead")
    editor.get("execute-previous-node").click()
    expect(editor.get("ndv-input-panel")).to_contain_text("3 items")
    editor.enter_expression("email", "{{ $json.email }}", "ada@example.com")
    editor.enter_expression("budget", "{{ $json.money }}", "2500")
    editor.execute()

    assert editor.output() == [
        {"score": "2515", "region": "eu"},
        {"score": "1217.5", "region": "eu"},
        {"score": "816", "region": "eu"},
    ]
    editor.picture_of_node("5-node")
