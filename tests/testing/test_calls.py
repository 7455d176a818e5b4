"""Calls of a program's functions over the wire, with `n8nrunner.testing`."""

from __future__ import annotations

import copy
import datetime
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from n8nrunner import ConfigurationError, File, Runner, TaskError, testing
from n8nrunner.broker import Broker, BrokerTaskError, BrokerTaskLost
from n8nrunner.testing import CallFailed, ServedRunner
from n8nrunner.testing.errors import _N8N_ERRORS
from tests.conftest import TOKEN, wait_until
from tests.testing import program
from tests.testing.program import Address, Point, Size


@pytest.fixture
def n8n() -> Iterator[ServedRunner]:
    with testing.serve(program.runner) as served:
        yield served


def result(served: ServedRunner, function: str, value: object) -> Any:
    (item,) = served.call(function, value=value)
    return item.json["result"]


def test_a_call_returns_n8n_s_items(n8n: ServedRunner) -> None:
    items = n8n.call("text", value="Ada")
    assert items == [{"json": {"result": "'Ada'"}, "pairedItem": {"item": 0}}]
    assert items[0].json == {"result": "'Ada'"}


def test_the_function_itself_names_its_call(n8n: ServedRunner) -> None:
    assert n8n.call(program.text, value="Ada")[0].json["result"] == "'Ada'"


@pytest.mark.parametrize(
    ("function", "value", "expected"),
    [
        ("number", 7, "7"),
        ("number", "7", "7"),
        ("text", "", "''"),
        ("size", Size.LARGE, repr(Size.LARGE)),
        ("size", 1, repr(Size.SMALL)),
        ("size", None, "None"),
        ("either", 5, "5"),
        ("either", "5", "'5'"),
        ("day", datetime.date(2024, 5, 6), "datetime.date(2024, 5, 6)"),
        ("day", datetime.datetime(2024, 5, 6, 9), "datetime.date(2024, 5, 6)"),
        (
            "at",
            datetime.datetime(2024, 5, 6, 9),
            repr(datetime.datetime(2024, 5, 6, 9, tzinfo=datetime.timezone.utc)),
        ),
    ],
)
def test_a_value_reaches_the_function_as_its_type(
    n8n: ServedRunner, function: str, value: object, expected: str
) -> None:
    assert result(n8n, function, value) == expected


def test_a_parameter_without_an_argument_has_its_default(n8n: ServedRunner) -> None:
    assert n8n.call("text")[0].json["result"] == "'default'"


def test_records_reach_the_function_as_equal_objects(n8n: ServedRunner) -> None:
    to = Address("Bonn", datetime.date(2024, 5, 6), Size.LARGE, {"a"})
    via = [Point(1, 2), Point(3)]
    (item,) = n8n.call("send", to=to, via=via)
    assert item.json["result"] == f"{to} {[Point(1.0, 2.0), Point(3.0, 0.0)]}"


def test_a_field_for_json_also_takes_its_text(n8n: ServedRunner) -> None:
    (item,) = n8n.call("send", to='{"city": "Bonn", "since": "2024-05-06"}', via="[[1, 2]]")
    assert "city='Bonn'" in item.json["result"]


def test_numbers_are_rounded_as_in_n8n(n8n: ServedRunner) -> None:
    with pytest.raises(CallFailed, match="n8n's numbers are exact up to"):
        n8n.call("number", value=7615917337495251231)
    assert n8n.call("echo", value=float("nan"))[0].json == {"got": "None"}


def test_models_of_pydantic_reach_the_function_by_their_aliases() -> None:
    pydantic = pytest.importorskip("pydantic")
    runner = Runner(name="models")

    class Lead(pydantic.BaseModel):  # type: ignore[name-defined, misc]
        mail: str = pydantic.Field(alias="E-Mail")

    Lead.__module__ = "builtins"

    def keep(lead: Any) -> str:
        return repr(lead)

    keep.__annotations__["lead"] = Lead
    runner.function(keep)
    with testing.serve(runner) as served:
        lead = Lead(**{"E-Mail": "ada@example.com"})
        assert served.call("keep", lead=lead)[0].json["result"] == repr(lead)


