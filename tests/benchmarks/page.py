"""Measure the page of the health check server, and the card in JupyterLab: `python -m tests.benchmarks.page`.

It prints the CPU of an idle runner's process while the page or the card is open in Chromium, and how often
they show new data while all slots of the runner run loops in pure Python. It needs Chromium and the extra
"dev".
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from n8nrunner.broker import Broker
from tests import chromium
from tests.notebooks.lab import open_lab
from tests.processes import Program, python

from .processes import cpu_seconds
from .report import Row, table

with suppress(ImportError):  # `chromium.running` says so
    from playwright.sync_api import expect

TOKEN = "secret"
DEFAULT_CAPACITY = 5
#: A runner whose tasks compute until the program ends.
RUNNER = """
import sys
from n8nrunner import Runner, logs

logs.configure(20)
runner = Runner(sys.argv[1], auth_token=sys.argv[2], name="measured", capacity=int(sys.argv[3]),
                task_timeout=3600, health_check_enabled=True, health_check_port=0)

@runner.task("compute")
def compute(task):
    sys.stdout.write("computing\\n")  # in one piece: other threads write too
    sys.stdout.flush()
    while True:
        sum(range(1000))

runner.run()
"""


#: The same in a notebook. Each look at the progress finds another one.
NOTEBOOK = """
import os
from n8nrunner import Runner

runner = Runner({url!r}, auth_token={token!r}, name="measured", capacity={capacity}, task_timeout=3600)

@runner.task("compute")
def compute(task):
    rounds = 0
    while not task.cancelled:
        rounds += 1
        task.progress(rounds % 1000 / 1000, str(rounds))
        sum(range(1000))

runner.start()
print("process", os.getpid())
"""
#: Counts how often the running calls of the card change.
COUNT_CHANGES = """() => {
    window.changes = 0;
    const parts = document.querySelectorAll('.n8nrunner-card [class*=widget-html-content]');
    const running = [...parts].find((part) => part.querySelector('progress'));
    new MutationObserver(() => { window.changes += 1 }).observe(running, { childList: true });
}"""


@contextmanager
def runner_process(broker: Broker, capacity: int) -> Iterator[tuple[Program, str]]:
    """A runner in a process of its own, and the address of its page."""
    with python("-c", RUNNER, broker.url, TOKEN, str(capacity)) as program:
        found = re.search(r"http://\S+", program.wait_for("Its page is"))
        program.wait_for("Registered")
        assert found is not None
        yield program, found[0]


def measure(seconds: float, capacities: Sequence[int]) -> list[Row]:
    """Return the rows of one run."""
    rows: list[Row] = []
    with Broker(auth_token=TOKEN) as broker, chromium.running() as browser:
        page = browser.new_page()
        answers: list[float] = []
        page.on("requestfinished", lambda request: answers.append(time.monotonic()))

        def wait() -> None:
            page.wait_for_timeout(1000)  # the load of the page is not idleness
            answers.clear()
            page.wait_for_timeout(seconds * 1000)

        with runner_process(broker, DEFAULT_CAPACITY) as (program, url):
            for what in ("without the page", "with the page"):
                if what == "with the page":
                    page.goto(url)
                page.wait_for_timeout(1000)
                before = cpu_seconds(program.process.pid)
                wait()
                used = 100 * (cpu_seconds(program.process.pid) - before) / (seconds + 1)
                rows.append(Row(f"CPU of an idle runner {what}", [used], "%", at_most=0.5))
        for capacity in capacities:
            with runner_process(broker, capacity) as (program, url):
                page.goto(url)
                for _ in range(capacity):
                    broker.submit("compute", {})
                for _ in range(capacity):
                    program.wait_for("computing")
                wait()
                pauses = [later - earlier for earlier, later in zip(answers, answers[1:])]
                name = f"all {capacity} slots of the runner compute"
                refreshes = len(answers) / seconds
                wanted = 2.0 if capacity <= DEFAULT_CAPACITY else None
                rows.append(Row(f"refreshes a second while {name}", [refreshes], at_least=wanted))
                rows.append(Row(f"longest pause between two while {name}", [max(pauses)], "s"))
    return rows


def measure_card(seconds: float) -> list[Row]:
    """Return the rows of the card in one run."""
    rows: list[Row] = []
    with Broker(auth_token=TOKEN) as broker, chromium.running() as browser, TemporaryDirectory() as folder:
        make = NOTEBOOK.format(url=broker.url, token=TOKEN, capacity=DEFAULT_CAPACITY)
        with open_lab(browser, Path(folder), [make, "runner"]) as lab:
            lab.run(0)
            expect(lab.output(0)).to_contain_text("process")
            kernel = int(lab.output(0).inner_text().split("process")[1].split()[0])
            for what in ("without a card", "with a card"):
                if what == "with a card":
                    lab.run(1)
                    expect(lab.card).to_contain_text("Ready")
                lab.page.wait_for_timeout(2000)
                before = cpu_seconds(kernel)
                lab.page.wait_for_timeout(seconds * 1000)
                used = 100 * (cpu_seconds(kernel) - before) / seconds
                limit = 0.5 if what == "with a card" else None
                rows.append(Row(f"CPU of a kernel with an idle runner {what}", [used], "%", at_most=limit))
            for _ in range(DEFAULT_CAPACITY):
                broker.submit("compute", {})
            expect(lab.card.locator("progress")).to_have_count(DEFAULT_CAPACITY)
            lab.page.evaluate(COUNT_CHANGES)
            lab.page.wait_for_timeout(seconds * 1000)
            changes = lab.page.evaluate("() => window.changes") / seconds
            name = f"all {DEFAULT_CAPACITY} slots of the runner compute"
            rows.append(Row(f"refreshes a second of the card while {name}", [changes], at_least=2))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each figure (default: 20)")
    parser.add_argument(
        "--capacity", type=int, nargs="+", default=[DEFAULT_CAPACITY, 10], help="slots of the busy runners"
    )
    options = parser.parse_args()
    print(table(measure(options.seconds, options.capacity) + measure_card(options.seconds)))


if __name__ == "__main__":
    main()
