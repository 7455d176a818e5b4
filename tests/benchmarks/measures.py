"""The measures: each is a function that takes a `Bench`, starts what it needs, and returns rows to show."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, NamedTuple

from tests.n8n.processes import free_port

from .processes import ROOT, BenchmarkError, Contestant, LoadBroker, wait_registered
from .report import Row
from .turns import in_turn, ratios

FLOOR, CALLBACKS, PACKAGE, PROTOTYPE = "floor", "callbacks", "package", "prototype"


class Program(NamedTuple):
    """How a contestant is started.

    Args:
        arguments: of this Python.
        folder: where it is started, which is also where it imports from.
        takes_notes: whether it is stopped by a line, and then says what it saw, as `package` does.
    """

    arguments: tuple[str, ...]
    folder: Path = ROOT
    takes_notes: bool = False


PROGRAMS = {
    name: Program(("-m", f"tests.benchmarks.contestants.{name}"), takes_notes=name == PACKAGE)
    for name in (FLOOR, CALLBACKS, PACKAGE)
}

# tasks a second by capacity: against which contestant, at least, and what to go for
AGAINST_FLOOR = {1: (0.6, 0.75), 5: (0.4, 0.6), 50: (0.75, 1.0), 1000: (0.85, 1.2)}
AGAINST_CALLBACKS = {5: 1.2, 50: 2.0, 1000: 3.0}
AGAINST_PROTOTYPE = 0.85


@dataclass(frozen=True)
class Sizes:
    """How long and how much. The defaults are what the wanted figures are meant for."""

    repetitions: int = 3
    capacities: tuple[int, ...] = (1, 5, 50, 1000)
    warmup: float = 1.5  # seconds under load before the clock starts
    seconds: float = 4.0  # of a window
    starts: int = 12  # of the two runners that are measured by turns
    turns: int = 4  # of each of them, after one that is not counted
    turn_warmup: float = 0.2
    turn_seconds: float = 0.8
    payload: int = 20_000_000  # bytes
    echoes: int = 3  # of the payload, after one that is not counted
    brokers: int = 20
    brokers_capacities: tuple[int, ...] = (20, 200)
    task_timeout: float = 3.0  # seconds, of the tasks on the broker that misbehaves
    idle_seconds: float = 60.0
    imports: int = 9  # fresh processes of each kind
    pause: float = 10.0  # seconds that a broker is away
    reconnections: int = 20
    crowd: int = 30  # runners after one restart


QUICK = Sizes(
    repetitions=1,
    capacities=(5,),
    warmup=0.3,
    seconds=0.5,
    starts=1,
    turns=2,
    turn_seconds=0.4,
    payload=2_000_000,
    echoes=1,
    brokers=4,
    brokers_capacities=(4,),
    task_timeout=2.0,
    idle_seconds=3.0,
    imports=1,
    pause=1.0,
    reconnections=3,
    crowd=8,
)


@dataclass
class Bench:
    """The state that the measures share: sizes, contestants, and a list of violations."""

    modules: Path
    sizes: Sizes
    programs: dict[str, Program]
    say: Callable[[str], None]
    runs: list[dict[str, Any]] = field(default_factory=list)
    unaccounted: int = 0
    left_behind: int = 0

    @contextmanager
    def at_work(
        self, name: str, capacity: int, brokers: int = 1, **settings: Any
    ) -> Iterator[tuple[LoadBroker, Contestant]]:
        """A contestant that is registered at a broker, or several, of its own."""
        with ExitStack() as stack:
            broker = stack.enter_context(LoadBroker(self.modules, brokers))
            contestant = stack.enter_context(self.new_contestant(name, broker.urls, capacity, **settings))
            wait_registered(broker, [contestant])
            yield broker, contestant

    @contextmanager
    def at_work_apart(
        self, name: str, capacity: int, **settings: Any
    ) -> Iterator[tuple[LoadBroker, Contestant]]:
        """The same, with the broker and the contestant on a core each.

        The system moves processes between the cores, and a runner is up to a third faster or slower on the
        core of its broker.
        """
        cores = sorted(os.sched_getaffinity(0))
        with ExitStack() as stack:
            with on_core(cores[0]):
                broker = stack.enter_context(LoadBroker(self.modules))
            with on_core(cores[-1]):
                contestant = stack.enter_context(self.new_contestant(name, broker.urls, capacity, **settings))
            wait_registered(broker, [contestant])
            yield broker, contestant

    def new_contestant(self, name: str, urls: Sequence[str], capacity: int, **settings: Any) -> Contestant:
        program = self.programs[name]
        return Contestant(name, program.arguments, urls, capacity, folder=program.folder, **settings)

    def require_package(self) -> None:
        if PACKAGE not in self.programs:
            raise BenchmarkError(f"this measure is about the contestant {PACKAGE!r}, which is left out")

    def note(self, measure: str, contestant: str, **values: Any) -> None:
        """Keeps what one run gave, for the JSON."""
        self.runs.append(dict(values, measure=measure, contestant=contestant))

    def soundness(self) -> list[Row]:
        """Whether the figures are worth anything: a broker with time to spare, nothing else at work."""
        rows = []
        for who, key, limit in (("the load broker", "broker_cpu", 95), ("other programs", "other_cpu", 15)):
            shares = [run[key] * 100 for run in self.runs if key in run]
            if shares:
                rows.append(Row(f"CPU of {who}, most in a run", [max(shares)], "% of a core", at_most=limit))
        return rows

    def settle(self, contestant: Contestant, broker: LoadBroker) -> None:
        """Ends a run: every task must have been answered once, on a pool thread, and nothing be left."""
        accounts = broker.ask("accounts", of=list(range(len(broker.urls))), wait=True)
        wrong = sum(account["unanswered"] + account["unexpected"] + account["lost"] for account in accounts)
        failed = [account["firstError"] for account in accounts if account["failed"]]
        if failed:
            raise BenchmarkError(f"{contestant.name} failed a task: {failed[0]}")
        if not self.programs[contestant.name].takes_notes:
            if wrong:
                raise BenchmarkError(f"{contestant.name} did not answer every task once: {accounts}")
            return
        if wrong:
            self.unaccounted += wrong
            self.say(f"    NOT ACCOUNTED FOR: {accounts}")
        if not self.stop(contestant)["handled_by"]:
            raise BenchmarkError("the threads that ran handlers are gone before stop(): were they a pool's?")

    def stop(self, contestant: Contestant) -> Any:
        """The notes of the package's process, which is ended."""
        notes = contestant.stop()
        wrong = [name for name in notes["handled_by"] if name == "MainThread" or "link" in name]
        if wrong:
            raise BenchmarkError(f"handlers ran on {wrong}, not on pool threads")
        if notes["threads_left"] or notes["descriptors_left"] > 0:
            self.left_behind += len(notes["threads_left"]) + max(0, notes["descriptors_left"])
            self.say(f"    LEFT BEHIND: {notes['threads_left']}, {notes['descriptors_left']} descriptors")
        return notes


