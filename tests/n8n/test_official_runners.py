"""n8n's own JavaScript runner on the embedded broker, which behaves as n8n's does.

(n8n's Python runner is not part of the npm package.)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from n8nrunner.broker import (
    Broker,
    BrokerConstants,
    BrokerCounts,
    BrokerTask,
    BrokerTaskCancelled,
    BrokerTaskError,
    BrokerTaskTimeout,
)

from .install import Installation
from .processes import ChildProcess

pytestmark = pytest.mark.n8n

TOKEN = "the shared secret"
#: How long a Node program may take to start on a busy machine, in seconds.
START_LIMIT = 60.0
LIMIT = 20.0
ITEMS: list[dict[str, Any]] = [{"json": {"n": n}} for n in range(5)]


@pytest.fixture(params=["2.27", "2.40"])
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    constants = BrokerConstants(heartbeat_interval=1.0, drain_timeout=5.0)
    with Broker(TOKEN, profile=request.param, constants=constants) as running:
        yield running


@pytest.fixture
def runner(broker: Broker, place: Installation, tmp_path: Path) -> Iterator[ChildProcess]:
    process = start_runner(broker, place, tmp_path)
    try:
        yield process
    finally:
        process.kill()


def start_runner(broker: Broker, place: Installation, tmp_path: Path) -> ChildProcess:
    answer = requests.post(f"{broker.url}/runners/auth", json={"token": TOKEN}, timeout=LIMIT).json()
    environment = {
        **place.environment(),
        "N8N_RUNNERS_GRANT_TOKEN": answer["data"]["token"],
        "N8N_RUNNERS_TASK_BROKER_URI": broker.url,
        "N8N_RUNNERS_MAX_CONCURRENCY": "3",
        "N8N_RUNNERS_TASK_TIMEOUT": "30",
    }
    process = ChildProcess(
        "n8n's JavaScript runner",
        [str(place.node), "dist/start.js"],
        environment,
        tmp_path / "javascript-runner.log",
        cwd=place.javascript_runner,
    )
    try:
        broker.wait_for(lambda counts: counts.runners == 1 and counts.offers > 0, START_LIMIT)
    except TimeoutError as error:
        process.kill()
        raise AssertionError(f"{error}\n{process.tail()}") from None
    return process


def submit(broker: Broker, code: str, each_item: bool = False, **options: Any) -> BrokerTask:
    """A task as n8n's Code node makes it."""
    settings: dict[str, Any] = {
        "code": code,
        "nodeMode": "runOnceForEachItem" if each_item else "runOnceForAllItems",
        "workflowMode": "manual",
        "continueOnFail": False,
        "additionalProperties": {},
    }
    options.setdefault("items", ITEMS)
    if each_item:
        settings["chunk"] = {"startIndex": 0, "count": len(options["items"])}
    return broker.submit("javascript", settings, **options)


def run(broker: Broker, code: str, **options: Any) -> Any:
    return submit(broker, code, **options).result(LIMIT)


@pytest.mark.usefixtures("runner")
def test_official_runners_run_code_nodes_over_the_embedded_broker(broker: Broker) -> None:
    total = "return [{json: {total: $input.all().reduce((sum, item) => sum + item.json.n, 0)}}]"
    assert run(broker, total) == [{"json": {"total": 10}}]

    task = submit(broker, "console.log('item', $json.n); return {twice: $json.n * 2}", each_item=True)
    assert task.result(LIMIT) == [{"json": {"twice": 2 * n}, "pairedItem": {"item": n}} for n in range(5)]
    assert task.logs == [f"'item' {n}" for n in range(5)]

    assert run(broker, "return $('Start').all()") == ITEMS
    assert run(broker, "return [{json: {name: $workflow.name}}]") == [{"json": {"name": "n8nrunner"}}]


@pytest.mark.usefixtures("runner")
def test_official_runners_use_files_and_http(broker: Broker) -> None:
    read = (
        "const file = await this.helpers.getBinaryDataBuffer(0, 'data');"
        "return [{json: {text: file.toString()}}]"
    )
    assert run(broker, read, files={(0, "data"): b"content"}) == [{"json": {"text": "content"}}]

    save = (
        "const file = await this.helpers.prepareBinaryData(Buffer.from('saved'), 'a.txt', 'text/plain');"
        "return [{json: {}, binary: {file}}]"
    )
    task = submit(broker, save)
    (item,) = task.result(LIMIT)
    assert item["binary"]["file"] == task.saved_files[0].binary_data
    assert task.saved_files[0].data == b"saved"

    fetch = f"return [{{json: await this.helpers.httpRequest({{url: '{broker.url}/healthz', json: true}})}}]"
    assert run(broker, fetch) == [{"json": {"status": "ok"}}]


@pytest.mark.usefixtures("runner")
def test_official_runners_report_errors_and_obey_cancellation(broker: Broker) -> None:
    with pytest.raises(BrokerTaskError, match="boom") as caught:
        run(broker, "throw new Error('boom')")
    assert "boom" in str(caught.value.stack)

    forever = "await new Promise(() => {})"
    with pytest.raises(BrokerTaskTimeout, match="Task execution timed out after 3 seconds"):
        run(broker, forever, timeout=3.0)

    task = submit(broker, forever)
    broker.wait_for(lambda counts: counts.running == 1)
    task.cancel()
    with pytest.raises(BrokerTaskCancelled):
        task.result(LIMIT)
    # Its slot is free again.
    assert [run(broker, "return []") for _ in range(5)] == [[]] * 5


@pytest.mark.usefixtures("runner")
def test_an_official_runner_stays_connected_over_heartbeats_and_takes_many_tasks(broker: Broker) -> None:
    tasks = [submit(broker, f"return [{{json: {{n: {n}}}}}]", items=[]) for n in range(200)]
    assert [task.result(LIMIT) for task in tasks] == [[{"json": {"n": n}}] for n in range(200)]
    start = broker.counts

    def has_offered_anew(counts: BrokerCounts) -> bool:
        # Offers last five seconds: five heartbeats.
        return counts.offered - start.offered >= 3

    counts = broker.wait_for(has_offered_anew, LIMIT)
    assert (counts.runners, counts.heartbeat_missed, counts.missed, counts.malformed) == (1, 0, 0, 0)


def test_an_official_runner_finishes_its_task_when_the_broker_drains(
    broker: Broker, runner: ChildProcess
) -> None:
    task = submit(
        broker, "await new Promise((resolve) => setTimeout(resolve, 1000)); return [{json: {done: true}}]"
    )
    broker.wait_for(lambda counts: counts.running == 1)
    broker.stop()
    assert task.result(0) == [{"json": {"done": True}}]
    # 2.40's runner ends by itself when the broker has closed the connection after a drain.
    assert runner.wait(LIMIT) == 0


def test_an_official_runner_ends_when_the_broker_is_killed(broker: Broker, runner: ChildProcess) -> None:
    broker.kill()
    assert runner.wait(LIMIT) == 1
