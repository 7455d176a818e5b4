"""Calls of handlers to n8n that wait for an answer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from n8nrunner.protocol.actions import EndCall
from n8nrunner.protocol.calls import Calls


class Pending:
    """A call that nothing waits for; equal to itself alone."""

    def end(self, value: Any, error: Any) -> None:
        raise AssertionError("the session ended a call itself")


def with_calls(**tasks: str) -> tuple[Calls, dict[str, Pending]]:
    """Open calls, as the ids of their tasks by their own ids."""
    calls = Calls()
    pending = {call_id: Pending() for call_id in tasks}
    for call_id, task_id in tasks.items():
        calls.add(call_id, task_id, pending[call_id])
    return calls, pending


@pytest.mark.parametrize(("value", "error"), [(1, None), (None, None), (None, "no"), (None, {"message": ""})])
def test_an_answer_ends_its_call(value: Any, error: Any) -> None:
    calls, pending = with_calls(c="x", d="x")
    assert calls.end("d", value, error) == [EndCall(pending["d"], value, error)]
    assert calls.open == {"c": "x"}


def test_a_second_answer_is_ignored() -> None:
    calls, _ = with_calls(c="x")
    calls.end("c", 1, None)
    assert calls.end("c", 2, None) == []


def test_an_answer_to_an_unknown_call_is_ignored() -> None:
    calls, _ = with_calls(c="x")
    assert calls.end("x", 1, None) == []
    assert calls.open == {"c": "x"}


def test_the_end_of_a_task_ends_its_calls_in_their_order() -> None:
    calls, pending = with_calls(c="x", d="y", e="x")
    assert calls.end_all_of("x", "why") == [
        EndCall(pending["c"], None, "why"),
        EndCall(pending["e"], None, "why"),
    ]
    assert calls.open == {"d": "y"}
    assert calls.end("c", 1, None) == calls.end("e", 1, None) == []


def test_the_end_of_a_task_does_not_end_an_answered_call_again() -> None:
    calls, _ = with_calls(c="x")
    calls.end("c", 1, None)
    assert calls.end_all_of("x", "why") == []


def test_a_task_without_calls_ends_none() -> None:
    calls, _ = with_calls(c="x")
    assert calls.end_all_of("y", "why") == []


a_step = st.tuples(st.sampled_from(["add", "end", "end task"]), st.integers(0, 5), st.sampled_from("xyz"))


@given(st.lists(a_step))
def test_every_call_ends_once(steps: list[tuple[str, int, str]]) -> None:
    calls = Calls()
    added: list[Pending] = []
    expected: dict[str, str] = {}
    ended: list[Any] = []
    for step, number, task_id in steps:
        if step == "add":
            call_id = str(len(added))
            added.append(Pending())
            expected[call_id] = task_id
            calls.add(call_id, task_id, added[-1])
        elif step == "end":
            ended += calls.end(str(number), None, None)
            expected.pop(str(number), None)
        else:
            ended += calls.end_all_of(task_id, "why")
            expected = {key: value for key, value in expected.items() if value != task_id}
        assert calls.open == expected
    for task_id in "xyz":
        ended += calls.end_all_of(task_id, "why")
    assert sorted(id(end.call) for end in ended) == sorted(map(id, added))
