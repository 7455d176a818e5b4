"""Values that JSON or n8n cannot represent, and the place in an error."""

from __future__ import annotations

import decimal
import json
import math
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from n8nrunner.protocol.json_faults import LARGEST_INTEGER, find_fault, find_loop, integers_as_strings
from n8nrunner.protocol.json_text import NotJson, encode_value
from tests.protocol.json_values import json_values, whole

needs_digit_limit = pytest.mark.skipif(
    not hasattr(sys, "get_int_max_str_digits"), reason="this Python writes integers of any length"
)


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


class TestFaults:
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
    def test_an_error_names_the_place(self, value: Any, place: str) -> None:
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

    @pytest.mark.parametrize(("length", "shown"), [(58, "'{0}'"), (59, "'{0:.56}...")])
    def test_a_long_key_is_cut(self, length: int, shown: str) -> None:
        key = "k" * length
        fault = find_fault({key: {1}}, "r")
        assert fault == f"r[{shown.format(key)}] is a set, which JSON cannot represent"

    @pytest.mark.parametrize("around", [lambda v: v, lambda v: {"a": v}, lambda v: [0] * 50 + [v]])
    def test_a_value_that_contains_itself_is_refused(self, around: Any) -> None:
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

    def test_a_loop_is_found_in_a_value_that_json_cannot_represent(self) -> None:
        value: Any = {"a": [{1}, math.nan, 2**60]}
        assert find_loop(value, "r") is None
        value["a"].append(value)
        assert find_loop(value, "r") == "r['a'][3] contains itself"
        value["a"] = [{object(): value}]
        assert find_loop(value, "r") == "r['a'][0][...] contains itself"

    def test_the_same_value_twice_is_not_a_loop(self) -> None:
        shared = {"a": [1]}
        value = {"x": shared, "y": [shared, shared]}
        assert encode_value(value) == whole(value)
        assert find_fault(value, "r") is None
        assert find_fault([shared, shared, {1}], "r") == "r[2] is a set, which JSON cannot represent"

    @pytest.mark.parametrize("make", [nested, nested_objects])
    def test_a_million_levels_are_refused(self, make: Any) -> None:
        value = make(1_000_000)
        with pytest.raises(
            NotJson, match=r"^result(\[0\]|\['a'\]){6}\[\.\.\.\] is nested more than 900 levels deep$"
        ):
            encode_value(value)

    def test_the_limit_of_levels_is_900(self) -> None:
        assert find_fault(nested(900), "r") is None
        fault = find_fault(nested(901), "r")
        assert fault is not None
        assert "deep" in fault

    @pytest.mark.parametrize("make", [nested, nested_objects])
    def test_400_levels_are_encoded(self, make: Any) -> None:
        assert encode_value(make(400)) == whole(make(400))

    @pytest.mark.parametrize("text", ["\ud800", "a\udfff", "\ude00\ud83d"])
    def test_a_lone_surrogate_is_encoded(self, text: str) -> None:
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
    def test_an_integer_that_n8n_would_round_is_refused(self, number: int, around: Any, place: str) -> None:
        with pytest.raises(NotJson) as caught:
            encode_value(around(number))
        said = "is an integer beyond 2**53 - 1, which n8n would round: make it a string"
        assert str(caught.value) == f"{place} {said}"
        assert encode_value(integers_as_strings(around(number))) == encode_value(around(str(number)))

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
    def test_numbers_and_strings_that_n8n_does_not_round_are_encoded(self, value: Any) -> None:
        assert encode_value(value) == whole(value)
        assert find_fault(value, "r") is None

    @pytest.mark.parametrize("sign", [1, -1])
    def test_only_integers_that_n8n_would_round_become_strings(self, sign: int) -> None:
        value = {"a": [sign * LARGEST_INTEGER, sign * (LARGEST_INTEGER + 1)], "b": True}
        expected = {"a": [sign * LARGEST_INTEGER, str(sign * (LARGEST_INTEGER + 1))], "b": True}
        assert integers_as_strings(value) == expected

    @needs_digit_limit
    def test_an_integer_that_python_does_not_write_is_refused(self) -> None:
        huge = 10**5000
        assert integers_as_strings([huge]) == [huge]
        with pytest.raises(NotJson, match=r"^result\['a'\] is an integer of more digits than Python writes"):
            encode_value({"a": huge})
        with pytest.raises(
            NotJson, match=r"^result\[\.\.\.\] is an integer of more digits than Python writes"
        ):
            encode_value({huge: 1})

    def test_the_repr_of_a_key_is_never_called(self) -> None:
        class Bad:
            def __repr__(self) -> str:
                raise RuntimeError("no")

        with pytest.raises(
            NotJson, match=r"^result\[\.\.\.\] has a key of type .*Bad; the keys of JSON are strings$"
        ):
            encode_value({Bad(): 1})

    def test_an_error_does_not_quote_the_value(self) -> None:
        class Secret:
            def __repr__(self) -> str:
                return "hunter2"

            __str__ = __repr__

        with pytest.raises(NotJson) as caught:
            encode_value({"a": Secret()})
        assert "hunter2" not in str(caught.value)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None

    @given(value=json_values)
    def test_a_json_value_has_no_fault(self, value: Any) -> None:
        assert find_fault(value, "r") is None

    @given(value=json_values, number=st.integers(2**53), sign=st.sampled_from([1, -1]), data=st.data())
    def test_a_large_integer_is_found_anywhere(
        self, value: Any, number: int, sign: int, data: st.DataObject
    ) -> None:
        value = json.loads(json.dumps([value]))
        self._put(value, sign * number, data)
        with pytest.raises(NotJson, match="which n8n would round"):
            encode_value(value)
        assert json.loads(encode_value(integers_as_strings(value))) == integers_as_strings(value)

    @given(value=json_values, data=st.data())
    def test_a_fault_is_found_anywhere(self, value: Any, data: st.DataObject) -> None:
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
