from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from . import __doc__ as description
from . import against, measures, report
from .processes import BenchmarkError, Unavailable, require_machine, ws_modules


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=description,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    known = ", ".join(measures.MEASURES)
    parser.add_argument("measures", nargs="*", metavar="MEASURE", help=f"all if none is named: {known}")
    parser.add_argument("--quick", action="store_true", help="short, to see that it works")
    parser.add_argument("--against", metavar="COMMIT", help="compare with an older version, see above")
    parser.add_argument("--json", type=Path, default="build/benchmarks.json", help="default: %(default)s")
    parser.add_argument("--prototype", type=Path, metavar="PATH", help="a script that takes part, see above")
    parser.add_argument("--contestants", default=",".join(measures.PROGRAMS), help="default: %(default)s")
    parser.add_argument("--repetitions", type=int, help="default: 3; with --against 6")
    parser.add_argument("--capacities", type=numbers, help="of throughput; default: 1,5,50,1000")
    parser.add_argument("--seconds", type=float, help="of a window under load; default: 4; with --against 3")
    parser.add_argument("--idle-seconds", type=float, help="default: 60")
    parser.add_argument("--pause", type=float, help="seconds that a broker is away; default: 10")
    parser.add_argument("--reconnections", type=int, help="default: 20")
    parser.add_argument("--crowd", type=int, help="runners after one restart; default: 30")
    options = parser.parse_args(arguments)
    if options.against:
        known = ", ".join(against.MEASURES)
    for name in options.measures:
        if name not in (against.MEASURES if options.against else measures.MEASURES):
            parser.error(f"there is no such measure: {name!r}; choose from {known}")
    for name in options.contestants.split(","):
        if name not in measures.PROGRAMS:
            parser.error(f"there is no contestant {name!r}, only {', '.join(measures.PROGRAMS)}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if all was measured and no task or thread went astray, whether or not the wanted figures are met."""
    options = parse(arguments)
    if options.against:
        return compare(options)
    sizes = chosen_sizes(options, measures.Sizes(), measures.QUICK)
    programs = {name: measures.PROGRAMS[name] for name in options.contestants.split(",")}
    if options.prototype:
        programs[measures.PROTOTYPE] = measures.Program((str(options.prototype.resolve()),))
    try:
        bench = prepare_bench(sizes, programs)
    except Unavailable as error:
        say(f"not possible here: {error}")
        return 1
    rows, failures = take(options.measures, measures.MEASURES, bench)
    rows += bench.soundness()
    if measures.PACKAGE in programs:
        what = "tasks without an answer or account, or answered twice"
        rows.append(report.Row(what, [bench.unaccounted], at_most=0))
        rows.append(report.Row("threads or descriptors left behind", [bench.left_behind], at_most=0))
    return finish(options, bench, report.table(rows), rows, failures)


def compare(options: argparse.Namespace) -> int:
    """`--against`: the exit code of `main`."""
    sizes = chosen_sizes(options, against.FULL, against.QUICK)
    with tempfile.TemporaryDirectory(prefix="n8nrunner-against-") as folder:
        try:
            bench = prepare_bench(sizes, against.prepare(options.against, Path(folder)))
        except BenchmarkError as error:
            say(f"not possible here: {error}")
            return 1
        rows, failures = take(options.measures, against.MEASURES, bench)
    soundness = report.table(bench.soundness())
    return finish(options, bench, f"{against.table(rows)}\n\n{soundness}", rows, failures)


def chosen_sizes(options: argparse.Namespace, full: measures.Sizes, quick: measures.Sizes) -> measures.Sizes:
    given = {name: value for name, value in vars(options).items() if value is not None}
    sizes = quick if options.quick else full
    return replace(sizes, **{name: value for name, value in given.items() if name in asdict(sizes)})


def prepare_bench(sizes: measures.Sizes, programs: dict[str, measures.Program]) -> measures.Bench:
    require_machine()
    return measures.Bench(ws_modules(), sizes, programs, say)


def take(names: Sequence[str], known: dict[str, Any], bench: measures.Bench) -> tuple[list[Any], list[str]]:
    """Run the named measures, or all of them; returns their rows, and what failed."""
    rows: list[Any] = []
    failures = []
    for name in names or known:
        say(name)
        try:
            rows += known[name](bench)
        except BenchmarkError as error:
            failures.append(f"{name}: {error}")
            say(f"  FAILED: {error}")
    return rows, failures


def finish(
    options: argparse.Namespace, bench: measures.Bench, table: str, rows: Sequence[Any], failures: list[str]
) -> int:
    """Print the table and write the JSON; returns the exit code."""
    ws = json.loads((bench.modules / "ws" / "package.json").read_text())["version"]
    about = {
        "machine": {**report.machine(), "ws": ws},
        "sizes": asdict(bench.sizes),
        "quick": options.quick,
        "failures": failures,
    }
    report.write_json(options.json, rows, bench.runs, about)
    say("")
    print(table)
    if options.quick:
        print("\nA quick run: it shows that everything works; the figures say little.")
    for failure in failures:
        print(f"\nFAILED {failure}")
    say(f"\nwritten to {options.json}")
    return 1 if failures or bench.unaccounted or bench.left_behind else 0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