def throughput(bench: Bench) -> list[Row]:
    """Tasks a second of an empty task, and their latency, at several capacities."""
    rates: dict[tuple[str, int], list[float]] = {}
    latencies: dict[str, list[float]] = {}
    for repetition in range(bench.sizes.repetitions):
        for capacity in bench.sizes.capacities:
            for name in bench.programs:
                result = under_load(bench, name, capacity)
                bench.note("throughput", name, capacity=capacity, repetition=repetition, **result)
                rates.setdefault((name, capacity), []).append(result["tasks_per_second"])
                if capacity == 1:
                    latencies.setdefault(name, []).append(result["p50"])
    rows = []
    for capacity in bench.sizes.capacities:
        for name in bench.programs:
            rows.append(Row(f"capacity {capacity}: {name}", rates[name, capacity], "tasks/s"))
        for other in bench.programs:
            for name in (PACKAGE, PROTOTYPE):
                if other == name or name not in bench.programs or (name, other) == (PROTOTYPE, PACKAGE):
                    continue
                wanted, hoped = wanted_rate(other, capacity) if name == PACKAGE else (None, None)
                ratio = ratios(rates[name, capacity], rates[other, capacity])
                rows.append(
                    Row(f"capacity {capacity}: {name} / {other}", ratio, "x", at_least=wanted, hoped=hoped)
                )
    for name, values in latencies.items():
        if name != FLOOR and FLOOR in latencies:
            wanted = 1.7 if name == PACKAGE else None
            what = f"p50 latency, capacity 1: {name} / floor"
            rows.append(Row(what, ratios(values, latencies[FLOOR]), "x", at_most=wanted))
    return rows


