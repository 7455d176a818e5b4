"""A WebSocket over TLS, whose records come in pieces, late, or several at once."""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from n8nrunner.connection.transport import Connection
from n8nrunner.deadline import Deadline
from n8nrunner.protocol.failures import ConnectionLost
from tests.conftest import LIMIT
from tests.connection.conftest import Authority
from tests.connection.servers import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    Peer,
    Sent,
    accept_upgrade,
    flush_all,
    flush_in_background,
    frame,
    read_bytes,
    read_count,
    read_until,
    socket_pair,
    wait_for,
)

MEGABYTE = 1024 * 1024


class TlsEnd:
    """A server's end of a TLS connection, which shows the bytes that go over the wire."""

    def __init__(self, raw: socket.socket, context: ssl.SSLContext) -> None:
        self.wire = raw
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)

    def _do(self, step: Any, *args: Any) -> Any:
        while True:
            try:
                result = step(*args)
            except ssl.SSLWantReadError:
                self._send_out()
                data = self.wire.recv(65536)
                if not data:
                    return b""
                self._in.write(data)
                continue
            self._send_out()
            return result

    def _send_out(self) -> None:
        data = self._out.read()
        if data:
            self.wire.sendall(data)

    def handshake(self) -> None:
        self._do(self._tls.do_handshake)

    def records(self, data: bytes) -> bytes:
        """Return the bytes that `sendall` would put on the wire."""
        self._tls.write(data)
        return self._out.read()

    def farewell(self) -> bytes:
        """Return the record that ends the TLS connection."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        return self._out.read()

    # The methods of a socket that `Peer` uses.

    def sendall(self, data: bytes) -> None:
        self._do(self._tls.write, data)

    def recv(self, count: int) -> bytes:
        received: bytes = self._do(self._tls.read, count)
        return received

    def settimeout(self, timeout: float) -> None:
        self.wire.settimeout(timeout)

    def close(self) -> None:
        self.wire.close()


@contextlib.contextmanager
def secure(authority: Authority, tail: bytes = b"") -> Iterator[tuple[Connection, Peer, TlsEnd]]:
    client, server = socket_pair()
    end = TlsEnd(server, authority.server("broker.test"))
    peer: Any = Peer(end)  # type: ignore[arg-type]

    def serve() -> None:
        end.handshake()
        accept_upgrade(end, tail)

    thread = threading.Thread(target=serve, name="test-upgrade")
    thread.start()
    context = ssl.create_default_context(cafile=str(authority.bundle))
    raw = context.wrap_socket(client, server_hostname="broker.test")
    connection = Connection(raw, 64 * MEGABYTE)
    try:
        connection.open("wss://broker.test/runners/_ws", "runner", "grant", Deadline(LIMIT))
        connection.bind()
        thread.join(LIMIT)
        yield connection, peer, end
    finally:
        thread.join(LIMIT)
        connection.close()
        end.close()


def read_nothing(connection: Connection, count: int) -> None:
    """Read although no record is complete: it neither waits nor fails."""
    for _ in range(count):
        assert connection.read() == ([], 0, False)


def test_a_record_may_be_cut_anywhere(authority: Authority) -> None:
    with secure(authority) as (connection, _, end):
        for part in range(10):
            record = end.records(frame(TEXT, b"in one record"))
            cut = 1 + (len(record) - 2) * part // 9
            end.wire.sendall(record[:cut])
            wait_for(connection.raw, selectors.EVENT_READ, Deadline(LIMIT))
            read_nothing(connection, 3)
            end.wire.sendall(record[cut:])
            assert read_count(connection, 1) == [b"in one record"]


def test_a_frame_may_be_cut_into_records(authority: Authority) -> None:
    with secure(authority) as (connection, peer, _):
        data = frame(TEXT, b"some message", size=8)
        for cut in range(1, len(data)):
            peer.send(data[:cut])
            peer.send(data[cut:])
            assert read_count(connection, 1) == [b"some message"]


def test_many_records_in_one_segment_are_read(authority: Authority) -> None:
    with secure(authority) as (connection, _, end):
        messages = [b"message %d" % number for number in range(500)]
        end.wire.sendall(b"".join(end.records(frame(TEXT, message)) for message in messages))
        assert read_count(connection, 500) == messages


def test_a_frame_that_comes_with_the_answer_to_the_upgrade_is_read(authority: Authority) -> None:
    with secure(authority, tail=frame(TEXT, b"early")) as (connection, _, _):
        assert read_count(connection, 1) == [b"early"]


def test_nothing_is_left_in_the_tls_layer_when_the_socket_has_nothing_more(authority: Authority) -> None:
    """The selector sees only the socket. Bytes that OpenSSL has decrypted are read without it."""
    large = b"x" * 100_000
    with secure(authority) as (connection, peer, _):
        for length in (0, 1, 1000, 15_000):
            last = b"y" * length
            # The end of the large frame and the whole of the next share a record.
            sending = peer.send_in_background(frame(TEXT, large) + frame(TEXT, last))
            assert read_count(connection, 2) == [large, last]
            sending.join()


def test_a_message_of_twenty_megabytes_is_read(authority: Authority) -> None:
    payload = bytes(range(256)) * (20 * MEGABYTE // 256)
    with secure(authority) as (connection, peer, _):
        sending = peer.send_in_background(frame(TEXT, payload) + frame(TEXT, b"after"))
        assert read_count(connection, 2) == [payload, b"after"]
        sending.join()


def test_a_peer_that_does_not_read_blocks_nothing_and_gets_every_byte_later(authority: Authority) -> None:
    payload = bytes(range(256)) * (8 * MEGABYTE // 256)
    with secure(authority) as (connection, peer, _):
        connection.raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * 1024)
        connection.sender.send_message(payload)
        for _ in range(50):
            connection.flush()
        assert not connection.sender.is_empty
        peer.send(frame(PING, b"ping"))
        read_bytes(connection, 2 + len("ping"))
        flushing = flush_in_background(connection)
        frames: list[Sent] = []
        while not frames or not frames[-1].final or frames[-1].opcode == PONG:
            frames.append(peer.next_frame())
        flushing.join()
    assert Sent(PONG, True, b"ping") in frames
    assert b"".join(sent.payload for sent in frames if sent.opcode != PONG) == payload


@pytest.mark.parametrize("politely", [True, False])
def test_an_end_raises_after_the_messages_before_it(authority: Authority, politely: bool) -> None:
    with secure(authority) as (connection, _, end):
        end.wire.sendall(end.records(frame(TEXT, b"last")) + (end.farewell() if politely else b""))
        end.wire.shutdown(socket.SHUT_WR)
        received: list[Any] = []
        with pytest.raises(ConnectionLost):
            read_until(connection, lambda now: received.extend(now))
        assert b"last" in received


def test_an_end_in_the_middle_of_a_record_raises(authority: Authority) -> None:
    with secure(authority) as (connection, _, end):
        end.wire.sendall(end.records(frame(TEXT, b"cut off"))[:-3])
        end.wire.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionLost):
            read_until(connection, bool)


def test_bytes_that_are_not_tls_raise(authority: Authority) -> None:
    with secure(authority) as (connection, _, end):
        end.wire.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with pytest.raises(ConnectionLost, match="SSL"):
            read_until(connection, bool)


def test_a_close_frame_is_answered(authority: Authority) -> None:
    with secure(authority) as (connection, peer, _):
        peer.send(frame(CLOSE, b"\x03\xe9"))
        read_until(connection, lambda _: connection.received_close)
        assert connection.close_code == 1001
        flush_all(connection)
        assert peer.next_frame().opcode == CLOSE
