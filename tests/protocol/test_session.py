"""A session, one event at a time. Its parts have tables of their own."""

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
    FunctionCalls,
    HandlerFinished,
    OfferingChanged,
    Pong,
    SlotFreed,
    StopRequested,
    TimeLimitSet,
    TypesChanged,
)
from n8nrunner.protocol.offers import (
    KEEP_ALIVE,
    OFFER_HONOUR,
    REASON_EXPIRED,
    REASON_FULL,
)
from n8nrunner.protocol.receipts import PING_REPEAT, PING_SPACING
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
from n8nrunner.protocol.slots import RESERVATION_TIME, Slots
from n8nrunner.protocol.states import SessionState
from n8nrunner.protocol.tasks import SETTINGS_TIMEOUT, timeout_message
from n8nrunner.snapshot import Counts
from tests.protocol.bench import PREPARED, START, Bench, connected, disconnected, of, skipped, without

NEVER = float("inf")
PING = (SendPing, SendUrgentPing, MeasureSocket)


def account(bench: Bench, **counts: int) -> None:
    """The counters are these, and all others are 0."""
    counters = bench.session.counters
    assert {name: getattr(counters, name) for name in Counts._fields if getattr(counters, name)} == counts


class TestConstants:
    def test_times_and_reasons_fit_n8ns(self) -> None:
        assert ACCEPT_WINDOW < 2, "n8n waits two seconds for an answer to its acceptance"
        assert REASON_WINDOW == "Acknowledgement window elapsed"
        assert REASON_STOPPING == "Runner is shutting down"


class TestConnecting:
    def test_a_registered_link_offers_its_slots(self) -> None:
        bench = Bench(capacity=2, types={"t": None})
        session = bench.session
        assert session.state is SessionState.DISCONNECTED
        assert session.next_deadline() == NEVER
        assert not bench.is_registered
        assert bench.do(connected(0.0)) == []
        assert session.generation == 1
        assert session.state is SessionState.AWAITING_INFO_REQUEST
        assert bench.do(m.InfoRequest()) == [m.RunnerInfo("name", ("t",))]
        assert session.state is SessionState.AWAITING_REGISTRATION
        assert not bench.is_registered
        assert bench.do(m.RunnerRegistered()) == [
            m.TaskOffer("a1", "t", 10_000),
            m.TaskOffer("a2", "t", 10_000),
        ]
        assert session.state is SessionState.OFFERING
        assert bench.is_registered
        assert not session.is_stopping

    def test_a_runner_without_types_registers_and_offers_nothing(self) -> None:
        bench = Bench(types={})
        bench.do(connected(0.0))
        assert bench.do(m.InfoRequest()) == [m.RunnerInfo("name", ())]
        assert bench.do(m.RunnerRegistered()) == []
        # No keep-alive either: n8n counts silence only against runners with a task type.
        assert without(PING, bench.pass_time(30)) == []
        assert bench.do(m.TaskOfferAccept("nonsense", "x")) == [m.TaskRejected("x", REASON_EXPIRED)]

    def test_the_runner_info_names_every_type_once(self) -> None:
        bench = Bench()
        bench.do(TypesChanged({"t": 1, "u": None}, {"p": PREPARED, "u": PREPARED}, ["v", "t", "p"]))
        bench.do(connected(0.0))
        assert bench.do(m.InfoRequest()) == [m.RunnerInfo("name", ("t", "u", "p", "v"))]

    def test_the_greeting_has_a_time_limit(self) -> None:
        bench = Bench()
        bench.do(connected(0.0))
        assert bench.session.next_deadline() == START + HANDSHAKE_TIMEOUT
        assert bench.pass_time(HANDSHAKE_TIMEOUT - 0.01) == []
        assert bench.pass_time(0.01) == [
            CloseConnection("the broker did not send broker:inforequest within 10 s")
        ]
        assert bench.session.next_deadline() == NEVER
        assert bench.pass_time(100) == []
        # Messages that come too late have no effect.
        assert bench.do(m.InfoRequest(), m.RunnerRegistered()) == []
        bench.lose()
        assert bench.session.state is SessionState.DISCONNECTED

    def test_the_registration_has_its_own_time_limit(self) -> None:
        bench = Bench()
        bench.do(connected(0.0))
        bench.pass_time(9)
        bench.do(m.InfoRequest())
        assert bench.session.next_deadline() == START + 9 + HANDSHAKE_TIMEOUT
        assert of(CloseConnection, bench.pass_time(9.99)) == []
        closing = CloseConnection("the broker did not send broker:runnerregistered within 10 s")
        assert bench.pass_time(0.01)[-1] == closing
        assert bench.do(m.RunnerRegistered()) == []
        assert not bench.is_registered
        assert bench.offers() == []

    def test_a_registered_link_has_no_handshake_limit(self) -> None:
        bench = Bench()
        bench.connect()
        assert of(CloseConnection, bench.pass_time(HANDSHAKE_TIMEOUT * 2)) == []

    def test_the_next_connection_starts_over(self) -> None:
        bench = Bench(capacity=2)
        bench.connect(0.9)
        bench.do(m.Drain())
        bench.session.set_receiving(True)
        bench.session.set_congested(True)
        bench.lose()
        assert bench.session.state is SessionState.DISCONNECTED
        assert bench.session.next_deadline() == NEVER
        bench.pass_time(500)
        assert bench.connect(0.0) == [m.TaskOffer("a3", "t", 10_000), m.TaskOffer("a4", "t", 10_000)]
        assert bench.session.generation == 2
        assert of(CloseConnection, bench.pass_time(liveness.SILENCE_LIMIT - 1)) == []

    def test_a_loss_before_the_registration_is_followed_by_a_new_handshake(self) -> None:
        bench = Bench()
        bench.do(connected(0.0))
        assert bench.lose() == []
        assert bench.session.state is SessionState.DISCONNECTED
        assert bench.session.next_deadline() == NEVER
        bench.do(connected(0.0), m.InfoRequest())
        assert bench.lose() == []
        assert bench.connect()

    def test_a_close_frame_does_not_end_the_next_connection(self) -> None:
        bench = Bench()
        bench.do(connected(0.0))
        bench.pass_time(HANDSHAKE_TIMEOUT)
        bench.lose()
        assert bench.connect() != []
        assert bench.is_registered


