"""websocket-client's part of a connection: the upgrade, and the answers to pings and close frames.

A `WebSocketApp` reads from one buffer and writes to another instead of a socket, so that it never waits. Its
inside that is used is listed in docs/architecture.md, and tests/connection/test_library_internals.py fails if
it changes.
"""

from __future__ import annotations

import re
from typing import Callable
from urllib.parse import quote

import websocket

from n8nrunner import logs
from n8nrunner.connection.dial import Socket
from n8nrunner.deadline import Deadline
from n8nrunner.protocol.failures import ConnectionLost, LinkFailure, RateLimited, Unreachable, UpgradeRefused
from n8nrunner.protocol.frames import CLOSE, FINAL, PING, CloseFrame, PingFrame

# websocket-client logs an ERROR at every disconnect. Users do not need it, and their handlers may raise.
logs.drop_records_of_threads("websocket", ("n8nrunner-links", "n8nrunner-connect"))

#: Bytes that the head of the answer to the upgrade may have.
_HEAD_LIMIT = 16 * 1024

#: Lines with cookies. The library keeps those of all its connections in one jar for the whole program.
_COOKIE = re.compile(rb"^[ \t]*(?:set-)?cookie[ \t]*:.*\n", re.IGNORECASE | re.MULTILINE)


class App:
    """A `WebSocketApp` that upgrades one connection and then answers its control frames.

    It holds no message and no socket, because functions inside of the library refer to each other: they are
    left to the garbage collector.
    """

    def __init__(self) -> None:
        self._buffers = _Buffers()
        self._dispatcher = _Dispatcher(self._buffers)

    def upgrade(self, raw: Socket, url: str, runner_id: str, grant: str, deadline: Deadline) -> bytes:
        """Upgrade a connected socket to a WebSocket.

        Args:
            raw: the socket, which remains the caller's.
            url: the broker's WebSocket address.
            runner_id: the id to register under.
            grant: the grant token.
            deadline: for the whole upgrade.

        Returns:
            Bytes that came behind the answer: the first frames.

        Raises:
            RateLimited, UpgradeRefused, Unreachable: the upgrade failed.
        """
        errors: list[BaseException] = []
        rest = b""

        def exchange(request: bytes) -> bytes:
            nonlocal rest
            head, rest = _exchange(raw, request, url, deadline)
            return head

        self._buffers.exchange = exchange
        app = websocket.WebSocketApp(
            f"{url}?id={quote(runner_id, safe='')}",
            header={"Authorization": f"Bearer {grant}"},
            on_error=lambda app, error: errors.append(error),
            socket=self._buffers,
        )
        app.run_forever(
            dispatcher=self._dispatcher, skip_utf8_validation=True, reconnect=0, suppress_origin=True
        )
        if errors and isinstance(errors[0], LinkFailure):
            raise errors[0]
        if errors or self._dispatcher.read_message is None:
            # The library's exceptions quote what the peer sent; their type says enough.
            kind = type(errors[0] if errors else None).__name__
            raise UpgradeRefused(f"{url} did not upgrade to a WebSocket ({kind})", 0)
        return rest

    def answer(self, frame: PingFrame | CloseFrame) -> bytes:
        """Return the frame that answers a control frame.

        Raises:
            ConnectionLost: the library refuses the frame.
        """
        if isinstance(frame, PingFrame):
            opcode, payload = PING, frame.payload
        else:
            opcode, payload = CLOSE, _accepted_close(frame)
        self._buffers.unread += bytes((FINAL | opcode, len(payload))) + payload
        assert self._dispatcher.read_message is not None
        try:
            self._dispatcher.read_message()
        except websocket.WebSocketException as error:
            raise ConnectionLost(
                f"the broker broke WebSocket's rules ({type(error).__name__})", 1002
            ) from None
        return self._buffers.take_sent()


