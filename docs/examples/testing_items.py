# Node.call_items, ServedRunner.node, Node
import datetime

from n8nrunner import Runner
from n8nrunner.testing import Node, serve

runner = Runner(name="numbers")


@runner.function
def inverse(number: float) -> float:
    return 1 / number


@runner.function
def day(of: datetime.date) -> str:
    return of.isoformat()


with serve(runner) as n8n:
    items = n8n.call_items("inverse", [{"number": 2}, {"number": 4}])
    assert [item.json["result"] for item in items] == [0.5, 0.25]

    node: Node = n8n.node(continue_on_fail=True, timezone="Europe/Warsaw")
    items = node.call_items("inverse", [{"number": 0}, {"number": 1}])
    assert items[0].json["error"].startswith("ZeroDivisionError: ")
    assert node.call("day", of="2024-05-05T22:00:00.000Z")[0].json["result"] == "2024-05-06"
