"""JSON of any size, encoded and decoded in pieces."""

from __future__ import annotations

import enum
import json
import math
import sys
import threading
import types
from typing import Any, Callable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from n8nrunner.errors import ProtocolError
from n8nrunner.protocol import json_text
from n8nrunner.protocol.json_text import (
    PIECE,
    decode_member,
    encode_in_pieces,
    encode_value,
    give_way,
    may_have_large_integer,
)
from tests.protocol.json_values import json_values, whole

long_lists = st.builds(
    lambda items, count: items * count, st.lists(json_values, max_size=3), st.integers(15, 30)
)


class Color(enum.IntEnum):
    RED = 1


class Text(str):
    pass


class TestEncode:
    @given(value=json_values | long_lists)
    def test_the_pieces_are_what_json_writes_at_once(self, value: Any) -> None:
        assert encode_value(value) == whole(value)
        for around in ({"a": value}, [value], [{"json": {"rows": value}}], [[[[[value]]]]], (value,)):
            assert encode_value(around) == whole(around)

    @pytest.mark.parametrize(
        "value",
        [
            [],
            {},
            "",
            0,
            None,
            True,
            'é€😀\u2028"\\\x00',
            1e300,
            -0.0,
            (1, (2, 3)),
            [[]] * 40,
            {"a": [[]] * 33},
            {7: 2, 1.5: 3, None: 4, True: 5, "s": 6},
            {1: [0] * 40, 2.5: [0] * 40, None: [0] * 40, False: [0] * 40},
            Color.RED,
            [Color.RED] * 50,
            Text("t"),
            {Text("k"): [Text("v")] * 40},
            {str(n): n for n in range(100)},
            {n: n for n in range(1001)},
            {str(n): [n] * 40 for n in range(1001)},
            {str(n): [n] * 40 for n in range(32)},
            {str(n): [n] * 40 for n in range(33)},
            [[n] * 40 for n in range(32)],
            [[n] * 33 for n in range(33)],
        ],
    )
    def test_containers_at_the_limits_of_a_piece_are_encoded_as_by_json(self, value: Any) -> None:
        assert encode_value(value) == whole(value)

    @pytest.mark.parametrize("length", [*range(31, 36), 159, 160, 161, 1000, 9999])
    @pytest.mark.parametrize("item", [1, "x" * 100, "x" * 5000, {"json": {"a": [1] * 40}}])
    def test_a_list_of_any_length_is_complete(self, length: int, item: Any) -> None:
        value = [item] * min(length, 200_000 // len(whole(item)) + 33)
        assert encode_value(value) == whole(value)
        assert json.loads(encode_value({"a": {"b": value}})) == {"a": {"b": value}}

    @pytest.mark.parametrize(
        "value",
        [
            [],
            list(range(32)),
            {str(number): number for number in range(1000)},
            {"items": [{"json": {"rows": [1, 2]}}]},
            [[[[[[list(range(33))]]]]]],  # as deep as containers are not searched any more
        ],
        ids=["empty", "list", "object", "result", "deep"],
    )
    def test_a_small_value_is_encoded_at_once(self, value: Any) -> None:
        encoded: list[Any] = []

        def encode(part: Any) -> str:
            encoded.append(part)
            return json_text.to_json(part)

        assert json.loads(json_text.encode_in_pieces(value, encode)) == value
        assert encoded == [value]

    def test_a_large_value_is_encoded_in_pieces_of_about_64_kb(self) -> None:
        sizes: list[int] = []

        def encode(value: Any) -> str:
            text = whole(value)
            sizes.append(len(text))
            return text

        items = [{"json": {"text": "x" * 100, "n": n}} for n in range(40_000)]
        large = {f"key {n}": "x" * 100 for n in range(40_000)}
        for value in (items, large, {"a": {"b": items}}, {"result": {"items": [{"json": {"rows": items}}]}}):
            sizes.clear()
            text = encode_in_pieces(value, encode)
            assert text == whole(value)
            assert max(sizes) < 2 * PIECE
            assert len(sizes) < 3 * len(text) / PIECE

    def test_large_members_of_a_long_list_are_encoded_in_pieces_of_their_own(self) -> None:
        sizes: list[int] = []

        def encode(value: Any) -> str:
            text = whole(value)
            sizes.append(len(text))
            return text

        value = [{"rows": ["x" * 100] * 2000}] * 40
        assert encode_in_pieces(value, encode) == whole(value)
        assert max(sizes) < 2 * PIECE

    @pytest.mark.parametrize("levels", [3, 400])
    def test_a_list_of_long_lists_of_any_depth_is_encoded_as_by_json(self, levels: int) -> None:
        value: list[Any] = [1] * 40
        for _ in range(levels):
            value = [value] + [1] * 40
        assert encode_value(value) == whole(value)

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_nan_and_infinity_become_null(self, bad: float) -> None:
        assert encode_value(bad) == "null"
        assert (
            encode_value({"a": [1.5, bad, (bad,)], "b": {"c": bad}})
            == '{"a":[1.5,null,[null]],"b":{"c":null}}'
        )
        assert encode_value([1.5, bad] * 50) == whole([1.5, None] * 50)
        assert encode_value([{"json": {"rows": [bad] * 50}}] * 40) == whole(
            [{"json": {"rows": [None] * 50}}] * 40
        )

    def test_the_callers_value_keeps_its_nan(self) -> None:
        value = {"a": [math.nan], "b": (math.inf,)}
        encode_value(value)
        assert math.isnan(value["a"][0])
        assert value["b"] == (math.inf,)

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            ([math.nan], "Out of range float values are not JSON compliant"),
            ([",1234567890123456,"], "it may hold an integer that n8n would round"),
        ],
    )
    def test_an_error_without_a_place_has_the_reason(
        self, value: Any, reason: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(value: Any, change: Any) -> Any:
            raise RecursionError

        monkeypatch.setattr(json_text, "map_leaves", fail)
        with pytest.raises(json_text.NotJson, match=rf"^params cannot be written as JSON: {reason}"):
            encode_value(value, "params")


class TestDecode:
    @given(
        value=json_values,
        before=json_values,
        space=st.lists(st.sampled_from([" ", "\t", "\n", "\r"]), max_size=3).map("".join),
    )
    def test_a_member_is_what_json_reads(self, value: Any, before: Any, space: str) -> None:
        for message in (
            {"type": "x", "settings": value},
            {"settings": {"items": [value, value], "code": before}, "z": before},
            {"a": before, "settings": [{"items": value}]},
            {"settings": {"a": {"b": [value]}}},
        ):
            text = space + json.dumps(message, separators=(f"{space},{space}", f"{space}:{space}")) + space
            assert decode_member(text, "settings") == json.loads(text)["settings"]
            text = json.dumps(message, indent=1, ensure_ascii=False)
            assert decode_member(text, "settings") == json.loads(text)["settings"]

    @pytest.mark.parametrize(
        "text",
        [
            "{}",
            " { } ",
            '{"k":[]}',
            '{"k":[ ]}',
            '{"k":{}}',
            '{"k":{ }}',
            '{"k":[[],[ ],{ },{}]}',
            '{"k":NaN}',
            '{"k":[Infinity,-Infinity]}',
            '{"k":1,"k":2}',
            '{"k":"\\u00e9\\ud83d\\ude00"}',
            '{"\\u006b":5}',
            '{"a":{"k":1},"k":2}',
            '{"k":-1.5e-7}',
            '\n{"k"\t:\r[ 1 , 2 ]\n}\n',
        ],
    )
    def test_a_member_is_read_in_every_spelling(self, text: str) -> None:
        expected = json.loads(text).get("k")
        found = decode_member(text, "k")
        assert repr(found) == repr(expected)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            " ",
            "nonsense",
            "[]",
            '["k"]',
            '"k"',
            "12",
            "null",
            "{",
            '{"k"',
            '{"k":',
            '{"k":1',
            '{"k":1,',
            '{"k":1,}',
            '{"k" 1}',
            '{"k":1 "b":2}',
            "{k:1}",
            '{1:"k"}',
            '{"k":[1,]}',
            '{"k":[,]}',
            '{"k":[1 2]}',
            '{"k":[1',
            '{"k":[',
            '{"k":tru}',
            '{"k":"\x01"}',
            '{"k":"a}',
            '{"k":1}}',
            '{"k":1} x',
            '{"k":1}{"k":2}',
            '\ufeff{"k":1}',
            '{"k":01}',
            '{"k":' + "[" * 100_000,
            '{"k":' + "[" * 100_000 + "]" * 100_000 + "}",
        ],
        ids=lambda text: repr(text[:20]),
    )
    def test_an_error_does_not_quote_text_that_is_not_a_json_object(self, text: str) -> None:
        with pytest.raises(ProtocolError) as caught:
            decode_member(text, "k")
        fault = "is nested too deeply for Python" if "[[[" in text else "is not a JSON object"
        assert str(caught.value) == f"a message of {len(text)} characters {fault}"
        assert caught.value.__suppress_context__

    @given(value=json_values, data=st.data())
    def test_damaged_text_is_refused_where_json_refuses_it(self, value: Any, data: st.DataObject) -> None:
        text = json.dumps({"k": value, "settings": {"items": [value]}})
        position = data.draw(st.integers(0, len(text) - 1))
        damaged = (
            text[:position]
            + data.draw(st.sampled_from(["", ",", "}", "]", '"', "x", " "]))
            + text[position + 1 :]
        )
        try:
            parsed = json.loads(damaged)
        except ValueError:
            with pytest.raises(ProtocolError):
                decode_member(damaged, "k")
        else:
            assume(isinstance(parsed, dict))
            assert decode_member(damaged, "k") == parsed.get("k")


