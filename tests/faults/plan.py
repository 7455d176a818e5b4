"""The plan of a run, made from a seed: which fault occurs when, and the settings of each task."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from . import proxy
from .proxy import Fault

#: The broker is killed, and started again when the fault is over.
KILL_BROKER = "kill broker"
#: The broker is stopped as n8n stops, and started again when the fault is over.
STOP_BROKER = "stop broker"
BROKER_KINDS = (KILL_BROKER, STOP_BROKER)
ALL_KINDS = (*proxy.KINDS, *BROKER_KINDS)

#: Mean seconds between two faults.
SPACING = 2.5
#: Faults longer than the runner waits for a silent peer come in runs that are at least this long, in seconds.
LONG_RUN = 240.0
#: The share of tasks that are large.
LARGE = 0.04
#: Seconds at the end of a run without a new fault.
QUIET = 5.0


class Event(NamedTuple):
    """A fault at a broker or its proxy.

    Args:
        at: seconds since the beginning.
        broker: the index of the broker.
        fault: its kind is one of `ALL_KINDS`.
    """

    at: float
    broker: int
    fault: Fault


def faults(seed: int, seconds: float, brokers: int, kinds: tuple[str, ...] = ALL_KINDS) -> list[Event]:
    """Choose the faults of a run. The same arguments give the same faults.

    Every kind comes once before any comes a second time.
    """
    chooser = random.Random(f"faults {seed}")
    events: list[Event] = []
    waiting: list[str] = []
    at = 1.0
    while at < max(2.0, seconds - QUIET):
        if not waiting:
            waiting = list(kinds)
            chooser.shuffle(waiting)
        fault = _fault(chooser, waiting.pop(), is_long=seconds >= LONG_RUN)
        events.append(Event(at, chooser.randrange(brokers), fault))
        at += chooser.uniform(0.2, 2 * SPACING - 0.2)
    return events


def _fault(chooser: random.Random, kind: str, is_long: bool) -> Fault:
    seconds, amount = chooser.uniform(0.5, 6.0), 0
    if kind in (proxy.CUT, proxy.RESET, proxy.PARTIAL):
        seconds = 0.0
    if kind in (proxy.SILENCE, proxy.BLOCK, proxy.MUTE) and is_long and chooser.random() < 0.3:
        seconds = chooser.uniform(20.0, 60.0)
    if kind == proxy.DELAY:
        amount = chooser.randrange(10, 500)
    elif kind == proxy.TRICKLE:
        amount = chooser.choice((1, 10, 100, 1000))
    return Fault(kind, seconds, amount, chooser.choice((proxy.TO_BROKER, proxy.TO_RUNNER)))


def settings(seed: int, number: int, large: float = LARGE) -> dict[str, Any]:
    """Return the settings of a task: what its handler is to do, see `work.py`.

    Args:
        large: the share of tasks whose input or answer has up to 5 MB; with 0 all are small and short.
    """
    chooser = random.Random(f"task {seed} {number}")
    chosen: dict[str, Any] = {"n": number, "seconds": 0.0, "out": 10, "text": "x" * 10, "do": "return"}
    if not large:
        chosen["seconds"] = chooser.uniform(0.0, 0.1)
        return chosen
    if chooser.random() < large:
        which = chooser.choice(("text", "out"))
        size = chooser.randrange(100_000, 5_000_000)
        chosen[which] = "i" * size if which == "text" else size
        return chosen
    kind = chooser.random()
    if kind < 0.20:
        chosen["seconds"] = chooser.uniform(0.01, 1.0)
    elif kind < 0.25:
        chosen["do"] = "wait"
        chosen["seconds"] = chooser.uniform(0.1, 2.0)
    elif kind < 0.31:
        chosen["do"] = "raise"
    elif kind < 0.37:
        chosen["do"] = "call"
    return chosen


def pause(seed: int, number: int) -> float:
    """Return the seconds for which a caller rests after a task."""
    return random.Random(f"pause {seed} {number}").uniform(0.0, 0.1)
