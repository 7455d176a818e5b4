"""The requester's side: answers to runners, results for callers, and ``POST /tasks``."""

from __future__ import annotations

import base64
import concurrent.futures
import json
import pickle
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from n8nrunner.broker import (
    Broker,
    BrokerTask,
    BrokerTaskCancelled,
    BrokerTaskError,
    BrokerTaskTimeout,
    SavedFile,
)
from n8nrunner.broker.helpers import readable_size
from tests.broker.raw_runner import LIMIT, TOKEN, RawRunner, new_broker

BUFFER = {"type": "Buffer", "data": [0, 255, 10]}
CONTENT = b"\x00\xff\n"


@pytest.fixture
def broker() -> Iterator[Broker]:
    with new_broker() as running:
        yield running
        running.kill()


@pytest.fixture
def runner(broker: Broker) -> Iterator[RawRunner]:
    with RawRunner(broker) as connected:
        yield connected


def ask(runner: RawRunner, task_id: str, name: str, *params: Any) -> tuple[str, Any]:
    """Call a helper, and return the status and the data of the answer."""
    runner.send("runner:rpc", callId="call", taskId=task_id, name=name, params=list(params))
    answer = runner.expect("broker:rpcresponse")
    assert (answer["callId"], answer["taskId"]) == ("call", task_id)
    return answer["status"], answer["data"]


def given(broker: Broker, runner: RawRunner, **options: Any) -> tuple[BrokerTask, str]:
    task = broker.submit("t", {}, **options)
    return task, runner.take()["taskId"]


class TestResults:
    def test_returns_the_result_of_run_task(self, broker: Broker, runner: RawRunner) -> None:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            result = pool.submit(broker.run_task, "t", {"a": 1}, timeout=LIMIT)
            settings = runner.take()
            assert settings["settings"] == {"a": 1}
            runner.done(settings["taskId"], [None])
            assert result.result(LIMIT) == [None]

    def test_raises_the_runners_error(self, broker: Broker, runner: RawRunner) -> None:
        task, task_id = given(broker, runner)
        error = {"message": "no", "description": "not at all", "stack": "line 1", "lineNumber": 3}
        runner.send("runner:taskerror", taskId=task_id, error=error)
        with pytest.raises(BrokerTaskError, match=r"^no$") as caught:
            task.result(LIMIT)
        assert type(caught.value) is BrokerTaskError
        assert (caught.value.description, caught.value.stack) == ("not at all", "line 1")
        assert caught.value.error == error
        again = pickle.loads(pickle.dumps(caught.value))
        assert (type(again), again.error, str(again)) == (BrokerTaskError, error, "no")
        assert task.error() is caught.value

    @pytest.mark.parametrize(("error", "message"), [({}, "Unknown error"), ([1], "Unknown error: [1]")])
    def test_completes_an_error_without_message(
        self, broker: Broker, runner: RawRunner, error: Any, message: str
    ) -> None:
        task, task_id = given(broker, runner)
        runner.send("runner:taskerror", taskId=task_id, error=error)
        assert str(task.error(LIMIT)) == message

    def test_fails_a_result_without_data(self, broker: Broker, runner: RawRunner) -> None:
        task, task_id = given(broker, runner)
        runner.send("runner:taskdone", taskId=task_id)
        with pytest.raises(BrokerTaskError, match="without a data object"):
            task.result(LIMIT)

    def test_returns_none_for_data_without_a_result(self, broker: Broker, runner: RawRunner) -> None:
        task, task_id = given(broker, runner)
        runner.send("runner:taskdone", taskId=task_id, data={})
        assert task.result(LIMIT) is None

    def test_raises_at_the_task_timeout(self) -> None:
        with new_broker(task_timeout=0.1) as broker, RawRunner(broker) as runner:
            task, task_id = given(broker, runner)
            cancel = runner.expect("broker:taskcancel")
            assert (cancel["taskId"], cancel["reason"]) == (task_id, "Task execution timed out")
            with pytest.raises(BrokerTaskTimeout, match=r"^Task execution timed out after 0\.1 seconds$"):
                task.result(LIMIT)

    def test_raises_at_the_timeout_of_a_task(self, broker: Broker, runner: RawRunner) -> None:
        task = broker.submit("t", {}, timeout=1.0)
        runner.take()
        with pytest.raises(BrokerTaskTimeout, match=r"^Task execution timed out after 1 second$"):
            task.result(LIMIT)

    def test_does_not_end_a_task_when_a_wait_times_out(self, broker: Broker, runner: RawRunner) -> None:
        task, task_id = given(broker, runner)
        with pytest.raises(TimeoutError, match=task_id):
            task.result(timeout=0.01)
        runner.done(task_id, 1)
        assert task.result(LIMIT) == 1

    def test_calls_back_at_the_end_and_at_once_after_it(self, broker: Broker, runner: RawRunner) -> None:
        called: list[BrokerTask] = []
        task, task_id = given(broker, runner)
        task.add_done_callback(called.append)
        runner.done(task_id, 1)
        task.result(LIMIT)
        task.add_done_callback(called.append)
        assert called == [task, task]

    def test_lets_a_callback_submit(self, broker: Broker, runner: RawRunner) -> None:
        second: concurrent.futures.Future[BrokerTask] = concurrent.futures.Future()
        task, task_id = given(broker, runner)
        task.add_done_callback(lambda _: second.set_result(broker.submit("t", 2)))
        runner.done(task_id, 1)
        settings = runner.take()
        runner.done(settings["taskId"], settings["settings"])
        assert second.result(LIMIT).result(LIMIT) == 2

    def test_shows_the_state_of_a_task_in_its_repr(self, broker: Broker, runner: RawRunner) -> None:
        task = broker.submit("t", {"password": "p"})
        assert "waiting for a runner" in repr(task)
        runner.take()
        assert "with a runner" in repr(task)
        assert "password" not in repr(task)


