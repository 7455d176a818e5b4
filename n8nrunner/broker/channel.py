"""One runner's WebSocket, over aiohttp."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Sequence
from typing import Callable

from aiohttp import web

NORMAL_CLOSURE = 1000
#: Codes with which aiohttp refuses a message: not a WebSocket frame, not UTF-8, too large.
_REFUSALS = (1002, 1007, 1009)


class RunnerSocket(web.WebSocketResponse):
    """A WebSocket that closes as n8n's does: after its close frame, it reads on until the peer closes.

    aiohttp's own `close` ends the connection at once if another task reads, and after a refused message. The
    kernel then answers what still comes with a reset, which can overtake the close frame with the reason.

    Args:
        transport: the connection.
        timeout: how long to wait for the peer after a refused message, in seconds.
        max_payload: longest message, in bytes.
        protocols: the subprotocols that may be chosen.
    """

    def __init__(
        self, transport: asyncio.Transport, timeout: float, max_payload: int, protocols: Sequence[str]
    ) -> None:
        super().__init__(
            protocols=protocols,
            autoclose=False,
            autoping=False,  # which would keep the pongs to itself
            compress=False,
            # One byte more, because for aiohttp this is the first length that is too large.
            max_msg_size=max_payload + 1,
        )
        #: Called when a message is refused: for the matching, the connection has ended then.
        self.on_refusal: Callable[[], None] = lambda: None
        self._transport = transport
        self._timeout_after_refusal = timeout
        self._close_sent = False

    def send_close(self, code: int) -> None:
        """Send a close frame, unless one has been sent."""
        if not self._close_sent:
            self._close_sent = True
            self._transport.write(b"\x88\x02" + struct.pack("!H", code))

    async def close(self, *, code: int = NORMAL_CLOSURE, message: bytes = b"", drain: bool = True) -> bool:
        """End the connection after a close frame; aiohttp calls this after the last message."""
        self.send_close(code)
        if code in _REFUSALS:
            self.on_refusal()
            # aiohttp drops messages during that time, and cancels this when the peer ends the connection.
            await asyncio.sleep(self._timeout_after_refusal)
        self._transport.close()
        return True


class WebSocketChannel:
    """Writes to one runner in order, from a queue. A runner that does not read delays no other.

    Args:
        runner_socket: where to write.
        transport: its connection.
        timeout: how long to wait for the peer's close frame, in seconds.
    """

    def __init__(self, runner_socket: RunnerSocket, transport: asyncio.Transport, timeout: float) -> None:
        #: Called when writing fails and no close was asked for.
        self.on_failure: Callable[[], None] = lambda: None
        self._socket = runner_socket
        self._transport = transport
        self._timeout = timeout
        self._queue: asyncio.Queue[Callable[[], Awaitable[None]]] = asyncio.Queue()
        self._closing = False
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._writer = self._loop.create_task(self._write())

    def send(self, text: str) -> None:
        """Send a message."""
        self._put(lambda: self._socket.send_str(text))

    def ping(self) -> None:
        """Send a ping."""
        self._put(self._socket.ping)

    def pong(self, payload: bytes) -> None:
        """Answer a ping."""
        self._put(lambda: self._socket.pong(payload))

    def close(self, code: int) -> None:
        """Send a close frame after everything else. Later messages are dropped."""
        if self._closing:
            return

        async def send_close() -> None:
            self._socket.send_close(code)

        self._put(send_close)
        self._closing = True
        # The peer may never answer, or may not read what stands before the close frame.
        self._timer = self._loop.call_later(self._timeout, self.abort)

    def abort(self) -> None:
        """End the connection at once. Messages that are still in the queue are lost."""
        self._transport.abort()

    def abandon(self) -> None:
        """Stop writing, because the connection has ended."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        self._writer.cancel()

    def _put(self, write: Callable[[], Awaitable[None]]) -> None:
        if not self._closing:
            self._queue.put_nowait(write)

    async def _write(self) -> None:
        try:
            while True:
                write = await self._queue.get()
                await write()
        except ConnectionError:  # the connection is closing
            if not self._closing:
                self.on_failure()
