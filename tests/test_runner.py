"""The Runner as a program uses it, over real sockets, against the embedded broker."""

from __future__ import annotations

import logging
import math
import re
import signal
import threading
from typing import Any, Callable

import pytest

from n8nrunner import (
    AuthenticationError,
    BrokerConnectionError,
    ConfigurationError,
    ExecutorBroken,
    GrantTokenSpent,
    Runner,
    Task,
    TaskError,
    TaskTimeout,
    Undelivered,
)
from n8nrunner.broker import (
    Broker,
    BrokerTaskCancelled,
    BrokerTaskError,
    BrokerTaskLost,
    BrokerTaskTimeout,
)
from tests.conftest import LIMIT, TOKEN, promptly, wait_until

NewRunner = Callable[..., Runner]


class Gate:
    """A handler that says when it runs and waits until it may go on."""

    def __init__(self) -> None:
        self.running = threading.Semaphore(0)
        self.open = threading.Event()
        self.tasks: list[Task] = []

    def __call__(self, task: Task) -> Any:
        self.tasks.append(task)
        self.running.release()
        assert self.open.wait(LIMIT)
        return task.settings

    def wait_running(self, count: int = 1) -> None:
        for _ in range(count):
            assert self.running.acquire(timeout=LIMIT)


# --- tasks ----------------------------------------------------------------------------------------


def test_a_task_goes_in_and_its_result_comes_out(broker: Broker, new_runner: NewRunner) -> None:
    runner = new_runner()

    @runner.task("enrich")
    def enrich(task: Task) -> Any:
        return [{"json": {"n": len(task.items), "of": task.settings["of"]}}]

    with runner:
        assert broker.run_task("enrich", {"of": "x"}, items=[{"json": {}}] * 3) == [
            {"json": {"n": 3, "of": "x"}}
        ]
    assert runner.snapshot().counts.done == 1
    assert runner.state == "stopped"


def test_handlers_run_on_pool_threads(broker: Broker, new_runner: NewRunner) -> None:
    runner = new_runner()
    runner.task("where")(lambda task: threading.current_thread().name)
    with runner:
        assert broker.run_task("where", {}).startswith("n8nrunner-pool")


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"tags": {1, 2}}, "result['tags'] is a set"),
        ([{"json": b"bytes"}], "result[0]['json'] is a bytes"),
        ({(1, 2): 3}, "key of type tuple"),
        (object(), "result is an object"),
    ],
)
def test_the_error_about_a_result_outside_of_json_names_its_place(
    broker: Broker, new_runner: NewRunner, value: Any, place: str
) -> None:
    runner = new_runner()
    runner.task("bad")(lambda task: value)
    runner.task("good")(lambda task: "still here")
    with runner:
        with pytest.raises(BrokerTaskError) as raised:
            broker.run_task("bad", {})
        assert place in raised.value.message
        assert broker.run_task("good", {}) == "still here"


def test_cycles_and_depths_are_refused_and_the_runner_goes_on(broker: Broker, new_runner: NewRunner) -> None:
    runner = new_runner()

    @runner.task("cycle")
    def cycle(task: Task) -> Any:
        value: list[Any] = [1]
        value.append({"back": value})
        return value

    @runner.task("deep")
    def deep(task: Task) -> Any:
        value: Any = 1
        for _ in range(1_000_000):
            value = [value]
        return value

    with runner:
        with pytest.raises(BrokerTaskError, match="contains itself"):
            broker.run_task("cycle", {})
        with pytest.raises(BrokerTaskError, match="levels deep"):
            broker.run_task("deep", {})
        with pytest.raises(BrokerTaskError, match="contains itself"):
            broker.run_task("cycle", {})


def test_nan_becomes_null(broker: Broker, new_runner: NewRunner) -> None:
    runner = new_runner()
    runner.task("nan")(lambda task: [math.nan, {"a": math.inf}, -math.inf, 1.5])
    with runner:
        assert broker.run_task("nan", {}) == [None, {"a": None}, None, 1.5]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), ValueError("no way")])
