"""The page on operating a runner: its blocks run, and show what a runner really does."""

from __future__ import annotations

import io
import json
import logging
import re
import signal
from pathlib import Path
from typing import Any, Callable

import prometheus_client
import pytest
import requests
from ruamel.yaml import YAML

from n8nrunner import JsonFormatter, Runner, RunnerConfig, TextFormatter, units
from n8nrunner.broker import Broker
from tests.conftest import LIMIT, engine_of
from tests.pages import blocks
from tests.processes import python
from tests.test_samples import variables

NewRunner = Callable[..., Runner]
PAGE = "docs/operating.md"


def code(heading: str, language: str = "python") -> str:
    """Return the only block of a language under a heading of the page."""
    (text,) = (block.text for block in blocks(PAGE, language) if block.heading == heading)
    return text


def leads(runner: Runner) -> Runner:
    """Add the function of the page."""

    @runner.function
    def score_lead(budget: float) -> float:
        if budget == 0:
            raise ValueError("no budget")
        return 1 / budget

    return runner


@pytest.fixture
def runner(new_runner: NewRunner) -> Runner:
    return leads(new_runner(name="leads"))


def score(broker: Broker, budget: float) -> Any:
    """Call the function, as a node does."""
    calls = [{"item": 0, "arguments": {"budget": budget}}]
    settings = {
        "version": 1,
        "function": "score_lead",
        "calls": calls,
        "executionId": "12",
        "nodeName": "Score lead",
    }
    return broker.run_task("n8nrunner.leads", settings, timeout=LIMIT)


