"""How a task that does not go well ends, as the author of a workflow sees it in a real n8n."""

from __future__ import annotations

import sys
import time
from typing import Callable

import pytest
import requests

from n8nrunner.config import parse_broker
from n8nrunner.connection.auth import fetch_grant
from n8nrunner.protocol.failures import AuthRefused, LinkFailure, NotABroker, RateLimited

from .conftest import in_both_modes
from .n8n import N8n, job_node, webhook_node
from .runners import RunnerProcess

pytestmark = pytest.mark.n8n

StartRunner = Callable[..., RunnerProcess]


def test_a_task_error_shows_its_message_and_description(n8n: N8n, start_runner: StartRunner) -> None:
    start_runner()
    node = job_node("tests.raise", settings={"kind": "TaskError"})
    workflow = n8n.create_workflow("task error", [webhook_node("task-error"), node])

    assert workflow.call().status_code == 500

    execution = workflow.wait_for_execution("error")
    assert execution.error["message"] == "The lead is not in the list"
    assert execution.error["description"] == "Add it to the list first"
    assert execution.data["resultData"]["lastNodeExecuted"] == "Job"


def test_any_other_exception_shows_its_type_its_message_and_the_line_of_the_handler(
    n8n: N8n, start_runner: StartRunner
) -> None:
    runner = start_runner()
    node = job_node("tests.raise", settings={"kind": "no such key"})
    workflow = n8n.create_workflow("exception", [webhook_node("exception"), node])

    assert workflow.call().status_code == 500

    error = workflow.wait_for_execution("error").error
    assert "KeyError" in error["message"]
    assert "no such key" in error["message"]
    assert "raise_something" in error["stack"]
    # The handler failed, the runner did not.
    assert runner.exit_code is None
    echo = n8n.create_workflow("after exception", [webhook_node("after-exception"), job_node("tests.echo")])
    assert echo.call({"still": "there"}).json()[0]["body"] == {"still": "there"}


def test_an_error_about_a_result_outside_of_json_names_the_place(n8n: N8n, start_runner: StartRunner) -> None:
    start_runner()
    workflow = n8n.create_workflow("no json", [webhook_node("no-json"), job_node("tests.unencodable")])

    assert workflow.call().status_code == 500

    error = workflow.wait_for_execution("error").error
    text = f"{error['message']} {error.get('description', '')}"
    assert "set" in text
    assert "deep" in text
    assert "bad" in text


def test_an_unhandled_error_goes_to_the_error_output_when_the_node_continues_on_fail(
    n8n: N8n, start_runner: StartRunner
) -> None:
    start_runner()
    node = {**job_node("tests.raise", settings={"kind": "TaskError"}), "onError": "continueRegularOutput"}
    workflow = n8n.create_workflow("continue", [webhook_node("continue"), node])

    response = workflow.call()

    assert response.status_code == 200, response.text
    assert response.json() == [{"error": "The lead is not in the list"}]


@in_both_modes
def test_the_runners_task_timeout_fails_the_execution_with_n8ns_sentence(
    n8n: N8n, start_runner: StartRunner
) -> None:
    runner = start_runner(N8N_RUNNERS_TASK_TIMEOUT="1")
    node = job_node("tests.wait", settings={"seconds": 60})
    workflow = n8n.create_workflow("timeout", [webhook_node("timeout"), node])
    started = time.monotonic()

    assert workflow.call().status_code == 500

    assert 0.9 < time.monotonic() - started < 30.0  # the handler would take 60 s
    error = workflow.wait_for_execution("error").error
    assert error["message"] == "Task execution timed out after 1 second"
    ended = runner.wait_for("ended")
    assert ended["cancelled"] is True
    assert "timed out" in ended["reason"]