def test_an_exception_of_any_class_in_a_handler_ends_only_its_task(
    broker: Broker, new_runner: NewRunner, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    runner = new_runner()

    @runner.task("raise")
    def fail(task: Task) -> Any:
        raise error

    runner.task("good")(lambda task: 1)
    with runner, caplog.at_level(logging.ERROR, "n8nrunner.tasks"):
        with pytest.raises(BrokerTaskError) as raised:
            broker.run_task("raise", {})
        assert raised.value.message.startswith(type(error).__name__)
        assert raised.value.stack is not None
        assert "in fail" in raised.value.stack
        assert "invoke.py" not in raised.value.stack
        assert broker.run_task("good", {}) == 1


def test_a_task_error_is_shown_as_it_is(broker: Broker, new_runner: NewRunner) -> None:
    runner = new_runner()

    @runner.task("raise")
    def fail(task: Task) -> Any:
        raise TaskError("No such customer", description="Look at the first node")

    with runner, pytest.raises(BrokerTaskError) as raised:
        broker.run_task("raise", {})
    assert raised.value.error == {"message": "No such customer", "description": "Look at the first node"}


def test_results_above_the_limit_fail_their_task_and_not_the_connection(
    broker: Broker, new_runner: NewRunner
) -> None:
    runner = new_runner(max_payload=100_000)
    runner.task("size")(lambda task: "x" * task.settings["size"])
    with runner:
        with pytest.raises(BrokerTaskError, match="too large"):
            broker.run_task("size", {"size": 200_000})
        assert len(broker.run_task("size", {"size": 50_000})) == 50_000
    assert runner.snapshot().links[0].registrations == 1


def test_settings_above_the_limit_fail_their_task_and_not_the_connection(
    broker: Broker, new_runner: NewRunner
) -> None:
    gate = Gate()
    runner = new_runner(max_payload=100_000)
    runner.task("gate")(gate)
    runner.task("length")(lambda task: len(task.settings["text"]))
    with runner:
        other = broker.submit("gate", {"still": "here"})
        gate.wait_running()
        with pytest.raises(BrokerTaskError, match="too large") as raised:
            broker.run_task("length", {"text": "x" * 300_000})
        assert "N8N_RUNNERS_MAX_PAYLOAD" in str(raised.value.description)
        assert broker.run_task("length", {"text": "x" * 50_000}) == 50_000
        gate.open.set()
        assert other.result(LIMIT) == {"still": "here"}
    assert runner.snapshot().links[0].registrations == 1


def test_large_settings_and_results_pass_whole(broker: Broker, new_runner: NewRunner) -> None:
    items = [{"json": {"n": n, "text": "é" * 100}} for n in range(20_000)]
    runner = new_runner()
    runner.task("echo")(lambda task: task.items)
    with runner:
        assert broker.run_task("echo", {}, items=items) == items


# --- what a handler can ask of n8n ------------------------------------------------------------------


def test_a_task_can_call_every_function_of_n8n(broker: Broker, new_runner: NewRunner) -> None:
    node_types = [{"name": "n8n-nodes-base.code", "version": 2}]
    runner = new_runner()

    @runner.task("ask")
    def ask(task: Task) -> Any:
        task.log("got", {"n": 1}, math.nan, "\ud800")
        saved = task.save_file(task.read_file(0, "data").upper(), "shout.txt", "text/plain")
        data = task.request_data(chunk={"startIndex": 1, "count": 1})
        return {
            "saved": saved["fileName"],
            "input": data["inputData"]["main"][0],
            "types": task.request_node_types(node_types),
            "http": task.http_request(url="http://example.invalid/x", method="GET"),
            "custom": task.rpc("custom", 1, "two"),
        }

    with runner:
        task = broker.submit(
            "ask",
            {},
            items=[{"json": {"n": 0}}, {"json": {"n": 1}}],
            files={(0, "data"): b"hello"},
            node_types=node_types,
            rpc={
                "custom": lambda *params: list(params),
                "helpers.httpRequest": lambda options: options["url"],
            },
        )
        assert task.result(LIMIT) == {
            "saved": "shout.txt",
            "input": [{"json": {"n": 1}}],
            "types": node_types,
            "http": "http://example.invalid/x",
            "custom": [1, "two"],
        }
    assert task.saved_files[0].data == b"HELLO"
    assert task.logs == ["'got' {\"n\": 1} NaN '\ud800'"]


def test_a_call_that_n8n_refuses_is_a_clear_error(broker: Broker, new_runner: NewRunner) -> None:
    runner = new_runner()

    @runner.task("ask")
    def ask(task: Task) -> Any:
        return task.rpc("helpers.somethingElse")

    @runner.task("nonsense")
    def nonsense(task: Task) -> Any:
        return task.rpc("helpers.httpRequest", {"a": {1}})

    with runner:
        with pytest.raises(
            BrokerTaskError, match=r"helpers\.somethingElse failed in n8n: Method not allowed"
        ):
            broker.run_task("ask", {})
        with pytest.raises(BrokerTaskError, match=r"params\[0\]\['a'\] is a set"):
            broker.run_task("nonsense", {})


def test_a_task_sends_at_most_1000_lines_of_log(broker: Broker, new_runner: NewRunner) -> None:
    runner = new_runner()

    @runner.task("log")
    def log(task: Task) -> Any:
        for n in range(1500):
            task.log(n)
        return task.rpc("after")

    with runner:
        task = broker.submit("log", {}, rpc={"after": lambda: "all"})
        assert task.result(LIMIT) == "all"
    assert len(task.logs) == 1001
    assert "left out" in task.logs[-1]


def test_progress_is_in_the_snapshot(broker: Broker, new_runner: NewRunner) -> None:
    gate = Gate()
    runner = new_runner()

    @runner.task("slow")
    def slow(task: Task) -> Any:
        task.progress(0.25, "a quarter")
        return gate(task)

    with runner:
        broker.submit("slow", {})
        gate.wait_running()
        (running,) = runner.snapshot().tasks
        assert (running.type, running.progress, running.progress_text) == ("slow", 0.25, "a quarter")
        gate.open.set()


# --- capacity, limits and types ---------------------------------------------------------------------


def test_no_more_tasks_run_at_once_than_the_capacity(broker: Broker, new_runner: NewRunner) -> None:
    gate = Gate()
    runner = new_runner(capacity=3)
    runner.task("gate")(gate)
    with runner:
        tasks = [broker.submit("gate", n) for n in range(10)]
        gate.wait_running(3)
        broker.wait_for(lambda counts: counts.requests == 7 and counts.offers == 0)
        assert runner.snapshot().taken == 3
        assert len(gate.tasks) == 3
        gate.open.set()
        assert [task.result(LIMIT) for task in tasks] == list(range(10))
    assert broker.counts.rejected == 0


def test_a_limit_holds_for_its_type_only(broker: Broker, new_runner: NewRunner) -> None:
    narrow, wide = Gate(), Gate()
    runner = new_runner(capacity=4)
    runner.task("narrow", limit=1)(narrow)
    runner.task("wide")(wide)
    with runner:
        narrow_tasks = [broker.submit("narrow", n) for n in range(3)]
        wide_tasks = [broker.submit("wide", n) for n in range(3)]
        wide.wait_running(3)
        narrow.wait_running(1)
        assert len(narrow.tasks) == 1
        narrow.open.set()
        wide.open.set()
        assert [task.result(LIMIT) for task in narrow_tasks + wide_tasks] == [0, 1, 2] * 2


def test_a_handler_registered_later_is_offered_at_once(broker: Broker, new_runner: NewRunner) -> None:
    runner = new_runner()
    runner.task("early")(lambda task: "early")
    with runner:
        waiting = broker.submit("late", {})
        assert broker.run_task("early", {}) == "early"
        runner.task("late")(lambda task: "late")
        assert waiting.result(LIMIT) == "late"
        runner.task("late")(lambda task: "replaced")
        assert broker.run_task("late", {}) == "replaced"


def test_several_brokers_share_the_capacity(new_runner: NewRunner) -> None:
    gate = Gate()
    with Broker(auth_token=TOKEN) as one, Broker(auth_token=TOKEN) as two:
        runner = new_runner([one.url, two.url], capacity=2)
        runner.task("gate")(gate)
        runner.start()
        wait_until(lambda: all(link.state == "registered" for link in runner.snapshot().links))
        tasks = [broker.submit("gate", n) for n in range(3) for broker in (one, two)]
        gate.wait_running(2)
        assert runner.snapshot().taken == 2
        gate.open.set()
        assert sorted(task.result(LIMIT) for task in tasks) == [0, 0, 1, 1, 2, 2]
        runner.stop()


def test_a_runner_serves_its_other_brokers_while_one_is_down(broker: Broker, new_runner: NewRunner) -> None:
    with Broker(auth_token=TOKEN) as gone:
        url = gone.url
    runner = new_runner([url, broker.url])
    runner.task("echo")(lambda task: task.settings)
    with runner:
        assert broker.run_task("echo", 1) == 1
        assert [link.state for link in runner.snapshot().links][1] == "registered"


# --- how tasks end ------------------------------------------------------------------------------------


def test_a_cancelled_task_is_told_and_its_slot_comes_back(broker: Broker, new_runner: NewRunner) -> None:
    ended: list[Any] = []
    running = threading.Event()
    runner = new_runner(capacity=1)

    @runner.task("wait")
    def wait(task: Task) -> Any:
        running.set()
        task.wait_for_cancel(LIMIT)
        ended.append((task.cancelled, task.cancel_reason))
        task.raise_if_cancelled()

    runner.task("next")(lambda task: "next")
    with runner:
        task = broker.submit("wait", {})
        assert running.wait(LIMIT)
        task.cancel("Task cancelled by user")
        with pytest.raises(BrokerTaskCancelled):
            task.result(LIMIT)
        assert broker.run_task("next", {}) == "next"
    assert ended == [(True, "Task cancelled by user")]
    assert runner.snapshot().counts.cancelled == 1


def test_a_handler_that_does_not_return_keeps_its_slot_and_is_in_the_snapshot(
    broker: Broker, new_runner: NewRunner
) -> None:
    gate = Gate()
    runner = new_runner(capacity=1)
    runner.task("gate")(gate)
    with runner:
        task = broker.submit("gate", 1)
        gate.wait_running()
        task.cancel("enough")
        wait_until(lambda: runner.snapshot().tasks[0].cancel_reason == "enough")
        assert runner.snapshot().taken == 1
        gate.open.set()
        assert broker.run_task("gate", 2) == 2


def test_the_runners_timeout_uses_n8ns_sentence_and_is_on_time(broker: Broker, new_runner: NewRunner) -> None:
    seen: list[Any] = []
    runner = new_runner(task_timeout=0.3)

    @runner.task("slow")
    def slow(task: Task) -> Any:
        task.wait_for_cancel(LIMIT)
        try:
            task.raise_if_cancelled()
        except TaskTimeout as error:
            seen.append(str(error))
        return "too late"

    with runner:
        with promptly(), pytest.raises(BrokerTaskError, match=r"Task execution timed out after 0\.3 seconds"):
            broker.run_task("slow", {})
        wait_until(lambda: seen)
    assert seen == ["Task execution timed out after 0.3 seconds"]
    assert runner.snapshot().counts.timed_out == 1


def test_n8ns_timeout_cancels_the_task(broker: Broker, new_runner: NewRunner) -> None:
    reasons: list[Any] = []
    runner = new_runner()

    @runner.task("slow")
    def slow(task: Task) -> Any:
        task.wait_for_cancel(LIMIT)
        reasons.append(task.cancel_reason)

    with runner:
        with pytest.raises(BrokerTaskTimeout):
            broker.run_task("slow", {}, timeout=0.2)
        wait_until(lambda: reasons == ["Task execution timed out"])


def test_waits_in_a_task_end_with_it(broker: Broker, new_runner: NewRunner) -> None:
    ended = threading.Event()
    never = threading.Event()
    runner = new_runner()

    @runner.task("ask")
    def ask(task: Task) -> Any:
        try:
            task.rpc("never answers")
        finally:
            ended.set()

    with runner:
        asked = threading.Event()

        def answer() -> Any:
            asked.set()
            never.wait(LIMIT)

        task = broker.submit("ask", {}, rpc={"never answers": answer})
        assert asked.wait(LIMIT)
        task.cancel("no more")
        assert ended.wait(LIMIT)
        never.set()


def test_a_lost_connection_cancels_reports_and_reconnects(broker: Broker, new_runner: NewRunner) -> None:
    undelivered: list[Undelivered] = []
    reported = threading.Event()
    running = threading.Event()

    def report(result: Undelivered) -> None:
        undelivered.append(result)
        reported.set()

    runner = new_runner(on_undelivered=report)

    @runner.task("wait")
    def wait(task: Task) -> Any:
        running.set()
        task.wait_for_cancel(LIMIT)
        return {"reason": task.cancel_reason}

    runner.task("echo")(lambda task: task.settings)
    with runner:
        task = broker.submit("wait", {})
        assert running.wait(LIMIT)
        task_id = task.task_id
        broker.kill()
        with pytest.raises(BrokerTaskLost):
            task.result(LIMIT)
        assert reported.wait(LIMIT)
        broker.start()
        assert runner.wait_registered(LIMIT)
        assert broker.run_task("echo", "again") == "again"
    (result,) = undelivered
    assert (result.task_id, result.task_type, result.broker) == (task_id, "wait", broker.url)
    assert (result.certain, result.failed, result.kept) == (True, False, True)
    assert result.result == {"reason": "The connection to n8n was lost"}
    assert result.error is None


def test_a_drain_lets_tasks_finish(broker: Broker, new_runner: NewRunner) -> None:
    gate = Gate()
    runner = new_runner()
    runner.task("gate")(gate)
    with runner:
        task = broker.submit("gate", "finished")
        gate.wait_running()
        stopping = threading.Thread(target=broker.stop)
        stopping.start()
        wait_until(lambda: runner.snapshot().links[0].state == "draining")
        gate.open.set()
        assert task.result(LIMIT) == "finished"
        stopping.join(LIMIT)
        assert not stopping.is_alive()
        broker.start()
        assert runner.wait_registered(LIMIT)
        assert broker.run_task("gate", "again") == "again"


# --- start ----------------------------------------------------------------------------------------------


def test_a_wrong_token_raises_and_leaves_nothing(broker: Broker, new_runner: NewRunner) -> None:
    runner = new_runner(auth_token="not-the-token")
    advice = "set N8N_RUNNERS_AUTH_TOKEN at n8n to the token of this runner, and restart n8n"
    with pytest.raises(AuthenticationError, match=advice) as raised:
        runner.start()
    assert "not-the-token" not in str(raised.value)
    assert runner.state == "failed"
    assert runner.error is raised.value
    with pytest.raises(AuthenticationError):
        runner.join(LIMIT)


def test_no_broker_in_time_says_what_was_tried(new_runner: NewRunner, broker: Broker) -> None:
    url = broker.url
    broker.kill()
    runner = new_runner()
    with pytest.raises(BrokerConnectionError) as raised:
        runner.start(wait=0.5)
    assert url in str(raised.value)
    assert "refused" in str(raised.value)
    assert "N8N_RUNNERS_AUTH_TOKEN" in str(raised.value)
    wait_until(lambda: runner.state == "stopped")


@pytest.mark.parametrize("wait", [0, LIMIT])
def test_a_runner_without_a_token_can_be_built_and_not_started(wait: float) -> None:
    runner = Runner("http://127.0.0.1:1")
    with pytest.raises(ConfigurationError, match="expected the secret shared with n8n"):
        runner.start(wait=wait)
    assert runner.state == "new"


def test_start_without_waiting_registers_when_the_broker_comes(broker: Broker, new_runner: NewRunner) -> None:
    broker.kill()
    runner = new_runner()
    runner.task("echo")(lambda task: task.settings)
    runner.start(wait=0)
    assert runner.state == "running"
    assert not runner.wait_registered(0.3)
    broker.start()
    assert runner.wait_registered(LIMIT)
    assert broker.run_task("echo", 5) == 5


def test_a_second_start_does_nothing_and_a_stopped_runner_starts_again(
    broker: Broker, new_runner: NewRunner
) -> None:
    runner = new_runner()
    runner.task("echo")(lambda task: task.settings)
    runner.start()
    runner.start()
    assert broker.counts.runners == 1
    runner.stop()
    runner.stop()
    assert runner.state == "stopped"
    runner.start()
    assert broker.run_task("echo", 1) == 1


def test_a_one_shot_grant_is_good_for_one_connection(broker: Broker, new_runner: NewRunner) -> None:
    from n8nrunner.config import parse_broker
    from n8nrunner.connection.auth import fetch_grant

    grant = fetch_grant(parse_broker(broker.url), TOKEN)
    runner = Runner(broker.url, grant_token=grant)
    runner.task("echo")(lambda task: task.settings)
    runner.start()
    assert broker.run_task("echo", 1) == 1
    broker.kill()
    with pytest.raises(GrantTokenSpent):
        runner.join(LIMIT)
    assert runner.state == "failed"


def test_a_used_grant_is_refused(broker: Broker) -> None:
    runner = Runner(broker.url, grant_token="0" * 64)
    with pytest.raises(AuthenticationError):
        runner.start()


def test_start_raises_if_the_executor_is_broken(new_runner: NewRunner) -> None:
    from concurrent.futures import ThreadPoolExecutor

    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    runner = new_runner(executor=executor)
    with pytest.raises(ExecutorBroken):
        runner.start()
    assert runner.state == "new"


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": ""},
        {"type": 5},
        {"type": "a", "limit": 0},
        {"type": "a", "limit": True},
        {"type": "a", "limit": 1.5},
    ],
)
def test_wrong_registrations_are_refused(new_runner: NewRunner, wrong: Any) -> None:
    with pytest.raises(ConfigurationError):
        new_runner().task(**wrong)


