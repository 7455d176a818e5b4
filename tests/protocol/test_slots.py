"""The slots, stepped by hand: one test for each rule of the module's own description."""

from __future__ import annotations

from typing import Any

import pytest

from n8nrunner.protocol.slots import TURN, Slots

A, B, C = "a", "b", "c"


def offered(slots: Slots, link: Any, now: float = 0.0, ready: bool = True) -> dict[str, int]:
    """What a link is to offer now, by task type."""
    wanted, _ = slots.offers(link, now, ready)
    assert len(dict(wanted)) == len(wanted)
    assert all(count > 0 for _, count in wanted)
    return dict(wanted)


def woken(slots: Slots, link: Any, now: float = 0.0) -> set[Any]:
    return slots.offers(link, now)[1]


def full(capacity: int, types: dict[str, int | None] | None = None, links: Any = (A, B)) -> Slots:
    """Slots whose links have joined and offered, and whose slots are all taken by tasks of the first link."""
    slots = Slots(capacity, brokers=len(links))
    for link in links:
        slots.join(link, types or {"t": None}, 0.0)
        offered(slots, link)
    for _ in range(capacity):
        assert slots.take(links[0], "t", 0.0)
        offered(slots, links[0])
    return slots


def lapsing(link: Any) -> Slots:
    """The one slot is taken, and `link` has a lapsed offer and the open one that took its place."""
    slots = Slots(1, brokers=3)
    for name in (A, B, C):
        slots.join(name, {"t": None}, 0.0)
        assert offered(slots, name) == {"t": 1}
    slots.lapse(link, "t", 1)
    assert offered(slots, link) == {"t": 1}
    assert slots.take(A, "t", 0.0)
    return slots


