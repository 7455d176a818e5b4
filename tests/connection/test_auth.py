"""The grant token and the health probe over HTTP, and what is taken from the environment for them."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import threading
import time
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple, Type

import pytest
import requests

from n8nrunner.config import BrokerUrl, parse_broker
from n8nrunner.connection import auth
from n8nrunner.connection.auth import environment_settings, fetch_grant, is_healthy, is_loopback
from n8nrunner.connection.failures import AuthRefused, LinkFailure, NotABroker, RateLimited, Unreachable
from tests.connection.conftest import Authority
from tests.connection.servers import (
    HttpServer,
    Proxy,
    Server,
    TlsTerminator,
    http_answer,
    read_request,
)

SECRET = "the-shared-secret"
GRANT = "0123456789abcdef" * 4
GRANTED = http_answer(200, json.dumps({"data": {"token": GRANT}}).encode())


def refused(url: str) -> LinkFailure:
    with pytest.raises(LinkFailure) as caught:
        fetch_grant(parse_broker(url), SECRET)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    return caught.value


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "HTTP_TIMEOUT", 0.4)


# --- what is sent, and the right answer --------------------------------------------------------------------


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


def test_answers_may_be_compressed_chunked_or_without_a_length() -> None:
    body = json.dumps({"data": {"token": GRANT}, "stacktrace": "ignored"}).encode()
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:7], body[7:])) + b"0\r\n\r\n"
    for answer in (
        http_answer(200, gzip.compress(body), Content_Encoding="gzip"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks,
        b"HTTP/1.1 200 OK\r\n\r\n" + body,
    ):
        with HttpServer(answer) as server:
            assert fetch_grant(parse_broker(server.url), SECRET) == GRANT


# --- docs/protocol.md, "Authentication" -----------------------------------------------------------------

HTML = b"<!DOCTYPE html><html><body>Error</body></html>"


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (http_answer(403, b'{"code":403,"message":"Forbidden"}'), AuthRefused, "refused the token"),
        (http_answer(401, HTML), AuthRefused, "refused the token"),
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
        # What would become a header of its own, or none at all.
        (http_answer(200, b'{"data":{"token":"a\\r\\nX: y"}}'), NotABroker, "without a grant token"),
        (http_answer(200, '{"data":{"token":"ü"}}'.encode()), NotABroker, "without a grant token"),
    ],
)
def test_the_table_of_answers(answer: bytes, kind: Type[LinkFailure], says: str) -> None:
    with HttpServer(answer) as server:
        failure = refused(server.url)
    assert type(failure) is kind
    assert says in str(failure)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_never_followed(status: int) -> None:
    """A 307 would post the secret again, to whoever is there."""
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
def test_health(status: int, healthy: bool) -> None:
    with HttpServer(http_answer(status, b'{"status":"ok"}', Location="/")) as server:
        assert is_healthy(parse_broker(server.url)) is healthy


# --- nobody there, or somebody who wastes our time ---------------------------------------------------------


def test_a_port_that_nobody_listens_on() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        failure = refused(url)
        assert not is_healthy(parse_broker(url))
    assert type(failure) is Unreachable
    assert f"{url}/runners/auth cannot be reached: ConnectionRefusedError" in str(failure)


@pytest.mark.usefixtures("names")
def test_a_host_that_nobody_knows() -> None:
    failure = refused("http://nowhere.invalid:5679")
    assert type(failure) is Unreachable
    assert "Name or service not known" in str(failure)


def drips(begin: bytes) -> Callable[[socket.socket], None]:
    def script(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(begin)
        for _ in range(100):
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
    with Server(drips(begin)) as server:
        began = time.monotonic()
        refused(server.url)
        assert time.monotonic() - began < 2.0


@pytest.mark.usefixtures("quick")
def test_silence_has_the_time_of_one_answer() -> None:
    with HttpServer(b"", hold=True) as server:
        began = time.monotonic()
        failure = refused(server.url)
        assert not is_healthy(parse_broker(server.url))
        assert time.monotonic() - began < 4.0
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
def test_an_answer_without_an_end_is_not_read_to_it(begin: bytes) -> None:
    with Server(floods(begin)) as server:
        began = time.monotonic()
        refused(server.url)
        assert time.monotonic() - began < 2.0


@pytest.mark.parametrize(
    "answer", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"]
)
def test_an_answer_that_is_none(answer: bytes) -> None:
    with HttpServer(answer) as server:
        # What a broken-off body is taken for depends on the release of urllib3.
        assert isinstance(refused(server.url), (Unreachable, NotABroker))


def test_many_brokers_may_be_asked_at_once() -> None:
    """Each request has its own limits: one that hangs takes nothing from another."""
    with HttpServer(b"", hold=True) as silent, HttpServer(GRANTED) as server:
        waiting = threading.Thread(target=is_healthy, args=(parse_broker(silent.url),), daemon=True)
        waiting.start()
        began = time.monotonic()
        assert [fetch_grant(parse_broker(server.url), SECRET) for _ in range(5)] == [GRANT] * 5
        assert time.monotonic() - began < 4.0
        silent.close()
        waiting.join(auth.HTTP_TIMEOUT)


# --- the environment: proxies ------------------------------------------------------------------------------

PROXY = "http://proxy.test:3128"
OTHER = "http://other.test:3128"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("192.168.1.1", False),
        ("::2", False),
        ("localhost.example", False),
        ("n8n", False),
        ("", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("url", "variables", "expected"),
    [
        ("http://n8n.test:5679", {}, None),
        ("http://n8n.test:5679", {"HTTP_PROXY": PROXY}, PROXY),
        ("http://n8n.test:5679", {"http_proxy": PROXY}, PROXY),
        ("http://n8n.test:5679", {"HTTPS_PROXY": PROXY}, None),
        ("https://n8n.test", {"HTTPS_PROXY": PROXY, "HTTP_PROXY": OTHER}, PROXY),
        ("wss://n8n.test", {"https_proxy": PROXY}, PROXY),
        ("http://n8n.test:5679", {"ALL_PROXY": PROXY}, PROXY),
        ("http://n8n.test:5679", {"HTTP_PROXY": PROXY, "NO_PROXY": "n8n.test"}, None),
        ("http://n8n.test:5679", {"HTTP_PROXY": PROXY, "no_proxy": ".test"}, None),
        ("http://n8n.test:5679", {"HTTP_PROXY": PROXY, "NO_PROXY": "*"}, None),
        ("http://n8n.test:5679", {"HTTP_PROXY": PROXY, "NO_PROXY": "other.test"}, PROXY),
        ("http://10.1.2.3:5679", {"HTTP_PROXY": PROXY, "NO_PROXY": "10.0.0.0/8"}, None),
        # Never for this machine itself, whatever the environment says.
        ("http://127.0.0.1:5679", {"HTTP_PROXY": PROXY, "ALL_PROXY": PROXY}, None),
        ("http://localhost:5679", {"HTTP_PROXY": PROXY}, None),
        ("http://LOCALHOST:5679", {"HTTP_PROXY": PROXY}, None),
        ("https://[::1]:5679", {"HTTPS_PROXY": PROXY}, None),
        ("http://127.0.0.1:5679", {"HTTP_PROXY": PROXY, "NO_PROXY": "other.test"}, None),
    ],
)
def test_which_proxy_is_used(
    url: str, variables: Dict[str, str], expected: Optional[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    target = parse_broker(url).auth
    assert requests.utils.select_proxy(target, environment_settings(target)["proxies"]) == expected


@pytest.mark.usefixtures("names")
def test_a_grant_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_proxies_that_let_nobody_through(
    behaviour: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    password = "proxy-password"
    wanted = "Basic other" if behaviour == "unauthorised" else None
    with Proxy(wanted, "serve" if wanted else behaviour) as proxy:
        monkeypatch.setenv(f"{scheme}_proxy", f"http://user:{password}@127.0.0.1:{proxy.port}")
        began = time.monotonic()
        failure = refused(f"{scheme}://n8n.test:5679")
        assert time.monotonic() - began < 2.0
    assert isinstance(failure, (Unreachable, NotABroker, AuthRefused))
    assert password not in str(failure)


@pytest.mark.usefixtures("names", "quick")
def test_a_slow_answer_over_tls_is_limited_too(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.bundle))
    context = authority.server("n8n.test")
    with Server(drips(b"HTTP/1.1 200 OK\r\n\r\n")) as server, TlsTerminator(context, server.port) as front:
        began = time.monotonic()
        assert type(refused(f"https://n8n.test:{front.port}")) is Unreachable
        assert time.monotonic() - began < 2.0


@pytest.mark.usefixtures("names", "quick")
def test_a_slow_answer_through_a_proxy_is_limited_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(drips(b"HTTP/1.1 200 OK\r\n\r\n")) as server, Proxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        began = time.monotonic()
        assert type(refused(f"http://n8n.test:{server.port}")) is Unreachable
        assert time.monotonic() - began < 2.0


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
def test_a_proxy_that_cannot_be_used(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    failure = refused("http://n8n.test:5679")
    assert type(failure) is Unreachable
    assert "proxy-password" not in str(failure)


# --- the environment: certificates --------------------------------------------------------------------------


@pytest.fixture
def secure(authority: Authority) -> Iterator[Tuple[HttpServer, BrokerUrl]]:
    with HttpServer(GRANTED) as server, TlsTerminator(authority.server("n8n.test"), server.port) as front:
        yield server, parse_broker(f"https://n8n.test:{front.port}")


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_bundle_of_certificates(
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
def test_a_certificate_of_an_unknown_authority(secure: Any) -> None:
    server, url = secure
    failure = refused(url.base)
    assert type(failure) is Unreachable
    assert "certificate" in str(failure)
    assert not is_healthy(url)
    assert server.requests == []


@pytest.mark.usefixtures("names")
def test_a_certificate_for_another_host(
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
def test_a_bundle_that_is_not_there(secure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, url = secure
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/bundle.pem")
    failure = refused(url.base)
    assert type(failure) is Unreachable
    assert "/nowhere/bundle.pem" in str(failure)


@pytest.mark.usefixtures("names")
def test_https_where_there_is_only_http() -> None:
    def script(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(http_answer(400))

    with Server(script) as server:
        failure = refused(f"https://n8n.test:{server.port}")
    assert type(failure) is Unreachable
    assert "SSL" in str(failure)


def test_nothing_is_left_open_by_any_of_it() -> None:
    """Sockets that the garbage collector closes would show as warnings, which are errors here."""
    answers: List[bytes] = [GRANTED, http_answer(403), b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"]
    for answer in answers:
        with HttpServer(answer) as server:
            for _ in range(3):
                with contextlib.suppress(LinkFailure):
                    fetch_grant(parse_broker(server.url), SECRET)