class TestLargeIntegers:
    @pytest.mark.parametrize("before", [0, 1, 2, 15, 16, 17, 18, 19, 40])
    @pytest.mark.parametrize("digits", ["9007199254740993", "9" * 40])
    @pytest.mark.parametrize("around", ["[{}]", "[-{}]", '{{"a":{}}}', "[1, {} ]"])
    def test_an_integer_is_found_across_the_windows_of_the_search(
        self, before: int, digits: str, around: str
    ) -> None:
        text = " " * (PIECE - before) + around.format(digits)
        assert may_have_large_integer(text)
        assert may_have_large_integer(text + " " * 2 * PIECE)

    @pytest.mark.parametrize("text", ["9007199254740993", "-9007199254740993", "9" * 100_000])
    def test_an_integer_alone_is_found(self, text: str) -> None:
        assert may_have_large_integer(text)

    def test_an_integer_is_found_next_to_a_lone_surrogate(self) -> None:
        assert may_have_large_integer('["\ud800",9007199254740993]')

    @pytest.mark.parametrize("before", range(PIECE - 20, PIECE + 2))
    @pytest.mark.parametrize("number", ["0.1234567890123456", "1234567890123456.5", "123456789012345"])
    def test_the_digits_of_floats_and_small_integers_are_not_found(self, before: int, number: str) -> None:
        assert not may_have_large_integer(" " * before + f"[{number}]")


