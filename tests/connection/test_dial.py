"""Sockets to brokers: addresses, proxies and TLS, all within one deadline."""

from __future__ import annotations

import base64
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from n8nrunner.config import BrokerUrl, parse_broker
from n8nrunner.connection.dial import dial
from n8nrunner.deadline import Deadline
from n8nrunner.protocol.failures import LinkFailure, Unreachable
from tests.conftest import LIMIT, promptly
from tests.connection.conftest import Authority
from tests.connection.servers import Proxy, Server, TlsTerminator, http_answer, read_request


def echo(connection: socket.socket) -> None:
    while True:
        data = connection.recv(65536)
        if not data:
            return
        connection.sendall(data)


def is_echo(raw: socket.socket) -> bool:
    """Return whether sent bytes come back."""
    raw.settimeout(LIMIT)
    raw.sendall(b"are you there?")
    return raw.recv(100) == b"are you there?"


def refused(url: str, seconds: float = LIMIT) -> LinkFailure:
    with pytest.raises(LinkFailure) as caught:
        dial(parse_broker(url), Deadline(seconds)).close()
    return caught.value


# --- addresses ----------------------------------------------------------------------------------------------


def test_dial_opens_a_plain_connection() -> None:
    with Server(echo) as server, dial(parse_broker(server.url), Deadline(LIMIT)) as raw:
        assert is_echo(raw)
        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_port_without_a_listener_is_unreachable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        failure = refused(url)
    assert type(failure) is Unreachable
    assert str(failure).startswith(f"{url} cannot be reached: ConnectionRefusedError")


@pytest.mark.usefixtures("names")
def test_an_unknown_host_is_unreachable() -> None:
    failure = refused("http://nowhere.invalid:5679")
    assert type(failure) is Unreachable
    assert "'nowhere.invalid' has no known address" in str(failure)


def test_an_invalid_host_name_is_unreachable() -> None:
    failure = refused(f"http://{'a' * 70}.test:5679")
    assert type(failure) is Unreachable
    assert "has no known address" in str(failure)


Address = tuple[Any, Any, int, str, Any]


def answer_with(addresses: list[Address], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: addresses)


def ipv4(port: int) -> Address:
    return socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)


def test_the_next_address_is_tried_if_one_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(echo) as server, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        answer_with([ipv4(taken.getsockname()[1]), ipv4(server.port)], monkeypatch)
        with dial(parse_broker("http://n8n.test"), Deadline(LIMIT)) as raw:
            assert is_echo(raw)


def test_the_next_address_is_tried_if_one_cannot_be_used_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """For example on a machine without IPv6, whose sockets cannot be made."""
    unusable = (socket.AF_UNIX, socket.SOCK_STREAM, 6, "", "/nowhere")
    with Server(echo) as server:
        answer_with([unusable, ipv4(server.port)], monkeypatch)
        with dial(parse_broker("http://n8n.test"), Deadline(LIMIT)) as raw:
            assert is_echo(raw)
    answer_with([unusable], monkeypatch)
    assert type(refused("http://n8n.test")) is Unreachable


