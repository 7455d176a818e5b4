"""The decisions about a peer's life: a table of courses, random courses, and single rules."""

from __future__ import annotations

from typing import Callable, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from n8nrunner.protocol.events import SocketMeasured
from n8nrunner.protocol.liveness import (
    ACKNOWLEDGEMENT_LIMIT,
    MEASURE_INTERVAL,
    PING_INTERVAL,
    SILENCE_LIMIT,
    STALL_LIMIT,
    Liveness,
)

#: Seconds within which a dead host and a dead peer have to be noticed (docs/protocol.md).
DEAD_HOST = 20.0
DEAD_PEER = 45.0


class Network(NamedTuple):
    """The state of a connection, as functions of the time."""

    #: Whether a byte of the peer comes.
    received: Callable[[float], bool] = lambda now: False
    #: Bytes that the local kernel has taken, and those that the peer's kernel has acknowledged.
    written: Callable[[float], int] = lambda now: 0
    acknowledged: Callable[[float], int] = lambda now: 0
    #: The moment of the last acknowledgement.
    answered_at: Callable[[float], float | None] = lambda now: now
    #: Whether bytes wait that the local kernel does not take, and whether reading is paused.
    waiting: Callable[[float], bool] = lambda now: False
    paused: Callable[[float], bool] = lambda now: False
    #: Where the ping ends, counted as `written` is, for a ping of that moment.
    pinged_to: Callable[[float], float] = lambda now: 0.0


def run(network: Network, limit: float = 300.0, step: float = 0.25) -> tuple[float, str]:
    """Return when the peer is given up, and why; "alive" at the limit."""
    liveness = Liveness()
    liveness.begin(0.0)
    now, pinged_to = 0.0, 0.0
    while now < limit:
        now += step
        if network.received(now) and not network.paused(now):
            liveness.note_received(now)
        liveness.set_waiting(network.waiting(now), network.paused(now), now)
        if now < liveness.due:
            continue
        ping, measure = liveness.check(now)
        if ping:
            pinged_to = network.pinged_to(now)
        if measure:
            written, answered_at = network.written(now), network.answered_at(now)
            measured = SocketMeasured(
                written,
                written - network.acknowledged(now),
                pinged_to,
                None if answered_at is None else now - answered_at,
            )
            reason = liveness.judge(measured, now)
            if reason is not None:
                return now, reason
        assert liveness.due > now
    return limit, "alive"


def once(since: float, before: int = 100, rate: float = 0) -> Callable[[float], int]:
    """A count that grows until a moment."""
    return lambda now: int(before + rate * min(now, since))


