"""Bytes of a broker become events, without a socket: in pieces of any size, also if they break the rules."""

from __future__ import annotations

import contextlib
import random
import struct
import tracemalloc
from collections.abc import Iterator
from typing import Any, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from n8nrunner.protocol import frames
from n8nrunner.protocol.failures import ConnectionLost
from n8nrunner.protocol.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    FRAGMENT,
    PING,
    PONG,
    TEXT,
    CloseFrame,
    PingFrame,
    PongFrame,
    Receiver,
    Sender,
    SkippedMessage,
)
from tests.connection.servers import frame
from tests.protocol import fuzz_frames
from tests.protocol.fuzz_frames import feed
from tests.protocol.test_frames_sent import SENDINGS, parse, send_all

MEGABYTE = 1024 * 1024
MAX_PAYLOAD = 64 * MEGABYTE

#: Each form of a header, an empty message, and control frames between messages and within one.
PIECES: list[tuple[bytes, list[Any]]] = [
    (frame(TEXT, b"short"), [b"short"]),
    (frame(PING, b"p"), [PingFrame(b"p")]),
    (frame(TEXT, b""), [b""]),
    (frame(TEXT, b"m" * 126), [b"m" * 126]),
    (frame(TEXT, b"two", size=2), [b"two"]),
    (frame(BINARY, b"eight", size=8), [b"eight"]),
    (frame(TEXT, b"first ", final=False), []),
    (frame(PONG, b"q"), [PongFrame(b"q")]),
    (frame(CONTINUATION, b"second ", final=False), []),
    (frame(CONTINUATION, b"", final=False), []),
    (frame(CONTINUATION, b"third"), [b"first second third"]),
]
STREAM = b"".join(data for data, _ in PIECES)
EXPECTED = [item for _, items in PIECES for item in items]


def received(*pieces: bytes, max_payload: int = MAX_PAYLOAD) -> list[Any]:
    """Return the events that the pieces make."""
    return feed(Receiver(max_payload), *pieces)


def violation(*pieces: bytes, max_payload: int = MAX_PAYLOAD) -> ConnectionLost:
    """Return the failure that the pieces raise."""
    with pytest.raises(ConnectionLost) as caught:
        feed(Receiver(max_payload), *pieces)
    return caught.value


