"""The card of a runner in a notebook, as HTML."""

from __future__ import annotations

import html
import re

import pytest

from n8nrunner import card
from n8nrunner.snapshot import Snapshot
from tests import chromium
from tests.example_snapshots import AT, MARKUP, TRACEBACK, link, snapshot


def text_of(shown: str) -> str:
    """Return the text that a browser shows, without the style."""
    without_style = re.sub(r"<style>.*?</style>", "", shown, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", without_style)))


def test_a_card_shows_functions_running_tasks_brokers_and_errors() -> None:
    shown = text_of(card.render(snapshot(), "Run the cell again."))
    for part in (
        "tests ● Ready 2 of 5 slots · 102 calls · 1.0 % failed · up 1 h 2 min",
        "quote 100 7.5 ms 10 ms 1.0 % 0",
        "train 2 timed out · 1 not delivered 2",
        "resize task type 0 – – – 1",  # noqa: RUF001 - dashes
        "train node Train · execution 7 12 s of 5 min",
        "Cancelled: the workflow was stopped",
        "http://n8n:5679 registered last byte 4 s ago · 1 reconnection · 3 rejected · 1 result not delivered",
        "Run the cell again.",
    ):
        assert part in shown, part
    assert re.sub(r"\s+", " ", TRACEBACK) in shown


def test_a_card_has_no_markup_of_other_people() -> None:
    shown = card.render(snapshot("waiting", name=MARKUP))
    assert shown.count(html.escape(MARKUP)) >= 5  # name, node, progress, broker's error, message, traceback
    assert "<img" not in shown
    assert "<script" not in shown


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"state": "new", "links": ()}, "Not started"),
        ({"state": "stopped", "taken": 0}, "● Stopped after 1 h 2 min 102 calls"),
        ({"state": "failed"}, "● Failed after 1 h 2 min 2 of 5 slots"),
        ({"links": (link("waiting"),)}, "Not connected"),
        ({"links": (link("paused"),)}, "Paused"),
        (
            {"links": (link("registered")._replace(origin="dns+http://worker:5679"),)},
            "an address of dns+http://worker:5679 · last byte",
        ),
        ({"functions": ()}, "No function yet. Decorate one with @runner.function ."),
        ({"error_details": False}, "Texts and tracebacks are turned off by error_details ."),
        ({"errors": snapshot().errors * 7}, "2 more: runner.snapshot().errors"),
    ],
)
def test_a_card_says_what_a_reader_has_to_know(changes: dict[str, object], says: str) -> None:
    assert says in text_of(card.render(snapshot(**changes)))


def test_a_section_with_nothing_to_show_is_empty() -> None:
    bare: Snapshot = snapshot(tasks=(), errors=(), links=())
    parts = card.sections(bare, {})
    assert (parts["running"], parts["errors"], parts["brokers"]) == ("", "", "")
    assert set(parts) == set(card.SECTIONS)


def test_rates_have_a_column_of_their_own() -> None:
    rates = {("function", "quote"): 12.34, ("task", "resize"): 0.5}
    parts = card.sections(snapshot(at=AT), rates)
    assert "12.8 a second" in text_of(parts["head"])
    assert "quote 100 12.3 7.5 ms" in text_of(parts["functions"])
    assert "Per second" not in text_of(card.sections(snapshot(), {})["functions"])


def test_a_narrow_card_does_not_break_a_functions_name() -> None:
    with chromium.running() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.set_content(card.render(snapshot()))
        names = page.locator("td b")
        assert names.evaluate_all("names => names.map(name => name.getClientRects().length)") == [1, 1, 1]
        assert page.evaluate("document.scrollingElement.scrollWidth") <= 390
