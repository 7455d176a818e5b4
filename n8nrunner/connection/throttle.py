"""Bound how many similar log lines a peer can cause."""

from __future__ import annotations


class Throttle:
    """Let the first of many similar log lines through, and count the others.

    Args:
        burst: lines that an interval may have.
        interval: its length in seconds.
    """

    __slots__ = ("_admitted", "_burst", "_interval", "_until", "left_out")

    def __init__(self, burst: int = 5, interval: float = 60.0) -> None:
        #: Lines left out since the last one that was let through.
        self.left_out = 0
        self._burst = burst
        self._interval = interval
        self._admitted = 0
        self._until = 0.0

    def admit(self, now: float) -> int | None:
        """Return how many lines were left out before this one; None if this one is to be left out."""
        if now >= self._until:
            self._until = now + self._interval
            self._admitted = 0
        if self._admitted == self._burst:
            self.left_out += 1
            return None
        self._admitted += 1
        left_out, self.left_out = self.left_out, 0
        return left_out
