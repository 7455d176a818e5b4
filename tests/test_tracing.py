"""`n8nrunner.otel`: a span for each call, with the SDK of OpenTelemetry and an exporter in memory."""

from __future__ import annotations

import io
import json
import logging
import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Callable

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from n8nrunner import JsonFormatter, Runner, TaskError, TextFormatter
from n8nrunner.broker import Broker, BrokerTaskError
from n8nrunner.otel import _Spans, instrument
from tests.conftest import LIMIT

NewRunner = Callable[..., Runner]
VALUE = "a value of an item"


@pytest.fixture(autouse=True)
def records_as_they_were() -> Iterator[None]:
    """Restore what makes log records, which `instrument` replaces in the whole process."""
    before = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(before)


class Traced:
    """A traced runner with functions, and the spans of its calls."""

    def __init__(self, broker: Broker, new_runner: NewRunner, **settings: Any) -> None:
        self._broker = broker
        self.exporter = InMemorySpanExporter()
        self.provider = provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.runner = new_runner(name="leads", **settings)

        @self.runner.function
        def score(budget: float) -> float:
            with provider.get_tracer("tests").start_as_current_span("inside"):
                logging.getLogger("n8nrunner.of-the-application").warning("inside of the function")
            if budget < 0:
                raise TaskError(VALUE)
            return 1 / budget

        @self.runner.task("wait")
        def wait(task: Any) -> None:
            task.wait_for_cancel(LIMIT)
            task.raise_if_cancelled()

        instrument(self.runner, provider)
        self.runner.start()

    def call(self, *budgets: float) -> list[ReadableSpan]:
        """Call the function once for each budget, and return the spans of the calls."""
        calls = [{"item": item, "arguments": {"budget": budget}} for item, budget in enumerate(budgets)]
        settings = {
            "version": 1,
            "function": "score",
            "calls": calls,
            "continueOnFail": True,
            "executionId": "12",
            "nodeName": "Score lead",
        }
        self._broker.run_task("n8nrunner.leads", settings, timeout=LIMIT)
        return self.spans("process score")

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]


def of(span: ReadableSpan, name: str) -> Any:
    assert span.attributes is not None
    return span.attributes.get(name)


def test_each_call_is_a_span_with_the_execution_and_the_node(broker: Broker, new_runner: NewRunner) -> None:
    traced = Traced(broker, new_runner)
    first, second = traced.call(1, 2)
    for item, span in enumerate((first, second)):
        assert span.kind is trace.SpanKind.CONSUMER
        assert span.status.status_code is trace.StatusCode.UNSET
        assert dict(span.attributes or {}) == {
            "messaging.system": "n8n",
            "messaging.operation.name": "process",
            "messaging.destination.name": "n8nrunner.leads",
            "messaging.message.id": of(span, "messaging.message.id"),
            "n8n.execution.id": "12",
            "n8n.node.name": "Score lead",
            "n8nrunner.function": "score",
            "n8nrunner.item": item,
            "n8nrunner.outcome": "done",
        }
    assert first.context.trace_id != second.context.trace_id
    inside = traced.spans("inside")
    assert [span.parent and span.parent.span_id for span in inside] == [
        first.context.span_id,
        second.context.span_id,
    ]


@pytest.mark.parametrize("budget", [0, -1])
@pytest.mark.parametrize("details", [True, False])
def test_an_exception_is_recorded_with_its_text_if_the_runner_shows_details(
    broker: Broker, new_runner: NewRunner, budget: float, details: bool
) -> None:
    (span,) = Traced(broker, new_runner, error_details=details).call(budget)
    kind, text = ("ZeroDivisionError", "zero") if budget == 0 else ("TaskError", VALUE)
    assert of(span, "n8nrunner.outcome") == "failed"
    assert of(span, "error.type") == kind
    assert span.status.status_code is trace.StatusCode.ERROR
    assert (text in str(span.status.description)) == details
    assert kind in str(span.status.description) or details
    assert [event.name for event in span.events] == (["exception"] if details else [])


