"""Queue mode: n8n's main process and its workers, and one runner that serves the brokers of all of them."""

from __future__ import annotations

import concurrent.futures
import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple

import pytest
import requests

from n8nrunner import cli

from . import services
from .conftest import runners_of, skip_or_fail
from .install import Installation
from .mcp_client import McpClient, mcp_server
from .model import ToolCall, tools_node
from .n8n import Mode, N8n, Workflow, function_node, javascript_node, webhook_node
from .processes import poll
from .runners import RunnerProcess
from .services import Services
from .test_functions import SCRIPT

pytestmark = pytest.mark.n8n

CALLS = 40


class Queue(NamedTuple):
    main: N8n
    workers: list[N8n]
    runner: RunnerProcess
    workflow: Workflow

    def call(self, times: int) -> set[Any]:
        """Return the results of calls, eight at a time: status codes, or None without an answer of n8n.

        n8n's main misses the end of an execution now and then, with any node: its worker has finished it, and
        the webhook's caller gets no answer. So the test counts the workers' reports.
        """

        def status(_: int) -> int | None:
            try:
                return self.workflow.call(limit=15.0).status_code
            except requests.Timeout:
                return None

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            return set(pool.map(status, range(times)))


@contextlib.contextmanager
def running_n8ns(
    place: Installation, folder: Path, mode: Mode, workers: int, broker_hosts: Sequence[str] = ()
) -> Iterator[list[N8n]]:
    """Start a main process and workers. With `broker_hosts`, all workers' brokers have one port."""
    lacking = services.missing()
    if lacking:
        skip_or_fail(f"queue mode needs {' and '.join(lacking)} of Debian's packages")
    behind = Services(folder)
    instances: list[N8n] = []
    try:
        for name, command in (("main", "start"), *((f"worker-{n}", "worker") for n in range(workers))):
            place_of = folder / name
            place_of.mkdir()
            instances.append(N8n(place, place_of, command=command, variables=behind.variables, mode=mode))
        main, *others = instances
        for worker, host in zip(others, broker_hosts):
            worker.broker_host, worker.broker_port = host, others[0].broker_port
        main.start()  # alone, because it creates the tables
        with concurrent.futures.ThreadPoolExecutor(len(others)) as pool:
            list(pool.map(N8n.start, others))
        yield instances
    finally:
        for instance in instances:
            instance.kill()
        behind.close()


@contextlib.contextmanager
def running_runner(
    instances: Sequence[N8n], folder: Path, brokers: Sequence[str], through: Sequence[str] = ()
) -> Iterator[Queue]:
    """Start a runner with these brokers, by the command `through`, and wait until it is registered."""
    main, *others = instances
    variables = {"N8N_RUNNERS_TASK_BROKER_URI": ",".join(brokers), "N8NRUNNER_NAME": "functions"}
    command = [*through, sys.executable, str(SCRIPT)]
    runner = RunnerProcess(main, folder / "runner.log", (), variables, command)
    try:
        runner.wait_for("registered")
        workflow = main.create_workflow("queue", [webhook_node("queue"), function_node("double", number=2)])
        yield Queue(main, others, runner, workflow)
    finally:
        runner.close()


@contextlib.contextmanager
def running_queue(place: Installation, folder: Path, mode: Mode, workers: int) -> Iterator[Queue]:
    with contextlib.ExitStack() as stack:
        instances = stack.enter_context(running_n8ns(place, folder, mode, workers))
        brokers = [each.broker_url for each in instances]
        queue = stack.enter_context(running_runner(instances, folder, brokers))
        for each in instances:
            each.wait_for_output('Registered runner "functions"')
        yield queue


@pytest.fixture(scope="module")
def queue(place: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Queue]:
    """In external mode, with two workers."""
    with running_queue(place, tmp_path_factory.mktemp("queue"), "external", 2) as queue:
        yield queue


