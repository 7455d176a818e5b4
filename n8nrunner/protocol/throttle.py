"""Bound how many similar log lines a peer can cause."""

from __future__ import annotations


class Throttle:
    """Admit the first of many similar log lines, and count the others.

    Args:
        burst: lines admitted in an interval.
        interval: its length in seconds.
    """

    def __init__(self, burst: int = 5, interval: float = 60.0) -> None:
        #: Lines left out since the last one that was admitted.
        self.left_out = 0
        self._burst = burst
        self._interval = interval
        self._admitted = 0
        self._until = 0.0

    def admit(self, now: float) -> int | None:
        """Return the number of lines left out before this one, or None to leave this one out."""
        if now >= self._until:
            self._until = now + self._interval
            self._admitted = 0
        if self._admitted == self._burst:
            self.left_out += 1
            return None
        self._admitted += 1
        left_out, self.left_out = self.left_out, 0
        return left_out
