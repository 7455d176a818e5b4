"""The guides for notebooks and applications: their blocks are run in the order of the page."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest
import requests

from n8nrunner.broker import Broker
from tests.conftest import LIMIT
from tests.pages import anchors, blocks, links, pages, read
from tests.processes import Program, python
from tests.test_samples import call, json_of, needs_signals, variables

ROOT = Path(__file__).parent.parent
#: Where `n8nrunner node --install` puts its package, below the folder of n8n's user.
INSTALLED = ".n8n/nodes/node_modules/n8n-nodes-n8nrunner"
NOTEBOOK, APPLICATION = GUIDES = ("docs/guide-notebook.md", "docs/guide-application.md")


def python_blocks(page: str, *headings: str) -> list[str]:
    return [block.text for block in blocks(page, "python") if block.heading in headings]


def run_block(module: types.ModuleType, text: str) -> None:
    exec(compile(text, module.__name__, "exec", dont_inherit=True), module.__dict__)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, broker: Broker, tmp_path: Path) -> types.ModuleType:
    """Return a module in which blocks run, one after the other. The environment names `broker`."""
    for name, value in {**variables(broker), "N8N_USER_FOLDER": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    module = types.ModuleType("block")
    monkeypatch.setitem(sys.modules, "block", module)
    return module


@pytest.mark.parametrize("page", pages())
def test_links_lead_somewhere(page: str) -> None:
    for link in links(page):
        assert link.file.exists(), link
        assert not link.anchor or link.anchor in anchors(link.file), link


@pytest.mark.parametrize("page", GUIDES)
def test_the_nodes_are_installed_before_n8n_is_started(page: str, tmp_path: Path) -> None:
    (prepare,) = [block.text for block in blocks(page) if block.heading == "Start n8n"]
    install, _, start = prepare.splitlines()[-3:]
    assert start == "n8n start"
    with python("-m", *install.split(), env={"N8N_USER_FOLDER": str(tmp_path)}, cwd=tmp_path) as program:
        assert program.wait() == 0, program.output
    assert (tmp_path / INSTALLED / "package.json").is_file()


@pytest.mark.parametrize("page", GUIDES)
def test_n8n_is_prepared_by_its_own_variables(page: str) -> None:
    """The variables are those that n8n is started with in tests/n8n."""
    (prepare,) = [block.text for block in blocks(page) if block.heading == "Start n8n"]
    harness = (ROOT / "tests" / "n8n" / "n8n.py").read_text(encoding="utf-8")
    for name in re.findall(r"^export (\w+)=", prepare, re.MULTILINE):
        assert f"{name}=" in harness


NODE = "functions/node/static/dist/runtime.js"
LIVE = "functions/node/static/dist/nodes/PythonFunction/PythonFunction.node.js"


@pytest.mark.parametrize(
    ("page", "message", "file"),
    [
        (NOTEBOOK, "auth_token: expected the secret shared with n8n", "config.py"),
        (NOTEBOOK, 'No runner "prices" took the call', NODE),
        (NOTEBOOK, 'The function "quote" has changed since this node\'s arguments were filled in', LIVE),
        (APPLICATION, 'No runner "shop" took the call', NODE),
        (APPLICATION, "refused the token", "connection/auth.py"),
        (APPLICATION, 'The function "sell" has changed since this node\'s arguments were filled in', LIVE),
    ],
)
def test_messages_of_the_table_are_in_the_source(page: str, message: str, file: str) -> None:
    assert f"| `{message}`" in read(page)
    message = re.sub(r'runner "\w+"', 'runner "${runner}"', message)
    message = re.sub(r'function "\w+"', 'function "${name}"', message)
    assert message in (ROOT / "n8nrunner" / file).read_text(encoding="utf-8")


def test_the_blocks_of_the_notebook_guide_serve_calls(broker: Broker, module: types.ModuleType) -> None:
    *definitions, start = python_blocks(NOTEBOOK, "Write a function")
    for text in definitions:
        run_block(module, text)
    runner = module.__dict__["runner"]
    try:
        run_block(module, start)
        assert json_of(call(broker, "prices", "quote", fruit="apple")) == [{"total": 2}]
        train, outliers = python_blocks(NOTEBOOK, "Go on working")
        run_block(module, train)
        assert json_of(call(broker, "prices", "train", rounds=3)) == [{"rounds": 3}]
        if pandas_is_there():
            run_block(module, outliers)
            rows = [("a", 1), ("b", 2), ("c", 1), ("d", 90)]
            calls = [
                {"item": n, "arguments": {"name": name, "value": value}}
                for n, (name, value) in enumerate(rows)
            ]
            settings = {"version": 1, "function": "outliers", "calls": calls}
            answer = broker.run_task("n8nrunner.prices", settings, timeout=LIMIT)
            assert json_of(answer["items"]) == [{"name": "d", "value": 90}]
    finally:
        runner.stop()


def pandas_is_there() -> bool:
    try:
        import pandas  # noqa: F401
    except ImportError:
        return False
    return True


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Return a folder with the guide's `shop.py`."""
    (text,) = python_blocks(APPLICATION, "Write a function")
    (tmp_path / "shop.py").write_text(text)
    return tmp_path


