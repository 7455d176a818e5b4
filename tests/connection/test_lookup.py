"""The look-up of a name, and connections to one of its addresses under the name."""

from __future__ import annotations

import json
import socket
import ssl
from typing import Any

import pytest

from n8nrunner.config import parse_broker
from n8nrunner.connection.auth import fetch_grant, why_unhealthy
from n8nrunner.connection.dial import dial
from n8nrunner.connection.environment import proxy_for
from n8nrunner.connection.lookup import look_up
from n8nrunner.deadline import Deadline
from n8nrunner.protocol.failures import NotABroker
from tests.conftest import LIMIT
from tests.connection.conftest import Authority
from tests.connection.servers import HttpServer, Proxy, Server, TlsTerminator, http_answer

IPV4, IPV6 = ["10.0.0.1", "10.0.0.2"], ["fd00::1"]
NONE = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
NO_DATA = socket.gaierror(getattr(socket, "EAI_NODATA", socket.EAI_NONAME), "No address")
FAILED = "the look-up of 'n8n.test' failed:"
AGAIN = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


@pytest.mark.parametrize(
    ("ipv4", "ipv6", "addresses", "problem"),
    [
        (IPV4, IPV6, tuple(IPV4), None),
        (IPV4 + IPV4, IPV6, tuple(IPV4), None),
        (NO_DATA, IPV6, tuple(IPV6), None),
        (NONE, NONE, (), "the host 'n8n.test' has no known address"),
        (AGAIN, IPV6, None, f"{FAILED} gaierror: {AGAIN.args[1]}"),
        (NO_DATA, AGAIN, None, f"{FAILED} gaierror: {AGAIN.args[1]}"),
        (UnicodeError("label too long"), IPV6, None, f"{FAILED} UnicodeError: label too long"),
    ],
    ids=["both families", "twice", "IPv6 alone", "unknown", "IPv4 fails", "IPv6 fails", "an impossible name"],
)
def test_a_look_up_gives_the_addresses_of_one_family_or_the_problem(
    ipv4: Any, ipv6: Any, addresses: Any, problem: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(host: str, port: None, family: int, kind: int) -> list[Any]:
        assert host == "n8n.test"
        found = ipv4 if family == socket.AF_INET else ipv6
        if isinstance(found, Exception):
            raise found
        return [(family, kind, 6, "", (address, 0)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    assert look_up("n8n.test") == (addresses, problem)


def test_the_system_looks_up_its_own_name() -> None:
    assert look_up("localhost").addresses == ("127.0.0.1",)
    assert look_up("::1").addresses == ("::1",)


# --- at an address, under the name ----------------------------------------------------------------------


def echo(connection: socket.socket) -> None:
    connection.sendall(connection.recv(100))


def test_a_request_goes_to_the_address_and_names_the_host() -> None:
    with HttpServer(http_answer(200, json.dumps({"data": {"token": "grant"}}).encode())) as server:
        url = parse_broker(f"dns+http://nowhere.test:{server.port}").at("127.0.0.1")
        assert fetch_grant(url, "secret") == "grant"
        assert why_unhealthy(url) is None
        assert {request.headers["host"] for request in server.requests} == {f"nowhere.test:{server.port}"}


def test_tls_checks_the_certificate_of_the_name_at_the_address(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.bundle))
    with Server(echo) as server, TlsTerminator(authority.server("n8n.test"), server.port) as front:
        url = parse_broker(f"dns+https://n8n.test:{front.port}").at("127.0.0.1")
        with dial(url, Deadline(LIMIT)) as raw:
            assert isinstance(raw, ssl.SSLSocket)
            raw.sendall(b"hello")
            assert raw.recv(100) == b"hello"


def test_a_proxy_is_asked_for_a_tunnel_to_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with HttpServer(http_answer(200, json.dumps({"data": {"token": "grant"}}).encode())) as server:
        url = parse_broker(f"dns+http://n8n.test:{server.port}").at("10.1.2.3")
        with Proxy() as proxy:  # to which every address is this machine
            monkeypatch.setenv("HTTP_PROXY", proxy.url)
            assert fetch_grant(url, "secret") == "grant"
            with dial(url, Deadline(LIMIT)):
                pass
            assert proxy.lines == [f"CONNECT 10.1.2.3:{server.port} HTTP/1.1"] * 2
        assert server.requests[0].headers["host"] == f"n8n.test:{server.port}"


@pytest.mark.parametrize(
    ("address", "no_proxy", "is_used"),
    [
        ("10.1.2.3", "", True),
        ("10.1.2.3", "n8n.test", False),
        ("10.1.2.3", "10.0.0.0/8", False),
        ("10.1.2.3", "10.9.0.0/16", True),
        ("127.0.0.2", "", False),
        ("::1", "", False),
        ("fd00::7", "", True),
    ],
)
def test_no_proxy_may_have_the_name_or_the_address(
    address: str, no_proxy: str, is_used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.test:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    url = parse_broker("dns+http://n8n.test:5679").at(address)
    assert (proxy_for(url.auth, url.address) is not None) is is_used


def test_the_advice_about_the_editors_port_keeps_the_prefix() -> None:
    def editor(connection: socket.socket) -> None:
        line = connection.recv(65536).split(b"\r\n")[0]
        is_ready = b"/healthz/readiness" in line
        connection.sendall(http_answer(200, b'{"status": "ok"}') if is_ready else http_answer(404))

    with Server(editor) as server:
        url = parse_broker(f"dns+http://n8n.test:{server.port}").at("127.0.0.1")
        with pytest.raises(NotABroker, match=r"use dns\+http://n8n\.test:5679"):
            fetch_grant(url, "secret")
