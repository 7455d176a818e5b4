"""The health check server: by itself, and as a part of a runner."""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import http.client
import json
import logging
import re
import socket
import socketserver
import sys
import threading
from collections.abc import Iterator
from typing import Any, Callable

import pytest

from n8nrunner import ConfigurationError, Runner
from n8nrunner import health as health_module
from n8nrunner.broker import Broker
from n8nrunner.health import HealthServer
from n8nrunner.record import Recorder
from n8nrunner.status import to_json
from tests.conftest import LIMIT, TOKEN, promptly, wait_until
from tests.example_snapshots import snapshot

NewRunner = Callable[..., Runner]


def new_server(state: str = "registered", host: str = "127.0.0.1", port: int = 0) -> HealthServer:
    return HealthServer(host, port, lambda: snapshot(state), lambda: snapshot(state).is_offering)


@contextlib.contextmanager
def serving(state: str = "registered", host: str = "127.0.0.1", port: int = 0) -> Iterator[HealthServer]:
    server = new_server(state, host, port)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def ask(
    address: tuple[str, int], method: str, path: str, body: Any = None, headers: Any = None
) -> tuple[int, bytes, Any]:
    connection = http.client.HTTPConnection(*address, timeout=LIMIT)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.read(), response.headers
    finally:
        connection.close()


# --- by itself ---------------------------------------------------------------------------------------------


def test_every_path_without_data_is_answered_with_200_and_ok() -> None:
    """A launcher kills runners that answer anything else, also during an outage of n8n."""
    with serving("connecting") as server:
        for path in ("/healthz", "/healthz/", "/anything/else?x=1", "/readyz/not", "*"):
            for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
                status, body, headers = ask(server.address, method, path)
                assert (status, body, headers["Content-Length"]) == (200, b"OK", "2"), (method, path)
            status, body, headers = ask(server.address, "HEAD", path)
            assert (status, body, headers["Content-Length"]) == (200, b"", "2")


@pytest.mark.parametrize(
    ("state", "status"),
    [("registered", 200), ("connecting", 503), ("waiting", 503), ("draining", 503), ("closed", 503)],
)
def test_readiness_and_status_follow_the_connections(state: str, status: int) -> None:
    with serving(state) as server:
        for path in ("/readyz", "/readyz?verbose"):
            found, body, _ = ask(server.address, "GET", path)
            assert (found, body) == (status, b"OK" if status == 200 else b"not registered")
        found, body, _ = ask(server.address, "HEAD", "/readyz")
        assert (found, body) == (status, b"")
        found, body, headers = ask(server.address, "GET", "/status")
        assert (found, headers["Content-Type"]) == (200, "application/json")
        assert json.loads(body) == json.loads(json.dumps(to_json(snapshot(state))))
        _, body, _ = ask(server.address, "GET", "/status?newest_error=task%2D0")
        assert "errors" not in json.loads(body)


def test_the_page_allows_its_own_script_and_style_only() -> None:
    with serving() as server:
        status, body, headers = ask(server.address, "GET", "/")
        _, shown, same = ask(server.address, "HEAD", "/?x=1")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert (shown, same["Content-Length"]) == (b"", str(len(body)))
    rules = dict(rule.strip().split(" ", 1) for rule in headers["Content-Security-Policy"].split(";"))
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>".encode(), body, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert (rules["default-src"], rules["connect-src"]) == ("'none'", "'self'")
    assert rules["require-trusted-types-for"] == "'script'"
    assert not re.findall(rb"""(?:src|href)=["']?(?:https?:)?//""", body)  # no external file


@pytest.mark.parametrize("path", ["/", "/status"])
def test_answers_with_data_are_kept_from_caches_frames_and_other_sites(path: str) -> None:
    with serving() as server:
        _, _, headers = ask(server.address, "GET", path)
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["Access-Control-Allow-Origin"] is None


@pytest.mark.parametrize("path", ["/", "/status", "/metrics"])
def test_data_can_only_be_read(path: str) -> None:
    with serving() as server:
        for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            status, body, headers = ask(server.address, method, path)
            assert (status, headers["Allow"], body) == (405, "GET, HEAD", b"This can only be read"), method


