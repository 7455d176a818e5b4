"""The command `n8nrunner check` on set-ups that work, and what it leaves behind."""

from __future__ import annotations

import base64
import json
import re
import select
import socket
import struct
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from n8nrunner import Runner, cli
from n8nrunner.broker import Broker
from n8nrunner.check import webhook
from n8nrunner.check.facts import Trouble
from n8nrunner.connection import dial
from tests.check.setups import editor
from tests.conftest import LIMIT, TOKEN, wait_until
from tests.connection.servers import HttpServer, Server, http_answer, read_request


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("N8N_RUNNERS_AUTH_TOKEN", f" {TOKEN}\n")


def check(*arguments: str) -> int:
    return cli.main(["check", *arguments])


def test_every_step_passes_and_has_a_line_with_its_time(
    broker: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check("--broker", broker.url) == 0
    output = capsys.readouterr().out
    lines = [line.split()[:2] for line in output.splitlines() if line.startswith("  ") and line[2] != " "]
    assert lines == [
        ["settings", "ok"], ["name", "ok"], ["TCP", "ok"], ["proxy", "-"], ["TLS", "-"], ["/healthz", "ok"],
        ["log-in", "ok"], ["upgrade", "ok"], ["registration", "ok"],
    ]  # fmt: skip
    assert len(re.findall(r" ok +\d+ ms ", output)) == 6
    assert TOKEN not in output


def test_the_check_takes_no_task_and_disturbs_no_runner(broker: Broker) -> None:
    runner = Runner(broker.url, auth_token=TOKEN, runner_id="one")
    runner.task("echo")(lambda task: "done")
    with runner:
        assert check("--broker", broker.url) == 0
        assert broker.run_task("echo", {}) == "done"
        wait_until(lambda: broker.counts.runners == 1)
        events = broker.events
    registered, offering = (
        [event.runner_id for event in events if event.kind == kind] for kind in ("registered", "offered")
    )
    assert len(registered) == 2
    assert set(offering) == {"one"}
    assert not any(event.kind == "evicted" for event in events)


def test_each_of_several_brokers_is_checked_and_a_webhook_only_after_all(
    broker: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with HttpServer(http_answer(200)) as n8n:
        assert check("--broker", f"{closed},{broker.url}", "--webhook", f"{n8n.url}/webhook/x") == 1
        output = capsys.readouterr().out
        assert output.index(f"\n{closed}\n") < output.index(f"\n{broker.url}\n")
        assert output.count("registration  ok") == 1
        assert "not called before all brokers are in order" in output
        assert [request for request in n8n.requests if request.line.startswith("POST")] == []


def test_a_module_gives_the_settings_and_options_replace_them(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "from n8nrunner import Runner\nrunner = Runner('http://127.0.0.1:1', auth_token='wrong')\n"
    (tmp_path / "module_of_the_check.py").write_text(text)
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert check("module_of_the_check", "--broker", broker.url) == 3
    assert "no-token-in-n8n" in capsys.readouterr().out
    options = ["--broker", broker.url, "--token-file", str(tmp_path / "token")]
    assert check("module_of_the_check", *options) == 0


@pytest.mark.parametrize(
    ("version", "tokens"), [("2.40.7", [TOKEN]), ("1.90.2", [TOKEN, f"{TOKEN}\n", f'"{TOKEN}"'])]
)
def test_other_forms_of_a_refused_token_are_tried_only_with_an_n8n_that_may_keep_them(
    version: str, tokens: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """n8n accepts five log-ins a second."""
    with (
        HttpServer(http_answer(403, b'{"code":403,"message":"Forbidden"}')) as refusing,
        editor(version) as site,
    ):
        assert check("--broker", refusing.url, "--n8n", site.url) == 3
    sent = [json.loads(request.body) for request in refusing.requests if request.line.startswith("POST")]
    assert [each["token"] for each in sent] == tokens
    output = capsys.readouterr().out
    assert f"n8n {version} answers at {site.url}" in output
    assert output.index("[no-token-in-n8n]") < output.index("[another-token]")


def test_the_answer_of_a_webhook_is_shown(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with HttpServer(http_answer(200, b'[{"result": 4}]\n\x1b[31m')) as n8n:
        address = n8n.url.replace("://", "://user:password@")
        assert check("--broker", broker.url, "--webhook", f"{address}/webhook/x?key=secret") == 0
        request = n8n.requests[-1]
        assert request.headers["authorization"] == f"Basic {base64.b64encode(b'user:password').decode()}"
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login ada password secret")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        webhook.post(f"{n8n.url}/webhook/x", 5.0)
        assert "authorization" not in n8n.requests[-1].headers
    assert (request.line, request.body) == ("POST /webhook/x?key=secret HTTP/1.1", b"{}")
    output = capsys.readouterr().out
    assert 'HTTP 200: [{"result": 4}] [31m' in output
    assert "password" not in output


@pytest.mark.parametrize(
    ("status", "text", "seconds", "trouble"),
    [
        (200, "[]", 0.1, None),
        (200, '[{"error":"No runner \\"leads\\" took the call"}]', 60, Trouble.NO_RUNNER),
        (500, '{"message":"Error in workflow"}', 0.1, Trouble.WORKFLOW_FAILED),
        (500, '{"message":"Error in workflow"}', 60.2, Trouble.NO_RUNNER),
        (
            404,
            '{"code":404,"message":"The requested webhook is not registered."}',
            0.1,
            Trouble.WEBHOOK_UNKNOWN,
        ),
        (403, "Authorization data is wrong!", 0.1, Trouble.WEBHOOK_REFUSED),
    ],
)
def test_an_answer_of_a_webhook_means(
    status: int, text: str, seconds: float, trouble: Trouble | None
) -> None:
    assert webhook.trouble_of(status, text, seconds) is trouble


def test_a_webhook_without_an_answer_is_given_up() -> None:
    def script(connection: socket.socket) -> None:
        read_request(connection)
        server.closing.wait(10)

    with Server(script) as server:
        outcome = webhook.post(f"{server.url}/webhook/x", 0.2)
    assert outcome.problem is Trouble.WEBHOOK_SILENT
    assert webhook.post(f"{server.url}/webhook/x", 0.2).problem is Trouble.WEBHOOK_UNREACHABLE


def test_a_peer_that_resets_a_connection_at_once_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as a port forwarding to a port that is closed."""
    connect, is_connected = dial.connect, threading.Event()

    def connect_and_wait(*arguments: Any) -> socket.socket:
        connected = connect(*arguments)
        if not is_connected.is_set():
            is_connected.set()
            assert select.select([connected], [], [], LIMIT)[0]
        return connected

    def reset_first(connection: socket.socket) -> None:
        assert is_connected.wait(LIMIT)
        if forwarding.accepted == 1:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    monkeypatch.setattr(dial, "connect", connect_and_wait)
    with Server(reset_first) as forwarding:
        assert check("--broker", forwarding.url, "--n8n", forwarding.url) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "accepts, and closes the connection at once" in text
    assert "Likely cause [port-forwarding]" in text


def test_a_name_that_stands_for_all_its_addresses_is_checked_at_each_of_them(
    broker: Broker, names: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check("--broker", f"dns+http://workers.test:{broker.port}") == 0
    output = capsys.readouterr().out
    assert f"\ndns+http://workers.test:{broker.port}\n  name          ok" in output
    assert f"\nhttp://127.0.0.1:{broker.port}\n" in output
    assert check("--broker", "dns+http://workers:5679") == 1
    assert "Likely cause [name-of-another-network]" in capsys.readouterr().out


@pytest.mark.parametrize("more", [b"x", b""])
def test_a_webhook_whose_body_is_slow_or_does_not_come_is_given_up(more: bytes) -> None:
    def script(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        while not server.closing.wait(0.05):
            connection.sendall(more)

    with Server(script) as server:
        outcome = webhook.post(f"{server.url}/webhook/x", 0.3)
    assert outcome.problem is Trouble.WEBHOOK_SILENT
    assert outcome.seen == "no answer within 0.3 s"


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"])
def test_a_webhook_is_given_up_whichever_of_two_clocks_is_first(
    head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library's limit passes before the caller waits for its thread."""

    class Joined(threading.Thread):
        def start(self) -> None:
            super().start()
            self.join(LIMIT)

    def script(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(head)
        server.closing.wait(LIMIT)

    with Server(script) as server:
        monkeypatch.setattr(webhook, "threading", SimpleNamespace(Thread=Joined))
        outcome = webhook.post(f"{server.url}/webhook/x", 0.3)
    assert outcome.problem is Trouble.WEBHOOK_SILENT
    assert outcome.seen == "no answer within 0.3 s"


@pytest.mark.parametrize("option", ["--n8n", "--webhook"])
@pytest.mark.parametrize("url", ["localhost:5678", "http://"])
def test_a_wrong_address_of_n8n_is_a_wrong_argument(
    option: str, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(option, url) == 2
    assert f"{option}: expected " in capsys.readouterr().err
