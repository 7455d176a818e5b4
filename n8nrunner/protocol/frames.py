"""Messages as WebSocket frames, in both directions: order, fragments, limits and masks (RFC 6455).

`Receiver` takes bytes and returns events. `Sender` takes messages and returns bytes. Neither has a socket or
draws random numbers: the source of masks is an argument. No extension is negotiated.

websocket-client makes the upgrade, and answers pings and close frames. `Sender.send_control` takes its
answers. Thread: that of the connection, which is a thread `n8nrunner-connect-N` during the upgrade, and then
the links' thread.
"""

from __future__ import annotations

import functools
import struct
from collections import deque
from collections.abc import Iterator
from math import inf
from typing import Callable, NamedTuple, Union

from n8nrunner.protocol.failures import ConnectionLost

#: Opcodes (RFC 6455, 5.2). From 8 on they are control frames.
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
#: The bit of the first byte that the last frame of a message has.
FINAL = 0x80

#: The status code of the runner's close frames: it has done what it had to do (RFC 6455, 7.4.1).
NORMAL_CLOSE = 1000

#: Messages above this many bytes are sent in fragments of this size, between which control frames may pass.
FRAGMENT = 128 * 1024
#: Frames that a received message may have: 1 GiB in fragments of 4 KiB.
FRAGMENTS_LIMIT = 256 * 1024
#: Bytes that are kept of a skipped message, to find out which task it is for.
HEAD_SIZE = 4096

#: First bytes of a frame that is a whole message.
_WHOLE = (FINAL | TEXT, FINAL | BINARY)
_OPCODE = 0x0F
_RESERVED = 0x70
_MASKED = 0x80
#: If at least this many bytes of a frame are missing, they are received into a buffer, of the size below.
_LARGE = 64 * 1024
_BUFFER_SIZE = 256 * 1024
#: Random bytes fetched at once. A call for each frame would release the interpreter's lock for each frame.
_RANDOM_BYTES = 4096
#: Payloads from this many bytes on are masked byte by byte with tables. Below, one large integer is faster.
_MASK_BY_TABLES = 512

_pack_7_bits = struct.Struct("!BB4s").pack
_pack_16_bits = struct.Struct("!BBH4s").pack
_pack_64_bits = struct.Struct("!BBQ4s").pack


# --- in ----------------------------------------------------------------------------------------------


class SkippedMessage(NamedTuple):
    """A message above `max_payload`: its first bytes, and its size in bytes."""

    head: bytes
    size: int


class PingFrame(NamedTuple):
    """A ping, which has to be answered (RFC 6455, 5.5.2)."""

    payload: bytes


class PongFrame(NamedTuple):
    """A pong."""

    payload: bytes


class CloseFrame(NamedTuple):
    """A close frame, which has to be answered (RFC 6455, 5.5.1). Nothing follows it."""

    payload: bytes

    @property
    def code(self) -> int | None:
        """The status code: the first two bytes of the payload; None if it has none."""
        return int.from_bytes(self.payload[:2], "big") if len(self.payload) >= 2 else None


#: The payload of a text or binary message. It is not wrapped in a class, because several come with each task.
Payload = Union[bytes, bytearray]

FrameEvent = Union[Payload, SkippedMessage, PingFrame, PongFrame, CloseFrame]

_CONTROL: dict[int, Callable[[bytes], FrameEvent]] = {PING: PingFrame, PONG: PongFrame, CLOSE: CloseFrame}


