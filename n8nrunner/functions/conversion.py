"""The state that the conversions of one task's arguments share: time zone, budget of steps, and caches.

The types of `parameters.py` convert with it. It does not know tasks: it gets a function that raises when the
task has ended.
"""

from __future__ import annotations

import copy
import datetime
import functools
import json
import zoneinfo
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Callable, NoReturn, TypeVar

_T = TypeVar("_T")

#: Characters of a value that an error shows.
_SHOWN = 80

#: Stands for a value that was not sent.
MISSING = object()

#: Steps between two checks for a cancellation: a few milliseconds.
_STEPS_PER_CHECK = 10_000
#: Steps that every task may take, and further steps for each value in its arguments.
_FREE_STEPS = 1_000_000
_STEPS_PER_VALUE = 200

#: Sets of up to this many values are made without a check of their hashes.
_SMALL_SET = 1000
#: Different values of a set that may have the same hash.
_SAME_HASH = 100


class Mismatch(Exception):
    """A value that does not fit its parameter.

    Args:
        path: the place of the value, such as ``lead.tags[2]``.
        expected: a description of values that fit, such as "an integer".
        value: the value.
    """

    def __init__(self, path: str, expected: str, value: Any) -> None:
        super().__init__(path, expected)
        self.path = path
        self.expected = expected
        self.value = value

    def __str__(self) -> str:
        # Built on demand: a union tries many types, and most of these errors are dropped.
        return f"{self.path}: expected {self.expected}, got {format_value(self.value)}"

    def within(self, outer: str) -> Mismatch:
        """Put the path of the enclosing value before the error's own, and return the error."""
        self.path = outer + self.path
        return self


class TooMuchWork(Exception):
    """The conversion of a value takes more steps than its size explains."""


class UnknownZone(Exception):
    """Python has no data for a time zone. Args: the zone's name."""


def format_value(value: Any) -> str:
    """Return a value as errors show it: its JSON, cut to 80 characters."""
    if value is MISSING:
        return "nothing"
    if isinstance(value, str):
        value = value[: _SHOWN + 1]
    text = ""
    try:
        for part in _ENCODER.iterencode(value):
            text += part
            if len(text) > _SHOWN:
                break
    except (TypeError, ValueError, RecursionError):
        text = f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


_ENCODER = json.JSONEncoder(ensure_ascii=False, default=repr)


def _reject_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_decode = json.JSONDecoder(parse_constant=_reject_constant).decode


class Conversion:
    """The state shared by the conversions of one task's arguments.

    Args:
        arguments: all arguments of the task; the number of values in them bounds the work.
        zone: the name of the workflow's time zone; None if it is not known.
        raise_if_cancelled: raises if the task has ended. Called every few milliseconds of work.
    """

    __slots__ = ("_of_text", "_parsed", "_zone", "from_text", "spend", "union_results")

    def __init__(
        self,
        arguments: Any = None,
        zone: str | None = None,
        raise_if_cancelled: Callable[[], None] = lambda: None,
    ) -> None:
        #: Count a number of steps. Raises `TooMuchWork` above the limit.
        self.spend = _Meter(arguments, raise_if_cancelled).spend
        self._zone = zone
        #: Whether the values were parsed from a string. Python parsed their integers, so none is rounded.
        self.from_text = False
        #: Results of unions, by the id of the union, the id of the value, and whether it is strict.
        self.union_results: dict[tuple[int, int, bool], Any] = {}
        # By the string's id. The string is kept, so that its id is not used again.
        self._parsed: dict[int, tuple[str, Any]] = {}
        self._of_text: Conversion | None = None

    @property
    def zone(self) -> datetime.tzinfo | None:
        """The workflow's time zone; None if it is not known. Raises `UnknownZone` if Python has no data."""
        return None if self._zone is None else _load_zone(self._zone)

    def parse(self, text: str) -> tuple[Any, Conversion]:
        """Parse a JSON string. Return its value, and the conversion to continue with.

        Raises `ValueError` or `RecursionError` if it is not valid JSON, or nested too deeply.
        """
        parsed = self._parsed.get(id(text))
        if parsed is None:
            parsed = self._parsed[id(text)] = (text, _decode(text))
        if self.from_text:
            return parsed[1], self
        if self._of_text is None:
            self._of_text = copy.copy(self)
            self._of_text.from_text = True
        return parsed[1], self._of_text

    def steps(self, values: Collection[_T]) -> Iterable[_T]:
        """Iterate over the values, and count a step for each."""
        if len(values) < _STEPS_PER_CHECK:
            self.spend(len(values))
            return values
        return self._steps(values)

    def _steps(self, values: Iterable[_T]) -> Iterator[_T]:
        for count, value in enumerate(values):
            if count % _STEPS_PER_CHECK == 0:
                self.spend(_STEPS_PER_CHECK)
            yield value

    def check_hashes(self, values: list[Any]) -> None:
        """Check that a set of these values can be made in linear time.

        Integers that differ by a multiple of 2**61 - 1 have the same hash, so a caller can choose thousands
        of them, and the time to make the set grows with the square of their number.

        Raises:
            TypeError: a value has no hash.
            ValueError: too many different values have the same hash.
        """
        if len(values) <= _SMALL_SET:
            return
        hashes = [hash(value) for value in self.steps(values)]
        if len(set(hashes)) == len(values):
            return
        different: dict[int, list[Any]] = {}
        for number, value in zip(hashes, self.steps(values)):
            same = different.setdefault(number, [])
            if value not in same:
                same.append(value)
                if len(same) > _SAME_HASH:
                    raise ValueError(f"more than {_SAME_HASH} different values have the same hash")


class _Meter:
    __slots__ = ("_arguments", "_limit", "_next_check", "_raise_if_cancelled", "_steps")

    def __init__(self, arguments: Any, raise_if_cancelled: Callable[[], None]) -> None:
        self._arguments = arguments
        self._raise_if_cancelled = raise_if_cancelled
        self._steps = 0
        self._next_check = _STEPS_PER_CHECK
        self._limit: int | None = None

    def spend(self, steps: int) -> None:
        self._steps += steps
        if self._steps >= self._next_check:
            self._check()

    def _check(self) -> None:
        self._raise_if_cancelled()
        self._next_check = self._steps + _STEPS_PER_CHECK
        if self._steps > _FREE_STEPS:
            if self._limit is None:
                self._limit = _FREE_STEPS + _STEPS_PER_VALUE * self._count_values()
            if self._steps > self._limit:
                raise TooMuchWork

    def _count_values(self) -> int:
        """Return the number of values in the arguments; a string may hold one in every two characters."""
        count = 0
        stack = [self._arguments]
        while stack:
            value = stack.pop()
            count += 1
            if count % _STEPS_PER_CHECK == 0:
                self._raise_if_cancelled()
            if isinstance(value, dict):
                stack.extend(value.values())
            elif isinstance(value, (list, tuple)):
                stack.extend(value)
            elif isinstance(value, str):
                count += len(value) // 2
        return count


@functools.lru_cache(maxsize=64)
def _load_zone(name: str) -> datetime.tzinfo:
    if name in ("UTC", "Etc/UTC", "GMT"):
        return datetime.timezone.utc  # needs no data, which Windows does not have
    try:
        return zoneinfo.ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # no such file, no such data, not a file name
        raise UnknownZone(name) from None
