"""A whole runner while n8n is away, or another server answers in its place."""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from typing import Callable

import pytest

from n8nrunner import Runner
from n8nrunner.broker import Broker
from n8nrunner.connection import attempt
from tests.conftest import TOKEN, wait_until
from tests.connection.servers import Server, http_answer, read_request

NewRunner = Callable[..., Runner]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 302 Found\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 302 Found\r\nLocation: http://[::1\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello",
        http_answer(403, b"<html>Blocked by the company's proxy</html>"),
        http_answer(401),
    ],
    ids=["redirect", "not gzip", "bad location", "two lengths", "403 of a proxy", "401"],
)
def test_a_runner_registers_after_odd_answers_to_probes_and_log_ins(
    answer: bytes, new_runner: NewRunner
) -> None:
    """n8n is down first, then another server answers in its place, then n8n is there."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    runner = new_runner(f"http://127.0.0.1:{port}")
    runner.start(wait=0)
    wait_until(lambda: runner.snapshot().links[0].failures)
    lines = []

    def script(connection: socket.socket) -> None:
        lines.append(read_request(connection).line)
        connection.sendall(answer)

    with Server(script, port):
        wait_until(lambda: len(lines) >= 3)
        assert lines[0] == "GET /healthz HTTP/1.1"
    with Broker(auth_token=TOKEN, port=port):
        wait_until(lambda: runner.snapshot().is_registered)
        runner.stop(1)


def test_a_relative_token_file_is_found_after_a_change_of_folder(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that becomes a daemon goes to "/" after the start."""
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.chdir(tmp_path)
    runner = Runner(broker.url, auth_token_file="token")
    monkeypatch.chdir("/")
    try:
        runner.start()
        broker.kill()
        broker.start()
        wait_until(lambda: runner.snapshot().links[0].registrations == 2)
    finally:
        runner.stop(0)


def test_a_changed_reason_is_logged_at_once(
    broker: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The rule of one line a minute holds for each reason: nothing answers, another server, no token."""
    path = tmp_path / "token"
    path.write_text(TOKEN)
    runner = Runner(broker.url, auth_token_file=str(path))
    try:
        runner.start()
        path.unlink()
        broker.kill()
        wait_until(lambda: "ConnectionRefusedError" in caplog.text)
        with Server(lambda raw: raw.sendall(http_answer(502)), broker.port):
            wait_until(lambda: "answered HTTP 502" in caplog.text)
        broker.start()
        wait_until(lambda: "auth_token_file: cannot read" in caplog.text)
    finally:
        runner.stop(0)
    for reason in ("ConnectionRefusedError", "answered HTTP 502", "auth_token_file: cannot read"):
        assert sum(reason in record.getMessage() for record in caplog.records) == 1


def test_a_log_without_the_level_info_shows_that_the_connection_works_again(
    broker: Broker, new_runner: NewRunner, caplog: pytest.LogCaptureFixture
) -> None:
    runner = new_runner(name="shop")
    with caplog.at_level(logging.WARNING, "n8nrunner"):
        runner.start()
        assert "Registered" not in caplog.text
        broker.kill()
        broker.start()
        wait_until(lambda: "Registered" in caplog.text)
    last = caplog.records[-1]
    assert last.getMessage().startswith("Registered with the broker at ")
    assert last.getMessage().endswith(". The connection works now")
    assert last.levelno == logging.WARNING


def test_plain_http_to_a_public_address_is_logged_once(
    broker: Broker, new_runner: NewRunner, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "public_address", lambda url: "8.8.8.8")
    # The process asks once for each URL, and an earlier test may have used the same port.
    monkeypatch.setattr(attempt, "_checked_urls", set())
    runner = new_runner()
    runner.start()
    broker.kill()
    broker.start()
    wait_until(lambda: runner.snapshot().links[0].registrations == 2)
    lines = [record for record in caplog.records if "plain HTTP" in record.getMessage()]
    assert [(line.levelname, line.name) for line in lines] == [("WARNING", "n8nrunner")]
    assert broker.url in lines[0].getMessage()
    assert "8.8.8.8" in lines[0].getMessage()
    assert TOKEN not in lines[0].getMessage()


def test_plain_http_to_this_machine_is_not_logged(
    new_runner: NewRunner, caplog: pytest.LogCaptureFixture
) -> None:
    new_runner().start()
    assert "plain HTTP" not in caplog.text