class TestSinglePair:
    """A runner with one broker and one task type: open offers and taken slots make up the capacity."""

    def test_all_free_slots_are_offered(self) -> None:
        slots = Slots(5)
        assert slots.join(A, {"t": None}, 0.0) == set()
        assert offered(slots, A) == {"t": 5}
        assert offered(slots, A) == {}

    def test_a_freed_slot_is_offered_again_and_no_other(self) -> None:
        slots = Slots(3)
        slots.join(A, {"t": None}, 0.0)
        offered(slots, A)
        assert slots.take(A, "t", 0.0)
        assert offered(slots, A) == {}
        assert slots.take(A, "t", 0.0)
        assert slots.release("t", 1.0) == {A}, "its link has to be told"
        assert offered(slots, A, 1.0) == {"t": 1}
        assert slots.taken == 1

    def test_lapsed_offers_are_replaced_one_for_one(self) -> None:
        slots = Slots(4)
        slots.join(A, {"t": None}, 0.0)
        offered(slots, A)
        slots.take(A, "t", 0.0)
        slots.lapse(A, "t", 2)
        assert offered(slots, A) == {"t": 2}
        slots.lapse(A, "t", 3)
        assert offered(slots, A) == {"t": 3}

    def test_the_limit_of_the_type_counts(self) -> None:
        slots = Slots(5)
        slots.join(A, {"t": 2}, 0.0)
        assert offered(slots, A) == {"t": 2}
        slots.take(A, "t", 0.0)
        assert offered(slots, A) == {}
        slots.release("t", 0.0)
        assert offered(slots, A) == {"t": 1}

    def test_a_limit_above_the_capacity_changes_nothing(self) -> None:
        slots = Slots(2)
        slots.join(A, {"t": 9}, 0.0)
        assert offered(slots, A) == {"t": 2}

    def test_void_offers_are_made_anew(self) -> None:
        slots = Slots(3)
        slots.join(A, {"t": None}, 0.0)
        offered(slots, A)
        slots.take(A, "t", 0.0)
        slots.void(A)
        assert offered(slots, A) == {"t": 2}

    def test_a_lapsed_acceptance_takes_a_slot_that_is_promised_to_nobody(self) -> None:
        slots = Slots(2)
        slots.join(A, {"t": None}, 0.0)
        offered(slots, A)
        slots.lapse(A, "t", 2)
        assert offered(slots, A) == {"t": 2}
        # The first open offer is no promise, the second one is.
        assert slots.take(A, "t", 0.0, lapsed=True)
        assert not slots.take(A, "t", 0.0, lapsed=True)
        assert slots.take(A, "t", 0.0)
        assert not slots.take(A, "t", 0.0)
        assert slots.taken == 2
        assert offered(slots, A) == {}
        slots.release("t", 0.0)
        assert offered(slots, A) == {"t": 1}

    def test_offers_beyond_the_free_slots_are_not_added_to(self) -> None:
        slots = Slots(3)
        slots.join(A, {"t": None}, 0.0)
        offered(slots, A)
        slots.lapse(A, "t", 1)
        offered(slots, A)
        assert slots.take(A, "t", 0.0, lapsed=True)  # 3 open, 2 free
        assert offered(slots, A) == {}
        slots.lapse(A, "t", 2)
        assert offered(slots, A) == {"t": 1}

    def test_a_refused_pair_needs_no_turn(self) -> None:
        slots = Slots(1)
        slots.join(A, {"t": None}, 0.0)
        offered(slots, A)
        slots.lapse(A, "t", 1)
        offered(slots, A)
        assert slots.take(A, "t", 0.0, lapsed=True)
        assert not slots.take(A, "t", 0.0)
        assert slots.release("t", 1.0) == {A}
        assert offered(slots, A, 1.0) == {"t": 1}
        assert slots.next_deadline(A) is None
        assert slots.turns == 0

    def test_a_link_that_is_not_ready_offers_nothing_and_holds_no_turn(self) -> None:
        slots = Slots(2)
        slots.join(A, {"t": None}, 0.0)
        assert offered(slots, A, ready=False) == {}
        assert offered(slots, A) == {"t": 2}

    def test_it_leaves_and_joins_again(self) -> None:
        slots = Slots(3)
        slots.join(A, {"t": None}, 0.0)
        offered(slots, A)
        slots.take(A, "t", 0.0)
        assert slots.leave(A, 1.0) == set()
        assert offered(slots, A, 1.0) == {}
        assert slots.taken == 1
        slots.join(A, {"t": None}, 2.0)
        assert offered(slots, A, 2.0) == {"t": 2}

    def test_with_a_second_type_it_is_single_no_more(self) -> None:
        slots = Slots(4)
        slots.join(A, {"t": None}, 0.0)
        assert offered(slots, A) == {"t": 4}
        slots.join(A, {"t": None, "u": None}, 0.0)
        assert offered(slots, A) == {"u": 1}
        # Its offers beyond the first one still have their promised slots.
        assert slots.take(A, "u", 0.0)
        assert [slots.take(A, "t", 0.0) for _ in range(4)] == [True, True, True, False]

    def test_what_was_refused_while_it_was_single_counts_no_more(self) -> None:
        slots = Slots(1)
        slots.join(A, {"t": None}, 0.0)
        offered(slots, A)
        slots.lapse(A, "t", 1)
        offered(slots, A)
        assert slots.take(A, "t", 0.0, lapsed=True)
        assert not slots.take(A, "t", 0.0)
        slots.release("t", 1.0)
        assert offered(slots, A, 1.0) == {"t": 1}
        slots.join(A, {"t": None, "u": None}, 1.0)
        assert offered(slots, A, 1.0) == {"u": 1}
        assert slots.take(A, "t", 1.0)
        # "t" waits as one whose offer was accepted, so the refused "u" is before it.
        assert not slots.take(A, "u", 1.0)
        slots.release("t", 2.0)
        assert offered(slots, A, 2.0) == {"u": 1}

    def test_with_a_second_type_while_all_slots_are_taken_it_waits_as_everybody_does(self) -> None:
        slots = Slots(1)
        slots.join(A, {"t": None}, 0.0)
        offered(slots, A)
        assert slots.take(A, "t", 0.0)
        assert offered(slots, A) == {}
        slots.join(A, {"t": None, "u": None}, 0.0)
        assert offered(slots, A) == {}
        assert slots.release("t", 1.0) == {A}
        assert offered(slots, A, 1.0) == {"t": 1}
        assert slots.take(A, "t", 1.0)
        assert slots.release("t", 2.0) == {A}
        assert offered(slots, A, 2.0) == {"t": 1, "u": 1}

    def test_one_of_several_brokers_is_not_single(self) -> None:
        slots = Slots(4, brokers=2)
        slots.join(A, {"t": None}, 0.0)
        assert offered(slots, A) == {"t": 1}


