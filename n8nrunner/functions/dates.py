"""The types of dates: text in ISO 8601 becomes a datetime or a date in the workflow's time zone."""

from __future__ import annotations

import datetime
import re
from typing import Any

from n8nrunner.functions.conversion import Conversion, Mismatch
from n8nrunner.functions.parameters import ParameterType
from n8nrunner.functions.schema import Nesting, Schema

#: ISO 8601 that Python parses only since 3.11: fractions of any length, "Z", and offsets without a colon.
_DATE_TIME = re.compile(
    r"(?P<time>.+T\d\d:\d\d(?::\d\d)?)(?:[.,](?P<fraction>\d+))?(?:Z|(?P<zone>[+-]\d\d)(?::?(?P<minutes>\d\d))?)?",
    re.IGNORECASE | re.ASCII,
)
#: Characters of the longest string that is parsed.
_LONGEST = 64


def _parse(text: str) -> datetime.datetime | None:
    """Return the datetime, which is naive if the text has no offset; None if the text is not valid."""
    if len(text) > _LONGEST:
        return None
    found = _DATE_TIME.fullmatch(text.replace(" ", "T", 1))
    if found is not None:
        fraction = f".{found['fraction']:0<6.6}" if found["fraction"] else ""
        zone = f"{found['zone']}:{found['minutes'] or '00'}" if found["zone"] else ""
        text = found["time"] + fraction + ("+00:00" if text[-1] in "Zz" else zone)
    try:
        return datetime.datetime.fromisoformat(text)
    except ValueError:
        return None


def _in_zone(value: datetime.datetime, zone: datetime.tzinfo | None) -> datetime.datetime:
    """Return the datetime in a zone, if there is one. A naive datetime is local time there.

    Raises `OverflowError` in the first and last hours that Python can represent.
    """
    if zone is None:
        return value
    if value.tzinfo is None:
        # Through UTC: an hour that the clocks skip becomes the next one.
        value = value.replace(tzinfo=zone).astimezone(datetime.timezone.utc)
    return value.astimezone(zone)


class DateTime(ParameterType):
    """A datetime."""

    kind = "dateTime"
    expected = "a date and time such as 2024-12-31T23:59:59Z"
    field_type = form_type = "dateTime"

    def convert(self, value: Any, conversion: Conversion, strict: bool = False) -> Any:
        parsed = _parse(value) if isinstance(value, str) else None
        if parsed is None:
            raise Mismatch("", self.expected, value)
        try:
            return _in_zone(parsed, conversion.zone)
        except OverflowError:
            raise Mismatch("", self.expected, value) from None

    def schema(self, nesting: Nesting) -> Schema:
        return {"type": "string", "format": "date-time"}


class Date(DateTime):
    """A date."""

    kind = "date"
    expected = "a date such as 2024-12-31"

    def convert(self, value: Any, conversion: Conversion, strict: bool = False) -> Any:
        if isinstance(value, str) and (strict or value[10:11] not in ("T", " ")):
            try:
                return datetime.date.fromisoformat(value)
            except ValueError:
                raise Mismatch("", self.expected, value) from None
        # n8n's date field includes a time, and its Postgres node sends local midnight in UTC: take the day in
        # the workflow's time zone.
        return super().convert(value, conversion).date()

    def schema(self, nesting: Nesting) -> Schema:
        # Gemini refuses the format "date".
        return {"type": "string", "description": self.expected[:1].upper() + self.expected[1:]}
