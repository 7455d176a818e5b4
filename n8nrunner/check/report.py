"""Render the steps and the causes of `n8nrunner check` as plain text. PURE."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from n8nrunner.check.causes import causes_of, filled_in
from n8nrunner.check.facts import Facts, Observation

#: The column at which the text of a step begins: its name, its outcome and its time come before.
_TEXT = 34


def step(observation: Observation, width: int) -> str:
    """Return the lines of a step."""
    outcome = "FAILED" if observation.problem else "-" if observation.seconds is None else "ok"
    took = _duration(observation.seconds) if observation.seconds else ""
    head = f"  {observation.step.value:<14}{outcome:<8}{took:>8}"
    # An answer of a webhook may be one long word.
    return _wrapped(observation.seen, f"{head:<{_TEXT}}", " " * _TEXT, width, breaks_words=True)


def causes(facts: Facts, width: int) -> Iterator[str]:
    """Yield the lines about each cause: what it is, what to change, and how to tell it from others."""
    for number, cause in enumerate(causes_of(facts)):
        text = cause.value
        yield ""
        head = "Likely cause" if number == 0 else "Or"
        yield _wrapped(filled_in(text.is_so, facts), f"{head} [{cause.key}]: ", "  ", width)
        yield _wrapped(filled_in(text.change, facts), "  Change  ", " " * 10, width)
        yield _wrapped(filled_in(text.sign, facts), "  Sign    ", " " * 10, width)


def _wrapped(text: str, first: str, following: str, width: int, breaks_words: bool = False) -> str:
    return textwrap.fill(
        text,
        width,
        initial_indent=first,
        subsequent_indent=following,
        break_long_words=breaks_words,
        break_on_hyphens=False,
    )


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
