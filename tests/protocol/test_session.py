"""A link's session, stepped by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from n8nrunner.protocol import liveness
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
    Connected,
    Disconnected,
    HandlerFinished,
    OfferingChanged,
    OversizedMessage,
    Pong,
    SlotFreed,
    StopRequested,
    TypesChanged,
    UnreadableMessage,
)
from n8nrunner.protocol.offers import (
    KEEP_ALIVE,
    OFFER_HONOUR,
    OFFER_JITTER,
    OFFER_VALIDITY,
    REASON_EXPIRED,
    REASON_FULL,
)
from n8nrunner.protocol.receipts import PING_REPEAT, PING_SPACING, UNCONFIRMED_LIMIT
from n8nrunner.protocol.session import (
    ACCEPT_WINDOW,
    BACKLOG_LIMIT,
    DELAYED_LIMIT,
    DRAIN_LIMIT,
    HANDSHAKE_TIMEOUT,
    ID_LIMIT,
    LIVENESS_PING,
    REASON_LOST,
    REASON_STOPPED,
    REASON_STOPPING,
    REASON_WINDOW,
)
from n8nrunner.protocol.slots import TURN, Slots
from n8nrunner.protocol.states import State
from n8nrunner.protocol.tasks import SETTINGS_TIMEOUT, timeout_message
from tests.protocol.bench import START, Bench, of, without

PING = (SendPing, SendUrgentPing, MeasureSocket)


def account(bench: Bench, **counts: int) -> None:
    """The counters are these, and all others are 0."""
    counters = bench.session.counters
    assert {name: getattr(counters, name) for name in counters.__slots__ if getattr(counters, name)} == counts


class TestTheTimesAreThoseOfTheProtocol:
    def test_they_fit_n8ns(self) -> None:
        assert OFFER_VALIDITY == 10
        assert OFFER_JITTER == 5
        assert OFFER_HONOUR == 1
        assert ACCEPT_WINDOW < 2, "n8n waits two seconds for an answer to its acceptance"
        assert 10 <= SETTINGS_TIMEOUT <= 30
        assert KEEP_ALIVE < 2, (
            "n8n 2.40 closes a runner that was silent for two seconds while requests expired"
        )
        assert REASON_WINDOW == "Acknowledgement window elapsed"
        assert REASON_EXPIRED == "Offer expired - not accepted within validity window"
        assert REASON_FULL == "No open task slots - runner already at capacity"
        assert REASON_STOPPING == "Runner is shutting down"

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [
            (300.0, "Task execution timed out after 300 seconds"),
            (1, "Task execution timed out after 1 second"),
            (1.0, "Task execution timed out after 1 second"),
            (0.5, "Task execution timed out after 0.5 seconds"),
        ],
    )
    def test_n8ns_own_sentence_for_a_timeout(self, seconds: float, text: str) -> None:
        assert timeout_message(seconds) == text


class TestConnecting:
    def test_from_the_connection_to_the_offers(self) -> None:
        bench = Bench(capacity=2, types={"t": None})
        session = bench.session
        assert session.state is State.DISCONNECTED
        assert session.next_deadline() is None
        assert not session.is_registered
        assert bench.do(Connected(0.0)) == []
        assert session.generation == 1
        assert session.state is State.AWAITING_INFO_REQUEST
        assert bench.do(m.InfoRequest()) == [m.RunnerInfo("name", ("t",))]
        assert session.state is State.AWAITING_REGISTRATION
        assert not session.is_registered
        assert bench.do(m.RunnerRegistered()) == [
            m.TaskOffer("a1", "t", 10_000),
            m.TaskOffer("a2", "t", 10_000),
        ]
        assert session.state is State.OFFERING
        assert session.is_registered
        assert not session.is_stopping

    def test_types_are_named_even_if_there_are_none(self) -> None:
        bench = Bench(types={})
        bench.do(Connected(0.0))
        assert bench.do(m.InfoRequest()) == [m.RunnerInfo("name", ())]
        assert bench.do(m.RunnerRegistered()) == []
        # Nothing to offer, and nothing to say either: n8n counts silence only against runners of a type.
        assert without(PING, bench.pass_time(30)) == []
        assert bench.do(m.TaskOfferAccept("nonsense", "x")) == [m.TaskRejected("x", REASON_EXPIRED)]

    @pytest.mark.parametrize(
        ("jitter", "milliseconds"), [(0.0, 10_000), (0.5, 12_500), (0.123456, 10_617), (0.999999, 14_999)]
    )
    def test_how_long_offers_are_valid_differs_between_connections(
        self, jitter: float, milliseconds: int
    ) -> None:
        offer = Bench(capacity=1).connect(jitter)[0]
        assert offer.valid_for == milliseconds
        assert type(offer.valid_for) is int

    def test_the_greeting_has_a_time_limit(self) -> None:
        bench = Bench()
        bench.do(Connected(0.0))
        assert bench.session.next_deadline() == START + HANDSHAKE_TIMEOUT
        assert bench.pass_time(HANDSHAKE_TIMEOUT - 0.01) == []
        assert bench.pass_time(0.01) == [
            CloseConnection(1000, "the broker did not send its greeting within 10 s")
        ]
        assert bench.session.next_deadline() is None
        assert bench.pass_time(100) == []
        # What comes too late begins nothing.
        assert bench.do(m.InfoRequest(), m.RunnerRegistered()) == []
        bench.lose()
        assert bench.session.state is State.DISCONNECTED

    def test_the_registration_has_a_time_limit_of_its_own(self) -> None:
        bench = Bench()
        bench.do(Connected(0.0))
        bench.pass_time(9)
        bench.do(m.InfoRequest())
        assert bench.session.next_deadline() == START + 9 + HANDSHAKE_TIMEOUT
        assert of(CloseConnection, bench.pass_time(9.99)) == []
        closing = CloseConnection(1000, "the broker did not send the registration within 10 s")
        assert bench.pass_time(0.01)[-1] == closing
        assert bench.do(m.RunnerRegistered()) == []
        assert not bench.session.is_registered
        assert bench.offers() == []

    def test_once_registered_there_is_no_such_limit(self) -> None:
        bench = Bench()
        bench.connect()
        assert of(CloseConnection, bench.pass_time(HANDSHAKE_TIMEOUT * 2)) == []

    def test_the_next_connection_begins_afresh(self) -> None:
        bench = Bench(capacity=2)
        bench.connect(0.9)
        bench.do(m.Drain())
        bench.session.set_receiving(True)
        bench.session.set_congested(True)
        bench.lose()
        assert bench.session.state is State.DISCONNECTED
        assert bench.session.next_deadline() is None
        bench.pass_time(500)
        assert bench.connect(0.0) == [m.TaskOffer("a3", "t", 10_000), m.TaskOffer("a4", "t", 10_000)]
        assert bench.session.generation == 2
        assert of(CloseConnection, bench.pass_time(liveness.SILENCE_LIMIT - 1)) == []

    def test_lost_before_the_registration(self) -> None:
        bench = Bench()
        bench.do(Connected(0.0))
        assert bench.lose() == []
        assert bench.session.state is State.DISCONNECTED
        assert bench.session.next_deadline() is None
        bench.do(Connected(0.0), m.InfoRequest())
        assert bench.lose() == []
        assert bench.connect()

    def test_a_close_that_ended_a_connection_does_not_end_the_next_one(self) -> None:
        bench = Bench()
        bench.do(Connected(0.0))
        bench.pass_time(HANDSHAKE_TIMEOUT)
        bench.lose()
        assert bench.connect() != []
        assert bench.session.is_registered


class TestOffers:
    def test_a_task_leaves_the_others_open_and_its_end_is_a_new_offer(self) -> None:
        bench = Bench(capacity=2)
        bench.connect()
        task_id = bench.start()
        assert bench.offers() == ["a2"]
        actions = bench.finish(task_id)
        assert without(PING, actions) == [SendPayload(b"answer"), m.TaskOffer("a3", "t", 10_000)]
        assert bench.offers() == ["a2", "a3"]

    def test_they_are_replaced_when_they_lapse_and_not_before(self) -> None:
        bench = Bench(capacity=3)
        bench.connect(0.5)
        assert of(m.TaskOffer, bench.pass_time(12.49)) == []
        assert bench.offers() == ["a1", "a2", "a3"]
        assert bench.session.next_deadline() == START + 12.5
        bench.now = START + 12.5
        assert of(m.TaskOffer, bench.settle()) == [m.TaskOffer(f"a{n}", "t", 12_500) for n in (4, 5, 6)]
        assert bench.offers() == ["a4", "a5", "a6"]

    def test_only_those_that_lapse_are_replaced(self) -> None:
        bench = Bench(capacity=2)
        bench.connect()
        bench.now += 4
        bench.finish(bench.start())
        assert bench.offers() == ["a2", "a3"]
        bench.now = START + 10
        assert of(m.TaskOffer, bench.settle()) == [m.TaskOffer("a4", "t", 10_000)]
        assert bench.offers() == ["a3", "a4"]
        assert of(m.TaskOffer, bench.pass_time(4)) == [m.TaskOffer("a5", "t", 10_000)]

    def test_a_lapsed_offer_is_honoured_for_a_second(self) -> None:
        bench = Bench(capacity=1)
        bench.connect()
        bench.pass_time(10)
        assert bench.offers() == ["a2"]
        bench.now = START + 10 + OFFER_HONOUR - 0.001
        assert without(PING, bench.do(m.TaskOfferAccept("a1", "x"))) == [m.TaskAccepted("x")]
        account(bench, accepted=1)

    def test_but_no_longer(self) -> None:
        bench = Bench(capacity=1)
        bench.connect()
        bench.pass_time(10)
        bench.now = START + 10 + OFFER_HONOUR
        assert bench.do(m.TaskOfferAccept("a1", "x"))[0] == m.TaskRejected("x", REASON_EXPIRED)
        assert bench.slots.taken == 0
        account(bench, rejected=1)

    def test_lapsed_offers_are_forgotten_in_time(self) -> None:
        bench = Bench(capacity=2)
        bench.connect()
        bench.pass_time(10)
        assert list(bench.session.describe().lapsed) == ["a1", "a2"]
        bench.pass_time(OFFER_HONOUR + 8)
        assert list(bench.session.describe().lapsed) == []

    def test_a_lapsed_offer_is_honoured_once(self) -> None:
        bench = Bench(capacity=2)
        bench.connect()
        bench.pass_time(10)
        assert bench.do(m.TaskOfferAccept("a1", "x"))[0] == m.TaskAccepted("x")
        assert bench.do(m.TaskOfferAccept("a1", "y"))[0] == m.TaskRejected("y", REASON_EXPIRED)

    def test_a_lapsed_offer_for_which_there_is_no_slot_has_expired(self) -> None:
        bench = Bench(capacity=1)
        bench.connect()
        bench.pass_time(10)
        assert bench.do(m.TaskOfferAccept("a2", "x"))[0] == m.TaskAccepted("x")
        assert bench.do(m.TaskOfferAccept("a1", "y"))[0] == m.TaskRejected("y", REASON_EXPIRED)
        account(bench, accepted=1, rejected=1)

    def test_an_offer_that_is_late_by_our_clock_but_was_not_settled_yet_is_open(self) -> None:
        bench = Bench(capacity=1)
        bench.connect()
        bench.now += 10.5
        assert bench.handle(m.TaskOfferAccept("a1", "x")) == [m.TaskAccepted("x")]

    def test_an_acceptance_that_finds_no_slot_is_refused_and_offered_next(self) -> None:
        bench = Bench(capacity=1, brokers=2)
        other = Bench(slots=bench.slots, link="b")
        bench.connect()
        other.connect()
        running = other.start()
        assert bench.do(m.TaskOfferAccept("a1", "x"))[0] == m.TaskRejected("x", REASON_FULL)
        account(bench, rejected=1)
        assert bench.slots.release("t", bench.now) == {"a"}
        assert bench.do(SlotFreed()) == [m.TaskOffer("a3", "t", 10_000)]
        assert other.do(HandlerFinished(running, 1, b"", False))[0] == SendPayload(b"")
        assert other.offers() == []
        assert bench.do(m.TaskOfferAccept("a3", "x")) == [m.TaskAccepted("x")]

    def test_an_unknown_offer_is_refused(self) -> None:
        bench = Bench()
        bench.connect()
        assert bench.do(m.TaskOfferAccept("nonsense", "x"))[0] == m.TaskRejected("x", REASON_EXPIRED)
        account(bench, rejected=1)

    def test_after_a_refusal_something_is_sent_that_makes_n8n_match_again(self) -> None:
        """n8n 2.27 leaves a refused request alone until it gets an offer, whatever offers it has."""
        bench = Bench(capacity=2)
        bench.connect()
        refused = m.TaskRejected("x", REASON_EXPIRED)
        assert bench.do(m.TaskOfferAccept("nonsense", "x")) == [refused, m.TaskOffer("a3", "t", 0)]
        assert bench.offers() == ["a1", "a2"]
        assert bench.do(SlotFreed()) == []  # once
        # A new offer does as well.
        task_id = bench.start()
        bench.slots.release("t", bench.now)
        finished = HandlerFinished(task_id, 1, b"", False)
        assert bench.do(m.TaskOfferAccept("nonsense", "x"), finished) == [
            refused,
            SendPayload(b""),
            m.TaskOffer("a4", "t", 10_000),
        ]
        # Without an open offer of ours, there may be one of another runner.
        bench.start()
        bench.start()
        assert bench.do(m.TaskOfferAccept("nonsense", "x")) == [refused, m.TaskOffer("a5", "t", 0)]

    def test_the_next_connection_has_refused_nothing(self) -> None:
        bench = Bench(capacity=1)
        bench.connect()
        bench.session.set_congested(True)
        bench.do(m.TaskOfferAccept("nonsense", "x"))
        bench.lose()
        assert [offer.valid_for for offer in bench.connect()] == [10_000]
        assert bench.do(SlotFreed()) == []

    def test_an_acceptance_while_draining_is_refused_and_that_is_all(self) -> None:
        bench = Bench(capacity=1)
        bench.connect()
        bench.do(m.Drain())
        refused = m.TaskRejected("x", REASON_STOPPING)
        assert bench.do(m.TaskOfferAccept("a1", "x")) == [refused]
        bench.session.set_congested(True)
        assert bench.do(m.TaskOfferAccept("a1", "y")) == []
        bench.now += ACCEPT_WINDOW - 0.1
        bench.session.set_congested(False)
        assert bench.settle() == [m.TaskRejected("y", REASON_STOPPING)]

    def test_lapsed_offers_are_honoured_each_for_its_own_second(self) -> None:
        bench = Bench(capacity=2)
        bench.connect()
        bench.now += 0.5
        bench.finish(bench.start())
        assert bench.offers() == ["a2", "a3"]
        bench.pass_time(10.6)
        # Of the two, which lapsed half a second apart, one is forgotten.
        assert list(bench.session.describe().lapsed) == ["a3"]
        assert bench.do(m.TaskOfferAccept("a2", "x"))[0] == m.TaskRejected("x", REASON_EXPIRED)
        assert bench.do(m.TaskOfferAccept("a3", "y"))[0] == m.TaskAccepted("y")

    def test_an_acceptance_is_answered_once(self) -> None:
        bench = Bench()
        bench.connect()
        assert bench.do(m.TaskOfferAccept("a1", "x")) == [m.TaskAccepted("x")]
        assert bench.do(m.TaskOfferAccept("a1", "x")) == []
        assert bench.do(m.TaskOfferAccept("a2", "x")) == []
        bench.do(m.TaskSettings("x", 1))
        assert bench.do(m.TaskOfferAccept("a2", "x")) == []
        assert bench.offers() == ["a2"]
        assert bench.slots.taken == 1

    def test_every_type_is_offered(self) -> None:
        bench = Bench(capacity=2, types={"t": None, "u": 1})
        assert bench.connect() == [m.TaskOffer("a1", "t", 10_000), m.TaskOffer("a2", "u", 10_000)]
        assert bench.do(m.TaskOfferAccept("a2", "x")) == [m.TaskAccepted("x")]
        assert bench.do(m.TaskSettings("x", 0))[0].task_type == "u"

    def test_offers_of_several_types_lapse_each_for_its_own(self) -> None:
        bench = Bench(capacity=2, types={"t": None, "u": None})
        bench.connect()
        assert of(m.TaskOffer, bench.pass_time(10)) == [
            m.TaskOffer("a3", "t", 10_000),
            m.TaskOffer("a4", "u", 10_000),
        ]
        assert bench.do(m.TaskOfferAccept("a2", "x"))[0] == m.TaskAccepted("x")
        assert bench.do(m.TaskSettings("x", 0))[0].task_type == "u"

    def test_a_handler_that_is_registered_later_is_offered_at_once(self) -> None:
        bench = Bench(capacity=3)
        bench.connect()
        assert bench.do(TypesChanged({"t": None, "u": None})) == [m.TaskOffer("a4", "u", 10_000)]
        assert bench.do(TypesChanged({"t": None, "u": None})) == []
        bench.lose()
        bench.do(Connected(0.0))
        assert bench.do(m.InfoRequest()) == [m.RunnerInfo("name", ("t", "u"))]

    def test_a_handler_that_is_registered_during_the_handshake_is_offered_after_it(self) -> None:
        bench = Bench(capacity=1)
        bench.do(TypesChanged({"t": None, "u": None}))
        bench.do(Connected(0.0))
        assert bench.do(m.InfoRequest()) == [m.RunnerInfo("name", ("t", "u"))]
        bench.do(TypesChanged({"t": None, "u": None, "v": None}))
        assert [offer.task_type for offer in bench.do(m.RunnerRegistered())] == ["t", "u", "v"]

    def test_a_changed_limit_counts_from_then_on(self) -> None:
        bench = Bench(capacity=3, types={"t": 1})
        assert len(bench.connect()) == 1
        assert len(bench.do(TypesChanged({"t": 2}))) == 1

    def test_the_types_given_are_not_kept_but_copied(self) -> None:
        types = {"t": None}
        bench = Bench(types=types)
        bench.types = {"t": None}
        types["u"] = None
        assert {offer.task_type for offer in bench.connect()} == {"t"}
        later = {"t": None, "u": None}
        bench.do(TypesChanged(later))
        later["v"] = None
        bench.lose()
        bench.do(Connected(0.0))
        assert bench.do(m.InfoRequest()) == [m.RunnerInfo("name", ("t", "u"))]


class TestOtherLinks:
    """Whose turn it is is said to the link, which wakes them."""

    def two(self, capacity: int = 1) -> list[Bench]:
        slots = Slots(capacity, brokers=2)
        return [Bench(slots=slots, link="a"), Bench(slots=slots, link="b")]

    def test_a_lost_link_wakes_those_who_can_offer_instead(self) -> None:
        a, b = self.two()
        a.connect()
        b.connect()
        a.accept()
        assert b.do(m.TaskOfferAccept("b1", "x"))[0] == m.TaskRejected("x", REASON_FULL)
        assert a.lose() == [WakeLinks(("b",))]
        assert b.do(SlotFreed()) == [m.TaskOffer("b3", "t", 10_000)]

    def test_so_does_one_that_drains_and_one_that_stops(self) -> None:
        for event in (m.Drain(), StopRequested(START + 10)):
            a, b = self.two()
            a.connect()
            b.connect()
            task_id = a.start()
            assert b.do(m.TaskOfferAccept("b1", "x"))[0] == m.TaskRejected("x", REASON_FULL)
            assert a.finish(task_id)[0] == SendPayload(b"answer")
            assert b.do(SlotFreed()) == [m.TaskOffer("b3", "t", 10_000)]
            b.accept()
            a.do(m.TaskOfferAccept("unknown", "y"))
            # The pair of `a` has waited; now it leaves, and nobody else waits.
            assert of(WakeLinks, a.do(event)) == []

    def test_promised_slots_of_a_leaving_link_are_passed_on(self) -> None:
        for event in (m.Drain(), StopRequested(START + 10), Disconnected(0)):
            slots = Slots(1, brokers=3)
            a, b, c = (Bench(slots=slots, link=name) for name in "abc")
            for bench in (a, b, c):
                bench.connect()
            c.accept()
            for bench in (a, b):
                bench.do(m.TaskOfferAccept(bench.offers()[0], "x"))
            slots.release("t", a.now)  # promised to `a`
            assert of(WakeLinks, a.do(event)) == [WakeLinks(("b",))]

    @pytest.mark.parametrize("end", ["cancel", "watchdog", "oversized", "held too long"])
    def test_a_slot_that_is_free_without_a_handler_is_said_at_once(self, end: str) -> None:
        a, b = self.two()
        a.connect()
        b.connect()
        if end == "held too long":
            a.session.set_congested(True)
            a.do(m.TaskOfferAccept("a1", "x"))
        else:
            a.do(m.TaskOfferAccept("a1", "x"))
        b.do(m.TaskOfferAccept("b1", "y"))
        assert a.slots.taken == 1
        if end == "cancel":
            actions = a.do(m.TaskCancel("x", "why"))
        elif end == "watchdog":
            actions = a.pass_time(SETTINGS_TIMEOUT - 1)
            a.session.note_received(a.now)
            actions = a.pass_time(1)
        elif end == "oversized":
            actions = a.do(OversizedMessage(m.Head("broker:tasksettings", "x", None, None, None), 2, 1))
        else:
            actions = a.pass_time(ACCEPT_WINDOW)
        assert WakeLinks(("b",)) in actions
        assert a.slots.taken == 0

    def test_a_turn_that_lapses_wakes_the_next(self) -> None:
        slots = Slots(1, brokers=3)
        a, b, c = (Bench(slots=slots, link=name) for name in "abc")
        for bench in (a, b, c):
            bench.connect()
        c.accept()
        for bench in (a, b):
            bench.do(m.TaskOfferAccept(bench.offers()[0], "x"))
        slots.release("t", a.now)
        assert a.do(SlotFreed()) == [m.TaskOffer("a3", "t", 10_000)]
        assert a.session.next_deadline() == START + TURN
        assert a.pass_time(TURN) == [WakeLinks(("b",))]

    def test_itself_it_need_not_wake(self) -> None:
        a, b = self.two(2)
        a.connect()
        b.connect()
        a.accept()
        a.accept()
        assert of(WakeLinks, a.do(m.TaskCancel("task1", "why"))) == []


class TestKeepAlive:
    """n8n 2.40 closes a runner that offers nothing, has no task, and says nothing while requests expire."""

    def full(self) -> Bench:
        """A link without a task or an offer, because the only slot is another's."""
        slots = Slots(1, brokers=2)
        other = Bench(slots=slots, link="b")
        other.connect()
        other.accept()
        bench = Bench(slots=slots, types={"t": None, "u": None})
        assert bench.connect() == []
        return bench

    def test_an_expired_offer_is_sent_again_and_again(self) -> None:
        bench = self.full()
        assert bench.pass_time(KEEP_ALIVE - 0.01) == []
        assert bench.pass_time(0.01) == [m.TaskOffer("a1", "t", 0)]
        assert bench.pass_time(3 * KEEP_ALIVE) == [m.TaskOffer(f"a{n}", "t", 0) for n in (2, 3, 4)]
        assert bench.offers() == []

    def test_whatever_else_is_sent_does_as_well(self) -> None:
        bench = self.full()
        bench.pass_time(1.0)
        assert bench.do(m.TaskOfferAccept("unknown", "x"))[0] == m.TaskRejected("x", REASON_EXPIRED)
        assert bench.pass_time(KEEP_ALIVE - 0.01) == []
        assert bench.pass_time(0.01) == [m.TaskOffer("a2", "t", 0)]

    def test_a_call_does_and_so_does_the_answer_to_an_acceptance_that_had_to_wait(self) -> None:
        bench = Bench(capacity=1)
        bench.connect()
        task_id = bench.start()
        bench.now += 1
        bench.call(task_id, "c")
        bench.do(m.TaskCancel(task_id, "why"))  # its handler still runs
        assert bench.session.next_deadline() == bench.now + KEEP_ALIVE
        slots = Slots(1, brokers=2)
        a, b = Bench(slots=slots, link="a"), Bench(slots=slots, link="b")
        a.connect()
        b.connect()
        a.session.set_congested(True)
        a.do(m.TaskOfferAccept("a1", "x"))
        b.do(m.TaskOfferAccept("b1", "y"))
        a.now += 1
        a.session.set_congested(False)
        assert a.settle() == [m.TaskAccepted("x")]
        assert a.do(m.TaskCancel("x", "why")) == [WakeLinks(("b",))]
        assert a.session.next_deadline() == a.now + KEEP_ALIVE

    def test_it_is_no_offer(self) -> None:
        bench = self.full()
        bench.pass_time(KEEP_ALIVE)
        assert bench.do(m.TaskOfferAccept("a1", "x"))[0] == m.TaskRejected("x", REASON_EXPIRED)

    @pytest.mark.parametrize("reason", ["an open offer", "an accepted task", "a running task"])
    def test_not_with(self, reason: str) -> None:
        bench = Bench(capacity=1)
        bench.connect()
        if reason == "an accepted task":
            bench.accept()
        elif reason == "a running task":
            bench.start()
        assert without(PING, bench.pass_time(9)) == []

    def test_not_while_a_large_answer_is_on_its_way(self) -> None:
        bench = self.full()
        bench.session.set_congested(True)
        assert without(PING, bench.pass_time(9)) == []
        bench.session.set_congested(False)
        assert without(PING, bench.settle()) == [m.TaskOffer("a1", "t", 0)]

    def test_not_while_draining(self) -> None:
        bench = self.full()
        bench.do(m.Drain())
        assert without(PING, bench.pass_time(9)) == []

    def test_nor_before_the_registration(self) -> None:
        bench = self.full()
        bench.lose()
        bench.do(Connected(0.0))
        assert bench.pass_time(9) == []


