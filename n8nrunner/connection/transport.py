"""What is added to websocket-client: a WebSocketApp that never blocks on its peer.

Three things of ours sit between the library and the socket:

- `_Reader` stands in for the socket where the library reads. It takes what has come, parses the frames'
  headers, joins fragments and skips what is too large. A message goes straight to whoever serves the
  connection; for the library to read it once more would cost four times what reading it has cost. Control
  frames go through the library, which answers them.
- `_Writer` takes every frame, the library's own pongs and close frames included, and writes as much as the
  socket takes. Large messages go out in fragments, between which pongs may pass.
- `Connection` is the dispatcher that the library's ``run_forever`` calls.

What is used of the library's inside is listed in docs/architecture.md, and tests/connection fails if it
changes.
"""

from __future__ import annotations

import enum
import logging
import os
import ssl
import struct
import threading
from collections import deque
from typing import Any, Callable, Deque, List, NamedTuple, Optional, Tuple, Union
from urllib.parse import quote

import websocket
from websocket import ABNF

from n8nrunner.connection.dial import Socket
from n8nrunner.connection.failures import (
    ConnectionLost,
    LinkFailure,
    RateLimited,
    Unreachable,
    UpgradeRefused,
)
from n8nrunner.deadline import Deadline

#: Bytes that one `recv` asks for. Larger buffers are slower: each is allocated anew.
_RECEIVE = 64 * 1024
#: Bytes that one turn reads at most, so that a flood does not keep the thread from its deadlines.
_TURN_LIMIT = 1024 * 1024
#: Messages above this many bytes are sent in fragments of this size.
FRAGMENT = 128 * 1024
#: Bytes of randomness for the masks of frames that are fetched at once.
_RANDOMNESS = 4096
#: Bytes of a skipped message that are kept, to find out which task it is for.
_HEAD_KEPT = 4096
#: Bytes that the answer to the upgrade may have.
_UPGRADE_LIMIT = 16 * 1024

_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Skipped(NamedTuple):
    """A message that was too large: how it began, and its size in bytes so far as it was counted."""

    head: bytes
    size: int


class Ponged(NamedTuple):
    """The payload of a pong."""

    payload: bytes


#: What a turn reads: whole messages, skipped ones, and pongs, in the order in which they came.
Received = Union[bytes, Skipped, Ponged]


class _Control(enum.Enum):
    CONTROL = "a control frame lies before the library"


CONTROL = _Control.CONTROL


