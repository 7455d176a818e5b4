"""A span of OpenTelemetry for each call, and its ids in the log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

try:
    from opentelemetry import context, trace
except ImportError as error:
    raise ImportError(
        f'tracing needs the package opentelemetry-api ({error}): pip install "n8nrunner[otel]"'
    ) from None

from n8nrunner._version import __version__
from n8nrunner.execution.invoke import text_of
from n8nrunner.logs import describe

if TYPE_CHECKING:
    from n8nrunner.hooks import Call
    from n8nrunner.runner import Runner

__all__ = ["instrument"]

#: The place of a call's span in `Call.state`.
_KEY = "n8nrunner.otel"


def instrument(runner: Runner, tracer_provider: trace.TracerProvider | None = None) -> None:
    """Make a span for each call of a runner, and give the log records during a call its ids.

    The span is of the kind CONSUMER, and current while the function runs, so spans that the function makes
    are below it. Its attributes are those of the conventions for messaging, n8n's own ``n8n.execution.id``
    and ``n8n.node.name``, and ``n8nrunner.function``, ``n8nrunner.item`` and ``n8nrunner.outcome``. An
    exception is recorded in it, with its text unless the runner has ``error_details=False``.

    In the whole process, a log record during any span gets its ids as the attributes "otelTraceID" and
    "otelSpanID", as by opentelemetry-instrumentation-logging. `TextFormatter` and `JsonFormatter` show them.

    A second call for the same runner, as by a notebook's cell that runs again, changes where its spans go.

    Args:
        runner: the runner. It may run already.
        tracer_provider: where spans go; None for the provider of the process. Calls in a process of an
            executor use the provider of that process.
    """
    spans = _spans_of(runner)
    if spans is not None:
        spans.send_to(tracer_provider)
        return
    spans = _Spans(runner.config.error_details, tracer_provider)
    runner.on("started", spans.start)
    runner.on("finished", spans.end)
    runner.on("failed", spans.end)


def _spans_of(runner: Runner) -> _Spans | None:
    """Return the spans that a runner has already. Its hooks say it, because a reload replaces them."""
    calls = runner._hooks.around.calls
    for hook in () if calls is None else calls.started:
        owner = getattr(hook, "__self__", None)
        if isinstance(owner, _Spans):
            return owner
    return None


class _Spans:
    """The spans of a runner's calls. An executor of processes pickles it."""

    def __init__(self, details: bool, tracer_provider: trace.TracerProvider | None = None) -> None:
        self._details = details
        self.send_to(tracer_provider)
        if not isinstance(logging.getLogRecordFactory(), _TracedRecords):
            logging.setLogRecordFactory(_TracedRecords(logging.getLogRecordFactory()))

    def __reduce__(self) -> tuple[type[_Spans], tuple[bool]]:
        return _Spans, (self._details,)

    def send_to(self, tracer_provider: trace.TracerProvider | None) -> None:
        """Make spans of this provider from the next call on."""
        self._tracer = trace.get_tracer("n8nrunner", __version__, tracer_provider)

    def start(self, call: Call) -> None:
        around = context.get_current()  # found once: the SDK would look it up four times
        kind = trace.SpanKind.CONSUMER
        span = self._tracer.start_span(f"process {call.name}", around, kind, _attributes(call))
        call.state[_KEY] = span, context.attach(trace.set_span_in_context(span, around))

    def end(self, call: Call) -> None:
        started = call.state.pop(_KEY, None)
        if started is None:
            return  # the call began before `instrument`
        span, token = started
        context.detach(token)
        try:
            span.set_attribute("n8nrunner.outcome", call.outcome)
            if call.outcome not in ("done", "cancelled"):
                self._set_error(span, call)
        finally:
            span.end()

    def _set_error(self, span: trace.Span, call: Call) -> None:
        error, text = call.error, None
        if error is not None:
            text = text_of(error) if self._details else describe(error)
            if self._details:
                span.record_exception(error)
        span.set_attribute("error.type", str(call.outcome) if error is None else type(error).__qualname__)
        span.set_status(trace.StatusCode.ERROR, text)


def _attributes(call: Call) -> dict[str, Any]:
    task = call.task
    # Each attribute costs the SDK most of a microsecond, so there is none that only repeats another one.
    found: dict[str, Any] = {
        "messaging.system": "n8n",
        "messaging.operation.name": "process",
        "messaging.destination.name": task.type,
        "messaging.message.id": task.id,
    }
    execution_id, node = task.execution_id, task.node_name
    if execution_id is not None:
        found["n8n.execution.id"] = execution_id
    if node is not None:
        found["n8n.node.name"] = node
    if call.function is not None:
        found["n8nrunner.function"] = call.function
    if call.item is not None:
        found["n8nrunner.item"] = call.item
    return found


class _TracedRecords:
    """Makes log records with the ids of the current span, if there is one.

    It works for all loggers and handlers; a filter would have to be added to each handler.
    """

    def __init__(self, make: Any) -> None:
        self._make = make

    def __call__(self, *args: Any, **options: Any) -> logging.LogRecord:
        record: logging.LogRecord = self._make(*args, **options)
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            record.otelTraceID = trace.format_trace_id(span.trace_id)
            record.otelSpanID = trace.format_span_id(span.span_id)
        return record
