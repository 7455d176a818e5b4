"""Tasks of three types, as a service: `python samples/enrich.py` or `n8nrunner run samples.enrich`.

It needs N8N_RUNNERS_AUTH_TOKEN with n8n's value, and N8N_RUNNERS_TASK_BROKER_URI if n8n is on another
machine. The node samples/node/RunnerJob.node.js sends tasks of these types.
"""

from __future__ import annotations

import csv
import io
from typing import Any, Dict, List

from n8nrunner import Runner, Task, TaskError

runner = Runner(name="enrich")


@runner.task("enrich")
def enrich(task: Task) -> List[Dict[str, Any]]:
    """Add a greeting to every item."""
    output = []
    for index, item in enumerate(task.items):
        name = item["json"].get("name")
        if not name:
            raise TaskError(
                f"Item {index} has no name", description="Set the field 'name' in the node before this one."
            )
        output.append({"json": {**item["json"], "greeting": f"Hello {name}"}, "pairedItem": {"item": index}})
    task.log("greeted", len(output))
    return output


@runner.task("sum-csv")
def sum_csv(task: Task) -> List[Dict[str, Any]]:
    """Read the CSV file of the task's item, or of the first of all items, and save a report."""
    content = task.read_file(task.settings.get("itemIndex", 0), "data").decode()
    rows = list(csv.DictReader(io.StringIO(content)))
    total = sum(float(row["amount"]) for row in rows)
    report = f"{len(rows)} rows, {total:.2f} in total\n"
    saved = task.save_file(report.encode(), "report.txt", "text/plain")
    return [{"json": {"rows": len(rows), "total": total}, "binary": {"data": saved}}]


@runner.task("count", limit=1)
def count(task: Task) -> Dict[str, Any]:
    """Count slowly, report the progress, and end early if n8n cancels the task."""
    steps = int(task.settings.get("steps", 10))
    for step in range(steps):
        task.progress(step / steps, f"step {step + 1} of {steps}")
        if task.wait_for_cancel(float(task.settings.get("seconds", 1))):
            task.raise_if_cancelled()
    return {"counted": steps}


if __name__ == "__main__":
    runner.run()
