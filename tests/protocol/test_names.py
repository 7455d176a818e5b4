"""The addresses of a name: every transition, what is logged, and any order of answers, links and stops."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from n8nrunner.protocol import actions as a
from n8nrunner.protocol.actions import LogLevel
from n8nrunner.protocol.events import NameLookedUp
from n8nrunner.protocol.names import (
    INTERVAL,
    LOG_INTERVAL,
    MISSES,
    MOST_ADDRESSES,
    TRANSITIONS,
    AddressState,
    NameMachine,
    Sight,
)

URL = "dns+http://worker.test:5679"
ONE, TWO, THREE = "10.0.0.1", "10.0.0.2", "10.0.0.3"
FAILED = NameLookedUp(None, "the name server does not answer")
NOTHING = NameLookedUp((), "the host 'worker.test' has no address")


class NameBench:
    """Looks a name up as often as its machine asks for it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.machine = NameMachine(URL)

    def answer(self, *addresses: str, closed: Any = ()) -> list[Any]:
        return self.end(NameLookedUp(addresses, None if addresses else NOTHING.problem), closed)

    def end(self, event: NameLookedUp, closed: Any = ()) -> list[Any]:
        """Wait for the next look-up and let it end so. Return what the machine asks for."""
        self.now = max(self.now, self.machine.next_deadline())
        assert list(self.machine.settle(self.now)) == [a.StartLookup()]
        assert list(self.machine.settle(self.now + 1000)) == [], "two look-ups at a time"
        return self.machine.looked_up(event, closed, self.now)


def in_state(state: AddressState | None) -> NameBench:
    """Return a name whose address ONE is in `state`."""
    bench = NameBench()
    if state is not None:
        bench.answer(ONE)
    for _ in range({None: 0, AddressState.LISTED: 0, AddressState.MISSING: 1}.get(state, MISSES)):
        bench.answer(TWO)
    assert bench.machine.states.get(ONE) is state
    return bench


#: The answer, and the links that have closed, by which an address is seen so.
SIGHTS: dict[Sight, tuple[tuple[str, ...], tuple[str, ...]]] = {
    Sight.FOUND: ((ONE,), ()),
    Sight.MISSED: ((TWO,), ()),
    Sight.GONE: ((TWO,), ()),
    Sight.CLOSED: ((TWO,), (ONE,)),
}


@pytest.mark.parametrize(
    ("state", "sight"),
    [(state, sight) for state, row in TRANSITIONS.items() for sight in row],
    ids=lambda value: "none" if value is None else value.name,
)
def test_an_answer_leads_to_the_state_of_its_row(state: AddressState | None, sight: Sight) -> None:
    bench = in_state(state)
    if sight is Sight.GONE:
        while bench.machine._misses[ONE] < MISSES - 1:
            bench.answer(TWO)
    addresses, closed = SIGHTS[sight]
    wanted = [action for action in bench.answer(*addresses, closed=closed) if action[0] == ONE]
    after, change = TRANSITIONS[state][sight]
    assert bench.machine.states.get(ONE) is after
    assert wanted == ([] if change is None else [change(ONE)])


def test_an_address_whose_link_has_closed_gets_a_new_link_in_the_same_answer() -> None:
    bench = in_state(AddressState.RETIRED)
    assert bench.answer(ONE, closed=(ONE,)) == [a.OpenLink(ONE)]


def test_look_ups_follow_each_other_at_an_interval_and_never_overlap() -> None:
    machine = NameMachine(URL)
    assert (machine.failures, machine.last_error, machine.has_ended) == (0, None, False)
    assert machine.next_deadline() < 0
    assert list(machine.settle(0.0)) == [a.StartLookup()]
    assert machine.next_deadline() == float("inf")
    machine.looked_up(NameLookedUp((ONE,), None), (), 7.0)
    assert machine.next_deadline() == 7.0 + INTERVAL
    assert (machine.failures, machine.last_error) == (0, None)
    assert list(machine.settle(7.0 + INTERVAL - 0.01)) == []
    assert list(machine.settle(7.0 + INTERVAL)) == [a.StartLookup()]


def test_order_and_repetitions_in_an_answer_do_not_matter() -> None:
    bench = NameBench()
    assert bench.answer(ONE, TWO, ONE) == [a.OpenLink(ONE), a.OpenLink(TWO)]
    for addresses in ((TWO, ONE), (ONE, TWO, TWO), (TWO, ONE)):
        assert bench.answer(*addresses) == []


@pytest.mark.parametrize("state", [AddressState.LISTED, AddressState.MISSING])
def test_failed_look_ups_change_nothing_however_many(state: AddressState) -> None:
    bench = in_state(state)
    states = dict(bench.machine.states)
    for _ in range(10 * MISSES):
        assert all(isinstance(action, a.LogName) for action in bench.end(FAILED))
    assert bench.machine.states == states
    assert bench.machine.last_error == f"{URL}: {FAILED.problem}"
    assert bench.machine.failures == 10 * MISSES


def test_an_address_is_gone_after_answers_without_it_in_a_row() -> None:
    bench = in_state(AddressState.LISTED)
    for _ in range(5):  # such as of a name server that gives a part of its addresses
        for _ in range(MISSES - 1):
            bench.end(FAILED)
            assert a.RetireLink(ONE) not in bench.answer(TWO)
        bench.answer(ONE)
    for _ in range(MISSES - 1):
        bench.answer(TWO)
    assert bench.answer(TWO) == [a.RetireLink(ONE)]