def test_the_hook_of_the_page_reports_failed_calls(
    broker: Broker, runner: Runner, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(code("Hooks"), {"runner": runner})
    with runner:
        score(broker, 1)
        score(broker, 0)
    assert re.fullmatch(
        r"score_lead failed after 0.\d s, execution 12, Score lead\n", capsys.readouterr().out
    )


def test_the_configuration_of_the_page_writes_json(
    broker: Broker, runner: Runner, capfd: pytest.CaptureFixture[str]
) -> None:
    exec(code("Logs"))
    with runner:
        score(broker, 0)
    errors = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    (failed,) = (record for record in errors if record["level"] == "ERROR")
    shown = json.loads(code("Logs", "json"))
    assert list(failed) == list(shown)
    assert failed["message"].partition(" (")[2] == shown["message"].partition(" (")[2]
    facts = set(shown) - {"time", "message", "task", "exception"}
    assert [failed[name] for name in facts] == [shown[name] for name in facts]
    assert failed["exception"].startswith(shown["exception"].partition("File")[0])


@pytest.mark.parametrize(("budget", "outcome"), [(2, "done"), (0, "failed")])
def test_the_record_of_a_call_has_its_facts_in_both_forms(
    broker: Broker, new_runner: NewRunner, caplog: pytest.LogCaptureFixture, budget: float, outcome: str
) -> None:
    caplog.set_level(logging.INFO)
    with leads(new_runner(name="leads", log_calls=True)):
        score(broker, budget)
    (record,) = (record for record in caplog.records if "after %s" in record.msg)
    assert (record.levelname, record.name) == ("INFO", "n8nrunner.tasks")
    shown = json.loads(JsonFormatter().format(record))
    task, duration = shown["task"], shown["duration"]
    assert 0 < duration < LIMIT
    facts = {"function": "score_lead", "execution": "12", "node": "Score lead", "item": 0, "outcome": outcome}
    assert shown.items() >= facts.items()
    places = f"(item 0, task {task}, node Score lead, execution 12)"
    assert record.getMessage() == f"score_lead: {outcome} after {units.duration(duration)} {places}"


def test_the_handler_of_a_task_type_has_a_record_too(
    broker: Broker, new_runner: NewRunner, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    runner = new_runner(log_calls=True)
    runner.task("echo")(lambda task: task.settings)
    with runner:
        broker.run_task("echo", {"secret": "of an item"}, timeout=LIMIT)
    (record,) = (record for record in caplog.records if "after %s" in record.msg)
    assert record.getMessage().startswith("echo: done after ")
    assert "secret" not in caplog.text


@pytest.mark.parametrize("formatter", [JsonFormatter, TextFormatter])
def test_a_traceback_is_shown_once(broker: Broker, runner: Runner, formatter: Any) -> None:
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(formatter())
    logging.getLogger("n8nrunner").addHandler(handler)
    with runner:
        score(broker, 0)
    assert text.getvalue().count("Traceback") == 1


def test_the_metrics_of_a_runner_are_added_to_those_of_the_application(
    broker: Broker, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = prometheus_client.CollectorRegistry(auto_describe=True)
    monkeypatch.setattr(prometheus_client, "REGISTRY", registry)
    exec(code("Metrics"), {"runner": runner})
    with runner:
        assert registry.get_sample_value("n8nrunner_registered", {"runner": "leads"}) == 1


def test_prometheus_finds_the_metrics_where_the_page_says(broker: Broker, new_runner: NewRunner) -> None:
    (job,) = YAML(typ="safe", pure=True).load(code("Metrics", "yaml"))["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    assert target == f"{RunnerConfig.health_check_host}:{RunnerConfig.health_check_port}"
    runner = new_runner(name="leads", health_check_enabled=True, health_check_port=0)
    with runner:
        health = engine_of(runner)._health
        assert health is not None
        url = target.replace(str(RunnerConfig.health_check_port), str(health.address[1]))
        answer = requests.get(f"http://{url}/metrics", timeout=LIMIT)
    assert 'n8nrunner_registered{runner="leads"} 1.0\n' in answer.text


#: A program with the block of the page. The client of Sentry prints its events instead of sending them.
WITH_SENTRY = """
import json
import sentry_sdk
from sentry_sdk.transport import Transport

class Printing(Transport):
    def capture_envelope(self, envelope):
        if envelope.get_event():
            print(json.dumps(envelope.get_event(), default=str))

init = sentry_sdk.init
sentry_sdk.init = lambda **options: init(dsn="http://key@127.0.0.1/1", transport=Printing, **options)

from n8nrunner import Runner
from n8nrunner.broker import Broker

with Broker(auth_token="secret") as broker:
    runner = Runner(broker.url, auth_token="secret", name="leads")

    @runner.function
    def score_lead(email: str) -> int:
        address = email.upper()
        raise ValueError("no budget")

    exec(BLOCK)
    with runner:
        # Backwards, because Sentry gets lines of code, on Python 3.13 those of this text as well.
        calls = [{"item": 0, "arguments": {"email": "tset.etavirp@ada"[::-1]}}]
        task = {"version": 1, "function": "score_lead", "calls": calls}
        task.update(executionId="12", nodeName="Score")
        broker.run_task("n8nrunner.leads", task, timeout=10)
"""


def test_sentry_gets_an_exception_with_its_execution_and_without_arguments() -> None:
    with python("-c", WITH_SENTRY.replace("BLOCK", repr(code("Sentry")))) as program:
        assert program.wait() == 0, program.output
    (event,) = [json.loads(line) for line in program.output.splitlines() if line.startswith("{")]
    assert event["tags"] == {"execution": "12", "node": "Score", "function": "score_lead"}
    (exception,) = event["exception"]["values"]
    assert (exception["type"], exception["value"]) == ("ValueError", "no budget")
    assert exception["stacktrace"]["frames"][-1]["function"] == "score_lead"
    assert "private" not in program.output.lower()


def test_the_program_of_the_page_prints_its_spans(broker: Broker, tmp_path: Path) -> None:
    (tmp_path / "leads.py").write_text(code("Tracing"))
    command = ("-m", "n8nrunner", "run", "--log-calls", "leads")
    with python(*command, env=variables(broker), cwd=tmp_path) as program:
        score(broker, 2)
        program.wait_for("score_lead: done after")
        program.signal(signal.SIGTERM)
        assert program.wait() == 0
    assert '"name": "process score_lead"' in program.output
    assert '"name": "look up"' in program.output
