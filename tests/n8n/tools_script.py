"""Functions that are tools of agents; `runners.py` starts this. It speaks as `runner_script.py` does."""

from __future__ import annotations

import os
from typing import Annotated, Any, Dict, List, Literal, Optional

import runner_script
from runner_script import runner, tell

from n8nrunner import File, Task, TaskError


class Between:
    """Bounds in the form of `annotated_types`."""

    ge = 1
    le = 100


@runner.function
def quote(
    pieces: Annotated[int, Between()],
    region: Literal["eu", "us"] = "eu",
    express: bool = False,
    query: Optional[Dict[str, Any]] = None,
    tool: str = "hammer",
) -> Dict[str, Any]:
    """Return the price of an order.

    Args:
        pieces: How many pieces.
        query: Other facts about the order.
    """
    tell("quoted", query=query)
    return {"price": 2 * pieces, "region": region, "express": express, "query": query, "tool": tool}


@runner.function
def find_orders(customer: str) -> List[Dict[str, Any]]:
    """Find the orders of a customer."""
    return [{"number": number, "customer": customer} for number in (1, 2)]


@runner.function
def measure(größe: float) -> float:
    """Return the size of two parcels."""
    return größe * 2


@runner.function
def refuse() -> None:
    """Refuse an order."""
    raise TaskError("The order is closed", "Ask for a new order")


@runner.function
def fail() -> int:
    """Fail."""
    return {"a": 1}["b"]


@runner.function
def report() -> File:
    """Write a report."""
    return File(b"three", "report.txt", "text/plain")


@runner.function
def scan(document: File) -> str:
    """Read a document."""
    return document.filename


@runner.function
def wait(task: Task) -> bool:
    """Wait for a minute."""
    tell("started", task=task.id)
    stopped = task.wait_for_cancel(60)
    tell("ended", cancelled=task.cancelled)
    return stopped


if os.environ.get("VARIANT") == "new":

    @runner.function
    def cancel_order(number: int) -> int:
        """Cancel an order."""
        return number


if __name__ == "__main__":
    runner_script.main()
