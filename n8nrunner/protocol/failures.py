"""Failures of attempts and connections: one exception for each rule of `Retry`."""

from __future__ import annotations

from enum import Enum


class Problem(Enum):
    """The observation behind a failure, from which `n8nrunner check` names the causes."""

    UNEXPECTED = "an error without a rule of its own"
    UNKNOWN_NAME = "a host's name has no address"
    REFUSED = "the port refuses connections"
    TIMED_OUT = "no answer in time"
    NETWORK = "the system cannot reach the address"
    CLOSED = "the connection ended without an answer"
    NOT_HTTP = "the answer is not HTTP"
    NOT_TLS = "the port does not speak TLS"
    ONLY_TLS = "the port speaks only TLS"
    CERTIFICATE = "the certificate cannot be verified"
    TLS = "the TLS handshake failed in another way"
    UNUSABLE_PROXY = "the proxy of the environment cannot be used"
    TUNNEL_REFUSED = "the proxy does not connect to the broker"
    UNAVAILABLE = "HTTP 500 or above"
    REDIRECT = "a redirect"
    EDITOR = "n8n's editor answers instead of the task broker"
    OTHER_PATH = "the task broker has another base path"
    OTHER_SERVER = "an answer that a task broker does not give"
    TOKEN_REFUSED = "the broker refused the shared secret"
    RATE_LIMITED = "too many log-ins or upgrades in this second"
    GRANT_REFUSED = "the broker refused a grant token at the upgrade"
    NOT_UPGRADED = "the upgrade was refused for another reason"
    CONNECTION_LOST = "an open WebSocket ended"


class LinkFailure(Exception):
    """Base of these classes. The text is for people and contains no token.

    Attributes:
        problem: the observation. Only `n8nrunner check` reads it; retries depend on the class.
    """

    problem = Problem.UNEXPECTED

    def __init__(self, message: str, problem: Problem | None = None) -> None:
        super().__init__(message)
        if problem is not None:
            self.problem = problem


class Unreachable(LinkFailure):
    """n8n is down or starting, or the attempt failed on this side: its settings, or an unexpected error."""


class NotABroker(LinkFailure):
    """An answer that a task broker does not give: a wrong address, or a proxy in between."""


class AuthRefused(LinkFailure):
    """The broker does not know the shared secret."""

    problem = Problem.TOKEN_REFUSED


class RateLimited(LinkFailure):
    """The broker has refused a log-in or an upgrade, because it has had too many in this second."""

    problem = Problem.RATE_LIMITED


class UpgradeRefused(LinkFailure):
    """The WebSocket was refused.

    Attributes:
        status: the HTTP status; 0 if the answer is not HTTP.
        is_n8ns: whether the answer has the shape of n8n's own refusals; others say nothing about the grant.
    """

    def __init__(self, message: str, status: int, is_n8ns: bool = True) -> None:
        is_grant = is_n8ns and status == 403
        super().__init__(message, Problem.GRANT_REFUSED if is_grant else Problem.NOT_UPGRADED)
        self.status = status
        self.is_n8ns = is_n8ns


class ConnectionLost(LinkFailure):
    """An open WebSocket ended.

    Attributes:
        code: the broker's close code; None if it sent none.
    """

    problem = Problem.CONNECTION_LOST

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code
