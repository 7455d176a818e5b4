"""One session with a clock that tests move, and checks after every step."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from n8nrunner.protocol import messages as m
from n8nrunner.protocol.actions import MeasureSocket, SendPayload, StartTask
from n8nrunner.protocol.events import (
    CallMade,
    ConnectionEnded,
    ConnectionOpened,
    HandlerFinished,
    MessageSkipped,
    Prepared,
    SocketMeasured,
    TypesChanged,
)
from n8nrunner.protocol.failures import ConnectionLost
from n8nrunner.protocol.prepared import ACCEPTED_LIMIT
from n8nrunner.protocol.receipts import UNCONFIRMED_LIMIT
from n8nrunner.protocol.session import RunnerSession
from n8nrunner.protocol.slots import Slots
from n8nrunner.protocol.states import TASK_STATES, SessionState

START = 1000.0

#: The answers of a prepared type.
PREPARED = Prepared('{"state": "running"}', '{"state": "stopping"}')


class NoConnection:
    """A WebSocket that a session never uses."""

    def close(self) -> None: ...


def connected(jitter: float = 0.0) -> ConnectionOpened:
    return ConnectionOpened(NoConnection(), jitter)


def disconnected(written: int = 0, clean: bool = False) -> ConnectionEnded:
    return ConnectionEnded(ConnectionLost("lost"), written, clean, 0.0)


def skipped(
    kind: str | None, task_id: str | None = None, call_id: str | None = None, request_id: str | None = None
) -> MessageSkipped:
    head = m.Head(kind, task_id, call_id, request_id, None)
    return MessageSkipped(head, "is of no use", "It has a flaw.")


class Bench:
    """A session, its slots and its clock.

    Args:
        capacity, types, brokers: of the slots, unless they are passed.
        link: the session's name towards them.
        prepared: the prepared types.
    """

    def __init__(
        self,
        capacity: int = 2,
        types: Mapping[str, int | None] | None = None,
        brokers: int = 1,
        slots: Slots | None = None,
        link: str = "a",
        task_timeout: float = 300.0,
        prepared: Mapping[str, Prepared] | None = None,
    ) -> None:
        self.now = START
        self.slots = slots or Slots(capacity, brokers)
        numbers = itertools.count(1)
        self.types = {"t": None} if types is None else types
        self.session = RunnerSession(
            link, "name", self.types, self.slots, task_timeout, lambda: f"{link}{next(numbers)}"
        )
        self.prepared = prepared or {}
        if prepared:
            self.session.handle(TypesChanged(self.types, prepared, ()), START)
        self.link = link
        self.task_numbers = itertools.count(1)
        self.sent = 0
        #: The answer to `MeasureSocket`.
        self.measured = SocketMeasured(0, 0, 0.0, None)

    @property
    def held_tasks(self) -> int:
        """The number of tasks that are accepted or running."""
        return len(self.session.tasks)

    @property
    def is_registered(self) -> bool:
        """Whether the broker knows the runner."""
        return self.session.state in TASK_STATES

    # --- steps ----------------------------------------------------------------------------------

    def handle(self, event: Any) -> list[Any]:
        """Handle one event, without settling."""
        return self.checked(self.session.handle(event, self.now))

    def settle(self) -> list[Any]:
        """Settle. Afterwards nothing may be due, or the link would never sleep."""
        actions = self.checked(self.session.settle(self.now))
        if any(isinstance(action, MeasureSocket) for action in actions):
            actions += self.checked(self.session.handle(self.measured, self.now))
        session = self.session
        if session.prepared.types and not session.is_congested and session.state is SessionState.OFFERING:
            is_full = len(session.prepared.accepted) >= ACCEPTED_LIMIT
            assert is_full or self.prepared_offers().keys() == session.prepared.types.keys()
        due = self.session.next_deadline()
        assert due > self.now, f"settled, and at {due - self.now:+g} s there is more to settle"
        return actions

    def do(self, *events: Any) -> list[Any]:
        """Do a turn of the link: handle the events, then settle."""
        actions: list[Any] = []
        for event in events:
            actions += self.handle(event)
        return actions + self.settle()

    def pass_time(self, seconds: float, until_something: bool = False) -> list[Any]:
        """Move the clock, and settle whenever `next_deadline` says so."""
        end = self.now + seconds
        actions: list[Any] = []
        turns = 0
        while True:
            due = self.session.next_deadline()
            if due > end:
                break
            self.now = max(self.now, due)
            actions += self.settle()
            turns += 1
            assert turns < 1000, "the link never sleeps"
            if until_something and actions:
                return actions
        self.now = end
        return actions + self.settle()

    def checked(self, actions: list[Any]) -> list[Any]:
        """Check the session after a step, and return its actions."""
        session, slots = self.session, self.slots
        self.sent += sum(isinstance(action, (SendPayload, *SENT)) for action in actions)
        offers: dict[str, int] = {}
        for task_type, _ in session.offers.open.values():
            offers[task_type] = offers.get(task_type, 0) + 1
        counted = {name: pair.open for name, pair in slots.links.get(self.link, {}).items()}
        assert {name: count for name, count in counted.items() if count} == offers
        if session.state is not SessionState.CLOSING:  # it keeps its offers until the connection has ended
            assert session.state in TASK_STATES or not session.prepared.offers
            is_offering = session.state is SessionState.OFFERING and session.offers_wanted
            assert is_offering or not session.offers.open
            assert is_offering is (self.link in slots.links) or not self.types
        assert sum(len(result.payload or b"") for result in session.receipts.results) <= UNCONFIRMED_LIMIT
        open_ones = [name for name, end in session.prepared.offers.values() if end > self.now]
        assert len(open_ones) == len(set(open_ones)), "two open offers of one prepared type"
        assert len(session.prepared.accepted) < ACCEPTED_LIMIT + 2 * max(1, len(session.prepared.types))
        assert not [task_id for task_id in session.prepared.accepted if task_id in session.tasks]
        counters = session.counters
        assert counters.accepted == (
            counters.done
            + counters.failed
            + counters.timed_out
            + counters.cancelled
            + counters.lost
            + counters.unfinished
            + counters.retried
            + self.held_tasks
        ), "a task is not counted, or counted twice"
        assert set(session.calls.open.values()) <= set(session.tasks.running), (
            "a call waits for a task that has ended"
        )
        assert slots.taken <= slots.capacity
        return actions

    # --- ways into a state ----------------------------------------------------------------------

    def connect(self, jitter: float = 0.0) -> list[Any]:
        """Connect and register; return the offers."""
        assert self.do(connected(jitter)) == []
        info = self.do(m.InfoRequest())
        assert info == [m.RunnerInfo("name", tuple(dict.fromkeys([*self.types, *self.prepared])))]
        self.sent = 1
        return self.do(m.RunnerRegistered())

    def offers(self) -> list[str]:
        """Return the ids of the open offers, in their order."""
        return list(self.session.offers.open)

    def prepared_offers(self) -> dict[str, str]:
        """Return the id of the newest offer of each prepared type that has one."""
        offers = self.session.prepared.offers.items()
        return {name: offer_id for offer_id, (name, end) in offers if end > self.now}

    def accept(self, offer_id: str | None = None) -> str:
        """Let the broker accept an offer; return the task's id."""
        task_id = f"task{next(self.task_numbers)}"
        actions = self.do(m.TaskOfferAccept(offer_id or self.offers()[0], task_id))
        assert actions[0] == m.TaskAccepted(task_id)
        return task_id

    def start(self, settings: Any = None, offer_id: str | None = None) -> str:
        """Start a task; return its id."""
        task_id = self.accept(offer_id)
        (started,) = self.do(m.TaskSettings(task_id, settings))
        assert isinstance(started, StartTask)
        return task_id

    def finish(
        self, task_id: str, payload: bytes = b"answer", failed: bool = False, function: str | None = None
    ) -> list[Any]:
        """Let a handler return; its slot is freed first."""
        self.slots.release("t", self.now)
        generation = self.session.generation
        return self.do(HandlerFinished(task_id, generation, payload, failed, function=function))

    def call(self, task_id: str, call_id: str, payload: bytes = b"call") -> list[Any]:
        return self.do(CallMade(task_id, self.session.generation, call_id, payload, f"call {call_id}"))

    def lose(self, written: int = 0, clean: bool = False) -> list[Any]:
        return self.do(disconnected(written, clean))


SENT = (m.RunnerInfo, m.TaskOffer, m.TaskAccepted, m.TaskRejected, m.TaskFailed)


def of(kind: Any, actions: list[Any]) -> list[Any]:
    return [action for action in actions if isinstance(action, kind)]


def without(kind: Any, actions: list[Any]) -> list[Any]:
    return [action for action in actions if not isinstance(action, kind)]
