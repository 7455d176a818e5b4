"""Formats of the log: text for people, and JSON for programs that collect logs.

A record of n8nrunner about a task or a call has its facts as attributes, so that any other formatter, such as
that of python-json-logger, can show them too: `FIELDS`.
"""

from __future__ import annotations

import json
import logging
import math
import time
import traceback
from typing import Any

#: The longest traceback of a record, in characters.
_LONGEST_TRACEBACK = 50_000

#: The attributes of a record about a task or a call. A record has those that are known. `duration` is in
#: seconds.
FIELDS = ("task", "function", "execution", "node", "item", "duration", "outcome")

#: The attributes of a record during a span of OpenTelemetry, by their names in JSON.
#: opentelemetry-instrumentation-logging adds them, with "0" where there is no span.
_SPAN = {"trace_id": "otelTraceID", "span_id": "otelSpanID"}


class TextFormatter(logging.Formatter):
    """Format a record as text: its date and time, level and message. A traceback follows on more lines.

    ``n8nrunner run`` uses it. In the configuration of ``logging.config.dictConfig``, name it by
    ``{"()": "n8nrunner.TextFormatter"}``.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%d %H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text, with the ids of its trace and span at the end of the first line."""
        text = super().format(record)
        span = _span_of(record)
        if not span:
            return text
        first, newline, rest = text.partition("\n")
        return f"{first} [trace {span['trace_id']}, span {span['span_id']}]{newline}{rest}"


class JsonFormatter(logging.Formatter):
    """Format a record as a JSON object on one line.

    Every object has "time" (UTC), "level", "logger" and "message". A record about a task or a call also has
    "task", "function", "execution", "node", "item", "duration" (in seconds) and "outcome", as far as they are
    known, and during a traced call "trace_id" and "span_id". "exception" is the traceback. The characters are
    ASCII.

    ``n8nrunner run --log-format json`` uses it. In the configuration of ``logging.config.dictConfig``,
    name it by ``{"()": "n8nrunner.JsonFormatter"}``.
    """

    def __init__(self) -> None:
        super().__init__()

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a JSON object."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        shown: dict[str, object] = {
            "time": f"{moment}.{int(record.created % 1 * 1000):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name in FIELDS:
            value = getattr(record, name, None)
            if value is not None:
                shown[name] = value if _is_number(value) else str(value)
        shown.update(_span_of(record))
        own = getattr(record, "traceback", None)
        if own is not None:
            shown["exception"] = own.replace("\n    ", "\n")
        elif record.exc_info and record.exc_info[0] is not None:
            shown["exception"] = format_traceback(record.exc_info).rstrip()
        return json.dumps(shown)


def format_traceback(exc_info: tuple[Any, Any, Any]) -> str:
    """Return an exception's traceback. A long one is cut at its beginning: its end says most."""
    try:
        text = "".join(traceback.format_exception(*exc_info))
    except BaseException:  # noqa: BLE001 - an exception whose texts cannot be made is still reported
        text = f"{exc_info[0].__name__}, whose traceback could not be written"
    return text if len(text) <= _LONGEST_TRACEBACK else "... " + text[-_LONGEST_TRACEBACK:]


def _span_of(record: logging.LogRecord) -> dict[str, str]:
    """Return the ids of a record's span and its trace; nothing if there is none."""
    found = {name: str(getattr(record, attribute, "0")) for name, attribute in _SPAN.items()}
    return {} if "0" in found.values() else found


def _is_number(value: object) -> bool:
    """Return whether JSON has this value as a number."""
    return isinstance(value, (int, float)) and math.isfinite(value)
