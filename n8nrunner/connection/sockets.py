"""What the operating system offers for sockets: keep-alive, numbers, and copies in a child process.

Keep-alive and the numbers serve to notice a dead peer.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
import weakref
from http.client import HTTPConnection
from typing import NamedTuple

#: An idle connection is probed after this many seconds, then at this interval; this many probes without an
#: answer end it. A dead host is noticed after 13 s. Windows sends ten probes, which take 34 s.
KEEP_ALIVE_IDLE = 4
KEEP_ALIVE_INTERVAL = 3
KEEP_ALIVE_PROBES = 3

#: The beginning of Linux's `struct tcp_info`, up to `tcpi_last_ack_recv`: eight fields of one byte, then
#: fields of four. Later kernels add fields behind it.
_TCP_INFO = struct.Struct("=8B13I")


class Delivery(NamedTuple):
    """How far what was written has come.

    Args:
        unacknowledged: bytes in the kernel that the peer's kernel has not acknowledged; 0 if unknown.
        silent_for: seconds since the peer's kernel acknowledged anything; None if unknown.
    """

    unacknowledged: int
    silent_for: float | None


_UNKNOWN = Delivery(0, None)


#: All sockets to brokers and proxies that this process has opened and still uses, and connections of
#: `http.client`, which have theirs in the attribute `sock`.
_opened: weakref.WeakSet[socket.socket | HTTPConnection] = weakref.WeakSet()


def note(opened: socket.socket | HTTPConnection) -> None:
    """Remember an open socket, or a connection that may open one, for `close_copies`."""
    _opened.add(opened)


def close_copies() -> None:
    """Close this process's copies of the noted sockets, in a child process.

    An attempt to connect that is under way runs on a thread of the parent, so nothing else in the child knows
    its socket. The parent and the peer do not notice: no socket is shut down, and no TLS goodbye is sent.
    """
    for opened in list(_opened):
        raw = opened if isinstance(opened, socket.socket) else opened.sock
        if raw is None:  # not connected yet
            continue
        # `close` would wait for the files made of the socket, whose locks a thread of the parent's may hold.
        descriptor = raw.detach()
        if descriptor >= 0:
            os.close(descriptor)
    _opened.clear()


def keep_alive(raw: socket.socket) -> None:
    """Let the kernel probe the connection while it is idle, as far as the system offers it."""
    # Some sandboxes refuse single options. The pings of the protocol are left then.
    with contextlib.suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "SIO_KEEPALIVE_VALS"):  # Windows
        with contextlib.suppress(OSError):
            raw.ioctl(  # type: ignore[attr-defined, unused-ignore]
                socket.SIO_KEEPALIVE_VALS, (1, KEEP_ALIVE_IDLE * 1000, KEEP_ALIVE_INTERVAL * 1000)
            )
        return
    # On macOS the option for the idle time has another name, which Python has since 3.10.
    idle = getattr(socket, "TCP_KEEPIDLE", 0x10 if sys.platform == "darwin" else None)
    options = (
        (idle, KEEP_ALIVE_IDLE),
        (getattr(socket, "TCP_KEEPINTVL", None), KEEP_ALIVE_INTERVAL),
        (getattr(socket, "TCP_KEEPCNT", None), KEEP_ALIVE_PROBES),
    )
    for option, value in options:
        if option is not None:
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.IPPROTO_TCP, option, value)


if sys.platform == "linux":
    import fcntl
    import termios

    def delivery(raw: socket.socket) -> Delivery:
        """Return how far what was written to the socket has come."""
        try:
            (unacknowledged,) = struct.unpack("i", fcntl.ioctl(raw.fileno(), termios.TIOCOUTQ, b"\0" * 4))
            info = raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
            last_acknowledgement = _TCP_INFO.unpack(info)[-1]
        except (OSError, ValueError, struct.error):  # closed, or a kernel that offers less
            return _UNKNOWN
        return Delivery(unacknowledged, last_acknowledgement / 1000)

else:

    def delivery(raw: socket.socket) -> Delivery:
        """Return how far what was written to the socket has come; unknown on this system."""
        return _UNKNOWN
