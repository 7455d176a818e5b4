"""Results that are sent, and the pings whose pongs prove that they have arrived.

The broker does not acknowledge results. But it reads everything in order, so a pong proves the arrival of
everything sent before its ping (docs/protocol.md, "How a task ends"). A result without a proof may be lost
with its connection, and is then reported.

`Receipts` numbers the messages of a connection from 1. Only `RunnerSession` calls this.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import NamedTuple

from n8nrunner.protocol.actions import ReportUndelivered, SendPing

#: Seconds between two pings, at least.
PING_SPACING = 0.1
#: Seconds after which a ping without a pong is repeated: a peer may answer only the latest of several pings.
PING_REPEAT = 10.0
#: Payloads of results without a proof are kept up to this many bytes for each link.
UNCONFIRMED_LIMIT = 64 * 1024 * 1024


class SentResult(NamedTuple):
    """A result without a proof. `payload` is None if the kept payloads would exceed `UNCONFIRMED_LIMIT`."""

    ordinal: int
    task_id: str
    task_type: str
    payload: bytes | None
    failed: bool
    function: str | None = None  #: as `HandlerFinished` had it


class Receipts:
    """The results of one connection that no pong has proved."""

    def __init__(self) -> None:
        #: In the order in which they were sent.
        self.results: deque[SentResult] = deque()
        self._kept_bytes = 0
        # The last message before the ping that waits for its pong; None without such a ping.
        self._covered: int | None = None
        self._pinged_at = 0.0

    def begin(self, now: float) -> None:
        """Start over with a new connection."""
        self._covered = None
        self._pinged_at = now

    def add(
        self,
        ordinal: int,
        task_id: str,
        task_type: str,
        payload: bytes,
        failed: bool,
        function: str | None = None,
    ) -> None:
        """Add a result that was sent as message `ordinal`."""
        if self._kept_bytes + len(payload) > UNCONFIRMED_LIMIT:
            self.results.append(SentResult(ordinal, task_id, task_type, None, failed, function))
        else:
            self._kept_bytes += len(payload)
            self.results.append(SentResult(ordinal, task_id, task_type, payload, failed, function))

    def next_deadline(self, congested: bool) -> float:
        """Return when the next ping has to be sent; infinity if none has to.

        While a large message is being sent (`congested`), a ping that waits behind it is not repeated.
        """
        if not self.results:
            return inf
        if self._covered is None:
            return self._pinged_at + PING_SPACING
        return inf if congested else self._pinged_at + PING_REPEAT

    def ping(self, last_ordinal: int, now: float) -> SendPing:
        """Return a ping that follows the message `last_ordinal`."""
        self._covered = last_ordinal
        self._pinged_at = now
        return SendPing(str(last_ordinal))

    def confirm(self, payload: str) -> None:
        """Remove the results that a pong with this payload proves. It may answer an earlier ping."""
        if self._covered is None or not payload.isdecimal() or int(payload) > self._covered:
            return
        proved = int(payload)
        while self.results and self.results[0].ordinal <= proved:
            result = self.results.popleft()
            if result.payload is not None:
                self._kept_bytes -= len(result.payload)
        if proved == self._covered:
            self._covered = None

    def lose(self, started: int, clean: bool) -> list[ReportUndelivered]:
        """Forget all results of a connection that has ended, and report those that may not have arrived.

        `started` and `clean` are those of `ConnectionEnded`.
        """
        reports = [
            ReportUndelivered(task_id, task_type, payload, failed, ordinal > started, function)
            for ordinal, task_id, task_type, payload, failed, function in (() if clean else self.results)
        ]
        self.results.clear()
        self._kept_bytes = 0
        return reports