class _Buffers:
    """The object that the library uses as its socket."""

    def __init__(self) -> None:
        #: Bytes that the library will read.
        self.unread = bytearray()
        #: Sends the request to upgrade and returns the head of the answer; None afterwards.
        self.exchange: Callable[[bytes], bytes] | None = None
        self._sent = bytearray()

    def take_sent(self) -> bytes:
        """Return what the library has sent since the last call."""
        sent, self._sent = bytes(self._sent), bytearray()
        return sent

    def recv(self, size: int) -> bytes:
        """Read from the buffer. The first call waits for the answer to the upgrade."""
        if self.exchange is not None:
            exchange, self.exchange = self.exchange, None
            self.unread += exchange(self.take_sent())
        data = bytes(self.unread[:size])
        del self.unread[:size]
        return data

    def send(self, data: bytes) -> int:
        """Write to the buffer. Releases before 1.9 call this for every frame, and not `buffwrite`."""
        self._sent += data
        return len(data)

    def gettimeout(self) -> float:
        """Tell the library not to wait for the socket itself."""
        return 0.0

    def settimeout(self, timeout: float | None) -> None:
        """Ignore the library's default timeout."""

    def close(self) -> None:
        """Do nothing: the connection closes the socket itself."""

    def shutdown(self, how: int) -> None:
        """Do nothing, as `close`."""


class _Dispatcher:
    """The object that `run_forever` uses as its event loop."""

    def __init__(self, buffers: _Buffers) -> None:
        #: Reads and answers one frame; None before the upgrade.
        self.read_message: Callable[[], bool] | None = None
        self._buffers = buffers

    def read(self, sock: object, read_message: Callable[[], bool]) -> None:
        """Keep the function that reads a frame. `run_forever` returns when this returns."""
        self.read_message = read_message

    def buffwrite(self, sock: object, data: bytes, send: object, on_disconnect: object) -> None:
        """Write to the buffer."""
        self._buffers.send(data)

    def signal(self, number: int, handler: object) -> None:
        """Ignore the library's wish to handle signals."""

    def abort(self) -> None:
        """Do nothing: only `signal` would call it."""


def _exchange(raw: Socket, request: bytes, url: str, deadline: Deadline) -> tuple[bytes, bytes]:
    """Send the request to upgrade, and return the head of the answer and what came behind it.

    Only a head with status 101 is returned. The library would follow a redirect with the grant token.
    """
    try:
        raw.settimeout(_time_left(deadline, url))
        raw.sendall(_COOKIE.sub(b"", request))
    except OSError as error:
        raise Unreachable(f"{url} did not take the upgrade: {type(error).__name__}") from None
    answer = bytearray()
    while (end := answer.find(b"\r\n\r\n") + 4) < 4:
        if len(answer) > _HEAD_LIMIT:
            raise UpgradeRefused(f"{url} answered the upgrade with something other than HTTP", 0)
        raw.settimeout(_time_left(deadline, url))
        try:
            data = raw.recv(_HEAD_LIMIT)
        except OSError as error:
            raise Unreachable(f"{url} did not answer the upgrade: {type(error).__name__}") from None
        if not data:
            raise Unreachable(f"{url} closed the connection at the upgrade")
        answer += data
    head = bytes(answer[:end])
    words = head.split(b"\r\n", 1)[0].split(b" ", 2)
    status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
    if status == 429:
        raise RateLimited(f"{url} takes five upgrades a second (HTTP 429)")
    if status != 101:
        # n8n's own refusals have no headers.
        is_n8ns = head.count(b"\r\n") == 2
        by = "" if is_n8ns else "; a proxy or gateway before n8n has answered, or another server"
        raise UpgradeRefused(f"{url} refused the upgrade (HTTP {status}){by}", status, is_n8ns)
    return _COOKIE.sub(b"", head), bytes(answer[end:])


def _accepted_close(frame: CloseFrame) -> bytes:
    """Return a close frame's payload without what the library refuses: unknown codes, and reasons."""
    code = frame.code
    if code is None:
        return b""
    is_known = 1000 <= code <= 1003 or 1007 <= code <= 1011 or 3000 <= code < 5000
    return frame.payload[:2] if is_known else b""


def _time_left(deadline: Deadline, url: str) -> float | None:
    """Return the seconds until the deadline. Raises `Unreachable` if it has passed."""
    remaining = deadline.remaining()
    if remaining is not None and remaining <= 0:
        raise Unreachable(f"{url} did not answer the upgrade in time")
    return remaining
