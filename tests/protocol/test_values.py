"""JSON of any size: what is refused and where it stands, and pieces that add up to the whole."""

from __future__ import annotations

import decimal
import enum
import json
import math
import sys
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from n8nrunner.errors import ProtocolError
from n8nrunner.protocol import values
from n8nrunner.protocol.messages import Undecoded
from n8nrunner.protocol.values import NotJson, decode_value, encode_value, find_fault, integers_as_text

needs_digit_limit = pytest.mark.skipif(
    not hasattr(sys, "get_int_max_str_digits"), reason="this Python writes integers of any length"
)

leaves = (
    st.none()
    | st.booleans()
    | st.integers(-values.LARGEST_INTEGER, values.LARGEST_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
)
keys = st.text(st.characters(exclude_categories=("Cs",)), max_size=10)
json_values = st.recursive(
    leaves
    # Lists long enough to be encoded in pieces.
    | st.builds(lambda items, count: items * count, st.lists(leaves, min_size=1, max_size=3), st.just(20)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=8,
)
long_lists = st.builds(
    lambda items, count: items * count, st.lists(json_values, max_size=3), st.integers(15, 30)
)


def whole(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class Color(enum.IntEnum):
    RED = 1


class Text(str):
    pass


class TestEncode:
    @given(value=json_values | long_lists)
    def test_pieces_add_up_to_what_json_writes(self, value: Any) -> None:
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
            {str(n): [n] * 40 for n in range(32)},
            {str(n): [n] * 40 for n in range(33)},
            [[n] * 40 for n in range(32)],
            [[n] * 33 for n in range(33)],
        ],
    )
    def test_shapes_worth_a_look(self, value: Any) -> None:
        assert encode_value(value) == whole(value)

    @pytest.mark.parametrize("length", [*range(31, 36), 159, 160, 161, 1000, 9999])
    @pytest.mark.parametrize("item", [1, "x" * 100, "x" * 5000, {"json": {"a": [1] * 40}}])
    def test_a_list_of_any_length_is_whole(self, length: int, item: Any) -> None:
        value = [item] * min(length, 200_000 // len(whole(item)) + 33)
        assert encode_value(value) == whole(value)
        assert json.loads(encode_value({"a": {"b": value}})) == {"a": {"b": value}}

    def test_a_long_list_is_encoded_piece_by_piece(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sizes: list[int] = []
        encode = values._encode

        def noting(value: Any) -> str:
            text = encode(value)
            sizes.append(len(text))
            return text

        monkeypatch.setattr(values, "_encode", noting)
        items = [{"json": {"text": "x" * 100, "n": n}} for n in range(40_000)]
        for value in (items, {"a": {"b": items}}, [{"json": {"rows": items}}]):
            sizes.clear()
            text = encode_value(value)
            assert max(sizes) < 2 * values.PIECE
            assert len(sizes) < 3 * len(text) / values.PIECE

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_what_json_has_no_number_for_becomes_null(self, bad: float) -> None:
        assert encode_value(bad) == "null"
        assert (
            encode_value({"a": [1.5, bad, (bad,)], "b": {"c": bad}})
            == '{"a":[1.5,null,[null]],"b":{"c":null}}'
        )
        assert encode_value([1.5, bad] * 50) == whole([1.5, None] * 50)
        assert encode_value([{"json": {"rows": [bad] * 50}}] * 40) == whole(
            [{"json": {"rows": [None] * 50}}] * 40
        )

    def test_what_becomes_null_is_not_changed_where_it_came_from(self) -> None:
        value = {"a": [math.nan], "b": (math.inf,)}
        encode_value(value)
        assert math.isnan(value["a"][0])
        assert value["b"] == (math.inf,)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def nested_objects(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return value


class TestRefused:
    @pytest.mark.parametrize(
        ("value", "place"),
        [
            ({1, 2}, "result is a set, which JSON cannot represent"),
            (b"x", "result is a bytes, which JSON cannot represent"),
            ([1, b"x"], "result[1] is a bytes, which JSON cannot represent"),
            ([{"json": {"tags": {1}}}], "result[0]['json']['tags'] is a set, which JSON cannot represent"),
            ({"a": (1, [2, object()])}, "result['a'][1][1] is an object, which JSON cannot represent"),
            ({"a": decimal.Decimal(1)}, "result['a'] is a decimal.Decimal, which JSON cannot represent"),
            ([0] * 50 + [{"a": 1j}], "result[50]['a'] is a complex, which JSON cannot represent"),
            ({"rows": [0] * 50 + [{1}]}, "result['rows'][50] is a set, which JSON cannot represent"),
            ({(1, 2): 3}, "result[...] has a key of type tuple; the keys of JSON are strings"),
            ({"a": {b"k": 3}}, "result['a'][...] has a key of type bytes; the keys of JSON are strings"),
            ({"a": {math.nan: 3}}, "result['a'][nan] has a key that is not a finite number"),
            ({-math.inf: 3}, "result[-inf] has a key that is not a finite number"),
            ({"x" * 100: {1}}, f"result['{'x' * 56}...] is a set, which JSON cannot represent"),
            ({5: {1}}, "result[5] is a set, which JSON cannot represent"),
            ({None: {1}}, "result[None] is a set, which JSON cannot represent"),
            ([math.nan, {1}], "result[1] is a set, which JSON cannot represent"),
            (Ellipsis, "result is an ellipsis, which JSON cannot represent"),
        ],
    )
    def test_the_place_is_named(self, value: Any, place: str) -> None:
        with pytest.raises(NotJson) as caught:
            encode_value(value)
        assert str(caught.value) == place
        with pytest.raises(NotJson, match=r"^params"):
            encode_value(value, "params")

    def test_a_long_place_is_cut(self) -> None:
        value: Any = {1}
        for number in range(12):
            value = {f"k{number}": value}
        assert find_fault(value, "r") == "r" + "".join(f"['k{n}']" for n in range(11, -1, -1)) + (
            " is a set, which JSON cannot represent"
        )
        assert (
            find_fault([value], "r")
            == "r[0]['k11']['k10']['k9']['k8']['k7'][...] is a set, which JSON cannot represent"
        )

    @pytest.mark.parametrize("around", [lambda v: v, lambda v: {"a": v}, lambda v: [0] * 50 + [v]])
    def test_a_value_that_contains_itself(self, around: Any) -> None:
        loop: list[Any] = [1]
        loop.append(loop)
        with pytest.raises(NotJson, match=r"^result.*\[1\] contains itself$"):
            encode_value(around(loop))
        ring: Any = {"in": {}}
        ring["in"]["out"] = (ring,)
        with pytest.raises(NotJson, match=r"^result.*\['in'\]\['out'\]\[0\] contains itself$"):
            encode_value(around(ring))
        long: list[Any] = [0] * 50
        long.append(long)
        with pytest.raises(NotJson, match=r"^result.*\[50\] contains itself$"):
            encode_value(around(long))

    def test_the_same_value_twice_contains_nothing(self) -> None:
        shared = {"a": [1]}
        value = {"x": shared, "y": [shared, shared]}
        assert encode_value(value) == whole(value)
        assert find_fault(value, "r") is None
        assert find_fault([shared, shared, {1}], "r") == "r[2] is a set, which JSON cannot represent"

    @pytest.mark.parametrize("make", [nested, nested_objects])
    def test_a_million_levels(self, make: Any) -> None:
        value = make(1_000_000)
        with pytest.raises(
            NotJson, match=r"^result(\[0\]|\['a'\]){6}\[\.\.\.\] is nested more than 900 levels deep$"
        ):
            encode_value(value)

    def test_the_depth_that_is_called_too_deep(self) -> None:
        assert find_fault(nested(900), "r") is None
        fault = find_fault(nested(901), "r")
        assert fault is not None
        assert "deep" in fault

    @pytest.mark.parametrize("make", [nested, nested_objects])
    def test_what_is_deep_but_not_too_deep_passes(self, make: Any) -> None:
        assert encode_value(make(400)) == whole(make(400))

    @pytest.mark.parametrize("text", ["\ud800", "a\udfff", "\ude00\ud83d"])
    def test_half_of_a_surrogate_pair_passes(self, text: str) -> None:
        assert find_fault([{text: [text]}], "r") is None
        assert encode_value([text]) == whole([text])

    @pytest.mark.parametrize("number", [2**53, -(2**53), 7615917337495251231, 10**30])
    @pytest.mark.parametrize(
        ("around", "place"),
        [
            (lambda number: number, "result"),
            (lambda number: [number], "result[0]"),
            (lambda number: {"a": number}, "result['a']"),
            (lambda number: [0.12345678901234567] * 100 + [{"id": number}], "result[100]['id']"),
            (lambda number: {"rows": [[1] * 40, [1] * 40 + [number]]}, "result['rows'][1][40]"),
            (lambda number: [math.nan, number], "result[1]"),
        ],
    )
    def test_an_integer_that_n8n_would_round(self, number: int, around: Any, place: str) -> None:
        with pytest.raises(NotJson) as caught:
            encode_value(around(number))
        said = "is an integer beyond 2**53 - 1, which n8n would round: make it a string"
        assert str(caught.value) == f"{place} {said}"
        assert encode_value(integers_as_text(around(number))) == encode_value(around(str(number)))

    @pytest.mark.parametrize(
        "value",
        [
            2**53 - 1,
            1 - 2**53,
            {"id": 2**53 - 1, "other": [1 - 2**53] * 50},
            {2**70: 1},
            {str(2**70): [str(2**70)] * 40},
            ",9007199254740993,",
            [":-9007199254740993]"] * 50,
            [0.1 + 0.2, 1e15 / 3, 1234567890123456.7, 1e16, 1e22, 1e300, 2.0**53, -(2.0**60)] * 20,
            "9" * 100_000,
        ],
    )
    def test_numbers_and_strings_that_n8n_does_not_round(self, value: Any) -> None:
        assert encode_value(value) == whole(value)
        assert find_fault(value, "r") is None

    @needs_digit_limit
    def test_an_integer_that_python_does_not_write(self) -> None:
        huge = 10**5000
        with pytest.raises(NotJson, match=r"^result\['a'\] is an integer of more digits than Python writes"):
            encode_value({"a": huge})
        with pytest.raises(
            NotJson, match=r"^result\[\.\.\.\] is an integer of more digits than Python writes"
        ):
            encode_value({huge: 1})

    def test_a_key_whose_text_cannot_be_made(self) -> None:
        class Bad:
            def __repr__(self) -> str:
                raise RuntimeError("no")

        with pytest.raises(
            NotJson, match=r"^result\[\.\.\.\] has a key of type .*Bad; the keys of JSON are strings$"
        ):
            encode_value({Bad(): 1})

    def test_the_value_itself_is_not_quoted(self) -> None:
        class Secret:
            def __repr__(self) -> str:
                return "hunter2"

            __str__ = __repr__

        with pytest.raises(NotJson) as caught:
            encode_value({"a": Secret()})
        assert "hunter2" not in str(caught.value)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None

    @given(value=json_values)
    def test_json_has_no_fault(self, value: Any) -> None:
        assert find_fault(value, "r") is None

    @given(value=json_values, number=st.integers(2**53), sign=st.sampled_from([1, -1]), data=st.data())
    def test_a_rounded_integer_is_found_wherever_it_is_put(
        self, value: Any, number: int, sign: int, data: st.DataObject
    ) -> None:
        value = json.loads(json.dumps([value]))
        self._put(value, sign * number, data)
        with pytest.raises(NotJson, match="which n8n would round"):
            encode_value(value)
        assert json.loads(encode_value(integers_as_text(value))) == integers_as_text(value)

    @given(value=json_values, data=st.data())
    def test_a_fault_is_found_wherever_it_is_put(self, value: Any, data: st.DataObject) -> None:
        value = json.loads(json.dumps([value]))
        self._put(value, {1}, data)
        with pytest.raises(NotJson, match="is a set, which JSON cannot represent"):
            encode_value(value)

    def _put(self, value: Any, fault: Any, data: st.DataObject) -> None:
        containers: list[Any] = []

        def collect(part: Any) -> None:
            if isinstance(part, (list, dict)):
                containers.append(part)
                for inner in part.values() if isinstance(part, dict) else part:
                    collect(inner)

        collect(value)
        target = containers[data.draw(st.sampled_from(range(len(containers))))]
        if isinstance(target, dict):
            target["fault"] = fault
        else:
            target.insert(data.draw(st.integers(0, len(target))), fault)


class TestDecode:
    @given(
        value=json_values,
        before=json_values,
        space=st.lists(st.sampled_from([" ", "\t", "\n", "\r"]), max_size=3).map("".join),
    )
    def test_it_is_what_json_reads(self, value: Any, before: Any, space: str) -> None:
        for message in (
            {"type": "x", "settings": value},
            {"settings": {"items": [value, value], "code": before}, "z": before},
            {"a": before, "settings": [{"items": value}]},
            {"settings": {"a": {"b": [value]}}},
        ):
            text = space + json.dumps(message, separators=(f"{space},{space}", f"{space}:{space}")) + space
            assert decode_value(Undecoded(text, "settings")) == json.loads(text)["settings"]
            text = json.dumps(message, indent=1, ensure_ascii=False)
            assert decode_value(Undecoded(text, "settings")) == json.loads(text)["settings"]

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
    def test_spellings(self, text: str) -> None:
        expected = json.loads(text).get("k")
        found = decode_value(Undecoded(text, "k"))
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
    def test_what_is_no_json_object_is_an_error_that_does_not_quote_it(self, text: str) -> None:
        with pytest.raises(ProtocolError) as caught:
            decode_value(Undecoded(text, "k"))
        fault = "is nested too deeply for Python" if "[[[" in text else "is not a JSON object"
        assert str(caught.value) == f"a message of {len(text)} characters {fault}"
        assert caught.value.__suppress_context__

    @given(value=json_values, data=st.data())
    def test_damaged_text_is_an_error_where_json_says_so(self, value: Any, data: st.DataObject) -> None:
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
                decode_value(Undecoded(damaged, "k"))
        else:
            assume(isinstance(parsed, dict))
            assert decode_value(Undecoded(damaged, "k")) == parsed.get("k")

    def test_a_large_message_is_read_item_by_item(self, monkeypatch: pytest.MonkeyPatch) -> None:
        lengths: list[int] = []
        scan = values._scan

        def noting(text: str, start: int) -> Any:
            value, end = scan(text, start)
            lengths.append(end - start)
            return value, end

        monkeypatch.setattr(values, "_scan", noting)
        items = [{"json": {"text": "x" * 1000, "n": n}} for n in range(1000)]
        text = json.dumps({"type": "broker:tasksettings", "taskId": "t", "settings": {"items": items}})
        assert decode_value(Undecoded(text, "settings")) == {"items": items}
        assert max(lengths) < 2000
