# Runner.run
from n8nrunner import Runner
from n8nrunner.broker import Broker

with Broker(auth_token="secret") as broker:
    runner = Runner(broker.url, auth_token="secret", auto_shutdown_timeout=0.1)
    runner.task("nothing")(lambda task: None)
    runner.run()  # until Ctrl-C or SIGTERM; here, until no task has come for 0.1 s
    assert runner.state == "stopped"
