"""Runners and n8n that come and go: who starts first, who stops, who is restarted, who shares the work."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable

import pytest
import requests

from .conftest import in_both_modes
from .load import Load
from .n8n import N8n, job_node, webhook_node
from .runners import RunnerProcess

pytestmark = pytest.mark.n8n

StartRunner = Callable[..., RunnerProcess]

RESTARTS = 10
NEXT_ANSWER_LIMIT = 5.0
"""Seconds until a call is answered once n8n is back: the runner has to be back, and others call as well."""


@in_both_modes
def test_a_runner_that_starts_before_n8n_registers_later(n8n: N8n, start_runner: StartRunner) -> None:
    workflow = n8n.create_workflow("early", [webhook_node("early"), job_node("tests.echo")])
    n8n.stop()
    runner = start_runner(registered=False, arguments=["--wait", "0"])
    assert runner.wait_for("started runner")["registered"] is False
    assert runner.exit_code is None

    n8n.start()

    runner.wait_for("registered")
    workflow.wait_active()
    assert workflow.call({"at": "last"}).json()[0]["body"] == {"at": "last"}
    runner.stop()


def test_start_says_what_to_check_when_n8n_is_down(n8n: N8n, start_runner: StartRunner) -> None:
    n8n.stop()

    runner = start_runner(registered=False, arguments=["--wait", "1"])

    failed = runner.wait_for("start failed")
    assert failed["error"] == "BrokerConnectionError"
    assert n8n.broker_url in failed["message"]
    assert runner.wait() == 1


@in_both_modes
def test_stop_lets_a_task_finish_and_n8n_gets_its_answer(n8n: N8n, start_runner: StartRunner) -> None:
    runner = start_runner()
    node = job_node("tests.count", settings={"seconds": 1.0})
    workflow = n8n.create_workflow("drain", [webhook_node("drain"), node])
    with ThreadPoolExecutor(1) as callers:
        answer = callers.submit(workflow.call, {"number": 1})
        runner.wait_for("ran")

        runner.stop()

        assert answer.result(30).json() == [{"number": 1, "runner": "tests"}]


@in_both_modes
def test_n8n_drains_the_runner_when_it_stops_and_the_runner_reconnects(
    n8n: N8n, start_runner: StartRunner
) -> None:
    runner = start_runner()
    node = job_node("tests.count", settings={"seconds": 1.0})
    workflow = n8n.create_workflow("n8n drains", [webhook_node("n8n-drains"), node])
    with ThreadPoolExecutor(1) as callers:
        answer = callers.submit(workflow.call, {"number": 1})
        runner.wait_for("ran")

        n8n.stop()  # raises if n8n had to give up waiting for the runner

        assert answer.result(30).json() == [{"number": 1, "runner": "tests"}]
    n8n.start()
    workflow.wait_active()
    assert workflow.call({"number": 2}).json() == [{"number": 2, "runner": "tests"}]
    assert runner.events("undelivered") == []
    runner.stop()


def test_n8n_keeps_its_runner_while_it_is_stopped_for_25_s(n8n: N8n, start_runner: StartRunner) -> None:
    """As while its event loop is busy, in the middle of a large answer."""
    size = 20_000_000
    runner = start_runner()
    node = job_node("tests.large", settings={"size": size})
    workflow = n8n.create_workflow("still", [webhook_node("still"), node])
    with ThreadPoolExecutor(1) as callers:
        answer = callers.submit(workflow.call, {})
        runner.wait_for("ran")
        with n8n.standing_still():
            threading.Event().wait(25.0)  # how long n8n stands still is what is tested
        assert len(answer.result(90).json()[0]["text"]) == size
    time.sleep(10.0)  # what was late may have an effect afterwards
    assert runner.log.count("Registered with the broker") == 1
    runner.stop()


def test_two_runners_share_the_load(n8n: N8n, start_runner: StartRunner) -> None:
    names = ["first", "second"]
    for name in names:
        start_runner(name=name)
    workflow = n8n.create_workflow("share", [webhook_node("share"), job_node("tests.count")])
    workflow.call({"number": -1})
    together = threading.Barrier(200)

    def call(number: int) -> dict[str, Any]:
        together.wait(60.0)
        response = workflow.call({"number": number}, limit=120)
        assert response.status_code == 200, response.text
        [answer] = response.json()
        return dict(answer)

    with ThreadPoolExecutor(200) as callers:
        answers = list(callers.map(call, range(200)))

    assert [answer["number"] for answer in answers] == list(range(200))
    shares = Counter(answer["runner"] for answer in answers)
    print(f"shares of 200 concurrent calls: {dict(shares)}")
    assert set(shares) == set(names)
    assert min(shares.values()) >= 50


def test_the_runner_reconnects_after_each_of_ten_restarts_under_load(
    n8n: N8n, start_runner: StartRunner, record_property: Callable[[str, object], None]
) -> None:
    runner = start_runner()
    # Long enough for tasks to be in the middle when n8n goes away.
    workflow = n8n.create_workflow(
        "restarts", [webhook_node("restarts"), job_node("tests.count", settings={"seconds": 0.05})]
    )

    def call(number: int) -> requests.Response:
        return workflow.call({"number": number})

    def is_right(number: int, answer: Any) -> bool:
        return bool(answer == [{"number": number, "runner": "tests"}])

    load = Load(call, is_right)
    next_answers: list[float] = []
    with load:
        for restart in range(RESTARTS):
            load.wait_for_answers(10)
            if restart % 2:
                n8n.stop(under_load=True)
            else:
                n8n.kill()
            n8n.start()
            workflow.wait_active()
            asked = time.monotonic()
            number = -1 - restart
            response = call(number)
            assert response.status_code == 200, f"after restart {restart + 1}: {response.text}"
            assert response.json() == [{"number": number, "runner": "tests"}]
            next_answers.append(round(time.monotonic() - asked, 2))
        load.wait_for_answers(10)
    record_property("seconds_until_next_answer", next_answers)
    record_property("load", dict(load.outcomes))
    print(f"seconds until the next call was answered, after each restart: {next_answers}")
    print(f"calls of the load: {dict(load.outcomes)}")

    assert max(next_answers) < NEXT_ANSWER_LIMIT
    assert load.wrong == []
    assert load.outcomes["answered"] >= RESTARTS * 10
    # It is the same process throughout, and no task was handed to a handler twice.
    assert runner.exit_code is None
    ran = Counter(told["number"] for told in runner.events("ran"))
    assert [number for number, times in ran.items() if times > 1] == []
    assert set(ran) >= load.answered
    # A result that the runner reports as certainly undelivered reached no caller.
    surely_lost = {told["result"]["number"] for told in runner.events("undelivered") if told["certain"]}
    assert surely_lost.isdisjoint(load.answered)
    runner.stop()
