# Task.cancelled, Task.cancel_reason, Task.wait_for_cancel, Task.raise_if_cancelled, TaskCancelled,
# BrokerTask, BrokerTask.cancel, BrokerTask.error, BrokerTaskCancelled
import threading

from n8nrunner import Runner, Task, TaskCancelled
from n8nrunner.broker import Broker, BrokerTask, BrokerTaskCancelled

begun, reasons = threading.Event(), []

with Broker(auth_token="secret") as broker:
    runner = Runner(broker.url, auth_token="secret")

    @runner.task("train")
    def train(task: Task) -> None:
        begun.set()
        while not task.cancelled:
            task.wait_for_cancel(1)  # one step of the work
        reasons.append(task.cancel_reason)
        try:
            task.raise_if_cancelled()
        except TaskCancelled:
            reasons.append("stopped")
            raise

    with runner:
        waiting: BrokerTask = broker.submit("train", {})
        begun.wait(30)
        waiting.cancel("The user pressed Stop")
        assert isinstance(waiting.error(30), BrokerTaskCancelled)

assert len(reasons) == 2
