"""Decide when to ping the peer of a connection, when to measure its socket, and when to give it up.

Only received bytes are a sign of life. Bytes that the local kernel has taken are not: it takes megabytes for
a peer that is gone. Each of three limits finds a fault that the other two miss (docs/protocol.md, "Heartbeat
and liveness")::

    ACKNOWLEDGEMENT_LIMIT  the peer's kernel acknowledges nothing: the network or the host is gone
    SILENCE_LIMIT          its kernel answers and the peer does not: it is stopped, or a proxy drops all
    STALL_LIMIT            it sends, but takes none of the waiting bytes: it has stopped reading

`Liveness` has no clock and does no I/O. The counters of the socket come as `SocketMeasured`. Only
`RunnerSession` calls this.
"""

from __future__ import annotations

from math import inf

from n8nrunner.protocol.events import SocketMeasured

#: Seconds without a received byte after which the peer is pinged.
PING_INTERVAL = 10.0
#: Seconds that the peer has from a ping to its next byte. An n8n whose event loop is busy for 25 s answers
#: in time.
SILENCE_LIMIT = 30.0
#: Seconds without an acknowledgement, while bytes are unacknowledged. While a live peer does not read, its
#: kernel answers window probes, whose gaps double: in 25 s, the longest is 12.8 s.
ACKNOWLEDGEMENT_LIMIT = 15.0
#: Seconds in which the peer takes none of the bytes that wait.
STALL_LIMIT = 30.0
#: Seconds between two measurements of the socket, while there is something to measure.
MEASURE_INTERVAL = 2.0


class Liveness:
    """The signs of life of one connection.

    Attributes:
        due: when `check` has to be called at the latest.
        received_at: when the last bytes arrived, or reading went on after a pause.
        pinged_at: when the unanswered ping was sent; None without one.
    """

    def __init__(self) -> None:
        self.begin(0.0)

    def begin(self, now: float) -> None:
        """Start over with a new connection."""
        self.received_at = self._progress_at = self._silent_since = now
        self._acknowledged = 0
        self._paused = False
        self._waiting_since: float | None = None
        self.pinged_at: float | None = None
        self.due = now + PING_INTERVAL

    def note_received(self, now: float) -> None:
        """Note that bytes of the peer have arrived."""
        self.received_at = now
        self.pinged_at = None

    def set_waiting(self, waiting: bool, paused: bool, now: float) -> None:
        """Note whether there are bytes that the local kernel does not take, and whether reading is paused.

        While it is paused, silence does not count.
        """
        if not waiting:
            self._waiting_since = None
        elif self._waiting_since is None:
            self._waiting_since = now
            self.due = min(self.due, now + MEASURE_INTERVAL)
        if self._paused and not paused:
            self.note_received(now)
            self.due = min(self.due, now + PING_INTERVAL)
        self._paused = paused

    def check(self, now: float) -> tuple[bool, bool]:
        """Return whether to ping the peer and whether to measure the socket, and set `due`."""
        ping = False
        if self.pinged_at is None and not self._paused and now >= self.received_at + PING_INTERVAL:
            self.pinged_at = self._silent_since = now
            ping = True
        measure = self._waiting_since is not None or (self.pinged_at is not None and not ping)
        if self.pinged_at is not None or self._waiting_since is not None:
            self.due = now + MEASURE_INTERVAL
        else:
            self.due = inf if self._paused else self.received_at + PING_INTERVAL
        return ping, measure

    def judge(self, measured: SocketMeasured, now: float) -> str | None:
        """Return why the peer is given up; None if nothing shows that it is dead."""
        acknowledged = measured.bytes_written - measured.unacknowledged
        if acknowledged > self._acknowledged:
            if self._acknowledged < measured.pinged_to:
                # On a slow line, megabytes are ahead of the ping. The wait for the answer begins when the
                # ping has arrived.
                self._silent_since = now
            self._acknowledged = acknowledged
            self._progress_at = now
        silent_for = measured.silent_for
        if measured.unacknowledged and silent_for is not None:
            if silent_for >= ACKNOWLEDGEMENT_LIMIT:
                return (
                    f"the broker's host has acknowledged nothing for {ACKNOWLEDGEMENT_LIMIT:g} s: "
                    "the network or the host is down"
                )
            self.due = min(self.due, now + ACKNOWLEDGEMENT_LIMIT - silent_for)
        if self._waiting_since is not None:
            end = max(self._waiting_since, self._progress_at) + STALL_LIMIT
            if now >= end:
                return f"the broker has stopped reading: it has taken nothing for {STALL_LIMIT:g} s"
            self.due = min(self.due, end)
        if self.pinged_at is not None and not self._paused:
            end = self._silent_since + SILENCE_LIMIT
            if now >= end:
                return f"the broker has been silent for {SILENCE_LIMIT:g} s after a ping"
            self.due = min(self.due, end)
        return None