class TestSeveralPairs:
    """While there is room, every pair has one open offer, of however few slots."""

    def test_every_pair_of_one_link(self) -> None:
        slots = Slots(1)
        slots.join(A, {"t": None, "u": None, "v": None}, 0.0)
        assert offered(slots, A) == {"t": 1, "u": 1, "v": 1}
        assert offered(slots, A) == {}

    def test_every_pair_of_several_links(self) -> None:
        slots = Slots(2, brokers=3)
        for link in (A, B, C):
            slots.join(link, {"t": None, "u": None}, 0.0)
        for link in (A, B, C):
            assert offered(slots, link) == {"t": 1, "u": 1}

    def test_an_accepted_offer_is_replaced_while_there_is_room(self) -> None:
        slots = Slots(3, brokers=2)
        for link in (A, B):
            slots.join(link, {"t": None}, 0.0)
            offered(slots, link)
        assert slots.take(A, "t", 0.0)
        assert offered(slots, A) == {"t": 1}
        assert slots.take(A, "t", 0.0)
        assert offered(slots, A) == {"t": 1}
        assert slots.take(A, "t", 0.0)
        assert offered(slots, A) == {}

    def test_a_lapsed_offer_is_replaced(self) -> None:
        slots = Slots(1, brokers=2)
        slots.join(A, {"t": None}, 0.0)
        offered(slots, A)
        slots.lapse(A, "t", 1)
        assert offered(slots, A) == {"t": 1}

    def test_a_lapsed_offer_is_not_replaced_when_there_is_no_room(self) -> None:
        slots = full(1, links=(A, B))
        slots.lapse(B, "t", 1)
        assert offered(slots, B) == {}
        # An offer that nobody accepted gives no claim to a slot, only to an offer: A alone waits for one.
        assert slots.release("t", 1.0) == {A}
        assert offered(slots, A, 1.0) == {"t": 1}
        assert slots.take(A, "t", 1.0)
        assert slots.release("t", 2.0) == {A, B}
        assert offered(slots, B, 2.0) == {"t": 1}
        assert slots.next_deadline(B) is None

    def test_more_offers_than_slots_may_be_open_and_the_first_one_wins(self) -> None:
        slots = Slots(1, brokers=2)
        for link in (A, B):
            slots.join(link, {"t": None}, 0.0)
            offered(slots, link)
        assert slots.take(B, "t", 0.0)
        assert not slots.take(A, "t", 0.0)
        assert slots.taken == 1

    def test_a_link_is_ready_unless_it_says_otherwise(self) -> None:
        slots = Slots(1, brokers=2)
        slots.join(A, {"t": None}, 0.0)
        assert slots.offers(A, 0.0) == ([("t", 1)], set())

    def test_joining_names_those_who_can_offer_now(self) -> None:
        slots = Slots(1, brokers=2)
        assert slots.join(A, {"t": None}, 0.0) == set()
        assert slots.join(B, {"t": None}, 0.0) == set()
        # The rooms of a limit that was raised.
        slots = Slots(4, brokers=2)
        for link in (A, B):
            slots.join(link, {"t": 1}, 0.0)
            offered(slots, link)
        assert slots.take(A, "t", 0.0)
        assert not slots.take(B, "t", 0.0)
        assert slots.join(A, {"t": 3}, 0.0) == {B}
        assert offered(slots, B) == {"t": 1}
        assert offered(slots, A) == {"t": 1}


