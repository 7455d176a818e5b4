"""A whole runner and peers that are gone although their sockets stand, with short limits on real sockets.

tests/netns has the same with the real limits and pulled cables.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Callable

import pytest

from n8nrunner import Runner, Task
from n8nrunner.connection import transport
from n8nrunner.connection.loop import LinkThread
from n8nrunner.protocol import liveness, offers, session
from tests.conftest import LIMIT, engine_of, wait_until
from tests.connection.servers import PING, PONG, TEXT, frame
from tests.test_misbehaving_brokers import NewRunner, RawBroker, RawPeer

MEGABYTE = 1024 * 1024
SHORT = {
    "PING_INTERVAL": 0.2,
    "SILENCE_LIMIT": 0.6,
    "STALL_LIMIT": 0.6,
    "MEASURE_INTERVAL": 0.04,
}


@pytest.fixture
def raw() -> Iterator[RawBroker]:
    with RawBroker() as server:
        yield server


@pytest.fixture(autouse=True)
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in SHORT.items():
        monkeypatch.setattr(liveness, name, seconds)
    # Offers that the kernel takes must not count: several of them within the limit.
    monkeypatch.setattr(offers, "OFFER_VALIDITY", 0.05)
    monkeypatch.setattr(offers, "OFFER_JITTER", 0.0)


def drain(peer: RawPeer) -> None:
    """Reads everything and says nothing."""
    with contextlib.suppress(OSError, EOFError):
        while True:
            peer.next_frame()


def answer(peer: RawPeer, until: threading.Event) -> None:
    """Answers pings and says nothing else."""
    peer.raw.settimeout(0.05)
    with contextlib.suppress(OSError, EOFError):
        while not until.is_set():
            with contextlib.suppress(socket.timeout):
                sent = peer.next_frame()
                if sent.opcode == PING:
                    peer.send(frame(PONG, sent.payload))


class Case:
    """A runner in one of three situations, with the peer at its other end."""

    def __init__(self, raw: RawBroker, new_runner: NewRunner, situation: str) -> None:
        self.cancelled = threading.Event()
        self.lost: list[str] = []
        self.runner: Runner = new_runner(
            raw.url, capacity=2, on_undelivered=lambda r: self.lost.append(r.task_id)
        )

        @self.runner.task("wait")
        def wait(task: Task) -> object:
            if task.settings == "large":
                return "x" * (20 * MEGABYTE)
            task.wait_for_cancel(LIMIT)
            self.cancelled.set()
            return None

        self.runner.start(wait=0)
        self.peer = raw.next_peer()
        self.peer.register()
        assert self.runner.wait_registered(LIMIT)
        if situation == "idle":
            self.cancelled.set()
        else:
            self.peer.give("waits", "wait")
            self.peer.give("other", "large" if situation == "a large answer on its way" else "wait")
        if situation == "a large answer on its way":
            while (sent := self.peer.next_frame()).final:
                if sent.opcode == PING:
                    self.peer.send(frame(PONG, sent.payload))

    def is_noticed(self) -> bool:
        return self.cancelled.is_set() and not self.runner.is_registered


SITUATIONS = ["idle", "all slots busy", "a large answer on its way"]


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("peer", ["takes everything", "reads nothing"])
def test_a_peer_that_answers_nothing_is_noticed(
    raw: RawBroker, new_runner: NewRunner, situation: str, peer: str
) -> None:
    began = time.monotonic()  # before the silence
    case = Case(raw, new_runner, situation)
    if peer == "takes everything":
        thread = threading.Thread(target=drain, args=(case.peer,), name="test-drain")
        thread.start()
    wait_until(case.is_noticed)
    assert time.monotonic() - began >= SHORT["SILENCE_LIMIT"]
    # And replaced.
    raw.next_peer().register()
    assert case.runner.wait_registered(LIMIT)
    case.runner.stop(0)
    if peer == "takes everything":
        thread.join(LIMIT)
    if situation == "a large answer on its way":
        assert "other" in case.lost


@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_host_that_acknowledges_nothing_is_noticed(
    raw: RawBroker, new_runner: NewRunner, situation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the kernel tells it; tests/netns lets a kernel do so."""
    monkeypatch.setattr(liveness, "SILENCE_LIMIT", LIMIT)
    monkeypatch.setattr(liveness, "STALL_LIMIT", LIMIT)
    case = Case(raw, new_runner, situation)
    limit = liveness.ACKNOWLEDGEMENT_LIMIT
    silent_for = iter([limit - 1, limit - 0.02, *[limit] * 100])
    monkeypatch.setattr(transport, "delivery", lambda raw: (1, next(silent_for)))
    wait_until(case.is_noticed)
    wait_until(lambda: "acknowledged nothing for 15 s" in str(case.runner.snapshot().links[0].last_error))
    case.runner.stop(0)


def test_a_peer_that_sends_and_has_stopped_reading_is_noticed(raw: RawBroker, new_runner: NewRunner) -> None:
    case = Case(raw, new_runner, "a large answer on its way")
    ended = threading.Event()

    def send() -> None:
        with contextlib.suppress(OSError):
            while not ended.wait(0.02):
                case.peer.send(frame(PING, b"I am fine"))

    thread = threading.Thread(target=send, name="test-sender")
    thread.start()
    wait_until(case.is_noticed)
    ended.set()
    thread.join(LIMIT)
    case.runner.stop(0)


