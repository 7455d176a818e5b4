"""The examples of the API reference run, each as it is on the page."""

from __future__ import annotations

import pytest

from tests.pages import blocks

EXAMPLES = [block.text for block in blocks("docs/reference.md", "python")]


#: Packages of examples that `.[dev]` has and `.[test]` does not need; `.ci/run` runs these examples as well.
OPTIONAL = ("opentelemetry", "prometheus_client", "sentry_sdk")


@pytest.mark.parametrize("example", range(len(EXAMPLES)))
def test_an_example_runs(example: int) -> None:
    text = EXAMPLES[example]
    for package in OPTIONAL:
        if f" {package}" in text:
            pytest.importorskip(package)
    exec(compile(text, "example", "exec", dont_inherit=True), {"__name__": "example"})
