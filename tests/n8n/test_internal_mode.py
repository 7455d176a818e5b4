"""n8n as it comes, with one variable: its Code nodes have a runner of their own, next to the user's."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable

import pytest

from .conftest import runners_of, running
from .install import Installation
from .n8n import Mode, N8n, Workflow, javascript_node, job_node, webhook_node
from .processes import children, poll
from .runners import RunnerProcess
from .test_functions import SCRIPT

pytestmark = pytest.mark.n8n

StartRunner = Callable[..., RunnerProcess]

DOUBLE = "return $input.all().map((item) => ({ json: { number: item.json.number * 2 } }));"


@pytest.fixture
def mode() -> Mode:
    return "internal"


@pytest.fixture(scope="module")
def n8n_with_limit(place: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[N8n]:
    """An n8n that fails a task after three seconds."""
    variables = {"N8N_RUNNERS_TASK_TIMEOUT": "3"}
    with running(N8n(place, tmp_path_factory.mktemp("limit"), variables=variables, mode="internal")) as n8n:
        yield n8n


@pytest.fixture
def start_limited(n8n_with_limit: N8n, tmp_path: Path) -> Iterator[StartRunner]:
    """Start the runner of a test at `n8n_with_limit`."""
    with runners_of(n8n_with_limit, tmp_path) as start:
        yield start


def numbers_in_javascript(n8n: N8n, path: str) -> Workflow:
    """A workflow that needs n8n's own runner alone."""
    make = javascript_node("return [{ json: { number: 1 } }, { json: { number: 2 } }];", name="Make")
    return n8n.create_workflow(path, [webhook_node(path), make, javascript_node(DOUBLE)])


def is_right(answer: Any) -> bool:
    return bool(answer == [{"number": 2}, {"number": 4}])


def test_n8n_has_a_runner_of_its_own_and_the_users_runner_stays_a_separate_process(
    n8n: N8n, start_runner: StartRunner
) -> None:
    runner = start_runner()
    own = n8n.own_runner()
    assert [pid for pid, _ in children(n8n.pid) if pid == runner.pid] == []
    assert own != runner.pid
    runner.stop()
    assert n8n.own_runner() == own


def test_javascript_code_nodes_work_while_the_users_runner_restarts(
    n8n: N8n, start_runner: StartRunner
) -> None:
    workflow = numbers_in_javascript(n8n, "javascript-restarts")
    nodes = [webhook_node("after-restarts"), job_node("tests.echo"), javascript_node("return $input.all();")]
    both = n8n.create_workflow("after restarts", nodes)
    n8n.own_runner()
    with ThreadPoolExecutor(1) as callers:
        stopped = False

        def call_until_stopped() -> list[Any]:
            answers = []
            while not stopped:
                answers.append(workflow.call().json())
            return answers

        calls = callers.submit(call_until_stopped)
        try:
            for number in range(4):
                runner = start_runner()
                # Ended by its user, and killed.
                if number % 2:
                    runner.stop()
                else:
                    runner.signal(signal.SIGKILL)
            start_runner()
        finally:
            stopped = True
        answers = calls.result(60)
    assert answers
    assert all(is_right(answer) for answer in answers)
    assert both.call({"still": "there"}).json()[0]["body"] == {"still": "there"}


def test_a_task_is_not_disturbed_when_n8ns_own_runner_is_killed(n8n: N8n, start_runner: StartRunner) -> None:
    runner = start_runner()
    javascript = numbers_in_javascript(n8n, "own-runner-killed")
    assert is_right(javascript.call().json())
    own = n8n.own_runner()
    node = job_node("tests.count", settings={"seconds": 5.0})
    workflow = n8n.create_workflow("undisturbed", [webhook_node("undisturbed"), node])
    with ThreadPoolExecutor(1) as callers:
        answer = callers.submit(workflow.call, {"number": 1})
        runner.wait_for("ran")

        os.kill(own, signal.SIGKILL)

        assert n8n.own_runner(but_not=own) != own
        # The Code node waits for the new process.
        assert is_right(javascript.call().json())
        assert answer.result(30).json() == [{"number": 1, "runner": "tests"}]
    assert runner.log.count("Registered with the broker") == 1
    runner.stop()