class TestOffers:
    def test_a_task_uses_one_offer_and_its_end_makes_a_new_one(self) -> None:
        bench = Bench(capacity=2)
        bench.connect()
        task_id = bench.start()
        assert bench.offers() == ["a2"]
        actions = bench.finish(task_id)
        assert without(PING, actions) == [SendPayload(b"answer"), m.TaskOffer("a3", "t", 10_000)]
        assert bench.offers() == ["a2", "a3"]

    def test_lapsed_offers_are_replaced_in_time(self) -> None:
        bench = Bench(capacity=3)
        bench.connect(0.5)
        assert of(m.TaskOffer, bench.pass_time(12.49)) == []
        assert bench.offers() == ["a1", "a2", "a3"]
        assert bench.session.next_deadline() == START + 12.5
        bench.now = START + 12.5
        assert of(m.TaskOffer, bench.settle()) == [m.TaskOffer(f"a{n}", "t", 12_500) for n in (4, 5, 6)]
        assert bench.offers() == ["a4", "a5", "a6"]

    def test_an_acceptance_of_a_lapsed_offer_is_granted(self) -> None:
        bench = Bench(capacity=1)
        bench.connect()
        bench.pass_time(10)
        assert bench.offers() == ["a2"]
        bench.now = START + 10 + OFFER_HONOUR - 0.001
        assert without(PING, bench.do(m.TaskOfferAccept("a1", "x"))) == [m.TaskAccepted("x")]
        account(bench, accepted=1)

    def test_an_acceptance_without_a_slot_is_rejected_and_gets_the_next_slot(self) -> None:
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

    def test_an_offer_follows_every_rejection(self) -> None:
        """n8n 2.27 does not match a rejected request before the next offer, even if it has offers."""
        bench = Bench(capacity=2)
        bench.connect()
        refused = m.TaskRejected("x", REASON_EXPIRED)
        assert bench.do(m.TaskOfferAccept("nonsense", "x")) == [refused, m.TaskOffer("a3", "t", 0)]
        assert bench.offers() == ["a1", "a2"]
        assert bench.do(SlotFreed()) == []  # once
        # A valid offer has the same effect.
        task_id = bench.start()
        bench.slots.release("t", bench.now)
        finished = HandlerFinished(task_id, 1, b"", False)
        assert bench.do(m.TaskOfferAccept("nonsense", "x"), finished) == [
            refused,
            SendPayload(b""),
            m.TaskOffer("a4", "t", 10_000),
        ]
        # Without an open offer of this runner, another runner may have one.
        bench.start()
        bench.start()
        assert bench.do(m.TaskOfferAccept("nonsense", "x")) == [refused, m.TaskOffer("a5", "t", 0)]

    def test_no_offer_follows_a_rejection_while_draining(self) -> None:
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

    def test_a_second_acceptance_of_a_task_is_ignored(self) -> None:
        bench = Bench()
        bench.connect()
        assert bench.do(m.TaskOfferAccept("a1", "x")) == [m.TaskAccepted("x")]
        assert bench.do(m.TaskOfferAccept("a1", "x")) == []
        assert bench.do(m.TaskOfferAccept("a2", "x")) == []
        bench.do(m.TaskSettings("x", 1))
        assert bench.do(m.TaskOfferAccept("a2", "x")) == []
        assert bench.offers() == ["a2"]
        assert bench.slots.taken == 1

    def test_a_new_type_is_offered_at_once(self) -> None:
        bench = Bench(capacity=3)
        bench.connect()
        assert bench.do(TypesChanged({"t": None, "u": None}, {}, ())) == [m.TaskOffer("a4", "u", 10_000)]
        assert bench.do(TypesChanged({"t": None, "u": None}, {}, ())) == []
        bench.lose()
        bench.do(connected(0.0))
        assert bench.do(m.InfoRequest()) == [m.RunnerInfo("name", ("t", "u"))]

    def test_a_new_type_during_the_handshake_is_offered_after_it(self) -> None:
        bench = Bench(capacity=1)
        bench.do(TypesChanged({"t": None, "u": None}, {}, ()))
        bench.do(connected(0.0))
        assert bench.do(m.InfoRequest()) == [m.RunnerInfo("name", ("t", "u"))]
        bench.do(TypesChanged({"t": None, "u": None, "v": None}, {}, ()))
        assert [offer.task_type for offer in bench.do(m.RunnerRegistered())] == ["t", "u", "v"]

    def test_the_types_given_are_copied(self) -> None:
        types = {"t": None}
        bench = Bench(types=types)
        bench.types = {"t": None}
        types["u"] = None
        assert {offer.task_type for offer in bench.connect()} == {"t"}
        later = {"t": None, "u": None}
        bench.do(TypesChanged(later, {}, ()))
        later["v"] = None
        bench.lose()
        bench.do(connected(0.0))
        assert bench.do(m.InfoRequest()) == [m.RunnerInfo("name", ("t", "u"))]


class TestOtherLinks:
    """Freed slots that other links can offer."""

    def two(self, capacity: int = 1) -> list[Bench]:
        slots = Slots(capacity, brokers=2)
        return [Bench(slots=slots, link="a"), Bench(slots=slots, link="b")]

    def test_a_lost_link_wakes_the_links_that_can_offer_instead(self) -> None:
        a, b = self.two()
        a.connect()
        b.connect()
        a.accept()
        assert b.do(m.TaskOfferAccept("b1", "x"))[0] == m.TaskRejected("x", REASON_FULL)
        assert a.lose() == [WakeLinks(("b",))]
        assert b.do(SlotFreed()) == [m.TaskOffer("b3", "t", 10_000)]

    def test_a_draining_or_stopping_link_wakes_no_link_that_does_not_wait(self) -> None:
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
            # The pair of `a` waited; now it leaves, and no other pair waits.
            assert of(WakeLinks, a.do(event)) == []

    def test_the_reserved_slot_of_a_leaving_link_goes_to_another(self) -> None:
        for event in (m.Drain(), StopRequested(START + 10), disconnected(0), OfferingChanged(False)):
            slots = Slots(1, brokers=3)
            a, b, c = (Bench(slots=slots, link=name) for name in "abc")
            for bench in (a, b, c):
                bench.connect()
            c.accept()
            for bench in (a, b):
                bench.do(m.TaskOfferAccept(bench.offers()[0], "x"))
            slots.release("t", a.now)  # reserved for `a`
            assert of(WakeLinks, a.do(event)) == [WakeLinks(("b",))]

    @pytest.mark.parametrize("end", ["cancel", "watchdog", "skipped", "held too long"])
    def test_a_slot_that_no_handler_used_wakes_other_links_at_once(self, end: str) -> None:
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
        elif end == "skipped":
            actions = a.do(skipped("broker:tasksettings", "x"))
        else:
            actions = a.pass_time(ACCEPT_WINDOW)
        assert WakeLinks(("b",)) in actions
        assert a.slots.taken == 0

    def test_a_lapsed_reservation_wakes_the_next_link(self) -> None:
        slots = Slots(1, brokers=3)
        a, b, c = (Bench(slots=slots, link=name) for name in "abc")
        for bench in (a, b, c):
            bench.connect()
        c.accept()
        for bench in (a, b):
            bench.do(m.TaskOfferAccept(bench.offers()[0], "x"))
        slots.release("t", a.now)
        assert a.do(SlotFreed()) == [m.TaskOffer("a3", "t", 10_000)]
        assert a.session.next_deadline() == START + RESERVATION_TIME
        assert a.pass_time(RESERVATION_TIME) == [WakeLinks(("b",))]

    def test_a_link_does_not_wake_itself(self) -> None:
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

    def test_an_expired_offer_is_sent_at_regular_intervals(self) -> None:
        bench = self.full()
        assert bench.pass_time(KEEP_ALIVE - 0.01) == []
        assert bench.pass_time(0.01) == [m.TaskOffer("a1", "t", 0)]
        assert bench.pass_time(3 * KEEP_ALIVE) == [m.TaskOffer(f"a{n}", "t", 0) for n in (2, 3, 4)]
        assert bench.offers() == []

    def test_any_other_message_postpones_the_keep_alive(self) -> None:
        bench = self.full()
        bench.pass_time(1.0)
        assert bench.do(m.TaskOfferAccept("unknown", "x"))[0] == m.TaskRejected("x", REASON_EXPIRED)
        assert bench.pass_time(KEEP_ALIVE - 0.01) == []
        assert bench.pass_time(0.01) == [m.TaskOffer("a2", "t", 0)]

    def test_calls_and_delayed_answers_postpone_the_keep_alive(self) -> None:
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

    @pytest.mark.parametrize("message", ["acceptance", "result", "timeout", "no settings", "skipped"])
    def test_the_keep_alive_counts_from_the_last_message(self, message: str) -> None:
        slots = Slots(1, brokers=2)
        bench = Bench(slots=slots, task_timeout=4.0)
        other = Bench(slots=slots, link="b")
        bench.connect()
        other.connect()
        bench.now += 1
        if message in ("result", "timeout"):
            task_id = bench.start()
        else:
            task_id = bench.accept()
        other.do(m.TaskOfferAccept(other.offers()[0], "rejected"))  # it gets the next slot
        if message == "acceptance":
            bench.do(m.TaskCancel(task_id, "why"))
        elif message == "result":
            bench.finish(task_id)
        elif message == "timeout":
            bench.pass_time(4.0)
        elif message == "no settings":
            bench.pass_time(SETTINGS_TIMEOUT)
        else:
            bench.do(skipped("broker:tasksettings", task_id))
        assert bench.offers() == []
        assert of(m.TaskOffer, bench.pass_time(KEEP_ALIVE - 0.01)) == []
        assert [offer.valid_for for offer in of(m.TaskOffer, bench.pass_time(0.01))] == [0]

    @pytest.mark.parametrize("reason", ["an open offer", "an accepted task", "a running task"])
    def test_no_keep_alive_is_sent_while_something_tells_the_broker_of_the_link(self, reason: str) -> None:
        bench = Bench(capacity=1)
        bench.connect()
        if reason == "an accepted task":
            bench.accept()
        elif reason == "a running task":
            bench.start()
        assert without(PING, bench.pass_time(9)) == []

    def test_no_keep_alive_is_sent_while_a_large_message_is_sent(self) -> None:
        bench = self.full()
        bench.session.set_congested(True)
        assert without(PING, bench.pass_time(9)) == []
        bench.session.set_congested(False)
        assert without(PING, bench.settle()) == [m.TaskOffer("a1", "t", 0)]

    def test_no_keep_alive_is_sent_while_draining(self) -> None:
        bench = self.full()
        bench.do(m.Drain())
        assert without(PING, bench.pass_time(9)) == []

    def test_no_keep_alive_is_sent_before_the_registration(self) -> None:
        bench = self.full()
        bench.lose()
        bench.do(connected(0.0))
        assert bench.pass_time(9) == []


