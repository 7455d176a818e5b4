"""Every message both ways: strict when sending, tolerant when receiving."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from n8nrunner.errors import ProtocolError
from n8nrunner.protocol import codec
from n8nrunner.protocol import messages as m
from n8nrunner.protocol.json_text import decode_member

#: A message as JSON has it, and as an object.
FROM_BROKER: list[tuple[dict[str, Any], Any]] = [
    ({"type": "broker:inforequest"}, m.InfoRequest()),
    ({"type": "broker:runnerregistered"}, m.RunnerRegistered()),
    (
        {"type": "broker:taskofferaccept", "offerId": "o1", "taskId": "hq6IYwMP"},
        m.TaskOfferAccept("o1", "hq6IYwMP"),
    ),
    ({"type": "broker:tasksettings", "taskId": "t", "settings": {"a": 1}}, m.TaskSettings("t", {"a": 1})),
    ({"type": "broker:taskcancel", "taskId": "t", "reason": "why"}, m.TaskCancel("t", "why")),
    (
        {"type": "broker:rpcresponse", "taskId": "t", "callId": "c", "status": "success", "data": [1]},
        m.RpcResponse("t", "c", "success", [1]),
    ),
    (
        {"type": "broker:taskdataresponse", "taskId": "t", "requestId": "r", "data": {}},
        m.TaskDataResponse("t", "r", {}),
    ),
    (
        {"type": "broker:nodetypes", "taskId": "t", "requestId": "n", "nodeTypes": [{}]},
        m.NodeTypes("t", "n", [{}]),
    ),
    ({"type": "broker:drain"}, m.Drain()),
]

FROM_RUNNER: list[tuple[dict[str, Any], Any]] = [
    ({"type": "runner:info", "name": "n", "types": ["a", "b"]}, m.RunnerInfo("n", ("a", "b"))),
    ({"type": "runner:info", "name": "n", "types": []}, m.RunnerInfo("n", ())),
    (
        {"type": "runner:taskoffer", "offerId": "o", "taskType": "python", "validFor": 5000},
        m.TaskOffer("o", "python", 5000),
    ),
    (
        {"type": "runner:taskoffer", "offerId": "o", "taskType": 'a"\\b é', "validFor": -1},
        m.TaskOffer("o", 'a"\\b é', -1),
    ),
    ({"type": "runner:taskaccepted", "taskId": 't"\\é'}, m.TaskAccepted('t"\\é')),
    ({"type": "runner:taskrejected", "taskId": "t", "reason": "full"}, m.TaskRejected("t", "full")),
    ({"type": "runner:taskdeferred", "taskId": "t"}, m.TaskDeferred("t")),
    ({"type": "runner:taskdone", "taskId": "t", "data": {"result": 1}}, m.TaskDone("t", {"result": 1})),
    (
        {"type": "runner:taskerror", "taskId": "t", "error": {"message": "no"}},
        m.TaskFailed("t", {"message": "no"}),
    ),
    (
        {"type": "runner:rpc", "callId": "c", "taskId": "t", "name": "logNodeOutput", "params": ["a"]},
        m.RpcCall("c", "t", "logNodeOutput", ["a"]),
    ),
    (
        {
            "type": "runner:taskdatarequest",
            "taskId": "t",
            "requestId": "r",
            "requestParams": {"dataOfNodes": "all"},
        },
        m.TaskDataRequest("t", "r", {"dataOfNodes": "all"}),
    ),
    (
        {
            "type": "runner:nodetypesrequest",
            "taskId": "t",
            "requestId": "r",
            "requestParams": [{"name": "x", "version": 2}],
        },
        m.NodeTypesRequest("t", "r", [{"name": "x", "version": 2}]),
    ),
]

BOTH = [(wire, message, codec.decode_from_broker) for wire, message in FROM_BROKER] + [
    (wire, message, codec.decode_from_runner) for wire, message in FROM_RUNNER
]


def wire_type(case: Any) -> str:
    return str(case[0]["type"])


both_ways = pytest.mark.parametrize(
    ("wire", "message", "decode"), BOTH, ids=[wire_type(case) for case in BOTH]
)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)
ids = st.text(min_size=1)


class TestEveryMessage:
    @both_ways
    def test_is_encoded_with_the_keys_of_the_protocol(self, wire: Any, message: Any, decode: Any) -> None:
        assert json.loads(codec.encode(message)) == wire

    @both_ways
    def test_is_decoded_as_it_was_encoded(self, wire: Any, message: Any, decode: Any) -> None:
        decoded = decode(codec.encode(message))
        assert decoded == message
        assert type(decoded) is type(message)

    @both_ways
    def test_is_decoded_with_keys_in_any_order_and_unknown_keys(
        self, wire: Any, message: Any, decode: Any
    ) -> None:
        shuffled = {"new": {"type": "x"}, **dict(reversed(list(wire.items()))), "later": [1]}
        for text in (json.dumps(shuffled), json.dumps(shuffled, indent=3) + "\n"):
            decoded = decode(text)
            assert decoded == message
            assert type(decoded) is type(message)

    @pytest.mark.parametrize(("wire", "message"), FROM_RUNNER)
    def test_is_made_of_what_the_caller_decodes(self, wire: Any, message: Any) -> None:
        made = codec.decode_from_runner("text", {"text": wire}.__getitem__)
        assert made == message
        assert type(made) is type(message)

    @both_ways
    def test_is_unknown_in_the_other_direction(self, wire: Any, message: Any, decode: Any) -> None:
        other = codec.decode_from_runner if decode is codec.decode_from_broker else codec.decode_from_broker
        assert other(json.dumps(wire)) is None

    @pytest.mark.parametrize("value", [None, [], "runner:info", 1])
    def test_is_not_made_of_another_value_than_an_object(self, value: Any) -> None:
        with pytest.raises(ProtocolError, match=r"^a message of 4 characters is JSON, but not an object$"):
            codec.decode_from_runner("text", lambda text: value)

    @pytest.mark.parametrize(("number", "valid_for"), [(5000.0, 5000), (-1.0, -1), (2.5, None), ("5", None)])
    def test_has_an_integer_where_a_runner_sent_one_as_a_float(
        self, number: Any, valid_for: int | None
    ) -> None:
        wire = {"type": "runner:taskoffer", "offerId": "o", "taskType": "t", "validFor": number}
        if valid_for is None:
            with pytest.raises(ProtocolError, match="expected int for 'validFor'"):
                codec.decode_from_runner(json.dumps(wire))
        else:
            made = codec.decode_from_runner(json.dumps(wire))
            assert made == m.TaskOffer("o", "t", valid_for)
            assert isinstance(made, m.TaskOffer)
            assert type(made.valid_for) is int

    def test_is_in_these_tables(self) -> None:
        here = {type(message) for _, message, _ in BOTH}
        assert here == set(m.FromBroker.__args__) | set(m.FromRunner.__args__)  # type: ignore[attr-defined]


class TestSending:
    def test_the_time_of_an_offer_is_an_integer(self) -> None:
        with pytest.raises((ValueError, TypeError)):
            codec.encode(m.TaskOffer("o", "t", 10.5))  # type: ignore[arg-type]
        assert '"validFor":12345}' in codec.encode(m.TaskOffer("o", "t", 12345))

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize(
        "make", [lambda v: m.TaskDone("t", {"result": v}), lambda v: m.TaskSettings("t", v)]
    )
    def test_nan_and_infinity_are_refused(self, make: Any, value: float) -> None:
        with pytest.raises(ValueError, match="JSON"):
            codec.encode(make(value))

    @pytest.mark.parametrize("value", [{1, 2}, b"bytes", object()])
    def test_values_that_json_cannot_represent_are_refused(self, value: Any) -> None:
        with pytest.raises(TypeError):
            codec.encode(m.TaskDone("t", {"result": value}))

    def test_a_runner_without_types_sends_an_empty_list(self) -> None:
        assert json.loads(codec.encode(m.RunnerInfo("n", ())))["types"] == []

    def test_text_is_compact_and_keeps_its_characters(self) -> None:
        assert codec.encode(m.TaskRejected("t", "é")) == (
            '{"type":"runner:taskrejected","taskId":"t","reason":"é"}'
        )

    @given(offer_id=st.text(), task_type=st.text(), valid_for=st.integers(-1, 10**6))
    def test_an_offer_and_an_acceptance_keep_any_characters(
        self, offer_id: str, task_type: str, valid_for: int
    ) -> None:
        offer = {
            "type": "runner:taskoffer",
            "offerId": offer_id,
            "taskType": task_type,
            "validFor": valid_for,
        }
        assert json.loads(codec.encode(m.TaskOffer(offer_id, task_type, valid_for))) == offer
        accepted = {"type": "runner:taskaccepted", "taskId": offer_id}
        assert json.loads(codec.encode(m.TaskAccepted(offer_id))) == accepted

    @given(task_id=ids, result=json_values)
    def test_a_result_is_put_into_its_message_as_it_is(self, task_id: str, result: Any) -> None:
        payload = codec.encode_result(task_id, json.dumps(result, ensure_ascii=False))
        assert codec.decode_from_runner(payload.decode()) == m.TaskDone(task_id, {"result": result})

    @pytest.mark.parametrize("text", ["\ud83d", "é\udfff", "\ude00\ud83d"])
    def test_a_lone_surrogate_is_written_as_an_escape_sequence(self, text: str) -> None:
        value = {text: [text]}
        result = codec.encode_result("t", json.dumps(value, ensure_ascii=False))
        assert json.loads(result.decode())["data"]["result"] == json.loads(json.dumps(value))
        call = codec.encode_with(m.RpcCall("c", "t", "name", None), json.dumps([text], ensure_ascii=False))
        assert json.loads(call.decode())["params"] == json.loads(json.dumps([text]))
        rejected = codec.encode(m.TaskRejected(text, f"no {text}")).encode()
        assert json.loads(rejected)["taskId"] == json.loads(json.dumps(text))
        assert b"\\ud83d" in codec.encode_result("t", '"\ud83d"')

    def test_an_error_keeps_any_characters(self) -> None:
        payload = codec.encode_error("t", {"message": "\ud800 é"})
        assert payload.isascii()
        assert codec.decode_from_runner(payload.decode()) == m.TaskFailed("t", {"message": "\ud800 é"})

    @given(task_id=ids, call_id=ids, name=st.text(), last=json_values)
    def test_the_last_field_of_a_request_is_put_into_its_message_as_it_is(
        self, task_id: str, call_id: str, name: str, last: Any
    ) -> None:
        text = json.dumps(last)
        for message, wire in [
            (
                m.RpcCall(call_id, task_id, name, None),
                {"type": "runner:rpc", "callId": call_id, "taskId": task_id, "name": name, "params": last},
            ),
            (
                m.TaskDataRequest(task_id, call_id, {}),
                {
                    "type": "runner:taskdatarequest",
                    "taskId": task_id,
                    "requestId": call_id,
                    "requestParams": last,
                },
            ),
            (
                m.NodeTypesRequest(task_id, call_id, []),
                {
                    "type": "runner:nodetypesrequest",
                    "taskId": task_id,
                    "requestId": call_id,
                    "requestParams": last,
                },
            ),
        ]:
            assert json.loads(codec.encode_with(message, text)) == wire


SECRET = "Zx9-payload-that-no-error-may-show"


class TestReceiving:
    @pytest.mark.parametrize("decode", [codec.decode_from_broker, codec.decode_from_runner])
    @pytest.mark.parametrize(
        "wire", [{"type": "broker:new"}, {"type": "runner:new"}, {"type": 1}, {}, {"a": 1}]
    )
    def test_an_unknown_type_is_none(self, decode: Any, wire: Any) -> None:
        assert decode(json.dumps(wire)) is None

    @pytest.mark.parametrize("decode", [codec.decode_from_broker, codec.decode_from_runner])
    @pytest.mark.parametrize(
        "text",
        [
            "",
            SECRET,
            f'"{SECRET}"',
            f'["{SECRET}"]',
            "null",
            "17",
            f'{{"type":"broker:drain","{SECRET}"',
            f'{{"type":"broker:drain","a":"{SECRET}\x01"}}',
            f'{{"a":"\\{SECRET}"}}',
            f'{{"{SECRET}":1,}}',
            "[" * 100_000,
            '{"a":' * 100_000,
            f'{{"{SECRET}":{"9" * 20_000}x}}',
            "\ufeff{}",
        ],
        ids=lambda text: repr(text[:20]) if isinstance(text, str) else None,
    )
    def test_an_error_does_not_quote_text_that_is_not_a_json_object(self, decode: Any, text: str) -> None:
        with pytest.raises(ProtocolError) as caught:
            decode(text)
        assert SECRET[:3] not in str(caught.value)
        assert f"{len(text)} characters" in str(caught.value)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None

    @both_ways
    def test_an_error_names_a_field_of_the_wrong_type_but_not_its_value(
        self, wire: Any, message: Any, decode: Any
    ) -> None:
        for key, value in wire.items():
            if key in ("type", "settings", "reason", "data", "nodeTypes", "error") and key != "data":
                continue
            if key == "data" and wire["type"] != "runner:taskdone":
                continue
            for wrong in (None, True, 1.5, SECRET, [SECRET], {SECRET: SECRET}, 7):
                if type(wrong) is type(value):
                    continue
                with pytest.raises(ProtocolError) as caught:
                    decode(json.dumps({**wire, key: wrong}))
                assert SECRET not in str(caught.value)
                assert repr(key) in str(caught.value)
                assert str(caught.value).endswith(f"got {type(wrong).__name__}")
            without = {name: other for name, other in wire.items() if name != key}
            with pytest.raises(ProtocolError, match=f"expected .* for '{key}', got nothing"):
                decode(json.dumps(without))

    @pytest.mark.parametrize(
        ("wire", "message"),
        [
            ({"type": "broker:tasksettings", "taskId": "t"}, m.TaskSettings("t", None)),
            ({"type": "broker:taskcancel", "taskId": "t"}, m.TaskCancel("t", None)),  # type: ignore[arg-type]
            (
                # n8n leaves out what is undefined, such as the result of a function without one.
                {"type": "broker:rpcresponse", "taskId": "t", "callId": "c", "status": "success"},
                m.RpcResponse("t", "c", "success", None),
            ),
            (
                {"type": "broker:rpcresponse", "taskId": "t", "callId": "c", "status": "error", "data": "no"},
                m.RpcResponse("t", "c", "error", "no"),
            ),
            (
                {"type": "broker:taskdataresponse", "taskId": "t", "requestId": "r"},
                m.TaskDataResponse("t", "r", None),
            ),
            ({"type": "broker:nodetypes", "taskId": "t", "requestId": "r"}, m.NodeTypes("t", "r", None)),
        ],
    )
    def test_fields_that_may_be_absent_are_none(self, wire: Any, message: Any) -> None:
        assert codec.decode_from_broker(json.dumps(wire)) == message

    @pytest.mark.parametrize(
        "text",
        [
            '{"type":"broker:taskofferaccept","offerId":"o-1_","taskId":"t"}',
            '{"type":"broker:taskofferaccept","offerId":"o-1_","taskId":"t"}\n',
            '{"type":"broker:taskofferaccept","taskId":"t","offerId":"o-1_"}',
            '{"type":"broker:taskofferaccept", "offerId":"o-1_","taskId":"t"}',
            '{"type":"broker:taskofferaccept","offerId":"\\u006f-1_","taskId":"t"}',
            '{"type":"broker:taskofferaccept","offerId":"o-1_","taskId":"t","new":{}}',
        ],
    )
    def test_an_acceptance_is_decoded_in_every_spelling(self, text: str) -> None:
        assert codec.decode_from_broker(text) == m.TaskOfferAccept("o-1_", "t")

    @given(offer_id=st.text(), task_id=st.text())
    def test_an_acceptance_with_any_characters_is_decoded(self, offer_id: str, task_id: str) -> None:
        text = json.dumps(
            {"type": "broker:taskofferaccept", "offerId": offer_id, "taskId": task_id},
            separators=(",", ":"),
            ensure_ascii=False,
        )
        assert codec.decode_from_broker(text) == m.TaskOfferAccept(offer_id, task_id)

    def test_a_malformed_acceptance_is_an_error(self) -> None:
        with pytest.raises(ProtocolError):
            codec.decode_from_broker('{"type":"broker:taskofferaccept","offerId":"o","taskId":"t"')
        with pytest.raises(ProtocolError):
            codec.decode_from_broker('{"type":"broker:taskofferaccept","offerId":"o","taskId":5}')

    @given(text=st.text() | json_values.map(json.dumps))
    def test_any_text_is_a_message_or_none_or_a_protocol_error(self, text: str) -> None:
        for decode in (codec.decode_from_broker, codec.decode_from_runner, codec.decode_large):
            with contextlib.suppress(ProtocolError):
                decode(text)


class TestPeek:
    def test_it_finds_type_and_ids_before_the_large_value(self) -> None:
        text = '{"type":"broker:rpcresponse","taskId":"t","callId":"c","status":"success","data":"x...'
        assert codec.peek(text) == m.Head("broker:rpcresponse", "t", "c", None, "success")
        text = ' { "type" : "broker:nodetypes" , "taskId" : "t" , "requestId" : "r" , "nodeTypes" : ['
        assert codec.peek(text) == m.Head("broker:nodetypes", "t", None, "r", None)

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", "{}", '"type":"a"', '{"other":1,"type":"a",', '{"type":"a"']
    )
    def test_it_finds_nothing_without_a_plain_beginning(self, text: str) -> None:
        assert codec.peek(text) == m.Head(None, None, None, None, None)

    def test_it_stops_at_the_first_value_that_is_not_a_plain_string(self) -> None:
        head = codec.peek('{"type":"broker:tasksettings","settings":{"taskId":"inner",},"taskId":"t",')
        assert head == m.Head("broker:tasksettings", None, None, None, None)
        assert codec.peek('{"type":"a\\"b","taskId":"t",') == m.Head(None, None, None, None, None)


class TestDecodeLarge:
    @pytest.mark.parametrize(
        ("wire", "message", "key"),
        [
            (
                {"type": "broker:tasksettings", "taskId": "t", "settings": {"a": [1]}},
                m.TaskSettings,
                "settings",
            ),
            (
                {"type": "broker:rpcresponse", "taskId": "t", "callId": "c", "status": "success", "data": 1},
                m.RpcResponse,
                "data",
            ),
            (
                {"type": "broker:rpcresponse", "taskId": "t", "callId": "c", "status": "error", "data": "no"},
                m.RpcResponse,
                "data",
            ),
            (
                {"type": "broker:taskdataresponse", "taskId": "t", "requestId": "r", "data": {}},
                m.TaskDataResponse,
                "data",
            ),
            (
                {"type": "broker:nodetypes", "taskId": "t", "requestId": "r", "nodeTypes": []},
                m.NodeTypes,
                "nodeTypes",
            ),
        ],
    )
    def test_only_the_large_value_is_left_undecoded(self, wire: Any, message: Any, key: str) -> None:
        text = json.dumps(wire)
        whole: Any = codec.decode_from_broker(text)
        decoded: Any = codec.decode_large(text)
        assert type(decoded) is message
        assert decoded[:-1] == whole[:-1]
        assert type(decoded[-1]) is m.Undecoded
        assert decoded[-1].key == key
        assert decode_member(decoded[-1].text, key) == whole[-1] == wire[key]

    @pytest.mark.parametrize(("wire", "message"), FROM_BROKER, ids=[wire_type(case) for case in FROM_BROKER])
    def test_a_message_without_a_plain_beginning_is_decoded_as_a_whole(self, wire: Any, message: Any) -> None:
        large = {"filler": [0], **wire}
        assert codec.decode_large(json.dumps(large)) == message

    @pytest.mark.parametrize("absent", ["taskId", "callId", "status", "requestId"])
    @pytest.mark.parametrize("kind", ["rpcresponse", "taskdataresponse", "nodetypes", "tasksettings"])
    def test_a_missing_id_is_an_error(self, kind: str, absent: str) -> None:
        wire = {
            "type": f"broker:{kind}",
            "taskId": "t",
            "callId": "c",
            "status": "success",
            "requestId": "r",
            "settings": {},
        }
        del wire[absent]
        text = json.dumps(wire)
        try:
            expected: Any = codec.decode_from_broker(text)
        except ProtocolError:
            with pytest.raises(ProtocolError):
                codec.decode_large(text)
        else:
            decoded: Any = codec.decode_large(text)
            assert decoded[:-1] == expected[:-1]