def test_handlers_that_cannot_work_are_refused(new_runner: NewRunner) -> None:
    runner = new_runner()

    async def coroutine(task: Task) -> None: ...

    def generator(task: Task) -> Any:
        yield 1

    for handler in (coroutine, generator, "no function"):
        with pytest.raises(ConfigurationError):
            runner.task("a")(handler)  # type: ignore[type-var]


# --- stop -----------------------------------------------------------------------------------------------


def test_stop_lets_tasks_finish(broker: Broker, new_runner: NewRunner) -> None:
    gate = Gate()
    runner = new_runner()
    runner.task("gate")(gate)
    runner.start()
    task = broker.submit("gate", "finished")
    gate.wait_running()
    stopping = threading.Thread(target=runner.stop)
    stopping.start()
    wait_until(lambda: runner.snapshot().links[0].state == "draining")
    gate.open.set()
    assert task.result(LIMIT) == "finished"
    stopping.join(LIMIT)
    assert not stopping.is_alive()
    assert runner.snapshot().counts.unfinished == 0


def test_stop_cuts_tasks_short_after_the_grace_period(broker: Broker, new_runner: NewRunner) -> None:
    running = threading.Event()
    runner = new_runner()

    @runner.task("wait")
    def wait(task: Task) -> None:
        running.set()
        task.wait_for_cancel(LIMIT)

    runner.start()
    task = broker.submit("wait", {})
    assert running.wait(LIMIT)
    with promptly():
        runner.stop(0.2)
    with pytest.raises(BrokerTaskError, match="stopped before the task had finished"):
        task.result(LIMIT)
    assert runner.snapshot().counts.unfinished == 1


