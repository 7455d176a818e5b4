"""Takes the pictures of the page and of the card for the documentation: `python -m tests.pictures`.

The page shows a runner that does not exist, whose minute passes at once. The card shows a real one in
JupyterLab. It needs Chromium and the extra "dev".
"""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from n8nrunner.broker import Broker
from n8nrunner.health import HealthServer
from n8nrunner.snapshot import (
    BOUNDS,
    CallError,
    Counts,
    FunctionSnapshot,
    Histogram,
    LinkSnapshot,
    Outcome,
    Snapshot,
    TaskSnapshot,
)
from tests import chromium
from tests.conftest import TOKEN
from tests.notebooks.lab import open_lab
from tests.pages import ROOT
from tests.test_samples import call

with suppress(ImportError):  # `chromium.running` says so
    from playwright.sync_api import Browser, expect

IMAGES = ROOT / "docs" / "images"
#: 10:12:00 UTC on 27 November 2026.
BEGIN = 1795774320.0
#: Milliseconds from one request of the page to the next, and the number of requests.
PERIOD, STEPS = 480, 135
CELLS = [
    f"from n8nrunner import Runner, Task\nrunner = Runner({{url!r}}, auth_token={TOKEN!r}, name='prices')",
    """\
prices = {"apple": 2.0, "pear": 3.0}
@runner.function
def quote(fruit: str, pieces: int = 1):
    return {"total": pieces * prices[fruit]}
@runner.function
def train(task: Task):
    task.progress(0.4, "round 40 of 100")
    task.wait_for_cancel(60)
""",
    "runner.start()",
    "runner",
]
TRACEBACK = """\
Traceback (most recent call last):
  File "/home/ana/prices/functions.py", line 31, in quote
    return {"total": pieces * prices[fruit]}
                              ~~~~~~^^^^^^^
KeyError: 'mango'
"""


class Story:
    """A runner that does not exist, at successive moments."""

    def __init__(self) -> None:
        self.step = 0

    def __call__(self) -> Snapshot:
        """Return its snapshot, a period after the one before."""
        self.step += 1
        time = self.step * PERIOD / 1000
        calls = [
            _calls("quote", time, 41, 3, {"failed": 35}, queue=1),
            _calls("report.pdf", time, 4.6, 9, {"failed": 1}, kind="task"),
            _calls("score_lead", time, 16, 6, {"timed_out": 2, "cancelled": 1}, running=2),
            _calls("train", time, 0.8, 14, {"lost": 1}, undelivered=1, running=1),
        ]
        tasks = (
            TaskSnapshot(
                "mB93kfPqa",
                "n8nrunner.prices",
                23 + time,
                0.38,
                "round 38 of 100",
                None,
                "train",
                "131",
                "Train the model",
                300.0,
            ),
            TaskSnapshot(
                "zzp0d7",
                "n8nrunner.prices",
                8 + time,
                None,
                "",
                "the workflow was stopped",
                "score_lead",
                "97",
                "Score lead",
                300.0,
            ),
            TaskSnapshot(
                "q81nnz0Wc",
                "n8nrunner.prices",
                0.2,
                None,
                "",
                None,
                "score_lead",
                "132",
                "Score lead",
                300.0,
            ),
        )
        refused = (
            "https://n8n.example.com/runners cannot be reached: ConnectionRefusedError: Connection refused"
        )
        links = (
            LinkSnapshot("http://127.0.0.1:5679", "registered", 2, 0, None, 1, 4408, 3, 1, 0, 0.2),
            LinkSnapshot("https://n8n.example.com", "waiting", 4, 7, refused, 0, 311, 0, 3, 1, None),
        )
        errors = (
            _error(79, "quote", "KeyError: 'mango'", TRACEBACK),
            _error(126, "score_lead", "ValueError: 'ana(at)example.com' is not an address"),
            _error(174, "report.pdf", "FileNotFoundError: [Errno 2] No such file: 'letterhead.png'"),
            _error(220, "quote", "pieces: expected an integer, got 'three'"),
        )
        counts = Counts(rejected=3, timed_out=2, cancelled=1, lost=1, undelivered=1)
        return Snapshot(
            "running", "prices", 5, 4, links, tasks, counts, tuple(calls), BEGIN + time, 11460 + time, errors
        )


def _calls(
    name: str,
    time: float,
    rate: float,
    bucket: int,
    others: dict[str, int],
    kind: str = "function",
    queue: int = 3,
    undelivered: int = 0,
    running: int = 0,
) -> FunctionSnapshot:
    """Return a function with calls at a rate that goes up and down, and the times around one bucket."""
    done = int(71 * rate + rate * time + rate * 3 * math.sin(time / 5))
    outcomes = {"done": Outcome(done, _times(bucket, done))}
    outcomes.update((outcome, Outcome(count, _times(bucket, count))) for outcome, count in others.items())
    return FunctionSnapshot(name, kind, outcomes, _times(queue, done), undelivered, running)  # type: ignore[arg-type]


def _times(bucket: int, count: int) -> Histogram:
    counts = [0] * (len(BOUNDS) + 1)
    for distance, share in ((0, 0.6), (1, 0.3), (2, 0.07), (3, 0.03)):
        counts[bucket + distance] = round(count * share)
    return Histogram(BOUNDS, tuple(counts), sum(counts) * BOUNDS[bucket])


def _error(ago: float, function: str, message: str, traceback: str | None = None) -> CallError:
    at = BEGIN + STEPS * PERIOD / 1000 - ago
    return CallError(at, function, "Xk20dLq9", "118", "Quote", 0, message, None, traceback)


def take_page(browser: Browser) -> None:
    """Take the picture of the page, after the minute that its curves show."""
    server = HealthServer("127.0.0.1", 0, Story(), lambda: True)
    server.start()
    context = browser.new_context(
        viewport={"width": 1000, "height": 800}, timezone_id="UTC", reduced_motion="reduce"
    )
    page = context.new_page()
    page.clock.install(time=BEGIN)
    page.goto(f"http://127.0.0.1:{server.address[1]}/")
    for _ in range(STEPS - 1):
        with page.expect_response(lambda answer: "/status" in answer.url):
            page.clock.run_for(PERIOD)
    page.locator("summary").first.click()
    page.mouse.move(0, 0)
    page.screenshot(path=IMAGES / "page.png", full_page=True)
    context.close()
    server.stop()


def take_card(browser: Browser) -> None:
    """Take the picture of the card below its cell."""
    with Broker(auth_token=TOKEN) as broker, TemporaryDirectory() as folder:
        cells = [cell.replace("{url!r}", repr(broker.url)) for cell in CELLS]
        with open_lab(browser, Path(folder), cells) as lab:
            for index in range(len(CELLS)):
                lab.run(index)
            train = {"version": 1, "function": "train", "calls": [{"item": 0, "arguments": {}}]}
            broker.submit("n8nrunner.prices", train, items=[{"json": {}}])
            for pieces in range(1, 40):
                call(broker, "prices", "quote", fruit="apple", pieces=pieces)
            with suppress(AssertionError):
                call(broker, "prices", "quote", fruit="mango")
            expect(lab.card).to_contain_text("40 calls")
            lab.card.locator("summary").click()
            expect(lab.card.locator("pre")).to_contain_text("in quote")
            lab.page.mouse.move(0, 0)
            lab.cell(len(CELLS) - 1).screenshot(path=IMAGES / "card.png")


if __name__ == "__main__":
    with chromium.running() as browser:
        take_page(browser)
        take_card(browser)
