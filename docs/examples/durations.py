# FunctionSnapshot, FunctionSnapshot.done, FunctionSnapshot.failed, FunctionSnapshot.calls,
# FunctionSnapshot.duration, Outcome, Histogram, Histogram.count, Histogram.mean, Histogram.quantile,
# CallError
from n8nrunner import CallError, FunctionSnapshot, Histogram, Outcome, Runner, Task
from n8nrunner.broker import Broker

with Broker(auth_token="secret") as broker:
    runner = Runner(broker.url, auth_token="secret")

    @runner.task("invert")
    def invert(task: Task) -> float:
        return 1 / task.settings["n"]

    with runner:
        tasks = [broker.submit("invert", {"n": n}) for n in (0, 1, 2)]
        assert [task.error(30) is None for task in tasks] == [False, True, True]

    function: FunctionSnapshot = runner.snapshot().functions[0]
    assert (function.done, function.failed, function.calls) == (2, 1, 3)
    done: Outcome = function.outcomes["done"]
    assert done.count == 2
    duration: Histogram = function.duration
    assert duration.count == 3
    assert 0 <= duration.mean < 1
    assert 0 <= duration.quantile(0.99) < 1
    error: CallError = runner.snapshot().errors[0]
    assert error.function == "invert"
    assert "division by zero" in error.message
