"""A real n8n, started for the tests in either mode and driven over its REST interface."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import requests

from n8nrunner.functions.node.installing import install

from .install import Installation
from .processes import ChildProcess, children, free_port, poll

Mode = Literal["external", "internal"]
"""Whether n8n starts the runner of its Code nodes itself: `internal`, which is its default."""

READY_LIMIT = 120.0
"""Seconds n8n may take to start; the first start also creates the database. 10 to 40 s are usual."""

DRAIN_SECONDS = 10
"""Seconds that n8n gets to finish its executions after SIGTERM."""

REQUEST_LIMIT = 30.0
"""Seconds for one REST call that runs no workflow."""

OWNER = {
    "email": "owner@example.com",
    "password": "Secret-Passw0rd",
    "firstName": "Test",
    "lastName": "Owner",
}

NODE_SETTINGS = ("onError", "retryOnFail", "maxTries", "waitBetweenTries")

OWN_RUNNER = "@n8n/task-runner/dist/start.js"
"""Part of the command of the runner that n8n starts in internal mode."""

NODES_FOLDER = Path(__file__).parents[2] / "samples" / "node"


PYTHON_FUNCTION = "n8n-nodes-n8nrunner.pythonFunction"


class N8n:
    """One n8n: its user folder, its two ports, its process. `start` and `stop` may be called many times.

    In internal mode the variable of the mode is not set, as for a user who sets the secret alone. Everything
    n8n prints is in `log_path`. `url` is n8n's, `broker_url` its task broker's, `auth_token` the secret of
    its runners.
    """

    def __init__(
        self,
        installation: Installation,
        folder: Path,
        auth_token: str = "secret-of-the-tests",
        command: str = "start",
        variables: dict[str, str] | None = None,
        mode: Mode = "external",
    ) -> None:
        self.installation = installation
        self.mode = mode
        self.auth_token = auth_token
        self._command = command
        self._variables = variables or {}
        self.user_folder = folder / "user"
        self.log_path = folder / "n8n.log"
        self.port = free_port()
        self.broker_host = "127.0.0.1"
        self.broker_port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: ChildProcess | None = None
        self._session = requests.Session()
        # n8n ties a login to the browser that sent it.
        self._session.headers["browser-id"] = "n8nrunner-tests"
        self._session.trust_env = False
        self._is_set_up = False
        self.custom_folder = self.user_folder / ".n8n" / "custom"
        self.custom_folder.mkdir(parents=True)
        self.packages_folder = self.user_folder / ".n8n" / "nodes" / "node_modules"
        for node_file in NODES_FOLDER.glob("*.node.js"):
            shutil.copy(node_file, self.custom_folder)
        for module in ("functions_script", "leads"):
            write_node(module, self.custom_folder)
        install(self.packages_folder, {})

    @property
    def broker_url(self) -> str:
        return f"http://{self.broker_host}:{self.broker_port}"

    # -- its process

    def start(self) -> float:
        """Starts n8n, and returns once it and its broker answer: the seconds that took."""
        if self.is_running:
            return 0.0
        self.kill()
        environment = self.installation.environment()
        environment.pop("NODE_ENV", None)
        environment.update(
            N8N_USER_FOLDER=str(self.user_folder),
            N8N_PORT=str(self.port),
            N8N_LISTEN_ADDRESS="127.0.0.1",
            N8N_RUNNERS_AUTH_TOKEN=self.auth_token,
            N8N_RUNNERS_BROKER_LISTEN_ADDRESS=self.broker_host,
            N8N_RUNNERS_BROKER_PORT=str(self.broker_port),
            N8N_GRACEFUL_SHUTDOWN_TIMEOUT=str(DRAIN_SECONDS),
            CODE_ENABLE_STDOUT="true",
            N8N_SECURE_COOKIE="false",
            N8N_DIAGNOSTICS_ENABLED="false",
            N8N_VERSION_NOTIFICATIONS_ENABLED="false",
            N8N_TEMPLATES_ENABLED="false",
            N8N_PERSONALIZATION_ENABLED="false",
        )
        if self.mode == "external":
            environment["N8N_RUNNERS_MODE"] = "external"
        if self.installation.version.startswith("1."):
            environment["N8N_RUNNERS_ENABLED"] = "true"
        environment.update(self._variables)
        if self._command == "worker":
            environment.update(QUEUE_HEALTH_CHECK_ACTIVE="true", QUEUE_HEALTH_CHECK_PORT=str(self.port))
        started = time.monotonic()
        self._process = ChildProcess(
            "n8n",
            [str(self.installation.node), str(self.installation.n8n_script), self._command],
            environment,
            self.log_path,
        )
        self.wait_ready()
        if not self._is_set_up and self._command == "start":
            self._set_up_owner()
            self._is_set_up = True
        return time.monotonic() - started

    def wait_ready(self, limit: float = READY_LIMIT) -> None:
        """Waits until n8n and its broker both answer."""
        for address in (self.broker_url, self.url):
            self._poll(lambda url=f"{address}/healthz": _is_ok(url), f"{address}/healthz answers", limit)
        # It answers before its database is ready.
        self._poll(lambda: _is_ok(f"{self.url}/healthz/readiness"), "n8n is ready", limit)
        if self._command == "start":
            # n8n 1 is ready before its editor can be used.
            self._poll(lambda: _is_ok(f"{self.url}/rest/settings"), "n8n's editor is ready", limit)

    def stop(self, limit: float = DRAIN_SECONDS + 20.0, under_load: bool = False) -> None:
        """SIGTERM: n8n drains its runners and ends.

        Raises `AssertionError` if it had to give up waiting, as for a runner that keeps its connection. With
        `under_load`, it may have waited for executions, and says so: a request that a runner is just
        accepting when n8n closes all connections is left to wait out its minute.
        """
        process = self._process
        assert process is not None, "n8n does not run"
        process.signal(signal.SIGTERM)
        try:
            # Its exit code says nothing: the native modules of a real n8n crash now and then while it ends.
            process.wait(limit)
            gave_up = any("Shutdown timed out" in line for line in process.lines)
            if under_load and any("active executions to finish" in line for line in process.lines):
                gave_up = False
            assert not gave_up, f"n8n's wait for something to end was over.\n{process.tail()}"
        finally:
            self.kill()

    def kill(self) -> None:
        """SIGKILL to its process group; nothing happens if it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    @contextlib.contextmanager
    def standing_still(self) -> Iterator[None]:
        """n8n runs no line of its program, as while its event loop is busy; its kernel goes on."""
        assert self._process is not None, "n8n does not run"
        self._process.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.signal(signal.SIGCONT)

    @property
    def pid(self) -> int:
        assert self._process is not None, "n8n does not run"
        return self._process.pid

    @property
    def log(self) -> str:
        """Everything it has printed, in all of its starts."""
        return self.log_path.read_text(errors="replace")

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.exit_code is None

    def own_runner(self, but_not: int | None = None, limit: float = 30.0) -> int:
        """The process of n8n's own JavaScript runner, once there is one that is not `but_not`."""
        process = self._process
        assert process is not None, "n8n does not run"

        def started() -> int | None:
            found = [pid for pid, command in children(process.pid) if OWN_RUNNER in command]
            return found[0] if found and found[0] != but_not else None

        return poll(started, "n8n has started its own runner", limit)

    @property
    def output_length(self) -> int:
        """The number of lines this process of n8n has printed: a place to begin `wait_for_output` from."""
        return len(self._process.lines) if self._process is not None else 0

    def wait_for_output(self, text: str, limit: float = 20.0, start: int = 0) -> str:
        """The first line n8n prints, from line number `start` of this process on, that contains `text`."""
        assert self._process is not None, "n8n does not run"
        return self._process.wait_for_line(lambda line: text in line, limit, start)

    # -- workflows

    def create_workflow(
        self,
        name: str,
        nodes: Sequence[dict[str, Any]],
        settings: dict[str, Any] | None = None,
        **attached: Sequence[dict[str, Any]],
    ) -> Workflow:
        """Creates a workflow of nodes in a row, the first a webhook; returns it once that is active.

        `attached` has nodes for the last of the row, by the kind of their connection, such as `ai_tool`.
        """
        created = self.save_workflow(name, nodes, settings, **attached)
        self.rest("POST", f"/rest/workflows/{created['id']}/activate", {"versionId": created["versionId"]})
        workflow = Workflow(self, created["id"], nodes[0]["parameters"]["path"])
        workflow.wait_active()
        return workflow

    def save_workflow(
        self,
        name: str,
        nodes: Sequence[dict[str, Any]],
        settings: dict[str, Any] | None = None,
        **attached: Sequence[dict[str, Any]],
    ) -> dict[str, Any]:
        """Saves a workflow that is not active, as `create_workflow` does; returns what n8n has saved."""
        others = [node for kind in attached.values() for node in kind]
        placed = [
            {"id": f"{name}-{position}", "position": [200 * position, 0], **node}
            for position, node in enumerate([*nodes, *others])
        ]
        connections = {
            node["name"]: {"main": [[{"node": following["name"], "type": "main", "index": 0}]]}
            for node, following in zip(nodes, nodes[1:])
        }
        for kind, there in attached.items():
            for node in there:
                connections[node["name"]] = {kind: [[{"node": nodes[-1]["name"], "type": kind, "index": 0}]]}
        saved: dict[str, Any] = self.rest(
            "POST",
            "/rest/workflows",
            {
                "name": name,
                "active": False,
                "settings": {"executionOrder": "v1", **(settings or {})},
                "nodes": placed,
                "connections": connections,
            },
        )
        return saved

    # -- REST

    def rest(self, method: str, path: str, body: dict[str, Any] | None = None, **query: str) -> Any:
        """The `data` that n8n's REST interface answers, if any. Raises `AssertionError` if it refuses."""
        response = self._session.request(
            method, f"{self.url}{path}", json=body, params=query or None, timeout=REQUEST_LIMIT
        )
        assert response.ok, f"{method} {path}: {response.status_code} {response.text[:2000]}"
        return response.json().get("data")

    def ask_while_editing(
        self, question: str, method: str, parameters: dict[str, Any], type: str = PYTHON_FUNCTION
    ) -> requests.Response:
        """The answer to a question that the editor has while these are the parameters of an open node.

        `question` is "resource-locator-results" or "resource-mapper-fields"; `method` is one of the node.
        """
        body = {
            "path": "parameters",
            "methodName": method,
            "nodeTypeAndVersion": {"name": type, "version": 1},
            "currentNodeParameters": parameters,
        }
        path = f"{self.url}/rest/dynamic-node-parameters/{question}"
        return self._session.post(path, json=body, timeout=REQUEST_LIMIT)

    def python_function(
        self,
        function: str,
        name: str = "Functions",
        runner: str = "functions",
        options: dict[str, Any] | None = None,
        **arguments: Any,
    ) -> dict[str, Any]:
        """*Python Function* as its editor stores it; takes the keywords of `function_node`."""
        settings = {key: arguments.pop(key) for key in NODE_SETTINGS if key in arguments}
        values = {**arguments.pop("additionalFields", {}), **arguments}
        chosen = {
            "runner": {"__rl": True, "mode": "list", "value": runner},
            "function": {"__rl": True, "mode": "list", "value": function},
        }
        answer = self.ask_while_editing("resource-mapper-fields", "getArguments", chosen)
        fields = answer.json()["data"]["fields"]
        shown = [{**field, "removed": field["id"] not in values} for field in fields]
        mapped = {"mappingMode": "defineBelow", "value": values, "matchingColumns": [], "schema": shown}
        return {
            "name": name,
            "type": PYTHON_FUNCTION,
            "typeVersion": 1,
            "parameters": {**chosen, "arguments": mapped, "options": options or {}},
            **settings,
        }

    def custom_nodes(self) -> set[str]:
        """The types of the nodes of one's own that are on its canvas."""
        return self.node_types("CUSTOM")

    def node_types(self, package: str) -> set[str]:
        """The types of the nodes of a package that are on its canvas."""

        def listed() -> list[dict[str, Any]] | None:
            response = self._session.get(f"{self.url}/types/nodes.json", timeout=REQUEST_LIMIT)
            if not response.ok:
                return None
            try:
                types: list[dict[str, Any]] = response.json()
            except requests.JSONDecodeError:
                return None
            return types

        # n8n 1.123 is ready before it has written the list, and serves the part that it has written.
        types = poll(listed, f"{self.url}/types/nodes.json has the whole list", REQUEST_LIMIT)
        return {each["name"] for each in types if each["name"].startswith(f"{package}.")}

    def _set_up_owner(self) -> None:
        self.rest("POST", "/rest/owner/setup", OWNER)

    def _poll(self, check: Any, what: str, limit: float) -> None:
        def checked() -> bool | None:
            process = self._process
            assert process is not None, "n8n does not run"
            assert process.exit_code is None, f"n8n ended with {process.exit_code}.\n{process.tail()}"
            return check() or None

        try:
            poll(checked, what, limit)
        except AssertionError as error:
            tail = self._process.tail() if self._process is not None else ""
            raise AssertionError(f"{error}\n{tail}") from None


