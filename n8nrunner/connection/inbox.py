"""The only way into a link's thread: any thread appends, and wakes it if it sleeps."""

from __future__ import annotations

import contextlib
import select
import socket
from collections import deque
from typing import Any, Deque


class Inbox:
    """Events for one link's thread.

    `post` is for any thread; everything else is for the link's thread alone. `asleep` has to be set before
    the last look at `events`, so that whoever posts after that look wakes the thread.
    """

    __slots__ = ("_receiver", "_sender", "asleep", "events")

    def __init__(self) -> None:
        self.events: Deque[Any] = deque()
        self.asleep = False
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)

    def post(self, event: Any) -> None:
        """Appends an event. Never blocks."""
        self.events.append(event)
        if self.asleep:
            # A full pipe wakes the thread as well, and a closed one has no thread left to wake.
            with contextlib.suppress(BlockingIOError, OSError):
                self._sender.send(b"w")

    def fileno(self) -> int:
        """Readable when somebody has woken the thread."""
        return self._receiver.fileno()

    def clear_wake_ups(self) -> None:
        """Takes what made `fileno` readable."""
        with contextlib.suppress(BlockingIOError):
            self._receiver.recv(4096)

    def wait(self, timeout: float) -> None:
        """Sleeps until there is an event, at most `timeout` seconds."""
        self.asleep = True
        if not self.events:
            select.select([self._receiver], [], [], max(0.0, timeout))
        self.asleep = False
        self.clear_wake_ups()

    def close(self) -> None:
        """Closes the descriptors; events may still be posted, and are left there."""
        self._receiver.close()
        self._sender.close()
