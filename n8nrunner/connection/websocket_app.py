"""websocket-client's part of a connection: the upgrade, and the answers to pings and close frames.

A `WebSocketApp` reads from one buffer and writes to another instead of a socket, so that it never waits.
docs/architecture.md lists the library's internals that this uses, and
tests/connection/test_library_internals.py fails if they change.
"""

from __future__ import annotations

import re
from typing import Callable
from urllib.parse import quote

import websocket

from n8nrunner import logs
from n8nrunner.connection.dial import Socket, exchange
from n8nrunner.deadline import Deadline
from n8nrunner.protocol.failures import ConnectionLost, LinkFailure, RateLimited, UpgradeRefused
from n8nrunner.protocol.frames import CLOSE, FINAL, PING, CloseFrame, PingFrame

# websocket-client logs an ERROR at every disconnect. Users do not need it, and their handlers may raise.
logs.drop_records_of_threads("websocket", ("n8nrunner-links", "n8nrunner-connect"))

#: Lines with cookies. The library keeps those of all its connections in one jar for the whole program.
_COOKIE = re.compile(rb"^[ \t]*(?:set-)?cookie[ \t]*:.*\n", re.IGNORECASE | re.MULTILINE)


class WebSocketClient:
    """A `WebSocketApp` that upgrades one connection and then answers its control frames.

    It is also the object that the library uses as its socket and as its event loop. It refers to no message
    and no socket: functions of the library form a reference cycle with it, which only the garbage collector
    frees.
    """

    def __init__(self) -> None:
        # Bytes that the library will read, and bytes that it has sent.
        self._unread = bytearray()
        self._sent = bytearray()
        # Sends the request to upgrade, and returns the head of the answer and the bytes behind it; None
        # afterwards.
        self._exchange: Callable[[bytes], tuple[bytes, bytes]] | None = None
        self._rest = b""
        # Reads and answers one frame; None before the upgrade.
        self._read_message: Callable[[], bool] | None = None

    def upgrade(self, raw: Socket, url: str, runner_id: str, grant: str, deadline: Deadline) -> bytes:
        """Upgrade a connected socket to a WebSocket. Return what came behind the answer: the first frames.

        The socket remains the caller's. The runner registers under `runner_id`.

        Raises:
            RateLimited, UpgradeRefused, Unreachable: the upgrade failed.
        """
        errors: list[BaseException] = []
        self._exchange = lambda request: _exchange(raw, request, url, deadline)
        app = websocket.WebSocketApp(
            f"{url}?id={quote(runner_id, safe='')}",
            header={"Authorization": f"Bearer {grant}"},
            on_error=lambda app, error: errors.append(error),
            socket=self,
        )
        app.run_forever(dispatcher=self, skip_utf8_validation=True, reconnect=0, suppress_origin=True)
        if errors and isinstance(errors[0], LinkFailure):
            raise errors[0]
        if errors or self._read_message is None:
            # The library's exceptions quote what the peer sent; their type says enough.
            kind = f" ({type(errors[0]).__name__})" if errors else ""
            raise UpgradeRefused(f"{url} did not upgrade to a WebSocket{kind}", 0)
        rest, self._rest = self._rest, b""
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
        self._unread += bytes((FINAL | opcode, len(payload))) + payload
        assert self._read_message is not None
        try:
            self._read_message()
        except websocket.WebSocketException as error:
            raise ConnectionLost(f"the broker broke WebSocket's rules ({type(error).__name__})") from None
        return self._take_sent()

    # --- the library's socket and event loop --------------------------------------------------------

    def recv(self, size: int) -> bytes:
        """Read from the buffer. The first call waits for the answer to the upgrade."""
        if self._exchange is not None:
            exchange, self._exchange = self._exchange, None
            head, self._rest = exchange(self._take_sent())
            self._unread += head
        data = bytes(self._unread[:size])
        del self._unread[:size]
        return data

    def send(self, data: bytes) -> int:
        """Write to the buffer. Releases before 1.9 call this for every frame, and not `buffwrite`."""
        self._sent += data
        return len(data)

    def buffwrite(self, sock: object, data: bytes, send: object, on_disconnect: object) -> None:
        """Write to the buffer."""
        self.send(data)

    def read(self, sock: object, read_message: Callable[[], bool]) -> None:
        """Keep the function that reads a frame. `run_forever` returns when this returns."""
        self._read_message = read_message

    def gettimeout(self) -> float:
        """Tell the library not to wait for the socket itself."""
        return 0.0

    def _ignore(self, *arguments: object) -> None:
        """Ignore timeouts, signals and ends: the connection closes its socket itself."""

    settimeout = close = shutdown = signal = abort = _ignore

    def _take_sent(self) -> bytes:
        sent, self._sent = bytes(self._sent), bytearray()
        return sent


def _exchange(raw: Socket, request: bytes, url: str, deadline: Deadline) -> tuple[bytes, bytes]:
    """Send the request to upgrade, and return the head of the answer and what came behind it.

    Only a head with status 101 is returned. The library would follow a redirect with the grant token.
    """
    status, head, rest = exchange(raw, _COOKIE.sub(b"", request), deadline, url, "the upgrade")
    if status == 0:
        raise UpgradeRefused(f"{url} answered the upgrade with something other than HTTP", 0)
    if status == 429:
        raise RateLimited(f"{url} accepts only five upgrades a second (HTTP 429)")
    if status != 101:
        # n8n's own refusals have no headers.
        is_n8ns = head.count(b"\r\n") == 2
        by = "" if is_n8ns else "; a proxy or gateway in front of n8n has answered, or another server"
        raise UpgradeRefused(f"{url} refused the upgrade (HTTP {status}){by}", status, is_n8ns)
    return _COOKIE.sub(b"", head), rest


def _accepted_close(frame: CloseFrame) -> bytes:
    """Return a close frame's payload without unknown codes and without reasons, which the library refuses."""
    code = frame.code
    if code is None:
        return b""
    is_known = 1000 <= code <= 1003 or 1007 <= code <= 1011 or 3000 <= code < 5000
    return frame.payload[:2] if is_known else b""