def write_node(module: str, folder: Path, cwd: Path = Path(__file__).parent, **variables: str) -> None:
    """Writes the node of a module in the folder `cwd`, as its author does."""
    command = [sys.executable, "-m", "n8nrunner", "node", module, "--out", str(folder)]
    subprocess.run(command, cwd=cwd, env={**os.environ, **variables}, check=True)


class Workflow:
    """An active workflow that a webhook starts."""

    def __init__(self, n8n: N8n, workflow_id: str, path: str) -> None:
        self.n8n = n8n
        self.id = workflow_id
        self.url = f"{n8n.url}/webhook/{path}"
        self._sessions = threading.local()

    def call(self, body: Any = None, limit: float = 90.0, **keywords: Any) -> requests.Response:
        """POST to its webhook and return n8n's answer. Without an answer, it raises the error of `requests`.

        Threads may call it at once; each keeps a connection of its own.
        """
        session = getattr(self._sessions, "session", None)
        if session is None:
            session = self._sessions.session = requests.Session()
            session.trust_env = False
        if "files" not in keywords:
            keywords["json"] = {} if body is None else body
        response: requests.Response = session.post(self.url, timeout=limit, **keywords)
        return response

    def wait_active(self, limit: float = 60.0) -> None:
        """Waits until n8n knows its webhook, which it does a moment after a start or an activation.

        Nothing runs by asking: a method that is not the webhook's own is refused.
        """

        def is_known() -> bool | None:
            response = requests.get(self.url, timeout=REQUEST_LIMIT)
            return True if "not registered for GET" in response.text else None

        poll(is_known, f"the webhook {self.url} is active", limit)

    def executions(self) -> list[dict[str, Any]]:
        """Its executions, newest first: id, status and times, without data."""
        found = self.n8n.rest("GET", "/rest/executions", filter=json.dumps({"workflowId": self.id}))
        results: list[dict[str, Any]] = found["results"]
        return results

    def wait_for_execution(self, *statuses: str, limit: float = 20.0) -> Execution:
        """Its newest execution, once that has one of these statuses."""

        def newest() -> str | None:
            found = self.executions()
            return str(found[0]["id"]) if found and found[0]["status"] in statuses else None

        what = f"the newest execution of workflow {self.id} is {' or '.join(statuses)}"
        return Execution(self.n8n, poll(newest, what, limit))


