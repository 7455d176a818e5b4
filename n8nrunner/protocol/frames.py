"""Send messages as WebSocket frames: their order, their fragments and their masks (RFC 6455).

`Sender` takes messages and returns bytes. It has no socket and draws no random numbers: the source of masks
is an argument. websocket-client makes the upgrade and answers pings and close frames; its answers are passed
to `Sender.send_control`.
"""

from __future__ import annotations

import functools
import struct
from collections import deque
from collections.abc import Iterator
from typing import Callable, NamedTuple, Union

#: Opcodes (RFC 6455, 5.2). From 8 on they are control frames.
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
#: The bit that the last frame of a message has.
FINAL = 0x80

#: Messages above this many bytes are sent in fragments of this size, between which control frames may pass.
FRAGMENT = 128 * 1024

_OPCODE = 0x0F
_MASKED = 0x80
#: Random bytes fetched at once. A call for each frame would release the interpreter's lock for each frame.
_RANDOM_BYTES = 4096
#: Payloads from this many bytes on are masked byte by byte with tables. Below, one large integer is faster.
_MASK_BY_TABLES = 512
_NEVER = float("inf")

_pack_7_bits = struct.Struct("!BB4s").pack
_pack_16_bits = struct.Struct("!BBH4s").pack
_pack_64_bits = struct.Struct("!BBQ4s").pack


class _LargeMessage(NamedTuple):
    """A message in the queue that is sent in fragments."""

    payload: bytes


class _ControlFrame(NamedTuple):
    """A control frame in the queue that keeps its place between messages."""

    frame: bytes | bytearray


_Queued = Union[bytes, bytearray, _LargeMessage, _ControlFrame]


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
        self.written = 0
        #: Value of `written` at the end of the last urgent ping; infinite while the ping waits.
        self.pinged_to = 0.0
        #: Bytes of small messages and their control frames that wait behind the current chunk.
        self.backlog = 0
        #: Whether our close frame was returned behind all messages that were sent before it.
        self.closed_in_order = False
        self._masks = _masks(random_bytes)
        # Frames of small messages, and the rest.
        self._queue: deque[_Queued] = deque()
        # The latest frame of each opcode that may overtake messages.
        self._urgent: dict[int, bytes | bytearray] = {}
        self._closed = False
        self._waiting_large = 0
        # The large message that is being sent, and how much of it is in earlier chunks.
        self._large: bytes | None = None
        self._large_position = 0
        # What is to be written now.
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

    def send_close(self, code: int) -> None:
        """Send a close frame with this status code behind the messages before it."""
        self._send_in_order(CLOSE, struct.pack("!H", code))

    def _send_in_order(self, opcode: int, payload: bytes) -> None:
        if not self._closed:
            frame = self._frame(FINAL | opcode, payload)
            self.backlog += len(frame)
            self._queue.append(_ControlFrame(frame))

    def send_urgent_ping(self, payload: bytes) -> None:
        """Send a ping that overtakes messages, also between the fragments of a large one (RFC 6455, 5.4)."""
        self.pinged_to = _NEVER
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
        self.written += count
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
            if isinstance(item, _ControlFrame):
                frame = item.frame
                if frame[0] & _OPCODE == CLOSE:
                    self.closed_in_order = True
                    self._close()
            else:
                frame = item
                self.started += 1
            frames.append(frame)
            size += len(frame)
        self.backlog -= size
        return frames[0] if len(frames) == 1 else b"".join(frames)

    def _urgent_frames(self) -> bytes:
        urgent, self._urgent = self._urgent, {}
        close = urgent.pop(CLOSE, b"")
        chunk = b"".join(urgent.values()) + close
        if PING in urgent:
            self.pinged_to = self.written + len(chunk)
        if close:
            self._close()
        return chunk

    def _close(self) -> None:
        # "The application MUST NOT send any more data frames after sending a Close frame" (RFC 6455, 5.5.1).
        self._closed = True
        self._queue.clear()
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
