"""A whole runner against misbehaving brokers. Other brokers and the application must not notice them."""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import socket
import statistics
import struct
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable

import pytest

from n8nrunner import BrokerConnectionError, Runner, Task, TaskTimeout, Undelivered
from n8nrunner.broker import Broker, BrokerTaskLost
from n8nrunner.connection import loop
from n8nrunner.protocol import liveness, offers, receipts, session
from tests.conftest import LIMIT, engine_of, promptly, wait_until
from tests.connection.servers import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    Peer,
    Server,
    accept_upgrade,
    frame,
    http_answer,
    read_request,
)

NewRunner = Callable[..., Runner]


class RawPeer(Peer):
    """The broker's side of one connection, message by message."""

    def __init__(self, raw: socket.socket) -> None:
        super().__init__(raw)
        self.gives_receipts = True
        self._offers: list[dict[str, Any]] = []

    def tell(self, kind: str, **fields: Any) -> None:
        self.send(frame(TEXT, json.dumps({"type": f"broker:{kind}", **fields}).encode()))

    def hear(self, kind: str) -> dict[str, Any]:
        """Return the next message of a type. Answer pings before it, and keep valid offers for later."""
        if kind == "taskoffer" and self._offers:
            return self._offers.pop(0)
        text = b""
        while True:
            sent = self.next_frame()
            if sent.opcode == PING:
                if self.gives_receipts:
                    self.send(frame(PONG, sent.payload))
            elif sent.opcode != PONG:
                assert sent.opcode != CLOSE, "the runner closes"
                text += sent.payload
                if sent.final:
                    message: dict[str, Any] = json.loads(text)
                    if message.get("validFor") == 0:
                        pass  # has lapsed on arrival: it is there for n8n to look at its requests again
                    elif message["type"] == f"runner:{kind}":
                        return message
                    elif message["type"] == "runner:taskoffer":
                        self._offers.append(message)
                    text = b""

    def answer_pings(self) -> None:
        """Answer pings that have come, while no other message is expected."""
        self.raw.settimeout(0.05)
        with contextlib.suppress(socket.timeout):
            self.hear("nothing else")
        self.raw.settimeout(LIMIT)

    def register(self) -> None:
        self.tell("inforequest")
        info = self.hear("info")
        assert info["types"]
        self.tell("runnerregistered")

    def give(self, task_id: str, settings: Any) -> None:
        """Give the runner a task, up to its settings."""
        offer = self.hear("taskoffer")
        self.tell("taskofferaccept", offerId=offer["offerId"], taskId=task_id)
        assert self.hear("taskaccepted")["taskId"] == task_id
        self.tell("tasksettings", taskId=task_id, settings=settings)


class RawBroker(Server):
    """Grants tokens and upgrades. The test itself writes to each WebSocket, by the peers of `connected`."""

    def __init__(self) -> None:
        self.connected: queue.Queue[RawPeer] = queue.Queue()
        super().__init__(self._respond)

    def _respond(self, connection: socket.socket) -> None:
        connection.settimeout(LIMIT)
        peeked = connection.recv(4, socket.MSG_PEEK)
        if peeked == b"POST":
            read_request(connection)
            connection.sendall(http_answer(200, b'{"data": {"token": "grant"}}'))
            return
        first_line = connection.recv(200, socket.MSG_PEEK)
        if b"/healthz" in first_line:
            read_request(connection)
            connection.sendall(http_answer(200, b'{"status": "ok"}'))
            return
        accept_upgrade(connection)
        self.connected.put(RawPeer(connection))
        self.closing.wait(3 * LIMIT)

    def next_peer(self) -> RawPeer:
        return self.connected.get(timeout=LIMIT)


@pytest.fixture
def raw() -> Iterator[RawBroker]:
    with RawBroker() as server:
        yield server


def misbehave(peer: RawPeer, how: str) -> None:
    """Make the peer useless. Its connection stays open."""
    if how == "stops in mid-frame":
        peer.send(frame(TEXT, b"x" * 100_000)[:50_000])
    else:
        # Give a task whose answer is larger than all buffers together, and do not read the answer.
        peer.tell("taskofferaccept", offerId=peer.hear("taskoffer")["offerId"], taskId="big")
        peer.hear("taskaccepted")
        peer.tell("tasksettings", taskId="big", settings={"size": 20_000_000})