class TestPlenty:
    """A pair whose offers were all accepted, while there is plenty of room, makes several at once."""

    def slots(self, capacity: int, limit: int | None = None) -> Slots:
        slots = Slots(capacity, brokers=2)
        for link in (A, B):
            slots.join(link, {"t": limit}, 0.0)
            assert offered(slots, link) == {"t": 1}
        assert slots.take(A, "t", 0.0)
        return slots

    @pytest.mark.parametrize(
        ("capacity", "limit", "count"), [(2, None, 1), (8, None, 1), (9, None, 2), (41, None, 10), (41, 9, 2)]
    )
    def test_its_share_of_half_the_room(self, capacity: int, limit: int | None, count: int) -> None:
        slots = self.slots(capacity, limit)
        assert offered(slots, A) == {"t": count}
        assert offered(slots, A) == {}

    def test_all_but_the_first_have_promised_slots(self) -> None:
        slots = self.slots(41)
        assert offered(slots, A) == {"t": 10}
        assert slots.turns == 0
        for _ in range(31):  # 40 slots are free, 9 of them are promised
            assert slots.take(B, "t", 0.0, lapsed=True)
        assert not slots.take(B, "t", 0.0)
        assert [slots.take(A, "t", 0.0) for _ in range(10)] == [True] * 9 + [False]

    def test_only_while_there_is_room_when_they_are_made(self) -> None:
        slots = self.slots(41)
        offered(slots, B)
        slots.offers(A, 0.0, ready=False)  # ten are granted
        for _ in range(37):
            assert slots.take(B, "t", 0.0, lapsed=True)
        assert offered(slots, A) == {"t": 4}
        assert not slots.take(B, "t", 0.0)
        assert [slots.take(A, "t", 0.0) for _ in range(4)] == [True] * 3 + [False]

    def test_the_first_one_is_made_even_if_there_is_no_room_any_more(self) -> None:
        slots = self.slots(41)
        slots.offers(A, 0.0, ready=False)
        for _ in range(40):
            assert slots.take(B, "t", 0.0, lapsed=True)
        assert offered(slots, A) == {"t": 1}

    def test_a_new_pair_and_one_whose_offer_lapsed_make_one(self) -> None:
        slots = self.slots(41)
        slots.lapse(B, "t", 1)
        assert offered(slots, B) == {"t": 1}
        slots.leave(B, 0.0)
        slots.join(B, {"t": None}, 0.0)
        assert offered(slots, B) == {"t": 1}

    def test_one_whose_offers_are_void_makes_as_many_as_before(self) -> None:
        slots = self.slots(41)
        assert offered(slots, A) == {"t": 10}
        slots.void(A)
        assert offered(slots, A) == {"t": 10}

    def test_pairs_that_left_do_not_count(self) -> None:
        slots = self.slots(41)
        slots.leave(B, 0.0)
        assert offered(slots, A) == {"t": 20}


