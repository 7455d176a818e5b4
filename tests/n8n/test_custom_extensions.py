"""A written node in the folder that `N8N_CUSTOM_EXTENSIONS` names, and below n8n's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import python

from .conftest import running
from .install import Installation
from .n8n import N8n, webhook_node, write_node

pytestmark = pytest.mark.n8n

SAMPLE = Path(__file__).parents[2] / "samples" / "compose"
#: The nodes of these tests, which n8n finds in ~/.n8n/custom.
OWN = {"CUSTOM.runnerJob", "CUSTOM.functions"}


def folders(path: Path) -> str:
    """Return a list of two folders, of which n8n reads the last one."""
    return f"{path / 'others'};{path / 'nodes'}"


@pytest.fixture
def n8n(place: Installation, tmp_path: Path) -> Iterator[N8n]:
    """An n8n that reads nodes from `nodes`, and has not been started yet."""
    n8n = N8n(place, tmp_path, variables={"N8N_CUSTOM_EXTENSIONS": folders(tmp_path)})
    try:
        yield n8n
    finally:
        n8n.kill()


def test_the_variable_replaces_n8n_s_own_folder(n8n: N8n, tmp_path: Path) -> None:
    """docs/functions.md says so."""
    install = ("-m", "n8nrunner", "node", "application", "--install")
    with python(*install, cwd=SAMPLE, env={"N8N_CUSTOM_EXTENSIONS": folders(tmp_path)}) as program:
        assert program.wait() == 0, program.output
    write_node("leads", tmp_path / "others")
    n8n.start()
    assert "CUSTOM.leads" not in n8n.custom_nodes()
    assert "CUSTOM.billing" in n8n.custom_nodes()
    assert not OWN & n8n.custom_nodes()

    environment = {"N8N_RUNNERS_TASK_BROKER_URI": n8n.broker_url, "N8N_RUNNERS_AUTH_TOKEN": n8n.auth_token}
    with python("-m", "n8nrunner", "run", "application", cwd=SAMPLE, env=environment) as program:
        program.wait_for("Registered")
        parameters = {"operation": "check_iban", "iban": "={{ $json.body.iban }}", "options": {}}
        node = {"name": "Check", "type": "CUSTOM.billing", "typeVersion": 1, "parameters": parameters}
        workflow = n8n.create_workflow("iban", [webhook_node("iban"), node])
        assert workflow.call({"iban": "DE89 3704 0044 0532 0130 00"}).json() == [
            {"iban": "DE89370400440532013000", "country": "DE", "valid": True}
        ]


def test_a_folder_below_n8n_s_own_keeps_the_other_nodes(place: Installation, tmp_path: Path) -> None:
    n8n = N8n(place, tmp_path)
    write_node("application", n8n.custom_folder / "application", SAMPLE)
    with running(n8n):
        assert {*OWN, "CUSTOM.billing"} <= n8n.custom_nodes()