class TestSettings:
    @pytest.mark.parametrize(
        ("settings", "items", "sent"),
        [
            ({}, [], {}),
            ({"a": 1}, [{"json": {}}], {"a": 1, "items": [{"json": {}}]}),
            ({"items": 7}, [{"json": {}}], {"items": 7}),
            ([1], [{"json": {}}], [1]),
            (None, [], None),
            ("half a character: \ud83d", [], "half a character: \ud83d"),
        ],
    )
    def test_puts_items_into_an_object_without_items(
        self, broker: Broker, runner: RawRunner, settings: Any, items: Any, sent: Any
    ) -> None:
        broker.submit("t", settings, items=items)
        assert runner.take()["settings"] == sent

    def test_does_not_change_the_callers_settings(self, broker: Broker) -> None:
        settings: dict[str, Any] = {}
        broker.submit("t", settings, items=[{"json": {}}])
        assert settings == {}

    def test_takes_settings_as_they_are_when_submitted(self, broker: Broker, runner: RawRunner) -> None:
        settings = {"a": 1}
        broker.submit("t", settings)
        settings["a"] = 2
        assert runner.take()["settings"] == {"a": 1}

    @pytest.mark.parametrize(
        ("settings", "error"), [({"a": float("nan")}, ValueError), ({"a": {1}}, TypeError)]
    )
    def test_rejects_settings_that_are_not_json(self, broker: Broker, settings: Any, error: Any) -> None:
        with pytest.raises(error, match="JSON"):
            broker.submit("t", settings)
        assert broker.counts.requested == 0

    def test_rejects_an_impossible_timeout(self, broker: Broker) -> None:
        with pytest.raises(ValueError, match="timeout"):
            broker.submit("t", {}, timeout=0)


class TestCancel:
    def test_cancels_a_task_that_waits_for_a_runner(self, broker: Broker, runner: RawRunner) -> None:
        task = broker.submit("t", 1)
        task.cancel()
        with pytest.raises(BrokerTaskCancelled, match=r"^Task cancelled: Task cancelled by user$"):
            task.result(LIMIT)
        broker.submit("t", 2)
        assert runner.take()["settings"] == 2, "its code does not run"

    def test_cancels_a_task_while_a_runner_is_asked(self, broker: Broker, runner: RawRunner) -> None:
        task = broker.submit("t", 1)
        runner.offer()
        task_id = runner.expect("broker:taskofferaccept")["taskId"]
        task.cancel("not any more")
        cancel = runner.expect("broker:taskcancel")
        assert (cancel["taskId"], cancel["reason"]) == (task_id, "not any more")
        runner.send("runner:taskaccepted", taskId=task_id)
        broker.wait_for(lambda counts: counts.late == 1)
        assert broker.counts.tasks == 0

    def test_cancels_a_running_task(self, broker: Broker, runner: RawRunner) -> None:
        task, task_id = given(broker, runner)
        task.cancel("not any more")
        assert runner.expect("broker:taskcancel")["reason"] == "not any more"
        runner.done(task_id, 1)
        with pytest.raises(BrokerTaskCancelled, match="not any more"):
            task.result(LIMIT)

    def test_ignores_a_cancel_after_the_end(self, broker: Broker, runner: RawRunner) -> None:
        task, task_id = given(broker, runner)
        runner.done(task_id, 1)
        assert task.result(LIMIT) == 1
        task.cancel()
        assert task.result(LIMIT) == 1


