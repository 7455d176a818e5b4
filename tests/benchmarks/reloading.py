"""From a save to new code that serves: ``python -m tests.benchmarks.reloading``.

Under `n8nrunner run --reload`, a program of some modules serves callers that call again as soon as they have
an answer, over the embedded broker. An editor's save changes one of the modules. The time ends with the first
answer of the new code. The log names the time of the import, which is subtracted. The next save comes at a
random moment.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from n8nrunner.broker import Broker
from tests.processes import Program, python

from .report import Row, table

#: Seconds, with the import. `LIMIT` is the wait for an answer, after which a call counts as lost.
WANTED, LIMIT = 0.5, 10.0

MAIN = """
from n8nrunner import Runner
{imports}
runner = Runner(name="reloading", capacity={callers})

@runner.function
def version() -> int:
    return m0.VERSION
"""

SETTINGS = {"version": 1, "function": "version", "calls": [{"item": 0, "arguments": {}}]}


class Callers:
    """Threads that call, and note when a version answered first, and which calls failed."""

    def __init__(self, broker: Broker, count: int) -> None:
        self.calls = self.failed = 0
        self._broker = broker
        self._first: dict[int, float] = {}
        self._changed = threading.Condition()
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _call(self) -> None:
        while not self._ends.is_set():
            try:
                result = self._broker.run_task("n8nrunner.reloading", SETTINGS, timeout=LIMIT)
                version = result["items"][0]["json"]["result"]
            except Exception as error:  # each of them is a lost or a failed call
                print(f"a call failed: {error!r}")
                version = None
            now = time.perf_counter()
            with self._changed:
                self.calls += 1
                self.failed += version is None
                if version is not None and version not in self._first:
                    self._first[version] = now
                    self._changed.notify_all()

    def wait_for(self, version: int) -> float:
        """Return the moment of the first answer of a version."""
        with self._changed:
            if not self._changed.wait_for(lambda: version in self._first, LIMIT):
                raise SystemExit(f"version {version} did not answer within {LIMIT:g} s")
            return self._first[version]

    def end(self) -> None:
        """Let the threads end after their calls."""
        self._ends.set()
        for thread in self._threads:
            thread.join(LIMIT)


def _write(path: Path, text: str) -> None:
    """Write a file as most editors do."""
    new = path.with_suffix(".tmp")
    new.write_text(text)
    new.replace(path)


def _measure(modules: int, saves: int, callers: int, chance: random.Random) -> list[Row]:
    """Return the rows of a program with this number of modules, the main module not included."""
    with tempfile.TemporaryDirectory() as name, Broker(auth_token="secret") as broker:
        folder = Path(name)
        for number in range(modules):
            more = "".join(f"def f{line}(x):\n    return [x, {line}]\n" for line in range(100))
            _write(folder / f"m{number}.py", f"VERSION = 0\n{more}")
        imports = "\n".join(f"import m{number}" for number in range(modules))
        _write(folder / "main.py", MAIN.format(imports=imports, callers=callers))
        env = {"N8N_RUNNERS_TASK_BROKER_URI": broker.url, "N8N_RUNNERS_AUTH_TOKEN": "secret"}
        command = ("-m", "n8nrunner", "run", "main", "--reload")
        with python(*command, env=env, cwd=folder) as program:
            program.wait_for("Registered")
            calling = Callers(broker, callers)
            try:
                times, without = _save(program, calling, folder / "m0.py", saves, chance)
            finally:
                calling.end()
        of = f"{modules} modules" if modules > 1 else "a module"
        return [
            Row(f"{of}: from a save to an answer of the new code", times, "s"),
            Row(f"{of}: the same, without the import", without, "s", at_most=WANTED),
            Row(f"{of}: the longest of these", [max(without)], "s", at_most=WANTED),
            Row(f"{of}: calls during {saves} saves", [calling.calls]),
            Row(f"{of}: calls that were lost or failed", [calling.failed], at_most=0),
            Row(f"{of}: connections", [broker.counts.registered], at_most=1),
        ]


def _save(
    program: Program, calling: Callers, path: Path, saves: int, chance: random.Random
) -> tuple[list[float], list[float]]:
    """Save a module again and again. Return the times until new code served, with and without the import."""
    times, without = [], []
    body = path.read_text().partition("\n")[2]
    for version in range(1, saves + 1):
        time.sleep(chance.uniform(0.3, 0.6))
        began = time.perf_counter()
        _write(path, f"VERSION = {version}\n{body}")
        times.append(calling.wait_for(version) - began)
        said = re.search(r"Reloaded main in ([\d.]+) (m?)s ", program.wait_for("Reloaded"))
        assert said is not None
        without.append(times[-1] - float(said[1]) * (0.001 if said[2] else 1.0))
    return times, without


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if no call was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.reloading", description=__doc__)
    parser.add_argument("--saves", type=int, default=40, help="of each program (default: %(default)s)")
    parser.add_argument("--callers", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--modules", type=int, nargs="*", default=[1, 100], help="default: 1 100")
    options = parser.parse_args(arguments)
    chance = random.Random(0)
    rows = [
        row
        for modules in options.modules
        for row in _measure(modules, options.saves, options.callers, chance)
    ]
    print(table(rows))
    return 0 if all(row.met is not False for row in rows if "calls" in row.what) else 1


if __name__ == "__main__":
    sys.exit(main())
