"""`Task`: the members of a handler's task, and none of the runner's."""

from __future__ import annotations

from typing import Any, Optional

from typing_extensions import assert_type

from n8nrunner import Counts, Runner, Task, Undelivered

runner = Runner()


@runner.task("all")
def handle(task: Task) -> Any:
    assert_type(task.id, str)
    assert_type(task.type, str)
    assert_type(task.deadline, float)
    assert_type(task.execution_id, Optional[str])
    assert_type(task.settings, Any)
    assert_type(task.items, "list[dict[str, Any]]")
    assert_type(task.cancelled, bool)
    assert_type(task.cancel_reason, Optional[str])
    assert_type(task.wait_for_cancel(0.5), bool)
    task.raise_if_cancelled()
    task.log("a line", 5, {"any": "value"})
    task.progress(0.5, "half")
    task.progress(text="no fraction")
    assert_type(task.progress_fraction, Optional[float])
    assert_type(task.progress_text, str)
    assert_type(task.rpc("helpers.httpRequest", {"url": "https://n8n.io"}), Any)
    assert_type(task.request_data(["A"], input=False, chunk={"startIndex": 0, "count": 10}), "dict[str, Any]")
    assert_type(
        task.request_node_types([{"name": "n8n-nodes-base.code", "version": 2}]), "list[dict[str, Any]]"
    )
    assert_type(task.read_file(0, "data"), bytes)
    assert_type(task.save_file(b"text", "a.txt", "text/plain"), "dict[str, Any]")
    assert_type(task.http_request(url="https://n8n.io", method="GET"), Any)
    task.cancel("why")  # type: ignore[attr-defined]
    task.generation  # type: ignore[attr-defined]  # noqa: B018
    task.started_at  # type: ignore[attr-defined]  # noqa: B018
    task.settings = None  # type: ignore[misc]
    task.progress("half")  # type: ignore[arg-type]
    task.read_file("data")  # type: ignore[call-arg, arg-type]
    return task.settings


def note(result: Undelivered) -> None:
    assert_type(result.certain, bool)
    assert_type(result.failed, bool)
    assert_type(result.kept, bool)
    assert_type(result.result, Any)
    assert_type(result.error, Optional["dict[str, Any]"])


snapshot = runner.snapshot()
assert_type(snapshot.counts, Counts)
assert_type(snapshot.counts.done, int)
assert_type(snapshot.links[0].last_error, Optional[str])
assert_type(snapshot.tasks[0].progress, Optional[float])
snapshot.state = "running"  # type: ignore[misc]
