"""Every event in every state: the outcome of each pair is decided here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Callable, Optional, get_args

import pytest

from n8nrunner.protocol import liveness
from n8nrunner.protocol import messages as m
from n8nrunner.protocol.actions import (
    AbortConnection,
    CancelTask,
    CloseConnection,
    EndCall,
    ReportUndelivered,
    SendPayload,
    SendPing,
    StartTask,
)
from n8nrunner.protocol.events import (
    CallMade,
    Event,
    HandlerFinished,
    OfferingChanged,
    Pong,
    SlotFreed,
    SocketMeasured,
    StopRequested,
    TimeLimitSet,
    TypesChanged,
)
from n8nrunner.protocol.states import TRANSITIONS, SessionState
from tests.protocol.bench import PREPARED, Bench, connected, disconnected, skipped

#: Short names of the states.
STATES = ("DISCONNECTED", "INFO", "REGISTRATION", "OFFERING", "DRAINING", "CLOSING", "CLOSED")

IS = {
    "DISCONNECTED": SessionState.DISCONNECTED,
    "INFO": SessionState.AWAITING_INFO_REQUEST,
    "REGISTRATION": SessionState.AWAITING_REGISTRATION,
    "OFFERING": SessionState.OFFERING,
    "DRAINING": SessionState.DRAINING,
    "CLOSING": SessionState.CLOSING,
    "CLOSED": SessionState.CLOSED,
}


def bench_in(state: str) -> Bench:
    """Return a session in `state`.

    From OFFERING on, it has an open offer, a task "accepted" without settings, and a task "running" with the
    open call "c". The same holds for the type "p", which is prepared, and its task "waiting".
    """
    bench = Bench(capacity=3, prepared={"p": PREPARED})
    if state == "CLOSED":
        bench.do(StopRequested(bench.now))
    if state in ("DISCONNECTED", "CLOSED"):
        return bench
    bench.do(connected(0.0))
    if state == "INFO":
        return bench
    bench.do(m.InfoRequest())
    if state == "REGISTRATION":
        return bench
    bench.do(m.RunnerRegistered())
    if state == "CLOSING":
        bench.pass_time(liveness.PING_INTERVAL + liveness.SILENCE_LIMIT - 1)
    for task_id in ("accepted", "running"):
        bench.do(m.TaskOfferAccept(bench.offers()[0], task_id))
    bench.do(m.TaskOfferAccept(bench.prepared_offers()["p"], "waiting"))
    bench.do(m.TaskSettings("running", {}))
    bench.do(CallMade("running", 1, "c", b"", "call"))
    assert len(bench.offers()) == 1
    if state == "DRAINING":
        bench.do(m.Drain())
    if state == "CLOSING":
        assert isinstance(bench.pass_time(1)[-1], AbortConnection)
    return bench


EVENTS: dict[str, Callable[[Bench], Any]] = {
    "InfoRequest": lambda bench: m.InfoRequest(),
    "RunnerRegistered": lambda bench: m.RunnerRegistered(),
    "TaskOfferAccept, offer open": lambda bench: m.TaskOfferAccept((bench.offers() or ["a3"])[0], "new"),
    "TaskOfferAccept, offer unknown": lambda bench: m.TaskOfferAccept("unknown", "new"),
    "TaskOfferAccept, task accepted": lambda bench: m.TaskOfferAccept("a1", "accepted"),
    "TaskOfferAccept, task running": lambda bench: m.TaskOfferAccept("a2", "running"),
    "TaskOfferAccept, prepared offer": lambda bench: m.TaskOfferAccept(
        bench.prepared_offers().get("p", "unknown"), "new"
    ),
    "TaskOfferAccept, prepared task": lambda bench: m.TaskOfferAccept("unknown", "waiting"),
    "TaskSettings, task accepted": lambda bench: m.TaskSettings("accepted", {}),
    "TaskSettings, task running": lambda bench: m.TaskSettings("running", {}),
    "TaskSettings, task unknown": lambda bench: m.TaskSettings("unknown", {}),
    "TaskSettings, prepared task": lambda bench: m.TaskSettings("waiting", {}),
    "TaskCancel, prepared task": lambda bench: m.TaskCancel("waiting", "why"),
    "TaskCancel, task accepted": lambda bench: m.TaskCancel("accepted", "why"),
    "TaskCancel, task running": lambda bench: m.TaskCancel("running", "why"),
    "TaskCancel, task unknown": lambda bench: m.TaskCancel("unknown", "why"),
    "RpcResponse": lambda bench: m.RpcResponse("running", "c", "success", 1),
    "RpcResponse, call unknown": lambda bench: m.RpcResponse("running", "unknown", "success", 1),
    "TaskDataResponse": lambda bench: m.TaskDataResponse("running", "c", 1),
    "NodeTypes": lambda bench: m.NodeTypes("running", "c", 1),
    "Drain": lambda bench: m.Drain(),
    "ConnectionOpened": lambda bench: connected(0.0),
    "ConnectionEnded": lambda bench: disconnected(0),
    "HandlerFinished": lambda bench: HandlerFinished("running", 1, b"answer", False),
    "HandlerFinished, task unknown": lambda bench: HandlerFinished("unknown", 1, b"answer", False),
    "HandlerFinished, other connection": lambda bench: HandlerFinished("running", 0, b"answer", False),
    "CallMade": lambda bench: CallMade("running", 1, "d", b"", "other call"),
    "CallMade, no answer wanted": lambda bench: CallMade("running", 1, "d", b"", None),
    "CallMade, other connection": lambda bench: CallMade("running", 0, "d", b"", "other call"),
    "TimeLimitSet": lambda bench: TimeLimitSet("running", 1, bench.now + 1, 1.0),
    "TimeLimitSet, other connection": lambda bench: TimeLimitSet("running", 0, bench.now + 1, 1.0),
    "SlotFreed": lambda bench: SlotFreed(),
    "TypesChanged": lambda bench: TypesChanged({"t": None, "u": None}, {"p": PREPARED}, ()),
    "MessageSkipped, settings": lambda bench: skipped("broker:tasksettings", "accepted"),
    "MessageSkipped, settings of a prepared task": lambda bench: skipped("broker:tasksettings", "waiting"),
    "MessageSkipped, answer": lambda bench: skipped("broker:rpcresponse", "running", "c"),
    "MessageSkipped, unknown": lambda bench: skipped(None),
    "OfferingChanged": lambda bench: OfferingChanged(True),
    "OfferingChanged, not wanted": lambda bench: OfferingChanged(False),
    "Pong": lambda bench: Pong("0"),
    "SocketMeasured": lambda bench: SocketMeasured(0, 0, 0.0, None),
    "SocketMeasured, nothing acknowledged": lambda bench: SocketMeasured(1, 1, 0.0, 15.0),
    "StopRequested": lambda bench: StopRequested(bench.now + 10),
}

#: The next state, the actions, and the change of the number of taken slots; None if nothing happens.
Outcome = Optional[tuple[str, list[type], int]]


def to(state: str, *actions: type, slots: int = 0) -> Outcome:
    return state, list(actions), slots


def nowhere() -> tuple[Outcome, ...]:
    """Return that nothing happens in any state."""
    return (None,) * len(STATES)


def with_tasks(*actions: type, slots: int = 0, closing: Any = True) -> tuple[Outcome, ...]:
    """Return the same outcome for all states with tasks, except for `closing` in CLOSING."""
    if closing is True:
        closing = to("CLOSING", *actions, slots=slots)
    offering, draining = (to(state, *actions, slots=slots) for state in ("OFFERING", "DRAINING"))
    return None, None, None, offering, draining, closing, None


def everywhere(*actions: type) -> tuple[Outcome, ...]:
    return tuple(to(state, *actions) for state in STATES)


#: In the order of `STATES`.
ROWS: dict[str, tuple[Outcome, ...]] = {
    "InfoRequest": (None, to("REGISTRATION", m.RunnerInfo), None, None, None, None, None),
    "RunnerRegistered": (None, None, to("OFFERING"), None, None, None, None),
    "TaskOfferAccept, offer open": (
        *(None, None, None),
        to("OFFERING", m.TaskAccepted, slots=1),
        to("DRAINING", m.TaskRejected),
        *(None, None),
    ),
    "TaskOfferAccept, offer unknown": with_tasks(m.TaskRejected, closing=None),
    "TaskOfferAccept, task accepted": nowhere(),
    "TaskOfferAccept, task running": nowhere(),
    "TaskOfferAccept, prepared offer": (
        *(None, None, None),
        to("OFFERING", m.TaskAccepted),
        to("DRAINING", m.TaskRejected),
        *(None, None),
    ),
    "TaskOfferAccept, prepared task": nowhere(),
    "TaskSettings, task accepted": with_tasks(StartTask, closing=None),
    "TaskSettings, task running": nowhere(),
    "TaskSettings, task unknown": nowhere(),
    "TaskSettings, prepared task": with_tasks(SendPayload, closing=None),
    "TaskCancel, prepared task": nowhere(),
    "TaskCancel, task accepted": with_tasks(slots=-1),
    "TaskCancel, task running": with_tasks(EndCall, CancelTask),
    "TaskCancel, task unknown": nowhere(),
    "RpcResponse": with_tasks(EndCall),
    "RpcResponse, call unknown": nowhere(),
    "TaskDataResponse": with_tasks(EndCall),
    "NodeTypes": with_tasks(EndCall),
    "Drain": (None, None, None, to("DRAINING"), None, None, None),
    "ConnectionOpened": (to("INFO"), None, None, None, None, None, None),
    "ConnectionEnded": (
        None,
        *(to("DISCONNECTED"),) * 2,
        *(to("DISCONNECTED", EndCall, CancelTask, slots=-1),) * 3,
        None,
    ),
    "HandlerFinished": with_tasks(EndCall, SendPayload, closing=to("CLOSING", EndCall, ReportUndelivered)),
    "HandlerFinished, task unknown": nowhere(),
    "HandlerFinished, other connection": nowhere(),
    "CallMade": (
        *everywhere(EndCall)[:3],
        *with_tasks(SendPayload)[3:5],
        *everywhere(EndCall)[5:],
    ),
    "CallMade, no answer wanted": with_tasks(SendPayload, closing=None),
    "CallMade, other connection": everywhere(EndCall),
    "TimeLimitSet": nowhere(),
    "TimeLimitSet, other connection": nowhere(),
    "SlotFreed": nowhere(),
    "TypesChanged": nowhere(),
    "OfferingChanged": nowhere(),
    "OfferingChanged, not wanted": nowhere(),
    "MessageSkipped, settings": with_tasks(m.TaskFailed, slots=-1, closing=None),
    "MessageSkipped, settings of a prepared task": with_tasks(SendPayload, closing=None),
    "MessageSkipped, answer": with_tasks(EndCall, closing=None),
    "MessageSkipped, unknown": nowhere(),
    "Pong": nowhere(),
    "SocketMeasured": nowhere(),
    "SocketMeasured, nothing acknowledged": (
        None,
        to("CLOSING", AbortConnection),
        to("CLOSING", AbortConnection),
        to("CLOSING", AbortConnection),
        to("CLOSING", AbortConnection),
        *(None, None),
    ),
    "StopRequested": (
        to("CLOSED"),
        to("CLOSING", CloseConnection),
        to("CLOSING", CloseConnection),
        to("DRAINING"),
        *(None, None, None),
    ),
}

TABLE = {event: dict(zip(STATES, cells)) for event, cells in ROWS.items()}


def test_the_table_has_every_pair() -> None:
    assert set(TABLE) == set(EVENTS)
    assert all(set(cells) == set(STATES) for cells in TABLE.values())
    assert set(IS.values()) == set(SessionState)


#: The actions that change the state by themselves.
ENDS = {CloseConnection, AbortConnection}


def kinds() -> set[type]:
    bench = Bench()
    return {type(make(bench)) for make in EVENTS.values()}


def test_every_event_is_in_the_transitions() -> None:
    assert kinds() == set(get_args(Event)) == set(TRANSITIONS) - ENDS


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("kind", sorted(kinds(), key=lambda kind: kind.__name__))
def test_the_transitions_are_those_of_the_table(kind: type, state: str) -> None:
    """A pair that the transitions leave out has no effect; one that they have leads to their state."""
    bench = Bench()
    outcomes = [TABLE[event][state] for event, make in EVENTS.items() if type(make(bench)) is kind]
    after = TRANSITIONS[kind].get(IS[state])
    if after is None:
        assert outcomes == [None] * len(outcomes)
    else:
        # An action that ends the connection is a transition of its own.
        assert {
            IS[outcome[0]] if outcome else IS[state]
            for outcome in outcomes
            if outcome is None or not ENDS & set(outcome[1]) or kind is StopRequested
        } == {after}


def test_the_documented_diagram_has_the_transitions() -> None:
    text = Path(__file__).parents[2].joinpath("docs/protocol.md").read_text(encoding="utf-8")
    diagram = text[text.index("stateDiagram-v2") :].split("```")[0]
    drawn = set(re.findall(r"^ +(\w+) --> (\w+) :", diagram, re.MULTILINE))
    changes = {
        (before.name, after.name)
        for transitions in TRANSITIONS.values()
        for before, after in transitions.items()
        if before is not after
    }
    # A `StopRequested` that has come before follows every `ConnectionEnded`.
    assert drawn == changes | {("CLOSING", "CLOSED"), ("DRAINING", "CLOSED")}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("event", EVENTS)
def test_an_event_has_the_outcome_of_its_row(event: str, state: str) -> None:
    bench = bench_in(state)
    assert bench.session.state is IS[state]
    taken = bench.slots.taken
    if event == "HandlerFinished" and state in ("OFFERING", "DRAINING", "CLOSING"):
        bench.slots.release("t", bench.now)  # the slot of a returned handler
        taken -= 1
    actions = bench.handle(EVENTS[event](bench))
    after, kinds, slots = TABLE[event][state] or to(state)
    assert [type(action) for action in actions] == kinds
    assert bench.session.state is IS[after]
    assert bench.slots.taken == taken + slots
    if bench.session.state is SessionState.CLOSING and state == "CLOSING":
        assert set(bench.slots.links["a"]) == {"t"}
    assert bench.is_registered is (after in ("OFFERING", "DRAINING"))
    if state == "CLOSING":
        # No message may follow the close frame.
        sent = (SendPayload, SendPing, CloseConnection, m.TaskOffer, m.TaskAccepted, m.TaskRejected)
        bench.now += 1000
        assert not [action for action in [*actions, *bench.settle()] if isinstance(action, sent)]


@pytest.mark.parametrize("state", STATES)
def test_an_object_that_is_not_an_event_raises(state: str) -> None:
    with pytest.raises(KeyError):
        bench_in(state).handle(object())
