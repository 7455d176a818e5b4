"""The invariants of a link, under any order of failures, connections, tasks, stops and bugs."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from n8nrunner.protocol import actions as a
from n8nrunner.protocol import events as e
from n8nrunner.protocol import messages as m
from n8nrunner.protocol.failures import (
    AuthRefused,
    ConnectionLost,
    LinkFailure,
    NotABroker,
    RateLimited,
    Unreachable,
    UpgradeRefused,
)
from n8nrunner.protocol.link import LinkState
from tests.protocol.link_bench import Connection, LinkBench

failures: st.SearchStrategy[LinkFailure] = st.sampled_from(
    [
        Unreachable("no answer"),
        NotABroker("another server"),
        AuthRefused("wrong token"),
        RateLimited("too many"),
        UpgradeRefused("refused", 403),
        UpgradeRefused("refused", 503),
        UpgradeRefused("refused by a proxy", 403, is_n8ns=False),
    ]
)
jitters = st.sampled_from([0.0, 0.5, 1.0])
codes = st.sampled_from([None, 1000, 1001, 1002])

#: Seconds in which a stopped link has closed, beyond its grace period.
CLOSING_LIMIT = 3.0


def is_attempt(test: LinkTest) -> bool:
    return isinstance(test.bench.attempt, a.StartAttempt)


def is_probe(test: LinkTest) -> bool:
    return isinstance(test.bench.attempt, a.StartProbe)


def is_open(test: LinkTest) -> bool:
    return test.bench.connection is not None


def is_registered(test: LinkTest) -> bool:
    return is_open(test) and test.bench.machine.is_registered


class LinkTest(RuleBasedStateMachine):
    """`LinkBench` checks on the way that there is one attempt at a time, and no grant is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = LinkBench()
        self.tasks = 0
        #: Whether a stop may come before the end, or the address may go: such a link has little left to do.
        self.may_stop = False

    @initialize(
        one_shot=st.booleans(),
        gives_up=st.booleans(),
        idle=st.sampled_from([0.0, 20.0]),
        may_stop=st.sampled_from([False, False, True]),
    )
    def begin(self, one_shot: bool, gives_up: bool, idle: float, may_stop: bool) -> None:
        self.may_stop = may_stop
        # A runner with a one-shot grant always gives up.
        self.bench = LinkBench(one_shot, gives_up or one_shot, idle)
        self.bench.settle()

    # --- the network ------------------------------------------------------------------------------

    @precondition(is_attempt)
    @rule(jitter=jitters, registers=st.booleans())
    def attempt_succeeds(self, jitter: float, registers: bool) -> None:
        self.bench.jitter = jitter
        self.bench.open()
        if registers:
            self.bench.register()

    @precondition(is_attempt)
    @rule(reason=failures, fetched=st.booleans(), jitter=jitters)
    def attempt_fails(self, reason: LinkFailure, fetched: bool, jitter: float) -> None:
        self.bench.jitter = jitter
        self.bench.fail(reason, f"fetched {next(self.bench.fetched)}" if fetched else None)

    @precondition(is_probe)
    @rule(problem=st.sampled_from([None, "no answer"]), jitter=jitters)
    def probe_ends(self, problem: str | None, jitter: float) -> None:
        self.bench.jitter = jitter
        self.bench.probed(problem)

    @precondition(is_open)
    @rule(written=st.integers(0, 5), code=codes, jitter=jitters)
    def connection_breaks(self, written: int, code: int | None, jitter: float) -> None:
        self.bench.jitter = jitter
        self.bench.end(ConnectionLost("reset", code), written)
        self.bench.settle()

    @precondition(is_open)
    @rule(code=codes)
    def broker_closes(self, code: int | None) -> None:
        self.bench.do(e.CloseReceived(code))

    @precondition(is_open)
    @rule(is_writable=st.booleans())
    def kernel_takes_bytes_or_none(self, is_writable: bool) -> None:
        self.bench.is_writable = is_writable
        self.bench.settle()

    # --- the broker -------------------------------------------------------------------------------

    @precondition(is_open)
    @rule()
    def broker_registers(self) -> None:
        self.bench.register()

    @precondition(is_open)
    @rule(message=st.sampled_from([m.InfoRequest(), m.RunnerRegistered(), m.Drain()]))
    def broker_sends(self, message: m.InfoRequest | m.RunnerRegistered | m.Drain) -> None:
        self.bench.do(message)

    @precondition(is_registered)
    @rule()
    def broker_sends_a_task(self) -> None:
        self.tasks += 1
        self.bench.try_task(f"task {self.tasks}")

    # --- the runner -------------------------------------------------------------------------------

    @precondition(lambda test: test.bench.running)
    @rule(number=st.integers(0, 10))
    def handler_returns(self, number: int) -> None:
        running = sorted(self.bench.running)
        self.bench.finish(running[number % len(running)])

    @rule(seconds=st.sampled_from([0.01, 0.5, 1.0, 5.0, 30.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.bench.wait(seconds)

    @precondition(lambda test: test.may_stop)
    @rule(grace=st.sampled_from([0.0, 1.0, 30.0]))
    def runner_stops(self, grace: float) -> None:
        self.bench.do(e.StopRequested(self.bench.now + grace))

    @precondition(lambda test: test.may_stop)
    @rule(event=st.sampled_from([e.Retired(), e.Restored()]))
    def address_goes_or_comes_back(self, event: e.Retired | e.Restored) -> None:
        self.bench.do(event)

    # --- bugs, and what comes late ----------------------------------------------------------------

    @precondition(lambda test: test.bench.attempt is not None)
    @rule()
    def outcome_of_an_attempt_is_lost(self) -> None:
        self.bench.attempt = None
        self.bench.machine.recover(self.bench.now, False)
        self.bench.settle()

    @precondition(lambda test: test.bench.connection is None)
    @rule()
    def a_step_fails(self) -> None:
        self.bench.machine.recover(self.bench.now, self.bench.attempt is not None)
        self.bench.settle()

    @precondition(lambda test: test.bench.attempt is None)
    @rule()
    def a_connection_comes_late(self) -> None:
        late = Connection()
        self.bench.do(e.ConnectionOpened(late, 0.0))
        assert late.is_closed
        assert self.bench.connection is not late

    # --- what must hold ---------------------------------------------------------------------------

    @invariant()
    def there_is_a_next_step_or_the_end(self) -> None:
        state, bench = self.bench.state, self.bench
        due = bench.machine.next_deadline()
        assert (bench.connection is not None) is (state in (LinkState.CONNECTED, LinkState.CLOSING))
        if state in (LinkState.CONNECTING, LinkState.PROBING):
            assert bench.attempt is not None
        elif state is LinkState.FINISHING and bench.stopped_until is None:
            assert bench.running, "it waits for handlers alone, and there are none"
        elif state is not LinkState.ENDED:
            assert bench.now < due < bench.now + 1000

    @invariant()
    def a_stopped_link_starts_nothing_and_closes(self) -> None:
        bench = self.bench
        if bench.stopped_until is None:
            return
        begun = (a.StartAttempt, a.StartProbe, a.ServeConnection)
        assert not any(isinstance(action, begun) for action in bench.done[bench.done_before_stop :])
        if bench.now > bench.stopped_until + CLOSING_LIMIT:
            assert self.bench.state is LinkState.ENDED

    def teardown(self) -> None:
        """Stop the link, in any state, and see it close in time."""
        self.runner_stops(5.0)
        self.bench.wait(5.0 + CLOSING_LIMIT + 0.1)
        self.a_stopped_link_starts_nothing_and_closes()
        assert self.bench.state is LinkState.ENDED


TestLink = LinkTest.TestCase
TestLink.settings = settings()
