"""``n8nrunner demo``: an embedded broker, a runner and real tasks, with an account of each task."""

from __future__ import annotations

import secrets
import statistics
import threading
import time
from collections import Counter
from typing import Any, Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from n8nrunner import process
from n8nrunner.broker import Broker, BrokerTask, BrokerTaskCancelled, BrokerTaskError, BrokerTaskLost
from n8nrunner.errors import N8nRunnerError, TaskError
from n8nrunner.runner import Runner
from n8nrunner.task import Task, Undelivered

CAPACITY = 16
#: Seconds within which every task must end.
_LIMIT = 20.0
#: How many small tasks wait at the broker at the same time.
_WINDOW = 200

#: The expected ends of a task, as the rows of the table.
_ANSWERED = "answered"
_FAILED = "failed or cancelled, as expected"
_LOST = "lost with the connection, and reported so"


def run_demo(small_tasks: int) -> int:
    """Run the demonstration, whose last part sends `small_tasks` tasks, and return the exit code.

    It is 0; 1 if a task went missing or ended otherwise than it should; 128 + the signal's number after one.
    """
    demo = _Demo(small_tasks)
    with process.signals() as signals:
        thread = threading.Thread(target=demo.run, args=(signals.end,), name="n8nrunner-demo")
        thread.start()
        number = signals.wait()
        if number is not None:
            demo.interrupt()
            thread.join(5)
            return 128 + number
        thread.join()
    return demo.exit_code


