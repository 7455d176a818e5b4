"""Whole processes: the end of the interpreter, fork, and the signals of a program."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from n8nrunner.broker import Broker, BrokerTaskError
from tests.conftest import LIMIT, TOKEN
from tests.connection.servers import Server
from tests.processes import python

HEAD = """
import logging, multiprocessing, os, sys, threading, time
from concurrent.futures import ThreadPoolExecutor, ProcessPoolExecutor
from n8nrunner import Runner, RunnerForked
runner = Runner(graceful_shutdown_timeout=1)

@runner.task("echo")
def echo(task):
    return [os.getpid(), task.settings]
"""


def env(broker: Broker) -> dict[str, str]:
    return {
        "N8N_RUNNERS_TASK_BROKER_URI": broker.url,
        "N8N_RUNNERS_AUTH_TOKEN": TOKEN,
        # From Python 3.12 on, a fork with threads warns, in the middle of a line that a test reads.
        "PYTHONWARNINGS": "ignore::DeprecationWarning",
    }


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


# --- the main thread ends before the program ----------------------------------------------------------

#: A thread of the application that lives until the task "end".
THREAD = """
logging.basicConfig(level=logging.INFO)
ended = threading.Event()

@runner.task("end")
def end(task):
    ended.set()

threading.Thread(target=ended.wait, name="of the application").start()
"""


def test_a_runner_goes_on_while_a_thread_of_the_application_lives(broker: Broker, tmp_path: Path) -> None:
    """The main thread is at its end, and the executor that the runner was given still takes tasks."""
    script = tmp_path / "script.py"
    script.write_text(
        HEAD.replace("Runner(", "Runner(executor=ThreadPoolExecutor(1), ") + THREAD + "runner.start()\n"
    )
    with python(str(script), env=env(broker)) as program:
        program.wait_for("The runner goes on until these threads end: of the application")
        assert broker.run_task("echo", 1, timeout=LIMIT)[1] == 1
        assert broker.run_task("echo", 2, timeout=LIMIT)[1] == 2
        broker.run_task("end", {}, timeout=LIMIT)
        assert program.wait() == 0
        assert "The program has ended" in program.output


@pytest.mark.parametrize("wait", ["", "while not runner.is_registered: time.sleep(0.01)"])
def test_run_in_a_thread_outlives_the_main_thread_and_stops_at_a_signal(
    broker: Broker, tmp_path: Path, wait: str
) -> None:
    """Also if the main thread ends before `run` has begun."""
    if sys.version_info[:2] == (3, 12) and not wait:
        pytest.skip("Python 3.12 starts no thread any more")
    script = tmp_path / "script.py"
    code = f"logging.basicConfig(level=20)\nthreading.Thread(target=runner.run).start()\n{wait}\n"
    script.write_text(HEAD + code)
    with python(str(script), env=env(broker)) as program:
        program.wait_for("The runner goes on until")
        assert broker.run_task("echo", 1, timeout=LIMIT)[1] == 1
        if sys.platform != "win32":
            program.signal(signal.SIGTERM)
            program.wait_for("Stopping after SIGTERM")
            assert program.wait() == 0
            broker.wait_for(lambda counts: counts.runners == 0)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_after_the_main_thread_stops_the_runner(broker: Broker, tmp_path: Path) -> None:
    """As without a runner, it ends the wait for the application's threads."""
    script = tmp_path / "script.py"
    script.write_text(HEAD + THREAD + "runner.start()\n")
    with python(str(script), env=env(broker)) as program:
        program.wait_for("The runner goes on until")
        program.signal(signal.SIGINT)
        broker.wait_for(lambda counts: counts.runners == 0)


def test_workers_of_executors_do_not_keep_the_runner(broker: Broker, tmp_path: Path) -> None:
    """Neither does a process pool's thread, nor a thread that waits for the end of the main thread."""
    script = tmp_path / "script.py"
    script.write_text(
        HEAD
        + """
if __name__ == "__main__":
    threads = ThreadPoolExecutor(1)
    processes = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    processes.submit(os.getpid).result()
    threads.submit(lambda: runner.join(20))
    threading.Thread(target=threading.main_thread().join).start()
    runner.start()
    print("end of the main thread", flush=True)
"""
    )
    with python(str(script), env=env(broker)) as program:
        program.wait_for("end of the main thread")
        assert program.wait() == 0
        assert "goes on until" not in program.output


def test_the_runner_reconnects_after_the_main_thread_s_end_or_fails(broker: Broker, tmp_path: Path) -> None:
    """The runner comes back; on Python 3.12, which starts no thread for that, it fails and says so."""
    script = tmp_path / "script.py"
    script.write_text(
        HEAD
        + THREAD
        + """
def watch():
    try:
        runner.join()
    except Exception as error:
        print("failed:", error, flush=True)
        ended.set()

runner.start()
threading.Thread(target=watch, daemon=True).start()
"""
    )
    with python(str(script), env=env(broker)) as program:
        program.wait_for("The runner goes on until")
        broker.kill()
        if sys.version_info[:2] == (3, 12):
            program.wait_for("failed: can't create new thread")
            assert program.wait() == 0
            assert "ERROR:n8nrunner:The runner has failed: can't create new thread" in program.output
            return
        with Broker(auth_token=TOKEN, port=broker.port) as restarted:
            assert restarted.run_task("echo", 1, timeout=LIMIT)[1] == 1
            restarted.run_task("end", {}, timeout=LIMIT)
            assert program.wait() == 0


