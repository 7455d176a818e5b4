"""Uses what one extra adds, in an environment with that extra alone: ``python extras.py EXTRA``.

``python extras.py --all WHEEL FOLDER`` makes an environment for each extra in the folder, installs the wheel
with the extra there, and runs this file in it. `.ci/run` does so with the oldest and the newest Python.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Callable


def no_extra() -> None:
    """Serve no broker, but define functions, and say what is missing."""
    from n8nrunner import Runner
    from n8nrunner.cli import main

    runner = Runner(name="smoke")
    runner.function(name="double")(lambda n=1: 2 * n)
    assert list(runner.functions) == ["double"]
    assert main(["broker"]) == 2
    assert main(["demo"]) == 2


def broker() -> None:
    """Run a task over the embedded broker."""
    from n8nrunner import Runner
    from n8nrunner.broker import Broker

    with Broker(auth_token="secret") as n8n:
        runner = Runner(n8n.url, auth_token="secret")
        runner.task("double")(lambda task: 2 * task.settings["n"])
        with runner:
            assert n8n.run_task("double", {"n": 21}, timeout=30) == 42


def demo() -> None:
    """Run a short demo."""
    from n8nrunner.cli import main

    assert main(["demo", "--tasks", "20"]) == 0


def node() -> None:
    """Write a node whose descriptions come from a docstring."""
    from n8nrunner import Runner

    runner = Runner(name="smoke")

    @runner.function
    def score(email: str) -> int:
        """Score a lead.

        Args:
            email: The address of the lead.
        """
        return len(email)

    with tempfile.TemporaryDirectory() as folder:
        runner.write_node(folder)
        written = "".join(path.read_text(encoding="utf-8") for path in Path(folder).rglob("*.js"))
    assert "The address of the lead" in written


def metrics() -> None:
    """Render the metrics of a runner."""
    from n8nrunner import Runner
    from n8nrunner.metrics import render

    assert b'n8nrunner_registered{runner="smoke"} 0.0' in render(Runner(name="smoke").snapshot())[0]


def reload() -> None:
    """Wait for a change of a file."""
    import threading

    from n8nrunner.reloading.watching import Watch

    changed = threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        watch = Watch(lambda changes: changed.set() if changes else Path(folder, "leads.py").touch())
        watch.start([folder])
        assert changed.wait(30)
        watch.stop()


def testing() -> None:
    """Call a function without n8n, and without pytest."""
    from n8nrunner import Runner
    from n8nrunner.testing import serve

    runner = Runner(name="smoke")
    runner.function(name="double")(lambda n=1: 2 * n)
    with serve(runner) as n8n:
        assert n8n.call("double", n=21)[0].json == {"result": 42}


def otel() -> None:
    """Trace a runner without an SDK, which is the application's."""
    from n8nrunner import Runner
    from n8nrunner.otel import instrument

    instrument(Runner(name="smoke"))


def notebook() -> None:
    """Find the widgets of the card, which is text outside of a kernel."""
    from n8nrunner import Runner
    from n8nrunner.notebook import _widgets

    assert _widgets() is not None
    assert list(Runner(name="smoke")._repr_mimebundle_()) == ["text/plain"]


#: The use of each extra. A new extra needs an entry.
SMOKES: dict[str, Callable[[], None]] = {
    "no extra": no_extra,
    "broker": broker,
    "demo": demo,
    "node": node,
    "metrics": metrics,
    "otel": otel,
    "testing": testing,
    "notebook": notebook,
    "reload": reload,
}


def try_all(wheel: str, folder: str) -> None:
    """Try each extra in an environment of its own."""
    for extra in SMOKES:
        environment = Path(folder) / extra.replace(" ", "-")
        venv.create(environment, with_pip=True)
        (python,) = [path for path in environment.glob("*/python*") if path.stem == "python"]
        wanted = wheel if SMOKES[extra] is no_extra else f"{wheel}[{extra}]"
        subprocess.run([python, "-m", "pip", "install", "-q", wanted], check=True)
        # The isolated mode leaves out the folder of this file, and all variables of Python.
        subprocess.run([python, "-I", "-W", "error", __file__, extra], check=True, cwd=folder)
        print(f"{extra}: passed", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--all":
        try_all(*sys.argv[2:])
    else:
        SMOKES[sys.argv[1]]()
