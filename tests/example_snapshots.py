"""A snapshot in which every part has values, for tests of what renders snapshots."""

from __future__ import annotations

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

#: 00:00 UTC on 1 January 2026.
AT = 1767225600.0
#: Text that changes a page which takes it for HTML.
MARKUP = """<img src=x onerror="document.title='changed'"><script>document.title='changed'</script>"""
TRACEBACK = f'Traceback (most recent call last):\n  File "prices.py", line 3, in quote\nKeyError: {MARKUP}'


def times(bucket: int, count: int) -> Histogram:
    """Return a histogram with `count` times in one bucket."""
    counts = [0] * (len(BOUNDS) + 1)
    counts[bucket] = count
    return Histogram(BOUNDS, tuple(counts), count * BOUNDS[bucket])


def link(state: str = "registered", broker: str = "http://n8n:5679") -> LinkSnapshot:
    error = None if state == "registered" else f"{broker} cannot be reached {MARKUP}"
    return LinkSnapshot(broker, state, 2, 0, error, 1, 120, 3, 1, 1, 4.5)


def snapshot(link_state: str = "registered", **changes: object) -> Snapshot:
    """Return a running runner's snapshot whose one broker has this state."""
    tasks = (
        TaskSnapshot("task-1", "n8nrunner:tests", 12.5, 0.25, MARKUP, None, "train", "7", "Train", 300.0),
        TaskSnapshot("task-2", "resize", 0.4, None, "", "the workflow was stopped", None, None, None, 60.0),
    )
    functions = (
        FunctionSnapshot(
            "quote",
            "function",
            {"done": Outcome(99, times(4, 99)), "failed": Outcome(1, times(4, 1))},
            times(1, 100),
        ),
        FunctionSnapshot("train", "function", {"timed_out": Outcome(2, times(17, 2))}, times(1, 3), 1, 1),
        FunctionSnapshot("resize", "task", {}, Histogram(), 0, 1),
    )
    error = CallError(AT - 3, "quote", "task-0", "6", MARKUP, 4, f"KeyError: {MARKUP}", MARKUP, TRACEBACK)
    whole = Snapshot(
        state="running",
        name="tests",
        capacity=5,
        taken=2,
        links=(link(link_state),),
        tasks=tasks,
        counts=Counts(accepted=120, rejected=3, done=99, failed=1, timed_out=2, undelivered=1),
        functions=functions,
        at=AT,
        uptime=3725.0,
        errors=(error,),
    )
    return whole._replace(**changes)
