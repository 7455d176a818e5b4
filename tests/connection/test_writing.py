"""Write to a peer that reads, reads late, or never. tests/protocol/test_frames_sent.py has the frames."""

from __future__ import annotations

import selectors
import socket
import struct
import threading
from typing import Any

import pytest

from n8nrunner.connection.sockets import delivery
from n8nrunner.deadline import Deadline
from n8nrunner.protocol.failures import ConnectionLost
from n8nrunner.protocol.frames import FRAGMENT
from tests.conftest import LIMIT, promptly
from tests.connection.servers import (
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Peer,
    Sent,
    flush_all,
    flush_in_background,
    frame,
    read_bytes,
    read_until,
    wait_for,
    websocket,
)

MEGABYTE = 1024 * 1024


def stall(connection: Any, peer: Peer) -> None:
    """Make buffers small, so that the socket is soon full if the peer does not read."""
    connection.raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * 1024)
    peer.raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)


def joined(frames: list[Sent]) -> list[bytes]:
    """Return the messages in frames, without control frames."""
    messages: list[bytes] = []
    for sent in frames:
        if sent.opcode == TEXT:
            messages.append(sent.payload)
        elif sent.opcode == CONT:
            messages[-1] += sent.payload
    return messages


def test_small_messages_leave_in_one_write() -> None:
    with websocket() as (connection, peer):
        for number in range(100):
            connection.sender.send_message(f"message {number}")
        total = connection.flush()
        assert connection.sender.is_empty
        assert total == sum(6 + len(f"message {number}") for number in range(100))
        assert len(peer.raw.recv(65536)) == total


def test_flush_writes_nothing_if_nothing_waits() -> None:
    with websocket() as (connection, _):
        assert connection.flush() == 0
        assert connection.sender.is_empty


def test_a_peer_that_does_not_read_blocks_nothing_and_gets_every_byte_later() -> None:
    payload = bytes(range(256)) * (20 * MEGABYTE // 256)
    messages: list[bytes] = [b"first", payload, b"second", b"third" * 10_000]
    with websocket() as (connection, peer):
        stall(connection, peer)
        for message in messages:
            connection.sender.send_message(message)
        with promptly():
            total = sum(connection.flush() for _ in range(100))
        assert not connection.sender.is_empty
        assert total < 10 * MEGABYTE
        # The connection can still be read.
        peer.send(frame(TEXT, b"hello"))
        assert read_until(connection, bool) == [b"hello"]

        frames: list[Sent] = []
        reading = threading.Thread(target=lambda: frames.extend(peer.next_frame() for _ in range(163)))
        reading.start()
        flush_all(connection)
        reading.join(LIMIT)
        assert joined(frames) == messages


def test_pongs_pass_between_the_fragments_of_a_large_message() -> None:
    payload = b"x" * (4 * MEGABYTE)
    with websocket() as (connection, peer):
        stall(connection, peer)
        connection.sender.send_message(payload)
        connection.flush()
        assert not connection.sender.is_empty
        peer.send(frame(PING, b"are you there?"))
        read_bytes(connection, 2 + len("are you there?"))
        flushing = flush_in_background(connection)
        frames = [peer.next_frame() for _ in range(4 * MEGABYTE // FRAGMENT + 1)]
        flushing.join()
    place = frames.index(Sent(PONG, True, b"are you there?"))
    # Bytes that had begun to leave come first: the first fragment, and parts of others that the socket took.
    assert 1 <= place <= 5
    assert joined(frames) == [payload]
    assert frames[-1].final


def test_only_the_latest_of_several_pings_is_answered() -> None:
    """RFC 6455, 5.5.3, allows it; a peer that pings and does not read would fill the memory otherwise."""
    with websocket() as (connection, peer):
        stall(connection, peer)
        connection.sender.send_message(b"x" * (4 * MEGABYTE))
        connection.flush()
        pings = b"".join(frame(PING, b"%d" % number) for number in range(100))
        peer.send(pings)
        read_bytes(connection, len(pings))
        flushing = flush_in_background(connection)
        frames = [peer.next_frame() for _ in range(4 * MEGABYTE // FRAGMENT + 1)]
        flushing.join()
    assert [sent for sent in frames if sent.opcode == PONG] == [Sent(PONG, True, b"99")]


def test_measure_reports_what_the_peer_has_not_acknowledged() -> None:
    with websocket() as (connection, peer):
        if delivery(connection.raw)[1] is None:
            pytest.skip("this system does not tell")
        stall(connection, peer)
        assert connection.measure().unacknowledged == 0
        connection.sender.send_message(b"x" * (4 * MEGABYTE))
        connection.flush()
        measured = connection.measure()
        assert 0 < measured.unacknowledged <= measured.bytes_written == connection.sender.bytes_written
        assert measured.silent_for is not None
        assert 0 <= measured.silent_for < LIMIT


# --- what is known of a message's arrival ----------------------------------------------------------------


@pytest.mark.parametrize("length", [100, 50_000, 3 * FRAGMENT])
def test_messages_that_have_not_started_never_arrive_and_few_others_fail_to(length: int) -> None:
    count = 6 * MEGABYTE // length
    with websocket() as (connection, peer):
        stall(connection, peer)
        for number in range(count):
            connection.sender.send_message(struct.pack("!I", number) + b"x" * length)
        connection.flush()
        connection.flush()
        started = connection.sender.started
        connection.close()
        arrived = joined(peer.frames())
    assert 0 < started < count
    assert [struct.unpack("!I", message[:4])[0] for message in arrived] == list(range(len(arrived)))
    assert len(arrived) <= started
    # "May have arrived" is said of no more than one write's messages that did not.
    assert started - len(arrived) <= FRAGMENT // length + 2


# --- the end ---------------------------------------------------------------------------------------------


def test_writing_to_a_reset_connection_raises() -> None:
    with websocket() as (connection, peer):
        peer.reset()
        wait_for(connection.raw, selectors.EVENT_READ, Deadline(LIMIT))
        connection.sender.send_message("lost")
        with pytest.raises(ConnectionLost, match="the connection broke"):
            flush_all(connection)


def test_a_close_frame_is_written_behind_the_messages_before_it() -> None:
    with websocket() as (connection, peer):
        connection.sender.send_message("last words")
        connection.sender.send_close()
        flush_all(connection)
        assert peer.next_frame() == Sent(TEXT, True, b"last words")
        assert peer.next_frame() == Sent(CLOSE, True, struct.pack("!H", 1000))


def test_close_ends_the_connection_at_once_although_messages_wait() -> None:
    with websocket() as (connection, peer):
        stall(connection, peer)
        connection.sender.send_message(b"x" * 20 * MEGABYTE)
        connection.flush()
        with promptly():
            connection.close()
        assert sum(len(sent.payload) for sent in peer.frames()) < 20 * MEGABYTE


def test_only_the_thread_that_a_connection_is_bound_to_may_use_it() -> None:
    with websocket() as (connection, _):
        failures: list[BaseException] = []

        def use() -> None:
            for step in (connection.read, connection.flush):
                try:
                    step()
                except AssertionError as error:
                    failures.append(error)

        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
        assert len(failures) == 2
