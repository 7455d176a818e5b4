"""The text of a snapshot, for people: `repr(runner.snapshot())`. No line has more than `WIDTH` characters."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from n8nrunner import logs, units

if TYPE_CHECKING:
    from n8nrunner.snapshot import CallError, FunctionSnapshot, LinkSnapshot, Snapshot, TaskSnapshot

WIDTH = 100
#: Running tasks and errors that are shown.
_LINES = 5

_NONE = "-"


def overview(snapshot: Snapshot) -> str:
    """Return the brokers, functions, running tasks and last errors, in a table each."""
    head = f"Runner {_line(repr(snapshot.name), 50)}: {snapshot.state}"
    if snapshot.has_ended:
        head += f" after {units.duration(snapshot.uptime)}"
    elif snapshot.uptime:
        head += f", started {units.age(snapshot.uptime)} ago"
    if not snapshot.has_ended or snapshot.taken:
        head += f"; {snapshot.taken} of {snapshot.capacity} slots taken"
    lines = [head]
    if snapshot.links:
        lines += ["", *_aligned(_links(snapshot.links), left=2)]
        for link in snapshot.links:
            error = _line(link.last_error or "", 3 * WIDTH)
            lines += textwrap.wrap(error, WIDTH, initial_indent="  ", subsequent_indent="  ")
    if snapshot.functions:
        lines += ["", *_aligned(_functions(snapshot.functions), left=1)]
    if snapshot.tasks:
        lines += ["", *_aligned(_tasks(snapshot.tasks), left=5)]
    if snapshot.errors:
        lines += ["", "Last errors (UTC)", *map(_error, snapshot.errors[:_LINES])]
    return "\n".join(lines)


def _links(links: Sequence[LinkSnapshot]) -> Iterator[tuple[str, ...]]:
    yield "Broker", "state", "offers", "accepted", "rejected", "reconnects", "undelivered", "silent"
    for link in links:
        yield (
            link.broker,
            link.state,
            f"{link.open_offers}",
            f"{link.accepted}",
            f"{link.rejected}",
            f"{link.reconnections}",
            f"{link.undelivered}",
            _NONE if link.last_received is None else units.duration(link.last_received),
        )


def _functions(functions: Sequence[FunctionSnapshot]) -> Iterator[tuple[str, ...]]:
    yield "Function", "done", "failed", "other", "running", "p50", "p99", "queue p99"
    for each in functions:
        duration = each.duration
        yield (
            each.name if each.kind == "function" else f"{each.name} (task type)",
            f"{each.done}",
            f"{each.failed}",
            f"{each.calls - each.done - each.failed}",
            f"{each.running}",
            units.estimate(duration.quantile(0.5), duration.bounds[0], _NONE),
            units.estimate(duration.quantile(0.99), duration.bounds[0], _NONE),
            units.estimate(each.queue.quantile(0.99), each.queue.bounds[0], _NONE),
        )


def _tasks(tasks: Sequence[TaskSnapshot]) -> Iterator[tuple[str, ...]]:
    yield "Running", "task", "node", "execution", "progress", "age", "limit"
    for task in sorted(tasks, key=lambda task: -task.age)[:_LINES]:
        progress = "" if task.progress is None else f"{task.progress:.0%}"
        yield (
            task.function or task.type,
            _line(task.id, 12),
            _line(task.node or _NONE, 18),
            _line(task.execution_id or _NONE, 12),
            _line(f"{progress} {task.progress_text}".strip() or task.cancel_reason or _NONE, 25),
            units.duration(task.age),
            _NONE if task.limit is None else units.duration(task.limit),
        )
    if len(tasks) > _LINES:
        yield f"and {len(tasks) - _LINES} more", "", "", "", "", "", ""


def _error(error: CallError) -> str:
    at = time.strftime("%H:%M:%S", time.gmtime(error.at))
    item = "" if error.item is None else f", item {error.item}"
    execution = "" if error.execution_id is None else f", execution {error.execution_id}"
    first = (error.message.splitlines() or [""])[0]
    return _line(f"{at}  {_line(error.function, 36)}{item}{execution}: {first}")


def _aligned(rows: Iterator[tuple[str, ...]], left: int) -> list[str]:
    """Return a table's lines; the first row is its head. The first `left` columns are aligned to the left."""
    cells = [[_line(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    # The first column has the names, and what the others leave of the line.
    widths[0] = min(widths[0], WIDTH - sum(widths[1:]) - 2 * len(widths[1:]))
    lines = []
    for name, *others in cells:
        row = [_line(name, widths[0]), *others]
        lines.append(
            "  ".join(
                cell.ljust(width) if column < left else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths))
            ).rstrip()
        )
    return lines


def _line(text: str, width: int = WIDTH) -> str:
    """Return a text of any origin as a part of one line, with at most so many characters."""
    line = " ".join(logs.printable(text).split())
    return line if len(line) <= width else line[: width - 3] + "..."
