"""Messages of workflows, n8n and handlers are escaped in the log, and take a bounded part of it."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Iterator
from typing import Any, Callable

import pytest

from n8nrunner import JsonFormatter, Runner, Task, TaskError, TextFormatter, logs
from n8nrunner.broker import Broker, BrokerTaskError
from n8nrunner.execution.invoke import invoke
from n8nrunner.hooks import Around
from n8nrunner.task import OWN_LOG_LINES, ActiveTask
from tests.conftest import LIMIT, TOKEN, signature_of, wait_until

NewRunner = Callable[..., Runner]

VALUE = "a value of an item"
FORGED = "x\n12:00:00 ERROR   forged\r\x1b[31mred\x9b1m\u202etfel\u2028next\ud800"


@pytest.fixture
def output() -> Iterator[io.StringIO]:
    """Return the log as a terminal gets it."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger = logging.getLogger("n8nrunner")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield text
    logger.removeHandler(handler)


def lines_of(output: io.StringIO) -> list[str]:
    """Return the lines, and check that none is forged and none controls the terminal."""
    lines = output.getvalue().split("\n")[:-1]
    for line in lines:
        assert line.startswith(("    ", "DEBUG ", "INFO ", "WARNING ", "ERROR ")), line
        assert line.replace("\t", "").isprintable(), line
    assert lines
    return lines


class Said:
    """An object whose texts come from a workflow."""

    def __str__(self) -> str:
        return FORGED

    def __repr__(self) -> str:
        return f"<{FORGED}>"


@pytest.mark.parametrize("argument", [FORGED, Said(), ValueError(FORGED)])
@pytest.mark.parametrize("message", ["said: %s", "said: %r", "said: %.200s"])
def test_arguments_of_a_record_are_escaped_and_indented(
    message: str, argument: Any, output: io.StringIO
) -> None:
    logs.Logger("n8nrunner").error(message, argument)
    assert "forged" in "".join(lines_of(output))


def test_the_traceback_of_a_record_is_escaped_and_indented(output: io.StringIO) -> None:
    try:
        raise ValueError(FORGED)
    except ValueError:
        logs.Logger("n8nrunner.tasks").error("on_undelivered raised", exc_info=True)
    lines = lines_of(output)
    assert lines[0] == "ERROR on_undelivered raised"
    assert lines[1] == "    Traceback (most recent call last):"
    assert "ValueError: x" in output.getvalue()


def test_plain_records_stay_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    logs.Logger("n8nrunner").warning("%d of %s (%s, %.1f)\tready", 3, "ünïcødé ✓", None, 0.5)
    assert caplog.records[-1].getMessage() == "3 of ünïcødé ✓ (None, 0.5)\tready"
    assert caplog.records[-1].msg == "%d of %s (%s, %.1f)\tready"  # what groups records


def test_a_long_argument_is_cut(output: io.StringIO) -> None:
    logs.Logger("n8nrunner").error("%s", "x" * 1_000_000)
    assert len(output.getvalue()) < logs.LONGEST_ARGUMENT + 100
    assert "(1000000 characters)" in output.getvalue()


def test_texts_of_a_handler_are_escaped(broker: Broker, new_runner: NewRunner, output: io.StringIO) -> None:
    runner = new_runner()

    @runner.task("says")
    def says(task: Task) -> None:
        task.progress(0.5, task.settings["text"])
        task.progress(0.5, "not logged again so soon")
        raise ValueError(task.settings["text"])

    with runner, pytest.raises(BrokerTaskError):
        broker.run_task("says", {"text": FORGED.replace("\ud800", "")}, timeout=LIMIT)
    assert "forged" in "".join(lines_of(output))


@pytest.mark.parametrize("formatter", [TextFormatter, JsonFormatter])
def test_no_form_shows_a_token_or_a_value_of_settings_items_and_results(
    broker: Broker, new_runner: NewRunner, formatter: Any
) -> None:
    """With all records, one of each call included, and without the texts of exceptions."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(formatter())
    logging.getLogger("n8nrunner").addHandler(handler)
    logging.getLogger("n8nrunner").setLevel(logging.DEBUG)
    runner = new_runner(name="leads", log_calls=True, error_details=False)

    @runner.function
    def echo(text: str, number: int = 0) -> dict[str, str]:
        if number:
            raise ValueError(text)
        return {"text": text}

    @runner.task("echo")
    def echo_settings(task: Task) -> Any:
        return task.settings

    @runner.task("set")
    def set_of(task: Task) -> Any:
        return {task.settings: {1}}

    def call(**arguments: Any) -> str:
        calls = [{"item": 0, "arguments": arguments}]
        settings = {
            "version": 1,
            "function": "echo",
            "calls": calls,
            "signature": signature_of(runner, "echo"),
        }
        return str(broker.run_task("n8nrunner.leads", settings, timeout=LIMIT))

    with runner:
        assert VALUE in call(text=VALUE)
        assert VALUE in call(text=VALUE, number=1)
        assert VALUE in call(text="", number=VALUE)
        with pytest.raises(BrokerTaskError, match=VALUE):  # a key of a result that is not JSON
            broker.run_task("set", VALUE, timeout=LIMIT)
        assert broker.run_task("echo", {"text": VALUE}, timeout=LIMIT) == {"text": VALUE}
        refused = broker.run_task("n8nrunner.leads", {"version": 1, "function": VALUE}, timeout=LIMIT)
        assert VALUE in str(refused)
    assert len(runner.snapshot().errors) == 4
    assert VALUE not in repr(runner.snapshot().errors)
    shown = text.getvalue()
    assert shown.count("ValueError") == 1
    assert shown.count(" after 0.") >= 4
    assert VALUE not in shown
    assert TOKEN not in shown


@pytest.mark.parametrize("error", [ValueError, TaskError])
def test_a_task_with_many_failing_items_takes_a_bounded_part_of_the_log(
    error: Any, broker: Broker, new_runner: NewRunner, output: io.StringIO
) -> None:
    runner = new_runner(name="many")

    @runner.function
    def fails(number: int) -> None:
        raise error(f"no {number}\n" * 100)

    calls = [{"item": item, "arguments": {"number": item}} for item in range(2000)]
    settings = {"version": 1, "function": "fails", "calls": calls, "continueOnFail": True}
    with runner:
        answer = broker.run_task("n8nrunner.many", settings, timeout=LIMIT)
        assert len(answer["errors"]) == 2000
        wait_until(lambda: runner.snapshot().taken == 0)
    lines = lines_of(output)
    assert len(lines) < 2 * OWN_LOG_LINES + 50
    assert len(output.getvalue()) < 100_000
    (left_out,) = [line for line in lines if "more failures are left out of the log" in line]
    shown = sum("failed" in line and "Task " in line for line in lines)
    assert f": {2000 - shown} more failures" in left_out


def test_the_first_failure_of_a_task_is_logged_at_any_length(output: io.StringIO) -> None:
    def fails(task: Task) -> None:
        raise ValueError("x" * 49_000)

    for _ in range(2):
        invoke(fails, ActiveTask("abcd1234", "tests", None, time.monotonic() + 60), Around(), 100_000)
    assert output.getvalue().count("x" * 1000) >= 2
    assert "left out" not in output.getvalue()