@in_both_modes
def test_a_cancel_from_n8n_reaches_the_handler(n8n: N8n, start_runner: StartRunner) -> None:
    runner = start_runner(N8N_RUNNERS_MAX_CONCURRENCY="1")
    webhook = webhook_node("cancel", responseMode="onReceived")
    workflow = n8n.create_workflow("cancel", [webhook, job_node("tests.wait", settings={"seconds": 60})])
    assert workflow.call().status_code == 200
    task = runner.wait_for("started")["task"]

    workflow.wait_for_execution("running").stop()

    ended = runner.wait_for("ended", matches=lambda told: told["task"] == task)
    assert ended["cancelled"] is True
    assert ended["returned"] is True
    assert ended["reason"] == "Task cancelled by user"
    assert workflow.wait_for_execution("canceled").status == "canceled"
    # The one slot is free again.
    echo = n8n.create_workflow("after cancel", [webhook_node("after-cancel"), job_node("tests.echo")])
    assert echo.call({"next": 1}, limit=10).json()[0]["body"] == {"next": 1}


@in_both_modes
def test_a_runner_that_is_killed_fails_its_task_and_a_new_one_takes_the_next(
    n8n: N8n, start_runner: StartRunner
) -> None:
    runner = start_runner()
    webhook = webhook_node("killed", responseMode="onReceived")
    workflow = n8n.create_workflow("killed", [webhook, job_node("tests.wait", settings={"seconds": 60})])
    assert workflow.call().status_code == 200
    runner.wait_for("started")

    runner.signal(9)

    assert workflow.wait_for_execution("error").error["message"] == "Node execution failed"
    start_runner(name="successor")
    echo = n8n.create_workflow("after kill", [webhook_node("after-kill"), job_node("tests.echo")])
    assert echo.call({"next": 1}).json()[0]["body"] == {"next": 1}


@in_both_modes
def test_a_wrong_token_is_reported_at_once(n8n: N8n, start_runner: StartRunner) -> None:
    wrong = "not-the-secret-that-n8n-has"
    started = time.monotonic()

    runner = start_runner(registered=False, N8N_RUNNERS_AUTH_TOKEN=wrong)

    failed = runner.wait_for("start failed")
    assert failed["error"] == "AuthenticationError"
    assert wrong not in failed["message"]
    assert runner.wait() == 1
    assert time.monotonic() - started < 15.0


def test_the_command_exits_with_3_when_the_token_is_wrong(n8n: N8n, start_runner: StartRunner) -> None:
    runner = start_runner(
        registered=False,
        command=[sys.executable, "-m", "n8nrunner", "run", "runner_script:runner"],
        N8N_RUNNERS_AUTH_TOKEN="not-the-secret-that-n8n-has",
    )

    assert runner.wait() == 3
    assert "Traceback" not in runner.log


def test_n8n_accepts_a_runner_with_the_token_after_one_without(n8n: N8n) -> None:
    """The tests about wrong tokens would pass as well if n8n refused everybody."""
    right = requests.post(f"{n8n.broker_url}/runners/auth", json={"token": n8n.auth_token}, timeout=10)
    wrong = requests.post(f"{n8n.broker_url}/runners/auth", json={"token": "another"}, timeout=10)
    assert (right.status_code, wrong.status_code) == (200, 403)


def refusal(url: str, token: str) -> LinkFailure:
    """Return why n8n refuses a log-in, when the log-ins of other tests do not count any more."""
    for _ in range(10):
        with pytest.raises(LinkFailure) as caught:
            fetch_grant(parse_broker(url), token)
        if not isinstance(caught.value, RateLimited):
            break
        time.sleep(1.0)  # n8n's own limit is one of time
    return caught.value


@in_both_modes
def test_n8ns_own_refusal_differs_from_that_of_a_proxy(n8n: N8n) -> None:
    refused = refusal(n8n.broker_url, "not-the-token")
    assert type(refused) is AuthRefused, refused


@in_both_modes
def test_the_port_of_the_editor_and_a_wrong_base_path_are_recognised(n8n: N8n) -> None:
    editor = refusal(n8n.url, n8n.auth_token)
    assert type(editor) is NotABroker
    assert "this is the port of n8n's editor" in str(editor)
    path = refusal(f"{n8n.broker_url}/other", n8n.auth_token)
    assert type(path) is NotABroker
    assert "not below the path '/other'" in str(path)


def test_tls_on_the_brokers_port_names_the_right_scheme(n8n: N8n) -> None:
    secure = refusal(n8n.broker_url.replace("http:", "https:"), n8n.auth_token)
    assert "use http://" in str(secure)