class TestTasks:
    """The rows of the table "How a task ends"."""

    def test_it_starts_with_its_settings(self) -> None:
        bench = Bench(capacity=1, task_timeout=60.0)
        bench.connect()
        task_id = bench.accept()
        assert bench.session.held_tasks == 1
        bench.now += 5
        settings = {"any": "settings"}
        (started,) = bench.do(m.TaskSettings(task_id, settings))
        assert started == StartTask(task_id, "t", 1, settings, bench.now + 60)
        assert started.settings is settings
        assert bench.do(m.TaskSettings(task_id, settings)) == []
        assert bench.session.held_tasks == 1

    @pytest.mark.parametrize("failed", [False, True])
    def test_it_returns_or_raises(self, failed: bool) -> None:
        bench = Bench(capacity=1)
        bench.connect()
        actions = bench.finish(bench.start(), b"the answer", failed)
        assert without(PING, actions) == [SendPayload(b"the answer"), m.TaskOffer("a2", "t", 10_000)]
        account(bench, accepted=1, **{"failed" if failed else "done": 1})
        assert bench.session.held_tasks == 0

    def test_its_answer_is_sent_once(self) -> None:
        bench = Bench()
        bench.connect()
        task_id = bench.start()
        bench.finish(task_id)
        assert without(PING, bench.do(HandlerFinished(task_id, 1, b"again", False))) == []
        account(bench, accepted=1, done=1)

    def test_the_broker_cancels_it(self) -> None:
        bench = Bench(capacity=1)
        bench.connect()
        task_id = bench.start()
        assert bench.do(m.TaskCancel(task_id, "Task cancelled by user")) == [
            CancelTask(task_id, "Task cancelled by user", False)
        ]
        # Its slot is free when the handler has returned, and nothing is sent for it.
        assert bench.slots.taken == 1
        assert bench.session.held_tasks == 0
        assert without(PING, bench.finish(task_id)) == [m.TaskOffer("a2", "t", 10_000)]
        assert bench.do(m.TaskCancel(task_id, "again")) == []
        account(bench, accepted=1, cancelled=1)

    def test_a_cancel_without_a_reason_has_one_for_the_handler(self) -> None:
        for reason in (None, 5, {}):
            bench = Bench()
            bench.connect()
            task_id = bench.start()
            assert bench.do(m.TaskCancel(task_id, reason)) == [  # type: ignore[arg-type]
                CancelTask(task_id, "The task was cancelled")
            ]

    def test_the_broker_cancels_it_before_its_settings(self) -> None:
        bench = Bench(capacity=1)
        bench.connect()
        task_id = bench.accept()
        assert bench.do(m.TaskCancel(task_id, "why")) == [m.TaskOffer("a2", "t", 10_000)]
        assert bench.slots.taken == 0
        assert bench.do(m.TaskSettings(task_id, {})) == []
        account(bench, accepted=1, cancelled=1)

    def test_a_cancel_for_a_task_that_never_was(self) -> None:
        bench = Bench()
        bench.connect()
        assert bench.do(m.TaskCancel("unknown", "why")) == []
        account(bench)

    def test_it_runs_into_our_time_limit(self) -> None:
        bench = Bench(capacity=1, task_timeout=7.0)
        bench.connect()
        task_id = bench.start()
        assert bench.session.next_deadline() == START + 7
        assert bench.pass_time(6.99) == []
        text = "Task execution timed out after 7 seconds"
        failed, cancel = bench.pass_time(0.01)
        assert failed == m.TaskFailed(
            task_id,
            {
                "message": text,
                "description": "The limit is the runner's own (N8N_RUNNERS_TASK_TIMEOUT where the runner was "
                "started).",
            },
        )
        assert cancel == CancelTask(task_id, text, True)
        assert bench.slots.taken == 1
        assert without(PING, bench.finish(task_id)) == [m.TaskOffer("a2", "t", 10_000)]
        account(bench, accepted=1, timed_out=1)

    def test_several_time_limits_in_their_order(self) -> None:
        bench = Bench(capacity=3, task_timeout=7.0)
        bench.connect()
        first = bench.start()
        bench.now += 2
        second = bench.start()
        bench.now += 1
        third = bench.start()
        assert of(CancelTask, bench.pass_time(4))[0].task_id == first
        assert [cancel.task_id for cancel in of(CancelTask, bench.pass_time(3))] == [second, third]
        account(bench, accepted=3, timed_out=3)

    def test_its_connection_is_lost(self) -> None:
        bench = Bench(capacity=1)
        bench.connect()
        task_id = bench.start()
        assert bench.lose() == [CancelTask(task_id, "The connection to n8n was lost", False)]
        assert bench.session.orphans == 1
        assert bench.slots.taken == 1
        # Its slot is not offered to anybody before the handler returns, and its result is reported.
        assert bench.connect() == []
        assert bench.do(CallMade(task_id, 1, "c", b"", "call"))[0].call == "call"
        bench.slots.release("t", bench.now)
        assert bench.do(HandlerFinished(task_id, 1, b"late", True)) == [
            ReportUndelivered(task_id, "t", b"late", True, True),
            m.TaskOffer("a2", "t", 10_000),
        ]
        assert bench.session.orphans == 0
        account(bench, accepted=1, lost=1, undelivered=1)

    def test_its_connection_is_lost_and_the_next_one_has_the_same_id(self) -> None:
        bench = Bench(capacity=2)
        bench.connect()
        bench.do(m.TaskOfferAccept("a1", "same"), m.TaskSettings("same", 1))
        bench.lose()
        bench.connect()
        bench.do(m.TaskOfferAccept(bench.offers()[0], "same"), m.TaskSettings("same", 2))
        assert bench.session.generation == 2
        bench.slots.release("t", bench.now)
        (report,) = of(ReportUndelivered, bench.do(HandlerFinished("same", 1, b"old", False)))
        assert report == ReportUndelivered("same", "t", b"old", False, True)
        bench.slots.release("t", bench.now)
        assert SendPayload(b"new") in bench.do(HandlerFinished("same", 2, b"new", False))
        account(bench, accepted=2, lost=1, undelivered=1, done=1)

    def test_a_result_that_returns_while_there_is_no_connection(self) -> None:
        bench = Bench()
        bench.connect()
        task_id = bench.start()
        bench.lose()
        assert bench.finish(task_id) == [ReportUndelivered(task_id, "t", b"answer", False, True)]
        assert bench.finish("other") == []

    def test_its_connection_is_lost_before_its_settings(self) -> None:
        bench = Bench(capacity=1)
        bench.connect()
        bench.accept()
        assert bench.lose() == []
        assert bench.slots.taken == 0
        assert bench.session.orphans == 0
        account(bench, accepted=1, lost=1)

    def test_its_settings_never_come(self) -> None:
        bench = Bench(capacity=1)
        bench.connect()
        task_id = bench.accept()
        bench.pass_time(SETTINGS_TIMEOUT - 0.01)
        assert bench.slots.taken == 1
        actions = bench.pass_time(0.01)
        assert without(PING, actions) == [
            m.TaskFailed(task_id, {"message": "n8n sent no settings within 30 seconds"}),
            m.TaskOffer("a2", "t", 10_000),
        ]
        assert bench.do(m.TaskSettings(task_id, {})) == []
        account(bench, accepted=1, failed=1)

    def test_its_settings_never_come_while_others_run(self) -> None:
        bench = Bench(capacity=2)
        bench.connect()
        running, waiting = bench.start(), bench.accept()
        actions = bench.pass_time(SETTINGS_TIMEOUT)
        assert [failed.task_id for failed in of(m.TaskFailed, actions)] == [waiting]
        assert list(bench.session.describe().running) == [running]

    def test_large_settings_are_on_their_way_to_one_of_several(self) -> None:
        bench = Bench(capacity=2)
        bench.connect()
        bench.accept()
        bench.accept()
        bench.session.set_receiving(True)
        assert of(m.TaskFailed, bench.pass_time(SETTINGS_TIMEOUT)) == []
        assert bench.session.held_tasks == 2

    def test_its_settings_are_on_their_way(self) -> None:
        bench = Bench(capacity=3)
        bench.connect()
        first = bench.accept()
        bench.now += 1
        second = bench.accept()
        bench.session.set_receiving(True)
        bench.pass_time(SETTINGS_TIMEOUT - 2)
        bench.session.note_received(bench.now)
        bench.pass_time(5)
        assert bench.session.held_tasks == 2
        # When the large message has come, and was somebody else's, there is time once more.
        bench.session.set_receiving(False)
        assert bench.session.describe().accepted == {
            first: ("t", START + 2 * SETTINGS_TIMEOUT),
            second: ("t", START + 1 + 2 * SETTINGS_TIMEOUT),
        }
        bench.now = START + 2 * SETTINGS_TIMEOUT - 1
        bench.session.note_received(bench.now)
        assert of(m.TaskFailed, bench.pass_time(0.99)) == []
        assert [failed.task_id for failed in of(m.TaskFailed, bench.pass_time(0.01))] == [first]
        assert [failed.task_id for failed in of(m.TaskFailed, bench.pass_time(1))] == [second]

    def test_its_settings_are_too_large(self) -> None:
        bench = Bench(capacity=1)
        bench.connect()
        task_id = bench.accept()
        event = OversizedMessage(m.Head("broker:tasksettings", task_id, None, None, None), 2000, 1000)
        assert bench.do(event) == [
            m.TaskFailed(
                task_id,
                {
                    "message": "The task's input is too large for the runner",
                    "description": "It has 2000 bytes, and the runner takes 1000 (N8N_RUNNERS_MAX_PAYLOAD).",
                },
            ),
            m.TaskOffer("a2", "t", 10_000),
        ]
        assert bench.slots.taken == 0
        assert bench.do(event) == []
        account(bench, accepted=1, failed=1)

    def test_a_link_that_cannot_run_tasks_offers_nothing_and_rejects_what_comes(self) -> None:
        bench = Bench(capacity=2)
        bench.connect()
        offer = bench.offers()[0]
        running = bench.start()
        assert of(m.TaskOffer, bench.do(OfferingChanged(False))) == []
        assert m.TaskRejected("late", REASON_EXPIRED) in bench.do(m.TaskOfferAccept(offer, "late"))
        assert of(SendPayload, bench.finish(running))
        bench.do(TypesChanged({"t": None}))
        bench.do(Disconnected(0))
        bench.connect()
        assert bench.offers() == []
        assert bench.slots.taken == 0
        assert len(of(m.TaskOffer, bench.do(OfferingChanged(True)))) == 2

    def test_settings_that_cannot_be_decoded_fail_their_task_at_once(self) -> None:
        bench = Bench(capacity=1)
        bench.connect()
        task_id = bench.accept()
        event = UnreadableMessage(
            m.Head("broker:tasksettings", task_id, None, None, None), "It is nested too deeply."
        )
        assert bench.do(event) == [
            m.TaskFailed(
                task_id,
                {
                    "message": "The task's input cannot be read by the runner",
                    "description": "It is nested too deeply.",
                },
            ),
            m.TaskOffer("a2", "t", 10_000),
        ]
        assert bench.slots.taken == 0
        assert bench.do(event) == []
        account(bench, accepted=1, failed=1)

    @pytest.mark.parametrize("head", ["", "t", "broker:taskofferaccept", "broker:tasksettings"])
    def test_other_messages_that_cannot_be_decoded_change_nothing(self, head: str) -> None:
        bench = Bench()
        bench.connect()
        bench.start()
        assert (
            bench.do(UnreadableMessage(m.Head(head or None, None, None, None, None), "It is not JSON.")) == []
        )
        assert bench.session.held_tasks == 1

    def test_an_answer_that_cannot_be_decoded_ends_its_call(self) -> None:
        bench = Bench()
        bench.connect()
        task_id = bench.start()
        bench.call(task_id, "c")
        error = "the answer of n8n cannot be read by the runner. It is not JSON."
        for _ in range(2):
            actions = bench.do(
                UnreadableMessage(m.Head("broker:rpcresponse", task_id, "c", None, None), "It is not JSON.")
            )
            assert actions == ([EndCall("call c", None, error)] if error else [])
            error = ""

    def test_settings_that_are_too_large_for_a_task_that_runs_or_never_was_are_nothing(self) -> None:
        bench = Bench()
        bench.connect()
        task_id = bench.start()
        assert (
            bench.do(OversizedMessage(m.Head("broker:tasksettings", task_id, None, None, None), 2, 1)) == []
        )
        assert (
            bench.do(OversizedMessage(m.Head("broker:tasksettings", "unknown", "c", None, None), 2, 1)) == []
        )
        assert bench.do(OversizedMessage(m.Head("broker:tasksettings", None, None, None, None), 2, 1)) == []
        assert bench.session.held_tasks == 1

    def test_the_grace_period_of_a_stop_is_over(self) -> None:
        bench = Bench(capacity=3)
        bench.connect()
        running, accepted = bench.start(), bench.accept()
        bench.call(running, "c")
        assert bench.do(StopRequested(START + 10)) == []
        assert bench.session.is_stopping
        bench.pass_time(9.99)
        assert bench.session.held_tasks == 2
        error = {
            "message": "The task runner was stopped before the task had finished",
            "description": "Its grace period is over; run the workflow again.",
        }
        actions = without(PING, bench.pass_time(0.01))
        assert actions == [
            m.TaskFailed(accepted, error),
            m.TaskFailed(running, error),
            EndCall("call c", None, "The runner was stopped"),
            CancelTask(running, "The runner was stopped", False),
            CloseConnection(1000, "the runner stops"),
        ]
        assert bench.slots.taken == 1
        assert bench.finish(running) == []
        account(bench, accepted=2, unfinished=2)