class TestTasks:
    """The rows of the table "How a task ends" in docs/protocol.md."""

    def test_a_task_starts_with_its_settings(self) -> None:
        bench = Bench(capacity=1, task_timeout=60.0)
        bench.connect()
        task_id = bench.accept()
        assert bench.held_tasks == 1
        bench.now += 5
        settings = {"any": "settings"}
        (started,) = bench.do(m.TaskSettings(task_id, settings))
        assert started == StartTask(task_id, "t", 1, settings, bench.now + 60)
        assert started.settings is settings
        assert bench.do(m.TaskSettings(task_id, settings)) == []
        assert bench.held_tasks == 1

    @pytest.mark.parametrize("failed", [False, True])
    def test_an_answer_is_sent_and_its_slot_offered(self, failed: bool) -> None:
        bench = Bench(capacity=1)
        bench.connect()
        actions = bench.finish(bench.start(), b"the answer", failed)
        assert without(PING, actions) == [SendPayload(b"the answer"), m.TaskOffer("a2", "t", 10_000)]
        account(bench, accepted=1, **{"failed" if failed else "done": 1})
        assert bench.held_tasks == 0

    def test_a_cancelled_task_keeps_its_slot_until_its_handler_returns(self) -> None:
        bench = Bench(capacity=1)
        bench.connect()
        task_id = bench.start()
        assert bench.do(m.TaskCancel(task_id, "Task cancelled by user")) == [
            CancelTask(task_id, "Task cancelled by user", "cancelled")
        ]
        # Its slot is free when the handler has returned, and nothing is sent for it.
        assert bench.slots.taken == 1
        assert bench.held_tasks == 0
        assert without(PING, bench.finish(task_id)) == [m.TaskOffer("a2", "t", 10_000)]
        assert bench.do(m.TaskCancel(task_id, "again")) == []
        account(bench, accepted=1, cancelled=1)

    def test_a_cancel_without_a_reason_gets_one(self) -> None:
        for reason in (None, 5, {}):
            bench = Bench()
            bench.connect()
            task_id = bench.start()
            assert bench.do(m.TaskCancel(task_id, reason)) == [  # type: ignore[arg-type]
                CancelTask(task_id, "The task was cancelled", "cancelled")
            ]

    def test_a_task_cancelled_before_its_settings_frees_its_slot_at_once(self) -> None:
        bench = Bench(capacity=1)
        bench.connect()
        task_id = bench.accept()
        assert bench.do(m.TaskCancel(task_id, "why")) == [m.TaskOffer("a2", "t", 10_000)]
        assert bench.slots.taken == 0
        assert bench.do(m.TaskSettings(task_id, {})) == []
        account(bench, accepted=1, cancelled=1)

    def test_a_task_that_times_out_fails_at_once(self) -> None:
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
                "description": "The runner set this limit (task_timeout, or N8N_RUNNERS_TASK_TIMEOUT).",
            },
        )
        assert cancel == CancelTask(task_id, text, "timed_out")
        assert bench.slots.taken == 1
        assert without(PING, bench.finish(task_id)) == [m.TaskOffer("a2", "t", 10_000)]
        account(bench, accepted=1, timed_out=1)

    def test_a_task_with_a_limit_of_its_node_times_out_earlier(self) -> None:
        bench = Bench(capacity=2, task_timeout=7.0)
        bench.connect()
        first, second = bench.start(), bench.start()
        assert bench.do(TimeLimitSet(second, 1, START + 2, 2.0)) == []
        assert bench.session.next_deadline() == START + 2
        text = "Task execution timed out after 2 seconds"
        description = "The node's author set this limit (Time Limit, under Options)."
        assert bench.pass_time(2) == [
            m.TaskFailed(second, {"message": text, "description": description}),
            CancelTask(second, text, "timed_out"),
        ]
        (failed,) = of(m.TaskFailed, bench.pass_time(5))
        assert failed.task_id == first
        assert "The runner set this limit" in failed.error["description"]
        account(bench, accepted=2, timed_out=2)

    def test_a_limit_of_a_task_of_another_connection_is_ignored(self) -> None:
        bench = Bench(capacity=2)
        bench.connect()
        bench.do(m.TaskOfferAccept("a1", "same"), m.TaskSettings("same", 1))
        bench.lose()
        bench.connect()
        bench.do(m.TaskOfferAccept(bench.offers()[0], "same"), m.TaskSettings("same", 2))
        bench.do(TimeLimitSet("same", 1, bench.now + 1, 1.0))
        assert of(m.TaskFailed, bench.pass_time(5)) == []

    def test_a_running_task_of_a_lost_connection_is_reported(self) -> None:
        bench = Bench(capacity=1)
        bench.connect()
        task_id = bench.start()
        assert bench.lose() == [CancelTask(task_id, "The connection to n8n was lost", "lost")]
        assert len(bench.session.tasks.orphans) == 1
        assert bench.slots.taken == 1
        # Its slot is not offered before the handler returns, and its result is reported.
        assert bench.connect() == []
        assert bench.do(CallMade(task_id, 1, "c", b"", "call"))[0].call == "call"
        bench.slots.release("t", bench.now)
        assert bench.do(HandlerFinished(task_id, 1, b"late", True, function="score")) == [
            ReportUndelivered(task_id, "t", b"late", True, True, "score"),
            m.TaskOffer("a2", "t", 10_000),
        ]
        assert len(bench.session.tasks.orphans) == 0
        account(bench, accepted=1, lost=1, undelivered=1)

    def test_a_task_id_may_occur_again_on_the_next_connection(self) -> None:
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

    def test_a_result_without_a_connection_is_reported(self) -> None:
        bench = Bench()
        bench.connect()
        task_id = bench.start()
        bench.lose()
        assert bench.finish(task_id) == [ReportUndelivered(task_id, "t", b"answer", False, True)]
        assert bench.finish("other") == []

    def test_an_accepted_task_of_a_lost_connection_frees_its_slot(self) -> None:
        bench = Bench(capacity=1)
        bench.connect()
        bench.accept()
        assert bench.lose() == []
        assert bench.slots.taken == 0
        assert len(bench.session.tasks.orphans) == 0
        account(bench, accepted=1, lost=1)

    def test_a_task_without_settings_fails(self) -> None:
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

    def test_a_large_message_extends_the_time_for_settings(self) -> None:
        bench = Bench(capacity=3)
        bench.connect()
        first = bench.accept()
        bench.now += 1
        second = bench.accept()
        bench.session.set_receiving(True)
        bench.pass_time(SETTINGS_TIMEOUT - 2)
        bench.session.note_received(bench.now)
        bench.pass_time(5)
        assert bench.held_tasks == 2
        # The large message has come and was for another task: there is time once more.
        bench.session.set_receiving(False)
        assert bench.session.tasks.accepted == {
            first: ("t", START + 2 * SETTINGS_TIMEOUT),
            second: ("t", START + 1 + 2 * SETTINGS_TIMEOUT),
        }
        bench.now = START + 2 * SETTINGS_TIMEOUT - 1
        bench.session.note_received(bench.now)
        assert of(m.TaskFailed, bench.pass_time(0.99)) == []
        assert [failed.task_id for failed in of(m.TaskFailed, bench.pass_time(0.01))] == [first]
        assert [failed.task_id for failed in of(m.TaskFailed, bench.pass_time(1))] == [second]

    def test_a_task_whose_settings_are_skipped_fails(self) -> None:
        bench = Bench(capacity=1)
        bench.connect()
        task_id = bench.accept()
        event = skipped("broker:tasksettings", task_id)
        assert bench.do(event) == [
            m.TaskFailed(
                task_id, {"message": "The task's input is of no use", "description": "It has a flaw."}
            ),
            m.TaskOffer("a2", "t", 10_000),
        ]
        assert bench.slots.taken == 0
        assert bench.do(event) == []
        account(bench, accepted=1, failed=1)

    def test_a_paused_link_offers_nothing_and_rejects_acceptances(self) -> None:
        bench = Bench(capacity=2)
        bench.connect()
        offer = bench.offers()[0]
        running = bench.start()
        assert of(m.TaskOffer, bench.do(OfferingChanged(False))) == []
        assert m.TaskRejected("late", REASON_EXPIRED) in bench.do(m.TaskOfferAccept(offer, "late"))
        assert of(SendPayload, bench.finish(running))
        bench.do(TypesChanged({"t": None}, {}, ()))
        bench.do(disconnected(0))
        bench.connect()
        assert bench.offers() == []
        assert bench.slots.taken == 0
        assert len(of(m.TaskOffer, bench.do(OfferingChanged(True)))) == 2

    @pytest.mark.parametrize("head", ["", "t", "broker:taskofferaccept", "broker:tasksettings"])
    def test_a_skipped_message_that_belongs_to_no_task_is_ignored(self, head: str) -> None:
        bench = Bench()
        bench.connect()
        bench.start()
        assert bench.do(skipped(head or None)) == []
        assert bench.held_tasks == 1

    def test_skipped_settings_of_no_accepted_task_are_ignored(self) -> None:
        bench = Bench()
        bench.connect()
        task_id = bench.start()
        assert bench.do(skipped("broker:tasksettings", task_id)) == []
        assert bench.do(skipped("broker:tasksettings", "unknown", "c")) == []
        assert bench.do(skipped("broker:tasksettings")) == []
        assert bench.held_tasks == 1

    def test_the_end_of_the_grace_period_fails_the_tasks(self) -> None:
        bench = Bench(capacity=3)
        bench.connect()
        running, accepted = bench.start(), bench.accept()
        bench.call(running, "c")
        assert bench.do(StopRequested(START + 10)) == []
        assert bench.session.is_stopping
        bench.pass_time(9.99)
        assert bench.held_tasks == 2
        error = {
            "message": "The task runner was stopped before the task had finished",
            "description": "Its grace period is over; run the workflow again.",
        }
        actions = without(PING, bench.pass_time(0.01))
        assert actions == [
            m.TaskFailed(accepted, error),
            m.TaskFailed(running, error),
            EndCall("call c", None, "The runner was stopped"),
            CancelTask(running, "The runner was stopped", "unfinished"),
            CloseConnection("the runner stops"),
        ]
        assert bench.slots.taken == 1
        assert bench.finish(running) == []
        account(bench, accepted=2, unfinished=2)


