"""Failures of attempts and connections: one exception for each rule of `Retry`."""

from __future__ import annotations


class LinkFailure(Exception):
    """Base of these classes. The text is for people and contains no token."""


class Unreachable(LinkFailure):
    """n8n is down or starting, or the attempt failed on this side: its settings, or an unexpected error."""


class NotABroker(LinkFailure):
    """An answer that a task broker does not give: a wrong address, or a proxy in between."""


class AuthRefused(LinkFailure):
    """The broker does not know the shared secret."""


class RateLimited(LinkFailure):
    """The broker has refused a log-in or an upgrade, because it has had too many in this second."""


class UpgradeRefused(LinkFailure):
    """The WebSocket was refused.

    Attributes:
        status: the HTTP status; 0 if the answer is not HTTP.
        is_n8ns: whether the answer has the shape of n8n's own refusals; others say nothing about the grant.
    """

    def __init__(self, message: str, status: int, is_n8ns: bool = True) -> None:
        super().__init__(message)
        self.status = status
        self.is_n8ns = is_n8ns


class ConnectionLost(LinkFailure):
    """An open WebSocket ended.

    Attributes:
        code: the broker's close code; None if it sent none.
    """

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code