class TestWhatNeedsNoSettling:
    """What every task brings changes as little as possible, because a link settles for each."""

    def busy(self) -> Bench:
        """A link that has a task and an open offer."""
        bench = Bench(slots=Slots(2, brokers=2))
        bench.connect()
        bench.start()
        assert len(bench.offers()) == 1
        bench.now += liveness.PING_INTERVAL / 2
        bench.settle()
        return bench

    def test_a_result_whose_slot_went_elsewhere_is_followed_by_a_ping_in_time(self) -> None:
        bench = self.busy()
        pinged = START  # with the connection
        bench.slots.release("t", bench.now)
        bench.handle(HandlerFinished("task1", 1, b"answer", False, freed=False))
        assert bench.session.next_deadline() == pinged + PING_SPACING

    def test_a_result_that_leaves_a_link_without_offers_brings_its_keep_alive(self) -> None:
        slots = Slots(1, brokers=2)
        bench, other = Bench(slots=slots, link="a"), Bench(slots=slots, link="b")
        bench.connect()
        other.connect()
        task_id = bench.start()
        other.do(m.TaskOfferAccept(other.offers()[0], "refused"))
        assert slots.release("t", bench.now) == {"b"}
        bench.do(HandlerFinished(task_id, 1, b"answer", False, freed=False))
        due = bench.session.next_deadline()
        assert due is not None
        assert due <= bench.now + KEEP_ALIVE

    def test_the_last_result_of_a_stop_ends_the_connection_at_once(self) -> None:
        bench = self.busy()
        assert of(SendUrgentPing, bench.pass_time(liveness.PING_INTERVAL)), "a ping would settle as well"
        bench.do(StopRequested(bench.now + 60))
        assert bench.slots.release("t", bench.now) == set()
        bench.handle(HandlerFinished("task1", 1, b"answer", False, freed=False))
        assert of(CloseConnection, bench.settle()) != []

    def test_an_acceptance_settles_nothing_of_what_came_before_it(self) -> None:
        bench = Bench(capacity=3)
        bench.connect()
        task_id = bench.start()
        bench.slots.release("t", bench.now)
        bench.handle(HandlerFinished(task_id, 1, b"answer", False))
        bench.handle(m.TaskOfferAccept(bench.offers()[0], "x"))
        assert len(of(m.TaskOffer, bench.settle())) == 1

    def test_an_acceptance_that_cannot_be_answered_yet_has_its_window(self) -> None:
        bench = Bench(capacity=3)
        bench.connect()
        bench.session.set_congested(True)
        bench.settle()
        bench.handle(m.TaskOfferAccept(bench.offers()[0], "x"))
        assert bench.session.next_deadline() == bench.now + ACCEPT_WINDOW

    def test_an_acceptance_brings_the_next_offer_while_there_is_room(self) -> None:
        bench = Bench(slots=Slots(2, brokers=2))
        bench.connect()
        (offer_id,) = bench.offers()
        bench.handle(m.TaskOfferAccept(offer_id, "x"))
        assert len(of(m.TaskOffer, bench.settle())) == 1

    def test_an_acceptance_brings_its_own_deadline(self) -> None:
        bench = Bench(capacity=1)
        bench.connect(jitter=0.9)
        bench.handle(m.TaskOfferAccept(bench.offers()[0], "x"))
        assert bench.settle() == []
        bench.pass_time(SETTINGS_TIMEOUT - 1)
        assert of(m.TaskFailed, bench.pass_time(1)) != []