def test_an_address_that_never_answers_leaves_time_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For example behind a broken IPv6 tunnel: the attempt is neither accepted nor refused."""
    with socket.socket() as full, Server(echo) as server:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
            answer_with([ipv4(full.getsockname()[1]), ipv4(server.port)], monkeypatch)
            began = time.monotonic()
            with dial(parse_broker("http://n8n.test"), Deadline(2.0)) as raw:
                assert time.monotonic() - began > 0.6
                assert is_echo(raw)
            answer_with([ipv4(full.getsockname()[1])], monkeypatch)
            with promptly():
                assert type(refused("http://n8n.test", 0.2)) is Unreachable
        finally:
            for filler in fillers:
                filler.close()


def test_a_host_without_an_address_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    answer_with([], monkeypatch)
    assert "it has no address" in str(refused("http://n8n.test"))


def test_nothing_is_tried_after_the_deadline() -> None:
    with Server(echo) as server:
        failure = refused(server.url, 0.0)
        assert server.accepted == 0
    assert type(failure) is Unreachable
    assert "did not answer in time" in str(failure)


# --- proxies --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("names")
def test_dial_connects_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(echo) as server, Proxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        with dial(parse_broker(f"http://n8n.test:{server.port}"), Deadline(LIMIT)) as raw:
            assert is_echo(raw)
        assert proxy.lines == [f"CONNECT n8n.test:{server.port} HTTP/1.1"]
        assert proxy.authorizations == [None]


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize(
    ("credentials", "expected"),
    [
        ("user:word", "user:word"),
        ("user", "user:"),
        ("us%40er:w%3Aor%2Fd", "us@er:w:or/d"),
        ("%C3%BC:%C3%A4", "ü:ä"),
    ],
)
def test_the_credentials_of_a_proxy_are_sent_decoded(
    credentials: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = f"Basic {base64.b64encode(expected.encode()).decode()}"
    with Server(echo) as server, Proxy(wanted) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://{credentials}@127.0.0.1:{proxy.port}")
        with dial(parse_broker(f"http://n8n.test:{server.port}"), Deadline(LIMIT)) as raw:
            assert is_echo(raw)
        assert proxy.authorizations == [wanted]


@pytest.mark.usefixtures("names")
def test_a_proxy_needs_no_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(echo) as server, Proxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"proxy.test:{proxy.port}")
        with dial(parse_broker(f"http://n8n.test:{server.port}"), Deadline(LIMIT)) as raw:
            assert is_echo(raw)


def test_the_address_of_an_ipv6_broker_stands_in_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    with Proxy(behaviour="refuse") as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        refused("http://[2001:db8::1]:5679")
        assert proxy.lines == ["CONNECT [2001:db8::1]:5679 HTTP/1.1"]


@pytest.mark.usefixtures("names")
def test_the_bytes_behind_the_proxys_answer_are_the_brokers(monkeypatch: pytest.MonkeyPatch) -> None:
    def script(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nfrom the broker")
        connection.recv(1)

    with Server(script) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        with dial(parse_broker("http://n8n.test"), Deadline(LIMIT)) as raw:
            raw.settimeout(LIMIT)
            assert raw.recv(100) == b"from the broker"


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_this_machine_is_reached_without_a_proxy(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # of the names: "localhost" is a real one
    with Server(echo) as server, Proxy() as proxy, pytest.MonkeyPatch.context() as patch:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            patch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        with dial(parse_broker(f"http://{host}:{server.port}"), Deadline(LIMIT)) as raw:
            assert is_echo(raw)
        assert proxy.accepted == 0


@pytest.mark.usefixtures("names")
def test_no_proxy_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(echo) as server, Proxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("NO_PROXY", "other.test, n8n.test")
        with dial(parse_broker(f"http://n8n.test:{server.port}"), Deadline(LIMIT)) as raw:
            assert is_echo(raw)
        assert proxy.accepted == 0


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize(
    ("behaviour", "says"),
    [
        ("refuse", "answered 403 to CONNECT n8n.test:5679"),
        ("unauthorised", "answered 407 to CONNECT n8n.test:5679"),
        ("close", "closed the connection instead of answering"),
        ("hang", "TimeoutError|timed out|in time"),
    ],
)
def test_a_proxy_that_does_not_connect_is_named_without_its_password(
    behaviour: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = "Basic other" if behaviour == "unauthorised" else None
    with Proxy(wanted, "serve" if wanted else behaviour) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://user:proxy-password@127.0.0.1:{proxy.port}")
        with promptly(), pytest.raises(Unreachable, match=says) as caught:
            dial(parse_broker("http://n8n.test:5679"), Deadline(0.4))
    assert f"the proxy http://127.0.0.1:{proxy.port}" in str(caught.value)
    assert "proxy-password" not in str(caught.value)


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"garbage\r\n\r\n", "answered something other than HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 20_000, "something other than HTTP"),
        (b"HTTP/1.1 200 OK\r\n", "closed the connection"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere.test/\r\n\r\n", "answered 302"),
        (http_answer(200)[:-4], "closed the connection"),
    ],
)
def test_an_answer_of_a_proxy_that_is_not_200_is_unreachable(
    answer: bytes, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(answer)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)

    with Server(script) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        assert says in str(refused("http://n8n.test:5679"))


@pytest.mark.usefixtures("names")
def test_a_proxy_that_answers_byte_by_byte_has_until_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    def script(connection: socket.socket) -> None:
        read_request(connection)
        for _ in range(1000):
            connection.sendall(b"H")
            threading.Event().wait(0.02)  # the slowness is what is tested

    with Server(script) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        with promptly():
            assert type(refused("http://n8n.test:5679", 0.3)) is Unreachable


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize(
    "proxy",
    [
        "https://user:proxy-password@host.test",
        "socks5://user:proxy-password@host.test",
        "http://user:proxy-password@:80",
        "http://user:proxy-password@host.test:port",
        "http://user:proxy-password@host.test:99999",
        "http://user:proxy-password@[::1:80",
        f"http://user:proxy-password@{'a' * 70}.test:80",
        "http://user:proxy-password@nowhere.invalid:80",
    ],
)
def test_an_unusable_proxy_is_named_without_its_password(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    failure = refused("http://n8n.test:5679")
    assert type(failure) is Unreachable
    assert "the proxy" in str(failure)
    assert "proxy-password" not in str(failure)


# --- TLS ------------------------------------------------------------------------------------------------


@pytest.fixture
def front(authority: Authority) -> Iterator[TlsTerminator]:
    """An echo behind TLS, with certificates for "n8n.test" and "127.0.0.1"."""
    context = authority.server("n8n.test", "127.0.0.1")
    with Server(echo) as server, TlsTerminator(context, server.port) as front:
        yield front


def behind(front: TlsTerminator, host: str = "n8n.test") -> BrokerUrl:
    return parse_broker(f"https://{host}:{front.port}")


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
@pytest.mark.parametrize("host", ["n8n.test", "127.0.0.1"])
def test_dial_makes_the_tls_handshake(
    variable: str, host: str, front: TlsTerminator, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, str(authority.bundle))
    with dial(behind(front, host), Deadline(LIMIT)) as raw:
        assert isinstance(raw, ssl.SSLSocket)
        assert is_echo(raw)


@pytest.mark.usefixtures("names")
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl names the files of such a directory")
def test_certificates_may_be_in_a_directory(
    front: TlsTerminator, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = subprocess.run(
        ["openssl", "x509", "-hash", "-noout", "-in", str(authority.bundle)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    shutil.copy(authority.bundle, tmp_path / f"{name}.0")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))
    with dial(behind(front), Deadline(LIMIT)) as raw:
        assert is_echo(raw)


@pytest.mark.usefixtures("names")
def test_dial_makes_the_tls_handshake_through_a_proxy(
    front: TlsTerminator, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.bundle))
    with Proxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        with dial(behind(front), Deadline(LIMIT)) as raw:
            assert is_echo(raw)
        assert proxy.lines == [f"CONNECT n8n.test:{front.port} HTTP/1.1"]


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize(
    ("bundle", "host", "says"),
    [
        (None, "n8n.test", "CERTIFICATE_VERIFY_FAILED"),
        ("known", "other.test", "other.test"),
        ("/nowhere/bundle.pem", "n8n.test", "the certificates in '/nowhere/bundle.pem' cannot be read"),
        (__file__, "n8n.test", "cannot be read"),
    ],
)
def test_a_certificate_that_does_not_verify_is_unreachable(
    bundle: str | None, host: str, says: str, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    if bundle is not None:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.bundle) if bundle == "known" else bundle)
    with Server(echo) as server, TlsTerminator(authority.server("n8n.test"), server.port) as front:
        failure = refused(f"https://{host}:{front.port}")
        assert server.accepted == 0
    assert type(failure) is Unreachable
    assert says in str(failure)
    assert f"https://{host}:{front.port}" in str(failure)


@pytest.mark.usefixtures("names")
def test_a_server_without_tls_is_unreachable() -> None:
    def script(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(http_answer(400))

    with Server(script) as server:
        failure = refused(f"https://n8n.test:{server.port}")
    assert type(failure) is Unreachable
    assert "the TLS handshake failed" in str(failure)


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize("drip", [False, True])
def test_a_handshake_that_does_not_end_has_until_the_deadline(drip: bool) -> None:
    def script(connection: socket.socket) -> None:
        connection.recv(65536)
        for byte in b"\x16\x03\x03\x40\x00" + bytes(1000) if drip else b"":
            connection.sendall(bytes([byte]))
            threading.Event().wait(0.02)  # the slowness is what is tested
        connection.recv(65536)

    with Server(script) as server, promptly():
        failure = refused(f"https://n8n.test:{server.port}", 0.4)
    assert type(failure) is Unreachable
    assert "timed out" in str(failure)