class TestCalls:
    def test_collects_log_lines(self, broker: Broker, runner: RawRunner) -> None:
        task, task_id = given(broker, runner)
        assert ask(runner, task_id, "logNodeOutput", "'a'", "{}") == ("success", None)
        runner.send("runner:rpc", callId="c", taskId=task_id, name="logNodeOutput", params=["last", 7])
        runner.done(task_id, 1)
        task.result(LIMIT)
        assert task.logs == ["'a' {}", "last 7"], "complete when the task ends"

    @pytest.mark.parametrize(
        ("name", "answer"),
        [
            ("os.system", "Method not allowed"),
            ("", "Method not allowed"),
            ("helpers.request", "Could not find method"),
        ],
    )
    def test_answers_calls_of_unknown_names_with_an_error(
        self, broker: Broker, runner: RawRunner, name: str, answer: str
    ) -> None:
        _, task_id = given(broker, runner)
        assert ask(runner, task_id, name) == ("error", answer)

    def test_calls_the_callers_functions(self, broker: Broker, runner: RawRunner) -> None:
        called: list[Any] = []

        def function(*params: Any) -> Any:
            called.append((params, threading.current_thread().name))
            return {"inner": b"\x01", "n": 1}

        def failing() -> None:
            raise KeyError("nothing there")

        rpc = {"own": function, "failing": failing, "logNodeOutput": lambda *_: 5, "odd": lambda: {1}}
        task, task_id = given(broker, runner, rpc=rpc)
        data = {"inner": {"type": "Buffer", "data": [1]}, "n": 1}
        assert ask(runner, task_id, "own", 1, BUFFER, None) == ("success", data)
        ((params, thread),) = called
        assert params == (1, CONTENT, None)
        assert thread.startswith("n8nrunner-broker-rpc")
        assert ask(runner, task_id, "failing") == (
            "error",
            {"message": "'nothing there'", "name": "KeyError"},
        )
        assert ask(runner, task_id, "logNodeOutput", "x") == ("success", 5)
        assert task.logs == []
        status, error = ask(runner, task_id, "odd")
        assert (status, error["name"]) == ("error", "TypeError")

    def test_answers_a_call_without_parameters_with_an_error(self, broker: Broker, runner: RawRunner) -> None:
        _, task_id = given(broker, runner)
        for name in ("logNodeOutput", "helpers.getBinaryDataBuffer"):
            runner.send("runner:rpc", callId="c", taskId=task_id, name=name)
        statuses = sorted(runner.expect("broker:rpcresponse")["status"] for _ in range(2))
        assert statuses == ["error", "success"]

    def test_serves_other_calls_while_a_function_is_slow(self, broker: Broker, runner: RawRunner) -> None:
        go_on = threading.Event()
        _, slow = given(broker, runner, rpc={"slow": lambda: go_on.wait(LIMIT)})
        runner.send("runner:rpc", callId="c", taskId=slow, name="slow", params=[])
        task, quick = given(broker, runner)
        assert ask(runner, quick, "logNodeOutput", "x") == ("success", None)
        runner.done(quick, 1)
        assert task.result(LIMIT) == 1
        go_on.set()
        assert runner.expect("broker:rpcresponse")["data"] is True

    def test_does_not_answer_for_an_unknown_task(self, broker: Broker, runner: RawRunner) -> None:
        _, task_id = given(broker, runner)
        runner.send("runner:rpc", callId="c", taskId="unknown", name="logNodeOutput", params=[])
        assert ask(runner, task_id, "logNodeOutput", "x") == ("success", None)

    def test_does_not_answer_after_the_end_of_a_task(self, broker: Broker, runner: RawRunner) -> None:
        started, go_on = threading.Event(), threading.Event()

        def slow() -> None:
            started.set()
            go_on.wait(LIMIT)

        task, task_id = given(broker, runner, rpc={"slow": slow})
        runner.send("runner:rpc", callId="c", taskId=task_id, name="slow", params=[])
        assert started.wait(LIMIT)
        task.cancel()
        runner.expect("broker:taskcancel")
        go_on.set()
        _, other = given(broker, runner)
        assert ask(runner, other, "logNodeOutput", "x") == ("success", None)

    def test_stops_without_waiting_for_a_function_that_hangs(self) -> None:
        go_on = threading.Event()
        try:
            with new_broker() as broker, RawRunner(broker) as runner:
                task, task_id = given(broker, runner, rpc={"hangs": lambda: go_on.wait(30.0)})
                runner.send("runner:rpc", callId="c", taskId=task_id, name="hangs", params=[])
                broker.wait_for(lambda counts: counts.relayed == 1)
                broker.kill()
                assert task.done()
                assert not go_on.is_set()
        finally:
            go_on.set()