class TestCounters:
    def test_each_counts_on(self) -> None:
        bench = Bench(capacity=20, task_timeout=5.0)
        bench.connect()
        for _ in range(2):
            bench.do(m.TaskOfferAccept("unknown", "x"))
            bench.finish(bench.start())
            bench.finish(bench.start(), failed=True)
            bench.do(m.TaskCancel(bench.accept(), "why"))
            bench.do(m.TaskCancel(bench.start(), "why"))
            bench.do(OversizedMessage(m.Head("broker:tasksettings", bench.accept(), None, None, None), 2, 1))
        account(bench, accepted=12 - 2, rejected=2, done=2, failed=4, cancelled=4)
        bench.start()
        bench.start()
        bench.pass_time(5)
        account(bench, accepted=12, rejected=2, done=2, failed=4, cancelled=4, timed_out=2)
        bench.session.set_congested(True)
        for task_id in ("y", "z"):
            bench.do(m.TaskOfferAccept(bench.offers()[0], task_id))
        bench.pass_time(ACCEPT_WINDOW)
        account(bench, accepted=12, rejected=4, done=2, failed=4, cancelled=4, timed_out=2)

    def test_those_of_a_lost_connection_too(self) -> None:
        bench = Bench(capacity=4)
        bench.connect()
        tasks = [bench.start(), bench.start()]
        bench.accept()
        bench.accept()
        bench.lose()
        account(bench, accepted=4, lost=4)
        for task_id in tasks:
            bench.slots.release("t", bench.now)
            bench.do(HandlerFinished(task_id, 1, b"late", False))
        account(bench, accepted=4, lost=4, undelivered=2)

    def test_and_those_after_our_close_frame(self) -> None:
        bench = Bench(capacity=3, task_timeout=1000.0)
        bench.connect()
        tasks = [bench.start(), bench.start()]
        bench.pass_time(liveness.PING_INTERVAL + liveness.SILENCE_LIMIT)
        for task_id in tasks:
            bench.finish(task_id)
        account(bench, accepted=2, lost=2, undelivered=2)

    def test_and_those_that_a_stop_cuts_short(self) -> None:
        bench = Bench(capacity=4)
        bench.connect()
        for begin in (bench.start, bench.start, bench.accept, bench.accept):
            begin()
        bench.do(StopRequested(bench.now))
        account(bench, accepted=4, unfinished=4)