class TestRefusal:
    """An acceptance that finds no room: its pair is promised the next slot."""

    def test_the_next_slot_is_promised_to_it(self) -> None:
        slots = full(1)
        assert not slots.take(B, "t", 0.0)
        assert offered(slots, B) == {}
        # A has waited longer, but nobody has been sent away there.
        assert slots.release("t", 5.0) == {B}
        assert slots.next_deadline(B) == 5.0 + TURN
        assert slots.next_deadline(A) is None
        assert offered(slots, B, 5.1) == {"t": 1}
        assert offered(slots, A, 5.1) == {}
        assert slots.take(B, "t", 5.2)
        assert slots.next_deadline(B) is None

    def test_a_promised_slot_is_nobody_elses(self) -> None:
        slots = full(2, links=(A, B, C))
        assert not slots.take(B, "t", 0.0)
        slots.release("t", 1.0)
        assert offered(slots, B, 1.0) == {"t": 1}
        assert not slots.take(C, "t", 1.1)
        assert slots.take(B, "t", 1.2)
        assert slots.taken == 2

    def test_the_promise_lapses(self) -> None:
        slots = full(1, links=(A, B, C))
        assert not slots.take(B, "t", 0.0)
        slots.release("t", 1.0)
        assert offered(slots, B, 1.0) == {"t": 1}
        assert slots.take(C, "t", 1.5) is False
        assert offered(slots, B, 1.0 + TURN - 0.001) == {}
        assert slots.next_deadline(B) == 1.0 + TURN
        assert woken(slots, B, 1.0 + TURN) == {C}
        # Its offer stays, and whoever is next has a promise now.
        assert slots.next_deadline(B) is None
        assert offered(slots, C, 1.0 + TURN) == {"t": 1}
        assert not slots.take(B, "t", 1.0 + TURN)
        assert slots.take(C, "t", 1.0 + TURN)

    def test_refused_pairs_are_served_in_their_order_and_before_all_others(self) -> None:
        slots = full(1, links=(A, B, C))
        assert not slots.take(C, "t", 0.0)
        assert not slots.take(B, "t", 0.0)
        assert slots.release("t", 1.0) == {C}
        assert offered(slots, C, 1.0) == {"t": 1}
        assert slots.take(C, "t", 1.0)
        assert slots.release("t", 2.0) == {B}
        assert offered(slots, B, 2.0) == {"t": 1}
        assert slots.take(B, "t", 2.0)
        assert slots.release("t", 3.0) == {A}

    def test_a_pair_that_is_refused_twice_keeps_its_place_and_has_two_turns(self) -> None:
        slots = lapsing(B)
        # Both of its offers are accepted, the lapsed one and the one that took its place.
        assert not slots.take(B, "t", 0.0, lapsed=True)
        assert not slots.take(C, "t", 0.0)
        assert not slots.take(B, "t", 0.0)
        assert slots.release("t", 1.0) == {B}
        assert offered(slots, B, 1.0) == {"t": 1}
        assert slots.take(B, "t", 1.0)
        assert slots.release("t", 2.0) == {C}
        assert offered(slots, C, 2.0) == {"t": 1}
        assert slots.take(C, "t", 2.0)
        assert slots.release("t", 3.0) == {B}
        assert slots.next_deadline(B) == 3.0 + TURN
        assert offered(slots, B, 3.0) == {"t": 1}
        assert slots.take(B, "t", 3.0)
        # Now it waits as everybody does.
        assert slots.release("t", 4.0) == {A}

    def test_a_turn_that_lapses_makes_good_for_all_refusals(self) -> None:
        slots = lapsing(B)
        assert not slots.take(B, "t", 0.0, lapsed=True)
        assert not slots.take(B, "t", 0.0)
        slots.release("t", 1.0)
        assert offered(slots, B, 1.0) == {"t": 1}
        assert woken(slots, B, 1.0 + TURN) == {A}
        # A waits alone, so nothing is kept for it.
        assert slots.turns == 0
        assert slots.take(B, "t", 1.0 + TURN)
        slots.lapse(C, "t", 1)
        offered(slots, C)
        assert offered(slots, A, 1.0 + TURN) == {"t": 1}
        assert not slots.take(A, "t", 1.0 + TURN)
        # B has nothing to be made good for any more.
        assert slots.release("t", 3.0) == {A}

    def test_the_open_offer_of_a_refused_pair_becomes_the_promised_one(self) -> None:
        slots = lapsing(B)
        assert not slots.take(B, "t", 0.0, lapsed=True)
        assert slots.release("t", 1.0) == {B}
        assert offered(slots, B, 1.0) == {}  # it has one
        assert not slots.take(C, "t", 1.0)
        assert slots.take(B, "t", 1.0)

    def test_several_freed_slots_go_to_several_pairs(self) -> None:
        slots = full(3, links=(A, B, C))
        assert not slots.take(B, "t", 0.0)
        assert not slots.take(C, "t", 0.0)
        assert slots.release("t", 1.0) == {B}
        assert slots.release("t", 1.0) == {C}
        # The last one is for A, which waits alone: no need for a promise.
        assert slots.release("t", 1.0) == {A}
        assert slots.next_deadline(A) is None
        assert slots.turns == 2
        assert [offered(slots, link, 1.0) for link in (A, B, C)] == [{"t": 1}] * 3
        assert [slots.take(link, "t", 1.0) for link in (A, B, C)] == [True] * 3

    def test_a_pair_that_waits_and_is_refused_goes_to_the_front(self) -> None:
        slots = lapsing(C)
        assert slots.release("t", 1.0) == {A}
        assert offered(slots, A, 1.0) == {"t": 1}
        assert slots.take(A, "t", 1.0)
        slots.lapse(B, "t", 1)
        slots.lapse(C, "t", 1)
        assert not slots.take(C, "t", 1.0, lapsed=True)
        assert slots.release("t", 2.0) == {C}
        assert slots.next_deadline(C) == 2.0 + TURN

    def test_whoever_waits_keeps_its_place(self) -> None:
        slots = full(1, links=(A, B, C))
        slots.void(B)
        slots.void(C)
        slots.void(A)
        slots.void(B)
        assert slots.release("t", 1.0) == {A}
        assert offered(slots, A, 1.0) == {"t": 1}
        assert slots.take(A, "t", 1.0)
        assert slots.release("t", 2.0) == {B}

    def test_a_lapsed_acceptance_may_use_its_own_pairs_turn(self) -> None:
        slots = full(1)
        assert not slots.take(B, "t", 0.0)
        slots.release("t", 1.0)
        assert slots.take(B, "t", 1.0, lapsed=True)
        assert slots.turns == 0
        assert offered(slots, B, 1.0) == {}
        # B has had its turn: A is next.
        assert slots.release("t", 2.0) == {A}

    def test_a_lapsed_acceptance_uses_the_turn_although_an_offer_is_open(self) -> None:
        slots = full(1)
        assert not slots.take(B, "t", 0.0)
        slots.release("t", 1.0)
        assert offered(slots, B, 1.0) == {"t": 1}
        assert slots.take(B, "t", 1.0, lapsed=True)
        assert not slots.take(B, "t", 1.0)
        assert slots.release("t", 2.0) == {B}

    def test_a_lapsed_acceptance_has_no_claim_to_anybody_elses_turn(self) -> None:
        slots = full(1, links=(A, B, C))
        assert not slots.take(B, "t", 0.0)
        slots.release("t", 1.0)
        assert not slots.take(C, "t", 1.0, lapsed=True)
        assert slots.take(B, "t", 1.0, lapsed=True)