class Receiver:
    """Take the bytes of the broker, and return the events that they make.

    The events are the same however the bytes are cut. Memory grows with the bytes that have arrived, never
    with what a header announces. After each `receive_data` or `buffer_updated`, call `next_events`, and call
    it again while `has_more` is true.

    Args:
        max_payload: bytes that a message may have. Larger ones are skipped.
    """

    def __init__(self, max_payload: int) -> None:
        #: Frames whose header has been handled.
        self.frames = 0
        #: Whether `next_events` has more to return without more data.
        self.has_more = False
        self._max_payload = max_payload
        self._closed = False
        # Bytes that have not been handled, from the position on.
        self._data = b""
        self._position = 0
        # The data frame whose payload is being received: whether there is one, whether it is the last of its
        # message, and how many bytes are missing.
        self._in_frame = False
        self._is_final = False
        self._missing = 0
        # The message that is being received: its frames and its bytes as announced so far, whether it is too
        # large, and its payload, or only the head of it.
        self._fragments = 0
        self._size = 0
        self._is_skipped = False
        self._payload = bytearray()
        self._buffer: memoryview | None = None

    @property
    def in_message(self) -> bool:
        """Whether received bytes wait: a part of a message, or frames that `next_events` has not handled."""
        return self._fragments > 0 or self._position < len(self._data)

    def receive_data(self, data: bytes) -> None:
        """Take bytes that were received."""
        if not self._closed:
            self._data = self._data[self._position :] + data if self._data else data
            self._position = 0

    def get_buffer(self) -> memoryview | None:
        """Return a buffer for the next bytes of a large frame; None if `receive_data` takes the next bytes.

        Tell `buffer_updated` how many bytes were received into it.
        """
        if self._missing < _LARGE:
            return None
        if self._buffer is None:
            self._buffer = memoryview(bytearray(_BUFFER_SIZE))
        return self._buffer[: self._missing]

    def buffer_updated(self, count: int) -> None:
        """Take bytes that were received into the buffer."""
        assert self._buffer is not None
        self._add(self._buffer[:count])

    def next_events(self, limit: int) -> list[FrameEvent]:
        """Return the events of the next frames.

        Args:
            limit: how many frames to handle at most. A megabyte can hold half a million.

        Raises:
            ConnectionLost: the broker breaks the rules. Earlier calls have returned all events before that.
        """
        data, position = self._data, self._position
        end = len(data)
        last = self.frames + limit
        events: list[FrameEvent] = []
        self.has_more = False
        try:
            while not self._closed:
                if self._in_frame:
                    if self._missing:
                        start, position = position, min(end, position + self._missing)
                        self._add(data[start:position])
                        if self._missing:
                            break
                    event = self._end_frame()
                    if event is not None:
                        events.append(event)
                if end - position < 2:
                    break
                if self.frames == last:
                    self.has_more = True
                    break
                first, length, start = data[position], data[position + 1], position + 2
                if first & _RESERVED or length & _MASKED:
                    # Reserved bits "MUST be 0 unless an extension is negotiated" (RFC 6455, 5.2).
                    # "A client MUST close a connection if it detects a masked frame" (5.1).
                    raise ConnectionLost("the broker sent a frame that is masked or has reserved bits set")
                if length > 125:
                    # 126 and 127 say that the length follows, in 2 or 8 bytes (RFC 6455, 5.2).
                    start += 2 if length == 126 else 8
                    if start > end:
                        break
                    length = int.from_bytes(data[position + 2 : start], "big")
                stop = start + length
                if first in _WHOLE and stop <= end and length <= self._max_payload and not self._fragments:
                    events.append(data[start:stop])
                else:
                    self._check(first, length)
                    if first & _OPCODE >= CLOSE:
                        if stop > end:
                            break
                        events.append(_CONTROL[first & _OPCODE](data[start:stop]))
                        # "After receiving a control frame indicating the connection should be closed, a peer
                        # discards any further data received" (RFC 6455, 1.4).
                        self._closed = first & _OPCODE == CLOSE
                    else:
                        self._begin_frame(first, length)
                        stop = start
                self.frames += 1
                position = stop
        except ConnectionLost:
            if not events:
                raise
            self.has_more = True  # the next call raises it again
        finally:
            self._data = b"" if position == end or self._closed else data
            self._position = position
        return events

    def _check(self, first: int, length: int) -> None:
        """Check whether this frame may come now, without waiting for its payload, which may be long."""
        opcode = first & _OPCODE
        if BINARY < opcode < CLOSE or opcode > PONG:
            # "If an unknown opcode is received, the receiving endpoint MUST _Fail the WebSocket Connection_"
            # (RFC 6455, 5.2).
            raise ConnectionLost("the broker sent a frame with an unknown opcode")
        if opcode >= CLOSE:
            # "All control frames MUST have a payload length of 125 bytes or less and MUST NOT be fragmented"
            # (RFC 6455, 5.5).
            if not first & FINAL or length > 125:
                raise ConnectionLost("the broker sent a control frame that is too long or in fragments")
        elif self._fragments:
            # "The fragments of one message MUST NOT be interleaved between the fragments of another message"
            # (RFC 6455, 5.4).
            if opcode != CONTINUATION:
                raise ConnectionLost("the broker began a message within another")
        elif opcode == CONTINUATION:
            raise ConnectionLost("the broker sent a continuation of no message")

    # --- data frames that are not a whole message, or not yet there ---------------------------------

    def _begin_frame(self, first: int, length: int) -> None:
        if self._fragments == FRAGMENTS_LIMIT:
            raise ConnectionLost(f"the broker sent a message in more than {FRAGMENTS_LIMIT} fragments")
        self._fragments += 1
        self._in_frame = True
        self._is_final = first & FINAL != 0
        self._missing = length
        self._size += length
        if self._size > self._max_payload and not self._is_skipped:
            self._is_skipped = True
            self._payload = self._payload[:HEAD_SIZE]

    def _add(self, payload: bytes | memoryview) -> None:
        self._missing -= len(payload)
        if not self._is_skipped:
            self._payload += payload
        elif len(self._payload) < HEAD_SIZE:
            self._payload += payload[: HEAD_SIZE - len(self._payload)]

    def _end_frame(self) -> Payload | SkippedMessage | None:
        """Return the message that ends with this frame, if one does."""
        self._in_frame = False
        if not self._is_final:
            return None
        payload, size, is_skipped = self._payload, self._size, self._is_skipped
        self._payload, self._size, self._is_skipped = bytearray(), 0, False
        self._fragments = 0
        return SkippedMessage(bytes(payload), size) if is_skipped else payload


