"""The table of docs/scaling.md: what works on threads, in processes and with dask. Each cell is a test."""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable

import pytest

from n8nrunner import Runner, ignore_interrupts, testing
from n8nrunner.broker import BrokerTaskError
from n8nrunner.testing import CallFailed, ServedRunner
from tests.benchmarks import computing
from tests.conftest import wait_until
from tests.execution import scaled
from tests.pages import blocks, read

PAGE = "docs/scaling.md"
COLUMNS = ("threads", "processes", "dask")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a worker ends itself by a signal")


def table() -> dict[str, dict[str, str]]:
    """Return the cells of the page's table, by row and column."""
    rows = {}
    for line in read(PAGE).splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and not set(cells[0]) <= set("-: ") and cells[0] != "on":
            rows[cells[0]] = dict(zip(COLUMNS, cells[1:]))
    return rows


ROWS = table()
#: The row of a runner of its own.
LOCAL = "a lambda, or a function of a notebook's cell"


@contextlib.contextmanager
def executors(column: str) -> Iterator[Callable[[], Executor] | None]:
    """Yield a function that makes an executor with two workers; None for the runner's own threads."""
    if column == "threads":
        yield None
    elif column == "processes":
        spawn = multiprocessing.get_context("spawn")
        yield lambda: ProcessPoolExecutor(2, mp_context=spawn, initializer=ignore_interrupts)
    else:
        pytest.importorskip("dask.distributed")
        with computing.dask_client(2) as client:
            yield client.get_executor


class Observer:
    """Calls the functions of `scaled`, and says of each row of the table what it has seen."""

    def __init__(self, n8n: ServedRunner, folder: Path, is_elsewhere: bool) -> None:
        self._n8n = n8n
        self._folder = folder
        self._is_elsewhere = is_elsewhere

    def observe(self) -> dict[str, str]:
        """Return the cells of one column."""
        with ThreadPoolExecutor(2) as threads:
            for call in [threads.submit(self._n8n.call, "burn", seconds=0.3) for _ in range(2)]:
                call.result(60)  # a process pool starts its second process when it is needed
        around = self._n8n.call("around")[0].json
        seen = {
            "arguments and results": self._works("add", a=1, b=2),
            "a file that travels with the task": self._works("read", document=bytes(1000)),
            "a file of the result that travels with it": self._works("write", size=1000),
            "`task_context`": _yes(around["context"]),
            "`contextvars` of the start": _yes(around["start"]),
            "hooks `started`, `finished`, `failed`": self._hooks(around["hooks"]),
            "`task.log`": self._log(),
            "the traceback of an exception, in n8n and in the last errors": self._traceback(),
            "counts and durations in `snapshot()`": self._counts(),
            "`limit=1`": self._limit(),
        }
        with pytest.MonkeyPatch.context() as patch:
            for module in ("arguments", "node"):
                patch.setattr(f"n8nrunner.testing.{module}.INLINE_BYTES", 0)
            seen["a larger file, which is fetched from n8n"] = self._works("read", document=bytes(1000))
            seen["a larger file of the result, which is stored by n8n"] = self._works("write", size=1000)
        seen.update(self._ends())
        if self._is_elsewhere:
            seen["a worker process that is killed"] = self._kill()
        else:
            seen["a worker process that is killed"] = "there is none"
        return seen

    def _works(self, function: str, **arguments: object) -> str:
        try:
            self._n8n.call(function, **arguments)
        except CallFailed:
            return "no"
        return "yes"

    def _hooks(self, were_called: bool) -> str:
        if not were_called:
            return "no"
        return "yes" if scaled._hooked else "in the process of the call"

    def _log(self) -> str:
        with contextlib.suppress(CallFailed):
            self._n8n.call("log")
        return _yes("'seen in the browser'" in self._n8n.logs)

    def _traceback(self) -> str:
        with pytest.raises(CallFailed, match='raise ValueError\\("no such lead"\\)'):
            self._n8n.call("fail")
        last = self._n8n.snapshot().errors[0]
        return _yes(last.function == "fail" and 'ValueError("no such lead")' in (last.traceback or ""))

    def _counts(self) -> str:
        (function,) = [each for each in self._n8n.snapshot().functions if each.name == "add"]
        return _yes(function.calls == 1 and function.duration.count == 1)

    def _limit(self) -> str:
        with ThreadPoolExecutor(2) as threads:
            calls = [threads.submit(self._n8n.call, "limited", seconds=0.1) for _ in range(2)]
            spans = sorted(call.result(30)[0].json["span"] for call in calls)
        return _yes(spans[0][1] <= spans[1][0])

    def _ends(self) -> dict[str, str]:
        """End two tasks that run: by a cancellation, and by a time limit."""
        seen = {}
        node = f"n8nrunner.{self._n8n.snapshot().name}"
        for row, limit in (("a cancellation", None), ("a time limit", 1)):
            folder = self._folder / row.replace(" ", "-")
            folder.mkdir()
            settings: dict[str, Any] = {
                "version": 1,
                "function": "wait_for_end",
                "calls": [{"item": 0, "arguments": {"folder": str(folder)}}],
            }
            if limit is not None:
                settings["timeLimit"] = limit
            task = self._n8n.broker.submit(node, settings)
            wait_until(lambda folder=folder: (folder / "begun").exists())
            if limit is None:
                progress = [each.progress for each in self._n8n.snapshot().tasks]
                seen["`task.progress` in `snapshot()`"] = _yes(progress == [0.5])
                task.cancel()
            with pytest.raises(BrokerTaskError):
                task.result(10)
            seen[f"{row} ends the call for n8n"] = "yes"
            noticed = wait_until(
                lambda folder=folder: (folder / "seen").exists() and (folder / "seen").read_text()
            )
            seen[f"{row} is seen by the function"] = noticed
            wait_until(lambda: not self._n8n.snapshot().tasks)
        return seen

    def _kill(self) -> str:
        """Let one of two busy processes be killed, and call again."""
        with ThreadPoolExecutor(2) as threads:
            folder = str(self._folder)
            calls = [threads.submit(self._n8n.call, name, folder=folder) for name in ("bystand", "survive")]
            failed = [isinstance(call.exception(60), CallFailed) for call in calls]
        assert self._n8n.call("add", a=1, b=2)[0].json["result"] == 3
        ends = {
            (True, True): "its call and those of the other processes fail, and the pool is replaced",
            (False, False): "its call runs again on another worker",
        }
        return ends.get((failed[0], failed[1]), "its call fails")