class Execution:
    """One execution as n8n has stored it when this object is made."""

    def __init__(self, n8n: N8n, execution_id: str) -> None:
        self.n8n = n8n
        self.id = execution_id
        stored = n8n.rest("GET", f"/rest/executions/{execution_id}")
        self.status: str = stored["status"]
        self.data: Any = unflatten(stored["data"]) if isinstance(stored["data"], str) else stored["data"]

    @property
    def error(self) -> dict[str, Any]:
        """The error that n8n shows for the failed node: at least `message`."""
        error: dict[str, Any] = self.data["resultData"]["error"]
        return error

    def output_of(self, node_name: str) -> list[dict[str, Any]]:
        """The items that a node put out in its last run."""
        items: list[dict[str, Any]] = self.data["resultData"]["runData"][node_name][-1]["data"]["main"][0]
        return items

    def stop(self) -> None:
        """Stop the execution, as the button in n8n's editor does."""
        self.n8n.rest("POST", f"/rest/executions/{self.id}/stop")


class JavaScriptRunner:
    """n8n's own runner for JavaScript Code nodes, usually started by its launcher. It ends with its n8n."""

    def __init__(self, n8n: N8n, log_path: Path) -> None:
        assert n8n.mode == "external", "n8n has started one itself"
        granted = requests.post(
            f"{n8n.broker_url}/runners/auth", json={"token": n8n.auth_token}, timeout=REQUEST_LIMIT
        )
        granted.raise_for_status()
        environment = n8n.installation.environment()
        # A grant works once, and within 30 s.
        environment["N8N_RUNNERS_GRANT_TOKEN"] = granted.json()["data"]["token"]
        environment["N8N_RUNNERS_TASK_BROKER_URI"] = n8n.broker_url
        start = n8n.output_length
        self._process = ChildProcess(
            "JavaScript runner",
            [str(n8n.installation.node), "dist/start.js"],
            environment,
            log_path,
            cwd=n8n.installation.javascript_runner,
        )
        try:
            n8n.wait_for_output('Registered runner "JS Task Runner"', start=start)
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        self._process.kill()


