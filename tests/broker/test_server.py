"""The broker over real sockets: grant tokens, upgrades, heartbeats, sizes and all ends of a run."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import websocket

from n8nrunner.broker import (
    Broker,
    BrokerNotRunning,
    BrokerTask,
    BrokerTaskExpired,
    BrokerTaskLost,
    BrokerTaskTimeout,
    decoding,
    run,
)
from tests.broker.raw_runner import LIMIT, TOKEN, RawRunner, base_of, grant, new_broker, raw_http
from tests.conftest import promptly


@pytest.fixture
def shared() -> Iterator[Broker]:
    """A broker with the default settings."""
    with new_broker() as broker:
        yield broker


def post_auth(broker: Broker, path: str = "/runners/auth", **arguments: Any) -> requests.Response:
    return requests.post(f"http://127.0.0.1:{broker.port}{path}", timeout=LIMIT, **arguments)


class TestAuthentication:
    JSON = {"Content-Type": "application/json"}

    def test_the_secret_is_swapped_for_a_grant_token(self, shared: Broker) -> None:
        response = post_auth(shared, json={"token": TOKEN})
        assert response.status_code == 200
        assert re.fullmatch(r'\{"data": ?\{"token": ?"[0-9a-f]{64}"\}\}', response.text)

    @pytest.mark.parametrize(
        "arguments",
        [
            {
                "data": json.dumps({"token": TOKEN}),
                "headers": {"Content-Type": "application/json; charset=utf-8"},
            },
            {"data": {"token": TOKEN}},
            {"json": {"token": TOKEN}, "path": "/runners/auth/"},
        ],
        ids=["charset", "form", "slash"],
    )
    def test_the_broker_accepts_log_ins_with_a_charset_as_a_form_and_with_a_slash(
        self, shared: Broker, arguments: dict[str, Any]
    ) -> None:
        assert post_auth(shared, **arguments).status_code == 200

    @pytest.mark.parametrize(
        ("arguments", "status", "body"),
        [
            ({"json": {}}, 400, {"code": 400, "message": "invalid_type"}),
            ({"json": {"token": 7}}, 400, {"code": 400, "message": "invalid_type"}),
            ({"json": []}, 400, {"code": 400, "message": "invalid_type"}),
            ({}, 400, {"code": 400, "message": "invalid_type"}),
            ({"data": "", "headers": JSON}, 400, {"code": 400, "message": "invalid_type"}),
            (
                {"data": json.dumps({"token": TOKEN}), "headers": {"Content-Type": "text/plain"}},
                400,
                {"code": 400, "message": "invalid_type"},
            ),
            ({"json": {"token": ""}}, 400, {"code": 400, "message": "too_small"}),
            ({"json": {"token": "wrong"}}, 403, {"code": 403, "message": "Forbidden"}),
            ({"json": {"token": f"{TOKEN} "}}, 403, {"code": 403, "message": "Forbidden"}),
            ({"json": {"token": "\ud800"}}, 403, {"code": 403, "message": "Forbidden"}),
        ],
    )
    def test_the_broker_refuses_wrong_log_ins(
        self, shared: Broker, arguments: dict[str, Any], status: int, body: dict[str, Any]
    ) -> None:
        response = post_auth(shared, **arguments)
        assert (response.status_code, response.json()) == (status, body)

    @pytest.mark.parametrize("text", ["{", '{"token":', "nonsense", "7", "null", "[" * 50_000])
    def test_the_broker_answers_a_log_in_that_is_not_json_with_500(self, shared: Broker, text: str) -> None:
        response = post_auth(shared, data=text, headers=self.JSON)
        assert response.status_code == 500
        assert response.headers["Content-Type"].startswith("text/html")

    @pytest.mark.parametrize("declared", [True, False])
    def test_the_broker_refuses_a_body_that_is_too_large(self, declared: bool) -> None:
        with new_broker(max_body=1000) as broker:
            body = json.dumps({"token": "x" * 1000}).encode()
            data: Any = body if declared else iter([body])
            response = post_auth(broker, data=data, headers=self.JSON)
            assert response.status_code == 413
            assert response.headers["Content-Type"].startswith("text/html")

    @pytest.mark.parametrize(
        ("method", "path"),
        [("GET", "/runners/auth"), ("PUT", "/runners/auth"), ("POST", "/runners"), ("GET", "/<b>"),
         ("GET", "/runners/_ws"), ("POST", "/healthz"), ("GET", "/tasks"), ("GET", "/runners/healthz")],
    )  # fmt: skip
    def test_the_broker_answers_other_methods_and_paths_with_404(
        self, shared: Broker, method: str, path: str
    ) -> None:
        response = requests.request(method, f"{shared.url}{path}", timeout=LIMIT)
        assert response.status_code == 404
        assert response.headers["Content-Type"].startswith("text/html")
        assert f"Cannot {method} /" in response.text
        assert "<b>" not in response.text

    def test_the_broker_limits_log_ins_and_counts_refused_ones(self) -> None:
        with new_broker(auth_limit=5, auth_window=60.0) as broker:
            # A body that cannot be parsed counts: the limit is checked before the body is read.
            assert post_auth(broker, data="{", headers=self.JSON).status_code == 500
            statuses, left = [], []
            for body in ({"token": TOKEN}, {"token": "wrong"}, {}, {"token": ""}, {"token": TOKEN}):
                response = post_auth(broker, json=body)
                statuses.append(response.status_code)
                left.append(response.headers["X-RateLimit-Remaining"])
                assert response.headers["X-RateLimit-Limit"] == "5"
                assert 0 <= int(response.headers["X-RateLimit-Reset"]) - time.time() <= 62
            assert statuses == [200, 403, 400, 400, 429]
            assert left == ["3", "2", "1", "0", "0"]
            assert response.json() == {"message": "Too many requests"}
            assert int(response.headers["Retry-After"]) >= 1

    def test_the_broker_refuses_a_log_in_over_the_rate_limit_before_its_body_has_come(self) -> None:
        with new_broker(auth_limit=1, auth_window=60.0) as broker:
            assert post_auth(broker, json={"token": TOKEN}).status_code == 200
            with socket.create_connection(("127.0.0.1", broker.port), LIMIT) as client:
                client.sendall(
                    b"POST /runners/auth HTTP/1.1\r\nHost: broker\r\nContent-Length: 60000\r\n\r\n"
                )
                assert client.recv(1000).startswith(b"HTTP/1.1 429 ")

    def test_the_broker_refuses_a_long_log_in_without_reading_it(self, shared: Broker) -> None:
        with socket.create_connection(("127.0.0.1", shared.port), LIMIT) as client:
            client.sendall(b"POST /runners/auth HTTP/1.1\r\nHost: broker\r\nContent-Length: 10000000\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 413 ")

    def test_the_broker_answers_health_checks(self, shared: Broker) -> None:
        response = requests.get(f"{shared.url}/healthz", timeout=LIMIT)
        assert (response.status_code, response.json()) == (200, {"status": "ok"})
        assert requests.head(f"{shared.url}/healthz", timeout=LIMIT).status_code == 200


class TestUpgrade:
    def upgrade(self, broker: Broker, path: str | None = None, authorization: str | None = None,
                method: str = "GET", version: str = "13") -> bytes:  # fmt: skip
        lines = [
            f"{method} {'/runners/_ws?id=x' if path is None else path} HTTP/1.1",
            "Host: broker",
            "Connection: Upgrade",
            "Upgrade: websocket",
            f"Sec-WebSocket-Version: {version}",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ]
        if authorization is not None:
            lines.append(f"Authorization: {authorization}")
        return raw_http(broker, "\n".join([*lines, "", ""]))

    @pytest.mark.parametrize(
        ("path", "answer"),
        [
            ("/runners/_ws/?id=x", b"HTTP/1.1 404 Not Found\r\n\r\n"),
            ("/runners?id=x", b"HTTP/1.1 404 Not Found\r\n\r\n"),
            ("/_ws?id=x", b"HTTP/1.1 404 Not Found\r\n\r\n"),
            ("/runners/_ws", b"HTTP/1.1 400 Bad Request\r\n\r\n"),
            ("/runners/_ws?id=", b"HTTP/1.1 400 Bad Request\r\n\r\n"),
            ("/runners/_ws?id=x&id=y", b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        ],
    )
    def test_the_broker_refuses_an_upgrade_with_a_bare_status_line_and_keeps_the_token(
        self, shared: Broker, path: str, answer: bytes
    ) -> None:
        token = grant(shared)
        assert self.upgrade(shared, path, f"Bearer {token}") == answer
        with RawRunner(shared, token=token):
            pass

    @pytest.mark.parametrize("authorization", [None, "", "Basic abc", "Bearer", "Bearer "])
    def test_the_broker_refuses_an_upgrade_without_a_bearer(
        self, shared: Broker, authorization: str | None
    ) -> None:
        assert self.upgrade(shared, authorization=authorization) == b"HTTP/1.1 401 Unauthorized\r\n\r\n"

    def test_the_broker_ignores_a_token_in_the_query(self, shared: Broker) -> None:
        answer = self.upgrade(shared, f"/runners/_ws?id=x&token={grant(shared)}")
        assert answer == b"HTTP/1.1 401 Unauthorized\r\n\r\n"

    def test_the_broker_refuses_an_unknown_token(self, shared: Broker) -> None:
        assert self.upgrade(shared, authorization="Bearer nonsense") == b"HTTP/1.1 403 Forbidden\r\n\r\n"

    def test_the_broker_refuses_a_used_token(self, shared: Broker) -> None:
        token = grant(shared)
        with RawRunner(shared, token=token), pytest.raises(websocket.WebSocketBadStatusException) as caught:
            RawRunner(shared, token=token)
        assert caught.value.status_code == 403

    def test_the_broker_refuses_a_lapsed_token(self) -> None:
        with new_broker(grant_ttl=0.0) as broker:
            answer = self.upgrade(broker, authorization=f"Bearer {grant(broker)}")
            assert answer == b"HTTP/1.1 403 Forbidden\r\n\r\n"

    @pytest.mark.parametrize("defect", [{"version": "12"}, {"method": "POST"}])
    def test_defects_of_the_handshake_use_up_the_token(self, shared: Broker, defect: dict[str, str]) -> None:
        token = grant(shared)
        answer = self.upgrade(shared, authorization=f"Bearer {token}", **defect)
        assert re.match(rb"HTTP/1\.1 4\d\d .*\r\n", answer)
        assert b"Content-Length" in answer
        assert b" 403 " in self.upgrade(shared, authorization=f"Bearer {token}")

    def test_the_scheme_is_case_insensitive_and_the_first_subprotocol_is_echoed(self, shared: Broker) -> None:
        connection = websocket.create_connection(
            f"{shared.url.replace('http', 'ws')}/runners/_ws?id=x%20y",
            header=[f"Authorization: bEaReR {grant(shared)}"],
            subprotocols=["one", "two"],
            timeout=LIMIT,
        )
        assert connection.getsubprotocol() == "one"
        assert json.loads(connection.recv()) == {"type": "broker:inforequest"}
        connection.shutdown()
        assert any(event.runner_id == "x y" for event in shared.events)

    def test_compression_is_never_negotiated(self, shared: Broker) -> None:
        connection = websocket.create_connection(
            f"{shared.url.replace('http', 'ws')}/runners/_ws?id=x",
            header=[
                f"Authorization: Bearer {grant(shared)}",
                "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
            ],
            timeout=LIMIT,
        )
        assert "sec-websocket-extensions" not in connection.getheaders()
        connection.shutdown()

    def test_the_broker_limits_upgrades_over_all_clients(self) -> None:
        with new_broker(upgrade_limit=2, upgrade_window=60.0) as broker:
            # The path is checked before the limit, and the token after it: only the latter counts.
            assert b" 404 " in self.upgrade(broker, "/wrong")
            assert b" 401 " in self.upgrade(broker)
            token = grant(broker)
            with RawRunner(broker):
                answer = self.upgrade(broker, authorization=f"Bearer {token}")
                assert answer == b"HTTP/1.1 429 Too Many Requests\r\n\r\n"

    def test_the_broker_refuses_a_token_from_before_a_restart(self) -> None:
        with new_broker() as broker:
            token = grant(broker)
            broker.stop()
            broker.start()
            assert b" 403 " in self.upgrade(broker, authorization=f"Bearer {token}")


class TestPaths:
    def test_the_broker_serves_another_base_path(self) -> None:
        with new_broker(path="somewhere/else") as broker:
            assert broker.url == f"http://127.0.0.1:{broker.port}/somewhere/else"
            with RawRunner(broker):
                assert (
                    requests.get(f"http://127.0.0.1:{broker.port}/healthz", timeout=LIMIT).status_code == 200
                )
            assert (
                requests.post(f"http://127.0.0.1:{broker.port}/runners/auth", timeout=LIMIT).status_code
                == 404
            )

    @pytest.mark.parametrize("path", ["/foo/", "/", ""])
    def test_the_broker_refuses_a_base_path_with_a_slash_at_its_end(self, path: str) -> None:
        with pytest.raises(ValueError, match="slash"):
            Broker(TOKEN, path=path)

    def test_the_broker_knows_its_url_once_there_is_a_port(self) -> None:
        broker = new_broker()
        with pytest.raises(BrokerNotRunning):
            _ = broker.url
        assert "not running" in repr(broker)
        assert TOKEN not in repr(broker)

    def test_the_broker_listens_on_an_ipv6_address(self) -> None:
        broker = Broker(TOKEN, host="::1")
        try:
            broker.start()
        except OSError:
            pytest.skip("no IPv6 here")
        try:
            assert broker.url == f"http://[::1]:{broker.port}"
            assert requests.get(f"{broker.url}/healthz", timeout=LIMIT).status_code == 200
        finally:
            broker.stop()

    def test_the_error_names_the_address_that_is_in_use(self, shared: Broker) -> None:
        with pytest.raises(OSError, match=rf"127.0.0.1.*{shared.port}"):
            new_broker(port=shared.port).start()

    def test_the_broker_can_start_after_a_failed_start(self, monkeypatch: pytest.MonkeyPatch) -> None:
        broker = new_broker()
        with monkeypatch.context() as patch:
            patch.setattr(run, "Switchboard", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                broker.start()
        assert not broker.is_running
        with broker, RawRunner(broker):
            assert broker.counts.runners == 1

    @pytest.mark.parametrize("wrong", [{"auth_token": ""}, {"auth_token": "x", "profile": "1"}])
    def test_the_broker_refuses_wrong_settings(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"auth_token|profile"):
            Broker(**wrong)


class TestConversation:
    def test_a_task_goes_from_offer_to_result(self, shared: Broker) -> None:
        with RawRunner(shared, ["conversation"]) as runner:
            task = shared.submit("conversation", {"a": [1, None]}, items=[{"json": {"n": 1}}])
            offer_id = runner.offer("conversation")
            accept = runner.expect("broker:taskofferaccept")
            assert accept["offerId"] == offer_id
            assert re.fullmatch(r"[A-Za-z0-9_-]{8}", accept["taskId"])
            assert task.task_id is None
            runner.send("runner:taskaccepted", taskId=accept["taskId"])
            settings = runner.expect("broker:tasksettings")
            assert settings["settings"] == {"a": [1, None], "items": [{"json": {"n": 1}}]}
            assert task.task_id == accept["taskId"]
            assert not task.done()
            runner.done(accept["taskId"], {"x": 1})
            assert task.result(LIMIT) == {"x": 1}
            assert task.done()

    def test_the_broker_ignores_and_counts_malformed_messages(self, shared: Broker) -> None:
        before = shared.counts.malformed
        with RawRunner(shared, ["odd"]) as runner:
            for text in ("{", "7", "[]", '{"type":"runner:taskoffer","offerId":"o"}', '{"type":"what"}', "{}",
                         '{"type":"runner:taskoffer","offerId":"o","taskType":"odd","validFor":1.5}',
                         '{"type":"runner:taskdone","taskId":"none","data":{"result":NaN}}'):  # fmt: skip
                runner.send_text(text)
            runner.socket.send_binary(b"\xff")
            task = shared.submit("odd", {})
            settings = runner.take("odd")
            runner.socket.send_binary(
                json.dumps(
                    {"type": "runner:taskdone", "taskId": settings["taskId"], "data": {"result": 1}}
                ).encode()
            )
            assert task.result(LIMIT) == 1, "JSON in a binary frame is fine"
            assert shared.counts.malformed - before == 7

    def test_the_broker_leaves_a_task_to_its_timeout_if_its_result_is_not_json(self) -> None:
        with new_broker(task_timeout=0.3) as broker, RawRunner(broker) as runner:
            task = broker.submit("t", {})
            task_id = runner.take()["taskId"]
            runner.send_text(f'{{"type":"runner:taskdone","taskId":"{task_id}","data":{{"result":NaN}}}}')
            with pytest.raises(BrokerTaskTimeout):
                task.result(LIMIT)
            assert runner.expect("broker:taskcancel")["reason"] == "Task execution timed out"

    @pytest.mark.parametrize("more", ["", "x" * 100_000])
    def test_the_broker_rounds_large_integers_both_ways(self, shared: Broker, more: str) -> None:
        with RawRunner(shared, ["rounds"]) as runner:
            task = shared.submit("rounds", {"id": 7615917337495251231, "more": more})
            sent = runner.take("rounds")
            assert sent["settings"] == {"id": 7615917337495251000, "more": more}
            result = f'{{"id":7615917337495251231,"more":"{more}"}}'
            runner.send_text(
                f'{{"type":"runner:taskdone","taskId":"{sent["taskId"]}","data":{{"result":{result}}}}}'
            )
            assert task.result(LIMIT) == {"id": 7615917337495251000, "more": more}

    def test_the_broker_answers_a_ping(self, shared: Broker) -> None:
        with RawRunner(shared) as runner:
            runner.socket.ping("payload")
            opcode, frame = runner.socket.recv_data_frame(control_frame=True)
            assert (opcode, frame.data) == (websocket.ABNF.OPCODE_PONG, b"payload")

    def test_the_broker_reads_fragments_with_pings_between_them(self, shared: Broker) -> None:
        with RawRunner(shared, ["fragments"]) as runner:
            task = shared.submit("fragments", {})
            task_id = runner.take("fragments")["taskId"]
            text = json.dumps({"type": "runner:taskdone", "taskId": task_id, "data": {"result": "x" * 1000}})
            pieces = [text[at : at + 100] for at in range(0, len(text), 100)]
            for number, piece in enumerate(pieces):
                opcode = websocket.ABNF.OPCODE_CONT if number else websocket.ABNF.OPCODE_TEXT
                final = int(number == len(pieces) - 1)
                runner.socket.send_frame(websocket.ABNF.create_frame(piece, opcode, final))
                runner.socket.ping("between")
            assert task.result(LIMIT) == "x" * 1000


class TestHeartbeat:
    @pytest.mark.parametrize("profile", ["2.27", "2.40"])
    def test_the_broker_keeps_a_runner_that_answers_pings(self, profile: str) -> None:
        with new_broker(profile, heartbeat_interval=0.3) as broker, RawRunner(broker) as runner:
            for _ in range(3):
                opcode, frame = runner.socket.recv_data_frame(control_frame=True)
                assert (opcode, frame.data) == (websocket.ABNF.OPCODE_PING, b"")
            assert broker.counts.runners == 1

    def test_the_broker_closes_a_runner_that_does_not_answer_pings(self) -> None:
        with new_broker(heartbeat_interval=0.1) as broker, RawRunner(broker) as runner:
            runner.socket.pong = lambda payload="": None
            task = broker.submit("t", {})
            settings = runner.take()
            runner.send("runner:rpc", callId="c", taskId=settings["taskId"], name="logNodeOutput", params=[])
            assert runner.close_code() == 1002
            with pytest.raises(
                BrokerTaskLost, match="Task execution aborted because runner became unresponsive"
            ):
                task.result(LIMIT)

    def test_the_broker_keeps_a_runner_that_sends_unsolicited_pongs(self) -> None:
        with new_broker(heartbeat_interval=1.0) as broker, RawRunner(broker) as runner:
            runner.socket.pong = lambda payload="": None
            runner.socket.settimeout(0.02)
            pings = 0
            while pings < 2:
                runner.socket.send(b"", websocket.ABNF.OPCODE_PONG)
                with contextlib.suppress(websocket.WebSocketTimeoutException):
                    opcode, _ = runner.socket.recv_data_frame(control_frame=True)
                    pings += opcode == websocket.ABNF.OPCODE_PING
            assert broker.counts.heartbeat_missed == 0


class TestSameId:
    def test_n8n_2_40_closes_the_old_connection_and_fails_its_tasks(self) -> None:
        with new_broker("2.40") as broker, RawRunner(broker, runner_id="same") as old:
            task = broker.submit("t", {})
            old.take()
            with RawRunner(broker, runner_id="same") as new:
                assert old.close_code() == 1000
                with pytest.raises(BrokerTaskLost, match=r"^Node execution failed$"):
                    task.result(LIMIT)
                broker.wait_for(lambda counts: counts.disconnected == 1)
                again = broker.submit("t", 7)
                assert new.take()["settings"] == 7
                assert not again.done()

    def test_the_broker_cuts_off_a_runner_that_does_not_read(self) -> None:
        with new_broker(close_timeout=0.2) as broker, RawRunner(broker, runner_id="same") as old:
            task = broker.submit("t", {"much": "x" * 20_000_000})
            old.offer()
            old.send("runner:taskaccepted", taskId=old.expect("broker:taskofferaccept")["taskId"])
            # It reads no more: most of its settings, and the close frame, stay in the broker's buffer.
            broker.wait_for(lambda counts: counts.started == 1)
            with RawRunner(broker, runner_id="same"):
                with pytest.raises(BrokerTaskLost):
                    task.result(LIMIT)
                broker.wait_for(lambda counts: counts.disconnected == 1)

    def test_the_broker_reads_on_after_its_close_frame(self) -> None:
        with new_broker() as broker, RawRunner(broker, runner_id="same") as old:
            with RawRunner(broker, runner_id="same"):
                close = old.socket.recv_frame()  # without an answer to it
                assert (close.opcode, close.data) == (websocket.ABNF.OPCODE_CLOSE, b"\x03\xe8")
                for _ in range(100):
                    old.offer("x" * 10_000)
                assert broker.counts.connections == 1
                old.socket.send_close(1000)
                old.socket.sock.settimeout(LIMIT)
                assert old.socket.sock.recv(1) == b"", "the end of the stream, no reset"
                broker.wait_for(lambda counts: counts.disconnected == 1)
            assert broker.counts.offered == 0

    def test_n8n_2_27_closes_both_connections(self) -> None:
        with new_broker("2.27") as broker, RawRunner(broker, runner_id="same") as old:
            with RawRunner(broker, runner_id="same") as new:
                assert broker.counts.runners == 1
                # The end of the old connection closes the new one, and the id is free.
                assert old.close_code() == 1000
                assert new.close_code() == 1000
                broker.wait_for(lambda counts: counts.disconnected == 2)
            with RawRunner(broker, runner_id="same"):
                assert broker.counts.runners == 1


class TestSizes:
    @pytest.mark.parametrize("over", [0, 1])
    def test_the_broker_closes_with_1009_one_byte_above_the_limit(self, over: int) -> None:
        with new_broker(max_payload=100_000) as broker, RawRunner(broker) as runner:
            task = broker.submit("t", {})
            task_id = runner.take()["taskId"]
            empty = json.dumps({"type": "runner:taskdone", "taskId": task_id, "data": {"result": ""}})
            length = 100_000 - len(empty) + over
            runner.done(task_id, "x" * length)
            if over:
                assert runner.close_code() == 1009
                with pytest.raises(BrokerTaskLost):
                    task.result(LIMIT)
            else:
                assert len(task.result(LIMIT)) == length

    def test_the_broker_sends_1009_although_the_rest_of_the_message_still_comes(self) -> None:
        with new_broker(max_payload=1000) as broker, RawRunner(broker) as runner:
            runner.done("none", "x" * 30_000_000)
            assert runner.close_code() == 1009
            broker.wait_for(lambda counts: counts.disconnected == 1)

    def test_the_broker_closes_with_1007_at_invalid_utf8(self, shared: Broker) -> None:
        with RawRunner(shared) as runner:
            frame = websocket.ABNF.create_frame(b"\xff\xfe", websocket.ABNF.OPCODE_TEXT)
            runner.socket.sock.sendall(frame.format())
            assert runner.close_code() == 1007

    def test_the_broker_passes_on_large_settings_and_results(self, shared: Broker) -> None:
        items = [{"json": {"n": n, "text": "ä" * 20}} for n in range(40_000)]
        with RawRunner(shared, ["large"]) as runner:
            task = shared.submit("large", {}, items=items)
            settings = runner.take("large")
            assert settings["settings"]["items"] == items
            runner.done(settings["taskId"], items)
            assert task.result(LIMIT) == items

    @pytest.fixture
    def may_decode(self, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
        """Return an event for which the decoding of large messages waits."""
        may_decode = threading.Event()
        real = decoding.decode

        def decode(connection: int, text: str) -> Any:
            assert len(text) < 100_000 or may_decode.wait(LIMIT)
            return real(connection, text)

        monkeypatch.setattr(decoding, "decode", decode)
        return may_decode

    def test_other_messages_of_a_runner_overtake_a_large_one_but_not_of_its_task(
        self, shared: Broker, may_decode: threading.Event
    ) -> None:
        with RawRunner(shared, ["order"]) as runner:
            first = shared.submit("order", 1)
            one = runner.take("order")["taskId"]
            second = shared.submit("order", 2)
            two = runner.take("order")["taskId"]
            runner.send("runner:rpc", callId="c", taskId=one, name="logNodeOutput", params=["x" * 5_000_000])
            runner.send("runner:rpc", callId="c", taskId=one, name="logNodeOutput", params=["last"])
            runner.done(one, 1)
            runner.done(two, 2)
            assert second.result(LIMIT) == 2
            assert not first.done()
            may_decode.set()
            assert first.result(LIMIT) == 1
            assert [len(line) for line in first.logs] == [5_000_000, 4]

    def test_the_broker_keeps_a_large_result_of_a_runner_that_leaves_at_once(self, shared: Broker) -> None:
        with RawRunner(shared, ["leaves"]) as runner:
            task = shared.submit("leaves", 1)
            runner.done(runner.take("leaves")["taskId"], ["x" * 100] * 100_000)
            runner.socket.close(timeout=0)
        assert len(task.result(LIMIT)) == 100_000

    def test_the_broker_keeps_the_result_of_a_runner_that_leaves_before_its_large_calls_are_decoded(
        self, shared: Broker, may_decode: threading.Event
    ) -> None:
        with RawRunner(shared, ["leaves early"]) as runner:
            task = shared.submit("leaves early", 1)
            task_id = runner.take("leaves early")["taskId"]
            for _ in range(2):
                line = ["x" * 1_000_000]
                runner.send("runner:rpc", callId="c", taskId=task_id, name="logNodeOutput", params=line)
            runner.done(task_id, 2)
            runner.socket.sock.shutdown(socket.SHUT_WR)
            runner.close_code()
            may_decode.set()
            assert task.result(LIMIT) == 2


class TestOutcomes:
    def test_the_broker_expires_a_request_without_a_runner(self) -> None:
        with new_broker("2.27", request_timeout=0.1) as broker:
            task = broker.submit("t", {})
            with pytest.raises(BrokerTaskExpired, match=r"^Task request timed out after 0\.1 seconds$"):
                task.result(LIMIT)

    def test_the_broker_gives_a_missed_acceptance_to_the_next_runner(self) -> None:
        with (
            new_broker(acceptance_timeout=0.5) as broker,
            RawRunner(broker) as slow,
            RawRunner(broker) as quick,
        ):
            task = broker.submit("t", {})
            slow.offer()
            lost = slow.expect("broker:taskofferaccept")["taskId"]
            quick.offer()
            cancel = slow.expect("broker:taskcancel")
            assert (cancel["taskId"], cancel["reason"]) == (lost, "Acknowledgement window elapsed")
            quick.done(quick.accept()["taskId"], "quick")
            assert task.result(LIMIT) == "quick"
            assert broker.counts.missed == 1

    def test_the_broker_counts_an_answer_that_it_could_not_read_in_time(self) -> None:
        with new_broker(acceptance_timeout=1.0) as broker, RawRunner(broker) as runner:
            is_held, go_on = threading.Event(), threading.Event()

            def hold(_: BrokerTask) -> None:  # on the broker's thread
                is_held.set()
                go_on.wait(LIMIT)

            holding = broker.submit("other", None)
            holding.add_done_callback(hold)
            task = broker.submit("t", 1)
            runner.offer()
            task_id = runner.expect("broker:taskofferaccept")["taskId"]
            holding.cancel()
            assert is_held.wait(LIMIT)
            runner.send("runner:taskaccepted", taskId=task_id)
            threading.Event().wait(1.1)  # until the acceptance is late
            go_on.set()
            runner.done(runner.expect("broker:tasksettings")["taskId"], 2)
            assert task.result(LIMIT) == 2
            assert broker.counts.missed == 0

    def test_the_broker_closes_an_unresponsive_runner(self) -> None:
        with new_broker(acceptance_timeout=0.05) as broker, RawRunner(broker) as runner:
            broker.submit("t", {})
            for _ in range(3):
                runner.offer()
                runner.expect("broker:taskofferaccept")
                runner.expect("broker:taskcancel")
            assert runner.close_code() == 1002

    def test_the_broker_fails_the_tasks_of_a_lost_connection(self, shared: Broker) -> None:
        with RawRunner(shared, ["loses"]) as runner:
            task = shared.submit("loses", {})
            runner.take("loses")
        with pytest.raises(BrokerTaskLost, match=r"^Node execution failed$"):
            task.result(LIMIT)


class TestStop:
    def test_the_broker_drains_as_n8n_does(self) -> None:
        broker = new_broker()
        with broker, RawRunner(broker) as runner, concurrent.futures.ThreadPoolExecutor(2) as pool:
            task, queued = broker.submit("t", 1), None
            task_id = runner.take()["taskId"]
            queued = broker.submit("t", 2)
            broker.wait_for(lambda counts: counts.requests == 1)
            stopping = pool.submit(broker.stop)
            runner.expect("broker:drain")
            with pytest.raises(requests.ConnectionError):
                requests.get(f"{broker.url}/healthz", timeout=LIMIT)
            with pytest.raises(BrokerTaskExpired) as caught:
                broker.submit("t", 3).result(LIMIT)
            assert "shutting down" in str(caught.value.description)
            # Connections stay open: a queued request is matched with the next offer.
            second = runner.take()
            assert second["settings"] == 2
            runner.done(task_id, "first")
            assert task.result(LIMIT) == "first"
            assert not stopping.done()
            runner.done(second["taskId"], "second")
            assert queued.result(LIMIT) == "second"
            assert runner.close_code() == 1001
            stopping.result(LIMIT)
        assert not broker.is_running

    @pytest.mark.parametrize(
        ("profile", "message"),
        [
            ("1.123", "Node execution failed"),
            ("2.27", "Node execution failed"),
            ("2.40", "Task aborted because the n8n instance was shutting down"),
        ],
    )
    def test_the_broker_fails_leftover_tasks(self, profile: str, message: str) -> None:
        with new_broker(profile, drain_timeout=0.1) as broker, RawRunner(broker) as runner:
            task = broker.submit("t", 1)
            runner.take()
            broker.stop()
            with pytest.raises(BrokerTaskLost, match=f"^{message}$"):
                task.result(LIMIT)
            assert runner.close_code() == 1001

    def test_the_broker_stops_within_a_given_time(self) -> None:
        with new_broker() as broker, RawRunner(broker) as runner:
            task, waiting = broker.submit("t", 1), broker.submit("other", 1)
            runner.take()
            broker.stop(timeout=0)
            assert isinstance(task.error(0), BrokerTaskLost)
            assert isinstance(waiting.error(0), BrokerTaskExpired)

    def test_the_broker_does_not_wait_for_tasks_after_an_exception_in_the_with_block(self) -> None:
        def fail() -> None:
            with new_broker() as broker, RawRunner(broker) as runner:
                broker.submit("t", 1)
                runner.take()
                raise ZeroDivisionError

        with promptly(), pytest.raises(ZeroDivisionError):
            fail()

    def test_the_broker_does_not_wait_for_a_peer_that_does_not_close(self) -> None:
        with new_broker() as broker, RawRunner(broker), promptly():
            broker.stop()

    def test_the_broker_ends_a_drain_at_a_kill(self) -> None:
        broker = new_broker()
        broker.start()
        with RawRunner(broker) as runner, concurrent.futures.ThreadPoolExecutor(2) as pool:
            task = broker.submit("t", 1)
            runner.take()
            stops = [pool.submit(broker.stop) for _ in range(2)]
            runner.expect("broker:drain")
            broker.kill()
            for stop in stops:
                stop.result(LIMIT)
            assert isinstance(task.error(0), BrokerTaskLost)
        broker.stop()
        broker.kill()

    def test_the_broker_leaves_no_thread_and_no_descriptor(self) -> None:
        def descriptors() -> int:
            return len(os.listdir("/proc/self/fd"))

        if sys.platform != "linux":
            pytest.skip("counts descriptors as Linux shows them")
        with new_broker():
            pass
        threads, files = set(threading.enumerate()), descriptors()
        for end in ("stop", "kill"):
            broker = new_broker()
            broker.start()
            with RawRunner(broker) as runner:
                task = broker.submit("t", 1, rpc={"f": lambda: 1})
                task_id = runner.take()["taskId"]
                runner.send("runner:rpc", callId="c", taskId=task_id, name="f", params=[])
                runner.expect("broker:rpcresponse")
                runner.done(task_id, ["x"] * 100_000)
                task.result(LIMIT)
                getattr(broker, end)()
        assert set(threading.enumerate()) == threads
        assert descriptors() == files

    def test_the_broker_runs_until_a_stop_in_a_callback_has_ended_it(self) -> None:
        running: list[bool] = []

        def stop(_: BrokerTask) -> None:  # on the broker's thread
            broker.stop()
            running.append(broker.is_running)

        with new_broker() as broker:
            task = broker.submit("t", 1)
            task.add_done_callback(stop)
            task.cancel()
            broker.wait_for(lambda counts: counts.withdrawn == 1)
            broker.stop()
            assert running == [True]
            broker.start()

    def test_the_broker_raises_when_it_is_not_running(self) -> None:
        broker = new_broker()
        with pytest.raises(BrokerNotRunning, match="start"):
            broker.submit("t", 1)
        broker.stop()
        broker.kill()
        with broker:
            with pytest.raises(RuntimeError, match="running already"):
                broker.start()
            task = broker.submit("t", 1)
        with pytest.raises(BrokerNotRunning):
            broker.submit("t", 1)
        assert task.done()
        task.cancel()


class TestKillAndRestart:
    def test_the_broker_fails_tasks_in_flight_when_killed(self) -> None:
        broker = new_broker()
        broker.start()
        with RawRunner(broker) as runner:
            running, waiting = broker.submit("t", 1), broker.submit("t", 2)
            runner.take()
            broker.kill()
            with pytest.raises((ConnectionError, websocket.WebSocketConnectionClosedException)):
                runner.receive()
        assert isinstance(running.error(0), BrokerTaskLost)
        assert isinstance(waiting.error(0), BrokerTaskExpired)
        with pytest.raises(requests.ConnectionError):
            requests.get(f"{broker.url}/healthz", timeout=LIMIT)

    def test_the_broker_ends_connections_without_a_close_frame_when_killed(self) -> None:
        broker = new_broker()
        broker.start()
        with RawRunner(broker) as runner:
            broker.kill()
            assert runner.close_code() is None

    @pytest.mark.parametrize("end", ["stop", "kill"])
    def test_the_broker_starts_again_on_the_same_port(self, end: str) -> None:
        broker = new_broker()
        broker.start()
        try:
            url = broker.url
            for number in range(3):
                with RawRunner(broker, runner_id="same") as runner:
                    task = broker.submit("t", number)
                    settings = runner.take()
                    assert settings["settings"] == number
                    runner.done(settings["taskId"], number)
                    assert task.result(LIMIT) == number
                    getattr(broker, end)()
                    assert broker.counts.connections == 0
                broker.start()
                assert broker.url == url
            assert broker.counts.done == 3, "a restart keeps the totals"
        finally:
            broker.stop()

    def test_the_broker_refuses_connections_after_a_kill(self) -> None:
        broker = new_broker()
        broker.start()
        port = broker.port
        broker.kill()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=LIMIT)


class TestCounts:
    def test_the_broker_waits_for_counts(self) -> None:
        with new_broker() as broker, concurrent.futures.ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(broker.wait_for, lambda counts: counts.runners == 2, LIMIT)
            with RawRunner(broker), RawRunner(broker):
                assert waiting.result(LIMIT).registered == 2
            broker.wait_for(lambda counts: counts.runners == 0)
            with pytest.raises(TimeoutError, match="runners=0"):
                broker.wait_for(lambda counts: counts.runners == 1, timeout=0.01)

    def test_the_broker_records_events_in_order(self) -> None:
        with new_broker() as broker, RawRunner(broker, runner_id="me") as runner:
            task = broker.submit("t", {})
            runner.done(runner.take()["taskId"], 1)
            task.result(LIMIT)
            kinds = [event.kind for event in broker.events]
            assert kinds == ["connected", "registered", "requested", "offered", "acceptances", "accepted",
                             "started", "done"]  # fmt: skip
            done = broker.events[-1]
            assert (done.runner_id, done.task_id, done.request_id) == ("me", task.task_id, task.request_id)

    def test_the_broker_logs_without_a_lock(self) -> None:
        # While a line is logged, another thread can call the broker.
        blocked: list[bool] = []

        class Asking(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                thread = threading.Thread(target=lambda: broker.counts, daemon=True)
                thread.start()
                thread.join(0.2 if any(blocked) else LIMIT)
                blocked.append(thread.is_alive())

        broker = new_broker()
        handler = Asking(logging.INFO)
        logger = logging.getLogger("n8nrunner.broker")
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        try:
            with broker, RawRunner(broker) as runner:
                runner.send_text("nonsense")
                broker.wait_for(lambda counts: counts.malformed == 1)
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
        assert blocked
        assert not any(blocked)

    def test_the_broker_logs_events_without_secrets(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG, "n8nrunner.broker")
        with new_broker() as broker:
            token = grant(broker)
            with RawRunner(broker, runner_id="me", token=token) as runner:
                task = broker.submit("t", {"password": "hunter2"})
                runner.done(runner.take()["taskId"], "their answer")
                task.result(LIMIT)
                runner.send_text("their nonsense")
                broker.wait_for(lambda counts: counts.malformed == 1)
        told = [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]
        assert "registered me t" in told
        assert any(line.startswith("malformed me a message of 14 characters") for line in told)
        assert f"started me {task.task_id}" not in told
        assert f"started me {task.task_id}" in caplog.text
        for secret in (TOKEN, token, "hunter2", "their answer", "their nonsense"):
            assert secret not in caplog.text

    def test_the_broker_serves_many_tasks_of_many_threads(self) -> None:
        with new_broker() as broker, RawRunner(broker) as runner:
            for _ in range(20):
                runner.offer()

            def serve() -> None:
                for _ in range(2 * 400):
                    message = runner.receive()
                    if message["type"] == "broker:taskofferaccept":
                        runner.send("runner:taskaccepted", taskId=message["taskId"])
                    else:
                        runner.done(message["taskId"], message["settings"])
                        runner.offer()

            with concurrent.futures.ThreadPoolExecutor(5) as pool:
                serving = pool.submit(serve)
                results = list(pool.map(lambda n: broker.run_task("t", n), range(400)))
                serving.result(LIMIT)
            assert results == list(range(400))
            assert broker.counts.done == 400


def test_the_error_without_aiohttp_names_the_extra() -> None:
    code = "import sys; sys.modules['aiohttp'] = None; import n8nrunner.broker"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    assert 'pip install "n8nrunner[broker]"' in ended.stderr.splitlines()[-1]
    assert "ImportError" in ended.stderr.splitlines()[-1]


def test_the_broker_does_not_keep_a_script_alive() -> None:
    code = "from n8nrunner.broker import Broker; b = Broker('x'); b.start(); print(b.port > 0)"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "True\n", "")


def test_base_of_is_what_runners_use(shared: Broker) -> None:
    assert base_of(shared) == f"http://127.0.0.1:{shared.port}/runners"
