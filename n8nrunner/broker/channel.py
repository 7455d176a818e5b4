"""One runner's WebSocket, over aiohttp."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from typing import Callable

from aiohttp import WSCloseCode, WSMsgType, web

#: Codes with which aiohttp refuses a message.
_REFUSALS = (WSCloseCode.PROTOCOL_ERROR, WSCloseCode.INVALID_TEXT, WSCloseCode.MESSAGE_TOO_BIG)


class Channel(web.WebSocketResponse):
    """One runner's WebSocket. Writing never waits. After its close frame, the broker reads on, as n8n does.

    Frames go straight to the transport, which buffers them: a runner that does not read delays no other.
    aiohttp's own methods for sending wait for the buffer. Its `close` ends the connection at once if another
    task reads, and after a refused message. The kernel would then answer what the runner still sends with a
    reset, which can overtake the close frame.

    `timeout` is how long to wait for the peer after a close frame or a refused message, in seconds.
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
        #: Called when a frame cannot be written, although no close was asked for.
        self.on_failure: Callable[[], None] = lambda: None
        self._transport = transport
        self._close_timeout = timeout
        self._timer: asyncio.TimerHandle | None = None
        self._has_closed = False

    def put(self, kind: WSMsgType, payload: bytes) -> None:
        """Write a frame, unless a close frame has been written or the connection has ended."""
        if self._has_closed:
            return
        if self._transport.is_closing():
            self.on_failure()
            return
        length = len(payload)
        if length < 126:
            head = struct.pack("!BB", 0x80 | kind, length)
        elif length < 65536:
            head = struct.pack("!BBH", 0x80 | kind, 126, length)
        else:
            head = struct.pack("!BBQ", 0x80 | kind, 127, length)
        self._transport.writelines([head, payload])

    def put_close(self, code: int) -> None:
        """Write a close frame. The peer may never answer it, so the wait has a limit."""
        if not self._has_closed:
            if not self._transport.is_closing():
                self.put(WSMsgType.CLOSE, struct.pack("!H", code))
            self._has_closed = True
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._close_timeout, self._transport.abort)

    def ended(self) -> None:
        """Write no more, because the connection has ended. Its last messages may still be decoded."""
        self._has_closed = True
        if self._timer is not None:
            self._timer.cancel()

    def abort(self) -> None:
        """End the connection at once. Frames that are still in the buffer are lost."""
        self._transport.abort()

    async def close(self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True) -> bool:
        """End the connection after a close frame; aiohttp calls this after the last message."""
        self.put_close(code)
        if code in _REFUSALS:
            self.on_refusal()
            # aiohttp drops messages during that time, and cancels this when the peer ends the connection.
            await asyncio.sleep(self._close_timeout)
        self._transport.close()
        return True
