"""`invoke`: a handler's return value, and every exception that it may raise."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import time
from collections.abc import Iterator
from typing import Any, Callable

import pytest

from n8nrunner import Task, TaskCancelled, TaskError, TaskTimeout
from n8nrunner.execution.invoke import Answer, failure, invoke
from n8nrunner.hooks import Around
from n8nrunner.task import ActiveTask

LARGE = 100_000_000


@pytest.fixture(autouse=True)
def nothing_left_behind() -> None:
    """Nothing here opens anything, and the look at what is left takes longer than these tests."""


def new_task(settings: Any = None, port: Any = "the task is not in another process") -> ActiveTask:
    return ActiveTask("abcd1234", "tests", settings, time.monotonic() + 60, port)


def answer_of(handler: Callable[[Task], Any], max_payload: int = LARGE, context: Any = None) -> Answer:
    answer = invoke(handler, new_task(), Around(context), max_payload)
    assert type(answer.payload) is bytes
    assert len(answer.payload) <= max_payload
    return answer


def result_of(handler: Callable[[Task], Any], context: Any = None) -> Any:
    answer = answer_of(handler, context=context)
    message = json.loads(answer.payload)
    assert message["type"] == "runner:taskdone", message
    assert not answer.failed
    assert message["taskId"] == "abcd1234"
    return message["data"]["result"]


def error_of(handler: Callable[[Task], Any], max_payload: int = LARGE, context: Any = None) -> dict[str, Any]:
    answer = answer_of(handler, max_payload, context)
    message = json.loads(answer.payload)
    assert message["type"] == "runner:taskerror"
    assert answer.failed
    assert message["taskId"] == "abcd1234"
    error: dict[str, Any] = message["error"]
    assert error["message"]
    return error


def raising(error: BaseException) -> Callable[[Task], Any]:
    def handler(task: Task) -> Any:
        raise error

    return handler


# --- results ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (0, 0),
        (-1.5, -1.5),
        (2**53 - 1, 2**53 - 1),
        ("text ünïcødé \U0001f600 \0", "text ünïcødé \U0001f600 \0"),
        ([], []),
        ((1, (2, 3)), [1, [2, 3]]),
        ({"a": {"b": [True, False, None]}}, {"a": {"b": [True, False, None]}}),
        ({1: "a", 2.5: "b", None: "c", False: "d"}, {"1": "a", "2.5": "b", "null": "c", "false": "d"}),
        (math.nan, None),
        ([math.inf, {"x": -math.inf}], [None, {"x": None}]),
        ([{"json": {"n": n}} for n in range(1000)], [{"json": {"n": n}} for n in range(1000)]),
    ],
)
def test_a_result_is_encoded_as_json(value: Any, expected: Any) -> None:
    assert result_of(lambda task: value) == expected


def test_the_handler_gets_the_task_itself() -> None:
    seen: list[Task] = []
    task = new_task({"x": 1})
    answer = invoke(lambda given: seen.append(given), task, Around(), LARGE)
    assert seen == [task]
    assert answer[:2] == (b'{"type":"runner:taskdone","taskId":"abcd1234","data":{"result":null}}', False)


def nested(levels: int) -> Any:
    value: Any = "inside"
    for _ in range(levels):
        value = [value]
    return value


def cycle() -> Any:
    value: dict[str, Any] = {"rows": []}
    value["rows"].append({"all": value})
    return value


class Unusual:
    pass


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({1, 2}, "result is a set"),
        (frozenset(), "result is a frozenset"),
        (b"bytes", "result is a bytes"),
        (bytearray(), "result is a bytearray"),
        (object, "result is a type"),
        (1j, "result is a complex"),
        (iter([1]), "result is a list_iterator"),
        ((n for n in range(3)), "result is a generator"),
        (Unusual(), "tests.execution.test_invoke.Unusual, which JSON cannot represent"),
        (range(3), "result is a range"),
        ([0, [1, {2}]], "result[1][1] is a set"),
        ({"a": [{"json": {"tags": {1}}}]}, "result['a'][0]['json']['tags'] is a set"),
        ([{"json": {}}] * 500 + [{"json": {"data": b"x"}}], "result[500]['json']['data'] is a bytes"),
        ({"a": {(1, 2): 3}}, "result['a'][...] has a key of type tuple"),
        ({b"k": 1}, "result[...] has a key of type bytes"),
        (cycle(), "result['rows'][0]['all'] contains itself"),
        (nested(1_000_000), "levels deep"),
        ({"rows": [1, 7615917337495251231]}, "result['rows'][1] is an integer beyond 2**53 - 1"),
        ([math.nan, {2}], "result[1] is a set"),
    ],
)
def test_an_error_about_a_result_outside_of_json_names_the_place(value: Any, says: str) -> None:
    message = error_of(lambda task: value)["message"]
    assert message.startswith("The result cannot be sent to n8n: ")
    assert says in message


def test_the_name_of_a_place_is_bounded() -> None:
    value: Any = {1}
    for level in range(300):
        value = {f"a key with a long name {'x' * 200} {level}": value}
    assert "is a set" in error_of(lambda task: value)["message"]
    error_of(lambda task: value, max_payload=1024)


def test_a_value_that_occurs_twice_is_not_a_cycle() -> None:
    shared = {"x": [1]}
    assert result_of(lambda task: [shared, {"again": shared}]) == [shared, {"again": shared}]


class Hostile(dict[str, Any]):
    """A result that raises as soon as it is looked at."""

    error: BaseException = ZeroDivisionError("in the result's own class")

    def items(self) -> Any:
        raise self.error

    __iter__ = items  # type: ignore[assignment]

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("own"), SystemExit(1), KeyboardInterrupt(), MemoryError()]
)
def test_an_exception_while_a_result_is_encoded_fails_the_task(error: BaseException) -> None:
    value = Hostile(x=1)
    value.error = error
    assert type(error).__name__ in error_of(lambda task: value)["message"]


def interrupted_encoding(task: Task) -> Any:
    value = Hostile(x=1)
    value.error = KeyboardInterrupt()
    return value


@pytest.mark.parametrize("handler", [raising(KeyboardInterrupt()), interrupted_encoding])
def test_ctrl_c_in_another_process_cuts_the_task_short(
    handler: Callable[[Task], Any], caplog: pytest.LogCaptureFixture
) -> None:
    answer = invoke(handler, new_task(port=None), Around(), LARGE)
    assert answer.interrupted
    assert json.loads(answer.payload)["error"]["message"] == "The process of the task was interrupted"
    assert "ignore_interrupts" in caplog.text


def test_a_result_above_the_limit_fails_the_task() -> None:
    error = error_of(lambda task: "x" * 5000, max_payload=5000)
    assert error["message"] == "The result is too large: 5067 bytes, and 5000 are allowed"
    assert "N8N_RUNNERS_MAX_PAYLOAD" in error["description"]


def test_the_limit_applies_to_the_bytes_of_the_message() -> None:
    around = len(b'{"type":"runner:taskdone","taskId":"abcd1234","data":{"result":""}}')
    for character, width in (("x", 1), ("ü", 2), ("✓", 3)):
        fits = (2048 - around) // width
        assert not answer_of(lambda task, text=character * fits: text, 2048).failed  # type: ignore[misc]
        assert answer_of(lambda task, text=character * (fits + 1): text, 2048).failed  # type: ignore[misc]


# --- exceptions -------------------------------------------------------------------------------------------


class Speechless(Exception):
    """An exception that cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Deadly(Exception):
    def __str__(self) -> str:
        raise SystemExit("no text either")


