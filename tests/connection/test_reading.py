"""Read from a socket. tests/protocol/test_frames_received.py has the frames."""

from __future__ import annotations

import gc
import selectors
import struct
import weakref
from typing import Any

import pytest

from n8nrunner.connection.transport import FRAMES_PER_ITERATION
from n8nrunner.deadline import Deadline
from n8nrunner.protocol.failures import ConnectionLost
from n8nrunner.protocol.frames import PongFrame
from tests.conftest import LIMIT
from tests.connection.servers import (
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Sent,
    flush_all,
    frame,
    read_bytes,
    read_count,
    read_until,
    wait_for,
    websocket,
)

MEGABYTE = 1024 * 1024


def test_many_frames_in_one_segment_are_read() -> None:
    with websocket() as (connection, peer):
        messages = [b"message %d" % number for number in range(2000)]
        sending = peer.send_in_background(b"".join(frame(TEXT, message) for message in messages))
        assert read_count(connection, 2000) == messages
        sending.join()


def test_frames_that_come_with_the_answer_to_the_upgrade_are_read() -> None:
    with websocket(tail=frame(TEXT, b"one") + frame(PONG, b"p") + frame(TEXT, b"two")) as (connection, _):
        assert connection.receiver.in_message
        assert read_count(connection, 3) == [b"one", PongFrame(b"p"), b"two"]
        assert not connection.receiver.in_message


def test_a_message_of_twenty_megabytes_is_read() -> None:
    payload = bytes(range(256)) * (20 * MEGABYTE // 256)
    with websocket() as (connection, peer):
        sending = peer.send_in_background(frame(TEXT, payload) + frame(TEXT, b"after"))
        first, second = read_count(connection, 2)
        sending.join()
    assert first == payload
    assert second == b"after"


def test_fragments_of_twenty_megabytes_are_joined_and_the_pings_between_answered() -> None:
    part = bytes(range(256)) * 400
    count = 20 * MEGABYTE // len(part)
    data = [frame(TEXT, part, final=False)]
    for number in range(1, count):
        data.append(frame(PING, b"%d" % number))
        data.append(frame(CONT, part, final=number == count - 1))
    with websocket() as (connection, peer):
        sending = peer.send_in_background(b"".join(data))
        (message,) = read_count(connection, 1)
        sending.join()
        flush_all(connection)
        pong = peer.next_frame()
    assert message == part * count
    assert pong == Sent(PONG, True, b"%d" % (count - 1))


def test_a_turn_reads_no_more_than_a_megabyte() -> None:
    with websocket() as (connection, peer):
        sending = peer.send_in_background(frame(TEXT, b"x" * (8 * MEGABYTE)))
        received: list[Any] = []
        while not received:
            received, count, _ = connection.read()
            assert count <= 2 * MEGABYTE  # a megabyte, and one more call
        sending.join()


def test_a_turn_in_which_nothing_has_come_returns_nothing() -> None:
    with websocket() as (connection, _):
        assert connection.read() == ([], 0, False)


def test_pings_are_answered_with_their_payload() -> None:
    with websocket() as (connection, peer):
        for payload in (b"", b"x", b"y" * 125):
            peer.send(frame(PING, payload))
            read_bytes(connection, len(payload) + 2)
            assert not connection.sender.is_empty
            flush_all(connection)
            assert peer.next_frame() == Sent(PONG, True, payload)


@pytest.mark.parametrize(
    "data", [frame(TEXT, b""), frame(PONG, b""), frame(CONT, b"", final=False), frame(PING, b"")]
)
def test_a_turn_handles_a_bounded_number_of_frames(data: bytes) -> None:
    """A megabyte of two-byte frames would take seconds, in which no other broker is served."""
    most = FRAMES_PER_ITERATION
    count = 10 * most
    with websocket() as (connection, peer):
        begin = frame(TEXT, b"", final=False) if data == frame(CONT, b"", final=False) else b""
        peer.send(begin + data * count)
        handled, turns, more = 0, 0, True
        while handled < count:
            if not more:
                wait_for(connection.raw, selectors.EVENT_READ, Deadline(LIMIT))
            received, _, more = connection.read()
            assert len(received) <= most
            assert connection.receiver.frames - handled <= most
            handled = connection.receiver.frames
            turns += 1
        assert turns >= count // most


def test_frames_left_for_the_next_turn_come_before_the_end_of_the_connection() -> None:
    count = 3 * FRAMES_PER_ITERATION
    with websocket() as (connection, peer):
        peer.send(frame(TEXT, b"x") * count)
        peer.close()
        received: list[Any] = []
        with pytest.raises(ConnectionLost, match="without a close frame"):
            read_until(connection, lambda now: received.extend(now) or False)
        assert received[-1] == b"x"


def test_the_messages_before_a_frame_against_the_rules_are_returned_first() -> None:
    with websocket() as (connection, peer):
        peer.send(frame(TEXT, b"fine") + frame(TEXT, b"masked", mask=True))
        assert read_until(connection, bool) == [b"fine"]
        with pytest.raises(ConnectionLost, match="masked"):
            read_until(connection, lambda _: False)


# --- the end -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codes", "rest"),
    [
        ((1000, 1001, 1002, 1007, 1009, 1011, 1012, 1013, 1014, 3000, 4999), b""),
        ((1000, 1001, 3000), b"some reason"),
        ((1000, 1001, 3000), b"\xff not UTF-8"),
        # Codes that do not exist, or may not be sent.
        ((0, 1, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535), b""),
    ],
)
def test_a_close_frame_gives_its_code_and_is_answered(codes: tuple[int, ...], rest: bytes) -> None:
    for code in codes:
        with websocket() as (connection, peer):
            peer.send(frame(TEXT, b"last") + frame(CLOSE, struct.pack("!H", code) + rest))
            assert read_until(connection, lambda _, it=connection: it.received_close) == [b"last"]
            assert connection.close_code == code
            flush_all(connection)
            assert peer.next_frame().opcode == CLOSE


