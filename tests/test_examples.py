"""The examples of the API reference run, each as it is on the page."""

from __future__ import annotations

import pytest

from tests.pages import blocks

EXAMPLES = [block.text for block in blocks("docs/reference.md", "python")]


@pytest.mark.parametrize("example", range(len(EXAMPLES)))
def test_an_example_runs(example: int) -> None:
    text = EXAMPLES[example]
    if "n8nrunner.metrics" in text:
        pytest.importorskip("prometheus_client")
    exec(compile(text, "example", "exec", dont_inherit=True), {"__name__": "example"})