class TestFiles:
    def test_reads_files_of_the_caller_and_of_items(self, broker: Broker, runner: RawRunner) -> None:
        stored = {"mimeType": "text/plain", "data": base64.b64encode(b"stored").decode()}
        items = [{"json": {}}, {"json": {}, "binary": {"in item": stored}}]
        _, task_id = given(broker, runner, items=items, files={(0, "data"): CONTENT})
        read = "helpers.getBinaryDataBuffer"
        assert ask(runner, task_id, read, 0, "data") == ("success", BUFFER)
        text = {"type": "Buffer", "data": list(b"stored")}
        assert ask(runner, task_id, read, 1, "in item") == ("success", text)
        assert ask(runner, task_id, read, 0, stored) == ("success", text)
        for wrong in ((0, "other"), (1, "data"), (7, "data"), ("0", "data"), (None, None)):
            status, error = ask(runner, task_id, read, *wrong)
            assert status == "error"
            assert repr(wrong[1]) in error["message"]

    def test_describes_a_file(self, broker: Broker, runner: RawRunner) -> None:
        stored = {"mimeType": "text/plain", "data": ""}
        items = [{"json": {}, "binary": {"in item": stored}}]
        _, task_id = given(broker, runner, items=items, files={(0, "data"): CONTENT})
        status, described = ask(runner, task_id, "helpers.assertBinaryData", 0, "data")
        assert (status, base64.b64decode(described["data"])) == ("success", CONTENT)
        assert ask(runner, task_id, "helpers.assertBinaryData", 0, "in item") == ("success", stored)
        assert ask(runner, task_id, "helpers.assertBinaryData", 0, "other")[0] == "error"

    def test_saves_files(self, broker: Broker, runner: RawRunner) -> None:
        task, task_id = given(broker, runner)
        save = "helpers.prepareBinaryData"
        status, described = ask(runner, task_id, save, BUFFER, "photo.png", "image/png")
        assert status == "success"
        assert described == {
            "mimeType": "image/png",
            "fileType": "image",
            "fileName": "photo.png",
            "fileExtension": "png",
            "fileSize": "3 B",
            "data": base64.b64encode(CONTENT).decode(),
        }
        assert ask(runner, task_id, save, BUFFER, "a.json")[1]["mimeType"] == "application/json"
        assert ask(runner, task_id, save, "text")[1]["mimeType"] == "text/plain"
        assert ask(runner, task_id, save, 7)[0] == "error"
        assert task.saved_files[0] == SavedFile(CONTENT, "photo.png", "image/png", described)
        assert [file.data for file in task.saved_files] == [CONTENT, CONTENT, b"text"]

    def test_replaces_the_content_of_a_file(self, broker: Broker, runner: RawRunner) -> None:
        task, task_id = given(broker, runner)
        described = {"mimeType": "text/csv", "fileName": "a.csv", "data": "", "directory": "/x"}
        status, changed = ask(runner, task_id, "helpers.setBinaryDataBuffer", described, BUFFER)
        assert status == "success"
        assert base64.b64decode(changed["data"]) == CONTENT
        assert (changed["fileName"], changed["mimeType"], changed["directory"]) == ("a.csv", "text/csv", "/x")
        assert task.saved_files == [SavedFile(CONTENT, "a.csv", "text/csv", changed)]

    def test_returns_a_file_as_a_string(self, broker: Broker, runner: RawRunner) -> None:
        _, task_id = given(broker, runner)
        text = {"type": "Buffer", "data": list("ä".encode("latin-1"))}
        assert ask(runner, task_id, "helpers.binaryToString", text, "latin1") == ("success", "ä")

    def test_passes_on_large_files(self, broker: Broker, runner: RawRunner) -> None:
        content = bytes(range(256)) * 1000
        task, task_id = given(broker, runner, files={(0, "data"): content})
        status, data = ask(runner, task_id, "helpers.getBinaryDataBuffer", 0, "data")
        assert (status, bytes(data["data"])) == ("success", content)
        status, described = ask(runner, task_id, "helpers.prepareBinaryData", data, "a.bin")
        assert (status, described["fileSize"]) == ("success", "256 kB")
        assert task.saved_files[0].data == content

    @pytest.mark.parametrize(
        ("size", "text"),
        [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1500, "1.5 kB"), (12_345, "12.3 kB"),
         (999_499, "999 kB"), (999_999, "1 MB"), (3_000_000, "3 MB"), (5_000_000_000, "5 GB")],
    )  # fmt: skip
    def test_writes_sizes_as_n8n_does(self, size: int, text: str) -> None:
        assert readable_size(size) == text


