"""Every block of code on a page is run by a test. The table names the test of each block."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import types
from collections import Counter

import pytest

from n8nrunner import Runner, cli
from n8nrunner.broker import Broker
from tests.conftest import LIMIT, TOKEN
from tests.pages import ROOT, blocks, pages
from tests.test_samples import call, json_of, variables

#: Languages of blocks that are not code: drawings, output, and the signatures of the API reference.
NOT_CODE = {"text", "mermaid", "py"}
#: Commands that are run by hand, because they take half an hour.
BY_HAND = {("docs/mutation.md", "bash: ")}

README = "tests/test_readme.py"
GUIDES = "tests/test_guides.py"
HOSTING = "tests/test_hosting.py"
OPERATING = "tests/test_operating.py"
TESTING = "tests/test_testing_page.py"
SCALING = "tests/execution/test_scaling.py"
HERE = "tests/test_blocks.py"


def code_of(page: str) -> list[str]:
    """Return the language and heading of each block of code of a page; of equal ones, also their number."""
    found = Counter(
        f"{block.language}: {block.heading}" for block in blocks(page) if block.language not in NOT_CODE
    )
    return [f"{name} ({number})" if number > 1 else name for name, number in found.items()]


#: The test that runs a page's blocks of a language under a heading, with their number if it is above 1.
#: `.ci/run` runs commands as well.
RUN_BY = {
    ".ci/run": {
        "README.md": ["bash: Try it", "bash: Test it"],
        "CONTRIBUTING.md": ["bash: ", "bash: Documentation", "bash: Release"],
    },
    f"{README}::test_the_function_of_the_readme_serves_calls_and_its_node_is_installed": {
        "README.md": ["python: A function on n8n's canvas", "sh: A function on n8n's canvas"],
    },
    f"{README}::test_the_notebook_of_the_readme_serves_calls": {"README.md": ["python: In a notebook (2)"]},
    f"{README}::test_the_blocks_of_the_page_about_functions_serve_calls": {
        "docs/functions.md": [
            "python: Parameters",
            "python: All items at once",
            "python: Objects bound to one thread",
        ],
    },
    f"{README}::test_the_first_runner_of_raw_tasks_serves_a_task": {
        "docs/tasks.md": ["python: A first runner"]
    },
    f"{README}::test_processes_leave_ctrl_c_to_the_program_if_they_ignore_it": {
        "docs/tasks.md": ["python: Handlers"]
    },
    f"{README}::test_the_embedded_broker_runs_the_task_of_its_page": {
        "docs/tasks.md": ["python: Develop without n8n"]
    },
    f"{HERE}::test_a_program_in_any_language_sends_tasks": {"docs/tasks.md": ["sh: Develop without n8n"]},
    f"{HERE}::test_the_program_of_the_home_page_serves_calls": {"docs/index.md": ["python: "]},
    "tests/test_examples.py::test_an_example_runs": {"docs/reference.md": code_of("docs/reference.md")},
    f"{HERE}::test_json_is_json": {"docs/protocol.md": ["json: Functions (5)"]},
    f"{HERE}::test_the_tunnel_leads_to_the_brokers_port": {
        "docs/guide-notebook.md": ["sh: n8n on another machine"]
    },
    "tests/test_agents_page.py::test_the_program_of_the_page_describes_its_functions_as_tools": {
        "docs/agents.md": ["python: From nothing to an agent", "sh: From nothing to an agent"],
    },
    "tests/n8n/test_python_tools.py::"
    "test_the_client_of_the_documentation_passes_the_trigger_s_authentication": {
        "docs/agents.md": ["python: For MCP clients"]
    },
    f"{GUIDES}::test_the_nodes_are_installed_before_n8n_is_started": {
        "docs/guide-notebook.md": ["sh: Start n8n"],
        "docs/guide-application.md": ["sh: Start n8n"],
    },
    f"{GUIDES}::test_the_blocks_of_the_notebook_guide_serve_calls": {
        "docs/guide-notebook.md": [
            "sh: Start Jupyter",
            "python: Write a function (3)",
            "python: Go on working (2)",
        ]
    },
    f"{GUIDES}::test_the_commands_of_the_application_guide_serve_calls": {
        "docs/guide-application.md": ["python: Write a function", "sh: Serve it"]
    },
    f"{GUIDES}::test_the_program_of_the_application_guide_is_watched_tested_and_changed": {
        "docs/guide-application.md": ["sh: Watch it, test it, change it (2)"]
    },
    f"{GUIDES}::test_gunicorns_forked_workers_serve_calls": {
        "docs/guide-application.md": ["python: Start it with your application (2)"]
    },
    f"{GUIDES}::test_database_connections_are_closed_around_each_task": {
        "docs/guide-application.md": ["python: Keep database connections healthy (2)"]
    },
    f"{GUIDES}::test_the_guides_test_of_an_application_passes": {
        "docs/guide-application.md": ["python: Test it"]
    },
    "tests/reloading/test_command.py::test_the_commands_of_the_page_serve_new_code": {
        "docs/development.md": ["sh: "]
    },
    f"{OPERATING}::test_the_hook_of_the_page_reports_failed_calls": {"docs/operating.md": ["python: Hooks"]},
    "tests/check/test_page.py::test_the_commands_of_the_page_check_a_runner": {
        "docs/troubleshooting.md": ["sh: "]
    },
    f"{OPERATING}::test_the_configuration_of_the_page_writes_json": {
        "docs/operating.md": ["python: Logs", "json: Logs"]
    },
    f"{OPERATING}::test_the_metrics_of_a_runner_are_added_to_those_of_the_application": {
        "docs/operating.md": ["python: Metrics"]
    },
    f"{OPERATING}::test_prometheus_finds_the_metrics_where_the_page_says": {
        "docs/operating.md": ["yaml: Metrics"]
    },
    f"{OPERATING}::test_sentry_gets_an_exception_with_its_execution_and_without_arguments": {
        "docs/operating.md": ["python: Sentry"]
    },
    f"{OPERATING}::test_the_program_of_the_page_prints_its_spans": {"docs/operating.md": ["python: Tracing"]},
    f"{SCALING}::test_the_functions_of_the_page_run_in_processes": {
        "docs/scaling.md": ["python: Functions that compute (2)"]
    },
    f"{TESTING}::test_the_tests_of_the_page_pass": {
        "docs/testing.md": ["python: A first test (2)", "python: Calls", "python: Choose the runner (2)"]
    },
    f"{TESTING}::test_the_context_manager_and_the_command_of_the_page_print_the_items": {
        "docs/testing.md": ["python: Without pytest", "sh: On the command line"]
    },
    f"{TESTING}::test_the_commands_to_install_and_to_run_are_the_known_ones": {
        "docs/testing.md": ["sh: ", "sh: A first test"]
    },
    f"{HOSTING}::test_the_service_runs_until_it_is_stopped": {
        "docs/guide-self-hosting.md": ["python: With Docker Compose"]
    },
    f"{HOSTING}::test_the_runner_of_the_guide_has_all_its_brokers": {
        "docs/brokers.md": ["python: Several addresses"]
    },
    f"{HOSTING}::test_the_yaml_of_the_guide_is_in_the_samples": {
        "docs/guide-self-hosting.md": ["yaml: With Docker Compose"],
        "docs/brokers.md": ["yaml: Queue mode"],
    },
    f"{HOSTING}::test_the_names_of_workers_that_scale_belong_to_their_services": {
        "docs/brokers.md": ["yaml: Workers that scale (2)"]
    },
    f"{HOSTING}::test_commands_of_a_section_name_services_of_the_samples": {
        "docs/guide-self-hosting.md": [
            "sh: With Docker Compose",
            "sh: Deploy a new version (3)",
            "sh: Logs",
        ],
        "docs/brokers.md": ["sh: Queue mode"],
    },
    f"{HOSTING}::test_commands_for_systemd_put_files_where_the_unit_looks_for_them": {
        "docs/guide-self-hosting.md": ["sh: With systemd (2)"]
    },
}


def test_every_block_of_code_has_a_test() -> None:
    listed = [(page, block) for of_test in RUN_BY.values() for page in of_test for block in of_test[page]]
    assert len(set(listed)) == len(listed)
    assert set(listed) | BY_HAND == {(page, block) for page in pages() for block in code_of(page)}


@pytest.mark.parametrize("test", RUN_BY)
def test_the_tests_of_the_table_read_their_pages(test: str) -> None:
    """The name of the page is in the test's file, because the test reads the blocks from the page."""
    file, _, name = test.partition("::")
    source = (ROOT / file).read_text(encoding="utf-8")
    assert not name or f"def {name}(" in source
    for page in RUN_BY[test]:
        assert page in source or file == ".ci/run"


