"""Write frames: messages in their order, and control frames between the fragments of a large one."""

from __future__ import annotations

import os
import struct
from collections import deque

from websocket import ABNF

from n8nrunner.connection.dial import Socket
from n8nrunner.connection.reading import TURN_LIMIT, WOULD_BLOCK
from n8nrunner.protocol.failures import ConnectionLost

#: Messages above this many bytes are sent in fragments of this size, between which pongs may pass.
FRAGMENT = 128 * 1024
#: Bytes of randomness for the masks of frames that are fetched at once.
_RANDOMNESS = 4096

_NEVER = float("inf")


class Writer:
    """Everything that is to be sent, in order, written as the socket takes it.

    Nothing follows a close frame (RFC 6455, 5.5.1): what waits when one leaves is dropped, and what is queued
    afterwards as well.
    """

    def __init__(self) -> None:
        #: Messages of which at least the first byte may have left.
        self.started = 0
        #: Bytes that the socket has taken, and how many of them end with the last urgent ping: infinite while
        #: it waits.
        self.written = 0
        self.pinged_to = 0.0
        #: Bytes of small messages that wait behind the current write.
        self.backlog = 0
        #: Whether our close frame has left behind all messages that were queued before it.
        self.closed_in_order = False
        self._randomness = b""
        self._randomness_position = 0
        # (frame or payload, messages that it counts for, whether it goes out in fragments)
        self._queue: deque[tuple[bytes, int, bool]] = deque()
        # The latest control frame of each kind that may overtake messages. One pong is enough for several
        # pings (RFC 6455, 5.5.3), so a peer that pings and does not read fills no memory.
        self._control: dict[int, bytes] = {}
        self._closed = False
        self._waiting_large = 0
        self._large: bytes | None = None
        self._large_position = 0
        self._chunk: bytes | memoryview = b""

    @property
    def congested(self) -> bool:
        """Whether a large message is on its way, between whose fragments no other message may stand."""
        return self._large is not None or self._waiting_large > 0

    @property
    def is_empty(self) -> bool:
        return not self._queue and not self._chunk and not self._control and self._large is None

    def queue(self, payload: str | bytes) -> None:
        """Queue a message behind those before it."""
        if self._closed:
            return
        data = payload.encode() if isinstance(payload, str) else payload
        if len(data) > FRAGMENT:
            self._waiting_large += 1
            self._queue.append((data, 1, True))
        else:
            frame = self._frame(data, ABNF.OPCODE_TEXT, 1)
            self.backlog += len(frame)
            self._queue.append((frame, 1, False))

    def queue_in_order(self, opcode: int, payload: bytes) -> None:
        """Queue a control frame that must not overtake the messages before it."""
        if not self._closed:
            frame = self._frame(payload, opcode, 1)
            self.backlog += len(frame)
            self._queue.append((frame, 0, False))

    def queue_urgent_ping(self, payload: bytes) -> None:
        """Queue a ping that may pass between the fragments of a large message."""
        self.pinged_to = _NEVER
        self.queue_control(self._frame(payload, ABNF.OPCODE_PING, 1))

    def queue_control(self, frame: bytes) -> None:
        """Queue a control frame that may pass between the fragments of a large message.

        It takes the place of one of the same kind that still waits.
        """
        if not self._closed:
            self._control[frame[0] & 0x0F] = frame

    def flush(self, raw: Socket) -> int:
        """Writes what the socket takes.

        Returns:
            How many bytes it took.

        Raises:
            ConnectionLost: the connection is broken.
        """
        total = 0
        while total <= TURN_LIMIT:
            if not self._chunk:
                self._chunk = self._next_chunk()
                if not self._chunk:
                    break
            try:
                count = raw.send(self._chunk)
            except WOULD_BLOCK:
                break
            except OSError as error:
                raise ConnectionLost(f"the connection broke: {type(error).__name__}: {error}") from None
            total += count
            self.written += count
            if count < len(self._chunk):
                self._chunk = memoryview(self._chunk)[count:]
                continue
            self._chunk = b""
            if self.is_empty:
                break
        return total

    def _next_chunk(self) -> bytes:
        if self._control:
            return self._control_frames()
        if self._large is not None:
            return self._next_fragment(self._large)
        frames: list[bytes] = []
        size = 0
        queue = self._queue
        # Not all at once: what is joined counts as started, even if nothing of it leaves any more.
        while queue and size < FRAGMENT:
            data, count, is_large = queue[0]
            if is_large and frames:
                break
            queue.popleft()
            self.started += count
            if is_large:
                self._waiting_large -= 1
                self._large = data
                self._large_position = 0
                return self._next_fragment(data)
            frames.append(data)
            size += len(data)
            if not count and data[0] & 0x0F == ABNF.OPCODE_CLOSE:
                self.closed_in_order = True
                self._close()
        self.backlog -= size
        return frames[0] if len(frames) == 1 else b"".join(frames)

    def _control_frames(self) -> bytes:
        control, self._control = self._control, {}
        close = control.pop(ABNF.OPCODE_CLOSE, b"")
        chunk = b"".join(control.values()) + close
        if ABNF.OPCODE_PING in control:
            self.pinged_to = self.written + len(chunk)
        if close:
            self._close()
        return chunk

    def _close(self) -> None:
        self._closed = True
        self._queue.clear()
        self._large = None
        self._waiting_large = 0

    def _next_fragment(self, data: bytes) -> bytes:
        start = self._large_position
        end = start + FRAGMENT
        final = end >= len(data)
        self._large_position = end
        if final:
            self._large = None
        opcode = ABNF.OPCODE_TEXT if start == 0 else ABNF.OPCODE_CONT
        return self._frame(data[start:end], opcode, 1 if final else 0)

    def _frame(self, data: bytes, opcode: int, final: int) -> bytes:
        """As the library's `ABNF.format`, in a third of its time: this is done three times for each task."""
        length = len(data)
        first = final << 7 | opcode
        if length < 126:
            header = bytes((first, 0x80 | length))
        elif length < 65536:
            header = struct.pack("!BBH", first, 0xFE, length)
        else:
            header = struct.pack("!BBQ", first, 0xFF, length)
        # A call of os.urandom for every frame gives up the interpreter's lock for every frame.
        position = self._randomness_position
        if position == len(self._randomness):
            self._randomness = os.urandom(_RANDOMNESS)
            position = 0
        self._randomness_position = position + 4
        key = self._randomness[position : position + 4]
        mask = int.from_bytes((key * (length // 4 + 1))[:length], "big")
        return header + key + (int.from_bytes(data, "big") ^ mask).to_bytes(length, "big")
