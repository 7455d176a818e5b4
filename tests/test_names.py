"""A runner whose broker is a name: links that come and go with its addresses, over real sockets.

tests/netns/test_names.py does the same with a real resolver and a name server.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Callable

import pytest

from n8nrunner import AuthenticationError, Runner, Task, Undelivered
from n8nrunner.broker import Broker
from n8nrunner.connection import broker_name
from n8nrunner.connection.loop import LinkThread
from n8nrunner.errors import BrokerConnectionError
from n8nrunner.protocol import names
from n8nrunner.protocol.events import NameLookedUp
from n8nrunner.protocol.names import MISSES
from tests.conftest import LIMIT, TOKEN, engine_of, promptly, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 is an address on Linux alone")

NewRunner = Callable[..., Runner]
ONE, TWO, THREE = "127.0.0.1", "127.0.0.2", "127.0.0.3"
UNKNOWN = NameLookedUp((), "the host 'worker.test' has no known address")
FAILED = NameLookedUp(None, "the look-up of 'worker.test' failed: the name server does not answer")


class NameServer:
    """Stands for the system's resolver. It repeats the last one of its `answers`."""

    def __init__(self) -> None:
        self.answers: list[NameLookedUp] = [UNKNOWN]
        self.count = 0
        #: Look-ups wait while it is cleared.
        self.is_quick = threading.Event()
        self.is_quick.set()

    def __call__(self, host: str) -> NameLookedUp:
        assert host == "worker.test"
        self.is_quick.wait(LIMIT)
        self.count += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def give(self, *addresses: str) -> None:
        self.answers = [NameLookedUp(addresses, None)]

    def wait_for_answers(self, count: int) -> None:
        """Wait until so many look-ups more have ended and have been handled."""
        end = self.count + count + 1
        wait_until(lambda: self.count >= end)


@pytest.fixture
def name_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    server = NameServer()
    monkeypatch.setattr(broker_name, "look_up", server)
    monkeypatch.setattr(names, "INTERVAL", 0.01)
    yield server
    server.is_quick.set()


