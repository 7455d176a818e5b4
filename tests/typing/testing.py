"""`n8nrunner.testing`: the types of calls and their results."""

from __future__ import annotations

import datetime
from typing import Any

from typing_extensions import assert_type

from n8nrunner import File, Runner
from n8nrunner.broker import Broker, BrokerTaskError
from n8nrunner.testing import CallFailed, Item, Node, ServedRunner, serve


def score(email: str) -> int:
    return len(email)


with serve(Runner(name="leads")) as n8n:
    assert_type(n8n, ServedRunner)
    any_node: Node = n8n
    assert_type(any_node.call("score"), list[Item])
    assert_type(n8n.call("score", email="a@b.c", since=datetime.date(2024, 5, 6)), list[Item])
    assert_type(n8n.call(score, email="a@b.c"), list[Item])
    assert_type(n8n.call_items("score", [{"email": "a@b.c"}]), list[Item])
    assert_type(n8n.call("score")[0].json, dict[str, Any])
    assert_type(n8n.call("score")[0].file("report"), File)
    node = n8n.node(continue_on_fail=True, timezone="UTC", time_limit=1, batch_size=1, rpc={"f": print})
    assert_type(node, Node)
    assert_type(node.call("score"), list[Item])
    assert_type(n8n.broker, Broker)
    assert_type(n8n.logs, list[str])
    n8n.call()  # type: ignore[call-arg]
    n8n.node(zone="UTC")  # type: ignore[call-arg]

serve("leads:runner", Broker("secret"))
serve(5)  # type: ignore[arg-type]


def shown(error: CallFailed) -> None:
    assert_type(error.message, str)
    assert_type(error.description, "str | None")
    assert_type(error.item, int)
    broker_error: BrokerTaskError = error
    assert broker_error
