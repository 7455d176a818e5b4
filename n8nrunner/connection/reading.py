"""Read frames and join them to whole messages, as far as they have come.

A message goes straight to the link that serves the connection; for websocket-client to read it once more
would cost four times what reading it has cost. Control frames go through the library, which answers them: it
calls `Reader` as if it were the socket.

Memory grows with what has arrived, never with what a header announces.
"""

from __future__ import annotations

import enum
import re
import ssl
import struct
from collections import deque
from typing import Callable, NamedTuple, Union

from websocket import ABNF

from n8nrunner.connection.dial import Socket
from n8nrunner.deadline import Deadline
from n8nrunner.protocol.failures import ConnectionLost, RateLimited, Unreachable, UpgradeRefused

#: Bytes that one `recv` asks for. Larger buffers are slower: each call allocates one.
_RECEIVE = 64 * 1024
#: Bytes that one `recv_into` asks for, into a buffer that is kept, while a large frame comes.
_RECEIVE_LARGE = 256 * 1024
#: Bytes that one turn reads or writes at most, so that a flood does not keep the thread from its deadlines.
TURN_LIMIT = 1024 * 1024
#: Frames that one turn takes at most: a megabyte can hold half a million, and others wait meanwhile.
FRAMES_PER_TURN = 250
#: Frames that a message may have: 1 GiB in pieces of 4 KiB.
FRAGMENTS_LIMIT = 256 * 1024
#: Bytes of a skipped message that are kept, to find out which task it is for.
_HEAD_KEPT = 4096
#: Bytes that the answer to the upgrade may have.
_UPGRADE_LIMIT = 16 * 1024

#: Lines with cookies. The library keeps those of all its connections in one jar for the whole program.
_COOKIE = re.compile(rb"^[ \t]*(?:set-)?cookie[ \t]*:.*\n", re.IGNORECASE | re.MULTILINE)

#: What a socket that does not block raises when it would have to.
WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Skipped(NamedTuple):
    """A message that was too large: how it began, and its size in bytes so far as it was counted."""

    head: bytes
    size: int


class Ponged(NamedTuple):
    """The payload of a pong."""

    payload: bytes


#: What a turn reads: whole messages, skipped ones, and pongs, in the order in which they came. A message in a
#: `bytearray` is its receiver's alone.
Received = Union[bytes, bytearray, Skipped, Ponged]


class Control(enum.Enum):
    CONTROL = "a control frame lies before the library"


CONTROL = Control.CONTROL