ROWS = [{"json": {"rows": [{"name": "x" * 50, "n": n} for n in range(100_000)]}}]
SETTINGS = json.dumps({"settings": ROWS})


@pytest.mark.parametrize(
    "work",
    [lambda: encode_value(ROWS), lambda: decode_member(SETTINGS, "settings")],
    ids=["encode_value", "decode_member"],
)
def test_other_threads_run_during_a_large_value(work: Callable[[], Any]) -> None:
    turns = 0
    done = threading.Event()

    def take_turns() -> None:
        nonlocal turns
        while not done.wait(0.001):
            turns += 1

    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.000_1)
    other = threading.Thread(target=take_turns)
    other.start()
    most = 0
    try:
        for _ in range(5):  # a busy machine may let the other thread wait
            before = turns
            work()
            most = max(most, turns - before)
            if most > 10:
                break
    finally:
        done.set()
        other.join(5)
        sys.setswitchinterval(interval)
    # Code that keeps the interpreter's lock allows one at its beginning, and one at its end.
    assert most > 10


def test_decoding_calls_python_once_for_each_object() -> None:
    calls = 0

    def count(frame: types.FrameType, event: str, _: object) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code is give_way.__code__

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        decode_member('{"k":[{"a":{}},{"b":[{}]}]}', "k")
    finally:
        sys.setprofile(before)
    assert calls == 5
