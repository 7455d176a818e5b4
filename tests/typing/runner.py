"""`Runner`: its parameters, and decorators that keep the signature of what they decorate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Optional

from typing_extensions import assert_type

import n8nrunner
from n8nrunner import (
    Call,
    File,
    N8nRunnerError,
    Registered,
    Runner,
    RunnerConfig,
    Snapshot,
    Task,
    Undelivered,
)

n8nrunner.Runer  # type: ignore[attr-defined]  # noqa: B018


@contextmanager
def context() -> Iterator[None]:
    yield


def note(result: Undelivered) -> None: ...


def make_executor() -> Executor:
    return ThreadPoolExecutor()


runner = Runner()
runner = Runner("http://n8n:5679")
runner = Runner(
    ["http://first:5679", "http://second:5679"],
    auth_token="secret",
    auth_token_file=None,
    grant_token=None,
    runner_id="one",
    name="sales",
    capacity=3,
    task_timeout=1.5,
    max_payload=1024**2,
    graceful_shutdown_timeout=3,
    auto_shutdown_timeout=0.5,
    health_check_enabled=True,
    health_check_host="127.0.0.1",
    health_check_port=0,
    health_check_allowed_hosts=("runner.example",),
    error_details=False,
    log_calls=True,
    executor=ProcessPoolExecutor(),
    task_context=context,
    on_undelivered=note,
    shared=True,
)
runner = Runner(executor=make_executor)
runner = Runner(executor=lambda: ProcessPoolExecutor(4))
Runner("http://n8n:5679", "secret")  # type: ignore[call-arg]
Runner(capacity="3")  # type: ignore[arg-type]
Runner(speed=3)  # type: ignore[call-arg]
Runner(executor=5)  # type: ignore[arg-type]
Runner(on_undelivered=lambda: None)  # type: ignore[arg-type, misc]

# --- tasks ----------------------------------------------------------------------------------------


@runner.task("enrich")
def enrich(task: Task) -> list[dict[str, Any]]:
    return task.items


@runner.task("enrich", limit=1)
def with_options(task: Task, *, depth: int = 1) -> str:
    return "x" * depth


assert_type(enrich(task=Task("1", "enrich", None, 0.0)), "list[dict[str, Any]]")
with_options(Task("1", "enrich", None, 0.0), depth=2)
with_options(Task("1", "enrich", None, 0.0), width=2)  # type: ignore[call-arg]


@runner.task("wrong")  # type: ignore[type-var]
def of_no_task(number: int) -> int:
    return number


@runner.task  # type: ignore[arg-type]
def without_a_type(task: Task) -> None: ...


class Callback:
    def __call__(self, task: Task) -> int:
        return 1


assert_type(runner.task("object")(Callback()), Callback)

# --- functions ------------------------------------------------------------------------------------


@runner.function
def score(email: str, budget: float = 0.0, *, region: str | None = None) -> dict[str, float]:
    return {"score": len(email) + budget}


@runner.function(name="sum", batch=True, limit=1)
def total(numbers: Sequence[int], task: Task) -> int:
    return sum(numbers)


@runner.function()
def with_file(file: File) -> File:
    return file


assert_type(score("a@b.example", region="eu"), "dict[str, float]")
assert_type(total([1, 2], Task("1", "sum", None, 0.0)), int)
assert_type(with_file(file=File(b"text")), File)
score(5)  # type: ignore[arg-type]
score("a@b.example", 1.0, "eu")  # type: ignore[call-arg]
runner.function(score, name="other")  # type: ignore[call-overload]
runner.function(speed=3)  # type: ignore[call-overload]
assert_type(runner.functions, Mapping[str, Callable[..., object]])
runner.functions["score"] = score  # type: ignore[index]
runner.remove("sum")

# --- hooks ----------------------------------------------------------------------------------------


@runner.on("failed")
@runner.on("cancelled")
def failed(call: Call) -> None:
    assert_type(call.duration, Optional[float])
    assert_type(call.error, Optional[BaseException])
    assert_type(call.name, str)
    assert_type(call.state, "dict[str, Any]")


runner.on("started", failed)(1)  # type: ignore[arg-type]  # the function keeps its type


@runner.on("registered")
def registered(event: Registered) -> None:
    assert_type(event.broker, str)


runner.on("undelivered", lambda result: print(result.function))
runner.on("undelivered", registered)  # type: ignore[call-overload]
runner.on("ended", failed)  # type: ignore[call-overload]


@contextmanager
def of_task(task: Task) -> Iterator[None]:
    yield


Runner(task_context=of_task)

# --- life -----------------------------------------------------------------------------------------

with runner as entered:
    assert_type(entered, Runner)
runner.start(wait=0)
assert_type(runner.join(1.0), bool)
assert_type(runner.wait_registered(), bool)
assert_type(runner.state, str)
assert_type(runner.error, Optional[N8nRunnerError])
assert_type(runner.config, RunnerConfig)
assert_type(runner.snapshot(), Snapshot)
assert_type(runner.write_node(Path("nodes"), docs_url=None), Path)
assert_type(n8nrunner.install_node(), Path)
assert_type(n8nrunner.install_node("nodes"), Path)
runner.stop(timeout=0.5)
runner.run()
