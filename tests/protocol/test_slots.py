"""The slots, one step at a time: a test for each rule of the module's docstring."""

from __future__ import annotations

from typing import Any

import pytest

from n8nrunner.protocol.slots import RESERVATION_TIME, Slots

A, B, C = "a", "b", "c"
NEVER = float("inf")


def offered(slots: Slots, link: Any, now: float = 0.0, ready: bool = True) -> dict[str, int]:
    """Return what a link should offer now, by task type."""
    wanted, _ = slots.offers(link, now, ready)
    assert len(dict(wanted)) == len(wanted)
    assert all(count > 0 for _, count in wanted)
    return dict(wanted)


def woken(slots: Slots, link: Any, now: float = 0.0) -> set[Any]:
    return slots.offers(link, now)[1]


def full(capacity: int, types: dict[str, int | None] | None = None, links: Any = (A, B)) -> Slots:
    """Return slots that are all taken by tasks of the first link. All links have joined and offered."""
    slots = Slots(capacity, brokers=len(links))
    for link in links:
        slots.join(link, types or {"t": None}, 0.0)
        offered(slots, link)
    for _ in range(capacity):
        assert slots.take(links[0], "t")
        offered(slots, links[0])
    return slots


def lapsing(link: Any) -> Slots:
    """Return one taken slot. `link` has a lapsed offer and the open one that replaced it."""
    slots = Slots(1, brokers=3)
    for name in (A, B, C):
        slots.join(name, {"t": None}, 0.0)
        assert offered(slots, name) == {"t": 1}
    slots.lapse(link, "t", 1)
    assert offered(slots, link) == {"t": 1}
    assert slots.take(A, "t")
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
        assert slots.take(A, "t")
        assert offered(slots, A) == {}
        assert slots.take(A, "t")
        assert slots.release("t", 1.0) == {A}, "its link has to ask for offers"
        assert offered(slots, A, 1.0) == {"t": 1}
        assert slots.taken == 1

    def test_lapsed_offers_are_replaced_one_for_one(self) -> None:
        slots = Slots(4)
        slots.join(A, {"t": None}, 0.0)
        offered(slots, A)
        slots.take(A, "t")
        slots.lapse(A, "t", 2)
        assert offered(slots, A) == {"t": 2}
        slots.lapse(A, "t", 3)
        assert offered(slots, A) == {"t": 3}

    def test_the_limit_of_the_type_counts(self) -> None:
        slots = Slots(5)
        slots.join(A, {"t": 2}, 0.0)
        assert offered(slots, A) == {"t": 2}
        slots.take(A, "t")
        assert offered(slots, A) == {}
        slots.release("t", 0.0)
        assert offered(slots, A) == {"t": 1}

    def test_a_limit_above_the_capacity_changes_nothing(self) -> None:
        slots = Slots(2)
        slots.join(A, {"t": 9}, 0.0)
        assert offered(slots, A) == {"t": 2}

    def test_void_offers_are_replaced(self) -> None:
        slots = Slots(3)
        slots.join(A, {"t": None}, 0.0)
        offered(slots, A)
        slots.take(A, "t")
        slots.void(A)
        assert offered(slots, A) == {"t": 2}

    def test_a_lapsed_acceptance_takes_only_a_slot_that_is_not_reserved(self) -> None:
        slots = Slots(2)
        slots.join(A, {"t": None}, 0.0)
        offered(slots, A)
        slots.lapse(A, "t", 2)
        assert offered(slots, A) == {"t": 2}
        # The second open offer has a reserved slot, the first one has none.
        assert slots.take(A, "t", lapsed=True)
        assert not slots.take(A, "t", lapsed=True)
        assert slots.take(A, "t")
        assert not slots.take(A, "t")
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
        assert slots.take(A, "t", lapsed=True)  # 3 open, 2 free
        assert offered(slots, A) == {}
        slots.lapse(A, "t", 2)
        assert offered(slots, A) == {"t": 1}

    def test_a_single_pair_needs_no_reservation(self) -> None:
        slots = Slots(1)
        slots.join(A, {"t": None}, 0.0)
        offered(slots, A)
        slots.lapse(A, "t", 1)
        offered(slots, A)
        assert slots.take(A, "t", lapsed=True)
        assert not slots.take(A, "t")
        assert slots.release("t", 1.0) == {A}
        assert offered(slots, A, 1.0) == {"t": 1}
        assert slots.next_deadline(A) == NEVER
        assert slots.reserved_pairs == 0

    def test_a_link_that_is_not_ready_offers_nothing(self) -> None:
        slots = Slots(2)
        slots.join(A, {"t": None}, 0.0)
        assert offered(slots, A, ready=False) == {}
        assert offered(slots, A) == {"t": 2}

    def test_a_link_can_leave_and_join_again(self) -> None:
        slots = Slots(3)
        slots.join(A, {"t": None}, 0.0)
        offered(slots, A)
        slots.take(A, "t")
        assert slots.leave(A, 1.0) == set()
        assert offered(slots, A, 1.0) == {}
        assert slots.taken == 1
        slots.join(A, {"t": None}, 2.0)
        assert offered(slots, A, 2.0) == {"t": 2}

    def test_a_second_type_ends_the_single_pair(self) -> None:
        slots = Slots(4)
        slots.join(A, {"t": None}, 0.0)
        assert offered(slots, A) == {"t": 4}
        slots.join(A, {"t": None, "u": None}, 0.0)
        assert offered(slots, A) == {"u": 1}
        # Its offers beyond the first one still have their reserved slots.
        assert slots.take(A, "u")
        assert [slots.take(A, "t") for _ in range(4)] == [True, True, True, False]

    def test_refusals_of_a_single_pair_are_forgotten(self) -> None:
        slots = Slots(1)
        slots.join(A, {"t": None}, 0.0)
        offered(slots, A)
        slots.lapse(A, "t", 1)
        offered(slots, A)
        assert slots.take(A, "t", lapsed=True)
        assert not slots.take(A, "t")
        slots.release("t", 1.0)
        assert offered(slots, A, 1.0) == {"t": 1}
        slots.join(A, {"t": None, "u": None}, 1.0)
        assert offered(slots, A, 1.0) == {"u": 1}
        assert slots.take(A, "t")
        # "t" waits as a busy pair, so the refused "u" is before it.
        assert not slots.take(A, "u")
        slots.release("t", 2.0)
        assert offered(slots, A, 2.0) == {"u": 1}

    def test_a_pair_that_was_single_waits_like_any_other(self) -> None:
        slots = Slots(1)
        slots.join(A, {"t": None}, 0.0)
        offered(slots, A)
        assert slots.take(A, "t")
        assert offered(slots, A) == {}
        slots.join(A, {"t": None, "u": None}, 0.0)
        assert offered(slots, A) == {}
        assert slots.release("t", 1.0) == {A}
        assert offered(slots, A, 1.0) == {"t": 1}
        assert slots.take(A, "t")
        assert slots.release("t", 2.0) == {A}
        assert offered(slots, A, 2.0) == {"t": 1, "u": 1}

    def test_one_of_several_brokers_is_not_single(self) -> None:
        slots = Slots(4, brokers=2)
        slots.join(A, {"t": None}, 0.0)
        assert offered(slots, A) == {"t": 1}


