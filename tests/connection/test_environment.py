"""The proxy and the certificates that the environment sets."""

from __future__ import annotations

import datetime
import os
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from n8nrunner.config import BrokerUrl, is_loopback, parse_broker
from n8nrunner.connection.auth import fetch_grant
from n8nrunner.connection.dial import dial
from n8nrunner.connection.environment import certificates, proxy_for, public_address
from n8nrunner.deadline import Deadline
from n8nrunner.protocol.failures import NotABroker, Unreachable
from tests.conftest import LIMIT
from tests.connection.conftest import Authority
from tests.connection.servers import HttpServer, Proxy, Server, TlsTerminator, http_answer

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
def test_loopback_addresses_and_localhost_are_this_machine(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        (["127.0.0.1"], None),
        (["10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.1.1", "100.64.0.1"], None),
        (["::1", "fd00::1", "fe80::1%eth0"], None),
        (["10.1.2.3", "8.8.8.8"], "8.8.8.8"),
        (["2001:4860:4860::8888"], "2001:4860:4860::8888"),
        ([], None),
    ],
)
def test_only_global_addresses_are_public(
    addresses: list[str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 5679)) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: found)
    assert public_address(parse_broker("http://n8n.example:5679")) == expected


def test_behind_a_proxy_only_an_ip_address_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver can take long for a name that only the proxy knows, and no deadline limits it."""
    look_up = socket.getaddrinfo
    names: list[str] = []

    def note_names(host: str, port: int, *, type: int, flags: int) -> Any:
        if not flags & socket.AI_NUMERICHOST:
            names.append(host)
        return look_up(host, port, type=type, flags=flags)

    monkeypatch.setattr(socket, "getaddrinfo", note_names)
    monkeypatch.setenv("HTTP_PROXY", PROXY)
    with pytest.raises(socket.gaierror):
        public_address(parse_broker("http://n8n.example:5679"))
    assert public_address(parse_broker("http://8.8.8.8:5679")) == "8.8.8.8"
    assert names == []


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
        # Never for this machine itself, even if the environment sets a proxy.
        ("http://127.0.0.1:5679", {"HTTP_PROXY": PROXY, "ALL_PROXY": PROXY}, None),
        ("http://localhost:5679", {"HTTP_PROXY": PROXY}, None),
        ("http://LOCALHOST:5679", {"HTTP_PROXY": PROXY}, None),
        ("https://[::1]:5679", {"HTTPS_PROXY": PROXY}, None),
        ("http://127.0.0.1:5679", {"HTTP_PROXY": PROXY, "NO_PROXY": "other.test"}, None),
        ("http://n8n.test:5679", {"HTTP_PROXY": "http://[fd00::1]:3128"}, "http://[fd00::1]:3128"),
    ],
)
def test_the_proxy_is_the_one_that_requests_would_use(
    url: str, variables: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    proxy = proxy_for(parse_broker(url).auth)
    assert (proxy.shown if proxy else None) == expected


# --- certificates ------------------------------------------------------------------------------------------


def test_a_relative_bundle_is_found_in_the_given_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "certificates/company.pem")
    assert certificates("/etc/app") == os.path.join("/etc/app", "certificates/company.pem")
    assert certificates() == "certificates/company.pem"
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/etc/company.pem")
    assert certificates("/etc/app") == "/etc/company.pem"


def test_without_variables_the_bundle_is_that_of_requests() -> None:
    assert certificates("/etc/app") == requests.utils.DEFAULT_CA_BUNDLE_PATH


# --- TLS: the log-in and the WebSocket are refused for the same reason -------------------------------------


def both_refused(url: BrokerUrl) -> list[str]:
    """Return why the log-in and the WebSocket's connection fail."""
    texts = []
    for connect in (lambda: fetch_grant(url, "secret"), lambda: dial(url, Deadline(LIMIT))):
        with pytest.raises(Unreachable) as caught:
            connect()
        texts.append(str(caught.value))
    return texts


