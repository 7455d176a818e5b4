"""The types of metrics and tracing, as mypy and pyright see them; nothing runs this."""

import logging

from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import REGISTRY

from n8nrunner import JsonFormatter, Runner, TextFormatter
from n8nrunner.metrics import RunnerCollector
from n8nrunner.otel import instrument

runner = Runner(log_calls=True, error_details=False)

REGISTRY.register(RunnerCollector(runner, Runner()))
instrument(runner)
instrument(runner, TracerProvider())
logging.StreamHandler().setFormatter(JsonFormatter())
logging.StreamHandler().setFormatter(TextFormatter())