class TestWhenToSettle:
    """Events of every task ask for no `settle` that has nothing to do, because a link settles after each."""

    def busy(self) -> Bench:
        """A link that has a task and an open offer."""
        bench = Bench(slots=Slots(2, brokers=2))
        bench.connect()
        bench.start()
        assert len(bench.offers()) == 1
        bench.now += liveness.PING_INTERVAL / 2
        bench.settle()
        return bench

    def test_a_result_is_followed_by_a_ping_in_time(self) -> None:
        bench = self.busy()
        pinged = START  # with the connection
        bench.slots.release("t", bench.now)
        bench.handle(HandlerFinished("task1", 1, b"answer", False, freed=False))
        assert bench.session.next_deadline() == pinged + PING_SPACING

    def test_a_result_that_leaves_no_offer_sets_the_keep_alive(self) -> None:
        slots = Slots(1, brokers=2)
        bench, other = Bench(slots=slots, link="a"), Bench(slots=slots, link="b")
        bench.connect()
        other.connect()
        task_id = bench.start()
        other.do(m.TaskOfferAccept(other.offers()[0], "refused"))
        assert slots.release("t", bench.now) == {"b"}
        bench.do(HandlerFinished(task_id, 1, b"answer", False, freed=False))
        due = bench.session.next_deadline()
        assert due <= bench.now + KEEP_ALIVE

    def test_the_last_result_after_a_stop_closes_the_connection_at_once(self) -> None:
        bench = self.busy()
        assert of(SendUrgentPing, bench.pass_time(liveness.PING_INTERVAL)), (
            "the ping would cause a `settle` by itself"
        )
        bench.do(StopRequested(bench.now + 60))
        assert bench.slots.release("t", bench.now) == set()
        bench.handle(HandlerFinished("task1", 1, b"answer", False, freed=False))
        assert of(CloseConnection, bench.settle()) != []

    def test_an_acceptance_does_not_hide_an_earlier_event(self) -> None:
        bench = Bench(capacity=3)
        bench.connect()
        task_id = bench.start()
        bench.slots.release("t", bench.now)
        bench.handle(HandlerFinished(task_id, 1, b"answer", False))
        bench.handle(m.TaskOfferAccept(bench.offers()[0], "x"))
        assert len(of(m.TaskOffer, bench.settle())) == 1

    def test_a_delayed_answer_has_its_window(self) -> None:
        bench = Bench(capacity=3)
        bench.connect()
        bench.session.set_congested(True)
        bench.settle()
        bench.handle(m.TaskOfferAccept(bench.offers()[0], "x"))
        assert bench.session.next_deadline() == bench.now + ACCEPT_WINDOW

    def test_an_acceptance_is_followed_by_an_offer_while_slots_are_free(self) -> None:
        bench = Bench(slots=Slots(2, brokers=2))
        bench.connect()
        (offer_id,) = bench.offers()
        bench.handle(m.TaskOfferAccept(offer_id, "x"))
        assert len(of(m.TaskOffer, bench.settle())) == 1

    def test_an_acceptance_sets_its_own_deadline(self) -> None:
        bench = Bench(capacity=1)
        bench.connect(jitter=0.9)
        bench.handle(m.TaskOfferAccept(bench.offers()[0], "x"))
        assert bench.settle() == []
        bench.pass_time(SETTINGS_TIMEOUT - 1)
        assert of(m.TaskFailed, bench.pass_time(1)) != []