class Workers:
    """Embedded brokers on one port of several loopback addresses."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.port = 0
        self.at: dict[str, Broker] = {}

    @property
    def url(self) -> str:
        return f"dns+http://worker.test:{self.port}"

    def start(self, *addresses: str) -> None:
        for address in addresses:
            broker = Broker(TOKEN, address, self.port)
            broker.start()
            self._stack.callback(broker.kill)
            self.at[address] = broker
            self.port = broker.port


@pytest.fixture
def workers() -> Iterator[Workers]:
    with ExitStack() as stack:
        workers = Workers(stack)
        workers.start(ONE)
        yield workers


def registered(runner: Runner) -> set[str]:
    """Return the addresses of the registered links."""
    links = runner.snapshot().links
    return {link.broker.split("/")[2].split(":")[0] for link in links if link.state == "registered"}


def echo(task: Task) -> Any:
    return task.settings


def test_links_follow_workers_that_scale_from_one_to_three_and_back_and_no_task_is_lost(
    new_runner: NewRunner, workers: Workers, name_server: NameServer
) -> None:
    runner = new_runner(workers.url, capacity=4)
    runner.task("echo")(echo)
    name_server.give(ONE)
    runner.start()
    numbers: list[int] = []

    def ask(*addresses: str) -> list[Any]:
        """Give five tasks to each of these workers."""
        tasks = []
        for address in addresses * 5:
            numbers.append(len(numbers))
            tasks.append((numbers[-1], workers.at[address].submit("echo", numbers[-1])))
        return tasks

    def check(tasks: list[Any]) -> None:
        for number, task in tasks:
            assert task.result(LIMIT) == number

    check(ask(ONE))
    workers.start(TWO, THREE)
    name_server.give(THREE, ONE, TWO)
    wait_until(lambda: registered(runner) == {ONE, TWO, THREE})
    links = {link.broker: link.origin for link in runner.snapshot().links}
    assert links == {f"http://{address}:{workers.port}": workers.url for address in (ONE, TWO, THREE)}
    check(ask(ONE, TWO, THREE))

    tasks = ask(ONE, TWO, THREE)
    name_server.give(ONE)  # they have left the name, and still work until they stop
    name_server.wait_for_answers(MISSES)
    check(ask(TWO))
    workers.at[TWO].stop()
    workers.at[THREE].stop()
    check(tasks)
    wait_until(lambda: len(runner.snapshot().links) == 1)
    check(ask(ONE))
    snapshot = runner.snapshot()
    assert registered(runner) == {ONE}
    assert snapshot.links[0].registrations == 1
    assert snapshot.counts.accepted == snapshot.counts.done == len(numbers), "links that are gone count"
    assert not snapshot.counts.lost


def test_an_address_of_a_name_that_is_also_a_plain_url_has_a_link_for_each(
    new_runner: NewRunner, workers: Workers, name_server: NameServer
) -> None:
    """They may be two brokers: a proxy there can tell them apart by the host of the requests."""
    plain = f"http://{ONE}:{workers.port}"
    runner = new_runner([plain, workers.url], capacity=2)
    runner.task("echo")(echo)
    name_server.give(ONE)
    runner.start()
    wait_until(lambda: [link.state for link in runner.snapshot().links] == ["registered"] * 2)
    assert {(link.broker, link.origin) for link in runner.snapshot().links} == {
        (plain, None),
        (plain, workers.url),
    }
    tasks = [workers.at[ONE].submit("echo", number) for number in range(5)]
    assert [task.result(LIMIT) for task in tasks] == list(range(5))


def test_the_only_link_offers_the_whole_capacity_also_after_others_have_gone(
    new_runner: NewRunner, workers: Workers, name_server: NameServer
) -> None:
    runner = new_runner(workers.url, capacity=4)
    runner.task("echo")(echo)
    name_server.give(ONE)
    runner.start()
    one = workers.at[ONE]
    one.wait_for(lambda counts: counts.offers == 4)
    workers.start(TWO)
    name_server.give(ONE, TWO)
    wait_until(lambda: registered(runner) == {ONE, TWO})
    assert workers.at[TWO].run_task("echo", 1) == 1
    name_server.give(ONE)
    name_server.wait_for_answers(MISSES)
    workers.at[TWO].stop()
    wait_until(lambda: len(runner.snapshot().links) == 1)
    one.wait_for(lambda counts: counts.offers >= 4)


@pytest.mark.parametrize(
    "answers",
    [
        [FAILED],
        [UNKNOWN],
        [NameLookedUp((TWO, TWO, ONE, ONE), None), NameLookedUp((ONE, TWO, ONE), None)],
        [NameLookedUp((TWO, ONE), None), FAILED, NameLookedUp((ONE,), None), UNKNOWN],
    ],
    ids=["it fails", "the name is unknown", "repetitions and another order", "now one and now the other"],
)
def test_no_answer_of_a_name_server_ends_a_connection_that_works(
    answers: list[NameLookedUp], new_runner: NewRunner, workers: Workers, name_server: NameServer
) -> None:
    workers.start(TWO)
    runner = new_runner(workers.url)
    runner.task("echo")(echo)
    name_server.give(ONE, TWO)
    runner.start()
    wait_until(lambda: registered(runner) == {ONE, TWO})
    name_server.answers = answers * 5
    name_server.wait_for_answers(5 * len(answers) + MISSES)
    assert registered(runner) == {ONE, TWO}
    assert [link.registrations for link in runner.snapshot().links if link.origin] == [1, 1]
    for broker in workers.at.values():
        assert broker.run_task("echo", 1) == 1


def test_a_name_server_that_is_down_does_not_keep_a_link_from_connecting_again(
    new_runner: NewRunner, workers: Workers, name_server: NameServer
) -> None:
    runner = new_runner(workers.url)
    name_server.give(ONE)
    runner.start()
    name_server.answers = [FAILED]
    name_server.wait_for_answers(MISSES)
    workers.at[ONE].kill()
    workers.at[ONE].start()
    wait_until(lambda: runner.snapshot().links[0].registrations == 2)


def test_a_slow_name_server_delays_no_broker_and_no_stop(
    new_runner: NewRunner, workers: Workers, broker: Broker, name_server: NameServer
) -> None:
    name_server.is_quick.clear()
    runner = new_runner([broker.url, workers.url])
    runner.task("echo")(echo)
    with promptly():
        runner.start()
        assert broker.run_task("echo", 1) == 1
        plain, name = runner.snapshot().links
        assert (plain.broker, plain.origin) == (broker.url, None)
        assert name == (workers.url, "waiting", 0, 0, name.last_error, *name[5:])
        assert "the look-up of 'worker.test' has not ended yet" in str(name.last_error)
        runner.stop()
    assert [link.state for link in runner.snapshot().links] == ["closed", "closed"]


def test_a_link_that_is_opened_later_has_the_types_of_now(
    new_runner: NewRunner, workers: Workers, name_server: NameServer
) -> None:
    runner = new_runner(workers.url)
    runner.task("first")(echo)
    name_server.give(ONE)
    runner.start()
    runner.task("second")(echo)
    workers.start(TWO)
    name_server.give(ONE, TWO)
    for broker in workers.at.values():
        assert broker.run_task("second", 1) == 1


def test_a_link_without_a_connection_ends_with_its_address_and_a_later_one_takes_its_place(
    new_runner: NewRunner, workers: Workers, name_server: NameServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    workers.start(TWO)
    runner = new_runner(workers.url)
    name_server.give(ONE, TWO)
    runner.start()
    wait_until(lambda: registered(runner) == {ONE, TWO})
    workers.at[TWO].kill()
    name_server.give(ONE)
    wait_until(lambda: len(runner.snapshot().links) == 1)
    for text in (
        f"{workers.url} has the new address {TWO}",
        f"{workers.url} no longer has the address {TWO}",
        f"The link to http://{TWO}:{workers.port} has ended",
    ):
        assert sum(text in record.getMessage() for record in caplog.records) == 1
    workers.at[TWO].start()
    name_server.give(ONE, TWO)
    wait_until(lambda: registered(runner) == {ONE, TWO})


def test_the_result_of_a_task_whose_worker_has_gone_for_good_is_reported_and_counted(
    new_runner: NewRunner, workers: Workers, name_server: NameServer
) -> None:
    begun, may_return = threading.Event(), threading.Event()
    undelivered: list[Undelivered] = []

    def wait(task: Task) -> str:
        begun.set()
        may_return.wait(LIMIT)
        return "late"

    workers.start(TWO)
    runner = new_runner(workers.url, on_undelivered=undelivered.append)
    runner.task("wait")(wait)
    name_server.give(ONE, TWO)
    runner.start()
    workers.at[TWO].submit("wait", {})
    assert begun.wait(LIMIT)
    workers.at[TWO].kill()
    name_server.give(ONE)
    wait_until(lambda: len(runner.snapshot().links) == 1)
    may_return.set()
    wait_until(lambda: undelivered)
    assert undelivered[0].broker == f"http://{TWO}:{workers.port}"
    wait_until(lambda: len(engine_of(runner).links) == 1)
    counts = runner.snapshot().counts
    assert (counts.accepted, counts.lost, counts.undelivered) == (1, 1, 1)


# --- the start --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (FAILED, "the name server does not answer"),
        (UNKNOWN, "the host 'worker.test' has no known address"),
        (NameLookedUp((TWO, THREE), None), " has 2 addresses: http://127.0.0.2:{port} cannot be reached"),
    ],
)
def test_an_error_of_start_names_the_name_and_what_the_look_up_gave(
    answer: NameLookedUp, says: str, new_runner: NewRunner, workers: Workers, name_server: NameServer
) -> None:
    name_server.answers = [answer]
    runner = new_runner(workers.url)
    with pytest.raises(BrokerConnectionError) as caught:
        runner.start(wait=0.5)
    assert workers.url in str(caught.value)
    assert says.format(port=workers.port) in str(caught.value)
    wait_until(lambda: runner.state == "stopped")


def test_start_waits_for_the_first_address(
    new_runner: NewRunner, workers: Workers, name_server: NameServer
) -> None:
    name_server.answers = [FAILED, UNKNOWN, UNKNOWN, NameLookedUp((ONE,), None)]
    runner = new_runner(workers.url)
    runner.start()
    assert registered(runner) == {ONE}
    wait_until(lambda: [link.broker for link in runner.snapshot().links] == [f"http://{ONE}:{workers.port}"])


def test_the_start_fails_when_every_address_refuses_the_token(
    new_runner: NewRunner, workers: Workers, name_server: NameServer
) -> None:
    workers.start(TWO)
    name_server.give(ONE, TWO)
    runner = new_runner(workers.url, auth_token="another")
    with pytest.raises(AuthenticationError, match="refused the token"):
        runner.start()
    assert runner.state == "failed"
    links = runner.snapshot().links
    assert len(links) == 2, "\n".join(map(repr, links))


def test_a_refusal_is_not_the_end_while_a_name_has_no_address(
    new_runner: NewRunner, workers: Workers, broker: Broker, name_server: NameServer
) -> None:
    """The token of one broker is wrong, and the other brokers are not there yet."""
    other = Broker("another")
    with other:
        runner = new_runner([other.url, workers.url])
        runner.start(wait=0)
        wait_until(lambda: runner.snapshot().links[0].failures)
        name_server.give(ONE)
        wait_until(lambda: registered(runner) == {ONE})
        runner.stop(0)


# --- the end, and faults ------------------------------------------------------------------------------------


def test_a_newer_runner_takes_over_the_brokers_of_a_name(
    new_runner: NewRunner, workers: Workers, name_server: NameServer
) -> None:
    name_server.give(ONE)
    older, newer = (new_runner(url, name="shop") for url in (workers.url, f"{workers.url}/"))
    for runner in (older, newer):
        runner.function(lambda: 1, name="one")
        runner.start()
    assert older.join(LIMIT)
    assert newer.is_registered


def test_an_idle_runner_with_a_name_stops(
    new_runner: NewRunner, workers: Workers, name_server: NameServer
) -> None:
    runner = new_runner(workers.url, auto_shutdown_timeout=0.2)
    name_server.give(ONE)
    runner.start()
    assert runner.join(LIMIT)
    assert runner.state == "stopped"


def test_a_runner_that_stops_finishes_the_tasks_of_all_its_links(
    new_runner: NewRunner, workers: Workers, name_server: NameServer
) -> None:
    running = threading.Semaphore(0)
    may_return = threading.Event()

    def wait(task: Task) -> str:
        running.release()
        may_return.wait(LIMIT)
        return "done"

    workers.start(TWO)
    runner = new_runner(workers.url)
    runner.task("wait")(wait)
    name_server.give(ONE, TWO)
    runner.start()
    tasks = [broker.submit("wait", {}) for broker in workers.at.values()]
    for _ in tasks:
        assert running.acquire(timeout=LIMIT)
    stopping = threading.Thread(target=runner.stop)
    stopping.start()
    wait_until(lambda: runner.state == "stopping")
    may_return.set()
    assert [task.result(LIMIT) for task in tasks] == ["done", "done"]
    stopping.join(LIMIT)
    assert runner.state == "stopped"


def test_after_an_unexpected_error_the_name_is_looked_up_again(
    new_runner: NewRunner,
    workers: Workers,
    name_server: NameServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail_once(owner: Any, name: str) -> None:
        original = getattr(owner, name)
        errors = iter([KeyError("a defect")])

        def faulty(*arguments: Any) -> Any:
            for error in errors:
                raise error
            return original(*arguments)

        monkeypatch.setattr(owner, name, faulty)

    fail_once(names.NameMachine, "settle")
    fail_once(names.NameMachine, "looked_up")
    fail_once(LinkThread, "open_link")
    runner = new_runner(workers.url)
    name_server.give(ONE)
    runner.start()
    assert registered(runner) == {ONE}
    assert caplog.text.count("An unexpected error while dns+http://worker.test") == 3
    assert "KeyError" in caplog.text


def test_a_look_up_that_raises_or_gets_no_thread_counts_as_failed(
    new_runner: NewRunner, workers: Workers, name_server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start
    faults = iter(["no thread", "raises"])

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("n8nrunner-lookup") and next(faults, None) == "no thread":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    name_server.answers = [None, NameLookedUp((ONE,), None)]  # type: ignore[list-item]
    runner = new_runner(workers.url)
    runner.start()
    assert registered(runner) == {ONE}