@pytest.mark.parametrize("kind", ["file", "bytes", "path"])
def test_a_file_goes_both_ways(n8n: ServedRunner, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "note.txt"
    path.write_bytes(b"abc")
    documents = {"file": File(b"abc", "note.txt", "text/x-note"), "bytes": b"abc", "path": path}
    (item,) = n8n.call("reverse", document=documents[kind])
    types = {"file": "text/x-note", "bytes": "text/plain", "path": "text/plain"}
    assert (item.json["name"], item.json["type"]) == (None if kind == "bytes" else "note.txt", types[kind])
    assert item.file("copy").read() == b"cba"
    assert item.file("copy").filename == "a/b.txt"
    assert item["binary"]["copy"]["fileSize"] == "3 B"
    with pytest.raises(LookupError, match="no file 'data'; it has: copy"):
        item.file()


def test_an_optional_file_may_be_absent(n8n: ServedRunner) -> None:
    assert n8n.call("maybe", document=None)[0].json["result"] is True
    assert n8n.call("maybe", document=b"")[0].json["result"] is False


def test_large_files_are_fetched_and_stored_by_calls(
    n8n: ServedRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("n8nrunner.testing.arguments.INLINE_BYTES", 2)
    monkeypatch.setattr("n8nrunner.testing.node.INLINE_BYTES", 2)
    (item,) = n8n.call("reverse", document=b"abc")
    assert item.file("copy").read() == b"cba"


def test_several_items_are_called_in_order(n8n: ServedRunner) -> None:
    node = n8n.node(batch_size=2)
    items = node.call_items("number", [{"value": value} for value in range(25)])
    assert [item.json["result"] for item in items] == [str(value) for value in range(25)]
    assert [item["pairedItem"] for item in items] == [{"item": number} for number in range(25)]
    assert n8n.call_items("number", []) == []


def test_a_batch_gets_all_items_at_once(n8n: ServedRunner) -> None:
    items = n8n.call_items("rank", [{"score": score} for score in range(60)])
    assert [item.json["rank"] for item in items] == list(range(60, 0, -1))


def test_the_zone_of_the_workflow_is_an_option(n8n: ServedRunner) -> None:
    (item,) = n8n.node(timezone="Europe/Warsaw").call("day", value="2024-05-05T22:00:00.000Z")
    assert item.json["result"] == "datetime.date(2024, 5, 6)"


def test_a_helper_of_n8n_can_be_replaced(n8n: ServedRunner) -> None:
    node = n8n.node(rpc={"helpers.httpRequest": lambda options: {"from": options["url"]}})
    assert node.call("fetch")[0].json == {"from": "https://example.com"}


# --- failures ----------------------------------------------------------------------------------------


def test_a_failed_item_raises_what_n8n_shows(n8n: ServedRunner) -> None:
    with pytest.raises(CallFailed) as caught:
        n8n.call_items("fail", [{"kind": "fine"}, {"kind": "task"}])
    error = caught.value
    assert (error.message, error.item) == ("The customer does not exist", 1)
    assert error.description == "Check the field 'customer'."
    assert error.stack is None
    assert str(error) == "The customer does not exist [item 1]\nCheck the field 'customer'."
    assert str(copy.copy(error)) == str(error)


def test_an_exception_is_described_by_its_traceback(n8n: ServedRunner) -> None:
    with pytest.raises(CallFailed, match=r"^ValueError: no such lead \[item 0\]\n") as caught:
        n8n.call("fail", kind="exception")
    assert 'raise ValueError("no such lead")' in (caught.value.description or "")


def test_an_argument_that_does_not_fit_is_named(n8n: ServedRunner) -> None:
    with pytest.raises(CallFailed, match='value: expected an integer, got "x"') as caught:
        n8n.call("number", value="x")
    assert caught.value.description == "Item 0, parameter 'value' of number: it takes an integer."
    with pytest.raises(CallFailed, match="value: expected an integer, got nothing"):
        n8n.call("number")


def test_a_node_that_continues_puts_errors_in_their_places(n8n: ServedRunner) -> None:
    kinds = [{"kind": kind} for kind in ("a", "task", "b", "exception")]
    items = n8n.node(continue_on_fail=True, batch_size=2).call_items("fail", kinds)
    assert [item.json for item in items] == [
        {"result": "a"},
        {"error": "The customer does not exist"},
        {"result": "b"},
        {"error": "ValueError: no such lead"},
    ]
    assert [item["pairedItem"]["item"] for item in items] == [0, 1, 2, 3]


def test_after_a_whole_task_failed_a_node_that_continues_sends_no_other(n8n: ServedRunner) -> None:
    before = n8n.broker.counts.started
    node = n8n.node(continue_on_fail=True, batch_size=1)
    items = node.call_items("nothing", [{}] * 20)
    assert {item.json["error"] for item in items} == {'The runner "program" has no function "nothing"'}
    assert len(items) == 20
    assert n8n.broker.counts.started - before <= 5


def test_a_function_that_is_not_registered_fails_as_in_n8n(n8n: ServedRunner) -> None:
    with pytest.raises(CallFailed, match='The runner "program" has no function "nothing"') as caught:
        n8n.call("nothing", value=datetime.date(2024, 5, 6))
    assert "it has at, contexts" in str(caught.value)
    with pytest.raises(TypeError, match="is not a function of <Runner 'program'"):
        n8n.call(print)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("number", {"valeu": 1}, "number has no parameter 'valeu'; its parameters are: value"),
        ("echo", {"value": object()}, "value: n8n cannot send a object"),
        ("nothing", {"value": object()}, "value: n8n cannot send a object"),
        ("reverse", {"document": "note.txt"}, "document: expected a File, bytes or a Path, got str"),
    ],
)
def test_a_mistake_in_the_test_is_a_type_error(
    n8n: ServedRunner, function: str, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        n8n.call(function, **arguments)


def test_a_time_limit_ends_the_task_as_in_n8n(n8n: ServedRunner) -> None:
    with pytest.raises(CallFailed, match=r"^Task execution timed out after 0.05 seconds \[item 0\]\n"):
        n8n.node(time_limit=0.05).call("wait")
    assert n8n.logs == ['\'waiting\' {"for": "the end"}']


def test_a_lost_runner_fails_the_call_as_in_n8n() -> None:
    with testing.serve(program.runner) as n8n, ThreadPoolExecutor(1) as threads:
        called = threads.submit(n8n.call, "wait")
        wait_until(lambda: n8n.snapshot().tasks)
        n8n.broker.kill()
        error = called.exception(10)
    assert isinstance(error, CallFailed)
    assert error.message == 'The runner "program" was lost during the call'
    assert isinstance(error.__cause__, BrokerTaskLost)


def test_titles_and_descriptions_are_those_of_the_node() -> None:
    source = Path(testing.__file__).parents[1] / "functions" / "node" / "static" / "dist" / "runtime.js"
    code = re.sub(r"['`\"] \+\s+['`\"]", "", source.read_text(encoding="utf-8")).replace("${", "{")
    for title, description in _N8N_ERRORS.values():
        assert title.split("{message}")[0] in code
        assert description.rstrip(".") in code


# --- tasks of own types --------------------------------------------------------------------------------


def test_a_task_of_an_own_type_returns_its_result(n8n: ServedRunner) -> None:
    assert n8n.task("double", {"n": 21}) == 42
    assert n8n.logs == ["'doubling'"]
    files = {(0, "data"): b"abc"}
    assert n8n.task("read", items=[{"json": {}}], files=files) == [1, "abc"]


def test_a_task_that_fails_raises_what_n8n_shows(n8n: ServedRunner) -> None:
    with pytest.raises(BrokerTaskError) as caught:
        n8n.task("broken")
    assert (caught.value.message, caught.value.description) == ("It is broken", "Mend it.")


# --- the program's own runner ----------------------------------------------------------------------------


def test_the_runner_of_the_program_does_not_change() -> None:
    before = copy.copy(vars(program.runner))
    with testing.serve(program.runner) as n8n:
        assert n8n.call("contexts")[0].json["result"] == 1
        assert n8n.runner is program.runner
        assert n8n.snapshot().counts.done == 1
    assert vars(program.runner) == before
    assert program.runner.state == "new"
    assert program.runner.snapshot().counts.done == 0


def test_a_runner_that_runs_goes_on(broker: Broker) -> None:
    runner = Runner(broker.url, auth_token=TOKEN, name="program")
    runner.function(program.text)
    with runner:
        with testing.serve(runner) as n8n:
            assert n8n.call("text", value="a")[0].json["result"] == "'a'"
        settings = {"version": 1, "function": "text", "calls": [{"item": 0, "arguments": {"value": "b"}}]}
        answer = broker.run_task("n8nrunner.program", settings)
        assert answer["items"][0]["json"] == {"result": "'b'"}
        assert runner.state == "running"


def test_a_function_that_is_registered_later_is_served() -> None:
    runner = Runner(name="later")
    with testing.serve(runner) as n8n:
        runner.function(program.text)
        runner.function(limit=1)(program.number)
        assert n8n.call("text", value="a")[0].json["result"] == "'a'"
        assert n8n.call("number", value=1)[0].json["result"] == "1"
        runner.remove("text")
        with pytest.raises(CallFailed, match="no function"):
            n8n.call("text", value="a")


def test_a_limit_counts_the_calls_of_the_program_s_own_runner() -> None:
    runner = Runner(name="limits")
    running, ready = threading.Semaphore(0), threading.Event()

    @runner.function(limit=1)
    def hold() -> None:
        running.release()
        ready.wait(10)

    with testing.serve(runner) as one, testing.serve(runner) as two, ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(served.call, "hold") for served in (one, two)]
        assert running.acquire(timeout=10)
        assert not running.acquire(timeout=0.05)
        ready.set()
        for call in calls:
            call.result(10)


