"""The page of the health check server in Chromium, as its reader sees it.

The screenshots are put into the folder that `N8NRUNNER_SCREENSHOTS` names.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from typing import Any, Callable

import pytest

from n8nrunner import Runner, Snapshot
from n8nrunner.broker import Broker
from n8nrunner.health import HealthServer
from tests import chromium
from tests.conftest import LIMIT
from tests.example_snapshots import AT, MARKUP, TRACEBACK, link, snapshot, times
from tests.test_health import address_of

with contextlib.suppress(ImportError):  # `browser` says so
    from playwright.sync_api import Browser, Page, expect


class Served:
    """A health check server whose snapshot a test sets."""

    def __init__(self, port: int = 0) -> None:
        self.snapshot = snapshot()
        self.server = HealthServer("127.0.0.1", port, self._snapshot, lambda: self.snapshot.is_offering)
        self.server.start()
        self.url = f"http://127.0.0.1:{self.server.address[1]}/"

    def _snapshot(self) -> Snapshot:
        return self.snapshot

    def later(self, seconds: float, **changes: Any) -> None:
        """Replace the snapshot by one of a later moment."""
        self.snapshot = self.snapshot._replace(at=self.snapshot.at + seconds, **changes)


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.server.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium.running() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, served: Served, request: pytest.FixtureRequest) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1200, "height": 820}, timezone_id="UTC")
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if "Policy" in message.text else None)
    page.goto(served.url)
    expect(page.locator("#state")).not_to_have_text("Loading")
    yield page
    chromium.keep_screenshot(page, f"page-{request.node.name}", full_page=True)
    context.close()
    assert faults == []


def test_the_page_shows_the_brokers_functions_and_running_tasks(page: Page) -> None:
    expect(page.locator("h1")).to_have_text("tests")
    expect(page.locator("#state")).to_have_text("Ready")
    expect(page.locator("#about")).to_contain_text("up 1 h 2 min")
    rows = page.locator("#functions tbody tr")
    quote, train, resize = (row.locator("td").all_inner_texts() for row in rows.all())
    assert (quote[0].strip(), quote[1], quote[4:]) == (
        "quote",
        "100",
        ["7.5 ms", "10 ms", "1.0 ms", "1.0 %", "0"],
    )
    assert train[0].split("\n")[0] == "train"
    assert "2 timed out · 1 not delivered" in train[0]
    assert "task type" in resize[0]
    first, second = page.locator("#running li").all()
    expect(first).to_contain_text("12 s of 5 min")
    expect(first).to_contain_text("node Train · execution 7 · task task-1")
    assert first.locator("progress").evaluate("bar => bar.value") == 0.25
    expect(second).to_contain_text("Cancelled: the workflow was stopped.")
    broker = page.locator("#brokers li")
    expect(broker).to_contain_text("last byte 4 s ago · 1 reconnection · 120 tasks accepted · 1 open offer")


def test_the_page_asks_for_errors_that_it_does_not_have(page: Page, served: Served) -> None:
    errors = page.locator("#errors li")
    expect(errors).to_have_count(1)
    with page.expect_response(lambda answer: answer.url.endswith("status?newest_error=task-0")) as answered:
        served.later(1)
    assert "errors" not in answered.value.json()
    expect(errors).to_have_count(1)
    older = served.snapshot.errors[0]
    served.later(1, errors=(older._replace(at=AT, task_id="task-9"), older))
    expect(errors).to_have_count(2)
    served.later(1, errors=())
    expect(page.locator("#no-errors")).to_be_visible()
    expect(errors).to_have_count(0)


def test_a_broker_at_an_address_of_a_name_shows_the_name(page: Page, served: Served) -> None:
    served.later(1, links=(link("registered")._replace(origin="dns+http://worker:5679"),))
    expect(page.locator("#brokers li")).to_contain_text("an address of dns+http://worker:5679 · last byte")


def test_brokers_with_the_same_address_have_a_row_each_however_often_they_are_shown(
    page: Page, served: Served
) -> None:
    names = [f"dns+http://{name}:5679" for name in ("one", "two")]
    for seconds, order in enumerate((names, names[::-1], names), 1):
        served.later(seconds, links=tuple(link()._replace(origin=name) for name in order))
        rows = [re.compile(f"an address of {re.escape(name)} ") for name in order]
        expect(page.locator("#brokers li")).to_have_text(rows)


def test_text_from_other_people_never_becomes_markup(page: Page, served: Served) -> None:
    served.later(1, links=(link("waiting"),), name=MARKUP)
    expect(page.locator("h1")).to_have_text(MARKUP)
    expect(page.locator("#brokers")).to_contain_text(MARKUP)
    page.locator("summary").click()
    expect(page.locator("#errors pre")).to_have_text(TRACEBACK)
    assert page.locator("img, .wrap script").count() == 0
    assert "changed" not in page.title().replace(MARKUP, "")
    # The browser itself refuses markup from strings.
    refused = page.evaluate("() => { try { document.body.innerHTML = '<p>' } catch { return true } }")
    assert refused


def test_an_open_traceback_stays_open_and_is_reached_by_keyboard(page: Page, served: Served) -> None:
    summary = page.locator("summary")
    summary.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#errors pre")).to_be_visible()
    newer = served.snapshot.errors[0]._replace(at=AT + 1, task_id="task-9", message="ValueError: newer")
    served.later(2, errors=(newer, *served.snapshot.errors))
    expect(page.locator("summary .message")).to_have_count(2)
    expect(page.locator("#errors li").nth(1).locator("pre")).to_be_visible()
    expect(page.locator("#errors li").nth(0).locator("pre")).not_to_be_visible()
    expect(summary.nth(1)).to_be_focused()


def test_the_page_says_that_texts_of_errors_are_turned_off(page: Page, served: Served) -> None:
    expect(page.locator("#no-details")).not_to_be_visible()
    bare = served.snapshot.errors[0]._replace(
        task_id="task-9", message="KeyError", description=None, traceback=None
    )
    served.later(1, errors=(bare._replace(at=AT - 1),), error_details=False)
    expect(page.locator("#no-details")).to_have_text(
        "Texts and tracebacks are turned off by the setting error_details."
    )
    expect(page.locator("summary .message")).to_have_text("KeyError")
    assert page.locator("#errors pre").count() == 0


def test_rates_come_from_successive_answers(page: Page, served: Served) -> None:
    quote, *others = served.snapshot.functions
    more = quote.outcomes["done"]._replace(count=149, duration=times(4, 149))
    served.later(5, functions=(quote._replace(outcomes={**quote.outcomes, "done": more}), *others))
    rate = page.locator("#functions tbody tr").first.locator("td").nth(2)
    expect(rate).to_have_text("10.0")  # 50 more calls in 5 s
    expect(page.locator("#rate")).to_have_text("10.0")


def test_the_page_says_since_when_there_is_no_answer_and_recovers(page: Page, served: Served) -> None:
    served.server.stop()
    expect(page.locator("#notice")).to_contain_text("No answer since")
    expect(page.locator("#state")).to_have_text("No answer")
    again = Served(served.server.address[1])
    try:
        expect(page.locator("#state")).to_have_text("Ready")
        expect(page.locator("#notice")).to_be_empty()
    finally:
        again.server.stop()


def test_the_page_says_that_no_broker_is_connected(page: Page, served: Served) -> None:
    served.later(1, links=(link("waiting"),), functions=(), tasks=(), errors=())
    expect(page.locator("#state")).to_have_text("Not connected")
    expect(page.locator("#notice")).to_contain_text("No broker has registered the runner")
    for empty in ("#no-functions", "#no-running", "#no-errors"):
        expect(page.locator(empty)).to_be_visible()


def test_the_page_asks_twice_a_second_and_not_while_it_is_hidden_or_paused(
    browser: Browser, served: Served
) -> None:
    context = browser.new_context()
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "status" in request.url else None)
    page.clock.install(time=0)
    page.goto(served.url)
    expect(page.locator("#state")).to_have_text("Ready")
    page.clock.pause_at(3600)  # from here on, only `run_for` moves the page's clock

    def asks(milliseconds: int) -> int:
        before = len(asked)
        for _ in range(milliseconds // 100):
            page.clock.run_for(100)
            page.evaluate("() => fetch('healthz').then(() => null)")  # the answer before has come
        return len(asked) - before

    asks(1000)  # the requests that became late when the clock jumped
    assert asks(6000) in (12, 13)
    hide = "(value) => { Object.defineProperty(document, 'hidden', { configurable: true, get: () => value });"
    hide += " document.dispatchEvent(new Event('visibilitychange')) }"
    page.evaluate(hide, True)
    assert asks(3000) <= 1  # one may have been under way
    page.evaluate(hide, False)
    assert asks(1000) >= 1
    page.locator("#pause").click()
    assert asks(3000) <= 1
    expect(page.locator("#pause")).to_have_text("Continue")
    expect(page.locator("#updated")).to_contain_text("Frozen at")
    context.close()


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (1200, "dark")])
def test_the_page_fits_a_phone_and_follows_the_color_scheme(page: Page, width: int, scheme: Any) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    page.emulate_media(color_scheme=scheme)
    page.locator("summary").click()
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    ground = page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
    assert (ground == "rgb(18, 22, 21)") is (scheme == "dark")


def test_a_failed_call_of_a_running_runner_is_on_its_page(
    browser: Browser, new_runner: Callable[..., Runner], broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    runner = new_runner(name="shown", health_check_port=0, health_check_enabled=True)

    @runner.task("divide")
    def divide(task: Any) -> float:
        return 1 / task.settings["by"]  # type: ignore[no-any-return]

    with runner:
        assert broker.run_task("divide", {"by": 2}, timeout=LIMIT) == 0.5
        with pytest.raises(Exception, match="division by zero"):
            broker.run_task("divide", {"by": 0}, timeout=LIMIT)
        page = browser.new_page()
        page.goto("http://{}:{}/".format(*address_of(caplog)))
        expect(page.locator("#calls")).to_have_text("2")
        expect(page.locator("#share")).to_have_text("50.0 %")
        page.locator("summary").click()
        expect(page.locator("#errors pre")).to_contain_text("in divide")
        page.close()