def wanted_rate(other: str, capacity: int) -> tuple[Any, Any]:
    if other == FLOOR:
        return AGAINST_FLOOR.get(capacity, (None, None))
    if other == CALLBACKS:
        return AGAINST_CALLBACKS.get(capacity), None
    return AGAINST_PROTOTYPE, None


def under_load(bench: Bench, name: str, capacity: int, brokers: int = 1) -> dict[str, Any]:
    """One contestant on brokers that always have work waiting: what `broker.js` found."""
    sizes = bench.sizes
    with bench.at_work(name, capacity, brokers) as (broker, contestant):
        result = load(broker, contestant, sizes.warmup, sizes.seconds)
        bench.settle(contestant, broker)
    bench.say(
        f"  {name}, capacity {capacity}, {brokers} broker(s): {result['tasks_per_second']:,.0f} tasks/s, "
        f"p50 {milliseconds(result['p50'])}, p99 {milliseconds(result['p99'])}, CPU of runner/broker/others "
        f"{result['runner_cpu']:.0%}/{result['broker_cpu']:.0%}/{result['other_cpu']:.0%}"
    )
    return result


def load(broker: LoadBroker, contestant: Contestant, warmup: float, seconds: float) -> dict[str, Any]:
    """Let a broker have work waiting for a time. It can be repeated."""
    limit = warmup + seconds + 30
    result: dict[str, Any] = broker.ask("load", limit, warmup=warmup, seconds=seconds, pid=contestant.pid)
    if not result["tasks"]:
        raise BenchmarkError(f"{contestant.name} answered no task within {seconds} s")
    return result


def observed(bench: Bench) -> list[Row]:
    """Tasks a second with metrics that are scraped and with hooks of calls, against without them.

    Two runners, one with them and one without, are there at once. They are under load by turns of less than a
    second, so that both meet the same disturbances, and a ratio compares two turns next to each other. New
    processes follow after a few turns, because one process is some percent faster than another one.

    The metrics are scraped once a second; Prometheus does it every 5 to 60 s. The hooks are one for each of
    "started", "finished" and "failed", and count the calls.
    """
    bench.require_package()
    rows = []
    for capacity in [size for size in bench.sizes.capacities if size in (5, 50)]:
        rates: dict[str, list[float]] = {"off": [], "on": []}
        cpu: dict[str, list[float]] = {"off": [], "on": []}
        for start in range(bench.sizes.starts):
            for state, results in _by_turns(bench, capacity).items():
                for result in results:
                    run = {"capacity": capacity, "state": state, "start": start, **result}
                    bench.note("observed", PACKAGE, **run)
                turns = [result["tasks_per_second"] for result in results]
                rates[state] += turns
                # The system counts CPU time in steps of 10 ms, too coarse for one turn.
                cpu[state].append(sum(result["runner_cpu"] for result in results) / sum(turns) * 1e6)
            of = {state: statistics.median(values[-bench.sizes.turns :]) for state, values in rates.items()}
            bench.say(
                f"  capacity {capacity}: off {of['off']:,.0f} tasks/s, on {of['on']:,.0f}; CPU of a task: "
                f"off {cpu['off'][-1]:.1f} us, on {cpu['on'][-1]:.1f} us"
            )
        what = f"capacity {capacity}: metrics scraped once a second, and three hooks"
        rows += [Row(f"{what}: {state}", rates[state], "tasks/s") for state in ("off", "on")]
        rows.append(Row(f"{what}: on / off", ratios(rates["on"], rates["off"]), "x", at_least=0.95))
        rows.append(Row(f"{what}: CPU of a task, off / on", ratios(cpu["off"], cpu["on"]), "x"))
    return rows


def _by_turns(bench: Bench, capacity: int) -> dict[str, list[dict[str, Any]]]:
    """The turns of a runner without metrics and hooks, and of one with them."""
    sizes = bench.sizes
    port = free_port()
    url = f"http://127.0.0.1:{port}/metrics"
    settings = {"health_check_enabled": True, "health_check_port": port, "hooks": True}
    found: dict[str, list[dict[str, Any]]] = {"off": [], "on": []}
    with ExitStack() as stack:
        off = stack.enter_context(bench.at_work_apart(PACKAGE, capacity))
        on = stack.enter_context(bench.at_work_apart(PACKAGE, capacity, **settings))
        at_work = {"off": off, "on": on}
        for turn in range(-1, sizes.turns):  # the first one is not counted
            for state in in_turn(("on", "off"), turn):
                with scraping(url) if state == "on" else contextlib.nullcontext():
                    result = load(*at_work[state], sizes.turn_warmup, sizes.turn_seconds)
                if turn >= 0:
                    found[state].append(result)
        for broker, contestant in at_work.values():
            bench.settle(contestant, broker)
    return found