@pytest.mark.parametrize(
    ("header", "bound", "allowed", "is_allowed"),
    [
        ("localhost", "127.0.0.1", (), True),
        ("LocalHost:5681", "localhost", (), True),
        ("127.0.0.1:5681", "127.0.0.1", (), True),
        ("127.8.8.8", "127.0.0.1", (), True),
        ("[::1]:5681", "::1", (), True),
        ("rebound.example", "127.0.0.1", (), False),
        ("localhost.rebound.example", "127.0.0.1", (), False),
        ("127.0.0.1.rebound.example", "127.0.0.1", (), False),
        ("10.0.0.5", "127.0.0.1", (), False),
        ("", "127.0.0.1", (), False),
        (None, "127.0.0.1", (), False),
        ("[::1", "127.0.0.1", (), False),
        ("a@localhost:5681", "127.0.0.1", (), True),
        ("10.0.0.5:5681", "0.0.0.0", (), True),
        ("[fd00::5]:5681", "::", (), True),
        ("localhost", "0.0.0.0", (), True),
        ("rebound.example", "0.0.0.0", (), False),
        ("runner", "0.0.0.0", (), False),
        ("runner:5681", "0.0.0.0", ("Runner",), True),
        ("runner.example", "127.0.0.1", ("runner.example",), True),
        ("other.example", "0.0.0.0", ("runner.example",), False),
    ],
)
def test_only_an_ip_address_localhost_or_an_allowed_name_may_read_data(
    header: str | None, bound: str, allowed: tuple[str, ...], is_allowed: bool
) -> None:
    assert health_module.is_allowed_host(header, bound, allowed) is is_allowed


def test_metrics_are_served_in_the_format_that_is_accepted() -> None:
    pytest.importorskip("prometheus_client")
    with serving() as server:
        status, body, headers = ask(server.address, "GET", "/metrics")
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        _, _, others = ask(server.address, "GET", "/metrics", headers=accept)
    assert (status, headers["Content-Type"].split(";")[0]) == (200, "text/plain")
    assert b"n8nrunner_registered" in body
    assert others["Content-Type"].startswith("application/openmetrics-text")


def test_metrics_without_their_package_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "n8nrunner.metrics", raising=False)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with serving() as server:
        status, body, _ = ask(server.address, "GET", "/metrics")
        assert (status, b'pip install "n8nrunner[metrics]"' in body) == (501, True)
        assert ask(server.address, "GET", "/healthz")[0] == 200


def test_a_foreign_host_header_reads_no_data() -> None:
    """A web page whose name leads to this machine gets nothing but the fact that something answers."""
    with serving() as server:
        host = {"Host": "rebound.example"}
        for path in ("/", "/status", "/metrics"):
            status, body, _ = ask(server.address, "GET", path, headers=host)
            assert (status, b"N8NRUNNER_HEALTH_CHECK_ALLOWED_HOSTS" in body) == (403, True)
        for path in ("/healthz", "/readyz", "/anything"):
            assert ask(server.address, "GET", path, headers=host)[:2] == (200, b"OK")


def test_a_request_is_answered_without_its_body() -> None:
    with serving() as server:
        for size in (0, 1, 10_000):
            assert ask(server.address, "POST", "/healthz", b"x" * size)[:2] == (200, b"OK")
        for length in (b"-5", b"many", b"", b"1000000"):
            with socket.create_connection(server.address, LIMIT) as client:
                client.sendall(b"POST /healthz HTTP/1.1\r\nContent-Length: " + length + b"\r\n\r\n")
                assert b" 200 OK\r\n" in client.recv(1000)


def test_requests_do_not_wait_for_each_other() -> None:
    with serving() as server, contextlib.ExitStack() as silent:
        for _ in range(20):
            silent.enter_context(socket.create_connection(server.address, LIMIT))
        with promptly():  # one request after the other would take 20 times `_REQUEST_TIMEOUT`
            assert ask(server.address, "GET", "/healthz")[0] == 200


def test_silent_connections_use_a_bounded_number_of_threads_and_hold_up_no_probe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health_module, "_MOST_REQUESTS", 4)
    before = threading.active_count()
    with serving() as server, contextlib.ExitStack() as silent:
        for _ in range(50):
            silent.enter_context(socket.create_connection(server.address, LIMIT))
        assert ask(server.address, "GET", "/healthz")[0] == 200
        wait_until(lambda: threading.active_count() <= before + 1 + 4)


