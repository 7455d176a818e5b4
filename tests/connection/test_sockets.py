"""Keep-alive and delivery of a socket, on this system and on others."""

from __future__ import annotations

import socket
import sys
import time
import weakref
from typing import Any

import pytest

from n8nrunner.config import parse_broker
from n8nrunner.connection import auth, sockets
from n8nrunner.connection.auth import fetch_grant
from n8nrunner.connection.dial import dial
from n8nrunner.connection.sockets import delivery, keep_alive
from n8nrunner.deadline import Deadline
from n8nrunner.protocol.failures import Unreachable
from tests.connection.servers import HttpServer, Proxy, Server, http_answer, socket_pair


class Options:
    """A socket that records its options, and refuses some."""

    def __init__(self, refused: tuple[Any, ...] = ()) -> None:
        self.set: list[tuple[Any, ...]] = []
        self._refused = refused

    def setsockopt(self, *option: Any) -> None:
        if option[1] in self._refused:
            raise OSError("not supported")
        self.set.append(option)

    def ioctl(self, control: int, values: tuple[int, int, int]) -> None:
        self.set.append((control, values))


@pytest.mark.skipif(sys.platform != "linux", reason="the options are Linux's")
@pytest.mark.parametrize("way", ["directly", "through a proxy"])
def test_a_dialled_socket_is_probed_while_it_is_idle(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes after 4 s, every 3 s, three of them: a dead host is noticed after 13 s."""
    with Server(lambda connection: connection.recv(1) and None) as server, Proxy() as proxy:
        if way == "through a proxy":
            monkeypatch.setenv("http_proxy", proxy.url)
        raw = dial(parse_broker(server.url), Deadline(5))
        try:
            assert raw.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            assert [raw.getsockopt(socket.IPPROTO_TCP, option) for option in options] == [4, 3, 3]
            # It would end a live peer that does not read.
            assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0
        finally:
            raw.close()


def test_macos_has_another_name_for_the_idle_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delattr(socket, "TCP_KEEPIDLE", raising=False)
    options = Options()
    keep_alive(options)  # type: ignore[arg-type]
    assert options.set[:2] == [
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, 0x10, 4),
    ]


def test_windows_gets_both_times_at_once_in_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "SIO_KEEPALIVE_VALS", 0x98000004, raising=False)
    options = Options()
    keep_alive(options)  # type: ignore[arg-type]
    assert options.set == [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), (0x98000004, (1, 4000, 3000))]


def test_the_other_options_are_set_if_one_is_refused() -> None:
    options = Options(refused=(socket.SO_KEEPALIVE, socket.TCP_KEEPINTVL))
    keep_alive(options)  # type: ignore[arg-type]
    assert (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3) in options.set


@pytest.mark.skipif(sys.platform != "linux", reason="the numbers are Linux's")
def test_linux_reports_the_unacknowledged_bytes_and_the_time_since_the_last_acknowledgement() -> None:
    client, server = socket_pair()
    try:
        client.setblocking(False)
        server.sendall(b"a byte, with an acknowledgement")
        began = time.monotonic()
        sent = 0
        while True:
            try:
                sent += client.send(b"x" * 1024 * 1024)
            except BlockingIOError:
                break
        unacknowledged, silent_for = delivery(client)
        assert 0 < unacknowledged < sent
        assert silent_for is not None
        assert 0 <= silent_for <= time.monotonic() - began + 1.0
    finally:
        client.close()
        server.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is known anyway")
def test_delivery_is_unknown_if_the_system_does_not_report_it(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = socket.socket()
    closed.close()
    assert delivery(closed) == (0, None)
    monkeypatch.setattr(sockets, "_TCP_INFO", sockets.struct.Struct("=4096s"))  # longer than what comes
    client, server = socket_pair()
    try:
        assert delivery(client) == (0, None)
    finally:
        client.close()
        server.close()


def test_a_forked_child_closes_the_socket_of_a_request_just_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fork can come between the request and the object that reads its answer."""
    monkeypatch.setattr(sockets, "_opened", weakref.WeakSet())
    descriptors: list[tuple[int, int]] = []

    makefile = auth._LimitedSocket.makefile

    def fork_before(connection: Any, mode: str) -> Any:
        before = connection._raw.fileno()
        sockets.close_copies()  # as in the child
        descriptors.append((before, connection._raw.fileno()))
        return makefile(connection, mode)

    monkeypatch.setattr(auth._LimitedSocket, "makefile", fork_before)
    with HttpServer(http_answer(200, b"{}")) as server, pytest.raises(Unreachable):
        fetch_grant(parse_broker(server.url), "secret")
    ((before, after),) = descriptors
    assert before >= 0
    assert after == -1
