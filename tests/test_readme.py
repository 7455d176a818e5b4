"""The blocks of the README, and of the pages about functions, tasks and settings, do what they say."""

from __future__ import annotations

import os
import re
import signal
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from n8nrunner import RunnerConfig, cli
from n8nrunner.broker import Broker, BrokerTaskError
from tests.conftest import LIMIT, TOKEN, VARIABLES, wait_until
from tests.pages import blocks, pages, read
from tests.processes import python
from tests.test_guides import INSTALLED

ROOT = Path(__file__).parent.parent
README = "README.md"
FUNCTIONS = "docs/functions.md"
TASKS = "docs/tasks.md"
CANVAS = "A function on n8n's canvas"


def code(heading: str, broker: Broker, page: str = README) -> list[str]:
    """Return the Python blocks under a heading, for this broker."""
    return [
        block.text.replace("http://127.0.0.1:5679", broker.url).replace('"secret"', f'"{TOKEN}"')
        for block in blocks(page, "python")
        if block.heading == heading
    ]


def call(
    monkeypatch: pytest.MonkeyPatch, broker: Broker, block: str, name: str, *arguments: dict[str, Any]
) -> Any:
    """Return the JSON of the items that a function of a block makes of the arguments of each item."""
    # A module of its own, where type hints and dataclasses look their names up.
    module = types.ModuleType("block")
    monkeypatch.setitem(sys.modules, "block", module)
    exec(compile(block, "block", "exec", dont_inherit=True), module.__dict__)
    runner = module.__dict__["runner"]
    calls = [{"item": item, "arguments": each} for item, each in enumerate(arguments)]
    with runner:
        result = broker.run_task(
            f"n8nrunner.{runner.config.name}",
            {"version": 1, "function": name, "calls": calls},
            timeout=LIMIT,
        )
    assert result["errors"] == []
    return [item["json"] for item in result["items"]]