class TestTurns:
    """When slots are scarce they go round."""

    def busy(self, count: int, capacity: int = 1) -> tuple[Slots, list[str]]:
        """All slots taken, and `count` pairs wait in order, because their offers were accepted."""
        links = [f"link{number}" for number in range(count)]
        slots = Slots(count, brokers=count)
        for link in links:
            slots.join(link, {"t": None}, 0.0)
            offered(slots, link)
        for link in links:
            assert slots.take(link, "t", 0.0)
        slots.capacity = capacity
        for _ in range(count - capacity):
            slots.taken -= 1
            slots._types["t"].taken -= 1
        return slots, links

    def test_a_freed_slot_is_promised_to_who_has_waited_longest(self) -> None:
        slots, links = self.busy(3)
        order = []
        for step in range(9):
            (link,) = slots.release("t", float(step))
            order.append(link)
            assert slots.next_deadline(link) == step + TURN
            assert [offered(slots, other, float(step)) for other in links if other != link] == [{}, {}]
            assert offered(slots, link, float(step)) == {"t": 1}
            assert slots.take(link, "t", float(step))
        assert order == links * 3

    def test_with_enough_room_for_all_nobody_needs_a_promise(self) -> None:
        slots, links = self.busy(2, capacity=2)
        assert slots.release("t", 1.0) == {links[0]}
        assert slots.turns == 1  # one slot for two
        assert slots.release("t", 1.0) == {links[1]}
        assert slots.turns == 1  # one for one
        assert slots.next_deadline(links[1]) is None

    def test_a_turn_that_nobody_uses_goes_on_to_the_next(self) -> None:
        slots, links = self.busy(3)
        assert slots.release("t", 0.0) == {links[0]}
        assert offered(slots, links[0], 0.0) == {"t": 1}
        assert slots.offers(links[0], TURN) == ([], {links[1]})
        assert offered(slots, links[1], TURN) == {"t": 1}
        assert slots.offers(links[1], 2 * TURN) == ([], {links[2]})
        # The last one waits alone, so nothing is kept for it; now all of them have an open offer.
        assert offered(slots, links[2], 2 * TURN) == {"t": 1}
        assert slots.turns == 0
        assert slots.take(links[0], "t", 2 * TURN)
        assert not slots.take(links[1], "t", 2 * TURN)

    def test_a_link_that_cannot_offer_lets_its_turn_lapse(self) -> None:
        slots, links = self.busy(2)
        assert slots.release("t", 0.0) == {links[0]}
        assert slots.offers(links[0], 0.5, ready=False) == ([], set())
        assert slots.next_deadline(links[0]) == TURN
        assert slots.offers(links[0], TURN, ready=False) == ([], {links[1]})
        assert slots.next_deadline(links[0]) is None
        assert offered(slots, links[1], TURN) == {"t": 1}
        assert slots.take(links[1], "t", TURN)
        # It has been let to offer, and does so as soon as it can.
        assert offered(slots, links[0], TURN) == {"t": 1}

    def test_the_offer_of_a_turn_that_lapses_is_replaced_within_the_turn(self) -> None:
        slots = lapsing(B)
        assert not slots.take(B, "t", 0.0, lapsed=True)
        slots.release("t", 1.0)
        slots.lapse(B, "t", 1)
        assert offered(slots, B, 1.1) == {"t": 1}
        assert slots.next_deadline(B) == 1.0 + TURN
        assert slots.take(B, "t", 1.2)

    def test_void_offers_of_a_turn_are_replaced_within_the_turn(self) -> None:
        slots, links = self.busy(2)
        slots.release("t", 0.0)
        assert offered(slots, links[0]) == {"t": 1}
        slots.void(links[0])
        assert slots.next_deadline(links[0]) == TURN
        slots.capacity = 20  # one, however much room there is
        assert offered(slots, links[0], 0.5) == {"t": 1}

    def test_void_offers_without_a_turn_wait_as_if_they_had_been_accepted(self) -> None:
        slots = full(1, links=(A, B, C))
        slots.void(B)
        slots.void(C)
        assert slots.release("t", 1.0) == {A}
        assert offered(slots, A, 1.0) == {"t": 1}
        assert slots.take(A, "t", 1.0)
        assert slots.release("t", 2.0) == {B}
        assert slots.next_deadline(B) == 2.0 + TURN
        assert offered(slots, B, 2.0) == {"t": 1}

    def test_a_lapsed_offer_waits_for_an_offer_and_holds_nobody_up(self) -> None:
        slots = full(1, links=(A, B, C))
        slots.lapse(B, "t", 1)
        slots.lapse(C, "t", 1)
        # A freed slot: A's turn; the others are behind it.
        assert slots.release("t", 0.0) == {A}
        assert offered(slots, A) == {"t": 1}
        assert slots.take(A, "t", 0.0)
        # Now they are ahead of A: both may offer, and the slot is still promised to A.
        assert slots.release("t", 1.0) == {A, B, C}
        assert slots.next_deadline(A) is None  # by now it waits alone
        assert slots.turns == 0

    def test_nobody_is_served_twice_while_somebody_waits(self) -> None:
        """All pairs have work without end: in the long run they get the same."""
        for capacity in (1, 2, 5):
            served = self.served_with_endless_work(capacity, links=7, tasks=700)
            assert max(served.values()) <= 1.2 * min(served.values())

    def served_with_endless_work(self, capacity: int, links: int, tasks: int) -> dict[int, int]:
        slots = Slots(capacity, brokers=links)
        for link in range(links):
            slots.join(link, {"t": None}, 0.0)
        running: list[int] = []
        served = dict.fromkeys(range(links), 0)
        open_offers: list[int] = []
        now = 0.0
        while sum(served.values()) < tasks:
            now += 0.01
            for link in range(links):
                open_offers += [link] * sum(offered(slots, link, now).values())
            # A broker with work accepts whatever is offered at once, and the farther one a bit later.
            for link in sorted(open_offers):
                if slots.take(link, "t", now):
                    served[link] += 1
                    running.append(link)
            open_offers = []
            if running:
                running.pop(0)
                slots.release("t", now)
        return served