class TestMessages:
    def test_frames_make_events(self) -> None:
        assert received(STREAM) == EXPECTED

    def test_frames_may_be_cut_anywhere(self) -> None:
        for cut in range(1, len(STREAM)):
            receiver = Receiver(MAX_PAYLOAD)
            assert feed(receiver, STREAM[:cut], STREAM[cut:]) == EXPECTED, f"cut at byte {cut}"
            assert not receiver.in_message

    def test_each_byte_may_come_alone(self) -> None:
        assert received(*(STREAM[index : index + 1] for index in range(len(STREAM)))) == EXPECTED

    def test_the_header_of_a_large_frame_may_be_cut_anywhere(self) -> None:
        payload = b"x" * (65536 + 10)
        data = frame(TEXT, payload)
        for cut in range(1, 12):
            assert received(data[:cut], data[cut:] + frame(TEXT, b"next")) == [payload, b"next"]

    @pytest.mark.parametrize("length", [65535, 65536, 65537, 128 * 1024, MEGABYTE - 1, MEGABYTE + 1])
    def test_frames_have_any_size(self, length: int) -> None:
        payload = bytes(range(256)) * (length // 256) + b"?" * (length % 256)
        assert received((frame(TEXT, payload) + frame(TEXT, b"small")) * 3) == [payload, b"small"] * 3

    def test_the_rest_of_a_large_frame_is_received_into_the_buffer(self) -> None:
        receiver = Receiver(MAX_PAYLOAD)
        assert receiver.get_buffer() is None
        length = MEGABYTE + 20_000
        receiver.receive_data(frame(TEXT, b"x" * length)[:1000])
        assert receiver.get_buffer() is None  # the header has not been handled
        assert receiver.next_events(1) == []
        missing = length - 990
        while (buffer := receiver.get_buffer()) is not None:
            assert 64 * 1024 <= len(buffer) <= missing
            buffer[:] = b"y" * len(buffer)
            receiver.buffer_updated(len(buffer))
            missing -= len(buffer)
            assert receiver.next_events(1) == []
        receiver.receive_data(b"z" * missing)
        assert receiver.next_events(1) == [b"x" * 990 + b"y" * (length - 990 - missing) + b"z" * missing]

    def test_a_message_that_has_arrived_as_a_whole_is_copied_once(self) -> None:
        (message,) = received(frame(TEXT, b"x" * 1000), max_payload=1000)
        assert type(message) is bytes

    def test_the_last_64_kb_of_a_frame_may_be_received_into_the_buffer(self) -> None:
        for missing, has_buffer in [(64 * 1024 - 1, False), (64 * 1024, True)]:
            receiver = Receiver(MAX_PAYLOAD)
            feed(receiver, frame(TEXT, b"x" * 100_000)[:-missing])
            assert (receiver.get_buffer() is not None) is has_buffer

    def test_a_buffer_that_ends_with_the_frame_ends_the_message(self) -> None:
        receiver = Receiver(MAX_PAYLOAD)
        receiver.receive_data(frame(TEXT, b"x" * 100_000)[:10])
        assert receiver.next_events(1) == []
        buffer = receiver.get_buffer()
        assert buffer is not None
        assert len(buffer) == 100_000
        buffer[:] = b"y" * 100_000
        receiver.buffer_updated(100_000)
        assert receiver.next_events(1) == [b"y" * 100_000]

    def test_bytes_that_are_not_utf8_are_passed_on(self) -> None:
        assert received(frame(TEXT, b"\xff\xfe")) == [b"\xff\xfe"]

    def test_in_message_is_true_while_the_rest_of_a_message_is_missing(self) -> None:
        whole = frame(TEXT, b"x" * 100)
        for data, expected in [
            (b"", False),
            (whole, False),
            (whole[:1], True),
            (whole[:2], True),
            (whole[:50], True),
            (frame(TEXT, b"x", final=False), True),
            (frame(TEXT, b"x" * 1000)[:500], True),  # it is skipped
            (frame(TEXT, b"x" * 1000), False),
        ]:
            receiver = Receiver(200)
            feed(receiver, data)
            assert receiver.in_message is expected, data[:10]


class TestLimitOfFrames:
    @pytest.mark.parametrize(
        "data",
        [frame(TEXT), frame(PONG), frame(PING), frame(CONTINUATION, final=False), frame(TEXT, b"x" * 9)],
    )
    def test_at_most_so_many_frames_are_handled_at_once(self, data: bytes) -> None:
        receiver = Receiver(8)
        begin = frame(TEXT, final=False) if data == frame(CONTINUATION, final=False) else b""
        receiver.receive_data(begin + data * 100)
        count, calls = 0, 0
        while calls == 0 or receiver.has_more:
            assert len(receiver.next_events(7)) <= 7
            assert receiver.frames - count <= 7
            count = receiver.frames
            calls += 1
        assert count == 100 + (begin != b"")
        assert calls == 15

    def test_has_more_is_false_when_the_limit_falls_on_the_last_frame(self) -> None:
        receiver = Receiver(100)
        assert receiver.has_more is False
        receiver.receive_data(frame(TEXT, b"x") * 3)
        assert receiver.next_events(3) == [b"x"] * 3
        assert receiver.has_more is False

    def test_the_last_frame_within_the_limit_is_handled_to_its_end(self) -> None:
        receiver = Receiver(100)
        receiver.receive_data(frame(TEXT, b"x", final=False) + frame(CONTINUATION) + frame(TEXT, b"next"))
        assert receiver.next_events(2) == [b"x"]
        assert receiver.has_more
        assert receiver.next_events(1) == [b"next"]


class TestSkippedMessages:
    @pytest.mark.parametrize("length", [1001, 5000, 70_000, 5 * MEGABYTE])
    def test_a_frame_above_the_limit_is_skipped(self, length: int) -> None:
        payload = (bytes(range(256)) * (length // 256 + 1))[:length]
        data = frame(TEXT, b"before") + frame(TEXT, payload) + frame(TEXT, b"after")
        assert received(data, max_payload=1000) == [
            b"before",
            SkippedMessage(payload[:4096], length),
            b"after",
        ]

    def test_a_message_at_the_limit_is_taken(self) -> None:
        data = frame(TEXT, b"a" * 1000) + frame(TEXT, b"b" * 999, final=False) + frame(CONTINUATION, b"b")
        assert received(data, max_payload=1000) == [b"a" * 1000, b"b" * 1000]

    @pytest.mark.parametrize(
        "lengths",
        [
            (60_000, 40_001),  # the second fragment is too much
            (40_000, 40_000, 20_001),  # the third one is
            (60_000, 40_001, 60_000, 10),  # and more of them follow
            (60_000, 40_001, 0),  # the last one is empty
            (0, 0, 100_001),  # the first ones are
            (100, 200_000, 5, 300_000),
        ],
    )
    def test_fragments_above_the_limit_are_skipped(self, lengths: tuple[int, ...]) -> None:
        parts = [bytes([97 + index]) * length for index, length in enumerate(lengths)]
        data, pings = b"", []
        for index, part in enumerate(parts):
            final = index == len(parts) - 1
            data += frame(CONTINUATION if index else TEXT, part, final=final) + frame(PING, b"%d" % index)
            pings.append(PingFrame(b"%d" % index))
        *events, after = received(data + frame(TEXT, b"after"), max_payload=100_000)
        assert after == b"after"
        skipped = SkippedMessage(b"".join(parts)[:4096], sum(lengths))
        assert events == [*pings[:-1], skipped, pings[-1]]

    def test_a_skipped_message_may_be_cut_anywhere(self) -> None:
        parts = [b"head" * 10, b"z" * 50]
        data = frame(TEXT, parts[0], final=False) + frame(PING, b"!") + frame(CONTINUATION, parts[1])
        expected = [PingFrame(b"!"), SkippedMessage(parts[0] + parts[1], 90), b"after"]
        for cut in range(1, len(data)):
            assert received(data[:cut], data[cut:] + frame(TEXT, b"after"), max_payload=64) == expected


@contextlib.contextmanager
def peak_memory() -> Iterator[Callable[[], int]]:
    """Yield a function that returns the most bytes that were allocated since the beginning."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        yield lambda: tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


class TestMemory:
    def test_memory_grows_with_what_has_arrived_and_not_with_what_a_header_announces(self) -> None:
        receiver = Receiver(1024 * MEGABYTE)
        part = b"x" * 64 * 1024
        with peak_memory() as peak:
            feed(receiver, struct.pack("!BBQ", 0x80 | TEXT, 127, 1024 * MEGABYTE))
            assert peak() < MEGABYTE
            feed(receiver, *[part] * 128)
            assert receiver.in_message
            assert peak() < 8 * MEGABYTE + 3 * MEGABYTE

    def test_a_large_message_is_held_once(self) -> None:
        data = frame(TEXT, b"x" * 20 * MEGABYTE)
        with peak_memory() as peak:
            (message,) = received(data)
            assert len(message) == 20 * MEGABYTE
            # `bytearray` keeps an eighth more than it holds.
            assert peak() < 24 * MEGABYTE

    def test_a_skipped_message_is_not_held(self) -> None:
        data = frame(TEXT, b"x" * 20 * MEGABYTE)
        with peak_memory() as peak:
            assert received(data, max_payload=MEGABYTE) == [SkippedMessage(b"x" * 4096, 20 * MEGABYTE)]
            assert peak() < MEGABYTE

    def test_handled_bytes_are_not_kept_although_every_piece_ends_within_a_frame(self) -> None:
        data = frame(TEXT, b"x" * 10_000)
        receiver = Receiver(MAX_PAYLOAD)
        feed(receiver, data[:5000])
        with peak_memory() as peak:
            for _ in range(100):
                assert len(feed(receiver, data[5000:] + data[:5000])) == 1
            assert peak() < 10 * len(data)

    @pytest.mark.parametrize("size", [0, 1])
    def test_tiny_fragments_cost_no_more_than_their_payload(self, size: int) -> None:
        fragment = frame(CONTINUATION, b"x" * size, final=False)
        receiver = Receiver(MAX_PAYLOAD)
        feed(receiver, frame(TEXT, final=False))
        with peak_memory() as peak:
            for _ in range(100):
                assert feed(receiver, fragment * 200) == []
            assert peak() < 100_000
        assert feed(receiver, frame(CONTINUATION, b"!")) == [b"x" * (size * 20_000) + b"!"]

    @pytest.mark.parametrize("max_payload", [1000, 0])
    def test_a_message_has_a_limited_number_of_fragments(
        self, max_payload: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(frames, "FRAGMENTS_LIMIT", 100)
        begin, middle = frame(TEXT, b"x", final=False), frame(CONTINUATION, final=False)
        assert len(received((begin + middle * 98 + frame(CONTINUATION)) * 2, max_payload=max_payload)) == 2
        failure = violation(begin + middle * 100, max_payload=max_payload)
        assert "more than 100 fragments" in str(failure)


MASKED = "the broker sent a frame that is masked or has reserved bits set"
WITHIN = "the broker began a message within another"
UNKNOWN = "the broker sent a frame with an unknown opcode"
CONTROL = "the broker sent a control frame that is too long or in fragments"


class TestViolations:
    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (frame(TEXT, b"masked", mask=True), MASKED),
            (frame(TEXT, b"x", reserved=4), MASKED),
            (frame(TEXT, b"x", reserved=2), MASKED),
            (frame(TEXT, b"x", reserved=1), MASKED),
            (frame(PING, b"x" * 126), CONTROL),
            (frame(PONG, b"x" * 70_000), CONTROL),
            (frame(CLOSE, b"x" * 126), CONTROL),
            # Only the header: a receiver that waits for the payload never ends, or runs out of memory.
            (struct.pack("!BBQ", 0x80 | PING, 127, 2**62), CONTROL),
            (struct.pack("!BBH", 0x80 | CLOSE, 126, 60_000), CONTROL),
            (frame(PING, b"x", final=False), CONTROL),
            (frame(CLOSE, final=False), CONTROL),
            (frame(CONTINUATION, b"x"), "the broker sent a continuation of no message"),
            (frame(CONTINUATION, b"x", final=False), "the broker sent a continuation of no message"),
            (frame(TEXT, b"x", final=False) + frame(TEXT, b"y"), WITHIN),
            (frame(TEXT, final=False) + frame(BINARY, b"y"), WITHIN),
            (
                frame(TEXT, b"x" * 2000, final=False) + frame(TEXT, b"y"),
                WITHIN,
            ),
            *((frame(opcode, b"x"), UNKNOWN) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)),
        ],
    )
    def test_a_frame_against_the_rules_raises(self, data: bytes, reason: str) -> None:
        assert str(violation(data, max_payload=1000)) == reason

    def test_the_events_before_a_violation_are_returned_first(self) -> None:
        receiver = Receiver(1000)
        receiver.receive_data(frame(TEXT, b"fine") + frame(PING) + frame(3, b"x"))
        assert receiver.next_events(100) == [b"fine", PingFrame(b"")]
        assert receiver.has_more
        for _ in range(2):
            with pytest.raises(ConnectionLost):
                receiver.next_events(100)


class TestCloseFrames:
    @pytest.mark.parametrize(
        ("payload", "code"),
        [(b"", None), (b"\x03", None), (b"\x03\xe8", 1000), (b"\x03\xe9why", 1001), (b"\xff\xff\xff", 65535)],
    )
    def test_a_close_frame_has_the_code_of_its_first_two_bytes(
        self, payload: bytes, code: int | None
    ) -> None:
        (event,) = received(frame(CLOSE, payload))
        assert event == CloseFrame(payload)
        assert event.code == code

    def test_nothing_follows_a_close_frame(self) -> None:
        receiver = Receiver(1000)
        assert feed(receiver, frame(CLOSE) + frame(TEXT, b"late"), frame(TEXT, b"later")) == [CloseFrame(b"")]
        assert not receiver.in_message

    def test_a_close_frame_may_come_between_fragments(self) -> None:
        assert received(frame(TEXT, b"half", final=False) + frame(CLOSE)) == [CloseFrame(b"")]


# --- any bytes --------------------------------------------------------------------------------------


def outcome(data: bytes, cuts: list[int], limit: int, max_payload: int) -> tuple[list[Any], str | None]:
    """Return the events of the data, cut at these places, and the failure."""
    events: list[Any] = []
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    pieces = [data[start:end] for start, end in zip(places, places[1:])]
    try:
        feed(Receiver(max_payload), *pieces, limit=limit, events=events)
    except ConnectionLost as failure:
        return events, str(failure)
    return events, None


@given(
    st.integers(0, 2**32),
    st.lists(st.integers(0, 2**20), max_size=8),
    st.integers(1, 300),
    st.sampled_from(["valid", "closed", "mutated", "noise", "announced"]),
)
def test_the_same_bytes_make_the_same_events_however_they_are_cut(
    seed: int, cuts: list[int], limit: int, maker: str
) -> None:
    draw = random.Random(seed)
    max_payload = draw.choice(fuzz_frames.MAX_PAYLOADS)
    case = getattr(fuzz_frames, maker)(draw, max_payload)
    events, failure = outcome(case.data, [], 10**9, max_payload)
    assert outcome(case.data, cuts, limit, max_payload) == (events, failure)
    if case.expected is not None:
        assert failure is None
        assert events == case.expected


@given(st.lists(SENDINGS, max_size=12))
def test_one_side_receives_what_the_other_sends(sendings: list[Any]) -> None:
    sent = parse(send_all(Sender(random.Random(0).randbytes), sendings))
    # A broker does not mask its frames.
    data = b"".join(frame(opcode, payload, final) for opcode, final, payload in sent)
    events = received(data, max_payload=2 * FRAGMENT)
    messages = [event for event in events if not isinstance(event, PingFrame)]
    assert messages == [
        payload if len(payload) <= 2 * FRAGMENT else SkippedMessage(payload[:4096], len(payload))
        for name, payload in sendings
        if name == "send_message"
    ]


def test_random_frames_make_their_events_within_bounds_of_memory_and_time() -> None:
    assert fuzz_frames.run(2.0, seed=1)
