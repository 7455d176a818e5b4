"""The JSON form of a `Snapshot`, which `/status` answers."""

from __future__ import annotations

from typing import Any

from n8nrunner._version import __version__
from n8nrunner.snapshot import BOUNDS, FunctionSnapshot, Histogram, Snapshot


def to_json(snapshot: Snapshot, newest_error: str | None = None) -> dict[str, Any]:
    """Return a snapshot as a JSON object. Times are seconds; `at` counts from 1970.

    Args:
        snapshot: the runner.
        newest_error: the task of the newest error that the reader has. The object has no `errors` if there is
            no newer one: with their tracebacks, they may have some megabytes.
    """
    status = {
        "version": __version__,
        "at": snapshot.at,
        "state": snapshot.state,
        "name": snapshot.name,
        "uptime": snapshot.uptime,
        "registered": snapshot.is_registered,
        "offering": snapshot.is_offering,
        "capacity": snapshot.capacity,
        "taken": snapshot.taken,
        "brokers": [link._asdict() for link in snapshot.links],
        "tasks": [task._asdict() for task in snapshot.tasks],
        "counts": snapshot.counts._asdict(),
        "bounds": BOUNDS,
        "functions": [_function(function) for function in snapshot.functions],
        "error_details": snapshot.error_details,
    }
    if not snapshot.errors or snapshot.errors[0].task_id != newest_error:
        status["errors"] = [error._asdict() for error in snapshot.errors]
    return status


def _function(function: FunctionSnapshot) -> dict[str, Any]:
    return {
        "name": function.name,
        "kind": function.kind,
        "calls": function.calls,
        "done": function.done,
        "failed": function.failed,
        "running": function.running,
        "undelivered": function.undelivered,
        "duration": _histogram(function.duration),
        "queue": _histogram(function.queue),
        "outcomes": {
            name: {"count": outcome.count, "duration": _histogram(outcome.duration)}
            for name, outcome in function.outcomes.items()
        },
    }


#: Of most histograms of a program with many functions.
_EMPTY = {"count": 0, "sum": 0.0, "p50": None, "p99": None, "counts": Histogram().counts}


def _histogram(histogram: Histogram) -> dict[str, Any]:
    if histogram == Histogram():
        return _EMPTY
    return {
        "count": histogram.count,
        "sum": histogram.sum,
        "p50": histogram.quantile(0.5),
        "p99": histogram.quantile(0.99),
        "counts": histogram.counts,
    }
