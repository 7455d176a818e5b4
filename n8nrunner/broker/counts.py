"""Counts and events of the broker, for assertions and displays."""

from __future__ import annotations

from typing import NamedTuple


class BrokerEvent(NamedTuple):
    """One thing that happened at the broker.

    Attributes:
        kind: the name of the total in `Counts` that it raised.
        at: seconds on the monotonic clock.
        runner_id: the id of the runner, if the event concerns one.
        request_id: the request, if the event concerns one.
        task_id: the task, if the event concerns one.
        detail: a task type, a reason or an error, if there is one; never a payload.
    """

    kind: str
    at: float
    runner_id: str | None = None
    request_id: str | None = None
    task_id: str | None = None
    detail: str | None = None


class Counts(NamedTuple):
    """The number of runners, tasks and so on now, and how often everything has happened since the start.

    Attributes:
        connections: open WebSocket connections, registered or not.
        runners: registered ones among them.
        offers: open offers. A lapsed one is dropped in the next match pass, as in n8n.
        requests: requests that no runner has accepted, including those in `accepting`.
        accepting: acceptances that a runner has not answered yet.
        tasks: tasks that a runner has accepted and that have not ended.
        running: tasks among them whose settings have been forwarded.

        connected: connections opened.
        registered: runners registered.
        evicted: connections closed because of another one with the same id.
        disconnected: connections that ended.
        heartbeat_missed: connections closed because a ping was not answered.
        kicked: connections closed as unresponsive: acceptances missed, or silent while requests expired.
        offered: offers received.
        offers_lapsed: offers dropped because their validity ended.
        offers_dropped: offers dropped because their runner was gone or had missed an acceptance.
        requested: requests made.
        refused: requests refused because the broker drains.
        expired: requests that no runner took in time, or that were still waiting when the broker stopped.
        withdrawn: requests withdrawn by their requester.
        mismatched: requests that found offers, but of other task types only.
        acceptances: offers that the broker accepted.
        accepted: acceptances that the runner accepted in time.
        rejected: acceptances that the runner rejected.
        deferred: acceptances that the runner deferred.
        missed: acceptances that the runner did not answer in time.
        abandoned: acceptances whose runner disconnected before it answered.
        late: answers to an acceptance that came too late, or to none at all.
        started: tasks whose settings were forwarded.
        settings_missed: tasks whose requester sent no settings in time.
        done: tasks that ended with a result.
        failed: tasks that ended with the runner's error.
        timed_out: tasks that ran into the task timeout.
        cancelled: tasks that their requester cancelled.
        lost: tasks that ended because their runner's connection did.
        shut_down: tasks cut off by the broker's shutdown (2.40 only).
        relayed: calls and requests for data that were relayed to the requester.
        ignored: messages about tasks that do not exist or belong to another runner, or at the wrong time.
        malformed: messages that are not JSON, or lack a key of their type.
    """

    connections: int = 0
    runners: int = 0
    offers: int = 0
    requests: int = 0
    accepting: int = 0
    tasks: int = 0
    running: int = 0

    connected: int = 0
    registered: int = 0
    evicted: int = 0
    disconnected: int = 0
    heartbeat_missed: int = 0
    kicked: int = 0
    offered: int = 0
    offers_lapsed: int = 0
    offers_dropped: int = 0
    requested: int = 0
    refused: int = 0
    expired: int = 0
    withdrawn: int = 0
    mismatched: int = 0
    acceptances: int = 0
    accepted: int = 0
    rejected: int = 0
    deferred: int = 0
    missed: int = 0
    abandoned: int = 0
    late: int = 0
    started: int = 0
    settings_missed: int = 0
    done: int = 0
    failed: int = 0
    timed_out: int = 0
    cancelled: int = 0
    lost: int = 0
    shut_down: int = 0
    relayed: int = 0
    ignored: int = 0
    malformed: int = 0


#: The fields of `Counts` that only grow, each of which is also the `kind` of an event.
TOTALS = Counts._fields[7:]
