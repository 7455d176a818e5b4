"""Runners and brokers in memory: sessions on one side, n8n's matching on the other, and a network between.

Every message passes the network as text, so that the codec is tested too. A message arrives after at most
`DELAY` seconds of the world's clock. Messages of one direction of one connection keep their order; all others
may overtake each other.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from n8nrunner.broker import actions, events
from n8nrunner.broker.behaviour import BEHAVIOURS
from n8nrunner.broker.constants import BrokerConstants
from n8nrunner.broker.counts import BrokerEvent
from n8nrunner.broker.matching import Matching
from n8nrunner.protocol import codec
from n8nrunner.protocol import messages as m
from n8nrunner.protocol.actions import (
    AbortConnection,
    CancelTask,
    CloseConnection,
    EndCall,
    MeasureSocket,
    ReportUndelivered,
    SendPayload,
    SendPing,
    SendUrgentPing,
    StartTask,
    WakeLinks,
)
from n8nrunner.protocol.events import (
    CallMade,
    HandlerFinished,
    Pong,
    Prepared,
    SlotFreed,
    SocketMeasured,
    StopRequested,
    TypesChanged,
)
from n8nrunner.protocol.offers import REASON_FULL
from n8nrunner.protocol.prepared import ACCEPTED_LIMIT
from n8nrunner.protocol.session import REASON_LOST, REASON_STOPPED, RunnerSession
from n8nrunner.protocol.slots import Slots
from n8nrunner.protocol.states import SessionState
from tests.protocol.bench import connected, disconnected

#: The longest delay of a message, and of an event in a link's inbox, in seconds. A reservation lasts longer
#: than a wake-up, an offer and its acceptance take.
DELAY = 0.4
INBOX_DELAY = 0.1

#: The prepared types of all runners, and their answers.
PREPARED = {"p": Prepared('"p runs"', '"p stops"'), "q": Prepared('"q runs"', '"q stops"')}


class Packet(NamedTuple):
    """A step of the network; `kind` is "message", "ping", "pong", "close" or "end" of the connection."""

    due: float
    kind: str
    content: str = ""


class Connection:
    """One WebSocket, with the packets on their way in both directions."""

    def __init__(self, key: int, broker: Broker, matching: Matching) -> None:
        self.key = key
        self.broker = broker
        #: The state of the broker at its other end; a restarted broker has another one.
        self.matching = matching
        self.to_broker: deque[Packet] = deque()
        self.to_runner: deque[Packet] = deque()
        #: Packets that the runner's socket has not taken yet.
        self.unwritten: deque[Packet] = deque()
        #: The number of messages of which a byte was sent.
        self.written = 0
        self.closed_by_runner = False
        #: Whether packets that are sent from now on are lost.
        self.is_broken = False
        #: The offers that the broker holds, with their task types and ends.
        self.offers: dict[str, tuple[str, float]] = {}


class Handler:
    """A handler that is running or has returned."""

    def __init__(self, link: Link, connection: Connection, started: StartTask) -> None:
        self.link = link
        self.connection = connection
        self.task_id = started.task_id
        self.task_type = started.task_type
        self.generation = started.generation
        self.returned = False
        self.failed = False
        self.cancelled: CancelTask | None = None
        self.payload = b""
        self.sent = 0
        self.reports: list[ReportUndelivered] = []


class Call:
    def __init__(self, call_id: str, handler: Handler) -> None:
        self.call_id = call_id
        self.handler = handler
        self.ends: list[EndCall] = []


class Link:
    """One runner's side of one broker; stands in for `n8nrunner.connection`."""

    def __init__(self, world: World, runner: Runner, index: int, broker: Broker) -> None:
        self.world = world
        self.runner = runner
        self.index = index
        self.broker = broker
        self.connection: Connection | None = None
        self.inbox: deque[tuple[float, Any]] = deque()
        self.stalled = False
        #: Whether the broker of this connection drains, as far as the runner knows.
        self.is_drained = False
        self.handlers: dict[str, Handler] = {}
        self.session = RunnerSession(
            index, f"runner{runner.number}", {}, runner.slots, world.task_timeout, world.new_id
        )
        self.session.handle(TypesChanged(runner.types, PREPARED, ()), world.now)

    def __repr__(self) -> str:
        return f"<link {self.index} of runner {self.runner.number}>"

    def post(self, event: Any) -> None:
        self.inbox.append((self.world.now + INBOX_DELAY, event))

    def turn(self) -> None:
        """Do a turn of the links' thread: handle the inbox, then settle."""
        while self.inbox:
            _, event = self.inbox.popleft()
            self.perform(self.session.handle(event, self.world.now))
        self.settle()

    def settle(self) -> None:
        self.session.set_congested(self.stalled)
        self.perform(self.session.settle(self.world.now))
        if self.connection is None:  # a measurement may have ended it, which asks for another settle
            self.perform(self.session.settle(self.world.now))
        due = self.session.next_deadline()
        assert due > self.world.now, "the link would never sleep"

    def connect(self, jitter: float) -> None:
        if self.connection is None and self.session.state is SessionState.DISCONNECTED:
            self.connection = self.broker.connected(self)
            self.is_drained = False
            self.perform(self.session.handle(connected(jitter), self.world.now))
            self.settle()

    def receive(self) -> None:
        """Receive the next packet of the broker."""
        connection = self.connection
        assert connection is not None
        _, kind, content = connection.to_runner.popleft()
        self.session.note_received(self.world.now)
        if kind == "message":
            message = codec.decode_from_broker(content)
            self.world.note_message_to_runner(self, connection, message)
            self.perform(self.session.handle(message, self.world.now))
        elif kind == "pong":
            self.perform(self.session.handle(Pong(content), self.world.now))
        elif kind == "ping":
            self.send("pong", "")
        else:
            self.lost(clean=kind == "close" and connection.closed_by_runner)
        self.settle()

    def lost(self, clean: bool) -> None:
        connection, self.connection = self.connection, None
        assert connection is not None
        connection.to_runner.clear()
        connection.unwritten.clear()
        self.world.break_off(connection)
        self.stalled = False
        self.perform(self.session.handle(disconnected(connection.written, clean), self.world.now))
        self.handlers.clear()

    def send(self, kind: str, content: str, urgent: bool = False) -> None:
        connection = self.connection
        if connection is not None:
            packet = Packet(0, kind, content)
            if urgent:
                connection.unwritten.appendleft(packet)
            else:
                connection.unwritten.append(packet)
            if not self.stalled:
                self.flush()

    def flush(self) -> None:
        connection = self.connection
        assert connection is not None
        while connection.unwritten:
            _, kind, content = connection.unwritten.popleft()
            connection.written += kind == "message"
            connection.closed_by_runner |= kind == "close"
            if not connection.is_broken:
                connection.to_broker.append(Packet(self.world.now + DELAY, kind, content))

    def perform(self, wanted: Sequence[Any]) -> None:
        for action in wanted:
            kind = type(action)
            if kind is SendPayload:
                self.world.note_payload(self, action.payload)
                self.send("message", action.payload.decode())
            elif kind is SendPing:
                self.send("ping", action.payload)
            elif kind is SendUrgentPing:
                self.send("ping", action.payload, urgent=True)
            elif kind is MeasureSocket:
                assert self.connection is not None
                measured = SocketMeasured(self.connection.written, 0, 0.0, None)
                self.perform(self.session.handle(measured, self.world.now))
            elif kind is AbortConnection:
                self.lost(clean=False)
            elif kind is CloseConnection:
                self.send("close", "1000")
            elif kind is StartTask:
                assert self.connection is not None
                handler = Handler(self, self.connection, action)
                self.handlers[action.task_id] = handler
                self.world.note_start(handler, action)
            elif kind is CancelTask:
                handler = self.handlers.pop(action.task_id)
                assert handler.cancelled is None
                assert not handler.sent, "a task was cancelled after its answer"
                handler.cancelled = action
            elif kind is EndCall:
                action.call.ends.append(action)
            elif kind is ReportUndelivered:
                self.world.note_report(self, action)
            elif kind is WakeLinks:
                self.runner.wake(action.links)
            else:
                self.world.note_message_to_broker(self, action)
                self.send("message", codec.encode(action))


