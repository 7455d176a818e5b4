from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

from . import __doc__ as description
from . import measures, report
from .processes import BenchmarkError, Unavailable, require_machine, ws_modules


def numbers(text: str) -> Tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def parse(arguments: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=description,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    known = ", ".join(measures.MEASURES)
    parser.add_argument("measures", nargs="*", metavar="MEASURE", help=f"all if none is named: {known}")
    parser.add_argument("--quick", action="store_true", help="short, to see that it works")
    parser.add_argument("--json", type=Path, default="build/benchmarks.json", help="default: %(default)s")
    parser.add_argument("--prototype", type=Path, metavar="PATH", help="a script that takes part, see above")
    parser.add_argument("--contestants", default=",".join(measures.PROGRAMS), help="default: %(default)s")
    parser.add_argument("--repetitions", type=int, help="default: 3")
    parser.add_argument("--capacities", type=numbers, help="of throughput; default: 1,5,50,1000")
    parser.add_argument("--seconds", type=float, help="of a window under load; default: 4")
    parser.add_argument("--idle-seconds", type=float, help="default: 60")
    parser.add_argument("--pause", type=float, help="seconds that a broker is away; default: 10")
    parser.add_argument("--reconnections", type=int, help="default: 20")
    parser.add_argument("--crowd", type=int, help="runners after one restart; default: 30")
    options = parser.parse_args(arguments)
    for name in options.measures:
        if name not in measures.MEASURES:
            parser.error(f"there is no measure {name!r}, only {known}")
    for name in options.contestants.split(","):
        if name not in measures.PROGRAMS:
            parser.error(f"there is no contestant {name!r}, only {', '.join(measures.PROGRAMS)}")
    return options


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """0 if all was measured and no task or thread went astray, whether or not the wanted figures are met."""
    options = parse(arguments)
    sizes = measures.QUICK if options.quick else measures.Sizes()
    for name, value in vars(options).items():
        if value is not None and name in asdict(sizes):
            sizes = replace(sizes, **{name: value})
    programs = {name: measures.PROGRAMS[name] for name in options.contestants.split(",")}
    if options.prototype:
        programs[measures.PROTOTYPE] = (str(options.prototype.resolve()),)
    try:
        require_machine()
        bench = measures.Bench(ws_modules(), sizes, programs, say)
    except Unavailable as error:
        say(f"not possible here: {error}")
        return 1
    ws = json.loads((bench.modules / "ws" / "package.json").read_text())["version"]
    machine = {**report.machine(), "ws": ws}
    rows: List[report.Row] = []
    failures = []
    for name in options.measures or measures.MEASURES:
        say(name)
        try:
            rows += measures.MEASURES[name](bench)
        except BenchmarkError as error:
            failures.append(f"{name}: {error}")
            say(f"  FAILED: {error}")
    rows += bench.soundness()
    if measures.PACKAGE in programs:
        what = "tasks without an answer or account, or answered twice"
        rows.append(report.Row(what, [bench.unaccounted], at_most=0))
        rows.append(report.Row("threads or descriptors left behind", [bench.left_behind], at_most=0))
    about = {"machine": machine, "sizes": asdict(sizes), "quick": options.quick, "failures": failures}
    report.write_json(options.json, rows, bench.runs, about)
    say("")
    print(report.table(rows))
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