@contextmanager
def scraping(url: str) -> Iterator[None]:
    """Fetch the metrics once a second. Raises `BenchmarkError` if that fails, such as without the extra."""
    ended = threading.Event()
    pages: list[bytes] = []

    def scrape() -> None:
        while not ended.wait(1.0 if pages else 0.2):
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=10) as answer:
                pages.append(answer.read())

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    if not pages or b"n8nrunner_calls_total" not in pages[-1]:
        raise BenchmarkError(f"{url} gave no metrics: is the extra 'metrics' installed?")


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Start processes that run on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def payload(bench: Bench) -> list[Row]:
    """A big list of items there and back: what the pieces of a big answer cost."""
    times: dict[str, list[float]] = {}
    for repetition in range(bench.sizes.repetitions):
        for name in bench.programs:
            seconds, result = echo_payload(bench, name)
            times.setdefault(name, []).append(seconds)
            bench.note("payload", name, repetition=repetition, **result)
    size = f"{bench.sizes.payload / 1e6:.0f} MB echoed"
    rows = [Row(f"{size}: {name}", values, "s") for name, values in times.items()]
    for name, values in times.items():
        if name != FLOOR and FLOOR in times:
            wanted = 1.2 if name == PACKAGE else None
            what = f"{size}: time of {name} / floor"
            rows.append(Row(what, ratios(values, times[FLOOR]), "x", at_most=wanted))
    return rows


def echo_payload(bench: Bench, name: str) -> tuple[float, dict[str, Any]]:
    """Seconds of one contestant's echo, the median, and all that `broker.js` found."""
    with bench.at_work(name, 5) as (broker, contestant):
        echoes = 1 + bench.sizes.echoes
        result: dict[str, Any] = broker.ask(
            "echo", 60 * echoes, broker=0, bytes=bench.sizes.payload, times=echoes, pid=contestant.pid
        )
        bench.settle(contestant, broker)
    seconds = statistics.median(result["seconds"][1:])
    bench.say(f"  {name}: {result['bytes'] / 1e6:.0f} MB echoed in {seconds:.2f} s")
    return seconds, result


def brokers(bench: Bench) -> list[Row]:
    """One runner on many brokers that all have work waiting, against the same runner on one."""
    bench.require_package()
    many = bench.sizes.brokers
    rows = []
    for capacity in bench.sizes.brokers_capacities:
        rates: dict[int, list[float]] = {1: [], many: []}
        shares = []
        for repetition in range(bench.sizes.repetitions):
            for count, values in rates.items():
                result = under_load(bench, PACKAGE, capacity, count)
                values.append(result["tasks_per_second"])
                run = dict(result, capacity=capacity, repetition=repetition, brokers=count)
                bench.note("brokers", PACKAGE, **run)
            shares.append(max(result["served"]) / max(1, min(result["served"])))
        what = f"{many} brokers, capacity {capacity}"
        rows.append(
            Row(f"{what}: tasks/s against one broker", ratios(rates[many], rates[1]), "x", at_least=0.7)
        )
        rows.append(Row(f"{what}: most against least served", shares, "x", at_most=1.5))
    return rows


UNDISTURBED, IN_FRAME, NOT_READING = "undisturbed", "stopped in mid-frame", "not reading"


