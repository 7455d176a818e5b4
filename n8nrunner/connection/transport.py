"""A WebSocketApp that never blocks on its peer.

`Reader` (`reading.py`) stands in for the socket where websocket-client reads, `Sender` (`protocol/frames.py`)
makes frames of what is sent, and `Connection` puts them and the library together.

What is used of the library's inside is listed in docs/architecture.md, and tests/connection fails if it
changes.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Any, Callable
from urllib.parse import quote

import websocket

from n8nrunner import logs
from n8nrunner.connection.dial import Socket
from n8nrunner.connection.reading import CONTROL, TURN_LIMIT, WOULD_BLOCK, Ponged, Reader, Received
from n8nrunner.connection.sockets import delivery
from n8nrunner.deadline import Deadline
from n8nrunner.protocol.events import SocketMeasured
from n8nrunner.protocol.failures import ConnectionLost, LinkFailure, UpgradeRefused
from n8nrunner.protocol.frames import Sender

# websocket-client logs an ERROR at every disconnect. Users do not need it, and their handlers may raise.
logs.drop_records_of_threads("websocket", ("n8nrunner-links", "n8nrunner-connect"))


class _Dispatcher:
    """What `run_forever` asks for: it calls `read` once, and `buffwrite` for what the library sends.

    As the library means it for event loops, `read` keeps the function that reads a message, and returns.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection: Connection | None = connection

    def read(self, sock: Any, read_message: Callable[[], bool]) -> None:
        assert self.connection is not None
        self.connection._read_message = read_message

    def buffwrite(self, sock: Any, data: Any, send: Any, on_disconnect: Any) -> None:
        if self.connection is not None:
            self.connection.sender.send_control(bytes(data))

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
        #: Takes what is to be sent; `flush` writes it.
        self.sender = Sender(os.urandom)
        self._reader = Reader(raw, max_payload, self.sender.send_control)
        self._thread: int | None = None
        self._received: list[Received] = []
        self._app: Any = None
        self._dispatcher = _Dispatcher(self)
        self._read_message: Callable[[], bool] | None = None
        self._failure: BaseException | None = None

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
        """Close the socket without another word. Raises nothing."""
        # The application may have closed the descriptor itself, with `os.closerange` for example.
        with contextlib.suppress(OSError):
            self.raw.close()
        # Functions inside of the library hold each other, and through the app and its WebSocket all of this,
        # messages of many megabytes included. Leave nothing of it to the garbage collector.
        self._dispatcher.connection = None
        app, self._app, self._read_message = self._app, None, None
        if app is not None:
            if app.sock is not None:
                app.sock.sock = None
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
    def close_code(self) -> int | None:
        """The broker's close code; None if it gave none."""
        return self._reader.close_code

    def read(self) -> tuple[list[Received], int, bool]:
        """Reads what has come.

        Returns:
            What came; how many bytes were read; whether more may be there already.

        Raises:
            ConnectionLost: the connection is broken, or at its end.
        """
        assert threading.get_ident() == self._thread
        reader = self._reader
        if reader.has_frames:  # those that were left by the last turn come first
            count, more = 0, True
        else:
            count, more = reader.fill()
        reader.begin_turn()
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
        if reader.has_frames:
            more = True
        elif reader.at_end and not received and not reader.received_close:
            raise ConnectionLost("the broker's end of the connection closed without a word")
        return received, count, more

    def flush(self) -> int:
        """Write what the socket takes.

        Returns:
            How many bytes it took.

        Raises:
            ConnectionLost: the connection is broken.
        """
        assert threading.get_ident() == self._thread
        sender = self.sender
        total = 0
        while total <= TURN_LIMIT:
            data = sender.data_to_send()
            if not data:
                break
            try:
                count = self.raw.send(data)
            except WOULD_BLOCK:
                break
            except OSError as error:
                raise ConnectionLost(f"the connection broke: {type(error).__name__}: {error}") from None
            sender.data_sent(count)
            total += count
        return total

    def measure(self) -> SocketMeasured:
        """Return what the socket and the sender know of the delivery of what was written."""
        unacknowledged, silent_for = delivery(self.raw)
        return SocketMeasured(self.sender.written, unacknowledged, self.sender.pinged_to, silent_for)

    # --- what the library calls -----------------------------------------------------------------

    def _on_pong(self, app: Any, data: bytes) -> None:
        self._received.append(Ponged(bytes(data)))

    def _on_error(self, app: Any, error: BaseException) -> None:
        # Once it is open, whoever reads and writes is told by an exception of ours.
        if self._read_message is None and self._failure is None:
            self._failure = error
