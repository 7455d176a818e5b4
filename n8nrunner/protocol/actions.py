"""Actions that a session asks for, in the order of its list. A message to the broker is an action itself."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple, Union

from n8nrunner.protocol.events import PendingCall
from n8nrunner.protocol.messages import FromRunner, Json


class StartTask(NamedTuple):
    """Run the handler of a task. `deadline` is the moment at which the task times out."""

    task_id: str
    task_type: str
    generation: int
    settings: Json
    deadline: float


class CancelTask(NamedTuple):
    """Tell the handler, if it still runs, that its result is not wanted any more."""

    task_id: str
    reason: str
    timed_out: bool = False


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


class WakeLinks(NamedTuple):
    """Let other links handle `SlotFreed`."""

    links: tuple[Hashable, ...]


class CloseConnection(NamedTuple):
    """Send what waits to be sent, then a close frame with `code`. `reason` is for the runner's log."""

    code: int
    reason: str


class AbortConnection(NamedTuple):
    """End the connection at once, without a close frame: the peer is gone. `reason` is for the log."""

    reason: str


Action = Union[
    FromRunner,
    StartTask,
    CancelTask,
    EndCall,
    SendPayload,
    SendPing,
    SendUrgentPing,
    MeasureSocket,
    ReportUndelivered,
    WakeLinks,
    CloseConnection,
    AbortConnection,
]