class TestIdle:
    """Since when the runner has nothing to do, for the idle shutdown."""

    def test_from_the_registration_and_from_the_end_of_the_last_task(self) -> None:
        bench = Bench()
        bench.now += 3
        bench.connect()
        assert bench.slots.idle_since == START + 3
        bench.now += 1
        bench.do(TypesChanged({"t": None}))
        assert bench.slots.idle_since == START + 4
        for end in (
            lambda task_id: bench.do(m.TaskCancel(task_id, "why")),
            lambda task_id: bench.do(
                OversizedMessage(m.Head("broker:tasksettings", task_id, None, None, None), 2, 1)
            ),
            lambda task_id: bench.do(StopRequested(bench.now)),
        ):
            task_id = bench.accept()
            assert bench.slots.idle_since is None
            bench.now += 1
            end(task_id)
            assert bench.slots.idle_since == bench.now


class TestCalls:
    def bench(self) -> Bench:
        bench = Bench(capacity=2, task_timeout=5.0)
        bench.connect()
        assert bench.start() == "task1"
        return bench

    def test_a_call_is_sent_and_its_answer_ends_it_once(self) -> None:
        bench = self.bench()
        assert bench.call("task1", "c", b"the call") == [SendPayload(b"the call")]
        assert bench.do(m.RpcResponse("task1", "c", "success", [1])) == [EndCall("call c", [1], None)]
        assert bench.do(m.RpcResponse("task1", "c", "success", [1])) == []

    @pytest.mark.parametrize("data", [None, 0, "", [], False])
    def test_an_answer_may_be_anything(self, data: Any) -> None:
        bench = self.bench()
        bench.call("task1", "c")
        assert bench.do(m.RpcResponse("task1", "c", "success", data)) == [EndCall("call c", data, None)]

    @pytest.mark.parametrize("data", ["Method not allowed", {"message": "no"}])
    def test_an_error_has_its_reason(self, data: Any) -> None:
        bench = self.bench()
        bench.call("task1", "c")
        assert bench.do(m.RpcResponse("task1", "c", "error", data)) == [EndCall("call c", None, data)]

    @pytest.mark.parametrize("data", [None, {}, "", []])
    def test_an_error_without_a_reason_is_an_error(self, data: Any) -> None:
        bench = self.bench()
        bench.call("task1", "c")
        assert bench.do(m.RpcResponse("task1", "c", "error", data)) == [
            EndCall("call c", None, "n8n gave no reason")
        ]

    def test_task_data_and_node_types_are_answers_too(self) -> None:
        bench = self.bench()
        bench.call("task1", "c")
        bench.call("task1", "d")
        assert bench.do(m.NodeTypes("task1", "d", [{}])) == [EndCall("call d", [{}], None)]
        assert bench.do(m.TaskDataResponse("task1", "c", {"a": 1})) == [EndCall("call c", {"a": 1}, None)]

    def test_answers_in_any_order_find_their_calls(self) -> None:
        bench = self.bench()
        other = bench.start()
        for task_id, call_id in [("task1", "c"), ("task1", "d"), (other, "e")]:
            bench.call(task_id, call_id)
        for call_id, task_id in [("e", other), ("c", "task1"), ("d", "task1")]:
            assert bench.do(m.RpcResponse(task_id, call_id, "success", call_id)) == [
                EndCall(f"call {call_id}", call_id, None)
            ]

    def test_a_call_that_wants_no_answer_waits_for_none(self) -> None:
        bench = self.bench()
        assert bench.do(CallMade("task1", 1, "c", b"log", None)) == [SendPayload(b"log")]
        assert bench.do(m.RpcResponse("task1", "c", "success", None)) == []

    @pytest.mark.parametrize("end", ["finished", "cancel", "timeout", "lost"])
    def test_calls_end_with_their_task(self, end: str) -> None:
        bench = self.bench()
        bench.call("task1", "c")
        other = bench.start()
        bench.call(other, "d")
        if end == "finished":
            actions, reason = bench.finish("task1"), "the task has ended"
        elif end == "cancel":
            actions, reason = bench.do(m.TaskCancel("task1", "why")), "why"
        elif end == "timeout":
            actions, reason = bench.pass_time(5), timeout_message(5)
        else:
            actions, reason = bench.lose(), "The connection to n8n was lost"
        assert of(EndCall, actions)[0] == EndCall("call c", None, reason)
        assert bench.do(m.RpcResponse("task1", "c", "success", 1)) == []
        if end in ("finished", "cancel"):
            assert bench.do(m.RpcResponse(other, "d", "success", 1)) == [EndCall("call d", 1, None)]

    def test_a_call_of_a_task_that_has_ended_ends_at_once(self) -> None:
        bench = self.bench()
        bench.finish("task1")
        assert bench.call("task1", "c") == [EndCall("call c", None, "the task has ended")]
        assert bench.do(CallMade("task1", 1, "c", b"log", None)) == []
        assert bench.call("unknown", "c") == [EndCall("call c", None, "the task has ended")]

    def test_a_call_before_the_settings_belongs_to_no_task_that_runs(self) -> None:
        bench = self.bench()
        accepted = bench.accept()
        assert of(SendPayload, bench.call(accepted, "c")) == []

    def test_an_answer_that_is_too_large_is_an_error(self) -> None:
        for head in (
            m.Head("broker:rpcresponse", "task1", "c", None, "success"),
            m.Head("broker:taskdataresponse", "task1", None, "c", None),
            m.Head("broker:nodetypes", None, None, "c", None),
        ):
            bench = self.bench()
            bench.call("task1", "c")
            event = OversizedMessage(head, 2000, 1000)
            assert bench.do(event) == [
                EndCall(
                    "call c",
                    None,
                    "the answer of n8n is too large for the runner. It has 2000 bytes, and the runner "
                    "takes 1000 (N8N_RUNNERS_MAX_PAYLOAD).",
                )
            ]
            assert bench.do(event) == []

    def test_a_message_that_is_too_large_and_says_not_what_it_is(self) -> None:
        bench = self.bench()
        bench.call("task1", "c")
        assert bench.do(OversizedMessage(m.Head(None, None, None, None, None), 2, 1)) == []

    def test_no_answer_crosses_connections(self) -> None:
        bench = self.bench()
        bench.call("task1", "c")
        bench.lose()
        bench.connect()
        bench.do(m.TaskOfferAccept(bench.offers()[0], "task1"), m.TaskSettings("task1", 1))
        assert bench.do(m.RpcResponse("task1", "c", "success", 1)) == []
        assert bench.do(CallMade("task1", 1, "d", b"old", "old call")) == [
            EndCall("old call", None, "the task has ended")
        ]


