"""``python -m tests.netns [--runs N]``: how soon a dead peer is noticed, each case N times."""

from __future__ import annotations

import argparse
import logging
from concurrent.futures import Future, ThreadPoolExecutor

from tests.netns import cases

#: Cases that run at the same time. They wait most of the time.
AT_ONCE = 12


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.netns", description=__doc__)
    parser.add_argument("--runs", type=int, default=1, help="runs of each case (default: 1)")
    arguments = parser.parse_args()
    lacking = cases.why_not()
    if lacking is not None:
        raise SystemExit(lacking)
    # The broker's records go to a place of their own; what is lost here is lost on purpose.
    logging.getLogger("n8nrunner").addHandler(logging.NullHandler())
    rows: list[tuple[str, str, float, list[Future[float]]]] = []
    with ThreadPoolExecutor(AT_ONCE) as executor:
        for name, (case, situations, limit) in cases.CASES.items():
            for situation in situations:
                # Each run at another moment between two pings.
                runs = [
                    executor.submit(case, situation, number * 2.3 % 10) for number in range(arguments.runs)
                ]
                rows.append((name, situation, limit, runs))
    print("| case | situation | limit (s) | worst (s) | all (s) |")
    print("|---|---|---|---|---|")
    failed = False
    for name, situation, limit, runs in rows:
        errors = [error for error in (run.exception() for run in runs) if error is not None]
        seconds = sorted(run.result() for run in runs if run.exception() is None)
        worst = f"{seconds[-1]:.1f}" if seconds else "-"
        failed = failed or bool(errors) or not seconds or seconds[-1] > limit
        shown = " ".join([f"{value:.1f}" for value in seconds] + [repr(error) for error in errors])
        print(f"| {name} | {situation} | {limit:g} | {worst} | {shown} |")
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
