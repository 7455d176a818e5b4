"""The observations of `n8nrunner check`. PURE."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from n8nrunner.config import BrokerUrl
from n8nrunner.protocol.failures import Problem


class Step(Enum):
    """The steps from the settings to a registered runner, in their order, and the call of a webhook."""

    SETTINGS = "settings"
    NAME = "name"
    TCP = "TCP"
    PROXY = "proxy"
    TLS = "TLS"
    HEALTH = "/healthz"
    LOG_IN = "log-in"
    UPGRADE = "upgrade"
    REGISTRATION = "registration"
    EDITOR = "n8n's editor"  #: looked at after a failure
    WEBHOOK = "webhook"


class Trouble(Enum):
    """An observation that no `Problem` of a link stands for."""

    TOKEN_WITH_LINE_BREAK = "the token in the settings ends with a line break"
    NO_SCHEME = "a broker's URL has no http:// or https://"
    SETTINGS = "other settings are wrong"
    NO_TOKEN = "the settings have no token"
    ONE_SHOT = "the settings have only a grant token"
    N8N_TOKEN_WITH_LINE_BREAK = "the broker accepts the token with a line break at its end"
    N8N_TOKEN_IN_QUOTES = "the broker accepts the token in quotes"
    OLD_N8N = "n8n has registered the runner, and is older than every tested version"
    NOT_REGISTERED = "the WebSocket is open, and n8n does not register the runner"
    WEBHOOK_UNREACHABLE = "the webhook's host does not answer"
    WEBHOOK_UNKNOWN = "n8n does not know the webhook"
    WEBHOOK_REFUSED = "the webhook wants credentials"
    WEBHOOK_SILENT = "the webhook has not answered within the limit"
    NO_RUNNER = "n8n found no runner for the workflow's task"
    WORKFLOW_FAILED = "the workflow failed"


class Observation(NamedTuple):
    """The outcome of one step."""

    step: Step
    seen: str  #: for people; contains no token
    seconds: float | None = None  #: None for a step that is not needed
    problem: Problem | Trouble | None = None  #: None if the step passed, or is not needed


class Editor(NamedTuple):
    """The n8n that answers on the port of its editor, on the broker's host."""

    url: str
    answers: bool
    version: str | None  #: such as "2.40.7"; None if its page does not show it

    @property
    def numbers(self) -> tuple[int, ...]:
        """The version for comparisons; empty if it is unknown."""
        parts = (self.version or "").split("-")[0].split(".")
        return tuple(int(part) for part in parts) if all(part.isdecimal() for part in parts) else ()


class Facts(NamedTuple):
    """The first step that failed, and its circumstances."""

    failed: Observation
    url: BrokerUrl | None = None  #: the broker; None for the settings and the webhook
    proxy: str | None = None  #: the proxy of the environment, if it is used
    editor: Editor | None = None  #: None if it was not looked for
    is_in_container: bool = False  #: whether this process runs in a container
    is_one_of_several: bool = False  #: whether the runner has other brokers, as in queue mode
