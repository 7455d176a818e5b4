"""The text of a snapshot, for people."""

from __future__ import annotations

from typing import Any, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from n8nrunner import (
    CallError,
    Counts,
    FunctionSnapshot,
    Histogram,
    LinkSnapshot,
    Outcome,
    Runner,
    Snapshot,
    TaskError,
    TaskSnapshot,
)
from n8nrunner.broker import Broker
from n8nrunner.overview import WIDTH
from n8nrunner.snapshot import BOUNDS
from tests.conftest import LIMIT, wait_until
from tests.pages import blocks


def histogram(**counts: int) -> Histogram:
    """Return a histogram with so many times in the buckets that end at these bounds, such as ``at_0_01``."""
    bounds = {float(name[3:].replace("_", ".")): count for name, count in counts.items()}
    return Histogram(BOUNDS, (*(bounds.get(bound, 0) for bound in BOUNDS), 0), 1.0)


SNAPSHOT = Snapshot(
    "running",
    "leads",
    5,
    3,
    (
        LinkSnapshot("http://127.0.0.1:5679", "registered", 2, 0, None, 2, 1234, 1, 1, 0, 0.25),
        LinkSnapshot("https://n8n.example.com/base", "waiting", 0, 3, "cannot be reached: refused"),
    ),
    (
        TaskSnapshot("Zk3q", "n8nrunner.leads", 12.3, 0.4, "half way", None, "score", "12", "Score", 300.0),
        TaskSnapshot("Zk3r", "own", 0.02, None, "", "Task cancelled by user", None, None, None, 60.0),
    ),
    Counts(),
    (
        FunctionSnapshot("own", "task", {}),
        FunctionSnapshot(
            "score",
            "function",
            {
                "done": Outcome(100, histogram(at_0_01=100)),
                "failed": Outcome(2, histogram(at_0_0005=2)),
                "lost": Outcome(1, histogram(at_2=1)),
            },
            histogram(at_0_001=100),
            0,
            1,
        ),
    ),
    1790000000.0,
    7500.0,
    (
        CallError(1790000000.0, "score", "Zk3p", "12", "Score", 0, "ValueError: no\nsecond", None, "Trace"),
        CallError(1789999999.0, "own", "Zk3o", None, None, None, "TaskError: late", "of it", None),
    ),
)

TEXT = """\
Runner 'leads': running, started 2 h 5 min ago; 3 of 5 slots taken

Broker                       state       offers  accepted  rejected  reconnects  undelivered  silent
http://127.0.0.1:5679        registered       2      1234         1           1            0  250 ms
https://n8n.example.com/...  waiting          0         0         0           0            0       -
  cannot be reached: refused

Function         done  failed  other  running     p50    p99  queue p99
own (task type)     0       0      0        0       -      -          -
score             100       2      1        1  7.5 ms  10 ms     1.0 ms

Running  task  node   execution  progress                  age  limit
score    Zk3q  Score  12         40% half way             12 s  5 min
own      Zk3r  -      -          Task cancelled by user  20 ms  1 min

Last errors (UTC)
14:13:20 score, item 0, execution 12: ValueError: no
14:13:19 own: TaskError: late
"""


def test_the_text_has_a_table_of_each_kind() -> None:
    assert repr(SNAPSHOT) + "\n" == TEXT


def test_the_guide_shows_the_text() -> None:
    shown = [block.text for block in blocks("docs/operating.md", "text") if block.heading == "The snapshot"]
    assert shown == [TEXT]


def test_a_new_runner_has_a_text(new_runner: Callable[..., Runner]) -> None:
    assert repr(new_runner(name="leads").snapshot()) == "Runner 'leads': new; 0 of 5 slots taken"


def test_a_runner_that_has_ended_says_how_long_it_ran() -> None:
    assert repr(SNAPSHOT._replace(state="stopped", taken=0)).startswith(
        "Runner 'leads': stopped after 2 h 5 min\n"
    )
    failed = SNAPSHOT._replace(state="failed", uptime=0.26)  # handlers may go on
    assert repr(failed).startswith("Runner 'leads': failed after 260 ms; 3 of 5 slots taken\n")


@pytest.mark.parametrize("details", [True, False])
def test_texts_of_exceptions_are_shown_only_with_error_details(
    broker: Broker, new_runner: Callable[..., Runner], details: bool
) -> None:
    runner = new_runner(name="leads", error_details=details)

    @runner.function
    def fail() -> None:
        raise TaskError("with a secret")

    settings = {"version": 1, "function": "fail", "calls": [{"item": 0, "arguments": {}}]}
    with runner:
        broker.run_task("n8nrunner.leads", settings, timeout=LIMIT)
        wait_until(lambda: runner.snapshot().errors)
        text = repr(runner.snapshot())
    assert "fail, item 0: " in text
    assert ("with a secret" in text) is details


ANY_TEXT = st.text(max_size=150)
TIMES = st.none() | st.floats(0, 1e9)


@given(ANY_TEXT, ANY_TEXT, ANY_TEXT, TIMES, st.integers(0, 10**12))
def test_no_line_is_wider_than_the_limit_or_changes_the_terminal(
    name: str, other: str, error: str, time: Any, count: int
) -> None:
    snapshot = SNAPSHOT._replace(
        links=(LinkSnapshot(name, "registered", 1, 0, error, 1, count, 0, 0, 0, time),),
        tasks=(TaskSnapshot("Zk3q", name, time or 0.0, 1.0, other, None, None, None, other, time),) * 7,
        functions=(FunctionSnapshot(name, "task", {}),),
        errors=(CallError(0.0, name, "Zk3q", None, None, 1, error, None, None),) * 9,
    )
    lines = repr(snapshot).split("\n")
    assert max(map(len, lines)) <= WIDTH
    assert all(line.isprintable() for line in lines if line.isascii())