class TestCongestion:
    """While a large answer is on its way, no other message may stand between its parts."""

    def bench(self, capacity: int = 2, **kwargs: Any) -> Bench:
        bench = Bench(capacity=capacity, **kwargs)
        bench.connect()
        bench.session.set_congested(True)
        return bench

    def test_answers_to_acceptances_wait_and_leave_in_order(self) -> None:
        bench = self.bench()
        assert bench.do(m.TaskOfferAccept("a1", "x"), m.TaskOfferAccept("unknown", "y")) == []
        assert bench.slots.taken == 1
        assert bench.session.next_deadline() == START + ACCEPT_WINDOW
        bench.now += 1
        bench.session.set_congested(False)
        assert bench.settle() == [
            m.TaskAccepted("x"),
            m.TaskRejected("y", REASON_EXPIRED),
            m.TaskOffer("a3", "t", 0),
        ]
        assert bench.do(m.TaskOfferAccept("a2", "z")) == [m.TaskAccepted("z")]
        assert bench.do(m.TaskSettings("x", 1))[0].task_id == "x"
        account(bench, accepted=2, rejected=1)

    def test_an_acceptance_that_cannot_leave_in_its_window_is_dropped(self) -> None:
        bench = self.bench()
        bench.do(m.TaskOfferAccept("a1", "x"))
        assert bench.pass_time(ACCEPT_WINDOW - 0.01) == []
        assert bench.slots.taken == 1
        assert bench.pass_time(0.01) == []
        # Its slot is free, and the broker will throw away what else was offered.
        assert bench.slots.taken == 0
        assert bench.offers() == []
        account(bench, rejected=1)
        bench.session.set_congested(False)
        assert without(PING, bench.settle()) == [
            m.TaskOffer("a3", "t", 10_000),
            m.TaskOffer("a4", "t", 10_000),
        ]
        assert bench.do(m.TaskSettings("x", 1)) == []
        assert bench.do(m.TaskOfferAccept("a2", "y"))[0] == m.TaskRejected("y", REASON_EXPIRED)

    def test_each_has_its_own_window(self) -> None:
        bench = self.bench(3)
        bench.do(m.TaskOfferAccept("a1", "x"))
        bench.now += 1
        bench.do(m.TaskOfferAccept("a2", "y"))
        bench.pass_time(ACCEPT_WINDOW - 1)
        assert bench.slots.taken == 1
        bench.session.set_congested(False)
        actions = without(PING, bench.settle())
        assert actions[0] == m.TaskAccepted("y")
        account(bench, accepted=1, rejected=1)

    def test_a_rejection_that_cannot_leave_voids_the_offers_as_well(self) -> None:
        bench = self.bench()
        bench.do(m.TaskOfferAccept("unknown", "x"))
        bench.pass_time(ACCEPT_WINDOW)
        assert bench.offers() == []
        account(bench, rejected=1)

    def test_one_that_is_said_again_for_another_offer_has_its_own_window(self) -> None:
        bench = self.bench(3)
        bench.do(m.TaskOfferAccept("unknown", "x"))
        bench.now += 1
        bench.do(m.TaskOfferAccept("a1", "x"))
        bench.pass_time(ACCEPT_WINDOW - 1)
        assert bench.slots.taken == 1
        bench.pass_time(1)
        assert bench.slots.taken == 0

    def test_a_cancel_comes_before_the_answer_could_leave(self) -> None:
        bench = self.bench()
        bench.do(m.TaskOfferAccept("a1", "x"))
        bench.do(m.TaskCancel("x", "why"))
        assert bench.slots.taken == 0
        bench.pass_time(ACCEPT_WINDOW)
        account(bench, accepted=1, cancelled=1)

    def test_a_loss_comes_before_the_answer_could_leave(self) -> None:
        bench = self.bench()
        bench.do(m.TaskOfferAccept("a1", "x"))
        bench.lose()
        assert bench.slots.taken == 0
        account(bench, accepted=1, lost=1)
        assert [offer.offer_id for offer in bench.connect()] == ["a3", "a4"]
        assert bench.do(m.TaskOfferAccept("a3", "y")) == [m.TaskAccepted("y")]

    def test_no_offers_are_made(self) -> None:
        bench = self.bench()
        assert without(PING, bench.pass_time(10)) == []
        assert bench.offers() == []
        bench.session.set_congested(False)
        assert of(m.TaskOffer, bench.settle()) == [
            m.TaskOffer("a3", "t", 10_000),
            m.TaskOffer("a4", "t", 10_000),
        ]

    def test_results_and_calls_and_errors_wait_in_the_links_own_queue(self) -> None:
        bench = Bench(capacity=3, task_timeout=5.0)
        bench.connect()
        first, second = bench.start(), bench.start()
        bench.session.set_congested(True)
        assert bench.call(first, "c") == [SendPayload(b"call")]
        assert SendPayload(b"answer") in bench.finish(first)
        assert of(m.TaskFailed, bench.pass_time(5))[0].task_id == second

    def test_a_link_that_cannot_offer_keeps_no_slot_from_the_others(self) -> None:
        slots = Slots(1, brokers=2)
        a, b = Bench(slots=slots, link="a"), Bench(slots=slots, link="b")
        a.connect()
        b.connect()
        task_id = b.start()
        a.do(m.TaskOfferAccept("a1", "x"))
        a.session.set_congested(True)
        a.settle()
        slots.release("t", a.now)  # it is the turn of `a`
        assert a.do(SlotFreed()) == []
        assert SendPayload(b"answer") in b.do(HandlerFinished(task_id, 1, b"answer", False))
        assert b.offers() == []
        assert a.session.next_deadline() == START + TURN
        assert without(PING, a.pass_time(TURN)) == [WakeLinks(("b",))]
        assert without(PING, b.do(SlotFreed())) == [m.TaskOffer("b2", "t", 10_000)]
        assert b.accept()
        # The link sleeps until something happens, however long its answer takes.
        turns = 0
        while a.now < START + 20:
            due = a.session.next_deadline()
            assert due is not None
            a.now = due
            a.session.note_received(a.now)
            a.settle()
            turns += 1
        assert turns <= 10


class TestMissedAcceptance:
    """n8n 2.40 throws away all offers of a runner that did not answer an acceptance in time."""

    def test_all_offers_are_made_anew(self) -> None:
        bench = Bench(capacity=3)
        bench.connect()
        task_id = bench.accept()
        assert bench.do(m.TaskCancel(task_id, "Acknowledgement window elapsed")) == [
            m.TaskOffer(f"a{n}", "t", 10_000) for n in (4, 5, 6)
        ]
        assert bench.offers() == ["a4", "a5", "a6"]
        assert bench.do(m.TaskOfferAccept("a2", "x"))[0] == m.TaskRejected("x", REASON_EXPIRED)
        account(bench, accepted=1, cancelled=1, rejected=1)

    def test_for_a_task_that_is_not_known_as_well(self) -> None:
        bench = Bench(capacity=2)
        bench.connect()
        assert bench.do(m.TaskCancel("unknown", "Acknowledgement window elapsed")) == [
            m.TaskOffer("a3", "t", 10_000),
            m.TaskOffer("a4", "t", 10_000),
        ]

    def test_lapsed_offers_are_void_too(self) -> None:
        bench = Bench(capacity=1)
        bench.connect()
        bench.pass_time(10)
        bench.do(m.TaskCancel("unknown", "Acknowledgement window elapsed"))
        assert bench.do(m.TaskOfferAccept("a1", "x"))[0] == m.TaskRejected("x", REASON_EXPIRED)

    def test_any_other_reason_leaves_them(self) -> None:
        bench = Bench(capacity=2)
        bench.connect()
        assert bench.do(m.TaskCancel("unknown", "Task request expired")) == []
        assert bench.offers() == ["a1", "a2"]