class TestSeveralPairs:
    """While there is room, every pair has one open offer, however few slots there are."""

    def test_every_pair_of_one_link_offers(self) -> None:
        slots = Slots(1)
        slots.join(A, {"t": None, "u": None, "v": None}, 0.0)
        assert offered(slots, A) == {"t": 1, "u": 1, "v": 1}
        assert offered(slots, A) == {}

    def test_every_pair_of_several_links_offers(self) -> None:
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
        assert slots.take(A, "t")
        assert offered(slots, A) == {"t": 1}
        assert slots.take(A, "t")
        assert offered(slots, A) == {"t": 1}
        assert slots.take(A, "t")
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
        # After an offer that was not accepted, B waits for an offer only: A alone waits for a slot.
        assert slots.release("t", 1.0) == {A}
        assert offered(slots, A, 1.0) == {"t": 1}
        assert slots.take(A, "t")
        assert slots.release("t", 2.0) == {A, B}
        assert offered(slots, B, 2.0) == {"t": 1}
        assert slots.next_deadline(B) == NEVER

    def test_more_offers_than_slots_may_be_open_and_the_first_one_wins(self) -> None:
        slots = Slots(1, brokers=2)
        for link in (A, B):
            slots.join(link, {"t": None}, 0.0)
            offered(slots, link)
        assert slots.take(B, "t")
        assert not slots.take(A, "t")
        assert slots.taken == 1

    def test_a_link_is_ready_unless_it_says_otherwise(self) -> None:
        slots = Slots(1, brokers=2)
        slots.join(A, {"t": None}, 0.0)
        assert slots.offers(A, 0.0) == ([("t", 1)], set())

    def test_joining_names_the_links_that_can_offer_now(self) -> None:
        slots = Slots(1, brokers=2)
        assert slots.join(A, {"t": None}, 0.0) == set()
        assert slots.join(B, {"t": None}, 0.0) == set()
        # A higher limit makes room.
        slots = Slots(4, brokers=2)
        for link in (A, B):
            slots.join(link, {"t": 1}, 0.0)
            offered(slots, link)
        assert slots.take(A, "t")
        assert not slots.take(B, "t")
        assert slots.join(A, {"t": 3}, 0.0) == {B}
        assert offered(slots, B) == {"t": 1}
        assert offered(slots, A) == {"t": 1}


