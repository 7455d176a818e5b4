"""Functions of the operating system for sockets: keep-alive, delivery, and copies in a child process.

Keep-alive and `delivery` show whether a peer is dead.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
import weakref

#: An idle connection is probed after `KEEP_ALIVE_IDLE` seconds, then every `KEEP_ALIVE_INTERVAL` seconds.
#: `KEEP_ALIVE_PROBES` probes without an answer end it, so a dead host is noticed after 13 s. Windows sends
#: ten probes, which take 34 s.
KEEP_ALIVE_IDLE = 4
KEEP_ALIVE_INTERVAL = 3
KEEP_ALIVE_PROBES = 3

#: The beginning of Linux's `struct tcp_info`, up to `tcpi_last_ack_recv`: eight fields of one byte, then
#: fields of four. Later kernels add fields behind it.
_TCP_INFO = struct.Struct("=8B13I")


#: All sockets to brokers and proxies that this process has opened and still uses.
_opened: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def remember(opened: socket.socket) -> None:
    """Remember an open socket for `close_copies`."""
    _opened.add(opened)


def close_copies() -> None:
    """Close this process's copies of the remembered sockets, in a child process.

    An attempt to connect that is under way runs on a thread of the parent, so nothing else in the child knows
    its socket. The parent and the peer do not notice: no socket is shut down, and no TLS goodbye is sent.
    """
    for opened in list(_opened):
        # `close` would wait for files made from the socket. A thread of the parent may hold their locks.
        descriptor = opened.detach()
        if descriptor >= 0:
            os.close(descriptor)
    _opened.clear()


def keep_alive(raw: socket.socket) -> None:
    """Let the kernel probe the connection while it is idle, with the options that the system has."""
    # Some sandboxes refuse single options. The pings of the protocol remain then.
    with contextlib.suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "SIO_KEEPALIVE_VALS"):  # Windows
        with contextlib.suppress(OSError):
            raw.ioctl(  # type: ignore[attr-defined, unused-ignore]
                socket.SIO_KEEPALIVE_VALS, (1, KEEP_ALIVE_IDLE * 1000, KEEP_ALIVE_INTERVAL * 1000)
            )
        return
    # macOS has another name for the option of the idle time. Python has it since 3.10.
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

    def delivery(raw: socket.socket) -> tuple[int, float | None]:
        """Return how much of the data written to the socket has been delivered.

        The first value is the number of bytes in the kernel that the peer's kernel has not acknowledged, 0 if
        unknown; the second the seconds since it acknowledged anything, None if unknown.
        """
        try:
            (unacknowledged,) = struct.unpack("i", fcntl.ioctl(raw.fileno(), termios.TIOCOUTQ, b"\0" * 4))
            info = raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
            last_acknowledgement = _TCP_INFO.unpack(info)[-1]
        except (OSError, ValueError, struct.error):  # closed, or a kernel that offers less
            return 0, None
        return unacknowledged, last_acknowledgement / 1000

else:

    def delivery(raw: socket.socket) -> tuple[int, float | None]:
        """Return that the delivery is unknown on this system."""
        return 0, None
