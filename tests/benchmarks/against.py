"""Compare the working tree with an older commit, in one run: `python -m tests.benchmarks --against COMMIT`.

Both versions run the contestant `package` of the working tree, each with its own folder `n8nrunner`. Every
row is measured in rounds of three processes, one after the other: old, new, and old again. The ratio of a
round is the new figure over the mean of the two old ones, so that a machine that becomes slower does not
count against either. The two old figures give the noise: the ratio that a version has to itself.
"""

from __future__ import annotations

import math
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable

from . import measures
from .measures import Bench, Program, Sizes
from .processes import ROOT, BenchmarkError
from .report import aligned, figure

OLD, NEW, OLD_AGAIN = "old", "new", "old again"
SIDES = (OLD, NEW, OLD_AGAIN)
#: The geometric mean of all rows, and each row less its noise, has to reach this.
WANTED = 0.98
COLUMNS = ("what", "old", "new", "new / old", "lowest to highest", "old / old", "noise", "")

#: About a quarter of an hour.
FULL = Sizes(repetitions=6, warmup=1.0, seconds=3.0, imports=5, idle_seconds=60.0)
QUICK = replace(measures.QUICK, repetitions=2, warmup=0.5, seconds=1.0, idle_seconds=20.0, imports=2)

#: The figures of a round by side.
Round = dict[str, float]


@dataclass(frozen=True)
class Comparison:
    """One row: the same figure of both versions, in several rounds.

    Args:
        what: the name of the row.
        unit: of the figure.
        rounds: the figures of each round by side.
        more_is_better: False for times.
        is_counted: whether the row is judged. The CPU time of a task is not: it says the same as the
            throughput, and says it even while other programs run.
    """

    what: str
    unit: str
    rounds: Sequence[Round]
    more_is_better: bool = True
    is_counted: bool = True

    def _gain(self, figure: float, base: float) -> float:
        return figure / base if self.more_is_better else base / figure

    @property
    def ratios(self) -> list[float]:
        """How much better the new version is in each round: 1.1 is 10 % faster."""
        return [self._gain(one[NEW], math.sqrt(one[OLD] * one[OLD_AGAIN])) for one in self.rounds]

    @property
    def noise_ratios(self) -> list[float]:
        """The same for the old version against itself."""
        return [self._gain(one[OLD_AGAIN], one[OLD]) for one in self.rounds]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def noise(self) -> float:
        """Twice the standard error of a median of as many ratios of the old version to itself."""
        if len(self.rounds) < 2:
            return math.inf
        return 2 * 1.25 * statistics.stdev(self.noise_ratios) / math.sqrt(len(self.rounds))

    @property
    def met(self) -> bool:
        return self.ratio >= WANTED - self.noise

    def cells(self) -> list[str]:
        old = statistics.median([one[side] for one in self.rounds for side in (OLD, OLD_AGAIN)])
        new = statistics.median([one[NEW] for one in self.rounds])
        span = f"{min(self.ratios):.3f} to {max(self.ratios):.3f}"
        noise_span = f"{min(self.noise_ratios):.3f} to {max(self.noise_ratios):.3f}"
        verdict = ("met" if self.met else "MISSED") if self.is_counted else "for information"
        return [
            self.what,
            figure(old, self.unit),
            figure(new, self.unit),
            f"{self.ratio:.3f}",
            span,
            noise_span,
            f"{self.noise:.3f}",
            verdict,
        ]

    def as_json(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "unit": self.unit,
            "rounds": list(self.rounds),
            "ratio": self.ratio,
            "ratios": self.ratios,
            "old_against_old": self.noise_ratios,
            "noise": self.noise,
            "met": self.met if self.is_counted else None,
        }


def geometric_mean(rows: Sequence[Comparison]) -> float:
    return math.exp(statistics.mean(math.log(row.ratio) for row in rows if row.is_counted))


def table(rows: Sequence[Comparison]) -> str:
    """The rows, and the geometric mean below them."""
    lines = [list(COLUMNS)] + [row.cells() for row in rows]
    counted = sum(row.is_counted for row in rows)
    if counted:
        mean = geometric_mean(rows)
        verdict = "met" if mean >= WANTED else "MISSED"
        last = f"geometric mean of {counted} rows, at least {WANTED}"
        lines.append([last, "", "", f"{mean:.3f}", "", "", "", verdict])
    return aligned(lines)


def prepare(commit: str, folder: Path) -> dict[str, Program]:
    """Lay out both versions below `folder`.

    Args:
        commit: anything that git takes for a commit.
        folder: an empty folder.

    Returns:
        A program for each of `SIDES`.

    Raises:
        BenchmarkError: git does not know the commit, or this is not a checkout.
    """
    old, new = folder / "old", folder / "new"
    for side in (old, new):
        contestants = side / "tests" / "benchmarks" / "contestants"
        shutil.copytree(Path(__file__).with_name("contestants"), contestants, ignore=_compiled)
        for package in (contestants.parents[1], contestants.parents[0]):
            (package / "__init__.py").touch()
    shutil.copytree(ROOT / "n8nrunner", new / "n8nrunner", ignore=_compiled)
    archive = folder / "old.tar"
    _run("git", "-C", str(ROOT), "archive", "-o", str(archive), f"{commit}^{{commit}}", "n8nrunner")
    _run("tar", "-x", "-f", str(archive), "-C", str(old))
    for side in (old, new):
        _run(sys.executable, "-m", "compileall", "-q", str(side))
    (arguments,) = {measures.PROGRAMS[measures.PACKAGE].arguments}
    return {name: Program(arguments, new if name == NEW else old, takes_notes=True) for name in SIDES}


