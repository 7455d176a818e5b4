"""Events that `Matching` handles: what runners, requesters and the clock do."""

from __future__ import annotations

from typing import NamedTuple, Union

from n8nrunner.protocol import messages as m


class Connected(NamedTuple):
    """A runner's WebSocket is open. `connection` is a number that is never used again."""

    connection: int
    runner_id: str


class Received(NamedTuple):
    """A runner sent a message."""

    connection: int
    message: m.FromRunner


class Malformed(NamedTuple):
    """A runner sent a message that cannot be decoded."""

    connection: int
    reason: str


class PongReceived(NamedTuple):
    """A runner sent a pong, asked for or not."""

    connection: int


class ConnectionFailing(NamedTuple):
    """The connection cannot be written to any more. Its end has not been seen yet."""

    connection: int


class Disconnected(NamedTuple):
    """The connection has ended, whichever side ended it."""

    connection: int


class TaskRequested(NamedTuple):
    """A requester wants a runner. `timeout` replaces the request timeout and the task timeout, in seconds."""

    request_id: str
    task_type: str
    timeout: float | None = None


class RequestWithdrawn(NamedTuple):
    """A requester withdraws its request before a runner has accepted it. n8n has no such event."""

    request_id: str
    reason: str


class SettingsGiven(NamedTuple):
    """A requester answers `TaskReady`."""

    task_id: str
    settings: m.Json


class TaskCancelled(NamedTuple):
    """A requester cancels its task."""

    task_id: str
    reason: str


class Answered(NamedTuple):
    """A requester answers a `Relay`."""

    task_id: str
    message: m.RpcResponse | m.TaskDataResponse | m.NodeTypes


class DrainStarted(NamedTuple):
    """The broker shuts down within `timeout` seconds, or as soon as no task is left."""

    timeout: float


class TimePassed(NamedTuple):
    """The time of `Matching.next_deadline` may have come."""


Event = Union[
    Connected, Received, Malformed, PongReceived, ConnectionFailing, Disconnected, TaskRequested,
    RequestWithdrawn, SettingsGiven, TaskCancelled, Answered, DrainStarted, TimePassed,
]  # fmt: skip
