"""A runner in a plain Python process, as a user would write it; `runners.py` starts it.

It is configured by n8n's own variables (`N8N_RUNNERS_TASK_BROKER_URI` and so on). It reports its events on
standard output, one JSON object a line with an `event`; the log goes to standard error. The line `stop` on
standard input, or its end, stops the runner.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
import threading
from typing import Any

from n8nrunner import N8nRunnerError, Runner, Task, TaskError, Undelivered

_output = threading.Lock()


def tell(event: str, **details: Any) -> None:
    line = json.dumps({"event": event, **details}, default=repr)
    with _output:
        print(line, flush=True)


def tell_undelivered(lost: Undelivered) -> None:
    tell("undelivered", task=lost.task_id, certain=lost.certain, result=lost.result)


runner = Runner(on_undelivered=tell_undelivered)


@runner.task("tests.echo")
def echo(task: Task) -> Any:
    return task.items


@runner.task("tests.paired")
def paired(task: Task) -> Any:
    return [{**item, "pairedItem": {"item": number}} for number, item in enumerate(task.items)]


@runner.task("tests.settings")
def settings(task: Task) -> Any:
    return {"settings": task.settings, "type": task.type, "id": task.id}


@runner.task("tests.whole_numbers")
def whole_numbers(task: Task) -> Any:
    return [{"json": {"number": number}} for number in range(task.settings["count"])]


@runner.task("tests.talk")
def talk(task: Task) -> Any:
    task.log("a line from", {"the": "handler"})
    task.progress(0.5, "half way there")
    return {"progress": [[seen.progress, seen.progress_text] for seen in runner.snapshot().tasks]}


@runner.task("tests.data")
def data(task: Task) -> Any:
    execution = task.request_data()
    [code] = task.request_node_types([{"name": "n8n-nodes-base.code", "version": 2}])
    return {
        "workflow": execution["workflow"]["name"],
        "input": execution["inputData"]["main"][0],
        "nodes": sorted(execution["runExecutionData"]["resultData"]["runData"]),
        "node_type": code["displayName"],
    }


@runner.task("tests.files")
def files(task: Task) -> Any:
    content = task.read_file(0, "file")
    saved = task.save_file(content[::-1], "backwards.bin", "application/octet-stream")
    digest = hashlib.sha256(content).hexdigest()
    return [{"json": {"bytes": len(content), "sha256": digest}, "binary": {"file": saved}}]


@runner.task("tests.http")
def http(task: Task) -> Any:
    try:
        return {"answer": task.http_request(**task.settings["request"])}
    except TaskError as error:
        return {"error": str(error)}


@runner.task("tests.raise")
def raise_something(task: Task) -> Any:
    if task.settings["kind"] == "TaskError":
        raise TaskError("The lead is not in the list", description="Add it to the list first")
    return {}[task.settings["kind"]]


@runner.task("tests.unencodable")
def unencodable(task: Task) -> Any:
    return [{"json": {"fine": 1}}, {"json": {"deep": {"bad": {1, 2, 3}}}}]


@runner.task("tests.wait")
def wait(task: Task) -> Any:
    tell("started", task=task.id)
    cancelled = task.wait_for_cancel(task.settings["seconds"])
    tell("ended", task=task.id, cancelled=task.cancelled, reason=task.cancel_reason, returned=cancelled)
    return {"waited": True}


@runner.task("tests.count")
def count(task: Task) -> Any:
    number = task.items[0]["json"]["body"]["number"]
    tell("ran", number=number)
    task.wait_for_cancel(task.settings.get("seconds", 0))
    return {"number": number, "runner": runner.snapshot().name}


@runner.task("tests.large")
def large(task: Task) -> Any:
    tell("ran")
    return [{"json": {"text": "x" * task.settings["size"]}}]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--wait", type=float, default=30.0, help="seconds that start() waits")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(threadName)s %(levelname)s %(message)s")
    try:
        runner.start(wait=arguments.wait)
    except N8nRunnerError as error:
        tell("start failed", error=type(error).__name__, message=str(error))
        return 1
    tell("started runner", registered=runner.is_registered)
    threading.Thread(target=_tell_registration, daemon=True).start()
    for line in sys.stdin:
        if line.strip() == "stop":
            break
    runner.stop()
    ours = [thread.name for thread in threading.enumerate() if "n8nrunner" in thread.name]
    tell("stopped", state=runner.state, threads=ours)
    return 0


def _tell_registration() -> None:
    while not runner.wait_registered(1.0):
        pass
    tell("registered")


if __name__ == "__main__":
    sys.exit(main())
