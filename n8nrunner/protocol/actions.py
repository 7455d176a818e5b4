"""Actions that a session or a link asks for. Perform them in the order of the list.

A message to the broker is an action itself.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable
from typing import Literal, NamedTuple, Union

from n8nrunner.errors import N8nRunnerError
from n8nrunner.protocol.events import OpenConnection, PendingCall
from n8nrunner.protocol.messages import FromRunner, Json


class StartTask(NamedTuple):
    """Run the handler of a task. `deadline` is the moment at which the task times out."""

    task_id: str
    task_type: str
    generation: int
    settings: Json
    deadline: float


#: How a task ends whose result is not wanted any more.
Ending = Literal["cancelled", "timed_out", "lost", "unfinished"]


class CancelTask(NamedTuple):
    """Tell the handler, if it still runs, that its result is no longer wanted."""

    task_id: str
    reason: str
    ending: Ending


class EndCall(NamedTuple):
    """End a handler's call to n8n: with `error`, or with `value` if `error` is None."""

    call: PendingCall
    value: Json
    error: Json


class SendPayload(NamedTuple):
    """Send a message that is encoded already: a task's answer, or a handler's call."""

    payload: bytes


class SendPing(NamedTuple):
    """Send a ping after all messages before it."""

    payload: str


class SendUrgentPing(NamedTuple):
    """Send a ping as soon as possible, also between the fragments of a large message."""

    payload: str


class MeasureSocket(NamedTuple):
    """Read the counters of the socket, and handle `SocketMeasured` at once."""


class ReportUndelivered(NamedTuple):
    """Report a result that did not arrive (`certain`) or may not have arrived.

    `payload` is None if the session has not kept it.
    """

    task_id: str
    task_type: str
    payload: bytes | None
    failed: bool
    certain: bool
    function: str | None = None  #: as `HandlerFinished` had it


class WakeLinks(NamedTuple):
    """Let other links handle `SlotFreed`."""

    links: tuple[Hashable, ...]


class CloseConnection(NamedTuple):
    """Send what waits to be sent, then a close frame. `reason` is for the runner's log."""

    reason: str


class AbortConnection(NamedTuple):
    """End the connection at once, without a close frame."""

    reason: str  #: for the runner's log
    code: int | None = None  #: the broker's close code; None if it sent none


Action = Union[
    FromRunner, StartTask, CancelTask, EndCall, SendPayload, SendPing, SendUrgentPing, MeasureSocket,
    ReportUndelivered, WakeLinks, CloseConnection, AbortConnection,
]  # fmt: skip

# --- actions of a link ------------------------------------------------------------------------------


class LogLevel(enum.IntEnum):
    """Levels of log lines, with the numbers of `logging`."""

    INFO = 20
    WARNING = 30
    ERROR = 40


class StartAttempt(NamedTuple):
    """Try to connect, with a new grant if `grant` is None.

    The answer is `ConnectionOpened` or `AttemptFailed`.
    """

    grant: str | None


class StartProbe(NamedTuple):
    """Look whether the broker is healthy: the answer is `BrokerProbed`."""


class ServeConnection(NamedTuple):
    """Read and write this connection from now on, until `ConnectionEnded`."""

    connection: OpenConnection


class DiscardConnection(NamedTuple):
    """Close a connection that is no longer needed."""

    connection: OpenConnection


class ReportRegistered(NamedTuple):
    """Log that the broker has registered the runner, and tell the runner.

    `after_failure` if a failure was logged since the last registration.
    """

    after_failure: bool


class ReportRefused(NamedTuple):
    """Tell the runner that the token is refused or used up: the answer is `RefusalAnswered`, at once."""

    error: N8nRunnerError


class ReportIdle(NamedTuple):
    """Tell the runner that it has had no task for `auto_shutdown_timeout`."""


class LogSkipped(NamedTuple):
    """Log an error about a message that was skipped, after `left_out` similar errors that were not logged."""

    problem: str
    left_out: int


class LogFailure(NamedTuple):
    """Log `reason`, and that the next step comes in `delay` seconds."""

    level: LogLevel
    reason: str
    delay: float


LinkAction = Union[
    Action, StartAttempt, StartProbe, ServeConnection, DiscardConnection, ReportRegistered, ReportRefused,
    ReportIdle, LogSkipped, LogFailure,
]  # fmt: skip

# --- actions of a name ------------------------------------------------------------------------------


class StartLookup(NamedTuple):
    """Look the name up: the answer is `NameLookedUp`."""


class OpenLink(NamedTuple):
    """Open a link to a new address."""

    address: str


class RetireLink(NamedTuple):
    """Let the link of an address handle `Retired`."""

    address: str


class RestoreLink(NamedTuple):
    """Let the link of an address handle `Restored`."""

    address: str


class LogName(NamedTuple):
    """Log a text about the name."""

    level: LogLevel
    text: str


NameAction = Union[StartLookup, OpenLink, RetireLink, RestoreLink, LogName]
