"""A broker in a process of its own, told what to do by lines on standard input.

task TYPE      gives a task; "done TYPE LENGTH" or "failed TYPE" follows, LENGTH being that of the result
busy SECONDS   keeps the event loop busy, as a workflow with heavy code does to n8n
"""

from __future__ import annotations

import sys
import threading
import time

from n8nrunner.broker import Broker


def say(text: str) -> None:
    print(text, flush=True)


def give(broker: Broker, task_type: str) -> None:
    try:
        result = broker.run_task(task_type, None, timeout=600)
    except Exception as error:
        say(f"failed {task_type} {type(error).__name__}")
    else:
        say(f"done {task_type} {len(result)}")


def main() -> None:
    host, token = sys.argv[1:]
    broker = Broker(token, host=host)
    broker.start()
    say(f"url {broker.url}")
    for line in sys.stdin:
        word, what = line.split()
        if word == "task":
            threading.Thread(target=give, args=(broker, what), daemon=True).start()
        elif word == "busy":
            task = broker.submit("busy", None)
            seconds = float(what)
            task.add_done_callback(lambda _, s=seconds: time.sleep(s))  # on the broker's thread
            task.cancel()
    broker.kill()


if __name__ == "__main__":
    main()
