"""The tasks of `n8nrunner.testing` against those of a node, in Node.js."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any, Dict, List, Literal, Optional

import pytest

from n8nrunner import File, Runner, testing
from n8nrunner.functions.node.package import make_package
from n8nrunner.testing.node import NODE_NAME
from tests.functions.test_node_code import executed

pytest.importorskip("docstring_parser")


def order(
    pieces: int,
    at: datetime.date,
    tags: List[str],
    region: Literal["eu", "us"] = "eu",
    note: str = "",
    document: Optional[File] = None,
) -> None: ...


@pytest.mark.parametrize("limit", [None, 2])
def test_settings_are_those_that_a_node_sends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: Optional[int]
) -> None:
    runner = Runner(name="shop")
    runner.function(limit=limit)(order)
    sent: List[Any] = []
    with testing.serve(runner) as n8n:
        submit = n8n.broker.submit

        def note(task_type: str, settings: Dict[str, Any], **options: Any) -> Any:
            sent.append((task_type, settings))
            return submit(task_type, settings, **options)

        monkeypatch.setattr(n8n.broker, "submit", note)
        node = n8n.node(timezone="Europe/Warsaw", time_limit=5)
        node.call("order", pieces=2, at=datetime.date(2024, 5, 6), tags=["a"], region="us")
        known = runner._registry.functions
        assert known is not None
        written = make_package("shop", list(known.by_name.values()))
    found = executed(
        tmp_path,
        "ok(settings)",
        count=1,
        written=written,
        operation="order",
        pieces=2,
        at="2024-05-06",
        tags='["a"]',
        region="us",
        options={"timeLimit": 5},
    )
    ((task_type, settings),) = sent
    assert settings.pop("executionId") == "1"
    assert settings.pop("nodeName") == NODE_NAME
    assert settings.pop("lastTry")
    (expected,) = found["sent"]
    assert not expected.pop("lastTry")  # a node tries again
    assert expected.pop("nodeName") == "Shop"
    assert settings == expected
    assert task_type == ("n8nrunner.shop" if limit is None else "n8nrunner.shop.order")
