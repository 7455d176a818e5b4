"""n8nrunner, through its public names alone. Several broker URLs are separated by commas.

A third argument is a JSON object of further settings of the `Runner`; with "hooks", three hooks count the
calls. A line on standard input stops the
runner; then one line of notes is printed, a JSON object:

- `stopped_in`: seconds that `stop()` took;
- `handled_by`: the names of the threads that ran handlers;
- `waits`: for each task that waited for its cancellation, `seconds` until it came and the `reason`;
- `threads_left`, `descriptors_left`: the names of the threads that are still there after `stop()`, and how
  many more descriptors are open than before the runner was built.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any, Callable, Dict, List

from n8nrunner import Runner, Task

from . import wire

BIG_ITEM = {"json": {"id": 1, "name": "Zoë Customer", "email": "customer@example.com", "note": "x" * 100}}
LONGEST_WAIT = 60.0


def main(urls: List[str], capacity: int, settings: Dict[str, Any]) -> None:
    handlers = set()
    waits: List[Dict[str, Any]] = []

    def wait(task: Task) -> None:
        begun = time.monotonic()
        task.wait_for_cancel(LONGEST_WAIT)
        waits.append({"seconds": time.monotonic() - begun, "reason": task.cancel_reason})

    def big_answer(task: Task) -> List[Any]:
        return [BIG_ITEM] * (task.settings["bytes"] // len(json.dumps(BIG_ITEM)))

    special: Dict[str, Callable[[Task], Any]] = {"wait": wait, "big answer": big_answer}

    descriptors = len(os.listdir("/proc/self/fd"))
    hooked = settings.pop("hooks", False)
    runner = Runner(urls, auth_token=wire.AUTH_TOKEN, name="benchmark", capacity=capacity, **settings)
    if hooked:
        calls = {"started": 0, "finished": 0, "failed": 0}

        @runner.on("started")
        def started(call: Any) -> None:
            calls["started"] += 1

        @runner.on("finished")
        def finished(call: Any) -> None:
            calls["finished"] += 1

        @runner.on("failed")
        def failed(call: Any) -> None:
            calls["failed"] += 1

    @runner.task(wire.TASK_TYPE)
    def handle(task: Task) -> Any:
        handlers.add(threading.get_ident())
        received = task.settings
        return received["items"] if "items" in received else special[received["do"]](task)

    runner.start(wait=60)
    sys.stdin.readline()
    handled_by = sorted(thread.name for thread in threading.enumerate() if thread.ident in handlers)
    begun = time.monotonic()
    runner.stop()
    notes = {
        "stopped_in": time.monotonic() - begun,
        "handled_by": handled_by,
        "waits": waits,
        "threads_left": [thread.name for thread in threading.enumerate() if thread.name != "MainThread"],
        "descriptors_left": len(os.listdir("/proc/self/fd")) - descriptors,
    }
    print(json.dumps(notes), flush=True)


if __name__ == "__main__":
    main(sys.argv[1].split(","), int(sys.argv[2]), json.loads(sys.argv[3]) if len(sys.argv) > 3 else {})