@pytest.mark.parametrize(
    ("is_cut_short", "level", "end"),
    [(False, logging.INFO, r"m?s"), (True, logging.WARNING, r"ms, and 1 task did not finish")],
)
def test_the_log_says_at_the_end_of_a_stop_how_long_it_took_and_what_did_not_finish(
    broker: Broker,
    new_runner: NewRunner,
    caplog: pytest.LogCaptureFixture,
    is_cut_short: bool,
    level: int,
    end: str,
) -> None:
    running = threading.Event()
    runner = new_runner(name="shop")

    @runner.task("wait")
    def wait(task: Task) -> None:
        running.set()
        task.wait_for_cancel(LIMIT)

    with caplog.at_level(logging.INFO, "n8nrunner"):
        runner.start()
        if is_cut_short:
            broker.submit("wait", {})
            assert running.wait(LIMIT)
        runner.stop(0.1)
        runner.stop()
    (record,) = [each for each in caplog.records if "has stopped" in each.getMessage()]
    said = r"The runner 'shop' has stopped\. The stop took (< )?[\d.]+ " + end
    assert re.fullmatch(said, record.getMessage())
    assert record.levelno == level


def test_a_runner_that_could_not_start_does_not_say_that_it_has_stopped(
    new_runner: NewRunner, caplog: pytest.LogCaptureFixture
) -> None:
    runner = new_runner(executor=lambda: 1 / 0)
    with caplog.at_level(logging.INFO, "n8nrunner"), pytest.raises(ExecutorBroken):
        runner.start()
    assert "has stopped" not in caplog.text


