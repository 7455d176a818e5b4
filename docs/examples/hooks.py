# Runner.on, Call, Call.name, Call.execution_id, Call.node, Call.state, Registered
from n8nrunner import Call, Registered, Runner, Task
from n8nrunner.broker import Broker

seen = []

with Broker(auth_token="secret") as broker:
    runner = Runner(broker.url, auth_token="secret", name="leads")

    @runner.task("double")
    def double(task: Task) -> int:
        return 2 * task.settings["n"]

    @runner.on("registered")
    def greet(registered: Registered) -> None:
        assert registered.broker == broker.url

    @runner.on("started")
    def begin(call: Call) -> None:
        call.state["place"] = len(seen)

    @runner.on("finished")
    def record(call: Call) -> None:
        seen.append((call.state["place"], call.name, call.outcome, call.execution_id, call.node))

    with runner:
        broker.run_task("double", {"n": 2, "executionId": "12", "nodeName": "Double it"})

assert seen == [(0, "double", "done", "12", "Double it")]
