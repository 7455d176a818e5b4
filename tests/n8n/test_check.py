"""`n8nrunner check` against a real n8n, in the broken set-ups that are n8n's own."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from n8nrunner import cli
from n8nrunner.config import parse_broker
from n8nrunner.connection.auth import fetch_grant
from n8nrunner.protocol.failures import LinkFailure
from tests.check.setups import ReverseProxy

from .conftest import in_both_modes, installed, running
from .install import OLD_VERSION, Installation
from .n8n import N8n, job_node, webhook_node
from .processes import poll
from .runners import RunnerProcess

pytestmark = pytest.mark.n8n

Check = Callable[..., tuple[int, str]]


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """Run the command, and return its exit code and its output."""

    def run(*arguments: str, token: str) -> tuple[int, str]:
        monkeypatch.setenv("N8N_RUNNERS_AUTH_TOKEN", token)

        def outcome() -> tuple[int, str] | None:
            capsys.readouterr()
            code = cli.main(["check", *arguments])
            output = capsys.readouterr().out
            assert token.strip() not in output
            # The log-ins of the test before may have used up those of this second.
            return None if causes(output) == ["rate-limit"] else (code, output)

        return poll(outcome, "n8n accepts log-ins", 10.0, 0.5)

    return run


def causes(output: str) -> list[str]:
    return re.findall(r"^(?:Likely cause|Or) \[([a-z0-9-]+)\]", output, re.MULTILINE)


class WithoutBroker(N8n):
    """An n8n that starts no task broker."""

    def wait_ready(self, limit: float = 120.0) -> None:
        self.wait_for_output("Editor is now accessible", limit)


@pytest.fixture(scope="module")
def n8n_without_token(place: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[N8n]:
    """An n8n as a user starts it, without a token; its editor can be reached from other machines."""
    folder = tmp_path_factory.mktemp("n8n-without-token")
    variables = {"N8N_LISTEN_ADDRESS": "0.0.0.0"}
    with running(N8n(place, folder, auth_token="", variables=variables, mode="internal")) as n8n:
        yield n8n


@in_both_modes
def test_every_step_passes_and_n8ns_log_names_the_check(n8n: N8n, check: Check) -> None:
    start = n8n.output_length
    code, output = check("--broker", n8n.broker_url, token=f"{n8n.auth_token}\n")
    assert (code, causes(output)) == (0, []), output
    n8n.wait_for_output('Registered runner "n8nrunner check"', start=start)


@in_both_modes
def test_a_task_goes_to_the_runner_and_not_to_the_check(
    n8n: N8n, check: Check, start_runner: Callable[..., RunnerProcess]
) -> None:
    workflow = n8n.create_workflow("checked", [webhook_node("checked"), job_node("tests.echo")])
    start_runner()
    for _ in range(3):
        code, output = check("--broker", n8n.broker_url, "--webhook", workflow.url, token=n8n.auth_token)
        assert code == 0, output
        assert "HTTP 200: [{" in output


def test_another_token(n8n: N8n, check: Check) -> None:
    code, output = check("--broker", n8n.broker_url, token="a-wrong-secret")
    assert (code, causes(output)) == (3, ["no-token-in-n8n", "another-token"])


def test_an_n8n_without_the_token(n8n_without_token: N8n, check: Check) -> None:
    code, output = check("--broker", n8n_without_token.broker_url, token="any-token")
    assert (code, causes(output)) == (3, ["no-token-in-n8n", "another-token"])


def test_a_broker_on_loopback_only(n8n_without_token: N8n, check: Check) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing; chooses the address of this machine
        address = probe.getsockname()[0]
    editor = f"http://{address}:{n8n_without_token.port}"
    broker = f"http://{address}:{n8n_without_token.broker_port}"
    code, output = check("--broker", broker, "--n8n", editor, token="any-token")
    assert (code, causes(output)[0]) == (1, "broker-on-loopback"), output
    assert f"n8n 2.40.7 answers at {editor}" in output


def test_n8n_in_external_mode_without_the_token_does_not_run(
    place: Installation, tmp_path: Path, check: Check
) -> None:
    n8n = N8n(place, tmp_path, auth_token="")
    with pytest.raises(AssertionError, match="Missing auth token"):
        n8n.start()
    n8n.kill()
    code, output = check("--broker", n8n.broker_url, "--n8n", n8n.url, token="any-token")
    assert (code, causes(output)[-1]) == (1, "not-running")
    assert "ends at its start without N8N_RUNNERS_AUTH_TOKEN" in " ".join(output.split())


def test_the_port_of_the_editor(n8n: N8n, check: Check) -> None:
    assert causes(check("--broker", n8n.url, token=n8n.auth_token)[1]) == ["editor-port"]


def test_https_for_http(n8n: N8n, check: Check) -> None:
    url = n8n.broker_url.replace("http:", "https:")
    assert causes(check("--broker", url, token=n8n.auth_token)[1]) == ["https-for-http"]


def test_a_wrong_base_path(n8n: N8n, check: Check) -> None:
    url = f"{n8n.broker_url}/tasks"
    assert causes(check("--broker", url, token=n8n.auth_token)[1]) == ["base-path"]


def test_a_proxy_without_websockets(n8n: N8n, check: Check) -> None:
    with ReverseProxy(n8n.broker_port) as proxy:
        output = check("--broker", proxy.url, token=n8n.auth_token)[1]
    assert causes(output) == ["proxy-without-websockets"], output


def test_the_rate_limit(
    n8n: N8n, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("N8N_RUNNERS_AUTH_TOKEN", n8n.auth_token)
    ended = threading.Event()

    def refused() -> list[str]:
        cli.main(["check", "--broker", n8n.broker_url])
        return causes(capsys.readouterr().out)

    def log_in() -> None:
        while not ended.is_set():
            with contextlib.suppress(LinkFailure):
                fetch_grant(parse_broker(n8n.broker_url), n8n.auth_token)

    others = [threading.Thread(target=log_in) for _ in range(2)]
    for other in others:
        other.start()
    try:
        # A check at the beginning of a second passes.
        found = poll(lambda: refused() or None, "a check is refused", 20.0)
    finally:
        ended.set()
        for other in others:
            other.join()
    assert found == ["rate-limit"]


def test_n8n_1_starts_no_broker_by_itself(tmp_path: Path, check: Check) -> None:
    variables = {"N8N_RUNNERS_ENABLED": "false"}
    old = WithoutBroker(installed(OLD_VERSION), tmp_path, variables=variables, mode="internal")
    old._is_set_up = True  # needs no owner
    with running(old):
        code, output = check("--broker", old.broker_url, "--n8n", old.url, token=old.auth_token)
    assert (code, causes(output)[0]) == (1, "n8n-1-without-runners"), output
    assert f"n8n {OLD_VERSION} answers at {old.url}" in output


def test_a_workflow_whose_runner_does_not_run_is_told_from_one_that_fails(
    n8n: N8n, check: Check, start_runner: Callable[..., RunnerProcess]
) -> None:
    node = job_node("tests.raise", settings={"kind": "TaskError"})
    failing = n8n.create_workflow("check-fails", [webhook_node("check-fails"), node])
    runner = start_runner()
    code, output = check("--broker", n8n.broker_url, "--webhook", failing.url, token=n8n.auth_token)
    assert (code, causes(output)[0]) == (1, "workflow-error"), output
    runner.stop()
    code, output = check("--broker", n8n.broker_url, "--webhook", failing.url, token=n8n.auth_token)
    assert (code, causes(output)) == (1, ["queue-worker", "no-runner-runs"]), output


def test_a_webhook_that_n8n_does_not_know(n8n: N8n, check: Check) -> None:
    address = f"{n8n.url}/webhook/no-such-webhook"
    code, output = check("--broker", n8n.broker_url, "--webhook", address, token=n8n.auth_token)
    assert (code, causes(output)) == (1, ["not-active"])