class _Demo:
    """The demonstration: its broker, its runner, and its account of the tasks."""

    def __init__(self, small_tasks: int) -> None:
        self.exit_code = 1
        self._small_tasks = small_tasks
        self._console = Console(highlight=False)
        self._sent = 0
        self._ends: Counter[str] = Counter()
        self._unexpected: list[str] = []
        self._interrupted = threading.Event()
        # A constant would let every process on this machine take the demonstration's tasks.
        self._token = secrets.token_urlsafe()
        self._broker = Broker(auth_token=self._token)
        self._runner: Runner | None = None
        self._undelivered: list[Undelivered] = []
        self._facts: dict[str, str] = {}

    def interrupt(self) -> None:
        """End the demonstration, on the main thread. Code that waits for a task gets an error."""
        self._interrupted.set()
        self._broker.kill()

    def run(self, finished: Callable[[], None]) -> None:
        """Run all parts, on a thread for them alone, and call `finished` at the end."""
        try:
            self._run()
        except N8nRunnerError as error:
            if not self._interrupted.is_set():
                self._console.print(f"[red]The demonstration broke:[/red] {error}")
        finally:
            if self._runner is not None:
                self._runner.stop(0 if self._interrupted.is_set() else None)
            self._broker.kill()
            if self._interrupted.is_set():
                self._console.print("Stopped; nothing is left running.")
            finished()

    def _run(self) -> None:
        self._console.print("[bold]n8nrunner demo[/bold]: an embedded broker, one runner, real tasks\n")
        self._broker.start()
        runner = self._runner = self._new_runner()
        runner.start()
        self._step(f"registered with the broker at {self._broker.url}, capacity {CAPACITY}")
        self._typed_data()
        self._progress(runner)
        self._failing()
        self._cancelled(runner)
        self._file()
        self._restart(runner)
        self._many()
        runner.stop()
        self._print_table()
        self.exit_code = 1 if self._missing or self._unexpected else 0

    def _new_runner(self) -> Runner:
        runner = Runner(
            self._broker.url,
            auth_token=self._token,
            name="demo",
            capacity=CAPACITY,
            on_undelivered=self._undelivered.append,
        )

        @runner.task("total")
        def total(task: Task) -> Any:
            for item in task.items:
                task.log("adding", item["json"])
            lines = [item["json"]["price"] * item["json"]["count"] for item in task.items]
            return [{"json": {"lines": len(lines), "total": round(sum(lines), 2)}}]

        @runner.task("slow")
        def slow(task: Task) -> Any:
            for step in range(1, 5):
                if task.wait_for_cancel(0.05):
                    return None
                task.progress(step / 4, f"step {step} of 4")
            return "finished"

        @runner.task("fail")
        def fail(task: Task) -> Any:
            raise TaskError(
                "The customer 4711 does not exist", "Check the field 'customer' of the first node."
            )

        @runner.task("wait")
        def wait(task: Task) -> Any:
            task.progress(0, "waiting for a cancellation")
            task.wait_for_cancel(_LIMIT)
            return None

        @runner.task("reverse")
        def reverse(task: Task) -> Any:
            text = task.read_file(0, "data").decode()
            return task.save_file(text[::-1].encode(), "reversed.txt", "text/plain")

        @runner.task("square")
        def square(task: Task) -> Any:
            return task.settings["n"] ** 2

        return runner

    def _typed_data(self) -> None:
        items = [{"json": {"price": 2.5, "count": 4}}, {"json": {"price": 19.99, "count": 1}}]
        task = self._submit("total", {}, items=items)
        result = self._result(task)
        self._expect(_ANSWERED, result == [{"json": {"lines": 2, "total": 29.99}}], "total", result)
        self._step(f"data in, data out: {result}")
        self._step(f"its log, in n8n's console: {task.logs}")

    def _progress(self, runner: Runner) -> None:
        task = self._submit("slow", {})
        ended = threading.Event()
        task.add_done_callback(lambda _: ended.set())
        seen: list[str] = []
        while not ended.wait(0.01):
            self._raise_if_interrupted()
            for running in runner.snapshot().tasks:
                if running.progress is not None and f"{running.progress:.0%}" not in seen[-1:]:
                    seen.append(f"{running.progress:.0%}")
        result = self._result(task)
        self._expect(_ANSWERED, result == "finished", "slow", result)
        self._step(f"progress, seen while it ran: {', '.join(seen)}")

    def _failing(self) -> None:
        error = self._error(self._submit("fail", {}))
        expected = isinstance(error, BrokerTaskError) and "4711" in error.message
        self._expect(_FAILED, expected, "fail", error)
        self._step(f"a failing task; its author reads: {error}")

    def _cancelled(self, runner: Runner) -> None:
        task = self._submit("wait", {})
        self._until(lambda: any(running.progress is not None for running in runner.snapshot().tasks))
        task.cancel()
        error = self._error(task)
        self._expect(_FAILED, isinstance(error, BrokerTaskCancelled), "wait", error)
        self._until(lambda: runner.snapshot().taken == 0)
        self._step("a cancelled task: its handler was told, and its slot is free again")

    def _file(self) -> None:
        task = self._submit("reverse", {}, files={(0, "data"): b"!n8n olleH"})
        self._result(task)
        saved = task.saved_files[0].data
        self._expect(_ANSWERED, saved == b"Hello n8n!", "reverse", saved)
        self._step(f"a file read and one saved: {saved.decode()!r}")

    def _restart(self, runner: Runner) -> None:
        """Kill the broker with tasks in flight, and start it again."""
        tasks = [self._submit("wait", {}) for _ in range(CAPACITY // 2)]
        # All handlers have to run: a task whose settings have not come has no result to be lost.
        self._until(lambda: sum(t.progress is not None for t in runner.snapshot().tasks) == len(tasks))
        self._broker.kill()
        died = time.monotonic()
        for task in tasks:
            error = self._error(task)
            self._expect(_LOST, isinstance(error, BrokerTaskLost), "wait", error)
        self._until(lambda: runner.snapshot().taken == 0)
        self._until(lambda: self._reported() == len(tasks))
        self._step(
            f"the broker was killed with {len(tasks)} tasks in flight: {self._ends[_LOST]} reported as "
            f"lost to the workflow, and the results of {self._reported()} to on_undelivered"
        )
        self._interrupted.wait(1.0)  # an outage that can be noticed
        self._raise_if_interrupted()
        self._broker.start()
        back = time.monotonic()
        self._until(lambda: runner.is_registered)
        self._facts["reconnection after an outage of 1 s"] = f"{time.monotonic() - back:.2f} s"
        self._step(f"the broker is back after {back - died:.1f} s, and so is the runner")

    def _many(self) -> None:
        latencies: list[float] = []
        places = threading.Semaphore(_WINDOW)
        tasks: list[BrokerTask] = []
        columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        started = time.perf_counter()
        with Progress(*columns, console=self._console, transient=True) as progress:
            for n in progress.track(range(self._small_tasks), description="small tasks"):
                while not places.acquire(timeout=0.2):
                    self._raise_if_interrupted()
                sent = time.perf_counter()
                task = self._submit("square", {"n": n})

                def ended(task: BrokerTask, sent: float = sent) -> None:
                    latencies.append(time.perf_counter() - sent)
                    places.release()

                task.add_done_callback(ended)
                tasks.append(task)
        for n, task in enumerate(tasks):
            result = self._result(task)
            self._expect(_ANSWERED, result == n * n, f"square {n}", result)
        seconds = time.perf_counter() - started
        self._step(f"{self._small_tasks} small tasks in {seconds:.1f} s")
        percentiles = statistics.quantiles(latencies, n=100) if len(latencies) > 1 else [*latencies] * 99
        self._facts["small tasks a second"] = f"{self._small_tasks / seconds:,.0f}"
        self._facts[f"from request to result, {_WINDOW} waiting: p50 / p99"] = (
            f"{percentiles[49] * 1000:.1f} / {percentiles[98] * 1000:.1f} ms"
        )

    def _submit(self, task_type: str, settings: Any, **options: Any) -> BrokerTask:
        self._raise_if_interrupted()
        self._sent += 1
        return self._broker.submit(task_type, settings, timeout=_LIMIT, **options)

    def _result(self, task: BrokerTask) -> Any:
        error = self._error(task)
        return task.result() if error is None else error

    def _error(self, task: BrokerTask) -> BrokerTaskError | None:
        error = task.error(_LIMIT)
        self._raise_if_interrupted()
        return error

    def _expect(self, end: str, is_right: bool, what: str, got: object) -> None:
        if is_right:
            self._ends[end] += 1
        else:
            self._unexpected.append(f"{what}: {got!r}")

    def _until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition that no event announces."""
        end = time.monotonic() + _LIMIT
        while not condition():
            self._interrupted.wait(0.005)
            self._raise_if_interrupted()
            if time.monotonic() > end:
                raise N8nRunnerError(f"waited {_LIMIT:g} s without success; the runner is {self._runner!r}")

    def _raise_if_interrupted(self) -> None:
        if self._interrupted.is_set():
            raise N8nRunnerError("the demonstration was interrupted")

    def _reported(self) -> int:
        """Return how many results of lost tasks were reported, without others that were sent just before."""
        return sum(result.task_type == "wait" for result in self._undelivered)

    def _step(self, text: str) -> None:
        self._raise_if_interrupted()
        self._console.print(f"  [green]*[/green] {text}")

    @property
    def _missing(self) -> int:
        """The tasks whose end is unknown."""
        return self._sent - sum(self._ends.values()) - len(self._unexpected)

    def _print_table(self) -> None:
        table = Table(title="\nEvery task accounted for", title_justify="left", show_header=False)
        table.add_column()
        table.add_column(justify="right")
        rows: dict[str, Any] = {
            "tasks sent": self._sent,
            **{end: self._ends[end] for end in (_ANSWERED, _FAILED, _LOST)},
            "ended otherwise than expected": len(self._unexpected),
            "without any account": self._missing,
            **self._facts,
        }
        for name, value in rows.items():
            table.add_row(name, str(value))
        self._console.print(table)
        for text in self._unexpected:
            self._console.print(f"[red]unexpected:[/red] {text}")