class TestHttpRequest:
    """Requests go to the broker's own endpoints."""

    def request(self, runner: RawRunner, task_id: str, **options: Any) -> tuple[str, Any]:
        return ask(runner, task_id, "helpers.httpRequest", options)

    def test_requests_json(self, broker: Broker, runner: RawRunner) -> None:
        _, task_id = given(broker, runner)
        answer = self.request(runner, task_id, url=f"{broker.url}/healthz", json=True)
        assert answer == ("success", {"status": "ok"})

    def test_uses_method_body_and_base_url(self, broker: Broker, runner: RawRunner) -> None:
        _, task_id = given(broker, runner)
        options: dict[str, Any] = {"baseURL": f"{broker.url}/", "url": "/runners/auth", "method": "post"}
        for body, headers in (
            ({"token": TOKEN}, {}),
            (json.dumps({"token": TOKEN}), {"Content-Type": "application/json"}),
            ({"type": "Buffer", "data": list(json.dumps({"token": TOKEN}).encode())},
             {"Content-Type": "application/json"}),
        ):  # fmt: skip
            status, data = self.request(runner, task_id, body=body, headers=headers, **options)
            assert status == "success"
            assert len(data["data"]["token"]) == 64

    def test_returns_the_whole_response_on_demand(self, broker: Broker, runner: RawRunner) -> None:
        _, task_id = given(broker, runner)
        status, data = self.request(
            runner, task_id, url=f"{broker.url}/what", qs={"a": 1}, returnFullResponse=True,
            ignoreHttpStatusErrors=True,
        )  # fmt: skip
        assert (status, data["statusCode"], data["statusMessage"]) == ("success", 404, "Not Found")
        assert data["headers"]["content-type"].startswith("text/html")
        assert "Cannot GET /what" in data["body"]

    def test_returns_bytes_on_demand(self, broker: Broker, runner: RawRunner) -> None:
        _, task_id = given(broker, runner)
        status, data = self.request(runner, task_id, url=f"{broker.url}/healthz", encoding="arraybuffer")
        assert (status, json.loads(bytes(data["data"]))) == ("success", {"status": "ok"})

    def test_answers_failed_requests_with_an_error(self, broker: Broker, runner: RawRunner) -> None:
        _, task_id = given(broker, runner)
        status, error = self.request(runner, task_id, url=f"{broker.url}/what")
        assert (status, error["message"]) == ("error", "Request failed with status code 404")
        for url in ("file:///etc/passwd", "nowhere", None):
            assert self.request(runner, task_id, url=url)[0] == "error"
        status, error = self.request(runner, task_id, url="http://127.0.0.1:1/", timeout=2000)
        assert (status, error["name"]) == ("error", "ConnectionError")


