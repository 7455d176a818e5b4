"""The states of a session, and every transition between them.

`TRANSITIONS` has the states in which an event is handled, and the state that follows (docs/protocol.md,
"States of a connection"). A session looks up its handlers in it; a handler may refine what the event does.
"""

from __future__ import annotations

import enum
from typing import Union

from n8nrunner.protocol import actions, events
from n8nrunner.protocol import messages as m


class State(enum.Enum):
    """The state of a session. `TRANSITIONS` has what leads from one to another."""

    DISCONNECTED = "disconnected"
    AWAITING_INFO_REQUEST = "awaiting info request"
    AWAITING_REGISTRATION = "awaiting registration"
    OFFERING = "offering"
    DRAINING = "draining"  #: tasks finish; no new ones begin
    CLOSING = "closing"  #: the runner ends the connection: the session sends nothing more on it
    CLOSED = "closed"  #: the last state


#: States in which there is a connection.
CONNECTED_STATES = frozenset(State) - {State.DISCONNECTED, State.CLOSED}
#: States in which tasks are accepted, run and answered.
TASK_STATES = (State.OFFERING, State.DRAINING)
#: States in which the session has no deadline.
IDLE_STATES = (State.DISCONNECTED, State.CLOSING, State.CLOSED)

#: A trigger changes a state: an event, or one of the two actions that end a connection.
Trigger = Union[events.Event, actions.CloseConnection, actions.AbortConnection]


def _stay_in(*states: State) -> dict[State, State]:
    return {state: state for state in states}


#: For each event, the states in which it has an effect, and the state that follows. In all other states it is
#: ignored.
TRANSITIONS: dict[type[Trigger], dict[State, State]] = {
    # The connection
    events.ConnectionOpened: {State.DISCONNECTED: State.AWAITING_INFO_REQUEST},
    m.InfoRequest: {State.AWAITING_INFO_REQUEST: State.AWAITING_REGISTRATION},
    m.RunnerRegistered: {State.AWAITING_REGISTRATION: State.OFFERING},
    m.Drain: {State.OFFERING: State.DRAINING},
    events.StopRequested: {
        State.DISCONNECTED: State.CLOSED,
        State.AWAITING_INFO_REQUEST: State.CLOSING,
        State.AWAITING_REGISTRATION: State.CLOSING,
        State.OFFERING: State.DRAINING,
        State.DRAINING: State.DRAINING,
        State.CLOSING: State.CLOSING,
    },
    actions.CloseConnection: {
        State.AWAITING_INFO_REQUEST: State.CLOSING,
        State.AWAITING_REGISTRATION: State.CLOSING,
        State.DRAINING: State.CLOSING,
    },
    actions.AbortConnection: dict.fromkeys(CONNECTED_STATES - {State.CLOSING}, State.CLOSING),
    # A session that was asked to stop then handles `StopRequested` again, which leads to CLOSED.
    events.ConnectionEnded: dict.fromkeys(CONNECTED_STATES, State.DISCONNECTED),
    events.SocketMeasured: _stay_in(*CONNECTED_STATES - {State.CLOSING}),
    # Tasks. Nothing begins in CLOSING, because its answer could not be sent.
    m.TaskOfferAccept: _stay_in(*TASK_STATES),
    m.TaskSettings: _stay_in(*TASK_STATES),
    events.MessageSkipped: _stay_in(*TASK_STATES),
    m.TaskCancel: _stay_in(*TASK_STATES, State.CLOSING),
    m.RpcResponse: _stay_in(*TASK_STATES, State.CLOSING),
    m.TaskDataResponse: _stay_in(*TASK_STATES, State.CLOSING),
    m.NodeTypes: _stay_in(*TASK_STATES, State.CLOSING),
    events.Pong: _stay_in(*TASK_STATES, State.CLOSING),
    # The runner. A handler may return or call after its connection is lost.
    events.HandlerFinished: _stay_in(*State),
    events.CallMade: _stay_in(*State),
    events.TypesChanged: _stay_in(*State),
    events.OfferingChanged: _stay_in(*State),
    events.SlotFreed: _stay_in(State.OFFERING),
}
