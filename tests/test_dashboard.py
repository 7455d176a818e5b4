"""The Grafana dashboard asks for metrics and labels that there are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from n8nrunner.metrics import render
from tests.pages import read
from tests.test_metrics import SNAPSHOT

promql = pytest.importorskip("promql_parser")

DASHBOARD: dict[str, Any] = json.loads(read("samples/grafana/n8nrunner.json"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
#: The labels that Prometheus adds to each series of a target.
OF_TARGET = {"job", "instance"}


def labels_of_metrics() -> dict[str, set[str]]:
    """Return the labels of each series of `/metrics`."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(render(SNAPSHOT)[0].decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set(OF_TARGET)).update(sample.labels)
    return found


METRICS = labels_of_metrics()


def expressions(expression: Any) -> Iterator[Any]:
    """Yield an expression and all its parts."""
    yield expression
    for name in ("expr", "lhs", "rhs", "args", "vector_selector", "param"):
        part = getattr(expression, name, None)
        for each in part if isinstance(part, list) else [part]:
            if isinstance(each, promql.Expr):
                yield from expressions(each)


def selectors(expression: Any) -> list[Any]:
    return [part for part in expressions(expression) if isinstance(part, promql.VectorSelector)]


def parse(query: str) -> Any:
    """Return a query's expression, and check the metrics and the labels that it names."""
    for variable in re.findall(r"\$(\w+)", query):
        assert variable in (*VARIABLES, "__rate_interval"), variable
    expression = promql.parse(query.replace("$__rate_interval", "1m"))
    assert selectors(expression)
    for selector in selectors(expression):
        assert selector.name in METRICS, f"there is no metric {selector.name}"
        for matcher in selector.matchers.matchers:
            assert matcher.name in METRICS[selector.name], f"{selector.name} has no label {matcher.name}"
    for part in expressions(expression):
        if isinstance(part, promql.AggregateExpr) and part.modifier is not None:
            known = set().union(*(METRICS[selector.name] for selector in selectors(part)))
            assert set(part.modifier.labels) <= known, query
    return expression


TARGETS = [
    pytest.param(target, id=f"{panel['title']} {target['refId']}")
    for panel in PANELS
    for target in panel["targets"]
]


@pytest.mark.parametrize("target", TARGETS)
def test_a_query_asks_for_metrics_and_labels_that_there_are(target: dict[str, Any]) -> None:
    expression = parse(target["expr"])
    shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
    grouped = next((part for part in expressions(expression) if isinstance(part, promql.AggregateExpr)), None)
    labels = set(grouped.modifier.labels) if grouped is not None and grouped.modifier is not None else set()
    assert shown == labels - {"le"}, "the legend names each line"


@pytest.mark.parametrize("name", ["runner", "function"])
def test_a_variable_lists_the_values_of_a_label(name: str) -> None:
    variable = VARIABLES[name]
    match = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
    assert match
    (selector,) = selectors(parse(match[1]))
    assert match[2] in METRICS[selector.name]


@pytest.mark.parametrize(
    "query", ["n8nrunner_nothing", 'n8nrunner_slots{color="red"}', "sum by (color) (n8nrunner_slots)", "sum("]
)
def test_a_wrong_query_is_found(query: str) -> None:
    with pytest.raises((AssertionError, ValueError)):
        parse(query)


def test_the_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
