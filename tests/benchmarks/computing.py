"""Functions that compute for 200 ms: ``python -m tests.benchmarks.computing``.

A node of `n8nrunner.testing` calls such a function, over the embedded broker: on the runner's threads, in one
and two processes of a `ProcessPoolExecutor`, and on two workers of dask. The baseline is two bare processes
that share the same calls without n8nrunner, and the two workers of dask are there without it as well. All of
them are there at once, and compute by turns of some seconds, A B C, C B A, and so on, so that what disturbs
one disturbs all. A ratio is taken within a round.

A call takes 200 ms of CPU time, not a number of loops: a process can be a quarter faster than another one
with the same loop, by the addresses that it happens to have. The CPU time of a call in all processes, for
information, says most while other programs run.

Dask's own work while it is idle, 0.15 of a core, goes on during the turns of the others.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from typing import Any, Callable, NamedTuple

from n8nrunner import Runner, testing
from tests.execution.scaled import burn, process_id

from .processes import cpu_seconds
from .report import Row, table
from .turns import in_turn, ratios

SECONDS = 0.2
WANTED = 0.9
SPAWN = multiprocessing.get_context("spawn")
BARE, TWO = "2 bare processes", "2 processes"
DASK, BARE_DASK = "dask, 2 workers", "dask without n8nrunner"


class Turns(NamedTuple):
    """One side of the comparison, which takes turns with the others."""

    #: Makes so many calls.
    make: Callable[[int], object]
    #: The ids of the processes in which they run, besides this one.
    processes: set[int]

    def cpu(self) -> float:
        """Return the CPU seconds until now, with those of this process."""
        return time.process_time() + sum(map(cpu_seconds, self.processes))


class Contestant(NamedTuple):
    """A runner."""

    capacity: int
    #: Processes in which its functions run.
    processes: int
    make: Callable[[], Executor] | None


def share(seconds: float, left: Any, barrier: Any) -> None:
    """Do the work of one bare process: in each turn, make calls until none is left."""
    while True:
        barrier.wait()
        while True:
            with left.get_lock():
                if not left.value:
                    break
                left.value -= 1
            burn(seconds)
        barrier.wait()


@contextlib.contextmanager
def bare(seconds: float) -> Iterator[Turns]:
    """Yield the turns of two bare processes."""
    barrier, left = SPAWN.Barrier(3), SPAWN.Value("i", 0)
    processes = [SPAWN.Process(target=share, args=(seconds, left, barrier)) for _ in range(2)]
    for process in processes:
        process.start()

    def turn(calls: int) -> None:
        left.value = calls
        barrier.wait()
        barrier.wait()

    try:
        yield Turns(turn, {process.pid for process in processes if process.pid is not None})
    finally:
        for process in processes:
            process.kill()
            process.join()


def local_contestants() -> dict[str, Contestant]:
    """Return the contestants that need this computer's processes only, by their names."""
    return {
        "threads": Contestant(2, 1, None),
        "1 process": Contestant(1, 1, lambda: ProcessPoolExecutor(1, mp_context=SPAWN)),
        TWO: Contestant(2, 2, lambda: ProcessPoolExecutor(2, mp_context=SPAWN)),
    }


@contextlib.contextmanager
def dask_client(workers: int) -> Iterator[Any]:
    """Yield a client of so many workers of dask. Raises `ImportError` if dask is not installed."""
    from dask.distributed import Client, LocalCluster

    options = {"threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": logging.CRITICAL}
    with (
        LocalCluster(n_workers=workers, **options) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def bare_dask(client: Any, seconds: float) -> Turns:
    """Return the turns of dask's workers without a runner, with a call on each of them at any time."""
    executor = client.get_executor(pure=False)  # a pure function is called once for the same arguments

    def turn(calls: int) -> None:
        running: set[Future[object]] = set()
        for _ in range(calls):
            if len(running) == 2:
                running = wait(running, return_when=FIRST_COMPLETED).not_done
            running.add(executor.submit(burn, seconds))
        wait(running)

    return Turns(turn, set(client.run(os.getpid).values()))


@contextlib.contextmanager
def served(contestant: Contestant, seconds: float) -> Iterator[Turns]:
    """Yield the turns of a runner."""
    runner = Runner(name="computing", capacity=contestant.capacity, executor=contestant.make)
    runner.function(burn)
    runner.function(process_id)
    with testing.serve(runner) as n8n:
        node = n8n.node(batch_size=1)
        running: set[int] = set()
        while len(running) < contestant.processes:  # a pool starts a process when it is needed
            items = node.call_items("process_id", [{"loops": 1_000_000}] * 4)
            running |= {item.json["result"] for item in items}
        yield Turns(
            lambda calls: node.call_items("burn", [{"seconds": seconds}] * calls), running - {os.getpid()}
        )


def measure(rounds: int, calls: int) -> list[Row]:
    """Return the rows of all contestants."""
    with contextlib.ExitStack() as ends:
        turns = {BARE: ends.enter_context(bare(SECONDS))}
        contestants = local_contestants()
        try:
            client = ends.enter_context(dask_client(2))
        except ImportError:
            print("without dask, which is not installed", file=sys.stderr)
        else:
            turns[BARE_DASK] = bare_dask(client, SECONDS)
            contestants[DASK] = Contestant(2, 2, client.get_executor)
        for name, contestant in contestants.items():
            turns[name] = ends.enter_context(served(contestant, SECONDS))
        rates: dict[str, list[float]] = {name: [] for name in turns}
        cpu: dict[str, list[float]] = {name: [] for name in turns}
        for turn in turns.values():
            turn.make(2)
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
            for name in in_turn(turns, number):
                begun, used = time.perf_counter(), turns[name].cpu()
                turns[name].make(calls)
                rates[name].append(calls / (time.perf_counter() - begun))
                cpu[name].append((turns[name].cpu() - used) / calls * 1000)
    rows = [Row(f"calls of 200 ms per second: {name}", values) for name, values in rates.items()]
    for name, values in rates.items():
        if name != BARE:
            wanted = WANTED if name in (TWO, DASK) else None
            rows.append(Row(f"{name} / {BARE}", ratios(values, rates[BARE]), "x", at_least=wanted))
    if DASK in rates:
        rows.append(Row(f"{DASK} / {BARE_DASK}", ratios(rates[DASK], rates[BARE_DASK]), "x"))
    for name, values in cpu.items():
        rows.append(Row(f"CPU of a call, with the runner and n8n's side: {name}", values, "ms"))
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the rows. Return 0, whether or not the wanted figures are met."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.computing", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--calls", type=int, default=20, help="of a turn; default: %(default)s")
    options = parser.parse_args(arguments)
    print(table(measure(options.rounds, options.calls)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