class TestPlentyOfRoom:
    """A pair whose offers were all accepted, while there is plenty of room, makes several at once."""

    def slots(self, capacity: int, limit: int | None = None) -> Slots:
        slots = Slots(capacity, brokers=2)
        for link in (A, B):
            slots.join(link, {"t": limit}, 0.0)
            assert offered(slots, link) == {"t": 1}
        assert slots.take(A, "t")
        return slots

    @pytest.mark.parametrize(
        ("capacity", "limit", "count"), [(2, None, 1), (8, None, 1), (9, None, 2), (41, None, 10), (41, 9, 2)]
    )
    def test_a_busy_pair_offers_its_share_of_half_the_room(
        self, capacity: int, limit: int | None, count: int
    ) -> None:
        slots = self.slots(capacity, limit)
        assert offered(slots, A) == {"t": count}
        assert offered(slots, A) == {}

    def test_offers_beyond_the_first_have_reserved_slots(self) -> None:
        slots = self.slots(41)
        assert offered(slots, A) == {"t": 10}
        assert slots.reserved_pairs == 0
        for _ in range(31):  # 40 slots are free, 9 of them are reserved
            assert slots.take(B, "t", lapsed=True)
        assert not slots.take(B, "t")
        assert [slots.take(A, "t") for _ in range(10)] == [True] * 9 + [False]

    def test_the_room_counts_when_offers_are_made(self) -> None:
        slots = self.slots(41)
        offered(slots, B)
        slots.offers(A, 0.0, ready=False)  # ten are granted
        for _ in range(37):
            assert slots.take(B, "t", lapsed=True)
        assert offered(slots, A) == {"t": 4}
        assert not slots.take(B, "t")
        assert [slots.take(A, "t") for _ in range(4)] == [True] * 3 + [False]

    def test_the_first_offer_is_made_although_the_room_is_gone(self) -> None:
        slots = self.slots(41)
        slots.offers(A, 0.0, ready=False)
        for _ in range(40):
            assert slots.take(B, "t", lapsed=True)
        assert offered(slots, A) == {"t": 1}

    def test_a_new_or_idle_pair_makes_one_offer(self) -> None:
        slots = self.slots(41)
        slots.lapse(B, "t", 1)
        assert offered(slots, B) == {"t": 1}
        slots.leave(B, 0.0)
        slots.join(B, {"t": None}, 0.0)
        assert offered(slots, B) == {"t": 1}

    def test_void_offers_are_replaced_by_as_many(self) -> None:
        slots = self.slots(41)
        assert offered(slots, A) == {"t": 10}
        slots.void(A)
        assert offered(slots, A) == {"t": 10}

    def test_pairs_that_left_do_not_count(self) -> None:
        slots = self.slots(41)
        slots.leave(B, 0.0)
        assert offered(slots, A) == {"t": 20}