class Wrong(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("what was wrong"), "ValueError: what was wrong"),
        (ValueError(), "ValueError"),
        (KeyError("name"), "KeyError: 'name'"),
        (AssertionError(), "AssertionError"),
        (OSError(2, "No such file", "x.csv"), "FileNotFoundError: [Errno 2] No such file: 'x.csv'"),
        (SystemExit(1), "SystemExit: 1"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (GeneratorExit(), "GeneratorExit"),
        (asyncio.CancelledError(), "CancelledError"),
        (StopIteration(7), "StopIteration: 7"),
        (MemoryError(), "MemoryError"),
        (RecursionError("too deep"), "RecursionError: too deep"),
        (Speechless(), "Speechless: (its text could not be made)"),
        (Deadly(), "Deadly: (its text could not be made)"),
        (Wrong(), "Wrong: (its text could not be made)"),
        pytest.param(ValueError("\ud800"), "ValueError: \ud800", id="half of a surrogate pair"),
        (ValueError("x" * 20_000), f"ValueError: {'x' * (10_000 - len('ValueError: '))} ..."),
    ],
)
def test_an_exception_of_any_class_becomes_an_error_with_its_type(error: BaseException, message: str) -> None:
    found = error_of(raising(error))
    assert found["message"] == message
    assert set(found) == {"message", "stack"}


