# RunnerFailed, RunnerStopped, RunnerForked
from n8nrunner import Runner, RunnerFailed, RunnerForked, RunnerStopped
from n8nrunner.broker import Broker


def serve(runner: Runner) -> str:
    """Serve until the runner ends, and say why it did."""
    try:
        runner.start()
        runner.stop()
        runner.join()
    except RunnerStopped:
        return "stopped before it was registered"
    except RunnerForked:
        return "started before a fork: start it in this process"
    except RunnerFailed as error:
        return f"failed because of {error.__cause__!r}"
    return "ended"


with Broker(auth_token="secret") as broker:
    runner = Runner(broker.url, auth_token="secret")
    runner.task("nothing")(lambda task: None)
    assert serve(runner) == "ended"
