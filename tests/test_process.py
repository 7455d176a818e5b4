"""What only shows in a whole process: the interpreter's end, fork, a program's signals."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Dict

import pytest

from n8nrunner.broker import Broker, BrokerTaskError
from tests.conftest import LIMIT, TOKEN
from tests.processes import python

HEAD = """
import os, sys, threading, time
from n8nrunner import Runner, RunnerForked
runner = Runner(graceful_shutdown_timeout=1)

@runner.task("echo")
def echo(task):
    return [os.getpid(), task.settings]
"""


def env(broker: Broker) -> Dict[str, str]:
    return {"N8N_RUNNERS_TASK_BROKER_URI": broker.url, "N8N_RUNNERS_AUTH_TOKEN": TOKEN}


def test_a_script_that_ends_stops_its_runner(broker: Broker, tmp_path: Path) -> None:
    """A handler that waits for its cancellation does not keep the process, and n8n gets its answer."""
    script = tmp_path / "script.py"
    script.write_text(
        HEAD
        + """
@runner.task("wait")
def wait(task):
    started.set()
    task.wait_for_cancel(60)
    print("told:", task.cancel_reason, flush=True)

started = threading.Event()
runner.start()
print("started", flush=True)
started.wait(20)
"""
    )
    with python(str(script), env=env(broker)) as program:
        program.wait_for("started")
        task = broker.submit("wait", {})
        assert program.wait() == 0
        with pytest.raises(BrokerTaskError, match="stopped before the task had finished"):
            task.result(LIMIT)
        assert "told: The runner was stopped" in program.output
        assert "Traceback" not in program.output


def test_a_script_that_dies_stops_its_runner(broker: Broker, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(HEAD + "\nrunner.start()\nraise RuntimeError('the script itself')\n")
    with python(str(script), env=env(broker)) as program:
        assert program.wait() == 1
        assert "the script itself" in program.output


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_leaves_the_runner_to_the_parent(broker: Broker, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        HEAD
        + """
runner.start()
print("parent is", os.getpid(), flush=True)
child = os.fork()
if child == 0:
    print("child is", os.getpid(), runner.state, runner.is_registered, flush=True)
    try:
        runner.wait_registered(5)
    except RunnerForked as error:
        print("refused:", error, flush=True)
    runner.stop()
    sys.stdin.close()
    if "begin-afresh" in sys.argv:
        runner.start()
        print("afresh", runner.state, flush=True)
        runner.join(20)
    sys.exit(0)
_, status = os.waitpid(child, 0)
print("child ended with", status, flush=True)
runner.join(30)
"""
    )
    with python(str(script), env=env(broker)) as program:
        parent = int(program.wait_for("parent is").split()[2])
        assert "forked False" in program.wait_for("child is")
        program.wait_for("refused: this runner was started before the process forked")
        program.wait_for("child ended with 0")
        assert broker.run_task("echo", 1, timeout=LIMIT) == [parent, 1]
        assert broker.counts.registered == 1
        assert broker.counts.disconnected == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_runner_can_begin_afresh(broker: Broker, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        HEAD
        + """
runner.start()
child = os.fork()
if child == 0:
    runner.start()
    print("child", os.getpid(), runner.state, flush=True)
    runner.join(30)
    os._exit(0)
print("parent", os.getpid(), flush=True)
os.waitpid(child, 0)
"""
    )
    with python(str(script), env=env(broker)) as program:
        program.wait_for("child")
        broker.wait_for(lambda counts: counts.runners == 2)
        pids = {broker.run_task("echo", n, timeout=LIMIT)[0] for n in range(12)}
        assert len(pids) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_run_in_a_script_returns_after_a_signal_and_restores_it(broker: Broker, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        HEAD
        + """
import signal
before = signal.getsignal(signal.SIGINT)
print("going", flush=True)
runner.run()
print("after", signal.getsignal(signal.SIGINT) is before, runner.state, flush=True)
"""
    )
    with python(str(script), env=env(broker)) as program:
        broker.wait_for(lambda counts: counts.runners == 1)
        assert broker.run_task("echo", 1, timeout=LIMIT)[1] == 1
        program.signal(signal.SIGINT)
        assert program.wait() == 0
        assert "after True stopped" in program.output


def test_a_repl_session(broker: Broker) -> None:
    """An interactive session whose runner works in the background between its lines."""
    lines = [
        "from n8nrunner import Runner",
        "runner = Runner()",
        "f = runner.task('f')(lambda task: 'from the session')",
        "runner.start()",
        "print('state', runner.state)",
        "import threading; _ = threading.Event().wait(1.5)",
        "runner.stop()",
        "print('state', runner.state)",
    ]
    import subprocess

    process = subprocess.Popen(
        [sys.executable, "-i", "-q"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **env(broker)},
    )
    waiting = broker.submit("f", {}, timeout=LIMIT)
    output, _ = process.communicate("\n".join(lines) + "\n", timeout=30)
    assert waiting.result(LIMIT) == "from the session"
    assert "state running" in output
    assert "state stopped" in output
    assert "Traceback" not in output
    assert process.returncode == 0
