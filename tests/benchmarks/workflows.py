"""Measure functions in workflows of a real n8n: `python -m tests.benchmarks.workflows`.

It needs the n8n of tests/n8n (`python -m tests.n8n.install`) and the extra "dev". A webhook calls a function
and answers with its result. For comparison, the same is done

- by the floor: a bare `websocket.WebSocket` loop that serves the same node, written under another name;
- by n8n's HTTP Request node, which calls an endpoint of FastAPI.

With one caller, all are there at once and are called by turns, in short runs, because n8n's own time drifts
by more than the measured differences. Otherwise contestants take turns, each started again for every turn. A
ratio is taken within one repetition. No other program should run.
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
from tests.n8n.runners import PLAIN_ENVIRONMENT

from . import report
from .processes import ROOT
from .report import Row

OURS, FLOOR, ENDPOINT = "n8nrunner", "floor", "FastAPI"
FUNCTIONS = "tests.benchmarks.contestants.functions"
#: The runners' names; the nodes have the same names.
NAMES = {OURS: "measured", FLOOR: "floor"}
CALLERS = 10
CAPACITY = 10
FILE_BYTES = 1_000_000


@dataclass(frozen=True)
class Sizes:
    """How much. The defaults are what the wanted figures are meant for."""

    repetitions: int = 3
    turns: int = 4  # of each contestant, in one repetition
    warm_up: int = 50  # calls of each contestant, before any that count
    runs: int = 16  # of each contestant with one caller, in one repetition
    calls_of_a_run: int = 20
    calls_at_rest: int = 300  # of each contestant, in one repetition
    calls_at_once: int = 200  # of a turn with ten
    items: int = 10_000
    files: int = 20
    restarts: int = 20


QUICK = Sizes(
    repetitions=1,
    turns=1,
    warm_up=1,
    runs=1,
    calls_of_a_run=5,
    calls_at_rest=5,
    calls_at_once=20,
    items=500,
    files=2,
    restarts=1,
)


class Bench:
    """A running n8n with the node of `contestants/functions.py`, and its workflows."""

    def __init__(self, n8n: N8n, folder: Path, sizes: Sizes, say: Callable[[str], None]) -> None:
        self.n8n = n8n
        self.sizes = sizes
        self.say = say
        self.runs: list[dict[str, Any]] = []
        self._folder = folder
        self._started = 0
        self._endpoint = f"http://127.0.0.1:{free_port()}"
        number = "={{ $json.body.number }}"
        request = _request(f"{self._endpoint}/double", number=number)
        self.number = {
            OURS: self._workflow("function", _function("double", number=number)),
            FLOOR: self._workflow("floor", _function("double", FLOOR, number=number)),
            ENDPOINT: self._workflow("request", request),
        }
        items = {"name": "Items", "type": "n8n-nodes-base.splitOut", "typeVersion": 1}
        items["parameters"] = {
            "fieldToSplitOut": "body.numbers",
            "options": {"destinationFieldName": "number"},
        }
        last = {
            "name": "Last",
            "type": "n8n-nodes-base.limit",
            "typeVersion": 1,
            "parameters": {"maxItems": 1},
        }
        number = "={{ $json.number }}"
        self.items = {
            OURS: self._workflow("items", items, _function("double", number=number), last),
            FLOOR: self._workflow("items-floor", items, _function("double", FLOOR, number=number), last),
        }
        respond = {"responseData": "firstEntryBinary", "responseBinaryPropertyName": "copy"}
        self.file = {
            OURS: self._workflow("file", _function("copy_file", document="upload0"), **respond),
            ENDPOINT: self._workflow("file-request", _file_request(f"{self._endpoint}/copy"), **respond),
        }

    def _workflow(self, name: str, *nodes: dict[str, Any], **webhook: Any) -> Workflow:
        return self.n8n.create_workflow(name, [webhook_node(name, **webhook), *nodes])

    @contextmanager
    def at_work(self, name: str) -> Iterator[None]:
        """A contestant in a process of its own, ready."""
        environment = {
            "N8N_RUNNERS_TASK_BROKER_URI": self.n8n.broker_url,
            "N8N_RUNNERS_AUTH_TOKEN": self.n8n.auth_token,
            "N8N_RUNNERS_MAX_CONCURRENCY": str(CAPACITY),
            "N8NRUNNER_NAME": NAMES[OURS],
        }
        command = {
            OURS: ["n8nrunner", "run", FUNCTIONS],
            FLOOR: ["tests.benchmarks.contestants.functions_floor"],
            ENDPOINT: ["tests.benchmarks.contestants.endpoint", self._endpoint.rpartition(":")[2]],
        }[name]
        self._started += 1
        begun = self.n8n.output_length
        process = _python(name, command, environment, self._folder / f"{name}-{self._started}.log")
        try:
            if name == ENDPOINT:
                poll(lambda: _answers(f"{self._endpoint}/docs"), f"{name} answers", 30.0)
            else:
                self.n8n.wait_for_output(f'Registered runner "{NAMES[name]}"', start=begun)
            yield
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
                for name in contestants if number % 2 == 0 else contestants[::-1]:
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
    names, chance = list(bench.number), random.Random(0)
    sizes = bench.sizes

    def at_once(name: str) -> list[float]:
        # The first two meet what n8n has left to do for others.
        return [milliseconds(name) for _ in range(2 + sizes.calls_of_a_run)][2:]

    def at_rest(name: str) -> list[float]:
        time.sleep(chance.uniform(0.025, 0.05))
        return [milliseconds(name)]

    def milliseconds(name: str) -> float:
        return _seconds(lambda: _call(bench.number[name])) * 1000

    def by_turns(run: Callable[[str], list[float]], runs: int) -> dict[str, list[float]]:
        values: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(runs):
            # In an order of chance: in a fixed one, who is called after whom would count.
            for name in chance.sample(names, len(names)):
                values[name] += run(name)
        return values

    with bench.at_work(OURS), bench.at_work(FLOOR), bench.at_work(ENDPOINT):
        for _ in range(sizes.warm_up):
            for workflow in bench.number.values():
                _call(workflow)
        what = "one caller"
        rows = _rows_of_one_caller(what, bench.medians(what, lambda: by_turns(at_once, sizes.runs)))
        what = "one caller, n8n at rest"
        rest = bench.medians(what, lambda: by_turns(at_rest, sizes.calls_at_rest))
        return rows + _rows_of_one_caller(what, rest)


def _rows_of_one_caller(what: str, found: dict[str, list[float]]) -> list[Row]:
    differences = [ours - floor for ours, floor in zip(found[OURS], found[FLOOR])]
    return [
        *(Row(f"{what}, p50: {name}", values, "ms") for name, values in found.items()),
        Row(f"{what}, p50: n8nrunner / floor", _ratios(found[OURS], found[FLOOR]), "x", at_most=1.05),
        Row(f"{what}, p50: n8nrunner - floor", differences, "ms"),
        Row(f"{what}, p50: n8nrunner / FastAPI", _ratios(found[OURS], found[ENDPOINT]), "x", at_most=1.0),
    ]


def ten_callers(bench: Bench) -> list[Row]:
    """Calls a second, with ten callers."""

    def turn(name: str) -> float:
        workflow = bench.number[name]
        calls = bench.sizes.calls_at_once
        with ThreadPoolExecutor(CALLERS) as callers:
            list(callers.map(lambda _: _call(workflow), range(CALLERS)))
            return calls / _seconds(lambda: list(callers.map(lambda _: _call(workflow), range(calls))))

    found = bench.turns("ten callers", (OURS, FLOOR, ENDPOINT), turn)
    return [
        *(Row(f"ten callers: {name}", values, "calls/s") for name, values in found.items()),
        Row("ten callers: n8nrunner / floor", _ratios(found[OURS], found[FLOOR]), "x"),
        Row("ten callers: n8nrunner / FastAPI", _ratios(found[OURS], found[ENDPOINT]), "x", at_least=1.0),
    ]


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
        Row(f"{what}: n8nrunner / floor", _ratios(found[OURS], found[FLOOR]), "x", at_most=1.5),
        Row(
            f"{what}, the node alone: n8nrunner / floor",
            _ratios(node_seconds[OURS], node_seconds[FLOOR]),
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
        Row("1 MB there and back: n8nrunner / FastAPI", _ratios(found[OURS], found[ENDPOINT]), "x"),
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


MEASURES: dict[str, Callable[[Bench], list[Row]]] = {
    "one-caller": one_caller,
    "ten-callers": ten_callers,
    "items": many_items,
    "files": files,
    "restarts": restarts,
}


def _seconds(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [one / other for one, other in zip(ours, theirs)]


def _call(workflow: Workflow) -> None:
    response = workflow.call({"number": 21})
    assert response.json() == [{"result": 42}], response.text[:300]


# --- nodes and processes ------------------------------------------------------------------------


def _function(operation: str, runner: str = OURS, **parameters: Any) -> dict[str, Any]:
    parameters["operation"] = operation
    return {"name": "Function", "type": f"CUSTOM.{NAMES[runner]}", "typeVersion": 1, "parameters": parameters}


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
        return requests.get(url, timeout=5.0).ok or None
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
