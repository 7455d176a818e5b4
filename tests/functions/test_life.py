"""The life of a function: registered, replaced by a cell that runs again, removed; and how nodes see it."""

from __future__ import annotations

import os
from typing import Any, Callable

import pytest

from n8nrunner import ConfigurationError, Runner
from n8nrunner.broker import Broker
from tests.conftest import LIMIT, promptly, signature_of, wait_until

NewRunner = Callable[..., Runner]


def call(broker: Broker, runner: Runner, function: str, type: str = "n8nrunner.leads") -> Any:
    settings = {
        "version": 1,
        "function": function,
        "signature": signature_of(runner, function),
        "calls": [{"item": 0, "arguments": {}}],
    }
    return broker.run_task(type, settings, timeout=LIMIT)


def results(answer: Any) -> list[Any]:
    return [item["json"]["result"] for item in answer["items"]]


def test_a_runner_shows_its_functions_as_they_are(new_runner: NewRunner) -> None:
    runner = new_runner(name="leads")
    assert runner.functions == {}

    @runner.function
    def score() -> int:
        return 1

    @runner.function(name="rank", limit=1)
    def other() -> int:
        return 2

    assert runner.functions == {"score": score, "rank": other}
    shown = runner.functions

    @runner.function(name="score")
    def newer() -> int:
        return 3

    assert shown == {"score": score, "rank": other}
    assert runner.functions == {"score": newer, "rank": other}


@pytest.mark.parametrize("limit", [None, 1])
def test_a_removed_function_is_unknown_from_the_next_call_on(
    broker: Broker, new_runner: NewRunner, limit: int | None
) -> None:
    runner = new_runner(name="leads")
    type = "n8nrunner.leads" if limit is None else "n8nrunner.leads.score"
    runner.function(name="rank")(lambda: 1)
    runner.function(name="score", limit=limit)(lambda: 2)
    runner.start()
    assert results(call(broker, runner, "score", type)) == [2]
    runner.remove("score")
    assert list(runner.functions) == ["rank"]
    answer = call(broker, runner, "score", type)
    assert answer["error"]["code"] == "unknown_function"
    assert "has no function 'score'; it has rank" in answer["error"]["message"]
    assert results(call(broker, runner, "rank")) == [1]
    runner.function(name="score", limit=limit)(lambda: 3)
    assert results(call(broker, runner, "score", type)) == [3]


def test_after_the_last_function_is_removed_calls_are_refused_at_once(
    broker: Broker, new_runner: NewRunner
) -> None:
    runner = new_runner(name="leads")
    runner.function(name="score")(lambda: 1)
    runner.start()
    runner.remove("score")
    with promptly():
        answer = call(broker, runner, "score")
    assert "has no function 'score'; it has none" in answer["error"]["message"]


@pytest.mark.parametrize(("registered", "known"), [([], "none"), (["a", "b"], "a, b")])
def test_removing_an_unknown_function_names_the_known_ones(
    new_runner: NewRunner, registered: list[str], known: str
) -> None:
    runner = new_runner(name="leads")
    for name in registered:
        runner.function(name=name)(lambda: None)
    with pytest.raises(ConfigurationError, match=rf"expected a registered one \({known}\), got 'c'"):
        runner.remove("c")


# --- asking the runner --------------------------------------------------------------------------------


def ask(broker: Broker, type: str = "n8nrunner:describe:leads") -> Any:
    return broker.run_task(type, {}, timeout=LIMIT)


def names(broker: Broker) -> list[str]:
    return [function["name"] for function in ask(broker)["functions"]]


def test_a_node_that_asks_sees_each_change_of_the_functions(broker: Broker, new_runner: NewRunner) -> None:
    runner = new_runner(name="leads")
    runner.start()
    assert ask(broker)["functions"] == []
    assert ask(broker, "n8nrunner:describe")["functionCount"] == 0

    @runner.function
    def score(email: str) -> int:
        return 1

    wait_until(lambda: names(broker) == ["score"])
    first = ask(broker)["functions"][0]
    assert [each["name"] for each in first["parameters"]] == ["email"]

    @runner.function(name="score")  # the cell is run again
    def newer(email: str, country: str = "DE") -> int:
        return 2

    wait_until(lambda: len(ask(broker)["functions"][0]["parameters"]) == 2)
    assert ask(broker)["functions"][0]["signature"] == signature_of(runner, "score") != first["signature"]
    runner.function(name="rank")(lambda: 1)
    wait_until(lambda: names(broker) == ["rank", "score"])
    runner.remove("score")
    wait_until(lambda: names(broker) == ["rank"])
    assert ask(broker, "n8nrunner:describe")["functionCount"] == 1


def test_a_restarted_runner_describes_its_functions_again(broker: Broker, new_runner: NewRunner) -> None:
    runner = new_runner(name="leads")
    runner.function(name="score")(lambda: 1)
    runner.start()
    assert names(broker) == ["score"]
    runner.stop()
    runner.function(name="rank")(lambda: 1)
    runner.start()
    assert names(broker) == ["rank", "score"]


def test_two_runners_answer_for_themselves(broker: Broker, new_runner: NewRunner) -> None:
    for name in ("leads", "orders"):
        runner = new_runner(name=name)
        runner.function(name=f"of_{name}")(lambda: 1)
        runner.start()
    assert names(broker) == ["of_leads"]
    assert [each["name"] for each in ask(broker, "n8nrunner:describe:orders")["functions"]] == ["of_orders"]
    found: set[str] = set()

    def ask_who_is_there() -> bool:
        answer = ask(broker, "n8nrunner:describe")
        assert str(os.getpid()) in answer["process"]
        found.add(answer["runner"])
        return found == {"leads", "orders"}

    wait_until(ask_who_is_there)
