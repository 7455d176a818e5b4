"""Queue mode: one main and two workers of n8n, and one runner that serves the brokers of all three."""

from __future__ import annotations

import concurrent.futures
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import requests

from . import services
from .conftest import skip_or_fail
from .install import Installation
from .n8n import N8n, Workflow, function_node, webhook_node
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


@pytest.fixture(scope="module")
def queue(place: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Queue]:
    lacking = services.missing()
    if lacking:
        skip_or_fail(f"queue mode needs {' and '.join(lacking)} of Debian's packages")
    folder = tmp_path_factory.mktemp("queue")
    behind = Services(folder)
    instances: list[N8n] = []
    runners: list[RunnerProcess] = []
    try:
        for name, command in (("main", "start"), ("one", "worker"), ("two", "worker")):
            place_of = folder / name
            place_of.mkdir()
            instances.append(N8n(place, place_of, command=command, variables=behind.variables))
            instances[-1].start()
        main, *workers = instances
        variables = {
            "N8N_RUNNERS_TASK_BROKER_URI": ",".join(each.broker_url for each in instances),
            "N8NRUNNER_NAME": "functions",
        }
        runner = RunnerProcess(main, folder / "runner.log", (), variables, [sys.executable, str(SCRIPT)])
        runners.append(runner)
        runner.wait_for("registered")
        for each in instances:
            each.wait_for_output('Registered runner "functions"')
        workflow = main.create_workflow("queue", [webhook_node("queue"), function_node("double", number=2)])
        yield Queue(main, workers, runner, workflow)
    finally:
        for each in runners:
            each.close()
        for instance in instances:
            instance.kill()
        behind.close()


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
