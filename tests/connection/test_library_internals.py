"""The internals of other libraries that the connection depends on, one test for each.

If one of these fails, a new release has changed something that its documentation does not promise. The
assertion's text says what it is. docs/architecture.md says what it is used for.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import logging
import struct
from typing import Any, Callable

import backoff
import pytest
import requests
import requests.adapters
import requests.utils
import websocket

from tests.connection.servers import CLOSE, PING, PONG, frame, unmasked


class Socket:
    """No more than what the library uses of a socket that is handed in."""

    def __init__(self) -> None:
        #: The request to upgrade, and what was sent after it, as releases before 1.9 do.
        self.request = b""
        self.sent: list[bytes] = []
        self.unread = bytearray()
        self.failure: Exception | None = None
        self.closed = False

    def recv(self, size: int) -> bytes:
        if self.failure is not None:
            raise self.failure
        if not self.unread:
            self._grant()
        data = bytes(self.unread[:size])
        del self.unread[:size]
        return data

    def send(self, data: bytes) -> int:
        self.sent.append(bytes(data))
        return len(data)

    def gettimeout(self) -> float:
        return 0.0

    def settimeout(self, timeout: float | None) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def shutdown(self, how: int) -> None:
        self.closed = True

    def _grant(self) -> None:
        """Answer the request to upgrade."""
        request = b"".join(self.sent)
        if not request.startswith(b"GET ") or not request.endswith(b"\r\n\r\n"):
            return
        self.request = request
        self.sent.clear()
        lines = request.decode().split("\r\n")
        key = next(line.split(": ")[1] for line in lines if line.lower().startswith("sec-websocket-key"))
        digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
        self.unread += (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {base64.b64encode(digest).decode()}\r\n\r\n"
        ).encode()


class Dispatcher:
    """No more than what the library uses of a dispatcher that is handed in."""

    def __init__(self) -> None:
        self.reads: list[Any] = []
        self.written: list[bytes] = []

    def read(self, sock: Any, read_message: Callable[[], bool]) -> None:
        self.reads.append((sock, read_message))

    def buffwrite(self, sock: Any, data: Any, send: Any, on_disconnect: Any) -> None:
        self.written.append(bytes(data))

    def signal(self, number: int, handler: Any) -> None:
        pass

    def abort(self) -> None:
        pass


class App:
    """A WebSocketApp as the connection uses it."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.socket = Socket()
        self.socket.failure = failure
        self.dispatcher = Dispatcher()
        self.errors: list[Any] = []
        # A name that cannot be looked up, so that a socket of the library's own cannot be opened.
        self.app = websocket.WebSocketApp(
            "ws://nowhere.invalid:1/runners/_ws?id=x",
            header={"Authorization": "Bearer grant"},
            on_error=lambda app, error: self.errors.append(error),
            socket=self.socket,
        )
        self.app.run_forever(
            dispatcher=self.dispatcher, skip_utf8_validation=True, reconnect=0, suppress_origin=True
        )

    def read_message(self, data: bytes) -> Any:
        self.socket.unread += data
        return self.dispatcher.reads[0][1]()

    def answers(self) -> list[bytes]:
        """Return what the library sent after the upgrade, by either way."""
        return [*self.socket.sent, *self.dispatcher.written]


# --- websocket-client: the app -----------------------------------------------------------------------------


def test_websocketapp_uses_the_socket_that_is_handed_in_and_opens_none() -> None:
    app = App()
    assert app.errors == [], f"WebSocketApp(socket=...) did not use the socket alone: {app.errors}"
    assert app.socket.request.startswith(b"GET /runners/_ws?id=x HTTP/1.1\r\n"), (
        "WebSocketApp(socket=...) did not send its request to upgrade by socket.send"
    )


def test_the_request_has_the_given_header_and_no_origin() -> None:
    head = App().socket.request.decode().lower()
    assert "\r\nauthorization: bearer grant\r\n" in head, "WebSocketApp(header={...}) has changed"
    assert "\r\norigin:" not in head, "run_forever(suppress_origin=True) has changed"


def test_run_forever_calls_the_dispatchers_read_once_and_returns_when_it_does() -> None:
    app = App()
    assert len(app.dispatcher.reads) == 1, "run_forever(dispatcher=...) no longer calls dispatcher.read once"
    assert callable(app.dispatcher.reads[0][1]), "dispatcher.read no longer gets the function that reads"
    assert not app.socket.closed, "run_forever closes the socket when dispatcher.read returns"
    assert app.app.sock is not None, "run_forever forgets the WebSocket when dispatcher.read returns"
    assert app.answers() == [], "run_forever sends something when dispatcher.read returns"