#: The moment at which something ends.
CUT = 100.0


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("name", "network", "ends"),
    [
        ("answers every ping", Network(received=lambda now: True), None),
        # The host is gone at CUT; its last acknowledgement is as old as keep-alive lets it become.
        (
            "cable pulled, idle",
            Network(
                received=lambda now: now < CUT,
                written=lambda now: 1000,
                acknowledged=lambda now: 1000 if now < CUT else 999,
                answered_at=lambda now: min(now, CUT - 4),
            ),
            CUT + DEAD_HOST,
        ),
        (
            "cable pulled in the middle of a large answer",
            Network(
                received=lambda now: now < CUT - 9,
                written=once(CUT, 1000, 1e6),
                acknowledged=once(CUT, 0, 1e6),
                answered_at=lambda now: min(now, CUT),
                waiting=lambda now: True,
                pinged_to=lambda now: 1e6 * now + 1000,
            ),
            CUT + DEAD_HOST,
        ),
        (
            "silent proxy that takes all",
            Network(received=lambda now: now < CUT, written=lambda now: int(now), acknowledged=int),
            CUT + DEAD_PEER,
        ),
        (
            "stopped process whose window has closed",
            Network(
                received=lambda now: now < CUT,
                written=once(CUT, 5000, 10),
                acknowledged=once(CUT, 0, 10),
                waiting=lambda now: now > CUT,
                pinged_to=lambda now: float("inf"),
            ),
            CUT + DEAD_PEER,
        ),
        (
            "sends, and has stopped reading",
            Network(
                received=lambda now: True,
                written=once(CUT, 5000, 10),
                acknowledged=once(CUT, 0, 10),
                waiting=lambda now: now > CUT,
            ),
            CUT + DEAD_PEER,
        ),
        (
            "does not read while the full writer has paused reading",
            Network(
                written=once(CUT, 5000, 10),
                acknowledged=once(CUT, 0, 10),
                waiting=lambda now: now > 2,
                paused=lambda now: now > 2,
            ),
            CUT + DEAD_PEER,
        ),
        (
            "reads slowly while the full writer has paused reading",
            Network(
                written=lambda now: int(now) + 5000,
                acknowledged=int,
                waiting=lambda now: now > 2,
                paused=lambda now: now > 2,
            ),
            None,
        ),
        (
            "the ping is 100 s away on a slow line",
            Network(
                received=lambda now: now > 120,
                written=lambda now: int(1000 * now) + 100_000,
                acknowledged=lambda now: int(1000 * now),
                waiting=lambda now: True,
                pinged_to=lambda now: 1000 * now + 100_000,
            ),
            None,
        ),
    ],
)
def test_only_a_dead_peer_is_given_up_and_in_time(
    name: str, network: Network, ends: float | None, known: bool
) -> None:
    """`known` is whether the system tells the time since the last acknowledgement."""
    if not known:
        network = network._replace(answered_at=lambda now: None)
    ended, reason = run(network)
    if ends is None:
        assert reason == "alive"
    elif known or ends > CUT + DEAD_HOST:
        assert CUT < ended <= ends
    else:
        assert CUT < ended <= CUT + DEAD_PEER


def busy(begin: float, seconds: float = 25.0) -> Network:
    """Return an n8n whose event loop is busy: its kernel acknowledges until its window closes."""

    def is_busy(now: float) -> bool:
        return begin <= now < begin + seconds

    def answered_at(now: float) -> float:
        if not is_busy(now):
            return now
        gap = 0.2  # the probes of a closed window: each twice as late as the one before
        at = begin
        while at + gap <= now:
            at += gap
            gap *= 2
        return at

    taken = once(begin, 0, 1e6)
    return Network(
        received=lambda now: not is_busy(now) and int(now * 4) % 36 == 0,
        written=lambda now: (taken(now) if is_busy(now) else int(now * 1e6)) + 4_000_000,
        acknowledged=lambda now: taken(now) if is_busy(now) else int(now * 1e6),
        answered_at=answered_at,
        waiting=lambda now: True,
        pinged_to=lambda now: float("inf") if is_busy(now) else now * 1e6 + 4_000_000,
    )


@pytest.mark.parametrize("begin", [index / 2 + 30 for index in range(20)])
def test_an_n8n_that_is_busy_for_25_s_keeps_its_runner(begin: float) -> None:
    assert run(busy(begin), 120.0) == (120.0, "alive")
    idle = Network(received=lambda now: not begin <= now < begin + 25 and int(now * 4) % 36 == 0)
    assert run(idle, 120.0) == (120.0, "alive")


def test_the_limits_fit_together() -> None:
    assert ACKNOWLEDGEMENT_LIMIT + MEASURE_INTERVAL < DEAD_HOST
    # A ping is sent, and the socket measured, before the limit.
    assert PING_INTERVAL + MEASURE_INTERVAL < ACKNOWLEDGEMENT_LIMIT
    # The first measurement after a ping can be the first to show that it has arrived.
    assert PING_INTERVAL + MEASURE_INTERVAL + SILENCE_LIMIT < DEAD_PEER
    assert STALL_LIMIT + MEASURE_INTERVAL < DEAD_PEER
    assert min(SILENCE_LIMIT, STALL_LIMIT) > 25.0