def test_the_commands_of_the_application_guide_serve_calls(broker: Broker, shop: Path) -> None:
    commands = [
        line.split()
        for block in blocks(APPLICATION, "sh")
        if block.heading == "Serve it"
        for line in block.text.splitlines()
    ]
    assert [command[0] for command in commands] == [".", "export", "n8nrunner"]
    *_, serve = commands
    with python("-m", *serve, env=variables(broker), cwd=shop) as program:
        program.wait_for("Registered with the broker")
        assert json_of(call(broker, "shop", "sell", fruit="apple")) == [{"fruit": "apple", "left": 6}]
        with pytest.raises(AssertionError, match="The stock has 6 pieces of apple"):
            call(broker, "shop", "sell", fruit="apple", pieces=9)


@needs_signals
def test_the_program_of_the_application_guide_is_watched_tested_and_changed(
    broker: Broker, shop: Path
) -> None:
    pytest.importorskip("watchfiles")
    first, second = (
        block.text.splitlines()
        for block in blocks(APPLICATION, "sh")
        if block.heading == "Watch it, test it, change it"
    )
    switch, serve = first
    name, value = switch.replace("export ", "").split("=")
    port = {"N8N_RUNNERS_HEALTH_CHECK_SERVER_PORT": "0", name: value}
    with python("-m", *serve.split(), env={**variables(broker), **port}, cwd=shop) as program:
        address = program.wait_for("Its page is").split()[-1]
        page = requests.get(address, timeout=LIMIT)
        assert page.headers["Content-Type"].startswith("text/html")
        program.wait_for("Registered with the broker")
        source = (shop / "shop.py").read_text()
        (shop / "shop.py").write_text(source.replace('"apple": 7', '"apple": 99'))
        program.wait_for("Reloaded shop")
        assert json_of(call(broker, "shop", "sell", fruit="apple")) == [{"fruit": "apple", "left": 98}]
    *_, ask = second
    with python("-m", *ask.split(), env=variables(broker), cwd=shop) as program:
        assert program.wait() == 0
        assert json.loads(program.output)[0]["json"] == {"fruit": "apple", "left": 97}


@needs_signals
def test_the_guard_against_a_reloader_starts_one_runner(broker: Broker, tmp_path: Path) -> None:
    (functions,) = python_blocks(APPLICATION, "Write a function")
    _, guarded = python_blocks(APPLICATION, "Start it with your application")
    (tmp_path / "shop.py").write_text(functions)
    (tmp_path / "serve.py").write_text(guarded.replace("debug=True", "debug=True, port=0"))
    with python(str(tmp_path / "serve.py"), env=variables(broker), cwd=tmp_path) as program:
        assert json_of(call(broker, "shop", "sell", fruit="apple", pieces=2)) == [
            {"fruit": "apple", "left": 5}
        ]
        assert broker.counts.registered == 1
    assert "in its parent process" not in program.output


@needs_signals
def test_gunicorns_forked_workers_serve_calls(broker: Broker, shop: Path) -> None:
    pytest.importorskip("gunicorn")
    configuration, _ = python_blocks(APPLICATION, "Start it with your application")
    (shop / "gunicorn.conf.py").write_text(configuration)
    (shop / "web.py").write_text(
        "import shop\n"
        "def application(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return [shop.runner.state.encode()]\n"
    )
    command = [sys.executable, "-m", "gunicorn", "--workers", "2", "--bind", "127.0.0.1:0", "web:application"]
    with Program(command, env=variables(broker), cwd=shop) as program:
        broker.wait_for(lambda counts: counts.runners >= 2)
        assert json_of(call(broker, "shop", "sell", fruit="apple")) == [{"fruit": "apple", "left": 6}]
        program.signal(signal.SIGTERM)
        assert program.wait() == 0


def test_database_connections_are_closed_around_each_task(
    broker: Broker, module: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_flask, in_django = python_blocks(APPLICATION, "Keep database connections healthy")
    run_block(module, in_flask)
    with module.__dict__["runner"]:
        assert json_of(call(broker, "shop", "currency")) == [{"result": "EUR"}]

    pytest.importorskip("django")
    import django.db

    closed: list[str] = []
    monkeypatch.setattr(
        django.db, "close_old_connections", lambda: closed.append(threading.current_thread().name)
    )
    run_block(module, in_django)
    runner = module.__dict__["runner"]
    runner.function(name="nothing")(lambda: None)
    with runner:
        assert json_of(call(broker, "orders", "nothing")) == [{}]
    assert len(closed) == 2
    assert all(name.startswith("n8nrunner-pool") for name in closed)


def test_the_guides_test_of_an_application_passes(shop: Path) -> None:
    (text,) = python_blocks(APPLICATION, "Test it")
    (shop / "test_shop.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_shop.py"]
    done = subprocess.run(command, cwd=shop, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