@pytest.fixture(scope="module")
def internal_queue(place: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Queue]:
    """In internal mode, with one worker."""
    with running_queue(place, tmp_path_factory.mktemp("internal-queue"), "internal", 1) as queue:
        yield queue


def finished(workers: list[N8n], starts: list[int], least: int) -> list[int]:
    """How many executions each worker has finished, from that line of its output on: so many in all."""

    def shares() -> list[int] | None:
        found = []
        for worker, start in zip(workers, starts):
            assert worker._process is not None
            lines = worker._process.lines[start:]
            found.append(sum("finished execution" in line for line in lines))
        return found if sum(found) >= least else None

    return poll(shares, f"{least} executions are finished", 30.0)


def test_workers_run_functions(queue: Queue) -> None:
    assert queue.workflow.call().json() == [{"result": 4}]


def test_both_workers_reach_the_one_runner(queue: Queue) -> None:
    begun = [worker.output_length for worker in queue.workers]
    assert queue.call(CALLS) <= {200, None}
    shares = finished(queue.workers, begun, CALLS)
    assert min(shares) >= CALLS // 8, f"one worker did next to nothing: {shares}"


def test_the_runner_reconnects_to_a_worker_that_was_killed(queue: Queue) -> None:
    first, second = queue.workers
    first.kill()
    queue.call(8)  # Redis may still hand a few to the worker that is gone
    begun = second.output_length
    assert queue.call(CALLS) <= {200, None}
    finished([second], [begun], CALLS)
    first.start()
    first.wait_for_output('Registered runner "functions"')
    begun = first.output_length
    assert queue.call(CALLS) <= {200, None}
    finished([first], [begun], 1)


def test_the_check_finds_that_the_address_of_the_workers_is_missing(
    queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The editor shows the runner of the main process. A worker without it executes the workflow."""
    main = queue.main
    monkeypatch.setenv("N8N_RUNNERS_AUTH_TOKEN", main.auth_token)
    with runners_of(main, tmp_path) as start_runner:
        start_runner("only-main", command=[sys.executable, str(SCRIPT)])
        node = main.python_function("double", number=2, runner="only-main")
        workflow = main.create_workflow("missing", [webhook_node("missing"), node])
        assert cli.main(["check", "--broker", main.broker_url, "--webhook", workflow.url]) == 1
    output = capsys.readouterr().out
    assert "Likely cause [queue-worker]" in output


def described_and_executed(queue: Queue, path: str, *following: dict[str, Any]) -> Any:
    """Choose a function in the editor, which the main process serves; return the answer of a worker's run."""
    node = queue.main.python_function("double", number=2)
    workflow = queue.main.create_workflow(path, [webhook_node(path), node, *following])
    begun = [worker.output_length for worker in queue.workers]
    answer = workflow.call().json()
    finished(queue.workers, begun, 1)
    return answer


def test_the_main_process_describes_functions_and_a_worker_executes_them(queue: Queue) -> None:
    assert described_and_executed(queue, "described") == [{"result": 4}]


def test_the_main_process_lists_tools_for_an_mcp_client_and_a_worker_calls_them(
    queue: Queue, connect: Callable[[str], McpClient]
) -> None:
    tools = tools_node("functions", include="chosen", functions=["double"])
    client = connect(mcp_server(queue.main, "queue-mcp", tools).url)
    assert set(client.tools()) == {"double"}
    begun = [worker.output_length for worker in queue.workers]
    assert client.call(ToolCall("double", {"number": 2})) == [(False, '{"result":4}')]
    finished(queue.workers, begun, 1)


def test_workers_in_internal_mode_have_a_runner_each_and_execute_functions(internal_queue: Queue) -> None:
    [worker] = internal_queue.workers
    assert worker.own_runner() != internal_queue.main.own_runner()
    add = javascript_node("return [{ json: { result: $input.first().json.result + 1 } }];")
    assert described_and_executed(internal_queue, "described", add) == [{"result": 5}]