# --- out ---------------------------------------------------------------------------------------------


class _LargeMessage(NamedTuple):
    """A message in the queue that is sent in fragments."""

    payload: bytes


#: A frame of a small message or a control frame, or a large message.
_Queued = Union[bytes, bytearray, _LargeMessage]


class Sender:
    """Put messages and control frames in order, and return the bytes to write.

    Nothing follows a close frame (RFC 6455, 5.5.1). When one is returned, everything that still waits is
    dropped, and so is everything that is sent later.

    Args:
        random_bytes: returns as many unpredictable bytes as it is asked for, such as `os.urandom`.
    """

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        #: Messages of which at least the first byte may have been written.
        self.started = 0
        #: Bytes that have been written.
        self.bytes_written = 0
        #: Value of `bytes_written` at the end of the last urgent ping; infinite while the ping waits.
        self.pinged_to = 0.0
        #: Bytes of small messages and their control frames that wait behind the current chunk.
        self.backlog = 0
        #: Whether the runner's close frame was returned behind all messages that were sent before it.
        self.closed_in_order = False
        self._masks = _masks(random_bytes)
        self._queue: deque[_Queued] = deque()
        # The latest frame of each opcode that may overtake messages.
        self._urgent: dict[int, bytes | bytearray] = {}
        self._closed = False
        self._waiting_large = 0
        # The large message that is being sent, and how much of it is in earlier chunks.
        self._large: bytes | None = None
        self._large_position = 0
        # The bytes to write next.
        self._chunk: bytes | bytearray | memoryview = b""

    @property
    def is_empty(self) -> bool:
        """Whether everything has been written."""
        return not self._queue and not self._chunk and not self._urgent and self._large is None

    @property
    def is_congested(self) -> bool:
        """Whether a large message waits or is being sent; other messages wait for its last fragment."""
        return self._large is not None or self._waiting_large > 0

    # --- what is to be sent ---------------------------------------------------------------------

    def send_message(self, message: str | bytes) -> None:
        """Send a text message behind all that was sent before it."""
        if self._closed:
            return
        payload = message.encode() if isinstance(message, str) else message
        if len(payload) > FRAGMENT:
            self._waiting_large += 1
            self._queue.append(_LargeMessage(payload))
        else:
            frame = self._frame(FINAL | TEXT, payload)
            self.backlog += len(frame)
            self._queue.append(frame)

    def send_ping(self, payload: bytes) -> None:
        """Send a ping behind the messages before it, so that its pong proves their arrival."""
        self._send_in_order(PING, payload)

    def send_close(self) -> None:
        """Send a close frame with `NORMAL_CLOSE` behind the messages before it."""
        self._send_in_order(CLOSE, struct.pack("!H", NORMAL_CLOSE))

    def _send_in_order(self, opcode: int, payload: bytes) -> None:
        if not self._closed:
            frame = self._frame(FINAL | opcode, payload)
            self.backlog += len(frame)
            self._queue.append(frame)

    def send_urgent_ping(self, payload: bytes) -> None:
        """Send a ping that overtakes messages, also between the fragments of a large one (RFC 6455, 5.4)."""
        self.pinged_to = inf
        self.send_control(self._frame(FINAL | PING, payload))

    def send_control(self, frame: bytes | bytearray) -> None:
        """Send a masked control frame that overtakes messages.

        It replaces a frame with the same opcode that still waits. One pong is enough for several pings (RFC
        6455, 5.5.3), so a peer that sends pings and does not read fills no memory.
        """
        if not self._closed:
            self._urgent[frame[0] & _OPCODE] = frame

    # --- what is to be written ------------------------------------------------------------------

    def data_to_send(self) -> bytes | bytearray | memoryview:
        """Return the bytes to write next; no bytes if everything has been written.

        Tell `data_sent` how many of them were written. Until then the same bytes are returned.
        """
        if not self._chunk:
            self._chunk = self._next_chunk()
        return self._chunk

    def data_sent(self, count: int) -> None:
        """Note that the first bytes of `data_to_send` have been written."""
        self.bytes_written += count
        chunk = self._chunk
        self._chunk = b"" if count == len(chunk) else memoryview(chunk)[count:]

    def _next_chunk(self) -> bytes | bytearray:
        if self._urgent:
            return self._urgent_frames()
        if self._large is not None:
            return self._next_fragment(self._large)
        frames: list[bytes | bytearray] = []
        size = 0
        queue = self._queue
        # Not everything at once: all messages of a chunk count as started, even if none of them leaves.
        while queue and size < FRAGMENT:
            item = queue[0]
            if isinstance(item, _LargeMessage):
                if frames:
                    break
                queue.popleft()
                self.started += 1
                self._waiting_large -= 1
                self._large_position = 0
                return self._next_fragment(item.payload)
            queue.popleft()
            opcode = item[0] & _OPCODE
            if opcode < CLOSE:
                self.started += 1
            elif opcode == CLOSE:
                self.closed_in_order = True
                self._close()
            frames.append(item)
            size += len(item)
        self.backlog = max(0, self.backlog - size)
        return frames[0] if len(frames) == 1 else b"".join(frames)

    def _urgent_frames(self) -> bytes:
        urgent, self._urgent = self._urgent, {}
        close = urgent.pop(CLOSE, b"")
        chunk = b"".join(urgent.values()) + close
        if PING in urgent:
            self.pinged_to = self.bytes_written + len(chunk)
        if close:
            self._close()
        return chunk

    def _close(self) -> None:
        # "The application MUST NOT send any more data frames after sending a Close frame" (RFC 6455, 5.5.1).
        self._closed = True
        self._queue.clear()
        self.backlog = 0
        self._large = None
        self._waiting_large = 0

    def _next_fragment(self, payload: bytes) -> bytes | bytearray:
        # The first fragment has the message's opcode, the others that of a continuation. The last one has the
        # final bit (RFC 6455, 5.4).
        start = self._large_position
        end = self._large_position = start + FRAGMENT
        final = end >= len(payload)
        self._large = None if final else payload
        opcode = CONTINUATION if start else TEXT
        return self._frame(FINAL | opcode if final else opcode, payload[start:end])

    def _frame(self, first: int, payload: bytes) -> bytes | bytearray:
        """Return a masked frame. `first` is its first byte: the final bit and the opcode.

        This runs three times for each task. It takes a third of the time of websocket-client's `ABNF.format`.
        """
        length = len(payload)
        key = next(self._masks)
        if length < 126:
            header = _pack_7_bits(first, _MASKED | length, key)
        elif length < 65536:
            header = _pack_16_bits(first, _MASKED | 126, length, key)
        else:
            header = _pack_64_bits(first, _MASKED | 127, length, key)
        # Byte i of the payload is XORed with byte i modulo 4 of the key (RFC 6455, 5.3).
        if length < _MASK_BY_TABLES:
            mask = int.from_bytes((key * (length // 4 + 1))[:length], "big")
            return header + (int.from_bytes(payload, "big") ^ mask).to_bytes(length, "big")
        frame = bytearray(header)
        frame += payload
        start = len(header)
        for offset, byte in enumerate(key, start):
            frame[offset::4] = frame[offset::4].translate(_xor_table(byte))
        return frame


def _masks(random_bytes: Callable[[int], bytes]) -> Iterator[bytes]:
    """Yield masking keys. Each frame needs an unpredictable one of its own (RFC 6455, 5.3)."""
    while True:
        for (key,) in struct.iter_unpack("4s", random_bytes(_RANDOM_BYTES)):
            yield key


@functools.lru_cache(maxsize=256)
def _xor_table(byte: int) -> bytes:
    """Return a table for `bytes.translate` that XORs each byte with this one."""
    return bytes(other ^ byte for other in range(256))
