"""Random bytes of a broker: `python -m tests.faults --fuzz frames --seconds 60`.

The receiver returns events or raises `ConnectionLost`. Frames that keep the rules give exactly the messages
that were sent, however they are cut into pieces. Memory grows with what has arrived, and never with what a
header announces.
"""

from __future__ import annotations

import gc
import random
import struct
import time
import tracemalloc
from typing import Callable, NamedTuple

from n8nrunner.protocol.failures import ConnectionLost
from n8nrunner.protocol.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    CloseFrame,
    FrameEvent,
    PingFrame,
    PongFrame,
    Receiver,
    SkippedMessage,
)
from tests.connection.servers import frame

#: Bytes that a connection receives at once.
RECEIVE_SIZE = 64 * 1024
#: Bytes of memory that receiving may take, for each byte that has arrived, and beyond that.
PER_BYTE, BEYOND = 4, 1_500_000
#: Seconds of the processor for the frames of one turn.
TURN_SECONDS = 1.0

MAX_PAYLOADS = (100, 1000, 70_000, 1024 * 1024 * 1024)
SIZES = (0, 1, 2, 3, 125, 126, 127, 999, 1000, 1001, 65_535, 65_536, 70_000, 70_001, 140_000)


class Case(NamedTuple):
    """The bytes of a broker, and the events that they make; None if they may make any."""

    data: bytes
    expected: list[FrameEvent] | None = None


def run(seconds: float, seed: int) -> dict[str, int]:
    """Receive random bytes for so many seconds.

    Returns:
        How many of each outcome there were.

    Raises:
        AssertionError: an event was wrong, another exception escaped, or memory or time were beyond
            their bounds.
    """
    seen: dict[str, int] = {}
    end = time.monotonic() + seconds
    number = 0
    while time.monotonic() < end:
        draw = random.Random(f"frames {seed} {number}")
        outcome = _run_one(draw, number % 10 == 0, f"seed {seed}, number {number}")
        seen[outcome] = seen.get(outcome, 0) + 1
        number += 1
    return seen


def feed(
    receiver: Receiver, *pieces: bytes, limit: int = 250, events: list[FrameEvent] | None = None
) -> list[FrameEvent]:
    """Give pieces to the receiver as a connection does, and return the events that they make.

    Args:
        limit: how many frames to handle at once.
        events: gets the events, also those before a failure.

    Raises:
        ConnectionLost: the pieces break the rules.
    """
    events = [] if events is None else events
    for piece in pieces:
        rest = memoryview(piece)
        while rest:
            buffer = receiver.get_buffer()
            if buffer is None:
                part = rest[:RECEIVE_SIZE]
                receiver.receive_data(bytes(part))
            else:
                part = rest[: len(buffer)]
                buffer[: len(part)] = part
                receiver.buffer_updated(len(part))
            rest = rest[len(part) :]
            receiver.has_more = True
            while receiver.has_more:
                begun = time.thread_time()
                events += receiver.next_events(limit)
                took = time.thread_time() - begun
                assert took < TURN_SECONDS, f"{limit} frames took {took:.1f} s"
    return events


def _run_one(draw: random.Random, traces: bool, about: str) -> str:
    max_payload = draw.choice(MAX_PAYLOADS)
    name, make = draw.choice(MAKERS)
    case = make(draw, max_payload)
    pieces = _pieces(draw, case.data)
    # Tracing takes time, so not everything is traced.
    traces = traces or make in (announced, flood)
    about = f"{about}, {name}, max_payload {max_payload}, {len(case.data)} bytes"
    events: list[FrameEvent] = []
    lost: ConnectionLost | None = None
    if traces:
        gc.collect()
        tracemalloc.start()
    try:
        feed(Receiver(max_payload), *pieces, events=events)
    except ConnectionLost as failure:
        lost = failure
    except Exception as error:
        raise AssertionError(f"{type(error).__name__} escaped: {about}") from error
    finally:
        peak = tracemalloc.get_traced_memory()[1] if traces else 0
        tracemalloc.stop()
    allowed = BEYOND + PER_BYTE * len(case.data)
    assert peak <= allowed, f"{peak} bytes of memory, {allowed} are allowed: {about}"
    if case.expected is not None:
        assert lost is None, f"lost with {lost}: {about}"
        assert events == case.expected, (
            f"{len(events)} events, not {len(case.expected)}, or other ones: {about}"
        )
    return f"{name}: {'ended' if lost is None else 'lost'}"


