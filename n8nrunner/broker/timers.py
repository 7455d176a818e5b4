"""Deadlines with the function to call at each."""

from __future__ import annotations

import heapq
from typing import Callable

#: Cancelled timers that may stay in the heap, if they are less than half of it.
_MAX_CANCELLED = 64


class Timer:
    """One deadline, in seconds of the caller's clock."""

    __slots__ = ("action", "at", "live")

    def __init__(self, at: float, action: Callable[[], None]) -> None:
        self.at = at
        self.action = action
        self.live = True


class Timers:
    """Timers, soonest first. Of timers for the same moment, the first one set comes first."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._sequence = 0
        self._cancelled = 0

    def __len__(self) -> int:
        return len(self._heap)

    def set(self, at: float, action: Callable[[], None]) -> Timer:
        """Return a new timer, which calls nothing by itself: `pop_due` returns it."""
        timer = Timer(at, action)
        self._sequence += 1
        heapq.heappush(self._heap, (at, self._sequence, timer))
        return timer

    def cancel(self, timer: Timer | None) -> None:
        """Cancel a timer. Do nothing if it is None, has been cancelled, or was returned by `pop_due`."""
        if timer is not None and timer.live:
            timer.live = False
            self._cancelled += 1
            # Timeouts are long and tasks are short: without this, the heap would be full of cancelled timers.
            if self._cancelled > _MAX_CANCELLED and self._cancelled > len(self._heap) // 2:
                self._heap = [entry for entry in self._heap if entry[2].live]
                heapq.heapify(self._heap)
                self._cancelled = 0

    def next(self) -> float | None:
        """Return the moment of the soonest timer, or None if there is none."""
        while self._heap and not self._heap[0][2].live:
            heapq.heappop(self._heap)
            self._cancelled -= 1
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> Timer | None:
        """Remove and return the soonest timer whose moment has come, or return None."""
        at = self.next()
        if at is None or at > now:
            return None
        timer = heapq.heappop(self._heap)[2]
        timer.live = False
        return timer