class TestTaskData:
    ITEMS = [{"json": {"n": n}} for n in range(10)]

    def data(self, runner: RawRunner, task_id: str, **params: Any) -> dict[str, Any]:
        runner.send("runner:taskdatarequest", taskId=task_id, requestId="r", requestParams=params)
        answer = runner.expect("broker:taskdataresponse")
        assert (answer["taskId"], answer["requestId"]) == (task_id, "r")
        data: dict[str, Any] = answer["data"]
        return data

    @pytest.mark.parametrize(
        ("wanted", "given_items"),
        [
            ({"include": True}, ITEMS),
            ({"include": True, "chunk": {"startIndex": 3, "count": 4}}, ITEMS[3:7]),
            ({"include": True, "chunk": {"startIndex": 8, "count": 1000}}, ITEMS[8:]),
            ({"include": True, "chunk": {"startIndex": 20, "count": 5}}, []),
        ],
    )
    def test_sends_the_wanted_items(
        self, broker: Broker, runner: RawRunner, wanted: Any, given_items: Any
    ) -> None:
        _, task_id = given(broker, runner, items=self.ITEMS)
        data = self.data(runner, task_id, dataOfNodes=[], prevNode=False, env=False, input=wanted)
        assert data["inputData"] == {"main": [given_items]}

    @pytest.mark.parametrize("params", [{}, {"input": {"include": False}}])
    def test_sends_no_items_if_none_are_wanted(self, broker: Broker, runner: RawRunner, params: Any) -> None:
        _, task_id = given(broker, runner, items=self.ITEMS)
        assert self.data(runner, task_id, **params)["inputData"] == {}

    @pytest.mark.parametrize(
        ("params", "shown"),
        [({"dataOfNodes": "all"}, True), ({"dataOfNodes": [], "prevNode": True}, True),
         ({"dataOfNodes": ["Start"]}, True), ({"dataOfNodes": ["Other"], "prevNode": False}, False)],
    )  # fmt: skip
    def test_sends_the_data_of_the_node_before_on_demand(
        self, broker: Broker, runner: RawRunner, params: Any, shown: bool
    ) -> None:
        _, task_id = given(broker, runner, items=self.ITEMS)
        data = self.data(runner, task_id, **params)
        run_data = data["runExecutionData"]["resultData"]["runData"]
        if shown:
            (before,) = data["connectionInputSource"]["main"]
            assert run_data[before["previousNode"]][0]["data"] == {"main": [self.ITEMS]}
        else:
            assert run_data == {}

    def test_sends_every_key_that_n8n_sends(self, broker: Broker, runner: RawRunner) -> None:
        _, task_id = given(broker, runner)
        data = self.data(runner, task_id, dataOfNodes="all", prevNode=True, env=True, input={"include": True})
        assert set(data) == {
            "workflow", "inputData", "connectionInputSource", "node", "runExecutionData", "runIndex",
            "itemIndex", "activeNodeName", "contextNodeName", "siblingParameters", "mode", "envProviderState",
            "defaultReturnRunIndex", "selfData", "additionalData",
        }  # fmt: skip
        assert data["node"] in data["workflow"]["nodes"]
        assert data["activeNodeName"] == data["node"]["name"]

    def test_does_not_answer_a_request_without_parameters(self, broker: Broker, runner: RawRunner) -> None:
        _, task_id = given(broker, runner)
        runner.send("runner:taskdatarequest", taskId=task_id, requestId="r")
        assert ask(runner, task_id, "logNodeOutput", "x") == ("success", None)

    def test_sends_the_wanted_node_types(self, broker: Broker, runner: RawRunner) -> None:
        one: dict[str, Any] = {"name": "a", "version": 1, "displayName": "A"}
        many: dict[str, Any] = {"name": "a", "version": [2, 2.1]}
        other: dict[str, Any] = {"name": "b"}
        _, task_id = given(broker, runner, node_types=[one, many, other])

        def found(*wanted: dict[str, Any]) -> list[dict[str, Any]]:
            runner.send("runner:nodetypesrequest", taskId=task_id, requestId="n", requestParams=list(wanted))
            answer = runner.expect("broker:nodetypes")
            assert (answer["taskId"], answer["requestId"]) == (task_id, "n")
            node_types: list[dict[str, Any]] = answer["nodeTypes"]
            return node_types

        assert found({"name": "a", "version": 1}) == [one]
        assert found({"name": "a", "version": 2.1}, {"name": "b", "version": 9}) == [many, other]
        assert found({"name": "a", "version": 7}, {"name": "c", "version": 1}) == []
        assert found() == []


