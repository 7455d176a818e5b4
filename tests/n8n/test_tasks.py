"""The abilities of a handler, seen from a workflow of a real n8n."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any, Callable

import pytest

from .conftest import in_both_modes
from .n8n import JavaScriptRunner, N8n, javascript_node, job_node, webhook_node
from .runners import RunnerProcess

pytestmark = [pytest.mark.n8n, in_both_modes]

StartRunner = Callable[..., RunnerProcess]


def test_items_go_in_and_come_out(n8n: N8n, start_runner: StartRunner) -> None:
    start_runner()
    workflow = n8n.create_workflow("echo", [webhook_node("echo"), job_node("tests.echo")])
    body = {
        "text": "Grüße, 世界 \U0001f600 \u2028",
        "number": 1.5,
        "nothing": None,
        "list": [True, {"a": []}],
    }

    response = workflow.call(body)

    assert response.status_code == 200, response.text
    items = response.json()
    assert [item["body"] for item in items] == [body]
    assert workflow.wait_for_execution("success").output_of("Job")[0]["json"]["body"] == body


def test_settings_of_the_node_reach_the_handler(n8n: N8n, start_runner: StartRunner) -> None:
    start_runner()
    node = job_node("tests.settings", settings={"threshold": 0.25, "names": ["a", "b"]})
    workflow = n8n.create_workflow("settings", [webhook_node("settings"), node])

    [answer] = workflow.call({"a": 1}).json()

    assert answer["type"] == "tests.settings"
    assert answer["settings"]["threshold"] == 0.25
    assert answer["settings"]["names"] == ["a", "b"]
    assert answer["settings"]["items"][0]["json"]["body"] == {"a": 1}
    assert len(answer["id"]) == 8


def test_many_items_pass_through_two_nodes_one_job_an_item(n8n: N8n, start_runner: StartRunner) -> None:
    start_runner()
    nodes = [
        webhook_node("many"),
        job_node("tests.whole_numbers", name="Numbers", settings={"count": 40}),
        job_node("tests.paired", name="Each", mode="runOnceForEachItem"),
    ]
    workflow = n8n.create_workflow("many", nodes)

    items = workflow.call().json()

    assert items == [{"number": number} for number in range(40)]
    execution = workflow.wait_for_execution("success")
    assert [item["pairedItem"] for item in execution.output_of("Each")] == [
        {"item": number} for number in range(40)
    ]


def test_a_large_answer_arrives_whole(n8n: N8n, start_runner: StartRunner) -> None:
    start_runner()
    text = "0123456789abcdef" * 200_000
    workflow = n8n.create_workflow("large", [webhook_node("large"), job_node("tests.echo")])

    [item] = workflow.call({"text": text}).json()

    assert item["body"]["text"] == text


def test_log_appears_in_the_output_of_n8n(n8n: N8n, start_runner: StartRunner) -> None:
    start_runner()
    workflow = n8n.create_workflow("log", [webhook_node("log"), job_node("tests.talk")])
    start = n8n.output_length

    assert workflow.call().status_code == 200

    line = n8n.wait_for_output("a line from", start=start)
    assert "handler" in line


def test_progress_appears_in_the_snapshot_and_in_the_log(n8n: N8n, start_runner: StartRunner) -> None:
    runner = start_runner()
    workflow = n8n.create_workflow("progress", [webhook_node("progress"), job_node("tests.talk")])

    [answer] = workflow.call().json()

    assert answer == {"progress": [[0.5, "half way there"]]}
    assert "50% half way there" in runner.log


def test_a_handler_asks_for_the_data_of_its_execution(n8n: N8n, start_runner: StartRunner) -> None:
    start_runner()
    nodes = [
        webhook_node("data"),
        job_node("tests.whole_numbers", name="Numbers", settings={"count": 3}),
        job_node("tests.data", sendItems=False),
    ]
    workflow = n8n.create_workflow("A workflow with a name", nodes)

    [answer] = workflow.call().json()

    assert answer["workflow"] == "A workflow with a name"
    assert [item["json"] for item in answer["input"]] == [{"number": number} for number in range(3)]
    assert answer["nodes"] == ["Numbers", "Webhook"]
    assert answer["node_type"] == "Code"


def test_a_file_is_read_and_another_saved(n8n: N8n, start_runner: StartRunner) -> None:
    start_runner()
    content = bytes(range(256)) * 200
    webhook = webhook_node("files", responseData="firstEntryBinary", responseBinaryPropertyName="file")
    workflow = n8n.create_workflow("files", [webhook, job_node("tests.files")])

    response = workflow.call(files={"file": ("numbers.bin", content, "application/octet-stream")})

    assert response.status_code == 200, response.text
    assert response.content == content[::-1]
    [item] = workflow.wait_for_execution("success").output_of("Job")
    assert item["json"] == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert item["binary"]["file"]["fileName"] == "backwards.bin"
    assert item["binary"]["file"]["mimeType"] == "application/octet-stream"


def test_n8n_makes_an_http_call_for_a_handler(
    n8n: N8n, start_runner: StartRunner, web_server: WebServer
) -> None:
    start_runner()
    request = {
        "method": "POST",
        "url": f"{web_server.url}/leads?page=2",
        "headers": {"X-Asked-By": "a handler"},
        "body": {"question": 42},
        "json": True,
    }
    node = job_node("tests.http", settings={"request": request})
    workflow = n8n.create_workflow("http", [webhook_node("http"), node])

    response = workflow.call()

    assert response.status_code == 200, response.text
    assert response.json() == [{"answer": {"leads": ["Ada", "Grace"]}}]
    [seen] = web_server.requests
    assert (seen["method"], seen["path"], seen["body"]) == ("POST", "/leads?page=2", {"question": 42})
    assert seen["headers"]["x-asked-by"] == "a handler"
    # It was n8n that called, not the process of the runner.
    assert "python" not in seen["headers"]["user-agent"].lower()


def test_an_http_call_that_fails_raises_in_the_handler(
    n8n: N8n, start_runner: StartRunner, web_server: WebServer
) -> None:
    start_runner()
    request = {"method": "GET", "url": f"{web_server.url}/only-post-is-answered"}
    node = job_node("tests.http", settings={"request": request})
    workflow = n8n.create_workflow("http error", [webhook_node("http-error"), node])

    [answer] = workflow.call().json()

    assert "helpers.httpRequest failed in n8n" in answer["error"]
    assert "501" in answer["error"]


def test_a_javascript_code_node_runs_on_n8ns_runner_next_to_this_one(
    n8n: N8n, start_runner: StartRunner, javascript_runner: JavaScriptRunner | None
) -> None:
    start_runner()
    double = "return $input.all().map((item) => ({ json: { number: item.json.number * 2 } }));"
    nodes = [
        webhook_node("javascript"),
        job_node("tests.whole_numbers", name="Python before", settings={"count": 5}),
        javascript_node(double, name="JavaScript"),
        job_node("tests.echo", name="Python after"),
    ]
    workflow = n8n.create_workflow("javascript", nodes)

    response = workflow.call(limit=60)

    assert response.status_code == 200, response.text
    assert response.json() == [{"number": 2 * number} for number in range(5)]


class WebServer:
    """Answers every POST with a list of leads, and remembers what was asked."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        seen = self.requests

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                seen.append(
                    {
                        "method": self.command,
                        "path": self.path,
                        "headers": {name.lower(): value for name, value in self.headers.items()},
                        "body": json.loads(body) if body else None,
                    }
                )
                answer = json.dumps({"leads": ["Ada", "Grace"]}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5.0)


@pytest.fixture
def web_server() -> Iterator[WebServer]:
    server = WebServer()
    try:
        yield server
    finally:
        server.close()