def without_key_identifier(directory: Path) -> ssl.SSLContext:
    """Make a certificate of an authority without Authority Key Identifier, as old tools do."""
    now = datetime.datetime.now(datetime.timezone.utc)
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))

    def certificate(name: str, own: Any, issuer: str, signer: Any, is_authority: bool) -> Any:
        subject, by = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (name, issuer))
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(by)
            .public_key(own.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        )
        if is_authority:
            usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(usage, critical=True).add_extension(
                x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False
            )
        else:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        return builder.sign(signer, hashes.SHA256())

    def pem(item: Any) -> bytes:
        encoded: bytes = item.public_bytes(serialization.Encoding.PEM)
        return encoded

    root = certificate("Company", authority_key, "Company", authority_key, True)
    leaf = certificate("n8n.test", key, "Company", authority_key, False)
    (directory / "company.pem").write_bytes(pem(root))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (directory / "server.pem").write_bytes(private + pem(leaf))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem")
    return context


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize("strict", [False, True])
def test_strict_verification_holds_for_the_log_in_and_the_websocket(
    strict: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's default context is strict from 3.13 on; here it is what the test wants on every Python."""
    default = ssl.create_default_context

    def create_default_context(*args: Any, **options: Any) -> ssl.SSLContext:
        context = default(*args, **options)
        if strict:
            context.verify_flags |= ssl.VERIFY_X509_STRICT
        else:
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", create_default_context)
    context = without_key_identifier(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "company.pem"))
    answer = http_answer(200, b'{"data":{"token":"grant"}}')
    with HttpServer(answer) as server, TlsTerminator(context, server.port) as front:
        url = parse_broker(f"https://n8n.test:{front.port}")
        if not strict:
            assert fetch_grant(url, "secret") == "grant"
            dial(url, Deadline(LIMIT)).close()
            return
        for text in both_refused(url):
            assert "Missing Authority Key Identifier" in text
            assert "VERIFY_X509_STRICT" in text
            assert "issue the certificate again" in text


@pytest.mark.usefixtures("names")
def test_only_the_bundle_of_the_environment_is_trusted(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle replaces the certificates of `requests`; it does not add to them."""
    without_key_identifier(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "company.pem"))
    monkeypatch.setattr(requests.utils, "DEFAULT_CA_BUNDLE_PATH", str(authority.bundle))
    monkeypatch.setattr(requests.adapters, "DEFAULT_CA_BUNDLE_PATH", str(authority.bundle))
    with (
        HttpServer(http_answer(200)) as server,
        TlsTerminator(authority.server("n8n.test"), server.port) as front,
    ):
        for text in both_refused(parse_broker(f"https://n8n.test:{front.port}")):
            assert "CERTIFICATE_VERIFY_FAILED" in text


@pytest.mark.usefixtures("names")
def test_tls_on_a_port_of_plain_http_names_the_right_scheme() -> None:
    """A task broker answers a TLS handshake as here."""

    def script(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

    with Server(script) as server:
        for text in both_refused(parse_broker(f"https://n8n.test:{server.port}")):
            assert "use http://" in text


def test_plain_http_on_a_port_of_tls_names_the_right_scheme() -> None:
    def script(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"\x15\x03\x01\x00\x02\x02\x16")
        connection.shutdown(socket.SHUT_WR)

    with Server(script) as server, pytest.raises(Unreachable, match="use https://"):
        fetch_grant(parse_broker(server.url), "secret")


# --- a proxy in the way ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize("behaviour", ["refuse", "unauthorised", "close"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_error_names_the_proxy_and_no_proxy(
    scheme: str, behaviour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = "Basic other" if behaviour == "unauthorised" else None
    with Proxy(wanted, "serve" if wanted else behaviour) as proxy:
        monkeypatch.setenv(f"{scheme}_proxy", f"http://user:proxy-password@127.0.0.1:{proxy.port}")
        url = parse_broker(f"{scheme}://n8n.test:5679")
        for connect in (lambda: fetch_grant(url, "secret"), lambda: dial(url, Deadline(LIMIT))):
            with pytest.raises((Unreachable, NotABroker)) as caught:
                connect()
            text = str(caught.value)
            assert f"http://127.0.0.1:{proxy.port}" in text
            assert "add 'n8n.test' to the variable NO_PROXY" in text
            assert "proxy-password" not in text


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize("status", [200, 302, 401, 403, 404, 413, 429, 502])
def test_an_answer_through_a_proxy_that_is_not_n8ns_names_the_proxy(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HttpServer(http_answer(status, b"<html>")) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        with pytest.raises((Unreachable, NotABroker)) as caught:
            fetch_grant(parse_broker("http://n8n.test:5679"), "secret")
        assert f"through the proxy {proxy.url}" in str(caught.value)
        assert "NO_PROXY" in str(caught.value)
