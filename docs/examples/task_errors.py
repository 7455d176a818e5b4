# TaskError, TaskTimeout, BrokerTaskError, BrokerTaskTimeout
from n8nrunner import Runner, Task, TaskError, TaskTimeout
from n8nrunner.broker import Broker, BrokerTaskError, BrokerTaskTimeout

ended = []

with Broker(auth_token="secret") as broker:
    runner = Runner(broker.url, auth_token="secret", task_timeout=0.2)

    @runner.task("find")
    def find(task: Task) -> None:
        raise TaskError("There is no customer 4711", "Check the field Customer.")

    @runner.task("wait")
    def wait(task: Task) -> None:
        task.wait_for_cancel(30)
        try:
            task.raise_if_cancelled()
        except TaskTimeout as error:
            ended.append(error)

    with runner:
        error = broker.submit("find", {}).error(30)
        assert isinstance(error, BrokerTaskError)
        assert (error.message, error.description) == (
            "There is no customer 4711",
            "Check the field Customer.",
        )
        error = broker.submit("wait", {}).error(30)
        assert isinstance(error, BrokerTaskError)  # the runner's limit; of n8n's, a BrokerTaskTimeout
        assert not isinstance(error, BrokerTaskTimeout)

assert len(ended) == 1
