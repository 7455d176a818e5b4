"""Signals in whole programs: what waits for nothing, what a fork inherits, and what stays as it was."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from n8nrunner.broker import Broker
from tests.conftest import LIMIT, TOKEN, wait_until
from tests.processes import Program, python

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

HEAD = """
import logging, multiprocessing, os, signal, sys, threading
from n8nrunner import Runner
runner = Runner(graceful_shutdown_timeout=1, capacity=6)
"""


def env(broker: Broker, **more: str) -> dict[str, str]:
    return {"N8N_RUNNERS_TASK_BROKER_URI": broker.url, "N8N_RUNNERS_AUTH_TOKEN": TOKEN, **more}


def script(folder: Path, code: str) -> str:
    path = folder / "script.py"
    path.write_text(HEAD + code)
    return str(path)


# --- signals wait for no lock ----------------------------------------------------------------------

#: A program whose log stands still: its stderr is a pipe that is full and has no reader.
STUCK = """
reader, writer = os.pipe()
os.set_blocking(writer, False)
try:
    while True:
        os.write(writer, bytes(4096))
except BlockingIOError:
    os.set_blocking(writer, True)
os.dup2(writer, 2)
logging.basicConfig(level=logging.INFO)

@runner.task("fail")
def fail(task):
    os.write(1, b"failing" + os.linesep.encode())
    raise ValueError("for the log")
"""


def test_a_signal_stops_a_runner_whose_log_stands_still(broker: Broker, tmp_path: Path) -> None:
    """Six failing tasks hold the lock of the log's handler."""
    code = (
        STUCK + "logging.disable(logging.INFO)\nrunner.run()\nprint(runner.state, flush=True)\nos._exit(7)\n"
    )
    with python(script(tmp_path, code), env=env(broker)) as program:
        for _ in range(6):
            broker.submit("fail", {})
        for _ in range(6):
            program.wait_for("failing")
        program.signal(signal.SIGTERM)
        program.wait_for("stopped")
        assert program.wait() == 7


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_a_program_whose_log_stands_still(
    broker: Broker, tmp_path: Path, number: signal.Signals
) -> None:
    """The main thread itself waits for the log, inside of `run()`."""
    code = (
        STUCK
        + """
class Starting(logging.Filter):
    def filter(self, record):
        print("about to log", flush=True)
        return True

logging.getLogger().handlers[0].addFilter(Starting())
runner = Runner()  # without a handler, which the main thread logs
runner.run()
"""
    )
    with python(script(tmp_path, code), env=env(broker)) as program:
        program.wait_for("about to log")
        program.signal(number)
        wait_until(lambda: pending(program, number) is False)
        program.signal(number)
        assert program.wait() == 128 + number


def pending(program: Program, number: int) -> bool:
    """Return whether a signal that was sent to a program has not been delivered yet."""
    for line in Path(f"/proc/{program.process.pid}/status").read_text().splitlines():
        if line.startswith("ShdPnd:"):
            return bool(int(line.split()[1], 16) & (1 << (number - 1)))
    return False


@pytest.mark.parametrize(("level", "code"), [("WARNING", 5), ("INFO", 1)])
def test_the_command_ends_although_its_log_stands_still(
    broker: Broker, tmp_path: Path, level: str, code: int
) -> None:
    """With INFO the links' thread waits for the log as well, so the runner cannot stop."""
    silence = f"""
def passes(record):
    print("to be logged:", record.getMessage(), flush=True)
    return record.levelno >= logging.{level}

logging.getLogger("n8nrunner").addFilter(passes)
"""
    (tmp_path / "jobs.py").write_text(HEAD + STUCK + silence)
    with python("-m", "n8nrunner", "run", "jobs", env=env(broker), cwd=tmp_path) as program:
        program.wait_for("to be logged: Registered")  # on the links' thread
        if level == "WARNING":
            for _ in range(6):
                broker.submit("fail", {})
            for _ in range(6):
                program.wait_for("failing")
        program.signal(signal.SIGTERM)
        assert program.wait() == code


# --- what a fork inherits --------------------------------------------------------------------------

POOL = """
def square(number):
    return number * number

@runner.task("pool")
def pool(task):
    with multiprocessing.get_context("fork").Pool(2) as pool:  # leaving it sends SIGTERM to its processes
        return pool.map(square, task.settings)

@runner.task("child")
def child(task):
    process = multiprocessing.get_context("fork").Process(target=threading.Event().wait)
    process.start()
    process.terminate()
    process.join(20)
    return process.exitcode

@runner.task("handlers")
def handlers(task):
    reader, writer = os.pipe()
    if os.fork() == 0:
        found = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        os.write(writer, repr(found).encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as lines:
        return lines.read()
"""


def test_children_of_a_fork_get_their_own_signals(broker: Broker, tmp_path: Path) -> None:
    with python(script(tmp_path, POOL + "runner.run()\n"), env=env(broker)) as program:
        for _ in range(6):
            assert broker.run_task("pool", [1, 2, 3], timeout=LIMIT) == [1, 4, 9]
        assert broker.run_task("child", {}, timeout=LIMIT) == -signal.SIGTERM
        expected = repr([signal.default_int_handler, signal.SIG_DFL])
        assert broker.run_task("handlers", {}, timeout=LIMIT) == expected
        program.signal(signal.SIGTERM)
        assert program.wait() == 0


