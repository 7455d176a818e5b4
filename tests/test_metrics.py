"""The metrics of Prometheus: strict parsers read them, and they say what the snapshot says."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import sys
from typing import Any, Callable

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from n8nrunner import (
    ConfigurationError,
    Counts,
    FunctionSnapshot,
    Histogram,
    LinkSnapshot,
    Outcome,
    Runner,
    Snapshot,
)
from n8nrunner.broker import Broker
from n8nrunner.metrics import RunnerCollector, render
from tests.conftest import LIMIT, wait_until
from tests.pages import read

NewRunner = Callable[..., Runner]

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
#: A task type may have any characters.
ODD = 'a "task"\\type\n{x="y"}'
TIMES = Histogram((0.1, 1.0), (3, 0, 2), 7.5)
SNAPSHOT = Snapshot(
    state="running",
    name="leads",
    capacity=5,
    taken=2,
    links=(
        LinkSnapshot("http://n8n:5679", "registered", 2, 0, None, 3, 70, 4, 1, 6, 0.25),
        LinkSnapshot("http://worker:5679", "waiting", 0, 8, "refused"),
        LinkSnapshot("http://10.0.0.7:5679", "registered", 1, 0, None, 1, origin="dns+http://one:5679"),
        LinkSnapshot("http://10.0.0.7:5679", "registered", 1, 0, None, 2, origin="dns+http://two:5679"),
    ),
    tasks=(),
    counts=Counts(done=41, failed=3, retried=2),
    functions=(
        FunctionSnapshot("score", "function", {"done": Outcome(5, TIMES)}, TIMES, 6, 1),
        FunctionSnapshot(ODD, "task", {"timed_out": Outcome(5, TIMES)}),
    ),
    at=1795741323.0,
    uptime=60.0,
)
LEADS = {"runner": "leads"}
SCORE = {**LEADS, "kind": "function", "function": "score"}
MAIN = {**LEADS, "broker": "http://n8n:5679", "origin": ""}


def parsed(text: str, format: str | None = None) -> dict[str, Any]:
    """Return the values of all series, by name and labels, after a strict parser has read them."""
    parse = openmetrics.text_string_to_metric_families if format else text_string_to_metric_families
    found: dict[str, Any] = {}
    for family in parse(text):
        assert family.documentation
        for name, labels, value, *_ in family.samples:
            key = f"{name} {sorted(labels.items())}"
            assert key not in found
            found[key] = value
    return found


def value(series: dict[str, Any], name: str, labels: dict[str, str], **more: str) -> Any:
    return series[f"{name} {sorted({**labels, **more}.items())}"]


@pytest.mark.parametrize("accept", [None, OPENMETRICS])
def test_the_metrics_say_what_the_snapshot_says(accept: str | None) -> None:
    body, content_type = render(SNAPSHOT, accept)
    assert content_type.startswith("text/plain; version=0.0.4" if accept is None else OPENMETRICS)
    series = parsed(body.decode(), accept)
    assert value(series, "n8nrunner_registered", LEADS) == 1
    assert value(series, "n8nrunner_uptime_seconds", LEADS) == 60
    assert value(series, "n8nrunner_slots", LEADS) == 5
    assert value(series, "n8nrunner_slots_taken", LEADS) == 2
    assert value(series, "n8nrunner_tasks_total", LEADS, outcome="done") == 41
    assert value(series, "n8nrunner_tasks_total", LEADS, outcome="retried") == 2
    assert value(series, "n8nrunner_calls_total", SCORE, outcome="done") == 5
    assert value(series, "n8nrunner_calls_total", SCORE, outcome="failed") == 0
    assert value(series, "n8nrunner_running_tasks", SCORE) == 1
    assert value(series, "n8nrunner_undelivered_results_total", SCORE) == 6
    odd = {**LEADS, "kind": "task", "function": ODD}
    assert value(series, "n8nrunner_calls_total", odd, outcome="timed_out") == 5
    assert value(series, "n8nrunner_broker_registered", MAIN) == 1
    assert value(series, "n8nrunner_broker_open_offers", MAIN) == 3
    assert value(series, "n8nrunner_broker_accepted_offers_total", MAIN) == 70
    assert value(series, "n8nrunner_broker_rejected_acceptances_total", MAIN) == 4
    assert value(series, "n8nrunner_broker_reconnections_total", MAIN) == 1
    assert value(series, "n8nrunner_broker_undelivered_results_total", MAIN) == 6
    assert value(series, "n8nrunner_broker_silence_seconds", MAIN) == 0.25
    worker = {**LEADS, "broker": "http://worker:5679", "origin": ""}
    assert value(series, "n8nrunner_broker_registered", worker) == 0
    assert value(series, "n8nrunner_broker_failures", worker) == 8
    assert math.isnan(value(series, "n8nrunner_broker_silence_seconds", worker))
    for name, offers in (("one", 1), ("two", 2)):
        of_name = {**LEADS, "broker": "http://10.0.0.7:5679", "origin": f"dns+http://{name}:5679"}
        assert value(series, "n8nrunner_broker_open_offers", of_name) == offers


@pytest.mark.parametrize(
    ("name", "labels"),
    [("n8nrunner_call_duration_seconds", {**SCORE, "outcome": "done"}), ("n8nrunner_queue_seconds", SCORE)],
)
def test_the_buckets_of_a_histogram_are_cumulative(name: str, labels: dict[str, str]) -> None:
    series = parsed(render(SNAPSHOT)[0].decode())
    buckets = [value(series, f"{name}_bucket", labels, le=bound) for bound in ("0.1", "1.0", "+Inf")]
    assert buckets == [3, 3, 5]
    assert value(series, f"{name}_count", labels) == 5
    assert value(series, f"{name}_sum", labels) == 7.5


def test_the_page_describes_every_metric_with_its_labels() -> None:
    documented: dict[str, set[str]] = {}
    for names, labels in re.findall(
        r"^\| (`n8nrunner_.*?) \| (.*?) \|", read("docs/operating.md"), re.MULTILINE
    ):
        for name in re.findall("`(.*?)`", names):
            documented[name] = {"runner", *re.findall("`(.*?)`", labels)}
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(render(SNAPSHOT)[0].decode()):
        for sample in family.samples:
            name = re.sub("_(bucket|count|sum)$", "", sample.name)
            if name.startswith("n8nrunner_"):
                found.setdefault(name, set()).update(set(sample.labels) - {"le"})
    assert documented == found


@pytest.mark.skipif(sys.platform != "linux", reason="prometheus-client reads /proc")
def test_the_page_has_the_metrics_of_the_process() -> None:
    assert b"\nprocess_resident_memory_bytes " in render(SNAPSHOT)[0]


@pytest.mark.parametrize("name", [None, "leads"])
def test_runners_of_one_collector_have_different_names(new_runner: NewRunner, name: str | None) -> None:
    same = {} if name is None else {"name": name}
    first, second, other = new_runner(**same), new_runner(**same), new_runner(name="other")
    with pytest.raises(ConfigurationError, match=f"2 runners have the name {name or 'n8nrunner'!r}"):
        RunnerCollector(first, other, second)
    RunnerCollector(first, other)


def test_an_application_registers_several_runners(broker: Broker, new_runner: NewRunner) -> None:
    first, second = new_runner(name="first"), new_runner(name="second")

    @first.function
    def double(number: int) -> int:
        return 2 * number

    registry = CollectorRegistry(auto_describe=True)
    registry.register(RunnerCollector(first, second))
    labels = {"runner": "first", "kind": "function", "function": "double"}
    assert registry.get_sample_value("n8nrunner_registered", {"runner": "second"}) == 0
    with first:
        assert registry.get_sample_value("n8nrunner_calls_total", {**labels, "outcome": "done"}) == 0
        calls = [{"item": item, "arguments": {"number": item}} for item in range(3)]
        for function in ("double", "unknown"):
            settings = {"version": 1, "function": function, "calls": calls}
            broker.run_task("n8nrunner.first", settings, timeout=LIMIT)
        wait_until(
            lambda: registry.get_sample_value("n8nrunner_calls_total", {**labels, "outcome": "done"}) == 3
        )
        assert (
            registry.get_sample_value("n8nrunner_call_duration_seconds_count", {**labels, "outcome": "done"})
            == 3
        )
        assert registry.get_sample_value("n8nrunner_queue_seconds_count", labels) == 1
        names = {
            sample.labels["function"]
            for family in registry.collect()
            for sample in family.samples
            if "function" in sample.labels
        }
        assert names == {"double"}, "a node may ask for any name, and each would be a series"


def test_a_missing_package_is_named() -> None:
    code = "import sys; sys.modules['prometheus_client'] = None; import n8nrunner.metrics"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert 'pip install "n8nrunner[metrics]"' in done.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not on this machine")
def test_promtool_finds_no_fault() -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=render(SNAPSHOT)[0], capture_output=True, timeout=60
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
