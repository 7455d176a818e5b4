"""The samples do what they say, each as it is started by who tries it.

The notebook is in tests/notebooks, and tests/n8n has those with nodes in workflows.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from n8nrunner.broker import Broker, BrokerTaskCancelled, BrokerTaskError
from tests.conftest import LIMIT, TOKEN, wait_until
from tests.processes import Program, python

ROOT = Path(__file__).parent.parent
DJANGO = ROOT / "samples" / "django_orders"

needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


def variables(broker: Broker) -> dict[str, str]:
    return {"N8N_RUNNERS_TASK_BROKER_URI": broker.url, "N8N_RUNNERS_AUTH_TOKEN": TOKEN}


def call(broker: Broker, runner_name: str, function: str, **more: Any) -> Any:
    """Return the items that a function makes of the arguments of one item."""
    files = more.pop("files", {})
    settings = {"version": 1, "function": function, "calls": [{"item": 0, "arguments": more}]}
    task_type = f"n8nrunner.{runner_name}"
    answer = broker.run_task(task_type, settings, items=[{"json": {}}], files=files, timeout=LIMIT)
    if answer["errors"]:
        raise AssertionError(answer["errors"][0]["message"])
    return answer["items"]


def json_of(items: list[dict[str, Any]]) -> list[Any]:
    return [item["json"] for item in items]


@contextlib.contextmanager
def running(*arguments: str, env: dict[str, str], cwd: Any = ROOT) -> Iterator[Program]:
    """A sample that ends as it should at SIGTERM."""
    with python(*arguments, env=env, cwd=cwd) as program:
        yield program
        program.signal(signal.SIGTERM)
        assert program.wait() == 0


# --- a service of raw tasks -----------------------------------------------------------------------


@needs_signals
def test_the_enrich_sample_serves_its_tasks(broker: Broker) -> None:
    with running("-m", "n8nrunner", "run", "samples.enrich", env=variables(broker)):
        items = [{"json": {"name": "Ada"}}, {"json": {}}]
        (greeted,) = broker.run_task("enrich", {}, items=items[:1], timeout=LIMIT)
        assert greeted["json"]["greeting"] == "Hello Ada"
        with pytest.raises(BrokerTaskError, match="Item 1 has no name"):
            broker.run_task("enrich", {}, items=items, timeout=LIMIT)
        task = broker.submit("sum-csv", {}, files={(0, "data"): b"amount\n1.5\n2\n"})
        assert task.result(LIMIT)[0]["json"] == {"rows": 2, "total": 3.5}
        assert task.saved_files[0].data == b"2 rows, 3.50 in total\n"
        assert broker.run_task("count", {"steps": 3, "seconds": 0}, timeout=LIMIT) == {"counted": 3}
        slow = broker.submit("count", {"steps": 3, "seconds": 60})
        wait_until(lambda: slow.task_id)
        slow.cancel()
        with pytest.raises(BrokerTaskCancelled):
            slow.result(LIMIT)
        assert broker.run_task("count", {"steps": 1, "seconds": 0}, timeout=LIMIT) == {"counted": 1}


def test_the_node_of_raw_tasks_is_javascript() -> None:
    node = ROOT / "samples" / "node" / "RunnerJob.node.js"
    try:
        subprocess.run(["node", "--check", str(node)], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("Node.js is not on this machine")


#: Runs the sample node over 600 items, a task for each. Prints its output or error, and the number of tasks.
RUNNER_JOB = """(async () => {
    const { RunnerJob } = require(%s);
    const abort = new AbortController();
    let tasks = 0;
    const parameters = { mode: 'runOnceForEachItem', taskType: 'enrich', settings: '{}', sendItems: true };
    const output = await new RunnerJob().execute.call({
        getInputData: () => Array.from({ length: 600 }, () => ({ json: {} })),
        getNode: () => ({ name: 'Runner Job' }),
        getNodeParameter: (name) => parameters[name],
        continueOnFail: () => true,
        getExecutionCancelSignal: () => abort.signal,
        startJob: async () => {
            tasks += 1;
            %s
        },
    }).catch((error) => error.message);
    const found = Array.isArray(output) ? output[0].map(({ json }) => json.error) : output;
    console.log(JSON.stringify([found, tasks]));
})()"""


@pytest.mark.parametrize(
    ("start", "output", "tasks"),
    [
        ("if (tasks === 2) abort.abort(); return { ok: true, result: {} };", "The execution was stopped", 2),
        ("setImmediate(() => abort.abort()); return new Promise(() => {});", "The execution was stopped", 1),
        ("throw new Error('Task request timed out');", ["Task request timed out"] * 600, 1),
        (
            "return { ok: false, error: new Error('Node execution failed') };",
            ["Node execution failed"] * 600,
            1,
        ),
        ("return { ok: false, error: { message: 'Bad item' } };", ["Bad item"] * 600, 600),
    ],
)
def test_the_node_of_raw_tasks_sends_no_task_that_cannot_succeed(start: str, output: Any, tasks: int) -> None:
    if shutil.which("node") is None:
        pytest.skip("Node.js is not on this machine")
    program = RUNNER_JOB % (json.dumps(str(ROOT / "samples" / "node" / "RunnerJob.node.js")), start)
    done = subprocess.run(["node", "-e", program], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == [output, tasks]


# --- a script with files --------------------------------------------------------------------------


@needs_signals
def test_the_report_sample_serves_a_workflow(broker: Broker) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (["region", "amount"], ["north", 10], ["south", 2.5], [None, None], ["north", 1]):
        book.active.append(row)
    content = io.BytesIO()
    book.save(content)
    spreadsheet = {"$file": "data", "fileName": "sales.xlsx"}

    with running("-m", "samples.report", env=variables(broker)):
        files = {(0, "data"): content.getvalue()}
        settings = {"version": 1, "function": "summarize"}
        settings["calls"] = [{"item": 0, "arguments": {"spreadsheet": spreadsheet}}]
        task = broker.submit("n8nrunner.report", settings, items=[{"json": {}}], files=files)
        (item,) = task.result(LIMIT)["items"]
        assert item["json"].pop("report")["fileName"] == "report.xlsx"
        assert item["json"] == {"rows": 3, "total": 13.5, "groups": {"north": 11, "south": 2.5}}
        assert item["binary"]["report"]["fileName"] == "report.xlsx"
        (saved,) = task.saved_files
        report = openpyxl.load_workbook(io.BytesIO(saved.data))["Report"]
        assert list(report.iter_rows(values_only=True)) == [
            ("region", "amount"),
            ("north", 11),
            ("south", 2.5),
        ]
        with pytest.raises(AssertionError, match="The spreadsheet has no column 'country'"):
            call(broker, "report", "summarize", spreadsheet=spreadsheet, group_by="country", files=files)
        with pytest.raises(AssertionError, match=r"sales.xlsx is not an Excel file"):
            call(broker, "report", "summarize", spreadsheet=spreadsheet, files={(0, "data"): b"no"})
        with pytest.raises(AssertionError, match="Row 2: expected a number under 'region', got 'north'"):
            call(broker, "report", "summarize", spreadsheet=spreadsheet, amount="region", files=files)


# --- a Flask application --------------------------------------------------------------------------


def test_the_flask_shop_serves_its_functions(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in variables(broker).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SHOP_DATABASE", str(tmp_path / "shop.sqlite3"))
    monkeypatch.syspath_prepend(str(ROOT))
    from samples import flask_shop

    assert flask_shop.runner.state == "new"  # no command of flask's starts it

    opened: list[sqlite3.Connection] = []

    class Noted(sqlite3.Connection):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            opened.append(self)

    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path: real(path, factory=Noted, check_same_thread=False))
    try:
        created = flask_shop.app.test_cli_runner().invoke(args=["init-db"])
        assert created.exit_code == 0
        from samples import flask_shop_wsgi

        assert flask_shop_wsgi.app is flask_shop.app
        fruit = [{"name": "apple", "pieces": 7}, {"name": "pear", "pieces": 0}]
        assert json_of(call(broker, "shop", "stock")) == fruit
        assert json_of(call(broker, "shop", "sell", fruit="apple", pieces=2)) == [
            {"fruit": "apple", "left": 5}
        ]
        with pytest.raises(AssertionError, match="There are no 1 pieces of pear"):
            call(broker, "shop", "sell", fruit="pear")
        page = flask_shop.app.test_client().get("/").get_json()
        assert page["stock"][0] == {"name": "apple", "pieces": 5}
        assert page["n8n"] == {"runner": "running", "registered": True}
    finally:
        flask_shop.runner.stop()
    # One for each task and request, and none of them is open any more.
    assert len(opened) == 5
    for connection in opened:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("select 1")


def test_the_flask_shop_serves_calls_under_the_reloader(broker: Broker, tmp_path: Path) -> None:
    env = {**variables(broker), "SHOP_DATABASE": str(tmp_path / "shop.sqlite3"), "PORT": "0"}
    with python("-m", "flask", "--app", "samples.flask_shop", "init-db", env=env, cwd=ROOT) as program:
        assert program.wait() == 0
    with python("-m", "samples.flask_shop_wsgi", env=env, cwd=ROOT) as program:
        assert json_of(call(broker, "shop", "sell", fruit="apple")) == [{"fruit": "apple", "left": 6}]
        assert broker.counts.registered == 1
    assert "in its parent process" not in program.output


# --- a Django application -------------------------------------------------------------------------


@pytest.fixture
def django_variables(broker: Broker, tmp_path: Path) -> dict[str, str]:
    """The settings of a Django application whose database has its tables."""
    pytest.importorskip("django")
    env = {**variables(broker), "ORDERS_DATABASE": str(tmp_path / "orders.sqlite3")}
    with python("manage.py", "migrate", "--verbosity", "0", env=env, cwd=DJANGO) as program:
        assert program.wait() == 0, program.output
    return env


#: Serves the application as a web server does, on a free port.
SERVE = """
from wsgiref.simple_server import make_server
from orders.wsgi import application
server = make_server("127.0.0.1", 0, application)
print("serves", server.server_port, flush=True)
server.serve_forever()
"""


def test_django_serves_pages_and_calls_in_one_process(
    broker: Broker, django_variables: dict[str, str]
) -> None:
    requests = pytest.importorskip("requests")
    with python("-c", SERVE, env=django_variables, cwd=DJANGO) as program:
        port = program.wait_for("serves").split()[1]
        (placed,) = json_of(call(broker, "orders", "place_order", email="ada@example.com", total=9.9))
        assert (placed["number"], placed["total"], placed["carrier"]) == (1, "9.90", None)
        page = requests.get(f"http://127.0.0.1:{port}/", timeout=LIMIT).json()
        assert [order["email"] for order in page["orders"]] == ["ada@example.com"]
        assert page["n8n"] == {"runner": "running", "registered": True}


@needs_signals
def test_django_serves_calls_in_a_separate_process(broker: Broker, django_variables: dict[str, str]) -> None:
    with running("manage.py", "runner", env=django_variables, cwd=DJANGO):
        for total in (1, 2):
            call(broker, "orders", "place_order", email=f"{total}@example.com", total=total)
        (shipped,) = json_of(call(broker, "orders", "ship_order", number=1, carrier="UPS"))
        assert shipped["carrier"] == "UPS"
        with pytest.raises(AssertionError, match="Order 1 has been shipped with UPS"):
            call(broker, "orders", "ship_order", number=1)
        with pytest.raises(AssertionError, match="There is no order 9"):
            call(broker, "orders", "ship_order", number=9)
        assert [order["number"] for order in json_of(call(broker, "orders", "list_orders"))] == [2]
        everything = json_of(call(broker, "orders", "list_orders", open_only=False))
        assert [order["number"] for order in everything] == [1, 2]
        mine = json_of(call(broker, "orders", "list_orders", email="2@example.com"))
        assert [order["number"] for order in mine] == [2]


def test_the_django_application_writes_its_node(django_variables: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("docstring_parser")
    arguments = ["-m", "n8nrunner", "node", "orders.wsgi", "--out", str(tmp_path)]
    with python(*arguments, env=django_variables, cwd=DJANGO) as program:
        assert program.wait() == 0, program.output
    assert (tmp_path / "n8n-nodes-orders" / "dist" / "nodes" / "Orders" / "Orders.node.js").is_file()
