"""Which log-ins and upgrades the broker allows, in the order of n8n's checks.

The sources are "Authentication" and "Upgrade" in docs/protocol.md. The time and random tokens are passed in.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import Callable, NamedTuple
from urllib.parse import parse_qs

from n8nrunner.broker.constants import BrokerConstants
from n8nrunner.protocol.messages import Json


class GrantTokens:
    """Grant tokens that work once, for `ttl` seconds. `new_token` never returns the same token twice."""

    def __init__(self, ttl: float, new_token: Callable[[], str]) -> None:
        self._ttl = ttl
        self._new_token = new_token
        self._expires: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._expires)

    def issue(self, now: float) -> str:
        """Return a new token, and forget those that are too old."""
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
        """Count one more request of a client, and return whether it may go on."""
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


class Access:
    """Checks secrets, grant tokens and rate limits. `path` is the base path, such as "/runners"."""

    def __init__(self, auth_token: str, path: str, constants: BrokerConstants, grants: GrantTokens) -> None:
        self._auth_token = auth_token.encode()
        self._upgrade_path = f"{path}/_ws"
        self._grants = grants
        #: The rate limit of log-ins, by the client's address.
        self.log_ins = FixedWindow(constants.auth_limit, constants.auth_window)
        self._upgrades = SlidingWindow(constants.upgrade_limit, constants.upgrade_window)
        #: Whether the broker is shutting down.
        self.stopping = False

    def log_in(self, members: Mapping[str, Json], now: float) -> tuple[int, dict[str, Json]]:
        """Check the members of a log-in's body, and issue a grant token if the secret is right.

        Return the status and the body of the answer.
        """
        token = members.get("token")
        if not isinstance(token, str):
            return 400, {"code": 400, "message": "invalid_type"}
        if not token:
            return 400, {"code": 400, "message": "too_small"}
        if not self._is_secret(token):
            return 403, {"code": 403, "message": "Forbidden"}
        return 200, {"data": {"token": self._grants.issue(now)}}

    def upgrade(self, path: str, query: str, authorization: str, now: float) -> str | int:
        """Return the runner's id, or the status of a refusal. Only the last check uses up the grant token."""
        if path != self._upgrade_path:
            return 404
        if not self._upgrades.ask(now):
            return 429
        if self.stopping:
            return 503
        ids = parse_qs(query, keep_blank_values=True).get("id", [])
        if len(ids) != 1 or not ids[0]:
            return 400
        grant = _bearer(authorization)
        if not grant:
            return 401
        if not self._grants.take(grant, now):
            return 403
        return ids[0]

    def may_submit(self, authorization: str) -> bool:
        """Return whether a header ``Authorization`` has the shared secret."""
        return self._is_secret(_bearer(authorization))

    def _is_secret(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(errors="surrogatepass"), self._auth_token)


def _bearer(authorization: str) -> str:
    """Return the token of a header ``Authorization: Bearer``, or an empty string."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
