"""Every message of the wire, in both directions, as immutable values (docs/protocol.md, "Messages").

Names follow the wire: ``broker:taskofferaccept`` is `TaskOfferAccept`. Two messages differ from it:
``broker:rpcresponse`` and friends carry their payload in a field that may be `Undecoded`, and
``runner:taskerror`` is `TaskFailed`, because `TaskError` is the exception.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Union

#: Any JSON value, as the json module represents it, or `Undecoded`.
Json = Any


class Undecoded:
    """The text of a message too large to be decoded by the thread that serves the connection.

    Args:
        text: the whole message.
        key: the key of the wanted value in the message's object.
    """

    __slots__ = ("key", "text")

    def __init__(self, text: str, key: str) -> None:
        self.text = text
        self.key = key


# --- broker -> runner ---------------------------------------------------------------------------


class InfoRequest(NamedTuple):
    """The broker asks who has connected."""


class RunnerRegistered(NamedTuple):
    """The broker has registered the runner: offers may be sent."""


class TaskOfferAccept(NamedTuple):
    """The broker takes an offer, and wants an answer within two seconds."""

    offer_id: str
    task_id: str


class TaskSettings(NamedTuple):
    """What the task is to do; it starts now."""

    task_id: str
    settings: Any


class TaskCancel(NamedTuple):
    """The broker has forgotten the task; nothing sent for it is read any more."""

    task_id: str
    reason: str


class RpcResponse(NamedTuple):
    """The answer to `RpcCall`; `status` is "success" or "error"."""

    task_id: str
    call_id: str
    status: str
    data: Any


class TaskDataResponse(NamedTuple):
    """The answer to `TaskDataRequest`."""

    task_id: str
    request_id: str
    data: Any


class NodeTypes(NamedTuple):
    """The answer to `NodeTypesRequest`."""

    task_id: str
    request_id: str
    node_types: Any


class Drain(NamedTuple):
    """The broker is about to shut down: finish the tasks, offer nothing more."""


# --- runner -> broker ---------------------------------------------------------------------------


class RunnerInfo(NamedTuple):
    """Who the runner is, and which task types it takes."""

    name: str
    types: tuple[str, ...]


class TaskOffer(NamedTuple):
    """One free slot for one task; `valid_for` is in milliseconds, -1 for ever, 0 expired on arrival."""

    offer_id: str
    task_type: str
    valid_for: int


class TaskAccepted(NamedTuple):
    """The runner takes the task and waits for its settings."""

    task_id: str


class TaskRejected(NamedTuple):
    """The runner does not take the task; the broker looks for another runner."""

    task_id: str
    reason: str


class TaskDeferred(NamedTuple):
    """The runner does not take the task yet; only a launcher says so."""

    task_id: str


class TaskDone(NamedTuple):
    """The task's result, in `data["result"]`."""

    task_id: str
    data: Mapping[str, Any]


class TaskFailed(NamedTuple):
    """``runner:taskerror``: the task failed; `error` has a "message", a "description", a "stack"."""

    task_id: str
    error: Mapping[str, Any]


class RpcCall(NamedTuple):
    """A call of one of n8n's helper functions."""

    call_id: str
    task_id: str
    name: str
    params: Any


class TaskDataRequest(NamedTuple):
    """Asks for the data of the execution that the task belongs to."""

    task_id: str
    request_id: str
    request_params: Mapping[str, Any]


class NodeTypesRequest(NamedTuple):
    """Asks for the descriptions of node types."""

    task_id: str
    request_id: str
    request_params: list[Mapping[str, Any]]


FromBroker = Union[
    InfoRequest,
    RunnerRegistered,
    TaskOfferAccept,
    TaskSettings,
    TaskCancel,
    RpcResponse,
    TaskDataResponse,
    NodeTypes,
    Drain,
]

FromRunner = Union[
    RunnerInfo,
    TaskOffer,
    TaskAccepted,
    TaskRejected,
    TaskDeferred,
    TaskDone,
    TaskFailed,
    RpcCall,
    TaskDataRequest,
    NodeTypesRequest,
]


class Head(NamedTuple):
    """What could be read from the beginning of a message that is not decoded; absent keys are None."""

    type: str | None
    task_id: str | None
    call_id: str | None
    request_id: str | None
    status: str | None