def test_every_block_is_found() -> None:
    """A block that is indented, or has a fence of another kind, would escape the table."""
    for page in pages():
        text = (ROOT / page).read_text(encoding="utf-8")
        fences = re.findall(r"^\s*(?:```|~~~)", text, re.MULTILINE)
        assert len(fences) == 2 * len(blocks(page)), page


def lines(page: str) -> list[str]:
    """Return the commands in the blocks for a shell of a page."""
    texts = [block.text for block in blocks(page) if block.language in ("sh", "bash")]
    joined = "\n".join(texts).replace("\\\n", " ")
    return [part.strip() for line in joined.splitlines() for part in line.split("&&")]


@pytest.mark.parametrize("page", pages())
def test_commands_of_n8nrunner_have_arguments_that_it_takes(page: str) -> None:
    for line in lines(page):
        if match := re.match(r"(?:\S*/)?n8nrunner (.*)", line):
            cli._parser().parse_args(shlex.split(match[1], comments=True))


@pytest.mark.parametrize("page", pages())
def test_the_extras_that_pages_install_exist(page: str) -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = set(config["options.extras_require"])
    text = (ROOT / page).read_text(encoding="utf-8")
    for found in re.findall(r"(?:n8nrunner|'\.|\"\.)\[([a-z,]+)\]", text):
        assert set(found.split(",")) <= extras, found


