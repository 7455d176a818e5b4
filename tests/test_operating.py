"""The page on operating a runner: its blocks run, and show what a runner really does."""

from __future__ import annotations

import io
import json
import logging
import re
from typing import Any, Callable

import prometheus_client
import pytest
import requests
from ruamel.yaml import YAML

from n8nrunner import JsonFormatter, Runner, RunnerConfig, TextFormatter
from n8nrunner.broker import Broker
from tests.conftest import LIMIT, engine_of
from tests.pages import blocks

NewRunner = Callable[..., Runner]
PAGE = "docs/operating.md"


def code(heading: str, language: str = "python") -> str:
    """Return the only block of a language under a heading of the page."""
    (text,) = (block.text for block in blocks(PAGE, language) if block.heading == heading)
    return text


@pytest.fixture
def runner(new_runner: NewRunner) -> Runner:
    runner = new_runner(name="leads")

    @runner.function
    def score_lead(budget: float) -> float:
        if budget == 0:
            raise ValueError("no budget")
        return 1 / budget

    return runner


def score(broker: Broker, budget: float) -> Any:
    """Call the function, as a node does."""
    calls = [{"item": 0, "arguments": {"budget": budget}}]
    settings = {"version": 1, "function": "score_lead", "calls": calls, "executionId": "12"}
    return broker.run_task("n8nrunner.leads", settings, timeout=LIMIT)


def test_the_hook_of_the_page_reports_failed_calls(
    broker: Broker, runner: Runner, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(code("Hooks"), {"runner": runner})
    with runner:
        score(broker, 1)
        score(broker, 0)
    assert re.fullmatch(r"score_lead failed after 0.\d s, execution 12, None\n", capsys.readouterr().out)


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
    assert failed["exception"].startswith(shown["exception"].partition("File")[0])


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
