"""Programs that a tool imports a second time: `multiprocessing`, and the reloaders of Flask and Django."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from n8nrunner.broker import Broker
from tests.conftest import LIMIT, TOKEN
from tests.processes import python

HEAD = """
import multiprocessing, os, threading
from n8nrunner import Runner
runner = Runner(graceful_shutdown_timeout=1)

@runner.task("pid")
def pid(task):
    return os.getpid()

def wait_at(barrier):
    barrier.wait()

def double(number):
    return 2 * number
"""


def env(broker: Broker) -> dict[str, str]:
    return {"N8N_RUNNERS_TASK_BROKER_URI": broker.url, "N8N_RUNNERS_AUTH_TOKEN": TOKEN}


# --- multiprocessing --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize("start", ["runner.start()", "runner.run()"])
def test_children_that_import_the_main_script_start_nothing(
    broker: Broker, tmp_path: Path, method: str, start: str
) -> None:
    """The pool's processes would be runners that outlive the program."""
    if sys.platform == "win32" and method == "forkserver":
        pytest.skip("no fork server here")
    script = tmp_path / "script.py"
    in_a_thread = """
@runner.task("pool")
def pool(task):
    context = multiprocessing.get_context(task.settings)
    barrier = context.Barrier(3)  # which all three processes reach after they have imported this script
    with context.Pool(3, initializer=wait_at, initargs=(barrier,)) as pool:
        return pool.map(double, range(10))
"""
    script.write_text(
        HEAD + in_a_thread + f"{start}\nif __name__ == '__main__':\n    threading.Event().wait(60)\n"
    )
    with python(str(script), env=env(broker)) as program:
        assert broker.run_task("pool", method, timeout=3 * LIMIT) == [2 * number for number in range(10)]
        assert broker.counts.registered == 1
        said = program.wait_for("Not starting the runner: multiprocessing imports the program again")
        assert '__name__ == "__main__"' in said
    assert program.output.count("Not starting") == 1


def test_a_child_may_start_a_runner_once_the_main_script_is_imported(broker: Broker, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        HEAD
        + """
def serve():
    runner.start()
    print("serving", flush=True)
    runner.join(60)

if __name__ == "__main__":
    child = multiprocessing.get_context("spawn").Process(target=serve, daemon=True)
    child.start()
    print("child", child.pid, flush=True)
    child.join()
"""
    )
    with python(str(script), env=env(broker)) as program:
        child = int(program.wait_for("child").split()[1])
        program.wait_for("serving")
        assert broker.run_task("pid", {}, timeout=LIMIT) == child
    assert "Not starting" not in program.output


def test_a_module_that_a_pool_imports_to_unpickle_a_call_starts_nothing(
    broker: Broker, tmp_path: Path
) -> None:
    """The main script is imported by then. Unpickling the function of the call imports its module."""
    (tmp_path / "jobs.py").write_text(HEAD + "runner.start(wait=0)\n")
    script = tmp_path / "script.py"
    script.write_text(
        """
import multiprocessing
if __name__ == "__main__":
    import jobs
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print("doubled", pool.map(jobs.double, [4]), flush=True)
    jobs.runner.wait_registered(20)
    jobs.threading.Event().wait(60)
"""
    )
    with python(str(script), env=env(broker)) as program:
        program.wait_for("Not starting the runner: multiprocessing imports")
        program.wait_for("doubled [8]")
        broker.wait_for(lambda counts: counts.runners == 1)
        assert broker.run_task("pid", {}, timeout=LIMIT) == program.process.pid
        assert broker.counts.registered == 1


# --- reloaders --------------------------------------------------------------------------------------

FLASK = """
from flask import Flask
app = Flask(__name__)
"""


def parent_of(pid: int) -> int:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")