@pytest.mark.parametrize("payload", [b"", b"\x03"])
def test_a_close_frame_without_a_code_is_answered(payload: bytes) -> None:
    with websocket() as (connection, peer):
        peer.send(frame(CLOSE, payload))
        assert read_until(connection, lambda _: connection.received_close) == []
        assert connection.close_code is None
        flush_all(connection)
        assert peer.next_frame().opcode == CLOSE


def test_an_end_in_the_middle_of_a_frame_raises_after_the_messages_before_it() -> None:
    data = frame(TEXT, b"cut off")
    for cut in range(len(data)):
        with websocket() as (connection, peer):
            peer.send(frame(TEXT, b"whole") + data[:cut])
            peer.close()
            received: list[Any] = []
            with pytest.raises(ConnectionLost, match="without a close frame") as caught:
                read_until(connection, lambda now, all=received: all.extend(now))
        assert b"whole" in received
        assert b"cut off" not in received
        assert caught.value.code is None


def test_an_end_in_the_middle_of_a_large_frame_raises() -> None:
    data = frame(TEXT, b"x" * 3 * MEGABYTE)[: 2 * MEGABYTE]
    with websocket() as (connection, peer):
        sending = peer.send_in_background(data)
        assert read_bytes(connection, len(data)) == []
        sending.join()
        peer.close()
        with pytest.raises(ConnectionLost, match="without a close frame"):
            read_until(connection, lambda _: False)


def test_a_reset_raises() -> None:
    with websocket() as (connection, peer):
        peer.reset()
        with pytest.raises(ConnectionLost, match="ConnectionReset") as caught:
            read_until(connection, lambda _: False)
        assert caught.value.code is None


def test_a_closed_connection_leaves_no_message_to_the_garbage_collector() -> None:
    """Functions inside of websocket-client refer to each other."""
    gc.disable()
    try:
        with websocket() as (connection, peer):
            peer.send(frame(PING, b"x") + frame(TEXT, b"y"))
            read_count(connection, 1)
            flush_all(connection)
        parts = [connection, connection.receiver, connection.sender, connection.raw]
        references = [weakref.ref(part) for part in parts]
        del connection, parts
        assert [reference() for reference in references] == [None] * 4
    finally:
        gc.enable()