def stalled(bench: Bench) -> list[Row]:
    """Broker A misbehaves while a big answer waits for it: what of broker B, of A's timeouts, of stop()?"""
    bench.require_package()
    p99: dict[str, list[float]] = {}
    late: dict[str, list[float]] = {}
    beyond: dict[str, list[float]] = {}
    for repetition in range(bench.sizes.repetitions):
        for behaviour in (UNDISTURBED, IN_FRAME, NOT_READING):
            result = beside_stalled_broker(bench, behaviour)
            bench.note("stalled", PACKAGE, repetition=repetition, behaviour=behaviour, **result)
            p99.setdefault(behaviour, []).append(result["p99"])
            late.setdefault(behaviour, []).append(result["timeouts_late"])
            beyond.setdefault(behaviour, []).append(result["stop_beyond_grace"])
    rows = [Row("A undisturbed: p99 of tasks on B", [value * 1000 for value in p99[UNDISTURBED]], "ms")]
    for behaviour in (IN_FRAME, NOT_READING):
        ratio = ratios(p99[behaviour], p99[UNDISTURBED])
        rows += [
            Row(f"A {behaviour}: p99 of tasks on B against undisturbed", ratio, "x", at_most=1.5),
            Row(f"A {behaviour}: lateness of the timeouts of A's tasks", late[behaviour], "s", at_most=0.1),
            Row(f"A {behaviour}: stop() beyond its grace", beyond[behaviour], "s", at_most=0.5),
        ]
    return rows


def beside_stalled_broker(bench: Bench, behaviour: str) -> dict[str, Any]:
    grace, waiting = 1.0, 4
    timeout = bench.sizes.task_timeout
    settings = {"task_timeout": timeout, "graceful_shutdown_timeout": grace}
    with bench.at_work(PACKAGE, 10, brokers=2, **settings) as (broker, contestant):
        broker.ask("begin", broker=0, settings={"do": "wait"}, tasks=waiting)
        if behaviour != UNDISTURBED:
            # The sockets' buffers take 4 MB of it (Linux's tcp_wmem); the rest waits in the runner.
            answer = {"do": "big answer", "bytes": 20_000_000}
            broker.ask("stall", broker=0, settings=answer, in_frame=behaviour == IN_FRAME)
        # A's tasks time out within this window.
        paced: dict[str, Any] = broker.ask(
            "pace", timeout + 30, broker=1, every=1 / 300, seconds=timeout + 1, pid=contestant.pid
        )
        # This one makes stop() use its grace; once a later task is answered it has begun.
        broker.ask("begin", broker=1, settings={"do": "wait"}, tasks=1)
        broker.ask("echo", broker=1, bytes=1, times=1, pid=contestant.pid)
        notes = bench.stop(contestant)
        (account,) = broker.ask("accounts", of=[1], wait=True)
    waits = [wait["seconds"] for wait in notes["waits"]]
    if len(waits) != waiting + 1 or min(waits[:waiting]) < timeout - 0.1:
        raise BenchmarkError(
            f"{waiting} tasks were to time out after {timeout} s, one to end by stop(): {notes['waits']}"
        )
    if account["failed"] != 1 or account["unanswered"] or account["unexpected"] or account["lost"]:
        bench.unaccounted += 1
        bench.say(f"    NOT ACCOUNTED FOR, on the broker that behaves: {account}")
    late = max(waits[:waiting]) - timeout
    bench.say(
        f"  A {behaviour}: on B p50 {milliseconds(paced['p50'])}, p99 {milliseconds(paced['p99'])}, worst "
        f"{milliseconds(paced['worst'])}; timeouts late by {milliseconds(late)}, "
        f"stop() took {notes['stopped_in']:.2f} s of {grace:.0f}"
    )
    beyond = notes["stopped_in"] - grace
    return dict(paced, timeouts_late=late, stop_beyond_grace=beyond, waits=notes["waits"])


def idle(bench: Bench) -> list[Row]:
    """CPU of a registered runner that has nothing to do; the repetitions run side by side."""
    bench.require_package()
    with ExitStack() as stack:
        contestants = [
            stack.enter_context(bench.at_work(PACKAGE, 100))[1] for _ in range(bench.sizes.repetitions)
        ]
        time.sleep(1)  # the registration is not idleness
        begun = [contestant.cpu() for contestant in contestants]
        time.sleep(bench.sizes.idle_seconds)
        used = [contestant.cpu() - before for contestant, before in zip(contestants, begun)]
        for contestant in contestants:
            bench.stop(contestant)
    share = [seconds / bench.sizes.idle_seconds * 100 for seconds in used]
    bench.note("idle", PACKAGE, seconds=bench.sizes.idle_seconds, cpu_seconds=used)
    what = f"CPU of an idle runner over {bench.sizes.idle_seconds:.0f} s, capacity 100"
    return [Row(what, share, "% of a core", at_most=0.1)]