def test_a_process_pool_that_is_imported_later_is_not_shut_down_first(broker: Broker, tmp_path: Path) -> None:
    """A second start registers the exit hook after the pool's."""
    script = tmp_path / "script.py"
    script.write_text(
        HEAD.replace(", ProcessPoolExecutor", "")
        + """
if __name__ == "__main__":
    logging.basicConfig(level=20)
    ended = threading.Event()

    @runner.task("end")
    def end(task):
        ended.set()

    runner.start()
    runner.stop()
    from concurrent.futures import ProcessPoolExecutor
    pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    pool.submit(abs, 1).result()

    @runner.task("elsewhere")
    def elsewhere(task):
        return pool.submit(abs, -5).result()

    runner.start()
    threading.Thread(target=ended.wait).start()
"""
    )
    with python(str(script), env=env(broker)) as program:
        program.wait_for("The runner goes on until")
        assert broker.run_task("elsewhere", {}, timeout=LIMIT) == 5
        broker.run_task("end", {}, timeout=LIMIT)
        assert program.wait() == 0


def test_no_runner_starts_when_the_program_is_ending(broker: Broker, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        HEAD
        + """
def late():
    threading.main_thread().join()
    try:
        runner.start()
    except Exception as error:
        print(type(error).__name__, error, runner.state, flush=True)

runner.start()
runner.stop()
threading.Thread(target=late).start()
"""
    )
    with python(str(script), env=env(broker)) as program:
        program.wait_for("RunnerStopped the program is ending, so the runner cannot be started stopped")
        assert program.wait() == 0


def test_a_script_that_ends_right_after_its_start_says_so(broker: Broker, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(HEAD + "runner.start()\n")
    with python(str(script), env=env(broker)) as program:
        assert "runner.run() or runner.join()" in program.wait_for("The program has ended")
        assert program.wait() == 0


# --- fork ---------------------------------------------------------------------------------------------


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
def test_a_forked_runner_can_be_started_in_the_child(broker: Broker, tmp_path: Path) -> None:
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("step", ["log-in", "upgrade", "handshake"])
def test_a_fork_during_an_attempt_to_connect_leaves_the_socket_to_the_parent(
    step: str, tmp_path: Path
) -> None:
    """The peer sees the connection end with the parent, although the child lives on."""
    waiting, ended = threading.Event(), threading.Event()

    def script(accepted: socket.socket) -> None:
        accepted.settimeout(LIMIT)
        if step == "upgrade" and accepted.recv(10_000).startswith(b"POST "):
            body = b'{"data":{"token":"grant"}}'
            accepted.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            return
        if step != "upgrade":
            assert accepted.recv(10_000)
        waiting.set()
        while accepted.recv(10_000):
            pass
        ended.set()

    path = tmp_path / "script.py"
    path.write_text(
        """
import os, sys
from n8nrunner import Runner
token = "grant_token" if sys.argv[2] == "handshake" else "auth_token"
runner = Runner(sys.argv[1], **{token: "secret"})
runner.task("any")(lambda task: None)
runner.start(wait=0)
input()
if os.fork() == 0:
    print("the child runs", flush=True)
    os.read(0, 1)
    os._exit(0)
os.read(0, 1)
"""
    )
    with Server(script) as server:
        url = server.url.replace("http:", "https:") if step == "handshake" else server.url
        process = subprocess.Popen(
            [sys.executable, str(path), url, step],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONWARNINGS": "ignore::DeprecationWarning"},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert waiting.wait(LIMIT)
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"the child runs\n"
            assert not ended.is_set()
            process.kill()
            assert ended.wait(LIMIT)
        finally:
            process.kill()
            process.stdin.close()  # ends the child
            process.stdout.read()
            process.stdout.close()
            process.wait(LIMIT)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_task_of_a_forked_child_can_be_cancelled(tmp_path: Path) -> None:
    """A thread of the parent may hold the lock of all cancellations at the moment of the fork."""
    path = tmp_path / "script.py"
    path.write_text(
        """
import os
import n8nrunner.engine
from n8nrunner import task
with task._cancel_lock:
    child = os.fork()
    if child == 0:
        os._exit(0 if task._cancel_lock.acquire(timeout=0) else 1)
os._exit(os.WEXITSTATUS(os.waitpid(child, 0)[1]))
"""
    )
    with python(str(path)) as program:
        assert program.wait() == 0


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


def test_a_runner_works_in_a_repl_session(broker: Broker) -> None:
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
