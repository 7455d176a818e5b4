"""The grant token and the health probe over HTTP, and their settings from the environment."""

from __future__ import annotations

import contextlib
import gzip
import json
import logging
import socket
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
import requests

from n8nrunner.config import BrokerUrl, parse_broker
from n8nrunner.connection import auth
from n8nrunner.connection.auth import fetch_grant, why_unhealthy
from n8nrunner.protocol.failures import AuthRefused, LinkFailure, NotABroker, RateLimited, Unreachable
from tests.conftest import LIMIT, promptly
from tests.connection.conftest import Authority
from tests.connection.servers import (
    OK,
    UNKNOWN_PATH,
    HttpServer,
    Proxy,
    Server,
    Site,
    TlsTerminator,
    http_answer,
    read_request,
)

SECRET = "the-shared-secret"
GRANT = "0123456789abcdef" * 4
GRANTED = http_answer(200, json.dumps({"data": {"token": GRANT}}).encode())


def is_healthy(url: BrokerUrl) -> bool:
    return why_unhealthy(url) is None


def refused(url: str) -> LinkFailure:
    with pytest.raises(LinkFailure) as caught:
        fetch_grant(parse_broker(url), SECRET)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    return caught.value


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "HTTP_TIMEOUT", 0.4)


# --- what is sent, and the right answer ------------------------------------------------------------------


def test_the_secret_is_posted_as_json_and_the_grant_comes_back() -> None:
    with HttpServer(GRANTED) as server:
        assert fetch_grant(parse_broker(server.url), SECRET) == GRANT
        (request,) = server.requests
    assert request.line == "POST /runners/auth HTTP/1.1"
    assert request.headers["content-type"] == "application/json"
    assert json.loads(request.body) == {"token": SECRET}


def test_another_path_replaces_the_first_part() -> None:
    with HttpServer(GRANTED) as server:
        fetch_grant(parse_broker(f"{server.url}/n8n/tasks"), SECRET)
        is_healthy(parse_broker(f"{server.url}/n8n/tasks"))
        assert [request.line for request in server.requests] == [
            "POST /n8n/tasks/auth HTTP/1.1",
            "GET /healthz HTTP/1.1",
        ]


def test_an_answer_may_be_chunked_or_without_a_length() -> None:
    body = json.dumps({"data": {"token": GRANT}, "stacktrace": "ignored"}).encode()
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:7], body[7:])) + b"0\r\n\r\n"
    for answer in (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks,
        b"HTTP/1.1 200 OK\r\n\r\n" + body,
    ):
        with HttpServer(answer) as server:
            assert fetch_grant(parse_broker(server.url), SECRET) == GRANT


# --- docs/protocol.md, "Authentication" ------------------------------------------------------------------