def test_a_task_above_n8ns_limit_runs_on_and_its_result_is_lost(
    n8n_with_limit: N8n, start_limited: StartRunner
) -> None:
    """So the runner's own limit has to be the lower one (docs/protocol.md, "Modes of n8n")."""
    n8n = n8n_with_limit
    own = n8n.own_runner()
    runner = start_limited()
    node = job_node("tests.wait", settings={"seconds": 6})
    workflow = n8n.create_workflow("above", [webhook_node("above"), node])

    assert workflow.call().status_code == 500

    error = workflow.wait_for_execution("error").error
    assert error["message"] == "Task execution timed out after 3 seconds"
    assert "restarted" in error["description"]  # n8n restarts its own runner only
    assert runner.events("ended") == []
    ended = runner.wait_for("ended")
    assert (ended["cancelled"], ended["returned"]) == (False, False)
    # n8n has ignored the result, and keeps both runners.
    echo = n8n.create_workflow("after above", [webhook_node("after-above"), job_node("tests.echo")])
    assert echo.call({"next": 1}).json()[0]["body"] == {"next": 1}
    assert n8n.own_runner() == own
    assert runner.log.count("Registered with the broker") == 1
    assert runner.events("undelivered") == []
    runner.stop()


def test_a_node_does_not_say_that_n8n_has_restarted_the_users_runner(
    n8n_with_limit: N8n, start_limited: StartRunner
) -> None:
    start_limited("functions", command=[sys.executable, str(SCRIPT)])
    node = n8n_with_limit.python_function("waits", seconds=4)
    workflow = n8n_with_limit.create_workflow("whose", [webhook_node("whose"), node])

    assert workflow.call().status_code == 500

    error = workflow.wait_for_execution("error").error
    assert error["message"] == "Task execution timed out after 3 seconds"
    assert "N8N_RUNNERS_TASK_TIMEOUT where n8n was started" in error["description"]
    assert "the function goes on until the limit of the runner" in error["description"]
    assert "restart" not in error["description"]


def test_a_runner_with_the_lower_limit_cancels_its_task(
    n8n_with_limit: N8n, start_limited: StartRunner
) -> None:
    runner = start_limited(N8N_RUNNERS_TASK_TIMEOUT="1")
    node = job_node("tests.wait", settings={"seconds": 60})
    workflow = n8n_with_limit.create_workflow("below", [webhook_node("below"), node])

    assert workflow.call().status_code == 500

    error = workflow.wait_for_execution("error").error
    assert error["message"] == "Task execution timed out after 1 second"
    assert runner.wait_for("ended")["cancelled"] is True
    runner.stop()


def test_without_its_variable_n8n_refuses_every_token(place: Installation, tmp_path: Path) -> None:
    n8n = N8n(place, tmp_path, variables={"N8N_RUNNERS_AUTH_TOKEN": ""}, mode="internal")
    runner = None
    try:
        n8n.start()
        runner = RunnerProcess(n8n, tmp_path / "runner.log")
        failed = runner.wait_for("start failed")
        assert failed["error"] == "AuthenticationError"
        assert "N8N_RUNNERS_AUTH_TOKEN" in failed["message"]
    finally:
        if runner is not None:
            runner.close()
        n8n.kill()


def test_a_second_n8n_on_the_same_broker_port_ends(n8n: N8n, place: Installation, tmp_path: Path) -> None:
    variables = {"N8N_RUNNERS_BROKER_PORT": str(n8n.broker_port)}
    second = N8n(place, tmp_path, variables=variables, mode="internal")
    try:
        with pytest.raises(AssertionError, match="n8n ended with 1"):
            second.start()
        assert f"n8n Task Broker's port {n8n.broker_port} is already in use" in second.log_path.read_text()
    finally:
        second.kill()


def test_n8n_says_at_its_start_that_internal_mode_will_be_removed(n8n: N8n) -> None:
    line = n8n.wait_for_output("Internal task runner mode is deprecated")
    assert "N8N_RUNNERS_MODE" in line
    poll(lambda: True if "n8n Task Broker ready on 127.0.0.1" in n8n.log else None, "its address", 5.0)
