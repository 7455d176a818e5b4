"""Delays and random numbers for the retry policy, from the package `backoff`.

Its decorators are not used, because nothing can interrupt their sleep.
"""

from __future__ import annotations

from collections.abc import Iterator

import backoff

from n8nrunner.protocol.retry import MOST


def growing_delays() -> Iterator[float]:
    """Return the upper limits of the delays between attempts, in seconds."""
    delays: Iterator[float] = backoff.expo(base=2, factor=0.5, max_value=MOST)
    next(delays)  # the first value is None: `backoff` primes its generators with it
    return delays


def jitter() -> float:
    """Return a random number in [0, 1]."""
    return float(backoff.full_jitter(1.0))