def imports(bench: Bench) -> list[Row]:
    """`import n8nrunner` and building a `Runner`, against importing the three packages it stands on."""
    bench.require_package()
    statements = {
        "packages": "import websocket, requests, backoff",
        PACKAGE: "import n8nrunner; n8nrunner.Runner('http://127.0.0.1:5679', auth_token='secret')",
    }
    # As an installation does; a checkout is not compiled where PYTHONDONTWRITEBYTECODE is set.
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(ROOT / "n8nrunner")], check=True)
    for statement in statements.values():
        seconds_to_run(statement)  # so that everything is in the file cache
    times: dict[str, list[float]] = {name: [] for name in statements}
    for _ in range(bench.sizes.repetitions):
        once: dict[str, list[float]] = {name: [] for name in statements}
        for _ in range(bench.sizes.imports):
            for name, statement in statements.items():
                once[name].append(seconds_to_run(statement))
        for name in statements:
            times[name].append(statistics.median(once[name]))
    for name in statements:
        bench.note("imports", name, seconds=times[name])
        bench.say(f"  {statements[name]}: {', '.join(map(milliseconds, times[name]))}")
    what = "import n8nrunner and build a Runner, against importing its three packages"
    return [Row(what, ratios(times[PACKAGE], times["packages"]), "x", at_most=1.25)]


def seconds_to_run(statement: str, folder: Path = ROOT) -> float:
    code = f"import time; begun = time.perf_counter(); {statement}; print(time.perf_counter() - begun)"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True)
    if done.returncode != 0:
        raise BenchmarkError(f"{statement!r} failed:\n{done.stderr.decode('utf-8', 'replace').strip()}")
    return float(done.stdout)


def reconnect(bench: Bench) -> list[Row]:
    """Broker back up to runner registered again, for runners that have each a broker of their own."""
    bench.require_package()
    count, pause = bench.sizes.reconnections, bench.sizes.pause
    # One a bit after the other: in turn it would take minutes, at the same moment they would share two cores.
    taken = after_restart(bench, brokers=count, runners=1, limited=False, stagger=0.5)
    bench.note("reconnect", PACKAGE, pause=pause, seconds=taken)
    bench.say(f"  {count} reconnections: {', '.join(map(milliseconds, sorted(taken)))}")
    what = f"broker back after {pause:.0f} s to registered"
    return [
        Row(f"{what}, median of {count}", [statistics.median(taken)], "s", at_most=1.0),
        Row(f"{what}, worst of {count}", [max(taken)], "s", at_most=2.0),
    ]


def crowd(bench: Bench) -> list[Row]:
    """Many runners on one broker that restarts and, as n8n does, lets five a second in."""
    bench.require_package()
    runners = bench.sizes.crowd
    values = []
    for repetition in range(bench.sizes.repetitions):
        taken = after_restart(bench, brokers=1, runners=runners, limited=True, stagger=0)
        bench.note("crowd", PACKAGE, repetition=repetition, pause=bench.sizes.pause, seconds=taken)
        bench.say(f"  {runners} runners registered again: first {min(taken):.2f} s, last {max(taken):.2f} s")
        values.append(max(taken))
    return [Row(f"{runners} runners after one restart, all registered", values, "s", at_most=15)]


def after_restart(bench: Bench, brokers: int, runners: int, limited: bool, stagger: float) -> list[float]:
    """Seconds from a broker's return to each registration there."""
    pause = bench.sizes.pause
    with ExitStack() as stack:
        broker = stack.enter_context(LoadBroker(bench.modules, brokers))
        contestants = [
            stack.enter_context(bench.new_contestant(PACKAGE, [url], 5))
            for url in broker.urls
            for _ in range(runners)
        ]
        wait_registered(broker, contestants, runners)
        limit = brokers * stagger + pause + 120
        times = broker.ask(
            "restart", limit, pause=pause, stagger=stagger, runners=runners, limited=limited, seconds=100
        )
        for contestant in contestants:
            bench.stop(contestant)
    return [seconds for of_broker in times for seconds in of_broker]


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"


MEASURES: dict[str, Callable[[Bench], list[Row]]] = {
    measure.__name__: measure
    for measure in (throughput, observed, payload, brokers, stalled, idle, imports, reconnect, crowd)
}