class _LinkThreadFilter(logging.Filter):
    """websocket-client logs an ERROR at every disconnect. From our threads that is no news to our users."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.threadName or "").startswith(("n8nrunner-links", "n8nrunner-connect"))


logging.getLogger("websocket").addFilter(_LinkThreadFilter())


class _Reader:
    """Stands in for the socket: the library's `recv` finds whole control frames here, and never waits."""

    def __init__(self, raw: Socket, max_payload: int, send_control: Callable[[bytes], None]) -> None:
        self.raw = raw
        self._send_control = send_control
        self.close_code: Optional[int] = None
        self.received_close = False
        self.at_end = False
        self._max_payload = max_payload
        self._buffer = bytearray()
        self._position = 0
        # The payload of a large frame, which is read in place, and how much of it is there.
        self._large: Optional[bytearray] = None
        self._large_filled = 0
        self._large_first = 0
        # The fragments of a message that has not ended.
        self._fragments: List[bytes] = []
        self._fragments_size = 0
        # A message that is skipped: what is left of its current frame, how it began, its size until now.
        self._skip = 0
        self._skip_head = b""
        self._skip_size = 0
        self._skip_first = 0
        self._skipping = False
        self._upgrade_deadline: Optional[Deadline] = None
        self._url = ""
        # What the library's next calls of `recv` get.
        self._ready: Deque[bytes] = deque()

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
            self.raw.sendall(data)
        except OSError as error:
            raise Unreachable(f"{self._url} did not take the upgrade: {type(error).__name__}") from None
        return len(data)

    def gettimeout(self) -> float:
        return 0.0

    def settimeout(self, timeout: Optional[float]) -> None:
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
            raise UpgradeRefused(f"{self._url} refused the upgrade (HTTP {status})", status)
        # The library reads a head one byte at a time.
        self._ready.extend(head[index : index + 1] for index in range(len(head)))

    # --- reading --------------------------------------------------------------------------------

    @property
    def in_message(self) -> bool:
        """Whether a part of a message has come, and its end has not."""
        return (
            self._large is not None
            or self._skipping
            or bool(self._fragments)
            or len(self._buffer) > self._position
        )

    def fill(self) -> Tuple[int, bool]:
        """Reads what has come.

        Returns:
            How many bytes, and whether more may be there already.

        Raises:
            ConnectionLost: the peer has closed, or the connection is broken.
        """
        total = 0
        while total < _TURN_LIMIT:
            try:
                if self._large is not None:
                    room = memoryview(self._large)[self._large_filled :][:_TURN_LIMIT]
                    asked = len(room)
                    count = self.raw.recv_into(room)
                    self._large_filled += count
                    if self._large_filled == len(self._large):
                        total += count
                        return total, True
                else:
                    data = self.raw.recv(_RECEIVE)
                    count = len(data)
                    asked = _RECEIVE
                    self._buffer += data
            except _WOULD_BLOCK:
                return total, False
            except OSError as error:
                raise ConnectionLost(f"the connection broke: {type(error).__name__}: {error}") from None
            if count == 0:
                self.at_end = True
                return total, False
            total += count
            if count < asked and not (isinstance(self.raw, ssl.SSLSocket) and self.raw.pending()):
                return total, False
            if self._large is None and len(self._buffer) > _RECEIVE:
                return total, True  # let a large frame's header be seen before its payload is copied twice
        return total, True

    def next(self) -> Union[Received, _Control, None]:
        """The next whole message, or one that was skipped; None if there is none yet.

        Control frames are the library's: `CONTROL` says that its `recv` finds one.

        Raises:
            ConnectionLost: the peer breaks the rules of WebSocket.
        """
        while True:
            item: Union[Received, _Control, None] = None
            if self._large is not None:
                if self._large_filled < len(self._large):
                    return None
                payload, self._large = bytes(self._large), None
                item = self._take(self._large_first, payload)
            elif self._skip:
                if not self._skip_some():
                    return None
                item = self._end_skipped_frame()
            else:
                header = self._header()
                if header is None:
                    self._compact()
                    return None
                first, length, start = header
                opcode = first & 0x0F
                self._check(opcode, first & 0x80, length)
                end = start + length
                if opcode < 8 and (self._skipping or self._fragments_size + length > self._max_payload):
                    self._begin_skip(first, length, start)
                    if length == 0:
                        item = self._end_skipped_frame()
                elif end > len(self._buffer):
                    if length > _RECEIVE:
                        self._begin_large(first, length, start)
                    self._compact()
                    return None
                else:
                    self._position = end
                    item = self._take(first, bytes(self._buffer[start:end]))
            if item is not None:
                return item

    def _header(self) -> Optional[Tuple[int, int, int]]:
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
        elif self._fragments or self._skipping:
            if opcode != ABNF.OPCODE_CONT:
                raise ConnectionLost("the broker began a message within another", 1002)
        elif opcode == ABNF.OPCODE_CONT:
            raise ConnectionLost("the broker sent a continuation of nothing", 1002)

    def _compact(self) -> None:
        if self._position:
            del self._buffer[: self._position]
            self._position = 0

    def _begin_large(self, first: int, length: int, start: int) -> None:
        """What is not there yet of a large frame is read in place."""
        self._large = bytearray(length)
        there = len(self._buffer) - start
        self._large[:there] = memoryview(self._buffer)[start:]
        self._large_filled = there
        self._large_first = first
        self._buffer = bytearray()
        self._position = 0

    def _take(self, first: int, payload: bytes) -> Union[bytes, _Control, None]:
        """One whole frame; the message that it ends, or `CONTROL` for a control frame."""
        opcode, final = first & 0x0F, first & 0x80
        if opcode >= 8:
            if opcode == ABNF.OPCODE_CLOSE:
                self.received_close = True
                self.close_code = struct.unpack("!H", payload[:2])[0] if len(payload) >= 2 else None
                payload = _valid_close(payload)
            self._ready.append(bytes((first, len(payload))))
            if payload:
                self._ready.append(payload)
            return CONTROL
        if opcode == ABNF.OPCODE_CONT:
            self._fragments.append(payload)
            self._fragments_size += len(payload)
            if not final:
                return None
            payload = b"".join(self._fragments)
            self._fragments = []
            self._fragments_size = 0
        elif not final:
            self._fragments = [payload]
            self._fragments_size = len(payload)
            return None
        return payload

    # --- messages that are too large ------------------------------------------------------------

    def _begin_skip(self, first: int, length: int, start: int) -> None:
        if not self._skipping:
            self._skipping = True
            self._skip_head = b"".join(self._fragments)[:_HEAD_KEPT]
            self._skip_size = self._fragments_size
            self._fragments = []
            self._fragments_size = 0
        self._skip_first = first
        self._skip_size += length
        self._skip = length
        self._position = start

    def _skip_some(self) -> bool:
        """Drops what is there of a frame that is skipped; whether its end was there."""
        there = min(self._skip, len(self._buffer) - self._position)
        if len(self._skip_head) < _HEAD_KEPT:
            wanted = min(there, _HEAD_KEPT - len(self._skip_head))
            self._skip_head += bytes(self._buffer[self._position : self._position + wanted])
        self._position += there
        self._skip -= there
        self._compact()
        return self._skip == 0

    def _end_skipped_frame(self) -> Optional[Skipped]:
        """The message that ends with this frame, if one does."""
        if not self._skip_first & 0x80:
            return None
        self._skipping = False
        return Skipped(self._skip_head, self._skip_size)


