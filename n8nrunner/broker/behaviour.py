"""The versions of n8n that the embedded broker can behave like: one value of `Behaviour` for each."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Behaviour:
    """One version of n8n: the behaviour of its broker where versions differ. The defaults are 2.40's.

    The table in docs/protocol.md, "Version differences", has the same fields, and how each fact was learned.
    """

    version: str
    grant_ttl: float = 30.0  #: how long a grant token can be used, in seconds.
    #: match a rejected request at once. If not, it waits for the next offer or request.
    rematches_rejected: bool = True
    #: put a deferred request into the queue a second time. When the request expires, the second entry stays
    #: and can still be matched.
    queues_deferred_again: bool = False
    #: restart the timer of one request `BrokerConstants.request_restarts` times at most.
    limits_restarts: bool = True
    #: when a runner does not answer an acceptance in time, cancel it at the runner, drop the runner's offers,
    #: restart the request's timer, and match again.
    cancels_missed_acceptances: bool = True
    #: close a runner without tasks after `BrokerConstants.missed_limit` missed acceptances in a row.
    closes_after_misses: bool = True
    #: close a runner that stays silent while requests of its types expire.
    closes_silent_runners: bool = True
    #: match a request again as soon as the runner that was to answer disconnects. If not, the broker notices
    #: when the time for the answer is over.
    rematches_abandoned: bool = True
    #: cancel at the runner what it accepts after the request expired. If not, a task is left that never ends.
    cancels_expired_requests: bool = True
    names_settings_timeout: bool = True  #: give the reason when the requester sends no settings in time.
    names_configured_wait: bool = False  #: name the configured time in the error of an expired request.
    #: drop the offers of a runner whose connection is half closed, and fail its task once something is to be
    #: sent for it.
    notices_unreachable: bool = True
    #: when a connection ends, close the current connection of the same runner id as well.
    closes_by_id: bool = False
    heartbeat_stops_at_dead: bool = False  #: end a heartbeat at the first dead runner.
    #: at a shutdown, tell the runners and let tasks end. If not, close all connections at once.
    drains: bool = True
    shortens_tasks: bool = True  #: in a drain, shorten the time limits of tasks to its end.


N8N_2_40 = Behaviour("2.40")
N8N_2_27 = Behaviour(
    "2.27",
    rematches_rejected=False, limits_restarts=False, cancels_missed_acceptances=False,
    closes_after_misses=False, closes_silent_runners=False, rematches_abandoned=False,
    cancels_expired_requests=False, names_settings_timeout=False, names_configured_wait=True,
    notices_unreachable=False, closes_by_id=True, heartbeat_stops_at_dead=True, shortens_tasks=False,
)  # fmt: skip
N8N_1_123 = replace(N8N_2_27, version="1.123", grant_ttl=15.0, queues_deferred_again=True, drains=False)

#: The values of `Broker`'s argument `profile`.
BEHAVIOURS = {behaviour.version: behaviour for behaviour in (N8N_1_123, N8N_2_27, N8N_2_40)}
#: The versions of n8n that the broker can imitate.
PROFILES = tuple(BEHAVIOURS)