class TestTypes:
    """A limit of its own for a task type, over all links."""

    def test_it_holds_over_all_links(self) -> None:
        slots = Slots(5, brokers=2)
        for link in (A, B):
            slots.join(link, {"t": 1, "u": None}, 0.0)
            assert offered(slots, link) == {"t": 1, "u": 1}
        assert slots.take(A, "t", 0.0)
        assert offered(slots, A) == {}
        assert not slots.take(B, "t", 0.0)
        # Other types are not concerned.
        assert slots.take(B, "u", 0.0)
        assert offered(slots, B) == {"u": 1}
        assert slots.release("u", 0.0) == set()
        assert slots.release("t", 1.0) == {B}
        assert offered(slots, B, 1.0) == {"t": 1}
        assert slots.take(B, "t", 1.0)

    def test_who_waits_for_its_types_limit_holds_nobody_up(self) -> None:
        slots = Slots(2, brokers=2)
        slots.join(A, {"t": 1}, 0.0)
        slots.join(B, {"t": 1, "u": None}, 0.0)
        offered(slots, A)
        offered(slots, B)
        assert slots.take(A, "t", 0.0)
        assert not slots.take(B, "t", 0.0)
        assert slots.take(B, "u", 0.0)
        assert offered(slots, B) == {}
        # First in line is B's "t", whose type is at its limit; "u" has waited for less.
        assert slots.release("u", 1.0) == {B}
        assert offered(slots, B, 1.0) == {"u": 1}

    def test_promises_count_against_the_limit(self) -> None:
        slots = Slots(5, brokers=3)
        for link in (A, B, C):
            slots.join(link, {"t": 1}, 0.0)
            offered(slots, link)
        assert slots.take(A, "t", 0.0)
        assert not slots.take(B, "t", 0.0)
        assert slots.release("t", 1.0) == {B}
        assert offered(slots, B, 1.0) == {"t": 1}
        assert not slots.take(C, "t", 1.0)
        assert slots.take(B, "t", 1.0)

    def test_limits_of_two_types_are_apart(self) -> None:
        slots = Slots(9, brokers=2)
        slots.join(A, {"t": 1, "u": 2}, 0.0)
        offered(slots, A)
        assert slots.take(A, "t", 0.0)
        assert slots.take(A, "u", 0.0)
        assert offered(slots, A) == {"u": 1}
        assert slots.take(A, "u", 0.0)
        assert offered(slots, A) == {}
        assert slots.taken == 3

    def test_a_lower_limit_waits_for_tasks_to_end(self) -> None:
        slots = Slots(5, brokers=2)
        slots.join(A, {"t": 3}, 0.0)
        offered(slots, A)
        for _ in range(3):
            assert slots.take(A, "t", 0.0)
            offered(slots, A)
        slots.join(A, {"t": 1}, 0.0)
        slots.release("t", 0.0)
        slots.release("t", 0.0)
        assert offered(slots, A) == {}
        assert slots.release("t", 0.0) == {A}
        assert offered(slots, A) == {"t": 1}