@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_peer_that_is_busy_for_most_of_the_limit_keeps_its_runner(
    raw: RawBroker, new_runner: NewRunner, situation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SILENCE_LIMIT", "STALL_LIMIT"):
        monkeypatch.setattr(liveness, name, 2.4)  # twice the silence, so that a busy machine does not matter
    case = Case(raw, new_runner, situation)
    threading.Event().wait(1.2)  # the peer's silence, half of the limit
    ended = threading.Event()
    thread = threading.Thread(target=answer, args=(case.peer, ended), name="test-answer")
    thread.start()
    threading.Event().wait(1.8)  # longer than what was left of the limit
    assert raw.connected.empty()
    assert case.runner.is_registered
    ended.set()
    thread.join(LIMIT)
    case.runner.stop(0)


def test_the_peer_is_asked_for_a_sign_of_life_between_the_fragments_of_a_large_answer(
    raw: RawBroker, new_runner: NewRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SILENCE_LIMIT", "STALL_LIMIT"):  # the connection has to last, on a busy machine too
        monkeypatch.setattr(liveness, name, LIMIT)
    case = Case(raw, new_runner, "a large answer on its way")
    order: list[str] = []
    while not order or order[-1] != "end":
        if not order:
            threading.Event().wait(0.02)  # reads slowly, so that a ping is due before the end
        sent = case.peer.next_frame()
        if sent.opcode == PING:
            order.append(sent.payload.decode())
            case.peer.send(frame(PONG, sent.payload))
        elif sent.final:
            order.append("end")
    assert set(order) == {session.LIVENESS_PING, "end"}
    behind = case.peer.next_frame()
    while behind.opcode != PING:
        behind = case.peer.next_frame()
    assert behind.payload.isdigit(), "the ping that proves delivery is not behind the answer"
    case.runner.stop(0)


# --- a full sender ----------------------------------------------------------------------------------


def flood(case: Case, data: Callable[[int], bytes], ended: threading.Event) -> None:
    """Sends and reads nothing, until the runner takes no more for a while."""
    case.peer.raw.settimeout(0.3)
    number = 0
    with contextlib.suppress(OSError):
        while not ended.is_set():
            case.peer.send(b"".join(data(number + index) for index in range(1000)))
            number += 1000


def test_a_peer_that_sends_and_does_not_read_fills_no_memory(
    raw: RawBroker, new_runner: NewRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """During a pause of reading the peer's silence does not count. The pause has its own limit."""
    monkeypatch.setattr(session, "BACKLOG_LIMIT", 64 * 1024)
    monkeypatch.setattr(liveness, "STALL_LIMIT", 2.0)
    turns: list[None] = []
    turn = LinkThread._run_once
    monkeypatch.setattr(LinkThread, "_run_once", lambda *arguments: turns.append(None) or turn(*arguments))
    case = Case(raw, new_runner, "idle")
    link = engine_of(case.runner).links[0]
    connection = link.connection
    assert connection is not None
    connection.raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * 1024)
    case.peer.raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
    accept = b'{"type":"broker:taskofferaccept","offerId":"unknown","taskId":"task%d"}'
    ended = threading.Event()
    thread = threading.Thread(
        target=flood, args=(case, lambda number: frame(TEXT, accept % number), ended), name="test-flood"
    )
    began = time.monotonic()  # before the first byte that waits
    thread.start()
    wait_until(lambda: link.machine.is_paused)
    turns_before = len(turns)
    most = 0
    while link.connection is connection:
        most = max(most, connection.sender.backlog)
        threading.Event().wait(0.01)  # between two looks
        assert time.monotonic() - began < LIMIT
    ended.set()
    thread.join(LIMIT)
    assert time.monotonic() - began >= 2.0, "the pause counted as the peer's silence"
    assert len(turns) - turns_before < 500, "the links' thread did not sleep while reading was paused"
    # The bytes that one turn reads come on top.
    assert 64 * 1024 < most < 8 * MEGABYTE
    case.runner.stop(0)


def test_reading_goes_on_when_the_peer_reads_again(
    raw: RawBroker, new_runner: NewRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "BACKLOG_LIMIT", 64 * 1024)
    monkeypatch.setattr(liveness, "STALL_LIMIT", LIMIT)
    case = Case(raw, new_runner, "idle")
    link = engine_of(case.runner).links[0]
    assert link.connection is not None
    link.connection.raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * 1024)
    case.peer.raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
    accept = b'{"type":"broker:taskofferaccept","offerId":"unknown","taskId":"task%d"}'
    count = 50_000
    sending = case.peer.send_in_background(b"".join(frame(TEXT, accept % n) for n in range(count)))
    wait_until(lambda: link.machine.is_paused)
    for number in range(count):
        assert case.peer.hear("taskrejected")["taskId"] == f"task{number}"
    sending.join(LIMIT)
    wait_until(lambda: not link.machine.is_paused)
    assert case.runner.is_registered
    case.runner.stop(0)
