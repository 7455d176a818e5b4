"""One WebSocket to a broker: moves bytes between its socket and `protocol/frames.py`.

Nothing here waits for the peer once the connection is open. websocket-client makes the upgrade and answers
control frames (`websocket_app.py`); messages do not pass through it.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import threading

from n8nrunner.connection.dial import Socket
from n8nrunner.connection.sockets import delivery
from n8nrunner.connection.websocket_app import WebSocketClient
from n8nrunner.deadline import Deadline
from n8nrunner.protocol.codec import Received
from n8nrunner.protocol.events import SocketMeasured
from n8nrunner.protocol.failures import ConnectionLost
from n8nrunner.protocol.frames import CloseFrame, PingFrame, Receiver, Sender

#: Bytes that one `recv` asks for. Larger buffers are slower: each call allocates one.
_RECEIVE_SIZE = 64 * 1024
#: Bytes that an iteration reads or writes at most, so that the thread meets its deadlines in a flood.
BYTES_PER_ITERATION = 1024 * 1024
#: Frames that an iteration handles at most: a megabyte can hold half a million, and other brokers wait.
FRAMES_PER_ITERATION = 250

#: The exceptions of a non-blocking socket that cannot read or write now.
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Connection:
    """One WebSocket to the broker.

    The constructor and `open` run on a thread `n8nrunner-connect-N`, `close` on the thread that owns the
    connection, and all other methods on the links' thread.

    Args:
        raw: a connected socket, which the connection owns from here on.
        max_payload: bytes that a message of the broker may have.
    """

    def __init__(self, raw: Socket, max_payload: int) -> None:
        self.raw = raw
        #: Takes what is to be sent; `flush` writes it.
        self.sender = Sender(os.urandom)
        #: Whether the broker has sent a close frame, and its status code; None if it gave none.
        self.received_close = False
        self.close_code: int | None = None
        self.receiver = Receiver(max_payload)
        self._client = WebSocketClient()
        self._at_end = False
        self._thread: int | None = None

    def open(self, url: str, runner_id: str, grant: str, deadline: Deadline) -> None:
        """Upgrade to a WebSocket. The arguments and errors are those of `WebSocketClient.upgrade`."""
        self.receiver.receive_data(self._client.upgrade(self.raw, url, runner_id, grant, deadline))
        self.raw.setblocking(False)

    def bind(self) -> None:
        """Give the connection to the calling thread."""
        self._thread = threading.get_ident()

    def close(self) -> None:
        """Close the socket without another frame. Raises nothing."""
        # The application may have closed the descriptor itself, with `os.closerange` for example.
        with contextlib.suppress(OSError):
            self.raw.close()

    def read(self) -> tuple[list[Received], int, bool]:
        """Read the received bytes, up to the limits of an iteration.

        Returns:
            The received events in their order, the number of bytes read, and whether more may be available.

        Raises:
            ConnectionLost: the connection is broken or at its end, or the broker breaks WebSocket's rules.
        """
        assert threading.get_ident() == self._thread
        receiver = self.receiver
        received: list[Received] = []
        last_frame = receiver.frames + FRAMES_PER_ITERATION
        total, more = 0, True
        while more and not self.received_close:
            if not receiver.has_more:  # what the last iteration has left comes first
                count, more = self._receive()
                total += count
            for event in receiver.next_events(last_frame - receiver.frames):
                if isinstance(event, (PingFrame, CloseFrame)):
                    self.sender.send_control(self._client.answer(event))
                    if isinstance(event, CloseFrame):
                        self.received_close, self.close_code = True, event.code
                else:
                    received.append(event)
            if receiver.has_more or receiver.frames == last_frame or total >= BYTES_PER_ITERATION:
                return received, total, True
        if self._at_end and not received and not self.received_close:
            raise ConnectionLost("the broker's end of the connection closed without a close frame")
        return received, total, False

    def _receive(self) -> tuple[int, bool]:
        """Receive once; return how many bytes came, and whether more may be there."""
        buffer = self.receiver.get_buffer()
        try:
            if buffer is None:
                data = self.raw.recv(_RECEIVE_SIZE)
                count, asked = len(data), _RECEIVE_SIZE
                self.receiver.receive_data(data)
            else:
                count, asked = self.raw.recv_into(buffer), len(buffer)
                self.receiver.buffer_updated(count)
        except _WOULD_BLOCK:
            return 0, False
        except OSError as error:
            raise ConnectionLost(f"the connection broke: {type(error).__name__}: {error}") from None
        if count == 0:
            self._at_end = True
            return 0, False
        # The selector does not see what OpenSSL has decrypted and not returned yet.
        return count, count == asked or (isinstance(self.raw, ssl.SSLSocket) and self.raw.pending() > 0)

    def flush(self) -> int:
        """Write up to `BYTES_PER_ITERATION`. Return how many the socket took. Raises `ConnectionLost`."""
        assert threading.get_ident() == self._thread
        sender = self.sender
        total = 0
        while total <= BYTES_PER_ITERATION:
            data = sender.data_to_send()
            if not data:
                break
            try:
                count = self.raw.send(data)
            except _WOULD_BLOCK:
                break
            except OSError as error:
                raise ConnectionLost(f"the connection broke: {type(error).__name__}: {error}") from None
            sender.data_sent(count)
            total += count
        return total

    def measure(self) -> SocketMeasured:
        """Return the counts of the socket and of the sender."""
        unacknowledged, silent_for = delivery(self.raw)
        return SocketMeasured(self.sender.bytes_written, unacknowledged, self.sender.pinged_to, silent_for)