def _pieces(draw: random.Random, data: bytes) -> list[bytes]:
    """Cut the data as a network may, into some hundred pieces at most."""
    smallest = max(1, len(data) // 200)
    longest = draw.choice((1, 2, 10, 1000, 100_000))
    pieces = []
    position = 0
    while position < len(data):
        size = min(100_000, max(smallest, draw.randint(1, longest)))
        pieces.append(data[position : position + size])
        position += size
    return pieces


# --- what the broker sends ------------------------------------------------------------------------------


def _payload(draw: random.Random) -> bytes:
    return bytes([draw.randrange(256)]) * draw.choice(SIZES)


def _messages(draw: random.Random, max_payload: int) -> tuple[list[bytes], list[FrameEvent]]:
    """Return frames that keep the rules, and the events that they make."""
    frames: list[bytes] = []
    expected: list[FrameEvent] = []
    for _ in range(draw.randint(0, 12)):
        payload = _payload(draw)
        parts = [payload]
        for _ in range(draw.choice((0, 0, 0, 1, 2, 10))):
            at = draw.randint(0, len(parts[-1]))
            parts[-1:] = [parts[-1][:at], parts[-1][at:]]
        for index, part in enumerate(parts):
            opcode = draw.choice((TEXT, BINARY)) if index == 0 else CONTINUATION
            frames.append(frame(opcode, part, final=index == len(parts) - 1, size=draw.choice((0, 0, 2, 8))))
            if index == len(parts) - 1:
                is_too_large = len(payload) > max_payload
                expected.append(SkippedMessage(payload[:4096], len(payload)) if is_too_large else payload)
            if draw.random() < 0.2:
                control = bytes([draw.randrange(256)]) * draw.choice((0, 1, 125))
                opcode = draw.choice((PING, PONG))
                frames.append(frame(opcode, control))
                expected.append(PongFrame(control) if opcode == PONG else PingFrame(control))
    return frames, expected


def valid(draw: random.Random, max_payload: int) -> Case:
    frames, expected = _messages(draw, max_payload)
    return Case(b"".join(frames), expected)


def closed(draw: random.Random, max_payload: int) -> Case:
    frames, expected = _messages(draw, max_payload)
    payload = draw.choice(
        (b"", b"\x03", struct.pack("!H", draw.randrange(65536)) + b"why" * draw.randrange(40))
    )
    frames.append(frame(CLOSE, payload))
    frames.append(draw.choice((b"", frame(TEXT, b"after the end"))))
    return Case(b"".join(frames), [*expected, CloseFrame(payload)])


def mutated(draw: random.Random, max_payload: int) -> Case:
    """Valid frames with a few bytes changed, mostly in headers, or frames in another order."""
    frames, _ = _messages(draw, max_payload)
    for _ in range(draw.randint(1, 4)):
        if not frames:
            break
        at = draw.randrange(len(frames))
        broken = bytearray(frames[at])
        choice = draw.random()
        if choice < 0.5 and broken:
            broken[draw.randrange(min(len(broken), 12))] = draw.randrange(256)
        elif choice < 0.7:
            broken = broken[: draw.randint(0, len(broken))]
        elif choice < 0.85:
            broken = broken + broken
        else:
            draw.shuffle(frames)
            continue
        frames[at] = bytes(broken)
    return Case(b"".join(frames))


def noise(draw: random.Random, max_payload: int) -> Case:
    return Case(bytes(draw.randrange(256) for _ in range(draw.choice((1, 10, 100, 3000)))))


def announced(draw: random.Random, max_payload: int) -> Case:
    """A header that announces far more than comes."""
    first = draw.choice((TEXT, BINARY)) | draw.choice((0, 0x80))
    length = draw.choice((2**31, 2**40, 2**62, 2**63 - 1, 2**64 - 1, max_payload, max_payload + 1))
    return Case(struct.pack("!BBQ", first, 127, length) + b"x" * draw.choice((0, 1, 5000, 200_000)))


def flood(draw: random.Random, max_payload: int) -> Case:
    """A great many small frames."""
    kind = draw.choice(("fragments", "empty fragments", "pings", "pongs", "messages"))
    count = draw.choice((1000, 10_000, 100_000) if "fragments" in kind else (1000, 10_000))
    if kind == "pings":
        payload = b"x" * draw.choice((0, 125))
        return Case(frame(PING, payload) * count, [PingFrame(payload)] * count)
    if kind == "pongs":
        return Case(frame(PONG, b"x") * count, [PongFrame(b"x")] * count)
    if kind == "messages":
        return Case(frame(TEXT, b"x") * count, [b"x"] * count)
    part = b"" if kind == "empty fragments" else b"y"
    data = (
        frame(TEXT, part, final=False) + frame(CONTINUATION, part, final=False) * count + frame(CONTINUATION)
    )
    message = part * (count + 1)
    is_too_large = len(message) > max_payload
    return Case(data, [SkippedMessage(message[:4096], len(message)) if is_too_large else message])


MAKERS: list[tuple[str, Callable[[random.Random, int], Case]]] = [
    (make.__name__, make) for make in (valid, valid, closed, mutated, mutated, noise, announced, flood)
]