class TestRefusal:
    """An acceptance that finds no room: its pair gets the next slot as a reservation."""

    def test_a_refused_pair_gets_the_next_slot(self) -> None:
        slots = full(1)
        assert not slots.take(B, "t")
        assert offered(slots, B) == {}
        # A has waited longer, but was not refused.
        assert slots.release("t", 5.0) == {B}
        assert slots.next_deadline(B) == 5.0 + RESERVATION_TIME
        assert slots.next_deadline(A) == NEVER
        assert offered(slots, B, 5.1) == {"t": 1}
        assert offered(slots, A, 5.1) == {}
        assert slots.take(B, "t")
        assert slots.next_deadline(B) == NEVER

    def test_no_other_pair_gets_a_reserved_slot(self) -> None:
        slots = full(2, links=(A, B, C))
        assert not slots.take(B, "t")
        slots.release("t", 1.0)
        assert offered(slots, B, 1.0) == {"t": 1}
        assert not slots.take(C, "t")
        assert slots.take(B, "t")
        assert slots.taken == 2

    def test_a_reservation_lapses(self) -> None:
        slots = full(1, links=(A, B, C))
        assert not slots.take(B, "t")
        slots.release("t", 1.0)
        assert offered(slots, B, 1.0) == {"t": 1}
        assert slots.take(C, "t") is False
        assert offered(slots, B, 1.0 + RESERVATION_TIME - 0.001) == {}
        assert slots.next_deadline(B) == 1.0 + RESERVATION_TIME
        assert woken(slots, B, 1.0 + RESERVATION_TIME) == {C}
        # Its offer stays, and the next pair has a reservation now.
        assert slots.next_deadline(B) == NEVER
        assert offered(slots, C, 1.0 + RESERVATION_TIME) == {"t": 1}
        assert not slots.take(B, "t")
        assert slots.take(C, "t")

    def test_refused_pairs_come_first_and_in_their_order(self) -> None:
        slots = full(1, links=(A, B, C))
        assert not slots.take(C, "t")
        assert not slots.take(B, "t")
        assert slots.release("t", 1.0) == {C}
        assert offered(slots, C, 1.0) == {"t": 1}
        assert slots.take(C, "t")
        assert slots.release("t", 2.0) == {B}
        assert offered(slots, B, 2.0) == {"t": 1}
        assert slots.take(B, "t")
        assert slots.release("t", 3.0) == {A}

    def test_a_pair_that_is_refused_twice_gets_two_reservations(self) -> None:
        slots = lapsing(B)
        # Both of its offers are accepted, the lapsed one and its replacement.
        assert not slots.take(B, "t", lapsed=True)
        assert not slots.take(C, "t")
        assert not slots.take(B, "t")
        assert slots.release("t", 1.0) == {B}
        assert offered(slots, B, 1.0) == {"t": 1}
        assert slots.take(B, "t")
        assert slots.release("t", 2.0) == {C}
        assert offered(slots, C, 2.0) == {"t": 1}
        assert slots.take(C, "t")
        assert slots.release("t", 3.0) == {B}
        assert slots.next_deadline(B) == 3.0 + RESERVATION_TIME
        assert offered(slots, B, 3.0) == {"t": 1}
        assert slots.take(B, "t")
        # Now it waits like any other pair.
        assert slots.release("t", 4.0) == {A}

    def test_a_lapsed_reservation_makes_up_for_all_refusals(self) -> None:
        slots = lapsing(B)
        assert not slots.take(B, "t", lapsed=True)
        assert not slots.take(B, "t")
        slots.release("t", 1.0)
        assert offered(slots, B, 1.0) == {"t": 1}
        assert woken(slots, B, 1.0 + RESERVATION_TIME) == {A}
        # A waits alone, so no slot is reserved for it.
        assert slots.reserved_pairs == 0
        assert slots.take(B, "t")
        slots.lapse(C, "t", 1)
        offered(slots, C)
        assert offered(slots, A, 1.0 + RESERVATION_TIME) == {"t": 1}
        assert not slots.take(A, "t")
        # No refusal of B is left to make up for.
        assert slots.release("t", 3.0) == {A}

    def test_an_open_offer_of_a_refused_pair_gets_the_reserved_slot(self) -> None:
        slots = lapsing(B)
        assert not slots.take(B, "t", lapsed=True)
        assert slots.release("t", 1.0) == {B}
        assert offered(slots, B, 1.0) == {}  # it has one
        assert not slots.take(C, "t")
        assert slots.take(B, "t")

    def test_several_freed_slots_go_to_several_pairs(self) -> None:
        slots = full(3, links=(A, B, C))
        assert not slots.take(B, "t")
        assert not slots.take(C, "t")
        assert slots.release("t", 1.0) == {B}
        assert slots.release("t", 1.0) == {C}
        # The last one is for A, which waits alone: no need for a reservation.
        assert slots.release("t", 1.0) == {A}
        assert slots.next_deadline(A) == NEVER
        assert slots.reserved_pairs == 2
        assert [offered(slots, link, 1.0) for link in (A, B, C)] == [{"t": 1}] * 3
        assert [slots.take(link, "t") for link in (A, B, C)] == [True] * 3

    def test_a_waiting_pair_that_is_refused_goes_to_the_front(self) -> None:
        slots = lapsing(C)
        assert slots.release("t", 1.0) == {A}
        assert offered(slots, A, 1.0) == {"t": 1}
        assert slots.take(A, "t")
        slots.lapse(B, "t", 1)
        slots.lapse(C, "t", 1)
        assert not slots.take(C, "t", lapsed=True)
        assert slots.release("t", 2.0) == {C}
        assert slots.next_deadline(C) == 2.0 + RESERVATION_TIME

    def test_a_waiting_pair_keeps_its_place(self) -> None:
        slots = full(1, links=(A, B, C))
        slots.void(B)
        slots.void(C)
        slots.void(A)
        slots.void(B)
        assert slots.release("t", 1.0) == {A}
        assert offered(slots, A, 1.0) == {"t": 1}
        assert slots.take(A, "t")
        assert slots.release("t", 2.0) == {B}

    def test_a_lapsed_acceptance_uses_the_reservation_of_its_pair(self) -> None:
        slots = full(1)
        assert not slots.take(B, "t")
        slots.release("t", 1.0)
        assert slots.take(B, "t", lapsed=True)
        assert slots.reserved_pairs == 0
        assert offered(slots, B, 1.0) == {}
        # B has used its reservation: A is next.
        assert slots.release("t", 2.0) == {A}

    def test_a_lapsed_acceptance_uses_the_reservation_despite_an_open_offer(self) -> None:
        slots = full(1)
        assert not slots.take(B, "t")
        slots.release("t", 1.0)
        assert offered(slots, B, 1.0) == {"t": 1}
        assert slots.take(B, "t", lapsed=True)
        assert not slots.take(B, "t")
        assert slots.release("t", 2.0) == {B}

    def test_a_lapsed_acceptance_does_not_use_the_reservation_of_another_pair(self) -> None:
        slots = full(1, links=(A, B, C))
        assert not slots.take(B, "t")
        slots.release("t", 1.0)
        assert not slots.take(C, "t", lapsed=True)
        assert slots.take(B, "t", lapsed=True)