def test_a_name_without_addresses_retires_its_links() -> None:
    bench = in_state(AddressState.LISTED)
    wanted = [action for _ in range(MISSES) for action in bench.end(NOTHING)]
    assert wanted[-1] == a.RetireLink(ONE)


def test_a_problem_is_logged_once_a_minute_and_its_end_too() -> None:
    bench = NameBench()
    [log] = bench.end(FAILED)
    assert log == a.LogName(LogLevel.WARNING, f"{URL}: {FAILED.problem}. Looking it up again every 5 s")
    logs = [action for _ in range(int(LOG_INTERVAL / INTERVAL)) for action in bench.end(FAILED)]
    assert logs == [log]
    assert bench.answer(ONE, TWO) == [
        a.LogName(LogLevel.WARNING, f"{URL} is known again, with 2 addresses"),
        a.OpenLink(ONE),
        a.OpenLink(TWO),
    ]
    assert bench.machine.last_error is None
    assert bench.answer(ONE, TWO) == []
    [log] = bench.end(FAILED)
    stay = "The connections to its known addresses stay. Looking it up again every 5 s"
    assert log.text == f"{URL}: {FAILED.problem}. {stay}"
    [log] = bench.answer(ONE)
    assert log.text == f"{URL} is known again, with 1 address"
    bench.end(FAILED)
    [log] = bench.end(NOTHING)  # another problem is logged at once
    assert str(NOTHING.problem) in log.text


def test_more_addresses_than_a_runner_connects_to_are_reported_and_those_with_links_stay() -> None:
    bench = NameBench()
    many = [f"10.1.0.{number}" for number in range(MOST_ADDRESSES + 20)]
    bench.answer(many[-1])
    opened = bench.answer(*many)
    assert len([action for action in opened if isinstance(action, a.OpenLink)]) == MOST_ADDRESSES - 1
    assert f"{len(many)} addresses" in str(bench.machine.last_error)
    assert many[-1] in bench.machine.states
    assert len(bench.machine.states) == MOST_ADDRESSES
    assert bench.answer(*reversed(many)) == []


def test_a_stopped_name_looks_nothing_up_and_ignores_a_late_answer() -> None:
    bench = NameBench()
    bench.machine.settle(bench.now)
    bench.machine.stop()
    assert bench.machine.looked_up(NameLookedUp((ONE,), None), (), bench.now) == []
    assert bench.machine.next_deadline() == float("inf")
    assert list(bench.machine.settle(bench.now + 1000)) == []


@pytest.mark.parametrize("is_looking_up", [True, False])
def test_after_an_unexpected_error_the_next_look_up_comes_after_an_interval(is_looking_up: bool) -> None:
    machine = NameMachine(URL)
    machine.settle(0.0)
    machine.recover(1.0, is_looking_up)
    assert machine.next_deadline() == (float("inf") if is_looking_up else 1.0 + INTERVAL)


class NamesTest(RuleBasedStateMachine):
    """Links as the machine opens, retires and restores them, some of them connected."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = NameBench()
        #: Whether the link of an address has a connection, and whether it is retired.
        self.links: dict[str, list[bool]] = {}
        self.closed: set[str] = set()
        self.last_answers: list[tuple[str, ...]] = []

    def perform(self, wanted: list[Any]) -> None:
        for action in wanted:
            if isinstance(action, a.OpenLink):
                assert action.address not in self.links, "two links to one address"
                self.links[action.address] = [False, False]
            elif isinstance(action, a.RetireLink):
                self.links[action.address][1] = True
                assert all(action.address not in answer for answer in self.last_answers[-MISSES:])
                assert len(self.last_answers) >= MISSES
            elif isinstance(action, a.RestoreLink):
                assert self.links[action.address][0], "a link that has closed cannot come back"
                self.links[action.address][1] = False
        self.close()

    def close(self) -> None:
        """Retired links end without a connection."""
        for address, (is_connected, is_retired) in list(self.links.items()):
            if is_retired and not is_connected:
                del self.links[address]
                self.closed.add(address)

    @rule(addresses=st.lists(st.sampled_from([ONE, TWO, THREE]), max_size=4))
    def name_server_answers(self, addresses: list[str]) -> None:
        closed, self.closed = self.closed, set()
        self.last_answers.append(tuple(addresses))
        self.perform(self.bench.answer(*addresses, closed=closed))
        assert set(addresses) <= set(self.links), "an address without a link"

    @rule()
    def name_server_fails(self) -> None:
        closed, self.closed = self.closed, set()
        before = {address: list(link) for address, link in self.links.items()}
        self.perform(self.bench.end(FAILED, closed))
        assert self.links == before

    @rule(address=st.sampled_from([ONE, TWO, THREE]), is_connected=st.booleans())
    def connection_opens_or_ends(self, address: str, is_connected: bool) -> None:
        if address in self.links:
            self.links[address][0] = is_connected
            self.close()

    @invariant()
    def the_machine_knows_every_link(self) -> None:
        assert set(self.links) | self.closed == set(self.bench.machine.states)
        for address, (_, is_retired) in self.links.items():
            assert (self.bench.machine.states[address] is AddressState.RETIRED) is is_retired

    @invariant()
    def links_of_the_last_answer_are_not_retired(self) -> None:
        for address in self.last_answers[-1] if self.last_answers else ():
            assert not self.links[address][1]


TestNames = NamesTest.TestCase
TestNames.settings = settings()
