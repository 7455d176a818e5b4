"""Which log-ins and upgrades the broker allows, in the order of n8n's checks.

The sources are "Authentication" and "Upgrade" in docs/protocol.md.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from urllib.parse import parse_qs

from n8nrunner.broker.constants import BrokerConstants
from n8nrunner.broker.limits import FixedWindow, GrantTokens, SlidingWindow
from n8nrunner.protocol.messages import Json


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
