"""The only way into the links' thread: any thread posts an event, and wakes the thread if it sleeps."""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from typing import Generic, TypeVar

_Link = TypeVar("_Link")
_Event = TypeVar("_Event")


class Inbox(Generic[_Link, _Event]):
    """Events, each with the link that it is for.

    `post` is for any thread; the links' thread alone waits for events. It sets `asleep` before its last look
    at `events`, so that a thread that posts after that look wakes it. The first one to do so resets `asleep`,
    because every wake-up is a system call that gives up the interpreter's lock.
    """

    def __init__(self) -> None:
        self.events: deque[tuple[_Link, _Event]] = deque()
        self.asleep = False
        #: Whether the thread has ended, so that posted events stay here.
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

    def post(self, link: _Link, event: _Event) -> None:
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
        """Wake the thread."""
        try:  # noqa: SIM105 - a context manager costs as much as all the rest of this
            self._sender.send(b"w")
        except OSError:
            pass  # a full pipe wakes the thread as well, and a closed one has no thread left to wake

    def fileno(self) -> int:
        """Return a descriptor that is readable when another thread has woken this one."""
        return self._receiver.fileno()

    def clear_wake_ups(self) -> None:
        """Remove the bytes that made the descriptor readable."""
        try:  # noqa: SIM105 - as above
            self._receiver.recv(4096)
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Close the descriptors. Events may still be posted, and stay in `events`."""
        self.is_closed = True
        for end in self._ends:
            with contextlib.suppress(OSError):  # the application may have closed the descriptor itself
                end.close()
