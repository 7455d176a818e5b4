"""Open and lapsed offers, and the expired ones that only break a silence."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping

import pytest

from n8nrunner.protocol.messages import TaskOffer
from n8nrunner.protocol.offers import (
    KEEP_ALIVE,
    OFFER_HONOUR,
    OFFER_JITTER,
    OFFER_VALIDITY,
    REASON_EXPIRED,
    REASON_FULL,
    Offers,
)
from n8nrunner.protocol.slots import RESERVATION_TIME, Slots

NEVER = float("inf")
NOW = 1000.0


def make(
    slots: Slots | None = None, link: str = "a", types: Mapping[str, int | None] | None = None
) -> Offers:
    """Offers of a link that has not joined."""
    numbers = itertools.count(1)
    return Offers(
        link, slots or Slots(2), {"t": None} if types is None else types, lambda: f"{link}{next(numbers)}"
    )


def joined(
    slots: Slots | None = None,
    link: str = "a",
    types: Mapping[str, int | None] | None = None,
    jitter: float = 0.0,
) -> Offers:
    """Offers of a link that has joined, and sent what it may."""
    offers = make(slots, link, types)
    offers.begin(jitter)
    offers.join(NOW)
    renew(offers, NOW)
    return offers


def renew(
    offers: Offers, now: float, ready: bool = True, silent_since: float | None = None
) -> list[TaskOffer]:
    sent, _ = offers.renew(now, ready, silent_since)
    return sent


def reject(offers: Offers, offer_id: str, now: float = NOW) -> str:
    """Let the broker accept an offer that the link cannot serve, and return the reason."""
    task_type, reason = offers.claim(offer_id, now)
    assert task_type is None
    offers.note_rejection()
    return reason


def offer(offer_id: str, task_type: str = "t", valid_for: int = 10_000) -> TaskOffer:
    return TaskOffer(offer_id, task_type, valid_for)


def full() -> Offers:
    """A link that may not offer: the only slot is another link's."""
    slots = Slots(1, brokers=2)
    other = joined(slots, "b")
    assert other.claim("b1", NOW) == ("t", "")
    offers = joined(slots)
    assert not offers.open
    return offers


def test_times_and_reasons_fit_n8ns() -> None:
    assert REASON_EXPIRED == "Offer expired - not accepted within validity window"
    assert REASON_FULL == "No open task slots - runner already at capacity"
    assert (OFFER_VALIDITY, OFFER_JITTER, OFFER_HONOUR) == (10, 5, 1)
    assert KEEP_ALIVE < 2, "n8n 2.40 closes a runner that is silent for two seconds while requests expire"


class TestRenew:
    def test_offers_all_that_the_slots_allow(self) -> None:
        offers = make(Slots(2))
        offers.begin(0.0)
        assert renew(offers, NOW) == []
        assert not offers.open
        assert offers.join(NOW) == set()
        assert renew(offers, NOW) == [offer("a1"), offer("a2")]
        assert offers.open
        assert offers.open == {"a1": ("t", NOW + 10), "a2": ("t", NOW + 10)}
        assert renew(offers, NOW) == []

    def test_offers_every_type(self) -> None:
        offers = joined(types={"t": None, "u": 1})
        assert offers.open == {"a1": ("t", NOW + 10), "a2": ("u", NOW + 10)}

    @pytest.mark.parametrize(
        ("jitter", "milliseconds"), [(0.0, 10_000), (0.5, 12_500), (0.123456, 10_617), (0.999999, 14_999)]
    )
    def test_the_validity_differs_between_connections(self, jitter: float, milliseconds: int) -> None:
        offers = make(Slots(1))
        offers.begin(jitter)
        offers.join(NOW)
        (sent,) = renew(offers, NOW)
        assert sent.valid_for == milliseconds
        assert type(sent.valid_for) is int
        assert offers.open == {"a1": ("t", NOW + OFFER_VALIDITY + OFFER_JITTER * jitter)}

    def test_replaces_offers_when_they_lapse_and_not_before(self) -> None:
        offers = joined()
        assert renew(offers, NOW + 9.999) == []
        assert renew(offers, NOW + 10) == [offer("a3"), offer("a4")]
        assert list(offers.open) == ["a3", "a4"]
        assert offers.lapsed == {"a1": ("t", NOW + 11), "a2": ("t", NOW + 11)}

    def test_replaces_only_the_offers_that_lapse(self) -> None:
        slots = Slots(2)
        offers = joined(slots)
        offers.claim("a1", NOW + 4)
        slots.release("t", NOW + 4)
        assert renew(offers, NOW + 4) == [offer("a3")]
        assert renew(offers, NOW + 10) == [offer("a4")]
        assert list(offers.open) == ["a3", "a4"]

    def test_replaces_offers_of_several_types_each_by_its_own(self) -> None:
        offers = joined(types={"t": None, "u": None})
        assert renew(offers, NOW + 10) == [offer("a3", "t"), offer("a4", "u")]

    def test_forgets_lapsed_offers_in_time(self) -> None:
        offers = joined()
        renew(offers, NOW + 10)
        renew(offers, NOW + 10.999)
        assert list(offers.lapsed) == ["a1", "a2"]
        renew(offers, NOW + 11)
        assert offers.lapsed == {}

    def test_forgets_each_lapsed_offer_in_its_own_time(self) -> None:
        slots = Slots(2)
        offers = joined(slots)
        offers.claim("a1", NOW)
        slots.release("t", NOW + 0.5)
        renew(offers, NOW + 0.5)
        renew(offers, NOW + 10.5)
        assert list(offers.lapsed) == ["a2", "a3"]
        renew(offers, NOW + 11)
        assert list(offers.lapsed) == ["a3"]

    def test_lets_offers_lapse_and_makes_none_while_none_can_be_sent(self) -> None:
        offers = joined()
        assert renew(offers, NOW + 10, ready=False) == []
        assert not offers.open
        assert renew(offers, NOW + 10.5) == [offer("a3"), offer("a4")]

    def test_names_the_links_that_should_look_at_the_slots(self) -> None:
        slots = Slots(1, brokers=3)
        a, b, c = (joined(slots, link) for link in "abc")
        c.claim("c1", NOW)
        assert [a.claim("a1", NOW), b.claim("b1", NOW)] == [(None, REASON_FULL)] * 2
        assert slots.release("t", NOW) == {"a"}
        assert a.next_deadline(None) == NOW + RESERVATION_TIME
        assert a.renew(NOW, True, None) == ([offer("a2")], set())
        assert a.renew(NOW + RESERVATION_TIME, True, None) == ([], {"b"})