class TestReservations:
    """When slots are scarce, freed ones go to the pairs in their order."""

    def busy(self, count: int, capacity: int = 1) -> tuple[Slots, list[str]]:
        """Return slots that are all taken, and the `count` links that wait in this order as busy ones."""
        links = [f"link{number}" for number in range(count)]
        slots = Slots(count, brokers=count)
        for link in links:
            slots.join(link, {"t": None}, 0.0)
            offered(slots, link)
        for link in links:
            assert slots.take(link, "t")
        slots.capacity = capacity
        for _ in range(count - capacity):
            assert slots.release("t", 0.0) == set()
        return slots, links

    def test_a_freed_slot_is_reserved_for_the_pair_that_has_waited_longest(self) -> None:
        slots, links = self.busy(3)
        order = []
        for step in range(9):
            (link,) = slots.release("t", float(step))
            order.append(link)
            assert slots.next_deadline(link) == step + RESERVATION_TIME
            assert [offered(slots, other, float(step)) for other in links if other != link] == [{}, {}]
            assert offered(slots, link, float(step)) == {"t": 1}
            assert slots.take(link, "t")
        assert order == links * 3

    def test_no_slot_is_reserved_while_there_is_room_for_all(self) -> None:
        slots, links = self.busy(2, capacity=2)
        assert slots.release("t", 1.0) == {links[0]}
        assert slots.reserved_pairs == 1  # one slot for two
        assert slots.release("t", 1.0) == {links[1]}
        assert slots.reserved_pairs == 1  # one for one
        assert slots.next_deadline(links[1]) == NEVER

    def test_an_unused_reservation_goes_to_the_next_pair(self) -> None:
        slots, links = self.busy(3)
        assert slots.release("t", 0.0) == {links[0]}
        assert offered(slots, links[0], 0.0) == {"t": 1}
        assert slots.offers(links[0], RESERVATION_TIME) == ([], {links[1]})
        assert offered(slots, links[1], RESERVATION_TIME) == {"t": 1}
        assert slots.offers(links[1], 2 * RESERVATION_TIME) == ([], {links[2]})
        # The last one waits alone, so no slot is reserved for it; now all of them have an open offer.
        assert offered(slots, links[2], 2 * RESERVATION_TIME) == {"t": 1}
        assert slots.reserved_pairs == 0
        assert slots.take(links[0], "t")
        assert not slots.take(links[1], "t")

    def test_the_reservation_of_a_link_that_cannot_offer_lapses(self) -> None:
        slots, links = self.busy(2)
        assert slots.release("t", 0.0) == {links[0]}
        assert slots.offers(links[0], 0.5, ready=False) == ([], set())
        assert slots.next_deadline(links[0]) == RESERVATION_TIME
        assert slots.offers(links[0], RESERVATION_TIME, ready=False) == ([], {links[1]})
        assert slots.next_deadline(links[0]) == NEVER
        assert offered(slots, links[1], RESERVATION_TIME) == {"t": 1}
        assert slots.take(links[1], "t")
        # Its offer is granted, and it makes it as soon as it can.
        assert offered(slots, links[0], RESERVATION_TIME) == {"t": 1}

    def test_a_lapsed_offer_is_replaced_within_the_reservation(self) -> None:
        slots = lapsing(B)
        assert not slots.take(B, "t", lapsed=True)
        slots.release("t", 1.0)
        slots.lapse(B, "t", 1)
        assert offered(slots, B, 1.1) == {"t": 1}
        assert slots.next_deadline(B) == 1.0 + RESERVATION_TIME
        assert slots.take(B, "t")

    def test_void_offers_are_replaced_within_the_reservation(self) -> None:
        slots, links = self.busy(2)
        slots.release("t", 0.0)
        assert offered(slots, links[0]) == {"t": 1}
        slots.void(links[0])
        assert slots.next_deadline(links[0]) == RESERVATION_TIME
        slots.capacity = 20  # one, however much room there is
        assert offered(slots, links[0], 0.5) == {"t": 1}

    def test_pairs_with_void_offers_wait_as_busy_ones(self) -> None:
        slots = full(1, links=(A, B, C))
        slots.void(B)
        slots.void(C)
        assert slots.release("t", 1.0) == {A}
        assert offered(slots, A, 1.0) == {"t": 1}
        assert slots.take(A, "t")
        assert slots.release("t", 2.0) == {B}
        assert slots.next_deadline(B) == 2.0 + RESERVATION_TIME
        assert offered(slots, B, 2.0) == {"t": 1}

    def test_a_pair_with_a_lapsed_offer_delays_no_other(self) -> None:
        slots = full(1, links=(A, B, C))
        slots.lapse(B, "t", 1)
        slots.lapse(C, "t", 1)
        # The freed slot is for A; the others are behind it.
        assert slots.release("t", 0.0) == {A}
        assert offered(slots, A) == {"t": 1}
        assert slots.take(A, "t")
        # Now they are ahead of A: both may offer, and A still gets the slot.
        assert slots.release("t", 1.0) == {A, B, C}
        assert slots.next_deadline(A) == NEVER  # by now it waits alone
        assert slots.reserved_pairs == 0

    def test_busy_pairs_get_the_same_number_of_slots(self) -> None:
        """All pairs have endless work."""
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
            # A broker with work accepts every offer at once, and a more distant one a bit later.
            for link in sorted(open_offers):
                if slots.take(link, "t"):
                    served[link] += 1
                    running.append(link)
            open_offers = []
            if running:
                running.pop(0)
                slots.release("t", now)
        return served


