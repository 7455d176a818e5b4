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


class OwnError(TaskError):
    """A subclass whose constructor has other parameters."""

    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}", "the description")


@pytest.mark.parametrize("error", [TaskError("m"), TaskError("m", "d"), TaskTimeout("m", "d"), OwnError(1)])
def test_a_pickled_task_error_keeps_its_texts(error: TaskError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.message, copy.description) == (type(error), error.message, error.description)