class TestClaim:
    def test_an_open_offer_becomes_a_task(self) -> None:
        slots = Slots(2)
        offers = joined(slots, types={"t": None, "u": None})
        assert offers.claim("a2", NOW) == ("u", "")
        assert list(offers.open) == ["a1"]
        assert slots.taken == 1

    def test_an_offer_is_claimed_once(self) -> None:
        offers = joined()
        offers.claim("a1", NOW)
        assert offers.claim("a1", NOW) == (None, REASON_EXPIRED)

    @pytest.mark.parametrize(
        ("after", "claimed"),
        [(0.0, ("t", "")), (0.999, ("t", "")), (1.0, (None, REASON_EXPIRED)), (1.5, (None, REASON_EXPIRED))],
    )
    def test_a_lapsed_offer_is_honoured_for_a_second(
        self, after: float, claimed: tuple[str | None, str]
    ) -> None:
        slots = Slots(2)
        offers = joined(slots)
        renew(offers, NOW + 10)
        assert offers.claim("a1", NOW + 10 + after) == claimed
        assert slots.taken == (claimed[0] is not None)
        assert list(offers.open) == ["a3", "a4"]
        assert offers.claim("a1", NOW + 10) == (None, REASON_EXPIRED)

    def test_a_lapsed_offer_gets_no_reserved_slot(self) -> None:
        offers = joined()
        renew(offers, NOW + 10)
        assert offers.claim("a1", NOW + 10) == ("t", "")
        assert offers.claim("a2", NOW + 10) == (None, REASON_EXPIRED)
        assert offers.claim("a3", NOW + 10) == ("t", "")

    def test_an_offer_that_has_ended_but_was_not_renewed_is_open(self) -> None:
        assert joined().claim("a1", NOW + 10.5) == ("t", "")

    def test_a_lapsed_offer_has_expired_if_no_slot_is_free(self) -> None:
        offers = joined(Slots(1))
        renew(offers, NOW + 10)
        assert offers.claim("a2", NOW + 10) == ("t", "")
        assert offers.claim("a1", NOW + 10) == (None, REASON_EXPIRED)

    def test_an_open_offer_is_refused_if_another_link_has_the_slot(self) -> None:
        slots = Slots(1, brokers=2)
        a, b = joined(slots, "a"), joined(slots, "b")
        a.claim("a1", NOW)
        assert b.claim("b1", NOW) == (None, REASON_FULL)
        assert not b.open


