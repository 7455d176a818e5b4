"""A program whose functions change while it runs, as in a notebook: each line that it reads is a cell.

A line is a JSON string with Python code. It speaks as `runner_script.py` does, and ends when its input ends.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from runner_script import runner, tell

if __name__ == "__main__":
    namespace: dict[str, Any] = {"runner": runner}
    runner.start(wait=30)
    runner.wait_registered(30)
    tell("registered")
    for cell in sys.stdin:
        exec(json.loads(cell), namespace)
        tell("ran")
    runner.stop()
