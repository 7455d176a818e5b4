from __future__ import annotations

import argparse
import importlib
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from . import __doc__ as description
from . import plan, soak

#: The parts that read input from outside, and the module that tries each with random input.
FUZZES = {
    "frames": "tests.protocol.fuzz_frames",
    "http": "tests.connection.fuzz_http",
    "conversions": "tests.functions.fuzz_conversion",
}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of faults, or of a fuzz; default: 60")
    parser.add_argument("--kills", type=int, metavar="N", help="kill the runner N times instead")
    parser.add_argument("--fuzz", choices=FUZZES, help="try random input instead")
    parser.add_argument("--seed", type=int, help="default: another one each time")
    parser.add_argument("--faults", metavar="KIND,...", help=f"some of: {', '.join(plan.ALL_KINDS)}")
    parser.add_argument(
        "--large", type=float, default=plan.LARGE, help="share of large tasks; default: %(default)s"
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="where the facts are written to")
    options = parser.parse_args(arguments)
    options.kinds = tuple(options.faults.split(",")) if options.faults else plan.ALL_KINDS
    for kind in options.kinds:
        if kind not in plan.ALL_KINDS:
            parser.error(f"there is no fault {kind!r}, only {', '.join(plan.ALL_KINDS)}")
    if options.seed is None:
        options.seed = random.randrange(1_000_000)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    print(f"seed {options.seed}", flush=True)
    if options.fuzz:
        return fuzz(options.fuzz, options.seconds, options.seed)
    if options.kills:
        result = soak.kills(options.kills, options.seed, say)
    else:
        result = soak.soak(options.seconds, options.seed, say, options.kinds, large=options.large)
    print(soak.report(result))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({**result.facts, "seed": options.seed, "good": result.is_good}))
    return 0 if result.is_good else 1


def fuzz(name: str, seconds: float, seed: int) -> int:
    """Run a fuzz, and print how many of each outcome there were; returns the exit code."""
    seen: dict[str, int] = importlib.import_module(FUZZES[name]).run(seconds, seed)
    for outcome, count in sorted(seen.items()):
        print(f"{count:8,} {outcome}")
    print(f"{sum(seen.values()):,} inputs, and every one had its right end")
    return 0 if seen else 1


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