_compiled = shutil.ignore_patterns("__pycache__")


def _run(*command: str) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        raise BenchmarkError(f"{' '.join(command)} failed:\n{done.stdout.decode('utf-8', 'replace').strip()}")


def _rounds(bench: Bench, measure: Callable[[str], dict[str, float]]) -> dict[str, list[Round]]:
    """Measure each side by turns.

    Args:
        measure: gets a side, and returns its figures by name.

    Returns:
        The rounds of each figure.
    """
    rounds: dict[str, list[Round]] = {}
    for _ in range(bench.sizes.repetitions):
        taken = {side: measure(side) for side in SIDES}
        for name in taken[OLD]:
            rounds.setdefault(name, []).append({side: taken[side][name] for side in SIDES})
    return rounds


def _rate_and_cpu(result: dict[str, Any]) -> dict[str, float]:
    rate = result["tasks_per_second"]
    return {"rate": rate, "cpu": result["runner_cpu"] / rate * 1e6}


def _rate_rows(what: str, rounds: dict[str, list[Round]]) -> list[Comparison]:
    return [
        Comparison(what, "tasks/s", rounds["rate"]),
        Comparison(f"{what}: CPU of a task", "us", rounds["cpu"], more_is_better=False, is_counted=False),
    ]


def throughput(bench: Bench) -> list[Comparison]:
    rows: list[Comparison] = []
    for capacity in bench.sizes.capacities:

        def measure(side: str, capacity: int = capacity) -> dict[str, float]:
            result = measures.under_load(bench, side, capacity)
            bench.note("throughput", side, capacity=capacity, **result)
            return {**_rate_and_cpu(result), "p50": result["p50"] * 1000}

        rounds = _rounds(bench, measure)
        rows += _rate_rows(f"throughput, capacity {capacity}", rounds)
        if capacity == 1:
            rows.append(Comparison("p50 latency, capacity 1", "ms", rounds["p50"], more_is_better=False))
    return rows


def brokers(bench: Bench) -> list[Comparison]:
    rows: list[Comparison] = []
    count = bench.sizes.brokers
    for capacity in bench.sizes.brokers_capacities:

        def measure(side: str, capacity: int = capacity) -> dict[str, float]:
            result = measures.under_load(bench, side, capacity, count)
            bench.note("brokers", side, capacity=capacity, brokers=count, **result)
            return _rate_and_cpu(result)

        rows += _rate_rows(f"{count} brokers, capacity {capacity}", _rounds(bench, measure))
    return rows


def payload(bench: Bench) -> list[Comparison]:
    size = bench.sizes.payload

    def measure(side: str) -> dict[str, float]:
        seconds, result = measures.echo_payload(bench, side)
        bench.note("payload", side, **result)
        return {"seconds": seconds}

    rounds = _rounds(bench, measure)
    return [Comparison(f"{size / 1e6:.0f} MB echoed", "s", rounds["seconds"], more_is_better=False)]


def imports(bench: Bench) -> list[Comparison]:
    statement = "import n8nrunner; n8nrunner.Runner('http://127.0.0.1:5679', auth_token='secret')"
    for side in SIDES:
        measures.seconds_to_run(statement, bench.programs[side].folder)  # fills the file cache

    def measure(side: str) -> dict[str, float]:
        folder = bench.programs[side].folder
        taken = [measures.seconds_to_run(statement, folder) for _ in range(bench.sizes.imports)]
        bench.note("imports", side, seconds=taken)
        bench.say(f"  {side}: import and Runner() in {measures.milliseconds(min(taken))}")
        return {"milliseconds": min(taken) * 1000}

    rounds = _rounds(bench, measure)
    return [
        Comparison("import n8nrunner, build a Runner", "ms", rounds["milliseconds"], more_is_better=False)
    ]


def idle(bench: Bench) -> list[Comparison]:
    """All rounds side by side: idle runners do not disturb each other."""
    seconds = bench.sizes.idle_seconds
    rounds: list[Round] = []
    with ExitStack() as stack:
        all_rounds = [
            {side: stack.enter_context(bench.at_work(side, 100))[1] for side in SIDES}
            for _ in range(bench.sizes.repetitions)
        ]
        time.sleep(1)  # the registration is not idleness
        begun = [{side: contestant.cpu() for side, contestant in one.items()} for one in all_rounds]
        time.sleep(seconds)
        for one, before in zip(all_rounds, begun):
            rounds.append({side: (one[side].cpu() - before[side]) / seconds * 100 for side in SIDES})
        for one in all_rounds:
            for contestant in one.values():
                bench.stop(contestant)
    bench.note("idle", NEW, seconds=seconds, rounds=rounds)
    return [
        Comparison(f"CPU of an idle runner, {seconds:.0f} s", "% of a core", rounds, more_is_better=False)
    ]


MEASURES: dict[str, Callable[[Bench], list[Comparison]]] = {
    measure.__name__: measure for measure in (throughput, payload, brokers, idle, imports)
}
