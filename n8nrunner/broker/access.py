"""Which log-ins and upgrades the broker allows, in the order of n8n's checks.

The sources are "Authentication" and "Upgrade" in docs/protocol.md.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qs

from n8nrunner.broker.constants import BrokerConstants
from n8nrunner.broker.limits import Allowance, FixedWindow, GrantTokens, SlidingWindow
from n8nrunner.protocol.messages import Json


class LogIn(NamedTuple):
    """The answer to a log-in."""

    status: int
    body: dict[str, Json]


class Upgrade(NamedTuple):
    """The answer to an upgrade: status 101 with the runner's id, or the status of a refusal."""

    status: int
    runner_id: str = ""


class Access:
    """Checks secrets, grant tokens and rate limits. `path` is the base path, such as "/runners"."""

    def __init__(self, auth_token: str, path: str, constants: BrokerConstants, grants: GrantTokens) -> None:
        self._auth_token = auth_token.encode()
        self._upgrade_path = f"{path}/_ws"
        self._grants = grants
        self._log_ins = FixedWindow(constants.auth_limit, constants.auth_window)
        self._upgrades = SlidingWindow(constants.upgrade_limit, constants.upgrade_window)
        #: Whether the broker is shutting down.
        self.stopping = False

    def count_log_in(self, client: str, now: float) -> Allowance:
        """Count a log-in from an address.

        n8n does this after it has parsed the body. Here it comes first, because parsing costs far more.
        """
        return self._log_ins.ask(client, now)

    def log_in(self, members: Mapping[str, Json], now: float) -> LogIn:
        """Check the members of a log-in's body, and issue a grant token if the secret is right."""
        token = members.get("token")
        if not isinstance(token, str):
            return LogIn(400, {"code": 400, "message": "invalid_type"})
        if not token:
            return LogIn(400, {"code": 400, "message": "too_small"})
        if not self._is_secret(token):
            return LogIn(403, {"code": 403, "message": "Forbidden"})
        return LogIn(200, {"data": {"token": self._grants.issue(now)}})

    def upgrade(self, path: str, query: str, authorization: str, now: float) -> Upgrade:
        """Check an upgrade. Only the last check uses up the grant token."""
        if path != self._upgrade_path:
            return Upgrade(404)
        if not self._upgrades.ask(now):
            return Upgrade(429)
        if self.stopping:
            return Upgrade(503)
        ids = parse_qs(query, keep_blank_values=True).get("id", [])
        if len(ids) != 1 or not ids[0]:
            return Upgrade(400)
        grant = _bearer(authorization)
        if not grant:
            return Upgrade(401)
        if not self._grants.take(grant, now):
            return Upgrade(403)
        return Upgrade(101, ids[0])

    def may_submit(self, authorization: str) -> bool:
        """Return whether a header ``Authorization`` has the shared secret."""
        return self._is_secret(_bearer(authorization))

    def _is_secret(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(errors="surrogatepass"), self._auth_token)


def _bearer(authorization: str) -> str:
    """Return the token of a header ``Authorization: Bearer``, or an empty string."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
