"""The order of contestants that take turns, and the ratios of their figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def in_turn(contestants: Iterable[str], number: int) -> Sequence[str]:
    """Return the contestants in the order of a round: A B C in the first one, then C B A, and so on.

    So a machine that becomes slower, or an n8n, is not always slower for the same contestant.
    """
    found = list(contestants)
    return found[::-1] if number % 2 else found


def ratios(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """Return the ratio of the values of each round."""
    return [value / other for value, other in zip(values, others)]