# --- blocks without a test file of their page --------------------------------------------------------


def test_the_program_of_the_home_page_serves_calls(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    (program,) = blocks("docs/index.md", "python")
    for name, value in variables(broker).items():
        monkeypatch.setenv(name, value)
    module = types.ModuleType("leads")
    exec(compile(program.text, "leads", "exec", dont_inherit=True), module.__dict__)
    try:
        result = json_of(call(broker, "leads", "score_lead", email="ada", budget=2))
        assert result == [{"score": 5, "region": "eu"}]
    finally:
        module.__dict__["runner"].stop()


def test_json_is_json() -> None:
    for block in blocks("docs/protocol.md", "json"):
        assert json.loads(block.text)["version"] == 1


def test_the_tunnel_leads_to_the_brokers_port() -> None:
    commands = blocks("docs/guide-notebook.md", "sh")
    (tunnel,) = (block.text for block in commands if block.heading == "n8n on another machine")
    assert shlex.split(tunnel)[:4] == ["ssh", "-N", "-L", "5679:127.0.0.1:5679"]


def test_a_program_in_any_language_sends_tasks(broker: Broker) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not on this machine")
    (command,) = blocks("docs/tasks.md", "sh")
    runner = Runner(broker.url, auth_token=TOKEN, name="sales")
    runner.function(name="total")(lambda: 42)
    with runner:
        done = subprocess.run(
            ["/bin/sh", "-c", command.text.replace("http://127.0.0.1:5679", broker.url)],
            env={**os.environ, "N8N_RUNNERS_AUTH_TOKEN": TOKEN},
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=True,
        )
    assert json.loads(done.stdout)["result"]["runner"] == "sales"