def test_stop_does_not_wait_for_a_handler_that_does_not_return(
    broker: Broker, new_runner: NewRunner, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    runner = new_runner()
    runner.task("gate")(gate)
    runner.start()
    task = broker.submit("gate", {})
    gate.wait_running()
    with promptly(), caplog.at_level(logging.WARNING, "n8nrunner"):
        runner.stop(0.1)
    assert f"gate (task {task.task_id})" in caplog.text
    gate.open.set()


def test_stop_in_a_handler_returns_at_once(broker: Broker, new_runner: NewRunner) -> None:
    runner = new_runner()

    @runner.task("stop")
    def stop(task: Task) -> str:
        runner.stop()
        return "asked"

    runner.start()
    assert broker.run_task("stop", {}) == "asked"
    assert runner.join(LIMIT)
    assert runner.state == "stopped"


def test_stop_during_an_outage_does_not_wait(broker: Broker, new_runner: NewRunner) -> None:
    broker.kill()
    runner = new_runner()
    runner.start(wait=0)
    wait_until(lambda: runner.snapshot().links[0].state == "waiting")
    with promptly():
        runner.stop()
    assert runner.state == "stopped"


def test_an_idle_runner_stops_after_its_timeout(broker: Broker, new_runner: NewRunner) -> None:
    runner = new_runner(auto_shutdown_timeout=0.3)
    runner.task("echo")(lambda task: task.settings)
    runner.start()
    assert broker.run_task("echo", 1) == 1
    assert runner.join(LIMIT)
    assert runner.state == "stopped"


def test_tasks_of_lost_connections_finish_before_the_end(broker: Broker, new_runner: NewRunner) -> None:
    """A task whose connection was lost still runs when the runner is stopped: its result is accounted for."""
    undelivered: list[Undelivered] = []
    gate = Gate()
    runner = new_runner(on_undelivered=undelivered.append)
    runner.task("gate")(gate)
    runner.start()
    broker.submit("gate", "owed")
    gate.wait_running()
    broker.kill()
    wait_until(lambda: runner.snapshot().counts.lost == 1)
    stopping = threading.Thread(target=runner.stop)
    stopping.start()
    wait_until(lambda: runner.state == "stopping")
    gate.open.set()
    stopping.join(LIMIT)
    assert not stopping.is_alive()
    assert [result.result for result in undelivered] == ["owed"]


# --- surroundings ---------------------------------------------------------------------------------------


def test_the_task_context_is_entered_around_every_handler(broker: Broker, new_runner: NewRunner) -> None:
    from collections.abc import Iterator
    from contextlib import contextmanager

    steps: list[str] = []

    @contextmanager
    def context() -> Iterator[None]:
        steps.append("in")
        try:
            yield
        finally:
            steps.append("out")

    runner = new_runner(task_context=context)
    runner.task("echo")(lambda task: steps.append("handler"))
    with runner:
        broker.run_task("echo", {})
    assert steps == ["in", "handler", "out"]


def test_on_undelivered_may_raise_and_stop(broker: Broker, new_runner: NewRunner) -> None:
    called = threading.Event()
    running = threading.Event()

    def report(result: Undelivered) -> None:
        runner.stop()
        called.set()
        raise ValueError("in the callback")

    runner = new_runner(on_undelivered=report)

    @runner.task("wait")
    def wait(task: Task) -> None:
        running.set()
        task.wait_for_cancel(LIMIT)

    runner.start()
    broker.submit("wait", {})
    assert running.wait(LIMIT)
    broker.kill()
    assert called.wait(LIMIT)
    assert runner.join(LIMIT)


def test_tokens_reach_no_log_and_no_repr(
    broker: Broker, new_runner: NewRunner, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        runner = new_runner()
        runner.task("secret")(lambda task: task.settings)
        with runner:
            assert broker.run_task("secret", {"password": "a-payload"}) == {"password": "a-payload"}
            broker.kill()
            wait_until(lambda: not runner.is_registered)
            broker.start()
            assert runner.wait_registered(LIMIT)
    shown = caplog.text + repr(runner) + repr(runner.config) + repr(runner.snapshot())
    assert TOKEN not in shown
    assert "a-payload" not in shown
    assert "Bearer" not in shown


def test_only_records_of_the_runners_threads_are_dropped_from_the_log_of_websocket_client(
    broker: Broker, new_runner: NewRunner, caplog: pytest.LogCaptureFixture
) -> None:
    runner = new_runner()
    with caplog.at_level(logging.DEBUG, "websocket"):
        runner.start()
        broker.kill()
        wait_until(lambda: not runner.is_registered)
        logging.getLogger("websocket").error("not ours")
    assert [record.message for record in caplog.records if record.name == "websocket"] == ["not ours"]


def test_run_in_another_thread_ends_with_stop(broker: Broker, new_runner: NewRunner) -> None:
    runner = new_runner()
    runner.task("echo")(lambda task: task.settings)
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=runner.run)
    thread.start()
    wait_until(lambda: runner.is_registered)
    assert broker.run_task("echo", 1) == 1
    assert signal.getsignal(signal.SIGTERM) is before
    runner.stop()
    thread.join(LIMIT)
    assert not thread.is_alive()