class TestTypes:
    """The limit of a task type, over all links."""

    def test_a_limit_counts_tasks_of_all_links(self) -> None:
        slots = Slots(5, brokers=2)
        for link in (A, B):
            slots.join(link, {"t": 1, "u": None}, 0.0)
            assert offered(slots, link) == {"t": 1, "u": 1}
        assert slots.take(A, "t")
        assert offered(slots, A) == {}
        assert not slots.take(B, "t")
        # Other types are not limited.
        assert slots.take(B, "u")
        assert offered(slots, B) == {"u": 1}
        assert slots.release("u", 0.0) == set()
        assert slots.release("t", 1.0) == {B}
        assert offered(slots, B, 1.0) == {"t": 1}
        assert slots.take(B, "t")

    def test_a_pair_at_the_limit_of_its_type_delays_no_other(self) -> None:
        slots = Slots(2, brokers=2)
        slots.join(A, {"t": 1}, 0.0)
        slots.join(B, {"t": 1, "u": None}, 0.0)
        offered(slots, A)
        offered(slots, B)
        assert slots.take(A, "t")
        assert not slots.take(B, "t")
        assert slots.take(B, "u")
        assert offered(slots, B) == {}
        # First in line is B's "t", whose type is at its limit; "u" has waited for less.
        assert slots.release("u", 1.0) == {B}
        assert offered(slots, B, 1.0) == {"u": 1}

    def test_reserved_slots_count_towards_the_limit(self) -> None:
        slots = Slots(5, brokers=3)
        for link in (A, B, C):
            slots.join(link, {"t": 1}, 0.0)
            offered(slots, link)
        assert slots.take(A, "t")
        assert not slots.take(B, "t")
        assert slots.release("t", 1.0) == {B}
        assert offered(slots, B, 1.0) == {"t": 1}
        assert not slots.take(C, "t")
        assert slots.take(B, "t")

    def test_each_type_has_its_own_limit(self) -> None:
        slots = Slots(9, brokers=2)
        slots.join(A, {"t": 1, "u": 2}, 0.0)
        offered(slots, A)
        assert slots.take(A, "t")
        assert slots.take(A, "u")
        assert offered(slots, A) == {"u": 1}
        assert slots.take(A, "u")
        assert offered(slots, A) == {}
        assert slots.taken == 3

    def test_a_lower_limit_waits_for_tasks_to_end(self) -> None:
        slots = Slots(5, brokers=2)
        slots.join(A, {"t": 3}, 0.0)
        offered(slots, A)
        for _ in range(3):
            assert slots.take(A, "t")
            offered(slots, A)
        slots.join(A, {"t": 1}, 0.0)
        slots.release("t", 0.0)
        slots.release("t", 0.0)
        assert offered(slots, A) == {}
        assert slots.release("t", 0.0) == {A}
        assert offered(slots, A) == {"t": 1}


