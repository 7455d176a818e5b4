"""Actions that `Matching` asks for, in the order of its list: messages to runners and to requesters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Union

from n8nrunner.protocol import messages as m


class Send(NamedTuple):
    """Send a message to a runner."""

    connection: int
    message: m.FromBroker


class Ping(NamedTuple):
    """Send a ping to a runner."""

    connection: int


class Close(NamedTuple):
    """Close a runner's connection. Report its end as `Disconnected`, and nothing it sends before."""

    connection: int
    code: int


class TaskReady(NamedTuple):
    """Tell the requester that a runner has accepted. It answers with `SettingsGiven`."""

    request_id: str
    task_id: str


class RequestExpired(NamedTuple):
    """Tell the requester that no runner took its request."""

    request_id: str
    error: Mapping[str, m.Json]


class TaskDone(NamedTuple):
    """Give the requester the runner's result."""

    request_id: str
    task_id: str
    data: Mapping[str, m.Json]


class TaskFailed(NamedTuple):
    """Give the requester an error. `cause` is the total in `BrokerCounts` that the failure has raised."""

    request_id: str
    task_id: str
    cause: str
    error: m.Json


class Relay(NamedTuple):
    """Pass a runner's call, or its request for data or node types, to the requester."""

    request_id: str
    task_id: str
    message: m.RpcCall | m.TaskDataRequest | m.NodeTypesRequest


class Drained(NamedTuple):
    """Report the end of the drain: no connection, request or task is left."""


Action = Union[Send, Ping, Close, TaskReady, RequestExpired, TaskDone, TaskFailed, Relay, Drained]
