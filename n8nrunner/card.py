"""The card of a runner in a notebook: a `Snapshot` as HTML without JavaScript.

All texts are escaped. The card has the colors of the notebook around it: JupyterLab's or VS Code's variables
if there are any, and otherwise those of the browser.
"""

from __future__ import annotations

import functools
import importlib.resources
import time
from collections.abc import Mapping
from html import escape
from typing import Callable, TypeVar

from n8nrunner import units
from n8nrunner.snapshot import CallError, FunctionSnapshot, Histogram, LinkSnapshot, Snapshot, TaskSnapshot

_Value = TypeVar("_Value")

#: Calls per second, by the kind and the name of a function.
Rates = Mapping[tuple[str, str], float]

#: The class of the element around the sections.
CLASS = "n8nrunner-card"
#: The sections of a card, from top to bottom.
SECTIONS = ("head", "functions", "running", "brokers", "errors")

_SHOWN_ERRORS = 5
_NONE = "–"  # noqa: RUF001 - a dash

_STATES = {
    "new": ("Not started", "soft"),
    "starting": ("Starting", "warn"),
    "stopping": ("Stopping", "warn"),
    "stopped": ("Stopped", "soft"),
    "failed": ("Failed", "bad"),
    "forked": ("In the parent process", "soft"),
}
_LINKS = {"registered": "good", "paused": "warn", "connecting": "warn", "draining": "warn", "waiting": "bad"}
_ENDS = (
    ("timed_out", "timed out"),
    ("cancelled", "cancelled"),
    ("lost", "lost"),
    ("unfinished", "unfinished"),
)


@functools.cache
def style() -> str:
    """Return the style of all cards."""
    css = importlib.resources.files(__package__).joinpath("card.css").read_text(encoding="utf-8")
    return f"<style>{css}</style>"


def render(snapshot: Snapshot, note: str = "") -> str:
    """Return a card that does not change, with a note at its end."""
    parts = sections(snapshot, {})
    shown = "".join(parts[name] for name in SECTIONS)
    stamp = f"As of {_clock(snapshot.at)}. {note}" if snapshot.at else note
    return f'<div class="{CLASS}">{style()}{shown}{_part(_p(stamp, "soft"))}</div>'


def sections(snapshot: Snapshot, rates: Rates) -> dict[str, str]:
    """Return the HTML of each section. A section with nothing to show is empty.

    Args:
        snapshot: the runner.
        rates: the calls per second of each function; without one, the column is left out.
    """
    return {
        "head": _head(snapshot, rates),
        "functions": _functions(snapshot.functions, rates),
        "running": _each(snapshot.tasks, _task),
        "brokers": _each(snapshot.links, _link),
        "errors": _errors(snapshot),
    }


def _head(snapshot: Snapshot, rates: Rates) -> str:
    state, look = _STATES.get(snapshot.state, ("Ready", "good"))
    if snapshot.state == "running" and not snapshot.is_offering:
        state, look = ("Paused", "warn") if snapshot.is_registered else ("Not connected", "bad")
    calls = sum(function.calls for function in snapshot.functions)
    failed = sum(function.failed for function in snapshot.functions)
    facts = [_some(calls, "call")]
    if not snapshot.has_ended or snapshot.taken:
        facts.insert(0, f"{snapshot.taken} of {snapshot.capacity} slots")
    if rates:
        facts.append(f"{_rate(sum(rates.values()))} a second")
    if failed:
        facts.append(f'<span class="bad">{units.percent(failed, calls, _NONE)} failed</span>')
    if snapshot.has_ended:
        state += f" after {units.duration(snapshot.uptime)}"
    elif snapshot.uptime:
        facts.append(f"up {units.age(snapshot.uptime)}")
    name = f'<span><b class="name">{escape(snapshot.name)}</b><b class="{look}">● {state}</b></span>'
    return f'<div class="row">{name}<span class="soft">{" · ".join(facts)}</span></div>'


