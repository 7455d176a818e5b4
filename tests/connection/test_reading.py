"""What a connection makes of the bytes that come, whatever pieces they come in."""

from __future__ import annotations

import contextlib
import gc
import selectors
import struct
import tracemalloc
import weakref
from collections.abc import Iterator
from typing import Any, Callable

import pytest

from n8nrunner.connection import reading
from n8nrunner.connection.reading import Ponged, Skipped
from n8nrunner.deadline import Deadline
from n8nrunner.protocol.failures import ConnectionLost
from tests.conftest import LIMIT
from tests.connection import fuzz_frames
from tests.connection.servers import (
    BINARY,
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

# Every form of a header, an empty message, control frames between messages and within one.
PIECES: list[tuple[bytes, list[Any]]] = [
    (frame(TEXT, b"short"), [b"short"]),
    (frame(PING, b"p"), []),
    (frame(TEXT, b""), [b""]),
    (frame(TEXT, b"m" * 126), [b"m" * 126]),
    (frame(TEXT, b"two", size=2), [b"two"]),
    (frame(BINARY, b"eight", size=8), [b"eight"]),
    (frame(TEXT, b"first ", final=False), []),
    (frame(PONG, b"q"), [Ponged(b"q")]),
    (frame(CONT, b"second ", final=False), []),
    (frame(CONT, b"third"), [b"first second third"]),
]
STREAM = b"".join(data for data, _ in PIECES)
EXPECTED = [item for _, items in PIECES for item in items]


def test_frames_may_be_cut_anywhere() -> None:
    with websocket() as (connection, peer):
        for cut in range(1, len(STREAM)):
            peer.send(STREAM[:cut])
            received = read_bytes(connection, cut)
            peer.send(STREAM[cut:])
            received += read_bytes(connection, len(STREAM) - cut)
            assert received == EXPECTED, f"cut at byte {cut}"
            assert not connection.in_message


def test_every_byte_may_come_alone() -> None:
    with websocket() as (connection, peer):
        received = []
        for index in range(len(STREAM)):
            peer.send(STREAM[index : index + 1])
            received += read_bytes(connection, 1)
        assert received == EXPECTED


def test_many_frames_may_come_in_one_segment() -> None:
    with websocket() as (connection, peer):
        messages = [b"message %d" % number for number in range(2000)]
        sending = peer.send_in_background(b"".join(frame(TEXT, message) for message in messages))
        assert read_count(connection, 2000) == messages
        sending.join()


def test_what_comes_with_the_answer_to_the_upgrade_is_not_lost() -> None:
    with websocket(tail=STREAM) as (connection, _):
        assert read_count(connection, len(EXPECTED)) == EXPECTED


def test_the_headers_of_large_frames_may_be_cut_anywhere() -> None:
    payload = b"x" * (65536 + 10)
    data = frame(TEXT, payload)
    with websocket() as (connection, peer):
        for cut in range(1, 12):
            peer.send(data[:cut])
            assert read_bytes(connection, cut) == []
            assert connection.in_message
            sending = peer.send_in_background(data[cut:] + frame(TEXT, b"next"))
            assert read_count(connection, 2) == [payload, b"next"]
            sending.join()


@pytest.mark.parametrize("length", [65535, 65536, 65537, 128 * 1024, MEGABYTE - 1, MEGABYTE + 1])
def test_frames_around_the_sizes_of_buffers(length: int) -> None:
    payload = bytes(range(256)) * (length // 256) + b"?" * (length % 256)
    with websocket() as (connection, peer):
        data = (frame(TEXT, payload) + frame(TEXT, b"small")) * 3
        sending = peer.send_in_background(data)
        assert read_bytes(connection, len(data)) == [payload, b"small"] * 3
        sending.join()


def test_a_message_of_twenty_megabytes() -> None:
    payload = bytes(range(256)) * (20 * MEGABYTE // 256)
    with websocket() as (connection, peer):
        sending = peer.send_in_background(frame(TEXT, payload) + frame(TEXT, b"after"))
        first, second = read_count(connection, 2)
        sending.join()
    assert first == payload
    assert second == b"after"


def test_a_message_of_twenty_megabytes_in_fragments_with_pings_between() -> None:
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
            assert count <= 2 * MEGABYTE  # a megabyte, and what one more look brings
        sending.join()


def test_what_has_been_read_is_not_kept() -> None:
    """Although every turn ends in the middle of a frame, as under load it may for a long time."""
    data = frame(TEXT, b"x" * 10_000)
    middle = len(data) // 2
    with websocket() as (connection, peer):
        peer.send(data[:middle])
        read_bytes(connection, middle)
        for _ in range(100):
            peer.send(data[middle:] + data[:middle])
            assert len(read_bytes(connection, len(data))) == 1
        assert len(connection._reader._buffer) < 5 * len(data)


def test_a_turn_in_which_nothing_has_come() -> None:
    with websocket() as (connection, _):
        assert connection.read() == ([], 0, False)


def test_pings_are_answered_with_their_payload() -> None:
    with websocket() as (connection, peer):
        for payload in (b"", b"x", b"y" * 125):
            peer.send(frame(PING, payload))
            read_bytes(connection, len(payload) + 2)
            # Some releases send their pongs by the socket itself, which may neither block nor pass the queue.
            assert connection.raw.gettimeout() == 0.0
            assert not connection.sender.is_empty
            flush_all(connection)
            assert peer.next_frame() == Sent(PONG, True, payload)


def test_text_that_is_not_utf8_is_left_to_whoever_decodes_it() -> None:
    with websocket() as (connection, peer):
        peer.send(frame(TEXT, b"\xff\xfe"))
        assert read_count(connection, 1) == [b"\xff\xfe"]


# --- what a peer can make us keep -----------------------------------------------------------------------

GIGABYTE = 1024 * MEGABYTE


@contextlib.contextmanager
def peak_memory() -> Iterator[Callable[[], int]]:
    """How many bytes have been allocated at most since the beginning."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        yield lambda: tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def test_memory_grows_with_what_has_come_and_not_with_what_a_header_announces() -> None:
    with websocket(GIGABYTE) as (connection, peer), peak_memory() as peak:
        peer.send(struct.pack("!BBQ", 0x80 | TEXT, 127, GIGABYTE))
        assert read_bytes(connection, 10) == []
        assert peak() < MEGABYTE
        sending = peer.send_in_background(b"x" * 8 * MEGABYTE)
        assert read_bytes(connection, 8 * MEGABYTE) == []
        sending.join()
        assert connection.in_message
        assert peak() < 8 * MEGABYTE + 12 * MEGABYTE  # what was sent is the test's own


def test_a_large_message_is_held_once() -> None:
    data = frame(TEXT, b"x" * 20 * MEGABYTE)
    with websocket() as (connection, peer), peak_memory() as peak:
        sending = peer.send_in_background(data)
        (message,) = read_count(connection, 1)
        sending.join()
        assert len(message) == 20 * MEGABYTE
        # `bytearray` keeps an eighth more than it holds.
        assert peak() < 25 * MEGABYTE


@pytest.mark.parametrize("size", [0, 1])
def test_tiny_fragments_cost_no_more_than_their_payload(size: int) -> None:
    count = 50_000
    fragments = frame(CONT, b"x" * size, final=False) * count
    with websocket() as (connection, peer), peak_memory() as peak:
        peer.send(frame(TEXT, b"", final=False))
        sending = peer.send_in_background(fragments)
        assert read_bytes(connection, 2 + len(fragments)) == []
        sending.join()
        assert peak() < 2 * MEGABYTE
        peer.send(frame(CONT, b"!"))
        assert read_count(connection, 1) == [b"x" * (size * count) + b"!"]


def test_a_message_may_not_have_any_number_of_fragments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "FRAGMENTS_LIMIT", 100)
    with websocket() as (connection, peer):
        within = frame(TEXT, b"", final=False) + frame(CONT, b"", final=False) * 98 + frame(CONT, b"x")
        peer.send(within * 2)
        assert read_count(connection, 2) == [b"x"] * 2
        peer.send(frame(TEXT, b"", final=False) + frame(CONT, b"", final=False) * 100)
        with pytest.raises(ConnectionLost, match="more than 100 fragments") as caught:
            read_until(connection, lambda _: False)
    assert caught.value.code == 1008


def test_a_skipped_message_may_not_have_any_number_of_fragments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "FRAGMENTS_LIMIT", 100)
    with websocket(1000) as (connection, peer):
        peer.send(frame(TEXT, b"x" * 1001, final=False) + frame(CONT, b"", final=False) * 100)
        with pytest.raises(ConnectionLost, match="more than 100 fragments"):
            read_until(connection, lambda _: False)


@pytest.mark.parametrize(
    "data", [frame(TEXT, b""), frame(PONG, b""), frame(CONT, b"", final=False), frame(PING, b"")]
)
def test_a_turn_takes_a_bounded_number_of_frames(data: bytes) -> None:
    """A megabyte of two-byte frames would take seconds, in which no other broker is served."""
    most = reading.FRAMES_PER_TURN
    count = 10 * most
    with websocket() as (connection, peer):
        peer.send(frame(TEXT, b"", final=False) if data == frame(CONT, b"", final=False) else b"")
        peer.send(data * count)
        counted = connection._reader._check
        checked = 0

        def count_frames(*arguments: Any) -> None:
            nonlocal checked
            checked += 1
            counted(*arguments)

        connection._reader._check = count_frames
        turns, more = 0, True
        while checked < count:
            if not more:
                wait_for(connection.raw, selectors.EVENT_READ, Deadline(LIMIT))
            before = checked
            received, _, more = connection.read()
            assert len(received) <= most
            assert checked - before <= most + 1  # the fragment before them is one more
            turns += 1
        assert turns >= count // most


def test_frames_that_are_left_for_the_next_turn_come_before_the_end_of_the_connection() -> None:
    count = 3 * reading.FRAMES_PER_TURN
    with websocket() as (connection, peer):
        peer.send(frame(TEXT, b"x") * count)
        peer.close()
        received: list[Any] = []
        with pytest.raises(ConnectionLost, match="without a word"):
            read_until(connection, lambda now: received.extend(now) or False)
        assert received[-1] == b"x"


# --- messages that are too large ------------------------------------------------------------------------

LIMIT_OF_MESSAGES = 100_000


@pytest.mark.parametrize("length", [LIMIT_OF_MESSAGES + 1, 5 * MEGABYTE])
def test_a_frame_above_the_limit_is_skipped_and_the_connection_goes_on(length: int) -> None:
    payload = bytes(range(256)) * (length // 256 + 1)
    with websocket(LIMIT_OF_MESSAGES) as (connection, peer):
        data = frame(TEXT, b"before") + frame(TEXT, payload[:length]) + frame(TEXT, b"after")
        sending = peer.send_in_background(data)
        before, skipped, after = read_count(connection, 3)
        sending.join()
    assert (before, after) == (b"before", b"after")
    assert skipped == Skipped(payload[:4096], length)


def test_what_is_skipped_is_not_kept() -> None:
    most = 0
    with websocket(LIMIT_OF_MESSAGES) as (connection, peer):
        sending = peer.send_in_background(frame(TEXT, b"x" * (10 * MEGABYTE)))
        received: list[Any] = []
        while not received:
            received, _, _ = connection.read()
            most = max(most, len(connection._reader._buffer))
        sending.join()
    assert most < MEGABYTE


def test_a_message_of_the_limit_itself_is_taken() -> None:
    with websocket(LIMIT_OF_MESSAGES) as (connection, peer):
        sending = peer.send_in_background(
            frame(TEXT, b"a" * LIMIT_OF_MESSAGES)
            + frame(TEXT, b"b" * (LIMIT_OF_MESSAGES - 1), final=False)
            + frame(CONT, b"b")
        )
        assert read_count(connection, 2) == [b"a" * LIMIT_OF_MESSAGES, b"b" * LIMIT_OF_MESSAGES]
        sending.join()


@pytest.mark.parametrize(
    "lengths",
    [
        (60_000, 40_001),  # the second fragment is too much
        (40_000, 40_000, 20_001),  # the third one is
        (60_000, 40_001, 60_000, 10),  # and more of them follow
        (60_000, 40_001, 0),  # the last one is empty
        (0, 0, LIMIT_OF_MESSAGES + 1),  # the first ones are
        (100, 200_000, 5, 300_000),
    ],
)
def test_fragments_above_the_limit_are_skipped(lengths: tuple[int, ...]) -> None:
    parts = [bytes([97 + index]) * length for index, length in enumerate(lengths)]
    data = b""
    for index, part in enumerate(parts):
        data += frame(CONT if index else TEXT, part, final=index == len(parts) - 1)
        data += frame(PING, b"%d" % index)
    with websocket(LIMIT_OF_MESSAGES) as (connection, peer):
        sending = peer.send_in_background(data + frame(TEXT, b"after"))
        skipped, after = read_count(connection, 2)
        sending.join()
        flush_all(connection)
        pong = peer.next_frame().payload
    assert skipped == Skipped(b"".join(parts)[:4096], sum(lengths))
    assert after == b"after"
    assert pong == b"%d" % (len(parts) - 1)


def test_a_message_above_the_limit_may_be_cut_anywhere() -> None:
    parts = [b"head" * 10, b"z" * 50]
    data = frame(TEXT, parts[0], final=False) + frame(PING, b"!") + frame(CONT, parts[1])
    with websocket(64) as (connection, peer):
        for cut in range(1, len(data)):
            peer.send(data[:cut])
            received = read_bytes(connection, cut)
            peer.send(data[cut:] + frame(TEXT, b"after"))
            received += read_bytes(connection, len(data) - cut + 7)
            assert received == [Skipped(parts[0] + parts[1], 90), b"after"], f"cut at byte {cut}"


# --- peers that break the rules -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (frame(TEXT, b"masked", mask=True), "masked"),
        (frame(TEXT, b"x", reserved=4), "reserved"),
        (frame(TEXT, b"x", reserved=2), "reserved"),
        (frame(TEXT, b"x", reserved=1), "reserved"),
        (frame(PING, b"x" * 126), "control frame"),
        (frame(PONG, b"x" * 70_000), "control frame"),
        (frame(CLOSE, b"x" * 126), "control frame"),
        # Only the header: who waits for the payload waits for ever, or runs out of memory.
        (struct.pack("!BBQ", 0x80 | PING, 127, 2**62), "control frame"),
        (struct.pack("!BBH", 0x80 | CLOSE, 126, 60_000), "control frame"),
        (frame(PING, b"x", final=False), "control frame"),
        (frame(CLOSE, b"", final=False), "control frame"),
        (frame(CONT, b"x"), "continuation of nothing"),
        (frame(CONT, b"x", final=False), "continuation of nothing"),
        (frame(TEXT, b"x", final=False) + frame(TEXT, b"y"), "within another"),
        (frame(TEXT, b"", final=False) + frame(BINARY, b"y"), "within another"),
        (frame(TEXT, b"x" * 2000, final=False) + frame(TEXT, b"y"), "within another"),
        (frame(3, b"x"), "rules"),
        (frame(7, b"x"), "rules"),
        (frame(11, b"x"), "rules"),
        (frame(15, b"x"), "rules"),
    ],
)
def test_a_frame_against_the_rules_ends_the_connection(data: bytes, what: str) -> None:
    with websocket(1000) as (connection, peer):
        peer.send(frame(TEXT, b"fine") + data)
        with pytest.raises(ConnectionLost, match=what) as caught:
            read_until(connection, lambda received: False)
    assert caught.value.code == 1002
    assert "x" * 10 not in str(caught.value)


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
def test_a_close_frame_without_a_code(payload: bytes) -> None:
    with websocket() as (connection, peer):
        peer.send(frame(CLOSE, payload))
        assert read_until(connection, lambda _: connection.received_close) == []
        assert connection.close_code is None
        flush_all(connection)
        assert peer.next_frame().opcode == CLOSE


def test_nothing_is_read_behind_a_close_frame() -> None:
    with websocket() as (connection, peer):
        peer.send(frame(CLOSE, struct.pack("!H", 1001)) + frame(TEXT, b"too late"))
        assert read_until(connection, lambda _: connection.received_close) == []


def test_a_close_frame_between_fragments() -> None:
    with websocket() as (connection, peer):
        peer.send(frame(TEXT, b"half", final=False) + frame(CLOSE, struct.pack("!H", 1001)))
        assert read_until(connection, lambda _: connection.received_close) == []
        assert connection.close_code == 1001


def test_an_end_in_the_middle_of_a_frame() -> None:
    data = frame(TEXT, b"cut off")
    for cut in range(len(data)):
        with websocket() as (connection, peer):
            peer.send(frame(TEXT, b"whole") + data[:cut])
            peer.close()
            received: list[Any] = []
            with pytest.raises(ConnectionLost, match="without a word") as caught:
                read_until(connection, lambda now, all=received: all.extend(now))
        assert b"whole" in received
        assert b"cut off" not in received
        assert caught.value.code is None


def test_an_end_in_the_middle_of_a_large_frame() -> None:
    data = frame(TEXT, b"x" * 3 * MEGABYTE)[: 2 * MEGABYTE]
    with websocket() as (connection, peer):
        sending = peer.send_in_background(data)
        assert read_bytes(connection, len(data)) == []
        sending.join()
        peer.close()
        with pytest.raises(ConnectionLost, match="without a word"):
            read_until(connection, lambda _: False)


def test_an_end_in_the_middle_of_what_is_skipped() -> None:
    with websocket(1000) as (connection, peer):
        peer.send(frame(TEXT, b"x" * 30_000)[:20_000])
        peer.close()
        with pytest.raises(ConnectionLost):
            read_until(connection, lambda _: False)


def test_random_frames() -> None:
    assert fuzz_frames.run(2.0, seed=1)


def test_a_connection_that_is_reset() -> None:
    with websocket() as (connection, peer):
        peer.reset()
        with pytest.raises(ConnectionLost, match="ConnectionReset") as caught:
            read_until(connection, lambda _: False)
        assert caught.value.code is None


def test_a_closed_connection_leaves_nothing_to_the_garbage_collector() -> None:
    gc.disable()
    try:
        with websocket() as (connection, peer):
            peer.send(frame(PING, b"x") + frame(TEXT, b"y"))
            read_count(connection, 1)
            flush_all(connection)
        parts = [connection, connection._reader, connection.sender]
        gone = [weakref.ref(part) for part in parts]
        del connection, parts
        assert [part() for part in gone] == [None] * 3
    finally:
        gc.enable()


def test_in_message_says_whether_the_rest_of_a_message_is_awaited() -> None:
    whole = frame(TEXT, b"x" * 100)
    for data, expected in [
        (whole, False),
        (whole[:1], True),
        (whole[:50], True),
        (frame(TEXT, b"x", final=False), True),
        (frame(TEXT, b"x" * 1000)[:500], True),  # it is skipped
        (frame(TEXT, b"x" * 1000), False),
    ]:
        with websocket(200) as (connection, peer):
            peer.send(data)
            read_bytes(connection, len(data))
            assert connection.in_message is expected, data[:10]
