"""Loggers that cannot harm the code that uses them.

A logging handler or filter is the application's code, and a log call runs it on the calling thread. It may
raise anything, `SystemExit` included. No log call of n8nrunner may end a thread or change what happens after
it, so all of them go through `Logger`.

A record can quote n8n, a workflow or a handler. Such text must not look like a separate record or control a
terminal, so control characters are escaped, and the lines of a record after its first are indented.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import platform
import re
import sys
import threading
import traceback
from collections.abc import Iterator
from typing import Any

from n8nrunner.formatters import JsonFormatter, TextFormatter, format_traceback

#: The longest text of one argument that a record shows, in characters.
LONGEST_ARGUMENT = 60_000

#: Characters that change a terminal or the layout of the log: control characters except the tab, line
#: separators, marks that reverse the direction of a text, and halves of surrogate pairs.
_UNSAFE = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return a text with unsafe characters as escape sequences and all lines but the first indented."""
    if len(text) > LONGEST_ARGUMENT:
        text = f"{text[:LONGEST_ARGUMENT]} ... ({len(text)} characters)"
    return _UNSAFE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    if character == "\n":
        return "\n    "
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class _Printable:
    """An argument of a record whose text is made when the record is formatted."""

    __slots__ = ("_value",)

    def __init__(self, value: object) -> None:
        self._value = value

    def __str__(self) -> str:
        return printable(str(self._value))

    def __repr__(self) -> str:
        return printable(repr(self._value))


def _as_printable(argument: object) -> object:
    if isinstance(argument, str):
        return printable(argument)
    return argument if argument is None or isinstance(argument, (int, float)) else _Printable(argument)


def _add_traceback(record: logging.LogRecord) -> bool:
    """Give every formatter the traceback of a record, in a filter: a formatter would not escape it.

    A traceback that `extra` has keeps no exception, with all its frames, alive. Return True.
    """
    if record.exc_info and record.exc_info[0] is not None and not record.exc_text:
        record.traceback = printable(format_traceback(record.exc_info).rstrip())
    if hasattr(record, "traceback"):
        record.exc_text = f"    {record.traceback}"
    return True


class Logger(logging.LoggerAdapter):  # type: ignore[type-arg]  # not generic on Python 3.9
    """A logger whose methods raise nothing that a handler or a filter raised.

    The main thread is an exception: `KeyboardInterrupt`, `SystemExit` and other exceptions that are not an
    `Exception` pass there, because a signal's handler may have raised them.

    Args:
        name: the logger's name in `logging`.
    """

    def __init__(self, name: str) -> None:
        super().__init__(logging.getLogger(name), {})
        if _add_traceback not in self.logger.filters:
            self.logger.filters.insert(0, _add_traceback)

    def log(self, level: int, msg: object, *args: object, **options: Any) -> None:
        """Log with this level. `debug`, `info`, `warning` and `error` of the base class call this.

        `extra` has the facts of a record, by the names in `n8nrunner.formatters.FIELDS`, and "traceback".
        """
        try:
            if self.logger.isEnabledFor(level):
                shown = [_as_printable(argument) for argument in args]
                if "extra" in options:
                    extra = options["extra"].items()
                    options["extra"] = {name: _as_printable(value) for name, value in extra}
                # `logging` skips its own frames, so level 1 is this method, and level 2 its caller.
                self.logger.log(level, msg, *shown, stacklevel=2, **options)
        except BaseException as error:  # the application's handlers may raise anything
            if not isinstance(error, Exception) and threading.current_thread() is threading.main_thread():
                raise
            _report()


#: The log of n8nrunner.
logger = Logger("n8nrunner")
#: The log of tasks. Its records may quote a workflow or a handler.
task_logger = Logger("n8nrunner.tasks")


def this_process() -> str:
    """Return the name of this process for people who look for it, such as ``process 4711 on host``."""
    return f"process {os.getpid()} on {platform.node()}"


def configure(
    level: int, verbose: int = 0, own_level: int | None = None, log_format: str | None = None
) -> None:
    """Show n8nrunner's log in a command. Handlers and formats that the module has configured stay.

    Args:
        level: for n8nrunner's loggers, if neither they nor the root logger have another one.
        verbose: 1 for all of n8nrunner's log, and 2 for other libraries' log from INFO on as well.
        own_level: for n8nrunner's loggers in any case.
        log_format: "text" or "json"; None for text.
    """
    for name, found in list(logging.root.manager.loggerDict.items()):
        # `dictConfig` and `fileConfig` disable all loggers that exist, unless they are told otherwise.
        if name.split(".")[0] == "n8nrunner" and isinstance(found, logging.Logger):
            found.disabled = False
    own = logging.getLogger("n8nrunner")
    if not own.hasHandlers():
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
        logging.basicConfig(handlers=[handler])
    elif log_format is not None:
        logger.warning(
            "--log-format has no effect, because the module has configured logging. Use "
            "n8nrunner.JsonFormatter or n8nrunner.TextFormatter there"
        )
    if own_level is not None:
        own.setLevel(own_level)
    elif verbose:
        own.setLevel(logging.DEBUG)
        if verbose > 1 and not logging.root.isEnabledFor(logging.INFO):
            logging.root.setLevel(logging.INFO)
    elif own.level == logging.NOTSET and logging.root.level == logging.WARNING:
        own.setLevel(level)


@contextlib.contextmanager
def shown_during_run() -> Iterator[None]:
    """Show n8nrunner's log from INFO on in the block, if the program has not configured logging."""
    own = logging.getLogger("n8nrunner")
    if own.hasHandlers() or sys.stderr is None:
        yield
        return
    handler = logging.StreamHandler()
    handler.setFormatter(TextFormatter())
    before = own.level
    own.addHandler(handler)
    if before == logging.NOTSET:
        own.setLevel(logging.INFO)
    try:
        yield
    finally:
        own.removeHandler(handler)
        own.setLevel(before)


def drop_records_of_threads(name: str, prefixes: tuple[str, ...]) -> None:
    """Drop the records of a library's logger from threads whose names have one of the prefixes.

    This happens before the application's handlers and filters run.
    """
    logging.getLogger(name).filters.insert(
        0, lambda record: not threading.current_thread().name.startswith(prefixes)
    )


def describe(error: BaseException) -> str:
    """Return an exception's type, and for an error of the system its number and the system's text for it.

    The text of the exception is not shown: it may hold a token or a user's data.
    """
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    # Other classes, such as `ssl.SSLError`, have numbers of their own.
    if isinstance(error, OSError) and kind.__module__ == "builtins":
        number = error.errno
        if isinstance(number, int) and number in errno.errorcode:
            return f"{name}: [Errno {number}] {os.strerror(number)}"
    return name


def frames_of(error: BaseException) -> str:
    """Return the lines of code that an exception passed, without its text."""
    return "".join(traceback.format_tb(error.__traceback__)).rstrip()


def _report() -> None:
    """Show the exception on stderr, as `logging.Handler.handleError` does."""
    if logging.raiseExceptions and sys.stderr is not None:
        with contextlib.suppress(Exception):
            sys.stderr.write("--- n8nrunner: a logging handler or filter raised; record lost ---\n")
            traceback.print_exc()
