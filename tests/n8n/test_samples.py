"""The samples, in workflows of a real n8n that call their functions through *Python Function*."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable

import nbclient
import nbformat
import openpyxl
import pytest

from . import services
from .conftest import skip_or_fail
from .n8n import N8n, Workflow, webhook_node
from .processes import ChildProcess
from .runners import PLAIN_ENVIRONMENT
from .services import Postgres

pytestmark = pytest.mark.n8n

ROOT = Path(__file__).parents[2]
DJANGO = ROOT / "samples" / "django_orders"

MIME = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"

Start = Callable[..., ChildProcess]


@pytest.fixture
def start(n8n: N8n, tmp_path: Path) -> Iterator[Start]:
    """Starts a sample, until n8n knows its runner."""
    started: list[ChildProcess] = []

    def start(name: str, arguments: Sequence[str], cwd: Path = ROOT, **variables: str) -> ChildProcess:
        environment = {key: os.environ[key] for key in PLAIN_ENVIRONMENT if key in os.environ}
        environment["N8N_RUNNERS_TASK_BROKER_URI"] = n8n.broker_url
        environment["N8N_RUNNERS_AUTH_TOKEN"] = n8n.auth_token
        environment.update(variables)
        begun = n8n.output_length
        log_path = tmp_path / f"{name}-{len(started)}.log"
        program = ChildProcess(name, [sys.executable, *arguments], environment, log_path, cwd=cwd)
        started.append(program)
        n8n.wait_for_output(f'Registered runner "{name}"', start=begun)
        return program

    yield start
    for program in started:
        program.kill()


def workflow(n8n: N8n, runner: str, function: str, path: str, **arguments: Any) -> Workflow:
    webhook = webhook_node(path, **arguments.pop("webhook", {}))
    return n8n.create_workflow(path, [webhook, n8n.python_function(function, "Sample", runner, **arguments)])


def test_the_flask_sample_serves_n8n(n8n: N8n, start: Start, tmp_path: Path) -> None:
    database = {"SHOP_DATABASE": str(tmp_path / "shop.sqlite3")}
    flask = ["-m", "flask", "--app"]
    created = ChildProcess(
        "init-db",
        [sys.executable, *flask, "samples.flask_shop", "init-db"],
        {**os.environ, **database},
        tmp_path / "init-db.log",
        cwd=ROOT,
    )
    assert created.wait(60.0) == 0
    start("shop", [*flask, "samples.flask_shop_wsgi", "run", "--port", "0"], **database)
    stock = workflow(n8n, "shop", "stock", "flask-stock", order_by="pieces")
    sell = workflow(n8n, "shop", "sell", "flask-sell", fruit="={{ $json.body.fruit }}", pieces=2)

    assert stock.call().json() == [{"name": "pear", "pieces": 0}, {"name": "apple", "pieces": 7}]
    assert sell.call({"fruit": "apple"}).json() == [{"fruit": "apple", "left": 5}]
    assert sell.call({"fruit": "pear"}).status_code == 500
    assert sell.wait_for_execution("error").error["message"] == "There are no 2 pieces of pear"


def test_the_django_sample_replaces_connections_that_broke_between_tasks(
    n8n: N8n, start: Start, tmp_path: Path
) -> None:
    if "postgresql" in services.missing():
        skip_or_fail("Debian's package postgresql is not installed")
    postgres = Postgres(tmp_path)
    try:
        postgres.create_database("orders")
        settings = {
            "DJANGO_SETTINGS_MODULE": "django_postgres",
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
            "POSTGRES_PORT": str(postgres.port),
            "N8N_RUNNERS_MAX_CONCURRENCY": "2",
        }
        command = [sys.executable, "manage.py", "migrate"]
        migrated = ChildProcess(
            "migrate", command, {**os.environ, **settings}, tmp_path / "migrate.log", cwd=DJANGO
        )
        assert migrated.wait(60.0) == 0, migrated.tail()
        program = start("orders", ["manage.py", "runner"], DJANGO, **settings)
        place = workflow(n8n, "orders", "place_order", "django", email="a@example.com", total=9.9)

        for number in range(1, 9):
            assert place.call().json()[0]["number"] == number, program.tail()
            postgres.end_connections("orders")
    finally:
        postgres.close()


def test_the_application_of_the_compose_sample_serves_a_workflow(n8n: N8n, start: Start) -> None:
    start("billing", ["-m", "n8nrunner", "run", "application"], ROOT / "samples" / "compose")
    check = workflow(n8n, "billing", "check_iban", "compose", iban="={{ $json.body.iban }}")
    assert check.call({"iban": "DE89 3704 0044 0532 0130 00"}).json() == [
        {"iban": "DE89370400440532013000", "country": "DE", "valid": True}
    ]


def test_the_report_sample_serves_a_workflow(n8n: N8n, start: Start) -> None:
    start("report", ["-m", "samples.report"])
    answer_with_file = {"responseData": "firstEntryBinary", "responseBinaryPropertyName": "report"}
    report = workflow(n8n, "report", "summarize", "report", spreadsheet="upload0", webhook=answer_with_file)
    book = openpyxl.Workbook()
    for row in (["region", "amount"], ["north", 10], ["south", 2.5], ["north", 1]):
        book.active.append(row)
    content = io.BytesIO()
    book.save(content)

    response = report.call(files={"upload0": ("sales.xlsx", content.getvalue(), MIME)})

    assert response.status_code == 200, report.wait_for_execution("error").error
    rows = openpyxl.load_workbook(io.BytesIO(response.content))["Report"].iter_rows(values_only=True)
    assert list(rows) == [("region", "amount"), ("north", 11), ("south", 2.5)]
    (item,) = report.wait_for_execution("success").output_of("Sample")
    assert item["json"]["total"] == 13.5
    assert item["binary"]["report"]["fileName"] == "report.xlsx"


def test_the_cells_of_the_notebook_run(n8n: N8n, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("N8N_RUNNERS_TASK_BROKER_URI", n8n.broker_url)
    monkeypatch.setenv("N8N_RUNNERS_AUTH_TOKEN", n8n.auth_token)
    notebook = nbformat.read(ROOT / "samples" / "iris.ipynb", as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=60)
    fields = {"sepal_length": 5.9, "sepal_width": 3.0, "petal_length": 5.1, "petal_width": 1.8}
    answers: list[Any] = []
    asked: list[Workflow] = []
    with client.setup_kernel():
        for index, cell in enumerate(notebook.cells):
            if cell.source == "runner.stop()":
                answers.append(asked[0].call().json())
            client.execute_cell(cell, index)
            if cell.source == "runner.start()":
                asked.append(workflow(n8n, "iris", "classify", "notebook", **fields))
                answers.append(asked[0].call().json())
    (before,), (after,) = answers
    assert before["species"] == after["species"] == "virginica"
    assert before["chances"] != after["chances"]  # the model was replaced in between
