"""The limits and delays of n8n's broker."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BrokerConstants:
    """The limits and delays, in seconds and bytes. The defaults are n8n's own."""

    acceptance_timeout: float = 2.0  #: from accepting an offer to the runner's answer.
    settings_timeout: float = 2.0  #: from `TaskReady` to the requester's settings.
    request_timeout: float = 60.0  #: how long a request waits for a runner.
    request_restarts: int = 3  #: how often a deferral or a missed acceptance restarts that wait (2.40 only).
    task_timeout: float = 300.0  #: from the forwarded settings to the result.
    #: between two pings; a runner that has not answered the last one is dropped.
    heartbeat_interval: float = 30.0
    #: how long a grant token can be used; None for what the version of n8n has.
    grant_ttl: float | None = None
    auth_limit: int = 5  #: requests for a grant token in one `auth_window` from one address.
    auth_window: float = 1.0  #: length of the fixed window of that limit.
    upgrade_limit: int = 5  #: WebSocket upgrades in any `upgrade_window`, over all clients.
    upgrade_window: float = 1.0  #: length of the sliding window of that limit.
    max_payload: int = 1024 * 1024 * 1024  #: longest message from a runner, in bytes.
    max_body: int = 16 * 1024 * 1024  #: longest body of an HTTP request, in bytes.
    #: how long `stop()` waits for tasks (n8n: 0.8 of its graceful shutdown timeout).
    drain_timeout: float = 24.0
    missed_limit: int = 3  #: missed acceptances in a row after which a runner is closed (2.40 only).
    #: shortest time between two expired requests that close a silent runner (2.40 only).
    silence_window: float = 2.0
    close_timeout: float = 30.0  #: how long the broker waits for a peer's close frame.

    def __post_init__(self) -> None:
        for name in ("acceptance_timeout", "settings_timeout", "request_timeout", "task_timeout",
                     "heartbeat_interval"):  # fmt: skip
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0 seconds, got {getattr(self, name)!r}")
        for name in ("max_payload", "max_body", "auth_limit", "upgrade_limit", "missed_limit"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)!r}")
