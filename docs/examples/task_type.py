# Runner.task, Task, Task.settings, Task.items, Task.execution_id, Task.node_name
from n8nrunner import Runner, Task
from n8nrunner.broker import Broker

with Broker(auth_token="secret") as broker:
    runner = Runner(broker.url, auth_token="secret")

    @runner.task("enrich", limit=2)
    def enrich(task: Task) -> list:
        greeting = task.settings["greeting"]
        where = {"execution": task.execution_id, "node": task.node_name}
        return [{"json": {"text": f"{greeting} {item['json']['name']}", **where}} for item in task.items]

    with runner:
        settings = {"greeting": "Hello", "executionId": "12", "nodeName": "Greet"}
        result = broker.run_task("enrich", settings, items=[{"json": {"name": "Ada"}}])
        assert result == [{"json": {"text": "Hello Ada", "execution": "12", "node": "Greet"}}]
