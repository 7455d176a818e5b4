"""A link's machine with everything around it in memory: attempts, connections, and the runner's answers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from n8nrunner.protocol import actions as a
from n8nrunner.protocol import events as e
from n8nrunner.protocol import messages as m
from n8nrunner.protocol.failures import ConnectionLost, LinkFailure
from n8nrunner.protocol.link import TRANSITIONS, LinkMachine, LinkState
from n8nrunner.protocol.session import RunnerSession
from n8nrunner.protocol.slots import Slots

BROKER = "http://broker.test:5679"
GRANT = "one-shot"


def doubling() -> Iterator[float]:
    """Yield the delays that `backoff` gives (tests/connection/test_delays.py)."""
    delay = 0.5
    while True:
        yield min(delay, 30.0)
        delay *= 2


class Connection:
    """A WebSocket."""

    def __init__(self) -> None:
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


class LinkBench:
    """Performs the actions of a `LinkMachine`, and checks each transition against the table.

    Args:
        one_shot: whether the runner has only a grant token.
        gives_up: the runner's answer to a refused token.
        idle: the time without a task after which the runner ends.
    """

    def __init__(self, one_shot: bool = False, gives_up: bool = True, idle: float = 0.0) -> None:
        self.now = 1000.0
        self.jitter = 1.0
        self.gives_up = gives_up
        numbers = itertools.count(1)
        slots = Slots(2)
        self.session = RunnerSession("link", "name", {"t": None}, slots, 60.0, lambda: f"{next(numbers)}")
        self.machine = LinkMachine(
            BROKER, self.session, slots, GRANT if one_shot else None, one_shot, idle, doubling
        )
        self.slots = slots
        #: The attempt or probe that is under way.
        self.attempt: a.StartAttempt | a.StartProbe | None = None
        self.connection: Connection | None = None
        #: Whether the kernel takes what is written.
        self.is_writable = True
        #: Task ids with their generation, of handlers that have not returned.
        self.running: dict[str, int] = {}
        self.fetched = itertools.count(1)
        self.used_grants: set[str] = set()
        #: Everything that was asked for, broker messages included, and how much of it before the first stop.
        self.done: list[Any] = []
        self.done_before_stop = 0
        self.stopped_until: float | None = None

    @property
    def state(self) -> LinkState:
        return self.machine.state

    # --- events -----------------------------------------------------------------------------------

    def do(self, event: Any) -> list[Any]:
        """Handle an event and settle. Return the actions that were performed."""
        before = len(self.done)
        self.handle(event)
        self.settle()
        return self.done[before:]

    def handle(self, event: Any) -> None:
        state = self.state
        if isinstance(event, e.StopRequested):
            if self.stopped_until is None:
                self.done_before_stop = len(self.done)
            self.stopped_until = min(event.until, self.stopped_until or event.until)
        actions = self.machine.handle(event, self.now)
        self.check(state, type(event))
        self.perform(actions)

    def check(self, before: LinkState, *kinds: type) -> None:
        transitions = [TRANSITIONS[before][kind] for kind in kinds if kind in TRANSITIONS[before]]
        allowed = {before}.union(*(transition[1] for transition in transitions))
        names = " or ".join(kind.__name__ for kind in kinds)
        assert self.state in allowed, f"{before.name} --{names}--> {self.state.name}"

    def settle(self) -> None:
        """Settle until nothing is due, as the links' thread does."""
        for _ in range(20):
            state = self.state
            actions = self.machine.settle(self.now)
            self.check(state, e.TimePassed, a.CloseConnection)
            self.perform(actions)
            if self.connection is not None:
                self.perform(self.machine.written(not self.is_writable, 0, False, self.now))
            if self.machine.next_deadline() > self.now:
                return
        raise AssertionError(f"a link that is {self.state.name} never rests")

    def wait(self, seconds: float) -> list[Any]:
        """Let time pass, and settle at every deadline. Return the actions that were performed."""
        before = len(self.done)
        end = self.now + seconds
        while self.machine.next_deadline() <= end:
            self.now = max(self.now, self.machine.next_deadline())
            self.settle()
        self.now = end
        return self.done[before:]

    def perform(self, actions: Any) -> None:
        for action in actions:
            self.done.append(action)
            if isinstance(action, (a.StartAttempt, a.StartProbe)):
                assert self.attempt is None, "two attempts at a time"
                assert self.connection is None, "an attempt besides a connection"
                self.attempt = action
                if isinstance(action, a.StartAttempt) and action.grant is not None:
                    assert action.grant not in self.used_grants, "a grant is used twice"
            elif isinstance(action, a.ServeConnection):
                assert isinstance(action.connection, Connection)
                self.connection = action.connection
            elif isinstance(action, a.DiscardConnection):
                action.connection.close()
            elif isinstance(action, a.ReportRefused):
                self.handle(e.RefusalAnswered(action.error, self.gives_up))
            elif isinstance(action, a.ReportIdle):
                self.handle(e.StopRequested(self.now + 1))  # as the runner does
            elif isinstance(action, a.AbortConnection):
                self.end(ConnectionLost(action.reason, action.code))
                return
            elif isinstance(action, a.MeasureSocket):
                self.handle(e.SocketMeasured(0, 0, 0.0, None))
            elif isinstance(action, a.StartTask):
                self.running[action.task_id] = action.generation

    # --- what happens to it -----------------------------------------------------------------------

    def open(self) -> list[Any]:
        """Let the attempt that is under way succeed."""
        assert isinstance(self.attempt, a.StartAttempt)
        self.used_grants.add(self.attempt.grant or f"fetched {next(self.fetched)}")
        self.attempt = None
        return self.do(e.ConnectionOpened(Connection(), self.jitter))

    def fail(self, reason: LinkFailure, grant: str | None = None) -> list[Any]:
        """Let the attempt fail. `grant` is one that it has fetched, if it was not given one."""
        assert isinstance(self.attempt, a.StartAttempt)
        grant = self.attempt.grant or grant
        self.attempt = None
        return self.do(e.AttemptFailed(reason, grant, self.jitter))

    def probed(self, problem: str | None) -> list[Any]:
        assert isinstance(self.attempt, a.StartProbe)
        self.attempt = None
        return self.do(e.BrokerProbed(problem, self.jitter))

    def register(self) -> list[Any]:
        """Let the broker greet and register the runner."""
        return self.do(m.InfoRequest()) + self.do(m.RunnerRegistered())

    def run_task(self, task_id: str) -> None:
        """Let the broker accept an open offer, and send the settings."""
        self.try_task(task_id)
        assert task_id in self.running

    def try_task(self, task_id: str) -> None:
        """Let the broker accept the last offer, if it is still open, and send the settings."""
        for offer in reversed(self.done):
            if isinstance(offer, m.TaskOffer):
                self.do(m.TaskOfferAccept(offer.offer_id, task_id))
                self.do(m.TaskSettings(task_id, {}))
                return

    def finish(self, task_id: str) -> list[Any]:
        """Let a handler return."""
        self.slots.release("t", self.now)
        return self.do(e.HandlerFinished(task_id, self.running.pop(task_id), b"{}", False))

    def end(self, reason: LinkFailure, written: int = 0, clean: bool = False) -> None:
        """End the connection, as the links' thread does after any failure."""
        assert self.connection is not None
        self.connection.close()
        self.connection = None
        self.handle(e.ConnectionEnded(reason, written, clean, self.jitter))

    def lose(self, reason: str = "reset", code: int | None = None) -> list[Any]:
        before = len(self.done)
        self.end(ConnectionLost(reason, code))
        self.settle()
        return self.done[before:]
