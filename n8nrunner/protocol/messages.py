"""The messages between broker and runner, as immutable values (docs/protocol.md, "Messages").

Classes have the names of the messages: ``broker:taskofferaccept`` is `TaskOfferAccept`. Only
``runner:taskerror`` has another one, `TaskFailed`, because `TaskError` is the exception.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Union

#: Any JSON value, as the json module represents it, or `Undecoded`.
Json = Any


class Undecoded(NamedTuple):
    """A value that is too large to be decoded on the links' thread: its whole message, and its key."""

    text: str
    key: str


# --- broker -> runner ---------------------------------------------------------------------------


class InfoRequest(NamedTuple):
    """The broker asks who has connected."""


class RunnerRegistered(NamedTuple):
    """The broker has registered the runner: offers may be sent."""


class TaskOfferAccept(NamedTuple):
    """The broker accepts an offer and waits two seconds for an answer."""

    offer_id: str
    task_id: str


class TaskSettings(NamedTuple):
    """The task's settings: it can start."""

    task_id: str
    settings: Json


class TaskCancel(NamedTuple):
    """The broker has dropped the task and ignores messages about it."""

    task_id: str
    reason: str


class RpcResponse(NamedTuple):
    """The answer to `RpcCall`; `status` is "success" or "error"."""

    task_id: str
    call_id: str
    status: str
    data: Json


class TaskDataResponse(NamedTuple):
    """The answer to `TaskDataRequest`."""

    task_id: str
    request_id: str
    data: Json


class NodeTypes(NamedTuple):
    """The answer to `NodeTypesRequest`."""

    task_id: str
    request_id: str
    node_types: Json


class Drain(NamedTuple):
    """The broker will shut down: the runner should finish its tasks and send no more offers."""


# --- runner -> broker ---------------------------------------------------------------------------


class RunnerInfo(NamedTuple):
    """The runner's name and task types."""

    name: str
    types: tuple[str, ...]


class TaskOffer(NamedTuple):
    """An offer to run one task. `valid_for` is in milliseconds; -1: without an end, 0: expired on arrival."""

    offer_id: str
    task_type: str
    valid_for: int


class TaskAccepted(NamedTuple):
    """The runner accepts the task and waits for its settings."""

    task_id: str


class TaskRejected(NamedTuple):
    """The runner rejects the task; the broker looks for another runner."""

    task_id: str
    reason: str


class TaskDeferred(NamedTuple):
    """The runner does not accept the task yet. Only launchers send this."""

    task_id: str


class TaskDone(NamedTuple):
    """The task's result, in `data["result"]`."""

    task_id: str
    data: Mapping[str, Json]


class TaskFailed(NamedTuple):
    """``runner:taskerror``: the task failed. `error` has a "message", and often a "description"."""

    task_id: str
    error: Mapping[str, Json]


class RpcCall(NamedTuple):
    """The runner calls one of n8n's helper functions."""

    call_id: str
    task_id: str
    name: str
    params: Json


class TaskDataRequest(NamedTuple):
    """The runner asks for data of the execution that the task belongs to."""

    task_id: str
    request_id: str
    request_params: Mapping[str, Json]


class NodeTypesRequest(NamedTuple):
    """The runner asks for descriptions of node types."""

    task_id: str
    request_id: str
    request_params: list[Mapping[str, Json]]


FromBroker = Union[
    InfoRequest, RunnerRegistered, TaskOfferAccept, TaskSettings, TaskCancel, RpcResponse, TaskDataResponse,
    NodeTypes, Drain,
]  # fmt: skip

FromRunner = Union[
    RunnerInfo, TaskOffer, TaskAccepted, TaskRejected, TaskDeferred, TaskDone, TaskFailed, RpcCall,
    TaskDataRequest, NodeTypesRequest,
]  # fmt: skip

Message = Union[FromBroker, FromRunner]

#: A runner asks n8n on behalf of a task. `Response` has the responses to the requests, in the same order.
Request = Union[RpcCall, TaskDataRequest, NodeTypesRequest]
Response = Union[RpcResponse, TaskDataResponse, NodeTypes]


class Head(NamedTuple):
    """The beginning of a message that is not decoded; absent keys are None."""

    type: str | None
    task_id: str | None
    call_id: str | None
    request_id: str | None
    status: str | None
