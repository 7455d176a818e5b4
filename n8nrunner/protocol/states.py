"""The states of a session, and every transition between them.

`TRANSITIONS` has the states in which an event is handled, and the state that follows (docs/protocol.md,
"States of a connection"). A session looks up its methods in it; a method may refine what the event does.
"""

from __future__ import annotations

import enum
from typing import Union

from n8nrunner.protocol import actions, events
from n8nrunner.protocol import messages as m


class SessionState(enum.Enum):
    """The state of a session. `TRANSITIONS` has what leads from one to another."""

    DISCONNECTED = "disconnected"
    AWAITING_INFO_REQUEST = "awaiting info request"
    AWAITING_REGISTRATION = "awaiting registration"
    OFFERING = "offering"
    DRAINING = "draining"  #: tasks finish; no new ones begin
    CLOSING = "closing"  #: the runner ends the connection: the session sends nothing more on it
    CLOSED = "closed"  #: the last state


#: States in which there is a connection.
CONNECTED_STATES = frozenset(SessionState) - {SessionState.DISCONNECTED, SessionState.CLOSED}
#: States in which tasks are accepted, run and answered.
TASK_STATES = (SessionState.OFFERING, SessionState.DRAINING)
#: States in which the session has no deadline.
IDLE_STATES = (SessionState.DISCONNECTED, SessionState.CLOSING, SessionState.CLOSED)

#: A trigger changes a state: an event, or one of the two actions that end a connection.
Trigger = Union[events.Event, actions.CloseConnection, actions.AbortConnection]


def _stay_in(*states: SessionState) -> dict[SessionState, SessionState]:
    return {state: state for state in states}


#: For each event, the states in which it has an effect, and the state that follows. In all other states it is
#: ignored.
TRANSITIONS: dict[type[Trigger], dict[SessionState, SessionState]] = {
    # The connection
    events.ConnectionOpened: {SessionState.DISCONNECTED: SessionState.AWAITING_INFO_REQUEST},
    m.InfoRequest: {SessionState.AWAITING_INFO_REQUEST: SessionState.AWAITING_REGISTRATION},
    m.RunnerRegistered: {SessionState.AWAITING_REGISTRATION: SessionState.OFFERING},
    m.Drain: {SessionState.OFFERING: SessionState.DRAINING, SessionState.DRAINING: SessionState.DRAINING},
    events.StopRequested: {
        SessionState.DISCONNECTED: SessionState.CLOSED,
        SessionState.AWAITING_INFO_REQUEST: SessionState.CLOSING,
        SessionState.AWAITING_REGISTRATION: SessionState.CLOSING,
        SessionState.OFFERING: SessionState.DRAINING,
        SessionState.DRAINING: SessionState.DRAINING,
        SessionState.CLOSING: SessionState.CLOSING,
    },
    actions.CloseConnection: {
        SessionState.AWAITING_INFO_REQUEST: SessionState.CLOSING,
        SessionState.AWAITING_REGISTRATION: SessionState.CLOSING,
        SessionState.DRAINING: SessionState.CLOSING,
    },
    actions.AbortConnection: dict.fromkeys(CONNECTED_STATES - {SessionState.CLOSING}, SessionState.CLOSING),
    # A session that was asked to stop then handles `StopRequested` again, which leads to CLOSED.
    events.ConnectionEnded: dict.fromkeys(CONNECTED_STATES, SessionState.DISCONNECTED),
    events.SocketMeasured: _stay_in(*CONNECTED_STATES - {SessionState.CLOSING}),
    # Tasks. Nothing begins in CLOSING, because its answer could not be sent.
    m.TaskOfferAccept: _stay_in(*TASK_STATES),
    m.TaskSettings: _stay_in(*TASK_STATES),
    events.MessageSkipped: _stay_in(*TASK_STATES),
    events.TimeLimitSet: _stay_in(*TASK_STATES),
    m.TaskCancel: _stay_in(*TASK_STATES, SessionState.CLOSING),
    m.RpcResponse: _stay_in(*TASK_STATES, SessionState.CLOSING),
    m.TaskDataResponse: _stay_in(*TASK_STATES, SessionState.CLOSING),
    m.NodeTypes: _stay_in(*TASK_STATES, SessionState.CLOSING),
    events.Pong: _stay_in(*TASK_STATES, SessionState.CLOSING),
    # The runner. A handler may return or call after its connection is lost.
    events.HandlerFinished: _stay_in(*SessionState),
    events.CallMade: _stay_in(*SessionState),
    events.TypesChanged: _stay_in(*SessionState),
    events.OfferingChanged: _stay_in(*SessionState),
    events.SlotFreed: _stay_in(SessionState.OFFERING),
}