@pytest.mark.parametrize(("code", "reported"), [(1000, []), (1001, ["owed"])])
def test_only_the_answer_to_the_runners_close_frame_proves_its_results(
    raw: RawBroker, new_runner: NewRunner, code: int, reported: list[str]
) -> None:
    """A close frame with another code has crossed the runner's: the broker may not have read the result."""
    undelivered: list[Undelivered] = []
    runner = new_runner(raw.url, on_undelivered=undelivered.append)
    running, may_return = threading.Event(), threading.Event()

    @runner.task("wait")
    def wait(task: Task) -> None:
        running.set()
        may_return.wait(LIMIT)

    runner.start(wait=0)
    peer = raw.next_peer()
    peer.gives_receipts = False
    peer.register()
    peer.give("owed", {})
    assert running.wait(LIMIT)
    stopping = threading.Thread(target=runner.stop, args=(LIMIT,), name="test-stop")
    stopping.start()
    wait_until(lambda: runner.snapshot().links[0].state == "draining")
    may_return.set()
    assert peer.hear("taskdone")["taskId"] == "owed"
    while peer.next_frame().opcode != CLOSE:
        pass
    peer.send(frame(CLOSE, struct.pack("!H", code)))
    stopping.join(2 * LIMIT)
    assert [result.task_id for result in undelivered] == reported


@pytest.mark.parametrize("how", ["stops in mid-frame", "does not read"])
def test_a_broker_that_stalls_delays_no_other_broker(
    raw: RawBroker, broker: Broker, new_runner: NewRunner, how: str
) -> None:
    """Its tasks time out on time, other brokers' tasks run, and `stop` keeps to its grace period."""
    running, timed_out = threading.Event(), threading.Event()
    runner = new_runner([raw.url, broker.url], capacity=4, task_timeout=1.0)

    @runner.task("wait")
    def wait(task: Task) -> Any:
        if "size" in task.settings:
            return "x" * task.settings["size"]
        running.set()
        task.wait_for_cancel(LIMIT)
        try:
            task.raise_if_cancelled()
        except TaskTimeout:
            timed_out.set()
        return None

    runner.task("echo")(lambda task: task.settings)
    runner.start()
    peer = raw.next_peer()
    peer.register()
    peer.give("stuck", {})
    assert running.wait(LIMIT)
    misbehave(peer, how)
    broker.wait_for(lambda counts: counts.runners == 1)
    for n in range(50):
        assert broker.run_task("echo", n, timeout=LIMIT) == n
    with promptly():
        assert timed_out.wait(LIMIT)
    with promptly():
        runner.stop(0.3)
    wait_until(lambda: runner.state == "stopped")


def test_a_large_answer_leaves_room_for_pongs_and_holds_acceptances(
    raw: RawBroker, new_runner: NewRunner
) -> None:
    """Pings are answered between the fragments of an answer, and no other message is sent there."""
    runner = new_runner(raw.url, capacity=2)
    runner.task("big")(lambda task: "x" * 20_000_000)
    runner.start(wait=0)
    peer = raw.next_peer()
    peer.register()
    first_offer = peer.hear("taskoffer")
    second_offer = peer.hear("taskoffer")
    peer.tell("taskofferaccept", offerId=first_offer["offerId"], taskId="big")
    peer.hear("taskaccepted")
    peer.tell("tasksettings", taskId="big", settings={})
    sent = peer.next_frame()
    while sent.final:
        sent = peer.next_frame()
    peer.send(frame(PING, b"now"))
    peer.tell("taskofferaccept", offerId=second_offer["offerId"], taskId="next")
    fragments, ponged_within = 1, False
    while not (sent.opcode == 0 and sent.final):
        sent = peer.next_frame()
        if sent.opcode == PONG and sent.payload == b"now":
            ponged_within = True
        elif sent.opcode == 0:
            fragments += 1
        else:
            assert sent.opcode == PING, "a message between the fragments of another"
    assert ponged_within
    assert fragments > 100
    assert peer.hear("taskaccepted")["taskId"] == "next"
    runner.stop(0)


