"""A program whose files change while its functions are called, over real sockets."""

from __future__ import annotations

import gc
import os
import re
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Callable

import pytest

from n8nrunner import Runner
from n8nrunner.broker import Broker
from n8nrunner.connection.loop import LinkThread
from n8nrunner.reloading import reloader
from tests.conftest import LIMIT, wait_until
from tests.reloading import gate
from tests.reloading.programs import LEADS, Served

NEW = LEADS.replace('"score": 1', '"score": 2')


def test_a_save_is_served_and_the_connection_stays(program: Served, broker: Broker) -> None:
    program.write(leads=LEADS)
    with program.serving():
        assert program.call() == {"score": 1}
        said = program.change(leads=NEW)
        assert said.endswith("after a change of leads.py (changed: score)")
        assert program.call() == {"score": 2}
        assert broker.counts.registered == 1


def test_no_call_is_lost_or_failed_during_reloads(program: Served, broker: Broker) -> None:
    program.write(leads=LEADS)
    end = threading.Event()

    def call_again_and_again() -> set[int]:
        seen = set()
        while not end.is_set():
            seen.add(program.call()["score"])
        return seen

    with program.serving(), ThreadPoolExecutor(3) as callers:
        seen = [callers.submit(call_again_and_again) for _ in range(3)]
        for number in range(2, 12):
            program.change(leads=LEADS.replace('"score": 1', f'"score": {number}'))
        end.set()
        assert set.union(*(each.result(LIMIT) for each in seen)) <= set(range(1, 12))
        assert program.call() == {"score": 11}
        assert broker.counts.registered == 1
        assert broker.counts.failed == 0


def test_a_running_call_finishes_with_the_old_code(program: Served) -> None:
    program.write(
        leads=LEADS.replace("    return", "    from tests.reloading import gate; gate.wait()\n    return")
    )
    with program.serving(), ThreadPoolExecutor(1) as caller:
        running = caller.submit(program.call)
        gate.wait_inside()
        program.change(leads=NEW)
        assert program.call() == {"score": 2}
        gate.open_()
        assert running.result(LIMIT) == {"score": 1}


def test_new_removed_and_changed_functions_are_shown_at_once(program: Served) -> None:
    more = "@runner.function\ndef extra(number: int) -> int:\n    return number\n"
    program.write(leads=LEADS)
    with program.serving():
        said = program.change(leads=LEADS.replace("email", "address") + more)
        assert said.endswith("(new: extra; changed: score)")
        assert program.described() == {"score": ["address"], "extra": ["number"]}
        assert program.call("extra", number=3) == {"result": 3}
        said = program.change(leads=LEADS)
        assert said.endswith("(changed: score; removed: extra)")
        assert program.described() == {"score": ["email"]}
        assert "has no function 'extra'; it has score" in str(program.call("extra", number=3))


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("def f(:\n", "SyntaxError"),
        ("def fail():\n    raise ValueError('of the user')\nfail()\n", "ValueError: of the user"),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
        ("import not_there\n", "No module named 'not_there'"),
        ("value = 1\n", "there is no Runner in 'leads'"),
        (LEADS.replace("email: str", "email: object()"), "of these (leads.py, line "),
    ],
)
def test_a_module_that_fails_keeps_the_old_code_until_a_save_mends_it(
    program: Served, broken: str, said: str
) -> None:
    program.write(leads=LEADS)
    with program.serving():
        program.write(leads=broken)
        record = program.wait_for("The old code of leads goes on")
        assert record.startswith("ERROR")
        assert said in record
        assert "reloader.py" not in record
        assert program.call() == {"score": 1}
        program.change(leads=NEW)
        assert program.call() == {"score": 2}
        assert len([record for record in program.log if "goes on" in record]) == 1


