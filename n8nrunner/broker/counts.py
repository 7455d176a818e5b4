"""Counts and events of the broker, for assertions and displays."""

from __future__ import annotations

from typing import NamedTuple


class BrokerEvent(NamedTuple):
    """One thing that happened at the broker."""

    kind: str  #: the name of the total in `BrokerCounts` that it raised.
    at: float  #: seconds on the monotonic clock.
    runner_id: str | None = None  #: the id of the runner, if the event concerns one.
    request_id: str | None = None  #: the request, if the event concerns one.
    task_id: str | None = None  #: the task, if the event concerns one.
    detail: str | None = None  #: a task type, a reason or an error, if there is one; never a payload.


class BrokerCounts(NamedTuple):
    """The number of runners, tasks and so on now, and how often everything has happened in all runs."""

    connections: int = 0  #: open WebSocket connections, registered or not.
    runners: int = 0  #: registered ones among them.
    offers: int = 0  #: open offers. A lapsed one is dropped in the next match pass, as in n8n.
    requests: int = 0  #: requests that no runner has accepted, including those in `accepting`.
    accepting: int = 0  #: acceptances that a runner has not answered yet.
    tasks: int = 0  #: tasks that a runner has accepted and that have not ended.
    running: int = 0  #: tasks among them whose settings have been forwarded.

    # These only grow. Each is also the `kind` of an event.
    connected: int = 0  #: connections opened.
    registered: int = 0  #: runners registered.
    evicted: int = 0  #: connections closed because of another one with the same id.
    disconnected: int = 0  #: connections that ended.
    heartbeat_missed: int = 0  #: connections closed because a ping was not answered.
    #: connections closed as unresponsive: acceptances missed, or silent while requests expired.
    kicked: int = 0
    offered: int = 0  #: offers received.
    offers_lapsed: int = 0  #: offers dropped because their validity ended.
    offers_dropped: int = 0  #: offers dropped because their runner was gone or had missed an acceptance.
    requested: int = 0  #: requests made.
    refused: int = 0  #: requests refused because the broker drains.
    #: requests that no runner took in time, or that were still waiting when the broker stopped.
    expired: int = 0
    withdrawn: int = 0  #: requests withdrawn by their requester.
    mismatched: int = 0  #: requests that found offers, but of other task types only.
    acceptances: int = 0  #: offers that the broker accepted.
    accepted: int = 0  #: acceptances that the runner accepted in time.
    rejected: int = 0  #: acceptances that the runner rejected.
    deferred: int = 0  #: acceptances that the runner deferred.
    missed: int = 0  #: acceptances that the runner did not answer in time.
    abandoned: int = 0  #: acceptances whose runner disconnected before it answered.
    late: int = 0  #: answers to an acceptance that came too late, or to none at all.
    started: int = 0  #: tasks whose settings were forwarded.
    settings_missed: int = 0  #: tasks whose requester sent no settings in time.
    done: int = 0  #: tasks that ended with a result.
    failed: int = 0  #: tasks that ended with the runner's error.
    timed_out: int = 0  #: tasks that ran into the task timeout.
    cancelled: int = 0  #: tasks that their requester cancelled.
    lost: int = 0  #: tasks that ended because their runner's connection did.
    shut_down: int = 0  #: tasks cut off by the broker's shutdown (2.40 only).
    relayed: int = 0  #: calls and requests for data that were relayed to the requester.
    #: messages about tasks that do not exist or belong to another runner, or at the wrong time.
    ignored: int = 0
    malformed: int = 0  #: messages that are not JSON, or lack a key of their type.
