"""Measured and wanted values side by side: as a table, and as JSON.

The table has the range of the values. Of 20 values or more, it has the range in which their median is with a
confidence of 95 %.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

COLUMNS = ("what", "wanted", "median", "range", "")
#: From this number of values on, the range is that in which the median is with a confidence of 95 %.
MANY = 20


@dataclass(frozen=True)
class Row:
    """One figure, measured once per repetition. Without a wanted figure it is there for information."""

    what: str
    values: Sequence[float]
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None
    hoped: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def met(self) -> bool | None:
        if self.at_least is not None:
            return self.median >= self.at_least
        if self.at_most is not None:
            return self.median <= self.at_most
        return None

    @property
    def interval(self) -> tuple[float, float]:
        """The range in which the median is with a confidence of 95 %, from the order of the values.

        Each value is above the median with a probability of one half, so the number of those above has a
        standard deviation of half the root of their number.
        """
        ordered, count = sorted(self.values), len(self.values)
        rank = max(1, math.floor((count - 1.96 * math.sqrt(count)) / 2))
        return ordered[rank - 1], ordered[count - rank]

    def cells(self) -> list[str]:
        wanted = ""
        if self.at_least is not None:
            wanted = f"at least {figure(self.at_least, self.unit)}"
        elif self.at_most is not None:
            wanted = f"at most {figure(self.at_most, self.unit)}"
        if self.hoped is not None:
            wanted += f", go for {figure(self.hoped)}"
        span = ""
        if len(self.values) >= MANY:
            span = " to ".join(map(figure, self.interval)) + ", 95 %"
        elif len(self.values) > 1:
            span = f"{figure(min(self.values))} to {figure(max(self.values))}"
        verdict = {None: "", True: "met", False: "MISSED"}[self.met]
        return [self.what, wanted, figure(self.median, self.unit), span, verdict]

    def as_json(self) -> dict[str, Any]:
        return dict(asdict(self), median=self.median, met=self.met)


def figure(value: float, unit: str = "") -> str:
    if abs(value) >= 100 or value == int(value):
        text = f"{value:,.0f}"
    else:
        text = f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"
    if unit in ("x", "%"):
        return text + unit
    return f"{text} {unit}".strip()


def table(rows: Sequence[Row]) -> str:
    return aligned([list(COLUMNS)] + [row.cells() for row in rows])


def aligned(lines: list[list[str]]) -> str:
    """Cells in columns; the first line is the head of the table."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    padded = [[cell.ljust(width) for cell, width in zip(line, widths)] for line in lines]
    return "\n".join("  ".join(line).rstrip() for line in padded)


def machine() -> dict[str, Any]:
    """Return the circumstances on which the figures depend."""
    packages = {}
    for name in ("n8nrunner", "websocket-client", "requests", "backoff"):
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages[name] = "not installed"
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "packages": packages,
        "node": subprocess.run(["node", "--version"], stdout=subprocess.PIPE, text=True).stdout.strip(),
    }


class Measured(Protocol):
    """A row of any table."""

    def as_json(self) -> dict[str, Any]: ...


def write_json(path: Path, rows: Sequence[Measured], runs: Sequence[Any], about: dict[str, Any]) -> None:
    """The rows, what each single run gave, and what `about` tells of the circumstances."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = dict(about, rows=[row.as_json() for row in rows], runs=runs)
    path.write_text(json.dumps(document, indent=2) + "\n")
