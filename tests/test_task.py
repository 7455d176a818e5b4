"""`Task` shows a handler what is the handler's, and nothing of the runner."""

from __future__ import annotations

from n8nrunner import Task
from n8nrunner.task import ActiveTask

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
