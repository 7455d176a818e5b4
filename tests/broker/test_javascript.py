"""JSON as n8n's JavaScript reads and writes it."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from n8nrunner.broker import javascript
from n8nrunner.protocol.json_text import PIECE

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(1 - 2**53, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)
LONG = "x" * PIECE


def large(value: Any) -> Any:
    """Return a value that is too large for one piece."""
    return {"first": value, "long": LONG, "last": [value, LONG, value]}


@given(json_values)
def test_parse_reverses_stringify(value: Any) -> None:
    for whole in (value, [value] * 50, large(value)):
        text = javascript.stringify(whole)
        assert json.loads(text) == whole
        assert javascript.parse(text) == whole
        assert javascript.parse(json.dumps(whole, indent=1)) == whole


@given(json_values, st.data())
def test_parse_refuses_what_the_standard_library_refuses(value: Any, data: st.DataObject) -> None:
    text = javascript.stringify(large(value))
    at = data.draw(st.integers(0, 60) | st.integers(len(text) - 60, len(text)))
    broken = (
        text[:at] + data.draw(st.sampled_from(["", ",", "]", "}", '"', ":", "1", "x", "e"])) + text[at + 1 :]
    )
    try:
        # Another digit can make an integer above 2**53 - 1, which is rounded.
        expected = json.loads(broken, strict=True, parse_int=javascript.parse)
    except ValueError:
        with pytest.raises(ValueError):  # noqa: PT011 - any message will do
            javascript.parse(broken)
    else:
        assert javascript.parse(broken) == expected


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
        [9] * PIECE + ["end"],
    ],
    ids=[
        "integers",
        "numbers",
        "items",
        "rows",
        "one item",
        "strings",
        "mixed",
        "object",
        "numbers and more",
    ],
)
def test_large_values_of_every_kind_are_read_as_they_were_written(value: Any) -> None:
    text = javascript.stringify(value)
    assert len(text) > PIECE
    assert json.loads(text) == value
    assert javascript.parse(text) == value


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("around", [lambda value: value, large, lambda value: [1] * 100_000 + [value]])
def test_nan_and_infinity_are_refused(number: float, around: Any) -> None:
    with pytest.raises(ValueError, match="JSON"):
        javascript.stringify(around(number))
    with pytest.raises(ValueError, match="is not valid JSON"):
        javascript.parse(json.dumps(around(number)))


@pytest.mark.parametrize(
    "broken", ["[1,,2]", "[,1]", "[1,]", '["a",,"b"]', "[1 2]", '{"a":1,}', '{,"a":1}', "[1}"]
)
def test_misplaced_commas_are_refused(broken: str) -> None:
    for inner in (broken, broken.replace("[1", "[1" + ",1" * 1000)):
        with pytest.raises(ValueError):  # noqa: PT011 - any message will do
            javascript.parse(f'["{LONG}",{inner}]')


def test_bytes_become_a_buffer() -> None:
    small = {"data": b"\x00\xff"}
    assert json.loads(javascript.stringify(small)) == {"data": {"type": "Buffer", "data": [0, 255]}}
    content = bytes(range(256)) * 1000
    buffer = {"type": "Buffer", "data": list(content)}
    assert json.loads(javascript.stringify([content, 1])) == [buffer, 1]
    for whole in (content, bytearray(content), memoryview(content)):
        assert json.loads(javascript.stringify(whole)) == buffer


def test_stringify_refuses_a_set_and_a_loop() -> None:
    with pytest.raises(TypeError, match="type set"):
        javascript.stringify({"a": {1}})
    loop: Any = []
    loop.append(loop)
    with pytest.raises((ValueError, RecursionError)):
        javascript.stringify(loop)


def test_lone_surrogates_are_escaped() -> None:
    for value in ("\ud83d", {"\udc00ä": ["\ud800" * 3]}, ["ä\ud800"] * 50_000):
        text = javascript.stringify(value)
        text.encode()
        assert javascript.parse(text) == json.loads(text) == value
    assert javascript.stringify("\ud83d") == '"\\ud83d"'
    assert javascript.stringify("\U0001f600") == '"\U0001f600"'


#: Integers, and the output of `JSON.stringify(JSON.parse(text))` in Node.js.
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
def test_integers_are_rounded_as_in_javascript(text: str, rounded: str) -> None:
    assert json.dumps(javascript.parse(text)) == rounded
    assert javascript.stringify(int(text)) == rounded
    for around in (lambda value: {"a": [0.1234567890123456, value]}, large, lambda value: [value] * 70_000):
        expected = around(json.loads(rounded))
        assert json.loads(javascript.stringify(around(int(text)))) == expected
        assert javascript.parse(json.dumps(around(int(text)))) == expected


def test_strings_and_floats_are_not_rounded() -> None:
    value = {"9007199254740993": [",9007199254740993,", 9007199254740994.0, 0.1 + 0.2, 1e22, -1.5e300]}
    assert json.loads(javascript.stringify(value)) == value
    assert javascript.parse(json.dumps(value)) == value


def test_keys_that_are_not_strings_become_what_the_standard_library_writes() -> None:
    assert json.loads(javascript.stringify({1: 2, None: 3})) == {"1": 2, "null": 3}
