"""Measure functions in workflows of a real n8n: `python -m tests.benchmarks.workflows`.

It needs the n8n of tests/n8n (`python -m tests.n8n.install`) and the extra "dev". A webhook calls a function
and answers with its result. For comparison, the same is done

- by the floor: a bare `websocket.WebSocket` loop that serves the same node, written under another name;
- by n8n's HTTP Request node, which calls an endpoint of FastAPI.

With one caller, and with tracing, all are there at once and are called by turns, in short runs, because
n8n's own time drifts by more than the measured differences. Otherwise contestants take turns, each started
again for every turn. A ratio is taken within one repetition, with tracing within two turns. No other program
should run.

The node *Python Function* is compared with a node that is written for the same functions, and the editor's
questions are answered while all slots of a runner are taken by loops in pure Python. An agent calls the
function through *Python Tools*, and the same function of a FastMCP server through n8n's *MCP Client Tool*.
The same runner is measured with a span of OpenTelemetry and a line in the log for each call.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Callable

import requests

from tests.n8n.install import N8N_VERSION, install
from tests.n8n.load import Load
from tests.n8n.n8n import N8n, Workflow, webhook_node, write_node
from tests.n8n.processes import ChildProcess, free_port, poll
from tests.n8n.runners import PLAIN_ENVIRONMENT, RunnerProcess

from . import report
from .agents import MCP, tool_calls
from .processes import ROOT
from .report import Row
from .turns import in_turn, ratios

OURS, FLOOR, ENDPOINT = "n8nrunner", "floor", "FastAPI"
#: The same runner with a span and a line in the log for each call.
TRACED = "n8nrunner, traced"
FUNCTIONS = "tests.benchmarks.contestants.functions"
#: The runners' names; the nodes have the same names.
NAMES = {OURS: "measured", TRACED: "traced", FLOOR: "floor"}
#: The expression for the number of a request's body.
NUMBER = "={{ $json.body.number }}"
CALLERS = 10
CAPACITY = 10
FILE_BYTES = 1_000_000
#: The node that is written from the functions, the same a second time for the noise, and Python Function.
WRITTEN, AGAIN, LIVE = "written node", "written node again", "Python Function"
#: The line that the function `spin` prints when it begins.
SPINNING = "spinning"
#: Seconds for which such a call may take.
SPIN_LIMIT = 600.0


@dataclass(frozen=True)
class Sizes:
    """How much. The defaults are what the wanted figures are meant for."""

    repetitions: int = 3
    turns: int = 4  # of each contestant, in one repetition
    warm_up: int = 50  # calls of each contestant, before any that count
    runs: int = 16  # of each contestant with one caller, in one repetition
    calls_of_a_run: int = 20
    calls_at_rest: int = 300  # of each contestant, in one repetition
    calls_at_once: int = 200  # of a turn with ten callers
    rounds: int = 40  # of two runners that ten callers call by turns, in one repetition
    calls_of_a_round: int = 20  # of each of them
    items: int = 10_000
    files: int = 20
    restarts: int = 20
    questions: int = 200  # of the editor, at each capacity
    cells: int = 40  # of a program, each with a new function
    capacities: tuple[int, ...] = (5, 10, 20)  # all of whose slots are taken then


QUICK = Sizes(
    repetitions=1,
    turns=1,
    warm_up=1,
    runs=1,
    calls_of_a_run=5,
    calls_at_rest=5,
    calls_at_once=20,
    rounds=2,
    calls_of_a_round=10,
    items=500,
    files=2,
    restarts=1,
    questions=5,
    cells=2,
    capacities=(5,),
)


class Bench:
    """A running n8n with the node of `contestants/functions.py`, and its workflows."""

    def __init__(self, n8n: N8n, folder: Path, sizes: Sizes, say: Callable[[str], None]) -> None:
        self.n8n = n8n
        self.sizes = sizes
        self.say = say
        self.runs: list[dict[str, Any]] = []
        self.folder = folder
        self._started = 0
        self._endpoint = f"http://127.0.0.1:{free_port()}"
        self._mcp_port = free_port()
        self.mcp_url = f"http://127.0.0.1:{self._mcp_port}/mcp"
        request = _request(f"{self._endpoint}/double", number=NUMBER)
        self.number = {
            OURS: self.workflow("function", _function("double", number=NUMBER)),
            FLOOR: self.workflow("floor", _function("double", FLOOR, number=NUMBER)),
            ENDPOINT: self.workflow("request", request),
        }
        number = "={{ $json.number }}"
        self.items = {
            OURS: self.workflow("items", *_for_items(_function("double", number=number))),
            FLOOR: self.workflow("items-floor", *_for_items(_function("double", FLOOR, number=number))),
        }
        respond = {"responseData": "firstEntryBinary", "responseBinaryPropertyName": "copy"}
        self.file = {
            OURS: self.workflow("file", _function("copy_file", document="upload0"), **respond),
            ENDPOINT: self.workflow("file-request", _file_request(f"{self._endpoint}/copy"), **respond),
        }

    def workflow(self, name: str, *nodes: dict[str, Any], **webhook: Any) -> Workflow:
        """Create a workflow that a webhook of this name starts."""
        return self.n8n.create_workflow(name, [webhook_node(name, **webhook), *nodes])

    @contextmanager
    def at_work(self, name: str, capacity: int = CAPACITY) -> Iterator[ChildProcess]:
        """A contestant in a process of its own, ready."""
        environment = {
            "N8N_RUNNERS_TASK_BROKER_URI": self.n8n.broker_url,
            "N8N_RUNNERS_AUTH_TOKEN": self.n8n.auth_token,
            "N8N_RUNNERS_MAX_CONCURRENCY": str(capacity),
            "N8NRUNNER_NAME": NAMES.get(name, name),
        }
        command = {
            OURS: ["n8nrunner", "run", FUNCTIONS],
            TRACED: ["n8nrunner", "run", "--log-calls", "--log-format", "json", f"{FUNCTIONS}_traced"],
            FLOOR: ["tests.benchmarks.contestants.functions_floor"],
            ENDPOINT: ["tests.benchmarks.contestants.endpoint", self._endpoint.rpartition(":")[2]],
            MCP: ["tests.benchmarks.contestants.mcp_server", str(self._mcp_port)],
        }[name]
        self._started += 1
        begun = self.n8n.output_length
        process = _python(name, command, environment, self.folder / f"{name}-{self._started}.log")
        try:
            if name == ENDPOINT:
                poll(lambda: _answers(f"{self._endpoint}/docs"), f"{name} answers", 30.0)
            elif name == MCP:
                poll(lambda: _answers(self.mcp_url), f"{name} answers", 30.0)
            else:
                self.n8n.wait_for_output(f'Registered runner "{NAMES[name]}"', start=begun)
            yield process
        finally:
            process.kill()

    def medians(
        self, measure: str, repetition: Callable[[], dict[str, list[float]]]
    ) -> dict[str, list[float]]:
        """The median of what a repetition gave for each contestant, for every repetition."""
        found: dict[str, list[float]] = {}
        for _ in range(self.sizes.repetitions):
            for name, values in repetition().items():
                found.setdefault(name, []).append(statistics.median(values))
                self.runs.append({"measure": measure, "contestant": name, "values": values})
            self.say("  " + ", ".join(f"{name} {medians[-1]:.4g}" for name, medians in found.items()))
        return found

    def turns(
        self,
        measure: str,
        contestants: Sequence[str],
        turn: Callable[[str], float],
    ) -> dict[str, list[float]]:
        """Return the results of `turn` for each contestant: the median of its turns, for every repetition."""

        def repetition() -> dict[str, list[float]]:
            values: dict[str, list[float]] = {name: [] for name in contestants}
            for number in range(self.sizes.turns):
                # A B, B A, ...: what drifts in n8n falls on both.
                for name in in_turn(contestants, number):
                    with self.at_work(name):
                        values[name].append(turn(name))
            return values

        return self.medians(measure, repetition)


# --- measures -----------------------------------------------------------------------------------


def one_caller(bench: Bench) -> list[Row]:
    """From the webhook to the function and back, with one caller.

    Twice, because n8n has work of its own for 20 ms after each answer: a caller that calls again at once
    waits for that in every contestant; a later call finds n8n idle.
    """
    chance = random.Random(0)

    def at_rest(workflow: Workflow) -> list[float]:
        time.sleep(chance.uniform(0.025, 0.05))
        return [_seconds(lambda: _call(workflow)) * 1000]

    with bench.at_work(OURS), bench.at_work(FLOOR), bench.at_work(ENDPOINT):
        what = "one caller"
        rows = _rows_of_one_caller(what, _calls_at_once(bench, what, bench.number))
        what = "one caller, n8n at rest"
        rest = bench.medians(what, lambda: _by_turns(bench.number, at_rest, bench.sizes.calls_at_rest))
        return rows + _rows_of_one_caller(what, rest)


def _calls_at_once(bench: Bench, what: str, workflows: dict[str, Workflow]) -> dict[str, list[float]]:
    """The milliseconds of a call of each workflow, by one caller who calls again at once."""
    sizes = bench.sizes
    for _ in range(sizes.warm_up):
        for workflow in workflows.values():
            _call(workflow)

    def run(workflow: Workflow) -> list[float]:
        # The first two meet what n8n has left to do for others.
        return [_seconds(lambda: _call(workflow)) * 1000 for _ in range(2 + sizes.calls_of_a_run)][2:]

    return bench.medians(what, lambda: _by_turns(workflows, run, sizes.runs))


def _by_turns(
    workflows: dict[str, Workflow], run: Callable[[Workflow], list[float]], runs: int
) -> dict[str, list[float]]:
    chance = random.Random(0)
    values: dict[str, list[float]] = {name: [] for name in workflows}
    for _ in range(runs):
        # In an order of chance: in a fixed one, who is called after whom would count.
        for name in chance.sample(list(workflows), len(workflows)):
            values[name] += run(workflows[name])
    return values


def _rows_of_one_caller(what: str, found: dict[str, list[float]]) -> list[Row]:
    differences = [ours - floor for ours, floor in zip(found[OURS], found[FLOOR])]
    return [
        *(Row(f"{what}, p50: {name}", values, "ms") for name, values in found.items()),
        Row(f"{what}, p50: n8nrunner / floor", ratios(found[OURS], found[FLOOR]), "x", at_most=1.05),
        Row(f"{what}, p50: n8nrunner - floor", differences, "ms"),
        Row(f"{what}, p50: n8nrunner / FastAPI", ratios(found[OURS], found[ENDPOINT]), "x", at_most=1.0),
    ]


def ten_callers(bench: Bench) -> list[Row]:
    """Calls a second, with ten callers."""
    calls = bench.sizes.calls_at_once
    found = bench.turns("ten callers", (OURS, FLOOR, ENDPOINT), lambda name: _rate(bench.number[name], calls))
    return [
        *(Row(f"ten callers: {name}", values, "calls/s") for name, values in found.items()),
        Row("ten callers: n8nrunner / floor", ratios(found[OURS], found[FLOOR]), "x"),
        Row("ten callers: n8nrunner / FastAPI", ratios(found[OURS], found[ENDPOINT]), "x", at_least=1.0),
    ]


def tracing(bench: Bench) -> list[Row]:
    """Calls a second with ten callers, of a runner with a span and a line for each call, and of one without.

    Both are there at once, and are called by turns of about a second: n8n takes a thousand times as long for
    a call as a span does, so any change of its speed between two turns would hide the difference. Each
    repetition has new processes.
    """
    workflows = {
        OURS: bench.number[OURS],
        TRACED: bench.workflow("traced", _function("double", TRACED, number=NUMBER)),
    }
    rates: dict[str, list[float]] = {name: [] for name in workflows}
    for _ in range(bench.sizes.repetitions):
        with bench.at_work(OURS), bench.at_work(TRACED):
            for turn in range(bench.sizes.rounds):
                for name in in_turn(workflows, turn):
                    rates[name].append(_rate(workflows[name], bench.sizes.calls_of_a_round))
        last = {name: statistics.median(values[-bench.sizes.rounds :]) for name, values in rates.items()}
        bench.say("  " + ", ".join(f"{name} {rate:.4g}" for name, rate in last.items()))
    for name, values in rates.items():
        bench.runs.append({"measure": "tracing", "contestant": name, "values": values})
    return [
        *(Row(f"ten callers: {name}", values, "calls/s") for name, values in rates.items()),
        Row("ten callers: traced / not", ratios(rates[TRACED], rates[OURS]), "x", at_least=0.98),
    ]


def _rate(workflow: Workflow, calls: int) -> float:
    """Return the calls a second of ten callers, after a first call of each."""
    with ThreadPoolExecutor(CALLERS) as callers:
        list(callers.map(lambda _: _call(workflow), range(CALLERS)))
        return calls / _seconds(lambda: list(callers.map(lambda _: _call(workflow), range(calls))))


def many_items(bench: Bench) -> list[Row]:
    """Ten thousand items through a function: the whole call, and the node alone as n8n has timed it."""
    numbers = list(range(bench.sizes.items))
    node_seconds: dict[str, list[float]] = {OURS: [], FLOOR: []}

    def turn(name: str) -> float:
        answers: list[Any] = []
        seconds = _seconds(lambda: answers.append(bench.items[name].call({"numbers": numbers}).json()))
        assert answers == [[{"result": 0}]], answers
        node = bench.items[name].wait_for_execution("success").data["resultData"]["runData"]["Function"][-1]
        assert len(node["data"]["main"][0]) == len(numbers)
        node_seconds[name].append(node["executionTime"] / 1000)
        return seconds

    found = bench.turns("items", (OURS, FLOOR), turn)
    what = f"{len(numbers):,} items"
    return [
        *(Row(f"{what}: {name}", values, "s") for name, values in found.items()),
        Row(f"{what}: n8nrunner / floor", ratios(found[OURS], found[FLOOR]), "x", at_most=1.5),
        Row(
            f"{what}, the node alone: n8nrunner / floor",
            ratios(node_seconds[OURS], node_seconds[FLOOR]),
            "x",
        ),
    ]


def files(bench: Bench) -> list[Row]:
    """A file of 1 MB in and out."""
    content = bytes(range(256)) * (FILE_BYTES // 256)

    def turn(name: str) -> float:
        workflow = bench.file[name]

        def call() -> None:
            response = workflow.call(files={"upload0": ("all.bin", content, "application/octet-stream")})
            assert response.content == content, response.text[:300]

        call()
        return statistics.median(_seconds(call) for _ in range(bench.sizes.files)) * 1000

    found = bench.turns("file", (OURS, ENDPOINT), turn)
    return [
        *(Row(f"1 MB there and back: {name}", values, "ms") for name, values in found.items()),
        Row("1 MB there and back: n8nrunner / FastAPI", ratios(found[OURS], found[ENDPOINT]), "x"),
    ]


def restarts(bench: Bench) -> list[Row]:
    """n8n ends and starts again under load, by turns gently and by force; then a call has to be answered."""
    survived, waits = 0, []

    def call(number: int) -> requests.Response:
        return bench.number[OURS].call({"number": number})

    def is_right(number: int, answer: Any) -> bool:
        return bool(answer == [{"result": 2 * number}])

    with bench.at_work(OURS), Load(call, is_right) as load:
        for number in range(bench.sizes.restarts):
            load.wait_for_answers(10)
            if number % 2:
                bench.n8n.stop(under_load=True)
            else:
                bench.n8n.kill()
            bench.n8n.start()
            bench.number[OURS].wait_active()
            begun = time.monotonic()
            response = call(number)
            waits.append(time.monotonic() - begun)
            survived += response.status_code == 200 and is_right(number, response.json())
        assert load.wrong == [], load.wrong
    return [
        Row(
            f"of {bench.sizes.restarts} restarts of n8n, survived", [survived], at_least=bench.sizes.restarts
        ),
        Row("until the next call was answered", waits, "s"),
    ]


def python_function(bench: Bench) -> list[Row]:
    """*Python Function* against a written node: one caller, and ten thousand items."""
    what = "one caller"
    with bench.at_work(OURS):
        workflows = {
            WRITTEN: bench.number[OURS],
            AGAIN: bench.workflow("function-again", _function("double", number=NUMBER)),
            LIVE: bench.workflow("live", _live(bench.n8n, NUMBER)),
        }
        found = _calls_at_once(bench, f"{what}: Python Function", workflows)
    noise = [abs(ratio - 1) for ratio in ratios(found[AGAIN], found[WRITTEN])]
    rows = [Row(f"{what}, p50: {name}", values, "ms") for name, values in found.items()]
    ratio = ratios(found[LIVE], found[WRITTEN])
    rows += [
        Row(f"{what}, p50: {AGAIN} / {WRITTEN}", ratios(found[AGAIN], found[WRITTEN]), "x"),
        Row(f"{what}, p50: {LIVE} / {WRITTEN}", ratio, "x", at_most=1 + max(noise)),
    ]
    return rows + _items_of_live(bench)


def _items_of_live(bench: Bench) -> list[Row]:
    numbers = list(range(bench.sizes.items))
    with bench.at_work(OURS):
        node = _live(bench.n8n, "={{ $json.number }}")
        workflows = {WRITTEN: bench.items[OURS], LIVE: bench.workflow("items-live", *_for_items(node))}

        def run(workflow: Workflow) -> list[float]:
            answers: list[Any] = []
            seconds = _seconds(lambda: answers.append(workflow.call({"numbers": numbers}).json()))
            assert answers == [[{"result": 0}]], answers
            return [seconds]

        what = f"{len(numbers):,} items"
        found = bench.medians(f"{what}: {LIVE}", lambda: _by_turns(workflows, run, bench.sizes.turns))
    return [
        *(Row(f"{what}: {name}", values, "s") for name, values in found.items()),
        Row(f"{what}: {LIVE} / {WRITTEN}", ratios(found[LIVE], found[WRITTEN]), "x", at_most=1.05),
    ]


def describing(bench: Bench) -> list[Row]:
    """The editor asks for a function's form while loops in pure Python take all slots of the runner."""
    spin = bench.workflow("spin", _function("spin"))
    rows = []
    for capacity in bench.sizes.capacities:
        milliseconds = _ask_during_loops(bench, spin, capacity)
        bench.runs.append(
            {"measure": "describing", "contestant": f"{capacity} loops", "values": milliseconds}
        )
        p99 = sorted(milliseconds)[-max(1, len(milliseconds) // 100)]
        what = f"the editor asks while {capacity} loops run"
        at_most = (250.0, 700.0) if capacity == 5 else (None, None)
        rows += [
            Row(f"{what}, p50", [statistics.median(milliseconds)], "ms", at_most=at_most[0]),
            Row(f"{what}, p99", [p99], "ms", at_most=at_most[1]),
        ]
    return rows


def cells(bench: Bench) -> list[Row]:
    """From the end of a cell that registers a function to the editor's answers with it and its form."""
    command = [sys.executable, str(ROOT / "tests" / "n8n" / "cells_script.py")]
    process = RunnerProcess(
        bench.n8n, bench.folder / "cells.log", variables={"N8NRUNNER_NAME": "cells"}, command=command
    )
    ask = bench.n8n.ask_while_editing
    runner = {"value": "cells"}
    seconds = []
    try:
        process.wait_for("registered")
        for number in range(bench.sizes.cells):
            process.run_cell(f"@runner.function\ndef quote(pieces_{number}: int) -> int: return 1")
            begun = time.perf_counter()
            listed = ask("resource-locator-results", "listFunctions", {"runner": runner})
            assert [entry["value"] for entry in listed.json()["data"]["results"]] == ["quote"], listed.text
            chosen = {"runner": runner, "function": {"value": "quote"}}
            form = ask("resource-mapper-fields", "getArguments", chosen)
            assert [field["id"] for field in form.json()["data"]["fields"]] == [f"pieces_{number}"], form.text
            seconds.append(time.perf_counter() - begun)
    finally:
        process.close()
    bench.runs.append({"measure": "cells", "contestant": "editor", "values": seconds})
    what = "from the end of a cell to the function and its form"
    return [
        Row(f"{what}, p50", [statistics.median(seconds)], "s", at_most=1.0),
        Row(f"{what}, longest", [max(seconds)], "s", at_most=1.0),
    ]


def _ask_during_loops(bench: Bench, spin: Workflow, capacity: int) -> list[float]:
    """The milliseconds of each answer."""
    chosen = {"runner": {"value": NAMES[OURS]}, "function": {"value": "double"}}

    def ask() -> None:
        answer = bench.n8n.ask_while_editing("resource-mapper-fields", "getArguments", chosen)
        assert [field["id"] for field in answer.json()["data"]["fields"]] == ["number"], answer.text[:300]

    # The end of the runner's process ends the loops, and with them the calls.
    with ThreadPoolExecutor(capacity) as callers, bench.at_work(OURS, capacity) as process:
        calls = [callers.submit(spin.call, limit=SPIN_LIMIT) for _ in range(capacity)]
        poll(lambda: process.lines.count(SPINNING) == capacity or None, "all slots are taken", 60.0)
        milliseconds = [_seconds(ask) * 1000 for _ in range(bench.sizes.questions)]
        assert not any(call.done() for call in calls), "a loop ended while the editor asked"
    return milliseconds


def agents(bench: Bench) -> list[Row]:
    """An agent's tool call through *Python Tools*, against n8n's MCP Client Tool and a FastMCP server."""
    return tool_calls(bench, OURS, NAMES[OURS])


MEASURES: dict[str, Callable[[Bench], list[Row]]] = {
    "one-caller": one_caller,
    "ten-callers": ten_callers,
    "tracing": tracing,
    "items": many_items,
    "files": files,
    "python-function": python_function,
    "describing": describing,
    "cells": cells,
    "agents": agents,
    "restarts": restarts,
}


def _seconds(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _call(workflow: Workflow) -> None:
    response = workflow.call({"number": 21})
    assert response.json() == [{"result": 42}], response.text[:300]


# --- nodes and processes ------------------------------------------------------------------------


def _function(operation: str, runner: str = OURS, **parameters: Any) -> dict[str, Any]:
    parameters["operation"] = operation
    return {"name": "Function", "type": f"CUSTOM.{NAMES[runner]}", "typeVersion": 1, "parameters": parameters}


def _for_items(node: dict[str, Any]) -> list[dict[str, Any]]:
    """Between a node that makes an item of each number of the body, and one that leaves one result."""
    each = {"fieldToSplitOut": "body.numbers", "options": {"destinationFieldName": "number"}}
    base = "n8n-nodes-base"
    return [
        {"name": "Items", "type": f"{base}.splitOut", "typeVersion": 1, "parameters": each},
        node,
        {"name": "Last", "type": f"{base}.limit", "typeVersion": 1, "parameters": {"maxItems": 1}},
    ]


def _live(n8n: N8n, number: str) -> dict[str, Any]:
    return n8n.python_function("double", "Function", NAMES[OURS], number=number)


def _request(url: str, number: str) -> dict[str, Any]:
    field = f"{{{{ JSON.stringify({{ number: {number.strip('={} ')} }}) }}}}"
    body = {"sendBody": True, "contentType": "json", "specifyBody": "json", "jsonBody": f"={field}"}
    return _http("Request", url, **body)


def _file_request(url: str) -> dict[str, Any]:
    body = {"sendBody": True, "contentType": "binaryData", "inputDataFieldName": "upload0"}
    as_file = {"response": {"response": {"responseFormat": "file", "outputPropertyName": "copy"}}}
    return _http("Request", url, **body, options=as_file)


def _http(name: str, url: str, **parameters: Any) -> dict[str, Any]:
    parameters.update(method="POST", url=url)
    return {"name": name, "type": "n8n-nodes-base.httpRequest", "typeVersion": 4.2, "parameters": parameters}


def _python(name: str, arguments: Sequence[str], variables: dict[str, str], log_path: Path) -> ChildProcess:
    environment = {key: os.environ[key] for key in PLAIN_ENVIRONMENT if key in os.environ}
    command = [sys.executable, "-m", *arguments]
    return ChildProcess(name, command, {**environment, **variables}, log_path, cwd=ROOT)


def _answers(url: str) -> bool | None:
    try:
        # The MCP server refuses a request without a session.
        return requests.get(url, timeout=5.0).status_code < 500 or None
    except requests.ConnectionError:
        return None


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.workflows", description=__doc__)
    known = ", ".join(MEASURES)
    parser.add_argument("measures", nargs="*", metavar="MEASURE", help=f"all if none is named: {known}")
    parser.add_argument("--quick", action="store_true", help="short, to see that it works")
    parser.add_argument("--repetitions", type=int, help="default: 3")
    parser.add_argument("--restarts", type=int, help="default: 20")
    parser.add_argument("--json", type=Path, default="build/workflows.json", help="default: %(default)s")
    options = parser.parse_args(arguments)
    for name in options.measures:
        if name not in MEASURES:
            parser.error(f"there is no measure {name!r}, only {known}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if all was measured, whether or not the wanted figures are met."""
    options = parse(arguments)
    sizes = QUICK if options.quick else Sizes()
    for name in ("repetitions", "restarts"):
        if getattr(options, name) is not None:
            sizes = replace(sizes, **{name: getattr(options, name)})
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        n8n = N8n(install(), Path(folder))
        for name in NAMES.values():
            write_node(FUNCTIONS, n8n.custom_folder, ROOT, N8NRUNNER_NAME=name)
        try:
            n8n.start()
            bench = Bench(n8n, Path(folder), sizes, say)
            for name in options.measures or MEASURES:
                say(name)
                rows += MEASURES[name](bench)
        finally:
            n8n.kill()
    about = {
        "machine": {**report.machine(), "n8n": N8N_VERSION},
        "sizes": asdict(sizes),
        "quick": options.quick,
    }
    report.write_json(options.json, rows, bench.runs, about)
    say("")
    print(report.table(rows))
    say(f"\nwritten to {options.json}")
    return 0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
