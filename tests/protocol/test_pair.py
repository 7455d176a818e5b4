"""Runners against brokers, in memory, in any order of events."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from n8nrunner.broker import PROFILES
from n8nrunner.protocol.events import StopRequested, TimeLimitSet
from n8nrunner.protocol.prepared import ACCEPTED_LIMIT
from tests.protocol.world import DELAY, PREPARED, World

#: The number of any existing thing, modulo how many there are.
any_of = st.integers(0, 1000)
one_in_eight = st.sampled_from([False] * 7 + [True])
some_types = st.dictionaries(st.sampled_from(("t", "u")), st.sampled_from([None, None, 1, 2]), min_size=1)


class CalmMachine(RuleBasedStateMachine):
    """No connection is lost, and no message takes longer than `DELAY`."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World([], [], {})

    def pick(self, things: list[Any], number: int) -> Any:
        return things[number % len(things)] if things else None

    @initialize(
        profiles=st.lists(st.sampled_from(PROFILES), min_size=1, max_size=3),
        capacities=st.lists(st.sampled_from([1, 1, 2, 3, 20]), min_size=1, max_size=1),
        types=some_types,
        jitters=st.lists(st.sampled_from([0.0, 0.3, 0.999]), min_size=6, max_size=6),
    )
    def begin(
        self,
        profiles: list[str],
        capacities: list[int],
        types: dict[str, int | None],
        jitters: list[float],
    ) -> None:
        self.world = World(profiles, capacities, types)
        for link, jitter in zip(self.world.links, jitters):
            link.connect(jitter)
        self.world.settle()

    # --- requesters -----------------------------------------------------------------------------

    @rule(number=any_of, task_type=any_of, count=st.integers(1, 4), is_slow=one_in_eight)
    def request(self, number: int, task_type: int, count: int, is_slow: bool) -> None:
        broker = self.pick(self.world.brokers, number)
        for _ in range(count):
            self.world.request(broker, self.pick(sorted(self.world.types), task_type), is_slow)

    @rule(
        number=any_of,
        task_type=st.sampled_from(sorted(PREPARED)),
        count=st.sampled_from([1, 1, 3, ACCEPTED_LIMIT + 3]),
        is_slow=one_in_eight,
    )
    def request_prepared(self, number: int, task_type: str, count: int, is_slow: bool) -> None:
        for _ in range(count):
            self.world.request(self.pick(self.world.brokers, number), task_type, is_slow)

    @rule(number=any_of, task_type=any_of, count=st.integers(1, 4))
    def request_and_serve(self, number: int, task_type: int, count: int) -> None:
        self.request(number, task_type, count, False)
        self.settle()

    @rule(number=any_of)
    def give_settings(self, number: int) -> None:
        waiting = [(broker, t) for broker in self.world.brokers for t in broker.waiting_for_settings]
        if waiting:
            self.world.give_settings(*self.pick(waiting, number))

    @rule(number=any_of)
    def give_up(self, number: int) -> None:
        open_ones = [
            (broker, request)
            for broker in self.world.brokers
            for request in broker.requests.values()
            if request.end is None
        ]
        if open_ones:
            self.world.give_up(*self.pick(open_ones, number))

    # --- handlers -------------------------------------------------------------------------------

    def running(self) -> list[Any]:
        return [handler for runner in self.world.runners for handler in runner.running]

    @rule(number=any_of, failed=st.booleans())
    def finish(self, number: int, failed: bool) -> None:
        handler = self.pick(self.running(), number)
        if handler is not None:
            self.world.finish(handler, failed)

    @rule(number=any_of, count=st.integers(1, 9))
    def finish_several(self, number: int, count: int) -> None:
        for _ in range(count):
            self.finish(number, False)

    @rule(number=any_of)
    def call(self, number: int) -> None:
        handler = self.pick(self.running(), number)
        if handler is not None:
            self.world.call(handler)

    @rule(number=any_of, limit=st.sampled_from([0.1, 1.0, 60.0]))
    def limit_time(self, number: int, limit: float) -> None:
        handler = self.pick(self.running(), number)
        if handler is not None:
            deadline = self.world.now + limit
            handler.link.post(TimeLimitSet(handler.task_id, handler.generation, deadline, limit))

    # --- the network ----------------------------------------------------------------------------

    @rule(number=any_of, count=st.integers(1, 9))
    def arrive_at_broker(self, number: int, count: int) -> None:
        busy = [connection for connection, _ in self.world.connections() if connection.to_broker]
        connection = self.pick(busy, number)
        for _ in range(count):
            if connection is not None and connection.to_broker:
                connection.broker.receive(connection)

    @rule(number=any_of, count=st.integers(1, 9))
    def arrive_at_runner(self, number: int, count: int) -> None:
        busy = [link for link in self.world.links if link.connection and link.connection.to_runner]
        link = self.pick(busy, number)
        for _ in range(count):
            if link is not None and link.connection is not None and link.connection.to_runner:
                link.receive()

    @rule(number=any_of)
    def turn(self, number: int) -> None:
        self.pick(self.world.links, number).turn()

    @rule(seconds=st.sampled_from([0.01, 0.01, 0.1, 0.1, DELAY, DELAY, 1.0, 2.1, 5.0]))
    def pass_time(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @rule(before=st.sampled_from([0.0, 0.01, 0.3]))
    def pass_time_until_offers_lapse(self, before: float) -> None:
        lapses = [until for link in self.world.links for _, until in link.session.offers.open.values()]
        if lapses:
            self.world.pass_time(max(0.0, min(lapses) - before - self.world.now))

    # --- rules ----------------------------------------------------------------------------------

    @invariant()
    def check(self) -> None:
        self.world.check()

    @rule()
    def settle(self) -> None:
        self.world.settle()
        self.world.check_settled()

    def teardown(self) -> None:
        self.world.end()


class StormyMachine(CalmMachine):
    """Connections break, brokers restart and stop reading, runners compete, and messages are late."""

    @initialize(
        profiles=st.lists(st.sampled_from(PROFILES), min_size=1, max_size=2),
        capacities=st.lists(st.integers(1, 3), min_size=1, max_size=2),
        types=some_types,
        jitters=st.lists(st.sampled_from([0.0, 0.5]), min_size=4, max_size=4),
    )
    def begin(
        self,
        profiles: list[str],
        capacities: list[int],
        types: dict[str, int | None],
        jitters: list[float],
    ) -> None:
        super().begin(profiles, capacities, types, jitters)

    @rule(number=any_of, arriving=st.integers(0, 5), runner_notices=st.booleans())
    def cut(self, number: int, arriving: int, runner_notices: bool) -> None:
        self.world.cut(self.pick(self.world.links, number), arriving, runner_notices)

    @rule(number=any_of, arriving=st.integers(0, 5), runner_notices=st.booleans(), failed=st.booleans())
    def finish_and_cut(self, number: int, arriving: int, runner_notices: bool, failed: bool) -> None:
        handler = self.pick(self.running(), number)
        if handler is not None:
            self.world.finish(handler, failed)
            handler.link.turn()
            self.world.cut(handler.link, arriving, runner_notices)

    @rule(number=any_of, jitter=st.sampled_from([0.0, 0.9]))
    def connect(self, number: int, jitter: float) -> None:
        self.pick(self.world.links, number).connect(jitter)

    @rule()
    def connect_all(self) -> None:
        for link in self.world.links:
            link.connect(0.5)
        self.world.settle()

    @rule(number=any_of)
    def stall(self, number: int) -> None:
        self.world.stall(self.pick(self.world.links, number))

    @rule(number=any_of)
    def go_on(self, number: int) -> None:
        self.world.go_on(
            self.pick([link for link in self.world.links if link.stalled] or self.world.links, number)
        )

    @rule(number=any_of, timeout=st.sampled_from([0.5, 3.0, 24.0]))
    def drain(self, number: int, timeout: float) -> None:
        self.world.drain(self.pick(self.world.brokers, number), timeout)

    @rule(number=any_of, grace=st.sampled_from([0.0, 2.0, 10.0]))
    @precondition(lambda self: len(self.world.handlers) > 5)
    def stop(self, number: int, grace: float) -> None:
        link = self.pick(self.world.links, number)
        link.post(StopRequested(self.world.now + grace))

    @rule(number=any_of)
    def repeat_a_message(self, number: int) -> None:
        """Let the broker send its last message a second time."""
        busy = [link.connection for link in self.world.links if link.connection and link.connection.to_runner]
        connection = self.pick(busy, number)
        if connection is not None and connection.to_runner[-1].kind == "message":
            connection.to_runner.append(connection.to_runner[-1])


TestCalm = CalmMachine.TestCase
TestCalm.settings = settings()
TestStormy = StormyMachine.TestCase
TestStormy.settings = settings()


class TestInTheLongRun:
    """Endless work, a random but repeatable network, tasks of equal length."""

    def serve(self, brokers: int, capacity: int, seconds: float, profile: str, seed: int = 1) -> World:
        """Return a world in which every broker had waiting requests for so many seconds."""
        chance = random.Random(seed)
        world = World([profile] * brokers, [capacity], {"t": None})
        for link in world.links:
            link.connect(chance.random())
        world.settle()
        ends: list[Any] = []
        until = world.now + seconds
        while world.now < until:
            for broker in world.brokers:
                open_requests = sum(request.end is None for request in broker.requests.values())
                if open_requests < 3:
                    broker.requests = {
                        key: request for key, request in broker.requests.items() if request.end is None
                    }
                    for _ in range(6):
                        world.request(broker, "t")
                for task_id in list(broker.waiting_for_settings):
                    world.give_settings(broker, task_id)
            known = {id(handler) for _, handler in ends}
            ends += [(world.now + 0.2, h) for h in world.runners[0].running if id(h) not in known]
            for at, handler in list(ends):
                if at <= world.now:
                    ends.remove((at, handler))
                    world.finish(handler)
            # The network is faster than its limit, and each step differs.
            for connection, _ in chance.sample(world.connections(), len(world.connections())):
                for _ in range(chance.randrange(12)):
                    if connection.to_broker:
                        connection.broker.receive(connection)
            for link in chance.sample(world.links, len(world.links)):
                if chance.random() < 0.8:
                    link.turn()
                    while link.connection is not None and link.connection.to_runner and chance.random() < 0.9:
                        link.receive()
            world.pass_time(0.01)
        return world

    # Without deferrals and shutdowns, 1.123 does what 2.27 does.
    @pytest.mark.parametrize("profile", ["2.27", "2.40"])
    @pytest.mark.parametrize(("brokers", "capacity"), [(5, 1), (5, 4), (8, 8), (4, 20)])
    def test_every_broker_gets_its_share(self, brokers: int, capacity: int, profile: str) -> None:
        world = self.serve(brokers, capacity, 12, profile)
        served = [link.session.counters.done for link in world.links]
        assert min(served) > 0
        assert max(served) <= 1.5 * min(served)
        assert sum(link.session.counters.failed for link in world.links) == 0
        world.end()