class TestExpecting:
    """The number of links changes while a runner runs."""

    def test_the_only_link_left_offers_all_free_slots(self) -> None:
        slots = Slots(4, brokers=2)
        for link in (A, B):
            slots.join(link, {"t": None}, 0.0)
            assert offered(slots, link) == {"t": 1}
        slots.leave(B, 0.0)
        assert slots.expect(1, 0.0) == {A}
        assert offered(slots, A) == {"t": 3}

    def test_a_second_link_gets_an_offer_at_once_and_then_its_share(self) -> None:
        slots = Slots(4)
        slots.join(A, {"t": None}, 0.0)
        assert offered(slots, A) == {"t": 4}
        assert slots.expect(2, 0.0) == set()
        slots.join(B, {"t": None}, 0.0)
        assert offered(slots, B) == {"t": 1}
        slots.lapse(A, "t", 4)
        assert offered(slots, A) == {"t": 1}

    def test_a_lone_pair_without_a_free_slot_waits_once_another_link_is_expected(self) -> None:
        slots = full(1, links=(A,))
        slots.expect(2, 0.0)
        slots.join(B, {"t": None}, 0.0)
        assert offered(slots, A) == {}
        assert slots.release("t", 1.0) == {A}
        assert slots.reserved_pairs == 1
        assert offered(slots, A, 1.0) == {"t": 1}

    def test_a_lone_pair_that_could_not_send_its_offers_makes_them_once_another_link_is_expected(
        self,
    ) -> None:
        slots = Slots(4)
        slots.join(A, {"t": None}, 0.0)
        assert offered(slots, A, ready=False) == {}
        assert slots.expect(2, 0.0) == {A}
        assert offered(slots, A) == {"t": 2}


