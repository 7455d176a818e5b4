"""The tools that look for faults work: proxies break connections as they say, and the books are compared."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.processes import ROOT
from tests.conftest import LIMIT, wait_until
from tests.connection.servers import Server

from . import ledger, plan, proxy
from .__main__ import FUZZES, main
from .ledger import DONE, FAILED, LOST, WRONG, Request
from .proxy import TO_BROKER, TO_RUNNER, Fault, FaultProxy

if not sys.platform.startswith("linux"):
    pytest.skip("the proxies and the runner's notes are for Linux", allow_module_level=True)

# --- the proxy ------------------------------------------------------------------------------------------


class Broker(Server):
    """Sends back what comes, and keeps it."""

    def __init__(self) -> None:
        self.received = b""
        self.ends: list[str] = []
        super().__init__(self._echo)

    def _echo(self, connection: socket.socket) -> None:
        try:
            while True:
                data = connection.recv(65536)
                if not data:
                    self.ends.append("closed")
                    return
                self.received += data
                connection.sendall(data)
        except ConnectionResetError:
            self.ends.append("reset")


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker() as running:
        yield running


@pytest.fixture
def between(broker: Broker) -> Iterator[FaultProxy]:
    with FaultProxy(broker.port) as running:
        yield running


@pytest.fixture
def runner(between: FaultProxy) -> Iterator[socket.socket]:
    """A connection through the proxy, over which something has passed both ways."""
    with socket.create_connection(("127.0.0.1", between.port), LIMIT) as connection:
        connection.sendall(b"hello")
        assert read(connection, 5) == b"hello"
        yield connection


def read(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            break
        data += more
    return data


def says_nothing(connection: socket.socket, seconds: float) -> bool:
    connection.settimeout(seconds)
    try:
        connection.recv(1)
    except socket.timeout:
        return True
    finally:
        connection.settimeout(LIMIT)
    return False


def test_a_cut_closes_both_ends(broker: Broker, between: FaultProxy, runner: socket.socket) -> None:
    between.inject(Fault(proxy.CUT))
    assert runner.recv(1) == b""
    wait_until(lambda: broker.ends == ["closed"])


def test_a_reset_resets_both_ends(broker: Broker, between: FaultProxy, runner: socket.socket) -> None:
    between.inject(Fault(proxy.RESET))
    with pytest.raises(ConnectionResetError):
        runner.recv(1)
    wait_until(lambda: broker.ends == ["reset"])


def test_half_of_a_piece_passes_before_the_reset(
    broker: Broker, between: FaultProxy, runner: socket.socket
) -> None:
    between.inject(Fault(proxy.PARTIAL, direction=TO_BROKER))
    runner.sendall(b"abcdef")
    wait_until(lambda: broker.ends == ["reset"])
    assert broker.received == b"helloabc"


@pytest.mark.parametrize("direction", [TO_BROKER, TO_RUNNER])
def test_one_direction_ends_and_the_other_goes_on(
    broker: Broker, between: FaultProxy, runner: socket.socket, direction: int
) -> None:
    between.inject(Fault(proxy.HALF_CLOSE, 60.0, direction=direction))
    if direction == TO_RUNNER:
        assert runner.recv(1) == b""
        runner.sendall(b"more")
        wait_until(lambda: broker.received == b"hellomore")
    else:
        wait_until(lambda: broker.ends == ["closed"])
        assert runner.recv(1) == b""  # the broker of this test closes then


def test_a_delay_keeps_the_order(between: FaultProxy, runner: socket.socket) -> None:
    between.inject(Fault(proxy.DELAY, 60.0, amount=100))
    begun = time.monotonic()
    runner.sendall(b"abc")
    assert read(runner, 1) == b"a"
    assert time.monotonic() - begun >= 0.2
    runner.sendall(b"def")
    assert read(runner, 5) == b"bcdef"


def test_a_silent_proxy_takes_bytes_and_passes_them_on_later(
    broker: Broker, between: FaultProxy, runner: socket.socket
) -> None:
    between.inject(Fault(proxy.SILENCE, 60.0))
    runner.sendall(b"x" * 8_000_000)
    assert says_nothing(runner, 0.1)
    assert broker.received == b"hello"
    between.heal()
    assert read(runner, 8_000_000) == b"x" * 8_000_000


def test_a_silence_ends_by_itself(between: FaultProxy, runner: socket.socket) -> None:
    between.inject(Fault(proxy.SILENCE, 0.2))
    runner.sendall(b"abc")
    assert read(runner, 3) == b"abc"


def test_a_blocked_proxy_takes_no_more_than_the_kernel_does(
    broker: Broker, between: FaultProxy, runner: socket.socket
) -> None:
    between.inject(Fault(proxy.BLOCK, 60.0))
    runner.settimeout(0.3)
    with pytest.raises(socket.timeout):
        runner.sendall(b"x" * 50_000_000)
    assert broker.received == b"hello"
    runner.settimeout(LIMIT)
    between.heal()
    assert read(runner, 1_000_000) == b"x" * 1_000_000


def test_a_trickle_passes_a_few_bytes_at_a_time(between: FaultProxy, runner: socket.socket) -> None:
    between.inject(Fault(proxy.TRICKLE, 60.0, amount=10))
    begun = time.monotonic()
    runner.sendall(b"x" * 100)
    assert read(runner, 100) == b"x" * 100
    assert time.monotonic() - begun >= 0.09


def test_connections_are_refused_and_then_accepted_again(between: FaultProxy, runner: socket.socket) -> None:
    between.inject(Fault(proxy.REFUSE, 0.3))
    with pytest.raises(ConnectionResetError):
        runner.recv(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", between.port), LIMIT)

    def connects() -> bool:
        try:
            socket.create_connection(("127.0.0.1", between.port), LIMIT).close()
        except ConnectionRefusedError:
            return False
        return True

    wait_until(connects)


def test_a_mute_proxy_accepts_connections_and_sends_nothing(broker: Broker, between: FaultProxy) -> None:
    between.inject(Fault(proxy.MUTE, 0.3))
    with socket.create_connection(("127.0.0.1", between.port), LIMIT) as connection:
        connection.sendall(b"hello")
        assert says_nothing(connection, 0.1)
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    assert broker.received == b""


def test_the_end_of_a_connection_passes_through(
    broker: Broker, between: FaultProxy, runner: socket.socket
) -> None:
    runner.shutdown(socket.SHUT_WR)
    assert runner.recv(1) == b""
    wait_until(lambda: broker.ends == ["closed"])


def test_a_proxy_leaves_no_thread(broker: Broker) -> None:
    before = threading.active_count()
    with FaultProxy(broker.port) as running:
        connection = socket.create_connection(("127.0.0.1", running.port), LIMIT)
    connection.close()
    wait_until(lambda: threading.active_count() <= before)


# --- the plan -------------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_faults_and_tasks() -> None:
    assert plan.faults(7, 60, 3) == plan.faults(7, 60, 3)
    assert plan.faults(7, 60, 3) != plan.faults(8, 60, 3)
    assert plan.settings(7, 5) == plan.settings(7, 5)
    assert plan.pause(7, 5) == plan.pause(7, 5)


def test_every_fault_occurs_within_a_minute() -> None:
    for seed in range(20):
        events = plan.faults(seed, 60, 3)
        assert {event.fault.kind for event in events} == set(plan.ALL_KINDS)
        assert [event.at for event in events] == sorted(event.at for event in events)
        assert max(event.at for event in events) < 60


# --- the books ------------------------------------------------------------------------------------------

BEGUN = {"begun": 1, "task": "a"}
ENDED = {"ended": 1, "task": "a", "raised": False}
CERTAIN = {"undelivered": "a", "certain": True}
UNCERTAIN = {"undelivered": "a", "certain": False}


@pytest.mark.parametrize(
    ("outcome", "book"),
    [
        (DONE, [BEGUN, ENDED]),
        (FAILED, [BEGUN, ENDED]),
        (DONE, [BEGUN, ENDED, UNCERTAIN]),
        (LOST, [BEGUN, ENDED, UNCERTAIN]),
        (LOST, [BEGUN, ENDED, CERTAIN]),
        (LOST, []),
        ("expired", []),
        ("cancelled", [BEGUN, ENDED]),
    ],
)
def test_accounts_that_agree_have_no_findings(outcome: str, book: list[dict[str, Any]]) -> None:
    assert ledger.compare([Request(1, "a", outcome)], book).is_good


@pytest.mark.parametrize(
    ("outcome", "book", "what"),
    [
        (None, [], "lost"),
        (LOST, [BEGUN, ENDED], "lost"),
        (LOST, [BEGUN], "lost"),
        (DONE, [BEGUN, ENDED, BEGUN, ENDED], "doubled"),
        (LOST, [BEGUN, ENDED, UNCERTAIN, CERTAIN], "doubled"),
        (DONE, [BEGUN, ENDED, CERTAIN], "wrong"),
        (DONE, [], "wrong"),
        (WRONG, [BEGUN, ENDED], "wrong"),
        (LOST, [{"begun": 2, "task": "b"}, {"ended": 2, "task": "b"}], "wrong"),
    ],
)
def test_each_disagreement_of_accounts_is_a_finding(
    outcome: str, book: list[dict[str, Any]], what: str
) -> None:
    verdict = ledger.compare([Request(1, "a", outcome)], book)
    assert len(getattr(verdict, what)) == 1, verdict
    assert not verdict.is_good


def test_a_task_that_another_runner_does_again_is_doubled() -> None:
    again = [BEGUN, ENDED, {"begun": 1, "task": "b"}, {"ended": 1, "task": "b"}]
    requests = [Request(1, "a", DONE), Request(2, "b", LOST)]
    assert ledger.compare(requests, again, was_killed=True).doubled


def test_the_brokers_report_is_the_account_of_a_killed_runner() -> None:
    for book in ([BEGUN], [BEGUN, ENDED]):
        assert ledger.compare([Request(1, "a", LOST)], book, was_killed=True).is_good
    assert ledger.compare([Request(1, "a", None)], [BEGUN], was_killed=True).lost


# --- the command ----------------------------------------------------------------------------------------


def run(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    path = tmp_path / "facts.json"
    command = [sys.executable, "-m", "tests.faults", "--json", str(path), *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
    printed = done.stdout.decode("utf-8", "replace")
    assert done.returncode == 0, printed
    assert printed.startswith("seed 5\n")
    facts: dict[str, Any] = json.loads(path.read_text())
    return facts


@pytest.mark.parametrize("name", FUZZES)
def test_each_fuzz_reports_its_coverage(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--fuzz", name, "--seconds", "0.3", "--seed", "5"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "seed 5"
    assert printed[-1].endswith("every one had its right end")
    assert len(printed) > 2


def test_a_short_soak_has_no_findings(tmp_path: Path) -> None:
    facts = run(tmp_path, "--seconds", "3", "--seed", "5", "--faults", "reset,partial")
    assert facts["tasks"] >= 100
    assert facts["faults"] >= 1
    assert facts["connections of the runner"] > 3


def test_two_kills_of_a_runner_lose_no_answer(tmp_path: Path) -> None:
    facts = run(tmp_path, "--kills", "2", "--seed", "5")
    assert facts["kills"] == 2
    assert facts["outcomes"]["done"] >= 9