class Runner:
    """One capacity, and a link to each broker."""

    def __init__(self, world: World, number: int, capacity: int, types: Mapping[str, int | None]) -> None:
        self.number = number
        self.types = dict(types)
        self.capacity = capacity
        self.slots = Slots(capacity, len(world.brokers))
        self.running: list[Handler] = []
        self.links = [Link(world, self, index, broker) for index, broker in enumerate(world.brokers)]

    def wake(self, links: Any) -> None:
        for index in links:
            self.links[index].post(SlotFreed())


class Request:
    def __init__(self, request_id: str, task_type: str, is_slow: bool) -> None:
        self.request_id = request_id
        self.task_type = task_type
        #: Whether its requester gives the settings only when a step tells it to.
        self.is_slow = is_slow
        self.task_id: str | None = None
        self.end: str | None = None
        self.refusals: dict[int, int] = {}


class Broker:
    """n8n's matching and its requesters."""

    def __init__(self, world: World, number: int, profile: str) -> None:
        self.world = world
        self.number = number
        self.profile = profile
        self.matching = self.begin()
        self.is_draining = False
        self.connections: dict[int, tuple[Connection, Link]] = {}
        self.requests: dict[str, Request] = {}
        self.waiting_for_settings: dict[str, str] = {}
        #: Connections whose open offers the broker has just dropped.
        self.dropped: list[Connection] = []
        #: Requests whose acceptance a runner has not answered, by the id of the future task.
        self.accepting: dict[str, Request] = {}

    def begin(self) -> Matching:
        constants = BrokerConstants(task_timeout=8.0, request_timeout=6.0, heartbeat_interval=20.0)
        return Matching(
            self.world.now,
            self.world.new_task_id,
            behaviour=BEHAVIOURS[self.profile],
            constants=constants,
            totals={},
            on_event=self.note,
        )

    def note(self, event: BrokerEvent) -> None:
        if event.kind == "acceptances":
            request = self.requests[str(event.request_id)]
            self.accepting[str(event.task_id)] = self.world.asked[str(event.task_id)] = request
        elif event.kind in ("accepted", "rejected", "missed", "abandoned"):
            del self.accepting[str(event.task_id)]
        elif event.kind == "withdrawn":
            request = self.requests[str(event.request_id)]
            self.accepting = {t: other for t, other in self.accepting.items() if other is not request}
        elif event.kind == "offers_dropped":
            key = int(str(event.runner_id).rsplit("-", 1)[1])
            self.dropped.append(self.connections[key][0])

    def waiting_types(self) -> set[str]:
        """Return the types of the requests that wait for an offer."""
        accepting = set(map(id, self.accepting.values()))
        return {
            request.task_type
            for request in self.requests.values()
            if request.end is None and request.task_id is None and id(request) not in accepting
        }

    def connected(self, link: Link) -> Connection:
        key = next(self.world.keys)
        connection = Connection(key, self, self.matching)
        self.connections[key] = (connection, link)
        self.step(connection.matching, events.Connected(key, f"runner-id-{key}"))
        return connection

    def step(self, matching: Matching, event: Any) -> None:
        wanted = matching.handle(event, self.world.now)
        # The broker may have accepted an offer of a connection before it dropped the others.
        dropped, self.dropped = self.dropped, []
        for action in wanted:
            self.perform(matching, action)
        for connection in dropped:
            connection.offers.clear()

    def perform(self, matching: Matching, action: Any) -> None:
        kind = type(action)
        due = self.world.now + DELAY
        if kind is actions.Send:
            connection, _ = self.connections[action.connection]
            if type(action.message) is m.TaskOfferAccept:
                self.world.owners[action.message.task_id] = connection
                task_type, until = connection.offers.pop(action.message.offer_id)
                assert until > self.world.now
                assert task_type == self.world.asked[action.message.task_id].task_type
            connection.to_runner.append(Packet(due, "message", codec.encode(action.message)))
        elif kind is actions.Ping:
            self.connections[action.connection][0].to_runner.append(Packet(due, "ping"))
        elif kind is actions.Close:
            self.connections[action.connection][0].to_runner.append(Packet(due, "close", str(action.code)))
        elif kind is actions.TaskReady:
            request = self.requests[action.request_id]
            assert request.end is None
            request.task_id = action.task_id
            self.waiting_for_settings[action.task_id] = action.request_id
            if not request.is_slow:
                self.world.give_settings(self, action.task_id)
        elif kind is actions.RequestExpired:
            self.end(action.request_id, "expired")
        elif kind is actions.TaskDone:
            self.end(action.request_id, "done")
            task_type = self.requests[action.request_id].task_type
            results = PREPARED.get(task_type, Prepared(f'"{action.task_id}"', ""))
            assert f'"{action.data["result"]}"' in results, "the result of another task"
        elif kind is actions.TaskFailed:
            self.end(action.request_id, action.cause)
        elif kind is actions.Relay:
            call: Any = action.message
            answer = m.RpcResponse(call.task_id, call.call_id, "success", f"answer to {call.call_id}")
            self.step(matching, events.Answered(call.task_id, answer))
        elif kind is actions.Drained:
            # n8n has restarted.
            self.is_draining = False
            self.matching = self.begin()
        else:
            raise AssertionError(action)

    def end(self, request_id: str, how: str) -> None:
        request = self.requests[request_id]
        assert request.end is None, f"{request_id} ended twice: {request.end}, {how}"
        request.end = how
        if request.task_id is not None:
            self.waiting_for_settings.pop(request.task_id, None)

    def receive(self, connection: Connection) -> None:
        """Receive the next packet of a runner."""
        _, kind, content = connection.to_broker.popleft()
        matching = connection.matching
        if kind == "message":
            message: Any = codec.decode_from_runner(content)
            self.world.note_message_at_broker(connection, message)
            if type(message) is m.TaskOffer and message.valid_for:
                until = self.world.now + message.valid_for / 1000
                connection.offers[message.offer_id] = (message.task_type, until)
            self.step(matching, events.Received(connection.key, message))
        elif kind == "ping":
            connection.to_runner.append(Packet(self.world.now + DELAY, "pong", content))
        elif kind == "pong":
            self.step(matching, events.PongReceived(connection.key))
        elif kind == "close":
            connection.to_broker.clear()
            connection.to_runner.append(Packet(self.world.now + DELAY, "close", content))
            self.step(matching, events.Disconnected(connection.key))
            self.world.break_off(connection)
        else:
            self.step(matching, events.Disconnected(connection.key))
            del self.connections[connection.key]


