"""n8n's editor in a headless browser: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from tests import chromium
from tests.chromium import LIMIT

from .n8n import OWNER, N8n

with contextlib.suppress(ImportError):  # `chromium.missing` says so
    from playwright.sync_api import Browser, BrowserContext, Error, Locator, Page, Playwright, expect


def launch(playwright: Playwright) -> Browser:
    expect.set_options(timeout=LIMIT)
    playwright.selectors.set_test_id_attribute("data-test-id")
    return chromium.launch(playwright)


def log_in(browser: Browser, n8n: N8n) -> BrowserContext:
    """Windows in which n8n's owner is logged in."""
    context = browser.new_context(viewport={"width": 1600, "height": 900}, reduced_motion="reduce")
    context.set_default_timeout(LIMIT)
    page = context.new_page()
    page.goto(f"{n8n.url}/signin")
    page.locator("#emailOrLdapLoginId").fill(OWNER["email"])
    page.locator("#password").fill(OWNER["password"])
    page.get_by_test_id("form-submit-button").click()
    page.wait_for_url(lambda url: "signin" not in url)
    page.close()
    return context


#: Milliseconds after which words or a click that n8n has ignored are repeated, and how often.
PATIENCE, TRIES = 5_000.0, 12


class Editor:
    """A page with a workflow, and what an author does there."""

    def __init__(self, page: Page, url: str, screenshots: Path) -> None:
        self.page = page
        self._url = url
        self._screenshots = screenshots

    def screenshot(self, name: str) -> None:
        self.page.screenshot(path=self._screenshots / f"{name}.png", animations="disabled")

    def picture_of_node(self, name: str) -> None:
        """A picture of a node's panel alone, without the notices in its corner."""
        self.get("ndv").screenshot(
            path=self._screenshots / f"{name}.png", style=".el-notification { display: none }"
        )

    def get(self, test_id: str) -> Locator:
        return self.page.get_by_test_id(test_id)

    # -- the canvas

    def open(self, workflow_id: str) -> None:
        self.page.goto(f"{self._url}/workflow/{workflow_id}")
        try:
            self.get("canvas-node").first.wait_for()
        except Error:  # n8n's page sometimes stays at its navigation on a busy machine
            self.page.reload()
            self.get("canvas-node").first.wait_for()

    def open_node(self, name: str) -> None:
        self.get("canvas-node").filter(has_text=name).dblclick()
        self.label("options").wait_for()  # the last field of n8nrunner's nodes

    def close_node(self) -> None:
        self.get("ndv-close-button").click()
        self.get("node-parameters").wait_for(state="detached")

    def find_node(self, words: str, name: str) -> Locator:
        """Enter words in the search for nodes, and return the one entry with this name."""
        found = self.get("node-creator-item-name").filter(has_text=re.compile(rf"^\s*{name}\s*$"))
        for _ in range(TRIES):
            self.get("node-creator-search-bar").fill(words)
            # n8n empties the search when it shows the list, which may come after the words.
            with contextlib.suppress(AssertionError):
                expect(found).to_have_count(1, timeout=PATIENCE)
                break
        expect(found).to_have_count(1)
        return found

    # -- a node's panel

    def label(self, name: str) -> Locator:
        # Behind its other tab there are more, some of the same name, such as "notes".
        return self._labels().and_(self.page.locator(f"[for={name}]"))

    def titles(self) -> list[str]:
        """Return the titles of the fields, from top to bottom."""
        # The other buttons show next to a title under the mouse.
        return [label.splitlines()[0].strip() for label in self._labels().all_inner_texts()]

    def _labels(self) -> Locator:
        return self.get("node-parameters").locator("label[for]").filter(visible=True)

    def description(self, name: str) -> str:
        """The tooltip of a field."""
        self.label(name).hover()
        self.label(name).locator("[data-icon=circle-help]").hover()
        tooltip = self.get("tooltip-content").filter(visible=True)
        text = tooltip.inner_text()
        self.screenshot(f"description-{name}")
        self.page.mouse.move(0, 0)
        tooltip.wait_for(state="hidden")
        return text

    def field(self, name: str) -> Locator:
        return self.get(f"parameter-input-{name}")

    def entry(self, name: str) -> Locator:
        """Where a field takes what is typed."""
        return self.field(name).locator("input, [contenteditable=true]")

    def enter(self, name: str, text: str) -> None:
        self.entry(name).fill(text)
        self.get("tab-params").click()  # what hangs below a field with the focus hides the next one

    def enter_expression(self, name: str, expression: str, preview: str) -> None:
        """Makes a field an expression, of which the editor shows this preview."""
        self.label(name).hover()
        switch = self.get(f"{name}-parameter-input-options-container")
        switch.get_by_test_id("radio-button-expression").click()
        self.enter(name, expression)
        # Until then, the field still has what it had before.
        expect(self.get(f"parameter-expression-preview-{name}")).to_have_text(preview)

    def options(self) -> Locator:
        """Return the choices of the open drop-down."""
        return self.page.get_by_role("option").filter(visible=True)

    def open_options(self, name: str) -> Locator:
        """Open the drop-down of a field whose choices n8n asks the node for, and return them."""
        for _ in range(TRIES):
            self.field(name).click()
            with contextlib.suppress(Error):  # n8n ignores the click while it waits for the choices
                self.options().first.wait_for(timeout=PATIENCE)
                break
        return self.options()

    def choose(self, option: str) -> None:
        """Chooses from the drop-down that is open."""
        self.options().get_by_text(option, exact=True).click()
        self.options().first.wait_for(state="hidden")

    def add_field(self) -> None:
        """Opens the drop-down of Additional Fields."""
        self.get("collection-parameter-add").first.click()

    # -- lists that a node asks for, and the form of a resource mapper

    def open_list(self, name: str) -> Locator:
        """Opens the list of a field, and returns its entries."""
        self.get(f"resource-locator-{name}").get_by_test_id("rlc-input").click()
        return self.get("rlc-item").filter(visible=True)

    def choose_from_list(self, name: str, entry: str) -> None:
        entries = self.open_list(name)
        entries.get_by_text(entry, exact=True).click()
        entries.first.wait_for(state="hidden")

    def list_error(self) -> Locator:
        """The error in place of a list."""
        return self.get("rlc-error-container").filter(visible=True)

    def add_argument(self, title: str) -> None:
        """Adds a hidden field to the form. The last one needs no menu."""
        self.get("add-fields-select").get_by_role("button").click()
        entry = self.page.get_by_role("menuitem").filter(visible=True).filter(has_text=title)
        field = self._labels().filter(has_text=title)
        entry.or_(field).first.wait_for()
        if entry.count():
            entry.first.click()
        field.first.wait_for()

    def refresh_arguments(self) -> None:
        menu = self.get("columns-parameter-input-options-container").get_by_test_id("action-toggle")
        menu.click()
        self.get("action-refreshFieldList").click()

    def execute(self, status: str = "success") -> None:
        """Executes the step, until that has ended as it should."""
        button = self.get("node-execute-button")
        button.click()
        self.get(f"node-run-status-{status}").wait_for()
        expect(button).to_have_text("Execute step")

    def output(self) -> list[dict[str, str]]:
        """The items of the output's table."""
        panel = self.get("output-panel")
        panel.locator("tbody tr").first.wait_for()  # the editor loads its table when it is first needed
        titles = [title.strip() for title in panel.locator("th").all_inner_texts()]
        rows = [row.locator("td").all_inner_texts() for row in panel.locator("tbody tr").all()]
        return [{title: cell for title, cell in zip(titles, row) if title} for row in rows]