class TestExpiredOffers:
    """An offer that arrives expired: n8n matches its requests again, and sees that the link lives."""

    def test_follows_a_rejection_once(self) -> None:
        offers = joined()
        reject(offers, "unknown")
        assert renew(offers, NOW) == [offer("a3", valid_for=0)]
        assert list(offers.open) == ["a1", "a2"]
        assert renew(offers, NOW) == []

    def test_does_not_follow_a_claim_that_the_link_serves_in_another_way(self) -> None:
        offers = joined()
        assert offers.claim("unknown", NOW) == (None, REASON_EXPIRED)
        assert renew(offers, NOW) == []

    def test_follows_a_rejection_for_want_of_a_slot(self) -> None:
        slots = Slots(1, brokers=2)
        a, b = joined(slots, "a"), joined(slots, "b")
        a.claim("a1", NOW)
        assert reject(b, "b1") == REASON_FULL
        assert renew(b, NOW) == [offer("b2", valid_for=0)]

    def test_is_not_needed_if_another_offer_follows(self) -> None:
        offers = joined()
        reject(offers, "unknown")
        assert [sent.valid_for for sent in renew(offers, NOW + 10)] == [10_000, 10_000]
        assert renew(offers, NOW + 10) == []

    def test_waits_until_it_can_be_sent(self) -> None:
        offers = joined()
        reject(offers, "unknown")
        assert renew(offers, NOW, ready=False) == []
        assert renew(offers, NOW) == [offer("a3", valid_for=0)]

    def test_is_not_owed_on_the_next_connection(self) -> None:
        offers = joined()
        reject(offers, "unknown")
        offers.begin(0.0)
        assert renew(offers, NOW) == []

    @pytest.mark.parametrize(
        ("silent_since", "sent"),
        [(None, 0), (NOW - KEEP_ALIVE, 1), (NOW - KEEP_ALIVE + 0.01, 0), (NOW - 99, 1)],
    )
    def test_ends_the_silence_of_a_link_that_cannot_offer(
        self, silent_since: float | None, sent: int
    ) -> None:
        offers = full()
        assert renew(offers, NOW, silent_since=silent_since) == [offer("a1", valid_for=0)] * sent
        assert not offers.open

    def test_is_not_needed_with_an_open_offer(self) -> None:
        assert renew(joined(), NOW, silent_since=NOW - 99) == []

    def test_breaks_the_silence_once_for_both_reasons(self) -> None:
        offers = full()
        reject(offers, "unknown")
        assert renew(offers, NOW, silent_since=NOW - 99) == [offer("a1", valid_for=0)]

    def test_needs_a_task_type(self) -> None:
        offers = joined(types={})
        reject(offers, "unknown")
        assert renew(offers, NOW, silent_since=NOW - 99) == []
        assert offers.next_deadline(NOW) == NEVER

    def test_has_the_first_task_type(self) -> None:
        offers = joined(types={"u": None, "t": None})
        reject(offers, "unknown")
        assert renew(offers, NOW) == [offer("a3", "u", 0)]


class TestDeadline:
    @pytest.mark.parametrize(
        ("silent_since", "deadline"),
        [(None, NEVER), (NOW, NOW + KEEP_ALIVE), (NOW - 1, NOW + KEEP_ALIVE - 1)],
    )
    def test_without_an_offer_is_the_end_of_the_silence(
        self, silent_since: float | None, deadline: float
    ) -> None:
        assert full().next_deadline(silent_since) == deadline

    def test_with_an_offer_is_its_end(self) -> None:
        offers = joined()
        assert offers.next_deadline(NOW - 99) == offers.next_deadline(None) == NOW + 10

    def test_with_a_lapsed_offer_is_when_that_is_forgotten(self) -> None:
        offers = joined()
        renew(offers, NOW + 10)
        assert offers.next_deadline(None) == NOW + 11
        renew(offers, NOW + 11)
        assert offers.next_deadline(None) == NOW + 20


@pytest.mark.parametrize("leaves", [False, True])
def test_withdrawn_and_void_offers_are_forgotten(leaves: bool) -> None:
    slots = Slots(2)
    offers = joined(slots)
    renew(offers, NOW + 10)
    if leaves:
        others: set[Hashable] = offers.withdraw(NOW + 10)
        assert others == set()
    else:
        offers.void()
    assert offers.open == offers.lapsed == {}
    assert reject(offers, "a1", NOW + 10) == reject(offers, "a3", NOW + 10) == REASON_EXPIRED
    assert slots.taken == 0
    # A link that has left makes none; one whose offers are void makes them once more.
    sent = renew(offers, NOW + 10)
    assert sent == ([offer("a5", valid_for=0)] if leaves else [offer("a5"), offer("a6")])


def test_the_slots_of_withdrawn_offers_go_to_other_links() -> None:
    slots = Slots(1, brokers=3)
    a, b, c = (joined(slots, link) for link in "abc")
    c.claim("c1", NOW)
    a.claim("a1", NOW)
    b.claim("b1", NOW)
    slots.release("t", NOW)
    assert a.withdraw(NOW) == {"b"}


def test_the_types_given_are_copied() -> None:
    types: dict[str, int | None] = {"t": None}
    offers = make(types=types)
    types["u"] = None
    assert offers.types == {"t": None}


def test_a_changed_limit_counts_from_the_next_join() -> None:
    offers = joined(Slots(3), types={"t": 1})
    offers.types = {"t": 2}
    offers.join(NOW)
    assert renew(offers, NOW) == [offer("a2")]
