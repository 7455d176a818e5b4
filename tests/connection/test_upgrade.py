"""From a connected socket to a WebSocket: the request, and the answers to it."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, Callable

import pytest
from websocket import _handshake

from n8nrunner.connection.transport import Connection
from n8nrunner.deadline import Deadline
from n8nrunner.protocol.failures import LinkFailure, RateLimited, Unreachable, UpgradeRefused
from tests.conftest import LIMIT, promptly
from tests.connection.servers import (
    TEXT,
    HttpServer,
    Request,
    frame,
    http_answer,
    read_count,
    read_request,
    socket_pair,
    upgrade_answer,
)

URL = "ws://broker.test:5679/runners/_ws"
GRANT = "grant-token-of-the-tests"

Answer = Callable[[socket.socket, Request], Any]


@contextlib.contextmanager
def upgrading(answer: Answer) -> Iterator[Connection]:
    """Yield a connection whose request to upgrade gets that answer, on a thread."""
    client, server = socket_pair()
    server.settimeout(LIMIT)

    def serve() -> None:
        with contextlib.suppress(OSError):
            answer(server, read_request(server))

    thread = threading.Thread(target=serve, name="test-upgrade")
    thread.start()
    connection = Connection(client, 1_000_000)
    try:
        yield connection
    finally:
        connection.close()
        thread.join(LIMIT)
        server.close()


def refused(answer: Answer, seconds: float = LIMIT) -> LinkFailure:
    """Return the failure that an answer leads to."""
    with upgrading(answer) as connection, pytest.raises(LinkFailure) as caught:
        connection.open(URL, "runner", GRANT, Deadline(seconds))
    assert GRANT not in str(caught.value)
    assert URL in str(caught.value)
    return caught.value


def sends(data: bytes, end: bool = True) -> Answer:
    def answer(raw: socket.socket, request: Request) -> None:
        raw.sendall(data)
        if end:
            raw.shutdown(socket.SHUT_WR)
        else:
            raw.recv(1)  # until the runner gives up

    return answer


# --- the request -----------------------------------------------------------------------------------


def request_of(runner_id: str, url: str = URL) -> Request:
    requests: list[Request] = []

    def answer(raw: socket.socket, request: Request) -> None:
        requests.append(request)
        raw.sendall(upgrade_answer(request))

    with upgrading(answer) as connection:
        connection.open(url, runner_id, GRANT, Deadline(LIMIT))
    return requests[0]


def test_the_request_has_the_grant_token_and_no_other_headers() -> None:
    request = request_of("0a1b")
    assert request.line == "GET /runners/_ws?id=0a1b HTTP/1.1"
    assert request.headers.pop("sec-websocket-key")
    assert request.headers == {
        "host": "broker.test:5679",
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-version": "13",
        "authorization": f"Bearer {GRANT}",
    }


@pytest.mark.parametrize(
    ("runner_id", "shown"), [("a b&id=c", "a%20b%26id%3Dc"), ("/?#", "%2F%3F%23"), ("ü", "%C3%BC")]
)
def test_a_runner_id_is_escaped(runner_id: str, shown: str) -> None:
    assert request_of(runner_id).line == f"GET /runners/_ws?id={shown} HTTP/1.1"


def test_the_request_has_the_path_and_the_ipv6_address_of_the_url() -> None:
    request = request_of("r", "ws://[::1]:7000/some/path/_ws")
    assert request.line == "GET /some/path/_ws?id=r HTTP/1.1"
    assert request.headers["host"] == "[::1]:7000"


@pytest.mark.parametrize("name", ["Set-Cookie", "set-cookie ", " Set-Cookie"])
def test_cookies_are_neither_kept_nor_sent(name: str) -> None:
    """The library has one jar for all connections of the program, those of the application included."""
    jar = _handshake.CookieJar
    sent: list[Request] = []

    def answer(raw: socket.socket, request: Request) -> None:
        sent.append(request)
        line = f"{name}: session=broker; domain=broker.test\r\n\r\n"
        raw.sendall(upgrade_answer(request)[:-2] + line.encode())

    jar.add("session=application; domain=broker.test")
    try:
        with upgrading(answer) as connection:
            connection.open(URL, "runner", GRANT, Deadline(LIMIT))
        assert "cookie" not in sent[0].headers
        assert jar.get("broker.test") == "session=application"
    finally:
        jar.jar.clear()


# --- the right answer ------------------------------------------------------------------------------------


def test_the_answer_may_be_cut_anywhere() -> None:
    message = frame(TEXT, b"first")

    for cut in range(1, 150, 7):

        def answer(raw: socket.socket, request: Request, at: int = cut) -> None:
            data = upgrade_answer(request) + message
            raw.sendall(data[:at])
            raw.sendall(data[at:])

        with upgrading(answer) as connection:
            connection.open(URL, "runner", GRANT, Deadline(LIMIT))
            connection.bind()
            assert read_count(connection, 1) == [b"first"]


def test_the_answer_may_come_byte_by_byte() -> None:
    def answer(raw: socket.socket, request: Request) -> None:
        for byte in upgrade_answer(request):
            raw.sendall(bytes([byte]))

    with upgrading(answer) as connection:
        connection.open(URL, "runner", GRANT, Deadline(LIMIT))


def test_an_open_connection_does_not_block() -> None:
    with upgrading(lambda raw, request: raw.sendall(upgrade_answer(request))) as connection:
        connection.open(URL, "runner", GRANT, Deadline(LIMIT))
        connection.bind()
        assert connection.raw.gettimeout() == 0.0
        assert connection.read() == ([], 0, False)


# --- other answers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 500, 503])
@pytest.mark.parametrize("body", [None, b"<html>no</html>"])
def test_a_refusal_gives_its_status(status: int, body: bytes | None) -> None:
    # n8n answers with the bare line; its WebSocket library, and proxies, with a page.
    data = f"HTTP/1.1 {status} Text\r\n\r\n".encode() if body is None else http_answer(status, body)
    failure = refused(sends(data))
    assert type(failure) is UpgradeRefused
    assert failure.status == status
    assert f"HTTP {status}" in str(failure)
    assert failure.is_n8ns is (body is None)
    assert ("a proxy or gateway in front of n8n has answered" in str(failure)) is (body is not None)


def test_status_429_is_rate_limited() -> None:
    assert type(refused(sends(b"HTTP/1.1 429 Too Many Requests\r\n\r\n"))) is RateLimited


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_refused_and_never_followed(status: int) -> None:
    with HttpServer(http_answer(200)) as elsewhere:
        target = elsewhere.url.replace("http", "ws") + "/runners/_ws"
        failure = refused(sends(http_answer(status, Location=target)))
        assert elsewhere.accepted == 0
    assert isinstance(failure, UpgradeRefused)
    assert failure.status == status


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"\x16\x03\x01\x02\x00" * 4 + b"\r\n\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 -101 What\r\n\r\n",
        b"\r\n\r\n",
    ],
)
def test_an_answer_that_is_not_http_is_refused(data: bytes) -> None:
    failure = refused(sends(data))
    assert isinstance(failure, UpgradeRefused)
    assert failure.status == 0


@pytest.mark.parametrize(
    "lines",
    [
        "",
        "Upgrade: websocket\r\nConnection: Upgrade\r\n",
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: d3Jvbmc=\r\n",
        "Upgrade: h2c\r\nConnection: Upgrade\r\n",
        "no colon in this line\r\n",
        "Upgrade: \xff\xfe\r\n",
    ],
)
def test_a_101_with_wrong_headers_is_refused(lines: str) -> None:
    failure = refused(sends(f"HTTP/1.1 101 Switching Protocols\r\n{lines}\r\n".encode("latin-1")))
    assert isinstance(failure, UpgradeRefused)
    assert "did not upgrade" in str(failure)


def test_a_head_that_never_ends_is_refused() -> None:
    failure = refused(sends(b"HTTP/1.1 101 Switching Protocols\r\n" + b"X: y\r\n" * 1_000_000))
    assert isinstance(failure, UpgradeRefused)
    assert "something other than HTTP" in str(failure)


def test_silence_until_the_deadline_is_unreachable() -> None:
    began = time.monotonic()
    with promptly():
        failure = refused(sends(b"", end=False), seconds=0.2)
    assert type(failure) is Unreachable
    assert time.monotonic() - began > 0.15


def test_an_answer_byte_by_byte_has_until_the_deadline() -> None:
    def answer(raw: socket.socket, request: Request) -> None:
        for _ in range(1000):
            raw.sendall(b"H")
            threading.Event().wait(0.02)  # the slowness is what is tested

    began = time.monotonic()
    with promptly():
        failure = refused(answer, seconds=0.3)
    assert type(failure) is Unreachable
    assert time.monotonic() - began > 0.25


def test_a_deadline_that_has_passed_is_unreachable() -> None:
    failure = refused(sends(b"", end=False), seconds=0.0)
    assert type(failure) is Unreachable
    assert "in time" in str(failure)


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 101 Switching"])
def test_an_end_instead_of_an_answer_is_unreachable(data: bytes) -> None:
    failure = refused(sends(data))
    assert type(failure) is Unreachable
    assert "closed the connection instead of answering the upgrade" in str(failure)


def test_a_reset_instead_of_an_answer_is_unreachable() -> None:
    def answer(raw: socket.socket, request: Request) -> None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        raw.close()

    assert type(refused(answer)) is Unreachable


def test_nothing_of_a_refusal_reaches_the_log_of_a_runners_threads(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The library logs an ERROR for each, with the bytes of the peer. Users do not need these records."""
    failures: list[LinkFailure] = []
    thread = threading.Thread(
        target=lambda: failures.append(refused(sends(http_answer(403, b"x")))), name="n8nrunner-connect-0"
    )
    with caplog.at_level(logging.DEBUG):
        thread.start()
        thread.join(LIMIT)
    assert len(failures) == 1
    assert caplog.records == []
