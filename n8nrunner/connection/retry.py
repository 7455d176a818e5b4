"""When a link tries again, and when it gives up: the one place that decides it.

The delays are `backoff`'s; its decorators cannot be used, because nothing can interrupt their sleep.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple

import backoff

from n8nrunner.protocol.failures import (
    AuthRefused,
    ConnectionLost,
    LinkFailure,
    NotABroker,
    RateLimited,
    Unreachable,
    UpgradeRefused,
)

#: Interval of the probes during an outage: full jitter up to this share of the outage so far ...
OUTAGE_SHARE = 0.05
#: ... within these limits, in seconds. A short outage is noticed at once, a long one costs n8n nothing.
PROBE_LEAST = 1.0
PROBE_MOST = 30.0
#: Runners that wait for the same broker come back spread over this time, in seconds.
HEALTHY_JITTER = 0.5
#: n8n takes five log-ins and five upgrades a second; who is refused waits at least this long.
RATE_LIMIT_WAIT = 1.0
#: After a refused token that was good before, or is good for other brokers: it has to be changed at one end.
REFUSED_WAIT = 30.0
#: The largest delay after other failures, in seconds.
MOST = 30.0
#: A connection that lasted this long resets the delays, in seconds.
GOOD_CONNECTION = 1.0
#: n8n's close code when it shuts down, which says nothing against the connection either.
SHUTDOWN_CODE = 1001
#: Seconds between two lines in the log about an outage with the same reason.
LOG_INTERVAL = 60.0


class Decision(NamedTuple):
    """The next step after a failure."""

    #: Seconds to wait; None to give up.
    delay: float | None
    #: Whether the next step is a probe.
    probe: bool = False
    #: Whether the grant token has not been used and is good for the next attempt.
    keep_grant: bool = False
    #: Whether it has to be logged, however often it has been.
    loud: bool = False


class Retry:
    """The memory of a link's failures."""

    def __init__(self) -> None:
        self.failures = 0
        self._outage_since: float | None = None
        #: When each reason of this outage was last logged.
        self._logged: dict[str, float] = {}
        self._delays = self._new_delays()

    def _new_delays(self) -> Generator[float, Any, None]:
        delays: Generator[float, Any, None] = backoff.expo(base=2, factor=0.5, max_value=MOST)
        next(delays)  # the first value is none: backoff primes its generators with it
        return delays

    def registered(self) -> None:
        """The broker has registered the runner: the outage is over."""
        self._outage_since = None
        self._logged.clear()
        self.failures = 0

    def is_news(self, reason: str, now: float) -> bool:
        """Return whether to log a reason, and count it as logged if so.

        A reason is logged once in `LOG_INTERVAL`, and a new reason at once.
        """
        self._logged = {text: at for text, at in self._logged.items() if now - at < LOG_INTERVAL}
        if reason in self._logged:
            return False
        self._logged[reason] = now
        return True

    def ended(self, reason: LinkFailure, seconds: float, tasks: int) -> None:
        """A connection has ended after `seconds` and so many tasks.

        The delays grow only while connections are closed at once: n8n may restart as often as it likes.
        """
        shut_down = isinstance(reason, ConnectionLost) and reason.code == SHUTDOWN_CODE
        if seconds >= GOOD_CONNECTION or tasks or shut_down:
            self._delays = self._new_delays()

    def healthy_delay(self) -> float:
        """Seconds from the first answer after an outage to the log-in."""
        return float(backoff.full_jitter(HEALTHY_JITTER))

    def decide(self, failure: LinkFailure, now: float, one_shot: bool, ever_registered: bool) -> Decision:
        """Retry or give up.

        Args:
            failure: what happened.
            now: on the monotonic clock.
            one_shot: whether there is only a grant token, which is good for one connection.
            ever_registered: whether this link has been registered before.
        """
        self.failures += 1
        if self._outage_since is None:
            self._outage_since = now
        if isinstance(failure, AuthRefused):
            return Decision(REFUSED_WAIT, loud=True) if ever_registered else Decision(None)
        if isinstance(failure, ConnectionLost):
            if one_shot:
                return Decision(None)
            # The first attempt after a good connection comes almost at once.
            return Decision(backoff.full_jitter(next(self._delays)))
        if isinstance(failure, RateLimited):
            return Decision(RATE_LIMIT_WAIT + backoff.full_jitter(RATE_LIMIT_WAIT), keep_grant=True)
        if isinstance(failure, UpgradeRefused):
            if one_shot and failure.is_n8ns and failure.status in (401, 403):
                return Decision(None)
            # n8n looks at the grant last, so most refusals have not used it up; a one-shot is all there is.
            return Decision(backoff.full_jitter(next(self._delays)), keep_grant=one_shot)
        if isinstance(failure, (Unreachable, NotABroker)):
            outage = now - self._outage_since
            interval = min(PROBE_MOST, max(PROBE_LEAST, OUTAGE_SHARE * outage))
            # A one-shot grant is still unused. Any other is fetched again, because n8n may have restarted.
            return Decision(
                backoff.full_jitter(interval), probe=isinstance(failure, Unreachable), keep_grant=one_shot
            )
        raise AssertionError(f"no rule for {type(failure).__name__}")