@pytest.mark.parametrize("is_new", [False, True], ids=["the same provider", "another provider"])
def test_a_runner_that_is_instrumented_again_has_one_span_for_each_call(
    broker: Broker, new_runner: NewRunner, is_new: bool
) -> None:
    traced = Traced(broker, new_runner)
    exporter, provider = traced.exporter, traced.provider
    if is_new:
        exporter, provider = InMemorySpanExporter(), TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrument(traced.runner, provider)
    traced.call(1, 2)
    spans = [span for span in exporter.get_finished_spans() if span.name == "process score"]
    assert [span.parent for span in spans] == [None, None]
    assert [span.parent and span.parent.span_id for span in traced.spans("inside")] == [
        span.context.span_id for span in spans
    ]
    assert len(traced.spans("process score")) == (0 if is_new else 2)


def test_a_reload_that_instruments_again_leaves_one_span_for_each_call(
    broker: Broker, new_runner: NewRunner
) -> None:
    traced = Traced(broker, new_runner)
    reloaded = Runner(name="leads")
    reloaded.function(lambda budget: budget, name="score")
    instrument(reloaded, traced.provider)
    traced.runner._take_from(reloaded)
    assert [span.parent for span in traced.call(1, 2)] == [None, None]
    instrument(traced.runner, traced.provider)
    assert [span.parent for span in traced.call(3)] == [None, None, None]


def test_an_argument_that_does_not_fit_is_an_error(broker: Broker, new_runner: NewRunner) -> None:
    (span,) = Traced(broker, new_runner).call("no number")  # type: ignore[arg-type]
    assert span.status.status_code is trace.StatusCode.ERROR


def test_a_task_of_a_type_that_times_out_is_an_error(broker: Broker, new_runner: NewRunner) -> None:
    traced = Traced(broker, new_runner, task_timeout=0.05)
    with pytest.raises(BrokerTaskError):
        broker.run_task("wait", {}, timeout=LIMIT)
    traced.runner.stop()
    (span,) = traced.spans("process wait")
    assert of(span, "n8nrunner.outcome") == "timed_out"
    assert of(span, "error.type") == "TaskTimeout"
    assert span.status.status_code is trace.StatusCode.ERROR


def test_records_during_a_call_have_the_ids_of_its_span(broker: Broker, new_runner: NewRunner) -> None:
    texts = {kind: io.StringIO() for kind in (TextFormatter, JsonFormatter)}
    for kind, text in texts.items():
        handler = logging.StreamHandler(text)
        handler.setFormatter(kind())
        logging.getLogger("n8nrunner").addHandler(handler)
    traced = Traced(broker, new_runner, log_calls=True)
    logging.getLogger("n8nrunner").setLevel(logging.INFO)
    (span,) = traced.call(0)
    (inside,) = traced.spans("inside")
    trace_id = trace.format_trace_id(span.context.trace_id)
    span_id = trace.format_span_id(span.context.span_id)
    records = [json.loads(line) for line in texts[JsonFormatter].getvalue().splitlines()]
    own = [record for record in records if record["logger"] == "n8nrunner.tasks"]
    assert [record["level"] for record in own] == ["ERROR", "INFO"]
    for record in own:
        assert (record["trace_id"], record["span_id"]) == (trace_id, span_id)
    (of_application,) = (record for record in records if record["logger"] == "n8nrunner.of-the-application")
    assert of_application["span_id"] == trace.format_span_id(inside.context.span_id)
    assert all("trace_id" not in record for record in records if record["logger"] == "n8nrunner")
    assert texts[TextFormatter].getvalue().count(f" [trace {trace_id}, span {span_id}]\n") == 2


def test_a_process_of_an_executor_gets_the_hooks_without_the_tracer() -> None:
    spans = _Spans(False, TracerProvider())
    copy = pickle.loads(pickle.dumps(spans.start)).__self__
    assert (type(copy), copy._details) == (_Spans, False)


def test_a_missing_package_is_named() -> None:
    code = "import sys; sys.modules['opentelemetry'] = None; import n8nrunner.otel"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert 'pip install "n8nrunner[otel]"' in done.stderr