def test_children_of_the_command_get_their_own_signals(broker: Broker, tmp_path: Path) -> None:
    (tmp_path / "jobs.py").write_text(HEAD + POOL)
    with python("-m", "n8nrunner", "run", "jobs", env=env(broker), cwd=tmp_path) as program:
        assert broker.run_task("pool", [1, 2, 3], timeout=LIMIT) == [1, 4, 9]
        assert broker.run_task("child", {}, timeout=LIMIT) == -signal.SIGTERM
        program.signal(signal.SIGINT)
        assert program.wait() == 0


def test_a_signal_right_after_a_fork_is_the_child_s(tmp_path: Path) -> None:
    """It arrives before the child has restored the earlier handlers."""
    code = """
import os, signal
os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGTERM))  # the first to be called
from n8nrunner import process

with process.signals():
    child = os.fork()
    if child == 0:
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    print("ended by", os.waitstatus_to_exitcode(status), "mask", signal.pthread_sigmask(0, ()))
"""
    with python("-c", code, cwd=tmp_path) as program:
        assert program.wait() == 0
        assert f"ended by {-signal.SIGTERM} mask set()" in program.output


# --- what stays as it was --------------------------------------------------------------------------


def test_an_ignored_signal_stays_ignored(broker: Broker, tmp_path: Path) -> None:
    """As under `nohup`, and in a background job of a shell."""
    code = 'runner.run()\nprint("after", signal.getsignal(signal.SIGINT) == signal.SIG_IGN, flush=True)\n'
    arguments = [sys.executable, "-c", START_IGNORING, sys.executable, script(tmp_path, code)]
    with Program(arguments, env(broker)) as program:
        broker.wait_for(lambda counts: counts.runners == 1)
        program.signal(signal.SIGINT)
        program.signal(signal.SIGINT)
        program.signal(signal.SIGTERM)
        assert program.wait() == 0
        assert "after True" in program.output


START_IGNORING = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_the_command_leaves_an_ignored_signal_ignored(broker: Broker, tmp_path: Path) -> None:
    (tmp_path / "jobs.py").write_text(HEAD + 'runner.task("echo")(lambda task: task.settings)\n')
    arguments = [sys.executable, "-c", START_IGNORING, sys.executable, "-m", "n8nrunner", "run", "jobs"]
    with Program(arguments, env(broker), cwd=tmp_path) as program:
        program.wait_for("Registered")
        program.signal(signal.SIGINT)
        program.signal(signal.SIGINT)
        assert broker.run_task("echo", 1, timeout=LIMIT) == 1
        program.signal(signal.SIGTERM)
        assert program.wait() == 0


def test_a_handler_of_c_code_stays_in_place(broker: Broker, tmp_path: Path) -> None:
    """`signal.getsignal` is None for it. A C library of the process installs one before Python starts."""
    code = """
real = signal.getsignal
signal.getsignal = lambda number: None if number == signal.SIGINT else real(number)
real_signal = signal.signal
def install(number, handler):
    assert number != signal.SIGINT, "the handler of C code is gone"
    return real_signal(number, handler)
signal.signal = install
runner.run()
print("after", runner.state, flush=True)
"""
    with python(script(tmp_path, code), env=env(broker)) as program:
        broker.wait_for(lambda counts: counts.runners == 1)
        program.signal(signal.SIGTERM)
        assert program.wait() == 0
        assert "after stopped" in program.output


# --- the first process of a container --------------------------------------------------------------

IMPORTING = """
import os, time
print("importing as process", os.getpid(), flush=True)
while True:
    time.sleep(0.01)
"""


def can_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    command: list[str] = ["unshare", "--pid", "--fork", "true"]
    return subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_process_1_ends_at_a_signal_while_it_imports(tmp_path: Path, number: signal.Signals) -> None:
    if not can_unshare():
        pytest.skip("no PID namespaces here")
    (tmp_path / "jobs.py").write_text(IMPORTING)
    arguments = ["unshare", "--pid", "--fork", sys.executable, "-m", "n8nrunner", "run", "jobs"]
    with Program(arguments, cwd=tmp_path) as program:
        program.wait_for("importing as process 1")
        pid = program.process.pid
        (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        os.kill(int(child), number)
        assert program.wait() == 128 + number


def test_the_command_as_process_1_has_a_signal_handler(tmp_path: Path) -> None:
    """The same where there are no PID namespaces: the exit code is the handler's."""
    (tmp_path / "jobs.py").write_text(IMPORTING)
    code = "import os; os.getpid = lambda: 1; from n8nrunner.__main__ import main; main()"
    with python("-c", code, "run", "jobs", cwd=tmp_path) as program:
        program.wait_for("importing")
        program.signal(signal.SIGTERM)
        assert program.wait() == 128 + signal.SIGTERM
