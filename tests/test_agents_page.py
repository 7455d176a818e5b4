"""The page about functions as tools of agents: its program has the tools that the page names.

`tests/n8n/test_python_tools.py` runs its client.
"""

from __future__ import annotations

import sys
import types

import pytest

from n8nrunner.broker import Broker
from tests.conftest import LIMIT, TOKEN
from tests.pages import blocks

PAGE = "docs/agents.md"


def test_the_program_of_the_page_describes_its_functions_as_tools(
    monkeypatch: pytest.MonkeyPatch, broker: Broker
) -> None:
    pytest.importorskip("docstring_parser")
    program, client = (block.text for block in blocks(PAGE, "python"))
    compile(client, PAGE, "exec")
    program = program.replace("http://127.0.0.1:5679", broker.url).replace('"secret"', repr(TOKEN))
    module = types.ModuleType("orders")
    monkeypatch.setitem(sys.modules, "orders", module)
    exec(compile(program, PAGE, "exec", dont_inherit=True), module.__dict__)
    with module.__dict__["runner"]:
        answer = broker.run_task("n8nrunner:describe:orders", {}, timeout=LIMIT)
    find_orders, quote = answer["functions"]
    assert quote["description"] == "Return the price of an order"
    assert quote["schema"]["required"] == ["pieces"]
    assert quote["schema"]["properties"]["pieces"]["description"] == "How many pieces to order"
    customer = find_orders["schema"]["properties"]["customer"]
    assert customer == {"type": "string", "description": "The customer's e-mail address"}