class TestCounters:
    def test_each_counter_counts_its_own_events(self) -> None:
        bench = Bench(capacity=20, task_timeout=5.0)
        bench.connect()
        for _ in range(2):
            bench.do(m.TaskOfferAccept("unknown", "x"))
            bench.finish(bench.start())
            bench.finish(bench.start(), failed=True)
            bench.do(m.TaskCancel(bench.accept(), "why"))
            bench.do(m.TaskCancel(bench.start(), "why"))
            bench.do(skipped("broker:tasksettings", bench.accept()))
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

    def test_tasks_of_a_lost_connection_are_counted(self) -> None:
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

    def test_tasks_that_end_after_the_close_frame_are_counted(self) -> None:
        bench = Bench(capacity=3, task_timeout=1000.0)
        bench.connect()
        tasks = [bench.start(), bench.start()]
        bench.pass_time(liveness.PING_INTERVAL + liveness.SILENCE_LIMIT)
        for task_id in tasks:
            bench.finish(task_id)
        account(bench, accepted=2, lost=2, undelivered=2)

    def test_tasks_that_a_stop_cuts_short_are_counted(self) -> None:
        bench = Bench(capacity=4)
        bench.connect()
        for begin in (bench.start, bench.start, bench.accept, bench.accept):
            begin()
        bench.do(StopRequested(bench.now))
        account(bench, accepted=4, unfinished=4)


