"""What a connection makes of messages that are to be sent, to a peer that reads, reads late, or never."""

from __future__ import annotations

import selectors
import socket
import struct
import threading
from typing import Any

import pytest

from n8nrunner.connection.sockets import delivery
from n8nrunner.connection.writing import FRAGMENT
from n8nrunner.deadline import Deadline
from n8nrunner.protocol.failures import ConnectionLost
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
    """Small buffers, so that a peer that does not read is felt soon."""
    connection.raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * 1024)
    peer.raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)


def joined(frames: list[Sent]) -> list[bytes]:
    """The messages in frames; control frames are left out."""
    messages: list[bytes] = []
    for sent in frames:
        if sent.opcode == TEXT:
            messages.append(sent.payload)
        elif sent.opcode == CONT:
            messages[-1] += sent.payload
    return messages


def test_messages_arrive_as_they_were_queued() -> None:
    messages = ["text", "", "ünïcødé ✓", b"bytes", "x" * 125, "x" * 126, "x" * 65535, "x" * 65536]
    with websocket() as (connection, peer):
        for message in messages:
            connection.writer.queue(message)
        assert not connection.writer.is_empty
        flush_all(connection)
        for message in messages:
            data = message.encode() if isinstance(message, str) else message
            assert peer.next_frame() == Sent(TEXT, True, data)


def test_small_messages_leave_in_one_write() -> None:
    with websocket() as (connection, peer):
        for number in range(100):
            connection.writer.queue(f"message {number}")
        total = connection.flush()
        assert connection.writer.is_empty
        assert total == sum(6 + len(f"message {number}") for number in range(100))
        assert len(peer.raw.recv(65536)) == total


def test_every_frame_has_a_mask_of_its_own() -> None:
    """RFC 6455 wants masks that nobody can foresee; so many that every source of them is used up twice."""
    count = 10_000
    with websocket() as (connection, peer):
        for _ in range(count):
            connection.writer.queue("x")
        flushing = flush_in_background(connection)
        data = b""
        while len(data) < 7 * count:
            data += peer.raw.recv(65536)
        flushing.join()
    masks = {data[start + 2 : start + 6] for start in range(0, 7 * count, 7)}
    assert len(masks) > count - 10


def test_flush_with_nothing_to_write() -> None:
    with websocket() as (connection, _):
        assert connection.flush() == 0
        assert connection.writer.is_empty


