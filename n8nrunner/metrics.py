"""The snapshot of a runner as metrics of Prometheus, through prometheus-client.

A scrape renders a `Snapshot`; nothing else counts. Labels have few values: names of registered functions and
task types, outcomes, and addresses of brokers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Callable, NamedTuple, Protocol, TypeVar, Union

try:
    from prometheus_client import PROCESS_COLLECTOR, CollectorRegistry
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        InfoMetricFamily,
        Metric,
    )
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ImportError(
        f'metrics need the package prometheus-client ({error}): pip install "n8nrunner[metrics]"'
    ) from None

from n8nrunner._version import __version__
from n8nrunner.errors import ConfigurationError
from n8nrunner.snapshot import FunctionSnapshot, Histogram, LinkSnapshot, Snapshot

__all__ = ["RunnerCollector"]

_Of = TypeVar("_Of")
_Kind = Union[type[CounterMetricFamily], type[GaugeMetricFamily]]


class _Value(NamedTuple):
    """A metric with one value for each runner, function or broker."""

    kind: _Kind
    name: str  #: without the prefix, and without the suffix of a counter.
    text: str  #: its description.


_RUNNER: dict[_Value, Callable[[Snapshot], float]] = {
    _Value(GaugeMetricFamily, "registered", "1 while the runner is registered with a broker."): (
        lambda runner: runner.is_registered
    ),
    _Value(GaugeMetricFamily, "uptime_seconds", "Seconds since the runner started."): (
        lambda runner: runner.uptime
    ),
    _Value(GaugeMetricFamily, "slots", "Tasks that may run at once."): lambda runner: runner.capacity,
    _Value(GaugeMetricFamily, "slots_taken", "Slots in use."): lambda runner: runner.taken,
}

_FUNCTION: dict[_Value, Callable[[FunctionSnapshot], float]] = {
    _Value(GaugeMetricFamily, "running_tasks", "Tasks whose function has not returned."): (
        lambda function: function.running
    ),
    _Value(
        CounterMetricFamily, "undelivered_results", "Results that n8n did not get, or may not have got."
    ): lambda function: function.undelivered,
}

_BROKER: dict[_Value, Callable[[LinkSnapshot], float]] = {
    _Value(GaugeMetricFamily, "broker_registered", "1 while the broker has the runner registered."): (
        lambda link: link.state in ("registered", "paused")
    ),
    _Value(GaugeMetricFamily, "broker_open_offers", "Offers that the broker has not accepted yet."): (
        lambda link: link.open_offers
    ),
    _Value(
        GaugeMetricFamily,
        "broker_failures",
        "Failed attempts to connect, and lost connections, since the last registration.",
    ): lambda link: link.failures,
    _Value(
        GaugeMetricFamily,
        "broker_silence_seconds",
        "Seconds since the last byte of the broker; NaN before the first one.",
    ): lambda link: float("nan") if link.last_received is None else link.last_received,
    _Value(CounterMetricFamily, "broker_accepted_offers", "Offers that became tasks."): (
        lambda link: link.accepted
    ),
    _Value(
        CounterMetricFamily,
        "broker_rejected_acceptances",
        "Acceptances that the runner refused; n8n then looks for another runner.",
    ): lambda link: link.rejected,
    _Value(CounterMetricFamily, "broker_reconnections", "Registrations after the first one."): (
        lambda link: link.reconnections
    ),
    _Value(
        CounterMetricFamily,
        "broker_undelivered_results",
        "Results that the broker did not get, or may not have got.",
    ): lambda link: link.undelivered,
}

#: The outcomes of tasks among `Counts`.
_TASK_OUTCOMES = ("done", "failed", "timed_out", "cancelled", "lost", "unfinished", "retried")

#: Outcomes that a function has from its registration on, so that a rate does not miss the first call.
_ALWAYS = ("done", "failed")


class HasSnapshot(Protocol):
    """A runner, as far as its metrics need it."""

    def snapshot(self) -> Snapshot: ...


class RunnerCollector(Collector):
    """The metrics of runners, for a registry of prometheus-client that an application has.

    ``prometheus_client.REGISTRY.register(RunnerCollector(runner))`` adds them to those of the application.

    Args:
        *runners: the runners. Each series has the name of its runner as the label "runner", so the names
            differ.

    Raises:
        ConfigurationError: two of the runners have the same name.
    """

    def __init__(self, *runners: HasSnapshot) -> None:
        counts = Counter(runner.snapshot().name for runner in runners)
        problems = [
            f"name: expected another name for each runner of a RunnerCollector, because Prometheus refuses "
            f"metrics with the same labels; {count} runners have the name {name!r}"
            for name, count in counts.items()
            if count > 1
        ]
        if problems:
            raise ConfigurationError(problems)
        self._runners = runners

    def collect(self) -> Iterable[Metric]:
        """Return the metrics now."""
        return _metrics([runner.snapshot() for runner in self._runners])


def render(snapshot: Snapshot, accept: str | None = None) -> tuple[bytes, str]:
    """Return the metrics of a runner and of its process as text, and the text's content type.

    Args:
        snapshot: the runner.
        accept: the header Accept of the request. It may ask for the format of OpenMetrics.
    """
    registry = CollectorRegistry()
    registry.register(_Rendered(snapshot))
    registry.register(PROCESS_COLLECTOR)
    encode, content_type = choose_encoder(accept or "")
    return encode(registry), content_type


class _Rendered(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        return _metrics([self._snapshot])


def _metrics(snapshots: Sequence[Snapshot]) -> Iterator[Metric]:
    runners = [([snapshot.name], snapshot) for snapshot in snapshots]
    functions = [
        ([snapshot.name, function.kind, function.name], function)
        for snapshot in snapshots
        for function in snapshot.functions
    ]
    # Two names can have the same address. An empty label is the same as none.
    links = [
        ([snapshot.name, link.broker, link.origin or ""], link)
        for snapshot in snapshots
        for link in snapshot.links
    ]
    info = InfoMetricFamily("n8nrunner", "The runner.", labels=["runner"])
    for labels, _ in runners:
        info.add_metric(labels, {"version": __version__})
    yield info
    yield from _values(_RUNNER, ["runner"], runners)
    tasks = CounterMetricFamily("n8nrunner_tasks", "Tasks by outcome.", labels=["runner", "outcome"])
    for labels, snapshot in runners:
        for outcome in _TASK_OUTCOMES:
            tasks.add_metric([*labels, outcome], getattr(snapshot.counts, outcome))
    yield tasks
    yield from _values(_FUNCTION, ["runner", "kind", "function"], functions)
    yield from _calls(functions)
    yield from _values(_BROKER, ["runner", "broker", "origin"], links)


def _values(
    metrics: dict[_Value, Callable[[_Of], float]],
    labels: Sequence[str],
    found: Sequence[tuple[list[str], _Of]],
) -> Iterator[Metric]:
    """Return metrics with one value for each of the found objects, which come with their labels."""
    for (kind, name, text), value_of in metrics.items():
        unit = "seconds" if name.endswith("_seconds") else ""
        family = kind(f"n8nrunner_{name}", text, labels=labels, unit=unit)
        for values, each in found:
            family.add_metric(values, value_of(each))
        yield family


def _calls(functions: Sequence[tuple[list[str], FunctionSnapshot]]) -> Iterator[Metric]:
    labels = ["runner", "kind", "function"]
    calls = CounterMetricFamily(
        "n8nrunner_calls",
        "Calls of a function, or tasks of a type, by outcome.",
        labels=[*labels, "outcome"],
    )
    duration = HistogramMetricFamily(
        "n8nrunner_call_duration_seconds",
        "Seconds inside of a call, by outcome.",
        labels=[*labels, "outcome"],
        unit="seconds",
    )
    queue = HistogramMetricFamily(
        "n8nrunner_queue_seconds",
        "Seconds from the arrival of a task until its function began.",
        labels=labels,
        unit="seconds",
    )
    for values, function in functions:
        for outcome in dict.fromkeys((*_ALWAYS, *function.outcomes)):
            found = function.outcomes.get(outcome)
            times = Histogram() if found is None else found.duration
            calls.add_metric([*values, outcome], 0 if found is None else found.count)
            duration.add_metric([*values, outcome], _buckets(times), times.sum)
        queue.add_metric(values, _buckets(function.queue), function.queue.sum)
    yield from (calls, duration, queue)


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Return the upper bound of each bucket, and how many times are at most as long."""
    total = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip((*map(repr, histogram.bounds), "+Inf"), histogram.counts):
        total += count
        buckets.append((bound, total))
    return buckets
