"""The JSON form of a `Snapshot`, which `/status` answers."""

from __future__ import annotations

from typing import Any

from n8nrunner._version import __version__
from n8nrunner.snapshot import FunctionSnapshot, Histogram, Snapshot


def to_json(snapshot: Snapshot) -> dict[str, Any]:
    """Return a snapshot as a JSON object. Times are seconds; `at` counts from 1970."""
    return {
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
        "functions": [_function(function) for function in snapshot.functions],
        "error_details": snapshot.error_details,
        "errors": [error._asdict() for error in snapshot.errors],
    }


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


def _histogram(histogram: Histogram) -> dict[str, Any]:
    return {
        "count": histogram.count,
        "sum": histogram.sum,
        "p50": histogram.quantile(0.5),
        "p99": histogram.quantile(0.99),
        "bounds": histogram.bounds,
        "counts": histogram.counts,
    }
