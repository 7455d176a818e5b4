# ExecutorBroken
from concurrent.futures import ThreadPoolExecutor

from n8nrunner import ExecutorBroken, Runner
from n8nrunner.broker import Broker

with Broker(auth_token="secret") as broker, ThreadPoolExecutor(2) as executor:
    runner = Runner(broker.url, auth_token="secret", executor=executor, capacity=2)
    runner.task("nothing")(lambda task: None)
    runner.start()
    executor.shutdown()
    assert broker.submit("nothing", {}).error(30)  # the task's author reads why it failed
    try:
        runner.join(30)
    except ExecutorBroken as error:
        print(error)
    assert isinstance(runner.error, ExecutorBroken)
