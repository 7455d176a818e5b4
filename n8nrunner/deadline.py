"""A time budget for an operation of several steps."""

from __future__ import annotations

import time


class Deadline:
    """The end of an operation, on the monotonic clock. All steps of the operation share it.

    Args:
        seconds: the whole budget; None for no limit.
    """

    __slots__ = ("at",)

    def __init__(self, seconds: float | None) -> None:
        self.at = None if seconds is None else time.monotonic() + seconds

    def remaining(self) -> float | None:
        """Return the seconds left, never below 0; None for no limit."""
        return None if self.at is None else max(0.0, self.at - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether the budget is used up."""
        return self.at is not None and time.monotonic() >= self.at
