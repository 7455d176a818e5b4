"""Measure what hooks, tracing and the log add to a call: `python -m tests.benchmarks.calls`.

It needs the extra "test". One task has many calls of an empty function, so that the cost of the task itself
does not count. The contestants take turns, A B C, C B A, and so on. The figures are CPU time of all threads,
those that export spans included, because it depends less on other programs; one thread at a time runs Python.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from opentelemetry.trace import SpanKind

from n8nrunner import Call, JsonFormatter, Runner
from n8nrunner.broker import Broker
from n8nrunner.otel import instrument

from . import report
from .contestants.functions_traced import provider
from .report import Row

PLAIN, HOOKS, TRACED, LOGGED = "no hooks", "two empty hooks", "tracing", "a line of JSON"
#: The part of tracing that is not n8nrunner's.
SPAN = "two hooks with the same span of the SDK"
#: The wanted figure, in microseconds.
ADDED_BY_TRACING = 25.0


class Discarding(logging.StreamHandler):  # type: ignore[type-arg]  # not generic on Python 3.9
    """Formats each record, and writes it nowhere."""

    def emit(self, record: logging.LogRecord) -> None:
        self.format(record)


def runners(broker: Broker) -> dict[str, Runner]:
    """Return a runner for each contestant, registered."""
    found = {}
    for number, name in enumerate((PLAIN, HOOKS, SPAN, TRACED, LOGGED)):
        runner = Runner(broker.url, auth_token="secret", name=f"runner_{number}", log_calls=name == LOGGED)
        runner.function(name="double")(lambda number=1: 2 * number)
        if name == HOOKS:
            runner.on("started", lambda call: None)
            runner.on("finished", lambda call: None)
        if name == SPAN:
            make_spans(runner)
        if name == TRACED:
            instrument(runner, provider())
        runner.start()
        found[name] = runner
    return found


def make_spans(runner: Runner) -> None:
    """Make a span as large as that of `instrument` for each call, which is not the current one."""
    tracer = provider().get_tracer("benchmark")
    attributes = {f"n8nrunner.attribute_{number}": "a value" for number in range(6)}

    def start(call: Call) -> None:
        call.state["span"] = tracer.start_span("call", kind=SpanKind.CONSUMER, attributes=attributes)

    def end(call: Call) -> None:
        span = call.state["span"]
        span.set_attribute("n8nrunner.outcome", "done")
        span.end()

    runner.on("started", start)
    runner.on("finished", end)


def seconds_of(broker: Broker, runner: Runner, calls: int) -> float:
    """Return the CPU seconds of a task with so many calls, from the broker and back."""
    task = {"version": 1, "function": "double", "calls": [{"item": i, "arguments": {}} for i in range(calls)]}
    begun = time.process_time()
    answer = broker.run_task(f"n8nrunner.{runner.config.name}", task, timeout=120)
    took = time.process_time() - begun
    assert len(answer["items"]) == calls
    return took


def measure(calls: int, rounds: int) -> list[Row]:
    handler = Discarding()
    handler.setFormatter(JsonFormatter())
    log = logging.getLogger("n8nrunner")
    log.addHandler(handler)
    log.propagate = False
    log.setLevel(logging.INFO)
    found: dict[str, list[float]] = {name: [] for name in (PLAIN, HOOKS, SPAN, TRACED, LOGGED)}
    with Broker(auth_token="secret") as broker:
        known = runners(broker)
        for runner in known.values():
            seconds_of(broker, runner, calls)
        for number in range(rounds):
            for name in list(found) if number % 2 == 0 else list(found)[::-1]:
                found[name].append(seconds_of(broker, known[name], calls) / calls * 1e6)
        for runner in known.values():
            runner.stop()
    rows = [Row("a call, its share of the task included", found[PLAIN], "us")]
    for name, values in found.items():
        if name != PLAIN:
            added = [value - plain for value, plain in zip(values, found[PLAIN])]
            wanted = ADDED_BY_TRACING if name == TRACED else None
            rows.append(Row(f"added to a call by {name}", added, "us", at_most=wanted))
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.calls", description=__doc__)
    parser.add_argument("--calls", type=int, default=1000, help="of a task; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=31, help="default: %(default)s")
    parser.add_argument("--json", type=Path, default="build/calls.json", help="default: %(default)s")
    options = parser.parse_args(arguments)
    rows = measure(options.calls, options.rounds)
    report.write_json(options.json, rows, [], {"machine": report.machine(), "calls": options.calls})
    print(report.table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
