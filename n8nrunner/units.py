"""Times, numbers and shares as texts for people."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Return a time, such as ``< 0.1 ms``, ``0.4 ms``, ``12 ms``, ``1.5 s`` or ``3 min 6 s``."""
    if seconds < 0.0001:
        return "< 0.1 ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.{1 if seconds < 0.00995 else 0}f} ms"
    return f"{seconds:.1f} s" if seconds < 9.95 else age(round(seconds))


def estimate(seconds: float | None, least: float, none: str) -> str:
    """Return a quantile of a histogram. `least` is the first bound, below which nothing is known."""
    if seconds is None:
        return none
    return duration(seconds) if seconds >= least else f"< {duration(least)}"


def age(seconds: float) -> str:
    """Return a time in whole seconds, in at most two units: ``7 s``, ``1 h 2 min``."""
    rest = int(seconds)
    for size, unit, smaller, name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if rest >= size:
            more = rest % size // smaller
            return f"{rest // size} {unit}" + (f" {more} {name}" if more else "")
    return f"{rest} s"


def percent(part: int, whole: int, none: str) -> str:
    """Return a share with one decimal, such as ``1.2 %``. `none` is for a share of nothing."""
    return f"{100 * part / whole:.1f} %" if part else "0 %" if whole else none


def plural(thing: str, number: int) -> str:
    """Return the word for so many things, such as ``task`` or ``tasks``."""
    return thing if number == 1 else f"{thing}s"