HTML = b"<!DOCTYPE html><html><body>Error</body></html>"


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (http_answer(403, b'{"code":403,"message":"Forbidden"}'), AuthRefused, "refused the token"),
        # n8n adds a stack trace, unless NODE_ENV is "production".
        (
            http_answer(403, b'{"code":403,"message":"Forbidden","stacktrace":"ResponseError"}'),
            AuthRefused,
            "refused the token",
        ),
        # Refusals of a server between n8n and the runner: they pass, or an operator has to change them.
        (http_answer(401, HTML), NotABroker, "HTTP 401, which does not come from n8n's task broker"),
        (http_answer(403, HTML), NotABroker, "HTTP 403, which does not come from n8n's task broker"),
        (http_answer(403), NotABroker, "HTTP 403"),
        (http_answer(403, b'"Forbidden"'), NotABroker, "HTTP 403"),
        (http_answer(403, b'{"message":"Forbidden"}'), NotABroker, "HTTP 403"),
        (http_answer(403, b'{"code":403,"message":"Access denied"}'), NotABroker, "HTTP 403"),
        (http_answer(407, HTML), NotABroker, "HTTP 407"),
        (http_answer(429, HTML), NotABroker, "HTTP 429"),
        (http_answer(400, b"Client sent an HTTP request to an HTTPS server."), NotABroker, "use https://"),
        (http_answer(429, b'{"message":"Too many requests"}', Retry_After="1"), RateLimited, "five log-ins"),
        (http_answer(400, b'{"code":400,"message":"invalid_type"}'), NotABroker, "HTTP 400"),
        (http_answer(404, HTML), NotABroker, "HTTP 404"),
        (http_answer(413, HTML), NotABroker, "HTTP 413"),
        (http_answer(500, HTML), Unreachable, "HTTP 500"),
        (http_answer(502, HTML), Unreachable, "HTTP 502"),
        (http_answer(503, HTML), Unreachable, "HTTP 503"),
        (http_answer(204), NotABroker, "HTTP 204"),
        (http_answer(200, HTML), NotABroker, "without a grant token"),
        (http_answer(200, b""), NotABroker, "without a grant token"),
        (http_answer(200, b"[" * 60_000), NotABroker, "without a grant token"),
        (http_answer(200, b"[]"), NotABroker, "without a grant token"),
        (http_answer(200, b'{"data":[]}'), NotABroker, "without a grant token"),
        (http_answer(200, b'{"data":{}}'), NotABroker, "without a grant token"),
        (http_answer(200, b'{"data":{"token":""}}'), NotABroker, "without a grant token"),
        (http_answer(200, b'{"data":{"token":7}}'), NotABroker, "without a grant token"),
        # This token would add a header, or is not a header at all.
        (http_answer(200, b'{"data":{"token":"a\\r\\nX: y"}}'), NotABroker, "without a grant token"),
        (http_answer(200, '{"data":{"token":"ü"}}'.encode()), NotABroker, "without a grant token"),
    ],
)
def test_each_answer_has_its_class_of_failure(answer: bytes, kind: type[LinkFailure], says: str) -> None:
    with HttpServer(answer) as server:
        failure = refused(server.url)
    assert type(failure) is kind
    assert says in str(failure)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_never_followed(status: int) -> None:
    """A 307 would post the secret again, to another server."""
    with HttpServer(GRANTED) as elsewhere:
        with HttpServer(http_answer(status, b"moved", Location=f"{elsewhere.url}/runners/auth")) as server:
            failure = refused(server.url)
            assert is_healthy(parse_broker(server.url))
        assert elsewhere.accepted == 0
    assert type(failure) is NotABroker
    assert "redirect" in str(failure)


@pytest.mark.parametrize(
    ("status", "healthy"), [(200, True), (404, True), (403, True), (302, True), (500, False), (503, False)]
)
def test_only_a_status_of_500_and_above_is_unhealthy(status: int, healthy: bool) -> None:
    with HttpServer(http_answer(status, b'{"status":"ok"}', Location="/")) as server:
        assert is_healthy(parse_broker(server.url)) is healthy


# --- answers of other servers of n8n ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "ready", [OK, http_answer(503, b'{"status":"error"}')], ids=["when ready", "while starting"]
)
def test_the_port_of_n8ns_editor_is_recognised(ready: bytes) -> None:
    with Site(healthz=OK, healthz_readiness=ready) as editor:
        failure = refused(editor.url)
    assert type(failure) is NotABroker
    assert "this is the port of n8n's editor" in str(failure)
    assert "use http://127.0.0.1:5679" in str(failure)


def test_a_wrong_base_path_is_recognised() -> None:
    with Site(healthz=OK) as broker:
        failure = refused(f"{broker.url}/other/path")
    assert type(failure) is NotABroker
    assert "not below the path '/other/path'" in str(failure)
    assert "N8N_RUNNERS_PATH" in str(failure)


def test_another_server_is_not_taken_for_n8n() -> None:
    with Site() as server:
        failure = refused(server.url)
    assert type(failure) is NotABroker
    assert "is this the address of n8n's task broker?" in str(failure)


def test_a_server_that_disconnects_during_the_second_probe_is_not_taken_for_n8n() -> None:
    answers = [UNKNOWN_PATH, b""]

    def script(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(answers.pop(0))
        connection.shutdown(socket.SHUT_WR)

    with Server(script) as server:
        assert "is this the address of n8n's task broker?" in str(refused(server.url))


# --- answers that harm -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 302 Found\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\nhello",
        http_answer(302, b"hello", Content_Encoding="gzip"),
        http_answer(302, Location="http://[::1"),
        http_answer(302, Location="//"),
        http_answer(302, Location="http://a.test\\@b.test/\xff"),
        http_answer(200, b"x", Content_Encoding="zstd, br, gzip"),
        http_answer(200, b"x", Transfer_Encoding="gzip, chunked"),
        http_answer(200, b"x", Set_Cookie="a=b; Max-Age=x; Expires=Thu, 99 Foo 99999 99:99:99 GMT; Domain=["),
        http_answer(200, b"x", Content_Type="text/plain; charset=nothing"),
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello",
        b"HTTP/1.1 99999 OK\r\n\r\n",
        b"HTTP/1.1 000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n no name\r\n: x\r\n\0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 5000,
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/0.9\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"\r\n\r\n",
    ],
)
def test_an_odd_answer_is_a_failure_to_connect(answer: bytes) -> None:
    with HttpServer(answer) as server:
        assert isinstance(refused(server.url), (Unreachable, NotABroker))
        assert is_healthy(parse_broker(server.url)) in (True, False)