class TestPostTasks:
    HEADERS = {"Authorization": f"Bearer {TOKEN}"}

    def post(self, broker: Broker, body: Any, **options: Any) -> requests.Response:
        options.setdefault("headers", self.HEADERS)
        data = body if isinstance(body, (str, bytes)) else json.dumps(body)
        return requests.post(f"{broker.url}/tasks", data=data, timeout=LIMIT, **options)

    def test_answers_with_the_result(self, broker: Broker, runner: RawRunner) -> None:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            body = {"taskType": "t", "settings": {"a": 1}, "items": [{"json": {}}], "timeout": 9.5}
            response = pool.submit(self.post, broker, body)
            settings = runner.take()
            assert settings["settings"] == {"a": 1, "items": [{"json": {}}]}
            runner.done(settings["taskId"], {"x": "ä\ud800"})
            assert response.result(LIMIT).status_code == 200
            assert response.result().json() == {"result": {"x": "ä\ud800"}}

    def test_answers_422_with_the_runners_error(self, broker: Broker, runner: RawRunner) -> None:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            response = pool.submit(self.post, broker, {"taskType": "t"})
            settings = runner.take()
            assert settings["settings"] == {}
            error = {"message": "no", "description": "why"}
            runner.send("runner:taskerror", taskId=settings["taskId"], error=error)
            assert response.result(LIMIT).status_code == 422
            assert response.result().json() == {"error": error}

    def test_answers_504_without_a_runner(self, broker: Broker) -> None:
        response = self.post(broker, {"taskType": "unknown", "timeout": 0.05})
        assert (response.status_code, response.json()["error"]["message"]) == (504, "Task request timed out")

    def test_answers_504_without_a_result(self) -> None:
        with new_broker(task_timeout=0.2) as broker, RawRunner(broker) as runner:
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                posting = pool.submit(self.post, broker, {"taskType": "t"})
                runner.take()
                assert posting.result(LIMIT).status_code == 504
            message = posting.result().json()["error"]["message"]
            assert message == "Task execution timed out after 0.2 seconds"

    def test_answers_502_when_the_connection_is_lost(self, broker: Broker) -> None:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            with RawRunner(broker) as runner:
                posting = pool.submit(self.post, broker, {"taskType": "t"})
                runner.take()
            assert posting.result(LIMIT).status_code == 502
            assert posting.result().json() == {"error": {"message": "Node execution failed"}}

    def test_answers_503_when_the_broker_stops(self, broker: Broker) -> None:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            posting = pool.submit(self.post, broker, {"taskType": "t"})
            broker.wait_for(lambda counts: counts.requests == 1)
            broker.stop()
            assert posting.result(LIMIT).status_code == 503

    @pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN},
                                         {"Authorization": f"Basic {TOKEN}"}])  # fmt: skip
    def test_answers_401_without_the_token(self, broker: Broker, headers: dict[str, str]) -> None:
        response = self.post(broker, {"taskType": "t"}, headers=headers)
        assert response.status_code == 401
        assert "message" in response.json()["error"]
        assert broker.counts.requested == 0

    @pytest.mark.parametrize(
        ("body", "names"),
        [("{", "JSON"), (b"\xff", "JSON"), ("[]", "object"), ({}, "taskType"), ({"taskType": 7}, "taskType"),
         ({"taskType": ""}, "taskType"), ({"taskType": "t", "items": {}}, "items"),
         ({"taskType": "t", "timeout": "1"}, "timeout"),
         ({"taskType": "t", "timeout": True}, "timeout"), ({"taskType": "t", "timeout": 0}, "timeout"),
         ({"taskType": "t", "typo": 1}, "typo"), ('{"taskType": "t", "settings": NaN}', "NaN")],
    )  # fmt: skip
    def test_answers_400_to_a_wrong_body(self, broker: Broker, body: Any, names: str) -> None:
        response = self.post(broker, body)
        assert response.status_code == 400
        assert names in response.json()["error"]["message"]
        assert broker.counts.requested == 0

    def test_answers_413_to_a_large_body(self) -> None:
        with new_broker(max_body=100) as broker:
            assert self.post(broker, {"taskType": "t" * 200}).status_code == 413

    def test_cancels_the_task_of_a_client_that_disconnects(self, broker: Broker, runner: RawRunner) -> None:
        body = json.dumps({"taskType": "t"})
        head = f"POST /tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", broker.port), timeout=LIMIT) as connection:
            connection.sendall((head + body).encode())
            runner.take()
        assert runner.expect("broker:taskcancel")["reason"] == "Requester disconnected"
