"""Messages as WebSocket frames, without a socket: what is sent, in which order, in which bytes."""

from __future__ import annotations

import os
import random
import struct
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websocket import ABNF

from n8nrunner.protocol.frames import BINARY, CLOSE, CONTINUATION, FRAGMENT, PING, PONG, TEXT, Sender

#: `Sent` with a payload of one of these lengths has each form of header.
LENGTHS = [0, 1, 3, 4, 125, 126, 127, 511, 512, 513, 65535, 65536, FRAGMENT]


class Sent(NamedTuple):
    """A frame of a client, unmasked."""

    opcode: int
    final: bool
    payload: bytes


def unmask(payload: bytes, key: bytes) -> bytes:
    length = len(payload)
    mask = (key * (length // 4 + 1))[:length]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")).to_bytes(length, "big")


def parse(data: bytes) -> list[Sent]:
    """Return the frames of a client, as RFC 6455, 5.2 describes them."""
    frames = []
    position = 0
    while position < len(data):
        first, second = data[position : position + 2]
        assert second & 0x80, "a client has to mask its frames"
        position += 2
        size = {126: 2, 127: 8}.get(second & 0x7F, 0)
        length = int.from_bytes(data[position : position + size], "big") if size else second & 0x7F
        position += size
        key, payload = data[position : position + 4], data[position + 4 : position + 4 + length]
        assert len(payload) == length
        position += 4 + length
        frames.append(Sent(first & 0x0F, bool(first & 0x80), unmask(payload, key)))
    return frames


def write(sender: Sender, limit: int | None = None) -> bytes:
    """Write what the sender has, or so many bytes of it, as a socket with that much room does."""
    written = b""
    while limit is None or len(written) < limit:
        data = sender.data_to_send()
        if not data:
            break
        taken = bytes(data if limit is None else data[: limit - len(written)])
        sender.data_sent(len(taken))
        written += taken
    return written


@pytest.fixture
def sender() -> Sender:
    return Sender(os.urandom)


def in_large_message(sender: Sender, length: int = 3 * FRAGMENT) -> bytes:
    """Write the beginning of a large message's first fragment."""
    sender.send_message(b"x" * length)
    return write(sender, 1000)


class TestMessages:
    @pytest.mark.parametrize("length", LENGTHS)
    def test_a_message_is_one_final_text_frame(self, sender: Sender, length: int) -> None:
        payload = (bytes(range(256)) * (FRAGMENT // 256))[:length]
        sender.send_message(payload)
        assert parse(write(sender)) == [Sent(TEXT, True, payload)]

    def test_a_string_is_sent_as_utf8(self, sender: Sender) -> None:
        sender.send_message("ünïcødé ✓")
        assert parse(write(sender)) == [Sent(TEXT, True, "ünïcødé ✓".encode())]

    def test_messages_keep_their_order(self, sender: Sender) -> None:
        messages = [b"%d" % number for number in range(100)]
        for message in messages:
            sender.send_message(message)
        assert [sent.payload for sent in parse(write(sender))] == messages

    def test_small_messages_are_returned_together(self, sender: Sender) -> None:
        sender.send_message(b"one")
        sender.send_message(b"two")
        assert len(parse(bytes(sender.data_to_send()))) == 2

    def test_a_chunk_of_messages_is_limited(self, sender: Sender) -> None:
        for _ in range(10):
            sender.send_message(b"x" * (FRAGMENT // 2))
        assert len(sender.data_to_send()) < 2 * FRAGMENT
        assert sender.started == 2

    def test_a_chunk_ends_when_it_has_the_size_of_a_fragment(self, sender: Sender) -> None:
        for _ in range(3):
            sender.send_message(b"x" * (FRAGMENT // 2 - 8))
        assert len(sender.data_to_send()) == FRAGMENT

    def test_a_message_of_the_size_of_a_fragment_is_not_large(self, sender: Sender) -> None:
        sender.send_message(b"x" * FRAGMENT)
        assert not sender.is_congested
        sender.send_message(b"x" * (FRAGMENT + 1))
        assert sender.is_congested

    @pytest.mark.parametrize("length", [FRAGMENT + 1, 2 * FRAGMENT, 2 * FRAGMENT + 1, 10 * FRAGMENT - 7])
    def test_a_large_message_is_sent_in_fragments(self, sender: Sender, length: int) -> None:
        payload = bytes(range(256)) * (length // 256) + b"!" * (length % 256)
        sender.send_message(payload)
        sender.send_message(b"after")
        *parts, after = parse(write(sender))
        assert after == Sent(TEXT, True, b"after")
        assert b"".join(part.payload for part in parts) == payload
        assert {len(part.payload) for part in parts[:-1]} == {FRAGMENT}
        assert [part.opcode for part in parts] == [TEXT, *[CONTINUATION] * (len(parts) - 1)]
        assert [part.final for part in parts] == [*[False] * (len(parts) - 1), True]

    def test_the_same_bytes_are_returned_until_they_are_written(self, sender: Sender) -> None:
        sender.send_message(b"x")
        first = bytes(sender.data_to_send())
        sender.send_message(b"y")
        sender.send_urgent_ping(b"p")
        assert sender.data_to_send() == first
        sender.data_sent(2)
        assert bytes(sender.data_to_send()) == first[2:]

    def test_nothing_is_returned_when_everything_is_written(self, sender: Sender) -> None:
        assert sender.is_empty
        assert sender.data_to_send() == b""
        sender.send_message(b"x")
        assert not sender.is_empty
        write(sender)
        assert sender.is_empty
        assert sender.data_to_send() == b""


class TestMasks:
    def test_the_source_of_random_bytes_gives_the_keys(self) -> None:
        sender = Sender(lambda count: (b"\1\2\3\4" + b"\5\6\7\10" * (count // 4))[:count])
        sender.send_message(b"\0" * 6)
        sender.send_message(b"\0" * 6)
        assert (
            write(sender) == b"\x81\x86\1\2\3\4" + b"\1\2\3\4\1\2" + b"\x81\x86\5\6\7\10" + b"\5\6\7\10\5\6"
        )

    @pytest.mark.parametrize("length", [100, 1000])
    def test_each_frame_has_a_key_of_its_own(self, sender: Sender, length: int) -> None:
        count = 3000  # more keys than are fetched at once, twice
        for _ in range(count):
            sender.send_message(b"\0" * length)
        data = write(sender)
        size = len(data) // count
        keys = {data[end - 4 : end] for end in range(size, len(data) + 1, size)}
        assert len(keys) > count - 10

    @given(st.binary(max_size=2000), st.binary(min_size=4, max_size=4))
    def test_the_key_is_applied_to_each_byte(self, payload: bytes, key: bytes) -> None:
        sender = Sender(lambda count: key * (count // 4))
        sender.send_message(payload)
        data = write(sender)
        start = len(data) - len(payload)
        assert data[start - 4 : start] == key
        assert all(data[start + i] == payload[i] ^ key[i % 4] for i in range(len(payload)))

    @pytest.mark.parametrize("length", LENGTHS)
    def test_a_masked_frame_is_that_of_websocket_client(self, length: int) -> None:
        payload = (bytes(range(256)) * (FRAGMENT // 256))[:length]
        sender = Sender(lambda count: b"\1\2\3\4" * (count // 4))
        sender.send_message(payload)
        theirs = ABNF.create_frame(payload, ABNF.OPCODE_TEXT, 1)
        theirs.get_mask_key = lambda size: b"\1\2\3\4"
        assert write(sender) == theirs.format()


class TestControlFrames:
    def test_a_ping_keeps_its_place_between_messages(self, sender: Sender) -> None:
        sender.send_message(b"one")
        sender.send_ping(b"a")
        sender.send_message(b"x" * (FRAGMENT + 1))
        sender.send_ping(b"b")
        sender.send_message(b"three")
        sender.send_close()
        frames = parse(write(sender))
        assert [sent.opcode for sent in frames] == [TEXT, PING, TEXT, CONTINUATION, PING, TEXT, CLOSE]
        assert [sent.payload for sent in frames if sent.opcode == PING] == [b"a", b"b"]
        assert frames[-1].payload == struct.pack("!H", 1000)

    def test_a_ping_waits_for_the_large_message_before_it(self, sender: Sender) -> None:
        data = in_large_message(sender)
        sender.send_ping(b"behind")
        assert [sent.opcode for sent in parse(data + write(sender))] == [
            TEXT,
            CONTINUATION,
            CONTINUATION,
            PING,
        ]

    def test_an_urgent_ping_passes_between_the_fragments_of_a_large_message(self, sender: Sender) -> None:
        data = in_large_message(sender)
        sender.send_ping(b"behind")
        sender.send_urgent_ping(b"alive")
        frames = parse(data + write(sender))
        assert [sent.opcode for sent in frames] == [TEXT, PING, CONTINUATION, CONTINUATION, PING]
        assert frames[1].payload == b"alive"

    def test_a_control_frame_replaces_a_waiting_one_with_the_same_opcode(self, sender: Sender) -> None:
        data = in_large_message(sender)
        for number in range(3):
            sender.send_control(bytes((0x80 | PONG, 0x81, 0, 0, 0, 0, number)))
            sender.send_urgent_ping(b"%d" % number)
        frames = parse(data + write(sender))
        assert frames[1:3] == [Sent(PONG, True, b"\2"), Sent(PING, True, b"2")]
        assert len(frames) == 5

    def test_nothing_follows_a_close_frame_that_keeps_its_place(self, sender: Sender) -> None:
        data = in_large_message(sender)
        sender.send_message(b"behind")
        sender.send_close()
        sender.send_message(b"after")
        sender.send_message(b"x" * 2 * FRAGMENT)
        sender.send_ping(b"after")
        frames = parse(data + write(sender))
        assert [sent.opcode for sent in frames] == [TEXT, CONTINUATION, CONTINUATION, TEXT, CLOSE]
        assert sender.closed_in_order
        assert sender.started == 2
        assert sender.backlog == 0

    def test_nothing_follows_a_close_frame_that_overtakes(self, sender: Sender) -> None:
        data = in_large_message(sender)
        sender.send_message(b"behind")
        sender.send_close()
        sender.send_urgent_ping(b"alive")
        sender.send_control(bytes((0x80 | CLOSE, 0x80, 0, 0, 0, 0)))
        frames = parse(data + write(sender))
        assert [sent.opcode for sent in frames] == [TEXT, PING, CLOSE]
        assert sender.closed_in_order is False
        assert sender.started == 1
        assert sender.backlog == 0

    @pytest.mark.parametrize("overtakes", [False, True])
    def test_everything_after_a_close_frame_is_dropped(self, sender: Sender, overtakes: bool) -> None:
        if overtakes:
            sender.send_control(bytes((0x80 | CLOSE, 0x80, 0, 0, 0, 0)))
        else:
            sender.send_close()
        write(sender)
        sender.send_message(b"late")
        sender.send_message(b"x" * 2 * FRAGMENT)
        sender.send_ping(b"late")
        sender.send_close()
        sender.send_urgent_ping(b"late")
        assert sender.is_empty
        assert not sender.is_congested
        assert sender.data_to_send() == b""
        assert sender.started == 0


class TestCounts:
    def test_started_counts_messages_from_their_first_byte(self, sender: Sender) -> None:
        sender.send_message(b"x")
        sender.send_ping(b"p")
        sender.send_urgent_ping(b"q")
        assert sender.started == 0
        write(sender)
        assert sender.started == 1
        in_large_message(sender)
        assert sender.started == 2
        sender.send_message(b"y")
        write(sender)
        assert sender.started == 3

    def test_written_counts_bytes(self, sender: Sender) -> None:
        sender.send_message(b"x" * 100)
        write(sender, 10)
        assert sender.bytes_written == 10
        write(sender)
        assert sender.bytes_written == 106

    def test_backlog_counts_what_waits_besides_large_messages(self, sender: Sender) -> None:
        sender.send_message(b"x" * 100)
        sender.send_ping(b"p")
        sender.send_message(b"x" * (FRAGMENT + 1))
        assert sender.backlog == 106 + 7
        write(sender)
        assert sender.backlog == 0

    def test_backlog_leaves_out_what_has_been_returned(self, sender: Sender) -> None:
        for _ in range(5):
            sender.send_message(b"x" * (FRAGMENT // 2))
        one = FRAGMENT // 2 + 14
        assert sender.backlog == 5 * one
        assert len(sender.data_to_send()) == 2 * one
        assert sender.backlog == 3 * one

    def test_pinged_to_is_the_end_of_the_latest_urgent_ping(self, sender: Sender) -> None:
        assert sender.pinged_to == 0
        data = in_large_message(sender)
        sender.send_urgent_ping(b"alive")
        assert sender.pinged_to == float("inf")
        data += write(sender, FRAGMENT + 100)
        ends_at = FRAGMENT + 14 + len(b"alive") + 6
        assert sender.pinged_to == ends_at
        data += write(sender)
        assert parse(data[:ends_at])[-1] == Sent(PING, True, b"alive")
        assert sender.pinged_to == ends_at

    def test_a_large_message_congests_until_its_last_fragment_is_returned(self, sender: Sender) -> None:
        sender.send_message(b"small")
        assert not sender.is_congested
        sender.send_message(b"x" * 2 * FRAGMENT)
        assert sender.is_congested
        write(sender, FRAGMENT)
        assert sender.is_congested
        write(sender)
        assert not sender.is_congested

    def test_each_large_message_congests(self, sender: Sender) -> None:
        for _ in range(2):
            sender.send_message(b"x" * 2 * FRAGMENT)
        sender.send_message(b"behind")
        write(sender, 2 * (FRAGMENT + 14))
        assert sender.is_congested
        write(sender)
        assert not sender.is_congested
        in_large_message(sender)
        assert sender.is_congested


#: The sender's method that a test calls, and its argument.
SENDINGS = st.one_of(
    st.tuples(st.just("send_message"), st.binary(max_size=200)),
    st.tuples(st.just("send_message"), st.sampled_from([FRAGMENT, FRAGMENT + 1, 3 * FRAGMENT]).map(bytes)),
    st.tuples(st.just("send_ping"), st.binary(max_size=125)),
    st.tuples(st.just("send_urgent_ping"), st.binary(max_size=125)),
    st.tuples(st.just("write"), st.sampled_from([1, 100, FRAGMENT, 3 * FRAGMENT])),
)


def send_all(sender: Sender, sendings: list[Any]) -> bytes:
    """Send and write in this order, and return all bytes written."""
    data = b""
    for name, argument in sendings:
        if name == "write":
            data += write(sender, argument)
        else:
            getattr(sender, name)(argument)
    return data + write(sender)


@given(st.lists(SENDINGS, max_size=12))
def test_any_sequence_of_sends_and_writes_keeps_the_order_of_messages(sendings: list[Any]) -> None:
    sender = Sender(random.Random(0).randbytes)
    data = send_all(sender, sendings)
    assert sender.bytes_written == len(data)
    assert sender.is_empty
    messages: list[bytes] = []
    open_message = False
    for sent in parse(data):
        if sent.opcode in (TEXT, BINARY):
            assert not open_message
            messages.append(sent.payload)
        elif sent.opcode == CONTINUATION:
            assert open_message
            messages[-1] += sent.payload
        else:
            assert sent.final
            continue
        open_message = not sent.final
    assert messages == [argument for name, argument in sendings if name == "send_message"]
    assert sender.started == len(messages)
