"""A long line between two TUN devices: packets pass at a rate, after a delay, through a bounded queue.

    python -m tests.netns.line NEAR FAR MEGABITS MILLISECONDS

The caller moves the second device into a namespace after "ready" has been printed. Kernels without `netem`
have no other way to delay packets.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import sys
import time
from collections import deque

_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
#: Bytes that the queue of a direction holds at most, as a router's would.
_QUEUE = 256 * 1024


def tun(name: str) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return fd


class Direction:
    def __init__(self, source: int, target: int, rate: float, delay: float) -> None:
        self.source = source
        self._target = target
        self._rate = rate
        self._delay = delay
        self._free_at = 0.0  # when the last packet that waits has gone on the line
        self._packets: deque[tuple[float, bytes]] = deque()

    def take(self, now: float) -> None:
        packet = os.read(self.source, 65536)
        if max(0.0, self._free_at - now) * self._rate > _QUEUE:
            return  # the queue is full
        self._free_at = max(self._free_at, now) + len(packet) / self._rate
        self._packets.append((self._free_at + self._delay, packet))

    def give(self, now: float) -> float:
        """Passes on what is due, and returns when there is more to do."""
        while self._packets and self._packets[0][0] <= now:
            _, packet = self._packets.popleft()
            with contextlib.suppress(OSError):  # the device is not up yet
                os.write(self._target, packet)
        return self._packets[0][0] if self._packets else now + 60.0


def main() -> None:
    near, far, megabits, milliseconds = sys.argv[1:]
    one, other = tun(near), tun(far)
    print("ready", flush=True)
    rate, delay = float(megabits) * 1e6 / 8, float(milliseconds) / 1000
    directions = [Direction(one, other, rate, delay), Direction(other, one, rate, delay)]
    while True:
        now = time.monotonic()
        due = min(direction.give(now) for direction in directions)
        ready, _, _ = select.select([one, other], [], [], max(0.0, due - time.monotonic()))
        for direction in directions:
            if direction.source in ready:
                direction.take(time.monotonic())


if __name__ == "__main__":
    main()
