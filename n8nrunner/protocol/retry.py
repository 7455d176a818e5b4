"""Decide when a link tries again after a failure, and when it gives up (docs/protocol.md, "Upgrade").

Time and random numbers are arguments, and so are the growing delays, which come from the package `backoff`.
Only `LinkMachine` calls this.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Callable, NamedTuple

from n8nrunner.protocol import failures

#: Upper limit of the interval between probes, as a share of the outage so far.
OUTAGE_SHARE = 0.05
#: The least and the greatest such limit, in seconds.
PROBE_LEAST = 1.0
PROBE_MOST = 30.0
#: Runners that wait for the same broker reconnect within this time, in seconds, not all at once.
HEALTHY_JITTER = 0.5
#: n8n accepts five log-ins and five upgrades a second. A runner that is refused waits at least this long.
RATE_LIMIT_WAIT = 1.0
#: Delay after a refused token, if the runner does not end, in seconds.
REFUSED_WAIT = 30.0
#: The largest delay after other failures, in seconds.
MOST = 30.0
#: A connection that lasted this long resets the delays, in seconds.
GOOD_CONNECTION = 1.0
#: n8n's close code when it shuts down. Such a connection resets the delays as well.
SHUTDOWN_CODE = 1001
#: Seconds between two log lines about an outage with the same reason.
LOG_INTERVAL = 60.0


class Decision(NamedTuple):
    """The next step after a failure."""

    delay: float | None  #: seconds to wait; None to give up
    probe: bool = False  #: whether the next step is a probe rather than an attempt to connect
    keep_grant: bool = False  #: whether to use the grant token for the next attempt
    loud: bool = False  #: whether to log the failure as an error, however often it was logged before


class Retry:
    """The failures of one link.

    Args:
        one_shot: whether the runner has no secret, only a grant token, which is valid for one connection.
        new_delays: begins the series of upper limits of the delays between attempts, in seconds.
    """

    def __init__(self, one_shot: bool, new_delays: Callable[[], Iterator[float]]) -> None:
        #: Failures since the last registration.
        self.failures = 0
        self._one_shot = one_shot
        self._new_delays = new_delays
        self._delays = new_delays()
        self._was_registered = False
        self._outage_since: float | None = None
        #: The moment at which each reason was last logged.
        self._logged: dict[str, float] = {}

    def note_registered(self) -> None:
        """Note that the broker has registered the runner: the outage is over."""
        self._was_registered = True
        self._outage_since = None
        self._logged.clear()
        self.failures = 0

    def should_log(self, reason: str, now: float) -> bool:
        """Return whether to log a reason, and count it as logged if so.

        A reason is logged once in `LOG_INTERVAL`, and a new reason at once.
        """
        self._logged = {text: at for text, at in self._logged.items() if now - at < LOG_INTERVAL}
        if reason in self._logged:
            return False
        self._logged[reason] = now
        return True

    def note_ended(self, reason: failures.LinkFailure, seconds: float, tasks: int) -> None:
        """Note the end of a connection that lasted `seconds` and had `tasks` accepted offers.

        A connection that was of use starts the delays from the beginning.
        """
        shut_down = isinstance(reason, failures.ConnectionLost) and reason.code == SHUTDOWN_CODE
        if seconds >= GOOD_CONNECTION or tasks or shut_down:
            self._delays = self._new_delays()

    def decide(self, failure: failures.LinkFailure, now: float, jitter: float) -> Decision:
        """Return the next step after a failure. `jitter` is a random number in [0, 1]."""
        self.failures += 1
        if self._outage_since is None:
            self._outage_since = now
        if isinstance(failure, failures.AuthRefused):
            return Decision(REFUSED_WAIT, loud=True) if self._was_registered else Decision(None)
        if isinstance(failure, failures.ConnectionLost):
            # The first attempt after a good connection comes almost at once.
            return Decision(None) if self._one_shot else Decision(jitter * next(self._delays))
        if isinstance(failure, failures.RateLimited):
            return Decision(RATE_LIMIT_WAIT + jitter * RATE_LIMIT_WAIT, keep_grant=True)
        if isinstance(failure, failures.UpgradeRefused):
            if self._one_shot and failure.is_n8ns and failure.status in (401, 403):
                return Decision(None)
            # n8n checks the grant last, so most refusals leave it unused; a one-shot cannot be replaced.
            return Decision(jitter * next(self._delays), keep_grant=self._one_shot)
        if isinstance(failure, (failures.Unreachable, failures.NotABroker)):
            outage = now - self._outage_since
            interval = min(PROBE_MOST, max(PROBE_LEAST, OUTAGE_SHARE * outage))
            # A one-shot grant may be unused. Any other is fetched again, because n8n may have restarted.
            is_probe = isinstance(failure, failures.Unreachable)
            return Decision(jitter * interval, probe=is_probe, keep_grant=self._one_shot)
        raise AssertionError(f"no rule for {type(failure).__name__}")
