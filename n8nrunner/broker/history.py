"""Counts and events of one broker, over all of its runs."""

from __future__ import annotations

import logging
import threading
from collections import deque

from n8nrunner import logs
from n8nrunner.broker.counts import BrokerCounts, BrokerEvent
from n8nrunner.broker.matching import Matching

logger = logs.Logger("n8nrunner.broker")

#: Kinds of events that are logged as INFO. The others are logged as DEBUG.
_NOTEWORTHY = {
    "registered", "evicted", "disconnected", "heartbeat_missed", "kicked", "missed", "expired", "mismatched",
    "timed_out", "malformed", "refused",
}  # fmt: skip
_EVENTS_KEPT = 10_000


class History:
    """Counts and events. Any thread may read them while it holds `changed`."""

    def __init__(self) -> None:
        #: Held while the matching changes, and notified afterwards.
        self.changed = threading.Condition()
        #: The totals of `BrokerCounts`, which a matching changes in place.
        self.totals: dict[str, int] = {}
        self._matching: Matching | None = None
        self.events: deque[BrokerEvent] = deque(maxlen=_EVENTS_KEPT)
        # Level, kind and details of events that are not logged yet; for the run's thread only.
        self._unlogged: deque[tuple[int, str, str]] = deque()

    def set_matching(self, matching: Matching | None) -> None:
        """Take the counts from a matching, or from the totals alone if there is none."""
        with self.changed:
            self._matching = matching
            self.changed.notify_all()

    def counts(self) -> BrokerCounts:
        """Return the current counts. The caller holds `changed`."""
        return BrokerCounts(**self.totals) if self._matching is None else self._matching.counts()

    def record(self, event: BrokerEvent) -> None:
        """Keep an event. The caller, which is the matching, runs with `changed` held."""
        self.events.append(event)
        level = logging.INFO if event.kind in _NOTEWORTHY else logging.DEBUG
        if logger.isEnabledFor(level):
            details = " ".join(part for part in (event.runner_id, event.task_id, event.detail) if part)
            self._unlogged.append((level, event.kind, details))

    def log(self) -> None:
        """Log the events since the last call. No lock is held: a logging handler may wait for anything."""
        while self._unlogged:
            level, kind, details = self._unlogged.popleft()
            logger.log(level, "%s %s", kind, details)
