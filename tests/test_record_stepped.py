"""`Recorder`, stepped by hand."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from n8nrunner.execution.invoke import Answer
from n8nrunner.protocol.actions import Ending
from n8nrunner.record import Recorder
from n8nrunner.task import ActiveTask, Failure, Tally

FUNCTIONS = ("score", "quote")
TYPES = ("own", "raw")


class Names:
    """The names that a runner has registered."""

    task_types = TYPES
    function_names = FUNCTIONS


def task_of(name: str) -> ActiveTask:
    is_type = name in TYPES
    settings = None if is_type else {"function": name}
    return ActiveTask("1", name if is_type else "n8nrunner.leads", settings, time.monotonic() + 60)


def counted(recorder: Recorder) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    for each in recorder.functions():
        for outcome, calls in each.outcomes.items():
            assert calls.count == calls.duration.count > 0
            found[each.name, outcome] = calls.count
    return found


SECONDS = st.floats(0.0, 1000.0)
TALLIES = st.builds(Tally, st.sampled_from(FUNCTIONS), st.lists(SECONDS), st.lists(SECONDS), st.booleans())
ENDINGS: Any = st.none() | st.sampled_from(["cancelled", "timed_out", "lost", "unfinished"])


@given(
    st.lists(
        st.tuples(st.sampled_from(TYPES) | TALLIES, SECONDS, st.booleans(), st.booleans(), ENDINGS),
        max_size=20,
    )
)
def test_calls_count_by_outcome_and_a_task_that_is_cut_short_counts_once(
    ends: list[tuple[str | Tally, float, bool, bool, Ending | None]],
) -> None:
    recorder = Recorder(Names())
    expected: Counter[tuple[str, str]] = Counter()
    waited: Counter[str] = Counter()
    for kind, seconds, failed, interrupted, ending in ends:
        name = kind if isinstance(kind, str) else kind.function
        task = task_of(name)
        task.begun_at = task.started_at + 0.5
        now = task.begun_at + seconds
        if ending is not None:
            recorder.note_cut_short(task, ending, now)
            task.cancel("why", ending)
        recorder.note_ended(
            task, Answer(b"", failed, interrupted, seconds, kind if isinstance(kind, Tally) else None), now
        )
        if ending is not None or interrupted:
            expected[name, ending or "unfinished"] += 1
        elif isinstance(kind, str):
            expected[name, "failed" if failed else "done"] += 1
            waited[name] += 1
        elif not kind.again:
            expected[name, "failed" if failed else "done"] += len(kind.done)
            expected[name, "failed"] += len(kind.failed)
            waited[name] += 1
    assert counted(recorder) == +expected
    for each in recorder.functions():
        assert each.queue.count == waited[each.name]
        assert each.queue.sum == pytest.approx(0.5 * waited[each.name])


@pytest.mark.parametrize("name", ["unknown", "not a name", 5, None])
def test_a_function_that_is_not_registered_is_not_counted(name: Any) -> None:
    recorder = Recorder(Names())
    task = ActiveTask("1", "n8nrunner.leads", {"function": name}, 0.0)
    failures = (Failure("unknown_function", "it has no such function"),)
    recorder.note_ended(task, Answer(b"", True, failures=failures), time.monotonic())
    recorder.note_cut_short(task, "lost", time.monotonic())
    recorder.note_undelivered(task.type, name)
    assert not counted(recorder)
    assert [each.name for each in recorder.functions()] == ["own", "quote", "raw", "score"]
    (error,) = recorder.errors
    assert error.function == ("unknown" if name == "unknown" else "n8nrunner.leads")


def test_undelivered_results_count_by_function_or_type() -> None:
    recorder = Recorder(Names())
    for name in ("own", "score"):
        recorder.note_ended(task_of(name), Answer(b"", False), time.monotonic())
    for task_type, function in (("own", None), ("n8nrunner.leads", "score"), ("n8nrunner.leads", "score")):
        recorder.note_undelivered(task_type, function)
    assert {each.name: each.undelivered for each in recorder.functions()} == {
        "own": 1,
        "quote": 0,
        "raw": 0,
        "score": 2,
    }


def test_a_task_in_another_process_that_is_cut_short_took_the_time_since_its_arrival() -> None:
    recorder = Recorder(Names())
    task = task_of("own")
    recorder.note_cut_short(task, "timed_out", task.started_at + 3)
    (own,) = (each for each in recorder.functions() if each.name == "own")
    assert own.outcomes["timed_out"].duration.sum == pytest.approx(3)


def test_a_task_that_no_thread_began_waited_all_the_time() -> None:
    recorder = Recorder(Names())
    task = task_of("own")
    recorder.note_ended(task, Answer(b"", True), task.started_at + 3)
    (own,) = (each for each in recorder.functions() if each.name == "own")
    assert own.queue.sum == pytest.approx(3)