def bomb(megabytes: int) -> bytes:
    """Zeros that gzip has compressed twice."""
    once = gzip.compress(bytes(1024 * 1024)) * megabytes
    return http_answer(200, gzip.compress(once), Content_Encoding="gzip, gzip")


@pytest.mark.parametrize("status", [200, 302, 403])
def test_an_answer_is_not_decompressed(status: int) -> None:
    answer = bomb(100).replace(b"200", str(status).encode(), 1)
    with HttpServer(answer) as server:
        tracemalloc.start()
        try:
            failure = refused(server.url)
            is_healthy(parse_broker(server.url))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 10_000_000
        assert [request.headers["accept-encoding"] for request in server.requests] == ["identity"] * 2
    assert type(failure) is NotABroker
    if status == 200:
        assert "compressed" in str(failure)


def test_a_probe_does_not_need_the_body() -> None:
    with HttpServer(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\ncut off") as server:
        assert is_healthy(parse_broker(server.url))


def test_an_error_of_a_library_is_a_failure_to_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> Any:
        raise RuntimeError(f"pytest-socket, or another package whose error shows {SECRET}")

    with HttpServer(GRANTED) as server:
        monkeypatch.setattr(socket, "socket", fail)
        failure = refused(server.url)
        assert not is_healthy(parse_broker(server.url))
        monkeypatch.undo()
    assert type(failure) is Unreachable
    assert "RuntimeError" in str(failure)


def test_the_text_of_a_peer_does_not_reach_the_log(caplog: pytest.LogCaptureFixture) -> None:
    answer = b"HTTP/1.1 403 Forbidden\r\nX: y\r\nno colon \x1b[31m\r\n\r\n"
    failures: list[LinkFailure] = []
    with HttpServer(answer) as server, caplog.at_level(logging.DEBUG):
        thread = threading.Thread(
            target=lambda: failures.append(refused(server.url)), name="n8nrunner-connect-0"
        )
        thread.start()
        thread.join(LIMIT)
    assert len(failures) == 1
    assert "no colon" not in str(failures[0])
    assert caplog.records == []


# --- what users and packages do to `requests` ------------------------------------------------------------


def test_no_credentials_of_a_netrc_file_are_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login someone password netrc-password\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with HttpServer(GRANTED) as server:
        fetch_grant(parse_broker(server.url), SECRET)
        is_healthy(parse_broker(server.url))
        assert [sorted(request.headers) for request in server.requests] == [
            ["accept-encoding", "content-length", "content-type", "host", "user-agent"],
            ["accept-encoding", "host", "user-agent"],
        ]


def test_no_session_takes_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages such as requests-cache replace the class or its methods."""

    def patched(*args: Any, **options: Any) -> Any:
        raise AssertionError("a session was used")

    for name in ("__init__", "request", "send", "get_adapter", "prepare_request"):
        monkeypatch.setattr(requests.Session, name, patched)
    for module in (requests, requests.sessions):
        monkeypatch.setattr(module, "Session", patched)
    with HttpServer(GRANTED) as server:
        assert fetch_grant(parse_broker(server.url), SECRET) == GRANT
        assert is_healthy(parse_broker(server.url))


def test_cookies_are_not_kept() -> None:
    with HttpServer(http_answer(200, b'{"data":{"token":"g"}}', Set_Cookie="a=b; Path=/")) as server:
        for _ in range(2):
            fetch_grant(parse_broker(server.url), SECRET)
        assert all("cookie" not in request.headers for request in server.requests)


# --- no answer, or a slow one ----------------------------------------------------------------------------


def test_a_port_without_a_listener_is_unreachable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        failure = refused(url)
        assert not is_healthy(parse_broker(url))
    assert type(failure) is Unreachable
    assert f"{url} cannot be reached: ConnectionRefusedError" in str(failure)


@pytest.mark.usefixtures("names")
def test_a_host_without_an_address_is_unreachable() -> None:
    failure = refused("http://nowhere.invalid:5679")
    assert type(failure) is Unreachable
    assert "Name or service not known" in str(failure)


def drips(begin: bytes) -> Callable[[socket.socket], None]:
    def script(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(begin)
        for _ in range(300):
            threading.Event().wait(0.05)  # the slowness is what is tested
            connection.sendall(b"a")

    return script


def floods(begin: bytes) -> Callable[[socket.socket], None]:
    def script(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(begin)
        while True:
            connection.sendall(b"a" * 65536)

    return script


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "begin",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 307 Moved\r\nLocation: http://127.0.0.1:1/\r\n\r\n",
    ],
)
def test_an_answer_that_comes_byte_by_byte_has_the_time_of_one_answer(begin: bytes) -> None:
    with Server(drips(begin)) as server, promptly():
        refused(server.url)


@pytest.mark.usefixtures("quick", "names")
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_slow_peer_holds_neither_the_thread_nor_the_socket(scheme: str) -> None:
    """With TLS it is the handshake that does not end."""
    ended = threading.Event()

    def script(connection: socket.socket) -> None:
        connection.recv(65536)
        with contextlib.suppress(OSError):
            for byte in b"\x16\x03\x03\x40\x00" + bytes(1000) if scheme == "https" else b"a" * 1000:
                connection.sendall(bytes([byte]))
                threading.Event().wait(0.02)  # the slowness is what is tested
        with contextlib.suppress(ConnectionError):
            while connection.recv(65536):
                pass
        ended.set()

    with Server(script) as server:
        url = parse_broker(f"{scheme}://n8n.test:{server.port}")
        thread = threading.Thread(target=is_healthy, args=(url,))
        thread.start()
        assert ended.wait(LIMIT)
        thread.join(LIMIT)
        assert not thread.is_alive()


@pytest.mark.usefixtures("quick")
def test_silence_has_the_time_of_one_answer() -> None:
    with HttpServer(b"", hold=True) as server, promptly():
        failure = refused(server.url)
        assert not is_healthy(parse_broker(server.url))
    assert type(failure) is Unreachable
    assert "timed out" in str(failure)


@pytest.mark.parametrize(
    "begin",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nX: ",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n",
        b"HTTP/1.1 307 Moved\r\nLocation: http://127.0.0.1:1/\r\n\r\n",
    ],
)
def test_an_answer_without_an_end_is_cut_off(begin: bytes) -> None:
    with Server(floods(begin)) as server, promptly():
        refused(server.url)


@pytest.mark.parametrize(
    "answer", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"]
)
def test_an_answer_that_is_not_http_or_cut_off_is_a_failure_to_connect(answer: bytes) -> None:
    with HttpServer(answer) as server:
        assert isinstance(refused(server.url), (Unreachable, NotABroker))


def test_a_request_that_hangs_delays_no_other() -> None:
    """Each request has its own limits: one that hangs takes nothing from another."""
    with HttpServer(b"", hold=True) as silent, HttpServer(GRANTED) as server:
        waiting = threading.Thread(target=is_healthy, args=(parse_broker(silent.url),), daemon=True)
        waiting.start()
        with promptly():
            assert [fetch_grant(parse_broker(server.url), SECRET) for _ in range(5)] == [GRANT] * 5
        silent.close()
        waiting.join(auth.HTTP_TIMEOUT)


# --- the environment: proxies ----------------------------------------------------------------------------


@pytest.mark.usefixtures("names")
def test_a_grant_comes_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with HttpServer(GRANTED) as server, Proxy("Basic dXNlcjpwQHNz") as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://user:p%40ss@127.0.0.1:{proxy.port}")
        url = f"http://n8n.test:{server.port}"
        assert fetch_grant(parse_broker(url), SECRET) == GRANT
        assert is_healthy(parse_broker(url))
        assert proxy.lines == [f"POST {url}/runners/auth HTTP/1.1", f"GET {url}/healthz HTTP/1.1"]
        # This machine itself is reached without it.
        assert fetch_grant(parse_broker(server.url), SECRET) == GRANT
        assert len(proxy.lines) == 2


@pytest.mark.usefixtures("names", "quick")
@pytest.mark.parametrize("behaviour", ["refuse", "hang", "close", "unauthorised"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_error_of_a_proxy_hides_its_password(
    behaviour: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    password = "proxy-password"
    wanted = "Basic other" if behaviour == "unauthorised" else None
    with Proxy(wanted, "serve" if wanted else behaviour) as proxy:
        monkeypatch.setenv(f"{scheme}_proxy", f"http://user:{password}@127.0.0.1:{proxy.port}")
        with promptly():
            failure = refused(f"{scheme}://n8n.test:5679")
    assert isinstance(failure, (Unreachable, NotABroker, AuthRefused))
    assert password not in str(failure)


@pytest.mark.usefixtures("names", "quick")
def test_a_slow_answer_over_tls_is_limited(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.bundle))
    context = authority.server("n8n.test")
    with Server(drips(b"HTTP/1.1 200 OK\r\n\r\n")) as server, TlsTerminator(context, server.port) as front:
        url = f"https://n8n.test:{front.port}"
        with promptly():
            assert type(refused(url)) is Unreachable


@pytest.mark.usefixtures("names", "quick")
def test_a_slow_answer_through_a_proxy_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(drips(b"HTTP/1.1 200 OK\r\n\r\n")) as server, Proxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        with promptly():
            assert type(refused(f"http://n8n.test:{server.port}")) is Unreachable


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize(
    "proxy",
    [
        "http://user:proxy-password@host.test:port",
        "http://user:proxy-password@:80",
        "ftp://user:proxy-password@host.test",
        "socks5://user:proxy-password@host.test",
        "http://user:proxy-password@[::1:80",
        f"http://user:proxy-password@{'a' * 70}.test:80",
        "http://user:proxy-password@nowhere.invalid:80",
    ],
)
def test_a_proxy_that_cannot_be_used_is_an_error(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    failure = refused("http://n8n.test:5679")
    assert type(failure) is Unreachable
    assert "the proxy " in str(failure)
    assert "proxy-password" not in str(failure)


# --- the environment: certificates -----------------------------------------------------------------------


@pytest.fixture
def secure(authority: Authority) -> Iterator[tuple[HttpServer, BrokerUrl]]:
    with HttpServer(GRANTED) as server, TlsTerminator(authority.server("n8n.test"), server.port) as front:
        yield server, parse_broker(f"https://n8n.test:{front.port}")


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_certificates_come_from_the_bundle_of_the_environment(
    variable: str, secure: Any, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, url = secure
    monkeypatch.setenv(variable, str(authority.bundle))
    assert fetch_grant(url, SECRET) == GRANT
    assert is_healthy(url)
    assert len(server.requests) == 2


@pytest.mark.usefixtures("names")
def test_requests_bundle_wins_over_curls(
    secure: Any, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, url = secure
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.bundle))
    monkeypatch.setenv("CURL_CA_BUNDLE", "/nowhere")
    assert fetch_grant(url, SECRET) == GRANT


@pytest.mark.usefixtures("names")
def test_a_certificate_of_an_unknown_authority_is_refused(secure: Any) -> None:
    server, url = secure
    failure = refused(url.base)
    assert type(failure) is Unreachable
    assert "certificate" in str(failure)
    assert not is_healthy(url)
    assert server.requests == []


@pytest.mark.usefixtures("names")
def test_a_certificate_for_another_host_is_refused(
    secure: Any, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, url = secure
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.bundle))
    failure = refused(f"https://other.test:{url.port}")
    assert type(failure) is Unreachable
    assert "other.test" in str(failure)
    assert "certificate" in str(failure).lower()
    assert server.requests == []


@pytest.mark.usefixtures("names")
def test_an_error_names_a_missing_bundle(secure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, url = secure
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/bundle.pem")
    failure = refused(url.base)
    assert type(failure) is Unreachable
    assert "/nowhere/bundle.pem" in str(failure)


@pytest.mark.usefixtures("names")
def test_https_to_a_port_of_plain_http_is_unreachable() -> None:
    def script(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(http_answer(400))

    with Server(script) as server:
        failure = refused(f"https://n8n.test:{server.port}")
    assert type(failure) is Unreachable
    assert "SSL" in str(failure)


def test_every_answer_leaves_no_socket_open() -> None:
    """Sockets that the garbage collector closes would show as warnings, which are errors here."""
    answers: list[bytes] = [
        GRANTED,
        http_answer(403),
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx",
        b"HTTP/1.1 204 No Content\r\nno colon\r\n\r\n",
    ]
    for answer in answers:
        with HttpServer(answer) as server:
            for _ in range(3):
                with contextlib.suppress(LinkFailure):
                    fetch_grant(parse_broker(server.url), SECRET)