def call_of_a_function_without_a_module(make: Callable[[], Executor] | None) -> str:
    runner = Runner(name="local", executor=make)
    runner.function(name="answer")(lambda: 42)
    runner.function(scaled.add)
    with testing.serve(runner) as n8n:
        assert n8n.call("add", a=1, b=2)[0].json["result"] == 3  # it does not concern other functions
        try:
            return _yes(n8n.call("answer")[0].json["result"] == 42)
        except CallFailed:
            return "no"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def limited(seconds: float) -> dict:
    import time

    begun = time.monotonic()
    scaled.burn(seconds)
    return {"span": [begun, time.monotonic()]}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, tracker: None) -> Callable[[str], dict[str, str]]:
    """Return a function that observes a column, once."""
    observed: dict[str, dict[str, str]] = {}

    def observe(column: str) -> dict[str, str]:
        if column not in observed:
            with executors(column) as make:
                scaled._hooked.clear()
                runner = Runner(name="scaled", executor=make, capacity=2, task_context=scaled.context)
                runner.on("started", scaled.hook)
                for name in (
                    "add",
                    "read",
                    "write",
                    "log",
                    "around",
                    "fail",
                    "wait_for_end",
                    "survive",
                    "bystand",
                    "burn",
                ):
                    runner.function(getattr(scaled, name))
                runner.function(limit=1)(limited)
                token = scaled.of_the_start.set(True)
                try:
                    with testing.serve(runner) as n8n:
                        folder = tmp_path_factory.mktemp(column)
                        observed[column] = Observer(n8n, folder, make is not None).observe()
                    observed[column][LOCAL] = call_of_a_function_without_a_module(make)
                finally:
                    scaled.of_the_start.reset(token)
        return observed[column]

    return observe


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("column", COLUMNS)
def test_a_cell_of_the_table_is_true(seen: Callable[[str], dict[str, str]], column: str, row: str) -> None:
    assert seen(column)[row] == ROWS[row][column]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Return a function that writes a block of the page into the module that the page names."""
    monkeypatch.syspath_prepend(tmp_path)
    yield (tmp_path / "primes.py").write_text
    sys.modules.pop("primes", None)


def block(number: int) -> str:
    return blocks(PAGE, "python")[number].text


def test_the_functions_of_the_page_run_in_processes(module: Callable[[str], None], tracker: None) -> None:
    module(block(0))
    with testing.serve("primes") as n8n:
        assert n8n.call("primes", below=10)[0].json["result"] == 4


def test_the_functions_of_the_page_run_on_workers_of_dask(module: Callable[[str], None]) -> None:
    distributed = pytest.importorskip("dask.distributed")
    with computing.dask_client(1) as client:
        module(block(1).replace("tcp://127.0.0.1:8786", client.scheduler.address))
        with testing.serve("primes") as n8n:
            assert n8n.call("primes", below=10)[0].json["result"] == 4
        distributed.Client.current().close()


def test_the_table_has_every_row_that_is_observed(seen: Callable[[str], dict[str, str]]) -> None:
    assert set(ROWS) == set(seen("threads"))


def test_the_benchmark_of_functions_that_compute_measures_both_sides(tracker: None) -> None:
    one = computing.Contestant(1, 1, None)
    with computing.bare(0.001) as bare, computing.served(one, 0.001) as served:
        for turns in (bare, served):
            before = turns.cpu()
            turns.make(4)
            assert turns.cpu() - before >= 0.004
        assert len(bare.processes) == 2
        assert not served.processes


def test_the_benchmark_makes_each_call_on_workers_of_dask() -> None:
    pytest.importorskip("dask.distributed")
    with computing.dask_client(1) as client:
        turns = computing.bare_dask(client, 0.05)
        assert len(turns.processes) == 1
        before = turns.cpu()
        turns.make(4)
        assert turns.cpu() - before >= 0.15, "equal calls were made once"
