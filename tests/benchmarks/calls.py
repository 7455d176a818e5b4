"""Measure what hooks, tracing and the log add to a call: `python -m tests.benchmarks.calls`.

It needs Linux and the extra "test".

One task has many calls of an empty function, so that the cost of the task itself does not count, nor that of
the first calls after a pause, which find the processor's caches cold. Five runners are there at once and get
a task by turns, A B C, C B A, and so on. A turn takes some hundredths of a second, so that what disturbs one
disturbs all. The added time is the difference to the runner without hooks within a round, and a row has the
median of the rounds.

The figures are CPU time, which depends less on other programs than the time of a clock: that of the thread
that calls the function, and, in separate rows, that of all threads. The latter has the work of the SDK's
thread that exports spans, and the noise of the broker, which runs in the same process.

The garbage collector is as Python sets it. Its full collections, one in some thousands of calls, fall into
few rounds, and their time depends on the size of the program. The median is without them, the mean with them.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from opentelemetry.trace import SpanKind

from n8nrunner import Call, JsonFormatter, Runner
from n8nrunner.broker import Broker
from n8nrunner.otel import instrument

from . import report
from .contestants.functions_traced import provider
from .report import Row
from .turns import in_turn

PLAIN, HOOKS, TRACED, LOGGED = "no hooks", "two empty hooks", "tracing", "a line of JSON"
#: The part of tracing that is not n8nrunner's.
SPAN = "two hooks with the same span of the SDK"
#: The wanted figure, in microseconds.
ADDED_BY_TRACING = 25.0


class Discarding(logging.StreamHandler):  # type: ignore[type-arg]  # not generic on Python 3.9
    """Formats each record, and writes it nowhere."""

    def emit(self, record: logging.LogRecord) -> None:
        self.format(record)


class Contestant(NamedTuple):
    """A runner, and the clock of the CPU time of its one thread that calls functions."""

    runner: Runner
    clock: int


class Used(NamedTuple):
    """CPU seconds."""

    by_thread: float
    by_process: float


def contestants(broker: Broker) -> dict[str, Contestant]:
    """Return the contestants, registered."""
    found = {}
    for number, name in enumerate((PLAIN, HOOKS, SPAN, TRACED, LOGGED)):
        runner = Runner(
            broker.url, auth_token="secret", name=f"runner_{number}", capacity=1, log_calls=name == LOGGED
        )
        threads: list[int] = []
        runner.function(name="double")(lambda number=1: 2 * number)
        runner.function(name="note_thread")(lambda threads=threads: threads.append(threading.get_ident()))
        if name == HOOKS:
            runner.on("started", lambda call: None)
            runner.on("finished", lambda call: None)
        if name == SPAN:
            make_spans(runner)
        if name == TRACED:
            instrument(runner, provider())
        runner.start()
        run(broker, runner, "note_thread", 1)
        found[name] = Contestant(runner, time.pthread_getcpuclockid(threads[0]))
    return found


def make_spans(runner: Runner) -> None:
    """Make a span as large as that of `instrument` for each call, without making it the current one."""
    tracer = provider().get_tracer("benchmark")
    attributes = {f"n8nrunner.attribute_{number}": "a value" for number in range(8)}

    def start(call: Call) -> None:
        call.state["span"] = tracer.start_span("call", kind=SpanKind.CONSUMER, attributes=attributes)

    def end(call: Call) -> None:
        span = call.state["span"]
        span.set_attribute("n8nrunner.outcome", "done")
        span.end()

    runner.on("started", start)
    runner.on("finished", end)


def run(broker: Broker, runner: Runner, function: str, calls: int) -> Any:
    """Run a task with so many calls, with the settings of a node, from the broker and back."""
    settings = {
        "version": 1,
        "function": function,
        "calls": [{"item": item, "arguments": {}} for item in range(calls)],
        "executionId": "4711",
        "nodeName": "Double",
    }
    return broker.run_task(f"n8nrunner.{runner.config.name}", settings, timeout=120)


def cpu_of(broker: Broker, contestant: Contestant, calls: int) -> Used:
    """Return what a task with so many calls uses."""
    before = Used(time.clock_gettime(contestant.clock), time.process_time())
    answer = run(broker, contestant.runner, "double", calls)
    assert len(answer["items"]) == calls
    after = Used(time.clock_gettime(contestant.clock), time.process_time())
    return Used(after.by_thread - before.by_thread, after.by_process - before.by_process)


def measure(calls: int, rounds: int) -> list[Row]:
    handler = Discarding()
    handler.setFormatter(JsonFormatter())
    log = logging.getLogger("n8nrunner")
    log.addHandler(handler)
    log.propagate = False
    log.setLevel(logging.INFO)
    with Broker(auth_token="secret") as broker:
        known = contestants(broker)
        found: dict[str, list[Used]] = {name: [] for name in known}
        for contestant in known.values():
            cpu_of(broker, contestant, calls)
        for number in range(rounds):
            for name in in_turn(found, number):
                used = cpu_of(broker, known[name], calls)
                found[name].append(Used(*(seconds / calls * 1e6 for seconds in used)))
        for contestant in known.values():
            contestant.runner.stop()
    return rows_of(found)


def rows_of(found: dict[str, list[Used]]) -> list[Row]:
    """Return the rows; the values are microseconds of a call, by contestant and round."""
    rows = [Row("a call, its share of the task included", [used.by_thread for used in found[PLAIN]], "us")]
    for name in (HOOKS, SPAN, TRACED, LOGGED):
        by_thread, by_process = differences(found[name], found[PLAIN])
        wanted = ADDED_BY_TRACING if name == TRACED else None
        what = f"added to a call by {name}"
        rows.append(Row(what, by_thread, "us", at_most=wanted))
        rows.append(Row(f"{what}: all threads", by_process, "us"))
        rows.append(Row(f"{what}: mean, with full garbage collections", [statistics.mean(by_thread)], "us"))
    rows.append(Row(f"{TRACED}, without {SPAN}", differences(found[TRACED], found[SPAN])[0], "us"))
    return rows


def differences(values: Sequence[Used], base: Sequence[Used]) -> tuple[list[float], list[float]]:
    """Return how much more is used in each round, by the thread and by the process."""
    return (
        [used.by_thread - other.by_thread for used, other in zip(values, base)],
        [used.by_process - other.by_process for used, other in zip(values, base)],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.calls", description=__doc__)
    parser.add_argument("--calls", type=int, default=1000, help="of a task; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--json", type=Path, default="build/calls.json", help="default: %(default)s")
    options = parser.parse_args(arguments)
    rows = measure(options.calls, options.rounds)
    report.write_json(options.json, rows, [], {"machine": report.machine(), "calls": options.calls})
    print(report.table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
