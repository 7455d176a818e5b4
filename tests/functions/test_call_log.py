"""The log of calls that fail: it names function, item and execution, and shows no argument."""

from __future__ import annotations

import logging
import os
import re
from typing import Any, Callable, Dict, List

import pytest

from n8nrunner import Runner, Task, TaskError, logs
from n8nrunner.broker import Broker, BrokerTaskError
from tests.conftest import LIMIT, TOKEN, signature_of

NewRunner = Callable[..., Runner]
VALUE = "a value of an item"


def answer(broker: Broker, function: str, *arguments: Dict[str, Any], **more: Any) -> Any:
    calls = [{"item": item, "arguments": each} for item, each in enumerate(arguments)]
    settings = {"version": 1, "function": function, "calls": calls, "executionId": "4711", **more}
    return broker.run_task("n8nrunner.leads", settings, timeout=LIMIT)


@pytest.fixture
def runner(new_runner: NewRunner) -> Runner:
    runner = new_runner(name="leads")

    @runner.function
    def score(budget: float) -> float:
        if budget > 10:
            raise TaskError("too much", "of it")
        return 1 / budget

    runner.start()
    return runner


def lines(caplog: pytest.LogCaptureFixture) -> List[str]:
    return [record.getMessage() for record in caplog.records if record.name == "n8nrunner.tasks"]


@pytest.mark.parametrize(
    ("budget", "message"),
    [(0, "ZeroDivisionError: (float )?division by zero"), (11, "TaskError: too much")],  # 3.14 says less
)
def test_a_failure_names_function_item_execution_and_message(
    broker: Broker, runner: Runner, caplog: pytest.LogCaptureFixture, budget: float, message: str
) -> None:
    caplog.set_level(logging.INFO)
    answer(broker, "score", {"budget": 1}, {"budget": budget})
    (line,) = lines(caplog)
    assert "(n8nrunner.leads), function score, item 1, execution 4711 failed: " in line
    assert re.search(message, line.splitlines()[0])


def test_an_argument_that_does_not_fit_is_logged_without_its_value(
    broker: Broker, runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    result = answer(broker, "score", {"budget": VALUE}, signature=signature_of(runner, "score"))
    assert VALUE in result["errors"][0]["message"]
    (line,) = lines(caplog)
    assert "execution 4711: an argument does not fit. Item 0, parameter 'budget' of score: it takes" in line
    assert VALUE not in caplog.text


@pytest.mark.parametrize(
    ("function", "code"), [("rate", "unknown_function"), ("score", "changed"), ("score", "newer_node")]
)
def test_a_refusal_is_logged_and_names_the_process(
    broker: Broker, runner: Runner, caplog: pytest.LogCaptureFixture, function: str, code: str
) -> None:
    """The process may be a forgotten kernel whose runner has the same name."""
    more = {"version": 99} if code == "newer_node" else {}
    result = answer(broker, function, {"budget": VALUE}, **more)
    assert result["error"]["code"] == code
    assert f"the runner leads (process {os.getpid()} on " in result["error"]["message"]
    (line,) = lines(caplog)
    assert f"was refused ({code})" in line
    assert VALUE not in caplog.text


def test_the_stack_of_an_exception_names_the_process(broker: Broker, runner: Runner) -> None:
    (error,) = answer(broker, "score", {"budget": 0})["errors"]
    assert error["stack"].splitlines()[-1].startswith(f"the runner leads (process {os.getpid()} on ")


@pytest.mark.parametrize("error", [ValueError, TaskError])
def test_without_details_the_log_has_the_type_of_an_error_only(
    broker: Broker, new_runner: NewRunner, caplog: pytest.LogCaptureFixture, error: Any
) -> None:
    runner = new_runner(name="leads", error_details=False)

    @runner.function
    def fails(text: str) -> None:
        raise error(text)

    @runner.task("fails")
    def fails_too(task: Task) -> None:
        raise error(task.settings)

    caplog.set_level(logging.INFO)
    with runner:
        (shown,) = answer(broker, "fails", {"text": VALUE})["errors"]
        assert VALUE in shown["message"]
        with pytest.raises(BrokerTaskError, match=VALUE):
            broker.run_task("fails", VALUE, timeout=LIMIT)
    name = logs.describe(error("x"))
    of_function, of_task = lines(caplog)
    assert of_function.endswith(f"function fails, item 0, execution 4711 failed: {name}")
    assert of_task.endswith(f"(fails) failed: {name}")
    assert VALUE not in caplog.text
    assert "Traceback" not in caplog.text


def test_an_invalid_execution_id_is_not_logged(
    broker: Broker, runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    answer(broker, "score", {"budget": 0}, executionId="47\n11")
    assert "execution" not in caplog.text


def test_a_recovery_is_logged_at_the_level_of_the_problem(
    broker: Broker, runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    broker.kill()
    with Broker(auth_token=TOKEN, port=broker.port) as restarted:
        restarted.wait_for(lambda counts: counts.runners == 1)
        assert answer(restarted, "score", {"budget": 1})["errors"] == []
    registered = [record for record in caplog.records if "Registered with" in record.getMessage()]
    assert [record.levelname for record in registered if record.levelno > logging.INFO] == ["WARNING"]