def test_a_runner_without_a_name_is_served_by_its_module_s() -> None:
    runner = Runner()
    runner.function(program.text)
    with testing.serve(runner) as n8n:
        assert n8n.call("text", value="a")
    assert runner.config.name == "n8nrunner"
    with testing.serve("tests.testing.unnamed") as n8n, pytest.raises(CallFailed, match='runner "unnamed"'):
        n8n.call("nothing")


def test_a_name_that_cannot_serve_functions_is_an_error_as_at_the_start() -> None:
    runner = Runner(name="My Runner")
    runner.function(program.text)
    with (
        pytest.raises(ConfigurationError, match="a runner with functions needs its own name"),
        testing.serve(runner),
    ):
        pass


def test_a_target_leads_to_the_runner() -> None:
    with testing.serve("tests.testing.program:runner") as n8n:
        assert n8n.runner is program.runner
    with pytest.raises(ConfigurationError, match="there is no Runner"), testing.serve("json"):
        pass


def test_hooks_of_the_program_are_called() -> None:
    runner = Runner(name="hooks")
    runner.function(program.text)
    names = []
    runner.on("finished", lambda call: names.append(call.name))
    with testing.serve(runner) as n8n:
        n8n.call("text")
    assert names == ["text"]


def test_a_callers_executor_stays_open() -> None:
    with ThreadPoolExecutor(1) as executor:
        runner = Runner(name="pool", executor=executor, capacity=1)
        runner.function(program.text)
        with testing.serve(runner) as n8n:
            n8n.call("text")
        assert executor.submit(int).result(10) == 0


def test_an_exception_in_the_block_ends_everything() -> None:
    with pytest.raises(TaskError), testing.serve(program.runner):
        raise TaskError("of the test")