@needs_proc
@pytest.mark.parametrize("option", ["--debug", "--reload"])
def test_flask_run_starts_nothing_in_the_reloader(broker: Broker, tmp_path: Path, option: str) -> None:
    pytest.importorskip("flask")
    (tmp_path / "shop.py").write_text(FLASK + HEAD + "runner.start(wait=0)\n")
    if option == "--debug":
        arguments = ["--app", "shop", "--debug", "run", "--port", "0"]
    else:
        arguments = ["--app", "shop", "run", "--port", "0", "--reload"]
    with python("-m", "flask", *arguments, env=env(broker), cwd=tmp_path) as program:
        serving = broker.run_task("pid", {}, timeout=2 * LIMIT)
        assert parent_of(serving) == program.process.pid
        assert broker.counts.registered == 1
    assert "in its parent process" not in program.output


@needs_proc
@pytest.mark.parametrize("arguments", [["run"], ["--debug", "run", "--no-reload"]])
def test_flask_run_without_its_reloader_starts_the_runner(
    broker: Broker, tmp_path: Path, arguments: list[str]
) -> None:
    pytest.importorskip("flask")
    (tmp_path / "shop.py").write_text(FLASK + HEAD + "runner.start(wait=0)\n")
    command = ["-m", "flask", "--app", "shop", *arguments, "--port", "0"]
    with python(*command, env=env(broker), cwd=tmp_path) as program:
        assert broker.run_task("pid", {}, timeout=2 * LIMIT) == program.process.pid


@needs_proc
@pytest.mark.parametrize("guard", [True, False])
def test_the_child_of_a_reloader_warns_about_a_runner_in_its_parent(
    broker: Broker, tmp_path: Path, guard: bool
) -> None:
    """With `app.run(debug=True)`, the parent process starts the runner before it calls `app.run`."""
    pytest.importorskip("flask")
    start = 'if os.environ.get("WERKZEUG_RUN_MAIN") == "true":\n    ' if guard else ""
    script = tmp_path / "shop.py"
    script.write_text(FLASK + HEAD + start + "runner.start()\napp.run(debug=True, port=0)\n")
    with python(str(script), env=env(broker)) as program:
        if guard:
            assert parent_of(broker.run_task("pid", {}, timeout=2 * LIMIT)) == program.process.pid
        else:
            said = program.wait_for("in its parent process")
            assert f"({program.process.pid})" in said
            assert "WERKZEUG_RUN_MAIN" in said
    assert ("in its parent process" in program.output) is not guard


@needs_proc
@pytest.mark.parametrize("reloads", [True, False])
def test_runserver_starts_nothing_in_the_reloader(broker: Broker, tmp_path: Path, reloads: bool) -> None:
    """The parent process sets Django up, and so calls `AppConfig.ready`."""
    pytest.importorskip("django")
    site = tmp_path / "site"
    site.mkdir()
    (site / "shop").mkdir()
    (site / "shop" / "__init__.py").touch()
    (site / "shop" / "apps.py").write_text(
        HEAD
        + """
from django.apps import AppConfig

class Shop(AppConfig):
    name = "shop"

    def ready(self):
        runner.start(wait=0)
"""
    )
    (site / "settings.py").write_text(
        'SECRET_KEY = "x"\nDEBUG = True\nINSTALLED_APPS = ["shop"]\nROOT_URLCONF = "urls"\nUSE_TZ = True\n'
    )
    (site / "urls.py").write_text("urlpatterns = []\n")
    arguments = ["runserver", "127.0.0.1:0", *([] if reloads else ["--noreload"])]
    variables = {**env(broker), "DJANGO_SETTINGS_MODULE": "settings"}
    with python("-m", "django", *arguments, env={**variables, "PYTHONPATH": str(site)}, cwd=site) as program:
        serving = broker.run_task("pid", {}, timeout=2 * LIMIT)
        assert (parent_of(serving) if reloads else serving) == program.process.pid
        assert broker.counts.registered == 1
    assert "in its parent process" not in program.output