class Reader:
    """Stands in for the socket: the library's `recv` finds whole control frames here, and never waits."""

    def __init__(self, raw: Socket, max_payload: int, send_control: Callable[[bytes], None]) -> None:
        self.raw = raw
        self._send_control = send_control
        self.close_code: int | None = None
        self.received_close = False
        self.at_end = False
        self._max_payload = max_payload
        self._buffer = bytearray()
        self._position = 0
        # The message that has begun, and not ended or come whole at once: what has come of its payload, and
        # its frames so far.
        self._message: bytearray | None = None
        self._fragments = 0
        # Whether the payload of a data frame has begun to come, its first byte, and the bytes still missing.
        self._in_frame = False
        self._first = 0
        self._left = 0
        # Whether the message is skipped because it is too large; how it began, and its size until now.
        self._skipping = False
        self._skip_head = b""
        self._skip_size = 0
        self._scratch: memoryview | None = None
        # Frames that this turn may still take.
        self._budget = FRAMES_PER_TURN
        self._upgrade_deadline: Deadline | None = None
        self._url = ""
        # What the library's next calls of `recv` get.
        self._ready: deque[bytes] = deque()

    # --- what the library calls -----------------------------------------------------------------

    def recv(self, size: int) -> bytes:
        if self._upgrade_deadline is not None:
            self._receive_upgrade(self._upgrade_deadline)
        return self._ready.popleft() if self._ready else b""

    def send(self, data: bytes) -> int:
        deadline = self._upgrade_deadline
        if deadline is None:
            # Releases before 1.9 send their pongs and close frames here, past the dispatcher.
            self._send_control(bytes(data))
            return len(data)
        try:
            self.raw.settimeout(_time_left(deadline, self._url))
            self.raw.sendall(_COOKIE.sub(b"", bytes(data)))
        except OSError as error:
            raise Unreachable(f"{self._url} did not take the upgrade: {type(error).__name__}") from None
        return len(data)

    def gettimeout(self) -> float:
        return 0.0

    def settimeout(self, timeout: float | None) -> None:
        """The library sets its own default; ours is set on the socket itself."""

    def fileno(self) -> int:
        return self.raw.fileno()

    def close(self) -> None:
        """The library closes what it was given; the connection closes the socket itself."""

    def shutdown(self, how: int) -> None:
        """As `close`."""

    # --- the upgrade ----------------------------------------------------------------------------

    def expect_upgrade(self, deadline: Deadline, url: str) -> None:
        """The first thing that comes is the answer to the upgrade."""
        self._upgrade_deadline = deadline
        self._url = url

    def _receive_upgrade(self, deadline: Deadline) -> None:
        """Reads the answer's head, lets only 101 pass, and lays it out for the library.

        The library itself would follow a redirect and send the grant token there. What follows the head
        stays in the buffer.
        """
        while True:
            end = self._buffer.find(b"\r\n\r\n") + 4
            if end >= 4:
                break
            if len(self._buffer) > _UPGRADE_LIMIT:
                raise UpgradeRefused(f"{self._url} answered the upgrade with something else than HTTP", 0)
            self.raw.settimeout(_time_left(deadline, self._url))
            try:
                data = self.raw.recv(_RECEIVE)
            except OSError as error:
                raise Unreachable(f"{self._url} did not answer the upgrade: {type(error).__name__}") from None
            if not data:
                raise Unreachable(f"{self._url} closed the connection at the upgrade")
            self._buffer += data
        self._upgrade_deadline = None
        head = bytes(self._buffer[:end])
        del self._buffer[:end]
        words = head.split(b"\r\n", 1)[0].split(b" ", 2)
        status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
        if status == 429:
            raise RateLimited(f"{self._url} takes five upgrades a second (HTTP 429)")
        if status != 101:
            # n8n's own refusals have no headers.
            is_n8ns = head.count(b"\r\n") == 2
            by = "" if is_n8ns else "; a proxy or gateway before n8n has answered, or another server"
            raise UpgradeRefused(f"{self._url} refused the upgrade (HTTP {status}){by}", status, is_n8ns)
        head = _COOKIE.sub(b"", head)
        # The library reads a head one byte at a time.
        self._ready.extend(head[index : index + 1] for index in range(len(head)))

    # --- reading --------------------------------------------------------------------------------

    @property
    def in_message(self) -> bool:
        """Whether a part of a message has come, and its end has not."""
        return (
            self._in_frame
            or self._skipping
            or self._message is not None
            or len(self._buffer) > self._position
        )

    @property
    def has_frames(self) -> bool:
        """Whether the last turn took as many frames as it may, so that there may be more without `fill`."""
        return self._budget == 0

    def begin_turn(self) -> None:
        """Let `next` take the frames of another turn."""
        self._budget = FRAMES_PER_TURN

    def fill(self) -> tuple[int, bool]:
        """Read what has come.

        Returns:
            How many bytes, and whether more may be there already.

        Raises:
            ConnectionLost: the peer has closed, or the connection is broken.
        """
        total = 0
        while total < TURN_LIMIT:
            try:
                if self._left and self._message is not None and not self._buffer:
                    asked = min(self._left, _RECEIVE_LARGE)
                    count = self._receive_large(self._message, asked)
                    if not self._left:
                        return total + count, True
                else:
                    data = self.raw.recv(_RECEIVE)
                    count = len(data)
                    asked = _RECEIVE
                    self._buffer += data
            except WOULD_BLOCK:
                return total, False
            except OSError as error:
                raise ConnectionLost(f"the connection broke: {type(error).__name__}: {error}") from None
            if count == 0:
                self.at_end = True
                return total, False
            total += count
            if count < asked and not (isinstance(self.raw, ssl.SSLSocket) and self.raw.pending()):
                return total, False
            if not self._left and len(self._buffer) > _RECEIVE:
                return total, True  # let a large frame's header be seen before more of it is copied twice
        return total, True

    def _receive_large(self, message: bytearray, asked: int) -> int:
        if self._scratch is None:
            self._scratch = memoryview(bytearray(_RECEIVE_LARGE))
        count = self.raw.recv_into(self._scratch, asked)
        message += self._scratch[:count]
        self._left -= count
        return count

    def next(self) -> Received | Control | None:
        """Return the next whole message, or one that was skipped; None if there is none yet in this turn.

        Control frames are the library's: `CONTROL` says that its `recv` finds one.

        Raises:
            ConnectionLost: the peer breaks the rules of WebSocket.
        """
        while self._budget:
            item: Received | Control | None = None
            if self._in_frame:
                if not self._take_some():
                    return None
                item = self._end_frame()
            else:
                header = self._header()
                if header is None:
                    self._compact()
                    return None
                first, length, start = header
                opcode = first & 0x0F
                self._check(opcode, first & 0x80, length)
                end = start + length
                is_whole = end <= len(self._buffer)
                if not is_whole and length <= _RECEIVE:
                    self._compact()
                    return None
                self._budget -= 1
                if opcode >= 8:
                    self._position = end
                    item = self._control_frame(first, bytes(self._buffer[start:end]))
                elif is_whole and first & 0x80 and opcode and length <= self._max_payload:
                    self._position = end
                    return bytes(self._buffer[start:end])
                else:
                    self._begin_frame(first, length, start)
            if item is not None:
                return item
        return None

    def _header(self) -> tuple[int, int, int] | None:
        """First byte, payload length, and where the payload begins; None if the header is not there yet."""
        buffer, position = self._buffer, self._position
        there = len(buffer) - position
        if there < 2:
            return None
        first, second = buffer[position], buffer[position + 1]
        if first & 0x70 or second & 0x80:
            raise ConnectionLost("the broker sent a frame that is masked or has reserved bits set", 1002)
        if second < 126:
            return first, second, position + 2
        size = 2 if second == 126 else 8
        if there < 2 + size:
            return None
        start = position + 2 + size
        return first, int.from_bytes(buffer[position + 2 : start], "big"), start

    def _check(self, opcode: int, final: int, length: int) -> None:
        """Whether a frame may come now. Before its payload is waited for, which may have any length."""
        if opcode >= 8:
            if not final or length > 125:
                raise ConnectionLost("the broker sent a control frame that is too long or in fragments", 1002)
        elif opcode > ABNF.OPCODE_BINARY:
            raise ConnectionLost("the broker broke WebSocket's rules: a frame of an unknown kind", 1002)
        elif self._fragments:
            if opcode != ABNF.OPCODE_CONT:
                raise ConnectionLost("the broker began a message within another", 1002)
        elif opcode == ABNF.OPCODE_CONT:
            raise ConnectionLost("the broker sent a continuation of nothing", 1002)

    def _compact(self) -> None:
        if self._position:
            del self._buffer[: self._position]
            self._position = 0

    def _control_frame(self, first: int, payload: bytes) -> Control:
        if first & 0x0F == ABNF.OPCODE_CLOSE:
            self.received_close = True
            self.close_code = struct.unpack("!H", payload[:2])[0] if len(payload) >= 2 else None
            payload = _valid_close(payload)
        self._ready.append(bytes((first, len(payload))))
        if payload:
            self._ready.append(payload)
        return CONTROL

    # --- data frames that do not come as one whole message at once ------------------------------

    def _begin_frame(self, first: int, length: int, start: int) -> None:
        self._fragments += 1
        if self._fragments > FRAGMENTS_LIMIT:
            raise ConnectionLost(f"the broker sent a message in more than {FRAGMENTS_LIMIT} fragments", 1008)
        self._in_frame = True
        self._first = first
        self._left = length
        self._position = start
        if self._skipping:
            self._skip_size += length
            return
        if self._message is None:
            self._message = bytearray()
        size = len(self._message) + length
        if size > self._max_payload:
            self._skipping = True
            self._skip_head = bytes(self._message[:_HEAD_KEPT])
            self._skip_size = size
            self._message = None

    def _take_some(self) -> bool:
        """Take or skip what is there of the frame's payload; return whether its end was there."""
        there = min(self._left, len(self._buffer) - self._position)
        end = self._position + there
        if self._message is not None:
            self._message += self._buffer[self._position : end]
        elif len(self._skip_head) < _HEAD_KEPT:
            wanted = min(there, _HEAD_KEPT - len(self._skip_head))
            self._skip_head += bytes(self._buffer[self._position : self._position + wanted])
        self._position = end
        self._left -= there
        if self._left:
            self._compact()
        return self._left == 0

    def _end_frame(self) -> bytearray | Skipped | None:
        """Return the message that ends with this frame, if one does."""
        self._in_frame = False
        if not self._first & 0x80:
            return None
        self._fragments = 0
        if self._skipping:
            self._skipping = False
            return Skipped(self._skip_head, self._skip_size)
        message, self._message = self._message, None
        return message


def _valid_close(payload: bytes) -> bytes:
    """A close frame's payload as the library accepts it: it raises for codes that it does not know."""
    if len(payload) < 2:
        return b""
    code = struct.unpack("!H", payload[:2])[0]
    return payload[:2] if 1000 <= code <= 1003 or 1007 <= code <= 1011 or 3000 <= code < 5000 else b""


def _time_left(deadline: Deadline | None, url: str) -> float | None:
    remaining = None if deadline is None else deadline.remaining()
    if remaining is not None and remaining <= 0:
        raise Unreachable(f"{url} did not answer the upgrade in time")
    return remaining
