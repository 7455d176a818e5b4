# Broker, Broker.start, Broker.stop, Broker.url, Broker.auth_token, Broker.port, Broker.is_running,
# Broker.submit, Broker.run_task, Broker.counts, Broker.events, Broker.wait_for, BrokerCounts, BrokerEvent,
# BrokerTask.task_id, BrokerTask.done, BrokerTask.result, BrokerTask.add_done_callback,
# BrokerNotRunning, BrokerTaskExpired
import threading

from n8nrunner import Runner
from n8nrunner.broker import Broker, BrokerCounts, BrokerEvent, BrokerNotRunning, BrokerTaskExpired

broker = Broker(auth_token="secret")
broker.start()
assert broker.is_running
assert broker.url == f"http://127.0.0.1:{broker.port}"

runner = Runner(broker.url, auth_token=broker.auth_token)
runner.task("double")(lambda task: 2 * task.settings["n"])
with runner:
    counts: BrokerCounts = broker.wait_for(lambda counts: counts.runners == 1)
    assert counts.registered == 1
    assert broker.run_task("double", {"n": 21}) == 42

    ended = threading.Event()
    task = broker.submit("double", {"n": 1})
    task.add_done_callback(lambda task: ended.set())
    assert ended.wait(30)
    assert task.done()
    assert task.result() == 2
    assert task.task_id

expired = broker.submit("double", {"n": 1}, timeout=0.1)  # no runner is there
assert isinstance(expired.error(30), BrokerTaskExpired)
event: BrokerEvent = broker.events[0]
assert event.kind == "connected"
assert broker.counts.done == 2
broker.stop()
try:
    broker.submit("double", {})
except BrokerNotRunning as error:
    print(error)