def test_the_wait_for_a_change_before_the_first_import_leaves_time_for_signals(
    program: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Windows, Ctrl-C does not end a wait without a limit."""

    class Changed(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is not None
            assert timeout < 1
            program.write(leads=LEADS)
            return super().wait(timeout)

    monkeypatch.setattr(reloader, "threading", SimpleNamespace(Event=Changed))
    program.write(leads="x =\n")
    with program.serving():
        assert program.call() == {"score": 1}


def test_the_text_of_an_exception_is_not_shown_without_details(program: Served) -> None:
    program.write(leads=LEADS.replace('name="leads"', 'name="leads", error_details=False'))
    with program.serving():
        program.write(leads="raise ValueError('secret of a customer')\n")
        assert program.wait_for("goes on").endswith("the module 'leads' cannot be imported")


def test_a_second_save_of_the_same_size_and_time_is_not_missed(program: Served) -> None:
    """Python's files in __pycache__ have the time of their source in seconds."""
    program.write(leads=LEADS)
    path = program.folder / "leads.py"
    os.utime(path, (1_000_000_000, 1_000_000_000))
    with program.serving():
        for number in (2, 3):
            new = program.folder / "new"
            new.write_text(LEADS.replace('"score": 1', f'"score": {number}'))
            os.utime(new, (1_000_000_000, 1_000_000_000))
            new.replace(path)
            line = program.wait_for("Reloaded")
            assert re.search(r"Reloaded leads in [\d.]+ m?s after a change of leads\.py", line), line
            assert program.call() == {"score": number}


def test_several_files_that_are_saved_together_are_imported_together(program: Served) -> None:
    program.write(
        leads="from helpers import VALUE\n" + LEADS.replace('"score": 1', '"score": VALUE'),
        helpers="from values import VALUE\n",
        values="VALUE = 1\n",
    )
    with program.serving():
        said = program.change(helpers="from values import OTHER as VALUE\n", values="OTHER = 5\n")
        assert "after a change of helpers.py, values.py" in said
        assert program.call() == {"score": 5}


PACKAGE = {
    "shop__in____init__": "",
    "shop__in__app": """
from n8nrunner import Runner

def make():
    return Runner(name="shop")

runner, other = make(), Runner()
""",
    "shop__in__jobs": "from .app import other, runner\nfrom .parts import price\n",
    "shop__in__parts__in____init__": "",
    "shop__in__parts__in__price": """
from ..app import runner

@runner.function
def price() -> int:
    return 1
""",
}


def test_a_package_with_a_factory_and_a_subpackage_is_reloaded_as_a_whole(program: Served) -> None:
    (program.folder / "shop").mkdir()
    program.write(**PACKAGE)
    with program.serving("shop.jobs:runner"):
        assert program.call("price", "n8nrunner.shop") == {"result": 1}
        source = PACKAGE["shop__in__parts__in__price"]
        program.change(shop__in__parts__in__price=source.replace("return 1", "return 2"))
        assert program.call("price", "n8nrunner.shop") == {"result": 2}
        # A module that appears in a package of the program.
        program.write(shop__in__parts__in__new=source.replace("price", "rebate"))
        program.change(shop__in__parts__in____init__="from . import new\n")
        assert program.call("rebate", "n8nrunner.shop") == {"result": 1}


def test_a_module_can_be_kept_with_its_values(program: Served) -> None:
    (program.folder / "shop").mkdir()
    jobs = """
import shop.parts
from n8nrunner import Runner
runner = Runner(name="leads")

@runner.function
def score() -> int:
    shop.parts.CALLS.append(1)
    return len(shop.parts.CALLS)
"""
    program.write(shop__in____init__="", shop__in__jobs=jobs, shop__in__parts="CALLS = []\n")
    with program.serving("shop.jobs", "shop.parts"):
        assert program.call() == {"result": 1}
        program.change(shop__in__jobs=jobs.replace("return len", "return 10 * len"))
        assert program.call() == {"result": 20}
        program.write(shop__in__parts="CALLS = [1, 2]\n")
        said = program.wait_for("WARNING")
        assert said.endswith(f"Start the command again to use the changes of shop{os.sep}parts.py (--keep)")
        assert program.call() == {"result": 30}


def test_a_deleted_module_keeps_the_old_code_until_it_is_back(program: Served) -> None:
    program.write(leads="import helpers\n" + LEADS, helpers="")
    with program.serving():
        (program.folder / "helpers.py").unlink()
        assert "No module named 'helpers'" in program.wait_for("goes on")
        assert program.call() == {"score": 1}
        program.change(helpers="x = 1\n")


def test_a_module_behind_a_symbolic_link_is_watched(
    program: Served, tmp_path_factory: pytest.TempPathFactory
) -> None:
    real = tmp_path_factory.mktemp("elsewhere") / "real.py"
    real.write_text("VALUE = 1\n")
    try:
        (program.folder / "linked.py").symlink_to(real)
    except OSError:
        pytest.skip("no symbolic links here")
    program.write(leads="from linked import VALUE\n" + LEADS.replace('"score": 1', '"score": VALUE'))
    with program.serving():
        real.write_text("VALUE = 2\n")
        program.wait_for("Reloaded")
        assert program.call() == {"score": 2}


def test_a_change_during_an_import_is_not_missed(program: Served) -> None:
    program.write(leads=LEADS)
    with program.serving():
        program.write(leads=f"from tests.reloading import gate\ngate.wait()\n{LEADS}")
        gate.wait_inside()
        assert program.call() == {"score": 1}
        program.write(leads=NEW)
        gate.open_()
        program.wait_for("Reloaded")
        program.wait_for("Reloaded")
        assert program.call() == {"score": 2}


def test_changed_settings_are_named_and_need_a_restart(program: Served) -> None:
    program.write(leads=LEADS)
    changed = 'name="leads", capacity=2, auth_token="new-token", executor=lambda: None'
    with program.serving():
        program.write(leads=LEADS.replace('name="leads"', changed))
        said = program.wait_for("WARNING")
        assert said.endswith("the changed settings of the runner 'leads': auth_token, capacity, executor")
        assert program.reloader.runner.config.capacity == 5
        program.change(leads=LEADS)
        assert not [record for record in program.log if "new-token" in record]


def test_the_new_runner_object_is_the_connected_runner(program: Served, broker: Broker) -> None:
    about = '{"score": [runner.state, runner.is_registered, sorted(runner.functions)]}'
    program.write(leads=LEADS)
    with program.serving():
        program.change(leads=LEADS.replace('{"score": 1}', about) + "runner.start()\n")
        assert program.call() == {"score": ["running", True, ["score"]]}
        assert broker.counts.registered == 1


TYPES = """
import contextlib
from n8nrunner import Runner

@contextlib.contextmanager
def context():
    global inside
    inside = VERSION
    yield

runner = Runner(name="leads", task_context=context)

@runner.on("started")
def started(call):
    global noted
    noted = VERSION

@runner.task("own", limit=VERSION)
def own(task):
    return [VERSION, inside, noted]
"""


def test_task_types_and_their_context_and_hooks_are_handed_over_together(
    program: Served, broker: Broker
) -> None:
    program.write(leads=f"VERSION = 1\n{TYPES}")
    with program.serving():
        assert broker.run_task("own", {}, timeout=LIMIT) == [1, 1, 1]
        said = program.change(leads=f"VERSION = 2\n{TYPES}")
        assert said.endswith("(changed: task 'own')")
        assert broker.run_task("own", {}, timeout=LIMIT) == [2, 2, 2]


HOOKED = """
import contextlib
from n8nrunner import Runner

@contextlib.contextmanager
def context():
    yield

def undelivered(result):
    pass

runner = Runner(name="leads", task_context=context, on_undelivered=undelivered)
runner.on("finished", lambda call: None)

@runner.function
def score() -> int:
    return VERSION
"""


def test_a_runner_that_ends_before_a_change_has_the_new_functions(
    new_runner: Callable[..., Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, new = new_runner(name="leads"), new_runner(name="leads")
    runner.function(name="old")(lambda: 1)
    new.function(name="new")(lambda: 2)
    runner.start()
    monkeypatch.setattr(LinkThread, "call", lambda thread, work: runner.stop(0))
    runner._take_from(new)
    assert list(runner.functions) == list(new.functions) == ["new"]


def test_old_modules_can_be_collected(program: Served) -> None:
    program.write(leads=f"VERSION = 0\n{HOOKED}")
    with program.serving():
        old = []
        for version in (1, 2, 3):
            old.append(weakref.ref(program.reloader.runner.functions["score"]))
            program.change(leads=f"VERSION = {version}\n{HOOKED}")
            assert program.call() == {"result": version}
        wait_until(lambda: gc.collect() >= 0 and not [each for each in old if each() is not None])


def test_functions_on_a_runner_of_another_folder_are_replaced_and_removed(
    program: Served, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    other: Path = tmp_path_factory.mktemp("other")
    (other / "shared_runner.py").write_text('from n8nrunner import Runner\nrunner = Runner(name="leads")\n')
    monkeypatch.syspath_prepend(other)
    head = "from shared_runner import runner\n"
    functions = "@runner.function\ndef {}() -> int:\n    return {}\n"
    program.write(leads=head + functions.format("one", 1) + functions.format("two", 2))
    with program.serving():
        program.change(leads=head + functions.format("one", 10))
        assert program.call("one") == {"result": 10}
        assert list(program.described()) == ["one"]


def test_processes_of_an_executor_keep_their_code(program: Served, tracker: None) -> None:
    executor = "executor=lambda: ProcessPoolExecutor(1, multiprocessing.get_context('spawn'))"
    source = "import multiprocessing\nfrom concurrent.futures import ProcessPoolExecutor\n" + LEADS
    source = source.replace('name="leads"', f'name="leads", capacity=1, {executor}')
    program.write(leads=source)
    with program.serving():
        assert program.call() == {"score": 1}
        program.write(leads=source.replace('"score": 1', '"score": 2'))
        assert "Start the command again" in program.wait_for("WARNING")
        assert program.call() == {"score": 1}
