"""A Flask application whose functions n8n can call: `flask --app samples.flask_shop run`.

The runner lives beside the web server in the same process. It starts whether n8n is up or not.
"""

from __future__ import annotations

from typing import Any, Dict

from flask import Flask, current_app

from n8nrunner import Runner, Task

app = Flask(__name__)
app.config["STOCK"] = {"apple": 7, "pear": 0}
runner = Runner(name="shop", task_context=app.app_context)


@runner.task("stock")
def stock(task: Task) -> Dict[str, Any]:
    """How many pieces there are of a fruit."""
    fruit = task.settings["fruit"]
    return {"fruit": fruit, "pieces": current_app.config["STOCK"].get(fruit, 0)}


@app.get("/health")
def health() -> Dict[str, Any]:
    """What the application itself answers; the runner's state is part of it."""
    return {"runner": runner.state, "registered": runner.is_registered}


runner.start(wait=0)