def test_messages_that_waited_for_a_large_answer_follow_it_at_once(
    raw: RawBroker, new_runner: NewRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The held messages leave without another event: no pong, no other message, no deadline."""
    monkeypatch.setattr(session, "ACCEPT_WINDOW", 10 * LIMIT)
    monkeypatch.setattr(receipts, "PING_SPACING", 0.0)  # the one ping is behind the answer, and not answered
    runner = new_runner(raw.url, capacity=2)
    runner.task("big")(lambda task: "x" * 20_000_000)
    runner.start(wait=0)
    peer = raw.next_peer()
    peer.register()
    first, second = peer.hear("taskoffer"), peer.hear("taskoffer")
    peer.tell("taskofferaccept", offerId=first["offerId"], taskId="big")
    peer.hear("taskaccepted")
    peer.tell("tasksettings", taskId="big", settings={})
    while peer.next_frame().final:
        pass  # up to the first fragment
    peer.tell("taskofferaccept", offerId=second["offerId"], taskId="next")
    peer.gives_receipts = False
    while not (sent := peer.next_frame()).final or sent.opcode != 0:
        pass  # up to the last one
    assert peer.hear("taskaccepted")["taskId"] == "next"
    runner.stop(0)


def test_late_repeated_and_unknown_messages_change_nothing(raw: RawBroker, new_runner: NewRunner) -> None:
    calls: list[Any] = []
    runner = new_runner(raw.url, capacity=1)
    runner.task("count")(lambda task: calls.append(task.id))
    runner.start(wait=0)
    peer = raw.next_peer()
    peer.tell("inforequest", added="by a newer n8n")
    peer.hear("info")
    peer.tell("runnerregistered")
    peer.tell("runnerregistered")
    peer.tell("inforequest")
    offer = peer.hear("taskoffer")["offerId"]
    peer.tell("somethingnew", value=[1, 2])
    peer.tell("taskcancel", taskId="never heard of", reason="x")
    peer.tell("tasksettings", taskId="never accepted", settings={})
    peer.tell("rpcresponse", taskId="t", callId="never made", status="success")
    peer.tell("taskofferaccept", offerId="forgotten", taskId="other")
    assert peer.hear("taskrejected")["taskId"] == "other"
    peer.tell("taskofferaccept", offerId=offer, taskId="task")
    peer.tell("taskofferaccept", offerId=offer, taskId="task")
    peer.hear("taskaccepted")
    peer.tell("tasksettings", taskId="task", settings={})
    peer.tell("tasksettings", taskId="task", settings={})
    assert peer.hear("taskdone") == {"type": "runner:taskdone", "taskId": "task", "data": {"result": None}}
    peer.tell("taskcancel", taskId="task", reason="too late")
    peer.give("again", {})
    assert peer.hear("taskdone")["taskId"] == "again"
    assert calls == ["task", "again"]
    runner.stop(0)


@pytest.mark.parametrize(
    "garbage",
    [
        b"no json",
        b"[1, 2]",
        b"null",
        b'{"type": 5}',
        b'{"type": "broker:taskofferaccept"}',
        b"\xff\xfe",
        b"[" * 100_000,
        b"",
    ],
)
def test_garbage_is_skipped_and_not_repeated_in_the_log(
    raw: RawBroker, new_runner: NewRunner, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    runner = new_runner(raw.url)
    runner.task("echo")(lambda task: task.settings)
    runner.start(wait=0)
    peer = raw.next_peer()
    peer.register()
    with caplog.at_level(logging.ERROR, "n8nrunner"):
        peer.send(frame(TEXT, garbage))
        peer.give("task", "still here")
        assert peer.hear("taskdone")["data"] == {"result": "still here"}
    assert "defect" not in caplog.text
    assert "[[[[" not in caplog.text
    runner.stop(0)


@pytest.mark.parametrize("opcode", [TEXT, PING, PONG])
def test_a_flood_of_tiny_frames_has_few_log_lines_and_delays_no_other_broker(
    raw: RawBroker, broker: Broker, new_runner: NewRunner, caplog: pytest.LogCaptureFixture, opcode: int
) -> None:
    runner = new_runner([raw.url, broker.url])
    runner.task("echo")(lambda task: task.settings)
    runner.start(wait=0)
    peer = raw.next_peer()
    peer.register()
    broker.wait_for(lambda counts: counts.runners == 1)
    ended = threading.Event()

    def flood() -> None:
        with contextlib.suppress(OSError):
            while not ended.is_set():
                peer.send(frame(opcode, b"") * 100_000)

    with caplog.at_level(logging.ERROR, "n8nrunner"):
        thread = threading.Thread(target=flood, name="test-flood")
        thread.start()
        try:
            delays = []
            for number in range(10):
                began = time.monotonic()
                assert broker.run_task("echo", number, timeout=LIMIT) == number
                delays.append(time.monotonic() - began)
        finally:
            ended.set()
            peer.raw.shutdown(socket.SHUT_RDWR)
            thread.join(LIMIT)
    assert (
        statistics.median(delays) < LIMIT / 2
    )  # it was 7 s and more without a bound on the frames of a turn
    lines = [record for record in caplog.records if "Skipped a message" in record.getMessage()]
    assert len(lines) <= 5
    assert bool(lines) is (opcode == TEXT)
    runner.stop(0)


def test_an_executor_that_blocks_the_links_thread_is_named(
    broker: Broker, new_runner: NewRunner, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_SLOW_SUBMIT", 0.05)

    class Slow(ThreadPoolExecutor):
        def submit(self, *arguments: Any, **keywords: Any) -> Any:
            threading.Event().wait(0.1)  # the slowness is what is tested
            return super().submit(*arguments, **keywords)

    with Slow(1) as executor, caplog.at_level(logging.WARNING, "n8nrunner"):
        runner = new_runner(executor=executor)
        runner.task("echo")(lambda task: task.settings)
        with runner:
            for number in range(3):
                assert broker.run_task("echo", number, timeout=LIMIT) == number
    (line,) = [record.getMessage() for record in caplog.records if "The executor took" in record.getMessage()]
    assert "submit() does not wait" in line


def test_a_dead_peer_is_noticed_and_replaced(
    raw: RawBroker, new_runner: NewRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The socket stays open and the kernel takes every offer, but no byte comes."""
    monkeypatch.setattr(offers, "OFFER_VALIDITY", 0.05)
    monkeypatch.setattr(offers, "OFFER_JITTER", 0.0)
    monkeypatch.setattr(liveness, "PING_INTERVAL", 0.1)
    monkeypatch.setattr(liveness, "SILENCE_LIMIT", 0.3)
    monkeypatch.setattr(liveness, "MEASURE_INTERVAL", 0.05)
    runner = new_runner(raw.url)
    runner.task("echo")(lambda task: task.settings)
    runner.start(wait=0)
    raw.next_peer().register()
    assert runner.wait_registered(LIMIT)
    second = raw.next_peer()
    second.register()
    second.give("task", 1)
    assert second.hear("taskdone")["taskId"] == "task"
    runner.stop(0)


def test_a_lost_connection_is_noticed_at_once(raw: RawBroker, new_runner: NewRunner) -> None:
    began, cancelled = threading.Event(), threading.Event()
    runner = new_runner(raw.url)

    @runner.task("wait")
    def wait(task: Task) -> None:
        began.set()
        task.wait_for_cancel(LIMIT)
        cancelled.set()

    runner.start(wait=0)
    peer = raw.next_peer()
    peer.register()
    peer.give("task", {})
    assert began.wait(LIMIT)  # a task that is cancelled before never runs
    peer.reset()
    assert cancelled.wait(LIMIT / 2)  # a silent peer is noticed much later
    raw.next_peer().register()
    assert runner.wait_registered(LIMIT)
    runner.stop(0)


def test_results_without_a_receipt_are_reported_as_uncertain(raw: RawBroker, new_runner: NewRunner) -> None:
    reported: queue.Queue[Any] = queue.Queue()
    runner = new_runner(raw.url, on_undelivered=reported.put)
    runner.task("echo")(lambda task: task.settings)
    runner.start(wait=0)
    peer = raw.next_peer()
    peer.register()
    peer.give("with a receipt", 1)
    peer.hear("taskdone")
    peer.give("after it", 1)  # by then, the ping that follows the first result has been answered
    peer.hear("taskdone")
    session_of = engine_of(runner).links[0].machine.session
    wait_until(lambda: peer.answer_pings() or not session_of.receipts.results)
    peer.gives_receipts = False
    peer.give("without", {"kept": True})
    peer.hear("taskdone")
    peer.reset()
    result = reported.get(timeout=LIMIT)
    assert (result.task_id, result.certain, result.result) == ("without", False, {"kept": True})
    assert reported.empty()
    runner.stop(0)


def test_a_host_that_never_answers_is_named(new_runner: NewRunner) -> None:
    quiet = threading.Event()
    with Server(lambda connection: quiet.wait(LIMIT) and None) as silent:
        runner = new_runner(silent.url)
        with promptly(), pytest.raises(BrokerConnectionError) as raised:
            runner.start(wait=0.3)
        assert silent.url in str(raised.value)
        quiet.set()


def test_a_bug_in_a_link_ends_its_connection_and_not_the_runner(
    broker: Broker, new_runner: NewRunner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from n8nrunner.protocol import codec

    faults = [RuntimeError("a defect")]
    decode = codec.decode_from_broker

    def faulty(text: str) -> Any:
        if "tasksettings" in text and faults:
            raise faults.pop()
        return decode(text)

    monkeypatch.setattr(codec, "decode_from_broker", faulty)
    runner = new_runner()
    runner.task("echo")(lambda task: task.settings)
    with runner, caplog.at_level(logging.ERROR, "n8nrunner"):
        with pytest.raises(BrokerTaskLost):
            broker.run_task("echo", 1, timeout=LIMIT)
        assert broker.run_task("echo", 2, timeout=LIMIT) == 2
    assert "ended the connection" in caplog.text
    assert "RuntimeError. Please report it" in caplog.text
    assert "a defect" not in caplog.records[0].getMessage()  # no exception's own text


def test_a_bug_in_a_link_without_a_connection_does_not_end_the_runner(
    broker: Broker, new_runner: NewRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    from n8nrunner.connection import broker_link
    from n8nrunner.protocol import link

    monkeypatch.setattr(link, "DEFECT_PAUSE", 0.05)
    run_on_thread = broker_link.run_on_thread
    faults = [ValueError("a defect"), ValueError("another")]

    def faulty(*arguments: Any) -> None:
        if faults:
            raise faults.pop()
        run_on_thread(*arguments)

    monkeypatch.setattr(broker_link, "run_on_thread", faulty)
    runner = new_runner()
    runner.start()
    assert runner.is_registered
    assert not faults


# --- messages that cannot be decoded ---------------------------------------------------------------------

_DEEP = "[" * 200_000 + "]" * 200_000


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        pytest.param(_DEEP.encode(), "nested too deeply", id="deep"),
        pytest.param(b"[1" + b"0" * 5000 + b"]", "more digits than Python reads", id="digits"),
        pytest.param(b'["\xff"]', "not UTF-8", id="not UTF-8"),
        pytest.param(b"[,]", "is not valid JSON", id="not JSON"),
        pytest.param(b'["' + b"x" * 1_200_000 + b"\xff", "not UTF-8", id="large and not UTF-8"),
        pytest.param(
            b"[" + b" " * 1_200_000 + _DEEP.encode() + b"]", "nested too deeply", id="large and deep"
        ),
    ],
)
def test_settings_that_cannot_be_decoded_fail_their_task_at_once(
    settings: bytes, says: str, raw: RawBroker, new_runner: NewRunner
) -> None:
    if says == "more digits than Python reads" and not hasattr(sys, "set_int_max_str_digits"):
        pytest.skip("this Python reads integers of any length")
    runner = new_runner(raw.url, capacity=1)
    runner.task("echo")(lambda task: task.settings)
    runner.start(wait=0)
    peer = raw.next_peer()
    peer.register()
    offer = peer.hear("taskoffer")
    peer.tell("taskofferaccept", offerId=offer["offerId"], taskId="broken")
    peer.hear("taskaccepted")
    peer.send(frame(TEXT, b'{"type":"broker:tasksettings","taskId":"broken","settings":' + settings + b"}"))
    with promptly():
        answer = peer.hear("taskerror")
    assert answer["taskId"] == "broken"
    assert says in json.dumps(answer["error"])
    peer.give("next", 5)  # on the same connection, in the same slot
    assert peer.hear("taskdone")["data"] == {"result": 5}


def test_half_of_a_surrogate_pair_in_a_rejected_id_ends_nothing(
    raw: RawBroker, new_runner: NewRunner
) -> None:
    runner = new_runner(raw.url, capacity=1)
    runner.task("echo")(lambda task: task.settings)
    runner.start(wait=0)
    peer = raw.next_peer()
    peer.register()
    peer.tell("taskofferaccept", offerId="unknown", taskId="half \ud800")
    assert peer.hear("taskrejected")["taskId"] == "half \ud800"
    peer.give("next", 5)
    assert peer.hear("taskdone")["data"] == {"result": 5}
    assert runner.snapshot().links[0].registrations == 1
