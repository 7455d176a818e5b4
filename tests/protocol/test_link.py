"""The life of a link without a socket: every transition, then what it does about grants, logs and closing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Callable, NamedTuple

import pytest

from n8nrunner.errors import AuthenticationError, GrantTokenSpent
from n8nrunner.protocol import actions as a
from n8nrunner.protocol import events as e
from n8nrunner.protocol import messages as m
from n8nrunner.protocol.actions import LogLevel
from n8nrunner.protocol.failures import (
    AuthRefused,
    ConnectionLost,
    LinkFailure,
    NotABroker,
    RateLimited,
    Unreachable,
    UpgradeRefused,
)
from n8nrunner.protocol.link import (
    CLOSE_WAIT,
    CLOSE_WAIT_LATE,
    DEFECT_PAUSE,
    TRANSITIONS,
    LinkState,
)
from n8nrunner.protocol.retry import HEALTHY_JITTER, REFUSED_WAIT
from n8nrunner.protocol.session import HANDSHAKE_TIMEOUT
from n8nrunner.protocol.states import SessionState
from tests.protocol.link_bench import BROKER, GRANT, Connection, LinkBench

WAITING, CONNECTING, PROBING, REFUSED, CONNECTED, CLOSING, FINISHING, ENDED = LinkState


def bench_in(state: LinkState, **options: Any) -> LinkBench:
    """Return a link in `state`. A connected one is registered, a closing one was not registered in time."""
    bench = LinkBench(**options)
    if state is WAITING:
        return bench
    bench.settle()
    if state is PROBING:
        bench.fail(Unreachable("no answer"))
        bench.wait(1)
    elif state is REFUSED:
        bench.attempt = None
        bench.machine.handle(e.AttemptFailed(AuthRefused("wrong"), None, 0.0), bench.now)
    elif state is CLOSING:
        bench.open()
        bench.wait(HANDSHAKE_TIMEOUT)
    elif state is not CONNECTING:
        bench.open()
        bench.register()
    if state is FINISHING:
        bench.run_task("task")
        bench.do(e.StopRequested(bench.now + 10))
        bench.lose()
    elif state is ENDED:
        bench.do(e.StopRequested(bench.now))
        bench.lose()
    assert bench.state is state
    return bench


# --- the table ------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """An event in a state, and the state that follows. `prepare` makes what tells it from another row."""

    state: LinkState
    event: Any
    to: LinkState
    prepare: Callable[[LinkBench], object] = lambda bench: None
    one_shot: bool = False


def _stop(bench: LinkBench) -> None:
    bench.handle(e.StopRequested(bench.now + 5))


def _orphan(bench: LinkBench) -> None:
    """Leave a handler of a lost connection behind, in the state in which the link is."""
    state = bench.state
    bench.attempt = None
    bench.machine._wait(0, False, bench.now)
    bench.settle()
    bench.open()
    bench.register()
    bench.run_task("orphan")
    bench.end(ConnectionLost("lost"))
    bench.machine._wait(0, state is PROBING, bench.now)
    if state is REFUSED:
        bench.machine._go(REFUSED)
    elif state is not WAITING:
        bench.settle()
    assert bench.state is state


def _reconnect(bench: LinkBench) -> None:
    """End the connection and open another, which is not registered."""
    bench.lose()
    bench.wait(1)
    bench.open()


def _closing_with_an_orphan(bench: LinkBench) -> None:
    _reconnect(bench)
    bench.register()
    bench.run_task("orphan")
    _reconnect(bench)
    bench.handle(e.CloseReceived(1000))
    _stop(bench)


LOST = e.ConnectionEnded(ConnectionLost("lost"), 0, False, 1.0)
STOP = e.StopRequested(1000.0 + 20)
GONE = e.Retired()
BACK = e.Restored()
PASSED = e.TimePassed()
HEAD = m.Head("broker:tasksettings", "task", None, None, None)
SKIPPED = e.MessageSkipped(HEAD, "is of no use", "It has a flaw.")
DENIED = AuthenticationError("wrong")

ROWS = [
    Row(WAITING, PASSED, CONNECTING),
    Row(WAITING, PASSED, PROBING, lambda bench: bench.machine._wait(0, True, bench.now)),
    Row(WAITING, PASSED, WAITING, lambda bench: bench.machine._wait(1, False, bench.now)),
    Row(WAITING, STOP, ENDED),
    Row(WAITING, STOP, FINISHING, _orphan),
    Row(WAITING, GONE, ENDED),
    Row(WAITING, GONE, FINISHING, _orphan),
    Row(CONNECTING, e.ConnectionOpened(Connection(), 0.0), CONNECTED),
    Row(CONNECTING, e.AttemptFailed(RateLimited("busy"), "grant", 1.0), WAITING),
    Row(CONNECTING, e.AttemptFailed(AuthRefused("wrong"), None, 1.0), REFUSED),
    Row(CONNECTING, STOP, ENDED),
    Row(CONNECTING, STOP, FINISHING, _orphan),
    Row(CONNECTING, GONE, ENDED),
    Row(CONNECTING, GONE, FINISHING, _orphan),
    Row(PROBING, e.BrokerProbed(None, 1.0), WAITING),
    Row(PROBING, STOP, ENDED),
    Row(PROBING, STOP, FINISHING, _orphan),
    Row(PROBING, GONE, ENDED),
    Row(PROBING, GONE, FINISHING, _orphan),
    Row(REFUSED, e.RefusalAnswered(DENIED, False), WAITING),
    Row(REFUSED, e.RefusalAnswered(DENIED, True), ENDED),
    Row(REFUSED, STOP, ENDED),
    Row(REFUSED, STOP, FINISHING, _orphan),
    Row(REFUSED, GONE, ENDED),
    Row(REFUSED, GONE, FINISHING, _orphan),
    Row(CONNECTED, m.RunnerRegistered(), CONNECTED),
    Row(CONNECTED, a.CloseConnection("the runner stops"), CLOSING),
    Row(CONNECTED, STOP, CONNECTED),
    Row(CONNECTED, STOP, CLOSING, _reconnect),
    Row(CONNECTED, e.CloseReceived(1001), CLOSING),
    Row(CONNECTED, SKIPPED, CONNECTED),
    Row(CONNECTED, GONE, CONNECTED),
    Row(CONNECTED, BACK, CONNECTED),
    Row(CONNECTED, LOST, WAITING),
    Row(CONNECTED, LOST, REFUSED, one_shot=True),
    Row(CONNECTED, LOST, ENDED, _stop),
    Row(CONNECTED, LOST, FINISHING, lambda bench: (bench.run_task("task"), _stop(bench))),
    Row(CLOSING, STOP, CLOSING),
    Row(CLOSING, e.CloseReceived(None), CLOSING),
    Row(CLOSING, SKIPPED, CLOSING),
    Row(CLOSING, GONE, CLOSING),
    Row(CLOSING, BACK, CLOSING),
    Row(CLOSING, LOST, WAITING),
    Row(CLOSING, LOST, REFUSED, one_shot=True),
    Row(CLOSING, LOST, ENDED, _stop),
    Row(CLOSING, LOST, FINISHING, _closing_with_an_orphan),
    Row(FINISHING, PASSED, FINISHING),
    Row(FINISHING, PASSED, ENDED, lambda bench: setattr(bench, "now", bench.now + 20)),
    Row(FINISHING, STOP, FINISHING),
    Row(FINISHING, e.StopRequested(0.0), ENDED),
]


@pytest.mark.parametrize(
    "row", ROWS, ids=lambda row: f"{row.state.name}-{type(row.event).__name__}-{row.to.name}"
)
def test_an_event_leads_to_the_state_of_its_row(row: Row) -> None:
    bench = bench_in(row.state, one_shot=row.one_shot)
    row.prepare(bench)
    bench.machine.handle(row.event, bench.now)
    assert bench.state is row.to


def test_the_rows_are_the_table() -> None:
    rows = {(row.state, type(row.event), row.to) for row in ROWS}
    table = {
        (state, event, to)
        for state, transitions in TRANSITIONS.items()
        for event, transition in transitions.items()
        for to in transition[1]
    }
    assert rows == table


def test_the_architecture_page_draws_the_table() -> None:
    """The events that lead from every state without a connection to the end are described instead."""
    page = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawing = page[page.index("## The life of a link") :].split("```")[1]
    drawn = set()
    for state, to, events in re.findall(r"(\w+) --> (\w+): (.*)", drawing):
        for name in ("CONNECTED", "CLOSING") if state == "OPEN" else (state,):
            drawn |= {(name, event, to) for event in events.split(", ")}
    table = {
        (state.name, event.__name__, to.name)
        for state, transitions in TRANSITIONS.items()
        for event, transition in transitions.items()
        for to in transition[1]
        if to is not state and event not in (e.StopRequested, e.Retired)
    }
    assert drawn == table


LATE = [
    e.ConnectionOpened(Connection(), 0.0),
    e.AttemptFailed(AuthRefused("late"), None, 0.0),
    e.BrokerProbed("late", 0.0),
    e.CloseReceived(1000),
    e.RefusalAnswered(DENIED, True),
    PASSED,
    GONE,
    BACK,
    STOP,
    LOST,
]


@pytest.mark.parametrize("state", LinkState)
@pytest.mark.parametrize("event", LATE, ids=lambda event: type(event).__name__)
def test_an_event_without_a_row_changes_nothing_and_closes_its_connection(
    state: LinkState, event: Any
) -> None:
    if type(event) in TRANSITIONS[state]:
        return
    bench = bench_in(state)
    actions = bench.machine.handle(event, bench.now)
    assert bench.state is state
    expected = [a.DiscardConnection(event.connection)] if type(event) is e.ConnectionOpened else []
    assert list(actions) == expected


def only(actions: list[Any], kind: type) -> list[Any]:
    return [action for action in actions if type(action) is kind]


# --- connecting -----------------------------------------------------------------------------------------

FAILURES: list[LinkFailure] = [
    Unreachable("no answer"),
    NotABroker("another server"),
    AuthRefused("wrong token"),
    RateLimited("too many"),
    UpgradeRefused("refused", 503),
]


def test_a_new_link_connects_at_once_with_the_grant_that_it_has() -> None:
    bench = LinkBench()
    assert bench.machine.last_error is None
    assert bench.machine.is_paused is False
    assert bench.machine.next_deadline() < bench.now
    bench.settle()
    assert bench.done == [a.StartAttempt(None)]
    one_shot = LinkBench(one_shot=True)
    one_shot.settle()
    assert one_shot.done == [a.StartAttempt(GRANT)]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_after_every_failed_attempt_another_one_or_a_probe_follows(failure: LinkFailure) -> None:
    bench = bench_in(CONNECTING, gives_up=False)
    bench.fail(failure)
    assert bench.state is WAITING
    bench.wait(REFUSED_WAIT)
    assert type(bench.attempt) is (a.StartProbe if type(failure) is Unreachable else a.StartAttempt)


def test_the_next_attempt_comes_when_its_delay_has_passed() -> None:
    bench = bench_in(CONNECTING)
    bench.fail(UpgradeRefused("refused", 503))
    assert bench.machine.next_deadline() == bench.now + 0.5
    assert bench.wait(0.49) == []
    assert bench.wait(0.01) == [a.StartAttempt(None)]


def test_a_healthy_broker_is_connected_to_soon_and_an_unhealthy_one_is_probed_again() -> None:
    bench = bench_in(PROBING)
    assert bench.probed("still no answer") == [
        a.LogFailure(LogLevel.WARNING, f"{BROKER}: still no answer", 1.0)
    ]
    assert bench.machine.last_error == "still no answer"
    assert bench.wait(1) == [a.StartProbe()]
    bench.probed(None)
    assert bench.machine.next_deadline() == bench.now + HEALTHY_JITTER
    assert bench.wait(HEALTHY_JITTER) == [a.StartAttempt(None)]


# --- grants ---------------------------------------------------------------------------------------------


def test_a_grant_that_was_fetched_is_kept_after_a_limited_rate_alone() -> None:
    for failure, kept in [
        (RateLimited("too many"), "fetched"),
        (UpgradeRefused("refused", 403), None),
        (Unreachable("no answer"), None),
    ]:
        bench = bench_in(CONNECTING)
        bench.fail(failure, "fetched")
        bench.wait(5)
        if bench.state is PROBING:
            bench.probed(None)
            bench.wait(1)
        assert bench.attempt == a.StartAttempt(kept)


def test_a_one_shot_grant_survives_an_outage_and_its_probes() -> None:
    bench = bench_in(CONNECTING, one_shot=True)
    bench.fail(Unreachable("no answer"))
    bench.wait(1)
    bench.probed("no answer")
    bench.wait(1)
    bench.probed(None)
    bench.wait(1)
    assert bench.attempt == a.StartAttempt(GRANT)


def test_no_grant_serves_two_connections() -> None:
    bench = bench_in(CONNECTING)
    bench.fail(RateLimited("too many"), "fetched")
    bench.wait(2)
    bench.open()
    bench.lose()
    bench.wait(1)
    assert bench.attempt == a.StartAttempt(None)


# --- a token that is refused ----------------------------------------------------------------------------


def test_a_refused_token_ends_a_new_link_if_the_runner_gives_up() -> None:
    bench = bench_in(CONNECTING)
    [action] = bench.fail(AuthRefused("the broker refused the token"))
    assert type(action.error) is AuthenticationError
    assert str(action.error) == (
        "the broker refused the token; set N8N_RUNNERS_AUTH_TOKEN at n8n to the token of this runner, and "
        "restart n8n: it reads the variable when it starts. `n8nrunner check` names the likely cause"
    )
    assert bench.state is ENDED
    assert bench.session.state is SessionState.CLOSED


def test_a_refused_token_is_logged_as_an_error_each_time_if_the_runner_goes_on() -> None:
    bench = bench_in(CONNECTING, gives_up=False)
    for _ in range(2):
        refused, logged = bench.fail(AuthRefused("the broker refused the token"))
        assert logged == a.LogFailure(LogLevel.ERROR, f"{BROKER}: {refused.error}", REFUSED_WAIT)
        bench.wait(REFUSED_WAIT)
        assert bench.attempt == a.StartAttempt(None)


def test_a_token_that_is_refused_after_a_registration_does_not_concern_the_runner() -> None:
    bench = bench_in(CONNECTED)
    bench.lose()
    bench.wait(1)
    [logged] = bench.fail(AuthRefused("refused"))
    assert logged == a.LogFailure(LogLevel.ERROR, f"{BROKER}: refused", REFUSED_WAIT)


@pytest.mark.parametrize(
    ("end", "kind", "says"),
    [
        (
            AuthRefused("refused"),
            AuthenticationError,
            "refused; the grant token is unknown, used or too old",
        ),
        (
            UpgradeRefused("refused", 403),
            AuthenticationError,
            "refused; the grant token is unknown, used or too old",
        ),
        (
            ConnectionLost("reset"),
            GrantTokenSpent,
            "reset; the one-shot grant token is used up, so this runner ends",
        ),
    ],
)
def test_a_link_gives_up_without_a_valid_one_shot_grant(end: LinkFailure, kind: type, says: str) -> None:
    bench = bench_in(CONNECTING, one_shot=True)
    if isinstance(end, ConnectionLost):
        bench.open()
        bench.end(end)
    else:
        bench.fail(end)
    [refused] = only(bench.done, a.ReportRefused)
    assert type(refused.error) is kind
    assert str(refused.error) == says
    assert bench.state is ENDED


# --- what is logged and shown ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "is_logged"),
    [(None, False), (UpgradeRefused("refused", 503), True), (AuthRefused("wrong"), True)],
)
def test_a_registration_after_a_logged_failure_says_so(failure: LinkFailure | None, is_logged: bool) -> None:
    bench = bench_in(CONNECTING, gives_up=False)
    if failure is not None:
        bench.fail(failure)
        bench.wait(REFUSED_WAIT)
    bench.open()
    assert only(bench.register(), a.ReportRegistered) == [a.ReportRegistered(is_logged)]
    bench.lose()
    bench.wait(1)
    bench.open()
    assert only(bench.register(), a.ReportRegistered) == [a.ReportRegistered(True)]


def test_a_failure_is_logged_once_a_minute_with_the_brokers_url() -> None:
    bench = bench_in(CONNECTING)
    [logged] = bench.fail(UpgradeRefused(f"{BROKER} refused", 503))
    advice = "`n8nrunner check` names the likely cause"
    assert logged == a.LogFailure(LogLevel.WARNING, f"{BROKER} refused. {advice}", 0.5)
    bench.wait(1)
    assert bench.fail(UpgradeRefused(f"{BROKER} refused", 503)) == []
    bench.wait(1)
    [logged] = bench.fail(UpgradeRefused("something else", 503))
    assert logged.reason == f"{BROKER}: something else"
    bench.wait(60)
    assert len(bench.fail(UpgradeRefused(f"{BROKER} refused", 503))) == 1


def test_skipped_messages_are_logged_and_a_flood_of_them_has_few_lines() -> None:
    bench = bench_in(CONNECTED)
    line = f"Skipped a message (type 'broker:tasksettings') from {BROKER}: it is of no use. It has a flaw."
    assert bench.do(SKIPPED) == [a.LogSkipped(line, 0)]
    for _ in range(20):
        bench.do(SKIPPED)
    assert len(only(bench.done, a.LogSkipped)) == 5
    bench.now += 60
    [logged] = only(bench.do(SKIPPED), a.LogSkipped)
    assert logged.left_out == 16


def test_a_skipped_message_fails_its_task() -> None:
    bench = bench_in(CONNECTED)
    [offer] = [action for action in bench.done if isinstance(action, m.TaskOffer)][-1:]
    bench.do(m.TaskOfferAccept(offer.offer_id, "task"))
    assert only(bench.do(SKIPPED), m.TaskFailed)


def test_the_counts_and_the_last_error_follow_failures_and_registrations() -> None:
    bench = bench_in(CONNECTING)
    machine = bench.machine
    bench.fail(UpgradeRefused("refused", 503))
    assert (machine.registrations, machine.retry.failures, machine.last_error) == (0, 1, "refused")
    bench.wait(1)
    bench.open()
    bench.register()
    assert (machine.registrations, machine.retry.failures, machine.last_error) == (1, 0, None)
    assert bench.register() == []  # n8n never registers a connection twice
    assert (machine.registrations, machine.retry.failures, machine.last_error) == (1, 0, None)
    bench.lose("reset")
    assert (machine.registrations, machine.retry.failures, machine.last_error) == (1, 1, "reset")
    bench.wait(1)
    bench.open()
    bench.register()
    assert (machine.registrations, machine.retry.failures, machine.last_error) == (2, 0, None)


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        (WAITING, "waiting"),
        (CONNECTING, "connecting"),
        (PROBING, "connecting"),
        (REFUSED, "waiting"),
        (CONNECTED, "registered"),
        (CLOSING, "connecting"),
        (FINISHING, "closed"),
        (ENDED, "closed"),
    ],
)
def test_a_snapshot_shows_the_state(state: LinkState, shown: str) -> None:
    bench = bench_in(state)
    assert bench.machine.shown == shown
    assert bench.machine.is_registered is (state is CONNECTED)
    assert bench.machine.has_ended is (state is ENDED)


def test_a_snapshot_tells_the_states_of_a_session_apart() -> None:
    bench = bench_in(CONNECTING)
    bench.open()
    assert bench.machine.shown == "connecting"
    bench.register()
    bench.do(e.OfferingChanged(False))
    assert bench.machine.shown == "paused"
    bench.do(e.OfferingChanged(True))
    bench.run_task("task")
    bench.do(e.StopRequested(bench.now + 10))
    assert (bench.state, bench.machine.shown) == (CONNECTED, "draining")
    bench.finish("task")
    assert (bench.state, bench.machine.shown) == (CLOSING, "draining")


# --- the end of a connection ----------------------------------------------------------------------------


def test_the_broker_has_two_seconds_to_answer_a_close_frame() -> None:
    bench = bench_in(CONNECTED)
    bench.do(e.StopRequested(bench.now))
    assert bench.state is CLOSING
    began = bench.now
    bench = bench_in(CLOSING)
    began = bench.now
    reason = bench.machine.last_error
    assert reason == f"the broker did not send broker:inforequest within {HANDSHAKE_TIMEOUT:g} s"
    [aborted, *_] = bench.wait(CLOSE_WAIT)
    assert aborted == a.AbortConnection(reason)
    assert bench.now == began + CLOSE_WAIT
    assert bench.machine.last_error == reason


def test_a_broker_that_does_not_read_has_two_seconds_for_the_close_too() -> None:
    bench = bench_in(CONNECTING)
    bench.open()
    bench.is_writable = False
    bench.wait(HANDSHAKE_TIMEOUT)
    assert bench.state is CLOSING
    assert bench.machine.next_deadline() == bench.now + CLOSE_WAIT
    assert only(bench.wait(CLOSE_WAIT), a.AbortConnection)


def test_a_stop_leaves_the_rest_of_the_grace_period_to_answers_on_their_way() -> None:
    bench = bench_in(CONNECTED)
    bench.is_writable = False
    bench.do(e.StopRequested(bench.now + 10))
    assert bench.state is CLOSING
    assert bench.machine.next_deadline() == bench.now + 10 + CLOSE_WAIT_LATE
    bench.now += 5
    bench.is_writable = True
    bench.settle()  # the close frame has left
    assert bench.machine.next_deadline() == bench.now + CLOSE_WAIT
    bench.now += 1
    bench.settle()
    assert bench.machine.next_deadline() == bench.now + CLOSE_WAIT - 1
    assert bench.wait(1) == [a.AbortConnection("the runner stops")]
    assert bench.state is ENDED


def test_a_second_stop_shortens_the_time_for_unsent_answers() -> None:
    bench = bench_in(CONNECTED)
    bench.is_writable = False
    bench.do(e.StopRequested(bench.now + 600))
    assert bench.machine.next_deadline() == bench.now + 600 + CLOSE_WAIT_LATE
    bench.do(e.StopRequested(bench.now + 1))
    assert bench.machine.next_deadline() == bench.now + 1 + CLOSE_WAIT_LATE
    bench.do(e.StopRequested(bench.now + 5))
    assert bench.machine.next_deadline() == bench.now + 1 + CLOSE_WAIT_LATE


def test_after_the_grace_period_a_close_frame_is_waited_for_only_shortly() -> None:
    bench = bench_in(CONNECTED)
    bench.do(e.StopRequested(bench.now - 5))
    assert bench.machine.next_deadline() == bench.now + CLOSE_WAIT_LATE


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (None, "without a code"),
        (1000, "1000: another runner uses the same id"),
        (1001, "1001: n8n shuts down"),
        (1002, "1002: n8n considers this runner unresponsive, or a frame was invalid"),
        (1007, "1007: a message was not UTF-8"),
        (1009, "1009: a message was above n8n's N8N_RUNNERS_MAX_PAYLOAD"),
        (4000, "4000"),
    ],
)
def test_a_close_frame_of_the_broker_ends_the_connection_after_the_next_write(
    code: int | None, says: str
) -> None:
    bench = bench_in(CONNECTED)
    bench.handle(e.CloseReceived(code))
    assert bench.machine.next_deadline() == bench.now
    bench.settle()
    [aborted] = only(bench.done, a.AbortConnection)
    assert aborted.code == code
    assert aborted.reason == f"the broker at {BROKER} closed the connection ({says})"
    assert bench.state is WAITING


def test_the_brokers_answer_to_a_close_frame_ends_the_connection_with_the_runners_reason() -> None:
    bench = bench_in(CONNECTED)
    bench.do(e.StopRequested(bench.now + 10))
    bench.do(e.CloseReceived(1000))
    assert only(bench.done, a.AbortConnection) == [a.AbortConnection("the runner stops", 1000)]
    assert bench.state is ENDED


def test_delays_begin_again_after_a_good_connection_only() -> None:
    bench = bench_in(CONNECTING)
    bench.jitter = 1.0
    delays = []
    for seconds, code in ((0, None), (0, None), (0, 1001), (0, None), (1.0, None)):
        bench.open()
        bench.now += seconds
        bench.lose("reset", code)
        delays.append(bench.machine.next_deadline() - bench.now)
        bench.wait(30)
    assert delays == [0.5, 1, 0.5, 1, 0.5]
    bench.open()
    bench.register()
    bench.run_task("task")
    bench.lose()
    assert bench.machine.next_deadline() - bench.now == 0.5


# --- stopping and idling --------------------------------------------------------------------------------


def test_a_stop_without_a_grace_period_fails_the_running_tasks_and_closes() -> None:
    bench = bench_in(CONNECTED)
    bench.run_task("task")
    done = bench.do(e.StopRequested(bench.now))
    assert [action.task_id for action in only(done, m.TaskFailed)] == ["task"]
    assert only(done, a.CloseConnection) == [a.CloseConnection("the runner stops")]
    assert bench.state is CLOSING
    assert bench.machine.last_error is None


def test_a_link_that_waits_for_handlers_ends_with_the_grace_period() -> None:
    bench = bench_in(FINISHING)
    until = bench.machine.next_deadline()
    bench.wait(until - bench.now - 0.1)
    assert bench.state is FINISHING
    bench.now = until
    bench.settle()
    assert bench.state is ENDED


def test_a_second_stop_shortens_the_grace_period_and_never_prolongs_it() -> None:
    bench = bench_in(FINISHING)
    until = bench.machine.next_deadline()
    bench.do(e.StopRequested(until + 5))
    assert bench.machine.next_deadline() == until
    bench.do(e.StopRequested(until - 5))
    assert bench.machine.next_deadline() == until - 5


def test_a_stopped_link_ends_when_the_handlers_of_lost_tasks_have_returned() -> None:
    bench = bench_in(FINISHING)
    assert only(bench.finish("task"), a.ReportUndelivered)
    assert bench.state is ENDED


@pytest.mark.parametrize("idle", [0.0, 8.3])
def test_a_registered_link_reports_that_it_is_idle_if_that_is_wanted(idle: float) -> None:
    bench = bench_in(CONNECTED, idle=idle)
    bench.run_task("task")
    bench.wait(3)
    bench.finish("task")
    finished_at = bench.now
    bench.wait(8.2)
    assert not only(bench.done, a.ReportIdle)
    if idle:
        assert bench.machine.next_deadline() == pytest.approx(finished_at + idle)
    bench.wait(0.1)
    assert len(only(bench.done, a.ReportIdle)) == bool(idle)


def assert_is_idle_in_8_3_s(bench: LinkBench) -> None:
    bench.wait(8.2)
    assert not only(bench.done, a.ReportIdle)
    bench.wait(0.1)
    assert only(bench.done, a.ReportIdle)


def test_a_link_is_idle_from_its_registration_on() -> None:
    bench = bench_in(CONNECTING, idle=8.3)
    bench.open()
    bench.register()
    assert_is_idle_in_8_3_s(bench)


def test_a_task_whose_settings_were_skipped_interrupts_the_idle_time() -> None:
    bench = bench_in(CONNECTED, idle=8.3)
    bench.wait(3)
    offer = only(bench.done, m.TaskOffer)[-1]
    bench.do(m.TaskOfferAccept(offer.offer_id, "task"))
    bench.do(SKIPPED)
    assert_is_idle_in_8_3_s(bench)


def test_a_link_that_was_not_registered_is_not_idle() -> None:
    bench = bench_in(CONNECTING, idle=1.0)
    bench.open()
    bench.wait(5)
    assert only(bench.done, a.ReportIdle) == []


# --- an open connection ---------------------------------------------------------------------------------


def test_a_link_settles_again_at_once_when_a_large_message_has_left() -> None:
    bench = bench_in(CONNECTED)
    bench.machine.settle(bench.now, is_congested=True)
    bench.machine.written(True, 0, True, bench.now)
    assert bench.machine.next_deadline() > bench.now
    bench.machine.settle(bench.now, is_congested=True)
    bench.machine.written(False, 0, False, bench.now)
    assert bench.machine.next_deadline() < bench.now
    bench.settle()
    assert bench.machine.next_deadline() > bench.now


def test_reading_pauses_while_a_peer_does_not_take_what_waits_for_it() -> None:
    bench = bench_in(CONNECTED)
    bench.machine.written(True, 5 * 1024 * 1024, False, bench.now)
    assert bench.machine.is_paused
    bench.machine.written(False, 0, False, bench.now)
    assert not bench.machine.is_paused
    bench.machine.written(True, 5 * 1024 * 1024, False, bench.now)
    bench.lose()
    assert bench.machine.is_paused is False


def test_a_session_holds_messages_back_while_a_large_one_is_on_its_way() -> None:
    bench = bench_in(CONNECTED)
    bench.machine.settle(bench.now, is_congested=True)
    [offer] = [action for action in bench.done if isinstance(action, m.TaskOffer)][-1:]
    assert list(bench.machine.handle(m.TaskOfferAccept(offer.offer_id, "task"), bench.now)) == []
    bench.settle()
    assert m.TaskAccepted("task") in bench.done


def test_tasks_of_an_older_connection_do_not_reset_the_delays() -> None:
    bench = bench_in(CONNECTED)
    bench.run_task("task")
    delays = []
    for _ in range(2):
        bench.lose()
        delays.append(bench.machine.next_deadline() - bench.now)
        bench.wait(1)
        bench.open()
    bench.lose()
    assert [*delays, bench.machine.next_deadline() - bench.now] == [0.5, 1, 2]


# --- after an unexpected error --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "is_attempting", "to"),
    [
        (WAITING, False, WAITING),
        (CONNECTING, True, CONNECTING),
        (CONNECTING, False, WAITING),
        (PROBING, True, PROBING),
        (PROBING, False, WAITING),
        (REFUSED, False, WAITING),
        (FINISHING, False, FINISHING),
        (ENDED, False, ENDED),
    ],
)
def test_recovery_leaves_every_state_with_a_next_step(
    state: LinkState, is_attempting: bool, to: LinkState
) -> None:
    bench = bench_in(state)
    assert bench.machine.recover(bench.now, is_attempting) == bench.now + DEFECT_PAUSE
    assert bench.state is to
    if to is WAITING:
        bench.attempt = None
        assert bench.machine.next_deadline() >= bench.now + DEFECT_PAUSE
        [step] = bench.wait(DEFECT_PAUSE)
        assert type(step) is (a.StartProbe if state is PROBING else a.StartAttempt)


@pytest.mark.parametrize("is_stopping", [False, True])
def test_recovery_follows_a_session_whose_connection_has_ended(is_stopping: bool) -> None:
    bench = bench_in(CONNECTED)
    if is_stopping:
        bench.handle(e.StopRequested(bench.now))
    bench.session.handle(LOST, bench.now)
    bench.connection = None
    bench.machine.recover(bench.now, False)
    bench.wait(DEFECT_PAUSE)
    assert bench.state is (ENDED if is_stopping else CONNECTING)


@pytest.mark.parametrize("state", [CONNECTED, CLOSING])
def test_recovery_is_impossible_while_the_session_counts_as_connected(state: LinkState) -> None:
    bench = bench_in(state)
    with pytest.raises(RuntimeError, match=r"^a link without a connection has a connected session$"):
        bench.machine.recover(bench.now, False)


def test_actions_before_an_error_are_asked_for_by_the_next_event(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = bench_in(CONNECTED)
    bench.run_task("task")
    monkeypatch.setattr(bench.machine.retry, "note_ended", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bench.machine.handle(LOST, bench.now)
    bench.connection = None
    bench.machine.recover(bench.now, False)
    actions = bench.machine.settle(bench.now)
    assert [type(action) for action in actions] == [a.CancelTask]


# --- an address that is gone --------------------------------------------------------------------------------


def test_a_connection_outlives_its_address_and_runs_tasks() -> None:
    bench = bench_in(CONNECTED)
    assert bench.do(GONE) == []
    bench.run_task("task")
    assert m.TaskOffer in {type(action) for action in bench.finish("task")}
    assert bench.machine.is_registered


@pytest.mark.parametrize(
    ("ends", "error"),
    [
        (e.CloseReceived(1001), f"the broker at {BROKER} closed the connection (1001: n8n shuts down)"),
        (m.Drain(), "the broker has gone"),
        (None, "the broker has gone"),
    ],
)
def test_a_link_without_its_address_ends_with_its_connection(ends: Any, error: str) -> None:
    bench = bench_in(CONNECTED)
    bench.do(GONE)
    if ends is not None:
        bench.do(ends)
    if bench.connection is not None:
        bench.lose("the broker has gone")
    assert bench.state is ENDED
    assert bench.machine.is_gone
    assert bench.machine.last_error == error
    assert bench.wait(1000) == []


@pytest.mark.parametrize("state", [WAITING, CONNECTING, PROBING, REFUSED])
def test_a_link_without_a_connection_is_gone_with_its_address(state: LinkState) -> None:
    bench = bench_in(state)
    assert not bench.machine.is_gone
    bench.do(GONE)
    assert bench.machine.is_gone
    stopped = bench_in(state)
    stopped.do(e.StopRequested(stopped.now))
    assert stopped.machine.is_closed
    assert not stopped.machine.is_gone


def test_a_link_without_its_address_waits_for_handlers_and_reports_their_results() -> None:
    bench = bench_in(CONNECTED)
    bench.run_task("task")
    bench.do(GONE)
    bench.lose()
    assert bench.state is FINISHING
    assert bench.machine.is_closed
    assert bench.wait(1000) == []
    assert only(bench.finish("task"), a.ReportUndelivered)
    assert bench.state is ENDED


def test_a_stop_shortens_the_wait_of_a_link_without_its_address() -> None:
    bench = bench_in(CONNECTED)
    bench.run_task("task")
    bench.do(GONE)
    bench.lose()
    bench.do(e.StopRequested(bench.now + 5))
    bench.wait(5)
    assert bench.state is ENDED


def test_a_link_whose_address_is_back_connects_again() -> None:
    bench = bench_in(CONNECTED)
    bench.do(GONE)
    bench.do(BACK)
    bench.lose()
    assert bench.state is WAITING
    bench.wait(10)
    assert bench.state is CONNECTING