def test_the_traceback_has_only_frames_of_the_handler() -> None:
    def inner() -> None:
        raise ValueError("deep inside")

    def handler(task: Task) -> None:
        try:
            inner()
        except ValueError as error:
            raise RuntimeError("around it") from error

    stack = error_of(handler)["stack"]
    assert "in handler" in stack
    assert "in inner" in stack
    assert "ValueError: deep inside" in stack
    assert stack.endswith("RuntimeError: around it\n")
    assert "execution/invoke.py" not in stack.replace("\\", "/")


def test_a_long_traceback_is_cut() -> None:
    def handler(task: Task) -> None:
        def down(level: int) -> None:
            if level:
                down(level - 1)
            else:
                raise ValueError("x" * 100_000)

        down(100)

    error = error_of(handler)
    assert len(error["stack"]) <= 50_010
    assert len(error["message"]) <= 10_010


def test_a_recursion_error_fails_the_task() -> None:
    def handler(task: Task) -> Any:
        return handler(task)

    assert error_of(handler)["message"].startswith("RecursionError: maximum recursion depth")


class Odd(TaskError):
    """A subclass that forgets its base."""

    def __init__(self) -> None:
        pass


class Mixed(TaskError):
    def __init__(self) -> None:
        super().__init__({"not": "a text"}, description=[1, {2}])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TaskError("to the author"), {"message": "to the author"}),
        (TaskError("to the author", "and more"), {"message": "to the author", "description": "and more"}),
        (TaskError("a", description=""), {"message": "a", "description": ""}),
        (TaskTimeout("in time"), {"message": "in time"}),
        (TaskCancelled("n8n went away"), {"message": "n8n went away"}),
        (Mixed(), {"message": "{'not': 'a text'}", "description": "[1, {2}]"}),
        pytest.param(TaskError("\ud800 half"), {"message": "\ud800 half"}, id="half of a surrogate pair"),
    ],
)
def test_a_task_error_is_shown_as_it_is(error: TaskError, expected: dict[str, str]) -> None:
    assert error_of(raising(error)) == expected


@pytest.mark.parametrize("error", [Odd(), TaskError("")])
def test_a_task_error_without_a_message_shows_its_type(error: TaskError) -> None:
    assert error_of(raising(error)) == {"message": type(error).__name__}


@pytest.mark.parametrize("max_payload", [1024, 5000, 30_000])
@pytest.mark.parametrize("character", ["x", "ü", "\U0001f600", "\0", '"'])
def test_an_error_above_the_limit_is_cut(max_payload: int, character: str) -> None:
    """n8n would close the connection, and fail all other tasks on it."""
    for error in (
        ValueError(character * 100_000),
        TaskError(character * 100_000),
        TaskError("short", description=character * 100_000),
    ):
        found = error_of(raising(error), max_payload)
        assert found["message"].startswith((f"ValueError: {character}", character, "short"))


# --- tasks whose result is not wanted any more ----------------------------------------------------------


@pytest.mark.parametrize("error", [TaskCancelled("x"), ValueError("x"), SystemExit(1)])
def test_an_exception_after_a_cancellation_is_not_an_error(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(task: Task) -> None:
        task.cancel("n8n said so")
        raise error

    caplog.set_level(logging.INFO)
    assert error_of(handler) == {"message": "cancelled"}
    assert [record.levelname for record in caplog.records] == ["INFO"]


def test_a_result_after_a_cancellation_is_kept_for_on_undelivered() -> None:
    def handler(task: Task) -> Any:
        task.cancel("n8n went away")
        return {"done": True}

    assert result_of(handler) == {"done": True}


# --- the context ----------------------------------------------------------------------------------------


class Context:
    """A context that keeps a diary."""

    def __init__(
        self,
        make: BaseException | None = None,
        enter: BaseException | None = None,
        leave: BaseException | None = None,
        swallow: bool = False,
    ) -> None:
        self.diary: list[Any] = []
        self._make, self._enter, self._leave, self._swallow = make, enter, leave, swallow

    def __call__(self) -> Context:
        if self._make is not None:
            raise self._make
        return self

    def __enter__(self) -> None:
        self.diary.append("entered")
        if self._enter is not None:
            raise self._enter

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: Any) -> bool:
        self.diary.append(kind.__name__ if kind else "left")
        if self._leave is not None:
            raise self._leave
        return self._swallow