@pytest.mark.parametrize("length", [FRAGMENT, FRAGMENT + 1, 2 * FRAGMENT, 2 * FRAGMENT + 1, 20 * MEGABYTE])
def test_large_messages_leave_in_fragments(length: int) -> None:
    payload = bytes(range(256)) * (length // 256) + b"!" * (length % 256)
    with websocket() as (connection, peer):
        connection.writer.queue(payload)
        connection.writer.queue("after")
        flushing = flush_in_background(connection)
        frames: list[Sent] = []
        while not frames or frames[-1].payload != b"after":
            frames.append(peer.next_frame())
        flushing.join()
    *parts, after = frames
    assert b"".join(part.payload for part in parts) == payload
    assert max(len(part.payload) for part in parts) == FRAGMENT
    assert [part.opcode for part in parts] == [TEXT, *[CONT] * (len(parts) - 1)]
    assert [part.final for part in parts] == [*[False] * (len(parts) - 1), True]
    assert after == Sent(TEXT, True, b"after")


def test_a_peer_that_does_not_read_blocks_nothing_and_gets_every_byte_later() -> None:
    payload = bytes(range(256)) * (20 * MEGABYTE // 256)
    messages: list[bytes] = [b"first", payload, b"second", b"third" * 10_000]
    with websocket() as (connection, peer):
        stall(connection, peer)
        for message in messages:
            connection.writer.queue(message)
        with promptly():
            total = sum(connection.flush() for _ in range(100))
        assert not connection.writer.is_empty
        assert total < 10 * MEGABYTE
        # The connection can be read meanwhile.
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
        connection.writer.queue(payload)
        connection.flush()
        assert not connection.writer.is_empty
        peer.send(frame(PING, b"are you there?"))
        read_bytes(connection, 2 + len("are you there?"))
        flushing = flush_in_background(connection)
        frames = [peer.next_frame() for _ in range(4 * MEGABYTE // FRAGMENT + 1)]
        flushing.join()
    place = frames.index(Sent(PONG, True, b"are you there?"))
    # What had begun to leave comes first: the first fragment, and what the socket took of others.
    assert 1 <= place <= 5
    assert joined(frames) == [payload]
    assert frames[-1].final


def test_only_the_latest_of_several_pings_is_answered() -> None:
    """RFC 6455, 5.5.3, allows it; a peer that pings and does not read would fill the memory otherwise."""
    with websocket() as (connection, peer):
        stall(connection, peer)
        connection.writer.queue(b"x" * (4 * MEGABYTE))
        connection.flush()
        pings = b"".join(frame(PING, b"%d" % number) for number in range(100))
        peer.send(pings)
        read_bytes(connection, len(pings))
        flushing = flush_in_background(connection)
        frames = [peer.next_frame() for _ in range(4 * MEGABYTE // FRAGMENT + 1)]
        flushing.join()
    assert [sent for sent in frames if sent.opcode == PONG] == [Sent(PONG, True, b"99")]


@pytest.mark.parametrize("how", ["the peer's close frame is answered", "we close in order"])
def test_nothing_follows_a_close_frame(how: str) -> None:
    """RFC 6455, 5.5.1: neither the rest of a large message nor what was queued before or is queued after."""
    with websocket() as (connection, peer):
        writer = connection.writer
        stall(connection, peer)
        writer.queue(b"x" * (4 * MEGABYTE))
        writer.queue("behind it")
        connection.flush()
        if how == "we close in order":
            connection.queue_close(1000)
            writer.queue("after it")
            connection.queue_ping("after it")
            in_order = True
        else:
            peer.send(frame(CLOSE, struct.pack("!H", 1001)))
            read_until(connection, lambda _: connection.received_close)
            connection.queue_close(1000)
            in_order = False
        flushing = flush_in_background(connection)
        frames = [peer.next_frame()]
        while frames[-1].opcode != CLOSE:
            frames.append(peer.next_frame())
        flushing.join()
        connection.bind()
        assert writer.is_empty
        assert writer.closed_in_order is in_order
        started = writer.started
        for _ in range(2):
            writer.queue("late")
            writer.queue(b"x" * MEGABYTE)
            connection.queue_ping("late")
            connection.queue_close(1001)
            writer.queue_urgent_ping(b"late")
            assert writer.is_empty
            assert connection.flush() == 0
        assert writer.started == started
        connection.close()
        assert peer.frames() == []
    messages = joined(frames)
    assert messages[1:] == ([b"behind it"] if in_order else [])
    assert (len(messages[0]) == 4 * MEGABYTE) is in_order


def test_an_urgent_ping_passes_between_the_fragments_of_a_large_message() -> None:
    with websocket() as (connection, peer):
        writer = connection.writer
        stall(connection, peer)
        writer.queue(b"x" * (4 * MEGABYTE))
        connection.flush()
        connection.queue_ping("behind")
        writer.queue_urgent_ping(b"alive")
        assert writer.pinged_to == float("inf")
        flushing = flush_in_background(connection)
        frames = [peer.next_frame() for _ in range(4 * MEGABYTE // FRAGMENT + 2)]
        flushing.join()
        assert writer.pinged_to < writer.written
    assert 1 <= frames.index(Sent(PING, True, b"alive")) <= 5
    assert frames[-1] == Sent(PING, True, b"behind")


def test_the_writer_counts_what_the_socket_has_taken_and_what_waits() -> None:
    with websocket() as (connection, _):
        writer = connection.writer
        writer.queue("x" * 100)
        connection.queue_ping("p")
        writer.queue(b"x" * (FRAGMENT + 1))
        assert writer.backlog == 106 + 7
        writer.queue_urgent_ping(b"alive")
        flush_all(connection)
        assert writer.backlog == 0
        # The urgent ping came first, then the messages; a fragment has 14 bytes around it, a tiny one 6.
        assert writer.pinged_to == 6 + len("alive")
        assert writer.written == writer.pinged_to + 113 + FRAGMENT + 14 + 1 + 6


def test_the_kernel_tells_what_the_peer_has_not_acknowledged() -> None:
    with websocket() as (connection, peer):
        if delivery(connection.raw).silent_for is None:
            pytest.skip("this system does not tell")
        stall(connection, peer)
        assert connection.measure().unacknowledged == 0
        connection.writer.queue(b"x" * (4 * MEGABYTE))
        connection.flush()
        measured = connection.measure()
        assert 0 < measured.unacknowledged <= measured.written == connection.writer.written
        assert measured.silent_for is not None
        assert 0 <= measured.silent_for < LIMIT


def test_pings_never_overtake_messages() -> None:
    with websocket() as (connection, peer):
        connection.writer.queue("one")
        connection.queue_ping("a")
        connection.writer.queue("two" * FRAGMENT)
        connection.queue_ping("b")
        connection.writer.queue("three")
        connection.queue_ping("c")
        connection.queue_close(1000)
        flushing = flush_in_background(connection)
        frames = [peer.next_frame() for _ in range(9)]
        flushing.join()
    assert [sent.opcode for sent in frames] == [TEXT, PING, TEXT, CONT, CONT, PING, TEXT, PING, CLOSE]
    assert [sent.payload for sent in frames if sent.opcode == PING] == [b"a", b"b", b"c"]
    assert frames[-1].payload == struct.pack("!H", 1000)


def test_a_ping_waits_for_the_large_message_that_is_on_its_way() -> None:
    with websocket() as (connection, peer):
        stall(connection, peer)
        connection.writer.queue(b"x" * MEGABYTE)
        connection.flush()
        assert not connection.writer.is_empty
        connection.queue_ping("behind")
        flushing = flush_in_background(connection)
        frames = [peer.next_frame() for _ in range(MEGABYTE // FRAGMENT + 1)]
        flushing.join()
    assert [sent.opcode for sent in frames] == [TEXT, *[CONT] * (MEGABYTE // FRAGMENT - 1), PING]


def test_congested_while_a_large_message_waits_or_leaves() -> None:
    with websocket() as (connection, peer):
        stall(connection, peer)
        writer = connection.writer
        writer.queue("small")
        assert not writer.congested
        writer.queue(b"x" * MEGABYTE)
        assert writer.congested  # it waits
        connection.flush()
        assert writer.congested  # it is on its way
        writer.queue("behind")
        flushing = flush_in_background(connection)
        while peer.next_frame().payload != b"behind":
            pass
        flushing.join()
        assert not writer.congested


# --- what is known of a message's arrival ----------------------------------------------------------------


def test_started_counts_messages_and_nothing_else() -> None:
    with websocket() as (connection, peer):
        writer = connection.writer
        for _ in range(3):
            writer.queue("x")
        connection.queue_ping("p")
        assert writer.started == 0
        connection.flush()
        assert writer.started == 3
        peer.send(frame(PING, b"q"))
        read_bytes(connection, 3)
        flush_all(connection)
        assert writer.started == 3
        writer.queue(b"x" * 2 * FRAGMENT)
        writer.queue("y")
        flush_all(connection)
        assert writer.started == 5


@pytest.mark.parametrize("length", [100, 50_000, 3 * FRAGMENT])
def test_messages_that_have_not_started_never_arrive_and_few_others_fail_to(length: int) -> None:
    count = 6 * MEGABYTE // length
    with websocket() as (connection, peer):
        stall(connection, peer)
        for number in range(count):
            connection.writer.queue(struct.pack("!I", number) + b"x" * length)
        connection.flush()
        connection.flush()
        started = connection.writer.started
        connection.close()
        arrived = joined(peer.frames())
    assert 0 < started < count
    assert [struct.unpack("!I", message[:4])[0] for message in arrived] == list(range(len(arrived)))
    assert len(arrived) <= started
    # "May have arrived" is said of no more than one write's messages that did not.
    assert started - len(arrived) <= FRAGMENT // length + 2


# --- the end ---------------------------------------------------------------------------------------------


def test_writing_to_a_connection_that_was_reset() -> None:
    with websocket() as (connection, peer):
        peer.reset()
        wait_for(connection.raw, selectors.EVENT_READ, Deadline(LIMIT))
        connection.writer.queue("lost")
        with pytest.raises(ConnectionLost, match="the connection broke"):
            flush_all(connection)


def test_a_close_frame_leaves_behind_what_was_queued_before() -> None:
    with websocket() as (connection, peer):
        connection.writer.queue("last words")
        connection.queue_close(1000)
        flush_all(connection)
        assert peer.next_frame() == Sent(TEXT, True, b"last words")
        assert peer.next_frame() == Sent(CLOSE, True, struct.pack("!H", 1000))


def test_close_ends_the_connection_at_once_whatever_is_queued() -> None:
    with websocket() as (connection, peer):
        stall(connection, peer)
        connection.writer.queue(b"x" * 20 * MEGABYTE)
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
