# Task.log, Task.rpc, Task.request_data, Task.request_node_types, Task.http_request
from n8nrunner import Runner, Task
from n8nrunner.broker import Broker

with Broker(auth_token="secret") as broker:
    runner = Runner(broker.url, auth_token="secret")

    @runner.task("ask")
    def ask(task: Task) -> dict:
        task.log("asking", {"items": 1})  # in the console of the editor's browser
        return {
            "items": len(task.request_data()["inputData"]["main"][0]),
            "types": task.request_node_types([{"name": "n8n-nodes-base.code", "version": 2}]),
            "page": task.http_request(url="https://example.com", method="GET"),
            "text": task.rpc("helpers.binaryToString", {"type": "Buffer", "data": [72, 105]}),
        }

    helpers = {  # n8n has them; the embedded broker needs them for a test
        "helpers.httpRequest": lambda options: f"<p>{options['url']}</p>",
        "helpers.binaryToString": bytes.decode,
    }
    with runner:
        task = broker.submit("ask", {}, items=[{"json": {}}], rpc=helpers)
        result = task.result(30)
        assert (result["items"], result["page"], result["text"]) == (1, "<p>https://example.com</p>", "Hi")
        assert task.logs == ["'asking' {\"items\": 1}"]