def test_the_handler_runs_within_the_context() -> None:
    context = Context()
    result = result_of(lambda task: context.diary.append("handled"), context=context)
    assert result is None
    assert context.diary == ["entered", "handled", "left"]


def test_each_task_gets_a_new_context() -> None:
    made: list[int] = []

    @contextlib.contextmanager
    def context() -> Iterator[None]:
        made.append(len(made))
        yield

    for _ in range(3):
        result_of(lambda task: 1, context=context)
    assert made == [0, 1, 2]


@pytest.mark.parametrize("error", [ValueError("x"), TaskError("x"), SystemExit(1), KeyboardInterrupt()])
def test_the_context_is_left_after_an_exception_of_any_class(error: BaseException) -> None:
    context = Context()
    error_of(raising(error), context=context)
    assert context.diary == ["entered", type(error).__name__]


@pytest.mark.parametrize("error", [RuntimeError("of the context"), SystemExit("of the context")])
@pytest.mark.parametrize("where", ["make", "enter", "leave"])
def test_an_exception_of_the_context_fails_the_task(where: str, error: BaseException) -> None:
    handled: list[Task] = []
    found = error_of(handled.append, context=Context(**{where: error}))  # type: ignore[arg-type]
    assert found["message"] == f"{type(error).__name__}: of the context"
    assert "test_invoke.py" in found["stack"]
    assert len(handled) == (1 if where == "leave" else 0)


def test_an_exception_on_leaving_the_context_is_shown_with_that_of_the_handler() -> None:
    context = Context(leave=RuntimeError("of the context"))
    found = error_of(raising(ValueError("of the handler")), context=context)
    assert found["message"] == "RuntimeError: of the context"
    assert "ValueError: of the handler" in found["stack"]


def test_a_context_that_suppresses_the_exception_makes_the_result_null() -> None:
    assert result_of(raising(ValueError("x")), context=lambda: contextlib.suppress(ValueError)) is None


@pytest.mark.parametrize("context", [lambda: None, lambda: 5, object])
def test_a_context_that_is_not_a_context_manager_fails_the_task(context: Any) -> None:
    error = error_of(lambda task: 1, context=context)
    assert error["message"].startswith(("TypeError", "AttributeError"))


# --- the log --------------------------------------------------------------------------------------------


def log_of(handler: Callable[[Task], Any], caplog: pytest.LogCaptureFixture) -> list[tuple[str, int, str]]:
    caplog.set_level(logging.DEBUG)
    answer_of(handler, 3000)
    return caplog.record_tuples


def test_a_result_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    ((_, level, text),) = log_of(lambda task: "some payload", caplog)
    assert level == logging.DEBUG
    assert "some payload" not in text


@pytest.mark.parametrize(
    ("handler", "level"),
    [
        (raising(ValueError("x")), logging.ERROR),
        (raising(TaskError("some payload")), logging.INFO),
        (lambda task: {"some payload": {1}}, logging.ERROR),
        (lambda task: "some payload" * 1000, logging.ERROR),
    ],
)
def test_every_failure_is_one_record_of_the_logger_for_tasks(
    handler: Any, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    ((name, found, text),) = log_of(handler, caplog)
    assert (name, found) == ("n8nrunner.tasks", level)
    assert "abcd1234 (tests)" in text


def test_failure_makes_an_error_without_a_handler() -> None:
    answer = failure(new_task(), "what", "why")
    assert answer.failed
    assert json.loads(answer.payload) == {
        "type": "runner:taskerror",
        "taskId": "abcd1234",
        "error": {"message": "what", "description": "why"},
    }
    assert json.loads(failure(new_task(), "what").payload)["error"] == {"message": "what"}
