"""The two runs: a soak under faults of the network and of brokers, and a runner that is killed many times."""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

from n8nrunner.broker import Broker, BrokerConstants
from n8nrunner.task_types import DESCRIBE
from tests.benchmarks.processes import LineProcess

from . import ledger, plan, work
from .load import Load, Questions
from .proxy import FaultProxy

BROKERS = 3
CALLERS = 4
CAPACITY = 8
STARTED_WITHIN = 60.0
#: Seconds within which the runner answers tasks of every broker again, once there is no fault any more.
RECOVERED_WITHIN = 75.0
ENDED_WITHIN = 30.0
#: Megabytes of Python's objects that may be left of a run; a single large message has up to 5.
OBJECTS_MAY_GROW = 4.0
#: n8n's own limits, except that a runner which is restarted all the time is let in, and that a connection
#: whose runner is gone is noticed soon enough for a run of one minute.
CONSTANTS = BrokerConstants(auth_limit=1000, upgrade_limit=1000, heartbeat_interval=5.0, task_timeout=120.0)

Say = Callable[[str], None]


@dataclass
class Result:
    """The result of a run."""

    verdict: ledger.Verdict
    problems: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def is_good(self) -> bool:
        return self.verdict.is_good and not self.problems


class RunnerProcess(LineProcess):
    """`work.py` in a process of its own, registered with a broker when the constructor returns."""

    def __init__(self, urls: Sequence[str], book: Path) -> None:
        command = [sys.executable, "-m", "tests.faults.work", ",".join(urls), str(book), str(CAPACITY)]
        super().__init__("the runner", command)
        self.hear(STARTED_WITHIN)

    def stop(self) -> dict[str, Any]:
        """Stop the runner and end the process; returns its notes."""
        self.tell("stop")
        notes: dict[str, Any] = self.hear(ENDED_WITHIN)
        assert self.process.stdin is not None
        self.process.stdin.close()
        status = self.process.wait(ENDED_WITHIN)
        if status != 0:
            raise self.failure(f"ended with status {status}")
        return notes


def soak(
    seconds: float,
    seed: int,
    say: Say,
    kinds: tuple[str, ...] = plan.ALL_KINDS,
    brokers: int = BROKERS,
    large: float = plan.LARGE,
) -> Result:
    """Run a runner under load and faults, and compare the books.

    Args:
        seconds: how long faults go on; the end of it takes up to a minute more.
        seed: chooses the faults and the tasks.
        say: told how it goes.
        kinds: the faults to choose from.
        brokers: how many.
        large: the share of large tasks, see `plan.settings`.
    """
    events = plan.faults(seed, seconds, brokers, kinds)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="n8nrunner-faults-")))
        book = folder / "book"
        all_brokers = [_start_broker(stack) for _ in range(brokers)]
        proxies = [stack.enter_context(FaultProxy(broker.port)) for broker in all_brokers]
        runner = stack.enter_context(RunnerProcess([proxy.url for proxy in proxies], book))
        with Load(all_brokers, seed, CALLERS, large) as load, Questions(all_brokers) as questions:
            begun = time.monotonic()
            restarts = _Restarts(all_brokers)
            megabytes = []
            for event in events:
                restarts.until(begun + event.at)
                megabytes.append(round(work.megabytes(runner.pid)))
                say(f"{event.at:6.1f} s  broker {event.broker}: {describe(event.fault)}")
                if event.fault.kind in plan.BROKER_KINDS:
                    restarts.down(event.broker, event.fault)
                else:
                    proxies[event.broker].inject(event.fault)
            restarts.until(begun + seconds)
            restarts.all_up()
            for proxy in proxies:
                proxy.heal()
            problems = [
                f"broker {index} did not get its runner back within {RECOVERED_WITHIN:.0f} s"
                for index, broker in enumerate(all_brokers)
                if not _has_runner(broker)
            ]
            if not problems:
                load.wait_for_answers(100, RECOVERED_WITHIN)
                for broker in all_brokers:
                    broker.run_task(DESCRIBE, {}, timeout=RECOVERED_WITHIN)
            elapsed = time.monotonic() - begun
            notes = runner.stop()  # under load: what runs is finished within the grace period
            ignored = sum(broker.counts.ignored for broker in all_brokers)
            for broker in all_brokers:
                broker.kill()  # tells the callers whose tasks wait for a runner
        verdict = ledger.compare(load.book, ledger.read_book(book))
        problems += _problems(notes)
        problems += [f"a wrong answer to a question: {answer}" for answer in questions.wrong]
        facts = {
            "questions that were answered": questions.answered,
            "questions that were lost": questions.lost,
            "tasks": len(load.book),
            "tasks a second": round(len(load.book) / elapsed, 1),
            "faults": len(events),
            "outcomes": dict(verdict.outcomes),
            "connections of the runner": sum(broker.counts.connected for broker in all_brokers),
            "messages that the brokers ignored": ignored,
            "megabytes of the runner's process at each fault": megabytes,
            "notes of the runner": notes,
        }
        return Result(verdict, problems, facts)


