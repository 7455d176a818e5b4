# Runner.snapshot, Snapshot, Snapshot.is_registered, Snapshot.is_offering, Snapshot.has_ended, LinkSnapshot,
# TaskSnapshot, Counts, Task.progress
import threading

from n8nrunner import Counts, LinkSnapshot, Runner, Snapshot, Task, TaskSnapshot
from n8nrunner.broker import Broker

begun, go_on = threading.Event(), threading.Event()

with Broker(auth_token="secret") as broker:
    runner = Runner(broker.url, auth_token="secret")

    @runner.task("train")
    def train(task: Task) -> str:
        task.progress(0.5, "half way")
        begun.set()
        go_on.wait(30)
        return "trained"

    with runner:
        waiting = broker.submit("train", {})
        begun.wait(30)
        snapshot: Snapshot = runner.snapshot()
        assert snapshot.is_registered
        assert snapshot.is_offering
        link: LinkSnapshot = snapshot.links[0]
        assert (link.broker, link.state) == (broker.url, "registered")
        task: TaskSnapshot = snapshot.tasks[0]
        assert (task.type, task.progress, task.progress_text) == ("train", 0.5, "half way")
        go_on.set()
        assert waiting.result(30) == "trained"
    snapshot = runner.snapshot()
    assert snapshot.has_ended
    counts: Counts = snapshot.counts
    assert counts.done == 1