def test_a_server_that_cannot_accept_does_not_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a free descriptor the connection stays in the queue, and the selector reports it at once."""
    refusals, enough = [0], threading.Event()
    accept = socketserver.TCPServer.get_request

    def refuse(server: Any) -> Any:
        refusals[0] += 1
        if refusals[0] < 3:
            raise OSError(errno.EMFILE, "Too many open files")
        enough.set()
        return accept(server)

    monkeypatch.setattr(socketserver.TCPServer, "get_request", refuse)
    waits: list[float] = []
    with serving() as server:
        monkeypatch.setattr(server._server.stopping, "wait", waits.append)
        assert ask(server.address, "GET", "/healthz")[0] == 200
        assert enough.is_set()
    assert waits == [health_module._ACCEPT_PAUSE] * 2


def test_a_client_that_sends_nothing_is_closed_after_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_module, "_REQUEST_TIMEOUT", 0.1)
    with serving() as server, socket.create_connection(server.address, LIMIT) as client:
        client.sendall(b"GET /healthz HT")
        assert client.recv(1000) == b""


@pytest.mark.parametrize("sent", [b"", b"\x00\xff\r\n\r\n", b"GET\r\n\r\n", b"GET /healthz HTTP/1.1\r\n"])
def test_a_client_that_leaves_or_sends_garbage_delays_no_other(
    sent: bytes, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving() as server:
        with socket.create_connection(server.address, LIMIT) as client:
            client.sendall(sent)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        assert ask(server.address, "GET", "/healthz")[0] == 200
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


def test_a_snapshot_that_raises_costs_that_answer_only() -> None:
    server = HealthServer("127.0.0.1", 0, lambda: 1 / 0, lambda: True)  # type: ignore[arg-type, return-value]
    server.start()
    try:
        with pytest.raises(http.client.HTTPException):
            ask(server.address, "GET", "/status")
        for path in ("/healthz", "/readyz"):
            assert ask(server.address, "GET", path)[0] == 200, path
    finally:
        server.stop()


def test_a_port_in_use_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError) as caught:
            new_server(port=port)
    assert caught.value.problems == [
        f"health_check_port: cannot listen on 127.0.0.1, port {port}: Address already in use"
    ]
    with serving() as first, pytest.raises(ConfigurationError, match="Address already in use"):
        new_server(port=first.address[1])


@pytest.mark.parametrize("host", ["nowhere.invalid", "256.1.1.1", f"{'a' * 70}.invalid"])
def test_an_invalid_host_is_refused(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=f"cannot listen on {host}"):
        new_server(host=host)


def test_an_ipv6_address_is_served() -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    with serving(host="::1") as server:
        assert ask(server.address, "GET", "/healthz")[0] == 200


def test_starting_does_not_look_up_the_name_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The look-up takes many seconds where no name server answers."""

    def refuse(*args: Any) -> str:
        raise AssertionError("the name of this machine was asked for")

    monkeypatch.setattr(socket, "getfqdn", refuse)
    monkeypatch.setattr(socket, "gethostbyaddr", refuse)
    with serving(host="0.0.0.0") as server:
        assert ask(("127.0.0.1", server.address[1]), "GET", "/healthz")[0] == 200


def test_stop_frees_the_port_at_once() -> None:
    with serving() as server:
        address = server.address
        assert ask(address, "GET", "/healthz")[0] == 200
        thread = server.thread
    assert not thread.is_alive()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, LIMIT)
    with serving(port=address[1]) as again:
        assert ask(again.address, "GET", "/healthz")[0] == 200


def test_stop_before_start_closes_the_socket() -> None:
    server = new_server()
    with promptly():
        server.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(server.address, LIMIT)


# --- as a part of a runner ----------------------------------------------------------------------------------


def address_of(caplog: pytest.LogCaptureFixture) -> tuple[str, int]:
    """The address as the log has it: with port 0 there is no other way to know."""
    (found,) = re.findall(r"Health check server listening on (\S+), port (\d+)", caplog.text)
    return found[0], int(found[1])


