"""One time budget for a wait of several steps."""

from __future__ import annotations

import time


class Deadline:
    """A moment on the monotonic clock, shared by all steps of one operation.

    Args:
        seconds: the whole budget; None means that there is no limit.
    """

    __slots__ = ("at",)

    def __init__(self, seconds: float | None) -> None:
        self.at = None if seconds is None else time.monotonic() + seconds

    def remaining(self) -> float | None:
        """Seconds that are left, never below 0; None if there is no limit."""
        return None if self.at is None else max(0.0, self.at - time.monotonic())

    def limit(self, seconds: float) -> float:
        """The shorter of `seconds` and what is left: the time that one step may take."""
        remaining = self.remaining()
        return seconds if remaining is None else min(seconds, remaining)

    @property
    def expired(self) -> bool:
        """Whether nothing is left of the budget."""
        return self.at is not None and time.monotonic() >= self.at