def test_an_exception_of_the_socket_during_the_upgrade_reaches_on_error_as_it_is() -> None:
    failure = RuntimeError("ours")
    app = App(failure)
    assert app.errors == [failure], "the socket's own exception no longer reaches on_error during the upgrade"
    assert app.dispatcher.reads == [], "dispatcher.read is called although the upgrade failed"


def test_the_library_logs_to_the_logger_websocket(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        App(RuntimeError("ours"))
    names = {record.name for record in caplog.records}
    assert names == {"websocket"}, f"websocket-client logs to {names}, and the filter sits on 'websocket'"


# --- websocket-client: control frames -----------------------------------------------------------------


def test_pings_are_answered_by_one_whole_frame() -> None:
    app = App()
    app.read_message(frame(PING, b"payload"))
    (answer,) = app.answers()
    assert not app.socket.unread, "read_message does not read a frame to its end"
    assert answer[:2] == bytes([0x80 | PONG, 0x80 | 7]), "a ping is no longer answered by one pong"
    assert unmasked(answer[6:], answer[2:6]) == b"payload", "a pong no longer repeats the ping's payload"


@pytest.mark.parametrize("payload", [b"", struct.pack("!H", 1000), struct.pack("!H", 3000) + b"\xff"])
def test_a_close_frame_is_answered_and_read_message_returns(payload: bytes) -> None:
    app = App()
    app.read_message(frame(CLOSE, payload))
    (answer,) = app.answers()
    assert answer[0] == 0x80 | CLOSE, "a close frame is no longer answered by one close frame"
    assert len(answer) == 8, "the answer to a close frame is no longer a bare code"


def test_a_frame_against_the_rules_raises_out_of_read_message() -> None:
    app = App()
    with pytest.raises(websocket.WebSocketException):
        app.read_message(frame(11, b"x"))


# --- backoff -----------------------------------------------------------------------------------------------


def test_backoff_expo_yields_none_first_and_then_grows_to_its_maximum() -> None:
    delays = backoff.expo(base=2, factor=0.5, max_value=30.0)
    assert next(delays) is None, "the first value of backoff.expo is a delay now; one would be lost"
    assert [next(delays) for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_backoff_full_jitter_lies_between_nothing_and_its_value() -> None:
    values = [backoff.full_jitter(10.0) for _ in range(2000)]
    assert 0 <= min(values) < 0.5, "backoff.full_jitter no longer begins at 0"
    assert 9.5 < max(values) <= 10, "backoff.full_jitter no longer reaches its value"


# --- requests, urllib3, http.client -----------------------------------------------------------


def test_requests_takes_proxies_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.test:3128")
    monkeypatch.setenv("NO_PROXY", "other.test")
    for host, expected in (("broker.test", "http://proxy.test:3128"), ("other.test", None)):
        url = f"https://{host}/"
        proxy = requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url))
        assert proxy == expected, "get_environ_proxies or select_proxy has changed"


def test_requests_has_a_bundle_of_certificates() -> None:
    with open(requests.utils.DEFAULT_CA_BUNDLE_PATH, encoding="ascii", errors="ignore") as file:
        assert "BEGIN CERTIFICATE" in file.read()


def test_http_client_uses_the_socket_that_is_handed_in() -> None:
    """It writes by `sendall`, reads a file that `makefile` returns, and closes before it reads to the end."""
    written = []
    closed = []

    class Socket:
        def sendall(self, data: bytes) -> None:
            written.append(bytes(data))

        def makefile(self, mode: str) -> io.BytesIO:
            return io.BytesIO(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nas it is")

        def close(self) -> None:
            closed.append(True)

    connection = http.client.HTTPConnection("")
    connection.sock = Socket()
    connection.request("POST", "/path", b"{}", {"Host": "n8n.test"})
    response = connection.getresponse()
    assert closed
    assert response.read(100) == b"as it is", "the body is decompressed"
    assert b"".join(written) == (
        b"POST /path HTTP/1.1\r\nAccept-Encoding: identity\r\nContent-Length: 2\r\nHost: n8n.test\r\n\r\n{}"
    )
