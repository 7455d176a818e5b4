"""Prepared types: their offers, and the tasks between acceptance and settings."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pytest

from n8nrunner.protocol.events import Prepared
from n8nrunner.protocol.messages import TaskOffer
from n8nrunner.protocol.offers import OFFER_HONOUR
from n8nrunner.protocol.prepared import ACCEPTED_LIMIT, PreparedTasks
from n8nrunner.protocol.tasks import SETTINGS_TIMEOUT

NEVER = float("inf")
NOW = 1000.0
P, Q = Prepared('"p"', '"p stops"'), Prepared('"q"', '"q stops"')


def make(types: Mapping[str, Prepared] | None = None) -> PreparedTasks:
    """Prepared tasks of a link that has not joined."""
    numbers = itertools.count(1)
    prepared = PreparedTasks(lambda: f"a{next(numbers)}")
    prepared.change({"p": P} if types is None else types)
    return prepared


def joined(types: Mapping[str, Prepared] | None = None, validity: float = 10.0) -> PreparedTasks:
    """Prepared tasks of a link that has joined, and sent its offers."""
    prepared = make(types)
    prepared.join(validity)
    prepared.renew(NOW, True)
    return prepared


def offer(offer_id: str, task_type: str = "p", valid_for: int = 10_000) -> TaskOffer:
    return TaskOffer(offer_id, task_type, valid_for)


def filled() -> PreparedTasks:
    """A link with as many tasks as it may have, accepted a second apart from each other, from `NOW` on."""
    prepared = joined()
    for number in range(ACCEPTED_LIMIT):
        prepared.renew(NOW + number, True)
        assert prepared.accept(list(prepared.offers)[-1], f"task{number}", NOW + number)
    return prepared


class TestRenew:
    def test_makes_one_offer_of_each_type(self) -> None:
        prepared = make({"p": P, "q": Q})
        assert prepared.renew(NOW, True) == []
        prepared.join(10.0)
        assert prepared.due <= NOW
        assert prepared.renew(NOW, True) == [offer("a1", "p"), offer("a2", "q")]
        assert prepared.offers == {"a1": ("p", NOW + 10), "a2": ("q", NOW + 10)}
        assert prepared.renew(NOW, True) == []

    @pytest.mark.parametrize(("validity", "milliseconds"), [(10.0, 10_000), (10.6178, 10_617)])
    def test_uses_the_links_validity(self, validity: float, milliseconds: int) -> None:
        prepared = make()
        prepared.join(validity)
        (sent,) = prepared.renew(NOW, True)
        assert sent.valid_for == milliseconds
        assert type(sent.valid_for) is int
        assert prepared.offers == {"a1": ("p", NOW + validity)}

    def test_replaces_an_offer_when_it_lapses_and_not_before(self) -> None:
        prepared = joined()
        assert prepared.renew(NOW + 9.999, True) == []
        assert prepared.renew(NOW + 10, True) == [offer("a2")]
        assert list(prepared.offers) == ["a1", "a2"]

    def test_replaces_an_accepted_offer(self) -> None:
        prepared = joined({"p": P, "q": Q})
        prepared.accept("a2", "task", NOW + 1)
        assert prepared.due <= NOW
        assert prepared.renew(NOW + 1, True) == [offer("a3", "q")]

    def test_does_not_replace_a_lapsed_offer_twice(self) -> None:
        prepared = joined()
        prepared.renew(NOW + 10, True)
        assert prepared.accept("a1", "task", NOW + 10.5)
        assert prepared.renew(NOW + 10.5, True) == []

    def test_waits_until_offers_can_be_sent(self) -> None:
        prepared = joined()
        assert prepared.renew(NOW + 10, False) == []
        assert prepared.due == NOW + 10 + OFFER_HONOUR
        assert prepared.renew(NOW + 10.5, True) == [offer("a2")]

    def test_forgets_lapsed_offers_in_time(self) -> None:
        prepared = joined()
        prepared.renew(NOW + 10, True)
        prepared.renew(NOW + 10.999, True)
        assert list(prepared.offers) == ["a1", "a2"]
        prepared.renew(NOW + 11, True)
        assert list(prepared.offers) == ["a2"]

    def test_makes_no_offer_while_too_many_tasks_wait(self) -> None:
        prepared = filled()
        assert prepared.renew(NOW + 20, True) == []
        assert len(prepared.accepted) == ACCEPTED_LIMIT
        prepared.remove("task7")
        assert prepared.due <= NOW
        assert [sent.task_type for sent in prepared.renew(NOW + 20, True)] == ["p"]


class TestAccept:
    @pytest.mark.parametrize(("after", "accepted"), [(9.9, True), (10, True), (10.9, True), (11, False)])
    def test_honours_an_offer_for_a_moment_after_its_end(self, after: float, accepted: bool) -> None:
        prepared = joined()
        assert prepared.accept("a1", "task", NOW + after) is accepted
        assert list(prepared.accepted) == ["task"] * accepted

    def test_takes_an_offer_once(self) -> None:
        prepared = joined()
        assert prepared.accept("a1", "task", NOW)
        assert not prepared.accept("a1", "other", NOW)
        assert prepared.accepted == {"task": ("p", NOW + SETTINGS_TIMEOUT)}

    def test_knows_no_other_offers(self) -> None:
        prepared = joined()
        assert not prepared.accept("unknown", "task", NOW)
        assert prepared.accepted == {}
        assert prepared.due == NOW + 10


class TestAccepted:
    def test_a_task_is_removed_once(self) -> None:
        prepared = joined({"p": P, "q": Q})
        prepared.accept("a2", "task", NOW)
        prepared.renew(NOW, True)
        assert prepared.remove("task") is Q
        assert prepared.remove("task") is None

    def test_a_task_that_does_not_wait_changes_nothing(self) -> None:
        prepared = joined()
        assert prepared.remove("unknown") is None
        assert prepared.due == NOW + 10

    def test_a_task_waits_for_its_settings_for_a_limited_time(self) -> None:
        prepared = filled()
        assert prepared.expire(NOW + SETTINGS_TIMEOUT - 0.001) == []
        assert prepared.expire(NOW + SETTINGS_TIMEOUT + 1) == ["task0", "task1"]
        assert next(iter(prepared.accepted)) == "task2"
        assert prepared.expire(NOW + 2 * SETTINGS_TIMEOUT + ACCEPTED_LIMIT)
        assert prepared.accepted == {}

    @pytest.mark.parametrize(("types", "answers"), [({"p": Q}, Q), ({"q": Q}, P)])
    def test_a_task_has_the_latest_answers_of_its_type(
        self, types: Mapping[str, Prepared], answers: Prepared
    ) -> None:
        prepared = joined()
        prepared.accept("a1", "task", NOW)
        prepared.change(types)
        assert prepared.remove("task") is answers


class TestDue:
    def test_is_never_without_an_offer_and_a_task(self) -> None:
        prepared = make({})
        prepared.join(10.0)
        prepared.renew(NOW, True)
        assert prepared.due == NEVER

    def test_is_the_end_of_the_first_offer(self) -> None:
        prepared = joined({"p": P, "q": Q})
        prepared.accept("a1", "task", NOW + 4)
        prepared.renew(NOW + 4, True)
        assert prepared.due == NOW + 10

    def test_is_when_a_lapsed_offer_is_forgotten(self) -> None:
        prepared = joined()
        prepared.renew(NOW + 10, True)
        assert prepared.due == NOW + 10 + OFFER_HONOUR

    def test_is_the_end_of_a_tasks_time(self) -> None:
        prepared = joined(validity=60.0)
        prepared.accept("a1", "task", NOW + 1)
        prepared.renew(NOW + 1, True)
        assert prepared.due == NOW + 1 + SETTINGS_TIMEOUT


class TestChange:
    def test_a_new_type_is_offered(self) -> None:
        prepared = joined()
        prepared.change({"p": P, "q": Q})
        assert prepared.due <= NOW
        assert prepared.renew(NOW, True) == [offer("a2", "q")]

    def test_the_offers_of_a_type_that_is_gone_are_forgotten(self) -> None:
        prepared = joined({"p": P, "q": Q})
        prepared.change({"q": Q})
        assert not prepared.accept("a1", "task", NOW)
        assert prepared.renew(NOW, True) == []
        prepared.change({"p": P, "q": Q})
        assert prepared.renew(NOW, True) == [offer("a3")]

    def test_a_type_that_is_gone_may_have_a_lapsed_offer_too(self) -> None:
        prepared = joined()
        prepared.renew(NOW + 10, True)
        assert list(prepared.offers) == ["a1", "a2"]
        prepared.change({})
        assert prepared.offers == {}

    def test_the_types_given_are_copied(self) -> None:
        types = {"p": P}
        prepared = make(types)
        types["q"] = Q
        assert prepared.types == {"p": P}


class TestWithoutOffers:
    @pytest.mark.parametrize("how", ["withdraw", "end"])
    def test_a_link_that_has_left_makes_none(self, how: str) -> None:
        prepared = joined()
        getattr(prepared, how)()
        assert prepared.offers == {}
        assert not prepared.accept("a1", "task", NOW)
        assert prepared.renew(NOW, True) == []
        prepared.join(10.0)
        assert prepared.renew(NOW, True) == [offer("a2")]

    def test_void_offers_are_made_again(self) -> None:
        prepared = joined()
        prepared.void()
        assert prepared.due <= NOW
        assert not prepared.accept("a1", "task", NOW)
        assert prepared.renew(NOW, True) == [offer("a2")]

    def test_accepted_tasks_end_with_the_connection_only(self) -> None:
        prepared = joined()
        prepared.accept("a1", "task", NOW)
        prepared.void()
        prepared.withdraw()
        assert list(prepared.accepted) == ["task"]
        prepared.end()
        assert prepared.accepted == {}