def _valid_close(payload: bytes) -> bytes:
    """A close frame's payload as the library accepts it: it raises for codes that it does not know."""
    if len(payload) < 2:
        return b""
    code = struct.unpack("!H", payload[:2])[0]
    return payload[:2] if 1000 <= code <= 1003 or 1007 <= code <= 1011 or 3000 <= code < 5000 else b""


def _time_left(deadline: Optional[Deadline], url: str) -> Optional[float]:
    remaining = None if deadline is None else deadline.remaining()
    if remaining is not None and remaining <= 0:
        raise Unreachable(f"{url} did not answer the upgrade in time")
    return remaining


class _Writer:
    """Everything that is to be sent, in order, written as the socket takes it."""

    def __init__(self) -> None:
        #: Messages of which at least the first byte may have left.
        self.started = 0
        self._randomness = b""
        self._randomness_position = 0
        # (frame or payload, messages that it counts for, whether it goes out in fragments)
        self._queue: Deque[Tuple[bytes, int, bool]] = deque()
        self._control: List[bytes] = []
        self._waiting_large = 0
        self._large: Optional[bytes] = None
        self._large_position = 0
        self._chunk: Union[bytes, memoryview] = b""

    @property
    def congested(self) -> bool:
        """Whether a large message is on its way, between whose fragments no other message may stand."""
        return self._large is not None or self._waiting_large > 0

    @property
    def is_empty(self) -> bool:
        return not self._queue and not self._chunk and not self._control and self._large is None

    def queue(self, payload: Union[str, bytes]) -> None:
        """A message, behind those before it."""
        data = payload.encode() if isinstance(payload, str) else payload
        if len(data) > FRAGMENT:
            self._waiting_large += 1
            self._queue.append((data, 1, True))
        else:
            self._queue.append((self._frame(data, ABNF.OPCODE_TEXT, 1), 1, False))

    def queue_in_order(self, opcode: int, payload: bytes) -> None:
        """A control frame that must not overtake the messages before it."""
        self._queue.append((self._frame(payload, opcode, 1), 0, False))

    def queue_control(self, frame: bytes) -> None:
        """A control frame that may pass between the fragments of a large message."""
        self._control.append(frame)

    def flush(self, raw: Socket) -> int:
        """Writes what the socket takes.

        Returns:
            How many bytes it took.

        Raises:
            ConnectionLost: the connection is broken.
        """
        total = 0
        while total <= _TURN_LIMIT:
            if not self._chunk:
                self._chunk = self._next_chunk()
                if not self._chunk:
                    break
            try:
                count = raw.send(self._chunk)
            except _WOULD_BLOCK:
                break
            except OSError as error:
                raise ConnectionLost(f"the connection broke: {type(error).__name__}: {error}") from None
            total += count
            if count < len(self._chunk):
                self._chunk = memoryview(self._chunk)[count:]
                continue
            self._chunk = b""
            if self.is_empty:
                break
        return total

    def _next_chunk(self) -> bytes:
        if self._control:
            chunk = b"".join(self._control)
            self._control = []
            return chunk
        if self._large is not None:
            return self._next_fragment(self._large)
        frames: List[bytes] = []
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
        return frames[0] if len(frames) == 1 else b"".join(frames)

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


class _Dispatcher:
    """What `run_forever` asks for: it calls `read` once, and `buffwrite` for what the library sends.

    As the library means it for event loops, `read` keeps the function that reads a message, and returns.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection: Optional[Connection] = connection

    def read(self, sock: Any, read_message: Callable[[], bool]) -> None:
        assert self.connection is not None
        self.connection._read_message = read_message

    def buffwrite(self, sock: Any, data: Any, send: Any, on_disconnect: Any) -> None:
        if self.connection is not None:
            self.connection.writer.queue_control(bytes(data))

    def signal(self, number: int, handler: Any) -> None:
        """Signals are none of a link's business."""

    def abort(self) -> None:
        """Would be called by `signal`."""

    def timeout(self, seconds: float, callback: Callable[..., Any], *args: Any) -> None:
        """Would serve the library's own pings, which are off."""