def webhook_node(path: str, **parameters: Any) -> dict[str, Any]:
    """The first node of a workflow: a POST to /webhook/<path> runs it, and gets the last node's items."""
    return {
        "name": "Webhook",
        "type": "n8n-nodes-base.webhook",
        "typeVersion": 2,
        "webhookId": path,
        "parameters": {
            "path": path,
            "httpMethod": "POST",
            "responseMode": "lastNode",
            "responseData": "allEntries",
            **parameters,
        },
    }


def job_node(
    task_type: str, name: str = "Job", settings: dict[str, Any] | None = None, **parameters: Any
) -> dict[str, Any]:
    """The tests' own node: one job of a raw task type with the input items and these settings."""
    return {
        "name": name,
        "type": "CUSTOM.runnerJob",
        "typeVersion": 1,
        "parameters": {"taskType": task_type, "settings": json.dumps(settings or {}), **parameters},
    }


def function_node(
    operation: str, name: str = "Functions", options: dict[str, Any] | None = None, **parameters: Any
) -> dict[str, Any]:
    """The node of `functions_script.py`; other keywords go into the node's settings."""
    settings = {key: parameters.pop(key) for key in NODE_SETTINGS if key in parameters}
    return {
        "name": name,
        "type": "CUSTOM.functions",
        "typeVersion": 1,
        "parameters": {"operation": operation, "options": options or {}, **parameters},
        **settings,
    }


