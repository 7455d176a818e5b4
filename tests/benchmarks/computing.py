"""Functions that compute for 200 ms: ``python -m tests.benchmarks.computing``.

A node of `n8nrunner.testing` calls such a function, over the embedded broker: on the runner's threads, in one
and two processes of a `ProcessPoolExecutor`, and on two workers of dask. The baseline is two bare processes
that run the same function without n8nrunner. The contestants take turns, and each round compares them.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from typing import Any, Callable, NamedTuple

from n8nrunner import Runner, testing
from tests.execution.scaled import process_id, work

from .report import Row, table

SECONDS = 0.2
WANTED = 0.9
SPAWN = multiprocessing.get_context("spawn")
TWO, DASK = "2 processes", "dask, 2 workers"


class Contestant(NamedTuple):
    """A runner."""

    capacity: int
    #: Processes in which its functions run.
    processes: int
    make: Callable[[], Executor] | None


def calibrated() -> int:
    """Return the loops that take `SECONDS` here. The shortest of several tries is the least disturbed."""
    loops = 200_000
    shortest = float("inf")
    for _ in range(10):
        begun = time.perf_counter()
        work(loops)
        shortest = min(shortest, time.perf_counter() - begun)
    return round(loops * SECONDS / shortest)


def repeat(loops: int, times: int, barrier: Any) -> None:
    """Do the work of one bare process."""
    barrier.wait()
    for _ in range(times):
        work(loops)
    barrier.wait()


def bare(loops: int, calls: int) -> float:
    """Return the calls per second of two bare processes."""
    barrier = SPAWN.Barrier(3)
    processes = [SPAWN.Process(target=repeat, args=(loops, calls // 2, barrier)) for _ in range(2)]
    for process in processes:
        process.start()
    barrier.wait()
    begun = time.perf_counter()
    barrier.wait()
    seconds = time.perf_counter() - begun
    for process in processes:
        process.join()
    return calls / seconds


@contextlib.contextmanager
def executors() -> Iterator[dict[str, Contestant]]:
    """Yield the contestants by their names."""
    found = {
        "threads": Contestant(2, 1, None),
        "1 process": Contestant(1, 1, lambda: ProcessPoolExecutor(1, mp_context=SPAWN)),
        TWO: Contestant(2, 2, lambda: ProcessPoolExecutor(2, mp_context=SPAWN)),
    }
    with contextlib.ExitStack() as ends:
        try:
            from dask.distributed import Client, LocalCluster
        except ImportError:
            print("without dask, which is not installed", file=sys.stderr)
        else:
            options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
            client = ends.enter_context(Client(ends.enter_context(LocalCluster(**options))))
            found[DASK] = Contestant(2, 2, client.get_executor)
        yield found


def served(contestant: Contestant, loops: int, calls: int) -> float:
    """Return the calls per second of a runner."""
    runner = Runner(name="computing", capacity=contestant.capacity, executor=contestant.make)
    runner.function(work)
    runner.function(process_id)
    with testing.serve(runner) as n8n:
        node = n8n.node(batch_size=1)
        running: set[int] = set()
        while len(running) < contestant.processes:  # a pool starts a process when it is needed
            items = node.call_items("process_id", [{"loops": loops // 4}] * 4)
            running |= {item.json["result"] for item in items}
        begun = time.perf_counter()
        node.call_items("work", [{"loops": loops}] * calls)
        return calls / (time.perf_counter() - begun)


def measure(rounds: int, calls: int) -> list[Row]:
    """Return the rows of all contestants."""
    loops = calibrated()
    rates: dict[str, list[float]] = {"2 bare processes": []}
    with executors() as contestants:
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
            rates["2 bare processes"].append(bare(loops, calls))
            for name, contestant in contestants.items():
                rates.setdefault(name, []).append(served(contestant, loops, calls))
    baseline = rates["2 bare processes"]
    rows = [Row(f"calls of 200 ms per second: {name}", values) for name, values in rates.items()]
    for name, values in rates.items():
        if values is not baseline:
            ratios = [value / other for value, other in zip(values, baseline)]
            wanted = WANTED if name in (TWO, DASK) else None
            rows.append(Row(f"{name} / 2 bare processes", ratios, "x", at_least=wanted))
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the rows. Return 0, whether or not the wanted figures are met."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.computing", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--calls", type=int, default=30, help="of one contestant in one round, an even number"
    )
    options = parser.parse_args(arguments)
    print(table(measure(options.rounds, options.calls)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