class Connection:
    """One WebSocket to the broker. `open` runs on one thread; all that follows on the one that serves it.

    Args:
        raw: a connected socket, which the connection owns from here on.
        max_payload: bytes that a message of the broker may have.
    """

    def __init__(self, raw: Socket, max_payload: int) -> None:
        self.raw = raw
        self.writer = _Writer()
        self._reader = _Reader(raw, max_payload, self.writer.queue_control)
        self._thread: Optional[int] = None
        self._received: List[Received] = []
        self._app: Any = None
        self._dispatcher = _Dispatcher(self)
        self._read_message: Optional[Callable[[], bool]] = None
        self._failure: Optional[BaseException] = None

    # --- life -------------------------------------------------------------------------------------

    def open(self, url: str, runner_id: str, grant: str, deadline: Deadline) -> None:
        """Upgrades to a WebSocket.

        Args:
            url: the broker's WebSocket address.
            runner_id: the id to register under.
            grant: the grant token.
            deadline: for the upgrade.

        Raises:
            RateLimited, UpgradeRefused, Unreachable: the upgrade failed.
        """
        self._reader.expect_upgrade(deadline, url)
        self._app = websocket.WebSocketApp(
            f"{url}?id={quote(runner_id, safe='')}",
            header={"Authorization": f"Bearer {grant}"},
            on_pong=self._on_pong,
            on_error=self._on_error,
            socket=self._reader,
        )
        self._app.run_forever(
            dispatcher=self._dispatcher, skip_utf8_validation=True, reconnect=0, suppress_origin=True
        )
        failure, self._failure = self._failure, None
        if isinstance(failure, LinkFailure):
            raise failure
        if failure is not None or self._read_message is None:
            # The text of the library's exceptions holds what the peer sent; the type says enough.
            kind = type(failure).__name__
            raise UpgradeRefused(f"{url} did not upgrade to a WebSocket ({kind})", 0)
        self.raw.setblocking(False)

    def bind(self) -> None:
        """From here on, the connection belongs to the calling thread."""
        self._thread = threading.get_ident()

    def close(self) -> None:
        """Closes the socket without a word more."""
        self.raw.close()
        # Functions inside of the library hold each other, and through the app all of this, large messages
        # included. Leave nothing of it to the garbage collector.
        self._dispatcher.connection = None
        app, self._app, self._read_message = self._app, None, None
        if app is not None:
            app.on_pong = app.on_error = app.prepared_socket = app.sock = None

    # --- serving ---------------------------------------------------------------------

    @property
    def in_message(self) -> bool:
        """Whether a part of a message has come, and its end has not."""
        return self._reader.in_message

    @property
    def received_close(self) -> bool:
        """Whether the broker has closed the WebSocket."""
        return self._reader.received_close

    @property
    def close_code(self) -> Optional[int]:
        """The broker's close code; None if it gave none."""
        return self._reader.close_code

    def read(self) -> Tuple[List[Received], int, bool]:
        """Reads what has come.

        Returns:
            What came; how many bytes were read; whether more may be there already.

        Raises:
            ConnectionLost: the connection is broken, or at its end.
        """
        assert threading.get_ident() == self._thread
        reader = self._reader
        count, more = reader.fill()
        try:
            while not reader.received_close:
                item = reader.next()
                if item is None:
                    break
                if item is CONTROL:
                    assert self._read_message is not None
                    self._read_message()  # a pong comes back through `_on_pong`
                else:
                    self._received.append(item)
        except websocket.WebSocketException as error:
            raise ConnectionLost(
                f"the broker broke WebSocket's rules ({type(error).__name__})", 1002
            ) from None
        received, self._received = self._received, []
        if reader.at_end and not received and not reader.received_close:
            raise ConnectionLost("the broker's end of the connection closed without a word")
        return received, count, more

    def flush(self) -> int:
        """Writes what the socket takes, and says how many bytes that was. Raises `ConnectionLost`."""
        assert threading.get_ident() == self._thread
        return self.writer.flush(self.raw)

    def queue_ping(self, payload: str) -> None:
        """A ping behind the messages before it: it must not be answered before they have arrived."""
        self.writer.queue_in_order(ABNF.OPCODE_PING, payload.encode())

    def queue_close(self, code: int) -> None:
        """A close frame, behind what is to be sent before it."""
        self.writer.queue_in_order(ABNF.OPCODE_CLOSE, struct.pack("!H", code))

    # --- what the library calls -----------------------------------------------------------------

    def _on_pong(self, app: Any, data: bytes) -> None:
        self._received.append(Ponged(bytes(data)))

    def _on_error(self, app: Any, error: BaseException) -> None:
        # Once it is open, whoever reads and writes is told by an exception of ours.
        if self._read_message is None and self._failure is None:
            self._failure = error
