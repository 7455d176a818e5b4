"""Grant tokens and rate limits. The time and random tokens are passed in."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Callable, NamedTuple


class GrantTokens:
    """Grant tokens that work once, and for a limited time.

    Args:
        ttl: how long a token can be used, in seconds.
        new_token: returns a token that it has never returned before.
    """

    def __init__(self, ttl: float, new_token: Callable[[], str]) -> None:
        self._ttl = ttl
        self._new_token = new_token
        self._expires: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._expires)

    def issue(self, now: float) -> str:
        while self._expires and next(iter(self._expires.values())) <= now:
            self._expires.popitem(last=False)
        token = self._new_token()
        self._expires[token] = now + self._ttl
        return token

    def take(self, token: str, now: float) -> bool:
        """Use up a token. Return False if it is unknown, used or too old."""
        expires = self._expires.pop(token, None)
        return expires is not None and now < expires


class Allowance(NamedTuple):
    """The answer of a fixed window to one request."""

    allowed: bool  #: whether the request may go on.
    remaining: int  #: how many more may in this window.
    resets_in: float  #: seconds until the window ends.


class FixedWindow:
    """At most `limit` requests of one client in each window of `window` seconds. Refused ones count too."""

    def __init__(self, limit: int, window: float) -> None:
        self._limit = limit
        self._window = window
        self._clients: dict[str, tuple[float, int]] = {}

    def __len__(self) -> int:
        return len(self._clients)

    def ask(self, client: str, now: float) -> Allowance:
        if len(self._clients) > 1000:
            self._clients = {name: entry for name, entry in self._clients.items() if entry[0] > now}
        ends, count = self._clients.get(client, (0.0, 0))
        if ends <= now:
            ends, count = now + self._window, 0
        count += 1
        self._clients[client] = (ends, count)
        return Allowance(count <= self._limit, max(0, self._limit - count), ends - now)


class SlidingWindow:
    """At most `limit` requests of all clients in any `window` seconds. Refused ones do not count."""

    def __init__(self, limit: int, window: float) -> None:
        self._limit = limit
        self._window = window
        self._times: deque[float] = deque()

    def ask(self, now: float) -> bool:
        """Return whether one more request may go on, and count it if so."""
        while self._times and now - self._times[0] >= self._window:
            self._times.popleft()
        if len(self._times) >= self._limit:
            return False
        self._times.append(now)
        return True