class TestLeaving:
    def test_its_promises_are_everybodys_again(self) -> None:
        slots = full(1, links=(A, B, C))
        assert not slots.take(B, "t", 0.0)
        assert not slots.take(C, "t", 0.0)
        slots.release("t", 1.0)
        assert slots.leave(B, 1.0) == {C}
        assert offered(slots, C, 1.0) == {"t": 1}
        assert slots.next_deadline(B) is None
        assert offered(slots, B, 1.0) == {}

    def test_whoever_waits_is_forgotten(self) -> None:
        slots = full(1)
        assert not slots.take(B, "t", 0.0)
        assert slots.leave(B, 0.0) == set()
        assert slots.release("t", 1.0) == {A}

    def test_many_promised_slots_come_back(self) -> None:
        slots = Slots(5)
        slots.join(A, {"t": None}, 0.0)
        offered(slots, A)
        slots.leave(A, 0.0)
        slots.join(B, {"t": None}, 0.0)
        assert offered(slots, B) == {"t": 5}

    def test_its_tasks_keep_their_slots(self) -> None:
        slots = full(2)
        slots.leave(A, 0.0)
        assert slots.taken == 2
        assert not slots.take(B, "t", 0.0)
        assert slots.release("t", 0.0) == {B}

    def test_nothing_of_it_is_granted_later(self) -> None:
        slots = Slots(1)
        slots.join(A, {"t": None}, 0.0)
        offered(slots, A)
        slots.leave(A, 0.0)
        assert not slots.take(A, "t", 0.0)
        assert not slots.take(A, "t", 0.0, lapsed=True)
        slots.lapse(A, "t", 1)
        slots.void(A)
        assert slots.leave(A, 0.0) == set()
        assert slots.taken == 0
        assert slots.next_deadline(A) is None

    def test_a_type_that_the_link_does_not_have_is_refused(self) -> None:
        slots = Slots(1)
        slots.join(A, {"t": None}, 0.0)
        assert not slots.take(A, "other", 0.0)
        slots.lapse(A, "other", 1)
        assert slots.taken == 0
        assert offered(slots, A) == {"t": 1}


class TestIdle:
    """Since when no task is held."""

    def test_from_the_first_joining_and_from_the_last_release(self) -> None:
        slots = Slots(2)
        assert slots.idle_since is None
        slots.join(A, {"t": None}, 3.0)
        assert slots.idle_since == 3.0
        offered(slots, A)
        slots.take(A, "t", 4.0)
        assert slots.idle_since is None
        slots.take(A, "t", 4.0)
        slots.release("t", 5.0)
        assert slots.idle_since is None
        slots.leave(A, 5.5)
        slots.join(A, {"t": None}, 5.5)
        assert slots.idle_since is None
        slots.release("t", 6.0)
        assert slots.idle_since == 6.0

    def test_a_refused_acceptance_is_no_work(self) -> None:
        slots = full(1)
        assert not slots.take(B, "t", 1.0)
        slots.release("t", 2.0)
        assert slots.idle_since == 2.0