class World:
    """All runners and brokers, and the rules that must hold.

    Args:
        profiles: of the brokers, one each.
        capacities: of the runners, one each.
        types: the task types with their limits, the same for all runners.
    """

    task_timeout = 5.0

    def __init__(
        self, profiles: Sequence[str], capacities: Sequence[int], types: Mapping[str, int | None]
    ) -> None:
        self.now = 100.0
        self.keys = itertools.count(1)
        self.numbers = itertools.count(1)
        self.types = dict(types)
        self.calls: list[Call] = []
        self.handlers: list[Handler] = []
        #: Connection and request of each task for which a runner was asked, by the id of the task.
        self.owners: dict[str, Connection] = {}
        self.asked: dict[str, Request] = {}
        self.started: set[str] = set()
        self.answers: dict[str, int] = {}
        #: Whether no runner may refuse a request twice. After a lost connection, for example, it may.
        self.is_calm = True
        self.brokers = [Broker(self, number, profile) for number, profile in enumerate(profiles)]
        self.runners = [Runner(self, number, capacity, types) for number, capacity in enumerate(capacities)]
        self.links = [link for runner in self.runners for link in runner.links]

    def new_id(self) -> str:
        return f"id{next(self.numbers)}"

    def new_task_id(self) -> str:
        return f"task{next(self.numbers)}"

    # --- rules for what is sent and received ---------------------------------------------------

    def note_message_to_runner(self, link: Link, connection: Connection, message: Any) -> None:
        task_id = getattr(message, "task_id", None)
        if task_id is not None:
            assert self.owners[task_id] is connection, "a message of another connection"
        link.is_drained |= isinstance(message, m.Drain)

    def note_message_to_broker(self, link: Link, message: Any) -> None:
        if isinstance(message, m.TaskOffer):
            may_offer = link.session.state is SessionState.OFFERING
            if message.task_type in PREPARED:
                may_offer |= link.session.is_stopping and link.session.state is SessionState.DRAINING
                assert not link.is_drained, "an offer after a drain"
                assert message.valid_for
            assert may_offer, "an offer while draining"
            assert message.valid_for == 0 or 10_000 <= message.valid_for < 15_000
        task_id = getattr(message, "task_id", None)
        if task_id is not None:
            assert self.owners[task_id] is link.connection, "an answer to another connection"
        if isinstance(message, m.TaskRejected) and message.reason == REASON_FULL:
            refusals = self.asked[task_id].refusals  # type: ignore[index]
            refusals[link.runner.number] = refusals.get(link.runner.number, 0) + 1
            if self.is_calm and len(self.runners) == 1:
                assert refusals[link.runner.number] == 1, "a task was refused twice"

    def note_message_at_broker(self, connection: Connection, message: Any) -> None:
        task_id = getattr(message, "task_id", None)
        if task_id is not None:
            assert self.owners[task_id] is connection, "an answer crossed connections"
        if isinstance(message, (m.TaskDone, m.TaskFailed)):
            self.answers[task_id] = self.answers.get(task_id, 0) + 1
            assert self.answers[task_id] == 1, "a task was answered twice"

    def note_start(self, handler: Handler, started: StartTask) -> None:
        assert started.task_type not in PREPARED
        assert started.task_id not in self.started, "a task was started twice"
        assert started.settings == {"for": started.task_id}, "the settings of another task"
        assert started.task_type == self.asked[started.task_id].task_type
        self.started.add(started.task_id)
        self.handlers.append(handler)
        running = handler.link.runner.running
        running.append(handler)
        assert len(running) <= handler.link.runner.capacity, "more handlers than slots"
        limit = self.types[started.task_type]
        of_type = sum(other.task_type == started.task_type for other in running)
        assert limit is None or of_type <= limit, "more handlers than the type's limit"

    def note_payload(self, link: Link, payload: bytes) -> None:
        for handler in self.handlers:
            if handler.returned and handler.payload == payload:
                assert handler.connection is link.connection, "an answer to another connection"
                assert handler.cancelled is None, "an answer of a cancelled task"
                handler.sent += 1
                assert handler.sent == 1
                handler.link.handlers.pop(handler.task_id)

    def note_report(self, link: Link, report: ReportUndelivered) -> None:
        (handler,) = [h for h in self.handlers if h.returned and h.task_id == report.task_id]
        assert handler.link is link
        assert report.payload == handler.payload
        assert report.failed is handler.failed
        assert report.task_type == handler.task_type
        handler.reports.append(report)
        assert len(handler.reports) == 1, "a result was reported twice"

    # --- steps ----------------------------------------------------------------------------------

    def request(self, broker: Broker, task_type: str, is_slow: bool = False) -> Request:
        request = Request(f"request{next(self.numbers)}", task_type, is_slow)
        broker.requests[request.request_id] = request
        broker.step(broker.matching, events.TaskRequested(request.request_id, task_type))
        return request

    def give_settings(self, broker: Broker, task_id: str) -> None:
        del broker.waiting_for_settings[task_id]
        broker.step(broker.matching, events.SettingsGiven(task_id, {"for": task_id}))

    def give_up(self, broker: Broker, request: Request) -> None:
        """Cancel a request, as a user does."""
        broker.end(request.request_id, "given up")
        if request.task_id is None:
            broker.step(broker.matching, events.RequestWithdrawn(request.request_id, "withdrawn"))
        else:
            broker.step(broker.matching, events.TaskCancelled(request.task_id, "cancelled"))

    def finish(self, handler: Handler, failed: bool = False) -> None:
        """Let a handler return: first its slot is freed, then its link gets the event."""
        handler.returned = True
        handler.failed = failed
        if failed:
            handler.payload = codec.encode_error(handler.task_id, {"message": handler.task_id})
        else:
            handler.payload = codec.encode_result(handler.task_id, f'"{handler.task_id}"')
        runner, link = handler.link.runner, handler.link
        runner.running.remove(handler)
        woken = runner.slots.release(handler.task_type, self.now)
        freed = link.index in woken
        link.post(HandlerFinished(handler.task_id, handler.generation, handler.payload, failed, freed))
        runner.wake([index for index in woken if index != link.index])

    def call(self, handler: Handler) -> None:
        call = Call(self.new_id(), handler)
        self.calls.append(call)
        payload = codec.encode_with(m.RpcCall(call.call_id, handler.task_id, "name", None), "[]")
        handler.link.post(CallMade(handler.task_id, handler.generation, call.call_id, payload, call))

    def cut(self, link: Link, arriving: int, runner_notices: bool) -> None:
        """Break the connection. `arriving` of the packets on their way to the broker still arrive."""
        connection = link.connection
        if connection is None or connection.is_broken:
            return
        self.is_calm = False
        while len(connection.to_broker) > arriving:
            connection.to_broker.pop()
        connection.to_runner.clear()
        if runner_notices:
            link.lost(clean=False)
            link.settle()
        else:
            self.break_off(connection)
            connection.to_runner.append(Packet(self.now + DELAY, "end"))

    def break_off(self, connection: Connection) -> None:
        if not connection.is_broken:
            connection.is_broken = True
            connection.to_broker.append(Packet(self.now + DELAY, "end"))

    def stall(self, link: Link) -> None:
        """Let the broker stop reading."""
        if link.connection is not None and not link.connection.closed_by_runner:
            self.is_calm = False
            link.stalled = True
            link.settle()

    def go_on(self, link: Link) -> None:
        if link.stalled:
            link.stalled = False
            link.settle()
            link.flush()
            link.settle()

    def drain(self, broker: Broker, timeout: float) -> None:
        if not broker.is_draining:
            self.is_calm = False
            broker.is_draining = True
            broker.step(broker.matching, events.DrainStarted(timeout))

    # --- time -----------------------------------------------------------------------------------

    def connections(self) -> list[tuple[Connection, Link]]:
        return [entry for broker in self.brokers for entry in list(broker.connections.values())]

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and everything happen when it is due."""
        end = self.now + seconds
        while True:
            due, step = self.next_step()
            if step is None or due > end:
                break
            self.now = max(self.now, due)
            step()
        self.now = end

    def next_step(self) -> tuple[float, Any]:
        best: tuple[float, Any] = (float("inf"), None)

        def consider(due: float | None, step: Any) -> None:
            nonlocal best
            if due is not None and due < best[0]:
                best = (due, step)

        for link in self.links:
            consider(link.session.next_deadline(), link.settle)
            if link.inbox:
                consider(link.inbox[0][0], link.turn)
            if link.connection is not None and link.connection.to_runner:
                consider(link.connection.to_runner[0].due, link.receive)
        for broker in self.brokers:
            matching = broker.matching
            consider(
                matching.next_deadline(), lambda b_=broker, m_=matching: b_.step(m_, events.TimePassed())
            )
            for connection, _ in broker.connections.values():
                if connection.to_broker:
                    consider(connection.to_broker[0].due, lambda b_=broker, c_=connection: b_.receive(c_))
        return best

    def settle(self) -> None:
        """Deliver all packets and events, and settle all links."""
        for link in self.links:
            link.turn()
        while True:
            busy = False
            for connection, _ in self.connections():
                while connection.to_broker:
                    connection.broker.receive(connection)
                    busy = True
            for link in self.links:
                while link.connection is not None and link.connection.to_runner:
                    link.receive()
                    busy = True
                if link.inbox:
                    link.turn()
                    busy = True
            if not busy:
                return

    # --- rules ----------------------------------------------------------------------------------

    def check(self) -> None:
        """Check what holds after every step."""
        for runner in self.runners:
            slots = runner.slots
            assert 0 <= slots.taken <= runner.capacity
            accepted = [
                task_type for link in runner.links for task_type, _ in link.session.tasks.accepted.values()
            ]
            tasks = accepted + [handler.task_type for handler in runner.running]
            assert slots.taken == len(tasks), "a slot is taken without a task, or a task has no slot"
            for name, limit in self.types.items():
                assert limit is None or tasks.count(name) <= limit
            for link in runner.links:
                session, counters = link.session, link.session.counters
                assert not PREPARED.keys() & slots.links.get(link.index, {}).keys()
                # Offers from before can still be accepted, an open one and a lapsed one of each type.
                assert len(session.prepared.accepted) < ACCEPTED_LIMIT + 2 * len(PREPARED)
                assert counters.accepted == (
                    counters.done
                    + counters.failed
                    + counters.timed_out
                    + counters.cancelled
                    + counters.lost
                    + counters.unfinished
                    + len(session.tasks)
                ), "a task is not counted, or counted twice"
                orphans = [
                    handler
                    for handler in self.handlers
                    if handler.link is link
                    and handler.cancelled is not None
                    and handler.cancelled.reason == REASON_LOST
                    and not handler.returned
                ]
                assert len(orphans) <= len(session.tasks.orphans)

    def check_settled(self) -> None:
        """Check that every pair offers that can, and no request waits that could be served."""
        for runner in self.runners:
            for link in runner.links:
                connection, session = link.connection, link.session
                if (
                    connection is None
                    or link.stalled
                    or session.state is not SessionState.OFFERING
                    or connection.closed_by_runner
                ):
                    continue
                at_broker = {name for name, until in connection.offers.values() if until > self.now}
                waiting: set[str] = set()
                # n8n 2.27 leaves a request alone after an acceptance without an answer, until an offer or a
                # request comes. No other runner can know that.
                if connection.matching is link.broker.matching and (
                    self.is_calm or link.broker.profile == "2.40"
                ):
                    waiting = link.broker.waiting_types()
                if len(session.prepared.accepted) < ACCEPTED_LIMIT:
                    for name in PREPARED:
                        assert name in at_broker, "the broker has no offer of a prepared type"
                        assert name not in waiting, "a request of a prepared type waits"
                self.check_answered(connection)
                slots = runner.slots
                room = runner.capacity - slots.taken - slots.reserved
                for name in runner.types:
                    pair = slots.links[link.index][name]
                    kind = pair.task_type
                    if room > 0 and (kind.limit is None or kind.limit > kind.taken + kind.reserved):
                        assert pair.open >= 1, "no open offer, and there is room"
                        assert name in at_broker, "the broker has no offer, and there is room"
                        assert name not in waiting, "a request waits, and there is room"

    def check_answered(self, connection: Connection) -> None:
        """Check that every task of a prepared type is answered that has its settings."""
        for task_id, request in self.asked.items():
            if request.task_type in PREPARED and request.task_id == task_id:
                waits = task_id in connection.broker.waiting_for_settings
                assert waits or request.end or self.owners[task_id] is not connection, "no answer"

    def end(self) -> None:
        """Stop everything, and check that every task ended once and every result arrived or was reported."""
        for link in self.links:
            self.go_on(link)
        self.settle()
        self.check()
        for link in self.links:
            link.post(StopRequested(self.now + 1.0))
            link.turn()
        self.pass_time(2.0)
        for handler in self.handlers:
            if not handler.returned:
                self.finish(handler)
        self.pass_time(5.0)
        self.check()
        for link in self.links:
            if link.connection is not None:  # for example, the broker's close frame was lost
                link.lost(clean=False)
                link.turn()
            assert link.session.state is SessionState.CLOSED
            tasks = link.session.tasks
            assert not tasks
            assert not tasks.orphans
            assert not link.session.calls.open
        self.pass_time(DELAY)
        for runner in self.runners:
            assert runner.slots.taken == 0
            assert runner.slots.reserved_pairs == runner.slots.reserved == 0
            assert not runner.slots.waiting
        for handler in self.handlers:
            self.check_account(handler)
        for call in self.calls:
            assert len(call.ends) == 1, "a call ended more than once, or never"
            answer = call.ends[0]
            assert answer.error is not None or answer.value == f"answer to {call.call_id}"
        for broker in self.brokers:
            for request in broker.requests.values():
                if request.task_id is not None and request.end is None:
                    raise AssertionError(f"{request.request_id} has a task, and never ended")

    def check_account(self, handler: Handler) -> None:
        arrived = self.answers.get(handler.task_id, 0)
        if handler.cancelled is not None:
            assert handler.sent == 0
            reason = handler.cancelled.reason
            if reason == REASON_LOST:
                (report,) = handler.reports
                assert report.certain
                assert arrived == 0
            else:
                assert not handler.reports
                # The runner reports the tasks that its own limits end.
                ours = handler.cancelled.ending == "timed_out" or reason == REASON_STOPPED
                assert ours or arrived == 0
        elif handler.sent:
            assert arrived or handler.reports, "a result was lost and not reported"
            assert not (arrived and handler.reports and handler.reports[0].certain)
        else:
            # It returned after the runner's close frame.
            (report,) = handler.reports
            assert report.certain
            assert arrived == 0