class TestLiveness:
    """What the session makes of the decisions of `liveness`, which has tests of its own."""

    def test_a_connection_on_which_nothing_comes_is_pinged_once(self) -> None:
        bench = Bench(capacity=1)
        bench.connect(0.99)
        assert bench.pass_time(liveness.PING_INTERVAL - 0.01) == []
        assert bench.pass_time(0.01) == [SendUrgentPing(LIVENESS_PING)]
        assert of((SendPing, SendUrgentPing), bench.pass_time(liveness.SILENCE_LIMIT - 1)) == []

    def test_the_answer_to_it_is_a_sign_of_life_and_no_receipt(self) -> None:
        bench = Bench(capacity=1)
        bench.connect()
        bench.now += 1
        bench.finish(bench.start())
        assert bench.session.describe().results
        bench.pass_time(liveness.PING_INTERVAL)
        bench.session.note_received(bench.now)
        assert bench.do(Pong(LIVENESS_PING)) == []
        assert bench.session.describe().results
        assert of(AbortConnection, bench.pass_time(liveness.SILENCE_LIMIT)) == []

    def test_a_peer_that_says_nothing_is_gone(self) -> None:
        bench = Bench()
        bench.connect()
        bench.pass_time(liveness.PING_INTERVAL + liveness.SILENCE_LIMIT - 0.01)
        assert bench.session.is_registered
        reason = "the broker has been silent for 30 s after a ping"
        assert bench.pass_time(0.01)[-1] == AbortConnection(reason)
        assert not bench.session.is_registered
        assert bench.session.next_deadline() is None
        assert bench.pass_time(100) == []
        bench.lose()
        assert bench.session.state is State.DISCONNECTED

    def test_offers_that_the_kernel_takes_are_no_sign_of_life(self) -> None:
        bench = Bench()
        bench.connect()
        offers: list[Any] = []
        ended_after = 0.0
        while bench.session.is_registered:
            ended_after += 0.5
            offers += of(m.TaskOffer, bench.pass_time(0.5))
            bench.measured = bench.measured._replace(written=bench.measured.written + 100)
        assert len(offers) > 4
        assert ended_after == liveness.PING_INTERVAL + liveness.SILENCE_LIMIT

    def test_a_host_that_acknowledges_nothing_is_gone(self) -> None:
        bench = Bench()
        bench.connect()
        bench.pass_time(liveness.PING_INTERVAL)
        bench.measured = bench.measured._replace(unacknowledged=1, silent_for=14.9)
        bench.pass_time(liveness.MEASURE_INTERVAL)
        assert bench.session.is_registered
        bench.measured = bench.measured._replace(silent_for=15.0)
        assert isinstance(bench.pass_time(0.1)[-1], AbortConnection)

    def test_a_peer_whose_bytes_come_slowly_is_alive(self) -> None:
        bench = Bench()
        bench.connect()
        for _ in range(10):
            assert of(AbortConnection, bench.pass_time(liveness.SILENCE_LIMIT - 1)) == []
            bench.session.note_received(bench.now)

    def test_reading_pauses_while_too_much_waits(self) -> None:
        bench = Bench()
        bench.connect()
        assert not bench.session.set_waiting(True, BACKLOG_LIMIT, bench.now)
        assert bench.session.set_waiting(True, BACKLOG_LIMIT + 1, bench.now)
        assert not bench.session.set_waiting(False, 0, bench.now)

    def test_reading_pauses_while_too_many_answers_are_held_back(self) -> None:
        bench = Bench()
        bench.connect()
        bench.session.set_congested(True)
        for number in range(DELAYED_LIMIT + 1):
            assert not bench.session.set_waiting(True, 0, bench.now)
            bench.do(m.TaskOfferAccept("unknown", f"task{number}"))
        assert bench.session.set_waiting(True, 0, bench.now)
        bench.pass_time(ACCEPT_WINDOW)
        assert not bench.session.set_waiting(True, 0, bench.now)

    def test_a_pause_is_not_the_peers_silence_and_has_a_limit_of_its_own(self) -> None:
        bench = Bench()
        bench.connect()
        bench.pass_time(liveness.PING_INTERVAL)
        for _ in range(20):
            assert bench.session.set_waiting(True, BACKLOG_LIMIT + 1, bench.now)
            bench.measured = bench.measured._replace(written=bench.measured.written + 1)
            assert of(AbortConnection, bench.pass_time(5)) == []
        (end,) = of(AbortConnection, bench.pass_time(liveness.STALL_LIMIT))
        assert end.reason == "the broker has stopped reading: it has taken nothing for 30 s"

    def test_an_acceptance_with_an_id_of_any_length_is_not_answered(self) -> None:
        bench = Bench()
        bench.connect()
        assert bench.do(m.TaskOfferAccept("unknown", "x" * ID_LIMIT)) != []
        assert bench.do(m.TaskOfferAccept("unknown", "x" * (ID_LIMIT + 1))) == []

    def test_what_returns_after_the_end_is_reported(self) -> None:
        bench = Bench(task_timeout=1000.0)
        bench.connect()
        task_id = bench.start()
        bench.call(task_id, "c")
        bench.pass_time(liveness.PING_INTERVAL + liveness.SILENCE_LIMIT)
        assert not bench.session.is_registered
        assert bench.finish(task_id, b"late", True) == [
            EndCall("call c", None, "the task has ended"),
            ReportUndelivered(task_id, "t", b"late", True, True),
        ]
        account(bench, accepted=1, lost=1, undelivered=1)
        assert bench.lose() == []

    def test_nothing_follows_a_close_frame(self) -> None:
        bench = Bench()
        bench.do(Connected(0.0))
        bench.now += 1000  # a ping and the end of the handshake are both due
        assert [type(action) for action in bench.settle()] == [CloseConnection]
        bench = Bench()
        bench.connect()
        bench.now += liveness.PING_INTERVAL
        assert [type(action) for action in bench.do(StopRequested(bench.now))] == [CloseConnection]


