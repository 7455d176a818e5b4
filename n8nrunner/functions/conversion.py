"""What the conversions of a task's arguments have in common: the time zone, a budget of steps, a memory.

`kinds.py` converts with it. It knows nothing of tasks: `calls.py` tells it how to look at one.
"""

from __future__ import annotations

import datetime
import functools
import json
import zoneinfo
from collections.abc import Collection, Iterable, Iterator
from typing import (
    Any,
    Callable,
    NoReturn,
    TypeVar,
)

_T = TypeVar("_T")

#: Characters of a value that an error shows.
_SHOWN = 80

#: In place of a value: there is none.
NOTHING = object()

#: Steps between two looks at whether the result is still wanted: a few milliseconds.
_LOOK = 10_000
#: Steps that any task may take, and how many more for each value that came with it.
_STEPS = 1_000_000
_STEPS_OF_A_VALUE = 200

#: Values of a set that are added without a look at their hashes.
_SMALL_SET = 1000
#: Different values of a set that may have the same hash.
_SAME_HASH = 100


class Mismatch(Exception):
    """A value that does not fit.

    Args:
        where: the path to it, such as ``lead.tags[2]``.
        expected: what would fit, such as "a whole number".
        value: what came.
    """

    def __init__(self, where: str, expected: str, value: Any) -> None:
        super().__init__(where, expected)
        self.where = where
        self.expected = expected
        self.value = value

    def __str__(self) -> str:
        # Only when it is read: a union tries many kinds, and most of these errors are dropped.
        return f"{self.where}: expected {self.expected}, got {shown(self.value)}"

    def within(self, outer: str) -> Mismatch:
        """Itself, with the path to what the value stands in."""
        self.where = outer + self.where
        return self


class TooMuchWork(Exception):
    """The conversion of a value takes more steps than its size explains."""


class UnknownZone(Exception):
    """This Python does not know a time zone. Args: its name."""


def shown(value: Any) -> str:
    """A value as an error shows it: its JSON, cut."""
    if value is NOTHING:
        return "nothing"
    if isinstance(value, str):
        value = value[: _SHOWN + 1]
    text = ""
    try:
        for part in _SHOWING.iterencode(value):
            text += part
            if len(text) > _SHOWN:
                break
    except (TypeError, ValueError, RecursionError):
        text = f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


_SHOWING = json.JSONEncoder(ensure_ascii=False, default=repr)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_decode = json.JSONDecoder(parse_constant=_refuse).decode


class Conversion:
    """The conversion of one task's arguments.

    Args:
        raw: everything that is to be converted; the number of its values bounds the work.
        zone: the name of the workflow's time zone; None if it is not known.
        look: raises if no result is wanted any more. Called now and then.
    """

    __slots__ = ("_meter", "_of_text", "_parsed", "_zone", "is_text", "known", "spend")

    def __init__(
        self, raw: Any = None, zone: str | None = None, look: Callable[[], None] = lambda: None
    ) -> None:
        self._meter = _Meter(raw, look)
        #: Counts steps. Raises `TooMuchWork` if there have been too many.
        self.spend: Callable[[int], None] = self._meter.spend
        self._zone = zone
        #: Whether the values stood in a text. Python has read their numbers then, and none is rounded.
        self.is_text = False
        #: What unions have found out: by union, value and strictness.
        self.known: dict[tuple[int, int, bool], Any] = {}
        # With their texts, so that no identity is used twice.
        self._parsed: dict[int, tuple[str, Any]] = {}
        self._of_text: Conversion | None = None

    @property
    def zone(self) -> datetime.tzinfo | None:
        """The workflow's time zone; None if it is not known.

        Raises:
            UnknownZone: Python does not know it.
        """
        return None if self._zone is None else _zone_of(self._zone)

    def parse(self, text: str) -> tuple[Any, Conversion]:
        """The value of a JSON text, and the conversion that goes on with it.

        Raises:
            ValueError, RecursionError: it is not JSON, or nested too deeply.
        """
        known = self._parsed.get(id(text))
        if known is None:
            known = self._parsed[id(text)] = (text, _decode(text))
        if self.is_text:
            return known[1], self
        if self._of_text is None:
            self._of_text = Conversion()
            self._of_text._meter, self._of_text.spend = self._meter, self.spend
            self._of_text._zone = self._zone
            self._of_text.is_text = True
        return known[1], self._of_text

    def steps(self, values: Collection[_T]) -> Iterable[_T]:
        """The values, each of which is a step."""
        if len(values) < _LOOK:
            self.spend(len(values))
            return values
        return self._steps(values)

    def _steps(self, values: Iterable[_T]) -> Iterator[_T]:
        for count, value in enumerate(values):
            if count % _LOOK == 0:
                self.spend(_LOOK)
            yield value

    def check_hashes(self, values: list[Any]) -> None:
        """Checks that the time to make a set of these values grows with their number, not with its square.

        Integers that differ by a multiple of 2**61 - 1 have the same hash, so a caller can choose thousands.

        Raises:
            TypeError: one has no hash. ValueError: too many different values have the same hash.
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
    """Counts steps, and ends a conversion that takes too many."""

    __slots__ = ("_limit", "_look", "_next", "_raw", "_steps")

    def __init__(self, raw: Any, look: Callable[[], None]) -> None:
        self._raw = raw
        self._look = look
        self._steps = 0
        self._next = _LOOK
        self._limit: int | None = None

    def spend(self, steps: int) -> None:
        self._steps += steps
        if self._steps >= self._next:
            self._check()

    def _check(self) -> None:
        self._look()
        self._next = self._steps + _LOOK
        if self._steps > _STEPS:
            if self._limit is None:
                self._limit = _STEPS + _STEPS_OF_A_VALUE * self._count()
            if self._steps > self._limit:
                raise TooMuchWork

    def _count(self) -> int:
        """How many values have come; a text may hold one in every two characters."""
        count = 0
        left = [self._raw]
        while left:
            value = left.pop()
            count += 1
            if count % _LOOK == 0:
                self._look()
            if isinstance(value, dict):
                left.extend(value.values())
            elif isinstance(value, (list, tuple)):
                left.extend(value)
            elif isinstance(value, str):
                count += len(value) // 2
        return count


@functools.lru_cache(maxsize=64)
def _zone_of(name: str) -> datetime.tzinfo:
    if name in ("UTC", "Etc/UTC", "GMT"):
        return datetime.timezone.utc  # needs no data, which Windows has not
    try:
        return zoneinfo.ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # no such file, no such data, no name of a file
        raise UnknownZone(name) from None
