# instrument
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from n8nrunner import Runner
from n8nrunner.broker import Broker
from n8nrunner.otel import instrument

exporter = InMemorySpanExporter()  # a program sends its spans to a collector
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))

with Broker(auth_token="secret") as broker:
    runner = Runner(broker.url, auth_token="secret")
    runner.task("double")(lambda task: 2 * task.settings["n"])
    instrument(runner, provider)
    with runner:
        broker.run_task("double", {"n": 21}, timeout=30)

(span,) = exporter.get_finished_spans()
assert span.name == "process double"
assert span.attributes["n8nrunner.outcome"] == "done"