class TestLeaving:
    def test_a_reserved_slot_is_free_again(self) -> None:
        slots = full(1, links=(A, B, C))
        assert not slots.take(B, "t")
        assert not slots.take(C, "t")
        slots.release("t", 1.0)
        assert slots.leave(B, 1.0) == {C}
        assert offered(slots, C, 1.0) == {"t": 1}
        assert slots.next_deadline(B) == NEVER
        assert offered(slots, B, 1.0) == {}

    def test_a_waiting_pair_is_removed(self) -> None:
        slots = full(1)
        assert not slots.take(B, "t")
        assert slots.leave(B, 0.0) == set()
        assert slots.release("t", 1.0) == {A}

    def test_all_reserved_slots_are_free_again(self) -> None:
        slots = Slots(5)
        slots.join(A, {"t": None}, 0.0)
        offered(slots, A)
        slots.leave(A, 0.0)
        slots.join(B, {"t": None}, 0.0)
        assert offered(slots, B) == {"t": 5}

    def test_tasks_keep_their_slots(self) -> None:
        slots = full(2)
        slots.leave(A, 0.0)
        assert slots.taken == 2
        assert not slots.take(B, "t")
        assert slots.release("t", 0.0) == {B}

    def test_no_later_acceptance_is_granted(self) -> None:
        slots = Slots(1)
        slots.join(A, {"t": None}, 0.0)
        offered(slots, A)
        slots.leave(A, 0.0)
        assert not slots.take(A, "t")
        assert not slots.take(A, "t", lapsed=True)
        slots.lapse(A, "t", 1)
        slots.void(A)
        assert slots.leave(A, 0.0) == set()
        assert slots.taken == 0
        assert slots.next_deadline(A) == NEVER

    def test_a_type_that_the_link_does_not_have_is_refused(self) -> None:
        slots = Slots(1)
        slots.join(A, {"t": None}, 0.0)
        assert not slots.take(A, "other")
        slots.lapse(A, "other", 1)
        assert slots.taken == 0
        assert offered(slots, A) == {"t": 1}


class TestIdle:
    """When the runner became idle."""

    def test_idle_since_the_first_join_or_the_last_release(self) -> None:
        slots = Slots(2)
        assert slots.idle_since is None
        slots.join(A, {"t": None}, 3.0)
        assert slots.idle_since == 3.0
        offered(slots, A)
        slots.take(A, "t")
        assert slots.idle_since is None
        slots.take(A, "t")
        slots.release("t", 5.0)
        assert slots.idle_since is None
        slots.leave(A, 5.5)
        slots.join(A, {"t": None}, 5.5)
        assert slots.idle_since is None
        slots.release("t", 6.0)
        assert slots.idle_since == 6.0

    def test_a_refused_acceptance_does_not_end_idleness(self) -> None:
        slots = full(1)
        assert not slots.take(B, "t")
        slots.release("t", 2.0)
        assert slots.idle_since == 2.0