class TestDelivery:
    """A pong proves what was sent before its ping; what no pong has covered is uncertain when it is lost."""

    def answered(self, count: int = 1) -> tuple[Bench, SendPing]:
        """A link that has sent results, and the ping that followed the first one."""
        bench = Bench(capacity=8)
        bench.connect()
        bench.now += 1
        actions: list[Any] = []
        for number in range(count):
            actions += bench.finish(bench.start(), b"answer %d" % (number + 1))
        (ping,) = of(SendPing, actions)
        return bench, ping

    def test_a_ping_goes_with_the_write_that_carries_results(self) -> None:
        bench = Bench(capacity=1)
        bench.connect()
        bench.now += 1
        actions = bench.finish(bench.start())
        assert actions[-1] == SendPing(str(bench.sent))
        assert actions.index(SendPayload(b"answer")) < len(actions) - 1

    def test_pings_are_apart_from_each_other(self) -> None:
        bench, ping = self.answered()
        assert of(PING, bench.finish(bench.start())) == []  # the first one is not answered yet
        assert of(PING, bench.do(Pong(ping.payload))) == []
        assert bench.session.next_deadline() == START + 1 + PING_SPACING
        (second,) = of(PING, bench.pass_time(PING_SPACING))
        assert bench.session.describe().results
        bench.do(Pong(second.payload))
        assert not bench.session.describe().results
        assert of(SendPing, bench.pass_time(60)) == []

    def test_a_ping_without_an_answer_is_repeated_with_what_came_since(self) -> None:
        """A peer may answer only the latest of several pings."""
        bench, _ = self.answered()
        assert of(SendPing, bench.pass_time(PING_REPEAT - 0.01)) == []
        (again,) = of(SendPing, bench.pass_time(0.01))
        bench.do(Pong(again.payload))
        assert not bench.session.describe().results

    def test_but_not_while_it_waits_behind_a_large_answer(self) -> None:
        bench, _ = self.answered()
        bench.session.set_congested(True)
        assert of(SendPing, bench.pass_time(2 * PING_REPEAT)) == []
        bench.session.set_congested(False)
        assert len(of(SendPing, bench.settle())) == 1

    def test_what_a_pong_covers_is_not_reported(self) -> None:
        bench, ping = self.answered(3)
        bench.do(Pong(ping.payload))
        # The first result was sent with the ping, the others after it.
        reports = of(ReportUndelivered, bench.lose(written=1000))
        assert [report.task_id for report in reports] == ["task2", "task3"]

    def test_a_pong_covers_the_last_message_before_its_ping(self) -> None:
        bench = Bench(capacity=2)
        bench.connect()
        first, _ = bench.start(), bench.start()
        bench.do(m.Drain())  # so that no offer follows the answer
        bench.now += 1
        actions = bench.finish(first)
        assert [type(action) for action in actions] == [SendPayload, SendPing]
        bench.do(Pong(actions[1].payload))
        assert of(ReportUndelivered, bench.lose(written=1000)) == []

    def test_what_is_lost_may_have_arrived_if_it_was_written(self) -> None:
        bench, _ = self.answered(2)
        ordinals = [entry.ordinal for entry in bench.session.describe().results]
        assert ordinals == sorted(ordinals)
        first, second = ordinals
        assert bench.lose(written=second - 1) == [
            ReportUndelivered("task1", "t", b"answer 1", False, False),
            ReportUndelivered("task2", "t", b"answer 2", False, True),
        ]
        account(bench, accepted=2, done=2, undelivered=2)
        assert first < second

    @pytest.mark.parametrize(("written", "certain"), [(-1, True), (0, False), (1, False)])
    def test_written_counts_messages_whose_first_byte_has_left(self, written: int, certain: bool) -> None:
        bench, _ = self.answered()
        ordinal = bench.session.describe().results[0].ordinal
        # Registration, 8 offers, the acceptance; the ping is none.
        assert ordinal == 1 + 8 + 1 + 1
        (report,) = bench.lose(written=ordinal + written)
        assert report.certain is certain

    def test_each_connection_counts_from_the_beginning(self) -> None:
        bench, _ = self.answered()
        bench.lose(written=1000)
        bench.connect()
        assert bench.sent == 9
        bench.finish(bench.start())
        assert bench.session.describe().results[0].ordinal == 11

    def test_a_failed_one_is_reported_as_such(self) -> None:
        bench = Bench()
        bench.connect()
        bench.finish(bench.start(), b"error", failed=True)
        assert bench.lose(written=1000) == [ReportUndelivered("task1", "t", b"error", True, False)]

    def test_the_brokers_close_frame_proves_everything(self) -> None:
        bench, _ = self.answered(2)
        assert bench.lose(written=0, clean=True) == []
        account(bench, accepted=2, done=2)

    def test_nothing_is_reported_twice(self) -> None:
        bench, _ = self.answered()
        assert len(bench.lose()) == 1
        bench.connect()
        assert bench.lose() == []

    def test_a_pong_of_an_earlier_connection_covers_nothing(self) -> None:
        bench, ping = self.answered()
        bench.lose(written=1000)
        bench.connect()
        bench.now += 0.05
        bench.finish(bench.start())
        bench.do(Pong(ping.payload))
        assert len(bench.lose(written=1000)) == 1

    def test_texts_are_kept_up_to_a_limit(self) -> None:
        bench = Bench(capacity=8)
        bench.connect()
        half = b"x" * (UNCONFIRMED_LIMIT // 2)
        for payload in (half, half, b"y", b""):
            bench.finish(bench.start(), payload)
        assert [entry.payload for entry in bench.session.describe().results] == [half, half, None, b""]
        (ping,) = of(SendPing, bench.pass_time(PING_SPACING))
        bench.do(Pong(ping.payload))
        # Room again, all of it.
        bench.finish(bench.start(), half)
        bench.finish(bench.start(), half)
        bench.finish(bench.start(), b"z")
        reports = of(ReportUndelivered, bench.lose(written=0))
        assert [report.payload for report in reports] == [half, half, None]
        assert [report.certain for report in reports] == [True] * 3
        # And on the next connection.
        bench.connect()
        bench.finish(bench.start(), half)
        bench.finish(bench.start(), half)
        assert [report.payload for report in bench.lose()] == [half, half]

    def test_our_own_errors_are_not_results(self) -> None:
        bench = Bench(task_timeout=1.0)
        bench.connect()
        bench.start()
        bench.pass_time(1)
        assert bench.lose(written=0) == []


class TestDrain:
    def test_it_stops_offers_and_finishes_tasks(self) -> None:
        bench = Bench(capacity=3)
        bench.connect()
        running, accepted = bench.start(), bench.accept()
        assert bench.do(m.Drain()) == []
        assert bench.session.state is State.DRAINING
        assert bench.session.is_registered
        assert bench.offers() == []
        # An acceptance that was under way.
        assert bench.do(m.TaskOfferAccept("a3", "x")) == [m.TaskRejected("x", REASON_STOPPING)]
        assert bench.do(m.TaskSettings(accepted, 1))[0].task_id == accepted
        assert without(PING, bench.finish(running)) == [SendPayload(b"answer")]
        assert without(PING, bench.finish(accepted)) == [SendPayload(b"answer")]
        account(bench, accepted=2, done=2, rejected=1)
        # Now the broker closes, and the link connects again.
        assert bench.lose(1000, clean=True) == []
        assert bench.session.state is State.DISCONNECTED
        assert len(bench.connect()) == 3

    def test_a_broker_that_does_not_close_is_left(self) -> None:
        bench = Bench()
        bench.connect()
        bench.do(m.Drain())
        self.passing(bench, DRAIN_LIMIT - 1)
        assert bench.session.is_registered
        assert of(CloseConnection, bench.pass_time(0.99)) == []
        assert of(CloseConnection, bench.pass_time(0.01)) == [
            CloseConnection(1000, "the broker drains, but does not close")
        ]

    def passing(self, bench: Bench, seconds: float) -> list[Any]:
        """The peer is alive meanwhile."""
        actions = []
        end = bench.now + seconds
        while bench.now < end:
            actions += bench.pass_time(min(5, end - bench.now))
            bench.session.note_received(bench.now)
        return actions

    def test_but_not_before_its_tasks_have_ended(self) -> None:
        bench = Bench(capacity=2, task_timeout=1000.0)
        bench.connect()
        task_id = bench.start()
        bench.do(m.Drain())
        assert of(CloseConnection, self.passing(bench, DRAIN_LIMIT + 50)) == []
        actions = bench.finish(task_id)
        assert SendPayload(b"answer") in actions
        assert of(CloseConnection, actions) != []

    def test_a_task_that_has_no_settings_holds_it_up_as_well(self) -> None:
        bench = Bench()
        bench.connect()
        task_id = bench.accept()
        bench.do(m.Drain())
        bench.session.set_receiving(True)  # so that its settings may take any time
        assert of(CloseConnection, self.passing(bench, DRAIN_LIMIT + 5)) == []
        assert CloseConnection(1000, "the broker drains, but does not close") in bench.do(
            m.TaskCancel(task_id, "why")
        )

    def test_a_stop_during_a_drain_is_a_stop(self) -> None:
        bench = Bench(task_timeout=1000.0)
        bench.connect()
        task_id = bench.start()
        bench.do(m.Drain())
        self.passing(bench, DRAIN_LIMIT - 1)
        assert bench.do(StopRequested(bench.now + 30)) == []
        assert of(CloseConnection, self.passing(bench, 20)) == []
        actions = self.passing(bench, 10)
        assert CancelTask(task_id, REASON_STOPPED) in actions
        assert of(CloseConnection, actions) == [CloseConnection(1000, "the runner stops")]

    def test_said_twice_it_does_not_begin_anew(self) -> None:
        bench = Bench()
        bench.connect()
        bench.do(m.Drain())
        self.passing(bench, DRAIN_LIMIT - 1)
        bench.do(m.Drain())
        assert of(CloseConnection, bench.pass_time(1)) != []

    def test_the_answer_to_an_acceptance_may_wait_through_it(self) -> None:
        bench = Bench()
        bench.connect()
        bench.session.set_congested(True)
        bench.do(m.TaskOfferAccept("a1", "x"))
        bench.do(m.Drain())
        bench.session.set_congested(False)
        assert bench.settle() == [m.TaskAccepted("x")]
        assert bench.do(m.TaskSettings("x", 1))[0].task_id == "x"


class TestStop:
    def test_without_a_connection_it_is_closed_at_once(self) -> None:
        bench = Bench()
        assert bench.do(StopRequested(START + 10)) == []
        assert bench.session.state is State.CLOSED
        assert bench.session.is_stopping
        assert bench.session.next_deadline() is None
        assert bench.do(Connected(0.0), StopRequested(START), Disconnected(0)) == []
        assert bench.session.state is State.CLOSED

    @pytest.mark.parametrize("events", [[], [m.InfoRequest()]])
    def test_during_the_handshake_the_connection_is_closed(self, events: list[Any]) -> None:
        bench = Bench()
        bench.do(Connected(0.0), *events)
        assert bench.do(StopRequested(START + 10)) == [CloseConnection(1000, "the runner stops")]
        assert bench.do(StopRequested(START + 10)) == []
        bench.lose()
        assert bench.session.state is State.CLOSED

    def test_without_tasks_the_connection_is_closed_at_once(self) -> None:
        bench = Bench()
        bench.connect()
        assert bench.do(StopRequested(START + 10)) == [CloseConnection(1000, "the runner stops")]
        assert bench.session.state is State.CLOSING
        assert not bench.session.is_registered
        bench.lose()
        assert bench.session.state is State.CLOSED

    def test_with_tasks_it_waits_for_them(self) -> None:
        bench = Bench(capacity=3)
        bench.connect()
        running, accepted = bench.start(), bench.accept()
        assert bench.do(StopRequested(START + 10)) == []
        assert bench.offers() == []
        assert bench.do(m.TaskOfferAccept("a3", "x")) == [m.TaskRejected("x", REASON_STOPPING)]
        # It is alive meanwhile: calls are answered, settings are taken.
        assert bench.call(running, "c") == [SendPayload(b"call")]
        assert bench.do(m.RpcResponse(running, "c", "success", 1)) == [EndCall("call c", 1, None)]
        assert bench.do(m.TaskSettings(accepted, 1))[0].task_id == accepted
        assert without(PING, bench.finish(running)) == [SendPayload(b"answer")]
        assert without(PING, bench.finish(accepted)) == [
            SendPayload(b"answer"),
            CloseConnection(1000, "the runner stops"),
        ]
        assert bench.lose(1000, clean=True) == []
        assert bench.session.state is State.CLOSED
        account(bench, accepted=2, done=2, rejected=1)

    def test_a_cancelled_task_is_not_waited_for(self) -> None:
        bench = Bench()
        bench.connect()
        task_id = bench.start()
        bench.do(StopRequested(START + 10))
        assert bench.do(m.TaskCancel(task_id, "why")) == [
            CancelTask(task_id, "why"),
            CloseConnection(1000, "the runner stops"),
        ]

    def test_the_shorter_of_two_grace_periods_counts(self) -> None:
        for first, second in ((10, 5), (5, 10)):
            bench = Bench()
            bench.connect()
            bench.start()
            bench.do(StopRequested(START + first))
            bench.do(StopRequested(START + second))
            assert bench.session.next_deadline() == START + 5
            assert of(CancelTask, bench.pass_time(4.99)) == []
            assert of(CancelTask, bench.pass_time(0.01)) != []

    def test_with_no_grace_at_all(self) -> None:
        bench = Bench()
        bench.connect()
        task_id = bench.start()
        actions = bench.do(StopRequested(START))
        assert [type(action) for action in actions] == [m.TaskFailed, CancelTask, CloseConnection]
        assert actions[1] == CancelTask(task_id, "The runner was stopped", False)

    def test_a_loss_meanwhile_ends_it(self) -> None:
        bench = Bench()
        bench.connect()
        task_id = bench.start()
        bench.do(StopRequested(START + 10))
        assert bench.lose() == [CancelTask(task_id, REASON_LOST)]
        assert bench.session.state is State.CLOSED
        assert bench.session.orphans == 1
        assert bench.finish(task_id) == [ReportUndelivered(task_id, "t", b"answer", False, True)]
        assert bench.session.orphans == 0

    def test_while_our_close_frame_is_under_way(self) -> None:
        bench = Bench()
        bench.connect()
        bench.pass_time(liveness.PING_INTERVAL + liveness.SILENCE_LIMIT)
        assert bench.do(StopRequested(bench.now)) == []
        bench.lose()
        assert bench.session.state is State.CLOSED


class TestRepr:
    def test_what_is_logged_of_an_action_may_be_anything_but_is_never_asked_for_here(self) -> None:
        """Settings and payloads are handed on as they are: nothing here makes a text of them."""

        class Unprintable:
            def __repr__(self) -> str:
                raise AssertionError("somebody made a text of a payload")

            __str__ = __repr__

        bench = Bench()
        bench.connect()
        task_id = bench.accept()
        settings = Unprintable()
        (started,) = bench.do(m.TaskSettings(task_id, settings))
        assert started.settings is settings
        bench.call(task_id, "c")
        bench.do(m.RpcResponse(task_id, "c", "error", Unprintable()))
        bench.lose()
        assert json.dumps(bench.session.state.value) == '"disconnected"'


def test_a_task_that_was_interrupted_counts_as_unfinished() -> None:
    bench = Bench()
    bench.connect()
    task_id = bench.start()
    event = HandlerFinished(task_id, bench.session.generation, b"error", True, interrupted=True)
    assert SendPayload(b"error") in bench.do(event)
    account(bench, accepted=1, unfinished=1)
