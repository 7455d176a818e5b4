# Runner.join, Runner.wait_registered
from n8nrunner import Runner
from n8nrunner.broker import Broker

with Broker(auth_token="secret") as broker:
    runner = Runner(broker.url, auth_token="secret")
    runner.task("nothing")(lambda task: None)
    runner.start(wait=0)  # returns at once, even if n8n is down
    assert runner.wait_registered(timeout=10)
    runner.stop()
    assert runner.join(timeout=10)