def test_the_function_of_the_readme_serves_calls_and_its_node_is_installed(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = code(CANVAS, broker)
    assert call(monkeypatch, broker, block, "score_lead", {"email": "ada", "budget": 2}) == [
        {"score": 5, "region": "eu"}
    ]

    (commands,) = blocks(README, "sh")
    (command,) = [line.split("#")[0].split()[1:] for line in commands.text.splitlines() if " node " in line]
    with python("-m", "n8nrunner", *command, cwd=tmp_path, env={"N8N_USER_FOLDER": str(tmp_path)}) as program:
        assert program.wait() == 0
    assert (tmp_path / INSTALLED / "package.json").is_file()


def test_the_blocks_of_the_page_about_functions_serve_calls(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shipping,) = code("Parameters", broker, FUNCTIONS)
    to = {"city": "Oslo", "country": "NO"}
    assert call(monkeypatch, broker, shipping, "shipping", {"weight": 2, "to": to}) == [{"result": 18}]
    (rank,) = code("All items at once", broker, FUNCTIONS)
    assert call(monkeypatch, broker, rank, "rank", {"score": 1}, {"score": 5}) == [{"rank": 2}, {"rank": 1}]
    monkeypatch.chdir(tmp_path)
    (stock,) = code("Objects bound to one thread", broker, FUNCTIONS)
    assert call(monkeypatch, broker, stock, "pieces", *[{"name": "pear"}] * 8) == [{"result": 0}] * 8
    page = sys.modules["block"]
    page.thread.submit(page.database.close).result(LIMIT)
    page.thread.shutdown()


def test_the_two_commands_are_one_line_each() -> None:
    assert [block.heading for block in blocks(README, "bash")] == ["Try it", "Test it"]
    for block in blocks(README, "bash"):
        assert block.text.count("\n") == 1
        assert block.text.startswith("python3 -m venv .venv && ")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_the_first_runner_of_raw_tasks_serves_a_task(broker: Broker, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(code("A first runner", broker, TASKS)[0])
    with python(str(script)) as program:
        items = [{"json": {"name": "Ada"}}]
        assert broker.run_task("enrich", {}, items=items, timeout=LIMIT) == [
            {"json": {"name": "Ada", "greeting": "Hello Ada"}}
        ]
        program.signal(signal.SIGTERM)
        assert program.wait() == 0


def test_the_notebook_of_the_readme_serves_calls(broker: Broker) -> None:
    start, stop = code("In a notebook", broker)
    kernel: dict[str, Any] = {"__name__": "__main__"}

    def quote_of_a_pear() -> Any:
        calls = [{"item": 0, "arguments": {"fruit": "pear"}}]
        settings = {"version": 1, "function": "quote", "calls": calls}
        return broker.run_task("n8nrunner.prices", settings, timeout=LIMIT)["items"][0]["json"]

    def shown() -> dict[str, list[str]]:
        """Return what n8n's editor shows: the fields of each function."""
        functions = broker.run_task("n8nrunner:describe:prices", {}, timeout=LIMIT)["functions"]
        return {each["name"]: [one["title"] for one in each["parameters"]] for each in functions}

    exec(start, kernel)
    try:
        assert quote_of_a_pear() == {"total": 3}
        assert shown() == {"quote": ["Fruit", "Pieces"]}
        function = re.search(r"@runner\.function.*?\n\n", start, re.DOTALL)
        assert function
        cell = (
            function[0]
            .replace('{"total":', '{"new total":')
            .replace("pieces: int = 1", "pieces: int = 1, gift=False")
        )
        exec(cell, kernel)  # the cell is run again
        assert quote_of_a_pear() == {"new total": 3}
        wait_until(lambda: shown() == {"quote": ["Fruit", "Pieces", "Gift"]})
        kernel["runner"].remove("quote")
        wait_until(lambda: shown() == {})
    finally:
        exec(stop, kernel)
    assert kernel["runner"].state == "stopped"


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("ignores", [True, False])
def test_processes_leave_ctrl_c_to_the_program_if_they_ignore_it(
    ignores: bool, broker: Broker, tmp_path: Path
) -> None:
    """As a terminal does, the test sends the signal to all processes of the program."""
    (block,) = code("Handlers", broker, TASKS)
    if not ignores:
        block = block.replace(", initializer=ignore_interrupts", "")
    (tmp_path / "jobs.py").write_text(
        f"{block}\nimport time\n\n@runner.task('sleep')\n"
        "def sleep(task):\n    print('begun', flush=True)\n    time.sleep(1)\n    return 'finished'\n"
    )
    with python("-m", "n8nrunner", "run", "jobs", cwd=tmp_path) as program:
        task = broker.submit("sleep", {}, timeout=LIMIT)
        program.wait_for("begun")
        os.killpg(program.process.pid, signal.SIGINT)
        if ignores:
            assert task.result(LIMIT) == "finished"
            assert program.wait() == cli.EXIT_OK
        else:
            with pytest.raises(BrokerTaskError):
                task.result(LIMIT)
            assert program.wait() == cli.EXIT_UNFINISHED
            assert "ignore_interrupts" in program.output


def test_the_embedded_broker_runs_the_task_of_its_page() -> None:
    exec(blocks(TASKS, "python")[-1].text, {})


def test_the_settings_and_exit_codes_are_all_there() -> None:
    text = read("docs/settings.md")
    for name, variable in VARIABLES.items():
        assert name in text or f"`_{name[len('health_check_') :]}`" in text
        assert variable in text or variable.rsplit("_", 1)[0] in text
    for number in (cli.EXIT_OK, cli.EXIT_ERROR, cli.EXIT_USAGE, cli.EXIT_REFUSED, cli.EXIT_GRANT_SPENT, 5):
        assert f"\n| {number} |" in text
    defaults = RunnerConfig(auth_token="x")
    assert f"| {defaults.capacity} tasks at once |" in text
    assert f"| {defaults.task_timeout:g} s |" in text
    assert f"| {defaults.graceful_shutdown_timeout:g} s |" in text


def test_n8n_gets_its_variables_wherever_a_page_starts_it() -> None:
    """The variables are in the same block, because a reader copies a block as a whole."""
    found = [
        (page, block.text)
        for page in pages()
        for block in blocks(page)
        if block.language in ("sh", "bash") and re.search(r"^n8n start", block.text, re.MULTILINE)
    ]
    assert len(found) >= 3
    for page, text in found:
        before = text[: text.index("\nn8n start")]
        assert "export N8N_RUNNERS_AUTH_TOKEN=" in before, page


def test_n8n_and_the_runner_of_the_readme_have_one_token() -> None:
    (program,) = (block.text for block in blocks(README, "python") if block.heading == CANVAS)
    (commands,) = (block.text for block in blocks(README, "sh") if block.heading == CANVAS)
    assert 'auth_token="secret"' in program
    assert re.search(r"N8N_RUNNERS_AUTH_TOKEN=secret\s", commands)
