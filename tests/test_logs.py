"""The guarded logger: a handler or a filter of the application that raises harms nothing."""

from __future__ import annotations

import errno
import json
import logging
import os
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any, Callable

import pytest

from n8nrunner import JsonFormatter, TextFormatter, logs

NAME = "n8nrunner.of-test-logs"
FORGED = "x\nERROR forged"
ERRORS = (ValueError, RecursionError, KeyboardInterrupt, SystemExit, GeneratorExit)


class Raising(logging.Handler):
    """A handler, and a filter, that raises."""

    def __init__(self, error: type) -> None:
        super().__init__()
        self.error = error

    def emit(self, record: logging.LogRecord) -> None:
        raise self.error("of the handler")

    def filter(self, record: logging.LogRecord) -> bool:
        raise self.error("of the filter")


class Keeping(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def plain() -> Iterator[logging.Logger]:
    """The logger of `logging` behind the guarded one."""
    logger = logging.getLogger(NAME)
    logger.setLevel(logging.DEBUG)
    yield logger
    logger.handlers[:] = []
    logger.filters[:] = []
    logger.propagate = True


def on_a_thread(call: Callable[[], Any]) -> list[BaseException]:
    """Run `call` on a thread of its own; return what it raised."""
    raised: list[BaseException] = []

    def work() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    return raised


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("place", ["handler", "filter of the logger", "filter of a handler"])
def test_no_error_of_a_handler_or_filter_reaches_a_thread(
    plain: logging.Logger, error: type, place: str, capfd: Any
) -> None:
    raising = Raising(error)
    if place == "handler":
        raising.filter = lambda record: True  # type: ignore[method-assign, assignment]
        plain.addHandler(raising)
    elif place == "filter of the logger":
        plain.addFilter(raising)
    else:
        keeping = Keeping()
        keeping.addFilter(raising)
        plain.addHandler(keeping)
    logger = logs.Logger(NAME)
    for method in (logger.debug, logger.info, logger.warning, logger.error):
        assert on_a_thread(lambda method=method: method("a %s", "record")) == []  # type: ignore[misc]
    assert on_a_thread(lambda: logger.log(logging.ERROR, "a record")) == []
    assert error.__name__ in capfd.readouterr().err


def test_a_message_that_does_not_fit_its_arguments_harms_nothing(plain: logging.Logger) -> None:
    plain.addFilter(lambda record: bool(record.getMessage()))
    logs.Logger(NAME).info("%d", "no number")


def test_exceptions_of_a_signal_handler_pass_on_the_main_thread(plain: logging.Logger) -> None:
    for error in (KeyboardInterrupt, SystemExit):
        plain.filters[:] = [Raising(error)]
        with pytest.raises(error):
            logs.Logger(NAME).info("a record")
    plain.filters[:] = [Raising(ValueError)]
    logs.Logger(NAME).info("a record")


def test_nothing_is_shown_where_logging_shows_no_errors(
    plain: logging.Logger, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    plain.addFilter(Raising(ValueError))
    logs.Logger(NAME).info("a record")
    assert capfd.readouterr().err == ""


def test_records_have_the_file_line_and_function_of_the_caller(plain: logging.Logger) -> None:
    keeping = Keeping()
    plain.addHandler(keeping)
    logger = logs.Logger(NAME)
    first_line = test_records_have_the_file_line_and_function_of_the_caller.__code__.co_firstlineno
    logger.warning("a %s", "record")
    logger.log(logging.INFO, "another")
    try:
        raise ValueError("of the test")
    except ValueError:
        logger.error("with a traceback", exc_info=True)
    assert [record.lineno - first_line for record in keeping.records] == [5, 6, 10]
    for record in keeping.records:
        assert record.pathname == __file__
        assert record.funcName == "test_records_have_the_file_line_and_function_of_the_caller"
        assert record.name == NAME
    assert keeping.records[0].getMessage() == "a record"
    assert keeping.records[2].exc_info is not None


def record_of(plain: logging.Logger, **options: Any) -> logging.LogRecord:
    """Return the record of a log call whose texts try to forge another record."""
    keeping = Keeping()
    plain.addHandler(keeping)
    logs.Logger(NAME).error("%s failed", FORGED, **options)
    return keeping.records[-1]


def test_the_text_has_date_time_level_and_message(plain: logging.Logger) -> None:
    record = record_of(plain, extra={"task": "4711"})
    record.created = time.mktime((2026, 11, 27, 1, 2, 3, 0, 0, -1))
    assert TextFormatter().format(record) == "2026-11-27 01:02:03 ERROR   x\n    ERROR forged failed"


def test_the_json_has_the_fields_that_are_known_and_the_traceback(plain: logging.Logger) -> None:
    fields = {"task": "4711", "node": FORGED, "item": 0, "duration": 0.25, "outcome": None}
    try:
        raise ValueError(FORGED)
    except ValueError:
        record = record_of(plain, extra=fields, exc_info=True)
    record.created = 1795741323.45
    line = JsonFormatter().format(record)
    assert line.isprintable()
    assert line.isascii()
    shown = json.loads(line)
    assert shown.pop("exception").startswith("Traceback (most recent call last):\n  File")
    assert shown == {
        "time": "2026-11-27T01:02:03.450Z",
        "level": "ERROR",
        "logger": NAME,
        "message": "x\n    ERROR forged failed",
        "task": "4711",
        "node": "x\n    ERROR forged",
        "item": 0,
        "duration": 0.25,
    }


@pytest.mark.parametrize(("trace", "shown"), [("4bf92f35", True), ("0", False), (None, False)])
def test_both_forms_have_the_ids_of_a_span(plain: logging.Logger, trace: str | None, shown: bool) -> None:
    ids = {} if trace is None else {"otelTraceID": trace, "otelSpanID": "00f067aa" if shown else "0"}
    record = record_of(plain, extra=ids)
    lines = TextFormatter().format(record).splitlines()
    assert lines[0].endswith("ERROR   x [trace 4bf92f35, span 00f067aa]" if shown else "ERROR   x")
    assert lines[1:] == ["    ERROR forged failed"]
    of_span = {key: text for key, text in json.loads(JsonFormatter().format(record)).items() if "_id" in key}
    assert of_span == ({"trace_id": "4bf92f35", "span_id": "00f067aa"} if shown else {})


def test_a_long_traceback_keeps_its_end(plain: logging.Logger) -> None:
    try:
        raise ValueError("x" * 100_000 + " the end")
    except ValueError:
        record = record_of(plain, exc_info=True)
    assert len(TextFormatter().format(record)) < 60_000
    assert TextFormatter().format(record).endswith("the end")
    assert json.loads(JsonFormatter().format(record))["exception"].endswith("the end")


def test_the_level_is_that_of_logging(plain: logging.Logger) -> None:
    keeping = Keeping()
    plain.addHandler(keeping)
    logger = logs.Logger(NAME)
    plain.setLevel(logging.ERROR)
    assert logger.isEnabledFor(logging.ERROR)
    assert not logger.isEnabledFor(logging.INFO)
    logger.info("not handled")
    assert keeping.records == []


@pytest.mark.parametrize("names_in_records", [True, False])
def test_websocket_client_runs_no_handler_or_filter_on_the_runners_threads(
    monkeypatch: pytest.MonkeyPatch, names_in_records: bool
) -> None:
    import n8nrunner.connection.transport  # noqa: F401 - it sets the filter

    monkeypatch.setattr(logging, "logThreads", names_in_records)
    library = logging.getLogger("websocket")
    raising = Raising(SystemExit)
    library.addHandler(raising)
    library.addFilter(raising)
    raised: list[BaseException] = []

    def work() -> None:
        try:
            library.error("lost")
        except BaseException as error:
            raised.append(error)

    try:
        thread = threading.Thread(target=work, name="n8nrunner-links")
        thread.start()
        thread.join(10)
    finally:
        library.removeHandler(raising)
        library.removeFilter(raising)
    assert raised == []


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (OSError(errno.EIO, "ada@example.com"), f"OSError: [Errno {errno.EIO}] {os.strerror(errno.EIO)}"),
        (OSError(2**40, "ada@example.com"), "OSError"),
        (OSError("ada@example.com"), "OSError"),
        (ssl.SSLError(1, "ada@example.com"), "ssl.SSLError"),
        (ValueError("ada@example.com"), "ValueError"),
    ],
)
def test_a_description_has_no_text_of_the_application(error: Exception, shown: str) -> None:
    assert logs.describe(error) == shown
