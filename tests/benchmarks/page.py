"""Measure the page of the health check server: `python -m tests.benchmarks.page`.

It prints the CPU of an idle runner's process while the page is open in Chromium, and how often the page shows
new data while all slots of the runner run loops in pure Python. It needs Chromium and the extra "dev".
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from n8nrunner.broker import Broker
from tests import chromium
from tests.processes import Program, python

from .processes import cpu_seconds
from .report import Row, table

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
    print("computing", flush=True)
    while True:
        sum(range(1000))

runner.run()
"""


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each figure (default: 20)")
    parser.add_argument(
        "--capacity", type=int, nargs="+", default=[DEFAULT_CAPACITY, 10], help="slots of the busy runners"
    )
    options = parser.parse_args()
    print(table(measure(options.seconds, options.capacity)))


if __name__ == "__main__":
    main()
