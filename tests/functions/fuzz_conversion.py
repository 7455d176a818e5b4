"""Convert random values to random hints: `python -m tests.functions.fuzz_conversion --seconds 60`.

A conversion returns a value or raises one of its own errors, in time linear in the size of the value. A
result is encoded, or refused with `NotJson`.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import decimal
import enum
import functools
import json
import random
import time
import tracemalloc
from typing import (
    Annotated,
    Any,
    Callable,
    Dict,
    FrozenSet,
    List,
    Literal,
    Mapping,
    NamedTuple,
    Optional,
    Set,
    Tuple,
    TypedDict,
    Union,
)

from n8nrunner import File
from n8nrunner.functions.conversion import Conversion, Mismatch, UnknownZone
from n8nrunner.functions.hints import read_hint
from n8nrunner.functions.items import make_encodable, make_items
from n8nrunner.protocol.codec import encode_result
from n8nrunner.protocol.json_text import NotJson, encode_value
from tests.functions.converting import convert

#: Limits of one conversion in seconds and bytes: for each character of the value, and the smallest ones.
SECONDS, SECONDS_LEAST = 20e-6, 1.0
BYTES, BYTES_LEAST = 400, 1_000_000


class Color(enum.Enum):
    RED = "red"
    BIG = 2**60


@dataclasses.dataclass
class Left:
    next: Optional[Union[Left, Right]] = None
    x: int = 0


@dataclasses.dataclass
class Right:
    next: Optional[Union[Left, Right]] = None
    x: str = ""


@dataclasses.dataclass(frozen=True)
class Strict:
    value: int

    def __post_init__(self) -> None:
        if self.value < 0:
            raise ValueError("it is negative")


class Some(TypedDict, total=False):
    label: str
    inner: Dict[str, Any]


class Point(NamedTuple):
    x: float
    y: float = 0.0


class Bound:
    """Bounds in the form of `annotated_types`."""

    def __init__(self, **bounds: Any) -> None:
        self.__dict__.update(bounds)


LEAVES: List[Any] = [
    str,
    int,
    float,
    bool,
    datetime.datetime,
    datetime.date,
    Any,
    list,
    dict,
    set,
    tuple,
    File,
    Literal["a", 1, True, None],
    Color,
    Left,
    Right,
    Strict,
    Some,
    Point,
]


def random_hint(draw: random.Random, depth: int = 3) -> Any:
    """Return a type hint that can become a field."""
    if depth == 0 or draw.random() < 0.3:
        return draw.choice(LEAVES)

    def inner() -> Any:
        hint = random_hint(draw, depth - 1)
        return str if hint is File else hint

    return draw.choice(
        [
            lambda: List[inner()],  # type: ignore[misc]
            lambda: Set[inner()],  # type: ignore[misc]
            lambda: FrozenSet[inner()],  # type: ignore[misc]
            lambda: Tuple[inner(), ...],  # type: ignore[misc]
            lambda: Tuple[inner(), inner()],  # type: ignore[misc]
            lambda: Dict[str, inner()],  # type: ignore[misc]
            lambda: Mapping[str, inner()],  # type: ignore[misc]
            lambda: Optional[inner()],
            lambda: Union[inner(), inner(), inner()],
            lambda: Annotated[inner(), random_bound(draw)],
        ]
    )()


def random_bound(draw: random.Random) -> Bound:
    name = draw.choice(["ge", "le", "gt", "lt", "min_length", "max_length"])
    at: Any = draw.randint(-3, 5)
    if name in ("ge", "le", "gt", "lt") and draw.random() < 0.3:
        zone = draw.choice([None, datetime.timezone.utc])
        at = draw.choice([datetime.datetime(2024, 1, 1, tzinfo=zone), datetime.date(2024, 1, 1), 0.5])
    return Bound(**{name: at})


SCALARS: List[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1.5,
    1e300,
    -1e22,
    2**53,
    7615917337495251000,
    10**400,
    float("nan"),
    float("inf"),
    "",
    "a",
    "red",
    "12_34",
    " 12 ",
    "١٢",
    "1e5",
    "1e999999999",
    "-1e-999999999",
    "9" * 5000,
    "1" * 3000 + "x",
    "infinity",
    "\ud83d",
    "\x00",
    "2024-05-06",
    "2024-05-06T07:08:09.123Z",
    "2024-05-06 07:08+0200",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00",
    "2024-03-31T02:30:00",
    "T" * 3000,
    "[1, 2",
    "[" * 5000,
    '{"a":' * 5000,
    "[NaN]",
    "[1e999]",
    json.dumps([n * (2**61 - 1) for n in range(3000)]),
    json.dumps([[n * (2**61 - 1), 1] for n in range(3000)]),
]

KEYS = ["x", "y", "next", "value", "label", "inner", "a", "", "__class__", "self", "\ud800"]


def repr_of(scalar: Any) -> str:
    return "" if scalar == 10**400 else str(scalar)


def random_value(draw: random.Random, depth: int = 4) -> Any:
    """Return a JSON value as an argument may be."""
    if depth == 0 or draw.random() < 0.4:
        return draw.choice(SCALARS)
    choice = draw.random()
    if choice < 0.35:
        return [random_value(draw, depth - 1) for _ in range(draw.randint(0, 4))]
    if choice < 0.7:
        return {draw.choice(KEYS): random_value(draw, depth - 1) for _ in range(draw.randint(0, 4))}
    if choice < 0.8:
        scalar = draw.choice(SCALARS)
        return [scalar] * (draw.choice([1, 100, 3000]) if len(repr_of(scalar)) < 100 else 2)
    if choice < 0.9:
        value = random_value(draw, 1)
        for _ in range(draw.choice([3, 10, 25, 900])):
            value = {"next": value} if draw.random() < 0.9 else [value]
        return value
    try:
        return json.dumps(random_value(draw, depth - 1))
    except (ValueError, RecursionError):  # more digits, or more levels, than Python converts
        return "{}"


ZONES = [
    None,
    "UTC",
    "Europe/Warsaw",
    "America/New_York",
    "Pacific/Apia",
    "Mars/Olympus",
    "../x",
    "",
    "Europe",
    "\x00",
]


def convert_one(hint: Any, value: Any, zone: Optional[str]) -> str:
    """Convert a value. Return the outcome."""
    try:
        convert(read_hint(hint).type, value, Conversion(value, zone))
    except Mismatch as error:
        text = str(error)
        assert text.startswith("value"), text
        assert len(text) < 100_000, len(text)
        return "mismatch"
    except UnknownZone:
        assert zone not in (None, "UTC", "Europe/Warsaw", "America/New_York", "Pacific/Apia")
        return "zone"
    return "converted"


def random_result(draw: random.Random, depth: int = 4) -> Any:
    """Return a value as a function may return it."""
    if depth == 0 or draw.random() < 0.3:
        others: List[Any] = [
            decimal.Decimal("1.5"),
            datetime.datetime(2024, 5, 6),
            b"abc",
            File(b"abc", "../\ud83d/x.txt"),
            {1, 2},
            object(),
            Color.BIG,
            Left(),
            Point(1, 2),
            10**5000,
            range(3),
        ]
        return draw.choice([*SCALARS, *others])
    values = [random_result(draw, depth - 1) for _ in range(draw.randint(0, 4))]
    choice = draw.random()
    if choice < 0.4:
        return values
    if choice < 0.5:
        return iter(values)
    if choice < 0.6:
        loop: List[Any] = [values]
        loop.append({"again": loop})
        return loop
    if choice < 0.7:
        return {
            "json": {"a": values},
            "binary": {"f": draw.choice(values or [None])},
            "pairedItem": values[:1],
        }
    keys: List[Any] = [*KEYS, 1, None, 2.5, (1, 2), float("nan")]
    return {draw.choice(keys): value for value in values}


def encode_one(result: Any) -> str:
    """Make items of a result, and encode them. Return the outcome."""
    try:
        made = make_items(result, lambda file: {"content": "", "fileName": file.filename})
        try:
            text = encode_value(made[0])
        except NotJson:
            text = encode_value(make_encodable(made))
    except NotJson:
        return "refused"
    json.loads(encode_result("t", text).decode("utf-8"))
    return "encoded"


class _Limits:
    """Run conversions, and assert that each stays within its limits of time and, for some, of memory."""

    def __init__(self) -> None:
        self.seen: Dict[str, int] = {}

    def run(self, work: Callable[[], str], size: int, about: Callable[[], str]) -> None:
        # Tracing doubles the time, so not everything is traced.
        traces = sum(self.seen.values()) % 20 == 0 and not tracemalloc.is_tracing()
        if traces:
            tracemalloc.start()
        begun = time.thread_time()
        try:
            outcome = work()
        except Exception as error:
            raise AssertionError(f"{type(error).__name__} escaped: {about()}") from error
        finally:
            took = time.thread_time() - begun
            _, peak = tracemalloc.get_traced_memory()
            if traces:
                tracemalloc.stop()
        assert took < SECONDS_LEAST + SECONDS * size, f"{took:.1f} s: {about()}"
        assert not traces or peak < BYTES_LEAST + BYTES * size, f"{peak} bytes: {about()}"
        self.seen[outcome] = self.seen.get(outcome, 0) + 1


def run(seconds: float, seed: int) -> Dict[str, int]:
    """Convert and encode random values for a number of seconds.

    Returns:
        The number of conversions with each outcome.

    Raises:
        AssertionError: an unexpected exception escaped, or a limit of time or memory was exceeded.
    """
    draw = random.Random(seed)
    limits = _Limits()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        # Shallow hints and values fit each other more often.
        depth = draw.choice([0, 0, 1, 3])
        hint, value, zone = random_hint(draw, depth), random_value(draw, depth), draw.choice(ZONES)
        limits.run(
            functools.partial(convert_one, hint, value, zone),
            _size(value),
            lambda: f"seed {seed}: {hint}, {repr(value)[:300]}, {zone}",  # noqa: B023 - called at once
        )
        result = random_result(draw)
        limits.run(functools.partial(encode_one, result), 10_000, lambda: f"seed {seed}: {type(result)}")  # noqa: B023
    return limits.seen


def _size(value: Any) -> int:
    """Return the approximate number of characters of a value."""
    size, left = 0, [value]
    while left:
        part = left.pop()
        size += len(part) + 10 if isinstance(part, (str, list, dict)) else 20
        if isinstance(part, dict):
            left.extend(part.values())
        elif isinstance(part, list):
            left.extend(part)
    return size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}: {run(arguments.seconds, arguments.seed)}")


if __name__ == "__main__":
    main()
