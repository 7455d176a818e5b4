"""JSON in pieces is the same JSON."""

from __future__ import annotations

import gc
import json
import math
import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from n8nrunner.broker import pieces

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(1 - 2**53, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)
LONG = "x" * pieces.PIECE


def large(value: Any) -> Any:
    """A value that is too large to be taken as one piece."""
    return {"first": value, "long": LONG, "last": [value, LONG, value]}


@given(json_values)
def test_there_and_back(value: Any) -> None:
    for whole in (value, [value] * 50, large(value)):
        text = pieces.dumps(whole)
        assert json.loads(text) == whole
        assert pieces.loads(text) == whole
        assert pieces.loads(json.dumps(whole, indent=1)) == whole


@given(json_values, st.data())
def test_what_is_no_json_is_refused_as_the_standard_library_does(value: Any, data: st.DataObject) -> None:
    text = pieces.dumps(large(value))
    at = data.draw(st.integers(0, 60) | st.integers(len(text) - 60, len(text)))
    broken = (
        text[:at] + data.draw(st.sampled_from(["", ",", "]", "}", '"', ":", "1", "x", "e"])) + text[at + 1 :]
    )
    try:
        expected = json.loads(broken, strict=True)
    except ValueError:
        with pytest.raises(ValueError):  # noqa: PT011 - whatever the message, it is refused
            pieces.loads(broken)
    else:
        assert pieces.loads(broken) == expected


@pytest.mark.parametrize(
    "value",
    [
        list(range(200_000)),
        [-1.5e3, 2, 3.25] * 50_000,
        [{"json": {"n": n}} for n in range(20_000)],
        [[1, 2, 3]] * 50_000,
        [{"json": {"rows": [{"a": n} for n in range(20_000)]}}],
        ["text"] * 50_000,
        [1, 2, {"a": 3}, 4, 5] * 20_000,
        {str(n): n for n in range(50_000)},
        [9] * pieces.PIECE + ["end"],
    ],
    ids=["integers", "numbers", "items", "rows", "one item", "texts", "mixed", "object", "numbers and more"],
)
def test_large_values(value: Any) -> None:
    text = pieces.dumps(value)
    assert len(text) > pieces.PIECE
    assert json.loads(text) == value
    assert pieces.loads(text) == value


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("around", [lambda value: value, large, lambda value: [1] * 100_000 + [value]])
def test_nan_is_no_json(number: float, around: Any) -> None:
    with pytest.raises(ValueError, match="JSON"):
        pieces.dumps(around(number))
    with pytest.raises(ValueError, match="no JSON"):
        pieces.loads(json.dumps(around(number)))


@pytest.mark.parametrize(
    "broken", ["[1,,2]", "[,1]", "[1,]", '["a",,"b"]', "[1 2]", '{"a":1,}', '{,"a":1}', "[1}"]
)
def test_commas_in_the_wrong_place(broken: str) -> None:
    for inner in (broken, broken.replace("[1", "[1" + ",1" * 1000)):
        with pytest.raises(ValueError):  # noqa: PT011 - whatever the message, it is refused
            pieces.loads(f'["{LONG}",{inner}]')


def test_bytes_become_a_buffer() -> None:
    small = {"data": b"\x00\xff"}
    assert json.loads(pieces.dumps(small)) == {"data": {"type": "Buffer", "data": [0, 255]}}
    content = bytes(range(256)) * 1000
    assert json.loads(pieces.dumps([content, 1])) == [{"type": "Buffer", "data": list(content)}, 1]


def test_what_cannot_be_written() -> None:
    with pytest.raises(TypeError, match="type set"):
        pieces.dumps({"a": {1}})
    cycle: Any = []
    cycle.append(cycle)
    with pytest.raises((ValueError, RecursionError)):
        pieces.dumps(cycle)


def test_half_characters_are_escaped() -> None:
    for value in ("\ud83d", {"\udc00ä": ["\ud800" * 3]}, ["ä\ud800"] * 50_000):
        text = pieces.dumps(value)
        text.encode()
        assert pieces.loads(text) == json.loads(text) == value
    assert pieces.dumps("\U0001f600") == '"\U0001f600"'


#: What `JSON.stringify(JSON.parse(text))` writes in Node.js.
ROUNDED = {
    "7615917337495251231": "7615917337495251000",
    "9007199254740991": "9007199254740991",
    "9007199254740993": "9007199254740992",
    "-9223372036854775808": "-9223372036854776000",
    "123456789012345678901": "123456789012345680000",
    "1000000000000000000000": "1e+21",
    f"1{'0' * 400}": "null",
}


@pytest.mark.parametrize(("text", "rounded"), ROUNDED.items())
def test_integers_are_rounded_as_javascript_does(text: str, rounded: str) -> None:
    assert json.dumps(pieces.loads(text)) == rounded
    assert pieces.dumps(int(text)) == rounded
    for around in (lambda value: {"a": [0.1234567890123456, value]}, large, lambda value: [value] * 70_000):
        expected = around(json.loads(rounded))
        assert json.loads(pieces.dumps(around(int(text)))) == expected
        assert pieces.loads(json.dumps(around(int(text)))) == expected


def test_strings_and_floats_are_not_rounded() -> None:
    value = {"9007199254740993": [",9007199254740993,", 9007199254740994.0, 0.1 + 0.2, 1e22, -1.5e300]}
    assert json.loads(pieces.dumps(value)) == value
    assert pieces.loads(json.dumps(value)) == value


def test_keys_that_are_no_text_are_written_as_the_standard_library_does() -> None:
    assert json.loads(pieces.dumps({1: 2, None: 3})) == {"1": 2, "null": 3}


@pytest.mark.parametrize("work", ["loads", "dumps"])
def test_other_threads_run_meanwhile(work: str) -> None:
    value = [{"json": {"rows": [{"name": "x" * 50, "n": n} for n in range(150_000)]}}]
    text = json.dumps(value)
    longest = 0.0
    done = threading.Event()
    started = threading.Event()

    def watch() -> None:
        nonlocal longest
        last = time.monotonic()
        started.set()
        while not done.wait(0.001):
            now = time.monotonic()
            longest = max(longest, now - last)
            last = now

    watcher = threading.Thread(target=watch)
    watcher.start()
    started.wait(5)
    gc.disable()  # a collection of so many objects holds the interpreter, and is not what is measured
    try:
        begun = time.monotonic()
        if work == "loads":
            pieces.loads(text)
        else:
            pieces.dumps(value)
        took = time.monotonic() - begun
    finally:
        gc.enable()
        done.set()
        watcher.join(5)
    assert longest < took / 2, f"of {took:.3f} s the longest wait was {longest:.3f} s"