def kills(count: int, seed: int, say: Say, brokers: int = BROKERS) -> Result:
    """Kill a runner with tasks in flight and start another, `count` times, and compare the books."""
    chooser = random.Random(f"kills {seed}")
    in_flight = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="n8nrunner-faults-")))
        book = folder / "book"
        all_brokers = [_start_broker(stack) for _ in range(brokers)]
        urls = [broker.url for broker in all_brokers]
        with Load(all_brokers, seed, CALLERS, large=0.0) as load:
            for number in range(1, count + 1):
                with RunnerProcess(urls, book) as runner:
                    load.wait_for_answers(3, STARTED_WITHIN)
                    time.sleep(chooser.uniform(0.0, 0.2))
                    in_flight.append(load.in_flight())
                    runner.process.kill()
                if number % 10 == 0:
                    say(f"killed {number} times, {sum(in_flight)} tasks in flight")
            last = stack.enter_context(RunnerProcess(urls, book))
            load.wait_for_answers(3, STARTED_WITHIN)
            notes = last.stop()
            for broker in all_brokers:
                broker.kill()
        verdict = ledger.compare(load.book, ledger.read_book(book), was_killed=True)
        facts = {
            "tasks": len(load.book),
            "kills": count,
            "kills with tasks in flight": sum(number > 0 for number in in_flight),
            "tasks in flight at kills": sum(in_flight),
            "outcomes": dict(verdict.outcomes),
        }
        return Result(verdict, _problems(notes), facts)


def describe(fault: Any) -> str:
    text = f"{fault.kind} for {fault.seconds:.1f} s" if fault.seconds else str(fault.kind)
    return f"{text}, {fault.amount}" if fault.amount else text


def report(result: Result) -> str:
    """Return the result as text."""
    verdict = result.verdict
    lines = [
        f"{key}: {value if isinstance(value, (int, float)) else json.dumps(value)}"
        for key, value in result.facts.items()
    ]
    for name in ("lost", "doubled", "wrong"):
        found = getattr(verdict, name)
        lines.append(f"{name}: {len(found)}")
        lines += [f"    {line}" for line in found[:20]]
    lines += [f"PROBLEM: {problem}" for problem in result.problems]
    lines.append("all accounts agree" if result.is_good else "FAILED")
    return "\n".join(lines)


def _start_broker(stack: ExitStack) -> Broker:
    broker = Broker(work.TOKEN, constants=CONSTANTS)
    broker.start()
    stack.callback(broker.kill)
    return broker


def _has_runner(broker: Broker) -> bool:
    try:
        broker.wait_for(lambda counts: counts.runners > 0, RECOVERED_WITHIN)
    except TimeoutError:
        return False
    return True


def _problems(notes: dict[str, Any]) -> list[str]:
    problems = []
    if notes["state"] != "stopped" or notes["error"]:
        problems.append(f"the runner's state is {notes['state']!r}, its error {notes['error']!r}")
    if notes["taken"]:
        problems.append(f"{notes['taken']} slots are still taken")
    if notes["threads_left"]:
        problems.append(f"threads left: {notes['threads_left']}")
    if notes["descriptors_left"] > 0:
        problems.append(f"descriptors left: {notes['descriptors_left']}")
    if notes["stopped_in"] > work.GRACE + 1:
        problems.append(f"stop() took {notes['stopped_in']:.1f} s")
    grown = notes["memory"]["objects"] - notes["memory"]["objects begin"]
    if grown > OBJECTS_MAY_GROW:
        problems.append(f"Python's objects have grown by {grown:.0f} MB, which something still refers to")
    problems += [f"logged as an error: {line}" for line in notes["complaints"]]
    return problems


class _Restarts:
    """Brokers that are down, and when they come back. Waits for the next fault."""

    def __init__(self, brokers: Sequence[Broker]) -> None:
        self._brokers = brokers
        self._back: dict[int, float] = {}

    def down(self, index: int, fault: Any) -> None:
        if index in self._back:
            return
        broker = self._brokers[index]
        if fault.kind == plan.KILL_BROKER:
            broker.kill()
        else:
            broker.stop(0.2)
        self._back[index] = time.monotonic() + fault.seconds

    def until(self, moment: float) -> None:
        """Wait until then; starts the brokers whose time has come."""
        while True:
            now = time.monotonic()
            for index, at in list(self._back.items()):
                if at <= now:
                    self._brokers[index].start()
                    del self._back[index]
            if now >= moment:
                return
            time.sleep(max(0.0, min([moment, *self._back.values()]) - now))

    def all_up(self) -> None:
        if self._back:
            self.until(max(self._back.values()))