def _functions(functions: tuple[FunctionSnapshot, ...], rates: Rates) -> str:
    if not functions:
        return _part(_p("No function yet. Decorate one with <code>@runner.function</code>.", "soft"))
    heads = ["Function", "Calls", *(["Per second"] if rates else []), "p50", "p99", "Failed", "Running"]
    rows = [f"<tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>"]
    for function in functions:
        ends = [f"{function.outcomes[key].count} {words}" for key, words in _ENDS if key in function.outcomes]
        if function.undelivered:
            ends.append(f"{function.undelivered} not delivered")
        notes = ["task type"] if function.kind == "task" else []
        more = " · ".join([*notes, *ends])
        look = "bad" if function.failed else "soft"
        cells = [
            f'<b>{escape(function.name)}</b> <span class="soft">{more}</span>',
            f"{function.calls:,}",
            *([_rate(rates.get((function.kind, function.name), 0.0))] if rates else []),
            _quantile(function.duration, 0.5),
            _quantile(function.duration, 0.99),
            f'<span class="{look}">{units.percent(function.failed, function.calls, _NONE)}</span>',
            str(function.running),
        ]
        rows.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return _part(f"<table>{''.join(rows)}</table>")


def _task(task: TaskSnapshot) -> str:
    limit = f" of {units.age(round(task.limit))}" if task.limit else ""
    where = [f"node {escape(task.node)}"] if task.node else []
    if task.execution_id:
        where.append(f"execution {escape(task.execution_id)}")
    lines = [
        f'<div class="row"><span><b>{escape(task.function or task.type)}</b> '
        f'<span class="soft">{" · ".join(where)}</span></span><span>{units.age(task.age)}{limit}</span></div>'
    ]
    if task.progress is not None:
        lines.append(f'<progress max="1" value="{task.progress:.4f}"></progress>')
    if task.cancel_reason is not None:
        lines.append(_p(f"Cancelled: {escape(task.cancel_reason)}", "bad"))
    elif task.progress_text:
        lines.append(_p(escape(task.progress_text), "soft"))
    return "".join(lines)


def _link(link: LinkSnapshot) -> str:
    facts = []
    if link.origin is not None:
        facts.append(f"an address of {escape(link.origin)}")
    if link.last_received is not None:
        facts.append(f"last byte {units.age(link.last_received)} ago")
    if link.reconnections:
        facts.append(_some(link.reconnections, "reconnection"))
    if link.rejected:
        facts.append(f"{link.rejected:,} rejected")
    if link.undelivered:
        facts.append(f"{_some(link.undelivered, 'result')} not delivered")
    look = _LINKS.get(link.state, "soft")
    name = f'<span>{escape(link.broker)} <b class="{look}">{link.state}</b></span>'
    error = (
        _p(escape(link.last_error), "soft" if link.state == "closed" else "bad") if link.last_error else ""
    )
    return f'<div class="row">{name}<span class="soft">{" · ".join(facts)}</span></div>{error}'


def _errors(snapshot: Snapshot) -> str:
    if not snapshot.errors:
        return ""
    shown = "".join(map(_error, snapshot.errors[:_SHOWN_ERRORS]))
    more = len(snapshot.errors) - _SHOWN_ERRORS
    if more > 0:
        shown += _p(f"{more} more: <code>runner.snapshot().errors</code>", "soft")
    if not snapshot.error_details:
        shown += _p("Texts and tracebacks are turned off by <code>error_details</code>.", "soft")
    return _part(shown)


def _error(error: CallError) -> str:
    where = [f"execution {error.execution_id}"] if error.execution_id else []
    if error.item is not None:
        where.append(f"item {error.item}")
    place = escape(" · ".join([*where, _clock(error.at)]))
    title = f'<b>{escape(error.function)}</b> <span class="bad">{escape(error.message)}</span>'
    inside = _p(escape(error.description)) if error.description else ""
    if error.traceback:
        inside += f"<pre>{escape(error.traceback.rstrip())}</pre>"
    return f'<details><summary>{title} <span class="soft">{place}</span></summary>{inside}</details>'


def _each(values: tuple[_Value, ...], show: Callable[[_Value], str]) -> str:
    return _part("".join(map(show, values))) if values else ""


def _part(content: str) -> str:
    return f'<div class="part">{content}</div>'


def _p(content: str, look: str = "") -> str:
    return f'<p class="{look}">{content}</p>'


def _some(number: int, thing: str) -> str:
    return f"{number:,} {units.plural(thing, number)}"


def _quantile(histogram: Histogram, share: float) -> str:
    return units.estimate(histogram.quantile(share), histogram.bounds[0], _NONE)


def _rate(rate: float) -> str:
    return f"{rate:.0f}" if rate == 0 or rate >= 99.95 else f"{rate:.1f}"


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))