@st.composite
def courses(draw: st.DrawFn) -> Network:
    """Draw a peer that is alive until `CUT`, and dead from then on."""
    received = draw(st.floats(0, CUT))
    waits_from = draw(st.floats(0, 2 * CUT))
    pauses = draw(st.booleans())
    rate = draw(st.floats(1, 1e6))
    known = draw(st.booleans())
    return Network(
        received=lambda now: now < CUT and (now < received or now % 5 < 1),
        written=once(CUT, 5000, rate),
        acknowledged=once(CUT, 0, rate),
        answered_at=lambda now: min(now, CUT) if known else None,
        waiting=lambda now: now >= waits_from,
        paused=lambda now: pauses and now >= waits_from,
        pinged_to=lambda now: float("inf"),
    )


@given(courses())
def test_every_dead_peer_is_given_up(network: Network) -> None:
    ended, reason = run(network, 400.0)
    assert reason != "alive"
    # Until the local kernel takes no more, a pause may begin and restart the silence.
    assert ended <= CUT + DEAD_PEER or network.waiting(ended)
    assert ended <= 2 * CUT + DEAD_PEER


@given(st.lists(st.floats(0.1, 24.0), min_size=1, max_size=20), st.booleans())
def test_a_peer_with_a_byte_every_24_s_is_never_given_up(gaps: list[float], known: bool) -> None:
    moments = []
    at = 0.0
    for gap in gaps:
        at += gap
        moments.append(at)
    network = Network(
        received=lambda now: any(now - 0.25 < moment <= now for moment in moments),
        answered_at=lambda now: now if known else None,
    )
    assert run(network, at)[1] == "alive"


# --- single rules -----------------------------------------------------------------------------------


def begun(at: float = 100.0) -> Liveness:
    liveness = Liveness()
    liveness.begin(at)
    return liveness


def quiet(written: int = 0, unacknowledged: int = 0, silent_for: float | None = None) -> SocketMeasured:
    return SocketMeasured(written, unacknowledged, 0.0, silent_for)


def test_a_pause_ends_the_wait_for_the_answer_to_a_ping() -> None:
    """The answer may have arrived without being read."""
    liveness = begun()
    assert liveness.check(110.0)[0]
    liveness.set_waiting(True, True, 111.0)
    assert liveness.judge(quiet(written=1), 139.0) is None
    liveness.set_waiting(False, False, 139.0)
    assert liveness.judge(quiet(written=1), 141.0) is None
    assert not liveness.check(148.9)[0]
    assert liveness.check(149.0)[0]


def test_no_ping_is_sent_while_reading_is_paused() -> None:
    liveness = begun()
    liveness.set_waiting(False, True, 101.0)
    assert liveness.check(150.0) == (False, False)
    assert liveness.due == float("inf")
    liveness.set_waiting(False, False, 150.0)
    assert liveness.due == 150.0 + PING_INTERVAL


def test_an_old_acknowledgement_counts_only_while_bytes_are_unacknowledged() -> None:
    liveness = begun()
    liveness.check(110.0)
    assert liveness.judge(quiet(written=10, unacknowledged=0, silent_for=1000.0), 112.0) is None
    assert liveness.judge(quiet(written=10, unacknowledged=1, silent_for=1000.0), 112.0) is not None


def test_a_stall_begins_when_bytes_begin_to_wait() -> None:
    liveness = begun()
    for now in range(110, 200, 10):
        liveness.note_received(float(now))
        liveness.check(float(now))
    liveness.set_waiting(True, False, 195.0)
    assert liveness.due == 195.0 + MEASURE_INTERVAL
    assert liveness.check(197.0)[1]
    assert liveness.judge(quiet(), 195.0 + STALL_LIMIT - 0.1) is None
    assert liveness.judge(quiet(), 195.0 + STALL_LIMIT) is not None


def test_a_new_connection_is_looked_at_after_the_interval_of_pings() -> None:
    assert begun().due == 100.0 + PING_INTERVAL
