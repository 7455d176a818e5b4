"""The benchmarks work: the rows are measured, a miss is called a miss, and the load is what it says it is."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import websocket

from . import against
from .against import NEW, OLD, OLD_AGAIN, Comparison
from .contestants import wire
from .processes import (
    ROOT,
    BenchmarkError,
    Contestant,
    LoadBroker,
    Unavailable,
    require_machine,
    wait_registered,
    ws_modules,
)
from .report import Row, table

PROTOTYPE = """
import sys
sys.path.insert(0, ".")
from tests.benchmarks.contestants import floor
floor.main(sys.argv[1], int(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def modules() -> Path:
    try:
        require_machine()
    except Unavailable as error:
        pytest.skip(str(error))
    return ws_modules()


def run(json_path: Path, *arguments: str) -> dict[str, Any]:
    """Return the JSON of `python -m tests.benchmarks` after a successful run."""
    command = [sys.executable, "-m", "tests.benchmarks", "--json", str(json_path), *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
    printed = done.stdout.decode("utf-8", "replace")
    assert done.returncode == 0, printed
    document: dict[str, Any] = json.loads(json_path.read_text())
    for row in document["rows"]:
        assert row["what"] in printed
    return document


def test_every_contestant_is_compared_with_the_others(modules: Path, tmp_path: Path) -> None:
    prototype = tmp_path / "prototype.py"
    prototype.write_text(PROTOTYPE)
    document = run(tmp_path / "out.json", "throughput", "--quick", "--prototype", str(prototype))
    rows = {row["what"]: row for row in document["rows"]}
    for other in ("floor", "callbacks", "prototype"):
        assert rows[f"capacity 5: {other}"]["median"] > 0
        assert rows[f"capacity 5: package / {other}"]["met"] in (True, False)
    runs = {one["contestant"]: one for one in document["runs"]}
    ratio = runs["package"]["tasks_per_second"] / runs["floor"]["tasks_per_second"]
    assert rows["capacity 5: package / floor"]["median"] == pytest.approx(ratio)


def test_a_runner_is_measured_with_its_metrics_and_hooks(modules: Path, tmp_path: Path) -> None:
    document = run(tmp_path / "out.json", "observed", "--quick")
    rates: dict[str, list[float]] = {"off": [], "on": []}
    for one in document["runs"]:
        rates[one["state"]].append(one["tasks_per_second"])
    (row,) = (row for row in document["rows"] if row["what"].endswith("hooks: on / off"))
    assert row["values"] == [pytest.approx(on / off) for on, off in zip(rates["on"], rates["off"])]


needs_git = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is not a checkout of git")


@needs_git
def test_the_working_tree_is_compared_with_a_commit(modules: Path, tmp_path: Path) -> None:
    arguments = [
        "--against",
        "HEAD",
        "--quick",
        "throughput",
        "imports",
        "--seconds",
        "0.3",
        "--repetitions",
        "1",
    ]
    rows = {row["what"]: row for row in run(tmp_path / "out.json", *arguments)["rows"]}
    assert set(rows) == {
        "throughput, capacity 5",
        "throughput, capacity 5: CPU of a task",
        "import n8nrunner, build a Runner",
    }
    for row in rows.values():
        (one,) = row["rounds"]
        assert set(one) == {OLD, NEW, OLD_AGAIN}
        assert row["ratios"] == [row["ratio"]]


@needs_git
def test_each_version_runs_its_own_code(tmp_path: Path) -> None:
    programs = against.prepare("HEAD", tmp_path)
    shown = {}
    for side, program in programs.items():
        code = "import n8nrunner; from tests.benchmarks.contestants import package; print(n8nrunner.__file__)"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=program.folder, stdout=subprocess.PIPE, check=True, text=True
        )
        shown[side] = Path(done.stdout.strip())
    assert shown == {
        OLD: tmp_path / "old" / "n8nrunner" / "__init__.py",
        NEW: tmp_path / "new" / "n8nrunner" / "__init__.py",
        OLD_AGAIN: tmp_path / "old" / "n8nrunner" / "__init__.py",
    }


def test_an_unknown_commit_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="no-such-commit"):
        against.prepare("no-such-commit", tmp_path)


def rounds(*figures: Any) -> Any:
    return [{OLD: old, NEW: new, OLD_AGAIN: again} for old, new, again in figures]


def test_the_new_version_is_compared_with_the_mean_of_the_old_figures() -> None:
    rate = Comparison("rate", "tasks/s", rounds((100, 88, 81), (100, 180, 100), (100, 90, 100)))
    assert rate.ratios == pytest.approx([88 / 90, 1.8, 0.9])
    assert rate.ratio == pytest.approx(88 / 90)
    assert rate.noise_ratios == pytest.approx([0.81, 1, 1])
    time = Comparison("time", "s", rounds((1.0, 2.0, 4.0)), more_is_better=False)
    assert time.ratios == pytest.approx([1.0])


def test_a_row_may_be_worse_by_its_noise() -> None:
    quiet = Comparison("rate", "tasks/s", rounds((100, 97, 100), (100, 97, 100)))
    assert quiet.noise == 0
    assert not quiet.met
    noisy = Comparison("rate", "tasks/s", rounds((100, 97, 100), (100, 97, 103)))
    assert 0.02 < noisy.noise < 0.1
    assert noisy.met
    assert Comparison("rate", "tasks/s", rounds((100, 98, 100), (100, 98, 100))).met


def test_rows_for_information_do_not_count() -> None:
    slow = Comparison("CPU", "us", rounds((1, 9, 1), (1, 9, 1)), is_counted=False)
    rows = [Comparison("rate", "tasks/s", rounds((1, 2, 1), (1, 2, 1))), slow]
    assert against.geometric_mean(rows) == pytest.approx(2)
    printed = against.table(rows)
    assert "for information" in printed
    assert "MISSED" not in printed
    assert printed.splitlines()[-1].startswith("geometric mean of 1 rows")


def test_a_restarted_broker_lets_five_a_second_in(modules: Path, tmp_path: Path) -> None:
    document = run(tmp_path / "out.json", "crowd", "--quick", "--crowd", "6", "--pause", "0.2")
    (one,) = document["runs"]
    assert len(one["seconds"]) == 6
    assert max(one["seconds"]) > 1


def test_the_broker_counts_the_outcomes_of_tasks(modules: Path) -> None:
    program = ("-m", "tests.benchmarks.contestants.floor")
    with LoadBroker(modules) as broker, Contestant("floor", program, broker.urls, 3) as floor:
        wait_registered(broker, [floor])
        echo = broker.ask("echo", broker=0, bytes=300_000, times=2, pid=floor.pid)
        assert echo["bytes"] == pytest.approx(300_000, rel=0.01)
        assert len(echo["seconds"]) == 2
        paced = broker.ask("pace", broker=0, every=0.005, seconds=0.2, pid=floor.pid)
        assert paced["tasks"] == 40
        assert 0 < paced["p50"] <= paced["p99"] <= paced["worst"]
        assert broker.ask("accounts", of=[0], wait=True) == [
            {
                "sent": 42,
                "done": 42,
                "failed": 0,
                "rejected": 0,
                "lost": 0,
                "unexpected": 0,
                "firstError": None,
                "unanswered": 0,
            }
        ]


def test_a_stalled_broker_neither_reads_on_nor_completes_its_frame(modules: Path) -> None:
    with LoadBroker(modules) as broker:
        url, header = wire.way_in(broker.urls[0], "test")
        runner = websocket.create_connection(url, header=header, timeout=10)
        runner.send(wire.info("test"))
        runner.send(wire.offer(1))
        broker.tell({"do": "stall", "broker": 0, "settings": {}, "in_frame": True})
        task_id = read_up_to(runner, "broker:taskofferaccept")["taskId"]
        runner.send(wire.accepted(task_id))
        read_up_to(runner, "broker:tasksettings")
        runner.send(wire.done(task_id, "x" * 1_000_000))
        assert broker.hear(10) == {"answer": None}
        assert broker.ask("accounts", of=[0], wait=False)[0]["unanswered"] == 1

        opcode, announced, of_64_bits = struct.unpack(">BBQ", runner.sock.recv(10))
        assert (opcode, announced) == (0x81, 127)
        assert len(runner.sock.recv(65536)) < of_64_bits
        runner.sock.settimeout(0.2)
        with pytest.raises(socket.timeout):
            runner.sock.recv(1)
        runner.shutdown()


def read_up_to(runner: websocket.WebSocket, kind: str) -> dict[str, Any]:
    """Reads up to a message of that type."""
    while True:
        message: dict[str, Any] = json.loads(runner.recv())
        if message["type"] == kind:
            return message


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (Row("rate", [0.5, 0.9, 0.7], "x", at_least=0.7), "met"),
        (Row("rate", [0.5, 0.9, 0.69], "x", at_least=0.7), "MISSED"),
        (Row("time", [1.1, 9.0, 1.2], "s", at_most=1.2), "met"),
        (Row("time", [1.1, 9.0, 1.21], "s", at_most=1.2), "MISSED"),
        (Row("time", [1.1], "s"), ""),
    ],
)
def test_the_median_is_compared_with_the_wanted_value(row: Row, verdict: str) -> None:
    assert row.cells()[-1] == verdict
    assert table([row]).splitlines()[-1].endswith(verdict or "1.10 s")


def test_many_values_are_shown_with_the_range_of_their_median() -> None:
    row = Row("rate", [float(value) for value in range(1, 101)], "x")
    assert row.interval == (40, 61)
    assert "40 to 61, 95 %" in table([row])
    assert "1 to 19" in table([Row("rate", [float(value) for value in range(1, 20)], "x")])


def test_what_hooks_and_tracing_add_to_a_call_is_measured(tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.sdk")
    if not sys.platform.startswith("linux"):
        pytest.skip("it reads the clock of a thread's CPU time as Linux has it")
    path = tmp_path / "out.json"
    command = [sys.executable, "-m", "tests.benchmarks.calls", "--calls", "10", "--rounds", "2"]
    done = subprocess.run([*command, "--json", str(path)], cwd=ROOT, stdout=subprocess.PIPE, timeout=60)
    assert done.returncode == 0
    (row,) = (
        row for row in json.loads(path.read_text())["rows"] if row["what"] == "added to a call by tracing"
    )
    assert len(row["values"]) == 2
    assert row["at_most"] == 25
