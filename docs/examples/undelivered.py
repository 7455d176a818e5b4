# Undelivered, Undelivered.kept, Undelivered.result, Undelivered.error, Broker.kill, BrokerTaskLost
import threading

from n8nrunner import Runner, Task, Undelivered
from n8nrunner.broker import Broker, BrokerTaskLost

begun, go_on, told = threading.Event(), threading.Event(), threading.Event()
lost: list[Undelivered] = []


def keep(undelivered: Undelivered) -> None:
    lost.append(undelivered)
    told.set()


with Broker(auth_token="secret") as broker:
    runner = Runner(broker.url, auth_token="secret", on_undelivered=keep)

    @runner.task("pay")
    def pay(task: Task) -> str:
        begun.set()
        go_on.wait(30)
        return "paid"

    with runner:
        task = broker.submit("pay", {})
        begun.wait(30)
        broker.kill()
        assert isinstance(task.error(30), BrokerTaskLost)
        go_on.set()
        assert told.wait(30)

assert lost[0].kept
assert lost[0].certain
assert (lost[0].result, lost[0].error) == ("paid", None)
