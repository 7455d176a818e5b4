"""A session and its prepared types: what is offered and answered, and what that leaves alone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from n8nrunner.protocol import messages as m
from n8nrunner.protocol.actions import (
    CloseConnection,
    MeasureSocket,
    SendPayload,
    SendPing,
    SendUrgentPing,
    WakeLinks,
)
from n8nrunner.protocol.events import OfferingChanged, Prepared, StopRequested, TypesChanged
from n8nrunner.protocol.offers import KEEP_ALIVE, REASON_EXPIRED
from n8nrunner.protocol.prepared import ACCEPTED_LIMIT
from n8nrunner.protocol.session import ACCEPT_WINDOW, DRAIN_LIMIT, REASON_STOPPING, REASON_WINDOW
from n8nrunner.protocol.slots import Slots
from n8nrunner.protocol.states import SessionState
from n8nrunner.protocol.tasks import SETTINGS_TIMEOUT
from n8nrunner.snapshot import Counts
from tests.protocol.bench import PREPARED, Bench, connected, of, skipped, without

PING = (SendPing, SendUrgentPing, MeasureSocket)
RUNNING, STOPPING = {"state": "running"}, {"state": "stopping"}


def offering(jitter: float = 0.0, **kwargs: Any) -> Bench:
    """A registered link with the prepared type "p"."""
    bench = Bench(prepared={"p": PREPARED}, **kwargs)
    bench.connect(jitter)
    return bench


def offer_of(bench: Bench, task_type: str = "p") -> str:
    return bench.prepared_offers()[task_type]


def accept(bench: Bench, task_id: str = "asked", task_type: str = "p") -> None:
    """Let the broker accept the open offer of a prepared type."""
    actions = bench.do(m.TaskOfferAccept(offer_of(bench, task_type), task_id))
    assert actions[0] == m.TaskAccepted(task_id)


def ask(bench: Bench, task_id: str = "asked", task_type: str = "p") -> Any:
    """Return the answer to a task of a prepared type."""
    accept(bench, task_id, task_type)
    return answer_of(bench.do(m.TaskSettings(task_id, {})), task_id)


def answer_of(actions: list[Any], task_id: str = "asked") -> Any:
    (sent,) = [json.loads(action.payload) for action in of(SendPayload, actions)]
    assert (sent["type"], sent["taskId"]) == ("runner:taskdone", task_id)
    return sent["data"]["result"]


def assert_no_counts(bench: Bench) -> None:
    assert not [name for name in Counts._fields if getattr(bench.session.counters, name)]


class TestOffers:
    def test_each_prepared_type_has_one_besides_those_of_the_slots(self) -> None:
        bench = Bench(capacity=2, prepared={"p": PREPARED, "q": PREPARED})
        assert bench.connect(0.5) == [
            m.TaskOffer("a1", "t", 12_500),
            m.TaskOffer("a2", "t", 12_500),
            m.TaskOffer("a3", "p", 12_500),
            m.TaskOffer("a4", "q", 12_500),
        ]
        assert bench.offers() == ["a1", "a2"]

    def test_none_is_made_before_the_registration(self) -> None:
        bench = Bench(prepared={"p": PREPARED})
        bench.do(connected())
        bench.do(m.InfoRequest())
        assert bench.do(TypesChanged({}, {"p": PREPARED, "q": PREPARED}, ())) == []
        assert of(m.TaskOffer, bench.do(m.RunnerRegistered())) == [
            m.TaskOffer("a1", "p", 10_000),
            m.TaskOffer("a2", "q", 10_000),
        ]

    def test_one_is_replaced_when_it_lapses(self) -> None:
        bench = offering(types={})
        assert of(m.TaskOffer, bench.pass_time(9.999)) == []
        assert of(m.TaskOffer, bench.pass_time(0.001)) == [m.TaskOffer("a2", "p", 10_000)]
        # The broker's clock may be a little behind.
        bench.now += 0.9
        assert bench.do(m.TaskOfferAccept("a1", "asked")) == [m.TaskAccepted("asked")]
        bench.now += 0.1
        assert bench.do(m.TaskOfferAccept("a1", "late"))[0] == m.TaskRejected("late", REASON_EXPIRED)

    def test_the_link_wakes_up_for_one_that_lapses(self) -> None:
        bench = offering(0.2, types={})
        assert of(m.TaskOffer, bench.pass_time(11)) == [m.TaskOffer("a2", "p", 11_000)]

    def test_one_is_replaced_when_it_is_accepted(self) -> None:
        bench = offering()
        assert bench.do(m.TaskOfferAccept(offer_of(bench), "asked")) == [
            m.TaskAccepted("asked"),
            m.TaskOffer("a4", "p", 10_000),
        ]

    def test_a_type_that_is_added_while_the_link_is_registered_is_offered(self) -> None:
        bench = Bench(types={})
        bench.connect()
        assert bench.do(TypesChanged({}, {"p": PREPARED}, ())) == [m.TaskOffer("a1", "p", 10_000)]

    def test_a_type_that_is_gone_is_not_served(self) -> None:
        bench = offering()
        offer_id = offer_of(bench)
        bench.do(TypesChanged({"t": None}, {}, ()))
        assert bench.do(m.TaskOfferAccept(offer_id, "asked"))[0] == m.TaskRejected("asked", REASON_EXPIRED)

    def test_a_type_with_a_handler_belongs_to_it(self) -> None:
        bench = Bench(capacity=1, types={"p": None}, prepared={"p": PREPARED})
        assert bench.connect() == [m.TaskOffer("a1", "p", 10_000)]
        assert bench.start() in bench.session.tasks.running
        # It is answered at once as soon as the handler is gone.
        assert bench.do(TypesChanged({}, {"p": PREPARED}, ())) == [m.TaskOffer("a2", "p", 10_000)]

    def test_the_slots_do_not_know_them(self) -> None:
        slots = Slots(1, brokers=2)
        bench, other = offering(slots=slots), Bench(slots=slots, link="b")
        other.connect()
        assert set(slots.links["a"]) == {"t"}
        for number in range(3):
            assert ask(bench, f"asked{number}") == RUNNING
        assert (slots.taken, slots.reserved, list(slots.waiting)) == (0, 0, [])


class TestAnswers:
    def test_the_answer_is_the_prepared_text(self) -> None:
        bench = offering()
        accept(bench)
        text = '{"type":"runner:taskdone","taskId":"asked","data":{"result":{"state": "running"}}}'
        assert bench.do(m.TaskSettings("asked", {"what": "ever"})) == [SendPayload(text.encode())]

    def test_a_text_in_any_language_is_sent_as_utf_8(self) -> None:
        bench = offering()
        bench.do(TypesChanged({"t": None}, {"p": Prepared('"Grüße"', '"\\ud83d"')}, ()))
        assert ask(bench) == "Grüße"

    def test_an_answer_needs_no_slot(self) -> None:
        bench = offering(capacity=1)
        bench.start()
        assert bench.slots.taken == 1
        assert ask(bench) == RUNNING
        assert bench.slots.taken == 1

    def test_an_answer_needs_no_executor(self) -> None:
        bench = offering()
        bench.do(OfferingChanged(False))
        assert bench.offers() == []
        assert ask(bench) == RUNNING
        bench.pass_time(10)
        assert ask(bench, "again") == RUNNING

    def test_an_answer_counts_for_nothing(self) -> None:
        bench = offering()
        idle_since = bench.slots.idle_since
        assert idle_since is not None
        bench.now += 5
        accept(bench)
        assert bench.held_tasks == 0
        assert bench.slots.idle_since == idle_since
        bench.do(m.TaskSettings("asked", {}))
        assert_no_counts(bench)
        assert list(bench.session.receipts.results) == []
        assert bench.slots.idle_since == idle_since
        assert of(SendPing, bench.pass_time(1)) == []
        assert bench.lose(0) == []

    def test_a_later_result_has_its_place_among_the_messages(self) -> None:
        bench = offering(capacity=1)
        task_id = bench.start()
        assert ask(bench) == RUNNING
        bench.finish(task_id)
        (sent,) = bench.session.receipts.results
        # The runner's info, two first offers, two acceptances, an offer, the answer, and the result.
        assert sent.ordinal == 8

    def test_settings_that_are_too_large_to_be_read_do_not_matter(self) -> None:
        bench = offering()
        accept(bench)
        assert answer_of(bench.do(skipped("broker:tasksettings", "asked"))) == RUNNING
        assert_no_counts(bench)

    def test_a_task_is_answered_once(self) -> None:
        bench = offering()
        assert ask(bench) == RUNNING
        assert bench.do(m.TaskSettings("asked", {})) == []

    def test_a_repeated_acceptance_is_ignored(self) -> None:
        bench = offering()
        offer_id = offer_of(bench)
        accept(bench)
        assert bench.do(m.TaskOfferAccept(offer_id, "asked")) == []
        assert bench.do(m.TaskOfferAccept(offer_of(bench), "asked")) == []
        assert answer_of(bench.do(m.TaskSettings("asked", {}))) == RUNNING

    def test_an_acceptance_that_is_served_needs_no_expired_offer(self) -> None:
        bench = offering()
        sent = bench.do(m.TaskOfferAccept(offer_of(bench), "asked"))
        assert [offer.valid_for for offer in of(m.TaskOffer, sent)] == [10_000]

    def test_several_tasks_wait_at_the_same_time(self) -> None:
        bench = Bench(prepared={"p": PREPARED, "q": Prepared('"q"', '"q"')})
        bench.connect()
        accept(bench, "first")
        accept(bench, "second", "q")
        accept(bench, "third")
        assert answer_of(bench.do(m.TaskSettings("second", {})), "second") == "q"
        assert answer_of(bench.do(m.TaskSettings("third", {})), "third") == RUNNING
        assert answer_of(bench.do(m.TaskSettings("first", {})), "first") == RUNNING


class TestWithoutSettings:
    def test_a_task_fails_after_a_time(self) -> None:
        bench = offering()
        accept(bench)
        assert of(m.TaskFailed, bench.pass_time(SETTINGS_TIMEOUT - 0.01)) == []
        message = "n8n sent no settings within 30 seconds"
        assert of(m.TaskFailed, bench.pass_time(0.01)) == [m.TaskFailed("asked", {"message": message})]
        assert bench.do(m.TaskSettings("asked", {})) == []
        assert_no_counts(bench)

    def test_a_cancelled_task_is_forgotten(self) -> None:
        bench = offering()
        accept(bench)
        assert bench.do(m.TaskCancel("asked", "why")) == []
        assert bench.do(m.TaskSettings("asked", {})) == []
        assert of(m.TaskFailed, bench.pass_time(SETTINGS_TIMEOUT)) == []
        assert_no_counts(bench)

    def test_a_lost_connection_forgets_tasks_and_offers(self) -> None:
        bench = offering()
        accept(bench)
        offer_id = offer_of(bench)
        assert bench.lose() == []
        assert bench.connect()[-1] == m.TaskOffer("a7", "p", 10_000)
        assert bench.do(m.TaskSettings("asked", {})) == []
        assert bench.do(m.TaskOfferAccept(offer_id, "x"))[0] == m.TaskRejected("x", REASON_EXPIRED)

    def test_a_peer_that_accepts_without_end_is_not_served_without_end(self) -> None:
        bench = offering()
        for number in range(ACCEPTED_LIMIT):
            accept(bench, f"asked{number}")
            bench.now += 0.1
        assert bench.prepared_offers() == {}
        assert len(bench.session.prepared.accepted) == ACCEPTED_LIMIT
        assert answer_of(bench.do(m.TaskSettings("asked7", {})), "asked7") == RUNNING
        assert ask(bench, "again") == RUNNING
        assert of(m.TaskFailed, bench.pass_time(SETTINGS_TIMEOUT))
        assert bench.session.prepared.accepted == {}
        assert ask(bench, "last") == RUNNING

    def test_the_open_offers_of_other_types_can_be_accepted_then(self) -> None:
        bench = Bench(prepared={"p": PREPARED, "q": PREPARED})
        bench.connect()
        for number in range(ACCEPTED_LIMIT):
            accept(bench, f"asked{number}")
        assert list(bench.prepared_offers()) == ["q"]
        assert ask(bench, "other", "q") == RUNNING
        assert bench.prepared_offers() == {}


class TestStopping:
    def test_answers_go_on_while_tasks_finish(self) -> None:
        bench = offering(capacity=2)
        task_id = bench.start()
        accept(bench)
        assert bench.do(StopRequested(bench.now + 60)) == []
        assert answer_of(bench.do(m.TaskSettings("asked", {}))) == STOPPING
        assert ask(bench, "again") == STOPPING
        assert of(m.TaskOffer, bench.pass_time(10)) == [m.TaskOffer("a6", "p", 10_000)]
        assert ask(bench, "once more") == STOPPING
        assert bench.do(m.TaskOfferAccept("a2", "x"))[0] == m.TaskRejected("x", REASON_STOPPING)
        assert bench.finish(task_id)[-1] == CloseConnection("the runner stops")

    def test_a_stop_waits_for_no_answer(self) -> None:
        bench = offering()
        accept(bench)
        assert bench.do(StopRequested(bench.now + 60)) == [CloseConnection("the runner stops")]
        offer_id = offer_of(bench)
        assert bench.do(m.TaskSettings("asked", {}), m.TaskOfferAccept(offer_id, "x")) == []
        assert bench.pass_time(100) == []

    def test_nothing_follows_the_close_frame(self) -> None:
        bench = offering(capacity=1)
        bench.start()
        bench.do(StopRequested(bench.now + 10))
        sent = bench.pass_time(10)  # the grace period and the offer end at the same moment
        assert sent[-1] == CloseConnection("the runner stops")


class TestDraining:
    """After `broker:drain`, no offer is made, because the broker is about to end."""

    def test_offers_end_and_accepted_tasks_are_answered(self) -> None:
        bench = offering()
        accept(bench)
        offer_id = offer_of(bench)
        assert bench.do(m.Drain()) == []
        assert bench.do(m.TaskOfferAccept(offer_id, "x")) == [m.TaskRejected("x", REASON_STOPPING)]
        assert answer_of(bench.do(m.TaskSettings("asked", {}))) == RUNNING
        assert of(m.TaskOffer, bench.pass_time(20)) == []

    def test_a_drain_waits_for_no_answer(self) -> None:
        bench = offering()
        bench.do(m.Drain())
        end = bench.now + DRAIN_LIMIT
        while bench.now < end - 5:
            bench.pass_time(5)
            bench.session.note_received(bench.now)
        bench.do(m.TaskOfferAccept("unknown", "x"))
        assert of(CloseConnection, bench.pass_time(5))

    @pytest.mark.parametrize("first", ["stop", "drain"])
    def test_offers_end_if_the_runner_stops_too(self, first: str) -> None:
        bench = offering(capacity=1)
        task_id = bench.start()
        accept(bench)
        events = [StopRequested(bench.now + 60), m.Drain()]
        bench.do(*(events if first == "stop" else reversed(events)))
        assert bench.session.state is SessionState.DRAINING
        assert bench.prepared_offers() == {}
        assert answer_of(bench.do(m.TaskSettings("asked", {}))) == STOPPING
        assert of(m.TaskOffer, bench.pass_time(20)) == []
        assert bench.finish(task_id)[-1] == CloseConnection("the runner stops")

    def test_a_second_drain_has_no_effect(self) -> None:
        bench = offering()
        bench.do(m.Drain())
        bench.now += 5
        bench.do(m.Drain())
        assert bench.session._drain_until == bench.now - 5 + DRAIN_LIMIT

    def test_the_next_connection_offers(self) -> None:
        bench = offering()
        bench.do(m.Drain())
        bench.lose()
        assert [offer.task_type for offer in bench.connect()] == ["t", "t", "p"]


class TestMissedAcceptances:
    def test_offers_that_the_broker_has_dropped_are_replaced(self) -> None:
        bench = offering(capacity=1)
        accept(bench)
        assert bench.do(m.TaskCancel("asked", REASON_WINDOW)) == [
            m.TaskOffer("a4", "t", 10_000),
            m.TaskOffer("a5", "p", 10_000),
        ]
        assert bench.do(m.TaskSettings("asked", {})) == []

    def test_no_offer_is_made_while_a_large_message_is_sent(self) -> None:
        bench = offering()
        bench.session.set_congested(True)
        assert without(PING, bench.pass_time(12)) == []
        assert bench.prepared_offers() == {}
        bench.session.set_congested(False)
        assert m.TaskOffer("a6", "p", 10_000) in bench.settle()

    def test_an_answer_to_an_acceptance_waits_for_a_large_message(self) -> None:
        bench = offering()
        bench.session.set_congested(True)
        assert bench.do(m.TaskOfferAccept(offer_of(bench), "asked")) == []
        bench.now += 1
        bench.session.set_congested(False)
        assert bench.settle() == [m.TaskAccepted("asked"), m.TaskOffer("a4", "p", 10_000)]
        assert answer_of(bench.do(m.TaskSettings("asked", {}))) == RUNNING

    def test_an_acceptance_that_cannot_be_sent_in_its_window_is_dropped(self) -> None:
        bench = offering(capacity=1)
        bench.session.set_congested(True)
        bench.do(m.TaskOfferAccept(offer_of(bench), "asked"))
        assert bench.pass_time(ACCEPT_WINDOW) == []
        assert bench.offers() == []
        assert bench.do(m.TaskSettings("asked", {})) == []
        bench.session.set_congested(False)
        assert without(PING, bench.settle()) == [
            m.TaskOffer("a3", "t", 10_000),
            m.TaskOffer("a4", "p", 10_000),
        ]
        assert_no_counts(bench)


class TestKeepAlive:
    """An open offer of any type is enough for n8n 2.40, but only the slots' offers count here."""

    def full(self, jitter: float = 0.0) -> Bench:
        """A link whose only slot is another link's."""
        slots = Slots(1, brokers=2)
        other = Bench(slots=slots, link="b")
        other.connect()
        other.accept()
        return offering(jitter, slots=slots)

    def test_a_full_link_sends_its_expired_offers_besides(self) -> None:
        assert self.full().pass_time(KEEP_ALIVE) == [m.TaskOffer("a2", "t", 0)]

    @pytest.mark.parametrize("is_read", [True, False])
    def test_an_answer_postpones_them(self, is_read: bool) -> None:
        bench = self.full()
        accept(bench)
        bench.now += 1
        settings = m.TaskSettings("asked", {}) if is_read else skipped("broker:tasksettings", "asked")
        assert answer_of(bench.do(settings)) == RUNNING
        assert of(m.TaskOffer, bench.pass_time(KEEP_ALIVE - 0.01)) == []
        assert of(m.TaskOffer, bench.pass_time(0.01)) == [m.TaskOffer("a3", "t", 0)]

    def test_an_error_for_want_of_settings_postpones_them(self) -> None:
        bench = self.full(jitter=0.5)  # no offer lapses together with the task
        accept(bench)
        bench.pass_time(SETTINGS_TIMEOUT - 1)
        assert of(m.TaskFailed, bench.pass_time(1))
        assert of(m.TaskOffer, bench.pass_time(KEEP_ALIVE - 0.01)) == []
        assert [offer.valid_for for offer in of(m.TaskOffer, bench.pass_time(0.01))] == [0]

    def test_a_link_with_prepared_types_alone_always_has_an_open_offer(self) -> None:
        bench = offering(types={})
        for number in range(30):
            bench.pass_time(1)
            assert len(bench.prepared_offers()) == 1
            assert ask(bench, f"asked{number}") == RUNNING


def test_answers_wake_no_other_link() -> None:
    slots = Slots(1, brokers=2)
    bench, other = offering(slots=slots), Bench(slots=slots, link="b")
    other.connect()
    accept(bench)
    assert of(WakeLinks, bench.do(m.TaskSettings("asked", {}))) == []
