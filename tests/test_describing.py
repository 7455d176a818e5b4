"""A runner that is asked what it has, over real sockets, while its handlers leave it little time."""

from __future__ import annotations

import threading
from typing import Any, Callable

import pytest
import requests

from n8nrunner import Counts, Runner
from n8nrunner.broker import Broker, BrokerTaskError
from n8nrunner.task_types import DESCRIBE, describe_type
from tests.conftest import LIMIT, TOKEN, wait_until

NewRunner = Callable[..., Runner]
NAME = "sales"


class Burner:
    """A function that burns CPU in pure Python until it is told to end."""

    def __init__(self, calls: int) -> None:
        self.go_on = True
        self._inside = threading.Semaphore(0)
        self._calls = calls

    def quote(self, pieces: int) -> int:
        self._inside.release()
        while self.go_on:
            pieces = (pieces * 3 + 1) % 1_000_003
        return pieces

    def wait_running(self) -> None:
        for _ in range(self._calls):
            assert self._inside.acquire(timeout=LIMIT)


@pytest.fixture
def runner(new_runner: NewRunner) -> Runner:
    return new_runner(name=NAME, capacity=3)


@pytest.fixture
def burner(broker: Broker, runner: Runner) -> Any:
    """A function in all slots of the runner."""
    burner = Burner(runner.config.capacity)
    runner.function(burner.quote)
    runner.start(wait=LIMIT)
    settings = {"version": 1, "function": "quote", "calls": [{"item": 0, "arguments": {"pieces": 1}}]}
    for _ in range(runner.config.capacity):
        broker.submit(f"n8nrunner.{NAME}", settings, timeout=LIMIT)
    burner.wait_running()
    yield burner
    burner.go_on = False


def ask(broker: Broker, task_type: str) -> Any:
    return broker.run_task(task_type, {}, timeout=LIMIT)


def test_a_runner_whose_slots_are_taken_says_what_it_has(
    broker: Broker, runner: Runner, burner: Burner
) -> None:
    before = runner.snapshot()
    assert before.taken == 3
    assert ask(broker, DESCRIBE)["functionCount"] == 1
    described = ask(broker, describe_type(NAME))
    assert [function["name"] for function in described["functions"]] == ["quote"]
    assert described["state"] == "running"
    after = runner.snapshot()
    assert after.counts == before.counts == Counts(accepted=3)
    assert [task.id for task in after.tasks] == [task.id for task in before.tasks]
    burner.go_on = False
    wait_until(lambda: runner.snapshot().counts == Counts(accepted=3, done=3))


def test_a_runner_that_stops_says_so_until_its_tasks_have_ended(
    broker: Broker, runner: Runner, burner: Burner
) -> None:
    stopping = threading.Thread(target=runner.stop, args=(LIMIT,))
    stopping.start()
    wait_until(lambda: runner.snapshot().links[0].state == "draining")
    assert ask(broker, DESCRIBE)["state"] == ask(broker, describe_type(NAME))["state"] == "stopping"
    burner.go_on = False
    stopping.join(LIMIT)
    assert not stopping.is_alive()
    assert runner.snapshot().counts == Counts(accepted=3, done=3)


def test_a_runner_without_functions_says_that_it_has_none(broker: Broker, runner: Runner) -> None:
    runner.start(wait=LIMIT)
    assert ask(broker, describe_type(NAME))["functions"] == []
    runner.function(Burner(1).quote)
    # The links' thread may get the question before the change.
    wait_until(lambda: len(ask(broker, describe_type(NAME))["functions"]) == 1)


def test_questions_do_not_delay_the_idle_shutdown(broker: Broker, new_runner: NewRunner) -> None:
    runner = new_runner(name=NAME, auto_shutdown_timeout=0.5)
    runner.function(Burner(1).quote)
    runner.start(wait=LIMIT)
    asked = 0
    while runner.state == "running":
        try:
            broker.run_task(DESCRIBE, {}, timeout=1)
        except BrokerTaskError:
            break  # the runner has stopped in the meantime
        asked += 1
    assert asked > 1
    assert runner.join(LIMIT)
    assert runner.snapshot().counts == Counts()


def test_a_program_in_any_language_can_ask(broker: Broker, runner: Runner) -> None:
    runner.start(wait=LIMIT)
    url = broker.url.replace("/runners", "") + "/tasks"
    answer = requests.post(
        url,
        json={"taskType": DESCRIBE, "settings": {}},
        headers={"Authorization": f"Bearer {TOKEN}"},
        timeout=LIMIT,
    )
    assert answer.json()["result"]["runner"] == NAME
