"""The JSON form of a snapshot."""

from __future__ import annotations

import json

from n8nrunner import __version__
from n8nrunner.snapshot import BOUNDS, CallError, Counts, LinkSnapshot, Snapshot, TaskSnapshot
from n8nrunner.status import to_json
from tests.example_snapshots import AT, link, snapshot


def test_every_field_of_a_snapshot_is_in_its_json() -> None:
    found = json.loads(json.dumps(to_json(snapshot()), allow_nan=False))
    assert set(Snapshot._fields) - {"links"} <= set(found)
    assert found["version"] == __version__
    assert (found["state"], found["registered"], found["offering"]) == ("running", True, True)
    assert (found["capacity"], found["taken"], found["at"], found["uptime"]) == (5, 2, AT, 3725.0)
    for key, kind in (("brokers", LinkSnapshot), ("tasks", TaskSnapshot), ("errors", CallError)):
        assert all(set(each) == set(kind._fields) for each in found[key]), key
    assert set(found["counts"]) == set(Counts._fields)
    assert found["brokers"][0]["last_received"] == 4.5
    assert found["errors"][0]["message"] == snapshot().errors[0].message


def test_a_function_in_json_has_its_outcomes_and_quantiles() -> None:
    quote, train, resize = to_json(snapshot())["functions"]
    assert (quote["name"], quote["kind"], quote["calls"], quote["done"], quote["failed"]) == (
        "quote",
        "function",
        100,
        99,
        1,
    )
    assert {name: outcome["count"] for name, outcome in quote["outcomes"].items()} == {
        "done": 99,
        "failed": 1,
    }
    assert to_json(snapshot())["bounds"] == BOUNDS
    assert "bounds" not in quote["duration"]
    duration = quote["duration"]
    assert (duration["count"], len(duration["counts"])) == (100, len(BOUNDS) + 1)
    assert BOUNDS[3] < duration["p50"] < duration["p99"] <= BOUNDS[4]
    assert (train["undelivered"], train["running"], train["outcomes"]["timed_out"]["count"]) == (1, 1, 2)
    assert (resize["kind"], resize["calls"]) == ("task", 0)
    assert (resize["duration"]["p50"], resize["queue"]["p99"]) == (None, None)


def test_errors_are_left_out_for_a_reader_that_has_the_newest_one() -> None:
    newest = snapshot().errors[0]
    whole = to_json(snapshot())
    rest = to_json(snapshot(), newest.task_id)
    assert whole.keys() - rest.keys() == {"errors"}
    later = snapshot(errors=(newest._replace(task_id="task-9"), newest))
    assert len(to_json(later, newest.task_id)["errors"]) == 2
    assert to_json(snapshot(errors=()), newest.task_id)["errors"] == []  # the runner has started again


def test_a_paused_runner_is_registered_and_offers_nothing() -> None:
    paused = to_json(snapshot(links=(link("paused"),)))
    assert (paused["registered"], paused["offering"]) == (True, False)
    waiting = to_json(snapshot("waiting"))
    assert (waiting["registered"], waiting["offering"]) == (False, False)
