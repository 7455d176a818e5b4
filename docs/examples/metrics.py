# RunnerCollector, RunnerCollector.collect
from prometheus_client import CollectorRegistry, generate_latest

from n8nrunner import Runner
from n8nrunner.metrics import RunnerCollector

runner = Runner(auth_token="secret", name="leads", capacity=20)
registry = CollectorRegistry()
registry.register(RunnerCollector(runner))
assert 'n8nrunner_slots{runner="leads"} 20.0' in generate_latest(registry).decode()
assert any(metric.name == "n8nrunner_slots" for metric in RunnerCollector(runner).collect())
