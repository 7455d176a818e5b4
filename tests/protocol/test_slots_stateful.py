"""The slots under any order of steps of links, brokers and handlers."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from n8nrunner.protocol.slots import RESERVATION_TIME, Pair, Slots, WaitReason

LINKS = ("a", "b", "c")
TYPES = ("t", "u", "v")
#: The number of any existing thing, modulo how many there are.
any_of = st.integers(0, 100)
Key = tuple[str, str]


def pick(things: Any, number: int) -> Any:
    things = sorted(things)
    return things[number % len(things)] if things else None


class SlotsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.slots = Slots(1)
        self.links: tuple[str, ...] = LINKS[:1]
        self.limits: dict[str, int | None] = {}
        #: Open offers of the pairs of joined links, as the links count them.
        self.open: dict[Key, int] = {}
        #: Offers that a broker may still accept although they have lapsed, until when.
        self.lapsed: list[tuple[float, Key]] = []
        #: Task types of the tasks that hold a slot.
        self.tasks: list[str] = []
        #: Links that have to ask for `offers`: they were named, or something happened to them.
        self.due: set[Hashable] = set()
        #: For each waiting pair: how often other pairs could offer since, and the bound of that.
        self.overtaken: dict[Key, int] = {}
        self.refusals = 0
        self.refusals_before: dict[Key, int] = {}

    @initialize(
        capacity=st.sampled_from([1, 1, 2, 3, 4, 20]),
        brokers=st.integers(1, 3),
        limits=st.dictionaries(st.sampled_from(TYPES), st.sampled_from([None, 1, 2]), min_size=1),
        first=st.booleans(),
    )
    def begin(self, capacity: int, brokers: int, limits: dict[str, int | None], first: bool) -> None:
        self.slots = Slots(capacity, brokers)
        self.links = LINKS[:brokers]
        self.limits = limits
        if first:
            for link in self.links:
                self.join(link, TYPES)

    # --- what the slots say ---------------------------------------------------------------------

    def pair(self, pair: Key) -> Pair:
        link, name = pair
        return self.slots.links[link][name]

    def pairs(self) -> dict[Any, Pair]:
        return {(pair.link, name): pair for of in self.slots.links.values() for name, pair in of.items()}

    def waiting(self) -> list[Any]:
        return [(pair.link, pair.task_type.name) for pair in self.slots.waiting]

    def room(self, name: str) -> int:
        """Free slots that are not reserved, counted from the pairs."""
        reserved = [self.reserved(pair) for pair in self.pairs().values()]
        room = self.slots.capacity - len(self.tasks) - sum(reserved)
        limit = self.limits[name]
        if limit is None:
            return room
        of_type = sum(self.reserved(pair) for key, pair in self.pairs().items() if key[1] == name)
        return min(room, limit - self.tasks.count(name) - of_type)

    @staticmethod
    def reserved(pair: Pair) -> int:
        return max(0, pair.open - 1) + (pair.reserved_until is not None)

    def is_single(self) -> bool:
        return len(self.links) == 1 and len(self.pairs()) == 1

    def noting(self, before: list[Any]) -> None:
        """Compare the pairs that waited before a step with those that wait after it."""
        after, pairs = self.waiting(), self.pairs()
        served = [pair for pair in before if pair not in after and pair in pairs]
        for position, pair in enumerate(before):
            if pair not in after:
                continue
            for other in served:
                if before.index(other) > position:
                    kind = pairs[pair].task_type
                    assert kind.limit is not None, "a pair that came later was served first"
                    assert kind.limit - kind.taken - kind.reserved <= 0
                else:
                    self.overtaken[pair] = self.overtaken.get(pair, 0) + 1

    # --- what can happen ------------------------------------------------------------------------

    @rule(link=st.sampled_from(LINKS), types=st.sets(st.sampled_from(TYPES), min_size=1))
    def join(self, link: str, types: Any) -> None:
        if link not in self.links:
            return
        waiting = self.waiting()
        names = [name for name in TYPES if name in self.limits and name in types]
        self.due |= self.slots.join(link, {name: self.limits[name] for name in names}, self.now)
        self.due.add(link)
        gone = {pair for pair in self.open if pair[0] == link and pair[1] not in names}
        self.open = {pair: count for pair, count in self.open.items() if pair not in gone}
        self.lapsed = [(until, pair) for until, pair in self.lapsed if pair not in gone]
        for name in names:
            self.open.setdefault((link, name), 0)
        self.noting(waiting)
        if not self.tasks:
            assert self.slots.idle_since == self.now

    @rule(number=any_of)
    def leave(self, number: int) -> None:
        link = pick(self.slots.links, number)
        if link is not None:
            self.leave_by(link)

    def leave_by(self, link: str) -> None:
        waiting = self.waiting()
        self.due |= self.slots.leave(link, self.now)
        self.due.discard(link)
        self.open = {pair: count for pair, count in self.open.items() if pair[0] != link}
        self.lapsed = [(until, pair) for until, pair in self.lapsed if pair[0] != link]
        self.noting(waiting)

    @rule(brokers=st.integers(0, 3))
    def change_the_links(self, brokers: int) -> None:
        """Links that are not expected any more leave first; new ones join later."""
        for link in sorted(map(str, self.slots.links), reverse=True):  # also those without a task type
            if link not in LINKS[:brokers]:
                self.leave_by(link)
        self.links = LINKS[:brokers]
        waiting = self.waiting()
        self.due |= self.slots.expect(brokers, self.now)
        self.due &= set(self.links)
        self.noting(waiting)

    @precondition(lambda self: self.links)
    @rule(number=any_of)
    def ask(self, number: int) -> None:
        self.look(pick(self.links, number), True)

    @precondition(lambda self: self.links)
    @rule(number=any_of)
    def ask_but_be_unable(self, number: int) -> None:
        self.look(pick(self.links, number), False)

    def look(self, link: str, ready: bool) -> None:
        before = {pair: self.pair(pair).reserved_until for pair in self.open if pair[0] == link}
        waiting = self.waiting()
        wanted, others = self.slots.offers(link, self.now, ready)
        assert ready or not wanted
        for name, count in wanted:
            assert count > 0
            self.open[link, name] += count
            assert count <= max(1, self.slots.capacity // 2) or self.is_single()
        assert link not in others
        self.due |= others
        if ready:
            self.due.discard(link)
        for pair, until in before.items():
            if until is not None and until <= self.now:
                assert self.pair(pair).reserved_until in (None, self.now + RESERVATION_TIME), (
                    "a reservation goes on after its end"
                )
        self.noting(waiting)
        if ready and self.is_single():
            ((link, name),) = self.open
            assert self.open[link, name] >= self.free(name)

    def free(self, name: str) -> int:
        free = self.slots.capacity - len(self.tasks)
        limit = self.limits[name]
        return free if limit is None else min(free, limit - self.tasks.count(name))

    @rule(number=any_of)
    def accept(self, number: int) -> None:
        pair = pick([pair for pair, count in self.open.items() if count], number)
        if pair is not None:
            self.open[pair] -= 1
            self.take(pair, False)

    @rule(number=any_of)
    def accept_lapsed(self, number: int) -> None:
        if self.lapsed:
            _, pair = self.lapsed.pop(number % len(self.lapsed))
            self.take(pair, True)

    def take(self, pair: Key, lapsed: bool) -> None:
        link, name = pair
        inside = self.pair(pair)
        has_reservation = inside.reserved_until is not None
        is_reserved = has_reservation or (inside.open > 1 and not lapsed)
        room = self.room(name)
        was_refused = inside.refused
        granted = self.slots.take(link, name, lapsed)
        assert granted is (is_reserved or room > 0)
        self.due.add(link)
        if granted:
            self.tasks.append(name)
            assert self.slots.idle_since is None
            assert inside.reserved_until is None, "a reservation is used by the next acceptance"
            assert inside.refused == was_refused - (has_reservation and was_refused > 0)
        else:
            self.refusals += 1
            assert inside.wait_reason is WaitReason.REFUSED
            waiting = self.waiting()
            ahead = waiting[: waiting.index(pair)]
            assert all(self.pair(other).wait_reason is WaitReason.REFUSED for other in ahead), (
                "refused, and others are ahead"
            )

    @rule(number=any_of, count=st.integers(1, 3))
    def lapse(self, number: int, count: int) -> None:
        pair = pick([pair for pair, number in self.open.items() if number], number)
        if pair is not None:
            count = min(count, self.open[pair])
            self.slots.lapse(*pair, count)
            self.open[pair] -= count
            self.lapsed += [(self.now + 1.0, pair)] * count
            self.due.add(pair[0])

    @rule(number=any_of)
    def void(self, number: int) -> None:
        link = pick({pair[0] for pair in self.open}, number)
        if link is not None:
            self.slots.void(link)
            self.open.update({pair: 0 for pair in self.open if pair[0] == link})
            self.lapsed = [(until, pair) for until, pair in self.lapsed if pair[0] != link]
            self.due.add(link)

    @rule(number=any_of)
    def release(self, number: int) -> None:
        if self.tasks:
            waiting = self.waiting()
            name = self.tasks.pop(number % len(self.tasks))
            named = self.slots.release(name, self.now)
            self.due |= named
            if self.is_single():
                self.due |= {pair[0] for pair in self.open}  # the end of a task is news for its own link
            self.noting(waiting)
            assert (self.slots.idle_since == self.now) is (not self.tasks)

    @rule(seconds=st.sampled_from([0.01, 0.4, RESERVATION_TIME, 5.0]))
    def pass_time(self, seconds: float) -> None:
        """Each link looks when its reservations lapse, as `next_deadline` says."""
        end = self.now + seconds
        while True:
            deadlines = [
                (deadline, link)
                for link in self.links
                for deadline in [self.slots.next_deadline(link)]
                if deadline <= end
            ]
            if not deadlines:
                break
            deadline, link = min(deadlines)
            assert deadline >= self.now
            self.now = deadline
            self.look(link, True)
        self.now = end
        self.lapsed = [(until, pair) for until, pair in self.lapsed if until > end]

    # --- what must hold -------------------------------------------------------------------------

    @invariant()
    def nothing_is_taken_beyond_its_limit(self) -> None:
        slots = self.slots
        assert slots.taken == len(self.tasks) <= slots.capacity
        for (_, name), pair in self.pairs().items():
            assert pair.task_type.taken == self.tasks.count(name)
            assert pair.task_type.limit is None or pair.task_type.taken <= pair.task_type.limit

    @invariant()
    def the_books_agree(self) -> None:
        slots, pairs = self.slots, self.pairs()
        assert {pair: inside.open for pair, inside in pairs.items()} == self.open
        reserved = sum(self.reserved(pair) for pair in pairs.values())
        assert slots.reserved == reserved
        assert reserved <= slots.capacity - slots.taken, "more slots are reserved than are free"
        assert slots.reserved_pairs == sum(pair.reserved_until is not None for pair in pairs.values())
        for (_, name), pair in pairs.items():
            kind = pair.task_type
            of_type = sum(self.reserved(other) for key, other in pairs.items() if key[1] == name)
            assert kind.reserved == of_type
            assert kind.limit is None or of_type <= kind.limit - kind.taken
        for link in LINKS:
            ends = [pair.reserved_until for (name, _), pair in pairs.items() if name == link]
            assert slots.next_deadline(link) == min(
                (end for end in ends if end is not None), default=float("inf")
            )

    @invariant()
    def every_pair_is_somewhere(self) -> None:
        waiting, pairs = self.waiting(), self.pairs()
        assert len(set(waiting)) == len(waiting)
        assert set(waiting) == {key for key, pair in pairs.items() if pair.wait_reason is not None}
        refused = [pairs[key].wait_reason is WaitReason.REFUSED for key in waiting]
        assert refused == sorted(refused, reverse=True), "refused pairs come first"
        for pair in pairs.values():
            assert pair.open or pair.wait_reason or pair.may_offer or self.is_single(), "a pair was forgotten"
            assert not (pair.wait_reason and pair.reserved_until), "a pair waits despite its reservation"
            assert not (pair.may_offer and (pair.open or pair.wait_reason)), "a pair would offer twice"
            assert pair.reserved_until is None or pair.open or pair.may_offer, "a reservation has no offer"

    @invariant()
    def no_pair_starves(self) -> None:
        waiting = self.waiting()
        for pair in list(self.overtaken):
            if pair not in waiting:
                del self.overtaken[pair]
        self.refusals_before = {pair: self.refusals_before.get(pair, self.refusals) for pair in waiting}
        for pair, count in self.overtaken.items():
            assert count <= 2 * len(self.open) + self.refusals - self.refusals_before[pair]

    @precondition(lambda self: self.open)
    @rule()
    def settle(self) -> None:
        """Every link that was named looks: now every pair has an open offer, if there is room."""
        while self.due:
            # In a fixed order, because the order of a set of strings differs between processes.
            self.look(min(map(str, self.due)), True)
        for pair, count in self.open.items():
            if self.room(pair[1]) > 0:
                assert count > 0, f"{pair} has no open offer, and there is room"
            assert not self.is_single() or count >= self.free(pair[1]), "the only pair offers less than all"

    def teardown(self) -> None:
        """When all tasks have ended and all reservations have lapsed, every pair offers."""
        while self.tasks:
            self.release(0)
        if self.open:
            self.settle()
            for _ in range(len(self.open) + 1):
                self.pass_time(RESERVATION_TIME)
                self.settle()
            assert self.slots.reserved_pairs == 0 or len(self.open) > 0
            assert all(count > 0 for count in self.open.values())


TestSlots = SlotsMachine.TestCase
TestSlots.settings = settings()