def javascript_node(code: str, name: str = "Code") -> dict[str, Any]:
    """n8n's own Code node, which needs n8n's own JavaScript runner."""
    return {
        "name": name,
        "type": "n8n-nodes-base.code",
        "typeVersion": 2,
        "parameters": {"language": "javaScript", "mode": "runOnceForAllItems", "jsCode": code},
    }


def unflatten(text: str) -> Any:
    """The stored form of an execution: a list of values; a string inside a value is the number of another."""
    table: list[Any] = json.loads(text)
    built: dict[int, Any] = {}

    def build(index: int) -> Any:
        if index in built:
            return built[index]
        value = table[index]
        if isinstance(value, dict):
            # Known before it is filled, because a value may contain itself.
            target: dict[str, Any] = {}
            built[index] = target
            target.update((key, part(inner)) for key, inner in value.items())
            return target
        if isinstance(value, list):
            entries: list[Any] = []
            built[index] = entries
            entries.extend(part(inner) for inner in value)
            return entries
        built[index] = value
        return value

    def part(inner: Any) -> Any:
        return build(int(inner)) if isinstance(inner, str) else inner

    return build(0)


def _is_ok(url: str) -> bool:
    try:
        return requests.get(url, timeout=REQUEST_LIMIT).status_code == 200
    except requests.ConnectionError:
        return False