def test_the_health_check_of_a_runner_follows_its_state(
    new_runner: NewRunner, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    runner = new_runner(health_check_enabled=True, health_check_port=0, capacity=3, name="checked")
    busy, go_on = threading.Event(), threading.Event()

    @runner.task("wait")
    def wait(task: Any) -> None:
        busy.set()
        assert go_on.wait(LIMIT)

    runner.start()
    address = address_of(caplog)
    task = broker.submit("wait", {})
    assert busy.wait(LIMIT)
    try:
        assert ask(address, "GET", "/readyz")[0] == 200
        status, body, _ = ask(address, "GET", "/status")
    finally:
        go_on.set()
    assert status == 200
    found = json.loads(body)
    assert (found["state"], found["registered"], found["capacity"], found["taken"]) == ("running", True, 3, 1)
    assert [(link["broker"], link["state"]) for link in found["brokers"]] == [(broker.url, "registered")]
    assert [each["type"] for each in found["tasks"]] == ["wait"]
    task.result(LIMIT)
    runner.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, LIMIT)


def test_a_probe_does_not_read_the_record_of_the_calls(
    new_runner: NewRunner,
    broker: Broker,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a thousand functions that would take 7 ms."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(Recorder, "functions", lambda *args: 1 / 0)
    runner = new_runner(health_check_enabled=True, health_check_port=0)
    runner.task("any")(lambda task: None)
    with runner:
        with pytest.raises(ZeroDivisionError):
            runner.snapshot()
        for path in ("/healthz", "/readyz"):
            assert ask(address_of(caplog), "GET", path)[:2] == (200, b"OK")


def test_a_runner_is_healthy_and_not_ready_before_n8n_is_there(
    new_runner: NewRunner, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    broker.kill()
    runner = new_runner(health_check_enabled=True, health_check_port=0)
    runner.task("any")(lambda task: None)
    runner.start(wait=0)
    address = address_of(caplog)
    assert ask(address, "GET", "/healthz")[:2] == (200, b"OK")
    assert ask(address, "GET", "/readyz")[0] == 503
    broker.start()
    assert runner.wait_registered(LIMIT)
    assert ask(address, "GET", "/readyz")[0] == 200


def test_without_the_setting_nothing_listens(new_runner: NewRunner, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    runner = new_runner(health_check_port=port)
    runner.task("any")(lambda task: None)
    with runner:
        names: list[str] = [thread.name for thread in threading.enumerate()]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), LIMIT)
    assert "n8nrunner-health" not in names
    assert "Health check" not in caplog.text


def test_the_settings_of_the_server_come_from_the_environment(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("N8N_RUNNERS_HEALTH_CHECK_SERVER_ENABLED", "true")
    monkeypatch.setenv("N8N_RUNNERS_HEALTH_CHECK_SERVER_HOST", "localhost")
    monkeypatch.setenv("N8N_RUNNERS_HEALTH_CHECK_SERVER_PORT", "0")
    runner = Runner(broker.url, auth_token=TOKEN)
    runner.task("any")(lambda task: None)
    with runner:
        host, port = address_of(caplog)
        assert host == "localhost"
        assert ask(("127.0.0.1", port), "GET", "/readyz")[0] == 200


def test_a_runner_whose_port_is_taken_does_not_start(new_runner: NewRunner) -> None:
    with serving() as other:
        runner = new_runner(health_check_enabled=True, health_check_port=other.address[1])
        runner.task("any")(lambda task: None)
        with pytest.raises(ConfigurationError, match="Address already in use"):
            runner.start()
        assert runner.state == "new"
    runner.start()  # the port is free now
    assert runner.is_registered


def test_an_application_goes_on_without_the_port(
    new_runner: NewRunner, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    """The second worker of a gunicorn with a health check server calls `start(wait=0)`."""
    with serving() as other:
        runner = new_runner(health_check_enabled=True, health_check_port=other.address[1])
        runner.task("any")(lambda task: None)
        runner.start(wait=0)
        assert broker.run_task("any", {}, timeout=LIMIT) is None
        (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
        assert "runs without the health check server" in record.getMessage()
        assert "Address already in use" in record.getMessage()
        with pytest.raises(ConfigurationError):
            new_runner(health_check_enabled=True, health_check_port=other.address[1]).run()


def test_an_application_goes_on_without_the_health_server_s_thread(
    new_runner: NewRunner, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(server: HealthServer) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(HealthServer, "start", refuse)
    runner = new_runner(health_check_enabled=True, health_check_port=0)
    runner.task("any")(lambda task: None)
    runner.start(wait=0)
    assert broker.run_task("any", {}, timeout=LIMIT) is None
