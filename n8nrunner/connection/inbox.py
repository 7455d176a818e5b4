"""The only way into the links' thread: any thread appends, and wakes it if it sleeps."""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from typing import Any


class Inbox:
    """Events for links, each with the link that it is for.

    Any thread may call `post`; only the links' thread may use the other members. The links' thread sets
    `asleep` before its last look at `events`, so a thread that posts after that look wakes it. The first such
    thread resets `asleep`, because every wake-up is a system call that gives up the interpreter's lock.
    """

    __slots__ = ("_ends", "_receiver", "_sender", "asleep", "events", "is_closed")

    _receiver: socket.socket
    _sender: socket.socket

    def __init__(self) -> None:
        self.events: deque[tuple[Any, Any]] = deque()
        self.asleep = False
        #: Whether the thread has ended, so that no thread takes posted events.
        self.is_closed = False
        self._ends: tuple[socket.socket, ...] = ()

    def open(self) -> None:
        """Open the descriptors, before the links' thread starts. Events may be posted before.

        Raises:
            OSError: the process has no descriptor left.
        """
        self._ends = self._receiver, self._sender = socket.socketpair()
        for end in self._ends:
            end.setblocking(False)

    def post(self, link: Any, event: Any) -> None:
        """Append an event for a link. Never blocks."""
        self.events.append((link, event))
        if self.asleep:
            try:
                self.asleep = False  # one wake-up is enough
                self.wake()
            except BaseException:  # an asynchronous exception before the wake-up; nothing else would wake it
                self.wake()
                raise

    def wake(self) -> None:
        """End the thread's sleep."""
        try:  # noqa: SIM105 - a context manager costs as much as all the rest of this
            self._sender.send(b"w")
        except OSError:
            pass  # a full pipe wakes the thread as well, and a closed one has no thread left to wake

    def fileno(self) -> int:
        """Return the descriptor that is readable after a wake-up."""
        return self._receiver.fileno()

    def clear_wake_ups(self) -> None:
        """Read the wake-ups that made `fileno` readable."""
        try:  # noqa: SIM105 - as above
            self._receiver.recv(4096)
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Close the descriptors. Later events are stored and ignored."""
        self.is_closed = True
        for end in self._ends:
            with contextlib.suppress(OSError):  # the application may have closed the descriptor itself
                end.close()