class TestIdle:
    """When the runner became idle, for the idle shutdown."""

    def test_the_runner_is_idle_from_the_registration_or_the_last_task(self) -> None:
        bench = Bench()
        bench.now += 3
        bench.connect()
        assert bench.slots.idle_since == START + 3
        bench.now += 1
        bench.do(TypesChanged({"t": None}, {}, ()))
        assert bench.slots.idle_since == START + 4
        bench.now += 1
        bench.do(OfferingChanged(True))
        assert bench.slots.idle_since == START + 5
        for end in (
            lambda task_id: bench.do(m.TaskCancel(task_id, "why")),
            lambda task_id: bench.do(skipped("broker:tasksettings", task_id)),
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

    def test_a_call_is_sent_and_ends_with_its_answer(self) -> None:
        bench = self.bench()
        assert bench.call("task1", "c", b"the call") == [SendPayload(b"the call")]
        assert bench.do(m.RpcResponse("task1", "c", "success", [1])) == [EndCall("call c", [1], None)]
        assert bench.do(m.RpcResponse("task1", "c", "success", [1])) == []

    @pytest.mark.parametrize("data", ["Method not allowed", {"message": "no"}])
    def test_an_error_passes_its_reason_on(self, data: Any) -> None:
        bench = self.bench()
        bench.call("task1", "c")
        assert bench.do(m.RpcResponse("task1", "c", "error", data)) == [EndCall("call c", None, data)]

    @pytest.mark.parametrize("data", [None, {}, "", []])
    def test_an_error_without_a_reason_gets_one(self, data: Any) -> None:
        bench = self.bench()
        bench.call("task1", "c")
        assert bench.do(m.RpcResponse("task1", "c", "error", data)) == [
            EndCall("call c", None, "n8n gave no reason")
        ]

    def test_task_data_and_node_types_end_their_calls(self) -> None:
        bench = self.bench()
        bench.call("task1", "c")
        bench.call("task1", "d")
        assert bench.do(m.NodeTypes("task1", "d", [{}])) == [EndCall("call d", [{}], None)]
        assert bench.do(m.TaskDataResponse("task1", "c", {"a": 1})) == [EndCall("call c", {"a": 1}, None)]

    def test_a_call_without_an_answer_is_only_sent(self) -> None:
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

    def test_a_call_of_an_ended_task_ends_at_once(self) -> None:
        bench = self.bench()
        bench.finish("task1")
        assert bench.call("task1", "c") == [EndCall("call c", None, "the task has ended")]
        assert bench.do(CallMade("task1", 1, "c", b"log", None)) == []
        assert bench.call("unknown", "c") == [EndCall("call c", None, "the task has ended")]

    def test_a_call_of_a_task_without_settings_is_not_sent(self) -> None:
        bench = self.bench()
        accepted = bench.accept()
        assert of(SendPayload, bench.call(accepted, "c")) == []

    def test_a_skipped_answer_ends_its_call_with_an_error(self) -> None:
        for event in (
            skipped("broker:rpcresponse", "task1", "c"),
            skipped("broker:taskdataresponse", "task1", None, "c"),
            skipped("broker:nodetypes", None, None, "c"),
        ):
            bench = self.bench()
            bench.call("task1", "c")
            error = "the answer of n8n is of no use. It has a flaw."
            assert bench.do(event) == [EndCall("call c", None, error)]
            assert bench.do(event) == []

    def test_an_answer_of_an_earlier_connection_is_ignored(self) -> None:
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
    """While a large message is sent, no other message may stand between its fragments."""

    def bench(self, capacity: int = 2, **kwargs: Any) -> Bench:
        bench = Bench(capacity=capacity, **kwargs)
        bench.connect()
        bench.session.set_congested(True)
        return bench

    def test_answers_to_acceptances_wait_and_are_sent_in_order(self) -> None:
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

    def test_an_acceptance_that_cannot_be_sent_in_its_window_is_dropped(self) -> None:
        bench = self.bench()
        bench.do(m.TaskOfferAccept("a1", "x"))
        assert bench.pass_time(ACCEPT_WINDOW - 0.01) == []
        assert bench.slots.taken == 1
        assert bench.pass_time(0.01) == []
        # Its slot is free, and the broker will throw away the other offers.
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

    def test_each_delayed_answer_has_its_own_window(self) -> None:
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

    def test_a_dropped_rejection_voids_the_offers(self) -> None:
        bench = self.bench()
        bench.do(m.TaskOfferAccept("unknown", "x"))
        bench.pass_time(ACCEPT_WINDOW)
        assert bench.offers() == []
        account(bench, rejected=1)

    def test_a_second_acceptance_for_a_rejected_task_has_its_own_window(self) -> None:
        bench = self.bench(3)
        bench.do(m.TaskOfferAccept("unknown", "x"))
        bench.now += 1
        bench.do(m.TaskOfferAccept("a1", "x"))
        bench.pass_time(ACCEPT_WINDOW - 1)
        assert bench.slots.taken == 1
        bench.pass_time(1)
        assert bench.slots.taken == 0

    def test_a_task_may_be_cancelled_before_its_delayed_answer(self) -> None:
        bench = self.bench()
        bench.do(m.TaskOfferAccept("a1", "x"))
        bench.do(m.TaskCancel("x", "why"))
        assert bench.slots.taken == 0
        bench.pass_time(ACCEPT_WINDOW)
        account(bench, accepted=1, cancelled=1)

    def test_a_loss_drops_delayed_answers(self) -> None:
        bench = self.bench()
        bench.do(m.TaskOfferAccept("a1", "x"))
        bench.lose()
        assert bench.slots.taken == 0
        account(bench, accepted=1, lost=1)
        assert [offer.offer_id for offer in bench.connect()] == ["a3", "a4"]
        assert bench.do(m.TaskOfferAccept("a3", "y")) == [m.TaskAccepted("y")]

    def test_no_offer_is_made_while_a_large_message_is_sent(self) -> None:
        bench = self.bench()
        assert without(PING, bench.pass_time(10)) == []
        assert bench.offers() == []
        bench.session.set_congested(False)
        assert of(m.TaskOffer, bench.settle()) == [
            m.TaskOffer("a3", "t", 10_000),
            m.TaskOffer("a4", "t", 10_000),
        ]

    def test_results_calls_and_errors_are_not_delayed(self) -> None:
        bench = Bench(capacity=3, task_timeout=5.0)
        bench.connect()
        first, second = bench.start(), bench.start()
        bench.session.set_congested(True)
        assert bench.call(first, "c") == [SendPayload(b"call")]
        assert SendPayload(b"answer") in bench.finish(first)
        assert of(m.TaskFailed, bench.pass_time(5))[0].task_id == second

    def test_a_congested_link_passes_its_reserved_slot_on(self) -> None:
        slots = Slots(1, brokers=2)
        a, b = Bench(slots=slots, link="a"), Bench(slots=slots, link="b")
        a.connect()
        b.connect()
        task_id = b.start()
        a.do(m.TaskOfferAccept("a1", "x"))
        a.session.set_congested(True)
        a.settle()
        slots.release("t", a.now)  # reserved for `a`
        assert a.do(SlotFreed()) == []
        assert SendPayload(b"answer") in b.do(HandlerFinished(task_id, 1, b"answer", False))
        assert b.offers() == []
        assert a.session.next_deadline() == START + RESERVATION_TIME
        assert without(PING, a.pass_time(RESERVATION_TIME)) == [WakeLinks(("b",))]
        assert without(PING, b.do(SlotFreed())) == [m.TaskOffer("b2", "t", 10_000)]
        assert b.accept()
        # The link sleeps until something happens, however long its message takes.
        turns = 0
        while a.now < START + 20:
            due = a.session.next_deadline()
            a.now = due
            a.session.note_received(a.now)
            a.settle()
            turns += 1
        assert turns <= 10


class TestMissedAcceptance:
    """n8n 2.40 throws away all offers of a runner that did not answer an acceptance in time."""

    def test_all_offers_are_replaced(self) -> None:
        bench = Bench(capacity=3)
        bench.connect()
        task_id = bench.accept()
        assert bench.do(m.TaskCancel(task_id, "Acknowledgement window elapsed")) == [
            m.TaskOffer(f"a{n}", "t", 10_000) for n in (4, 5, 6)
        ]
        assert bench.offers() == ["a4", "a5", "a6"]
        assert bench.do(m.TaskOfferAccept("a2", "x"))[0] == m.TaskRejected("x", REASON_EXPIRED)
        account(bench, accepted=1, cancelled=1, rejected=1)

    def test_offers_are_replaced_for_an_unknown_task_too(self) -> None:
        bench = Bench(capacity=2)
        bench.connect()
        assert bench.do(m.TaskCancel("unknown", "Acknowledgement window elapsed")) == [
            m.TaskOffer("a3", "t", 10_000),
            m.TaskOffer("a4", "t", 10_000),
        ]

    def test_a_cancel_for_another_reason_leaves_the_offers_open(self) -> None:
        bench = Bench(capacity=2)
        bench.connect()
        assert bench.do(m.TaskCancel("unknown", "Task request expired")) == []
        assert bench.offers() == ["a1", "a2"]


class TestLiveness:
    """The actions that follow the decisions of `liveness`."""

    def test_a_silent_connection_is_pinged_once(self) -> None:
        bench = Bench(capacity=1)
        bench.connect(0.99)
        assert bench.pass_time(liveness.PING_INTERVAL - 0.01) == []
        assert bench.pass_time(0.01) == [SendUrgentPing(LIVENESS_PING)]
        assert of((SendPing, SendUrgentPing), bench.pass_time(liveness.SILENCE_LIMIT - 1)) == []

    def test_the_pong_of_a_liveness_ping_is_not_a_receipt(self) -> None:
        bench = Bench(capacity=1)
        bench.connect()
        bench.now += 1
        bench.finish(bench.start())
        assert bench.session.receipts.results
        bench.pass_time(liveness.PING_INTERVAL)
        bench.session.note_received(bench.now)
        assert bench.do(Pong(LIVENESS_PING)) == []
        assert bench.session.receipts.results
        assert of(AbortConnection, bench.pass_time(liveness.SILENCE_LIMIT)) == []

    def test_a_silent_peer_ends_the_connection(self) -> None:
        bench = Bench()
        bench.connect()
        bench.pass_time(liveness.PING_INTERVAL + liveness.SILENCE_LIMIT - 0.01)
        assert bench.is_registered
        reason = "the broker has been silent for 30 s after a ping"
        assert bench.pass_time(0.01)[-1] == AbortConnection(reason)
        assert not bench.is_registered
        assert bench.session.next_deadline() == NEVER
        assert bench.pass_time(100) == []
        bench.lose()
        assert bench.session.state is SessionState.DISCONNECTED

    def test_bytes_that_the_kernel_accepts_are_not_a_sign_of_life(self) -> None:
        bench = Bench()
        bench.connect()
        offers: list[Any] = []
        ended_after = 0.0
        while bench.is_registered:
            ended_after += 0.5
            offers += of(m.TaskOffer, bench.pass_time(0.5))
            bench.measured = bench.measured._replace(bytes_written=bench.measured.bytes_written + 100)
        assert len(offers) > 4
        assert ended_after == liveness.PING_INTERVAL + liveness.SILENCE_LIMIT

    def test_a_host_that_acknowledges_nothing_ends_the_connection(self) -> None:
        bench = Bench()
        bench.connect()
        bench.pass_time(liveness.PING_INTERVAL)
        bench.measured = bench.measured._replace(unacknowledged=1, silent_for=14.9)
        bench.pass_time(liveness.MEASURE_INTERVAL)
        assert bench.is_registered
        bench.measured = bench.measured._replace(silent_for=15.0)
        assert bench.pass_time(0.1)[-1] == AbortConnection(
            "the broker's host has acknowledged nothing for 15 s: the network or the host is down"
        )

    def test_reading_pauses_while_too_much_waits(self) -> None:
        bench = Bench()
        bench.connect()
        assert not bench.session.set_waiting(True, BACKLOG_LIMIT, bench.now)
        assert bench.session.set_waiting(True, BACKLOG_LIMIT + 1, bench.now)
        assert not bench.session.set_waiting(False, 0, bench.now)

    def test_reading_pauses_while_too_many_answers_are_delayed(self) -> None:
        bench = Bench()
        bench.connect()
        bench.session.set_congested(True)
        for number in range(DELAYED_LIMIT + 1):
            assert not bench.session.set_waiting(True, 0, bench.now)
            bench.do(m.TaskOfferAccept("unknown", f"task{number}"))
        assert bench.session.set_waiting(True, 0, bench.now)
        bench.pass_time(ACCEPT_WINDOW)
        assert not bench.session.set_waiting(True, 0, bench.now)

    def test_a_pause_of_reading_has_its_own_limit(self) -> None:
        bench = Bench()
        bench.connect()
        bench.pass_time(liveness.PING_INTERVAL)
        for _ in range(20):
            assert bench.session.set_waiting(True, BACKLOG_LIMIT + 1, bench.now)
            bench.measured = bench.measured._replace(bytes_written=bench.measured.bytes_written + 1)
            assert of(AbortConnection, bench.pass_time(5)) == []
        (end,) = of(AbortConnection, bench.pass_time(liveness.STALL_LIMIT))
        assert end.reason == "the broker has stopped reading: it has taken nothing for 30 s"

    def test_an_acceptance_with_an_overlong_id_is_ignored(self) -> None:
        bench = Bench()
        bench.connect()
        assert bench.do(m.TaskOfferAccept("unknown", "x" * ID_LIMIT)) != []
        assert bench.do(m.TaskOfferAccept("unknown", "x" * (ID_LIMIT + 1))) == []

    def test_a_result_after_the_end_of_the_connection_is_reported(self) -> None:
        bench = Bench(task_timeout=1000.0)
        bench.connect()
        task_id = bench.start()
        bench.call(task_id, "c")
        bench.pass_time(liveness.PING_INTERVAL + liveness.SILENCE_LIMIT)
        assert not bench.is_registered
        assert bench.finish(task_id, b"late", True) == [
            EndCall("call c", None, "the task has ended"),
            ReportUndelivered(task_id, "t", b"late", True, True),
        ]
        account(bench, accepted=1, lost=1, undelivered=1)
        assert bench.lose() == []

    def test_no_ping_follows_a_close_frame(self) -> None:
        bench = Bench()
        bench.do(connected(0.0))
        bench.now += 1000  # a ping and the end of the handshake are both due
        assert [type(action) for action in bench.settle()] == [CloseConnection]
        bench = Bench()
        bench.connect()
        bench.now += liveness.PING_INTERVAL
        assert [type(action) for action in bench.do(StopRequested(bench.now))] == [CloseConnection]


class TestDelivery:
    """A pong proves the results before its ping; other results are uncertain when the connection ends."""

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

    def test_a_ping_follows_a_result_at_once(self) -> None:
        bench = Bench(capacity=1)
        bench.connect()
        bench.now += 1
        actions = bench.finish(bench.start())
        assert actions[-1] == SendPing(str(bench.sent))
        assert actions.index(SendPayload(b"answer")) < len(actions) - 1

    def test_the_next_ping_waits_for_the_pong_and_the_spacing(self) -> None:
        bench, ping = self.answered()
        assert of(PING, bench.finish(bench.start())) == []  # the first one is not answered yet
        assert of(PING, bench.do(Pong(ping.payload))) == []
        assert bench.session.next_deadline() == START + 1 + PING_SPACING
        (second,) = of(PING, bench.pass_time(PING_SPACING))
        assert bench.session.receipts.results
        bench.do(Pong(second.payload))
        assert not bench.session.receipts.results
        assert of(SendPing, bench.pass_time(60)) == []

    def test_a_ping_is_not_repeated_while_a_large_message_is_sent(self) -> None:
        bench, _ = self.answered()
        bench.session.set_congested(True)
        assert of(SendPing, bench.pass_time(2 * PING_REPEAT)) == []
        bench.session.set_congested(False)
        assert len(of(SendPing, bench.settle())) == 1

    def test_a_pong_proves_the_last_message_before_its_ping(self) -> None:
        bench = Bench(capacity=2)
        bench.connect()
        first, _ = bench.start(), bench.start()
        bench.do(m.Drain())  # so that no offer follows the answer
        bench.now += 1
        actions = bench.finish(first)
        assert [type(action) for action in actions] == [SendPayload, SendPing]
        bench.do(Pong(actions[1].payload))
        assert of(ReportUndelivered, bench.lose(written=1000)) == []

    @pytest.mark.parametrize(("written", "certain"), [(-1, True), (0, False), (1, False)])
    def test_an_ordinal_counts_every_message_but_no_ping(self, written: int, certain: bool) -> None:
        bench, _ = self.answered()
        ordinal = bench.session.receipts.results[0].ordinal
        # Registration, 8 offers, the acceptance; the ping is none.
        assert ordinal == 1 + 8 + 1 + 1
        (report,) = bench.lose(written=ordinal + written)
        assert report.certain is certain

    def test_results_without_a_proof_are_reported_and_counted(self) -> None:
        bench = Bench()
        bench.connect()
        for count in (1, 2):
            task_id = bench.start()
            bench.finish(task_id, b"payload", failed=True, function="score")
            assert bench.lose(written=1000) == [
                ReportUndelivered(task_id, "t", b"payload", True, False, "score"),
            ]
            account(bench, accepted=count, failed=count, undelivered=count)
            bench.connect()

    def test_each_connection_counts_its_messages_from_1(self) -> None:
        bench, _ = self.answered()
        bench.lose(written=1000)
        bench.connect()
        assert bench.sent == 9
        bench.finish(bench.start())
        assert bench.session.receipts.results[0].ordinal == 11

    def test_the_brokers_close_frame_proves_all_results(self) -> None:
        bench, _ = self.answered(2)
        assert bench.lose(written=0, clean=True) == []
        account(bench, accepted=2, done=2)

    def test_errors_of_the_runner_are_not_results(self) -> None:
        bench = Bench(task_timeout=1.0)
        bench.connect()
        bench.start()
        bench.pass_time(1)
        assert bench.lose(written=0) == []


class TestDrain:
    def test_a_drain_ends_offers_and_finishes_tasks(self) -> None:
        bench = Bench(capacity=3)
        bench.connect()
        running, accepted = bench.start(), bench.accept()
        assert bench.do(m.Drain()) == []
        assert bench.session.state is SessionState.DRAINING
        assert bench.is_registered
        assert bench.offers() == []
        # An acceptance that was under way.
        assert bench.do(m.TaskOfferAccept("a3", "x")) == [m.TaskRejected("x", REASON_STOPPING)]
        assert bench.do(m.TaskSettings(accepted, 1))[0].task_id == accepted
        assert without(PING, bench.finish(running)) == [SendPayload(b"answer")]
        assert without(PING, bench.finish(accepted)) == [SendPayload(b"answer")]
        account(bench, accepted=2, done=2, rejected=1)
        # Now the broker closes, and the link connects again.
        assert bench.lose(1000, clean=True) == []
        assert bench.session.state is SessionState.DISCONNECTED
        assert len(bench.connect()) == 3

    def test_a_drained_link_closes_if_the_broker_does_not(self) -> None:
        bench = Bench()
        bench.connect()
        bench.do(m.Drain())
        self.passing(bench, DRAIN_LIMIT - 1)
        assert bench.is_registered
        assert of(CloseConnection, bench.pass_time(0.99)) == []
        assert of(CloseConnection, bench.pass_time(0.01)) == [
            CloseConnection("the broker did not close the connection after its drain")
        ]

    def passing(self, bench: Bench, seconds: float) -> list[Any]:
        """Let time pass while the peer is alive."""
        actions = []
        end = bench.now + seconds
        while bench.now < end:
            actions += bench.pass_time(min(5, end - bench.now))
            bench.session.note_received(bench.now)
        return actions

    def test_a_drained_link_does_not_close_while_a_task_runs(self) -> None:
        bench = Bench(capacity=2, task_timeout=1000.0)
        bench.connect()
        task_id = bench.start()
        bench.do(m.Drain())
        assert of(CloseConnection, self.passing(bench, DRAIN_LIMIT + 50)) == []
        actions = bench.finish(task_id)
        assert SendPayload(b"answer") in actions
        assert of(CloseConnection, actions) != []

    def test_a_drained_link_does_not_close_while_a_task_waits_for_settings(self) -> None:
        bench = Bench()
        bench.connect()
        task_id = bench.accept()
        bench.do(m.Drain())
        bench.session.set_receiving(True)  # so that its settings may take any time
        assert of(CloseConnection, self.passing(bench, DRAIN_LIMIT + 5)) == []
        assert CloseConnection("the broker did not close the connection after its drain") in bench.do(
            m.TaskCancel(task_id, "why")
        )

    def test_a_stop_during_a_drain_ends_the_tasks(self) -> None:
        bench = Bench(task_timeout=1000.0)
        bench.connect()
        task_id = bench.start()
        bench.do(m.Drain())
        self.passing(bench, DRAIN_LIMIT - 1)
        assert bench.do(StopRequested(bench.now + 30)) == []
        assert of(CloseConnection, self.passing(bench, 20)) == []
        actions = self.passing(bench, 10)
        assert CancelTask(task_id, REASON_STOPPED, "unfinished") in actions
        assert of(CloseConnection, actions) == [CloseConnection("the runner stops")]

    def test_the_limit_of_a_drain_is_a_deadline(self) -> None:
        bench = Bench()
        bench.connect()
        bench.do(m.Drain())
        bench.now = START + DRAIN_LIMIT - 5
        bench.session.note_received(bench.now)
        bench.settle()
        assert bench.session.next_deadline() == START + DRAIN_LIMIT

    def test_a_second_drain_does_not_restart_the_limit(self) -> None:
        bench = Bench()
        bench.connect()
        bench.do(m.Drain())
        self.passing(bench, DRAIN_LIMIT - 1)
        bench.do(m.Drain())
        assert of(CloseConnection, bench.pass_time(1)) != []

    def test_a_delayed_answer_is_sent_while_draining(self) -> None:
        bench = Bench()
        bench.connect()
        bench.session.set_congested(True)
        bench.do(m.TaskOfferAccept("a1", "x"))
        bench.do(m.Drain())
        bench.session.set_congested(False)
        assert bench.settle() == [m.TaskAccepted("x")]
        assert bench.do(m.TaskSettings("x", 1))[0].task_id == "x"


class TestStop:
    def test_a_stop_without_a_connection_closes_the_session(self) -> None:
        bench = Bench()
        assert bench.do(StopRequested(START + 10)) == []
        assert bench.session.state is SessionState.CLOSED
        assert bench.session.is_stopping
        assert bench.session.next_deadline() == NEVER
        assert bench.do(connected(0.0), StopRequested(START), disconnected(0)) == []
        assert bench.session.state is SessionState.CLOSED

    @pytest.mark.parametrize("events", [[], [m.InfoRequest()]])
    def test_a_stop_during_the_handshake_closes_the_connection(self, events: list[Any]) -> None:
        bench = Bench()
        bench.do(connected(0.0), *events)
        assert bench.do(StopRequested(START + 10)) == [CloseConnection("the runner stops")]
        assert bench.do(StopRequested(START + 10)) == []
        bench.lose()
        assert bench.session.state is SessionState.CLOSED

    def test_a_stop_without_tasks_closes_the_connection(self) -> None:
        bench = Bench()
        bench.connect()
        assert bench.do(StopRequested(START + 10)) == [CloseConnection("the runner stops")]
        assert bench.session.state is SessionState.CLOSING
        assert not bench.is_registered
        bench.lose()
        assert bench.session.state is SessionState.CLOSED

    def test_a_stop_waits_for_the_tasks(self) -> None:
        bench = Bench(capacity=3)
        bench.connect()
        running, accepted = bench.start(), bench.accept()
        assert bench.do(StopRequested(START + 10)) == []
        assert bench.offers() == []
        assert bench.do(m.TaskOfferAccept("a3", "x")) == [m.TaskRejected("x", REASON_STOPPING)]
        # Until then the connection is alive: calls are answered, tasks are started.
        assert bench.call(running, "c") == [SendPayload(b"call")]
        assert bench.do(m.RpcResponse(running, "c", "success", 1)) == [EndCall("call c", 1, None)]
        assert bench.do(m.TaskSettings(accepted, 1))[0].task_id == accepted
        assert without(PING, bench.finish(running)) == [SendPayload(b"answer")]
        assert without(PING, bench.finish(accepted)) == [
            SendPayload(b"answer"),
            CloseConnection("the runner stops"),
        ]
        assert bench.lose(1000, clean=True) == []
        assert bench.session.state is SessionState.CLOSED
        account(bench, accepted=2, done=2, rejected=1)

    def test_a_stop_does_not_wait_for_a_cancelled_task(self) -> None:
        bench = Bench()
        bench.connect()
        task_id = bench.start()
        bench.do(StopRequested(START + 10))
        assert bench.do(m.TaskCancel(task_id, "why")) == [
            CancelTask(task_id, "why", "cancelled"),
            CloseConnection("the runner stops"),
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

    def test_a_stop_without_a_grace_period_ends_the_tasks_at_once(self) -> None:
        bench = Bench()
        bench.connect()
        task_id = bench.start()
        actions = bench.do(StopRequested(START))
        assert [type(action) for action in actions] == [m.TaskFailed, CancelTask, CloseConnection]
        assert actions[1] == CancelTask(task_id, "The runner was stopped", "unfinished")

    def test_a_loss_ends_a_stopping_session(self) -> None:
        bench = Bench()
        bench.connect()
        task_id = bench.start()
        bench.do(StopRequested(START + 10))
        assert bench.lose() == [CancelTask(task_id, REASON_LOST, "lost")]
        assert bench.session.state is SessionState.CLOSED
        assert len(bench.session.tasks.orphans) == 1
        assert bench.finish(task_id) == [ReportUndelivered(task_id, "t", b"answer", False, True)]
        assert len(bench.session.tasks.orphans) == 0

    def test_a_stop_after_the_connection_ended_closes_the_session(self) -> None:
        bench = Bench()
        bench.connect()
        bench.pass_time(liveness.PING_INTERVAL + liveness.SILENCE_LIMIT)
        assert bench.do(StopRequested(bench.now)) == []
        bench.lose()
        assert bench.session.state is SessionState.CLOSED


class TestOpaqueValues:
    def test_settings_and_answers_are_passed_on_without_a_look(self) -> None:
        """Nothing here makes a string of settings and payloads."""

        class Unprintable:
            def __repr__(self) -> str:
                raise AssertionError("a string was made of a payload")

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


@pytest.mark.parametrize(
    ("outcome", "counter"),
    [
        ({"failed": False, "calls": FunctionCalls.DONE}, "done"),
        ({"failed": False, "calls": FunctionCalls.FAILED}, "failed"),
        ({"failed": False, "calls": FunctionCalls.AGAIN}, "retried"),
        ({"failed": True, "calls": FunctionCalls.DONE}, "failed"),
        ({"failed": True, "interrupted": True}, "unfinished"),
    ],
)
def test_an_answer_is_counted_by_its_outcome(outcome: Any, counter: str) -> None:
    bench = Bench()
    bench.connect()
    for count in (1, 2):
        bench.do(HandlerFinished(bench.start(), 1, b"answer", **outcome))
        bench.slots.release("t", bench.now)
        account(bench, accepted=count, **{counter: count})


def test_a_stop_adds_to_the_unfinished_tasks() -> None:
    bench = Bench()
    bench.connect()
    bench.do(HandlerFinished(bench.start(), 1, b"error", True, interrupted=True))
    bench.start()
    bench.do(StopRequested(bench.now))
    account(bench, accepted=2, unfinished=2)
