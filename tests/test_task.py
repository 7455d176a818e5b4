"""`Task` shows a handler what is the handler's, and nothing of the runner."""

from __future__ import annotations

import pickle
from typing import Any, Callable

import pytest

from n8nrunner import Task, TaskError, TaskTimeout
from n8nrunner.protocol.messages import Undecoded
from n8nrunner.task import ActiveTask, Answers

#: Every name that a handler may use.
PUBLIC = {
    "cancel_reason",
    "cancelled",
    "deadline",
    "execution_id",
    "http_request",
    "id",
    "items",
    "log",
    "node_name",
    "progress",
    "progress_fraction",
    "progress_text",
    "raise_if_cancelled",
    "read_file",
    "request_data",
    "request_node_types",
    "rpc",
    "save_file",
    "settings",
    "type",
    "wait_for_cancel",
}


def test_the_public_members_of_a_task_are_those_for_handlers() -> None:
    assert {name for name in dir(Task) if not name.startswith("_")} == PUBLIC


def test_an_active_task_has_no_dictionary_of_attributes() -> None:
    task = ActiveTask("1", "tests", None, 0.0)
    assert not hasattr(task, "__dict__")


def test_settings_that_python_cannot_decode_are_an_error_for_the_workflow_author() -> None:
    text = '{"taskSettings": ' + "9" * 5000 + "}"
    task = ActiveTask("1", "tests", Undecoded(text, "taskSettings"), 0.0)
    with pytest.raises(TaskError, match=r"cannot be read: .* more digits than Python reads"):
        task.settings  # noqa: B018


class Port:
    """A link whose n8n answers every call with one value."""

    max_payload = 1000

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def new_id(self) -> str:
        return "call"

    def call(self, task: ActiveTask, call_id: str, payload: bytes, answers: Answers | None) -> None:
        assert answers is not None
        answers.put((self._answer, None))

    def limit_time(self, task: ActiveTask, limit: float) -> None:
        raise AssertionError("no settings have a limit")


@pytest.mark.parametrize("answer", [None, "text", 1])
@pytest.mark.parametrize(
    "ask",
    [
        lambda task: task.request_data(),
        lambda task: task.request_node_types([]),
        lambda task: task.save_file(b""),
        lambda task: task.read_file(0, "data"),
    ],
    ids=["request_data", "request_node_types", "save_file", "read_file"],
)
def test_an_answer_of_another_type_is_an_error(ask: Callable[[Task], Any], answer: Any) -> None:
    with pytest.raises(TaskError, match=f"n8n answered .* {type(answer).__name__}"):
        ask(ActiveTask("1", "tests", None, 0.0, Port(answer)))


class Limits(Port):
    """A link that notes the time limits that it is told."""

    def __init__(self) -> None:
        super().__init__(None)
        self.limits: list[float] = []

    def limit_time(self, task: ActiveTask, limit: float) -> None:
        self.limits.append(limit)


def limited(settings: Any, port: Limits | None = None, type: str = "n8nrunner.shop") -> ActiveTask:
    """Return a task with 60 seconds left."""
    task = ActiveTask("1", type, settings, 0.0, port)
    task.deadline = task.started_at + 60
    return task


@pytest.mark.parametrize("limit", [1, 2.5])
def test_a_time_limit_of_the_settings_is_applied_once(limit: float) -> None:
    port = Limits()
    task = limited({"timeLimit": limit}, port)
    task.limit_time()
    assert task.deadline == task.started_at + limit
    assert port.limits == [limit]


@pytest.mark.parametrize(
    "settings",
    [
        *({"timeLimit": limit} for limit in (60, 61.0, 10**400, 0, -1, True, None, "1", [1])),
        {},
        None,
        [1],
        Undecoded('{"settings": {"timeLimit": 1}}', "settings"),
    ],
)
def test_no_other_settings_change_the_time_limit(settings: Any) -> None:
    port = Limits()
    task = limited(settings, port)
    task.limit_time()
    assert task.deadline == task.started_at + 60
    assert port.limits == []


@pytest.mark.parametrize(
    ("type", "applied"), [("n8nrunner.shop", [1]), ("n8nrunner.shop.quote", [1]), ("tests", [])]
)
def test_a_functions_task_takes_its_time_limit_to_another_process(type: str, applied: list[float]) -> None:
    port = Limits()
    task = limited(Undecoded('{"settings": {"timeLimit": 1}}', "settings"), port, type)
    copy = pickle.loads(pickle.dumps(task))
    assert port.limits == applied
    assert copy.deadline == task.started_at + (1 if applied else 60)


class OwnError(TaskError):
    """A subclass whose constructor has other parameters."""

    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}", "the description")


@pytest.mark.parametrize("error", [TaskError("m"), TaskError("m", "d"), TaskTimeout("m", "d"), OwnError(1)])
def test_a_pickled_task_error_keeps_its_texts(error: TaskError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.message, copy.description) == (type(error), error.message, error.description)
